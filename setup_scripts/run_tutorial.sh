#!/usr/bin/env bash
# Sets up what is missing, then executes the notebooks in order. Options: setup_scripts/run_tutorial.sh --help
set -euo pipefail
# Print the help, or report a mistyped option, before installing anything.
for first in "${PYTHON:-python3}" python; do
    if "$first" -c 'import sys; sys.exit(sys.version_info < (3, 8))' 2>/dev/null; then
        "$first" "$(dirname "${BASH_SOURCE[0]}")/tutorial_options.py" "$@" || exit $?
        case " $* " in *" --help "*|*" -h "*) exit ;; esac
        break
    fi
done
# shellcheck source-path=SCRIPTDIR source=environment.sh
source "$(dirname "${BASH_SOURCE[0]}")/environment.sh"
# Where CNTK is not available, this script says why, and everything else goes on.
"$repository/setup_scripts/install_cntk.sh" || true
exec "$python" "$repository/setup_scripts/run_tutorial.py" "$@"

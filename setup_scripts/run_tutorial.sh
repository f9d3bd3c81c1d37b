#!/usr/bin/env bash
# Sets up what is missing, then executes the notebooks in order. Options: setup_scripts/run_tutorial.sh --help
set -euo pipefail
# shellcheck source-path=SCRIPTDIR source=environment.sh
source "$(dirname "${BASH_SOURCE[0]}")/environment.sh"
# Where CNTK is not available, this script says why, and everything else goes on.
"$repository/setup_scripts/install_cntk.sh" || true
exec "$python" "$repository/setup_scripts/run_tutorial.py" "$@"

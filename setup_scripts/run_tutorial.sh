#!/usr/bin/env bash
# Sets up what is missing, then executes the notebooks in order. Options: setup_scripts/run_tutorial.sh --help
set -euo pipefail
# shellcheck source-path=SCRIPTDIR source=environment.sh
source "$(dirname "${BASH_SOURCE[0]}")/environment.sh"
exec "$python" "$repository/setup_scripts/run_tutorial.py" "$@"

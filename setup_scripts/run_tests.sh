#!/usr/bin/env bash
# Sets up what is missing, draws the sample counties, then runs every test. Two processes share the tests
# (CONTRIBUTING.md). Arguments go to pytest: setup_scripts/run_tests.sh tests/land/test_grid.py, or -m slow; -n 0 runs
# one test after the other.
set -euo pipefail
# shellcheck source-path=SCRIPTDIR source=environment.sh
source "$(dirname "${BASH_SOURCE[0]}")/environment.sh"
# Where CNTK is not available, this script says why, and everything else goes on.
"$repository/setup_scripts/install_cntk.sh" || true
install_system_packages "$repository/tests/system_packages.txt"
cd "$repository"
"$python" setup_scripts/sample

paths=(-n 2 notebooks tests)
for argument in "$@"; do
    # If an argument is a path, only that path is tested.
    if [ -e "${argument%%::*}" ]; then paths=(); fi
done
# "${paths[@]+...}": bash 3.2 takes an empty array for an unset variable.
exec "$python" -m pytest --nbval-lax --nbval-sanitize-with tests/nbval_sanitize.cfg --nbval-cell-timeout 600 \
    ${paths[@]+"${paths[@]}"} "$@"

#!/usr/bin/env bash
# Sets up what is missing, then runs every test: the notebooks first, for some tests read what their run has
# measured (tests/conftest.py), and beside them other files of tests. Arguments go to pytest:
# setup_scripts/run_tests.sh tests/land/test_grid.py, or -m slow; -n 0 runs one test after the other.
set -euo pipefail
# shellcheck source-path=SCRIPTDIR source=environment.sh
source "$(dirname "${BASH_SOURCE[0]}")/environment.sh"
# Where CNTK can't be had it says why, and everything else goes on.
"$repository/setup_scripts/install_cntk.sh" || true
install_system_packages "$repository/tests/system_packages.txt"
cd "$repository"
"$python" setup_scripts/sample

paths=(-n 2 notebooks tests)
for argument in "$@"; do
    # A path or a choice of tests of one's own replaces the whole.
    if [ -e "${argument%%::*}" ]; then paths=(); fi
done
# "${paths[@]+...}": bash 3.2 takes an empty array for an unset variable.
exec "$python" -m pytest --nbval-lax --nbval-sanitize-with tests/nbval_sanitize.cfg --nbval-cell-timeout 600 \
    ${paths[@]+"${paths[@]}"} "$@"

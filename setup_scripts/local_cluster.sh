#!/usr/bin/env bash
# Starts and stops a small Spark cluster on this machine, for practice. Usage: setup_scripts/local_cluster.sh --help
set -euo pipefail
# shellcheck source-path=SCRIPTDIR source=environment.sh
source "$(dirname "${BASH_SOURCE[0]}")/environment.sh"
exec "$python" "$repository/setup_scripts/local_cluster.py" "$@"

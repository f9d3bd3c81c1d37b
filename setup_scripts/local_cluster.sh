#!/usr/bin/env bash
# A Spark cluster on this machine, to rehearse what a cluster does. Usage: setup_scripts/local_cluster.sh --help
set -euo pipefail
# shellcheck source-path=SCRIPTDIR source=environment.sh
source "$(dirname "${BASH_SOURCE[0]}")/environment.sh"
exec "$python" "$repository/setup_scripts/local_cluster.py" "$@"

#!/usr/bin/env bash
# Resizes the cluster to N workers, and sets autoscale's lower limit to N. It raises an upper limit below N to N.
#   resize_cluster.sh N [--dry-run]
set -euo pipefail
# shellcheck source-path=SCRIPTDIR source=azure.sh
source "$(dirname "${BASH_SOURCE[0]}")/azure.sh"
[ $# -gt 0 ] || { usage >&2; exit 2; }
read_arguments "$@"

count=${arguments[0]:-}
[[ $count =~ ^[1-9][0-9]*$ ]] || fail "expected a number of workers, got '$count'. Run: resize_cluster.sh 6"
least_workers=$count
[ "$most_workers" -ge "$count" ] || most_workers=$count
show_prices
# Autoscale keeps the cluster between its limits, and would undo a resize that does not change them.
run az hdinsight autoscale update --cluster-name "$cluster" --resource-group "$group" \
    --min-workernode-count "$least_workers" --max-workernode-count "$most_workers"
run az hdinsight resize --name "$cluster" --resource-group "$group" --workernode-count "$count"

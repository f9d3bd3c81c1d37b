#!/usr/bin/env bash
# Opens the cluster's Jupyter. Log in as admin, with the password that you gave to create_cluster.sh.
#   open_jupyter.sh [--dry-run]
set -euo pipefail
# shellcheck source-path=SCRIPTDIR source=azure.sh
source "$(dirname "${BASH_SOURCE[0]}")/azure.sh"
read_arguments "$@"

state=$(ask Running az hdinsight show --name "$cluster" --resource-group "$group" --query properties.clusterState --output tsv) \
    || fail "expected the cluster $cluster in $group, got none. Run create_cluster.sh."
[ "$state" = Running ] || fail "expected the cluster $cluster to run, got the state $state. Wait, or look at it in the portal."
url="https://$cluster.azurehdinsight.net/jupyter"
echo "Jupyter: $url (user admin). Choose the kernel 'Land cover (Spark)', or PySpark3 for notebook 05 through Livy."
echo "A shell on the head node: ssh $ssh_user@$cluster-ssh.azurehdinsight.net"
for open in open xdg-open; do
    if command -v $open >/dev/null; then run $open "$url"; break; fi
done

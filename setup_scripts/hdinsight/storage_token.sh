#!/usr/bin/env bash
# Makes a token for the storage container, and copies it to the head node, where the cluster's notebooks and jobs look
# for it. HDInsight gives its managed identity only to Hadoop, so Python on the nodes needs a token. Run this command
# again before the token expires.
#   storage_token.sh [--days N] [--livy] [--dry-run]
# The token is valid for N days (1 to 7, default 6), and no longer than your own role. --livy also copies the token into
# the cluster's storage, for notebook 05 through Livy. Then everyone who may read that folder can use the token to
# write. The token goes from the Azure CLI to the head node through a pipe, and is never shown.
set -euo pipefail
# shellcheck source-path=SCRIPTDIR source=azure.sh
source "$(dirname "${BASH_SOURCE[0]}")/azure.sh"
read_arguments "$@"

days=6 livy=()
set -- ${arguments[@]+"${arguments[@]}"}
while [ $# -gt 0 ]; do
    case $1 in
        --days) days=${2:-}; shift ;;
        --livy) livy=(--livy "abfs://$container@$storage.dfs.core.windows.net/tutorial/storage_token") ;;
        *) fail "expected --days N, --livy or --dry-run, got '$1'. Leave it out." ;;
    esac
    [ $# -eq 0 ] || shift
done
# Azure limits a token in a user's name to seven days.
[[ $days =~ ^[1-7]$ ]] || fail "expected 1 to 7 days, got '$days'. Run: storage_token.sh --days 3"
# GNU's date, else BSD's.
expiry=$(date -u -d "+$days days" +%Y-%m-%dT%H:%MZ 2>/dev/null || date -u -v+"$days"d +%Y-%m-%dT%H:%MZ)
make=(az storage container generate-sas --account-name "$storage" --name "$container" --as-user --auth-mode login
    --https-only --permissions acdlrw --expiry "$expiry" --output tsv)
send=(ssh "$ssh_user@$cluster-ssh.azurehdinsight.net"
    /opt/landcover/tutorial/setup_scripts/hdinsight/receive_token.sh "$jupyter_user" ${livy[@]+"${livy[@]}"})
shown "${make[@]}"
shown "${send[@]}"
[ $dry_run = no ] || exit 0
token=$("${make[@]}")
[[ $token == *sig=* ]] \
    || fail "expected a token from the Azure CLI, got none. Run create_cluster.sh, which gives you the role."
printf '%s\n' "$token" | "${send[@]}"
echo "The cluster may use $container in $storage until $expiry."

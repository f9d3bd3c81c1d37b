#!/usr/bin/env bash
# Creates the storage, the identity and the cluster, and sets up the cluster's nodes. It shows the prices first, and
# keeps everything that exists already.
#   create_cluster.sh [--yes] [--set-up-again] [--dry-run]
# --yes skips the question whether to go on. --set-up-again gives the nodes of an existing cluster the code of the last commit. The script
# asks for the password of the cluster's web pages before it creates anything, and stores it nowhere. Without a terminal
# it reads the password from standard input.
set -euo pipefail
# shellcheck source-path=SCRIPTDIR source=azure.sh
source "$(dirname "${BASH_SOURCE[0]}")/azure.sh"
read_arguments "$@"

yes=no again=no
for argument in ${arguments[@]+"${arguments[@]}"}; do
    case $argument in
        --yes) yes=yes ;;
        --set-up-again) again=yes ;;
        *) fail "expected --yes, --set-up-again or --dry-run, got '$argument'. Leave it out." ;;
    esac
done

# Reports missing or wrong settings before the script creates anything.
refuse() {
    [ $dry_run = yes ] || fail "$@"
    echo "Warning: $*" >&2
}
[ -f "$ssh_public_key" ] || refuse "expected an SSH public key at $ssh_public_key, got none." \
    "Make one: ssh-keygen -t rsa, or set ssh_public_key."
[ -n "$script_uri" ] || refuse "expected script_uri to be the https address of script_action.sh at a" \
    "tagged commit, which anyone can read, got '$script_uri'. Set it in settings.sh."
group_is_there=$(ask false az group exists --name "$group")
state=
if [ "$group_is_there" = true ]; then
    owner=$(az group show --name "$group" --query tags.tutorial --output tsv)
    [ "$owner" = "$cluster" ] || fail "expected a resource group that this script has created, got $group, which" \
        "somebody else has created. Set group in settings.sh to a new name."
    state=$(az hdinsight list --resource-group "$group" --query "[?name=='$cluster'].properties.clusterState" \
        --output tsv)
fi
case $state in
    ""|Running) ;;
    Error|Failed|Timedout) fail "expected the cluster $cluster to be running or absent, got the state $state." \
        "Run delete_cluster.sh --keep-storage, then this command again." ;;
    *) fail "expected the cluster $cluster to be running or absent, got the state $state. Wait, then run this" \
        "command again." ;;
esac
show_prices
[ -n "$state" ] || check_quota
if [ $dry_run = no ] && [ $yes = no ]; then
    read -r -p "Continue? [y/N] " answer
    [ "$answer" = y ] || exit 1
fi

read_password() {
    local twice
    if [ -t 0 ]; then
        read -rs -p "Password of the cluster's web pages: " password; echo
        read -rs -p "Once more: " twice; echo
        [ "$password" = "$twice" ] || fail "expected the same password twice, got two different ones. Run it again."
    else
        read -r password || true
    fi
    # HDInsight has this rule, but would report a violation only after half an hour.
    [[ ${#password} -ge 10 && $password =~ [[:lower:]] && $password =~ [[:upper:]] && $password =~ [[:digit:]] \
        && $password =~ [^[:alnum:]] ]] || fail "expected a password of 10 or more characters with a lowercase and an" \
        "uppercase letter, a digit and a special character, got one that lacks some of these. Run it again."
}
password=
if [ $dry_run = no ] && [ -z "$state" ]; then read_password; fi

[ "$group_is_there" = true ] || run az group create --name "$group" --location "$location" \
    --tags "tutorial=$cluster" --output none
# Data Lake Storage Gen2 is a storage account with a hierarchical namespace. Nobody gets a key: shared keys are off.
is_there az storage account show --name "$storage" --resource-group "$group" \
    || run az storage account create --name "$storage" --resource-group "$group" --location "$location" \
    --sku Standard_LRS --kind StorageV2 --hns true \
    --allow-shared-key-access false --allow-blob-public-access false --min-tls-version TLS1_2 \
    --tags "tutorial=$cluster" --output none
is_there az identity show --name "$identity" --resource-group "$group" || run az identity create --name "$identity" \
    --resource-group "$group" --location "$location" --tags "tutorial=$cluster" --output none
scope=$(ask STORAGE_ID az storage account show --name "$storage" --resource-group "$group" --query id --output tsv)
identity_id=$(ask IDENTITY_ID az identity show --name "$identity" --resource-group "$group" --query id --output tsv)
principal=$(ask PRINCIPAL_ID az identity show --name "$identity" --resource-group "$group" --query principalId \
    --output tsv)
user=$(ask USER_ID az ad signed-in-user show --query id --output tsv)
# The cluster's Hadoop uses the identity. The user uploads files, and makes tokens with storage_token.sh. Azure keeps a
# role that is assigned already.
known=$(ask "" az role assignment list --scope "$scope" --assignee "$principal" --query "[].roleDefinitionName" \
    --output tsv)
run az role assignment create --role "Storage Blob Data Owner" --scope "$scope" --assignee-object-id "$principal" \
    --assignee-principal-type ServicePrincipal --output none
run az role assignment create --role "Storage Blob Data Contributor" --scope "$scope" --assignee-object-id "$user" \
    --assignee-principal-type User --output none
# A new role takes a while to take effect. The user's role works as soon as the container can be created. Only the
# cluster can test the identity's role, and its creation fails if the role does not work yet. So the script waits ten
# minutes, the longest time that Azure names (learn.microsoft.com/azure/role-based-access-control/troubleshooting).
for attempt in 1 2 3 4 5 6 7 8 9 10; do
    if run az storage container create --name "$container" --account-name "$storage" --auth-mode login \
        --output none; then break; fi
    [ $attempt -lt 10 ] || fail "expected access to the storage $storage, got none for ten minutes. Run" \
        "create_cluster.sh again."
    sleep 60
done
if [ $dry_run = no ] && [[ $known != *"Storage Blob Data Owner"* ]]; then
    echo "Waiting up to ten minutes until the new role of $identity takes effect."
    sleep $((60 * (11 - attempt)))
fi

# All nodes must get the same code, also those that autoscale adds later. They fetch it from the storage at their
# set-up.
upload=("$here/upload.sh" code)
[ $dry_run = no ] || upload+=(--dry-run)
if [ -z "$state" ]; then
    # @ makes the CLI read the password and the key from a file. The CLI attaches the storage's identity to the cluster.
    run az hdinsight create --name "$cluster" --resource-group "$group" --location "$location" --type spark \
        --version 5.1 --component-version Spark=3.3 --http-password @/dev/fd/3 --minimal-tls-version 1.2 \
        --storage-account "$scope" --storage-filesystem "$container" --storage-account-managed-identity "$identity_id" \
        --headnode-size "$head_size" --workernode-size "$worker_size" --zookeepernode-size "$zookeeper_size" \
        --workernode-count "$workers" --autoscale-type Load --autoscale-min-workernode-count "$least_workers" \
        --autoscale-max-workernode-count "$most_workers" --ssh-user "$ssh_user" --ssh-public-key "@$ssh_public_key" \
        --tags "tutorial=$cluster" --output none 3< <(printf %s "$password")
fi
# A cluster can have only one persisted script action of a name.
persisted=$(ask "" az hdinsight script-action list --cluster-name "$cluster" --resource-group "$group" \
    --query "[?name=='tutorial'].name" --output tsv)
if [ $again = yes ] && { [ -n "$persisted" ] || [ $dry_run = yes ]; }; then
    run az hdinsight script-action delete --cluster-name "$cluster" --resource-group "$group" --name tutorial
    persisted=
fi
if [ -z "$persisted" ]; then
    "${upload[@]}"
    # Persisted: nodes that autoscale adds later run it too.
    run az hdinsight script-action execute --cluster-name "$cluster" --resource-group "$group" --name tutorial \
        --script-uri "${script_uri:-SCRIPT_URI}" --roles headnode workernode --persist-on-success --output none \
        --script-parameters "abfs://$container@$storage.dfs.core.windows.net/tutorial/tutorial.tar.gz"
else
    echo "The nodes are set up. To give them the code that is committed now: create_cluster.sh --set-up-again"
fi
show_prices
echo "Next: setup_scripts/hdinsight/storage_token.sh and open_jupyter.sh. When you are done: delete_cluster.sh"

#!/usr/bin/env bash
# Creates storage, identity and cluster, and sets up its nodes; what is there already stays. Prices come first.
#   create_cluster.sh [--yes] [--dry-run]
# The Azure CLI asks for the password of the cluster's web pages; it is kept nowhere.
set -euo pipefail
# shellcheck source-path=SCRIPTDIR source=azure.sh
source "$(dirname "${BASH_SOURCE[0]}")/azure.sh"
read_arguments "$@"

show_prices
if [ $dry_run = no ] && [ "${arguments[0]:-}" != --yes ]; then
    read -r -p "Create it? [y/N] " answer
    [ "$answer" = y ] || exit 1
fi
[ $dry_run = yes ] || [ -f "$ssh_public_key" ] \
    || fail "expected an SSH public key at $ssh_public_key, got none. Make one: ssh-keygen -t rsa, or set ssh_public_key."

run az group create --name "$group" --location "$location" --tags "tutorial=$cluster" --output none
# Data Lake Storage Gen2 is a storage account with a hierarchical namespace. Nobody gets a key: shared keys are off.
run az storage account create --name "$storage" --resource-group "$group" --location "$location" --sku Standard_LRS \
    --kind StorageV2 --hns true --allow-shared-key-access false --allow-blob-public-access false --min-tls-version TLS1_2 \
    --tags "tutorial=$cluster" --output none
run az identity create --name "$identity" --resource-group "$group" --location "$location" --tags "tutorial=$cluster" --output none
scope=$(ask STORAGE_ID az storage account show --name "$storage" --resource-group "$group" --query id --output tsv)
identity_id=$(ask IDENTITY_ID az identity show --name "$identity" --resource-group "$group" --query id --output tsv)
principal=$(ask PRINCIPAL_ID az identity show --name "$identity" --resource-group "$group" --query principalId --output tsv)
user=$(ask USER_ID az ad signed-in-user show --query id --output tsv)
run az role assignment create --role "Storage Blob Data Owner" --scope "$scope" --assignee-object-id "$principal" \
    --assignee-principal-type ServicePrincipal --output none
run az role assignment create --role "Storage Blob Data Contributor" --scope "$scope" --assignee-object-id "$user" \
    --assignee-principal-type User --output none
# A role takes a while to reach the storage.
for attempt in 1 2 3 4 5 6; do
    if run az storage container create --name "$container" --account-name "$storage" --auth-mode login --output none; then break; fi
    [ $attempt -lt 6 ] || fail "expected to be allowed to use $storage, got refused for five minutes. Run it again."
    sleep 60
done
upload=("$here/upload.sh" code)
[ $dry_run = no ] || upload+=(--dry-run)
"${upload[@]}"

if ! is_there az hdinsight show --name "$cluster" --resource-group "$group"; then
    run az hdinsight create --name "$cluster" --resource-group "$group" --location "$location" --type spark --version 5.1 \
        --component-version Spark=3.3 --storage-account "$storage" --storage-filesystem "$container" \
        --storage-account-managed-identity "$identity_id" --assign-identity "$identity_id" --minimal-tls-version 1.2 \
        --headnode-size "$head_size" --workernode-size "$worker_size" --zookeepernode-size "$zookeeper_size" \
        --workernode-count "$workers" --autoscale-type Load --autoscale-min-workernode-count "$least_workers" \
        --autoscale-max-workernode-count "$most_workers" --ssh-user "$ssh_user" --ssh-public-key "$ssh_public_key" \
        --tags "tutorial=$cluster"
fi
client=$(ask CLIENT_ID az identity show --name "$identity" --resource-group "$group" --query clientId --output tsv)
# Persisted: nodes that autoscale adds later run it too.
run az hdinsight script-action execute --cluster-name "$cluster" --resource-group "$group" --name tutorial \
    --script-uri "https://$storage.blob.core.windows.net/$container/tutorial/script_action.sh" --roles headnode workernode \
    --script-parameters "abfs://$container@$storage.dfs.core.windows.net/tutorial/tutorial.tar.gz $client" --persist-on-success
show_prices
echo "Next: setup_scripts/hdinsight/open_jupyter.sh. When you are done: setup_scripts/hdinsight/delete_cluster.sh"

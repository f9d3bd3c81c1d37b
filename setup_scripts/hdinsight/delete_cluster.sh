#!/usr/bin/env bash
# Deletes the cluster with all that create_cluster.sh has made, and proves that nothing billable is left.
#   delete_cluster.sh [--keep-storage] [--yes] [--dry-run]
# With --keep-storage the tiles, models and tables stay, and are paid for; what it costs is said.
set -euo pipefail
# shellcheck source-path=SCRIPTDIR source=azure.sh
source "$(dirname "${BASH_SOURCE[0]}")/azure.sh"
read_arguments "$@"

keep=no sure=()
for argument in ${arguments[@]+"${arguments[@]}"}; do
    case $argument in
        --keep-storage) keep=yes ;;
        --yes) sure=(--yes) ;;
        *) fail "expected --keep-storage, --yes or --dry-run, got '$argument'. Leave it out." ;;
    esac
done
if [ $keep = yes ]; then
    if [ $dry_run = yes ] || is_there az hdinsight show --name "$cluster" --resource-group "$group"; then
        run az hdinsight delete --name "$cluster" --resource-group "$group" ${sure[@]+"${sure[@]}"}
    fi
elif [ "$(ask true az group exists --name "$group")" = true ]; then
    # The group holds nothing but what create_cluster.sh made: with it goes all of that.
    run az group delete --name "$group" ${sure[@]+"${sure[@]}"}
fi
# Whatever carries the cluster's tag, in whichever group; the identity costs nothing.
left=$(ask "" az resource list --tag "tutorial=$cluster" --query "[?type!='Microsoft.ManagedIdentity/userAssignedIdentities'].id" --output tsv)
if [ $keep = yes ]; then
    left=$(printf '%s\n' "$left" | grep -v "Microsoft.Storage/storageAccounts/$storage\$" || true)
    echo "The storage $storage stays: $(dollars "$storage_cents") a month for each gigabyte. Delete it too: delete_cluster.sh"
fi
[ -z "$left" ] || fail "expected nothing billable to be left of $cluster, got: $left. Run it again, or delete these in the portal."
[ $dry_run = yes ] || echo "Nothing else that is billed is left of $cluster."

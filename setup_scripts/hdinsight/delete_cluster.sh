#!/usr/bin/env bash
# Deletes the cluster and everything else that create_cluster.sh has created, then asks Azure whether anything billable
# is left.
#   delete_cluster.sh [--keep-storage] [--yes] [--dry-run]
# --keep-storage keeps the tiles, models and tables, and prints what they cost. --yes skips the question whether to go on.
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
group_is_there=$(ask true az group exists --name "$group")
if [ $keep = yes ] && [ "$group_is_there" = true ]; then
    there=$(ask "$cluster" az hdinsight list --resource-group "$group" --query "[?name=='$cluster'].name" --output tsv)
    [ -z "$there" ] || run az hdinsight delete --name "$cluster" --resource-group "$group" ${sure[@]+"${sure[@]}"}
elif [ "$group_is_there" = true ]; then
    # Deleting the group deletes everything in it, so all of it must belong to the tutorial.
    owner=$(ask "$cluster" az group show --name "$group" --query tags.tutorial --output tsv)
    others=$(ask "" az resource list --resource-group "$group" --query "[?tags.tutorial!='$cluster'].id" --output tsv)
    [ "$owner" = "$cluster" ] && [ -z "$others" ] || fail "expected a resource group with nothing but what" \
        "create_cluster.sh has made, got $group${others:+ with $others}. Move the other resources, or delete only the cluster:" \
        "delete_cluster.sh --keep-storage"
    run az group delete --name "$group" ${sure[@]+"${sure[@]}"}
fi
# Resources with the cluster's tag in any group, and all clusters in this group. The identity costs nothing.
left=$(ask "" az resource list --tag "tutorial=$cluster" --output tsv \
    --query "[?type!='Microsoft.ManagedIdentity/userAssignedIdentities'].id")
if [ "$(ask true az group exists --name "$group")" = true ]; then
    left+=$'\n'$(ask "" az hdinsight list --resource-group "$group" --query "[].id" --output tsv)
fi
if [ $keep = yes ]; then
    left=$(printf '%s\n' "$left" | grep -v "Microsoft.Storage/storageAccounts/$storage\$" || true)
    echo "The storage $storage stays: $(dollars "$storage_cents") a month for each gigabyte." \
        "Delete it too: delete_cluster.sh"
fi
left=$(printf '%s\n' "$left" | grep . | sort -u | paste -sd ' ' - || true)
[ -z "$left" ] || fail "expected no billable resource of $cluster to remain, got: $left. Run delete_cluster.sh again, or" \
    "delete these resources in the portal."
[ $dry_run = yes ] || echo "No other billable resource of $cluster remains."

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
group_is_there=$(ask true az group exists --name "$group")
if [ $keep = yes ] && [ "$group_is_there" = true ]; then
    there=$(ask "$cluster" az hdinsight list --resource-group "$group" --query "[?name=='$cluster'].name" --output tsv)
    [ -z "$there" ] || run az hdinsight delete --name "$cluster" --resource-group "$group" ${sure[@]+"${sure[@]}"}
elif [ "$group_is_there" = true ]; then
    # With the group goes all that is in it: that must be the tutorial's.
    owner=$(ask "$cluster" az group show --name "$group" --query tags.tutorial --output tsv)
    others=$(ask "" az resource list --resource-group "$group" --query "[?tags.tutorial!='$cluster'].id" --output tsv)
    [ "$owner" = "$cluster" ] && [ -z "$others" ] || fail "expected a resource group with nothing but what" \
        "create_cluster.sh has made, got $group${others:+ with $others}. Move that elsewhere, or delete the cluster alone:" \
        "delete_cluster.sh --keep-storage"
    run az group delete --name "$group" ${sure[@]+"${sure[@]}"}
fi
# Whatever carries the cluster's tag, in whichever group, and any cluster in this one; the identity costs nothing.
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
[ -z "$left" ] || fail "expected nothing billable to be left of $cluster, got: $left. Run it again, or delete these in" \
    "the portal."
[ $dry_run = yes ] || echo "Nothing else that is billed is left of $cluster."

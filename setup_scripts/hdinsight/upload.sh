#!/usr/bin/env bash
# Uploads to the storage: the code that nodes are set up from, a tile store, or a model bundle.
#   upload.sh code [--dry-run]
#   upload.sh tiles FOLDER [--dry-run]
#   upload.sh model FOLDER [--dry-run]
# The file that marks a store or bundle as complete goes last, so an interrupted upload does not count. Then run the
# same command again.
set -euo pipefail
# shellcheck source-path=SCRIPTDIR source=azure.sh
source "$(dirname "${BASH_SOURCE[0]}")/azure.sh"
[ $# -gt 0 ] || { usage >&2; exit 2; }
read_arguments "$@"

what=${arguments[0]:-} folder=${arguments[1]:-}
case $folder in -*) folder=./$folder ;; esac  # Otherwise find would take it for an option.
upload=(az storage blob upload-batch --account-name "$storage" --auth-mode login --overwrite true --no-progress --output none)
case $what in
    code)
        staging=$(mktemp -d)
        trap 'rm -rf "$staging"' EXIT
        # Only committed files, and not the other files in this folder.
        run git -C "$repository" archive --format=tar.gz --output "$staging/tutorial.tar.gz" HEAD
        run "${upload[@]}" --destination "$container/tutorial" --source "$staging"
        ;;
    tiles|model)
        marker=model.json
        [ "$what" = model ] || marker=_manifest.json
        [ $dry_run = yes ] || [ -n "$(find "${folder:-/nowhere}" -name "$marker" 2>/dev/null | head -1)" ] \
            || fail "expected a folder with $marker in it, got '$folder'. Give a ${what/tiles/tile store}," \
                "such as runs/sample/tiles or runs/sample/models/tensorflow."
        name=$(basename "${folder:-FOLDER}")
        # First all files except *.json. No other file name here ends in n, and the pattern can exclude only a
        # character.
        run "${upload[@]}" --destination "$container/$what/$name" --source "${folder:-FOLDER}" --pattern "*[!n]"
        run "${upload[@]}" --destination "$container/$what/$name" --source "${folder:-FOLDER}" --pattern "*$marker"
        echo "Uploaded to abfs://$container@$storage.dfs.core.windows.net/$what/$name"
        ;;
    *) fail "expected code, tiles or model, got '$what'. Run: upload.sh tiles runs/sample/tiles" ;;
esac

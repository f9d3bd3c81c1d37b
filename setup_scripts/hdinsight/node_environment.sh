#!/usr/bin/env bash
# Runs a command on a node with what depends on whose it is: a folder of one's own for runs/ and data/, which the next set-up
# of the node leaves alone, and the token for storage that storage_token.sh has laid there.
#   node_environment.sh COMMAND…
set -euo pipefail
home=~
export TUTORIAL_HOME=${TUTORIAL_HOME:-$home/landcover}
mkdir -p "$TUTORIAL_HOME"
# A kernel that create_cluster.sh has wired to its storage needs it, though it may be laid there later; elsewhere there
# may be none, and another way to say who asks.
token=$home/landcover/storage_token
if [ -z "${AZURE_STORAGE_SAS_TOKEN_FILE:-}" ] && { [[ ${TUTORIAL_STORAGE:-} == abfs* ]] || [ -f "$token" ]; }; then
    export AZURE_STORAGE_SAS_TOKEN_FILE=$token
fi
exec "$@"

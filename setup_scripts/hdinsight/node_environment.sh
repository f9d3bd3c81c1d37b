#!/usr/bin/env bash
# Runs a command on a node with the settings of the account that runs it: TUTORIAL_HOME, a folder in its home for runs/
# and data/, which a new set-up of the node does not change, and the storage token that storage_token.sh has written
# there.
#   node_environment.sh COMMAND…
set -euo pipefail
home=~
export TUTORIAL_HOME=${TUTORIAL_HOME:-$home/landcover}
mkdir -p "$TUTORIAL_HOME"
# A kernel with TUTORIAL_STORAGE on Azure always reads the token from this file, even if storage_token.sh writes it
# later. Elsewhere the file counts only if it exists, because other variables may hold the credentials.
token=$home/landcover/storage_token
if [ -z "${AZURE_STORAGE_SAS_TOKEN_FILE:-}" ] && { [[ ${TUTORIAL_STORAGE:-} == abfs* ]] || [ -f "$token" ]; }; then
    export AZURE_STORAGE_SAS_TOKEN_FILE=$token
fi
exec "$@"

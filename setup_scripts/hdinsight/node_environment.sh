#!/usr/bin/env bash
# Runs a command on a node with two settings of the account that runs it. TUTORIAL_HOME is a folder in its home for
# runs/ and data/; a new set-up does not change it. AZURE_STORAGE_SAS_TOKEN_FILE names the token that storage_token.sh
# has written.
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

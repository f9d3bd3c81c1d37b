#!/usr/bin/env bash
# On a head node: takes a token for storage from standard input and keeps it for this account and for Jupyter's, in a
# file that nobody else can read. storage_token.sh calls it.
#   receive_token.sh JUPYTER_USER [--livy URI]
set -euo pipefail
umask 077
jupyter_user=${1:?expected the account that Jupyter runs as, got nothing. Run storage_token.sh.}
# It is read by a command that bash has built in, so that it stands in no list of processes.
read -r token
# Beside, then renamed: who reads gets the old one or the new one.
# shellcheck disable=SC2016  # HOME is that of whoever runs it.
keep='umask 077; mkdir -p "$HOME/landcover"; cat > "$HOME/landcover/.storage_token.part"
    mv "$HOME/landcover/.storage_token.part" "$HOME/landcover/storage_token"'
printf '%s\n' "$token" | sh -c "$keep"
if [ "$jupyter_user" != "$(id -un)" ]; then
    if ! id "$jupyter_user" >/dev/null 2>&1; then
        echo "expected Jupyter's account $jupyter_user on this node, got none. Set jupyter_user in settings.sh to whoever" \
            "runs it: ps -eo user,args | grep jupyter" >&2
        exit 2
    fi
    printf '%s\n' "$token" | sudo -n -H -u "$jupyter_user" sh -c "$keep"
fi
if [ "${2:-}" = --livy ]; then
    uri=${3:?expected a URI, got nothing. Run storage_token.sh --livy.}
    # HDInsight refuses storage commands to accounts outside the Hadoop group, such as that of ssh.
    as_jupyter=()
    [ "$jupyter_user" = "$(id -un)" ] || as_jupyter=(sudo -n -H -u "$jupyter_user")
    printf '%s\n' "$token" | ${as_jupyter[@]+"${as_jupyter[@]}"} hdfs dfs -put -f - "$uri"
    ${as_jupyter[@]+"${as_jupyter[@]}"} hdfs dfs -chmod 600 "$uri"
fi

#!/usr/bin/env bash
# Runs on a head node: storage_token.sh calls it. It reads a storage token from standard input, and writes it to a file
# in the home of this account and of Jupyter's. Nobody else can read these files.
#   receive_token.sh JUPYTER_USER [--livy URI]
set -euo pipefail
umask 077
jupyter_user=${1:?expected the account that Jupyter runs as, got nothing. Run storage_token.sh.}
# read and printf are built into bash, so the token never appears in the list of processes.
read -r token
# Write a second file, then rename it, so that a reader gets either the old token or the new one.
# shellcheck disable=SC2016  # HOME is that of whoever runs it.
keep='umask 077; mkdir -p "$HOME/landcover"; cat > "$HOME/landcover/.storage_token.part"
    mv "$HOME/landcover/.storage_token.part" "$HOME/landcover/storage_token"'
printf '%s\n' "$token" | sh -c "$keep"
if [ "$jupyter_user" != "$(id -un)" ]; then
    if ! id "$jupyter_user" >/dev/null 2>&1; then
        echo "expected Jupyter's account $jupyter_user on this node, got none. Set jupyter_user in settings.sh to the" \
            "account that runs Jupyter: ps -eo user,args | grep jupyter" >&2
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

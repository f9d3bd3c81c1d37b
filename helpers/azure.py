"""Azure storage by ``abfs:`` and ``abfss:`` URIs, through adlfs.

Credentials come from the environment, never from a URI: ``CREDENTIALS`` lists the variables, and ``TOKEN_FILE`` names
a file with a token. Without any of them ``DefaultAzureCredential`` looks for a managed identity or a login.
"""

import contextlib
import os
from urllib.parse import urlsplit

from helpers import InputError
from helpers.uri import shown

# The last three belong to DefaultAzureCredential. The endpoint is the address of an account that isn't at
# ACCOUNT.blob.core.windows.net, for example in an emulator or another cloud.
CREDENTIALS = ("AZURE_STORAGE_CONNECTION_STRING", "AZURE_STORAGE_SAS_TOKEN", "AZURE_STORAGE_ACCOUNT_NAME",
               "AZURE_STORAGE_SERVICE_ENDPOINT", "AZURE_CLIENT_ID", "AZURE_TENANT_ID", "AZURE_CLIENT_SECRET")
# Names a file with a SAS token that only its owner can read. It is read each time, so a newer token is used at once.
TOKEN_FILE = "AZURE_STORAGE_SAS_TOKEN_FILE"


def azure_filesystem(uri: str):
    """adlfs's file system for a URI, and the path in it."""
    parts = urlsplit(uri)
    container, _, host = parts.netloc.rpartition("@") if "@" in parts.netloc else (parts.netloc, "", "")
    if not container or parts.query:
        raise InputError(f"expected abfss://container@account.dfs.core.windows.net/path, got {shown(uri)}. Leave out "
                         "a question mark and all behind it: a token belongs in AZURE_STORAGE_SAS_TOKEN.")
    known = credentials()
    account = host.split(".")[0] or known.get("AZURE_STORAGE_ACCOUNT_NAME")
    if "AZURE_STORAGE_CONNECTION_STRING" in known:
        arguments = {"connection_string": known["AZURE_STORAGE_CONNECTION_STRING"]}
    elif not account:
        raise InputError(f"expected the storage account of {shown(uri)}, got none. Write "
                         f"abfss://{container}@ACCOUNT.dfs.core.windows.net/…, or set AZURE_STORAGE_ACCOUNT_NAME.")
    else:
        arguments = {"account_name": account, "endpoint": known.get("AZURE_STORAGE_SERVICE_ENDPOINT")}
        if "AZURE_STORAGE_SAS_TOKEN" in known or os.environ.get(TOKEN_FILE):
            arguments["sas_token"] = known.get("AZURE_STORAGE_SAS_TOKEN") or _token()
        else:
            arguments["anon"] = False  # adlfs asks DefaultAzureCredential.
    from helpers.azure_filesystem import Azure
    try:
        # A cached listing would hide the files that a worker has written since.
        return Azure(use_listings_cache=False, **arguments), container + parts.path.rstrip("/")
    except ValueError:
        raise InputError(f"expected a connection string or token that Azure's library can read for {shown(uri)}, got "
                         "another text. Copy it again from the storage account.")


def credentials() -> dict:
    """The environment's variables with credentials for Azure; a token file's content is among them."""
    known = {name: os.environ[name] for name in CREDENTIALS if os.environ.get(name)}
    if os.environ.get(TOKEN_FILE) and not {"AZURE_STORAGE_CONNECTION_STRING", "AZURE_STORAGE_SAS_TOKEN"} & set(known):
        with contextlib.suppress(InputError):  # The first request reports a fault of the file.
            known["AZURE_STORAGE_SAS_TOKEN"] = _token()
    return known


def _token():
    """The token of the file that ``TOKEN_FILE`` names."""
    path = os.environ[TOKEN_FILE]
    try:
        with open(path) as file:
            mode, token = os.fstat(file.fileno()).st_mode & 0o777, file.read().strip().lstrip("?")
    except OSError as error:
        raise InputError(f"expected a token for the storage in {path}, got none ({error.strerror or error}). Run "
                         "setup_scripts/hdinsight/storage_token.sh where you have the Azure CLI.")
    if mode & 0o077:
        raise InputError(f"expected {path} to be readable by its owner alone (mode 600), got {mode:o}. Run: chmod 600 "
                         f"{path}, and make a new token.")
    return token

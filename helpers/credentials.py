"""Credentials for storage, from the environment and never from a URI."""

import contextlib
import os

from helpers import InputError

VARIABLES = (
    # DefaultAzureCredential reads the last three. Without them it looks for a managed identity or a login. The endpoint
    # is the address of an account that isn't at ACCOUNT.blob.core.windows.net, for example in an emulator.
    "AZURE_STORAGE_CONNECTION_STRING", "AZURE_STORAGE_SAS_TOKEN", "AZURE_STORAGE_ACCOUNT_NAME",
    "AZURE_STORAGE_SERVICE_ENDPOINT", "AZURE_CLIENT_ID", "AZURE_TENANT_ID", "AZURE_CLIENT_SECRET",
    # The names that Amazon's own tools read. The endpoint is the address of another storage than Amazon's.
    "AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN", "AWS_DEFAULT_REGION", "AWS_ENDPOINT_URL",
    "AWS_ENDPOINT_URL_S3",
    # Without Kerberos, HDFS knows only the name of an account.
    "HADOOP_USER_NAME")
# Names a file with a SAS token that only its owner can read. It is read each time, so a newer token is used at once.
TOKEN_FILE = "AZURE_STORAGE_SAS_TOKEN_FILE"


def credentials() -> dict:
    """The environment's variables with credentials; a token file's content is among them.

    They travel to the workers inside the function that Spark runs: others could see a setting or an argument.
    """
    known = {name: os.environ[name] for name in VARIABLES if os.environ.get(name)}
    if os.environ.get(TOKEN_FILE) and not {"AZURE_STORAGE_CONNECTION_STRING", "AZURE_STORAGE_SAS_TOKEN"} & set(known):
        with contextlib.suppress(InputError):  # The first request reports a fault of the file.
            known["AZURE_STORAGE_SAS_TOKEN"] = token_of_file()
    return known


def use(known: dict):
    """Put ``credentials`` of the driver into this worker's environment."""
    if "AWS_ACCESS_KEY_ID" in known:  # The token of an earlier job belongs to other keys.
        os.environ.pop("AWS_SESSION_TOKEN", None)
    os.environ.update(known)


def token_of_file() -> str:
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

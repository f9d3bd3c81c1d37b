"""Azure storage by ``abfs:`` and ``abfss:`` URIs, through adlfs.

Credentials come from the environment, never from a URI: ``CREDENTIALS`` lists the variables, and ``TOKEN_FILE`` names
a file with a token. Without any of them ``DefaultAzureCredential`` looks for a managed identity or a login. A request
is tried up to ``TRIES`` times, as far apart as the service asks; then one sentence says what failed.
"""

import contextlib
import functools
import os
import re
from datetime import datetime, timezone
from urllib.parse import parse_qs, unquote, urlsplit

from helpers import InputError
from helpers.uri import shown

# One of these says who asks; the last three belong to DefaultAzureCredential. The endpoint is where an account is that
# isn't at ACCOUNT.blob.core.windows.net: an emulator's, another cloud's.
CREDENTIALS = ("AZURE_STORAGE_CONNECTION_STRING", "AZURE_STORAGE_SAS_TOKEN", "AZURE_STORAGE_ACCOUNT_NAME",
               "AZURE_STORAGE_SERVICE_ENDPOINT", "AZURE_CLIENT_ID", "AZURE_TENANT_ID", "AZURE_CLIENT_SECRET")
# Names a file with a SAS token that only its owner can read; it is read each time, so that a newer one is used at once.
TOKEN_FILE = "AZURE_STORAGE_SAS_TOKEN_FILE"
# Tries of one request, and seconds before the second; each wait is twice the one before, or what the service asks for.
TRIES, FIRST_WAIT_S, LONGEST_WAIT_S = 6, 0.5, 60
# What a second try may mend: timeouts, throttling, and a service that is unwell.
PASSING = {408, 429, 500, 502, 503, 504}


def azure_filesystem(uri: str):
    """adlfs's file system for a URI, and the path in it."""
    parts = urlsplit(uri)
    container, _, host = parts.netloc.rpartition("@") if "@" in parts.netloc else (parts.netloc, "", "")
    if not container or parts.query:
        raise InputError("expected abfss://container@account.dfs.core.windows.net/path, got {}. Leave out what "
                         "follows a question mark: a token belongs in AZURE_STORAGE_SAS_TOKEN.".format(shown(uri)))
    known = credentials()
    account = host.split(".")[0] or known.get("AZURE_STORAGE_ACCOUNT_NAME")
    if "AZURE_STORAGE_CONNECTION_STRING" in known:
        arguments = {"connection_string": known["AZURE_STORAGE_CONNECTION_STRING"]}
    elif not account:
        raise InputError("expected the storage account of {}, got none. Write "
                         "abfss://{}@ACCOUNT.dfs.core.windows.net/…, or set AZURE_STORAGE_ACCOUNT_NAME.".format(
                             shown(uri), container))
    elif "AZURE_STORAGE_SAS_TOKEN" in known:
        arguments = {"account_name": account, "sas_token": known["AZURE_STORAGE_SAS_TOKEN"]}
    elif os.environ.get(TOKEN_FILE):
        arguments = {"account_name": account, "sas_token": _token()}
    else:
        # anon=False lets adlfs ask DefaultAzureCredential.
        arguments = {"account_name": account, "anon": False}
    if "AZURE_STORAGE_SERVICE_ENDPOINT" in known and "connection_string" not in arguments:
        arguments["endpoint"] = known["AZURE_STORAGE_SERVICE_ENDPOINT"]
    try:
        # A listing that is kept would hide what a worker has written since.
        return _azure_class()(use_listings_cache=False, **arguments), container + parts.path.rstrip("/")
    except ImportError as error:
        raise InputError("expected the package adlfs, which reads {}, got none ({}). Install it: pip install -r "
                         "requirements.txt".format(shown(uri), error))
    except ValueError as error:
        if isinstance(error, InputError):
            raise
        raise InputError("expected a connection string or token that Azure's library can read for {}, got one it "
                         "can't. Copy it again from the storage account.".format(shown(uri)))


def credentials():
    """The variables of the environment that say who asks: for the workers, where they are passed to ``use``.

    They travel inside the function that Spark runs, never as a setting or argument, which others could see.

    Returns
    -------
    dict
    """
    known = {name: os.environ[name] for name in CREDENTIALS if os.environ.get(name)}
    if os.environ.get(TOKEN_FILE) and not {"AZURE_STORAGE_CONNECTION_STRING", "AZURE_STORAGE_SAS_TOKEN"} & set(known):
        # What is wrong with it is said by whoever needs it.
        with contextlib.suppress(InputError):
            known["AZURE_STORAGE_SAS_TOKEN"] = _token()
    return known


def _token():
    """The token of the file that ``TOKEN_FILE`` names.

    Raises
    ------
    InputError
        If there is none, or others than its owner can read it.
    """
    path = os.environ[TOKEN_FILE]
    try:
        with open(path) as file:
            mode, token = os.fstat(file.fileno()).st_mode & 0o777, file.read().strip().lstrip("?")
    except OSError as error:
        raise InputError("expected a token for the storage in {}, got none ({}). Run setup_scripts/hdinsight/"
                         "storage_token.sh where you have the Azure CLI.".format(path, error.strerror or error))
    if mode & 0o077:
        raise InputError("expected {} to be readable by its owner alone (mode 600), got {:o}. Run: chmod 600 {}, and "
                         "make a new token.".format(path, mode, path))
    return token


def use(known):
    """Put ``credentials`` of the driver into this worker's environment."""
    os.environ.update(known)


@functools.lru_cache(maxsize=None)
def _azure_class():
    """The file system of adlfs, with this module's patience and sentences; imported when first asked for."""
    import asyncio
    import logging

    import adlfs
    from azure.core.exceptions import (AzureError, ClientAuthenticationError, HttpResponseError, ResourceExistsError,
                                       ResourceNotFoundError)
    from azure.core.pipeline.policies import AsyncHTTPPolicy
    from azure.storage.blob.aio import BlobServiceClient
    from fsspec.asyn import sync_wrapper
    from fsspec.spec import AbstractBufferedFile

    # It logs each request with its headers.
    logging.getLogger("azure").setLevel(logging.WARNING)

    class Patience(AsyncHTTPPolicy):
        """Sends a request until it is answered, or says in a sentence why that is no use."""

        async def send(self, request):
            body = request.http_request.body
            position = body.tell() if hasattr(body, "seek") else None
            # Left there for the library's own way of trying again, which also tells the answer of them.
            for name in ("hosts", "location_mode", "retry_to_secondary"):
                request.context.options.pop(name, None)
            came = ""
            for attempt in range(TRIES):
                if attempt:
                    await asyncio.sleep(wait_s)
                    if position is not None:
                        body.seek(position)
                wait_s = FIRST_WAIT_S * 2 ** attempt
                try:
                    response = await self.next.send(request)
                except ClientAuthenticationError as error:  # No identity here that could ask for a token.
                    raise _refused(request.http_request.url, type(error).__name__)
                except (AzureError, OSError, asyncio.TimeoutError) as error:
                    came = type(error).__name__
                    continue
                answer = response.http_response
                answer.location_mode = "primary"
                code = answer.headers.get("x-ms-error-code", "")
                if answer.status_code in PASSING:
                    came = "{} {}".format(answer.status_code, code).strip()
                    asked = answer.headers.get("Retry-After", "")
                    wait_s = min(float(asked), LONGEST_WAIT_S) if asked.isdigit() else wait_s
                    continue
                if answer.status_code in (401, 403):
                    raise _refused(request.http_request.url, "{} {}".format(answer.status_code, code).strip())
                if code in ("ContainerNotFound", "ContainerBeingDeleted", "FilesystemNotFound"):
                    raise InputError("expected a container at {}, got none of this name. Create it, or correct the "
                                     "URI.".format(_place(request.http_request.url)))
                return response
            raise _gave_up(request.http_request.url, came)

    class Reader(AbstractBufferedFile):
        """An open file; each range it wants is one call of ``cat_file``."""

        def _fetch_range(self, start, end):
            return self.fs.cat_file(self.path, start, end)

    class Azure(adlfs.AzureBlobFileSystem):
        # Another class than adlfs's own, which may be there too with its own connections.
        cachable = True

        def __init__(self, *args, endpoint=None, **kwargs):
            self.endpoint = endpoint
            super().__init__(*args, **kwargs)

        def do_connect(self):
            options = {"retry_policy": Patience(), "connection_timeout": 20, "read_timeout": 60}
            if self.connection_string is not None:
                self.service_client = BlobServiceClient.from_connection_string(self.connection_string, **options)
            else:
                self.account_url = self.endpoint or "https://{}.blob.core.windows.net".format(self.account_name)
                self.service_client = BlobServiceClient(self.account_url, self.credential or self.sas_token, **options)

        async def _cat_file(self, path, start=None, end=None, **kwargs):
            container, blob, _ = self.split_path(self._strip_protocol(path))
            length = None if end is None else end - (start or 0)
            if length is not None and length <= 0:
                return b""
            for attempt in range(TRIES):
                try:
                    async with self.service_client.get_blob_client(container, blob) as client:
                        stream = await client.download_blob(
                            offset=(start or 0) if length is not None else start, length=length)
                        return await stream.readall()
                except ResourceNotFoundError:
                    raise FileNotFoundError(path)
                except (AzureError, OSError, asyncio.TimeoutError) as error:
                    # The connection was cut while its content came; the request itself has been answered.
                    if isinstance(error, HttpResponseError) and error.status_code not in (None, 200, 206):
                        raise
                    came = type(error).__name__
                    if attempt < TRIES - 1:
                        await asyncio.sleep(FIRST_WAIT_S * 2 ** attempt)
            raise _gave_up(client.url, came)

        async def _create(self, path, content):
            """Write a file where there is none; raises FileExistsError where there is another one."""
            container, blob, _ = self.split_path(self._strip_protocol(path))
            async with self.service_client.get_blob_client(container, blob) as client:
                try:
                    await client.upload_blob(content, overwrite=False)
                except ResourceExistsError:
                    # An answer may have been lost on its way, and the second try have met the first.
                    if await self._cat_file(path) != content:
                        raise FileExistsError(path)

        create = sync_wrapper(_create)

        def _open(self, path, mode="rb", block_size=None, **kwargs):
            if mode != "rb":
                return super()._open(path, mode, **kwargs)
            # What Parquet wants are ranges far apart; reading ahead would fetch what nobody wants.
            return Reader(self, path, mode, block_size or "default", cache_type="none")

    return Azure


def _place(url):
    """Account and container of a request, without what is secret in its query."""
    parts = urlsplit(url)
    return "{}/{}".format(parts.netloc, "/".join(unquote(parts.path).strip("/").split("/")[
        :2 if re.match(r"[\d.:]+$|localhost", parts.netloc) else 1]))


def _gave_up(url, came):
    return InputError("expected an answer from {} within {} tries, got {}. Run the same again when the storage or the "
                      "network has recovered: what is finished is kept.".format(_place(url), TRIES, came or "none"))


def _refused(url, came):
    expiry = parse_qs(urlsplit(url).query).get("se", [""])[0]
    with contextlib.suppress(ValueError):
        ends = datetime.strptime(expiry[:19], "%Y-%m-%dT%H:%M:%S").replace(tzinfo=timezone.utc)
        if ends < datetime.now(timezone.utc):
            return InputError("expected a token that is valid for {}, got one that expired at {}. Make a new one and "
                              "set it again.".format(_place(url), expiry))
    return InputError("expected to be allowed to use {}, got {}. Give this identity the role Storage Blob Data "
                      "Contributor there, or set AZURE_STORAGE_SAS_TOKEN or AZURE_STORAGE_CONNECTION_STRING.".format(
                          _place(url), came))

"""adlfs's file system with more patience and one sentence for an error; imported with the first ``abfs:`` URI."""

import asyncio
import contextlib
import logging
import os
import re
from datetime import datetime, timezone
from urllib.parse import parse_qs, unquote, urlsplit

import adlfs
from azure.core.exceptions import AzureError, ClientAuthenticationError, HttpResponseError
from azure.core.pipeline.policies import AsyncRetryPolicy
from azure.storage.blob.aio import BlobServiceClient
from fsspec.spec import AbstractBufferedFile

from helpers import InputError
from helpers.credentials import TOKEN_FILE, credentials, token_of_file
from helpers.uri import shown

# Tries of one request. Each wait is twice the one before, or as long as the service asks for.
TRIES, FIRST_WAIT_S, LONGEST_WAIT_S = 6, 0.5, 60
# Timeouts, throttling, and a service in trouble: the statuses that azure.core tries again.
PASSING = {408, 429, 500, 502, 503, 504}

# Azure's library would log each request with its headers.
logging.getLogger("azure").setLevel(logging.WARNING)


class Patience(AsyncRetryPolicy):
    """Azure's own way to try a request again; where that doesn't help, one sentence says why."""

    def get_retry_after(self, response):
        return min(super().get_retry_after(response) or 0, LONGEST_WAIT_S)

    async def send(self, request):
        url, options = request.http_request.url, request.context.options
        # The storage library leaves these options for a policy of its own, which also sets ``location_mode`` below.
        for name in ("hosts", "location_mode", "retry_to_secondary"):
            options.pop(name, None)
        options.update(dict.fromkeys(("retry_total", "retry_connect", "retry_read", "retry_status"), TRIES - 1))
        try:
            response = await super().send(request)
        except ClientAuthenticationError as error:  # No identity here that could ask for a token.
            raise _refused(url, type(error).__name__)
        except (AzureError, OSError, asyncio.TimeoutError) as error:
            raise _gave_up(url, type(error).__name__)
        answer = response.http_response
        answer.location_mode = "primary"
        code = answer.headers.get("x-ms-error-code", "")
        came = f"{answer.status_code} {code}".strip()
        if answer.status_code in PASSING:
            raise _gave_up(url, came)
        if answer.status_code in (401, 403):
            raise _refused(url, came)
        if code in ("ContainerNotFound", "ContainerBeingDeleted", "FilesystemNotFound"):
            raise InputError(f"expected a container at {_place(url)}, got none of this name. Create it, or correct the "
                             "URI.")
        return response


class Azure(adlfs.AzureBlobFileSystem):
    # A separate class, so that fsspec does not mix its cached connections with those of adlfs's class.
    cachable = True

    def __init__(self, *args, endpoint=None, **kwargs):
        self.endpoint = endpoint
        super().__init__(*args, **kwargs)

    def do_connect(self):
        patience = Patience(retry_backoff_factor=FIRST_WAIT_S, retry_backoff_max=LONGEST_WAIT_S)
        options = {"retry_policy": patience, "connection_timeout": 20, "read_timeout": 60}
        if self.connection_string is not None:
            self.service_client = BlobServiceClient.from_connection_string(self.connection_string, **options)
        else:
            self.account_url = self.endpoint or f"https://{self.account_name}.blob.core.windows.net"
            self.service_client = BlobServiceClient(self.account_url, self.credential or self.sas_token, **options)

    async def _cat_file(self, path, start=None, end=None, **kwargs):
        """A file, or a range of it, read again where the connection is cut in the middle of an answer."""
        if end is not None and end <= (start or 0):
            return b""
        for attempt in range(TRIES):
            if attempt:
                await asyncio.sleep(FIRST_WAIT_S * 2 ** (attempt - 1))
            try:
                return await super()._cat_file(path, start, end, **kwargs)
            except FileNotFoundError:
                raise
            except (AzureError, OSError, asyncio.TimeoutError) as error:
                if isinstance(error, HttpResponseError) and error.status_code not in (None, 200, 206):
                    raise
                came = type(error).__name__
        raise _gave_up(self.service_client.get_blob_client(*self.split_path(path)[:2]).url, came)

    def _open(self, path, mode="rb", block_size=None, **kwargs):
        if mode != "rb":
            return super()._open(path, mode, **kwargs)
        # Each range is one call of ``cat_file``: Parquet reads ranges far apart, so reading ahead would be waste.
        return AbstractBufferedFile(self, path, mode, block_size or "default", cache_type="none")


def open_uri(uri: str):
    """adlfs's file system for a URI, and the path in it."""
    parts = urlsplit(uri)
    container, _, host = parts.netloc.rpartition("@") if "@" in parts.netloc else (parts.netloc, "", "")
    if not container or parts.query:
        advice = "Name the container and the account." if not container else (
            "Leave out a question mark and all behind it: a token belongs in AZURE_STORAGE_SAS_TOKEN.")
        raise InputError(f"expected abfss://container@account.dfs.core.windows.net/path, got {shown(uri)}. {advice}")
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
            arguments["sas_token"] = known.get("AZURE_STORAGE_SAS_TOKEN") or token_of_file()
        else:
            arguments["anon"] = False  # adlfs asks DefaultAzureCredential.
    try:
        # A cached listing would hide the files that a worker has written since.
        return Azure(use_listings_cache=False, **arguments), container + parts.path.rstrip("/")
    except ValueError:
        raise InputError(f"expected a connection string or token that Azure's library can read for {shown(uri)}, got "
                         "another text. Copy it again from the storage account.")


def _place(url):
    """Account and container of a request, without its query, which may hold a token."""
    parts = urlsplit(url)
    names = 2 if re.match(r"[\d.:]+$|localhost", parts.netloc) else 1
    return "/".join([parts.netloc] + unquote(parts.path).strip("/").split("/")[:names])


def _gave_up(url, came):
    return InputError(f"expected an answer from {_place(url)} within {TRIES} tries, got {came or 'none'}. Run "
                      "the same command again when the storage or the network has recovered: finished work is kept.")


def _refused(url, came):
    expiry = parse_qs(urlsplit(url).query).get("se", [""])[0]
    with contextlib.suppress(ValueError):
        ends = datetime.strptime(expiry[:19], "%Y-%m-%dT%H:%M:%S").replace(tzinfo=timezone.utc)
        if ends < datetime.now(timezone.utc):
            return InputError(f"expected a token that is valid for {_place(url)}, got one that expired at {expiry}. "
                              "Make a new one and set it again.")
    return InputError(f"expected to be allowed to use {_place(url)}, got {came}. Give this identity the role Storage "
                      "Blob Data Contributor there, or set AZURE_STORAGE_SAS_TOKEN or "
                      "AZURE_STORAGE_CONNECTION_STRING.")

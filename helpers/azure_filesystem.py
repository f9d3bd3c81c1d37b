"""adlfs's file system with the patience and the sentences of ``azure``; imported when an ``abfs:`` URI is first met."""

import asyncio
import contextlib
import logging
import re
from datetime import datetime, timezone
from urllib.parse import parse_qs, unquote, urlsplit

import adlfs
from azure.core.exceptions import (AzureError, ClientAuthenticationError, HttpResponseError, ResourceExistsError,
                                   ResourceNotFoundError)
from azure.core.pipeline.policies import AsyncHTTPPolicy
from azure.storage.blob.aio import BlobServiceClient
from fsspec.asyn import sync_wrapper
from fsspec.spec import AbstractBufferedFile

from helpers import InputError, azure

# A second try may help: timeouts, throttling, and a service that is unwell.
PASSING = {408, 429, 500, 502, 503, 504}

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
        for attempt in range(azure.TRIES):
            if attempt:
                await asyncio.sleep(wait_s)
                if position is not None:
                    body.seek(position)
            wait_s = azure.FIRST_WAIT_S * 2 ** attempt
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
                came = f"{answer.status_code} {code}".strip()
                asked = answer.headers.get("Retry-After", "")
                wait_s = min(float(asked), azure.LONGEST_WAIT_S) if asked.isdigit() else wait_s
                continue
            if answer.status_code in (401, 403):
                raise _refused(request.http_request.url, f"{answer.status_code} {code}".strip())
            if code in ("ContainerNotFound", "ContainerBeingDeleted", "FilesystemNotFound"):
                raise InputError(f"expected a container at {_place(request.http_request.url)}, got none of this name. "
                                 "Create it, or correct the URI.")
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
            self.account_url = self.endpoint or f"https://{self.account_name}.blob.core.windows.net"
            self.service_client = BlobServiceClient(self.account_url, self.credential or self.sas_token, **options)

    async def _cat_file(self, path, start=None, end=None, **kwargs):
        container, blob, _ = self.split_path(self._strip_protocol(path))
        length = None if end is None else end - (start or 0)
        if length is not None and length <= 0:
            return b""
        for attempt in range(azure.TRIES):
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
                if attempt < azure.TRIES - 1:
                    await asyncio.sleep(azure.FIRST_WAIT_S * 2 ** attempt)
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


def _place(url):
    """Account and container of a request, without what is secret in its query."""
    parts = urlsplit(url)
    names = 2 if re.match(r"[\d.:]+$|localhost", parts.netloc) else 1
    return "/".join([parts.netloc] + unquote(parts.path).strip("/").split("/")[:names])


def _gave_up(url, came):
    return InputError(f"expected an answer from {_place(url)} within {azure.TRIES} tries, got {came or 'none'}. Run "
                      "the same again when the storage or the network has recovered: what is finished is kept.")


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

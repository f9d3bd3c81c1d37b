"""URIs to file systems: the one place that knows where bytes lie.

A plain path or ``file:`` is this machine's disk. ``abfs://container/path`` and
``abfss://container@account.dfs.core.windows.net/path`` are Azure storage, through adlfs; every other scheme is what
fsspec makes of it. Who may read there is never part of a URI, but of the environment: ``CREDENTIALS`` lists the
variables, ``TOKEN_FILE`` names a file with a token, and without any of them ``DefaultAzureCredential`` looks for a
managed identity or a login.

Whatever a network can do, a request to Azure is tried again, up to ``TRIES`` times, as long apart as the service asks
for; then it ends in one sentence, as does what no second try would mend.

Spark's own way to Azure is Java's, and each cluster has another set-up of it, so ``read_parquet`` and
``write_parquet`` let the workers' Python read and write there. Everywhere else they are Spark's.
"""

import contextlib
import errno
import functools
import io
import os
import re
import tempfile
import uuid
from datetime import datetime, timezone
from urllib.parse import parse_qs, unquote, urlsplit

import fsspec

from helpers import InputError

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
# Bytes of a store's file that a task reads at least.
PIECE_BYTES = 4 << 20
# Of a file that is gone or damaged, in what is said of it: Spark hands on nothing but the words.
AS_IT_WAS = "as it was when the job began"
# A Spark job's local property: what can't be read is left out.
IGNORE_DAMAGED = "helpers.ignoreDamagedFiles"


def shown(uri):
    """A URI without what may be secret in it: user, password, and what follows a question mark or hash sign."""
    scheme, mark, rest = str(uri).partition("://")
    if not mark:
        return str(uri).split("?")[0]
    host = re.split("[/?#]", rest)[0]
    # A password may hold a slash or a question mark; what stands before an @ on Azure is a container.
    if "@" not in host and ":" in host and not re.search(r":\d*$", host):
        rest = rest.rpartition("@")[2]
    elif "@" in host and not (is_azure(uri) and ":" not in host):
        rest = rest[host.rindex("@") + 1:]
    rest = re.split("[?#]", rest)[0]
    return scheme + mark + rest


def is_azure(uri):
    """Whether a URI leads to Azure storage."""
    return str(uri).startswith(("abfs://", "abfss://"))


def join(uri, *names):
    """A URI, or plain path, with names below it, as text."""
    return "/".join((str(uri).rstrip("/"),) + names)


def filesystem(uri):
    """The file system of a URI, and the path in it.

    Parameters
    ----------
    uri : str or pathlib.Path

    Returns
    -------
    filesystem : fsspec.AbstractFileSystem
    path : str

    Raises
    ------
    InputError
        If the URI can't be used, or nobody here may ask for it.
    """
    uri = str(uri)
    if uri.startswith("adl://"):
        raise InputError("expected abfss://container@account.dfs.core.windows.net/path, got {}. Azure Data Lake Gen1 "
                         "was retired in 2024: bring what was there to Gen2.".format(shown(uri)))
    if is_azure(uri):
        return _azure(uri)
    try:
        return fsspec.core.url_to_fs(uri)
    except (ValueError, ImportError) as error:
        raise InputError("expected a path, file: or abfss: URI, got {} ({}). Copy it to one of these.".format(
            shown(uri), error))


def _azure(uri):
    parts = urlsplit(uri)
    container, _, host = parts.netloc.rpartition("@") if "@" in parts.netloc else (parts.netloc, "", "")
    if not container or parts.query:
        raise InputError("expected abfss://container@account.dfs.core.windows.net/path, got {}. Leave out what "
                         "follows a question mark: a token belongs into AZURE_STORAGE_SAS_TOKEN.".format(shown(uri)))
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


@contextlib.contextmanager
def writing(uri):
    """A binary file to write to, which is at the URI when all of it is there, and not before.

    On this machine's disk it is written in its place.

    Yields
    ------
    file object
    """
    system, path = filesystem(uri)
    if not is_azure(uri):
        system.makedirs(path.rsplit("/", 1)[0], exist_ok=True)
        with system.open(path, "wb") as file:
            yield file
        return
    # Sent when it is whole: what ended in the middle leaves nothing there.
    with tempfile.TemporaryDirectory() as folder:
        part = os.path.join(folder, "part")
        with open(part, "wb") as file:
            yield file
        system.put_file(part, path)


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


def read_parquet(spark, files, row_type, task_bytes=64 << 20, may_lack=False):
    """Parquet files on Azure as a Spark DataFrame, read by the workers' Python.

    Parameters
    ----------
    spark : pyspark.sql.SparkSession
    files : list of dict
        ``uri``; ``size`` in bytes; ``constants``, values of columns that the file itself lacks; and optionally
        ``between``: a column and its lowest and highest value. Parts of the file that have none of these are not read.
    row_type : str
        Columns to read, as Spark writes their types.
    task_bytes : int
        That a task reads.
    may_lack : bool
        Whether a job with the local property ``IGNORE_DAMAGED`` leaves out what can't be read of a damaged file.

    Returns
    -------
    pyspark.sql.DataFrame
        In partitions of some ``task_bytes``; rows of a part that has some of ``between`` are all there. Where a file is
        gone or damaged, a job over it ends; where it may lack some, rows are missing from there to the end of what the
        task reads of that file.
    """
    pieces = [(file, start, min(task_bytes, file["size"] - start))
              for file in files for start in range(0, max(1, file["size"]), task_bytes)]
    tasks, room = [], 0
    for piece in pieces:
        if not tasks or piece[2] > room:
            tasks.append([])
            room = task_bytes
        tasks[-1].append(piece)
        room -= piece[2]
    known = credentials()
    shared = spark.sparkContext.broadcast(tasks)

    def run(batches):
        from pyspark import TaskContext
        use(known)
        is_ignored = may_lack and TaskContext.get().getLocalProperty(IGNORE_DAMAGED) == "true"
        for batch in batches:
            for task in batch.column(0).to_pylist():
                for file, start, length in shared.value[task]:
                    try:
                        yield from _row_groups(file, start, length, row_type)
                    except InputError as error:
                        # A storage that can't be reached says so too, and that is no damage.
                        if not (is_ignored and AS_IT_WAS in str(error)):
                            raise

    return spark.range(0, len(tasks), 1, max(1, len(tasks))).mapInArrow(run, row_type)


def _row_groups(file, start, length, row_type, rows=64):
    """Record batches of the row groups that begin in a piece of a file."""
    import pyarrow.parquet as pq
    system, path = filesystem(file["uri"])
    schema = _arrow_schema(row_type)
    with _damage_told(file["uri"]), system.open(path, "rb") as opened:
        parquet = pq.ParquetFile(opened)
        columns = [name for name in schema.names if name not in file["constants"]]
        for number in range(parquet.metadata.num_row_groups):
            group = parquet.metadata.row_group(number)
            chunk = group.column(0)
            first = chunk.dictionary_page_offset or chunk.data_page_offset
            if not start <= first < start + length or not _may_hold(group, file.get("between")):
                continue
            for batch in parquet.iter_batches(rows, row_groups=[number], columns=columns):
                yield _with_constants(batch, schema, file["constants"])


@contextlib.contextmanager
def _damage_told(uri):
    """Say which file it is that is gone, or that Arrow can't read."""
    try:
        yield
    except Exception as error:
        if is_damage(error):
            raise InputError("expected every file of {} {}, got {} gone or damaged. Write it again and run the same "
                             "command.".format(shown(uri).rsplit("/", 1)[0], AS_IT_WAS, shown(uri).rsplit("/", 1)[1])) \
                from error
        raise


def is_damage(error):
    """Whether a file is gone, or can't be read by Arrow, whose own OSError has no number, or by the disk."""
    import pyarrow as pa
    return not isinstance(error, MemoryError) and (
        isinstance(error, (FileNotFoundError, pa.ArrowException))
        or type(error) is OSError and error.errno in (None, errno.EIO))


def damaged(uris, columns=None):
    """Those of some Parquet files that are gone, or can't be read to their end.

    Parameters
    ----------
    uris : list of str
    columns : list of str, optional
        To read; all by default.

    Returns
    -------
    list of str
    """
    import pyarrow.parquet as pq
    found = []
    for uri in uris:
        system, path = filesystem(uri)
        try:
            with system.open(path, "rb") as file:
                parquet = pq.ParquetFile(file)
                for group in range(parquet.metadata.num_row_groups):
                    parquet.read_row_group(group, columns=columns)
        except Exception as error:
            if not is_damage(error):
                raise
            found.append(uri)
    return found


def _with_constants(batch, schema, constants):
    import pyarrow as pa
    arrays = [pa.array([constants[field.name]] * len(batch), field.type) if field.name in constants
              else batch.column(batch.schema.get_field_index(field.name)).cast(field.type) for field in schema]
    return pa.RecordBatch.from_arrays(arrays, schema=schema)


def _may_hold(group, between):
    """Whether a row group may have a value of a range, by what the file says of its columns."""
    if between is None:
        return True
    name, low, high = between
    for i in range(group.num_columns):
        column = group.column(i)
        if column.path_in_schema == name and column.is_stats_set and column.statistics.has_min_max:
            return column.statistics.min <= high and column.statistics.max >= low
    return True


def _arrow_schema(row_type):
    """The few of Spark's types that tables have here, as Arrow's."""
    import pyarrow as pa
    types = {"string": pa.string(), "binary": pa.binary(), "byte": pa.int8(), "int": pa.int32(), "bigint": pa.int64(),
             "array<float>": pa.list_(pa.float32())}
    return pa.schema([(name, types[kind]) for name, kind in (column.split() for column in row_type.split(", "))])


def write_parquet(frame, uri, prefix):
    """Write a Spark DataFrame to Azure, one Parquet file for each partition that has rows.

    A file is there as a whole or not at all. Which files belong to the frame is what comes back: a task that was tried
    twice may have written two, and one of them is told.

    Parameters
    ----------
    frame : pyspark.sql.DataFrame
    uri : str
        The folder.
    prefix : str
        Of the files' names.

    Returns
    -------
    list of str
        Names of the files.
    """
    known = credentials()

    def run(batches):
        import pyarrow as pa
        import pyarrow.parquet as pq
        use(known)
        batches = [batch for batch in batches if len(batch)]
        if batches:
            content = io.BytesIO()
            pq.write_table(pa.Table.from_batches(batches), content)
            name = "{}-{}.parquet".format(prefix, uuid.uuid4().hex[:12])
            system, path = filesystem(join(uri, name))
            system.pipe_file(path, content.getvalue())
            yield pa.RecordBatch.from_arrays([pa.array([name])], ["file"])

    return sorted(row["file"] for row in frame.mapInArrow(run, "file string").collect())


@functools.lru_cache(maxsize=None)
def _azure_class():
    """The file system of adlfs, with this module's patience and sentences; imported when first asked for."""
    import asyncio
    import logging

    import adlfs
    from azure.core import MatchConditions
    from azure.core.exceptions import (AzureError, ClientAuthenticationError, HttpResponseError, ResourceExistsError,
                                       ResourceModifiedError, ResourceNotFoundError)
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

        async def _read(self, path, start=None, end=None):
            """Bytes and ETag of a file, or of a part of it."""
            container, blob, _ = self.split_path(self._strip_protocol(path))
            length = None if end is None else end - (start or 0)
            if length is not None and length <= 0:
                return b"", None
            for attempt in range(TRIES):
                try:
                    async with self.service_client.get_blob_client(container, blob) as client:
                        stream = await client.download_blob(
                            offset=(start or 0) if length is not None else start, length=length)
                        return await stream.readall(), stream.properties.etag
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

        async def _cat_file(self, path, start=None, end=None, **kwargs):
            return (await self._read(path, start, end))[0]

        read_with_etag = sync_wrapper(_read)

        async def _replace(self, path, content, etag):
            """Write a file only if it still has an ETag, or with None, if there is no such file; its new ETag.

            Raises
            ------
            FileExistsError
                If somebody else has written it.
            """
            container, blob, _ = self.split_path(self._strip_protocol(path))
            condition = {"overwrite": False} if etag is None else {
                "overwrite": True, "etag": etag, "match_condition": MatchConditions.IfNotModified}
            async with self.service_client.get_blob_client(container, blob) as client:
                try:
                    return (await client.upload_blob(content, **condition))["etag"]
                except (ResourceExistsError, ResourceModifiedError, ResourceNotFoundError):
                    # An answer may have been lost on its way, and the second try have met the first.
                    with contextlib.suppress(FileNotFoundError):
                        there, its_etag = await self._read(path)
                        if there == content:
                            return its_etag
                    raise FileExistsError(path)

        replace = sync_wrapper(_replace)

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

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
import hashlib
import io
import json
import os
import shutil
import tempfile
import uuid
from pathlib import Path

import fsspec

from helpers import InputError
from helpers.azure import _azure, credentials, use
from helpers.uri import is_azure, join, shown

# Bytes of a store's file that a task reads at least.
PIECE_BYTES = 4 << 20
# Of a file that is gone or damaged, in what is said of it: Spark hands on nothing but the words.
AS_IT_WAS = "as it was when the job began"
# A Spark job's local property: what can't be read is left out.
IGNORE_DAMAGED = "helpers.ignoreDamagedFiles"


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


@contextlib.contextmanager
def whole_folder(folder):
    """A new folder that takes the place of ``folder`` only when everything in it has been written.

    Yields
    ------
    pathlib.Path
        Where to write.
    """
    folder = Path(folder)
    part = folder.with_name(".{}.{}.part".format(folder.name, os.getpid()))
    shutil.rmtree(str(part), ignore_errors=True)
    part.mkdir(parents=True)
    try:
        yield part
        if folder.exists():
            shutil.rmtree(str(folder))
        part.rename(folder)
    finally:
        shutil.rmtree(str(part), ignore_errors=True)


def write_json(path, value):
    """Write JSON so that a reader sees the old file or the whole new one, never a part."""
    with whole_file(path) as part:
        part.write_text(json.dumps(value, indent=1, sort_keys=True) + "\n")


@contextlib.contextmanager
def whole_file(path):
    """A name beside ``path`` to write to; the file takes its own name when all of it is there.

    Yields
    ------
    pathlib.Path
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(".{}.{}.part".format(path.name, os.getpid()))
    try:
        yield part
        os.replace(str(part), str(path))
    finally:
        if part.exists():
            part.unlink()


def sha256(path):
    """SHA-256 of a file, in hexadecimal."""
    digest = hashlib.sha256()
    with open(str(path), "rb") as file:
        for block in iter(lambda: file.read(1 << 20), b""):
            digest.update(block)
    return digest.hexdigest()

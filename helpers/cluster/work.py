"""A job as a list of units of work, done on every core of a cluster.

Each unit writes one Parquet file, either whole or not at all. The file's name is a hash of the unit's input and of the
model or code that processes it. **A unit is done if its file exists**: a job that was stopped continues with the units
whose file is missing. A task that Spark tries twice, and two jobs at the same time, write the same file with the same
content. So a driver, a worker or a machine may die at any moment. There are no locks, and no job has to clean up first.

Spark hands out the numbers of units and brings back one short row for each. The workers' Python reads and writes the
files, in the same way on a disk, on HDFS and in object stores.
"""

import contextlib
import errno
import functools
import gc
import hashlib
import io
import json
import math
import re
import sys
import threading
import time
import zipimport
from collections import Counter, namedtuple
from concurrent.futures import ThreadPoolExecutor

from helpers import DamagedFile, InputError
from helpers.cluster import adapter
from helpers.credentials import credentials, use
from helpers.files import NOT_JSON, filesystem, remove, remove_parts, room, write_whole
from helpers.uri import join, shown

# Files that a job has written and may remove. Their names end in a unit's hash.
_HASH = "[0-9a-f]{20}"
_OWN = re.compile(rf"(?:[^/]+=[^/]+/)*{_HASH}")
_FACTS = b"unit"
# Threads that read footers at the same time.
_THREADS = 16
_LOOK_S = 0.5
# A task takes this part of its slot's share of the units that are left (guided self-scheduling, Polychronopoulos and
# Kuck, 1987). Large tasks come first, because starting one costs a slot about 0.08 s. Single units come last, so that
# all slots end together. A task that is tried again skips the units that it has done.
SHARE = 0.5

# The result of ``run``: rows and seconds by stage of the units done now, and the InputErrors of failed units by name.
Done = namedtuple("Done", "rows seconds failed")


def name(folder: str, *reads) -> str:
    """A unit's name: the folder of its file, and a hash of JSON values that identify its input and model or code."""
    digest = hashlib.sha256(json.dumps(reads, sort_keys=True).encode()).hexdigest()[:20]
    return f"{folder}/{digest}" if folder else digest


def names(uri: str) -> set:
    """Names of the units that have a file in a folder or in its ``key=value`` folders."""
    system, path = filesystem(uri)
    system.invalidate_cache()
    start = len(path.rstrip("/")) + 1
    found = (file[start:-len(".parquet")] for file in system.find(path) if file.endswith(".parquet"))
    return {name for name in found if _OWN.fullmatch(name)}


def write(table, facts: dict, uri: str, name: str):
    """Write the file of a unit, with JSON facts in its footer. The fact ``group_rows`` sets the size of row groups."""
    import pyarrow.parquet as pq
    content = io.BytesIO()
    pq.write_table(table.replace_schema_metadata({_FACTS: json.dumps(facts).encode()}), content,
                   row_group_size=facts.get("group_rows") or max(1, len(table)), compression={
                       column: "none" if column == "image" else "snappy" for column in table.schema.names},
                   use_dictionary=[column for column in table.schema.names if column != "image"])
    write_whole(join(uri, name + ".parquet"), content.getvalue())


WRITE_AGAIN = "Write it again and run the same command."


@contextlib.contextmanager
def damage_told(folder: str, file: str = "a file", advice: str = WRITE_AGAIN):
    """Turn the error of a damaged or missing file into a DamagedFile; ``folder`` is a path or a URI as ``shown``."""
    import pyarrow as pa
    try:
        yield
    except (OSError, pa.ArrowException) as error:
        # Arrow's own OSError has no error number.
        is_damage = isinstance(error, (FileNotFoundError, pa.ArrowException)) or (
            type(error) is OSError and error.errno in (None, errno.EIO))
        if not is_damage or isinstance(error, MemoryError):
            raise
        raise DamagedFile(f"expected the files of {folder} to be unchanged, but {file} is missing or damaged. {advice}"
                          ) from error


@contextlib.contextmanager
def opened(uri: str, advice: str = WRITE_AGAIN, **options):
    """A ``pyarrow.parquet.ParquetFile``; if the file is damaged or missing, a DamagedFile with ``advice``."""
    import pyarrow.parquet as pq
    system, path = filesystem(uri)
    folder, _, file_name = shown(uri).rpartition("/")
    with damage_told(folder, file_name, advice), system.open(path, "rb") as file:
        yield pq.ParquetFile(file, **options)


def footer(uri: str, advice: str = WRITE_AGAIN):
    """The footer of a Parquet file, as ``pyarrow.parquet.FileMetaData``; a DamagedFile if it can't be read."""
    with opened(uri, advice) as file:
        return file.metadata


def facts_in(metadata) -> dict:
    """The facts that ``write`` has put into a footer; None for a file that another program wrote."""
    try:
        found = json.loads((metadata.metadata or {}).get(_FACTS, b"null"))
    except NOT_JSON:
        return None
    return found if isinstance(found, dict) else None


def facts(uri: str, names, advice: str = WRITE_AGAIN) -> dict:
    """Facts about units and their numbers of ``rows`` from their footers, by name."""
    def look(name):
        found = footer(join(uri, name + ".parquet"), advice)
        return dict(facts_in(found) or {}, rows=found.num_rows)

    names = sorted(names)
    return dict(zip(names, in_threads(look, names)))


def in_threads(function, items) -> list:
    """A function's results for items, computed at the same time: over a network, reading footers is mostly waiting."""
    with ThreadPoolExecutor(_THREADS) as threads:
        return list(threads.map(function, items))


def run(spark, units: dict, work, uri: str, watch=None, tasks=None) -> Done:
    """Process the units of a list that have no file yet.

    Parameters
    ----------
    spark : a classic session, or one of Spark Connect.
    units : for each name, the argument of ``work``. Spark sends it to the workers.
    work : a function of a unit that returns ``(pyarrow.Table, facts, seconds)``: JSON facts for the footer, and seconds
        by stage. An InputError fails this unit, and the others go on. Plain Python: try it on one unit first.
    uri : folder of the files.
    watch : called at most every half second, with the set of names that are done so far.
    tasks : Spark tasks that share the units equally; by default ``shares`` cuts them.
    """
    there = names(uri)
    todo = [(name, unit) for name, unit in units.items() if name not in there]
    cuts = shares(len(todo), adapter.slots(spark), tasks) if todo else []
    known = credentials()

    def on_worker(task):
        use(known)
        for number in cuts[task]:
            yield _do(*todo[number], work, uri)
        _make_ready()

    with _watching(watch, uri, set(units)):
        reports = _in_tasks(spark, on_worker, len(cuts)) if cuts else []
    seconds = Counter()
    for report in reports:
        seconds.update(report["seconds"])
    return Done(sum(report["rows"] for report in reports), dict(seconds), {
        report["unit"]: (DamagedFile if report["is_damage"] else InputError)(report["error"])
        for report in reports if "error" in report})


def shares(units: int, slots: int, tasks=None) -> list:
    """The numbers of the units of each Spark task, as ranges, in the order in which tasks start."""
    cuts, done = [], 0
    while done < units:
        left = units - done
        share = math.ceil(left / (tasks - len(cuts)) if tasks else left * SHARE / slots)
        cuts.append(range(done, done + share))
        done += share
    return cuts


def ask(spark, function, tasks: int = 1) -> list:
    """Run a function without arguments in a number of tasks, and return the JSON value of each."""
    return _in_tasks(spark, lambda task: [function()], tasks)


def _in_tasks(spark, function, tasks):
    """Call a function with the number of each task on the workers, and return all the JSON values that it yields."""
    def on_worker(batches):
        import pyarrow as pa
        for batch in batches:
            for task in batch.column(0).to_pylist():
                for value in function(task):
                    yield pa.RecordBatch.from_pydict({"json": [json.dumps(value)]})

    rows = spark.range(0, tasks, 1, tasks).mapInArrow(on_worker, "json string").collect()
    return [json.loads(row["json"]) for row in rows]


def _make_ready():
    """Make this Python worker quick to begin its next task.

    Between two tasks PySpark clears Python's caches of module locations. Python 3.10 and 3.11 then read the directory
    of pyspark.zip again (github.com/python/cpython/issues/103200), unless we have removed its cache. PySpark also
    collects garbage among all objects of all modules (SPARK-54744), except frozen ones.
    """
    for path, finder in list(sys.path_importer_cache.items()):
        if isinstance(finder, zipimport.zipimporter):
            del sys.path_importer_cache[path]
    _freeze()


@functools.lru_cache(maxsize=None)
def _freeze():
    gc.collect()
    gc.freeze()


def _do(name, unit, work, uri):
    """Process one unit on a worker and return its report. A repeated task skips the units that it has already done."""
    report = {"unit": name, "rows": 0, "seconds": {}}
    try:
        system, path = filesystem(join(uri, name + ".parquet"))
        if system.exists(path):
            return report
        table, facts, seconds = work(unit)
        started = time.perf_counter()
        with room(shown(uri)):
            write(table, facts, uri, name)
        return dict(report, rows=len(table), seconds=dict(seconds, write=time.perf_counter() - started))
    except InputError as error:
        return dict(report, error=str(error), is_damage=isinstance(error, DamagedFile))


@contextlib.contextmanager
def _watching(watch, uri, wanted):
    """Tell ``watch`` from time to time which units are done. The driver, too, only looks which files exist."""
    if watch is None:
        yield
        return
    import contextvars  # Imported here, because CNTK's Python 3.6 also imports this module and lacks contextvars.
    ended = threading.Event()

    def look():
        with contextlib.suppress(Exception):  # If the storage does not answer now, the next look may succeed.
            watch(names(uri) & wanted)

    def follow():
        wait_s = _LOOK_S
        while not ended.wait(wait_s):
            started = time.monotonic()
            look()
            # Look less often at a long list, because the workers may run on the driver's cores.
            wait_s = max(_LOOK_S, 20 * (time.monotonic() - started))

    # The thread gets a copy of this cell's context. Otherwise Jupyter would not know to which cell the bar belongs.
    thread = threading.Thread(target=contextvars.copy_context().run, args=(follow,), daemon=True)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()
        look()


def keep_only(uri: str, wanted, folders=("",)):
    """Remove old files from some folders after a job: units that are no longer in its list, and half-written files of
    units that are done. Keep all files that no job has written."""
    wanted = set(wanted)
    for folder in folders:
        inside = join(uri, folder) if folder else uri
        remove_parts(inside, rf"{_HASH}\.parquet")
        for name in names(inside):
            file = join(inside, name + ".parquet")
            with contextlib.suppress(DamagedFile):
                if (join(folder, name) if folder else name) not in wanted and facts_in(footer(file)) is not None:
                    remove(file)

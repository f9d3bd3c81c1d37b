"""preflight."""

import os
import re
import shutil
import sys
import tempfile
import uuid
from importlib.metadata import distributions

import numpy as np
import pandas as pd
import psutil

from helpers import InputError, files as storage
from helpers.azure import credentials, use
from helpers.runs import home
from helpers.uri import join

# What Spark's own documentation lists for each line, plus what each was seen to start on.
JAVA_FOR_SPARK = {3: (8, 11, 17), 4: (17, 21)}
# What the sample, its tiles and a run's results take.
DISK_GB = 2.0
# What Java takes beside its heap, which it has when it has started, and a Python worker with its network.
DRIVER_GB, SLOT_GB = 0.3, 0.25
GIB = 2 ** 30
# Where HDInsight keeps Spark and Hadoop, on each of its nodes.
HDINSIGHT = "/usr/hdp"
# What must be the same on driver and workers.
PACKAGES = ("numpy", "pandas", "pyarrow", "onnxruntime")


def preflight(spark):
    """Check what a job will need, on the driver and on the workers.

    Parameters
    ----------
    spark : pyspark.sql.SparkSession

    Returns
    -------
    pandas.DataFrame
        One row for each check: ``check``, ``wanted``, ``found`` (str), ``ok`` (bool), and ``advice``: what to do
        where it failed.
    """
    context = spark.sparkContext
    major = int(spark.version.split(".")[0])
    rows = []

    def check(name, wanted, found, ok, advice):
        rows.append({"check": name, "wanted": wanted, "found": found, "ok": bool(ok), "advice": advice})

    java = context._jvm.java.lang.System.getProperty("java.version")
    allowed = JAVA_FOR_SPARK[major]
    check("Java", f"version {', '.join(map(str, allowed))} for Spark {spark.version}", java,
          int(re.match(r"(?:1\.)?(\d+)", java).group(1)) in allowed,
          "Set JAVA_HOME to a JDK 17.")

    here = "{}.{}.{}".format(*sys.version_info)
    workers, error = _ask_workers(context)
    check("Python of the workers", f"{here}, as the driver", error or ", ".join(sorted({w["python"] for w in workers})),
          {w["python"] for w in workers} == {here},
          f"Set PYSPARK_PYTHON to {sys.executable}, or to the same version on the cluster's nodes.")
    where = {w["helpers"] for w in workers}
    check("helpers on the workers", "importable", error or ("importable" if None not in where else "not found"),
          workers and None not in where, "Install it into the workers' Python: pip install --no-deps -e . in the "
          "repository's folder.")
    if not context.master.startswith("local"):
        versions = {found.metadata["Name"]: found.version for found in distributions()}
        here_too = ["{} {}".format(name, versions.get(name, "missing")) for name in PACKAGES]
        check("packages of the workers", ", ".join(here_too),
              error or "; ".join(sorted({", ".join(w["packages"]) for w in workers})),
              {tuple(w["packages"]) for w in workers} == {tuple(here_too)},
              "Give the workers the environment of the driver: its executors.tar.gz, or script_action.sh on each node.")
    if os.environ.get("TUTORIAL_STORAGE"):
        said = error or _storage_round_trip(context)
        check("storage", "a file there and back", said, said == "a file there and back",
              "Mend what it says, or unset TUTORIAL_STORAGE.")
    elif os.path.isdir(HDINSIGHT) and not context.master.startswith("local"):
        check("storage", "TUTORIAL_STORAGE, which all nodes share", "not set", False,
              "Set it to abfs://container@account.dfs.core.windows.net/path before Spark starts.")
    found = "not tried" if error else _arrow_round_trip(spark)
    check("Arrow", "200 rows there and back unchanged", found, found == "200 rows there and back unchanged",
          "Install the pyarrow and pandas of requirements.txt on driver and workers.")

    slots = context.defaultParallelism
    check("cores", "1 or more", f"{slots} slots", slots >= 1, "Give the master's name a number of cores: local[2].")
    if context.master.startswith("local"):
        needed = DRIVER_GB + SLOT_GB * slots
        free = psutil.virtual_memory().available / GIB
        check("memory", f"{needed:.1f} GB free for {slots} slots", f"{free:.1f} GB free", free >= needed,
              f"Close other programs, or use fewer slots: master='local[{max(1, slots // 2)}]'.")
    for name, folder, variable in (("disk", home(), "TUTORIAL_HOME"), ("disk for shuffles",
                                                                       tempfile.gettempdir(), "TMPDIR")):
        free = shutil.disk_usage(folder).free / GIB
        check(name, f"{DISK_GB:.1f} GB free", f"{free:.1f} GB free", free >= DISK_GB,
              f"Free some in {folder}, or set {variable} to a folder with more.")
    return pd.DataFrame(rows)


def _ask_workers(context):
    """What the workers' Python says of itself: a list of dicts, and the error if they could not be asked."""
    names = PACKAGES

    def describe(_):
        # Runs on a worker, maybe one without this package: it must need nothing from here.
        import sys
        try:
            import helpers
            place = helpers.__file__
        except ImportError:
            place = None
        from importlib.metadata import distributions
        # Looked up and not imported: some leave files where they are imported first.
        versions = {found.metadata["Name"]: found.version for found in distributions()}
        packages = ["{} {}".format(name, versions.get(name, "missing")) for name in names]
        yield {"python": "{}.{}.{}".format(*sys.version_info), "helpers": place, "packages": packages}

    slots = max(1, min(context.defaultParallelism, 64))
    try:
        return context.parallelize(range(slots), slots).mapPartitions(describe).collect(), None
    except Exception as error:  # Whatever stops a worker is this check's finding, and the table goes on.
        text = str(error)
        # "Python in worker has different version (3, 9) than that in driver 3.11"; older Sparks write 3.9.
        versions = re.search(r"different version \(?(\d+)\D+(\d+)\)? than that in driver", text)
        return [], ".".join(versions.groups()) if versions else _worker_error(text)


def _storage_round_trip(context):
    """Write a file on the driver to ``TUTORIAL_STORAGE`` and read it on a worker; what came of it, in words."""
    known, uri = credentials(), join(os.environ["TUTORIAL_STORAGE"], f".preflight-{uuid.uuid4().hex}")

    def read(_):
        use(known)
        system, path = storage.filesystem(uri)
        yield system.cat_file(path)

    try:
        storage.write_whole(uri, b"preflight")
        try:
            came = context.parallelize([0], 1).mapPartitions(read).collect()
        finally:
            system, path = storage.filesystem(uri)
            system.rm(path)
        return "a file there and back" if came == [b"preflight"] else "another file"
    except Exception as error:  # Whatever it is, it is this check's finding.
        text = str(error)
        return text if isinstance(error, InputError) else _worker_error(text)


def _worker_error(text):
    """The Python error inside the report of a failed Spark job."""
    lines = re.findall(r"^[\w.]*(?:Error|Exception): .+$", text, flags=re.MULTILINE)
    return lines[0][:200] if lines else text.strip().splitlines()[0][:200]


def _arrow_round_trip(spark):
    """Send 200 rows of numbers, text and bytes to the workers and back; what came of it, in words."""
    sent = pd.DataFrame({"number": np.arange(200), "text": [f"utm19-{i:05d}" for i in range(200)],
                         "image": [bytes([i]) * 50 for i in range(200)]})

    def same(batches):
        yield from batches

    try:
        frame = spark.createDataFrame(sent, "number long, text string, image binary")
        back = frame.mapInPandas(same, frame.schema).toPandas().sort_values("number", ignore_index=True)
        back["image"] = back["image"].map(bytes)
        return f"{len(back)} rows there and back {'unchanged' if back.equals(sent) else 'changed'}"
    except Exception as error:
        # PySpark wraps what went wrong into a page about its settings.
        return _worker_error(str(error.__cause__ or error))

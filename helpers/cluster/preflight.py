"""Checks before a job begins: Java, Python, packages, memory, disk and storage."""

import os
import re
import sys
import tempfile
import uuid
from importlib.metadata import distributions
from importlib.util import find_spec

import pandas as pd
import psutil

from helpers import InputError
from helpers.cluster import adapter, work
from helpers.credentials import credentials, use
from helpers.files import filesystem, free_bytes, remove, write_whole
from helpers.runs import home
from helpers.uri import join

# Versions of Java that run each major version of Spark: those of Spark's documentation, and others that we saw work.
JAVA_FOR_SPARK = {3: (8, 11, 17), 4: (17, 21)}
# GB of disk that the sample, its tiles and a run's results take.
DISK_GB = 2.0
# GB of the driver's Java beside its heap, which is already allocated.
DRIVER_GB = 0.3
# MB of a slot: LEAST_SLOT_MB for a worker that only starts, SLOT_MB for one that scores. We measured at most 1,210 MB
# (TensorFlow). YARN kills an executor that uses more than it requested, so SLOT_MB is higher.
LEAST_SLOT_MB, SLOT_MB = 256, 1400
GIB = 2 ** 30
# Packages that must have the same version on the driver and the workers.
PACKAGES = ("numpy", "pandas", "pyarrow", "onnxruntime")
# At most so many tasks report their Python. In a larger cluster we assume that all nodes have the same set-up.
ASKED = 64


def preflight(spark) -> pd.DataFrame:
    """Check the driver and the workers before a job: one row for each check, with the advice if it fails.

    Under Spark Connect there are no checks of the server's own Java, memory and temporary folder.
    """
    rows = []

    def check(name, wanted, found, ok, advice):
        rows.append({"check": name, "wanted": wanted, "found": found, "ok": bool(ok), "advice": advice})

    java = adapter.java(spark)
    if java:
        allowed = JAVA_FOR_SPARK[int(spark.version.split(".")[0])]
        check("Java", f"version {', '.join(map(str, allowed))} for Spark {spark.version}", java,
              int(re.match(r"(?:1\.)?(\d+)", java).group(1)) in allowed, "Set JAVA_HOME to a JDK 17.")
    is_local, slots = adapter.master(spark).startswith("local"), adapter.slots(spark)
    _check_workers(spark, check, min(slots, ASKED), is_local)
    check("cores", "1 or more", f"{slots} slots", slots >= 1, "Add a number of cores to the master's name: local[2].")
    if is_local:
        needed, free = DRIVER_GB + LEAST_SLOT_MB / 1024 * slots, psutil.virtual_memory().available / GIB
        check("memory", f"{needed:.1f} GB free for {slots} slots", f"{free:.1f} GB free", free >= needed,
              f"Close other programs, or use fewer slots: master='local[{max(1, slots // 2)}]'.")
    for name, folder, variable in [("disk", home(), "TUTORIAL_HOME"),
                                   ("disk for shuffles", tempfile.gettempdir(), "TMPDIR")][:2 if java else 1]:
        free = free_bytes(folder) / GIB
        check(name, f"{DISK_GB:.1f} GB free", f"{free:.1f} GB free", free >= DISK_GB,
              f"Free some space in {folder}, or set {variable} to a folder with more.")
    return pd.DataFrame(rows)


def _check_workers(spark, check, tasks, is_local):
    def describe():
        # This also runs on workers that lack the package helpers. It looks packages up without importing them, because
        # some write files when they are first imported.
        versions = {found.metadata["Name"]: found.version for found in distributions()}
        found = find_spec("helpers")
        return {"python": ".".join(map(str, sys.version_info[:3])),
                "helpers": "importable" if found and found.origin else "not found",
                "packages": ", ".join(f"{name} {versions.get(name, 'missing')}" for name in PACKAGES)}

    here, workers, error = describe(), [], None
    try:
        workers = work.ask(spark, describe, tasks)
    except Exception as raised:  # Any error of a worker becomes this check's result; the other checks still run.
        error = _sentence(raised)

    def check_same(name, key, wanted, advice):
        found = {worker[key] for worker in workers}
        check(name, wanted, error or "; ".join(sorted(found)), found == {here[key]}, advice)

    check_same("Python of the workers", "python", f"{here['python']}, as the driver",
               f"Set PYSPARK_PYTHON to {sys.executable}, or to the same version on the cluster's nodes.")
    check_same("helpers on the workers", "helpers", "importable", "Install it into the workers' Python: pip install "
               "--no-deps -e . in the repository's folder.")
    if not is_local:
        check_same("packages of the workers", "packages", here["packages"], "Give the workers the environment of the "
                   "driver: its executors.tar.gz, or script_action.sh on each node.")
    if os.environ.get("TUTORIAL_STORAGE"):
        found, wanted = error or _try(_storage_round_trip, spark), "a file there and back"
        check("storage", wanted, found, found == wanted, "Fix this error, or unset TUTORIAL_STORAGE.")
    elif os.environ.get("TUTORIAL_MASTER") == "yarn" and not is_local:  # A notebook on YARN: it writes under runs/.
        check("storage", "TUTORIAL_STORAGE, which all nodes share", "not set", False,
              "Set it to abfs://container@account.dfs.core.windows.net/path before Spark starts.")
    found, wanted = "not tried" if error else _try(_arrow_round_trip, spark), "200 rows there and back unchanged"
    check("Arrow", wanted, found, found == wanted,
          "Install the pyarrow and pandas of requirements.txt on driver and workers.")


def _storage_round_trip(spark) -> str:
    """Write a file on the driver to ``TUTORIAL_STORAGE``, and read it on a worker."""
    known, uri = credentials(), join(os.environ["TUTORIAL_STORAGE"], f".preflight-{uuid.uuid4().hex}")

    def read():
        use(known)
        system, path = filesystem(uri)
        return system.cat_file(path).decode()

    write_whole(uri, b"preflight")
    try:
        return "a file there and back" if work.ask(spark, read) == ["preflight"] else "another file"
    finally:
        remove(uri)


def _arrow_round_trip(spark) -> str:
    """Send 200 rows of numbers, text and bytes to the workers and back."""
    sent = pd.DataFrame({"number": range(200), "text": [f"utm19-{i:05d}" for i in range(200)],
                         "image": [bytes([i]) * 50 for i in range(200)]})

    frame = spark.createDataFrame(sent, "number long, text string, image binary")
    back = frame.mapInPandas(lambda batches: batches, frame.schema).toPandas().sort_values("number", ignore_index=True)
    back["image"] = back["image"].map(bytes)
    return f"{len(back)} rows there and back {'unchanged' if back.equals(sent) else 'changed'}"


def _try(round_trip, spark) -> str:
    """The result of a round trip, or its error as one sentence."""
    try:
        return round_trip(spark)
    except InputError as error:
        return str(error)
    except Exception as error:
        # PySpark hides the cause behind a page about its settings.
        return _sentence(error.__cause__ or error)


def _sentence(error: Exception) -> str:
    """The Python error in the report of a failed Spark job."""
    text = str(error)
    # "Python in worker has different version (3, 9) than that in driver 3.11"; other Sparks write 3.9, or ": 3.9".
    versions = re.search(r"different version:? \(?(\d+)\D+(\d+)\)? than that in driver", text)
    lines = re.findall(r"^[\w.]*(?:Error|Exception): .+$", text, flags=re.MULTILINE)
    return ".".join(versions.groups()) if versions else (lines or text.strip().splitlines())[0][:200]

"""All code that needs more of Spark than DataFrames, for classic sessions and for those of Spark Connect.

Databricks' serverless and shared clusters, and much of Fabric, offer only Spark Connect: a client without Java,
SparkContext and RDDs. All other code in this package uses DataFrames, which both kinds of session have.
"""

import os
import tempfile
import zipfile
from pathlib import Path

from helpers import InputError

# Archives that this process has sent: application and name.
_shipped = set()


def running():
    """The Spark session of this process, or None. If ``SPARK_REMOTE`` is set, a session on its Spark Connect server."""
    try:
        from pyspark.sql import SparkSession
    except Exception as error:  # Another Spark's PySpark fails in many ways in a newer Python.
        raise InputError(f"expected PySpark that this Python can import, got {type(error).__name__}: {error}. Install "
                         "it as requirements.txt says, and unset PYTHONPATH if it leads to another Spark.") from error
    found = SparkSession.getActiveSession()
    if found is None:
        # Java keeps the active session for each connection, and PySpark may open another one for the same thread.
        session = SparkSession._instantiatedSession
        found = session if session is not None and session._sc._jsc is not None else None
    return SparkSession.builder.getOrCreate() if found is None and os.environ.get("SPARK_REMOTE") else found


def is_connect(spark) -> bool:
    return ".connect." in type(spark).__module__


def application(spark) -> str:
    """Id of the application. Under Connect, where many sessions share one, the id of the session."""
    return spark.session_id if is_connect(spark) else spark.sparkContext.applicationId


def master(spark) -> str:
    """Name of the master; ``"connect"`` under Connect, because a server may hide its master."""
    return "connect" if is_connect(spark) else spark.sparkContext.master


def java(spark) -> str:
    """Version of the driver's Java; empty under Connect, whose client has no Java."""
    return "" if is_connect(spark) else spark.sparkContext._jvm.java.lang.System.getProperty("java.version")


def slots(spark) -> int:
    """The number of tasks that run at the same time."""
    if not is_connect(spark):
        return spark.sparkContext.defaultParallelism
    # Spark cuts a range into as many partitions as it has slots, unless told otherwise.
    numbers = spark.range(10_000).selectExpr("spark_partition_id() AS number")
    return numbers.agg({"number": "max"}).first()[0] + 1


def threads(spark) -> int:
    """Cores of a slot (``spark.task.cpus``), usually one."""
    try:
        return int(spark.conf.get("spark.task.cpus", "1"))
    except Exception:  # Some managed servers refuse to tell a setting, each with an error of its own.
        return 1


def ship(spark, folder, files: list, name: str):
    """Send files of a folder to every worker, once. Their folder there is ``pyspark.SparkFiles.get(name)``."""
    key = (application(spark), name)
    if key in _shipped:  # Spark refuses a second archive of the same name.
        return
    if is_connect(spark):
        with tempfile.TemporaryDirectory() as place:
            spark.addArtifacts(f"{_packed(folder, files, name, place)}#{name}", archive=True)
    else:
        # Executors fetch the archive when their first task starts. Java removes its folder, unless it is killed.
        archive = _packed(folder, files, name, spark.sparkContext._temp_dir)
        # A URI encodes blanks and other special characters. Java does not accept them in a plain path here.
        spark.sparkContext.addArchive(f"{archive.as_uri()}#{name}")
    _shipped.add(key)


def _packed(folder, files, name, place):
    """Pack files of a folder into an archive; uncompressed, because a network's weights don't shrink."""
    path = Path(place, f"{name}.zip")
    with zipfile.ZipFile(path, "w", zipfile.ZIP_STORED) as archive:
        for file in files:
            archive.write(Path(folder, file), file)
    return path


def start_java(settings: dict):
    """Start the driver's Java. All users can see its command line, so a secret must be added later, by the session."""
    from pyspark import SparkConf, SparkContext
    SparkContext._ensure_initialized(conf=SparkConf().setAll(list(settings.items())))


def given(name: str):
    """A setting from spark-submit or spark-defaults.conf, or None. Call ``start_java`` first."""
    from pyspark import SparkConf
    return SparkConf().get(name)


def yarn_offer(queue: str) -> tuple:
    """Cores and MB of memory of each YARN node, in use or free, and those that a queue has left now, in all.

    Call ``start_java`` with the master yarn first.
    """
    from pyspark import SparkContext
    yarn = SparkContext._jvm.org.apache.hadoop.yarn
    states = SparkContext._gateway.new_array(yarn.api.records.NodeState, 1)
    states[0] = yarn.api.records.NodeState.RUNNING
    client = yarn.client.api.YarnClient.createYarnClient()
    client.init(yarn.conf.YarnConfiguration())
    client.start()
    try:
        reports = client.getNodeReports(states)
        nodes = [_cores_and_mb(node.getCapability()) for node in reports]
        used = [_cores_and_mb(node.getUsed()) for node in reports]
        free = tuple(sum(node[what] for node in nodes) - sum(node[what] for node in used) for what in (0, 1))
        found = client.getQueueInfo(queue)  # None if there is no such queue: Spark will say so.
        if found:
            left = found.getQueueStatistics()
            free = min(free[0], left.getAvailableVCores()), min(free[1], left.getAvailableMemoryMB())
        return nodes, free
    finally:
        client.stop()


def _cores_and_mb(resource) -> tuple:
    return resource.getVirtualCores(), resource.getMemorySize()

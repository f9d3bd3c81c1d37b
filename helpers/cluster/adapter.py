"""All that reaches below DataFrames, for classic sessions and for those of Spark Connect.

Databricks' serverless and shared clusters, and much of Fabric, offer Spark Connect alone: a client without Java,
SparkContext and RDDs. Everything else in this package uses DataFrames, which both have.
"""

import os
from pathlib import Path

# Archives that this process has sent: application and name.
_shipped = set()


def running():
    """The Spark session of this thread, or None. ``SPARK_REMOTE`` asks for one on a server of Spark Connect."""
    from pyspark.sql import SparkSession
    found = SparkSession.getActiveSession()
    return SparkSession.builder.getOrCreate() if found is None and os.environ.get("SPARK_REMOTE") else found


def is_connect(spark) -> bool:
    return ".connect." in type(spark).__module__


def application(spark) -> str:
    """Id of the application. Under Connect many sessions share one: there it is the id of the session."""
    return spark.session_id if is_connect(spark) else spark.sparkContext.applicationId


def master(spark) -> str:
    """Name of the master; ``"connect"`` under Connect, whose servers need not tell it."""
    return "connect" if is_connect(spark) else spark.sparkContext.master


def java(spark) -> str:
    """Version of the driver's Java; empty under Connect, where it is the server's own affair."""
    return "" if is_connect(spark) else spark.sparkContext._jvm.java.lang.System.getProperty("java.version")


def slots(spark) -> int:
    """Tasks that run at the same time."""
    if not is_connect(spark):
        return spark.sparkContext.defaultParallelism
    # Spark cuts a range into as many partitions as it has slots, unless told otherwise.
    numbers = spark.range(10_000).selectExpr("spark_partition_id() AS number")
    return numbers.agg({"number": "max"}).first()[0] + 1


def threads(spark) -> int:
    """Cores of a slot."""
    return int(spark.conf.get("spark.task.cpus", "1"))


def ship(spark, archive, name: str):
    """Send an archive (.zip, .tar.gz) to every worker, once: there ``pyspark.SparkFiles.get(name)`` is its folder."""
    key = (application(spark), name)
    if key in _shipped:  # Spark refuses a second archive of the same name.
        return
    if is_connect(spark):
        spark.addArtifacts(f"{archive}#{name}", archive=True)
    else:
        # A URI, in which blanks and the like are encoded: Java takes no plain path for it that has them.
        spark.sparkContext.addArchive(f"{Path(archive).resolve().as_uri()}#{name}")
    _shipped.add(key)


def start_java(settings: dict):
    """Start the driver's Java now: settings that its session adds are not among its arguments, which all can see."""
    from pyspark import SparkConf, SparkContext
    SparkContext._ensure_initialized(conf=SparkConf().setAll(list(settings.items())))


def yarn_nodes() -> list:
    """Cores and MB of memory that YARN offers on each of its nodes; Java has been started for a session on YARN."""
    from pyspark import SparkContext
    yarn = SparkContext._jvm.org.apache.hadoop.yarn
    states = SparkContext._gateway.new_array(yarn.api.records.NodeState, 1)
    states[0] = yarn.api.records.NodeState.RUNNING
    client = yarn.client.api.YarnClient.createYarnClient()
    client.init(yarn.conf.YarnConfiguration())
    client.start()
    try:
        offers = [node.getCapability() for node in client.getNodeReports(states)]
        return [(offer.getVirtualCores(), offer.getMemorySize()) for offer in offers]
    finally:
        client.stop()

"""A driver on Spark Connect, and a server for it.

    python connect_job.py serve PORT    a server on this machine, until standard input closes
    python connect_job.py REMOTE        a driver: each line is a job as JSON, each answer a line
"""

import json
import os
import sys
import zipfile
from pathlib import Path

import toy
from helpers.cluster import adapter, session, work
from helpers.cluster.preflight import preflight
from helpers.cluster.progress import progress


def about(spark):
    """What the adapter and the preflight say."""
    checks = preflight(spark)
    return {"slots": adapter.slots(spark), "threads": adapter.threads(spark), "master": adapter.master(spark),
            "application": adapter.application(spark), "version": spark.version, "checks": checks["check"].tolist(),
            "failed": checks[~checks["ok"]].to_dict("records")}


def do_toy_units(spark, folder, pause_s=0, count=6):
    units = toy.units(count)
    with progress("toy", count, "units") as show:
        done = work.run(spark, units, toy.work(Path(folder, "log"), pause_s), str(Path(folder, "out")),
                        watch=lambda names: show(len(names)))
    return {"rows": done.rows, "failed": list(done.failed)}


def ship(spark, folder):
    """Send an archive, twice; what the workers read in it."""
    def read(batches):
        import pandas as pd
        from pyspark import SparkFiles
        for _ in batches:
            with open(os.path.join(SparkFiles.get("shipped-1"), "note")) as file:
                yield pd.DataFrame({"text": [file.read()]})

    path = Path(folder, "some.zip")
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("note", "hello")
    for _ in range(2):
        adapter.ship(spark, path, "shipped-1")
    return spark.range(0, 2, 1, 2).mapInPandas(read, "text string").toPandas()["text"].tolist()


JOBS = {"about": about, "toy": do_toy_units, "ship": ship}


def serve(port):
    """What ``builder.remote("local[2]")`` starts as well, at a port of one's choice."""
    spark = session.start("local[2]", "server", settings={
        "spark.plugins": "org.apache.spark.sql.connect.SparkConnectPlugin", "spark.connect.grpc.binding.port": port,
        "spark.connect.grpc.binding.address": "127.0.0.1"})
    print(json.dumps("ready"), flush=True)
    sys.stdin.read()
    session.stop(spark)


def drive(remote):
    from pyspark.sql import SparkSession
    spark = SparkSession.builder.remote(remote).getOrCreate()
    assert session.start("local[2]") is spark
    print(json.dumps("ready"), flush=True)
    for line in sys.stdin:
        asked = json.loads(line)
        print(json.dumps(JOBS[asked.pop("job")](spark, **asked)), flush=True)
    session.stop(spark)
    # It belongs to whoever made it.
    print(json.dumps(spark.range(3).count()), flush=True)


if __name__ == "__main__":
    serve(sys.argv[2]) if sys.argv[1] == "serve" else drive(sys.argv[1])

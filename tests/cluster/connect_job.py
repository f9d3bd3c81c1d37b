"""A driver on Spark Connect, and a server for it.

    python connect_job.py serve PORT    a server on this machine, until standard input closes
    python connect_job.py REMOTE        a driver: each line is a job as JSON, each answer a line
"""

import json
import os
import sys
from pathlib import Path

sys.path.append(str(Path(__file__).resolve().parents[1]))

import faulty  # noqa: E402
import toy  # noqa: E402
from helpers.cluster import adapter, session, work  # noqa: E402
from helpers.cluster.preflight import preflight  # noqa: E402
from helpers.cluster.progress import progress  # noqa: E402
from helpers.land.catalog import Catalog  # noqa: E402
from helpers.model import bundle  # noqa: E402
from helpers.scoring import score as scoring  # noqa: E402
from helpers.scoring.table import summary  # noqa: E402
from helpers.tiles.prepare import prepare  # noqa: E402


def about(spark):
    """What the adapter and the preflight say."""
    checks = preflight(spark)
    return {"slots": adapter.slots(spark), "threads": adapter.threads(spark), "master": adapter.master(spark),
            "application": adapter.application(spark), "version": spark.version, "checks": checks["check"].tolist(),
            "failed": checks[~checks["ok"]].to_dict("records")}


def do_toy_units(spark, folder, pause_s=0, count=6):
    units = toy.units(count)
    with progress("toy", count) as show:
        done = work.run(spark, units, toy.work(Path(folder, "log"), pause_s), str(Path(folder, "out")),
                        watch=lambda names: show(len(names)))
    return {"rows": done.rows, "failed": list(done.failed)}


def ship(spark, folder):
    """Send a file, twice; what the workers read in it."""
    def read(batches):
        import pandas as pd
        from pyspark import SparkFiles
        for _ in batches:
            with open(os.path.join(SparkFiles.get("shipped-1"), "note")) as file:
                yield pd.DataFrame({"text": [file.read()]})

    Path(folder, "note").write_text("hello")
    for _ in range(2):
        adapter.ship(spark, folder, ["note"], "shipped-1")
    return spark.range(0, 2, 1, 2).mapInPandas(read, "text string").toPandas()["text"].tolist()


def prepare_county(spark, catalogue, uri):
    facts = prepare(spark, Catalog(catalogue), "99001", 2010, "map", uri)
    return {"tiles": facts["tiles"], "files": facts["files"]}


def score_tiles(spark, tiles, model, table, pause_s=0):
    """Score a store; with a pause, workers wait before each call of the network."""
    plain = scoring.score_unit
    if pause_s:
        scoring.score_unit = faulty.on_workers(plain, FAULTY={"pause_s": pause_s})
    try:
        rows = scoring.score(spark, tiles, bundle.load(model), table)
    finally:
        scoring.score_unit = plain
    return {"rows": rows, "scored_now": summary(table)["scored_now"]}


JOBS = {"about": about, "toy": do_toy_units, "ship": ship, "prepare": prepare_county, "score": score_tiles}


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

"""Ways to score a store so that a driver's death costs little: what each loses, doubles, does again, and takes.

    python tests/benchmarks/ways_to_resume.py

Each way scores the same tiles on two workers of a local cluster. Its driver is killed when it has scored half of them,
and the same is run again; then once more, undisturbed, for the clock. Scoring takes a given time for a tile, so that
the machine's speed matters little. Chunks are also run with one slow worker, with speculative execution and without.
What it measures goes to ``ways_to_resume.json`` beside it, and from there by hand into the README.
"""

import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(REPOSITORY), str(REPOSITORY / "tests")]

import numpy as np  # noqa: E402
import pyarrow.parquet as pq  # noqa: E402

import tiny  # noqa: E402
import local_cluster
from helpers.cluster import session
from helpers.files import write_json
from helpers.model import bundle
from helpers.scoring import score as scoring
from helpers.tiles import store as tilestore
from helpers.uri import join
from helpers.scoring.table import PREDICTION_TYPE, read
from helpers.tiles.folder import write_images  # noqa: E402

FILES, TILES, TILE_S, SLOW = 8, 480, 0.02, 10
# Two files each: what a chunk has, a streaming query's batch has too.
CHUNK_TILES = TILES // 4
WAYS = ("one write", "streaming query", "chunks")


def logged(on_worker, folder, has_slow_worker):
    """``scoring._on_worker``, with a pause for each tile and a log of the tiles that were scored."""
    def outer(*arguments):
        run = on_worker(*arguments)

        def on_this_worker(batches):
            import os
            import time
            factor = 1
            if has_slow_worker:  # That whose first task comes first.
                mark = os.path.join(folder, "slow")
                try:
                    with open(mark, "x") as file:
                        file.write(str(os.getppid()))
                except FileExistsError:
                    time.sleep(0.1)
                with open(mark) as file:
                    factor = SLOW if file.read() == str(os.getppid()) else 1

            def slowly():
                for batch in batches:
                    for name in batch.column(0).to_pylist():
                        time.sleep(TILE_S * factor)
                        with open(os.path.join(folder, "scored-" + str(os.getpid())), "a") as file:
                            file.write(name + "\n")
                    yield batch
            yield from run(slowly())
        return on_this_worker
    return outer


def score(spark, way, store, model, table):
    """Score a store in one of the ways; as many seconds as it took."""
    started = time.monotonic()
    with session.settings(spark, {"spark.sql.execution.arrow.maxRecordsPerBatch": "20"}):
        if way == "chunks":
            scoring.score(spark, store, model, table, chunk_tiles=CHUNK_TILES, partitions=4)
            return time.monotonic() - started
        counts = spark.sparkContext.accumulator(np.zeros(len(scoring.COUNTS)), scoring._Sums)
        reader = spark.read if way == "one write" else spark.readStream.option("maxFilesPerTrigger", FILES // 4)
        frame = reader.schema(scoring.TILE_TYPE).option("basePath", store).parquet(store)
        from pyspark.sql import functions as F
        frame = frame.select("tile_id", "image", "county", "year", scoring._crc(F).alias(scoring.CRC)).mapInArrow(
            scoring._on_worker(scoring.ship(spark, model), "onnxruntime", 1, counts, way),
            PREDICTION_TYPE + ", {} bigint".format(scoring.CRC))
        if way == "one write":
            frame.write.mode("overwrite").parquet(table)
        else:
            frame.writeStream.option("checkpointLocation", table + "-checkpoint").trigger(availableNow=True).start(
                table, format="parquet").awaitTermination()
    return time.monotonic() - started


def drive(master, folder, asked):
    """A driver: does what it is asked for, and prints what it found."""
    folder, asked = Path(folder), json.loads(asked)
    scoring._on_worker = logged(scoring._on_worker, str(folder / asked["log"]), asked["slow"])
    spark = session.start(master, "ways", settings=asked["settings"])
    answer = {"seconds": score(spark, asked["way"], str(folder / "tiles"), bundle.load(folder / "model"),
                               str(folder / asked["table"]))}
    table = str(folder / asked["table"])
    names = (read(table) if asked["way"] == "chunks" else spark.read.parquet(table).toPandas())["tile_id"]
    answer.update(rows=len(names), tiles=int(names.nunique()))
    session.stop(spark)
    print(json.dumps(answer), flush=True)


class Bench:
    def __init__(self, folder):
        self.folder = folder
        tiny.pictures(folder / "place", range(TILES))
        store = str(folder / "tiles")
        write_images(folder / "place", store)
        part = Path(tilestore.partition_folder(store, "place", 0))
        whole = pq.read_table(part / "part-0.parquet", partitioning=None)
        (part / "part-0.parquet").unlink()
        for i in range(FILES):
            pq.write_table(whole.slice(TILES // FILES * i, TILES // FILES), join(part, "part-%d.parquet" % i))
        tiny.model(folder / "model")
        self.cluster = local_cluster.Cluster()

    def begin(self, way, table, log, slow=False, **settings):
        (self.folder / log).mkdir(exist_ok=True)
        asked = {"way": way, "table": table, "log": log, "slow": slow, "settings": settings}
        return subprocess.Popen([sys.executable, __file__, self.cluster.master, str(self.folder), json.dumps(asked)],
                                env=dict(os.environ, PYTHONPATH=str(REPOSITORY)), stdout=subprocess.PIPE, text=True)

    def end(self, driver):
        said, _ = driver.communicate(timeout=300)
        if driver.returncode:
            raise RuntimeError("a driver ended with status {}".format(driver.returncode))
        return json.loads(said.splitlines()[-1])

    def scored(self, log):
        return sum(len(path.read_text().splitlines()) for path in (self.folder / log).glob("scored-*"))

    def killed(self, way):
        """Kill the driver in the middle, and run the same again."""
        name = way.replace(" ", "-")
        driver = self.begin(way, name, name + "-log")
        while self.scored(name + "-log") < TILES // 2 + 30:
            if driver.poll() is not None:
                raise RuntimeError("a driver ended before it was killed")
            time.sleep(0.05)
        driver.kill()
        driver.communicate()
        time.sleep(3)  # Until its executors have noticed.
        came = self.end(self.begin(way, name, name + "-log"))
        plain = self.end(self.begin(way, name + "-plain", name + "-plain-log"))
        return {"way": way, "lost": TILES - came["tiles"], "doubled": came["rows"] - came["tiles"],
                "scored_again": self.scored(name + "-log") - TILES, "seconds": round(plain["seconds"], 1)}

    def with_a_slow_worker(self, speculation):
        name = "speculation-" + speculation
        came = self.end(self.begin("chunks", name, name + "-log", slow=True, **{
            "spark.speculation": speculation, "spark.speculation.interval": "200ms",
            "spark.speculation.minTaskRuntime": "500ms"}))
        return {"way": "chunks, one worker {} times slower, speculation {}".format(SLOW, speculation),
                "lost": TILES - came["tiles"], "doubled": came["rows"] - came["tiles"],
                "scored_again": self.scored(name + "-log") - TILES, "seconds": round(came["seconds"], 1)}


def main():
    folder = Path(tempfile.mkdtemp(prefix="ways-"))
    os.environ["TUTORIAL_HOME"] = str(folder)
    bench = Bench(folder)
    bench.cluster.start(workers=2)
    try:
        rows = [bench.killed(way) for way in WAYS] + [bench.with_a_slow_worker(value) for value in ("false", "true")]
    finally:
        bench.cluster.stop()
        shutil.rmtree(folder, ignore_errors=True)
    for row in rows[:3]:
        row["seconds_a_chunk_more"] = round((row["seconds"] - rows[0]["seconds"]) / 4, 2)
    result = {"tiles": TILES, "chunk_tiles": CHUNK_TILES, "tile_s": TILE_S, "slots": 2, "ways": rows}
    print(json.dumps(result, indent=1))
    write_json(Path(__file__).with_suffix(".json"), result)


if __name__ == "__main__":
    drive(*sys.argv[1:]) if len(sys.argv) > 1 else main()

"""What ``run.sh`` runs: the project's engines beside other ways to score, on the same tiles, cores and networks.

Weights don't matter for time, so the networks' are random. Each way is run once to warm up, then all of them in turn,
three times; what counts is the median. Everything goes to one JSON file after every run.
"""

import argparse
import json
import os
import platform
import re
import shutil
import statistics
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import psutil
import pyarrow as pa
import pyarrow.dataset as ds
import pyarrow.parquet as pq
import recipes

from helpers import InputError
from helpers.cluster import session
from helpers.land import catalog
from helpers.model import bundle, engines
from helpers.scoring import cost, score as scoring, table as table_of
from helpers.tiles import prepare as preparation, store as tilestore
from helpers.model.engine_cntk import cntk_environment
from helpers.model.engines import INT8, ONNX
from helpers.model.int8 import quantise
from helpers.tiles.pictures import decode, decode_all
from helpers.files import write_json
from helpers.runs import Run

HERE = Path(__file__).resolve().parent
REPOSITORY = HERE.parents[1]
RESULTS = HERE / "results"
FIGURE = REPOSITORY / "notebooks" / "figures" / "benchmark.png"
CLUSTER_PAGE = "setup_scripts/hdinsight/README.md#how-many-nodes"
# How often our rate is that of another way, or which share of the limit: at least so much. With AMX, the newest Intel
# processors' instructions for products of matrices, more is asked.
GOALS = {"bare_loop": 0.97, "daft": 1.03, "ray_data": 1.35, "predict_batch_udf": 4.5, "recipe_2017_tensorflow": 10.0,
         "recipe_2017_cntk": 8.0, "limit_int8": 0.70}
AMX_GOALS = {"recipe_2017_tensorflow": 20.0, "daft_onnxruntime": 2.0}
# Tiles a second: of the default network on one core (with AMX, without), and of the preparation.
CORE_GOALS, PREPARATION_GOAL = (400, 300), 500
GROWTH_GOAL, CORES_GOAL, WORKER_GOAL_MB = 0.05, 0.95, 1200
NAMES = {"ours": "**this project**, {}", "bare_loop": "bare loop, {}", "daft": "Daft, {}", "ray_data": "Ray Data, {}",
         "predict_batch_udf": "predict_batch_udf, {}", "recipe_2017": "2017 recipe, {}", "limit": "limit, {}"}
ENGINES = {"onnxruntime-int8": ("onnxruntime", "f32"), "openvino-int8": ("openvino", "f32"),
           "openvino-bf16": ("openvino", "bf16")}
NETWORKS = {"resnet50": "ResNet-50", "mobilenet": "MobileNet", "alexnet": "AlexNet"}
PARTS = ("prepare", "compare", "start", "grow", "spread", "batches", "codecs")
# Tiles for the fast ways and for the slow ones, of growth, repetitions, and counties to prepare.
FULL = {"fast": 2000, "slow": 400, "warm": 96, "growth": (1000, 10000, 65563), "repetitions": 3,
        "small": 743,
        "jobs": [(county, year) for county in ("99001", "99003", "99007") for year in (2010, 2016)]}
QUICK = {"fast": 96, "slow": 24, "warm": 32, "growth": (64, 128, 192), "repetitions": 1, "small": 48,
         "jobs": [("99005", 2010)]}


class Memory:
    """The highest memory of the driver, its Java, and any Python worker, while a ``with`` block runs."""

    def __enter__(self):
        self.peaks = {"driver_mb": 0.0, "java_mb": 0.0, "worker_mb": 0.0}
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._follow, daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *_):
        self._done.set()
        self._thread.join()

    def _follow(self):
        driver = psutil.Process()
        while not self._done.wait(1):
            seen = {"driver_mb": [driver]}
            for process in driver.children(recursive=True):
                try:
                    # What Java starts has all of Java's memory, for the moment until it is itself.
                    is_python = Path(process.exe()).name.startswith("python")
                    kind = "java_mb" if process.name() == "java" else "worker_mb" if is_python else None
                    seen.setdefault(kind, []).append(process)
                except psutil.NoSuchProcess:
                    pass
            seen.pop(None, None)
            for kind, processes in seen.items():
                for process in processes:
                    try:
                        self.peaks[kind] = max(self.peaks[kind], round(process.memory_info().rss / 1e6, 1))
                    except psutil.NoSuchProcess:
                        pass


class Benchmark:
    """One benchmark: where its files are, and what it has measured so far."""

    def __init__(self, size, others, out, quick):
        self.size, self.others, self.out = size, others, Path(out)
        self.folder = Run("benchmark").folder / ("quick" if quick else "full")
        self.folder.mkdir(parents=True, exist_ok=True)
        self.cores = len(os.sched_getaffinity(0))
        goals = dict(GOALS, **AMX_GOALS) if has_amx() else GOALS
        self.results = {"quick": quick, "machine": machine(), "goals": goals, "runs": [], "ratios": {}}
        if self.out.exists():  # What was measured before and isn't measured now stays.
            self.results = dict(json.loads(self.out.read_text()), machine=machine(), goals=goals)

    def has_tiles(self):
        return bool(tilestore.manifest(self.folder / "tiles", *self.size["jobs"][-1]))

    def keep(self, **values):
        self.results.update(values)
        write_json(self.out, self.results)

    def prepare(self, spark):
        """Cut the sample's tiles: the tiles of everything below, and the speed of the preparation."""
        source, base, rows = catalog.open("sample"), self.folder / "tiles", []
        # Warm, as all the others: the first county is cut once for nothing.
        jobs = [self.size["jobs"][0]] + self.size["jobs"]
        for i, (county, year) in enumerate(jobs):
            shutil.rmtree(tilestore.partition_folder(base, county, year), ignore_errors=True)
            begun = time.perf_counter()
            facts = preparation.prepare(spark, source, county, year, "map", str(base))
            if i:
                rows.append({"county": county, "year": year, "tiles": facts["tiles"],
                             "seconds": round(time.perf_counter() - begun, 3)})
        rate = sum(row["tiles"] for row in rows) / sum(row["seconds"] for row in rows)
        say(f"preparation: {rate:.0f} tiles/s on {self.cores} cores")
        self.keep(preparation={"runs": rows, "tiles_per_second": round(rate, 1), "goal": PREPARATION_GOAL})

    def store(self, tiles):
        """A store of so many tiles: the sample's, again and again under new ids."""
        uri = self.folder / f"store-{tiles}"
        if tilestore.manifest(uri, "00000", 0):
            return str(uri)
        shutil.rmtree(uri, ignore_errors=True)
        folder = Path(tilestore.partition_folder(uri, "00000", 0))
        folder.mkdir(parents=True)
        base = ds.dataset(recipes.files_of(self.folder / "tiles"), schema=tilestore.SCHEMA)
        left = tiles
        while left:
            unit = tilestore.unit_tiles(tiles)  # as the preparation cuts row groups
            for batch in base.to_batches(batch_size=unit):
                batch = pa.Table.from_batches([batch.slice(0, left)])
                if len(batch):
                    # Numbered, so that no two are the same and they lie in the order of their names, as in a county.
                    names = [f"{tiles - left + i:06d}-{tile_id}" for i, tile_id in enumerate(
                        batch["tile_id"].to_pylist())]
                    batch = batch.set_column(batch.schema.get_field_index("tile_id"), "tile_id", pa.array(names))
                    pq.write_table(batch, folder / f"part-{tiles - left:06d}.parquet", row_group_size=unit)
                    left -= len(batch)
        tilestore.write_manifest(uri, "00000", 0, tiles=tiles)
        return str(uri)

    def pictures(self, tiles):
        """A folder of so many PNG files, as the work of 2017 had them."""
        folder = self.folder / f"pictures-{tiles}"
        if not folder.is_dir():
            part = folder.with_suffix(".part")
            shutil.rmtree(part, ignore_errors=True)
            part.mkdir()
            from PIL import Image
            for i, image in enumerate(tilestore.read(self.store(tiles), columns=["image"])["image"]):
                Image.fromarray(decode(image)).save(part / f"{i:06d}.png", compress_level=1)
            part.rename(folder)
        return str(folder)

    def sample(self, tiles=240):
        """Pixels of some tiles: to calibrate on."""
        return decode_all(tilestore.read(self.store(tiles), columns=["tile_id", "image"]))

    def keras_bundle(self, name):
        """A backbone with a new head as a bundle with all its files, made in a process of its own."""
        folder = self.folder / name
        if not (folder / bundle.FACTS).is_file():
            np.save(self.folder / "tiles.npy", self.sample())
            # TensorFlow would stay in this process, which the driver's memory is measured of.
            subprocess.run([sys.executable, __file__, "--make-bundle", name, str(self.folder)], check=True)
        return bundle.load(folder)

    def cntk_bundle(self):
        """AlexNet as CNTK's bundle, with an int8 file beside; None where CNTK can't be had."""
        try:
            environment = cntk_environment()
        except InputError as error:
            say(f"without CNTK: {error}")
            return None
        folder = self.folder / "alexnet"
        if not (folder / bundle.FACTS).is_file():
            np.save(self.folder / "tiles.npy", self.sample())
            subprocess.run([environment / "bin" / "python", HERE / "cntk_alexnet.py", self.folder], check=True,
                           env=dict(os.environ, LD_LIBRARY_PATH=str(environment / "lib" / "mpi"),
                                    PYTHONPATH=f"{REPOSITORY}:{REPOSITORY / 'tests'}", TUTORIAL_PYTHON=sys.executable))
        if not (folder / INT8).is_file():
            add_int8_unjudged(folder, self.sample())
        return bundle.load(folder)

    def ways(self, spark):
        """Each way to score: its name, network and engine, tiles, and a function that runs it and gives seconds."""
        fast, slow, written = self.size["fast"], self.size["slow"], str(self.folder / "written")
        found = []
        for name in ("resnet50", "mobilenet"):
            found += self._ways_of(spark, name, self.keras_bundle(name), written)
        resnet, alexnet = self.keras_bundle("resnet50"), self.cntk_bundle()
        found += [(("recipe_2017", "resnet50", "tensorflow"), slow, timed(lambda: recipes.recipe_2017(
                      spark, self.pictures(slow), str(resnet.folder), "tensorflow"))),
                  (("predict_batch_udf", "resnet50", "tensorflow"), slow, timed(lambda: recipes.predict_batch_udf(
                      spark, self.store(slow), str(resnet.folder), written)))]
        if alexnet is not None:
            found += [(("ours", "alexnet", "onnxruntime-int8"), fast,
                       lambda: self._ours(spark, alexnet, "onnxruntime-int8")),
                      (("recipe_2017", "alexnet", "cntk"), slow, timed(lambda: recipes.recipe_2017(
                          spark, self.pictures(slow), str(alexnet.folder), "cntk")))]
        # Whatever they read is there before any clock starts.
        for tiles in (fast, slow, self.size["warm"]):
            self.store(tiles)
        self.pictures(slow)
        return found

    def _ways_of(self, spark, name, model, written):
        """The ways that score one network in several engines."""
        tiles, found = self.size["fast"], []
        for engine, (library, precision) in ENGINES.items():
            # Without AMX bfloat16 was measured to take half as long again as float32.
            if engine not in engines.of(model) or engine == "openvino-bf16" and not has_amx():
                continue
            file = str(model.folder / engines.FILES[engine][0])
            found += [(("ours", name, engine), tiles, lambda engine=engine: self._ours(spark, model, engine)),
                      (("bare_loop", name, engine), tiles, lambda how=(file, library, precision): {
                          "seconds": recipes.bare_loop(self.store(tiles), *how, self.cores, engines.BATCH_TILES)})]
        if self.others:
            file = str(model.folder / INT8)
            found += [((peer, name, "onnxruntime-int8"), tiles, lambda peer=peer: self._other(peer, dict(
                store=self.store(tiles), model=file, written=f"{written}-{peer}", slots=self.cores,
                batch=engines.BATCH_TILES))) for peer in ("daft", "ray_data")]
        return found

    def _ours(self, spark, model, engine):
        """Seconds of a warm job: its workers have loaded the network in a small one before, as the others have."""
        scoring.score(spark, self.store(self.size["warm"]), model, fresh(self.folder / "written"), engine)
        return timed(lambda: scoring.score(spark, self.store(self.size["fast"]), model,
                                           fresh(self.folder / "written"), engine))()

    def _other(self, peer, arguments):
        """Run a program of the other environment; what it says of itself."""
        done = subprocess.run(
            [self.others, HERE / "recipes.py", peer, json.dumps(arguments)], capture_output=True, text=True,
            env=dict(os.environ, PYTHONPATH=str(REPOSITORY), RAY_DEDUP_LOGS="0", DAFT_PROGRESS_BAR="0"))
        if done.returncode:
            raise RuntimeError(f"{peer} failed: {done.stderr[-1500:]}")
        return json.loads(done.stdout.splitlines()[-1])

    def compare(self, spark):
        self.results["runs"] = []
        ways = self.ways(spark)
        for repetition in range(self.size["repetitions"] + 1):
            for (way, network, engine), tiles, run in ways:
                load = os.getloadavg()[0]
                with Memory() as memory:
                    took = run()
                if repetition:  # The first round warms up.
                    took = {key: round(value, 3) for key, value in took.items()}
                    rate = round(tiles / took["seconds"], 2)
                    self.results["runs"].append(dict(
                        took, way=way, network=network, engine=engine, repetition=repetition, tiles=tiles,
                        load_before=round(load, 2), tiles_per_second=rate, **memory.peaks))
                    name = NAMES[way].format(engine).replace("*", "")
                    say(f"{repetition}  {name}, {NETWORKS[network]}: {rate:.1f} tiles/s")
                    self.keep()
        peaks = {}
        for kind, libraries in PEAKS.items():
            for library in libraries:
                answers, _ = recipes.together("peak", self.cores, lambda part: {"kind": kind, "library": library})
                peaks.setdefault(kind, {})[library] = sum(answer["per_second"] for answer in answers)
        macs = {name: multiply_accumulates(self.keras_bundle(name).folder / ONNX) for name in ("resnet50", "mobilenet")}
        self.keep(macs=macs, peaks=peaks)
        self.keep(ratios=ratios(self.results), stages=self.stages(spark))

    def stages(self, spark):
        """Milliseconds of a slot for each tile, by stage, with the default network."""
        model, tiles, uri = self.keras_bundle("mobilenet"), self.size["fast"], fresh(self.folder / "written")
        self._ours(spark, model, scoring.fastest(spark, model))
        spent = table_of.summary(uri)
        return {"engine": spent["engine"], "ms": {stage: round(1e3 * seconds / tiles, 3)
                                                  for stage, seconds in spent["slot_seconds"].items()}}

    def start(self):
        """Seconds from the command to the first file of rows and to the end, for the tiles of a small county."""
        store, model, rows = self.store(self.size["small"]), self.keras_bundle("mobilenet"), []
        for _ in range(self.size["repetitions"]):
            table_uri = fresh(self.folder / "written")
            begun = time.perf_counter()
            job = subprocess.Popen([sys.executable, REPOSITORY / "setup_scripts" / "score_tiles.py", store,
                                    str(model.folder), table_uri], stdout=subprocess.DEVNULL)
            while job.poll() is None and not list(Path(table_uri).rglob("*.parquet")):
                time.sleep(0.02)
            first_s = time.perf_counter() - begun
            if job.wait():
                raise RuntimeError("score_tiles.py failed")
            rows.append({"first_s": round(first_s, 2), "all_s": round(time.perf_counter() - begun, 2)})
        say(f"start: {rows}")
        self.keep(start={"tiles": self.size["small"], "runs": rows})

    def grow(self, spark):
        """The embedded model on more and more tiles: time for each, and memory."""
        model = self.keras_bundle("mobilenet")
        sizes, rows = self.size["growth"], []
        for tiles in sizes:
            self.store(tiles)
        scoring.score(spark, self.store(sizes[0]), model, fresh(self.folder / "written"))
        for repetition in range(1, self.size["repetitions"] + 1):
            for tiles in sizes:
                begun = time.perf_counter()
                with Memory() as memory:
                    scoring.score(spark, self.store(tiles), model, fresh(self.folder / "written"))
                seconds = time.perf_counter() - begun
                rows.append(dict(memory.peaks, repetition=repetition, tiles=tiles, seconds=round(seconds, 3)))
                say(f"{repetition}  {tiles:,} tiles: {tiles / seconds:.0f} tiles/s, {memory.peaks}")
        per_tile = {n: statistics.median(row["seconds"] / n for row in rows if row["tiles"] == n) for n in sizes}
        self.keep(growth={"runs": rows, "seconds_per_tile": {str(n): s for n, s in per_tile.items()},
                          "largest_over_middle": round(per_tile[sizes[2]] / per_tile[sizes[1]], 4),
                          "goal": f"within {GROWTH_GOAL:.0%}"})

    def spread(self):
        """One core and all of them, each in a session of its own, and what the capacity model makes of it."""
        model, store = self.keras_bundle("resnet50"), self.store(self.size["fast"])
        rates = {}
        for cores in sorted({1, self.cores}):
            done = subprocess.run([sys.executable, __file__, "--one-session", str(cores), store, str(model.folder),
                                   str(self.size["repetitions"]), str(self.folder / "written")], capture_output=True,
                                  text=True)
            if done.returncode:
                raise RuntimeError(done.stderr[-1500:])
            times = json.loads(done.stdout.splitlines()[-1])
            rates[cores] = self.size["fast"] / statistics.median(times)
            say(f"{cores} core(s): {rates[cores]:.1f} tiles/s")
        # From one core's rate alone, and no start: the session is warm.
        here = cost.Machine("this machine", self.cores, 0, 1e12)
        expected = 3600 * cost.capacity(self.size["fast"], rates[1], here, efficiency=cost.EFFICIENCY, start_s=0,
                                        storage=1e12)["hours"]
        self.keep(cores={
            "tiles_per_second": {str(n): round(rate, 2) for n, rate in rates.items()}, "goal": CORES_GOAL,
            "efficiency": round(rates[self.cores] / (self.cores * rates[1]), 4),
            "capacity_model_over_measured": round(expected * rates[self.cores] / self.size["fast"], 4)})

    def batches(self):
        """The curve that the engines' batch size is chosen from: milliseconds a tile on one core."""
        tiles, curve = self.sample()[:64], {}
        for name in ("mobilenet", "resnet50"):
            for engine in engines.candidates(self.keras_bundle(name)):
                network = engines.load(self.keras_bundle(name), engine)
                for batch in (1, 2, 4, 8, 16, 32, 64):
                    network.batch_tiles = batch
                    network.score(tiles[:batch])
                    times = []
                    for _ in range(3):
                        begun = time.perf_counter()
                        network.score(tiles)
                        times.append(1e3 * (time.perf_counter() - begun) / len(tiles))
                    curve.setdefault(f"{name} {engine}", {})[str(batch)] = round(statistics.median(times), 3)
        self.keep(batches=curve)

    def codecs(self):
        np.save(self.folder / "codecs.npy", self.sample()[:100])
        done = subprocess.run([self.others or sys.executable, HERE / "recipes.py", "codecs",
                               json.dumps({"tiles": str(self.folder / "codecs.npy")})], capture_output=True, text=True,
                              check=True)
        self.keep(codecs=json.loads(done.stdout.splitlines()[-1]))


def say(text):
    print(text, flush=True)


def timed(run):
    """A function that runs another and gives its seconds."""
    def seconds():
        begun = time.perf_counter()
        run()
        return {"seconds": time.perf_counter() - begun}
    return seconds


# What multiplies matrices, by kind of numbers.
PEAKS = {"int8": ("onnxruntime", "openvino"), "bf16": ("openvino",), "fp32": ("onnxruntime", "openvino", "numpy")}


def has_amx():
    """Whether this processor has Intel's instructions for products of matrices."""
    return Path("/proc/cpuinfo").exists() and "amx_int8" in Path("/proc/cpuinfo").read_text()


def machine():
    import onnxruntime
    import openvino
    import pyspark
    processor = platform.processor() or platform.machine()
    if Path("/proc/cpuinfo").exists():
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        processor = next((line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), processor)
    return {"processor": processor + (" with AMX" if has_amx() else ""), "cores": len(os.sched_getaffinity(0)),
            "load_at_start": os.getloadavg()[0],
            "memory_gb": round(psutil.virtual_memory().total / 1e9, 1), "python": platform.python_version(),
            "spark": pyspark.__version__, "onnxruntime": onnxruntime.__version__,
            "openvino": openvino.__version__.split("-")[0]}


def multiply_accumulates(path):
    """Of one tile through an ONNX network: its convolutions and dense layers."""
    import onnx
    network = onnx.shape_inference.infer_shapes(onnx.load(str(path)))
    weights = {tensor.name: tuple(tensor.dims) for tensor in network.graph.initializer}
    shapes = {value.name: [d.dim_value for d in value.type.tensor_type.shape.dim] for value in network.graph.value_info}
    total = 0
    for node in network.graph.node:
        if node.op_type == "Conv":
            height, width = shapes[node.output[0]][2:]
            total += height * width * int(np.prod(weights[node.input[1]]))
        elif node.op_type in ("Gemm", "MatMul") and node.input[1] in weights:
            total += int(np.prod(weights[node.input[1]]))
    return total


def add_int8_unjudged(folder, tiles):
    """Put an int8 file into a bundle of random weights, which no validation could judge."""
    facts = json.loads((folder / bundle.FACTS).read_text())
    (folder / bundle.FACTS).unlink()
    quantise(folder / ONNX, folder / INT8, tiles[:32])
    judged = {name: {"refused": None} for name in engines.JUDGED}
    for name in engines.JUDGED:  # A processor without bfloat16 says so.
        try:
            engines.start(name, folder / engines.FILES[name][0])
        except InputError as error:
            judged[name]["refused"] = str(error)
    bundle.finish(folder, dict({k: v for k, v in facts.items() if k != "files"}, judged=judged,
                               backbone={"name": "random weights"}))


def make_bundle(name, folder):
    """``keras_bundle`` in its own process."""
    from helpers.model import backbones
    from helpers.model import retrain_tensorflow as retraining
    retraining.start_tensorflow()
    tiles = np.load(folder / "tiles.npy")
    network = backbones.get(name, untrained=name == "resnet50").build()
    head = retraining.new_head(retraining.compute(network, tiles[:96]), 6, seed=0)
    bundle.save_tensorflow(retraining.assemble(retraining.with_head(network, [], head), 224), folder / name, tiles[:8],
                           {"classes": list("abcdef"), "backbone": {"name": name}})
    add_int8_unjudged(folder / name, tiles)


def fresh(folder):
    """The folder of a table, without the table: a tile that has its row would not be scored again."""
    shutil.rmtree(folder, ignore_errors=True)
    return str(folder)


def one_session(cores, store, folder, repetitions, written):
    """Seconds of warm scoring runs of this process and its Java, all on so many cores."""
    # Otherwise Java would do its part on the other core.
    os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:cores])
    spark, model, times = session.start(f"local[{cores}]"), bundle.load(folder), []
    for _ in range(repetitions + 1):
        begun = time.perf_counter()
        scoring.score(spark, store, model, fresh(written + f"-{cores}"), "onnxruntime-int8")
        times.append(time.perf_counter() - begun)
    session.stop(spark)
    print(json.dumps(times[1:]))


def rates(results):
    """Median tiles a second of each way, network and engine; a limit is the best product over the network's own."""
    found = {}
    for run in results["runs"]:
        found.setdefault((run["way"], run["network"], run["engine"]), []).append(run["tiles_per_second"])
    found = {key: statistics.median(values) for key, values in found.items()}
    limits = {("limit", network, kind): max(by_library.values()) / macs for kind, by_library in results["peaks"].items()
              for network, macs in results["macs"].items()}
    return {**found, **limits}


def best(rate, way, network):
    """The engine in which a way is fastest, and its rate."""
    return max(((engine, value) for (one, its, engine), value in rate.items() if (one, its) == (way, network)),
               key=lambda pair: pair[1])


def ratios(results):
    """Our rate over the others', by way and network; only of what was measured.

    ``daft`` and ``ray_data`` are compared in the same engine, all others with our fastest.
    """
    rate, found = rates(results), {}
    for way, network, engine in rate:
        if way == "ours":
            continue
        ours = rate.get(("ours", network, engine)) if way in ("daft", "ray_data") else best(rate, "ours", network)[1]
        theirs = best(rate, way, network)[1] if way == "bare_loop" else rate[way, network, engine]
        key = f"{way}_{engine}" if way in ("recipe_2017", "limit") else way
        found.setdefault(network, {})[key] = round(ours / theirs, 3)
        if way == "daft":
            found[network]["daft_onnxruntime"] = round(best(rate, "ours", network)[1] / theirs, 3)
    return found


def table(machines):
    """The results of processors, by their names, beside each other as a Markdown table."""
    lines = ["| way to score | network | goal |" + "".join(f" {name}: tiles/s | ours is |" for name in machines),
             "|---|---|---|" + "---|---|" * len(machines)]
    found = {name: rates(results) for name, results in machines.items()}
    for network in NETWORKS:
        for way, title in NAMES.items():
            engines_of_way = dict.fromkeys(engine for rate in found.values() for engine in sorted(
                (engine for one, its, engine in rate if (one, its) == (way, network)),
                key=lambda engine: -rate[way, network, engine]))
            for engine in engines_of_way:
                pairs = [_pair(machines[name], rate, way, network, engine) for name, rate in found.items()]
                goals = " or ".join(dict.fromkeys(f"≥ {goal} ×" for *_, goal in pairs if goal))
                cells = "".join(f" {rate} | {ratio} |" for rate, ratio, _ in pairs)
                lines.append(f"| {title.format(engine)} | {NETWORKS[network]} | {goals} |{cells}")
    return "\n".join(lines)


def _pair(results, rate, way, network, engine):
    """The cells of one way on one processor, and its goal."""
    if (way, network, engine) not in rate:
        return "–", "", None
    key = f"{way}_{engine}" if way in ("recipe_2017", "limit") else way
    ratio = results["ratios"][network].get(key)
    if way == "bare_loop" and engine != best(rate, way, network)[0]:
        ratio = None  # The best of them is the one to reach.
    # The other goals are for ResNet-50, the network of 2017.
    has_goal = ratio and (network != "mobilenet" or key in ("bare_loop", "daft", "ray_data"))
    goal = results["goals"].get(key) if has_goal else None
    missed = f", missed by {1 - ratio / goal:.0%}" if goal and ratio < goal else ""
    return f"{rate[way, network, engine]:.1f}", f"{ratio:.2f} ×{missed}" if ratio else "", goal


def other_figures(machines):
    """The other results of processors beside each other, with the goals, as a Markdown table."""
    rows = {}
    for name, results in machines.items():
        for (what, goal), value in _figures(results).items():
            rows.setdefault((what, goal), {})[name] = value
    return "\n".join([f"| measured | goal | {' | '.join(machines)} |", "|---|---|" + "---|" * len(machines)] + [
        f"| {what} | {goal} | {' | '.join(values.get(name, '–') for name in machines)} |"
        for (what, goal), values in rows.items()])


def _figures(results):
    """What else was measured on one processor: texts by what it is and the goal."""
    found, cores = {}, results["machine"]["cores"]
    if results["runs"]:
        rate, spent = rates(results), results["stages"]
        engine, fastest = best(rate, "ours", "mobilenet")
        goals = f"≥ {CORE_GOALS[1]}, with AMX ≥ {CORE_GOALS[0]}"
        found["tiles/s on each core, MobileNet", goals] = f"{fastest / cores:.0f} ({engine})"
        stages = [stage for stage in scoring.STAGES if stage != "load"]
        found[f"milliseconds of a core for a tile, MobileNet: {', '.join(stages)}", ""] = ", ".join(
            f"{spent['ms'][stage]:.2f}" for stage in stages)
        if "daft_onnxruntime" in results["goals"]:
            found["our fastest engine against Daft with ONNX Runtime, ResNet-50",
                  f"≥ {results['goals']['daft_onnxruntime']} ×"] = (
                f"{results['ratios']['resnet50']['daft_onnxruntime']:.2f} ×")
        for network in ("resnet50", "mobilenet"):
            a_second = best(rate, "ours", network)[1] / cores * cost.MACHINES[0].cores
            found[f"tiles for a dollar, {NETWORKS[network]}", ""] = (
                f"{3600 * a_second / cost.MACHINES[0].price / 1e6:.1f} million")
    if "start" in results:
        runs = results["start"]["runs"]
        for key, rows in (("first_s", "the first rows"), ("all_s", "all rows")):
            found[f"seconds from the command to {rows}, {results['start']['tiles']} tiles", ""] = (
                f"{statistics.median(run[key] for run in runs):.1f}")
    if "preparation" in results:
        found["tiles/s that the preparation cuts, all cores", f"≥ {PREPARATION_GOAL}"] = (
            f"{results['preparation']['tiles_per_second']:.0f}")
    if "growth" in results:
        growth, runs = results["growth"], results["growth"]["runs"]
        sizes = sorted({run["tiles"] for run in runs})
        found[f"time for a tile in a job of {sizes[2]:,} tiles, against one of {sizes[1]:,}", growth["goal"]] = (
            f"{growth['largest_over_middle']:.2f} ×")
        found["memory of the driver in these two jobs, MB", ""] = " and ".join(
            f"{max(run['driver_mb'] for run in runs if run['tiles'] == size):.0f}" for size in sizes[:0:-1])
        found["most memory of a worker, MB", f"≤ {WORKER_GOAL_MB}"] = f"{max(run['worker_mb'] for run in runs):.0f}"
    if "cores" in results:
        speeds = " and ".join(f"{rate:.1f}" for rate in results["cores"]["tiles_per_second"].values())
        found["tiles/s on one core and on all, ResNet-50 in onnxruntime-int8", ""] = speeds
        found["speed that a core keeps when all work", f"≥ {CORES_GOAL:.0%}"] = f"{results['cores']['efficiency']:.0%}"
    return found


def draw(results, path):
    """The rates as bars, for ResNet-50."""
    import matplotlib
    matplotlib.use("Agg")
    import matplotlib.pyplot as plt
    from helpers.figures.style import BLUE, ORANGE, PALE_BLUE, style
    plt.rcParams.update(style())
    rate = {(way, engine): value for (way, network, engine), value in rates(results).items() if network == "resnet50"}
    ways = sorted(rate, key=rate.get)
    fig, ax = plt.subplots(figsize=(7, 0.36 * len(ways) + 1))
    ax.barh([NAMES[way].format(engine).replace("*", "") for way, engine in ways], [rate[way] for way in ways],
            color=[{"ours": ORANGE, "limit": PALE_BLUE}.get(way, BLUE) for way, _ in ways])
    for i, way in enumerate(ways):
        ax.text(rate[way], i, f" {rate[way]:.0f}", va="center")
    ax.set_xlabel(f"tiles a second, ResNet-50, {results['machine']['cores']} cores of {short_name(results)}")
    found = results["ratios"]["resnet50"]
    ax.set_title(f"This project is {found['recipe_2017_tensorflow']:.1f} times as fast as the recipe of 2017"
                 + (f",\nand has {found['daft']:.0%} of Daft's speed in the same engine" if "daft" in found else ""))
    fig.savefig(path, dpi=120, bbox_inches="tight")
    plt.close(fig)


def short_name(results):
    return re.sub(r"\((R|TM)\)| Processor", "", results["machine"]["processor"])


def committed():
    """The results of all processors that were measured, by their file's name."""
    return {path.name: json.loads(path.read_text()) for path in sorted(RESULTS.glob("*.json"))}


def write_readme():
    """Bring the README's benchmark up to date, between its two marks."""
    readme = REPOSITORY / "README.md"
    text = readme.read_text()
    before, rest = text.split("<!-- benchmark -->\n")
    after = rest.split("<!-- end of benchmark -->\n")[1]
    readme.write_text(before + in_readme() + after)


def in_readme():
    """What stands between the marks: the figure, and all processors beside each other."""
    found = committed()
    machines = {}
    for file, results in found.items():
        name = short_name(results)
        machines[name if name not in machines else Path(file).stem] = results
    where = "; ".join(
        f"on {results['machine']['cores']} cores of {name}, with ONNX Runtime {results['machine']['onnxruntime']}, "
        f"OpenVINO {results['machine']['openvino']} and Spark {results['machine']['spark']} "
        f"([every run](tests/benchmarks/results/{file}))" for file, (name, results) in zip(found, machines.items()))
    size = cost.MACHINES[0]
    return (
        "<!-- benchmark -->\n![Bars: tiles a second with ResNet-50, for this project, other programs, the recipe of "
        f"2017, and the limits.](notebooks/figures/benchmark.png)\n\n{table(machines)}\n\n{other_figures(machines)}\n\n"
        f"Measured {where}.\n\n"
        f"The price is that of Azure's {size.name}: {size.price} dollars an hour, Linux in East US, from Azure's price "
        "list of 2024. The figures assume that a core there, two vCPUs, is as fast as one here. On a virtual machine a "
        "core may be half a physical one; then a dollar pays for up to twice as many tiles. They leave out the start, "
        f"other nodes and a service's surcharge. [The cluster page]({CLUSTER_PAGE}) includes them for ResNet-50, so "
        "its prices are higher. In the first table all ways take turns in one session. One core and all cores are "
        "measured in sessions of their own.\n"
        "<!-- end of benchmark -->\n")


def main(arguments):
    parser = argparse.ArgumentParser(prog="run.sh", description=__doc__.split("\n")[0])
    parser.add_argument("--quick", action="store_true", help="few tiles: a rehearsal that measures nothing")
    parser.add_argument("--only", nargs="+", choices=PARTS, default=PARTS,
                        help="measure these, and keep what earlier runs on this processor have of the others")
    parser.add_argument("--others", help=argparse.SUPPRESS)
    parser.add_argument("--make-bundle", nargs=2, help=argparse.SUPPRESS)
    parser.add_argument("--one-session", nargs=5, help=argparse.SUPPRESS)
    chosen = parser.parse_args(arguments)
    if chosen.make_bundle:
        return make_bundle(chosen.make_bundle[0], Path(chosen.make_bundle[1]))
    if chosen.one_session:
        cores, store, folder, repetitions, written = chosen.one_session
        return one_session(int(cores), store, folder, int(repetitions), written)
    name = re.sub(r"\W+", "-", machine()["processor"].lower()).strip("-") + ".json"
    out = Run("benchmark").folder / "quick.json" if chosen.quick else RESULTS / name
    one = Benchmark(QUICK if chosen.quick else FULL, chosen.others, out, chosen.quick)
    spark = session.start(f"local[{one.cores}]", "benchmark")
    if "prepare" in chosen.only or not one.has_tiles():
        one.prepare(spark)
    if "compare" in chosen.only:
        one.compare(spark)
    session.stop(spark)
    if "grow" in chosen.only:
        # A session of its own: the workers of the comparison hold other frameworks.
        spark = session.start(f"local[{one.cores}]", "growth")
        one.grow(spark)
        session.stop(spark)
    for part in ("start", "spread", "batches", "codecs"):
        if part in chosen.only:
            getattr(one, part)()
    if one.results["runs"]:
        print("\n" + table({short_name(one.results): one.results}))
        draw(one.results, one.folder / "benchmark.png" if chosen.quick else FIGURE)
        if not chosen.quick:
            write_readme()
    print("\n" + other_figures({short_name(one.results): one.results}))
    print(f"\nEvery run is in {out}.")


if __name__ == "__main__":
    main(sys.argv[1:])

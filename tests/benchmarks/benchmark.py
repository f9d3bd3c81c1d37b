"""What ``run.sh`` runs: the project's engines beside other ways to score, on the same tiles, cores and networks.

Weights don't matter for time, so the networks' are random. Each way is run once to warm up, then all of them in turn,
three times; what counts is the median. Everything goes to one JSON file after every run.
"""

import argparse
import json
import os
import platform
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
from helpers.scoring import cost, score as scoring
from helpers.tiles import prepare as preparation, store as tilestore
from helpers.model.engine_cntk import cntk_environment
from helpers.model.int8 import INT8, ONNX, quantise
from helpers.tiles.pictures import decode, decode_all
from helpers.files import write_json
from helpers.runs import Run

HERE = Path(__file__).resolve().parent
REPOSITORY = HERE.parents[1]
RESULTS = HERE / "results.json"
FIGURE = REPOSITORY / "notebooks" / "figures" / "benchmark.png"
# At least: how often our int8 rate is that of another way, or which share of the limit.
GOALS = {"bare_loop": 0.97, "recipe_2017_tensorflow": 7.5, "recipe_2017_cntk": 8.0, "predict_batch_udf": 4.5,
         "ray_data": 1.1, "limit_int8": 0.75}
PREPARATION_GOAL, GROWTH_GOAL, CORES_GOAL, WORKER_GOAL_MB = 250, 0.05, 0.95, 1200
NAMES = {"ours_int8": "this project, int8", "ours_float32": "this project, float32", "bare_loop": "bare loop, int8",
         "recipe_2017_tensorflow": "2017 recipe, TensorFlow", "predict_batch_udf": "predict_batch_udf, TensorFlow",
         "ray_data": "Ray Data, int8", "ours_alexnet_int8": "this project, int8",
         "recipe_2017_cntk": "2017 recipe, CNTK", "limit_int8": "limit, int8", "limit_fp32": "limit, float32"}
# Tiles of a row group, as a county has them.
UNIT_TILES = 1024
PARTS = ("prepare", "compare", "grow", "spread", "batches", "codecs")
# Tiles for the fast ways and for the slow ones, of growth, repetitions, and counties to prepare.
FULL = {"fast": 5000, "float32": 1500, "slow": 600, "growth": (1000, 10000, 65563), "repetitions": 3,
        "jobs": [(county, year) for county in ("99001", "99003", "99007") for year in (2010, 2016)]}
QUICK = {"fast": 96, "float32": 64, "slow": 24, "growth": (64, 128, 192), "repetitions": 1, "jobs": [("99005", 2010)]}


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
        while not self._done.wait(0.2):
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
        self.results = {"quick": quick, "complete": False, "machine": machine(), "goals": GOALS, "runs": [],
                        "ratios": {}}

    def go_on(self):
        """Take over what an earlier run on the same machine has measured."""
        earlier = json.loads(self.out.read_text()) if self.out.exists() else {"machine": None}
        if not earlier["machine"] or earlier["machine"]["processor"] != self.results["machine"]["processor"]:
            raise InputError(f"expected {self.out.name} of this machine, to measure a part of it again, got none. "
                             "Measure everything, without --only.")
        self.results = dict(earlier, complete=False)

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
            for batch in base.to_batches(batch_size=UNIT_TILES):
                batch = pa.Table.from_batches([batch.slice(0, left)])
                if len(batch):
                    # Numbered, so that no two are the same and they lie in the order of their names, as in a county.
                    names = [f"{tiles - left + i:06d}-{tile_id}" for i, tile_id in enumerate(
                        batch["tile_id"].to_pylist())]
                    batch = batch.set_column(batch.schema.get_field_index("tile_id"), "tile_id", pa.array(names))
                    pq.write_table(batch, folder / f"part-{tiles - left:06d}.parquet", row_group_size=UNIT_TILES)
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
        """Each way to score: name, tiles, and a function that runs it and gives seconds."""
        fast, slow = self.size["fast"], self.size["slow"]
        resnet, alexnet = self.keras_bundle("resnet50"), self.cntk_bundle()
        written = str(self.folder / "written")

        def timed(run):
            begun = time.perf_counter()
            run()
            return {"seconds": time.perf_counter() - begun}

        def ours(model, tiles, engine):
            return lambda: timed(lambda: scoring.score(spark, self.store(tiles), model, fresh(written), engine))

        def bare():
            _, seconds = recipes.bare_loop(self.store(fast), str(resnet.folder / INT8), self.cores,
                                           engines.BATCH_TILES)
            return {"seconds": seconds}

        def ray():
            done = subprocess.run(
                [self.others, HERE / "recipes.py", "ray_data", json.dumps(dict(
                    store=self.store(fast), model=str(resnet.folder / INT8), written=written + "-ray",
                    slots=self.cores, batch=engines.BATCH_TILES))], capture_output=True, text=True,
                # Ray takes a large part of the memory for itself unless told.
                env=dict(os.environ, PYTHONPATH=str(REPOSITORY), RAY_DEDUP_LOGS="0"))
            if done.returncode:
                raise RuntimeError("Ray Data failed: " + done.stderr[-1500:])
            return json.loads(done.stdout.splitlines()[-1])

        ways = [("ours_int8", fast, ours(resnet, fast, "onnxruntime-int8")), ("bare_loop", fast, bare),
                ("ours_float32", self.size["float32"], ours(resnet, self.size["float32"], "onnxruntime")),
                ("recipe_2017_tensorflow", slow, lambda: timed(lambda: recipes.recipe_2017(
                    spark, self.pictures(slow), str(resnet.folder), "tensorflow"))),
                ("predict_batch_udf", slow, lambda: timed(lambda: recipes.predict_batch_udf(
                    spark, self.store(slow), str(resnet.folder), written)))]
        if self.others:
            ways.append(("ray_data", fast, ray))
        if alexnet is not None:
            ways += [("ours_alexnet_int8", fast, ours(alexnet, fast, "onnxruntime-int8")),
                     ("recipe_2017_cntk", slow, lambda: timed(lambda: recipes.recipe_2017(
                         spark, self.pictures(slow), str(alexnet.folder), "cntk")))]
        # Whatever they read is there before any clock starts.
        for tiles in {fast, slow, self.size["float32"]}:
            self.store(tiles)
        self.pictures(slow)
        return ways, resnet

    def compare(self, spark):
        self.results["runs"] = []
        ways, resnet = self.ways(spark)
        for repetition in range(self.size["repetitions"] + 1):
            for name, tiles, run in ways:
                load = os.getloadavg()[0]
                with Memory() as memory:
                    took = run()
                if repetition:  # The first round warms up.
                    took = {key: round(value, 3) for key, value in took.items()}
                    self.results["runs"].append(dict(
                        took, way=name, repetition=repetition, tiles=tiles, load_before=round(load, 2),
                        tiles_per_second=round(tiles / took["seconds"], 2), **memory.peaks))
                    say(f"{repetition}  {NAMES[name]}: {tiles / took['seconds']:.1f} tiles/s")
                    self.keep()
        macs = multiply_accumulates(resnet.folder / ONNX)
        peaks = {}
        for kind in ("int8", "fp32"):
            answers, _ = recipes.together("peak", self.cores, lambda part: {"kind": kind})
            peaks[kind] = sum(answer["per_second"] for answer in answers)
        self.keep(macs=macs, peaks=peaks, limits={kind: round(value / macs, 2) for kind, value in peaks.items()})
        self.keep(ratios=ratios(self.results))

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
        expected = cost.capacity(self.size["fast"], rates[1], here, start_s=0, storage=1e12)["hours"] * 3600
        self.keep(cores={
            "tiles_per_second": {str(n): round(rate, 2) for n, rate in rates.items()}, "goal": CORES_GOAL,
            "efficiency": round(rates[self.cores] / (self.cores * rates[1]), 4),
            "capacity_model_over_measured": round(expected * rates[self.cores] / self.size["fast"], 4)})

    def batches(self):
        """The curve that the engines' batch size is chosen from: milliseconds a tile on one core."""
        tiles, curve = self.sample()[:64], {}
        for name in ("mobilenet", "resnet50"):
            for engine in ("onnxruntime-int8", "onnxruntime"):
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


def machine():
    import onnxruntime
    import pyspark
    processor = platform.processor() or platform.machine()
    if Path("/proc/cpuinfo").exists():
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        processor = next((line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), processor)
    return {"processor": processor, "cores": len(os.sched_getaffinity(0)), "load_at_start": os.getloadavg()[0],
            "memory_gb": round(psutil.virtual_memory().total / 1e9, 1), "python": platform.python_version(),
            "spark": pyspark.__version__, "onnxruntime": onnxruntime.__version__,
            # A GPU would be named here, and onnxruntime would use it.
            "providers": onnxruntime.get_available_providers()}


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
    bundle.finish(folder, dict({k: v for k, v in facts.items() if k != "files"}, backbone={"name": "random weights"}))


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
    """Median tiles a second of each way."""
    found = {}
    for run in results["runs"]:
        found.setdefault(run["way"], []).append(run["tiles_per_second"])
    return {way: statistics.median(values) for way, values in found.items()}


def ratios(results):
    """Our rate over the others', and over the limits; only of what was measured."""
    rate, limits = rates(results), results["limits"]
    pairs = {"bare_loop": "ours_int8", "recipe_2017_tensorflow": "ours_int8", "predict_batch_udf": "ours_int8",
             "ray_data": "ours_int8", "recipe_2017_cntk": "ours_alexnet_int8"}
    found = {way: rate[ours] / rate[way] for way, ours in pairs.items() if way in rate}
    found.update(limit_int8=rate["ours_int8"] / limits["int8"], limit_fp32=rate["ours_float32"] / limits["fp32"])
    return {name: round(value, 3) for name, value in found.items()}


def table(results):
    """The results as a Markdown table, with the goals beside."""
    rate = dict(rates(results), limit_int8=results["limits"]["int8"], limit_fp32=results["limits"]["fp32"])
    lines = ["| way to score | network | tiles/s | ours is | goal | |", "|---|---|---|---|---|---|"]
    for way, name in NAMES.items():
        if way not in rate:
            continue
        network = "AlexNet" if "alexnet" in way or "cntk" in way else "ResNet-50"
        ratio, goal = results["ratios"].get(way), results["goals"].get(way)
        verdict = "" if ratio is None or goal is None else (
            "reached" if ratio >= goal else f"missed by {1 - ratio / goal:.0%}")
        lines.append(f"| {name} | {network} | {rate[way]:.1f} | {'' if ratio is None else f'{ratio:.2f} ×'} | "
                     f"{'' if goal is None else f'≥ {goal} ×'} | {verdict} |")
    return "\n".join(lines)


def others_in_words(results):
    """What else was measured, a line each, with the goals."""
    lines = []
    if "preparation" in results:
        lines.append(f"- Preparation: {results['preparation']['tiles_per_second']:.0f} tiles/s (goal: "
                     f"{PREPARATION_GOAL}).")
    if "growth" in results:
        growth, rows = results["growth"], results["growth"]["runs"]
        sizes = sorted({row["tiles"] for row in rows})

        def peak(kind, tiles):
            return max(row[kind] for row in rows if row["tiles"] == tiles)
        lines.append(
            f"- Growth: a tile of {sizes[2]:,} takes {growth['largest_over_middle']:.3f} times as long as one of "
            f"{sizes[1]:,} (goal: {growth['goal']}); the driver takes {peak('driver_mb', sizes[1]):.0f} MB and "
            f"{peak('driver_mb', sizes[2]):.0f} MB, a worker at most "
            f"{max(row['worker_mb'] for row in rows):.0f} MB (goal: {WORKER_GOAL_MB}).")
    if "cores" in results:
        cores = results["cores"]
        lines.append("- Cores: "
                     f"{', '.join(f'{rate:.1f} tiles/s on {n}' for n, rate in cores['tiles_per_second'].items())}"
                     f", efficiency {cores['efficiency']:.2f} (goal: {CORES_GOAL}).")
    return "\n".join(lines)


def draw(results, path):
    """The rates as bars."""
    import matplotlib
    matplotlib.use("Agg")
    import matplotlib.pyplot as plt
    from helpers.figures.style import BLUE, ORANGE, style
    plt.rcParams.update(style())
    rate = dict(rates(results), limit_int8=results["limits"]["int8"])
    ways = sorted((way for way in rate if "alexnet" not in way and "cntk" not in way), key=rate.get)
    fig, ax = plt.subplots(figsize=(7, 0.42 * len(ways) + 1))
    ax.barh([NAMES[way] for way in ways], [rate[way] for way in ways],
            color=[ORANGE if way.startswith("ours") else BLUE for way in ways])
    for i, way in enumerate(ways):
        ax.text(rate[way], i, f" {rate[way]:.0f}", va="center")
    ax.set_xlabel(f"tiles a second, ResNet-50, {results['machine']['cores']} cores")
    ax.set_title(f"int8 on Spark scores {results['ratios']['recipe_2017_tensorflow']:.1f} times as fast as the recipe "
                 "of 2017")
    fig.savefig(path, dpi=120, bbox_inches="tight")


def write_readme(results):
    """Bring the README's benchmark up to date, between its two marks."""
    readme = REPOSITORY / "README.md"
    text = readme.read_text()
    before, rest = text.split("<!-- benchmark -->\n")
    after = rest.split("<!-- end of benchmark -->\n")[1]
    readme.write_text(before + in_readme(results) + after)


def in_readme(results):
    """What stands between the marks: the figure, the table, and where it was measured."""
    machine, rate = results["machine"], rates(results)
    return (f"<!-- benchmark -->\n![Bars of tiles a second for each way to score: {rate['ours_int8']:.0f} for this "
            f"project in int8, {rate['bare_loop']:.0f} for a bare loop, {rate['recipe_2017_tensorflow']:.0f} for the "
            f"recipe of 2017; the limit is {results['limits']['int8']:.0f}.](notebooks/figures/benchmark.png)\n\n"
            f"{table(results)}\n\n{others_in_words(results)}\n\nMeasured on {machine['cores']} cores of "
            f"{machine['processor']}, ONNX Runtime {machine['onnxruntime']} ({', '.join(machine['providers'])}), Spark "
            f"{machine['spark']}; every run is in [results.json](tests/benchmarks/results.json).\n"
            "<!-- end of benchmark -->\n")


def main(arguments):
    parser = argparse.ArgumentParser(prog="run.sh", description=__doc__.split("\n")[0])
    parser.add_argument("--quick", action="store_true", help="few tiles: a rehearsal that measures nothing")
    parser.add_argument("--only", nargs="+", choices=PARTS, default=PARTS,
                        help="measure these again, and keep what results.json has of the others")
    parser.add_argument("--others", help=argparse.SUPPRESS)
    parser.add_argument("--make-bundle", nargs=2, help=argparse.SUPPRESS)
    parser.add_argument("--one-session", nargs=5, help=argparse.SUPPRESS)
    chosen = parser.parse_args(arguments)
    if chosen.make_bundle:
        return make_bundle(chosen.make_bundle[0], Path(chosen.make_bundle[1]))
    if chosen.one_session:
        cores, store, folder, repetitions, written = chosen.one_session
        return one_session(int(cores), store, folder, int(repetitions), written)
    out = Run("benchmark").folder / "quick.json" if chosen.quick else RESULTS
    one = Benchmark(QUICK if chosen.quick else FULL, chosen.others, out, chosen.quick)
    if tuple(chosen.only) != PARTS:
        one.go_on()
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
    for part in ("spread", "batches", "codecs"):
        if part in chosen.only:
            getattr(one, part)()
    one.keep(complete=True)
    print("\n" + table(one.results) + "\n\n" + others_in_words(one.results))
    if chosen.quick:
        draw(one.results, one.folder / "benchmark.png")
    else:
        draw(one.results, FIGURE)
        write_readme(one.results)
    print(f"\nEvery run is in {out}.")


if __name__ == "__main__":
    main(sys.argv[1:])

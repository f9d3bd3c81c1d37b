"""The ways to score that are compared: each scores the tiles of a store once and says how long that took.

The first two run in the benchmark's own Spark session. The others are programs, run as
``python recipes.py <name> <arguments as JSON>``, which print one line of JSON.
"""

import io
import json
import subprocess
import sys
import time
from pathlib import Path

import numpy as np


# ---- in Spark

_kept = {}


def recipe_2017(spark, pictures, folder, engine):
    """The recipe of 2017: picture files into an RDD, one picture an evaluation, everything collected.

    The network stays in the worker between jobs, which is kinder than the original.

    Parameters
    ----------
    pictures : str
        Folder of PNG files.
    folder : str
        The model bundle.
    engine : str
        ``"tensorflow"`` or ``"cntk"``.
    """
    def run(files):
        from PIL import Image
        from helpers.model import bundle, engines
        if (folder, engine) not in _kept:
            _kept[folder, engine] = engines.load(bundle.load(folder), engine)
        network = _kept[folder, engine]
        for name, content in files:
            tile = np.asarray(Image.open(io.BytesIO(content)).convert("RGB"))
            yield name, int(network.score(tile[None]).argmax())

    slots = spark.sparkContext.defaultParallelism
    return len(spark.sparkContext.binaryFiles(pictures, slots * 4).mapPartitions(run).collect())


def predict_batch_udf(spark, store, folder, written):
    """Spark's own way for batches, with TensorFlow; pictures are decoded inside, in batches of 64."""
    from pyspark.ml.functions import predict_batch_udf as udf
    from pyspark.sql.types import ArrayType, FloatType

    def make_predict():
        from helpers.model import bundle, engines
        from helpers.tiles.pictures import decode
        if folder not in _kept:
            _kept[folder] = engines.load(bundle.load(folder), "tensorflow")
        network = _kept[folder]

        def predict(images):
            return network.score(np.stack([decode(bytes(image)) for image in images]))
        return predict

    score = udf(make_predict, return_type=ArrayType(FloatType()), batch_size=64)
    frame = spark.read.parquet(store)
    frame.select("tile_id", score("image").alias("probabilities")).write.mode("overwrite").parquet(written)
    return spark.read.parquet(written).count()


# ---- programs

def files_of(store):
    return sorted(str(path) for path in Path(store).rglob("*.parquet"))


def network_of(model, library="onnxruntime", precision="f32"):
    """A function from pixels to probabilities: an ONNX file in a library, on one core."""
    if library == "openvino":
        import openvino
        core = openvino.Core()
        request = core.compile_model(core.read_model(model), "CPU", {
            "INFERENCE_PRECISION_HINT": precision, "INFERENCE_NUM_THREADS": 1, "NUM_STREAMS": 1,
            "ENABLE_CPU_PINNING": False}).create_infer_request()
        return lambda pixels: request.infer({"tiles": pixels}, share_inputs=True)["probabilities"].copy()
    import onnxruntime
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
    return lambda pixels: session.run(["probabilities"], {"tiles": pixels})[0]


def decoded(image):
    from PIL import Image
    with Image.open(io.BytesIO(image)) as picture:
        return np.asarray(picture)


def bare(store, model, library, precision, part, parts, batch):
    """One process of the bare loop: every ``parts``-th piece of the files, no Spark, nothing written."""
    import pyarrow.parquet as pq
    network = network_of(model, library, precision)
    pieces = [(path, group) for path in files_of(store) for group in range(pq.ParquetFile(path).num_row_groups)]
    network(np.zeros((batch, 224, 224, 3), np.uint8))
    print("ready", flush=True)
    sys.stdin.readline()
    tiles = 0
    for path, group in pieces[part::parts]:
        images = pq.ParquetFile(path).read_row_group(group, columns=["image"])["image"].to_pylist()
        for start in range(0, len(images), batch):
            network(np.stack([decoded(image) for image in images[start:start + batch]]))
        tiles += len(images)
    print(json.dumps({"tiles": tiles}))


def bare_loop(store, model, library, precision, processes, batch):
    """The bare loop on several cores: seconds from the moment when all have loaded to the end of the last."""
    return together("bare", processes, lambda part: dict(
        store=store, model=model, library=library, precision=precision, part=part, parts=processes, batch=batch))[1]


def together(name, processes, arguments):
    """Start programs that print ``ready`` and wait for a line; let them go at once; what they answered, and seconds."""
    started = [subprocess.Popen([sys.executable, __file__, name, json.dumps(arguments(part))], text=True,
                                stdin=subprocess.PIPE, stdout=subprocess.PIPE) for part in range(processes)]
    for process in started:
        if process.stdout.readline() != "ready\n":
            raise RuntimeError("{} did not start".format(name))
    begun = time.perf_counter()
    for process in started:
        process.stdin.write("go\n")
        process.stdin.flush()
    answers = [json.loads(process.communicate()[0]) for process in started]
    return answers, time.perf_counter() - begun


# Rows, inner size and columns of products like those inside ResNet-50, and of two larger ones; the best is the peak.
SHAPES = ((256, 1024, 256), (512, 1024, 512), (784, 512, 512), (196, 2304, 256), (1024, 1024, 1024), (2048, 1024, 1024))


def product(kind, rows, inner, columns, plain):
    """The ONNX network of one matrix product with constant weights, and what goes in.

    In int8, numbers become int8 before it and float32 after it, as in a network; ``plain`` is the product alone.
    """
    from onnx import TensorProto, helper, numpy_helper
    rng, value = np.random.default_rng(0), helper.make_tensor_value_info
    if kind != "int8":
        weights, given = (rng.normal(0, 1, shape).astype(np.float32) for shape in ((inner, columns), (rows, inner)))
        nodes, constants = [helper.make_node("MatMul", ["a", "b"], ["y"])], {"b": weights}
    else:
        given = rng.integers(0, 255, (rows, inner)).astype(np.uint8)
        constants = {"b": rng.integers(-60, 60, (inner, columns)).astype(np.int8)}
        constants.update({} if plain else {"scale": np.float32(0.01), "zero": np.uint8(0), "zero_b": np.int8(0)})
        nodes = [helper.make_node("MatMulInteger", ["a", "b"], ["y"])] if plain else [
            helper.make_node("DequantizeLinear", ["a", "scale", "zero"], ["fa"]),
            helper.make_node("DequantizeLinear", ["b", "scale", "zero_b"], ["fb"]),
            helper.make_node("MatMul", ["fa", "fb"], ["y"])]
    kinds = {np.dtype("uint8"): TensorProto.UINT8, np.dtype("float32"): TensorProto.FLOAT}
    graph = helper.make_graph(
        nodes, "product", [value("a", kinds[given.dtype], given.shape)],
        [value("y", TensorProto.INT32 if plain and kind == "int8" else TensorProto.FLOAT, (rows, columns))],
        [numpy_helper.from_array(np.asarray(array), name) for name, array in constants.items()])
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8), given


def multiply(kind, library, shape):
    """A function that computes one matrix product on one core."""
    network, given = product(kind, *shape, plain=library == "onnxruntime")
    if library == "numpy":
        from onnx import numpy_helper
        weights = numpy_helper.to_array(network.graph.initializer[0])
        return lambda: given @ weights
    if library == "openvino":
        import openvino
        core = openvino.Core()
        request = core.compile_model(core.read_model(network.SerializeToString()), "CPU", {
            "INFERENCE_PRECISION_HINT": "bf16" if kind == "bf16" else "f32", "INFERENCE_NUM_THREADS": 1,
            "NUM_STREAMS": 1, "ENABLE_CPU_PINNING": False}).create_infer_request()
        request.infer({"a": given})
        return request.infer  # What went in is still there.
    import onnxruntime
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(network.SerializeToString(), options, providers=["CPUExecutionProvider"])
    return lambda: session.run(None, {"a": given})


def peak(kind, library, seconds=3.0):
    """The highest rate of multiply-accumulates a second of a library's matrix product, beside its neighbours."""
    runs = [(multiply(kind, library, shape), int(np.prod(shape))) for shape in SHAPES]
    print("ready", flush=True)
    sys.stdin.readline()
    best, end = 0.0, time.perf_counter() + seconds
    while time.perf_counter() < end:
        for run, products in runs:
            begun = time.perf_counter()
            # Ten at a time: the call itself takes some microseconds.
            for _ in range(10):
                run()
            best = max(best, 10 * products / (time.perf_counter() - begun))
    print(json.dumps({"per_second": best}))


def daft(store, model, written, slots, batch):
    """Daft with the same ONNX file, its own image decoder and a class UDF: seconds of a warm run, and of its start."""
    import shutil
    import daft as library
    from daft import DataType, col
    from daft.functions import decode_image

    @library.cls(max_concurrency=slots)
    class Score:
        def __init__(self):
            self._network = network_of(model)

        @library.method.batch(return_dtype=DataType.list(DataType.float32()), batch_size=64)
        def score(self, images):
            pixels = np.stack(images.to_pylist())
            return list(np.concatenate([self._network(pixels[start:start + batch])
                                        for start in range(0, len(pixels), batch)]))

    def run(paths):
        shutil.rmtree(written, ignore_errors=True)
        begun = time.perf_counter()
        frame = library.read_parquet(paths).select("tile_id", "image")
        frame.select("tile_id", Score().score(decode_image(col("image"))).alias("probabilities")).write_parquet(written)
        return time.perf_counter() - begun

    start_s = run(files_of(store)[:1])
    print(json.dumps({"seconds": run(files_of(store)), "start_s": start_s}))


def ray_data(store, model, written, slots, batch):
    """Ray Data with the same ONNX file: seconds of a warm run, and of its start."""
    import shutil
    import tempfile
    import ray

    class Score:
        def __init__(self):
            self._network = network_of(model)

        def __call__(self, rows):
            probabilities = [self._network(np.stack([decoded(image) for image in rows["image"][start:start + batch]]))
                             for start in range(0, len(rows["image"]), batch)]
            return {"tile_id": rows["tile_id"], "probabilities": np.concatenate(probabilities)}

    def run(paths):
        shutil.rmtree(written, ignore_errors=True)
        frame = ray.data.read_parquet(paths, columns=["tile_id", "image"])
        frame.map_batches(Score, batch_size=64, concurrency=slots, num_cpus=1).write_parquet(written)

    begun = time.perf_counter()
    # Its sockets' names must be short.
    with tempfile.TemporaryDirectory(prefix="ray-") as folder:
        # One logical core more than there are: with all of them held by the networks, nothing could be read or written.
        ray.init(num_cpus=slots + 1, include_dashboard=False, log_to_driver=False, _temp_dir=folder,
                 configure_logging=True, logging_level="error")
        ray.data.DataContext.get_current().enable_progress_bars = False
        run(files_of(store)[:1])
        start_s = time.perf_counter() - begun
        begun = time.perf_counter()
        run(files_of(store))
        seconds = time.perf_counter() - begun
        ray.shutdown()
    print(json.dumps({"seconds": seconds, "start_s": start_s}))


def codecs(tiles):
    """Lossless formats on tiles in a NumPy file: bytes, and milliseconds to encode and to decode one."""
    from PIL import Image
    arrays = np.load(tiles)

    def pillow(kind, **options):
        def encode(tile):
            buffer = io.BytesIO()
            Image.fromarray(tile).save(buffer, kind, **options)
            return buffer.getvalue()
        return encode, decoded

    ways = {"png level 1, Pillow": pillow("png", compress_level=1),
            "png level 6, Pillow": pillow("png", compress_level=6),
            "webp lossless, Pillow": pillow("webp", lossless=True, quality=0, method=0),
            "tiff lzw, Pillow": pillow("tiff", compression="tiff_lzw", tiffinfo={317: 2}),
            "tiff deflate, Pillow": pillow("tiff", compression="tiff_adobe_deflate", tiffinfo={317: 2}),
            "pixels as they are (ppm), Pillow": pillow("ppm")}
    try:
        import imagecodecs
        ways["png level 1, imagecodecs"] = (lambda t: imagecodecs.png_encode(t, level=1)), imagecodecs.png_decode
        ways["webp lossless, Pillow to imagecodecs"] = ways["webp lossless, Pillow"][0], imagecodecs.webp_decode
    except ImportError:
        pass
    rows = {}
    for name, (encode, decode) in ways.items():
        times = []
        for _ in range(3):
            begun = time.process_time()
            images = [encode(tile) for tile in arrays]
            middle = time.process_time()
            back = [decode(image) for image in images]
            times.append((middle - begun, time.process_time() - middle))
        if not all((a == b).all() for a, b in zip(arrays, back)):
            raise RuntimeError(name + " is not lossless")
        encode_s, decode_s = np.median(times, axis=0)
        rows[name] = {"bytes": float(np.mean([len(image) for image in images])),
                      "encode_ms": 1e3 * encode_s / len(arrays), "decode_ms": 1e3 * decode_s / len(arrays)}
    print(json.dumps(rows))


if __name__ == "__main__":
    programs = {"bare": bare, "peak": peak, "daft": daft, "ray_data": ray_data, "codecs": codecs}
    programs[sys.argv[1]](**json.loads(sys.argv[2]))

"""Engines: programs that score a batch of tiles with the network of a model bundle.

Every engine has a ``name`` and ``score(tiles)``, from uint8 (N, height, width, 3) RGB tiles to float32 (N, n_classes)
probabilities. Its ``threads`` are limited, because a Spark slot has one core: a library that takes all cores slows its
neighbours.
"""

import time
from importlib.util import find_spec

import numpy as np

from helpers import InputError
from helpers.model.engine_cntk import CntkProcess

# Tiles that pass through a network at once. On one core no batch of four or more is measurably faster than another, and
# memory grows with each tile.
BATCH_TILES = 8
GPU_BATCH_TILES = 64


class Engine:
    """A network in a library: ``compute`` gives probabilities of tiles of ``input_px``, ``batch_tiles`` at a time."""

    def __init__(self, name, input_px, compute, batch_tiles=BATCH_TILES):
        self.name, self.input_px, self.batch_tiles = name, tuple(input_px), batch_tiles
        self._compute = compute

    def score(self, tiles: np.ndarray) -> np.ndarray:
        if tiles.dtype != np.uint8 or tiles.shape[1:] != self.input_px + (3,):
            height, width = self.input_px
            raise InputError(f"expected tiles of {height} × {width} px with 3 bands, uint8, got {tiles.shape} "
                             f"{tiles.dtype}. Keep R, G, B and resize them.")
        return np.concatenate([self._compute(tiles[start:start + self.batch_tiles])
                               for start in range(0, max(1, len(tiles)), self.batch_tiles)])


def onnx_session(network, threads: int, providers=("CPUExecutionProvider",)):
    """An ``onnxruntime.InferenceSession`` of an ONNX network, a path or bytes."""
    import onnxruntime
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.log_severity_level = 3
    # Waiting threads that spin take cores from other programs: beside one of them, two threads are a fifth slower.
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    return onnxruntime.InferenceSession(network, options, providers=list(providers))


def _onnxruntime(name, path, threads):
    """ONNX Runtime on the CPU, or on a GPU where it finds one (its CUDA provider)."""
    # The CUDA provider computes int8 networks in float32, with the conversions on top.
    on_gpu = name == "onnxruntime" and has_cuda()
    session = onnx_session(str(path), threads, ["CUDAExecutionProvider"] * on_gpu + ["CPUExecutionProvider"])
    network = Engine(name, session.get_inputs()[0].shape[1:3],
                     lambda batch: session.run(["probabilities"], {"tiles": batch})[0])
    if session.get_providers()[0] == "CUDAExecutionProvider":
        network.name, network.batch_tiles = name + "-cuda", GPU_BATCH_TILES
    return network


def has_cuda() -> bool:
    """Whether ONNX Runtime can compute on a GPU here."""
    import onnxruntime
    return "CUDAExecutionProvider" in onnxruntime.get_available_providers()


def _openvino(name, path, threads):
    """OpenVINO on Intel's and AMD's processors. bfloat16 is float32 with a third of its digits."""
    try:
        import openvino
    except (ImportError, OSError) as error:  # Not installed, or built for a newer system than this one.
        raise InputError(f"expected OpenVINO in the Python that scores, got {error}. Install it there, or choose "
                         "the engine onnxruntime, which runs the same bundle.") from error
    core = openvino.Core()
    network = core.read_model(str(path))
    precision = "bf16" if name == "openvino-bf16" else "f32"
    # Compiling takes a quarter of a second, so a cache of compiled networks would gain nothing.
    compiled = core.compile_model(network, "CPU", {
        "INFERENCE_PRECISION_HINT": precision, "INFERENCE_NUM_THREADS": threads, "NUM_STREAMS": 1,
        "ENABLE_CPU_PINNING": False})
    came = compiled.get_property("INFERENCE_PRECISION_HINT").to_string()
    if came != precision:
        raise InputError(f"expected a processor that computes {precision} for the engine {name}, got one that computes "
                         f"{came}. Choose the engine openvino.")
    shape, request = network.input("tiles").partial_shape, compiled.create_infer_request()

    def compute(batch):
        found = request.infer({"tiles": np.ascontiguousarray(batch)}, share_inputs=True)
        return found["probabilities"].copy()  # The next batch takes the same memory.
    return Engine(name, (shape[1].get_length(), shape[2].get_length()), compute)


def _tensorflow(name, path, threads):
    """TensorFlow on the CPU, or on a GPU where it finds one; Keras's safe mode runs no code from the file."""
    if find_spec("tensorflow") is None:
        raise InputError("expected TensorFlow in the Python that scores, got none. Install it there, or choose the "
                         "engine onnxruntime, which runs the same bundle.")
    from helpers.model.retrain_tensorflow import start_tensorflow
    start_tensorflow(threads)
    import tensorflow as tf
    import keras
    model = keras.saving.load_model(str(path), compile=False, safe_mode=True)
    score = tf.function(lambda tiles: model(tiles, training=False), reduce_retracing=True)
    return Engine(name, model.input_shape[1:3], lambda batch: score(batch).numpy(), GPU_BATCH_TILES)


def _cntk(name, path, threads):
    """CNTK on the CPU, in a process of its own Python."""
    process = CntkProcess(path, threads)
    return Engine(name, process.input_px, process.compute)


# The network as ONNX, float32 and int8.
ONNX, INT8 = "model.onnx", "model.int8.onnx"
# For each engine, the file of a bundle that it reads, and the function that loads it.
FILES = {"onnxruntime-int8": (INT8, _onnxruntime), "onnxruntime": (ONNX, _onnxruntime),
         "openvino-int8": (INT8, _openvino), "openvino-bf16": (ONNX, _openvino), "openvino": (ONNX, _openvino),
         "tensorflow": ("model.keras", _tensorflow), "cntk": ("model.model", _cntk)}
# Engines that a bundle allows only if their predictions were good enough when it was written (``judging``).
JUDGED = ("onnxruntime-int8", "openvino-int8", "openvino-bf16", "openvino")


def start(engine: str, path, threads: int = 1):
    """An engine of ``FILES`` with the network in a file."""
    return FILES[engine][1](engine, path, threads)


def of(bundle) -> list:
    """Names of the engines that a bundle allows."""
    return [name for name in FILES if _refusal(bundle, name) is None]


def _refusal(bundle, engine):
    """The sentence that refuses an engine, or None if the bundle allows it."""
    file, judged = FILES[engine][0], bundle.facts.get("judged", {}).get(engine)
    expected = f"expected a bundle that allows the engine {engine}, got {bundle.folder},"
    if engine in JUDGED and judged and judged["refused"] is not None:
        return f"{expected} which refuses it: {judged['refused']} Or choose the engine onnxruntime."
    if file not in bundle.facts["files"]:
        return (f"expected {file} in the bundle {bundle.folder} for the engine {engine}, got "
                f"{', '.join(sorted(bundle.facts['files']))}. Choose an engine whose file it has.")
    if engine in JUDGED and not judged:
        return (f"{expected} one in which it was never compared with float32. Write the bundle again with validation "
                "tiles, or choose the engine onnxruntime.")
    return None


def candidates(bundle) -> list:
    """The engines of a bundle that may be the fastest on some processor; on a GPU only ONNX Runtime is.

    The frameworks' own are slower, and CNTK needs a Python of its own.
    """
    return ["onnxruntime"] if has_cuda() else [name for name in of(bundle) if name in ("onnxruntime", *JUDGED)]


def seconds(network) -> float:
    """Seconds of a core that a loaded engine takes for a tile: the better of two batches, after one that warms up.

    Processor time does not grow when other programs keep the machine busy; the clock's time does.
    """
    tiles, took = np.random.default_rng(0).integers(0, 256, (BATCH_TILES, *network.input_px, 3), np.uint8), []
    for _ in range(3):
        started = time.process_time()
        network.score(tiles)
        took.append((time.process_time() - started) / BATCH_TILES)
    return min(took[1:])


def said(error: Exception) -> str:
    """The message of a library's error, on one line and not too long."""
    return " ".join(str(error).split())[:300].rstrip(".")


def load(bundle, engine: str = "onnxruntime", threads: int = 1):
    """Load a bundle's network into an engine of ``FILES``."""
    if engine not in FILES:
        raise InputError(f"expected an engine of {', '.join(sorted(FILES))}, or for a scoring job fastest, got "
                         f"{engine!r}. Choose one of them.")
    refusal, name = _refusal(bundle, engine), FILES[engine][0]
    if refusal:
        raise InputError(refusal)
    try:
        network = start(engine, bundle.folder / name, threads)
        came = network.score(np.zeros((1, *bundle.input_px, 3), np.uint8)).shape
    except InputError:
        raise
    except Exception as error:  # Each library has its own kinds of errors.
        raise InputError(f"expected {name} of the bundle {bundle.folder} to be a network that {engine} can run, got: "
                         f"{said(error)}. Bring the bundle again, or choose another engine.") from error
    if came != (1, len(bundle.classes)):
        raise InputError(f"expected {len(bundle.classes)} probabilities from {name} of the bundle {bundle.folder}, one "
                         f"for each class of its model.json, got {came[-1]}. Bring the bundle again.")
    return network

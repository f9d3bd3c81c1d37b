"""Engines: programs that score a batch of tiles with the network of a model bundle.

Every engine has a ``name`` and ``score(tiles)``, from uint8 (N, height, width, 3) RGB tiles to float32 (N, n_classes)
probabilities. Its ``threads`` are limited, because a Spark slot has one core: a library that takes all cores slows its
neighbours.
"""

import time
from importlib.util import find_spec

import numpy as np

from helpers import InputError
from helpers.model.engine_cntk import Cntk, checked

# Tiles that pass through a network at once. On one core no batch of four or more is measurably faster than another, and
# memory grows with each tile.
BATCH_TILES = 8
GPU_BATCH_TILES = 64


class _InBatches:
    """An engine that ``_compute``s tiles ``batch_tiles`` at a time."""

    batch_tiles = BATCH_TILES

    def score(self, tiles: np.ndarray) -> np.ndarray:
        checked(tiles, self.input_px)
        return np.concatenate([self._compute(tiles[start:start + self.batch_tiles])
                               for start in range(0, max(1, len(tiles)), self.batch_tiles)])


class OnnxRuntime(_InBatches):
    """ONNX Runtime, float32, on the CPU or on a GPU where it finds one (its CUDA provider)."""

    name = "onnxruntime"
    _can_use_gpu = True

    def __init__(self, path, threads=1):
        import onnxruntime
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        options.inter_op_num_threads = 1
        options.log_severity_level = 3
        on_gpu = self._can_use_gpu and has_cuda()
        providers = (["CUDAExecutionProvider"] if on_gpu else []) + ["CPUExecutionProvider"]
        self._session = onnxruntime.InferenceSession(str(path), options, providers=providers)
        if self._session.get_providers()[0] == "CUDAExecutionProvider":
            self.name += "-cuda"
            self.batch_tiles = GPU_BATCH_TILES
        self.input_px = tuple(self._session.get_inputs()[0].shape[1:3])

    def _compute(self, batch):
        return self._session.run(["probabilities"], {"tiles": batch})[0]


class OnnxRuntimeInt8(OnnxRuntime):
    """ONNX Runtime on the CPU, int8: two to four times as fast as float32."""

    name = "onnxruntime-int8"
    # Its CUDA provider computes quantised networks in float32, with the conversions on top.
    _can_use_gpu = False


def has_cuda() -> bool:
    """Whether ONNX Runtime can compute on a GPU here."""
    import onnxruntime
    return "CUDAExecutionProvider" in onnxruntime.get_available_providers()


class OpenVino(_InBatches):
    """OpenVINO, float32, on Intel's and AMD's processors."""

    name = "openvino"
    _precision = "f32"

    def __init__(self, path, threads=1):
        try:
            import openvino
        except (ImportError, OSError) as error:  # Not installed, or built for a newer system than this one.
            raise InputError(f"expected OpenVINO in the Python that scores, got {error}. Install it there, or choose "
                             "the engine onnxruntime, which runs the same bundle.") from error
        core = openvino.Core()
        network = core.read_model(str(path))
        # Compiling takes a quarter of a second, so a cache of compiled networks would gain nothing.
        compiled = core.compile_model(network, "CPU", {
            "INFERENCE_PRECISION_HINT": self._precision, "INFERENCE_NUM_THREADS": threads, "NUM_STREAMS": 1,
            "ENABLE_CPU_PINNING": False})
        came = compiled.get_property("INFERENCE_PRECISION_HINT").to_string()
        if came != self._precision:
            raise InputError(f"expected a processor that computes {self._precision} for the engine {self.name}, got "
                             f"one that computes {came}. Choose the engine openvino.")
        shape = network.input("tiles").partial_shape
        self.input_px = shape[1].get_length(), shape[2].get_length()
        self._request = compiled.create_infer_request()

    def _compute(self, batch):
        found = self._request.infer({"tiles": np.ascontiguousarray(batch)}, share_inputs=True)
        return found["probabilities"].copy()  # The next batch takes the same memory.


class OpenVinoBfloat16(OpenVino):
    """OpenVINO in bfloat16, float32 with a third of its digits, on the newest processors."""

    name = "openvino-bf16"
    _precision = "bf16"


class OpenVinoInt8(OpenVino):
    """OpenVINO, int8."""

    name = "openvino-int8"


class TensorFlow:
    """TensorFlow on the CPU, or on a GPU where it finds one; Keras's safe mode runs no code from the file."""

    name = "tensorflow"

    def __init__(self, path, threads=1):
        if find_spec("tensorflow") is None:
            raise InputError("expected TensorFlow in the Python that scores, got none. Install it there, or choose the "
                             "engine onnxruntime, which runs the same bundle.")
        from helpers.model.retrain_tensorflow import start_tensorflow
        start_tensorflow(threads)
        import tensorflow as tf
        import keras
        self._model = keras.saving.load_model(str(path), compile=False, safe_mode=True)
        self.input_px = tuple(self._model.input_shape[1:3])
        self._score = tf.function(lambda tiles: self._model(tiles, training=False), reduce_retracing=True)

    def score(self, tiles: np.ndarray) -> np.ndarray:
        return self._score(checked(tiles, self.input_px)).numpy()


# The network as ONNX, float32 and int8.
ONNX, INT8 = "model.onnx", "model.int8.onnx"
FILES = {"onnxruntime-int8": (INT8, OnnxRuntimeInt8), "onnxruntime": (ONNX, OnnxRuntime),
         "openvino-int8": (INT8, OpenVinoInt8), "openvino-bf16": (ONNX, OpenVinoBfloat16),
         "openvino": (ONNX, OpenVino), "tensorflow": ("model.keras", TensorFlow), "cntk": ("model.model", Cntk)}
# Engines that a bundle allows only if their predictions were good enough when it was written (``judging``).
JUDGED = ("onnxruntime-int8", "openvino-int8", "openvino-bf16", "openvino")
# Engines that ``fastest`` chooses from: the frameworks' own are slower, and CNTK needs a Python of its own.
CANDIDATES = ("onnxruntime", *JUDGED)


def of(bundle) -> list:
    """Names of the engines that a bundle allows."""
    return [name for name, (file, _) in FILES.items() if file in bundle.facts["files"]
            and (name not in JUDGED or bundle.facts.get("judged", {}).get(name, {"refused": True})["refused"] is None)]


def candidates(bundle) -> list:
    """The engines of a bundle that may be the fastest on some processor; on a GPU only ONNX Runtime is."""
    return ["onnxruntime"] if has_cuda() else [name for name in of(bundle) if name in CANDIDATES]


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


def fastest(bundle, threads: int = 1) -> str:
    """The fastest engine for a bundle here and now, measured in this process."""
    found, names = {}, candidates(bundle)
    if len(names) == 1:
        return names[0]
    for name in names:
        try:
            found[name] = seconds(load(bundle, name, threads))
        except InputError:  # The engine isn't installed, or not for this processor.
            continue
    return min(found, key=found.get, default="onnxruntime")


def said(error: Exception) -> str:
    """The message of a library's error, on one line and not too long."""
    return " ".join(str(error).split())[:200].rstrip(".")


def load(bundle, engine: str = "fastest", threads: int = 1):
    """Load a bundle's network into an engine of ``FILES``, or into the ``"fastest"``."""
    engine = fastest(bundle, threads) if engine == "fastest" else engine
    if engine not in FILES:
        raise InputError(f"expected an engine of fastest, {', '.join(sorted(FILES))}, got {engine!r}. Choose one of "
                         "them.")
    name, kind = FILES[engine]
    if engine not in of(bundle):
        facts = bundle.facts.get("judged", {}).get(engine)
        if engine in JUDGED and (facts or name in bundle.facts["files"]):
            came = f"which refuses it: {facts['refused']} Or choose the engine onnxruntime." if facts else (
                "one in which it was never compared with float32. Write the bundle again with validation tiles, or "
                "choose the engine onnxruntime.")
            raise InputError(f"expected a bundle that allows the engine {engine}, got {bundle.folder}, {came}")
        raise InputError(f"expected {name} in the bundle {bundle.folder} for the engine {engine}, got "
                         f"{', '.join(sorted(bundle.facts['files']))}. Choose an engine whose file it has.")
    try:
        network = kind(bundle.folder / name, threads)
        if engine == "cntk":  # Its process starts with the first batch.
            return network
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

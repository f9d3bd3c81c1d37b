"""Engines: ways to score a batch of tiles with a model bundle.

Every engine has a ``name`` and ``score(tiles)``, from uint8 (N, height, width, 3) RGB tiles to float32 (N, n_classes)
probabilities. It is told how many threads it may use: a Spark slot has one core, and a library that helps itself to
all cores slows its neighbours.
"""

from importlib.util import find_spec

import numpy as np

from helpers import InputError
from helpers.model.engine_cntk import Cntk, checked

# Tiles that pass through a network at once. Measured on one core with the embedded ResNet and with ResNet-50: from four
# on no batch is faster than another by more than the clock's noise, and memory grows with each tile.
BATCH_TILES = 8
GPU_BATCH_TILES = 64


class OnnxRuntime:
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
        self.input_px = tuple(self._session.get_inputs()[0].shape[1:3])
        self.batch_tiles = GPU_BATCH_TILES if self.name.endswith("-cuda") else BATCH_TILES

    def score(self, tiles: np.ndarray) -> np.ndarray:
        checked(tiles, self.input_px)
        return np.concatenate([self._session.run(["probabilities"], {"tiles": tiles[start:start + self.batch_tiles]})[0]
                               for start in range(0, max(1, len(tiles)), self.batch_tiles)])


class OnnxRuntimeInt8(OnnxRuntime):
    """ONNX Runtime on the CPU, int8: two to four times as fast as float32."""

    name = "onnxruntime-int8"
    # Its CUDA provider computes quantised networks in float32, with the conversions on top.
    _can_use_gpu = False


def has_cuda() -> bool:
    """Whether ONNX Runtime can compute on a GPU here."""
    import onnxruntime
    return "CUDAExecutionProvider" in onnxruntime.get_available_providers()


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


_FILES = {"onnxruntime-int8": ("model.int8.onnx", OnnxRuntimeInt8),
          "onnxruntime": ("model.onnx", OnnxRuntime), "tensorflow": ("model.keras", TensorFlow),
          "cntk": ("model.model", Cntk)}


def of(bundle) -> list:
    """Names of the engines that a bundle has a file for."""
    return [name for name, (file, _) in _FILES.items() if file in bundle.facts["files"]]


def fastest(bundle) -> str:
    """The fastest engine for a bundle on this machine.

    ``onnxruntime`` where it finds a GPU; without one ``onnxruntime-int8`` if the bundle's int8 network was good enough
    to be kept, else ``onnxruntime``.
    """
    return "onnxruntime-int8" if "onnxruntime-int8" in of(bundle) and not has_cuda() else "onnxruntime"


def load(bundle, engine: str = "fastest", threads: int = 1):
    """Load a bundle's network into an engine that may use so many threads.

    The engines are ``"onnxruntime-int8"``, ``"onnxruntime"`` (float32), ``"tensorflow"`` and ``"cntk"``.
    """
    engine = fastest(bundle) if engine == "fastest" else engine
    if engine not in _FILES:
        raise InputError(f"expected an engine of fastest, {', '.join(sorted(_FILES))}, got {engine!r}. Choose one of "
                         "them.")
    name, kind = _FILES[engine]
    if name not in bundle.facts["files"]:
        refused = (bundle.facts.get("int8") or {}).get("refused") if engine == "onnxruntime-int8" else None
        reason = f" (it was refused: {refused})" if refused else ""
        raise InputError(f"expected {name} in the bundle {bundle.folder} for the engine {engine}, got "
                         f"{', '.join(sorted(bundle.facts['files']))}{reason}. Choose an engine whose file it has.")
    network = kind(bundle.folder / name, threads)
    if engine == "cntk":  # Its process starts with the first batch.
        return network
    came = network.score(np.zeros((1, *bundle.input_px, 3), np.uint8)).shape
    if came != (1, len(bundle.classes)):
        raise InputError(f"expected {len(bundle.classes)} probabilities from {name} of the bundle {bundle.folder}, one "
                         f"for each class of its model.json, got {came[-1]}. Bring the bundle again.")
    return network

"""Engines: ways to score a batch of tiles with a model bundle.

Every engine has ``score(tiles) -> probabilities``, whatever runs the network behind it, and is told how many
threads it may use: a Spark slot has one core, and a library that helps itself to all cores slows its neighbours.
"""

from importlib.util import find_spec

import numpy as np

from helpers import InputError
from helpers.model.engine_cntk import Cntk, _checked

# Tiles that pass through a network at once. Measured on one core with the embedded ResNet and with ResNet-50: from four
# on no batch is faster than another by more than the clock's noise, and memory grows with each tile.
BATCH_TILES = 8
GPU_BATCH_TILES = 64


class OnnxRuntime:
    """ONNX Runtime, float32, on the CPU or on a GPU where it finds one (its CUDA provider).

    Parameters
    ----------
    path : str or pathlib.Path
        ``model.onnx`` of a bundle.
    threads : int

    Attributes
    ----------
    batch_tiles : int
        Tiles that pass through the network at once, however many ``score`` is given.
    """

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

    def score(self, tiles):
        """Probabilities, float32 (N, n_classes), of uint8 (N, height, width, 3) RGB tiles."""
        _checked(tiles, self.input_px)
        return np.concatenate([self._session.run(["probabilities"], {"tiles": tiles[start:start + self.batch_tiles]})[0]
                               for start in range(0, max(1, len(tiles)), self.batch_tiles)])


class OnnxRuntimeInt8(OnnxRuntime):
    """ONNX Runtime on the CPU, int8: two to four times as fast as float32.

    Parameters
    ----------
    path : str or pathlib.Path
        ``model.int8.onnx`` of a bundle.
    threads : int
    """

    name = "onnxruntime-int8"
    # Its CUDA provider computes quantised networks in float32, with the conversions on top.
    _can_use_gpu = False


def has_cuda():
    """Whether ONNX Runtime can compute on a GPU here."""
    import onnxruntime
    return "CUDAExecutionProvider" in onnxruntime.get_available_providers()


class TensorFlow:
    """TensorFlow on the CPU, or on a GPU where it finds one.

    Parameters
    ----------
    path : str or pathlib.Path
        ``model.keras`` of a bundle; opened in Keras's safe mode, which runs no code from the file.
    threads : int
    """

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

    def score(self, tiles):
        """Probabilities, float32 (N, n_classes), of uint8 (N, height, width, 3) RGB tiles."""
        return self._score(_checked(tiles, self.input_px)).numpy()


_FILES = {"onnxruntime-int8": ("model.int8.onnx", OnnxRuntimeInt8),
          "onnxruntime": ("model.onnx", OnnxRuntime), "tensorflow": ("model.keras", TensorFlow),
          "cntk": ("model.model", Cntk)}


def of(bundle):
    """Names of the engines that a bundle has a file for.

    Parameters
    ----------
    bundle : helpers.model.bundle.Bundle

    Returns
    -------
    list of str
    """
    return [name for name, (file, _) in _FILES.items() if file in bundle.facts["files"]]


def fastest(bundle):
    """The fastest engine for a bundle on this machine, by its name.

    ``onnxruntime`` where it finds a GPU; without one ``onnxruntime-int8`` if the bundle's int8 network was good enough
    to be kept, else ``onnxruntime``.

    Parameters
    ----------
    bundle : helpers.model.bundle.Bundle

    Returns
    -------
    str
    """
    return "onnxruntime-int8" if "onnxruntime-int8" in of(bundle) and not has_cuda() else "onnxruntime"


def load(bundle, engine="fastest", threads=1):
    """Load a bundle's network into an engine.

    Parameters
    ----------
    bundle : helpers.model.bundle.Bundle
    engine : str
        ``"onnxruntime-int8"``, ``"onnxruntime"`` (float32), ``"tensorflow"`` or ``"cntk"``; by default what ``fastest``
        finds on the machine that scores.
    threads : int
        Cores that it may use.

    Returns
    -------
    object
        With ``score(tiles)`` and ``name``.

    Raises
    ------
    InputError
        If there is no such engine, or the bundle has no file for it.
    """
    engine = fastest(bundle) if engine == "fastest" else engine
    if engine not in _FILES:
        raise InputError("expected an engine of fastest, {}, got {!r}. Choose one of them.".format(
            ", ".join(sorted(_FILES)), engine))
    name, kind = _FILES[engine]
    if name not in bundle.facts["files"]:
        refused = (bundle.facts.get("int8") or {}).get("refused") if engine == "onnxruntime-int8" else None
        raise InputError("expected {} in the bundle {} for the engine {}, got {}{}. Choose an engine whose file it "
                         "has.".format(name, bundle.folder, engine, ", ".join(sorted(bundle.facts["files"])),
                                       " (it was refused: {})".format(refused) if refused else ""))
    return kind(bundle.folder / name, threads)


def network_bytes(bundle, engine="fastest", tiles=BATCH_TILES):
    """Memory that a network takes, about: its weights, and what it computes for a batch.

    Parameters
    ----------
    bundle : helpers.model.bundle.Bundle
    engine : str
        As in ``load``.
    tiles : int
        That are given to it at once. ONNX Runtime takes ``BATCH_TILES`` of them at a time, the others all.

    Returns
    -------
    int
        Weights twice, as in the file and as the engine lays them out, and for each tile of a batch the four largest
        values of the network: more are seldom alive at a time.
    """
    import onnx
    engine = fastest(bundle) if engine == "fastest" else engine
    # The other frameworks compute the same values as model.onnx, in float32.
    name = _FILES[engine][0] if engine == "onnxruntime-int8" else "model.onnx"
    network = onnx.shape_inference.infer_shapes(onnx.load(str(bundle.folder / name)))
    widths = {onnx.TensorProto.UINT8: 1, onnx.TensorProto.INT8: 1}
    sizes = []
    for value in network.graph.value_info:
        kind = value.type.tensor_type
        # The batch has no number; weights that are values too have one in every place.
        numbers = [d.dim_value for d in kind.shape.dim]
        if numbers and numbers[0] == 0 and all(numbers[1:]):
            sizes.append(int(np.prod(numbers[1:], dtype=np.int64)) * widths.get(kind.elem_type, 4))
    at_once = min(tiles, BATCH_TILES) if engine.startswith("onnxruntime") else tiles
    return 2 * (bundle.folder / name).stat().st_size + at_once * sum(sorted(sizes)[-4:])

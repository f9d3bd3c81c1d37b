"""Engines: ways to score a batch of tiles with a model bundle.

Every engine has ``score(tiles) -> probabilities``, whatever runs the network behind it, and is told how many
threads it may use: a Spark slot has one core, and a library that helps itself to all cores slows its neighbours.
"""

import numpy as np

from helpers import InputError


def _checked(tiles, input_px):
    """The tiles, if they are what the bundle takes."""
    if tiles.dtype != np.uint8 or tiles.shape[1:] != tuple(input_px) + (3,):
        raise InputError("expected tiles of {} × {} px with 3 bands, uint8, got {} {}. Keep R, G, B and resize "
                         "them.".format(input_px[0], input_px[1], tiles.shape, tiles.dtype))
    return tiles


class OnnxRuntime:
    """ONNX Runtime on the CPU, float32.

    Parameters
    ----------
    path : str or pathlib.Path
        ``model.onnx`` of a bundle.
    threads : int
    """

    name = "onnxruntime"

    def __init__(self, path, threads=1):
        import onnxruntime
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        options.inter_op_num_threads = 1
        options.log_severity_level = 3
        self._session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
        self.input_px = tuple(self._session.get_inputs()[0].shape[1:3])

    def score(self, tiles):
        """Probabilities, float32 (N, n_classes), of uint8 (N, height, width, 3) RGB tiles."""
        return self._session.run(["probabilities"], {"tiles": _checked(tiles, self.input_px)})[0]


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
        from helpers.retraining_tensorflow import start_tensorflow
        start_tensorflow(threads)
        import tensorflow as tf
        import keras
        self._model = keras.saving.load_model(str(path), compile=False, safe_mode=True)
        self.input_px = tuple(self._model.input_shape[1:3])
        self._score = tf.function(lambda tiles: self._model(tiles, training=False), reduce_retracing=True)

    def score(self, tiles):
        """Probabilities, float32 (N, n_classes), of uint8 (N, height, width, 3) RGB tiles."""
        return self._score(_checked(tiles, self.input_px)).numpy()


_FILES = {"onnxruntime": ("model.onnx", OnnxRuntime), "tensorflow": ("model.keras", TensorFlow)}


def load(bundle, engine="onnxruntime", threads=1):
    """Load a bundle's network into an engine.

    Parameters
    ----------
    bundle : helpers.bundle.Bundle
    engine : str
        ``"onnxruntime"`` or ``"tensorflow"``.
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
    if engine not in _FILES:
        raise InputError("expected an engine of {}, got {!r}. Choose one of them.".format(
            ", ".join(sorted(_FILES)), engine))
    name, kind = _FILES[engine]
    if name not in bundle.facts["files"]:
        raise InputError("expected {} in the bundle {} for the engine {}, got {}. Choose an engine whose file it "
                         "has.".format(name, bundle.folder, engine, ", ".join(sorted(bundle.facts["files"]))))
    return kind(bundle.folder / name, threads)

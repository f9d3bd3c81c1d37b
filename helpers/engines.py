"""Engines: ways to score a batch of tiles with a model bundle.

Every engine has ``score(tiles) -> probabilities``, whatever runs the network behind it, and is told how many
threads it may use: a Spark slot has one core, and a library that helps itself to all cores slows its neighbours.
"""

import os
import pkgutil
import subprocess
import tempfile
import weakref
from importlib.util import find_spec
from pathlib import Path

import numpy as np

from helpers import InputError
from helpers.cntk_process import read_array, write_array


# Tiles that pass through a network at once. Measured on one core with the embedded ResNet and with ResNet-50: from four
# on no batch is faster than another by more than the clock's noise, and memory grows with each tile.
BATCH_TILES = 8
GPU_BATCH_TILES = 64
# Of what a process that died wrote to standard error: the end tells why.
LAST_LINES = 4


class EngineDied(RuntimeError):
    """The process that scores has ended, twice with the same batch; its last words are the message."""


def _checked(tiles, input_px):
    """The tiles, if they are what the bundle takes."""
    if tiles.dtype != np.uint8 or tiles.shape[1:] != tuple(input_px) + (3,):
        raise InputError("expected tiles of {} × {} px with 3 bands, uint8, got {} {}. Keep R, G, B and resize "
                         "them.".format(input_px[0], input_px[1], tiles.shape, tiles.dtype))
    return tiles


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


def cntk_environment():
    """The folder of CNTK's own environment: ``CNTK_ENVIRONMENT``, else ``.venv-cntk`` beside ``helpers``.

    Raises
    ------
    InputError
        If it isn't there, or its installation was never finished.
    """
    folder = Path(os.environ.get("CNTK_ENVIRONMENT") or Path(__file__).resolve().parents[1] / ".venv-cntk")
    if not (folder / "complete").is_file():
        raise InputError("expected CNTK's environment at {}, got {}. Run setup_scripts/install_cntk.sh, or choose the "
                         "engine onnxruntime, which runs the same bundle.".format(
                             folder, "one whose installation was not finished" if folder.exists() else "none"))
    return folder


class Cntk:
    """CNTK 2.7 on the CPU, in a Python 3.6 of its own: one process for each engine, fed through pipes.

    The process starts with the first batch and ends with this one. If it dies it is started once more, and the batch
    scored again.

    Parameters
    ----------
    path : str or pathlib.Path
        ``model.model`` of a bundle.
    threads : int
    """

    name = "cntk"

    def __init__(self, path, threads=1):
        environment = cntk_environment()
        # The program's text, not its path: on a cluster this package may lie in an archive.
        program = pkgutil.get_data("helpers", "cntk_process.py").decode()
        # -E and -s: a worker's PYTHONPATH points to packages of its own Python.
        self._command = [str(environment / "bin" / "python"), "-E", "-s", "-c", program, str(path), str(threads)]
        self._libraries = str(environment / "lib" / "mpi")
        self._process = None

    def score(self, tiles):
        """Probabilities, float32 (N, n_classes), of uint8 (N, height, width, 3) RGB tiles.

        Raises
        ------
        EngineDied
            If the process died of this batch, and died of it again.
        """
        try:
            return self._answer(tiles)
        except EngineDied:
            return self._answer(tiles)

    def close(self):
        """End the process; the next batch starts another."""
        if self._process is not None:
            self._end()
            self._process = None

    def _start(self):
        errors = tempfile.TemporaryFile()
        process = subprocess.Popen(
            self._command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=errors,
            env=dict(os.environ, LD_LIBRARY_PATH=self._libraries))
        self._process, self._errors = process, errors
        self._end = weakref.finalize(self, _end, process, errors)
        shape = self._read()
        self.input_px = tuple(int(n) for n in shape)

    def _answer(self, tiles):
        if self._process is None:
            self._start()
        _checked(tiles, self.input_px)
        try:
            write_array(self._process.stdin, tiles)
        except OSError:  # a broken pipe: why is told by what it wrote before
            pass
        return self._read()

    def _read(self):
        answer = read_array(self._process.stdout)
        if answer is None:
            process, errors = self._process, self._errors
            _end(process)
            errors.seek(0)
            # Without the addresses of CNTK's own stack, pages of them.
            lines = [line for line in errors.read().decode("utf-8", "replace").splitlines()
                     if line.strip() and not line.startswith(("[0x", "[CALL STACK]"))]
            self.close()
            raise EngineDied("CNTK's process ended with status {}: {}".format(
                process.returncode, " ".join(" ".join(lines[-LAST_LINES:]).split()) or "it said nothing"))
        return answer


def _end(process, *files):
    """Close a process's pipes, which ends it, and files; kill one that doesn't end."""
    for pipe in (process.stdin, process.stdout) + files:
        try:
            pipe.close()
        except OSError:
            pass
    try:
        process.wait(timeout=5)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


_FILES = {"onnxruntime-int8": ("model.int8.onnx", OnnxRuntimeInt8),
          "onnxruntime": ("model.onnx", OnnxRuntime), "tensorflow": ("model.keras", TensorFlow),
          "cntk": ("model.model", Cntk)}


def of(bundle):
    """Names of the engines that a bundle has a file for.

    Parameters
    ----------
    bundle : helpers.bundle.Bundle

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
    bundle : helpers.bundle.Bundle

    Returns
    -------
    str
    """
    return "onnxruntime-int8" if "onnxruntime-int8" in of(bundle) and not has_cuda() else "onnxruntime"


def load(bundle, engine="fastest", threads=1):
    """Load a bundle's network into an engine.

    Parameters
    ----------
    bundle : helpers.bundle.Bundle
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
    bundle : helpers.bundle.Bundle
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

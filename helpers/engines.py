"""Engines: ways to score a batch of tiles with a model bundle.

Every engine has ``score(tiles) -> probabilities``, whatever runs the network behind it, and is told how many
threads it may use: a Spark slot has one core, and a library that helps itself to all cores slows its neighbours.
"""

import os
import pkgutil
import subprocess
import tempfile
import weakref
from pathlib import Path

import numpy as np

from helpers import InputError
from helpers.cntk_process import read_array, write_array


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


_FILES = {"onnxruntime": ("model.onnx", OnnxRuntime), "tensorflow": ("model.keras", TensorFlow),
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


def load(bundle, engine="onnxruntime", threads=1):
    """Load a bundle's network into an engine.

    Parameters
    ----------
    bundle : helpers.bundle.Bundle
    engine : str
        ``"onnxruntime"``, ``"tensorflow"`` or ``"cntk"``.
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

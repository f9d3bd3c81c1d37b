"""The engine ``cntk``: CNTK 2.7 computes in a process with Python 3.6, connected by a pipe."""

import contextlib
import multiprocessing
import os
import pkgutil
import subprocess
import tempfile
import weakref
from pathlib import Path

import numpy as np

from helpers import InputError


class EngineDied(RuntimeError):
    """CNTK's process has ended; the message has its last words."""


def cntk_environment() -> Path:
    """The folder of CNTK's own environment: ``CNTK_ENVIRONMENT``, else ``.venv-cntk`` beside ``helpers``."""
    folder = Path(os.environ.get("CNTK_ENVIRONMENT") or Path(__file__).resolve().parents[2] / ".venv-cntk")
    if not (folder / "complete").is_file():
        found = "one whose installation was not finished" if folder.exists() else "none"
        raise InputError(f"expected CNTK's environment at {folder}, got {found}. Run setup_scripts/install_cntk.sh, or "
                         "choose the engine onnxruntime, which runs the same bundle.")
    return folder


class CntkProcess:
    """CNTK 2.7 on the CPU, in a process that ends with this object, for tiles of ``input_px``, height and width.

    If the process dies, it starts once more and gets the batch again.
    """

    def __init__(self, path, threads):
        environment = cntk_environment()
        # The text of the program, because on a cluster this package may lie in an archive.
        program = pkgutil.get_data("helpers.model", "cntk_process.py").decode()
        # -E and -s ignore a worker's PYTHONPATH, which points to packages of the worker's Python.
        self._command = [str(environment / "bin" / "python"), "-E", "-s", "-c", program, str(path), str(threads)]
        self._libraries = str(environment / "lib" / "mpi")
        self._start()

    def compute(self, tiles: np.ndarray) -> np.ndarray:
        """Probabilities of a batch of tiles."""
        try:
            return self._answer(tiles)
        except EngineDied:
            self._start()
            return self._answer(tiles)

    def _start(self):
        self._errors = tempfile.TemporaryFile()
        self._pipe, its_end = multiprocessing.Pipe()
        with its_end:
            self.process = subprocess.Popen(
                self._command + [str(its_end.fileno())], pass_fds=[its_end.fileno()], stdin=subprocess.DEVNULL,
                stdout=self._errors, stderr=self._errors, env=dict(os.environ, LD_LIBRARY_PATH=self._libraries))
        weakref.finalize(self, _end, self.process, self._pipe, self._errors)
        self.input_px = np.frombuffer(self._read(), np.int64).tolist()

    def _answer(self, tiles):
        # If the pipe is broken, the process has died and has written the reason.
        with contextlib.suppress(OSError):
            self._pipe.send_bytes(tiles.tobytes())
        return np.frombuffer(self._read(), np.float32).reshape(len(tiles), -1)

    def _read(self):
        try:
            return self._pipe.recv_bytes()
        except (EOFError, OSError):
            status = _end(self.process, self._pipe)
            self._errors.seek(0)
            # CNTK also writes pages of addresses of its stack.
            lines = [line for line in self._errors.read().decode("utf-8", "replace").splitlines()
                     if line.strip() and not line.startswith(("[0x", "[CALL STACK]", "Traceback", "  File"))]
            words = " ".join(" ".join(lines[-4:]).split()) or "it said nothing"
            raise EngineDied(f"CNTK's process ended with status {status}: {words}")


def _end(process, *files):
    """End a process by closing its pipe, or kill it after five seconds; its exit status."""
    for file in files:
        file.close()
    try:
        return process.wait(timeout=5)
    except subprocess.TimeoutExpired:
        process.kill()
        return process.wait()

"""The engine ``cntk``: CNTK 2.7 computes in a Python of its own, fed through pipes."""

import os
import pkgutil
import subprocess
import tempfile
import weakref
from pathlib import Path

import numpy as np

from helpers import InputError
from helpers.model.cntk_process import read_array, write_array

# Of what a process that died wrote to standard error: the end tells why.
LAST_LINES = 4


class EngineDied(RuntimeError):
    """The process that scores has ended, twice with the same batch; its last words are the message."""


def checked(tiles: np.ndarray, input_px: tuple) -> np.ndarray:
    """The tiles, if they are what the bundle takes."""
    if tiles.dtype != np.uint8 or tiles.shape[1:] != tuple(input_px) + (3,):
        raise InputError(f"expected tiles of {input_px[0]} × {input_px[1]} px with 3 bands, uint8, got {tiles.shape} "
                         f"{tiles.dtype}. Keep R, G, B and resize them.")
    return tiles


def cntk_environment() -> Path:
    """The folder of CNTK's own environment: ``CNTK_ENVIRONMENT``, else ``.venv-cntk`` beside ``helpers``."""
    folder = Path(os.environ.get("CNTK_ENVIRONMENT") or Path(__file__).resolve().parents[2] / ".venv-cntk")
    if not (folder / "complete").is_file():
        found = "one whose installation was not finished" if folder.exists() else "none"
        raise InputError(f"expected CNTK's environment at {folder}, got {found}. Run setup_scripts/install_cntk.sh, or "
                         "choose the engine onnxruntime, which runs the same bundle.")
    return folder


class Cntk:
    """CNTK 2.7 on the CPU, in one Python 3.6 process for each engine.

    The process starts with the first batch and ends with this one. If it dies it is started once more, and the batch
    scored again.
    """

    name = "cntk"

    def __init__(self, path, threads=1):
        environment = cntk_environment()
        # The program's text, not its path: on a cluster this package may lie in an archive.
        program = pkgutil.get_data("helpers.model", "cntk_process.py").decode()
        # -E and -s: a worker's PYTHONPATH points to packages of its own Python.
        self._command = [str(environment / "bin" / "python"), "-E", "-s", "-c", program, str(path), str(threads)]
        self._libraries = str(environment / "lib" / "mpi")
        self._process = None

    def score(self, tiles: np.ndarray) -> np.ndarray:
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
        self.input_px = tuple(int(n) for n in self._read())

    def _answer(self, tiles):
        if self._process is None:
            self._start()
        checked(tiles, self.input_px)
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
            words = " ".join(" ".join(lines[-LAST_LINES:]).split()) or "it said nothing"
            raise EngineDied(f"CNTK's process ended with status {process.returncode}: {words}")
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

"""Scoring in a separate process, so that a picture or network that hangs or crashes does not end the Spark task.

A Spark worker can't interrupt a decoder or network that never returns, and it dies if one crashes. Spark would repeat
the task, which would die again. So each worker keeps a second process that scores (a pool of ``pebble``), with a time
limit for each call. If a call fails, the guard halves the batch until the picture at fault is alone. That picture gets
a row with the reason.
"""

import atexit
import contextlib
import ctypes
import multiprocessing
import os
import signal
import sys
import time
from concurrent.futures import TimeoutError
from concurrent.futures.process import BrokenProcessPool
from functools import lru_cache

from pebble import ProcessExpired, ProcessPool

from helpers import InputError
from helpers.scoring.batch import Scored, failed, joined, score_images

# Tiles in one call. If a call fails, only few tiles are scored again; larger calls are not faster.
CALL_TILES = 16
# Seconds before a call counts as hanging: CALL_S and TILE_S for each tile, or START_S to load the network. Even a slow
# machine needs less: a picture takes milliseconds, a tile in a large network a tenth of a second, and importing
# TensorFlow ten seconds.
CALL_S, TILE_S, START_S = 20, 2, 300
# A network that has hung or crashed on this many tiles in a row is broken.
IN_VAIN = 4

# Code that runs in the second process, which scores.

@lru_cache(maxsize=1)
def _network(folder, engine, threads):
    from helpers.model import bundle, engines
    model = bundle.Bundle(folder)  # The driver has checked and sent it.
    return model, engines.load(model, engine, threads)


def _start(model):
    _network(*model)


def _seconds(model):
    from helpers.model import engines
    return engines.seconds(_network(*model)[1])


def _score(model, images, tile_px):
    return score_images(images, *_network(*model), tile_px)


def _die_with(parent):
    """Let Linux end this process when its parent is killed. On other systems it ends when it next waits for work."""
    if sys.platform == "linux":
        ctypes.CDLL(None, use_errno=True).prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG
        if os.getppid() != parent:
            os.kill(os.getpid(), signal.SIGKILL)


# Code that runs in the worker.

# Errors of a call that took too long, of a process that died in a call, and of a process that was killed while idle.
STOPPED = TimeoutError, ProcessExpired, BrokenProcessPool


class Guard:
    """A process that scores with one bundle and engine. If it hangs or crashes, the guard starts another."""

    def __init__(self, folder: str, engine: str, threads: int = 1):
        self._model = str(folder), engine, threads
        self._is_loaded, self._engine = False, engine
        self.begin(None)
        self._pool = _pool()

    def begin(self, job):
        """Trust the network again, because another job begins."""
        self.job, self._in_vain, self._broken = job, 0, None

    def score(self, images: list, tile_px=None) -> Scored:
        """Like ``score_images``. A picture that hangs or crashes the process gets the reason ``timeout`` or ``crash``.

        An InputError says that the engine can't be started, or has failed on too many tiles in a row.
        """
        if self._broken:
            raise InputError(self._broken)
        parts, load_s = [], 0.0
        for first in range(0, len(images), CALL_TILES):
            if not self._is_loaded:
                load_s += self._load()
            parts.append(self._halving(images[first:first + CALL_TILES], tile_px))
        scored = joined(parts)
        return scored._replace(seconds=dict(scored.seconds, load=load_s))

    def close(self):
        self._pool.stop()
        self._pool.join()

    def _call(self, seconds, function, *arguments):
        if not self._pool.active:  # A pool whose process was killed while idle can't be used again.
            self._pool = _pool()
        try:
            return self._pool.schedule(function, args=arguments, timeout=seconds).result()
        except STOPPED:
            self._is_loaded = False  # The pool starts another process.
            raise

    def _load(self):
        """Load the network, and return the seconds that this took."""
        started = time.perf_counter()
        for attempt in range(2):
            try:
                self._call(START_S, _start, self._model)
                self._is_loaded = True
                return time.perf_counter() - started
            except STOPPED as error:
                came = _came(error)
        raise InputError(f"expected the engine {self._model[1]} to load the model, but it {came}, twice. Try another "
                         "engine.")

    def _halving(self, images, tile_px, is_suspect=False):
        if not self._is_loaded:
            self._load()
        try:
            scored = self._call(CALL_S + TILE_S * len(images), _score, self._model, images, tile_px)
            self._in_vain, self._engine = 0, scored.engine
            return scored
        except STOPPED as error:
            if len(images) > 1:
                half = len(images) // 2
                return joined([self._halving(part, tile_px, True) for part in (images[:half], images[half:])])
            if not is_suspect:
                return self._halving(images, tile_px, True)
            return self._given_up(error)

    def _given_up(self, error):
        """The row of a picture that has stopped the process twice."""
        self._in_vain += 1
        came = _came(error)
        if self._in_vain >= IN_VAIN:
            self._broken = (f"expected scores from the engine {self._model[1]}, but it {came} on {IN_VAIN} tiles in a "
                            "row. Try another engine.")
            raise InputError(self._broken)
        kind = "timeout" if isinstance(error, TimeoutError) else "crash"
        row = failed(kind, f"expected a score, but the process that reads and scores the picture {came}, twice. Look "
                           "at the picture, or leave it out.")
        return Scored([row], self._engine, {"decode": 0.0, "network": 0.0})


def _pool():
    # Not forked: a copy would keep this process's connections open, and locks of threads that the copy does not have.
    return ProcessPool(1, initializer=_die_with, initargs=[os.getpid()], context=multiprocessing.get_context("spawn"))


def _came(error):
    if isinstance(error, TimeoutError):
        return "gave no answer in time"
    return f"ended with status {error.exitcode}" if isinstance(error, ProcessExpired) else "ended"


_kept = {}


def kept(folder: str, engine: str, threads: int, job: str) -> Guard:
    """The guard of this Python worker. It stays for the next task, until a task has another bundle or engine."""
    key = folder, engine, threads
    if key not in _kept:
        while _kept:
            _kept.popitem()[1].close()
        _kept[key] = Guard(*key)
        atexit.register(_kept[key].close)
    if _kept[key].job != job:
        _kept[key].begin(job)
    return _kept[key]


def seconds(folder: str, threads: int) -> dict:
    """Seconds of a tile in each engine that may be the fastest for a bundle, except engines that fail in this trial."""
    from helpers.model import bundle, engines
    found, trial = {}, Guard(folder, "fastest", threads)
    try:
        for name in engines.candidates(bundle.Bundle(folder)):
            with contextlib.suppress(Exception):  # A user who chooses this engine by name sees the error.
                found[name] = trial._call(START_S, _seconds, (folder, name, threads))
    finally:
        trial.close()
    return found

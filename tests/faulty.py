"""What hangs, crashes or is slow in the process that scores: importable there, and chosen by the environment.

``FAULTY`` is JSON: ``pause_s`` for each call, and a ``folder`` into which each call writes checksums of its pictures.
Pictures that are ``b"hang"`` or ``b"crash"`` do so; so do tiles of the colours 66 and 99. ``TORMENT`` makes every call do
so.
"""

import contextlib
import json
import os
import signal
import time
import zlib

import numpy as np
import psutil

from helpers.scoring import batch, guard


def crash():
    os.kill(os.getpid(), signal.SIGSEGV)


class Network:
    """A network that hangs, crashes or fails with tiles of some colours."""

    def __init__(self, network):
        self.network, self.name = network, os.environ.get("FAULTY_NAME", network.name)

    def score(self, tiles):
        for colour, what in ((66, lambda: time.sleep(3600)), (99, crash)):
            if (tiles == colour).all(axis=(1, 2, 3)).any():
                what()
        if (tiles == 33).all(axis=(1, 2, 3)).any():
            raise ValueError("a shape that it does not like")
        return self.network.score(tiles)


def score(model, images, tile_px):
    if os.environ.get("TORMENT") == "crash" or b"crash" in images:
        crash()
    if os.environ.get("TORMENT") == "hang" or b"hang" in images:
        time.sleep(3600)
    bundle, network = guard._network(*model)
    asked = json.loads(os.environ.get("FAULTY", "{}"))
    time.sleep(asked.get("pause_s", 0))
    done = batch.score_images(images, bundle, Network(network), tile_px)
    if "folder" in asked:
        with open(os.path.join(asked["folder"], str(os.getpid())), "a") as file:
            file.write("".join(f"{zlib.crc32(image or b'')}\n" for image in images))
    return done


def seconds(model):
    """One second a tile in each engine, but for one that crashes and one that hangs."""
    if model[1] == "openvino-int8":
        crash()
    if model[1] == "openvino-bf16":
        time.sleep(3600)
    return 1.0


def on_workers(score_unit, **environment):
    """A function for workers that lets their processes run ``score`` of this module, with an environment, for a unit."""
    here = os.path.dirname(__file__)
    environment = {name: value if isinstance(value, str) else json.dumps(value) for name, value in environment.items()}

    def faulty_unit(*arguments, **options):
        import sys
        if here not in sys.path:
            sys.path.append(here)
        import faulty
        with faulty.on_this_worker(environment):
            return score_unit(*arguments, **options)

    return faulty_unit


@contextlib.contextmanager
def on_this_worker(environment):
    """Spark uses a worker again for other tests: what is changed is changed back."""
    plain, before = guard._score, dict(os.environ)
    is_new = plain is not score
    os.environ.update(environment)
    guard._score = score
    if is_new:
        end_guards()
    try:
        yield
    finally:
        if "folder" not in environment.get("FAULTY", ""):  # The driver of the cluster's tests has workers of its own.
            os.environ.clear()
            os.environ.update(before)
            guard._score = plain
            end_guards()


def end_guards():
    while guard._kept:
        guard._kept.popitem()[1].close()


def solid(colour, px):
    return np.full((px, px, 3), colour, np.uint8)


def hold(folder, connection):
    """Another process, with a guard whose picture hangs."""
    guard._score = score
    scorer = guard.Guard(folder, "onnxruntime")
    scorer.score([b""])
    connection.send([child.pid for child in psutil.Process().children(recursive=True)])
    scorer.score([b"hang"])

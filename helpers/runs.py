"""The folders of a run, and its numbers in ``metrics.json``."""

import numbers
import os
import re
import time
from pathlib import Path

from helpers import InputError
from helpers.files import read_json, write_json
from helpers.uri import absolute, join


def home() -> Path:
    """The folder that holds ``runs/`` and ``data/``: ``TUTORIAL_HOME``, else the repository itself."""
    return Path(absolute(os.environ.get("TUTORIAL_HOME") or Path(__file__).resolve().parents[1]))


def check_seed(seed: int):
    """Refuse a seed that NumPy or TensorFlow would refuse."""
    if not (isinstance(seed, numbers.Integral) and 0 <= seed < 2 ** 32):
        raise InputError(f"expected a seed that is a whole number of 0 to {2 ** 32 - 1}, got {seed!r}. Choose another.")


def check_name(name: str) -> str:
    """The name of a run, if a folder can have it; else an InputError."""
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]*", name):
        raise InputError(f"expected a run name of letters, digits, '.', '_' and '-', got {name!r}. Choose "
                         "another name.")
    return name


class Run:
    """The files of one run of the tutorial, ``runs/<name>/``.

    Workers read and write ``tiles`` and ``predictions``. These are URIs below ``TUTORIAL_STORAGE`` where that is set,
    because a cluster's machines share no disk. All other attributes are paths.
    """

    def __init__(self, name: str):
        self.name = check_name(name)
        self.folder = home() / "runs" / name
        shared = os.environ.get("TUTORIAL_STORAGE")
        self.tiles, self.predictions = (join(shared, "runs", name, part) if shared else self.folder / part
                                        for part in ("tiles", "predictions"))
        self.models, self.maps, self.figures = (self.folder / part for part in ("models", "maps", "figures"))
        self.metrics_path = self.folder / "metrics.json"

    def metrics(self) -> dict:
        """All numbers written so far."""
        return read_json(self.metrics_path) or {}

    def record(self, **sections):
        """Merge numbers into ``metrics.json``; a section that is a dict is merged key by key."""
        metrics = self.metrics()
        for section, values in sections.items():
            if isinstance(values, dict):
                metrics.setdefault(section, {}).update(values)
            else:
                metrics[section] = values
        write_json(self.metrics_path, metrics)

    def timed(self, notebook: str):
        """Start the clock of a notebook; call the returned function in its last cell."""
        start = time.monotonic()

        def stop():
            self.record(seconds={notebook: round(time.monotonic() - start, 1)})
        return stop

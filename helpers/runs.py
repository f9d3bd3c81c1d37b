"""Where a run keeps what it makes, and how its figures reach ``metrics.json``."""

import contextlib
import hashlib
import json
import os
import re
import time
from pathlib import Path

from helpers import InputError, storage


def home():
    """The folder that holds ``runs/`` and ``data/``: ``TUTORIAL_HOME``, else the repository itself."""
    return Path(os.environ.get("TUTORIAL_HOME") or Path(__file__).resolve().parents[1])


class Run:
    """The files of one run of the tutorial, ``runs/<name>/``.

    Parameters
    ----------
    name : str
        Letters, digits, ``-``, ``_`` and ``.``; becomes a folder name.

    Attributes
    ----------
    folder, tiles, models, predictions, maps, figures, metrics_path : pathlib.Path
        What the notebooks write; folders are made when first written to. ``tiles`` and ``predictions``, which workers
        read and write, are URIs below ``TUTORIAL_STORAGE`` where that is set: a cluster's machines share no disk.
    """

    def __init__(self, name):
        if not re.match(r"^[A-Za-z0-9][A-Za-z0-9._-]*$", name):
            raise InputError("expected a run name of letters, digits, '.', '_' and '-', got {!r}. "
                             "Choose another name.".format(name))
        self.name = name
        self.folder = home() / "runs" / name
        shared = os.environ.get("TUTORIAL_STORAGE")
        self.tiles = storage.join(shared, "runs", name, "tiles") if shared else self.folder / "tiles"
        self.models = self.folder / "models"
        self.predictions = storage.join(shared, "runs", name, "predictions") if shared else self.folder / "predictions"
        self.maps = self.folder / "maps"
        self.figures = self.folder / "figures"
        self.metrics_path = self.folder / "metrics.json"

    def metrics(self):
        """All figures written so far, as a dict."""
        if not self.metrics_path.exists():
            return {}
        return json.loads(self.metrics_path.read_text())

    def record(self, **sections):
        """Merge figures into ``metrics.json``; a section that is a dict is merged key by key."""
        metrics = self.metrics()
        for section, values in sections.items():
            if isinstance(values, dict):
                metrics.setdefault(section, {}).update(values)
            else:
                metrics[section] = values
        write_json(self.metrics_path, metrics)

    def timed(self, notebook):
        """Start the clock of a notebook; call the returned function in its last cell."""
        start = time.monotonic()

        def stop():
            self.record(seconds={notebook: round(time.monotonic() - start, 1)})
        return stop


def write_json(path, value):
    """Write JSON so that a reader sees the old file or the whole new one, never a part."""
    with whole_file(path) as part:
        part.write_text(json.dumps(value, indent=1, sort_keys=True) + "\n")


@contextlib.contextmanager
def whole_file(path):
    """A name beside ``path`` to write to; the file takes its own name when all of it is there.

    Yields
    ------
    pathlib.Path
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(".{}.{}.part".format(path.name, os.getpid()))
    try:
        yield part
        os.replace(str(part), str(path))
    finally:
        if part.exists():
            part.unlink()


def sha256(path):
    """SHA-256 of a file, in hexadecimal."""
    digest = hashlib.sha256()
    with open(str(path), "rb") as file:
        for block in iter(lambda: file.read(1 << 20), b""):
            digest.update(block)
    return digest.hexdigest()

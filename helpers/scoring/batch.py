"""One batch of encoded pictures through a network: the same function on the driver and on executors."""

import time
from collections import Counter, namedtuple

import numpy as np

from helpers import InputError
from helpers.model.engines import said
from helpers.tiles.pictures import BadPicture, decode

# The class of a picture and its probabilities, or None and the reason.
Row = namedtuple("Row", "class_id probabilities error_kind error")
# A Row for each picture. The name of the engine ends in -cuda on a GPU. ``seconds`` are by stage.
Scored = namedtuple("Scored", "rows engine seconds")


def score_images(images: list, bundle, network, tile_px=None) -> Scored:
    """Decode and score pictures.

    Parameters
    ----------
    images : encoded pictures; None for a picture that is missing.
    network : an engine of ``engines.load``.
    tile_px : height and width that each picture must have; None resizes pictures of any size.

    Returns
    -------
    One row for each picture. A picture that can't be read (``unreadable``, ``wrong_size``, ``too_large``,
    ``missing``) or scored (``engine``) has a reason and no class.
    """
    rows, pixels = [None] * len(images), {}
    started = time.perf_counter()
    for number, image in enumerate(images):
        try:
            pixels[number] = decode(image, bundle.input_px, tile_px)
        except BadPicture as bad:
            rows[number] = failed(bad.kind, str(bad))
    decoded = time.perf_counter()
    for number, row in zip(pixels, _rows(network, list(pixels.values()))):
        rows[number] = row
    return Scored(rows, network.name, {"decode": decoded - started, "network": time.perf_counter() - decoded})


def _rows(network, pixels):
    """A row for each decoded picture."""
    if not pixels:
        return []
    try:
        probabilities = network.score(np.stack(pixels))
    except InputError:
        raise
    except Exception as error:  # Each engine has errors of its own.
        if len(pixels) > 1:  # One picture may be the cause: score each alone.
            return [_rows(network, [one])[0] for one in pixels]
        return [failed("engine", f"expected a score, got {type(error).__name__}: {said(error)}. Try another engine.")]
    return [Row(int(one.argmax()), one, None, None) if np.isfinite(one).all() else
            failed("engine", "expected a score, got values that are not numbers. Try another engine.")
            for one in probabilities]


def failed(kind: str, error: str) -> Row:
    """The row of a picture that has no class."""
    return Row(None, None, kind, error)


def joined(parts: list) -> Scored:
    """Join the results of several batches."""
    seconds = Counter()
    for part in parts:
        seconds.update(part.seconds)
    return Scored([row for part in parts for row in part.rows], parts[-1].engine, dict(seconds))

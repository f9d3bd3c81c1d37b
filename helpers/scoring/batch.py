"""One batch of encoded pictures through a network: the same function on the driver and on executors."""

import time
from collections import namedtuple

import numpy as np

from helpers import InputError
from helpers.tiles.pictures import BadPicture, decode

# For each picture ``class_id`` and ``probabilities``, or None and the reason (``error_kind``, ``error``). ``engine`` is
# the name of the engine, which ends in -cuda on a GPU. ``seconds`` are by stage.
Scored = namedtuple("Scored", "class_id probabilities error_kind error engine seconds")


def score_images(images: list, bundle, network, tile_px=None) -> Scored:
    """Decode and score pictures.

    Parameters
    ----------
    images : encoded pictures; None for a picture that is missing.
    network : an engine of ``engines.load``.
    tile_px : height and width that each picture must have; None resizes pictures of any size.

    Returns
    -------
    One entry for each picture. A picture that can't be read (``unreadable``, ``wrong_size``, ``too_large``,
    ``missing``) or scored (``engine``) has a reason and no class.
    """
    n, pixels, readable = len(images), [], []
    kinds, errors = [None] * n, [None] * n
    started = time.perf_counter()
    for i, image in enumerate(images):
        try:
            pixels.append(decode(image, bundle.input_px, tile_px))
            readable.append(i)
        except BadPicture as bad:
            kinds[i], errors[i] = bad.kind, str(bad)
    decoded = time.perf_counter()
    class_id, rows = [None] * n, [None] * n
    probabilities, failed = _probabilities(network, pixels, len(bundle.classes))
    for k, i in enumerate(readable):
        if k in failed:
            kinds[i], errors[i] = "engine", failed[k]
        else:
            class_id[i], rows[i] = int(probabilities[k].argmax()), probabilities[k]
    return Scored(class_id, rows, kinds, errors, network.name, {
        "decode": decoded - started, "network": time.perf_counter() - decoded})


def _probabilities(network, pixels, n_classes):
    """Probabilities (N, n_classes) of pictures, and for each picture that failed an error by its index."""
    if not pixels:
        return np.empty((0, n_classes), np.float32), {}
    try:
        probabilities = network.score(np.stack(pixels))
    except InputError:
        raise
    except Exception as error:  # Each engine has errors of its own.
        if len(pixels) > 1:  # One picture may be the cause: score each alone.
            alone = [_probabilities(network, [one], n_classes) for one in pixels]
            return (np.concatenate([found for found, _ in alone]),
                    {i: failed[0] for i, (_, failed) in enumerate(alone) if failed})
        return np.full((1, n_classes), np.nan, np.float32), {
            0: f"expected a score, got {type(error).__name__}: {' '.join(str(error).split())[:300].rstrip('.')}. Try "
               "another engine."}
    return probabilities, {int(i): "expected a score, got values that are not numbers. Try another engine."
                           for i in np.flatnonzero(~np.isfinite(probabilities).all(axis=1))}


def joined(parts: list) -> Scored:
    """Join the results of several batches."""
    lists = [sum((getattr(part, name) for part in parts), []) for name in Scored._fields[:4]]
    return Scored(*lists, parts[-1].engine, {
        stage: sum(part.seconds[stage] for part in parts) for stage in parts[0].seconds})

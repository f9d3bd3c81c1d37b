"""Places in three years, ranked by how much more developed each looks to a network."""

import numpy as np
from PIL import Image
from scipy.special import logit

from helpers.land.classes import CLASS_NAMES

# The class; ``classes.DEVELOPED`` is the map group.
DEVELOPED_CLASS = CLASS_NAMES.index("Developed")
# A picture has 256 px of 0.6 m. So a window shows 77 m, as much ground as a photograph of UC Merced.
WINDOW_PX, STEP_PX = 128, 64


def windows(pictures: np.ndarray) -> np.ndarray:
    """Overlapping windows of pictures (N, h, w, 3), row by row: (N, windows, WINDOW_PX, WINDOW_PX, 3)."""
    seen = np.lib.stride_tricks.sliding_window_view(pictures, (WINDOW_PX, WINDOW_PX), axis=(1, 2))
    seen = np.moveaxis(seen[:, ::STEP_PX, ::STEP_PX], 3, -1)
    return seen.reshape(len(pictures), -1, WINDOW_PX, WINDOW_PX, 3)


def probabilities(engine, pictures: np.ndarray, input_px: tuple) -> np.ndarray:
    """An engine's probabilities for each window of pictures, averaged over its eight turns: (N, windows, classes).

    From the air, land looks the same whichever way is up. So the eight differ by the network's errors alone.
    """
    found = []
    for picture in windows(pictures):
        tiles = np.array([np.asarray(Image.fromarray(one).resize(input_px[::-1], Image.BILINEAR)) for one in picture])
        turns = [np.rot90(tiles[:, :, ::flip], turn, axes=(1, 2)) for flip in (1, -1) for turn in range(4)]
        found.append(engine.score(np.concatenate(turns)).reshape(len(turns), len(tiles), -1).mean(axis=0))
    return np.array(found)


def newly_developed(by_year: np.ndarray) -> np.ndarray:
    """How much more developed each place looks since the change: the rise of the log-odds of Developed, (N,).

    ``by_year`` are the ``probabilities`` of three years. The change may lie before or after the second picture. The
    rise is computed for both cases, and the larger one counts. A network from elsewhere may call bare ground in a town
    developed, only less surely than houses. Probabilities near 1 hide this difference, log-odds show it.
    """
    first, middle, last = logit(np.clip(by_year[..., DEVELOPED_CLASS], 1e-6, 1 - 1e-6))
    early, late = (middle + last) / 2 - first, last - (first + middle) / 2
    return np.maximum(early, late).mean(axis=-1)


def rule_2017(by_year: np.ndarray) -> np.ndarray:
    """Whether the likeliest class of each place is another one in the first year, and Developed in the last year."""
    before, after = by_year[[0, -1]].mean(axis=2).argmax(axis=-1)
    return (before != DEVELOPED_CLASS) & (after == DEVELOPED_CLASS)


def measured(scores: np.ndarray, rule: np.ndarray, true: np.ndarray) -> dict:
    """How well scores rank the true places, and how many true and other places the rule of 2017 finds.

    ``best_rank`` is the mean rank of a perfect ranking.
    """
    ranks = np.flatnonzero(true[np.argsort(-np.asarray(scores), kind="stable")]) + 1
    best = np.arange(1, len(ranks) + 1)
    return {"ranks": ranks.tolist(), "mean_rank": float(ranks.mean()), "best_rank": float(best.mean()),
            "average_precision": float((best / ranks).mean()),
            "rule_hits": int((rule & true).sum()), "rule_false": int((rule & ~true).sum())}

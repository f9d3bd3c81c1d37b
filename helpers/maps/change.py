"""From classes on a grid to what changed: smoothing, newly developed candidates, and counts.

Tiles are numbered as on the ground: ``row`` grows to the north, ``col`` to the east. Arrays are north-up, as
pictures are: their first row is the northernmost, so array row ``i`` holds grid row ``top_row - i``.
"""

from collections import namedtuple

import numpy as np
import pandas as pd

from helpers import InputError
from helpers.land.classes import CLASS_NAMES, DEVELOPED, GROUPS, NO_CLASS, group_of_class, group_of_prediction
from helpers.land.grid import TILE_M, from_grid, to_grid

Score = namedtuple("Score", "precision recall true_candidates candidates truth")


def smooth(values, n_values, centre_weight=3, fill=NO_CLASS):
    """Give each tile the plurality of its 3 × 3 neighbourhood, to remove isolated tiles.

    The centre's own vote weighs more. A neighbour that does not exist (beyond the border, or ``fill``) has no
    vote. A tile changes only if one other value has more votes than every other one: at a tie it keeps its own.

    Parameters
    ----------
    values : numpy.ndarray
        Shape (height, width), integers 0 to ``n_values`` - 1 or ``fill``.
    n_values : int
        6 for classes, 3 for groups.
    centre_weight : int
        Votes of the centre. The 2017 tutorial weighs it more than 1 and doesn't say how much; with 3 the corner of
        a block keeps its value (3 + 3 votes against 5), and a pair of tiles goes (3 + 1 against 7).
    fill : int
        Marks places without a tile; they stay as they are.

    Returns
    -------
    numpy.ndarray
        Same shape and dtype.

    References
    ----------
    Azure/Embarrassingly-Parallel-Image-Classification, ``land_use_prediction.md``: "a 3x3 plurality-voting filter
    (with added weight for the center tile's own predicted label)".
    """
    values = np.asarray(values)
    height, width = values.shape
    # (n_values, height + 2, width + 2): one layer of zeros around the grid stands for neighbours without a vote.
    holds = np.zeros((n_values, height + 2, width + 2), dtype=np.int32)
    holds[:, 1:-1, 1:-1] = values == np.arange(n_values)[:, None, None]
    votes = sum(holds[:, i:i + height, j:j + width] for i in range(3) for j in range(3))
    votes += (centre_weight - 1) * holds[:, 1:-1, 1:-1]
    most = votes.max(axis=0)
    clear = (votes == most).sum(axis=0) == 1
    return np.where(clear & (values != fill), votes.argmax(axis=0), values).astype(values.dtype)


def smooth_tiles(row, col, values, n_values, centre_weight=3):
    """``smooth`` for a table of tiles.

    Parameters
    ----------
    row, col : array_like of int
        Shape (N,).
    values : array_like
        Shape (N,), class or group ids; missing ones stay missing and have no vote.
    n_values, centre_weight
        As for ``smooth``.

    Returns
    -------
    numpy.ndarray
        Shape (N,), int16; ``NO_CLASS`` where a value is missing.
    """
    grid = to_grid(row, col, values, fill=NO_CLASS)
    return from_grid(grid._replace(values=smooth(grid.values, n_values, centre_weight)), row, col)


def _check_once(name, table):
    repeated = int(table["tile_id"].duplicated().sum())
    if repeated:
        raise InputError("expected one row for each tile in {}, got {} repeated. Take one county and year at a "
                         "time.".format(name, repeated))


def probability_of(predictions, group_id):
    """Probability that a tile is in a map group: the sum over the group's classes.

    Parameters
    ----------
    predictions : pandas.DataFrame
        With ``probabilities``, for each row an array over the six classes, or None where there was an error.
    group_id : int

    Returns
    -------
    numpy.ndarray
        Shape (N,), float64; NaN where there was an error.
    """
    members = np.flatnonzero(group_of_class(np.arange(len(CLASS_NAMES))) == group_id)
    return np.array([np.nan if p is None or np.ndim(p) == 0 else np.asarray(p, dtype=np.float64)[members].sum()
                     for p in predictions["probabilities"]], dtype=np.float64)


def candidates_2017(labels, before, after):
    """Newly developed tiles by the rule of 2017: not labelled Developed in the first year, predicted so later.

    The rule looks at no picture of the first year, so whatever looks developed in the second year's light comes
    along; the ranking puts those first whose probability rose most between the two years' pictures.

    Parameters
    ----------
    labels : pandas.DataFrame
        ``tile_id``, ``row``, ``col`` and ``group``, the map group by the first year's labels.
    before, after : pandas.DataFrame
        Prediction tables of the two years' pictures, one county.

    Returns
    -------
    pandas.DataFrame
        A row for each candidate: ``tile_id``, ``row``, ``col``, ``group``, ``class_before``, ``class_after``,
        ``probability_before``, ``probability_after`` (of Developed) and ``gain`` (their difference), by falling
        gain, then by ``tile_id``; a tile without a prediction in the first year comes last.

    Raises
    ------
    InputError
        If a table has a tile twice, or ``labels`` and ``after`` share no tile.
    """
    for name, table in (("labels", labels), ("before", before), ("after", after)):
        _check_once(name, table)
    if not labels["tile_id"].isin(after["tile_id"]).any():
        raise InputError("expected labels and predictions of the same tiles, got {} and {} with none in common. "
                         "Read both for the same county.".format(len(labels), len(after)))

    def probabilities(table, when):
        return pd.DataFrame({"tile_id": table["tile_id"].to_numpy(), "class_" + when: table["class_id"].to_numpy(),
                             "probability_" + when: probability_of(table, DEVELOPED)})
    tiles = (labels[["tile_id", "row", "col", "group"]]
             .merge(probabilities(after, "after"), on="tile_id")
             .merge(probabilities(before, "before"), on="tile_id", how="left"))
    developed = group_of_prediction(tiles["class_after"]) == DEVELOPED
    found = tiles[developed & (tiles["group"] != DEVELOPED)].copy()
    found["gain"] = found["probability_after"] - found["probability_before"]
    found = found.sort_values(["gain", "tile_id"], ascending=[False, True], na_position="last")
    return found[["tile_id", "row", "col", "group", "class_before", "class_after", "probability_before",
                  "probability_after", "gain"]].reset_index(drop=True)


def score_candidates(candidates, truth):
    """Precision and recall of candidates.

    Parameters
    ----------
    candidates, truth : pandas.DataFrame
        Tiles as ``row`` and ``col``; ``truth`` holds those that really were developed.

    Returns
    -------
    Score
        ``precision`` (the share of candidates that is true; NaN without candidates), ``recall`` (the share of the
        truth that was found; NaN without truth), and the counts behind them.
    """
    found = set(zip(candidates["row"].astype(int), candidates["col"].astype(int)))
    real = set(zip(truth["row"].astype(int), truth["col"].astype(int)))
    both = len(found & real)
    return Score(both / len(found) if found else float("nan"), both / len(real) if real else float("nan"),
                 both, len(found), len(real))


def group_counts(groups):
    """Tiles, area and share of each map group.

    Parameters
    ----------
    groups : array_like of int
        Shape (N,), group ids; missing ones (NA or ``NO_CLASS``) are counted in a last row where there are any.

    Returns
    -------
    pandas.DataFrame
        Index: the group's name; ``tiles``, ``area_km2`` and ``share`` (of all N tiles, 0 to 1).
    """
    groups = pd.Series(np.asarray(groups) if not isinstance(groups, pd.Series) else groups)
    groups = groups.where(groups.notna(), NO_CLASS).astype(int).to_numpy()
    names, tiles = [g.name for g in GROUPS], [int((groups == g.group_id).sum()) for g in GROUPS]
    if (groups == NO_CLASS).any():
        names, tiles = names + ["No prediction"], tiles + [int((groups == NO_CLASS).sum())]
    tiles = np.array(tiles)
    return pd.DataFrame({"tiles": tiles, "area_km2": tiles * (TILE_M / 1000) ** 2,
                         "share": tiles / max(1, len(groups))}, index=pd.Index(names, name="group"))

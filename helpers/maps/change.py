"""Changes between two maps of a county: smoothing, candidates of the rule of 2017, and areas."""

import numpy as np
import pandas as pd
from scipy.ndimage import convolve

from helpers import InputError
from helpers.land.classes import CLASS_NAMES, DEVELOPED, GROUPS, NO_CLASS, group_of_class, group_of_prediction
from helpers.land.grid import TILE_M, from_grid, to_grid
from helpers.model.evaluation import stacked


def smooth(values: np.ndarray, n_values: int) -> np.ndarray:
    """Give each tile the commonest value of its 3 × 3 neighbourhood, to remove isolated tiles; ties change nothing.

    ``values``, (height, width), are 0 to ``n_values`` - 1, or ``NO_CLASS`` for tiles without a vote. As in 2017, the
    centre has more votes (``land_use_prediction.md``). With three, the corner tile of a block keeps its value (3 own
    votes and 3 of neighbours, against 5). Pairs of tiles disappear.
    """
    holds = (values == np.arange(n_values)[:, None, None]).astype(np.int32)
    votes = convolve(holds, [[[1, 1, 1], [1, 3, 1], [1, 1, 1]]], mode="constant")
    clear = (votes == votes.max(axis=0)).sum(axis=0) == 1
    return np.where(clear & (values != NO_CLASS), votes.argmax(axis=0), values).astype(values.dtype)


def smooth_tiles(row: pd.Series, col: pd.Series, values: pd.Series, n_values: int) -> np.ndarray:
    """``smooth`` for a table of tiles: (N,) int16, ``NO_CLASS`` where a value is missing."""
    grid = to_grid(row, col, values)
    return from_grid(grid._replace(values=smooth(grid.values, n_values)), row, col)


def probability_of(predictions: pd.DataFrame, group_id: int) -> np.ndarray:
    """The probability that each tile is in a map group, summed over the group's classes; NaN after an error."""
    members = np.flatnonzero(group_of_class(np.arange(len(CLASS_NAMES))) == group_id)
    return stacked(predictions)[:, members].sum(axis=1)


def candidates_2017(labels: pd.DataFrame, before: pd.DataFrame, after: pd.DataFrame) -> pd.DataFrame:
    """Newly developed tiles by the rule of 2017: another label in the first year, Developed predicted in the second.

    ``labels`` are the first year's ``tile_id``, ``row``, ``col`` and ``group``, ``before`` and ``after`` predictions.
    Candidates are sorted by falling ``gain``, the rise of the probability of Developed; a missing one comes last.
    """
    for name, table in (("labels", labels), ("before", before), ("after", after)):
        if repeated := int(table["tile_id"].duplicated().sum()):
            raise InputError(f"expected one row for each tile in {name}, got {repeated} repeated. Take one county and "
                             "year at a time.")
    if not labels["tile_id"].isin(after["tile_id"]).any():
        raise InputError(f"expected labels and predictions of the same tiles, got {len(labels)} and {len(after)} with "
                         "none in common. Read both for the same county.")
    tiles = labels[["tile_id", "row", "col", "group"]]
    for when, table, how in (("before", before, "left"), ("after", after, "inner")):
        tiles = tiles.merge(pd.DataFrame({
            "tile_id": table["tile_id"].to_numpy(), f"class_{when}": table["class_id"].to_numpy(),
            f"probability_{when}": probability_of(table, DEVELOPED)}), on="tile_id", how=how)
    developed = group_of_prediction(tiles["class_after"]) == DEVELOPED
    found = tiles[developed & (tiles["group"] != DEVELOPED)]
    found = found.assign(gain=found["probability_after"] - found["probability_before"])
    return found.sort_values(["gain", "tile_id"], ascending=[False, True], ignore_index=True)


def group_areas(groups: pd.Series) -> pd.Series:
    """The area of each map group in km², by name, and of the tiles without a prediction if there are any."""
    names = {group.group_id: group.name for group in GROUPS}
    tiles = pd.Series(groups, dtype="Int64").map(names).fillna("No prediction").value_counts()
    order = [*names.values(), *({"No prediction"} & set(tiles.index))]
    return tiles.reindex(order, fill_value=0).rename_axis("group") * (TILE_M / 1000) ** 2

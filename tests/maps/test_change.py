import collections

import numpy as np
import pandas as pd
import pytest

from helpers import InputError
from helpers.land.classes import CULTIVATED, DEVELOPED, NO_CLASS, UNDEVELOPED
from helpers.land.grid import from_grid, to_grid
from helpers.maps import change


def scattered(seed, n=300, size=25):
    """Tiles scattered over a grid."""
    rng = np.random.RandomState(seed)
    chosen = rng.choice(size * size, n, replace=False)
    return 20900 + chosen // size, 1400 + chosen % size, rng


def smooth_by_loops(values):
    smoothed = values.copy()
    height, width = values.shape
    for i in range(height):
        for j in range(width):
            if values[i, j] == NO_CLASS:
                continue
            votes = collections.Counter()
            for di in (-1, 0, 1):
                for dj in (-1, 0, 1):
                    if 0 <= i + di < height and 0 <= j + dj < width and values[i + di, j + dj] != NO_CLASS:
                        votes[values[i + di, j + dj]] += 3 if di == dj == 0 else 1
            winners = [v for v, n in votes.items() if n == max(votes.values())]
            smoothed[i, j] = winners[0] if len(winners) == 1 else values[i, j]
    return smoothed


@pytest.mark.parametrize("n_values, dtype", [(3, np.int16), (6, np.int8)])
def test_smoothing_agrees_with_counting_votes_one_by_one(n_values, dtype):
    rng = np.random.RandomState(n_values)
    values = rng.randint(0, n_values, (30, 41)).astype(dtype)
    values[rng.rand(30, 41) < 0.15] = NO_CLASS
    smoothed = change.smooth(values, n_values)
    assert smoothed.dtype == dtype
    assert (smoothed == smooth_by_loops(values)).all()
    assert (smoothed != values).any()


def test_smoothing_removes_isolated_tiles_and_keeps_blocks():
    values = np.zeros((12, 12), dtype=np.int8)
    values[2, 2] = 1                 # a single tile
    values[2, 7:9] = 1               # a pair
    values[7:10, 7:10] = 1           # a block
    smoothed = change.smooth(values, 3)
    assert smoothed[:6].sum() == 0
    assert (smoothed[7:10, 7:10] == 1).all() and smoothed.sum() == 9


def test_smoothing_keeps_the_centre_at_a_tie_and_counts_only_neighbours_that_exist():
    # In a corner three neighbours exist: three votes against three change nothing.
    assert change.smooth(np.array([[0, 1], [1, 1]]), 3)[0, 0] == 0
    # On an edge five exist, and change it.
    assert change.smooth(np.array([[1, 0, 1], [1, 1, 1]]), 3)[0, 1] == 1
    # A place without a tile has no vote and gets no value.
    assert change.smooth(np.array([[-1, 0, -1], [-1, -1, -1]]), 3).tolist() == [[-1, 0, -1], [-1, -1, -1]]


def test_smoothing_a_table_is_smoothing_its_grid():
    row, col, rng = scattered(3, n=500)
    values = pd.Series(rng.randint(0, 3, 500)).astype("Int8")
    values[:20] = pd.NA
    smoothed = change.smooth_tiles(row, col, values, 3)
    grid = to_grid(row, col, values)
    assert (smoothed == from_grid(grid._replace(values=change.smooth(grid.values, 3)), row, col)).all()
    assert (smoothed[:20] == NO_CLASS).all() and (smoothed[20:] != NO_CLASS).all()


def predictions(developed):
    """A prediction table from probabilities of Developed; the rest goes to Forest. None is an error row."""
    rows = []
    for i, p in enumerate(developed):
        class_id = None if p is None else (5 if p > 0.5 else 1)
        rows.append({"tile_id": f"t{i}", "class_id": class_id,
                     "probabilities": None if p is None else np.array([0, 1 - p, 0, 0, 0, p], dtype=np.float32)})
    return pd.DataFrame(rows).astype({"class_id": "Int8"})


LABELS = pd.DataFrame({"tile_id": [f"t{i}" for i in range(7)], "row": range(7), "col": 3,
                       "group": [UNDEVELOPED] * 2 + [DEVELOPED, CULTIVATED] + [UNDEVELOPED] * 3})
BEFORE = predictions([0.1, 0.6, 0.1, 0.0, 0.2, None, 0.3])
AFTER = predictions([0.9, 0.8, 0.9, 0.95, 0.4, 0.99, None])


@pytest.mark.parametrize("nulls", ["Int8", "float"])
def test_the_2017_rule_takes_undeveloped_labels_predicted_developed_ranked_by_the_rise(nulls):
    found = change.candidates_2017(LABELS, BEFORE.astype({"class_id": nulls}), AFTER.astype({"class_id": nulls}))
    # t2 was developed already, t4 is not predicted Developed, t6 has no score of 2016, and t5 has none of 2010.
    assert found["tile_id"].tolist() == ["t3", "t0", "t1", "t5"]
    assert np.allclose(found["gain"], [0.95, 0.8, 0.2, np.nan], equal_nan=True)
    assert found["row"].tolist() == [3, 0, 1, 5] and found["group"].tolist() == [1, 2, 2, 2]
    assert np.allclose(found["probability_after"], [0.95, 0.9, 0.8, 0.99])


def test_the_order_of_rows_changes_nothing():
    mixed = [t.sample(frac=1, random_state=2) for t in (LABELS, BEFORE, AFTER)]
    pd.testing.assert_frame_equal(change.candidates_2017(*mixed), change.candidates_2017(LABELS, BEFORE, AFTER))


def test_candidates_refuse_two_years_in_one_table_and_another_county():
    with pytest.raises(InputError, match="in after, got 7 repeated"):
        change.candidates_2017(LABELS, BEFORE, pd.concat([AFTER, AFTER]))
    with pytest.raises(InputError, match="none in common"):
        change.candidates_2017(LABELS.assign(tile_id="x" + LABELS["tile_id"]), BEFORE, AFTER)


def test_areas_of_groups_add_up_to_the_county():
    areas = change.group_areas([0, 2, 2, 1, 2])
    assert areas.index.tolist() == ["Developed", "Cultivated", "Undeveloped"]
    assert areas.tolist() == pytest.approx([n * 0.224 ** 2 for n in (1, 1, 3)])
    assert change.group_areas([2, 2]).tolist() == pytest.approx([0, 0, 2 * 0.224 ** 2])
    missing = change.group_areas(pd.Series([0, None, 2], dtype="Int8"))
    assert missing["No prediction"] == pytest.approx(0.224 ** 2) and missing.sum() == pytest.approx(3 * 0.224 ** 2)

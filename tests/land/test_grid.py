import numpy as np
import pandas as pd
import pytest
import shapely

import scenes
from helpers import InputError
from helpers.land import grid
from helpers.land.classes import NO_CLASS


def test_pixel_to_map_to_pixel_returns_home():
    rng = np.random.default_rng(0)
    for _ in range(200):
        row, col = int(rng.integers(1, 40000)), int(rng.integers(1, 4000))
        pixel_row, pixel_col = (int(v) for v in rng.integers(0, 224, 2))
        x, y = scenes.pixel_to_map(row, col, pixel_row, pixel_col)
        assert tuple(int(v) for v in scenes.map_to_pixel(x, y)) == (row, col, pixel_row, pixel_col)


def test_the_upper_left_pixel_lies_in_the_upper_left_corner():
    x, y = scenes.pixel_to_map(10, 20, 0, 0)
    left, bottom, right, top = grid.tile_bounds(10, 20)
    assert (x - left, top - y) == (0.5, 0.5)
    assert (right - left, top - bottom) == (224, 224)
    assert left % 224 == 0 and bottom % 224 == 0


def test_county_tiles_are_those_with_their_centre_inside():
    tiles, crs = grid.county_tiles(scenes.county_boundary())
    assert crs == scenes.CRS
    assert len(tiles) == scenes.ROWS * scenes.COLS
    assert tiles["row"].max() == scenes.ROW and tiles["col"].min() == scenes.COL
    assert tiles["tile_id"].iloc[0] == f"utm19-{scenes.ROW:05d}-{scenes.COL:05d}"
    assert tiles["tile_id"].is_unique


def test_a_tile_keeps_its_id_in_a_neighbouring_county():
    whole = grid.county_tiles(scenes.county_boundary())[0]
    shifted = shapely.affinity.translate(scenes.county_boundary(), xoff=0.004)
    both = whole.merge(grid.county_tiles(shifted)[0], on=["row", "col"])
    assert len(both) > 10 and (both["tile_id_x"] == both["tile_id_y"]).all()


def test_nine_points_are_a_3_by_3_grid_inside_the_tile():
    x, y = grid.nine_points([10], [20])
    assert sorted(set(x[0] - 20 * 224)) == [56, 112, 168]
    assert list(y[0] - 10 * 224) == [168] * 3 + [112] * 3 + [56] * 3


@pytest.mark.parametrize("boundary, words", [
    (shapely.box(10, 50, 11, 51), "North America"),
    (shapely.box(300000, 4690000, 310000, 4700000), "EPSG:4326"),
    (shapely.box(-71, 42, -70.9999, 42.0001), "at least one 224 m tile"),
])
def test_boundaries_that_cannot_be_used(boundary, words):
    with pytest.raises(InputError, match=words):
        grid.county_tiles(boundary)


def test_the_first_row_of_a_grid_is_the_northernmost():
    laid = grid.to_grid([10, 12, 11], [5, 5, 7], [1, 2, 3], fill=9)
    assert laid.values.tolist() == [[2, 9, 9], [9, 9, 3], [1, 9, 9]]
    assert (laid.top_row, laid.left_col) == (12, 5)


def test_tiles_to_grid_to_tiles_returns_home():
    rng = np.random.RandomState(1)
    tiles = rng.choice(25 * 25, 300, replace=False)
    row, col = 20900 + tiles // 25, 1400 + tiles % 25
    whole, real = rng.randint(0, 6, 300), rng.rand(300).astype(np.float32)
    for values in (whole, real):
        laid = grid.to_grid(row, col, values)
        assert (grid.from_grid(laid, row, col) == values).all()
        assert (laid.values != NO_CLASS).sum() == 300
    assert grid.to_grid(row, col, whole).values.dtype == np.int16


@pytest.mark.parametrize("missing", [
    pd.Series([1, None, 3], dtype="Int8"), pd.Series([1, np.nan, 3]), np.array([1, None, 3], dtype=object)])
def test_missing_values_become_fill(missing):
    assert grid.to_grid([0, 0, 0], [0, 1, 2], missing).values.tolist() == [[1, NO_CLASS, 3]]


def test_grids_refuse_two_values_for_a_tile_no_tile_and_tiles_outside():
    with pytest.raises(InputError, match="got 3 values for 2 tiles"):
        grid.to_grid([1, 1, 2], [4, 4, 4], [0, 0, 0])
    with pytest.raises(InputError, match="got none"):
        grid.to_grid([], [], [])
    with pytest.raises(InputError, match="rows 1 to 2 and columns 4 to 4"):
        grid.from_grid(grid.to_grid([1, 2], [4, 4], [0, 0]), [3], [4])

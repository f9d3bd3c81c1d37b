import numpy as np
import pytest
import rasterio
from rasterio.warp import transform

import scenes
from helpers import InputError
from helpers.land import grid
from helpers.land.classes import NODATA_CODE, NO_CLASS, label_tiles
from helpers.land.labels import label_counts, read_labels

TILES = grid.county_tiles(scenes.county_boundary())[0]
LAKE = (scenes.LEFT + 336, scenes.TOP - 336)


def patches(x, y):
    """Land cover in squares of 170 m, and a lake."""
    codes = np.array([41, 42, 21, 22, 82, 52, 71, 31, 90, 11])
    chosen = codes[((x // 170).astype(int) * 7 + (y // 170).astype(int) * 3) % len(codes)]
    return np.where(np.hypot(x - LAKE[0], y - LAKE[1]) < 180, 11, chosen)


def test_labels_agree_with_an_independent_count(tmp_path):
    href = scenes.write_labels(tmp_path / "nlcd.tif", patches)
    counts, nine = label_counts(href, TILES, scenes.CRS)
    with rasterio.open(href) as raster:
        codes = raster.read(1)
        for i, tile in enumerate(TILES.itertuples()):
            left, bottom, right, top = grid.tile_bounds(tile.row, tile.col)
            expected = np.zeros(256, int)
            for r in range(raster.height):  # one pixel at a time, from the map's side
                xs, ys = raster.xy(np.full(raster.width, r), np.arange(raster.width))
                xs, ys = map(np.asarray, transform(raster.crs, scenes.CRS, xs, ys))
                inside = (xs >= left) & (xs < right) & (ys >= bottom) & (ys < top)
                np.add.at(expected, codes[r][inside], 1)
            assert (counts[i] == expected).all()
            px, py = grid.nine_points([tile.row], [tile.col])
            mx, my = transform(scenes.CRS, raster.crs, px[0], py[0])
            assert nine[i].tolist() == [int(v[0]) for v in raster.sample(zip(mx, my))]
            if i == 11:
                break
    assert 50 <= counts.sum(axis=1).min() and counts.sum(axis=1).max() <= 62  # (224 / 30)² is 55.8


def test_unknown_codes_are_refused_and_nodata_is_not_counted(tmp_path):
    href = scenes.write_labels(tmp_path / "odd.tif", lambda x, y: np.where(x < scenes.LEFT + 300, 77, 41))
    with pytest.raises(InputError, match="got 77"):
        label_counts(href, TILES, scenes.CRS)
    href = scenes.write_labels(tmp_path / "part.tif", lambda x, y: np.where(x < scenes.LEFT + 300, 250, 41))
    counts, _ = label_counts(href, TILES, scenes.CRS)
    west = (TILES.col == scenes.COL).to_numpy()
    assert counts[west].sum() == 0 and counts[~west].sum() > 0
    assert (label_tiles(counts)[1][west] == NO_CLASS).all()


def test_labels_elsewhere_are_refused(tmp_path):
    href = scenes.write_labels(tmp_path / "nlcd.tif", patches)
    far = TILES.assign(row=TILES.row - 2000)
    with pytest.raises(InputError, match="over the county"):
        label_counts(href, far, scenes.CRS)


def test_label_pixels_lie_where_the_raster_says(tmp_path):
    def codes_of(x, y):
        return np.where((x - scenes.LEFT) // 100 % 2 == 0, 41, 82)
    path = scenes.write_labels(tmp_path / "labels.tif", codes_of)
    bounds = grid.tile_bounds(scenes.ROW - 2, scenes.COL + 2)
    codes, corners = read_labels(path, bounds, scenes.CRS)
    assert corners.shape == codes.shape + (4, 2)
    centre = corners.mean(axis=2)
    assert (codes_of(centre[..., 0], centre[..., 1]) == codes).all()
    # Together the pixels cover the tile, each 30 m wide, within the distortion between the two projections.
    assert (corners.reshape(-1, 2).min(axis=0) <= bounds[:2]).all()
    assert (corners.reshape(-1, 2).max(axis=0) >= bounds[2:]).all()
    assert np.hypot(*(corners[:, :, 1] - corners[:, :, 0]).T) == pytest.approx(30, rel=0.01)
    # Beyond the raster there is nothing.
    beyond = read_labels(path, (bounds[0] + 1200, bounds[1], bounds[2] + 1200, bounds[3]), scenes.CRS)[0]
    assert (beyond[:, -2:] == NODATA_CODE).all() and (beyond != NODATA_CODE).any()
    with pytest.raises(InputError, match="over the county"):
        read_labels(path, (bounds[0] + 9000, bounds[1], bounds[2] + 9000, bounds[3]), scenes.CRS)

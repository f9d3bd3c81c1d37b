"""Cells of tiles: on made-up pictures, and on those of the default run."""

import numpy as np
import pandas as pd
import pytest

import scenes
import tiny
from helpers import InputError
from helpers.land.grid import TILE_M
from helpers.maps import cells as module
from helpers.maps.cells import Cells, Heads, Views, judge, labelled_cells
from helpers.tiles import store as tilestore
from helpers.tiles.pictures import decode_all


@pytest.fixture(scope="module")
def some(run):
    """Twelve tiles of the validation county, decoded."""
    return decode_all(tilestore.read(run.tiles, split="validation", columns=["tile_id", "image"]).head(12))


def test_a_cell_is_described_by_what_lies_in_it(cells, some):
    features = cells.describe(some)
    assert features.shape == (12, 14, 14, cells.n_features) and features.dtype == np.float16
    block = some[3, 16 * 5:16 * 6, 16 * 9:16 * 10].reshape(-1, 3).astype(float)
    assert features[3, 5, 9, -6:] == pytest.approx(np.concatenate([block.mean(axis=0), block.std(axis=0)]), rel=2e-3,
                                                   abs=0.05)
    assert (cells.describe(some, batch=5) == features).all()


def test_cells_are_north_up_as_the_network_sees_them(cells, some):
    """A change in a corner of a picture changes the features of that corner, and not those of the opposite corner."""
    changed = some[:1].copy()
    changed[0, :32, -32:] = 255 - changed[0, :32, -32:]
    difference = np.abs(cells.describe(changed).astype(float) - cells.describe(some[:1])).mean(axis=-1)[0]
    assert difference[:2, -2:].mean() > 5 * difference[-5:, :5].mean()


def test_a_network_without_maps_is_refused(tmp_path):
    with pytest.raises(InputError, match="averages feature maps"):
        Cells(tiny.model(tmp_path / "tiny"))


def test_labels_of_cells_lie_where_the_raster_has_them(tmp_path):
    """A raster developed in the north-west of a point: cells around it, of a raster in another projection."""
    edge, level = scenes.LEFT + 700, scenes.TOP - 600
    path = scenes.write_labels(tmp_path / "labels.tif", lambda x, y: np.where((x < edge) & (y > level), 22, 41))
    row, col = int(level // TILE_M), int(edge // TILE_M)
    tiles = pd.DataFrame({"row": [row, row, row - 1, row + 1], "col": [col, col + 1, col, col - 1]})
    share = labelled_cells(path, tiles, scenes.CRS, 14)
    assert share.shape == (4, 14, 14)
    along = (np.arange(14) + 0.5) * 16
    for tile, r, c in zip(share, tiles["row"], tiles["col"]):
        x, y = np.meshgrid(c * TILE_M + along, (r + 1) * TILE_M - along)
        inside = (x < edge - 45) & (y > level + 45)
        outside = (x > edge + 45) | (y < level - 45)  # within a pixel and a half of the lines, any value is right
        assert (tile[inside] == 1).all() and (tile[outside] == 0).all()
    assert share[3].min() == 1


class CountingCells:
    """Describes made-up pictures, whose pixels are numbers, and counts them."""
    side, n_features, input_px, seen = 2, 3, None, 0

    def describe(self, tiles):
        self.seen += len(tiles)
        return np.repeat(tiles, 12).reshape(-1, 2, 2, 3).astype(np.float16)


class Half:
    def predict_proba(self, features):
        return np.full((len(features), 2), 0.5)


def test_each_picture_goes_through_the_network_once(monkeypatch):
    tiles = pd.DataFrame({"row": np.repeat([7, 8, 11], 4), "col": list(range(4)) * 3, "group": 2, "label": 1})
    tiles["tile_id"], tiles["image"] = [f"t{i}" for i in range(12)], np.arange(12.0)

    def read(store, county, year, columns, row=None):
        found = tiles if row is None else tiles[tiles["row"] == row]
        return found.assign(image=found["image"] * (1 if year == 2010 else 3))[columns]
    monkeypatch.setattr(tilestore, "read", read)
    monkeypatch.setattr(tilestore, "manifest", lambda *args, **options: {"crs": "EPSG:26911"})
    monkeypatch.setattr(module, "decode_all", lambda frame, size: frame["image"].to_numpy())
    monkeypatch.setattr(module, "KEPT_BYTES", 1)  # one row gives the average, the others are not kept
    counting = CountingCells()
    views = Views(counting, "store", "99001", (2010, 2016))
    judgement = judge(views, [Heads(Half(), Half())] * 2)
    assert counting.seen == 2 * len(tiles)
    assert (judgement.new == 0.5).all() and np.median(judgement.distance) == pytest.approx(1)


def test_a_county_needs_both_years(cells, run):
    with pytest.raises(InputError):
        Views(cells, str(run.tiles), "99007", (2010, 2099))


def test_a_county_too_large_to_be_kept_is_the_same(cells, run, monkeypatch):
    """Rows that are not kept are described again."""
    def kept(tiles):
        monkeypatch.setattr(module, "KEPT_BYTES", tiles * cells.side ** 2 * cells.n_features * 2)
        return Views(cells, str(run.tiles), "99003", (2010, 2016))
    more, fewer = kept(120), kept(30)
    assert len(fewer._kept) == 1 < len(more._kept) < len(np.unique(more.tiles["row"]))
    fewer.usual = more.usual
    several = set(more._kept) | set(fewer._kept)
    fewer.rows = more.rows = np.array(sorted(several))
    strips = list(zip(more.strips(), fewer.strips()))
    assert len(strips) == len(several)
    for (a, before, after), (b, before_2, after_2) in strips:
        assert (a == b).all() and np.allclose(before, before_2) and np.allclose(after, after_2)
        assert set(more.tiles["row"][a]) < several and abs(before.mean()) < 0.5

"""From a county to labelled tiles."""

import numpy as np
import pandas as pd
import pytest
from matplotlib.colors import to_hex

from drawings import BOUNDARY, CRS, county, legend_of, picture, texts_of
from helpers.figures.ground import class_balance, contact_sheet, county_overview, nlcd_panel, tile_with_labels
from helpers.land.classes import CLASS_NAMES, CLASSES, NLCD_LEGEND
from helpers.land.grid import TILE_M


def test_the_overview_draws_every_tile_and_the_boundary_where_they_are(ax):
    scene = picture(90)
    scene[:, :9] = 0
    bounds = (1398 * TILE_M, 20898 * TILE_M, 1418 * TILE_M, 20918 * TILE_M)
    county_overview(ax, [(scene, bounds)], county(), BOUNDARY, "One grid", crs=CRS)
    assert list(legend_of(ax)) == ["tile, 224 m", "edge of a scene", "county boundary"]
    assert len(ax.collections[0].get_paths()) == len(county())
    edges = [patch.get_bbox().bounds for patch in ax.patches]
    assert edges == [pytest.approx((1398 * TILE_M / 1000, 20898 * TILE_M / 1000,
                                    20 * TILE_M / 1000, 20 * TILE_M / 1000))]
    # Nodata is transparent.
    assert (np.asarray(ax.images[0].get_array())[:, :9, 3] == 0).all()
    outline = np.concatenate([line.get_xydata() for line in ax.lines])
    assert outline.min(axis=0) == pytest.approx(np.array(BOUNDARY.bounds[:2]) / 1000)


def test_a_tile_with_its_labels_names_the_codes_that_lie_over_it(ax):
    row, col = 20905, 1405
    corners = np.array([[0, 0], [30, 0], [30, 30], [0, 30]]) + np.array([col, row]) * TILE_M
    pixels = np.stack([corners + (30 * i, 30 * j) for i in range(-2, 9) for j in range(-2, 9)])
    codes = np.array([41 if i < 4 else 82 if j < 8 and i < 8 else 23 for i in range(-2, 9) for j in range(-2, 9)])
    tile_with_labels(ax, picture(), row, col, codes, pixels, np.array([41, 41, 82] * 3), "Mixed")
    legend = legend_of(ax)
    # The pixels of code 23 all lie beyond the tile's edge.
    assert list(legend) == ["41 Deciduous Forest", "82 Cultivated Crops", "point: Forest", "point: Cultivated"]
    assert legend["41 Deciduous Forest"] == NLCD_LEGEND[41][1]
    assert legend["point: Cultivated"] == CLASSES[3].colour
    points = ax.collections[-1].get_offsets()
    assert sorted(set(np.round(points[:, 0]))) == [56, 112, 168] and ax.get_xlim() == (0, 224)


def test_the_nlcd_panel_lists_the_codes_present_with_their_shares(ax):
    codes = np.full((20, 30), 42, dtype=np.uint8)
    codes[:5], codes[5:10, :15] = 250, 11
    nlcd_panel(ax, codes, "Forest and a lake")
    assert legend_of(ax) == {"11 Open Water (17%)": NLCD_LEGEND[11][1],
                             "42 Evergreen Forest (83%)": NLCD_LEGEND[42][1]}
    shown = np.asarray(ax.images[0].get_array())
    assert (shown[:5, :, 3] == 0).all() and to_hex(shown[12, 3]) == NLCD_LEGEND[42][1]


def test_a_contact_sheet_has_a_named_row_for_each_class(ax):
    tiles = [np.full((60, 60, 3), 10 * i + 5, dtype=np.uint8) for i in range(12)]
    contact_sheet(ax, tiles, [5, 1] * 6, "Two classes", per_class=4, tile_px=36)
    assert texts_of(ax) == ["Forest", "Developed"]
    assert [to_hex(p.get_facecolor()) for p in ax.patches] == [CLASSES[1].colour, CLASSES[5].colour]
    sheet = np.asarray(ax.images[0].get_array())
    assert [sheet[10, 10 + 38 * c, 0] for c in range(4)] == [15, 35, 55, 75]
    assert [sheet[48, 10 + 38 * c, 0] for c in range(4)] == [5, 25, 45, 65]


def test_class_balance_counts_pure_and_mixed_tiles(ax):
    tiles = pd.DataFrame({"split": ["train"] * 5 + ["validation"] * 2, "label": [1, 1, 1, 5, None, 1, 5],
                          "purity": [1.0, 0.9, 0.5, 0.95, 0.8, 0.6, 1.0]})
    class_balance(ax, tiles, "Few")
    legend = legend_of(ax)
    assert list(legend)[:6] == list(CLASS_NAMES) and list(legend)[6:] == ["pure (bold number)", "mixed"]
    assert texts_of(ax)[1:12:6] == ["2", "of 3"]  # of Forest, in the first split
    assert [label.get_text() for label in ax.get_xticklabels()] == ["train\n5 tiles", "validation\n2 tiles"]
    heights = sorted(p.get_height() for p in ax.patches if p.get_y() == 0 and p.get_height())
    assert 2 in heights and to_hex(ax.patches[1].get_facecolor()) == CLASSES[1].colour

"""Maps of tiles, and the sheets of candidates and of real places."""

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
from matplotlib.colors import to_hex

from drawings import BOUNDARY, CRS, RNG, county, legend_of, picture, texts_of, title_of
from helpers import InputError
from helpers.figures import maps as figures
from helpers.figures.style import INK, MARK
from helpers.land.classes import CLASS_NAMES, CLASSES, DEVELOPED, GROUPS
from helpers.land.grid import to_grid


def test_a_county_map_shows_each_tile_in_the_colour_of_its_group(ax):
    tiles = county()
    groups = RNG.randint(0, 3, len(tiles))
    figures.county_map(ax, tiles, groups, "What we found", boundary=BOUNDARY, crs=CRS)
    assert legend_of(ax) == dict({g.name: g.colour for g in GROUPS}, **{"county boundary": INK})
    assert title_of(ax) == "What we found" and "UTM 19N" in ax.get_xlabel()
    shown = ax.images[0]
    left, right, bottom, top = shown.get_extent()
    pixels = np.asarray(shown.get_array())
    # Ask the picture for the colour at each tile's centre, as a reader does with the axes' kilometres.
    for tile, group in zip(tiles.itertuples(), groups):
        x, y = (tile.col + 0.5) * 0.224, (tile.row + 0.5) * 0.224
        i, j = int((top - y) / (top - bottom) * len(pixels)), int((x - left) / (right - left) * pixels.shape[1])
        assert to_hex(pixels[i, j]) == GROUPS[group].colour
    # Outside the county nothing is painted, and the ground there is not the white of Cultivated.
    assert (pixels[..., 3] > 0).sum() == len(tiles) and to_hex(ax.get_facecolor()) != "#ffffff"


def test_a_map_of_classes_names_missing_predictions(ax):
    tiles = county()
    values = pd.Series(RNG.randint(0, 6, len(tiles))).astype("Int8")
    values[3] = pd.NA
    figures.county_map(ax, tiles, values, "Six classes", by="class", boundary=BOUNDARY, crs=CRS)
    legend = legend_of(ax)
    assert list(legend) == list(CLASS_NAMES) + ["no prediction", "county boundary"]
    assert all(legend[c.name] == c.colour for c in CLASSES)
    with pytest.raises(InputError, match="got 'code'"):
        figures.county_map(ax, tiles, values, "", by="code", boundary=BOUNDARY, crs=CRS)


def test_scale_bars_have_the_length_they_name(ax):
    figures.county_map(ax, county(), np.zeros(len(county())), "", boundary=BOUNDARY, crs=CRS)
    bars = [c.get_paths()[0].get_extents() for c in ax.collections if c.get_zorder() == 6]
    length = max(b.x1 for b in bars) - min(b.x0 for b in bars)
    number, unit = next(t for t in texts_of(ax) if t.endswith("m")).split()
    assert length == pytest.approx(float(number) * {"km": 1, "m": 0.001}[unit]) and ax.get_aspect() == 1
    assert "N" in texts_of(ax)


def test_three_panels_share_one_legend_one_title_and_one_scale():
    fig, axes = plt.subplots(1, 3, figsize=(10, 4.4))
    tiles = county()
    groups = RNG.randint(0, 3, (3, len(tiles)))
    figures.three_panels(axes, tiles, list(zip(("Labels", "2010", "2016"), groups)), "The county in three groups",
                         boundary=BOUNDARY, crs=CRS, source="Sample county")
    assert legend_of(axes[0]) == {g.name: g.colour for g in GROUPS}
    assert [title_of(ax) for ax in axes] == ["Labels", "2010", "2016"]
    assert fig._suptitle.get_text() == "The county in three groups" and len(fig.legends) == 1
    assert len({ax.get_xlim() + ax.get_ylim() for ax in axes}) == 1
    for ax, values in zip(axes, groups):
        grid = to_grid(tiles["row"], tiles["col"], values, fill=-1).values
        red = (np.asarray(ax.images[0].get_array())[..., 0] > 0.7) & (grid != 1)
        assert (red == (grid == DEVELOPED)).all()


def test_a_share_map_has_each_tile_in_the_colour_of_its_value(ax):
    tiles = county()
    values = np.linspace(0, 1, len(tiles))
    values[3] = np.nan
    figures.share_map(ax, tiles, values, "Scores", figures.SCORE_RAMP, "score", boundary=BOUNDARY, crs=CRS,
                      mark=tiles[:2])
    ax.figure.canvas.draw()
    shown = ax.images[0].get_array()
    laid = to_grid(tiles["row"], tiles["col"], values, fill=-1).values
    assert np.allclose(shown.filled(-1), np.where(laid < 0, -1, laid)) and shown.mask.sum() == (laid < 0).sum()
    assert list(legend_of(ax)) == ["candidate", "county boundary"]
    edges = {to_hex(c.get_edgecolor()[0]) for c in ax.collections if len(c.get_edgecolor())}
    border = {to_hex(line.get_color()) for line in ax.lines}
    assert MARK in edges and INK in border and MARK not in border | set(figures.SCORE_RAMP)


def test_an_error_map_counts_each_kind(ax):
    tiles = county()
    labels, predicted = np.full(len(tiles), 2), np.full(len(tiles), 2)
    predicted[:4], labels[4:6] = 0, 1
    figures.error_map(ax, tiles, labels, predicted, "Errors", boundary=BOUNDARY, crs=CRS)
    assert set(legend_of(ax)) == {f"as labelled ({len(tiles) - 6})", "Undeveloped, taken for Developed (4)",
                                  "Cultivated, taken for Undeveloped (2)", "county boundary"}
    taken = {to_hex(c.get_facecolor()[0]): c for c in ax.collections if c.get_hatch()}
    # Filled by what it was taken for, hatched by what it is.
    assert set(taken) == {GROUPS[0].colour, GROUPS[2].colour}
    assert [len(taken[GROUPS[k].colour].get_paths()) for k in (0, 2)] == [4, 2]
    assert len({c.get_hatch() for c in taken.values()}) == 2


def test_a_score_adds_up_step_by_step():
    fig, axes = plt.subplots(1, 6, figsize=(12, 2.3))
    judged = [RNG.rand(14, 14) for _ in range(3)]
    terms = {"cells": 5.0, "network": -1.5, "label": 0.5}
    figures.score_step_by_step(axes, [picture(), picture()], judged, terms, -3.0, 0.73, (2010, 2016))
    for ax, cells in zip(axes[2:], judged):
        assert np.allclose(ax.images[0].get_array(), cells)
    bars = axes[5].patches
    assert [bar.get_width() for bar in bars] == [-3, 5, -1.5, 0.5]
    # Each bar begins where the one above ends.
    assert [bar.get_x() for bar in bars[1:]] == [-3, 2, 0.5]
    assert axes[5].get_title(loc="left") == "sum +1.0: score 73.0%"
    assert [label.get_text() for label in axes[5].get_yticklabels()] == ["usual tile", *terms]
    fig.canvas.draw()


def test_candidates_show_both_years_and_their_probabilities(ax):
    candidates = pd.DataFrame({"probability_before": [0.02, np.nan, 0.2], "probability_after": [0.98, 0.9, 0.8],
                               "rank": [1, 2, 3], "tile_id": "utm11-19480-01602", "reason": "The rule of 2017."})
    before = [np.full((50, 50, 3), 40, dtype=np.uint8)] * 3
    after = [np.full((50, 50, 3), 200, dtype=np.uint8)] * 3
    figures.candidate_sheet(ax, candidates, before, after, "New", (2010, 2016), columns=2, tile_px=40)
    assert texts_of(ax)[:5] == ["#1", "2010", "0.02", "2016", "0.98"]
    assert "—" in texts_of(ax) and "#3" in texts_of(ax)
    sheet = np.asarray(ax.images[0].get_array())
    assert {40, 200, 255} == set(np.unique(sheet)) and (sheet == 40).sum() == (sheet == 200).sum() == 3 * 40 * 40 * 3
    # Before stands above after, the third candidate in a second row.
    first, second = np.flatnonzero((sheet[:, 5, 0] == 40)), np.flatnonzero((sheet[:, 5, 0] == 200))
    assert len(first) == len(second) == 80 and first[39] < second[0] < first[40] < second[40]


def test_a_candidate_sheet_tells_score_and_reason(ax):
    candidates = pd.DataFrame({"probability_before": [0.1], "probability_after": [0.9], "score": [0.83], "rank": [27],
                               "tile_id": ["utm11-19480-01602"],
                               "reason": ["About 2 ha; Developed goes up; labelled Forest."]})
    figures.candidate_sheet(ax, candidates, [picture(40)], [picture(40)], "New", (2010, 2016), columns=2, tile_px=40)
    words = " ".join(" ".join(texts_of(ax)).split())
    assert "#27 · 83%" in words and "utm11-19480-01602" in words
    assert "About 2 ha; Developed goes up; labelled Forest." in words


def test_pairs_lie_in_order_of_their_rank(ax):
    places = pd.DataFrame({"rank": [2, 1], "kind": ["random", "newly_developed"], "rule": [False, True]})
    before = np.stack([np.full((64, 64, 3), value, np.uint8) for value in (10, 20)])
    figures.ranked_places(ax, places, before, before + 100, "title", picture_px=64)
    sheet = np.asarray(ax.images[0].get_array())
    row = sheet[sheet.shape[0] - 10, :, 0]
    assert row[[10, 76, 150, 214]].tolist() == [20, 120, 10, 110]
    assert texts_of(ax) == ["#1", "newly developed · rule", "#2", "chosen at random"]


def test_a_legend_of_per_cents_runs_through_the_ramp():
    legend = figures.percent_legend()
    assert list(legend) == list(range(101)) and legend[0] == ("0%", figures.SCORE_RAMP[0])
    assert legend[100] == ("100%", figures.SCORE_RAMP[-1])

import warnings

import matplotlib
import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
import shapely
from matplotlib.colors import to_hex, to_rgb

from helpers import InputError
from helpers.figures import maps as figures
from helpers.land import classes as landcover
from helpers.figures.ground import class_balance, contact_sheet, county_overview, nlcd_panel, tile_with_labels
from helpers.figures.learning import baselines, confusion, reliability, time_against_cores, training_curves
from helpers.figures.style import INK, MARK, as_jpeg, as_png, style
from helpers.land.grid import to_grid
from helpers.land.grid import TILE_M, nine_points

CRS = "EPSG:26919"
RNG = np.random.RandomState(0)
BOUNDARY = shapely.Point(1407.5 * TILE_M, 20907.5 * TILE_M).buffer(7 * TILE_M)


@pytest.fixture(autouse=True)
def canvas():
    """Draw with the tutorial's style, off screen, and fail on any warning."""
    backend = matplotlib.get_backend()
    plt.switch_backend("Agg")
    with warnings.catch_warnings(), plt.rc_context(style()):
        warnings.simplefilter("error")
        yield
    plt.close("all")
    plt.switch_backend(backend)


@pytest.fixture
def ax():
    return plt.subplots(figsize=(7, 4))[1]


def county():
    row, col = (a.ravel() for a in np.mgrid[20900:20915, 1400:1415])
    inside = shapely.contains_xy(BOUNDARY, (col + 0.5) * TILE_M, (row + 0.5) * TILE_M)
    return pd.DataFrame({"row": row[inside], "col": col[inside]})


def picture(size=48):
    return RNG.randint(1, 255, (size, size, 3)).astype(np.uint8)


def legend_of(ax):
    """Label -> colour of a legend; the figure is drawn whole, so that late errors show too."""
    ax.figure.canvas.draw()
    legend = ax.get_legend() or ax.figure.legends[0]
    handles = legend.legend_handles if hasattr(legend, "legend_handles") else legend.legendHandles
    return {text.get_text(): to_hex(handle.get_facecolor() if hasattr(handle, "get_facecolor")
                                    else handle.get_markerfacecolor())
            for text, handle in zip(legend.get_texts(), handles)}


def texts_of(ax):
    return [text.get_text() for text in ax.texts]


def title_of(ax):
    return ax.get_title(loc="left").replace("\n", " ")


def test_the_style_is_known_to_matplotlib_and_importing_changes_nothing():
    assert set(style()) <= set(matplotlib.rcParams)
    assert style()["font.family"] == "DejaVu Sans"


def test_a_county_map_shows_each_tile_in_the_colour_of_its_group(ax):
    tiles = county()
    groups = RNG.randint(0, 3, len(tiles))
    figures.county_map(ax, tiles, groups, "What we found", boundary=BOUNDARY, crs=CRS)
    assert legend_of(ax) == dict({g.name: g.colour for g in landcover.GROUPS}, **{"county boundary": INK})
    assert title_of(ax) == "What we found" and "UTM 19N" in ax.get_xlabel()
    shown = ax.images[0]
    left, right, bottom, top = shown.get_extent()
    pixels = np.asarray(shown.get_array())
    # Ask the picture for the colour at each tile's centre, as a reader does with the axes' kilometres.
    for tile, group in zip(tiles.itertuples(), groups):
        x, y = (tile.col + 0.5) * 0.224, (tile.row + 0.5) * 0.224
        i, j = int((top - y) / (top - bottom) * len(pixels)), int((x - left) / (right - left) * pixels.shape[1])
        assert to_hex(pixels[i, j]) == landcover.GROUPS[group].colour
    # Outside the county nothing is painted, and the ground there is not the white of Cultivated.
    assert (pixels[..., 3] > 0).sum() == len(tiles) and to_hex(ax.get_facecolor()) != "#ffffff"


def test_a_map_of_classes_names_missing_predictions(ax):
    tiles = county()
    values = pd.Series(RNG.randint(0, 6, len(tiles))).astype("Int8")
    values[3] = pd.NA
    figures.county_map(ax, tiles, values, "Six classes", by="class", boundary=BOUNDARY, mark=tiles[:4])
    legend = legend_of(ax)
    assert list(legend) == list(landcover.CLASS_NAMES) + ["no prediction", "candidate", "county boundary"]
    assert all(legend[c.name] == c.colour for c in landcover.CLASSES)
    with pytest.raises(InputError, match="got 'code'"):
        figures.county_map(ax, tiles, values, "", by="code")


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
    assert legend_of(axes[0]) == {g.name: g.colour for g in landcover.GROUPS}
    assert [title_of(ax) for ax in axes] == ["Labels", "2010", "2016"]
    assert fig._suptitle.get_text() == "The county in three groups" and len(fig.legends) == 1
    assert len({ax.get_xlim() + ax.get_ylim() for ax in axes}) == 1
    for ax, values in zip(axes, groups):
        grid = to_grid(tiles["row"], tiles["col"], values, fill=-1).values
        red = (np.asarray(ax.images[0].get_array())[..., 0] > 0.7) & (grid != 1)
        assert (red == (grid == landcover.DEVELOPED)).all()


def test_the_overview_draws_every_tile_and_the_boundary_where_they_are(ax):
    scene = picture(90)
    scene[:, :9] = 0
    bounds = (1398 * TILE_M, 20898 * TILE_M, 1418 * TILE_M, 20918 * TILE_M)
    county_overview(ax, [(scene, bounds)], county(), BOUNDARY, "One grid", crs=CRS, mark=county()[:1])
    assert list(legend_of(ax)) == ["tile, 224 m", "edge of a scene", "county boundary", "shown below"]
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
    tile_with_labels(ax, picture(), row, col, pixels, codes, "Mixed", nine_points(row, col), [41, 41, 82] * 3)
    legend = legend_of(ax)
    # The pixels of code 23 all lie beyond the tile's edge.
    assert list(legend) == ["41 Deciduous Forest", "82 Cultivated Crops", "point: Forest", "point: Cultivated"]
    assert legend["41 Deciduous Forest"] == landcover.NLCD_LEGEND[41][1]
    assert legend["point: Cultivated"] == landcover.CLASSES[3].colour
    points = ax.collections[-1].get_offsets()
    assert sorted(set(np.round(points[:, 0]))) == [56, 112, 168] and ax.get_xlim() == (0, 224)


def test_the_nlcd_panel_lists_the_codes_present_with_their_shares(ax):
    codes = np.full((20, 30), 42, dtype=np.uint8)
    codes[:5], codes[5:10, :15] = 250, 11
    nlcd_panel(ax, codes, "Forest and a lake")
    assert legend_of(ax) == {"11 Open Water (17 %)": landcover.NLCD_LEGEND[11][1],
                             "42 Evergreen Forest (83 %)": landcover.NLCD_LEGEND[42][1]}
    shown = np.asarray(ax.images[0].get_array())
    assert (shown[:5, :, 3] == 0).all() and to_hex(shown[12, 3] / 255) == landcover.NLCD_LEGEND[42][1]


def test_a_contact_sheet_has_a_named_row_for_each_class(ax):
    tiles = [np.full((60, 60, 3), 10 * i + 5, dtype=np.uint8) for i in range(12)]
    contact_sheet(ax, tiles, [5, 1] * 6, "Two classes", per_class=4, tile_px=36)
    assert texts_of(ax) == ["Forest", "Developed"]
    assert [to_hex(p.get_facecolor()) for p in ax.patches] == [landcover.CLASSES[1].colour, landcover.CLASSES[5].colour]
    sheet = np.asarray(ax.images[0].get_array())
    assert [sheet[10, 10 + 38 * c, 0] for c in range(4)] == [15, 35, 55, 75]
    assert [sheet[48, 10 + 38 * c, 0] for c in range(4)] == [5, 25, 45, 65]


def test_class_balance_counts_pure_and_mixed_tiles(ax):
    tiles = pd.DataFrame({"split": ["train"] * 5 + ["validation"] * 2, "label": [1, 1, 1, 5, None, 1, 5],
                          "purity": [1.0, 0.9, 0.5, 0.95, 0.8, 0.6, 1.0]})
    class_balance(ax, tiles, "Few")
    legend = legend_of(ax)
    assert list(legend)[:6] == list(landcover.CLASS_NAMES) and list(legend)[6:] == ["pure (bold number)", "mixed"]
    assert texts_of(ax)[2:4] == ["2", "of 3"]
    assert [label.get_text() for label in ax.get_xticklabels()] == ["train\n5 tiles", "validation\n2 tiles"]
    heights = sorted(p.get_height() for p in ax.patches if p.get_y() == 0 and p.get_height())
    assert 2 in heights and to_hex(ax.patches[3].get_facecolor()) == landcover.CLASSES[1].colour


def test_training_curves_run_on_from_phase_to_phase(ax):
    first = dict(accuracy=[0.5, 0.7, 0.8], val_accuracy=[0.5, 0.6, 0.7], loss=[2, 1, 0.5], val_loss=[2, 1.5, 1])
    second = dict(accuracy=[0.85, 0.9], val_accuracy=[0.75, 0.77], loss=[0.4, 0.3], val_loss=[0.9, 0.8])
    training_curves(ax, [("frozen", first), ("fine-tuned", second)], "Better")
    assert list(legend_of_lines(ax)) == ["training tiles", "validation tiles"]
    assert [list(line.get_xdata()) for line in ax.lines if len(line.get_xdata()) > 2] == [[1, 2, 3]] * 2
    assert [4, 5] in [list(line.get_xdata()) for line in ax.lines]
    assert {"frozen", "fine-tuned", "90.0 %", "77.0 %"} <= set(texts_of(ax))
    training_curves(plt.figure().add_subplot(), [("frozen", first)], "Loss", quantity="loss")


def legend_of_lines(ax):
    ax.figure.canvas.draw()
    return [text.get_text() for text in ax.get_legend().get_texts()]


def test_a_confusion_matrix_writes_counts_and_row_shares(ax):
    matrix = np.diag([10, 20, 30, 40, 50, 60])
    matrix[1, 4] = 20
    confusion(ax, matrix, "Forest is half missed")
    ax.figure.canvas.draw()
    assert [t.get_text() for t in ax.get_yticklabels()][1] == "Forest (40)"
    at = {(round(t.get_position()[0]), round(t.get_position()[1])): [] for t in ax.texts}
    for text in ax.texts:
        at[round(text.get_position()[0]), round(text.get_position()[1])].append(text.get_text())
    assert at[4, 1] == ["20", "50 %"] and at[1, 1] == ["20", "50 %"] and at[5, 5] == ["60", "100 %"]
    swatches = [to_hex(line.get_color()) for line in ax.lines if line.get_marker() == "s"]
    assert set(swatches) == {c.colour for c in landcover.CLASSES}


def test_classes_of_other_pictures_get_colours_of_their_own(ax):
    confusion(ax, np.eye(3, dtype=int), "Three", class_names=("cat", "dog", "owl"))
    swatches = {to_hex(line.get_color()) for line in ax.lines if line.get_marker() == "s"}
    assert len(swatches) == 3


def test_baselines_show_figures_and_floors(ax):
    baselines(ax, {"colour alone": {"accuracy": 0.6, "accuracy_grouped": 0.75},
                           "ResNet": {"accuracy": 0.9, "accuracy_grouped": 0.95}}, "Better by 30 points",
                      floors={"accuracy": 0.8, "accuracy_grouped": 0.92})
    assert list(legend_of(ax)) == ["six classes", "three groups", "floor, six classes (80 %)",
                                   "floor, three groups (92 %)"]
    assert texts_of(ax) == ["60.0 %", "75.0 %", "90.0 %", "95.0 %"]
    assert [p.get_width() for p in ax.patches] == [0.6, 0.75, 0.9, 0.95]
    baselines(plt.figure().add_subplot(), {"colour alone": {"accuracy": 0.6}}, "One measure")


@pytest.mark.parametrize("cores, seconds", [([1, 2, 2, 4], [80, 44, 42, 24]), ([1, 2], [8.0, 5.0]), ([1], [300])])
def test_time_against_cores_compares_with_perfect_sharing(ax, cores, seconds):
    time_against_cores(ax, cores, seconds, "Faster")
    assert legend_of_lines(ax) == ["perfect sharing: time ∝ 1 / cores", "measured"]
    line, points = ax.lines
    assert line.get_ydata() * line.get_xdata() == pytest.approx(seconds[0])
    assert list(points.get_xdata()) == cores and list(points.get_ydata()) == seconds
    assert len(texts_of(ax)) == len(set(cores))


def test_candidates_show_both_years_and_their_probabilities(ax):
    candidates = pd.DataFrame({"probability_before": [0.02, np.nan, 0.2], "probability_after": [0.98, 0.9, 0.8]})
    before = [np.full((50, 50, 3), 40, dtype=np.uint8)] * 3
    after = [np.full((50, 50, 3), 200, dtype=np.uint8)] * 3
    figures.candidate_sheet(ax, candidates, before, after, "New", columns=2, tile_px=40)
    assert texts_of(ax)[:5] == ["#1", "2010", "0.02", "2016", "0.98"]
    assert "—" in texts_of(ax) and "#3" in texts_of(ax)
    sheet = np.asarray(ax.images[0].get_array())
    assert {40, 200, 255} == set(np.unique(sheet)) and (sheet == 40).sum() == (sheet == 200).sum() == 3 * 40 * 40 * 3
    # Before stands above after, the third candidate in a second row.
    first, second = np.flatnonzero((sheet[:, 5, 0] == 40)), np.flatnonzero((sheet[:, 5, 0] == 200))
    assert len(first) == len(second) == 80 and first[39] < second[0] < first[40] < second[40]
    with pytest.raises(InputError, match="got none"):
        figures.candidate_sheet(ax, candidates[:0], [], [], "")


def test_the_flow_diagram_names_every_notebook_and_keeps_its_words_inside_the_boxes():
    fig, ax = plt.subplots(figsize=(9.6, 3.6))
    figures.flow_diagram(ax)
    fig.canvas.draw()
    assert {"01", "02", "03 · 04", "05", "06", "Tile store", "Model bundle"} <= set(texts_of(ax))
    boxes = [p.get_window_extent() for p in ax.patches if p.__class__.__name__ == "FancyBboxPatch"]
    for text in ax.texts:
        extent = text.get_window_extent()
        home = [box for box in boxes if box.x0 < extent.x0 + extent.width / 2 < box.x1
                and box.y0 < extent.y0 + extent.height / 2 < box.y1]
        assert not home or (home[0].x0 <= extent.x0 and extent.x1 <= home[0].x1), text.get_text()


def test_long_titles_are_folded_into_the_figure(ax):
    words = "The network confuses Shrub with Herbaceous land far more often than any other two classes of the county"
    confusion(ax, np.eye(6, dtype=int), words)
    ax.figure.canvas.draw()
    extent = ax._left_title.get_window_extent()
    assert title_of(ax) == words and extent.x1 <= ax.figure.bbox.x1


def test_figures_of_photographs_are_small_as_jpeg():
    pytest.importorskip("IPython")
    fig, ax = plt.subplots(figsize=(7, 4))
    contact_sheet(ax, [picture(72) for _ in range(48)], [i % 6 for i in range(48)], "Noise", tile_px=72)
    image = as_jpeg(fig)
    assert image.data[:3] == b"\xff\xd8\xff" and not plt.get_fignums()


def test_a_small_png_keeps_the_colours_of_the_classes():
    from io import BytesIO

    from PIL import Image
    fig, ax = plt.subplots(figsize=(5.2, 4.3))
    confusion(ax, np.diag([60, 70, 80, 90, 75, 65]) + 2, "Few errors")
    with BytesIO() as whole:
        fig.savefig(whole, format="png", bbox_inches="tight")
        before, size = np.asarray(Image.open(whole).convert("RGB")).astype(int), len(whole.getvalue())
    small = as_png(fig).data
    after = np.asarray(Image.open(BytesIO(small)).convert("RGB")).astype(int)
    assert len(small) < size / 2
    for c in landcover.CLASSES:
        there = (before == np.round(255 * np.array(to_rgb(c.colour)))).all(axis=2)
        assert there.sum() > 20 and np.abs(after - before)[there].max() <= 6


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
    assert set(legend_of(ax)) == {"as labelled ({})".format(len(tiles) - 6), "Undeveloped, taken for Developed (4)",
                                  "Cultivated, taken for Undeveloped (2)", "county boundary"}
    taken = {to_hex(c.get_facecolor()[0]): c for c in ax.collections if c.get_hatch()}
    # Filled by what it was taken for, hatched by what it is.
    assert set(taken) == {landcover.GROUPS[0].colour, landcover.GROUPS[2].colour}
    assert [len(taken[landcover.GROUPS[k].colour].get_paths()) for k in (0, 2)] == [4, 2]
    assert len({c.get_hatch() for c in taken.values()}) == 2


def test_reliability_draws_what_it_is_given(ax):
    table = pd.DataFrame({"tiles": [90, 10], "score": [0.1, 0.8], "share": [0.12, 0.7]})
    reliability(ax, {"a county": table}, "Calibrated")
    ax.figure.canvas.draw()
    assert np.allclose(ax.collections[0].get_offsets(), [[0.1, 0.12], [0.8, 0.7]])
    assert [t.get_text() for t in ax.get_legend().get_texts()] == ["means what it says", "a county"] and not ax.texts


def test_a_candidate_sheet_tells_score_and_reason(ax):
    candidates = pd.DataFrame({"probability_before": [0.1], "probability_after": [0.9], "score": [0.83], "rank": [27],
                               "tile_id": ["utm11-19480-01602"],
                               "reason": ["About 2 ha; Developed goes up; labelled Forest."]})
    figures.candidate_sheet(ax, candidates, [picture(40)], [picture(40)], "New", columns=2, tile_px=40)
    words = " ".join(" ".join(texts_of(ax)).split())
    assert "#27 · 83 %" in words and "utm11-19480-01602" in words
    assert "About 2 ha; Developed goes up; labelled Forest." in words


def test_a_legend_of_per_cents_runs_through_the_ramp():
    legend = figures.percent_legend()
    assert list(legend) == list(range(101)) and legend[0] == ("0 %", figures.SCORE_RAMP[0])
    assert legend[100] == ("100 %", figures.SCORE_RAMP[-1])

"""Figures: data and ``ax`` in, ``ax`` out.

Every figure's function takes first the ``matplotlib.axes.Axes`` that the caller made, then the data and a
``title`` that states the finding, and returns the axes. Colours of classes, groups and codes come from
``landcover``; every figure has a legend or names beside its colours, so colour never speaks alone. Call
``matplotlib.pyplot.rcParams.update(figures.style())`` once, in a notebook's imports.
"""

import textwrap

import numpy as np
import pandas as pd
from matplotlib.collections import PolyCollection
from matplotlib.colors import LinearSegmentedColormap, to_rgba
from matplotlib.lines import Line2D
from matplotlib.patches import FancyArrowPatch, FancyBboxPatch
from matplotlib.ticker import FuncFormatter, MaxNLocator

from helpers import InputError
from helpers.figures.style import (
    BLUE, EDGE, GROUND, INK, MARK, MUTED, RULE, resize, set_title, show_sheet, swatch)
from helpers.land.classes import CLASSES, GROUPS, NO_CLASS, SCORE_RAMP

def _rings(boundary):
    """Outlines of a polygon or multipolygon in map units, each (n, 2)."""
    shape = boundary.__geo_interface__
    polygons = shape["coordinates"] if shape["type"] == "MultiPolygon" else [shape["coordinates"]]
    return [np.asarray(ring)[:, :2] for polygon in polygons for ring in polygon]


_BOUNDARY = Line2D([], [], color=INK, linewidth=1.1, label="county boundary")


def _draw_boundary(ax, boundary, colour=INK, halo="white"):
    for ring in _rings(boundary):
        x, y = (ring / 1000).T
        ax.plot(x, y, color=halo, linewidth=2.6, alpha=0.8, solid_joinstyle="round", zorder=4)
        ax.plot(x, y, color=colour, linewidth=1.1, solid_joinstyle="round", zorder=5)


def _draw_scale(ax, left, right, bottom, top, north=True, colour=INK):
    """A scale bar and a north arrow in a strip kept free below the map; axes in kilometres."""
    width, height = right - left, top - bottom
    strip = 0.09 * max(width, height)
    ax.set_xlim(left - 0.03 * width, right + 0.03 * width)
    ax.set_ylim(bottom - strip, top + 0.03 * height)
    power = 10.0 ** np.floor(np.log10(width / 3))
    length = max(step for step in (power, 2 * power, 5 * power) if step <= width / 3)
    y, x = bottom - 0.62 * strip, left
    for part, face in ((0, colour), (0.5, "white")):
        ax.fill_between([x + part * length, x + (part + 0.5) * length], y, y + 0.14 * strip, facecolor=face,
                        edgecolor=colour, linewidth=0.8, zorder=6)
    label = "{:g} km".format(length) if length >= 1 else "{:g} m".format(1000 * length)
    ax.text(x + length + 0.015 * width, y + 0.07 * strip, label, fontsize=8, va="center", ha="left", color=colour)
    if north:
        ax.annotate("N", xy=(right, bottom - 0.06 * strip), xytext=(0, -13), textcoords="offset points",
                    fontsize=7.5, fontweight="bold", ha="center", va="center", color=colour,
                    arrowprops=dict(arrowstyle="-|>", color=colour, linewidth=0.9, shrinkA=1, shrinkB=0))


def _map_axes(ax, crs, labels=True):
    """Kilometres of the projection on both axes, few ticks, equal scale."""
    ax.set_aspect("equal")
    zone = "" if crs is None else ", UTM {}N".format(int(str(crs).split(":")[1]) - 26900)
    for axis, name in ((ax.xaxis, "Easting"), (ax.yaxis, "Northing")):
        axis.set_major_locator(MaxNLocator(5, steps=[1, 2, 5, 10]))
        axis.set_major_formatter(FuncFormatter(lambda v, _: "{:,g}".format(round(v, 3))))
        if labels:
            axis.set_label_text("{} (km{})".format(name, zone))
    for spine in ax.spines.values():
        spine.set_visible(True)
        spine.set_color(RULE)
    ax.tick_params(length=3, color=RULE)


def _squares(tiles):
    """Corners of tiles in kilometres: (N, 4, 2)."""
    from helpers.land.grid import TILE_M  # here and below, not at the top: geopandas is not there on Python 3.6
    corner = np.stack([tiles["col"].to_numpy(), tiles["row"].to_numpy()], axis=-1)
    return (corner[:, None] + np.array([[0, 0], [1, 0], [1, 1], [0, 1]])) * (TILE_M / 1000)


# ---- notebook 06: maps

def _map_colours(by):
    """``(id, name, colour)`` of the map's legend."""
    if by == "group":
        return [(g.group_id, g.name, g.colour) for g in GROUPS]
    if by == "class":
        return [(c.class_id, c.name, c.colour) for c in CLASSES]
    raise InputError("expected a map by 'group' or 'class', got {!r}. Choose one of the two.".format(by))


def _map_handles(by, values):
    """Legend of a map: everything it can show, and "no prediction" where a value is missing."""
    handles = [swatch(colour, name) for _, name, colour in _map_colours(by)]
    if (values == NO_CLASS).any():
        handles.append(swatch("white", "no prediction", edgecolor=MUTED, hatch="xxxx"))
    return handles


def _whole(values):
    """Ids as int64, ``NO_CLASS`` where missing."""
    values = values if isinstance(values, pd.Series) else pd.Series(np.asarray(values))
    return values.where(values.notna(), NO_CLASS).astype(float).astype(np.int64).to_numpy()


def county_map(ax, tiles, values, title, by="group", boundary=None, crs=None, mark=None, legend=True, labels=True):
    """A map with a square for each tile.

    Parameters
    ----------
    tiles : pandas.DataFrame
        ``row`` and ``col``, one county and year.
    values : array_like of int
        Shape (N,), group or class ids in the order of ``tiles``; missing ones are hatched.
    by : str
        ``"group"``: Developed red, Cultivated white, Undeveloped green; ``"class"``: the six classes.
    boundary : shapely geometry, optional
        The county, in ``crs``.
    crs : str, optional
        ``"EPSG:269zz"``, for the axis labels.
    mark : pandas.DataFrame, optional
        Tiles to outline, ``row`` and ``col``.
    legend, labels : bool
        Leave out where several maps share them.

    Raises
    ------
    InputError
        If there is no tile, or ``by`` is neither of the two.
    """
    from helpers.land.grid import to_grid
    from helpers.land.grid import TILE_M
    values = _whole(values)
    grid = to_grid(tiles["row"], tiles["col"], values, fill=-2)
    picture = np.zeros(grid.values.shape + (4,))
    for value, _, colour in _map_colours(by):
        picture[grid.values == value] = to_rgba(colour)
    km = TILE_M / 1000
    height, width = grid.values.shape
    left, top = grid.left_col * km, (grid.top_row + 1) * km
    right, bottom = left + width * km, top - height * km
    ax.imshow(picture, extent=(left, right, bottom, top), interpolation="nearest", zorder=2)
    missing = tiles[values == NO_CLASS]
    if len(missing):
        ax.add_collection(PolyCollection(_squares(missing), facecolor="white", edgecolor=MUTED, hatch="xxxx",
                                         linewidth=0, zorder=3))
    if boundary is not None:
        _draw_boundary(ax, boundary)
        x, y = np.concatenate(_rings(boundary)).T / 1000
        left, right, bottom, top = min(left, x.min()), max(right, x.max()), min(bottom, y.min()), max(top, y.max())
    if mark is not None and len(mark):
        ax.add_collection(PolyCollection(_squares(mark), facecolor="none", edgecolor=MARK, linewidth=1.3, zorder=6))
    # A ground darker than paper, so that white tiles stand out from what lies outside the county.
    ax.set_facecolor(GROUND)
    _map_axes(ax, crs, labels)
    _draw_scale(ax, left, right, bottom, top)
    if legend:
        handles = _map_handles(by, values)
        if mark is not None:
            handles.append(swatch("none", "candidate", edgecolor=MARK, linewidth=1.3))
        if boundary is not None:
            handles.append(_BOUNDARY)
        ax.legend(handles=handles, loc="upper left", bbox_to_anchor=(1.01, 1.0))
    set_title(ax, title)
    return ax


def three_panels(axes, tiles, panels, title, by="group", boundary=None, crs=None, source=None):
    """Maps side by side under one title, with one legend: labels, and the predictions of two years.

    Parameters
    ----------
    axes : sequence of matplotlib.axes.Axes
        One for each panel, of one figure.
    tiles : pandas.DataFrame
        ``row`` and ``col``.
    panels : list of (str, array_like)
        A heading, and group or class ids in the order of ``tiles``, for each panel.
    by, boundary, crs
        As for ``county_map``.
    source : str, optional
        Where pictures and labels come from, set below in small type.
    """
    axes = np.ravel(axes)
    missing = np.concatenate([_whole(values) for _, values in panels])
    for i, (ax, (heading, values)) in enumerate(zip(axes, panels)):
        county_map(ax, tiles, values, heading, by=by, boundary=boundary, crs=crs, legend=False)
        ax.set_title(heading, loc="left", fontsize=10, fontweight="bold")
        if i:
            ax.set_ylabel("")
            ax.tick_params(labelleft=False)
    fig = axes[0].figure
    fig.suptitle(title, x=0.02, y=1 - 0.08 / fig.get_figheight(), ha="left", va="top")
    handles = _map_handles(by, missing)
    # Room in inches, so that panels of any height leave the same to title, legend and source.
    height = fig.get_figheight()
    fig.legend(handles=handles, loc="lower left", ncol=len(handles), columnspacing=1.6,
               bbox_to_anchor=(0.015, (0.22 if source else 0.04) / height))
    if source:
        fig.text(0.02, 0.08 / height, source, ha="left", va="bottom", fontsize=7, color=MUTED)
    fig.subplots_adjust(left=0.075, right=0.985, top=1 - 0.72 / height, bottom=(1.0 if source else 0.82) / height,
                        wspace=0.06)
    return axes


def candidate_sheet(ax, candidates, before, after, title, years=(2010, 2016), columns=6, tile_px=112):
    """Candidates for new development: each place in both years, one above the other, with its probabilities.

    Parameters
    ----------
    candidates : pandas.DataFrame
        ``probability_before`` and ``probability_after`` of Developed; where it has them, ``rank`` and ``score`` (0 to
        1), set above the pictures, and ``tile_id`` and ``reason``, set below.
    before, after : sequence of numpy.ndarray
        Their tiles in the two years, each (h, w, 3) uint8 RGB, in the order of ``candidates``.
    years : tuple of int
    columns : int
        Candidates in a row.
    tile_px : int
        Size of a tile on the sheet.

    Raises
    ------
    InputError
        If there is no candidate.
    """
    n = len(candidates)
    if not n:
        raise InputError("expected at least one candidate, got none. Count them before drawing them.")
    columns = min(columns, n)
    rows = -(-n // columns)
    gap = max(3, tile_px // 12)
    # Room for a line of text above each picture.
    line = max(16, tile_px // 5)
    below = sum(room * line for name, room in (("tile_id", 0.7), ("reason", 3.6)) if name in candidates)
    step_x, step_y = tile_px + gap, 2 * (tile_px + line) + line + gap + int(below)
    sheet = np.full((rows * step_y - gap, columns * step_x - gap, 3), 255, dtype=np.uint8)
    for k, (_, candidate) in enumerate(candidates.iterrows()):
        x, y = (k % columns) * step_x, (k // columns) * step_y
        head = "#{}".format(candidate.get("rank", k + 1))
        if "score" in candidates:
            head += " · {:.0f} %".format(100 * candidate["score"])
        ax.text(x, y + 0.7 * line, head, fontsize=9, va="baseline", ha="left", color=BLUE, fontweight="bold")
        for when, picture in enumerate((before[k], after[k])):
            top = y + line + when * (tile_px + line) + line
            sheet[top:top + tile_px, x:x + tile_px] = resize(picture, tile_px, tile_px)
            p = candidate["probability_after" if when else "probability_before"]
            shown = "—" if p is None or np.isnan(p) else "{:.2f}".format(p)
            ax.text(x, top - 0.2 * line, str(years[when]), fontsize=8, va="baseline", ha="left", color=MUTED)
            ax.text(x + tile_px, top - 0.2 * line, shown, fontsize=8, va="baseline", ha="right",
                    fontweight="bold" if when else "normal")
        words = [candidate["tile_id"]] if "tile_id" in candidates else []
        words += textwrap.wrap(candidate["reason"], 21) if "reason" in candidates else []
        ax.text(x, y + line + 2 * (tile_px + line) + 4, "\n".join(words[:7]), fontsize=6.5, va="top", ha="left",
                color=INK, linespacing=1.15)
    show_sheet(ax, sheet)
    ax.text(0, sheet.shape[0] + 0.8 * line, "Right above each picture: the probability that the tile is Developed. In "
            "blue: rank{}.".format(" and score" if "score" in candidates else ""), fontsize=8, va="baseline", ha="left",
            color=MUTED)
    set_title(ax, title)
    return ax


def percent_legend(ramp=SCORE_RAMP, word="{} %"):
    """Colours of whole per cents, 0 to 100, as ``rasters.write_map`` takes a legend; ``word`` names each."""
    colours = LinearSegmentedColormap.from_list("ramp", ramp)
    return {n: (word.format(n), "#{:02x}{:02x}{:02x}".format(*colours(n / 100, bytes=True)[:3])) for n in range(101)}


def share_map(ax, tiles, values, title, ramp, label, boundary=None, crs=None, mark=None):
    """A map of a number from 0 to 1 for each tile, with its colour scale.

    Parameters
    ----------
    tiles : pandas.DataFrame
        ``row`` and ``col``.
    values : array_like of float
        Shape (N,), 0 to 1; NaN is left blank.
    ramp : sequence of str
        Colours from 0 to 1: ``SCORE_RAMP`` or ``UNCERTAINTY_RAMP``.
    label : str
        What the scale says.
    boundary, crs, mark
        As for ``county_map``.
    """
    from helpers.land.grid import to_grid
    from helpers.land.grid import TILE_M
    grid = to_grid(tiles["row"], tiles["col"], np.asarray(values, dtype=float), fill=-1)
    km = TILE_M / 1000
    height, width = grid.values.shape
    left, top = grid.left_col * km, (grid.top_row + 1) * km
    right, bottom = left + width * km, top - height * km
    image = ax.imshow(np.ma.masked_less(grid.values.astype(float), 0), vmin=0, vmax=1, zorder=2,
                      cmap=LinearSegmentedColormap.from_list("ramp", ramp), extent=(left, right, bottom, top),
                      interpolation="nearest")
    if boundary is not None:
        _draw_boundary(ax, boundary)
        x, y = np.concatenate(_rings(boundary)).T / 1000
        left, right, bottom, top = min(left, x.min()), max(right, x.max()), min(bottom, y.min()), max(top, y.max())
    if mark is not None and len(mark):
        ax.add_collection(PolyCollection(_squares(mark), facecolor="none", edgecolor=MARK, linewidth=0.9, zorder=6))
    handles = [swatch("none", "candidate", edgecolor=MARK)] if mark is not None and len(mark) else []
    handles += [_BOUNDARY] if boundary is not None else []
    if handles:
        ax.legend(handles=handles, loc="upper left", bbox_to_anchor=(1.01, 1.0))
    ax.set_facecolor(GROUND)
    _map_axes(ax, crs)
    _draw_scale(ax, left, right, bottom, top)
    bar = ax.figure.colorbar(image, ax=ax, shrink=0.6, pad=0.03, anchor=(0, 0.2))
    bar.ax.yaxis.set_major_formatter(FuncFormatter(lambda v, _: "{:.0f} %".format(100 * v)))
    bar.set_label(label)
    set_title(ax, title)
    return ax


def error_map(ax, tiles, labels, predicted, title, boundary=None, crs=None):
    """The confusion of map groups, on the map: each wrong tile where it lies, in the colour of what it was taken for,
    hatched by what it is.

    Parameters
    ----------
    tiles : pandas.DataFrame
        ``row`` and ``col``.
    labels, predicted : array_like of int
        Shape (N,), map groups.
    boundary, crs
        As for ``county_map``.
    """
    from helpers.land.grid import TILE_M
    labels, predicted = _whole(labels), _whole(predicted)
    squares = _squares(tiles)
    km = TILE_M / 1000
    # Grey, for white is a group.
    same = labels == predicted
    ax.add_collection(PolyCollection(squares[same], facecolor="#dde2e6", edgecolor="none", zorder=2))
    handles = [swatch("#dde2e6", "as labelled ({:,})".format(int(same.sum())))]
    hatches = "xxxx", "....", "////"  # of Developed, Cultivated and Undeveloped land
    for truth in GROUPS:
        for taken in GROUPS:
            which = (labels == truth.group_id) & (predicted == taken.group_id)
            if truth is taken or not which.any():
                continue
            style = dict(facecolor=taken.colour, edgecolor=INK, hatch=hatches[truth.group_id], linewidth=0.5)
            ax.add_collection(PolyCollection(squares[which], zorder=3, **style))
            words = "{}, taken for {} ({})".format(truth.name, taken.name, int(which.sum()))
            handles.append(swatch(taken.colour, words, **style))
    if boundary is not None:
        _draw_boundary(ax, boundary)
        handles.append(_BOUNDARY)
    corners = squares.reshape(-1, 2)
    (left, bottom), (right, top) = corners.min(axis=0) - 0.2 * km, corners.max(axis=0) + 0.2 * km
    ax.set_facecolor("white")
    _map_axes(ax, crs)
    _draw_scale(ax, left, right, bottom, top)
    ax.legend(handles=handles, loc="upper left", bbox_to_anchor=(1.01, 1.0))
    set_title(ax, title)
    return ax


# ---- the whole tutorial

def flow_diagram(ax):
    """What flows through the tutorial: what each notebook reads and writes."""
    ax.set_xlim(-0.5, 112.5)
    ax.set_ylim(0, 40)
    ax.axis("off")

    def thing(x, y, name, detail):
        """What is kept: a box of 18 by 9 around (x, y)."""
        ax.add_patch(FancyBboxPatch((x - 9, y - 4.5), 18, 9, boxstyle="round,pad=0,rounding_size=1.0",
                                    facecolor="#f4f7f9", edgecolor=EDGE, linewidth=1.0, zorder=3))
        ax.text(x, y + 1.5, name, ha="center", va="center", fontsize=9.5, fontweight="bold", zorder=4)
        ax.text(x, y - 1.9, detail, ha="center", va="center", fontsize=7.5, color=MUTED, zorder=4)

    def flow(*points):
        x, y = zip(*points)
        ax.plot(x, y, color=BLUE, linewidth=1.5, solid_joinstyle="round", solid_capstyle="butt", zorder=2)
        ax.add_patch(FancyArrowPatch(points[-2], points[-1], arrowstyle="-|>", mutation_scale=12, color=BLUE,
                                     linewidth=0, shrinkA=0, shrinkB=0, zorder=2))

    def notebook(x, y, number, verb, dx, dy=0.0):
        """What is done: the notebook's number on the arrow."""
        ax.text(x, y, number, ha="center", va="center", fontsize=8.5, fontweight="bold", color="white", zorder=6,
                bbox=dict(boxstyle="round,pad=0.4,rounding_size=0.9", facecolor=BLUE, edgecolor="white",
                          linewidth=1.8))
        ax.text(x + dx, y + dy, verb, ha="left" if dx > 0 else "right", va="center", fontsize=8.5, color=BLUE,
                zorder=6)

    thing(9, 29, "Scenes", "NAIP, 1 m or finer")
    thing(9, 11, "Labels", "NLCD, 30 m")
    thing(36, 20, "Tile store", "224 m tiles, Parquet")
    thing(56, 35, "Model bundle", "ONNX and Keras")
    thing(56, 5, "Spark session", "laptop or cluster")
    thing(76, 20, "Predictions", "one row a tile")
    thing(103, 29, "Maps", "GeoTIFF, GeoParquet")
    thing(103, 11, "Candidates", "of new development")
    flow((18, 29), (22.5, 29), (22.5, 20), (27, 20))
    flow((18, 11), (22.5, 11), (22.5, 20), (27, 20))
    flow((36, 24.5), (36, 35), (47, 35))
    flow((45, 20), (67, 20))
    flow((56, 30.5), (56, 22.4))
    flow((56, 9.5), (56, 17.6))
    flow((85, 20), (89.5, 20), (89.5, 29), (94, 29))
    flow((85, 20), (89.5, 20), (89.5, 11), (94, 11))
    notebook(22.5, 20, "02", "prepare", dx=-3.2)
    notebook(36, 30, "03 · 04", "retrain", dx=-5.0)
    notebook(56, 20, "05", "score", dx=-3.2, dy=2.2)
    notebook(56, 12.6, "01", "start", dx=3.2)
    notebook(89.5, 20, "06", "map", dx=3.2)
    return ax

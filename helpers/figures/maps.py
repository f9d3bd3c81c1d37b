"""Notebook 06: maps of a county's tiles, and sheets of candidates for new development and of real places.

In all maps ``tiles`` have ``row`` and ``col``, and ``boundary`` is a shapely geometry in ``crs``, an ``"EPSG:269zz"``.
"""

import textwrap
from typing import Sequence

import numpy as np
import pandas as pd
import shapely
from matplotlib.axes import Axes
from matplotlib.collections import PolyCollection
from matplotlib.colors import LinearSegmentedColormap, to_rgba_array
from matplotlib.lines import Line2D

from helpers import InputError
from helpers.figures.style import (
    BLUE, GROUND, INK, MARK, MUTED, ORANGE, RULE, resize, set_title, show_sheet, swatch, white_sheet)
from helpers.land.classes import CLASSES, GROUPS, NO_CLASS, SCORE_RAMP
from helpers.land.grid import TILE_M, to_grid

# Axes of maps are in kilometres.
_TILE_KM = TILE_M / 1000
# The kinds of real places, in words and colours.
_KINDS = {"newly_developed": ("newly developed", BLUE), "changed_otherwise": ("changed otherwise", ORANGE),
         "random": ("chosen at random", MUTED)}


def squares(tiles: pd.DataFrame) -> np.ndarray:
    """Corners of tiles in kilometres, (N, 4, 2)."""
    corner = np.stack([tiles["col"].to_numpy(), tiles["row"].to_numpy()], axis=-1)
    return (corner[:, None] + np.array([[0, 0], [1, 0], [1, 1], [0, 1]])) * _TILE_KM


def draw_scale(ax: Axes, north: bool = True) -> None:
    """A scale bar and a north arrow in a strip below all that is drawn."""
    left, bottom, right, top = ax.dataLim.extents
    width, height = right - left, top - bottom
    strip = 0.09 * max(width, height)
    ax.set_xlim(left - 0.03 * width, right + 0.03 * width)
    ax.set_ylim(bottom - strip, top + 0.03 * height)
    power = 10.0 ** np.floor(np.log10(width / 3))
    length = max(step for step in (power, 2 * power, 5 * power) if step <= width / 3)
    y = bottom - 0.62 * strip
    for start, face in ((left, INK), (left + 0.5 * length, "white")):
        ax.fill_between([start, start + 0.5 * length], y, y + 0.14 * strip, facecolor=face, edgecolor=INK,
                        linewidth=0.8, zorder=6)
    label = f"{length:g} km" if length >= 1 else f"{1000 * length:g} m"
    ax.text(left + length + 0.015 * width, y + 0.07 * strip, label, fontsize=8, va="center", ha="left", color=INK)
    if north:
        ax.annotate("N", xy=(right, bottom - 0.06 * strip), xytext=(0, -13), textcoords="offset points",
                    fontsize=7.5, fontweight="bold", ha="center", va="center", color=INK,
                    arrowprops=dict(arrowstyle="-|>", color=INK, linewidth=0.9, shrinkA=1, shrinkB=0))


def frame_map(ax: Axes, title: str, handles: list, boundary, crs: str, ground: str = GROUND,
              legend: bool = True) -> Axes:
    """Add the county's boundary, axes, scale, legend and title to a map."""
    for ring in shapely.get_rings(shapely.get_parts(boundary)):
        x, y = shapely.get_coordinates(ring).T / 1000
        ax.plot(x, y, color="white", linewidth=2.6, alpha=0.8, solid_joinstyle="round", zorder=4)
        ax.plot(x, y, color=INK, linewidth=1.1, solid_joinstyle="round", zorder=5)
    ax.set_facecolor(ground)
    ax.set_aspect("equal")
    ax.locator_params(nbins=5, steps=[1, 2, 5, 10])
    for axis, name in ((ax.xaxis, "Easting"), (ax.yaxis, "Northing")):
        axis.set_major_formatter("{x:,g}")
        axis.set_label_text(f"{name} (km, UTM {int(crs[-2:])}N)")
    ax.spines[:].set(visible=True, color=RULE)
    ax.tick_params(length=3, color=RULE)
    draw_scale(ax)
    if legend:
        handles = handles + [Line2D([], [], color=INK, linewidth=1.1, label="county boundary")]
        ax.legend(handles=handles, loc="upper left", bbox_to_anchor=(1.01, 1.0))
    return set_title(ax, title)


def _lay_out(tiles: pd.DataFrame, values: np.ndarray) -> tuple:
    """Values of tiles as a north-up array, ``NO_CLASS`` where there is no tile; and its extent for ``imshow``."""
    corners = squares(tiles)
    (left, bottom), (right, top) = corners.min(axis=(0, 1)), corners.max(axis=(0, 1))
    return to_grid(tiles["row"], tiles["col"], values).values, (left, right, bottom, top)


def _map_handles(kinds: tuple, values: np.ndarray) -> list:
    """Legend of all groups or classes, and of "no prediction" if a value is missing."""
    handles = [swatch(kind.colour, kind.name) for kind in kinds]
    if (values == NO_CLASS).any():
        handles.append(swatch("white", "no prediction", edgecolor=MUTED, hatch="xxxx"))
    return handles


def _whole(values) -> np.ndarray:
    """Ids as int64, ``NO_CLASS`` for missing ones."""
    return pd.Series(values, dtype="Int64").fillna(NO_CLASS).to_numpy(np.int64)


def county_map(ax: Axes, tiles: pd.DataFrame, values, title: str, by: str = "group", *, boundary, crs: str,
               legend: bool = True) -> Axes:
    """A map with a square for each tile, in the colours of the three groups or, with ``by="class"``, the six classes.

    ``values`` are group or class ids in the order of ``tiles``; missing ones are hatched.
    """
    if by not in ("group", "class"):
        raise InputError(f"expected a map by 'group' or 'class', got {by!r}. Choose one of the two.")
    kinds, values = GROUPS if by == "group" else CLASSES, _whole(values)
    laid, extent = _lay_out(tiles, values)
    # NO_CLASS is -1, and takes the last colour.
    colours = to_rgba_array([*(kind.colour for kind in kinds), "none"])
    ax.imshow(colours[laid], extent=extent, interpolation="nearest", zorder=2)
    missing = tiles[values == NO_CLASS]
    if len(missing):
        ax.add_collection(PolyCollection(squares(missing), facecolor="white", edgecolor=MUTED, hatch="xxxx",
                                         linewidth=0, zorder=3))
    # The ground is darker than paper, so that white tiles stand out from the land outside the county.
    return frame_map(ax, title, _map_handles(kinds, values), boundary, crs, legend=legend)


def three_panels(axes: Sequence[Axes], tiles: pd.DataFrame, panels: list, title: str, *, boundary, crs: str,
                 source: str) -> Sequence[Axes]:
    """Maps of groups side by side, with one title and one legend, and the ``source`` in small type below.

    Each of the ``panels`` is a heading, and group ids in the order of ``tiles``.
    """
    axes = np.ravel(axes)
    for ax, (heading, values) in zip(axes, panels):
        county_map(ax, tiles, values, heading, boundary=boundary, crs=crs, legend=False)
        ax.set_title(heading, loc="left", fontsize=10, fontweight="bold")
        ax.label_outer()
    fig = axes[0].figure
    # Title, legend and source get the same room in inches, however high the panels are.
    height = fig.get_figheight()
    fig.suptitle(title, x=0.02, y=1 - 0.08 / height, ha="left", va="top")
    handles = _map_handles(GROUPS, np.concatenate([_whole(values) for _, values in panels]))
    fig.legend(handles=handles, loc="lower left", ncol=len(handles), columnspacing=1.6,
               bbox_to_anchor=(0.015, 0.22 / height))
    fig.text(0.02, 0.08 / height, source, va="bottom", fontsize=7, color=MUTED)
    fig.subplots_adjust(left=0.075, right=0.985, top=1 - 0.72 / height, bottom=1.0 / height, wspace=0.06)
    return axes


def share_map(ax: Axes, tiles: pd.DataFrame, values, title: str, ramp: Sequence[str], label: str, *, boundary,
              crs: str, mark: pd.DataFrame = None) -> Axes:
    """A map of a number from 0 to 1 for each tile, blank for NaN, with a scale of the ``ramp`` and its ``label``.

    The tiles of ``mark`` are outlined.
    """
    laid, extent = _lay_out(tiles, np.asarray(values, dtype=float))
    image = ax.imshow(np.ma.masked_less(laid.astype(float), 0), vmin=0, vmax=1, zorder=2, extent=extent,
                      cmap=LinearSegmentedColormap.from_list("ramp", ramp), interpolation="nearest")
    handles = []
    if mark is not None and len(mark):
        ax.add_collection(PolyCollection(squares(mark), facecolor="none", edgecolor=MARK, linewidth=0.9, zorder=6))
        handles = [swatch("none", "candidate", edgecolor=MARK)]
    bar = ax.figure.colorbar(image, ax=ax, shrink=0.6, pad=0.03, anchor=(0, 0.2))
    bar.ax.yaxis.set_major_formatter("{x:.0%}")
    bar.set_label(label)
    return frame_map(ax, title, handles, boundary, crs)


def percent_legend(word: str = "{}%") -> dict:
    """Names and colours of the whole numbers from 0 to 100: a legend for ``maps.files.write_map``."""
    colours = LinearSegmentedColormap.from_list("ramp", SCORE_RAMP)
    return {n: (word.format(n), "#" + bytes(colours(n / 100, bytes=True)[:3]).hex()) for n in range(101)}


def error_map(ax: Axes, tiles: pd.DataFrame, labels, predicted, title: str, *, boundary, crs: str) -> Axes:
    """Tiles whose predicted map group differs from the label: the prediction gives the colour, the label the hatch."""
    labels, predicted, corners = _whole(labels), _whole(predicted), squares(tiles)
    # Grey, because white is a group.
    same = labels == predicted
    ax.add_collection(PolyCollection(corners[same], facecolor="#dde2e6", edgecolor="none", zorder=2))
    handles = [swatch("#dde2e6", f"as labelled ({same.sum():,})")]
    for truth, hatch in zip(GROUPS, ("xxxx", "....", "////")):
        for taken in GROUPS:
            which = (labels == truth.group_id) & (predicted == taken.group_id)
            if truth is taken or not which.any():
                continue
            look = dict(facecolor=taken.colour, edgecolor=INK, hatch=hatch, linewidth=0.5)
            ax.add_collection(PolyCollection(corners[which], zorder=3, **look))
            handles.append(swatch(taken.colour, f"{truth.name}, taken for {taken.name} ({which.sum()})", **look))
    return frame_map(ax, title, handles, boundary, crs, ground="white")


def score_step_by_step(axes: Sequence[Axes], pictures: Sequence[np.ndarray], judged: Sequence[np.ndarray],
                       terms: dict, usual: float, score: float, years: tuple) -> Sequence[Axes]:
    """How one tile gets its change score: two pictures, three maps of its cells, and the terms of its margin.

    The six ``axes`` stand in a row. The ``judged`` cells, (side, side), are developed before, developed after and new.
    The sum of the ``terms`` begins with the margin of a ``usual`` tile.
    """
    shown = [resize(picture, 160) for picture in pictures] + list(judged)
    headings = [f"picture {year}" for year in years] + [f"developed in {year}?" for year in years]
    ramp = LinearSegmentedColormap.from_list("ramp", SCORE_RAMP)
    for ax, image, heading in zip(axes, shown, headings + ["new between them?"]):
        ax.imshow(image, cmap=ramp, vmin=0, vmax=1)  # a picture has its own colours
        ax.set(xticks=[], yticks=[])
        ax.set_title(heading, fontsize=8.5)
        ax.spines[:].set(visible=True, color=RULE)
    bars, added = axes[5], [usual, *terms.values()]
    ends = np.cumsum(added)
    colours = [MUTED, *(BLUE if term > 0 else ORANGE for term in terms.values())]
    bars.barh(["usual tile", *terms], added, left=ends - added, height=0.7, color=colours)
    bars.use_sticky_edges = False  # Otherwise the longest bar would end at the frame and look cut.
    bars.axvline(0, color=INK, linewidth=0.8)
    bars.set(ylim=(len(terms) + 0.6, -0.6), xlabel="log-odds, added up from above")
    bars.tick_params(axis="y", length=0)
    bars.set_title(f"sum {ends[-1]:+.1f}: score {score:.1%}", fontsize=8.5)
    return axes


def candidate_sheet(ax: Axes, candidates: pd.DataFrame, before: Sequence[np.ndarray], after: Sequence[np.ndarray],
                    title: str, years: tuple, columns: int = 6, tile_px: int = 112) -> Axes:
    """Candidates for new development, from ``new_development.to_show``: pictures of both years, and words.

    A table without the column ``score`` gives only ranks.
    """
    columns, rows = min(columns, len(candidates)), -(-len(candidates) // columns)
    gap, line = max(3, tile_px // 6), max(16, tile_px // 5)  # line: the height of a line of text
    words = [[tile_id, *textwrap.wrap(reason, 19)]
             for tile_id, reason in zip(candidates["tile_id"], candidates["reason"])]
    most = max(map(len, words))  # a line of words is a little more than half as high as a line
    step_x, step_y = tile_px + gap, 2 * (tile_px + line) + line + gap + int(0.58 * most * line)
    sheet = white_sheet(columns * step_x - gap, rows * step_y - gap)
    for k, (_, candidate) in enumerate(candidates.iterrows()):
        x, y = (k % columns) * step_x, (k // columns) * step_y
        # No score is certain.
        score = "" if "score" not in candidates else " · >99%" if candidate["score"] >= 0.995 else (
            f" · {candidate['score']:.0%}")
        ax.text(x, y + 0.7 * line, f"#{candidate['rank']}{score}", fontsize=9, color=BLUE, fontweight="bold")
        for when, (picture, name) in enumerate(((before[k], "probability_before"), (after[k], "probability_after"))):
            top = y + 2 * line + when * (tile_px + line)
            sheet.paste(resize(picture, tile_px), (x, top))
            shown = "—" if pd.isna(candidate[name]) else f"{candidate[name]:.2f}"
            ax.text(x, top - 0.2 * line, str(years[when]), fontsize=8, color=MUTED)
            ax.text(x + tile_px, top - 0.2 * line, shown, fontsize=8, ha="right",
                    fontweight="bold" if when else "normal")
        ax.text(x, top + tile_px + 4, "\n".join(words[k]), fontsize=6.2, va="top", color=INK, linespacing=1.15)
    ax.text(0, sheet.height + 0.8 * line, "At the right above each picture: the probability that the tile is "
            f"Developed. In blue: rank{' and score' if 'score' in candidates else ''}.", fontsize=8, color=MUTED)
    return show_sheet(ax, sheet, title)


def ranked_places(ax: Axes, places: pd.DataFrame, before: np.ndarray, after: np.ndarray, title: str,
                  picture_px: int = 120) -> Axes:
    """Pairs of uint8 RGB pictures, the earlier on the left, by ``rank``, with ``kind`` and the ``rule``'s finds."""
    columns, gap, line = 4, picture_px // 8, picture_px // 5
    step_x, step_y = 2 * picture_px + 2 + gap, picture_px + line + gap // 2
    sheet = white_sheet(columns * step_x - gap, -(-len(places) // columns) * step_y - gap // 2)
    for k, at in enumerate(np.argsort(places["rank"].to_numpy())):
        place = places.iloc[at]
        x, y = k % columns * step_x, k // columns * step_y
        for side, picture in enumerate((before[at], after[at])):
            sheet.paste(resize(picture, picture_px), (x + side * (picture_px + 2), y + line))
        words, colour = _KINDS[place["kind"]]
        ax.text(x, y + 0.8 * line, f"#{place['rank']}", fontsize=8, color=INK, fontweight="bold")
        ax.text(x + step_x - gap, y + 0.8 * line, words + (" · rule" if place["rule"] else ""), fontsize=7.5,
                color=colour, ha="right", fontweight="bold" if place["kind"] == "newly_developed" else "normal")
    return show_sheet(ax, sheet, title)

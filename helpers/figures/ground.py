"""Notebook 02: from a county to labelled tiles."""

from typing import Sequence

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.collections import PolyCollection
from matplotlib.colors import to_rgba_array
from matplotlib.lines import Line2D
from matplotlib.patches import Rectangle

from helpers.figures.maps import draw_scale, frame_map, squares
from helpers.figures.style import (
    EDGE, INK, MUTED, ORANGE, resize, set_title, share_as_text, show_sheet, swatch, white_sheet)
from helpers.land.classes import CLASSES, NLCD_LEGEND, NO_CLASS, class_of_code
from helpers.land.grid import TILE_M, nine_points
from helpers.tiles.store import PURE


def county_overview(ax: Axes, pictures: list, tiles: pd.DataFrame, boundary, title: str, crs: str) -> Axes:
    """The county on its scenes, with its boundary and the grid of tiles.

    ``pictures`` are uint8 RGB overviews of scenes, black where there is no data, each with its bounds in metres.
    """
    scene_edge = dict(linewidth=0.9, linestyle=(0, (6, 4)))
    for image, bounds in pictures:
        left, bottom, right, top = np.array(bounds) / 1000
        alpha = np.where(image.any(axis=-1, keepdims=True), 255, 0).astype(np.uint8)
        ax.imshow(np.concatenate([image, alpha], axis=-1), interpolation="antialiased",
                  extent=(left, right, bottom, top), zorder=1)
        ax.add_patch(Rectangle((left, bottom), right - left, top - bottom, fill=False, edgecolor=ORANGE, zorder=4,
                               **scene_edge))
    ax.add_collection(PolyCollection(squares(tiles), facecolor="none", edgecolor="white", alpha=0.75, zorder=3,
                                     linewidth=np.clip(12 / np.sqrt(len(tiles)), 0.15, 0.9)))
    handles = [swatch("#b9c2bd", "tile, 224 m", edgecolor="white", linewidth=1.5),
               Line2D([], [], color=ORANGE, label="edge of a scene", **scene_edge)]
    return frame_map(ax, title, handles, boundary, crs)


def tile_with_labels(ax: Axes, tile: np.ndarray, row: int, col: int, codes: np.ndarray, corners: np.ndarray,
                     nine: np.ndarray, title: str) -> Axes:
    """One tile, the NLCD pixels over it, from ``labels.read_labels``, and the ``nine`` codes of the 2017 rule."""
    origin = np.array([col, row]) * TILE_M
    ax.imshow(tile, extent=(0, TILE_M, 0, TILE_M), interpolation="antialiased")
    codes, corners = codes.ravel(), corners.reshape(-1, 4, 2) - origin
    over = (corners.max(axis=1) > 0).all(axis=1) & (corners.min(axis=1) < TILE_M).all(axis=1)
    handles = []
    for code, (name, colour) in NLCD_LEGEND.items():
        outlines = corners[over & (codes == code)]
        if len(outlines):
            ax.add_collection(PolyCollection(outlines, facecolor=colour, alpha=0.2, linewidth=0))
            # A pixel's outline lies a little inside it, so that neighbours of two codes show both colours.
            centre = outlines.mean(axis=1, keepdims=True)
            ax.add_collection(PolyCollection(centre + 0.93 * (outlines - centre), facecolor="none", edgecolor=colour,
                                             linewidth=1.5))
            handles.append(swatch(colour, f"{code} {name}"))
    x, y = np.concatenate(nine_points(row, col)) - origin[:, None]
    classes = class_of_code(nine)
    looks = {NO_CLASS: ("no class", "white"), **{c.class_id: (c.name, c.colour) for c in CLASSES}}
    ax.scatter(x, y, s=70, c=[looks[c][1] for c in classes], edgecolors="white", linewidths=2.2, zorder=5)
    ax.scatter(x, y, s=105, facecolors="none", edgecolors=INK, linewidths=1.0, zorder=5)
    handles += [Line2D([], [], marker="o", linestyle="none", markersize=8, markeredgecolor=INK, color=looks[c][1],
                       label=f"point: {looks[c][0]}") for c in np.unique(classes)]
    ticks = [0, 56, 112, 168, 224]
    ax.set(xlim=(0, TILE_M), ylim=(0, TILE_M), xticks=ticks, yticks=ticks,
           xlabel="metres east of the tile's corner", ylabel="metres north")
    ax.legend(handles=handles, loc="upper left", bbox_to_anchor=(1.02, 1.0))
    return set_title(ax, title)


def nlcd_panel(ax: Axes, codes: np.ndarray, title: str) -> Axes:
    """An NLCD raster of 30 m pixels, north-up, in its own colours. Values that are no NLCD code stay blank."""
    colours = np.zeros((256, 4))
    colours[list(NLCD_LEGEND)] = to_rgba_array([colour for _, colour in NLCD_LEGEND.values()])
    height, width = np.array(codes.shape) * 30 / 1000
    ax.imshow(colours[codes.astype(np.uint8)], extent=(0, width, 0, height))
    present, counts = np.unique(codes[np.isin(codes, list(NLCD_LEGEND))], return_counts=True)
    handles = [swatch(NLCD_LEGEND[code][1], f"{code} {NLCD_LEGEND[code][0]} ({share_as_text(n / counts.sum())})")
               for code, n in zip(present.tolist(), counts)]
    ax.legend(handles=handles, loc="upper left", bbox_to_anchor=(1.01, 1.0), title="NLCD code (share)",
              labelspacing=0.35, alignment="left")
    ax.set_aspect("equal")
    # No arrow: in NLCD's Albers projection, north is up only along the 96th meridian.
    draw_scale(ax, north=False)
    ax.axis("off")
    return set_title(ax, title)


def contact_sheet(ax: Axes, tiles: Sequence[np.ndarray], labels: np.ndarray, title: str, per_class: int = 8,
                  tile_px: int = 72) -> Axes:
    """A row for each class with its first ``per_class`` tiles, uint8 RGB."""
    labels = np.asarray(labels)
    gap = max(2, tile_px // 18)
    step = tile_px + gap
    rows = {kind: np.flatnonzero(labels == kind.class_id)[:per_class] for kind in CLASSES if kind.class_id in labels}
    sheet = white_sheet(max(map(len, rows.values())) * step - gap, len(rows) * step - gap)
    for top, (kind, members) in zip(range(0, len(rows) * step, step), rows.items()):
        for left, i in zip(range(0, len(members) * step, step), members):
            sheet.paste(resize(tiles[i], tile_px), (left, top))
        ax.add_patch(Rectangle((-3.5 * gap, top), 1.8 * gap, tile_px, facecolor=kind.colour, edgecolor=EDGE,
                               linewidth=0.6, clip_on=False))
        ax.text(-5.5 * gap, top + tile_px / 2, kind.name, ha="right", va="center", fontsize=9)
    return show_sheet(ax, sheet, title)


def class_balance(ax: Axes, tiles: pd.DataFrame, title: str) -> Axes:
    """The number of pure and of mixed tiles of each class in each split, from ``split``, ``label`` and ``purity``."""
    splits = [s for s in ("train", "validation", "map") if (tiles["split"] == s).any()]
    colours, n = [kind.colour for kind in CLASSES], len(CLASSES)
    starts = (n + 1.2) * np.arange(len(splits))
    for start, split in zip(starts, splits):
        chosen = tiles[tiles["split"] == split]
        every, pure = (of["label"].value_counts().reindex(range(n), fill_value=0).to_numpy()
                       for of in (chosen, chosen[chosen["purity"] >= PURE]))
        x, mixed = start + np.arange(n), dict(height=every - pure, bottom=pure, width=0.86)
        ax.bar(x, pure, width=0.86, color=colours, edgecolor=EDGE, linewidth=0.6)
        ax.bar(x, **mixed, color="white", edgecolor=colours, hatch="////", linewidth=0)
        tops = ax.bar(x, **mixed, color="none", edgecolor=EDGE, linewidth=0.6)
        ax.bar_label(tops, [_count_as_text(count) for count in pure], padding=10, fontsize=8, fontweight="bold")
        ax.bar_label(tops, [f"of {_count_as_text(count)}" for count in every], padding=2, fontsize=6.5, color=MUTED)
    ax.set_xticks(starts + (n - 1) / 2, labels=[f"{s}\n{(tiles['split'] == s).sum():,} tiles" for s in splits])
    ax.tick_params(axis="x", length=0, labelsize=9)
    ax.set(ylim=(0, 1.17 * max(1, ax.dataLim.ymax)), ylabel="tiles")
    ax.grid(axis="y")
    ax.spines["left"].set_visible(False)
    handles = [swatch(kind.colour, kind.name) for kind in CLASSES]
    handles += [swatch("#9aa4ab", "pure (bold number)"), swatch("white", "mixed", edgecolor="#9aa4ab", hatch="////")]
    ax.legend(handles=handles, loc="upper left", bbox_to_anchor=(1.01, 1.0))
    return set_title(ax, title)


def _count_as_text(count: int) -> str:
    """A count in at most five characters."""
    return f"{count:,}" if count < 10000 else f"{count / 1000:.0f}k"

"""ground."""

import numpy as np
from matplotlib.collections import PolyCollection
from matplotlib.colors import to_rgb
from matplotlib.lines import Line2D
from matplotlib.patches import Rectangle

from helpers.figures.maps import _draw_boundary, _draw_scale, _map_axes, _squares
from helpers.figures.style import (
    EDGE, GROUND, INK, MUTED, ORANGE, _share, class_colours, resize, set_title, show_sheet, swatch)
from helpers.land.classes import CLASSES, CLASS_NAMES, NLCD_LEGEND, NODATA_CODE, NO_CLASS, class_of_code

# ---- notebook 02: from a county to labelled tiles

def county_overview(ax, pictures, tiles, boundary, title, crs=None, mark=None):
    """The county on its scenes, with its boundary and the tile grid.

    Parameters
    ----------
    pictures : list of (numpy.ndarray, tuple)
        Overviews of scenes: (h, w, 3) uint8 RGB, black where there is no data, and ``(left, bottom, right, top)``
        in metres of ``crs``; later ones are drawn over earlier ones.
    tiles : pandas.DataFrame
        ``row`` and ``col``.
    boundary : shapely geometry
        In ``crs``.
    crs : str, optional
        ``"EPSG:269zz"``, for the axis labels.
    mark : pandas.DataFrame, optional
        Tiles to outline in orange, ``row`` and ``col``.
    """
    for image, (left, bottom, right, top) in pictures:
        alpha = np.where(image.any(axis=-1, keepdims=True), 255, 0).astype(np.uint8)
        extent = left / 1000, right / 1000, bottom / 1000, top / 1000
        ax.imshow(np.concatenate([image, alpha], axis=-1), interpolation="antialiased", extent=extent, zorder=1)
        ax.add_patch(Rectangle((extent[0], extent[2]), extent[1] - extent[0], extent[3] - extent[2], fill=False,
                               edgecolor=ORANGE, linewidth=0.9, linestyle=(0, (6, 4)), zorder=4))
    squares = _squares(tiles)
    ax.add_collection(PolyCollection(squares, facecolor="none", edgecolor="white", alpha=0.75, zorder=3,
                                     linewidth=np.clip(12 / np.sqrt(len(tiles)), 0.15, 0.9)))
    handles = [swatch("#b9c2bd", "tile, 224 m", edgecolor="white", linewidth=1.5),
               Line2D([], [], color=ORANGE, linewidth=0.9, linestyle=(0, (6, 4)), label="edge of a scene"),
               Line2D([], [], color=INK, linewidth=1.1, label="county boundary")]
    if mark is not None:
        ax.add_collection(PolyCollection(_squares(mark), facecolor="none", edgecolor=ORANGE, linewidth=1.8,
                                         zorder=6))
        handles.append(swatch("none", "shown below", edgecolor=ORANGE, linewidth=1.8))
    _draw_boundary(ax, boundary)
    ax.set_facecolor(GROUND)
    edges = np.concatenate([np.array([[b[0], b[1]], [b[2], b[3]]]) / 1000 for _, b in pictures]
                           + [squares.reshape(-1, 2)])
    (left, bottom), (right, top) = edges.min(axis=0), edges.max(axis=0)
    _map_axes(ax, crs)
    _draw_scale(ax, left, right, bottom, top)
    ax.legend(handles=handles, loc="upper left", bbox_to_anchor=(1.01, 1.0))
    set_title(ax, title)
    return ax


def tile_with_labels(ax, tile, row, col, pixels, codes, title, points=None, point_codes=None):
    """One tile, the NLCD pixels that lie over it, and the nine points of the 2017 rule.

    Parameters
    ----------
    tile : numpy.ndarray
        Shape (h, w, 3), uint8 RGB.
    row, col : int
        The tile.
    pixels : numpy.ndarray
        Shape (M, 4, 2), corners of NLCD pixels in metres of the tile's CRS; askew, because NLCD's projection is
        another.
    codes : numpy.ndarray
        Shape (M,), their NLCD codes.
    points : tuple of numpy.ndarray, optional
        ``x, y`` of the nine points in metres, as from ``grid.nine_points``.
    point_codes : numpy.ndarray, optional
        Shape (9,), the codes there.
    """
    from helpers.land.grid import TILE_M
    origin = np.array([col, row]) * TILE_M
    ax.imshow(tile, extent=(0, TILE_M, 0, TILE_M), interpolation="antialiased")
    corners, codes = np.asarray(pixels) - origin, np.asarray(codes)
    over = (corners.max(axis=1) > 0).all(axis=1) & (corners.min(axis=1) < TILE_M).all(axis=1)
    corners, codes = corners[over], codes[over]
    present = [code for code in NLCD_LEGEND if (codes == code).any()]
    for code in present:
        colour = NLCD_LEGEND[code][1]
        ax.add_collection(PolyCollection(corners[codes == code], facecolor=colour, alpha=0.2, linewidth=0))
        # Each pixel's outline is drawn a little inside it, so that neighbours of two codes show both colours.
        inner = corners[codes == code].mean(axis=1, keepdims=True)
        ax.add_collection(PolyCollection(inner + 0.93 * (corners[codes == code] - inner), facecolor="none",
                                         edgecolor=colour, linewidth=1.5))
    handles = [swatch(NLCD_LEGEND[code][1], "{} {}".format(code, NLCD_LEGEND[code][0])) for code in present]
    if points is not None:
        x, y = np.ravel(points[0]) - origin[0], np.ravel(points[1]) - origin[1]
        classes = class_of_code(np.full(9, NODATA_CODE) if point_codes is None else point_codes)
        colours = [CLASSES[c].colour if c != NO_CLASS else "white" for c in classes]
        ax.scatter(x, y, s=70, c=colours, edgecolors="white", linewidths=2.2, zorder=5)
        ax.scatter(x, y, s=105, facecolors="none", edgecolors=INK, linewidths=1.0, zorder=5)
        for class_id in sorted(set(int(c) for c in classes)):
            name = CLASS_NAMES[class_id] if class_id != NO_CLASS else "no class"
            handles.append(Line2D([], [], marker="o", linestyle="none", markersize=8, markeredgecolor=INK,
                                  color=CLASSES[class_id].colour if class_id != NO_CLASS else "white",
                                  label="point: {}".format(name)))
    ax.set_xlim(0, TILE_M)
    ax.set_ylim(0, TILE_M)
    ax.set_xticks([0, 56, 112, 168, 224])
    ax.set_yticks([0, 56, 112, 168, 224])
    ax.set_xlabel("metres east of the tile's corner")
    ax.set_ylabel("metres north")
    ax.legend(handles=handles, loc="upper left", bbox_to_anchor=(1.02, 1.0))
    set_title(ax, title)
    return ax


def nlcd_panel(ax, codes, title, pixel_m=30.0):
    """An NLCD raster in its own colours, with the codes that are present.

    Parameters
    ----------
    codes : numpy.ndarray
        Shape (h, w), NLCD codes, north-up; others are left blank.
    pixel_m : float
        Size of a pixel in metres.
    """
    codes = np.asarray(codes)
    table = np.zeros((256, 4), dtype=np.uint8)
    for code, (_, colour) in NLCD_LEGEND.items():
        table[code] = [int(round(255 * c)) for c in to_rgb(colour)] + [255]
    height, width = codes.shape[0] * pixel_m / 1000, codes.shape[1] * pixel_m / 1000
    ax.imshow(table[codes.astype(np.uint8)], extent=(0, width, 0, height))
    present, counts = np.unique(codes[np.isin(codes, list(NLCD_LEGEND))], return_counts=True)
    ax.legend(handles=[swatch(NLCD_LEGEND[code][1], "{} {} ({})".format(
        code, NLCD_LEGEND[code][0], _share(n / counts.sum()))) for code, n in zip(present.tolist(), counts)],
        loc="upper left", bbox_to_anchor=(1.01, 1.0), title="NLCD code (share)", labelspacing=0.35)
    ax.get_legend()._legend_box.align = "left"
    ax.set_aspect("equal")
    # No arrow: up in NLCD's Albers projection is north only along the 96th meridian.
    _draw_scale(ax, 0, width, 0, height, north=False)
    ax.axis("off")
    set_title(ax, title)
    return ax


def contact_sheet(ax, tiles, labels, title, per_class=8, class_names=CLASS_NAMES, tile_px=72):
    """A row of tiles for each class.

    Parameters
    ----------
    tiles : sequence of numpy.ndarray
        Each (h, w, 3), uint8 RGB.
    labels : array_like of int
        Shape (N,), ``class_id``.
    per_class : int
        Tiles in a row: the first ones of the class.
    class_names : sequence of str
    tile_px : int
        Size of a tile on the sheet.
    """
    labels = np.asarray(labels)
    gap = max(2, tile_px // 18)
    step = tile_px + gap
    rows = [(i, np.flatnonzero(labels == i)) for i in range(len(class_names)) if (labels == i).any()]
    columns = min(per_class, max(len(members) for _, members in rows))
    sheet = np.full((len(rows) * step - gap, columns * step - gap, 3), 255, dtype=np.uint8)
    colours = class_colours(class_names)
    for r, (class_id, members) in enumerate(rows):
        for c, i in enumerate(members[:columns]):
            sheet[r * step:r * step + tile_px, c * step:c * step + tile_px] = resize(tiles[i], tile_px, tile_px)
    show_sheet(ax, sheet)
    for r, (class_id, _) in enumerate(rows):
        ax.add_patch(Rectangle((-3.5 * gap, r * step), 1.8 * gap, tile_px, facecolor=colours[class_id],
                               edgecolor=EDGE, linewidth=0.6, clip_on=False))
        ax.text(-5.5 * gap, r * step + tile_px / 2, class_names[class_id], ha="right", va="center", fontsize=9)
    set_title(ax, title)
    return ax


def _short(count):
    """A count in at most five letters."""
    return "{:,}".format(count) if count < 10000 else "{:.0f}k".format(count / 1000)


def class_balance(ax, tiles, title, pure_share=0.9, class_names=CLASS_NAMES):
    """How many tiles each class has in each split, pure ones apart from mixed ones.

    Parameters
    ----------
    tiles : pandas.DataFrame
        ``split``, ``label`` (missing where no class has the tile) and ``purity``.
    pure_share : float
        A tile is pure from this purity on.
    class_names : sequence of str
    """
    splits = [s for s in ("train", "validation", "map") if (tiles["split"] == s).any()]
    colours = class_colours(class_names)
    n = len(class_names)
    pure = tiles["purity"] >= pure_share
    most = 0
    for s, split in enumerate(splits):
        for i in range(n):
            chosen = (tiles["split"] == split) & (tiles["label"] == i)
            sure, mixed = int((chosen & pure).sum()), int((chosen & ~pure).sum())
            x = s * (n + 1.2) + i
            ax.bar(x, sure, width=0.86, color=colours[i], edgecolor=EDGE, linewidth=0.6)
            ax.bar(x, mixed, width=0.86, bottom=sure, color="white", edgecolor=colours[i], hatch="////",
                   linewidth=0)
            ax.bar(x, mixed, width=0.86, bottom=sure, color="none", edgecolor=EDGE, linewidth=0.6)
            ax.annotate(_short(sure), (x, sure + mixed), xytext=(0, 10), textcoords="offset points", ha="center",
                        va="bottom", fontsize=8, fontweight="bold")
            ax.annotate("of " + _short(sure + mixed), (x, sure + mixed), xytext=(0, 2), textcoords="offset points",
                        ha="center", va="bottom", fontsize=6.5, color=MUTED)
            most = max(most, sure + mixed)
    ax.set_xticks([s * (n + 1.2) + (n - 1) / 2 for s in range(len(splits))])
    ax.set_xticklabels(["{}\n{:,} tiles".format(s, int((tiles["split"] == s).sum())) for s in splits])
    ax.tick_params(axis="x", length=0, labelsize=9)
    ax.set_ylim(0, 1.17 * max(1, most))
    ax.set_ylabel("tiles")
    ax.grid(axis="y")
    ax.spines["left"].set_visible(False)
    handles = [swatch(colours[i], class_names[i]) for i in range(n)]
    handles += [swatch("#9aa4ab", "pure (bold number)"),
                swatch("white", "mixed", edgecolor="#9aa4ab", hatch="////")]
    ax.legend(handles=handles, loc="upper left", bbox_to_anchor=(1.01, 1.0))
    set_title(ax, title)
    return ax

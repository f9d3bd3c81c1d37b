"""Figures: data and ``ax`` in, ``ax`` out.

Every figure's function takes first the ``matplotlib.axes.Axes`` that the caller made, then the data and a
``title`` that states the finding, and returns the axes. Colours of classes, groups and codes come from
``landcover``; every figure has a legend or names beside its colours, so colour never speaks alone. Call
``matplotlib.pyplot.rcParams.update(figures.style())`` once, in a notebook's imports.
"""

import io
import textwrap

import numpy as np
import pandas as pd
from matplotlib import rcParams
from matplotlib.collections import PolyCollection
from matplotlib.colors import LinearSegmentedColormap, to_rgb, to_rgba
from matplotlib.lines import Line2D
from matplotlib.patches import FancyArrowPatch, FancyBboxPatch, Patch, Rectangle
from matplotlib.ticker import FixedLocator, FuncFormatter, MaxNLocator, NullLocator

from helpers import InputError
from helpers.landcover import CLASS_NAMES, CLASSES, GROUPS, NLCD_LEGEND, NO_CLASS, NODATA_CODE, class_of_code

INK, MUTED, RULE, GROUND = "#1f2a33", "#5b6770", "#d3d9de", "#e4e9ec"
# Two hues that no class has, for lines and bars that don't stand for a class.
BLUE, ORANGE, PALE_BLUE = "#2b6a99", "#d9822b", "#b9d2e4"
EDGE = "#7d8890"
# Outlines of tiles: neither a class's colour, nor a ramp's, nor the boundary's.
MARK = "#0050d0"
# Names for folders of pictures whose classes are not the six; Okabe and Ito's colours, told apart by all readers.
_OTHER_COLOURS = ("#0072b2", "#e69f00", "#009e73", "#cc79a7", "#56b4e9", "#d55e00", "#f0e442", "#999999")


def style():
    """Matplotlib settings for every figure: ``plt.rcParams.update(style())``.

    Returns
    -------
    dict
    """
    return {
        "font.family": "DejaVu Sans", "font.size": 9, "text.color": INK,
        "figure.dpi": 100, "savefig.dpi": 100, "figure.facecolor": "white", "savefig.facecolor": "white",
        "figure.titlesize": 12, "figure.titleweight": "bold",
        "axes.titlesize": 11, "axes.titleweight": "bold", "axes.titlelocation": "left", "axes.titlepad": 9,
        "axes.titlecolor": INK, "axes.labelsize": 9, "axes.labelcolor": MUTED, "axes.labelpad": 5,
        "axes.edgecolor": EDGE, "axes.linewidth": 0.8, "axes.facecolor": "white", "axes.axisbelow": True,
        "axes.spines.top": False, "axes.spines.right": False, "axes.grid": False,
        "grid.color": RULE, "grid.linewidth": 0.7,
        "xtick.color": MUTED, "ytick.color": MUTED, "xtick.labelsize": 8.5, "ytick.labelsize": 8.5,
        "xtick.major.size": 3, "ytick.major.size": 3, "xtick.major.width": 0.8, "ytick.major.width": 0.8,
        "legend.frameon": False, "legend.fontsize": 8.5, "legend.title_fontsize": 8.5,
        "legend.handlelength": 1.2, "legend.handleheight": 1.2, "legend.borderaxespad": 0.3,
        "lines.linewidth": 1.8, "patch.linewidth": 0.7, "hatch.linewidth": 0.7, "image.interpolation": "nearest",
    }


def as_jpeg(fig, quality=70, fine_colour=True):
    """Show a figure of photographs as JPEG, a fifth of the size that PNG takes; closes the figure.

    Parameters
    ----------
    fig : matplotlib.figure.Figure
    quality : int
        1 to 95.
    fine_colour : bool
        Full chroma resolution, which keeps coloured text and edges sharp; a quarter more bytes.

    Returns
    -------
    IPython.display.Image
        Make it the last line of a notebook cell.
    """
    return _as_image(_drawn(fig), "jpeg", quality=quality, subsampling=0 if fine_colour else 2)


def as_png(fig, colours=128):
    """Show a figure of lines and areas as PNG with few colours, a quarter of the usual size; closes the figure.

    Parameters
    ----------
    fig : matplotlib.figure.Figure
    colours : int
        2 to 256.

    Returns
    -------
    IPython.display.Image
        Make it the last line of a notebook cell.
    """
    # Not by the median cut, which spends the colours on letters' edges and gives two classes one.
    return _as_image(_drawn(fig).quantize(colours, method=1), "png")


def _drawn(fig):
    """A figure as an RGB picture of Pillow; closes the figure."""
    import matplotlib.pyplot as plt
    from PIL import Image as Picture
    png = io.BytesIO()
    fig.savefig(png, format="png", bbox_inches="tight")
    plt.close(fig)
    return Picture.open(png).convert("RGB")


def _as_image(picture, kind, **settings):
    """A picture of Pillow, encoded, as a notebook shows it."""
    from IPython.display import Image
    encoded = io.BytesIO()
    picture.save(encoded, kind.upper(), optimize=True, **settings)
    return Image(data=encoded.getvalue(), format=kind)


# ---- parts that several figures share

def set_title(ax, title):
    """Set a title, folded into lines of even length that fit the axes (or the figure, of a single axes)."""
    size = rcParams["axes.titlesize"]
    size = size if isinstance(size, (int, float)) else rcParams["font.size"] * 1.2
    fig = ax.figure
    room = ax.bbox.width if len(fig.axes) > 1 else fig.bbox.width - ax.bbox.x0
    # Bold DejaVu letters are about 0.64 em wide.
    letters = max(20, int(room / (size * fig.dpi / 72 * 0.64)))
    folded = []
    for line in title.split("\n"):
        lines = textwrap.wrap(line, letters) or [""]
        while len(textwrap.wrap(line, letters - 1)) == len(lines) > 1:
            letters -= 1
        folded += textwrap.wrap(line, letters)
    ax.set_title("\n".join(folded), loc="left")


def swatch(colour, label, **kwargs):
    """A square of a colour, for a legend; ``kwargs`` go to ``matplotlib.patches.Patch``."""
    return Patch(**dict(dict(facecolor=colour, edgecolor=EDGE, linewidth=0.7, label=label), **kwargs))


def class_colours(class_names):
    """Colours of classes, a list of str: land cover keeps its own, other classes take distinct ones in turn."""
    known = {c.name: c.colour for c in CLASSES}
    if set(class_names) <= set(known):
        return [known[name] for name in class_names]
    return [_OTHER_COLOURS[i % len(_OTHER_COLOURS)] for i in range(len(class_names))]


def _luminance(colour):
    r, g, b = to_rgb(colour)
    return 0.299 * r + 0.587 * g + 0.114 * b


def _percent(ax, axis="y"):
    getattr(ax, axis + "axis").set_major_formatter(FuncFormatter(lambda v, _: "{:.0f} %".format(100 * v)))


def _share(share):
    return "{:.0f} %".format(100 * share) if share >= 0.005 else "< 1 %"


def resize(tile, height, width):
    """A picture at another size, uint8 (height, width, 3), averaged rather than sampled."""
    from PIL import Image
    if tile.shape[:2] == (height, width):
        return tile
    return np.asarray(Image.fromarray(tile).resize((width, height), Image.LANCZOS))


def show_sheet(ax, sheet):
    """Pictures laid out on one uint8 (h, w, 3) sheet, without axes: its pixels are the coordinates to write at."""
    ax.imshow(sheet, interpolation="antialiased")
    ax.axis("off")


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


def _squares(tiles):
    """Corners of tiles in kilometres: (N, 4, 2)."""
    from helpers.grid import TILE_M  # here and below, not at the top: geopandas is not there on Python 3.6
    corner = np.stack([tiles["col"].to_numpy(), tiles["row"].to_numpy()], axis=-1)
    return (corner[:, None] + np.array([[0, 0], [1, 0], [1, 1], [0, 1]])) * (TILE_M / 1000)


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
    from helpers.grid import TILE_M
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


# ---- notebooks 03 and 04: how well it learned

def training_curves(ax, history, title, quantity="accuracy"):
    """A quantity on the training and the validation tiles, epoch by epoch, one phase after the other.

    Parameters
    ----------
    history : list of (str, dict)
        Phases in order: a name ("frozen", "fine-tuned") and a dict as Keras's ``History.history``: lists of
        ``quantity`` and ``"val_" + quantity``, one value an epoch.
    quantity : str
        ``"accuracy"`` or ``"loss"``.
    """
    start = 1
    train_ends, validation_ends = None, None
    for phase, (name, values) in enumerate(history):
        train, validation = values[quantity], values["val_" + quantity]
        epochs = np.arange(start, start + len(train))
        marker = "o" if len(train) <= 40 else None
        ax.plot(epochs, train, color=ORANGE, linestyle="--", marker=marker, markersize=3,
                label="training tiles" if phase == 0 else None)
        ax.plot(epochs, validation, color=BLUE, marker=marker, markersize=3,
                label="validation tiles" if phase == 0 else None)
        if phase:
            ax.axvline(start - 0.5, color=EDGE, linewidth=0.9, linestyle=":")
        if len(history) > 1:
            ax.annotate(name, (start - 0.5, 1.0), xycoords=ax.get_xaxis_transform(), xytext=(3, 3),
                        textcoords="offset points", ha="left", va="bottom", fontsize=8, color=MUTED)
        train_ends, validation_ends = train[-1], validation[-1]
        start += len(train)
    shown = (lambda v: "{:.1f} %".format(100 * v)) if quantity == "accuracy" else "{:.2f}".format
    ends = [(train_ends, ORANGE), (validation_ends, BLUE)]
    for (value, colour), above in zip(ends, (ends[0][0] >= ends[1][0], ends[0][0] < ends[1][0])):
        ax.annotate(shown(value), (start - 1, value), xytext=(7, 3 if above else -3), textcoords="offset points",
                    ha="left", va="bottom" if above else "top", fontsize=8.5, color=colour, fontweight="bold")
    ax.set_xlim(0.5, start + max(1.0, 0.09 * start))
    ax.margins(y=0.12)
    ax.xaxis.set_major_locator(MaxNLocator(8, integer=True, min_n_ticks=1))
    ax.set_xlabel("epoch")
    ax.set_ylabel(quantity)
    if quantity == "accuracy":
        _percent(ax)
    ax.grid(axis="y")
    ax.legend(loc="lower right" if quantity == "accuracy" else "upper right")
    set_title(ax, title)
    if len(history) > 1:
        ax.set_title(ax.get_title(loc="left"), loc="left", pad=20)
    return ax


def confusion(ax, matrix, title, class_names=CLASS_NAMES):
    """A confusion matrix: counts, and the share of each true class.

    Parameters
    ----------
    matrix : numpy.ndarray
        Shape (n_classes, n_classes), rows are the truth, as from ``evaluation.confusion_matrix``.
    class_names : sequence of str
    """
    matrix = np.asarray(matrix)
    n = len(matrix)
    totals = matrix.sum(axis=1, keepdims=True)
    shares = matrix / np.maximum(totals, 1)
    ramp = LinearSegmentedColormap.from_list("shares", ["#ffffff", PALE_BLUE, BLUE, "#173f5f"])
    ax.imshow(shares, cmap=ramp, vmin=0, vmax=1)
    for i in range(n):
        for j in range(n):
            if matrix[i, j]:
                colour = "white" if shares[i, j] > 0.5 else INK
                ax.text(j, i - 0.10, "{:,}".format(matrix[i, j]), ha="center", va="center", color=colour,
                        fontsize=10, fontweight="bold" if i == j else "normal")
                ax.text(j, i + 0.24, _share(shares[i, j]), ha="center", va="center",
                        color=colour, fontsize=7.5)
            else:
                ax.text(j, i, "·", ha="center", va="center", color="#a9b3ba", fontsize=9)
    for edge in np.arange(n + 1) - 0.5:
        ax.axhline(edge, color="white", linewidth=1.5)
        ax.axvline(edge, color="white", linewidth=1.5)
    for i in range(n):
        ax.add_patch(Rectangle((i - 0.47, i - 0.47), 0.94, 0.94, fill=False, edgecolor=INK, linewidth=0.9))
    colours = class_colours(class_names)
    ax.set_xticks(range(n))
    ax.set_yticks(range(n))
    ax.set_xticklabels(class_names, rotation=30 if n > 4 else 0, ha="right" if n > 4 else "center")
    ax.set_yticklabels(["{} ({:,})".format(name, int(t)) for name, t in zip(class_names, totals[:, 0])])
    ax.tick_params(length=0, pad=12)
    for i, colour in enumerate(colours):
        for x, y, transform in ((-0.022, i, ax.get_yaxis_transform()), (i, -0.024, ax.get_xaxis_transform())):
            ax.plot(x, y, marker="s", markersize=6.5, color=colour, markeredgecolor=EDGE, markeredgewidth=0.6,
                    clip_on=False, linestyle="none", transform=transform)
    ax.set_xlim(-0.5, n - 0.5)
    ax.set_ylim(n - 0.5, -0.5)
    ax.set_xlabel("predicted class (per cent of the row)")
    ax.set_ylabel("true class (tiles)")
    for spine in ax.spines.values():
        spine.set_visible(False)
    set_title(ax, title)
    return ax


def baselines(ax, accuracies, title, floors=None):
    """Accuracy of models and of the baselines they must beat, on six classes and on three groups.

    Parameters
    ----------
    accuracies : dict
        Name to a dict of ``accuracy`` and, where there is one, ``accuracy_grouped`` (0 to 1); drawn from the top.
    floors : dict, optional
        ``accuracy`` and ``accuracy_grouped`` that a model has to reach.
    """
    kinds = [("accuracy", "six classes", BLUE), ("accuracy_grouped", "three groups", PALE_BLUE)]
    kinds = [k for k in kinds if any(k[0] in values for values in accuracies.values())]
    if len(kinds) == 1:
        kinds = [("accuracy", "accuracy", BLUE)]
    height = 0.76 / len(kinds)
    for y, (name, values) in enumerate(accuracies.items()):
        for k, (key, _, colour) in enumerate(kinds):
            if key in values:
                where = y + (k - (len(kinds) - 1) / 2) * height
                ax.barh(where, values[key], height=0.92 * height, color=colour)
                # At the foot of the bar, where no floor's line crosses it.
                ax.annotate("{:.1f} %".format(100 * values[key]), (0, where), xytext=(6, 0),
                            textcoords="offset points", ha="left", va="center", fontsize=8.5,
                            color="white" if _luminance(colour) < 0.6 else INK)
    handles = [swatch(colour, label) for _, label, colour in kinds]
    for key, label, colour in kinds:
        if floors and key in floors:
            ax.axvline(floors[key], color=INK if key == "accuracy" else MUTED, linewidth=1.1,
                       linestyle="--" if key == "accuracy" else ":")
            handles.append(Line2D([], [], color=INK if key == "accuracy" else MUTED, linewidth=1.1,
                                  linestyle="--" if key == "accuracy" else ":",
                                  label="floor, {} ({:.0f} %)".format(label, 100 * floors[key])))
    ax.set_yticks(range(len(accuracies)))
    ax.set_yticklabels(list(accuracies), color=INK, fontsize=9)
    ax.tick_params(axis="y", length=0)
    ax.set_ylim(len(accuracies) - 0.5, -0.5)
    ax.set_xlim(0, 1)
    _percent(ax, "x")
    ax.set_xlabel("validation tiles classified correctly")
    ax.grid(axis="x")
    ax.spines["left"].set_visible(False)
    ax.legend(handles=handles, loc="upper left", bbox_to_anchor=(1.02, 1.0))
    set_title(ax, title)
    return ax


# ---- notebook 05: many cores

def time_against_cores(ax, cores, seconds, title):
    """Measured times against the number of cores, beside the time that perfect sharing would take.

    Parameters
    ----------
    cores : array_like of int
    seconds : array_like of float
        Same length; several runs of a number of cores are all drawn.
    """
    cores, seconds = np.asarray(cores), np.asarray(seconds, dtype=float)
    counts = np.unique(cores)
    medians = np.array([np.median(seconds[cores == n]) for n in counts])
    # The line starts at the measured median of the fewest cores.
    line = np.geomspace(counts[0], max(counts[-1], counts[0] * 1.01), 50)
    ax.plot(line, medians[0] * counts[0] / line, color=EDGE, linestyle="--", linewidth=1.2,
            label="perfect sharing: time ∝ 1 / cores")
    ax.plot(cores, seconds, "o", color=BLUE, markersize=6.5, markeredgecolor="white", markeredgewidth=0.8,
            label="measured", zorder=3)
    for n, median in zip(counts, medians):
        speedup = medians[0] / median
        text = "{:.1f} s".format(median) if median < 100 else "{:.0f} s".format(median)
        ax.annotate(text if n == counts[0] else "{}\n{:.1f} × faster".format(text, speedup), (n, median),
                    xytext=(8, 5), textcoords="offset points", fontsize=8.5, va="bottom", ha="left")
    ax.set_xscale("log")
    ax.set_yscale("log")
    ax.xaxis.set_major_locator(FixedLocator(counts))
    ax.xaxis.set_minor_locator(NullLocator())
    low, high = min(seconds.min(), medians[0] * counts[0] / counts[-1]) / 1.35, seconds.max() * 1.5
    marks = (1, 2, 5) if high / low > 12 else (1, 1.5, 2, 3, 4, 5, 7)
    ticks = [m * 10.0 ** p for p in range(-2, 6) for m in marks if low <= m * 10.0 ** p <= high]
    ax.yaxis.set_major_locator(FixedLocator(ticks))
    ax.yaxis.set_minor_locator(NullLocator())
    ax.set_xlim(counts[0] / 1.15, counts[-1] * 1.8 ** (1 if len(counts) > 2 else 0.5))
    ax.set_ylim(low, high)
    for axis in (ax.xaxis, ax.yaxis):
        axis.set_major_formatter(FuncFormatter(lambda v, _: "{:g}".format(v)))
    ax.set_xlabel("cores (logarithmic)")
    ax.set_ylabel("seconds (logarithmic)")
    ax.grid(True)
    ax.legend(loc="lower left")
    set_title(ax, title)
    return ax


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
    from helpers.change import to_grid
    from helpers.grid import TILE_M
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


# Two ramps that grow evenly darker, so that they read in grey and by colour-blind readers too.
SCORE_RAMP = ("#f7f5ee", "#f3cf8e", "#dd8a3c", "#a04a1e", "#4a1c10")
UNCERTAINTY_RAMP = ("#f2f5f8", "#bcd0e0", "#7da3c4", "#3f6d99", "#17304d")


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
    from helpers.change import to_grid
    from helpers.grid import TILE_M
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
    from helpers.grid import TILE_M
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


def reliability(ax, tables, title, quantity="score"):
    """Scores beside what came true of them: on the diagonal they mean what they say.

    Parameters
    ----------
    tables : dict of str to pandas.DataFrame
        From ``evaluation.reliability``; larger marks stand for more tiles.
    """
    ax.plot([0, 1], [0, 1], color=EDGE, linewidth=1.2, linestyle="--", zorder=1, label="means what it says")
    for (name, table), colour, marker in zip(tables.items(), (BLUE, ORANGE, INK, EDGE), "osD^"):
        ax.plot(table["score"], table["share"], color=colour, linewidth=1.2, zorder=2)
        ax.scatter(table["score"], table["share"], s=14 + 6 * np.sqrt(table["tiles"]), color=colour, marker=marker,
                   edgecolor="white", linewidth=0.6, label=name, zorder=3)
    ax.set(xlim=(-0.03, 1.03), ylim=(-0.03, 1.03), xlabel="mean " + quantity, ylabel="share that is true")
    ax.set_aspect("equal")
    for axis in "xy":
        _percent(ax, axis)
    ax.grid(True)
    ax.legend(loc="upper left", bbox_to_anchor=(1.02, 1.0))
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

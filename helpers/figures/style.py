"""style."""

import io
import textwrap

import numpy as np
from matplotlib import rcParams
from matplotlib.colors import to_rgb
from matplotlib.patches import Patch
from matplotlib.ticker import FuncFormatter

from helpers.land.classes import CLASSES

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

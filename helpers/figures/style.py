"""For all figures: colours, settings, titles, sheets of pictures, and small files for a notebook."""

import io
import textwrap
from typing import List, Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Patch
from PIL import Image

from helpers.land.classes import CLASSES

INK, MUTED, RULE, GROUND = "#1f2a33", "#5b6770", "#d3d9de", "#e4e9ec"
# Two hues of no class, for lines and bars that do not stand for a class.
BLUE, ORANGE, PALE_BLUE = "#2b6a99", "#d9822b", "#b9d2e4"
EDGE = "#7d8890"
# Outlines of tiles: no class, ramp or boundary has this colour.
MARK = "#0050d0"
# For classes other than the six: Okabe and Ito's colours, which all readers can tell apart.
_OTHER_COLOURS = ("#0072b2", "#e69f00", "#009e73", "#cc79a7", "#56b4e9", "#d55e00", "#f0e442", "#999999")


def style() -> dict:
    """Matplotlib settings for every figure: ``plt.rcParams.update(style())``."""
    return {
        "font.family": "DejaVu Sans", "font.size": 9, "text.color": INK,
        "figure.dpi": 100, "savefig.dpi": 100, "figure.facecolor": "white", "savefig.facecolor": "white",
        "figure.titlesize": 12, "figure.titleweight": "bold",
        "axes.titlesize": 11, "axes.titleweight": "bold", "axes.titlelocation": "left", "axes.titlepad": 9,
        "axes.titlecolor": INK, "axes.labelsize": 9, "axes.labelcolor": MUTED, "axes.labelpad": 5,
        "axes.edgecolor": EDGE, "axes.axisbelow": True, "axes.spines.top": False, "axes.spines.right": False,
        "xtick.color": MUTED, "xtick.labelsize": 8.5, "xtick.major.size": 3,
        "ytick.color": MUTED, "ytick.labelsize": 8.5, "ytick.major.size": 3,
        "grid.color": RULE, "grid.linewidth": 0.7,
        "legend.frameon": False, "legend.fontsize": 8.5, "legend.title_fontsize": 8.5,
        "legend.handlelength": 1.2, "legend.handleheight": 1.2, "legend.borderaxespad": 0.3,
        "lines.linewidth": 1.8, "patch.linewidth": 0.7, "hatch.linewidth": 0.7, "image.interpolation": "nearest",
    }


def as_jpeg(fig: Figure, quality: int = 70, fine_colour: bool = True):
    """Close a figure of photographs and return it as JPEG, a fifth of the size of a PNG, to end a cell with.

    ``quality`` is 1 to 95; ``fine_colour`` keeps coloured text and edges sharp, for a quarter more bytes.
    """
    return _shown(fig, "jpeg", quality=quality, subsampling=0 if fine_colour else 2)


def as_png(fig: Figure):
    """Close a figure of lines and areas and return it as PNG of 128 colours, a quarter of the usual size."""
    return _shown(fig, "png", colours=128)


def _shown(fig: Figure, kind: str, colours: int = None, **settings):
    from IPython import display  # here, because commands draw without a notebook
    from matplotlib import pyplot as plt  # here, because the import chooses a backend
    drawn, encoded = io.BytesIO(), io.BytesIO()
    fig.savefig(drawn, format="png", bbox_inches="tight")
    plt.close(fig)
    picture = Image.open(drawn).convert("RGB")
    if colours:
        # The default, the median cut, would spend the colours on letters' edges and give two classes the same one.
        picture = picture.quantize(colours, method=1)
    picture.save(encoded, kind.upper(), optimize=True, **settings)
    return display.Image(data=encoded.getvalue(), format=kind)


class Markdown(str):
    """A text in Markdown, for a cell's last line. Where no notebook formats it, as under Livy, it is shown as it is."""

    _repr_markdown_ = __repr__ = str.__str__


def set_title(ax: Axes, title: str) -> Axes:
    """Set a title in lines of even length that fit the axes, or the figure if it has no other axes."""
    fig = ax.figure
    room = ax.bbox.width if len(fig.axes) > 1 else fig.bbox.width - ax.bbox.x0
    # Bold DejaVu letters are about 0.64 em wide.
    letters = max(20, int(room / (ax.title.get_fontsize() * fig.dpi / 72 * 0.64)))
    lines = len(textwrap.wrap(title, letters))
    while len(textwrap.wrap(title, letters - 1)) == lines > 1:
        letters -= 1
    ax.set_title("\n".join(textwrap.wrap(title, letters)), loc="left")
    return ax


def swatch(colour: str, label: str, **settings) -> Patch:
    """A square of a colour, for a legend."""
    return Patch(**dict(dict(facecolor=colour, edgecolor=EDGE, linewidth=0.7, label=label), **settings))


def class_colours(class_names: Sequence[str]) -> List[str]:
    """Colours of classes: those of ``land.classes``, or distinct colours for other classes."""
    known = {c.name: c.colour for c in CLASSES}
    if set(class_names) <= set(known):
        return [known[name] for name in class_names]
    return [_OTHER_COLOURS[i % len(_OTHER_COLOURS)] for i in range(len(class_names))]


def share_as_text(share: float) -> str:
    """A share, 0 to 1, in whole per cent."""
    return f"{100 * share:.0f}%" if share >= 0.005 else "< 1%"


def resize(picture: np.ndarray, px: int) -> Image.Image:
    """A uint8 picture, (h, w, 3), as a square of ``px``; its pixels are averaged, not sampled."""
    return Image.fromarray(picture).resize((px, px), Image.LANCZOS)


def white_sheet(width: int, height: int) -> Image.Image:
    """A white picture to paste others into."""
    return Image.new("RGB", (width, height), "white")


def show_sheet(ax: Axes, sheet: Image.Image, title: str) -> Axes:
    """Show a sheet of pictures without axes. Text on it is placed by the sheet's pixels."""
    ax.imshow(sheet, interpolation="antialiased")
    ax.axis("off")
    return set_title(ax, title)

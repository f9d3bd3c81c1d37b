"""A round county to draw, and what a reader sees in a figure."""

import numpy as np
import pandas as pd
import shapely
from matplotlib.colors import to_hex

from helpers.land.grid import TILE_M

CRS = "EPSG:26919"
BOUNDARY = shapely.Point(1407.5 * TILE_M, 20907.5 * TILE_M).buffer(7 * TILE_M)
RNG = np.random.RandomState(0)


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
    return {text.get_text(): to_hex(handle.get_facecolor() if hasattr(handle, "get_facecolor")
                                    else handle.get_markerfacecolor())
            for text, handle in zip(legend.get_texts(), legend.legend_handles)}


def texts_of(ax):
    return [text.get_text() for text in ax.texts]


def title_of(ax):
    return ax.get_title(loc="left").replace("\n", " ")

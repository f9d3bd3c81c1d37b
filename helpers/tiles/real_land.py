"""Real land that the repository holds: photographs by class, and places in three years (``notebooks/real_land``)."""

from pathlib import Path

import numpy as np
import pandas as pd
from PIL import Image

from helpers.tiles.pictures import decode

FOLDER = Path(__file__).resolve().parents[2] / "notebooks" / "real_land"
# What ``images`` calls the photographs; the folders to train and to validate on.
NAME = "photographs"
PHOTOGRAPHS, HELD_OUT = str(FOLDER / NAME), str(FOLDER / "photographs_held_out")
YEARS = (2016, 2018, 2020)


def places() -> tuple:
    """The places before and after: ``places``, a frame, and ``pictures``, as they lie in it.

    Returns
    -------
    places : pandas.DataFrame
        ``place``, ``kind`` (``newly_developed``, ``changed_otherwise`` or ``random``), ``crs`` and bounds.
    pictures : (years, N, 256, 256, 3) uint8, RGB, of 0.6 m, for the years ``YEARS``.
    """
    table = pd.read_csv(str(FOLDER / "table.csv"))
    table = table[table["place"].notna()]
    pictures = [[decode((FOLDER / name).read_bytes()) for name in table.loc[table["year"] == year, "file"]]
                for year in YEARS]
    first = table[table["year"] == YEARS[0]].reset_index(drop=True)
    return first[["place", "kind", "crs", "left", "bottom", "right", "top"]], np.array(pictures)


def coarser(tiles: np.ndarray) -> np.ndarray:
    """Tiles as a camera of half the resolution takes them, uint8 (N, h, w, 3) again.

    The photographs have 0.3 m a pixel and the places 0.6 m: a network should know both.
    """
    height, width = tiles.shape[1:3]
    return np.array([np.asarray(Image.fromarray(tile).resize((width // 2, height // 2), Image.BOX).resize(
        (width, height), Image.BILINEAR)) for tile in tiles])

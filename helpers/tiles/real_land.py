"""Real land in ``notebooks/real_land``: photographs by class, and places in three years."""

from pathlib import Path

import numpy as np
import pandas as pd
from PIL import Image

from helpers.tiles.pictures import decode

FOLDER = Path(__file__).resolve().parents[2] / "notebooks" / "real_land"
# The name that the notebooks' parameter ``images`` takes for the photographs; their folders to train and validate on.
NAME = "photographs"
PHOTOGRAPHS, HELD_OUT = str(FOLDER / NAME), str(FOLDER / "photographs_held_out")
YEARS = (2016, 2018, 2020)


def places() -> tuple:
    """The places, a frame, and their pictures of 0.6 m in the years ``YEARS``: (years, N, 256, 256, 3) uint8, RGB.

    A place's ``kind`` is ``newly_developed``, ``changed_otherwise`` or ``random``.
    """
    table = pd.read_csv(str(FOLDER / "table.csv"))
    table = table[table["place"].notna()]
    pictures = [[decode((FOLDER / name).read_bytes()) for name in table.loc[table["year"] == year, "file"]]
                for year in YEARS]
    first = table[table["year"] == YEARS[0]].reset_index(drop=True)
    return first[["place", "kind", "crs", "left", "bottom", "right", "top"]], np.array(pictures)


def coarser(tiles: np.ndarray) -> np.ndarray:
    """Tiles (N, h, w, 3) uint8 as a camera of half the resolution sees them, in as many pixels.

    Photographs have pixels of 0.3 m and places of 0.6 m, so a network should learn from both.
    """
    height, width = tiles.shape[1:3]
    return np.array([np.asarray(Image.fromarray(tile).resize((width // 2, height // 2), Image.BOX).resize(
        (width, height), Image.BILINEAR)) for tile in tiles])

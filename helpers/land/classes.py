"""Land cover: the repository's one table of NLCD codes, the six classes, the three map groups, and their colours.

Source: https://www.mrlc.gov/data/legends/national-land-cover-database-class-legend-and-description
"""

from collections import namedtuple

import numpy as np

from helpers import InputError

LandCoverClass = namedtuple("LandCoverClass", "class_id name codes group_id colour")
Group = namedtuple("Group", "group_id name colour")
# Red, white and green are the colours of the 2017 county maps.
DEVELOPED, CULTIVATED, UNDEVELOPED = 0, 1, 2
GROUPS = (
    Group(DEVELOPED, "Developed", "#c8102e"),
    Group(CULTIVATED, "Cultivated", "#ffffff"),
    Group(UNDEVELOPED, "Undeveloped", "#62a878"),
)
# Hues follow NLCD's own legend; their lightness differs too, for colour-blind readers.
CLASSES = (
    LandCoverClass(0, "Barren", (31,), UNDEVELOPED, "#9c9489"),
    LandCoverClass(1, "Forest", (41, 42, 43, 90), UNDEVELOPED, "#1f7a3a"),
    LandCoverClass(2, "Shrub", (51, 52), UNDEVELOPED, "#c9a45c"),
    LandCoverClass(3, "Cultivated", (81, 82), CULTIVATED, "#f4e04d"),
    LandCoverClass(4, "Herbaceous", (71, 72, 73, 74, 95), UNDEVELOPED, "#b5e3a0"),
    LandCoverClass(5, "Developed", (21, 22, 23, 24), DEVELOPED, "#c8102e"),
)
CLASS_NAMES = tuple(c.name for c in CLASSES)
# Two ramps that grow evenly darker, so that they work in grey and for colour-blind readers too.
SCORE_RAMP = ("#f7f5ee", "#f3cf8e", "#dd8a3c", "#a04a1e", "#4a1c10")
UNCERTAINTY_RAMP = ("#f2f5f8", "#bcd0e0", "#7da3c4", "#3f6d99", "#17304d")
NO_CLASS = -1
NODATA_CODE = 250
# Code -> (name, colour) of every code that an NLCD raster of the conterminous US or Alaska may hold.
NLCD_LEGEND = {
    11: ("Open Water", "#466b9f"),
    12: ("Perennial Ice/Snow", "#d1def8"),
    21: ("Developed, Open Space", "#dec5c5"),
    22: ("Developed, Low Intensity", "#d99282"),
    23: ("Developed, Medium Intensity", "#eb0000"),
    24: ("Developed, High Intensity", "#ab0000"),
    31: ("Barren Land", "#b3ac9f"),
    41: ("Deciduous Forest", "#68ab5f"),
    42: ("Evergreen Forest", "#1c5f2c"),
    43: ("Mixed Forest", "#b5c58f"),
    51: ("Dwarf Scrub", "#af963c"),
    52: ("Shrub/Scrub", "#ccb879"),
    71: ("Grassland/Herbaceous", "#dfdfc2"),
    72: ("Sedge/Herbaceous", "#d1d182"),
    73: ("Lichens", "#a3cc51"),
    74: ("Moss", "#82ba9e"),
    81: ("Pasture/Hay", "#dcd939"),
    82: ("Cultivated Crops", "#ab6c28"),
    90: ("Woody Wetlands", "#b8d9eb"),
    95: ("Emergent Herbaceous Wetlands", "#6c9fb8"),
}

_CLASS_OF_CODE = np.full(256, NO_CLASS, dtype=np.int8)
for _class in CLASSES:
    _CLASS_OF_CODE[list(_class.codes)] = _class.class_id
# The last entry is that of NO_CLASS, which is -1.
_GROUP_OF_CLASS = np.array([c.group_id for c in CLASSES] + [NO_CLASS], dtype=np.int8)
_GROUP_OF_CODE = _GROUP_OF_CLASS[_CLASS_OF_CODE]
# Water and ice belong to no class, but to the undeveloped land on the map.
_GROUP_OF_CODE[[11, 12]] = UNDEVELOPED


def class_of_code(codes) -> np.ndarray:
    """The class of NLCD codes of any shape: int8 ``class_id``, ``NO_CLASS`` for water, ice and nodata."""
    return _CLASS_OF_CODE[np.asarray(codes, dtype=np.uint8)]


def group_of_code(codes) -> np.ndarray:
    """The map group of NLCD codes: int8 of the same shape, ``NO_CLASS`` where the code is nodata."""
    return _GROUP_OF_CODE[np.asarray(codes, dtype=np.uint8)]


def group_of_class(class_ids) -> np.ndarray:
    """The map group of ``class_id`` values: int8 of the same shape, ``NO_CLASS`` for ``NO_CLASS``."""
    return _GROUP_OF_CLASS[np.asarray(class_ids)]


def group_of_prediction(class_ids) -> np.ndarray:
    """The map group of a pandas Series of predicted classes, ``NO_CLASS`` where a tile has no prediction."""
    return group_of_class(class_ids.fillna(NO_CLASS).astype(int))


def check_codes(codes: np.ndarray, source: str):
    """Refuse values (without nodata) that are not in ``NLCD_LEGEND``; the error calls their raster ``source``."""
    unknown = ", ".join(f"{code:g}" for code in np.setdiff1d(codes, list(NLCD_LEGEND)))
    if unknown:
        raise InputError(f"expected NLCD land cover codes ({', '.join(map(str, NLCD_LEGEND))}) in {source}, got "
                         f"{unknown}. Use an NLCD land cover raster, or declare its other values as nodata.")


def label_tiles(code_counts: np.ndarray):
    """Label, group and purity of tiles by plurality, from their NLCD pixel counts (N, 256).

    The label (int8) is the class of most pixels, of equal counts the lower ``class_id``, and ``NO_CLASS`` where more
    pixels are water or ice than any class. The group (int8) is ``NO_CLASS`` only where a tile has no NLCD pixel. The
    purity (float32) is the label's share of all the tile's NLCD pixels, or 0 without a label.
    """
    total = code_counts.sum(axis=1)
    # The last column counts the pixels of no class. On a tie argmax takes the first, a class.
    by_class = np.stack([code_counts[:, _CLASS_OF_CODE == c].sum(axis=1)
                         for c in list(range(len(CLASSES))) + [NO_CLASS]], axis=1)
    winner = by_class.argmax(axis=1)
    labelled = (winner < len(CLASSES)) & (total > 0)
    label = np.where(labelled, winner, NO_CLASS).astype(np.int8)
    purity = np.where(labelled, by_class.max(axis=1) / np.maximum(total, 1), 0).astype(np.float32)
    by_group = np.stack([code_counts[:, _GROUP_OF_CODE == g.group_id].sum(axis=1) for g in GROUPS], axis=1)
    group = np.where(by_group.any(axis=1), by_group.argmax(axis=1), NO_CLASS).astype(np.int8)
    return label, group, purity


def nine_point_class(codes: np.ndarray) -> np.ndarray:
    """The 2017 rule: the class that all nine points of a tile share, from their codes (N, 9), or ``NO_CLASS``."""
    classes = class_of_code(codes)
    return np.where((classes == classes[:, :1]).all(axis=1), classes[:, 0], NO_CLASS).astype(np.int8)

"""Notebook 06: real places before and after, ranked."""

import numpy as np
import pandas as pd
from matplotlib.axes import Axes

from helpers.figures.style import BLUE, INK, MUTED, ORANGE, resize, show_sheet, white_sheet

KINDS = {"newly_developed": ("newly developed", BLUE), "changed_otherwise": ("changed otherwise", ORANGE),
         "random": ("chosen at random", MUTED)}


def ranked_places(ax: Axes, places: pd.DataFrame, before: np.ndarray, after: np.ndarray, title: str,
                  columns: int = 4, picture_px: int = 120) -> Axes:
    """Pairs of uint8 RGB pictures, the earlier on the left, by ``rank``, with ``kind`` and the ``rule``'s finds."""
    gap, line = picture_px // 8, picture_px // 5
    step_x, step_y = 2 * picture_px + 2 + gap, picture_px + line + gap // 2
    sheet = white_sheet(columns * step_x - gap, -(-len(places) // columns) * step_y - gap // 2)
    for k, at in enumerate(np.argsort(places["rank"].to_numpy())):
        place = places.iloc[at]
        x, y = k % columns * step_x, k // columns * step_y
        for side, picture in enumerate((before[at], after[at])):
            sheet.paste(resize(picture, picture_px), (x + side * (picture_px + 2), y + line))
        words, colour = KINDS[place["kind"]]
        ax.text(x, y + 0.8 * line, f"#{place['rank']}", fontsize=8, color=INK, fontweight="bold")
        ax.text(x + step_x - gap, y + 0.8 * line, words + (" · rule" if place["rule"] else ""), fontsize=7.5,
                color=colour, ha="right", fontweight="bold" if place["kind"] == "newly_developed" else "normal")
    return show_sheet(ax, sheet, title)

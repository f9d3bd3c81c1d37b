"""The style, and the small files that a notebook shows."""

from io import BytesIO

import matplotlib
import matplotlib.pyplot as plt
import numpy as np
import pytest
from matplotlib.colors import to_rgb
from PIL import Image

from drawings import picture, title_of
from helpers.figures.ground import contact_sheet
from helpers.figures.learning import confusion
from helpers.figures.style import as_jpeg, as_png, style
from helpers.land.classes import CLASSES


def test_the_style_is_known_to_matplotlib_and_importing_changes_nothing():
    assert set(style()) <= set(matplotlib.rcParams)
    assert style()["font.family"] == "DejaVu Sans"


def test_long_titles_are_folded_into_the_figure(ax):
    words = "The network confuses Shrub with Herbaceous land far more often than any other two classes of the county"
    confusion(ax, np.eye(6, dtype=int), words)
    ax.figure.canvas.draw()
    extent = ax._left_title.get_window_extent()
    assert title_of(ax) == words and extent.x1 <= ax.figure.bbox.x1


def test_figures_of_photographs_are_small_as_jpeg():
    pytest.importorskip("IPython")
    fig, ax = plt.subplots(figsize=(7, 4))
    contact_sheet(ax, [picture(72) for _ in range(48)], [i % 6 for i in range(48)], "Noise", tile_px=72)
    image = as_jpeg(fig)
    assert image.data[:3] == b"\xff\xd8\xff" and not plt.get_fignums()


def test_a_small_png_keeps_the_colours_of_the_classes():
    fig, ax = plt.subplots(figsize=(5.2, 4.3))
    confusion(ax, np.diag([60, 70, 80, 90, 75, 65]) + 2, "Few errors")
    with BytesIO() as whole:
        fig.savefig(whole, format="png", bbox_inches="tight")
        before, size = np.asarray(Image.open(whole).convert("RGB")).astype(int), len(whole.getvalue())
    small = as_png(fig).data
    after = np.asarray(Image.open(BytesIO(small)).convert("RGB")).astype(int)
    assert len(small) < size / 2
    for c in CLASSES:
        there = (before == np.round(255 * np.array(to_rgb(c.colour)))).all(axis=2)
        assert there.sum() > 20 and np.abs(after - before)[there].max() <= 6

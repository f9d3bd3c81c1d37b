"""How well a network learned."""

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.colors import to_hex

from drawings import legend_of, texts_of
from helpers.figures.learning import baselines, confusion, reliability, training_curves
from helpers.land.classes import CLASSES


def test_training_curves_run_on_from_phase_to_phase(ax):
    first = dict(accuracy=[0.5, 0.7, 0.8], val_accuracy=[0.5, 0.6, 0.7])
    second = dict(accuracy=[0.85, 0.9], val_accuracy=[0.75, 0.77])
    training_curves(ax, [("frozen", first), ("fine-tuned", second)], "Better")
    assert list(legend_of(ax)) == ["training tiles", "validation tiles"]
    assert [list(line.get_xdata()) for line in ax.lines if len(line.get_xdata()) > 2] == [[1, 2, 3]] * 2
    assert [4, 5] in [list(line.get_xdata()) for line in ax.lines]
    assert {"frozen", "fine-tuned", "90.0%", "77.0%"} <= set(texts_of(ax))
    training_curves(plt.figure().add_subplot(), [("frozen", first)], "One phase")


def test_a_confusion_matrix_writes_counts_and_row_shares(ax):
    matrix = np.diag([10, 20, 30, 40, 50, 60])
    matrix[1, 4] = 20
    confusion(ax, matrix, "Forest is half missed")
    ax.figure.canvas.draw()
    assert [t.get_text() for t in ax.get_yticklabels()][1] == "Forest (40)"
    at = {(round(t.get_position()[0]), round(t.get_position()[1])): [] for t in ax.texts}
    for text in ax.texts:
        at[round(text.get_position()[0]), round(text.get_position()[1])].append(text.get_text())
    assert at[4, 1] == ["20", "50%"] and at[1, 1] == ["20", "50%"] and at[5, 5] == ["60", "100%"]
    swatches = [to_hex(line.get_color()) for line in ax.lines if line.get_marker() == "s"]
    assert set(swatches) == {c.colour for c in CLASSES}


def test_classes_of_other_pictures_get_colours_of_their_own(ax):
    confusion(ax, np.eye(3, dtype=int), "Three", class_names=("cat", "dog", "owl"))
    swatches = {to_hex(line.get_color()) for line in ax.lines if line.get_marker() == "s"}
    assert len(swatches) == 3


def test_baselines_show_figures_and_floors(ax):
    baselines(ax, {"colour alone": {"accuracy": 0.6, "accuracy_grouped": 0.75},
                   "ResNet": {"accuracy": 0.9, "accuracy_grouped": 0.95}}, "Better by 30 points",
              floors={"accuracy": 0.8, "accuracy_grouped": 0.92})
    assert list(legend_of(ax)) == ["six classes", "three groups", "2017, six classes (80%)",
                                   "2017, three groups (92%)"]
    assert texts_of(ax) == ["60.0%", "75.0%", "90.0%", "95.0%"]
    assert [p.get_width() for p in ax.patches] == [0.6, 0.75, 0.9, 0.95]
    baselines(plt.figure().add_subplot(), {"colour alone": {"accuracy": 0.6}}, "One measure")


def test_reliability_draws_what_it_is_given(ax):
    table = pd.DataFrame({"tiles": [90, 10], "score": [0.1, 0.8], "share": [0.12, 0.7]})
    reliability(ax, {"a county": table}, "Calibrated")
    ax.figure.canvas.draw()
    assert np.allclose(ax.collections[0].get_offsets(), [[0.1, 0.12], [0.8, 0.7]])
    assert [t.get_text() for t in ax.get_legend().get_texts()] == ["perfectly calibrated", "a county"] and not ax.texts

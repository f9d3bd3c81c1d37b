"""Tasks on slots, and how the time of a job falls with the cores."""

import numpy as np
import pandas as pd
import pytest

from drawings import texts_of
from helpers.figures.scaling import tasks_on_slots, time_against_workers


def test_a_timeline_has_a_bar_for_each_task_in_the_row_of_its_slot(ax):
    tasks = pd.DataFrame({"process": [7, 9, 7], "began": [10.0, 10.5, 12.0], "ended": [11.0, 12.5, 14.0],
                          "pictures": [32, 31, 30]})
    tasks_on_slots(ax, tasks, "Three tasks")
    bars = {(bar.get_y() + bar.get_height() / 2, bar.get_x(), bar.get_width()) for bar in ax.patches}
    assert bars == {(1, 0, 1), (2, 0.5, 2), (1, 2, 2)}
    assert texts_of(ax) == ["task 1\n32", "task 2\n31", "task 3\n30"]
    assert [label.get_text() for label in ax.get_yticklabels()] == ["slot 1", "slot 2"]


@pytest.mark.parametrize("workers, line", [([1, 2, 2, 4], (10, 80)), ([10, 50], (0, 900)), ([1], (0, 300))])
def test_times_stand_beside_their_model_and_perfect_sharing(ax, workers, line):
    seconds = [line[0] + line[1] / n for n in workers]
    time_against_workers(ax, {"ours": (workers, seconds)}, {"ours": line}, "Faster")
    model, perfect, points = ax.lines[:3]
    assert model.get_ydata() == pytest.approx(line[0] + line[1] / model.get_xdata())
    assert perfect.get_ydata() * perfect.get_xdata() == pytest.approx(np.full(60, seconds[0] * workers[0]))
    assert list(points.get_xdata()) == workers and list(points.get_ydata()) == seconds
    ax.figure.canvas.draw()
    assert [text.get_text() for text in ax.get_legend().get_texts()] == [
        "ours", "model: start + work / cores", "perfect sharing, no start"]
    low, high = ax.get_ylim()
    assert low < min(perfect.get_ydata()) and high > max(seconds)

"""Notebooks 01 and 05: tasks on slots, and how the time of a job falls with the cores."""

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.ticker import FixedLocator, LogLocator, NullLocator

from helpers.figures.style import BLUE, EDGE, INK, ORANGE, set_title


def tasks_on_slots(ax: Axes, tasks: pd.DataFrame, title: str) -> Axes:
    """A bar for each task, from ``began`` to ``ended`` in seconds, in the row of the ``process`` that ran it."""
    tasks = tasks.sort_values("began")
    start, slot = tasks["began"].min(), tasks["process"].rank(method="dense").astype(int)
    bars = ax.barh(slot, tasks["ended"] - tasks["began"], left=tasks["began"] - start, height=0.6, color=BLUE,
                   edgecolor="white", linewidth=1.5)
    words = [f"task {number}\n{pictures}" for number, pictures in enumerate(tasks["pictures"], start=1)]
    ax.bar_label(bars, words, label_type="center", color="white", fontsize=7.5)
    ax.set_yticks(range(1, slot.max() + 1), labels=[f"slot {number}" for number in range(1, slot.max() + 1)])
    ax.set(ylim=(slot.max() + 0.6, 0.4), xlim=(0, (tasks["ended"].max() - start) * 1.02),
           xlabel="seconds since the first task began")
    ax.tick_params(axis="y", length=0)
    ax.grid(axis="x")
    return set_title(ax, title)


def time_against_workers(ax: Axes, runs: dict, lines: dict, title: str, unit: str = "cores") -> Axes:
    """The seconds of each run against its number of workers, both logarithmic, with the line of a model through them.

    ``runs`` are ``(workers, seconds)`` by name. ``lines`` are ``(start_s, shared_s)`` of ``cost.fitted`` by name; the
    model is start_s + shared_s / workers. The ``unit`` of the workers is "cores" or "nodes".
    """
    every = np.unique(np.concatenate([workers for workers, _ in runs.values()]))
    along = np.geomspace(every[0], max(every[-1], 1.01 * every[0]), 60)
    for (name, (workers, seconds)), colour, marker in zip(runs.items(), (BLUE, ORANGE, INK), "osD"):
        start_s, shared_s = lines[name]
        ax.plot(along, start_s + shared_s / along, color=colour, linewidth=1.4)
        ax.plot(along, (start_s + shared_s / along[0]) * along[0] / along, color=EDGE, linestyle="--", linewidth=1)
        ax.plot(workers, seconds, marker, color=colour, markersize=5.5, markeredgecolor="white", markeredgewidth=0.7,
                label=name, zorder=3)
    ax.plot([], [], color=BLUE, linewidth=1.4, label=f"model: start + work / {unit}")
    ax.plot([], [], color=EDGE, linestyle="--", linewidth=1, label="perfect sharing, no start")
    low = ax.dataLim.ymin
    high = max(max(seconds) for _, seconds in runs.values())
    ax.set(xscale="log", yscale="log", xlabel=f"{unit} (logarithmic)", ylabel="seconds (logarithmic)",
           ylim=(low / 1.2, high * 1.25), xlim=(every[0] / 1.12, along[-1] * 1.12))
    for axis, ticks in ((ax.xaxis, FixedLocator(every)), (ax.yaxis, LogLocator(subs=(1, 1.5, 2, 3, 5, 7)))):
        axis.set_major_locator(ticks)
        axis.set_minor_locator(NullLocator())
        axis.set_major_formatter("{x:g}")
    ax.grid(True)
    ax.legend(loc="lower left")
    return set_title(ax, title)

"""learning."""

import numpy as np
from matplotlib.colors import LinearSegmentedColormap
from matplotlib.lines import Line2D
from matplotlib.patches import Rectangle
from matplotlib.ticker import FixedLocator, FuncFormatter, MaxNLocator, NullLocator

from helpers.figures.style import (
    BLUE, EDGE, INK, MUTED, ORANGE, PALE_BLUE, _luminance, _percent, _share, class_colours, set_title, swatch)
from helpers.land.classes import CLASS_NAMES

# ---- notebooks 03 and 04: how well it learned

def training_curves(ax, history, title, quantity="accuracy"):
    """A quantity on the training and the validation tiles, epoch by epoch, one phase after the other.

    Parameters
    ----------
    history : list of (str, dict)
        Phases in order: a name ("frozen", "fine-tuned") and a dict as Keras's ``History.history``: lists of
        ``quantity`` and ``"val_" + quantity``, one value an epoch.
    quantity : str
        ``"accuracy"`` or ``"loss"``.
    """
    start = 1
    train_ends, validation_ends = None, None
    for phase, (name, values) in enumerate(history):
        train, validation = values[quantity], values["val_" + quantity]
        epochs = np.arange(start, start + len(train))
        marker = "o" if len(train) <= 40 else None
        ax.plot(epochs, train, color=ORANGE, linestyle="--", marker=marker, markersize=3,
                label="training tiles" if phase == 0 else None)
        ax.plot(epochs, validation, color=BLUE, marker=marker, markersize=3,
                label="validation tiles" if phase == 0 else None)
        if phase:
            ax.axvline(start - 0.5, color=EDGE, linewidth=0.9, linestyle=":")
        if len(history) > 1:
            ax.annotate(name, (start - 0.5, 1.0), xycoords=ax.get_xaxis_transform(), xytext=(3, 3),
                        textcoords="offset points", ha="left", va="bottom", fontsize=8, color=MUTED)
        train_ends, validation_ends = train[-1], validation[-1]
        start += len(train)
    shown = (lambda v: "{:.1f} %".format(100 * v)) if quantity == "accuracy" else "{:.2f}".format
    ends = [(train_ends, ORANGE), (validation_ends, BLUE)]
    for (value, colour), above in zip(ends, (ends[0][0] >= ends[1][0], ends[0][0] < ends[1][0])):
        ax.annotate(shown(value), (start - 1, value), xytext=(7, 3 if above else -3), textcoords="offset points",
                    ha="left", va="bottom" if above else "top", fontsize=8.5, color=colour, fontweight="bold")
    ax.set_xlim(0.5, start + max(1.0, 0.09 * start))
    ax.margins(y=0.12)
    ax.xaxis.set_major_locator(MaxNLocator(8, integer=True, min_n_ticks=1))
    ax.set_xlabel("epoch")
    ax.set_ylabel(quantity)
    if quantity == "accuracy":
        _percent(ax)
    ax.grid(axis="y")
    ax.legend(loc="lower right" if quantity == "accuracy" else "upper right")
    set_title(ax, title)
    if len(history) > 1:
        ax.set_title(ax.get_title(loc="left"), loc="left", pad=20)
    return ax


def confusion(ax, matrix, title, class_names=CLASS_NAMES):
    """A confusion matrix: counts, and the share of each true class.

    Parameters
    ----------
    matrix : numpy.ndarray
        Shape (n_classes, n_classes), rows are the truth, as from ``evaluation.confusion_matrix``.
    class_names : sequence of str
    """
    matrix = np.asarray(matrix)
    n = len(matrix)
    totals = matrix.sum(axis=1, keepdims=True)
    shares = matrix / np.maximum(totals, 1)
    ramp = LinearSegmentedColormap.from_list("shares", ["#ffffff", PALE_BLUE, BLUE, "#173f5f"])
    ax.imshow(shares, cmap=ramp, vmin=0, vmax=1)
    for i in range(n):
        for j in range(n):
            if matrix[i, j]:
                colour = "white" if shares[i, j] > 0.5 else INK
                ax.text(j, i - 0.10, "{:,}".format(matrix[i, j]), ha="center", va="center", color=colour,
                        fontsize=10, fontweight="bold" if i == j else "normal")
                ax.text(j, i + 0.24, _share(shares[i, j]), ha="center", va="center",
                        color=colour, fontsize=7.5)
            else:
                ax.text(j, i, "·", ha="center", va="center", color="#a9b3ba", fontsize=9)
    for edge in np.arange(n + 1) - 0.5:
        ax.axhline(edge, color="white", linewidth=1.5)
        ax.axvline(edge, color="white", linewidth=1.5)
    for i in range(n):
        ax.add_patch(Rectangle((i - 0.47, i - 0.47), 0.94, 0.94, fill=False, edgecolor=INK, linewidth=0.9))
    colours = class_colours(class_names)
    ax.set_xticks(range(n))
    ax.set_yticks(range(n))
    ax.set_xticklabels(class_names, rotation=30 if n > 4 else 0, ha="right" if n > 4 else "center")
    ax.set_yticklabels(["{} ({:,})".format(name, int(t)) for name, t in zip(class_names, totals[:, 0])])
    ax.tick_params(length=0, pad=12)
    for i, colour in enumerate(colours):
        for x, y, transform in ((-0.022, i, ax.get_yaxis_transform()), (i, -0.024, ax.get_xaxis_transform())):
            ax.plot(x, y, marker="s", markersize=6.5, color=colour, markeredgecolor=EDGE, markeredgewidth=0.6,
                    clip_on=False, linestyle="none", transform=transform)
    ax.set_xlim(-0.5, n - 0.5)
    ax.set_ylim(n - 0.5, -0.5)
    ax.set_xlabel("predicted class (per cent of the row)")
    ax.set_ylabel("true class (tiles)")
    for spine in ax.spines.values():
        spine.set_visible(False)
    set_title(ax, title)
    return ax


def baselines(ax, accuracies, title, floors=None):
    """Accuracy of models and of the baselines they must beat, on six classes and on three groups.

    Parameters
    ----------
    accuracies : dict
        Name to a dict of ``accuracy`` and, where there is one, ``accuracy_grouped`` (0 to 1); drawn from the top.
    floors : dict, optional
        ``accuracy`` and ``accuracy_grouped`` that a model has to reach.
    """
    kinds = [("accuracy", "six classes", BLUE), ("accuracy_grouped", "three groups", PALE_BLUE)]
    kinds = [k for k in kinds if any(k[0] in values for values in accuracies.values())]
    if len(kinds) == 1:
        kinds = [("accuracy", "accuracy", BLUE)]
    height = 0.76 / len(kinds)
    for y, (name, values) in enumerate(accuracies.items()):
        for k, (key, _, colour) in enumerate(kinds):
            if key in values:
                where = y + (k - (len(kinds) - 1) / 2) * height
                ax.barh(where, values[key], height=0.92 * height, color=colour)
                # At the foot of the bar, where no floor's line crosses it.
                ax.annotate("{:.1f} %".format(100 * values[key]), (0, where), xytext=(6, 0),
                            textcoords="offset points", ha="left", va="center", fontsize=8.5,
                            color="white" if _luminance(colour) < 0.6 else INK)
    handles = [swatch(colour, label) for _, label, colour in kinds]
    for key, label, colour in kinds:
        if floors and key in floors:
            ax.axvline(floors[key], color=INK if key == "accuracy" else MUTED, linewidth=1.1,
                       linestyle="--" if key == "accuracy" else ":")
            handles.append(Line2D([], [], color=INK if key == "accuracy" else MUTED, linewidth=1.1,
                                  linestyle="--" if key == "accuracy" else ":",
                                  label="floor, {} ({:.0f} %)".format(label, 100 * floors[key])))
    ax.set_yticks(range(len(accuracies)))
    ax.set_yticklabels(list(accuracies), color=INK, fontsize=9)
    ax.tick_params(axis="y", length=0)
    ax.set_ylim(len(accuracies) - 0.5, -0.5)
    ax.set_xlim(0, 1)
    _percent(ax, "x")
    ax.set_xlabel("validation tiles classified correctly")
    ax.grid(axis="x")
    ax.spines["left"].set_visible(False)
    ax.legend(handles=handles, loc="upper left", bbox_to_anchor=(1.02, 1.0))
    set_title(ax, title)
    return ax


# ---- notebook 05: many cores

def time_against_cores(ax, cores, seconds, title):
    """Measured times against the number of cores, beside the time that perfect sharing would take.

    Parameters
    ----------
    cores : array_like of int
    seconds : array_like of float
        Same length; several runs of a number of cores are all drawn.
    """
    cores, seconds = np.asarray(cores), np.asarray(seconds, dtype=float)
    counts = np.unique(cores)
    medians = np.array([np.median(seconds[cores == n]) for n in counts])
    # The line starts at the measured median of the fewest cores.
    line = np.geomspace(counts[0], max(counts[-1], counts[0] * 1.01), 50)
    ax.plot(line, medians[0] * counts[0] / line, color=EDGE, linestyle="--", linewidth=1.2,
            label="perfect sharing: time ∝ 1 / cores")
    ax.plot(cores, seconds, "o", color=BLUE, markersize=6.5, markeredgecolor="white", markeredgewidth=0.8,
            label="measured", zorder=3)
    for n, median in zip(counts, medians):
        speedup = medians[0] / median
        text = "{:.1f} s".format(median) if median < 100 else "{:.0f} s".format(median)
        ax.annotate(text if n == counts[0] else "{}\n{:.1f} × faster".format(text, speedup), (n, median),
                    xytext=(8, 5), textcoords="offset points", fontsize=8.5, va="bottom", ha="left")
    ax.set_xscale("log")
    ax.set_yscale("log")
    ax.xaxis.set_major_locator(FixedLocator(counts))
    ax.xaxis.set_minor_locator(NullLocator())
    low, high = min(seconds.min(), medians[0] * counts[0] / counts[-1]) / 1.35, seconds.max() * 1.5
    marks = (1, 2, 5) if high / low > 12 else (1, 1.5, 2, 3, 4, 5, 7)
    ticks = [m * 10.0 ** p for p in range(-2, 6) for m in marks if low <= m * 10.0 ** p <= high]
    ax.yaxis.set_major_locator(FixedLocator(ticks))
    ax.yaxis.set_minor_locator(NullLocator())
    ax.set_xlim(counts[0] / 1.15, counts[-1] * 1.8 ** (1 if len(counts) > 2 else 0.5))
    ax.set_ylim(low, high)
    for axis in (ax.xaxis, ax.yaxis):
        axis.set_major_formatter(FuncFormatter(lambda v, _: "{:g}".format(v)))
    ax.set_xlabel("cores (logarithmic)")
    ax.set_ylabel("seconds (logarithmic)")
    ax.grid(True)
    ax.legend(loc="lower left")
    set_title(ax, title)
    return ax


def reliability(ax, tables, title, quantity="score"):
    """Scores beside what came true of them: on the diagonal they mean what they say.

    Parameters
    ----------
    tables : dict of str to pandas.DataFrame
        From ``evaluation.reliability``; larger marks stand for more tiles.
    """
    ax.plot([0, 1], [0, 1], color=EDGE, linewidth=1.2, linestyle="--", zorder=1, label="means what it says")
    for (name, table), colour, marker in zip(tables.items(), (BLUE, ORANGE, INK, EDGE), "osD^"):
        ax.plot(table["score"], table["share"], color=colour, linewidth=1.2, zorder=2)
        ax.scatter(table["score"], table["share"], s=14 + 6 * np.sqrt(table["tiles"]), color=colour, marker=marker,
                   edgecolor="white", linewidth=0.6, label=name, zorder=3)
    ax.set(xlim=(-0.03, 1.03), ylim=(-0.03, 1.03), xlabel="mean " + quantity, ylabel="share that is true")
    ax.set_aspect("equal")
    for axis in "xy":
        _percent(ax, axis)
    ax.grid(True)
    ax.legend(loc="upper left", bbox_to_anchor=(1.02, 1.0))
    set_title(ax, title)
    return ax

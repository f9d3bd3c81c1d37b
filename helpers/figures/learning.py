"""Notebooks 03 to 06: how well a network learned."""

from typing import Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import LinearSegmentedColormap
from matplotlib.lines import Line2D
from matplotlib.patches import Rectangle
from matplotlib.ticker import MaxNLocator

from helpers.figures.style import (
    BLUE, EDGE, INK, MUTED, ORANGE, PALE_BLUE, class_colours, set_title, share_as_text, swatch)
from helpers.land.classes import CLASS_NAMES


def training_curves(ax: Axes, history: list, title: str) -> Axes:
    """Accuracy on the training and the validation tiles, epoch by epoch, one phase after the other.

    Each phase of ``history`` is a name, and Keras's ``History.history`` with ``accuracy`` and ``val_accuracy``.
    """
    curves = (("accuracy", ORANGE, "--", "training tiles"), ("val_accuracy", BLUE, "-", "validation tiles"))
    start = 1
    for phase, (name, values) in enumerate(history):
        epochs = start + np.arange(len(values["accuracy"]))
        for key, colour, dashes, label in curves:
            ax.plot(epochs, values[key], color=colour, linestyle=dashes, marker="o" if len(epochs) <= 40 else None,
                    markersize=3, label=None if phase else label)
        if phase:
            ax.axvline(start - 0.5, color=EDGE, linewidth=0.9, linestyle=":")
        if len(history) > 1:
            ax.annotate(name, (start - 0.5, 1.0), xycoords=ax.get_xaxis_transform(), xytext=(3, 3),
                        textcoords="offset points", va="bottom", fontsize=8, color=MUTED)
        start += len(epochs)
    higher = max(curves, key=lambda curve: values[curve[0]][-1])
    for key, colour, _, _ in curves:
        rise, side = (3, "bottom") if key == higher[0] else (-3, "top")
        ax.annotate(f"{100 * values[key][-1]:.1f}%", (start - 1, values[key][-1]), xytext=(7, rise),
                    textcoords="offset points", va=side, fontsize=8.5, color=colour, fontweight="bold")
    ax.set(xlim=(0.5, start + max(1.0, 0.09 * start)), xlabel="epoch", ylabel="accuracy")
    ax.margins(y=0.12)
    ax.xaxis.set_major_locator(MaxNLocator(8, integer=True, min_n_ticks=1))
    ax.yaxis.set_major_formatter("{x:.0%}")
    ax.grid(axis="y")
    ax.legend(loc="lower right")
    set_title(ax, title)
    if len(history) > 1:
        ax.set_title(ax.get_title(loc="left"), loc="left", pad=20)
    return ax


def confusion(ax: Axes, matrix: np.ndarray, title: str, class_names: Sequence[str] = CLASS_NAMES) -> Axes:
    """Counts of ``evaluation.confusion_matrix``, whose rows are the labels, and their shares of the rows."""
    matrix = np.asarray(matrix)
    n = len(matrix)
    totals = matrix.sum(axis=1)
    shares = matrix / np.maximum(totals, 1)[:, None]
    ramp = LinearSegmentedColormap.from_list("shares", ["#ffffff", PALE_BLUE, BLUE, "#173f5f"])
    ax.imshow(shares, cmap=ramp, vmin=0, vmax=1)
    for i, j in np.ndindex(n, n):
        centred = dict(ha="center", va="center", color="white" if shares[i, j] > 0.5 else INK)
        if matrix[i, j]:
            ax.text(j, i - 0.10, f"{matrix[i, j]:,}", fontsize=10, fontweight="bold" if i == j else "normal", **centred)
            ax.text(j, i + 0.24, share_as_text(shares[i, j]), fontsize=7.5, **centred)
        else:
            ax.text(j, i, "·", fontsize=9, **dict(centred, color="#a9b3ba"))
    for edge in np.arange(1, n) - 0.5:
        ax.axhline(edge, color="white", linewidth=1.5)
        ax.axvline(edge, color="white", linewidth=1.5)
    for i, colour in enumerate(class_colours(class_names)):
        ax.add_patch(Rectangle((i - 0.47, i - 0.47), 0.94, 0.94, fill=False, edgecolor=INK, linewidth=0.9))
        for x, y, transform in ((-0.022, i, ax.get_yaxis_transform()), (i, -0.024, ax.get_xaxis_transform())):
            ax.plot(x, y, marker="s", markersize=6.5, color=colour, markeredgecolor=EDGE, markeredgewidth=0.6,
                    clip_on=False, linestyle="none", transform=transform)
    ax.set(xticks=range(n), yticks=range(n), xlim=(-0.5, n - 0.5), ylim=(n - 0.5, -0.5),
           yticklabels=[f"{name} ({total:,.0f})" for name, total in zip(class_names, totals)],
           xlabel="predicted class (per cent of the row)", ylabel="class of the label (count)")
    ax.set_xticklabels(class_names, rotation=30 if n > 4 else 0, ha="right" if n > 4 else "center")
    ax.tick_params(length=0, pad=12)
    ax.set_frame_on(False)
    return set_title(ax, title)


def baselines(ax: Axes, accuracies: dict, title: str, floors: dict = None) -> Axes:
    """Accuracy of models and of the baselines that they must beat, on six classes and, where known, three groups.

    ``accuracies`` has a dict for each name, with ``accuracy`` and perhaps ``accuracy_grouped``. ``floors`` has the same
    keys: the values that a model must reach.
    """
    kinds = [("accuracy", "six classes", BLUE, INK, "--"), ("accuracy_grouped", "three groups", PALE_BLUE, MUTED, ":")]
    if not any("accuracy_grouped" in values for values in accuracies.values()):
        kinds = [("accuracy", "accuracy", BLUE, INK, "--")]
    height = 0.76 / len(kinds)
    for row, values in enumerate(accuracies.values()):
        for k, (key, _, colour, _, _) in enumerate(kinds):
            if key in values:
                y = row + (k - (len(kinds) - 1) / 2) * height
                ax.barh(y, values[key], height=0.92 * height, color=colour)
                # The text stands at the foot of the bar, where no floor's line crosses it.
                ax.annotate(f"{100 * values[key]:.1f}%", (0, y), xytext=(6, 0), textcoords="offset points",
                            va="center", fontsize=8.5, color="white" if colour == BLUE else INK)
    handles = [swatch(colour, label) for _, label, colour, _, _ in kinds]
    for key, label, _, colour, dashes in kinds:
        if floors and key in floors:
            look = dict(color=colour, linewidth=1.1, linestyle=dashes)
            ax.axvline(floors[key], **look)
            handles.append(Line2D([], [], label=f"2017, {label} ({100 * floors[key]:.0f}%)", **look))
    ax.set(xlim=(0, 1), ylim=(len(accuracies) - 0.5, -0.5), yticks=range(len(accuracies)),
           xlabel="validation tiles classified correctly")
    ax.set_yticklabels(list(accuracies), color=INK, fontsize=9)
    ax.tick_params(axis="y", length=0)
    ax.xaxis.set_major_formatter("{x:.0%}")
    ax.grid(axis="x")
    ax.spines["left"].set_visible(False)
    ax.legend(handles=handles, loc="upper left", bbox_to_anchor=(1.02, 1.0))
    return set_title(ax, title)


def reliability(ax: Axes, tables: dict, title: str, quantity: str = "score", true: str = "correct") -> Axes:
    """A quantity, 0 to 1, against the share of tiles that are ``true``: calibrated values lie on the diagonal.

    ``tables`` are those of ``evaluation.reliability``, by name. Larger marks stand for more tiles.
    """
    ax.plot([0, 1], [0, 1], color=EDGE, linewidth=1.2, linestyle="--", zorder=1, label="perfectly calibrated")
    for (name, table), colour, marker in zip(tables.items(), (BLUE, ORANGE, INK, EDGE), "osD^"):
        ax.plot(table["score"], table["share"], color=colour, linewidth=1.2, zorder=2)
        ax.scatter(table["score"], table["share"], s=14 + 6 * np.sqrt(table["tiles"]), color=colour, marker=marker,
                   edgecolor="white", linewidth=0.6, label=name, zorder=3)
    ax.set(xlim=(-0.03, 1.03), ylim=(-0.03, 1.03), xlabel=quantity, ylabel=f"share {true}", aspect="equal")
    for axis in (ax.xaxis, ax.yaxis):
        axis.set_major_formatter("{x:.0%}")
    ax.grid(True)
    ax.legend(loc="upper left", bbox_to_anchor=(1.02, 1.0))
    return set_title(ax, title)

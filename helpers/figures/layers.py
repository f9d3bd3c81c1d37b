"""Notebook 04: what the layers of a network see.

A *neuron* is one channel of a convolutional layer. It answers at many positions of a tile. From each position it sees
its *receptive field*, which has a ``size``, ``start`` and ``step``; a *crop* is the picture of these pixels. The crops
follow Zeiler and Fergus 2013, *Visualizing and Understanding Convolutional Networks*; the evidence follows Zhou et al.
2015, *Learning Deep Features for Discriminative Localization*.
"""

from collections import namedtuple
from typing import Callable, List, Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from PIL import Image, ImageOps
from scipy.special import softmax

from helpers.figures.style import GROUND, INK, class_colours, resize, show_sheet, swatch, white_sheet

# Crops of each neuron that a sheet shows. They also decide which class the neuron stands for.
SHOWN = 9
# Of one layer: the strongest answer of each neuron to each tile, (N, channels) float32; its row and column in the
# layer's map, (N, channels, 2); and the layer's average map, (channels, rows, columns) float32.
Peaks = namedtuple("Peaks", "values positions usual")


def peaks(compute: Callable, tiles: np.ndarray, receptive_fields: Sequence, batch: int = 8) -> List[Peaks]:
    """The ``Peaks`` of layers, from the maps that ``compute`` gives of a batch of tiles, (n, channels, rows, columns).

    The edge of a tile can excite a neuron more than any land does. So only positions count from which the neuron sees
    nothing but the tile. In a layer without such positions, all count.
    """
    found = [[] for _ in receptive_fields]
    for start in range(0, len(tiles), batch):
        for of_layer, maps, receptive_field in zip(found, compute(tiles[start:start + batch]), receptive_fields):
            inside = positions_inside(receptive_field, maps.shape[2:], tiles.shape[1:3])
            flat = np.where(inside | ~inside.any(), maps, np.float32(-np.inf)).reshape(maps.shape[:2] + (-1,))
            at = flat.argmax(axis=2)
            of_layer.append((np.take_along_axis(flat, at[..., None], axis=2)[..., 0],
                             np.stack(np.unravel_index(at, maps.shape[2:]), axis=-1),
                             maps.sum(axis=0, dtype=np.float64)))
    return [Peaks(np.concatenate(values), np.concatenate(positions), (sum(totals) / len(tiles)).astype(np.float32))
            for values, positions, totals in (zip(*of_layer) for of_layer in found)]


def strongest(peaks: Peaks, channel=slice(None)) -> np.ndarray:
    """Rows of the tiles that excite a neuron most, the strongest first: (SHOWN,), or (SHOWN, channels) of all."""
    return np.argsort(-peaks.values[:, channel], axis=0, kind="stable")[:SHOWN]


def class_shares(peaks: Peaks, labels: np.ndarray, n_classes: int) -> np.ndarray:
    """Each class's share of the tiles that excite a neuron most, (channels, n_classes). Silent neurons have 0."""
    rows = strongest(peaks)
    heard = np.take_along_axis(peaks.values, rows, axis=0) > peaks.values.min(axis=0)
    return (np.eye(n_classes)[labels[rows]] * heard[..., None]).sum(axis=0) / SHOWN


def neurons_for_classes(peaks: Peaks, labels: np.ndarray, n_classes: int) -> List[int]:
    """For each class another neuron: the one whose strongest tiles are most often of that class."""
    deviation = peaks.values.std(axis=0) + 1e-6
    distance = np.stack([(peaks.values[labels == c].mean(axis=0) - peaks.values[labels != c].mean(axis=0)) / deviation
                         for c in range(n_classes)])
    # Among neurons of the same share, the mean answers decide. They count less than the step between two shares.
    fitness = class_shares(peaks, labels, n_classes).T + distance / (np.abs(distance).max() + 1) / (2 * SHOWN)
    chosen = [None] * n_classes
    # The clearest case comes first. If there are more classes than neurons, classes share them.
    for _ in range(n_classes):
        c, k = np.unravel_index(np.argmax(fitness), fitness.shape)
        chosen[c] = int(k)
        fitness[c] = -np.inf
        if fitness.shape[1] >= n_classes:
            fitness[:, k] = -np.inf
    return chosen


def pixels_seen(receptive_field, position: tuple, tile_px: tuple) -> tuple:
    """The pixels ``(top, bottom, left, right)`` of a tile (height, width) that a neuron sees from (row, column)."""
    first = receptive_field.start + np.asarray(position) * receptive_field.step
    (top, left), (bottom, right) = np.maximum(first, 0), np.minimum(first + receptive_field.size, tile_px)
    return top, bottom, left, right


def positions_inside(receptive_field, shape: tuple, tile_px: tuple) -> np.ndarray:
    """Whether a neuron sees nothing but the tile from each position of a map of ``shape`` (rows, columns)."""
    first = [receptive_field.start + np.arange(n) * receptive_field.step for n in shape]
    down, across = ((start >= 0) & (start + receptive_field.size <= px) for start, px in zip(first, tile_px))
    return down[:, None] & across


def crop(tile: np.ndarray, receptive_field, position: tuple, px: int) -> Image.Image:
    """The pixels that a neuron sees from one position, as a square of ``px``, grey beyond the tile."""
    seen = Image.new("RGB", (receptive_field.size,) * 2, GROUND)
    top, left = (receptive_field.start + int(n) * receptive_field.step for n in position)
    seen.paste(Image.fromarray(tile), (-left, -top))
    return seen.resize((px, px), Image.LANCZOS)


def evidence(maps: Sequence[np.ndarray], usual: Sequence[np.ndarray], head) -> np.ndarray:
    """The logits of each position, (N, rows, columns, n_classes) float32. Their average over a tile is its logits.

    A head on averaged maps is a sum over positions: exchange the two sums, and each position has logits. Near the edge
    a neuron answers differently, whatever the land is. So the distance of an answer from the usual one there counts.

    ``maps``, (N, channels, rows, columns), and ``usual``, of ``Peaks``, are those of each layer that the ``head`` of
    ``retrain_cntk`` reads.
    """
    features = np.concatenate(maps, axis=1).transpose(0, 2, 3, 1)
    usual = np.concatenate(usual).transpose(1, 2, 0)
    # The head also learned from changed copies of the tiles. So the average of what is subtracted is the head's mean.
    usual = usual - usual.mean(axis=(0, 1)) + head.mean
    return (((features - usual) / head.deviation).dot(head.weights) + head.bias).astype(np.float32)


def contributions(head, features: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """The average that each feature adds to a class's logit on the class's own tiles, (n_features, n_classes)."""
    standardised = (features - head.mean) / head.deviation
    own = np.stack([standardised[labels == c].mean(axis=0) for c in range(head.weights.shape[1])], axis=1)
    # A neuron whose silence speaks for the class adds 0.
    return np.maximum(head.weights, 0) * np.maximum(own, 0)


def most_divided(evidence: np.ndarray, n: int) -> np.ndarray:
    """Rows of the ``n`` tiles that two classes divide most evenly, by their ``evidence``."""
    second = np.sort(softmax(evidence, axis=-1).mean(axis=(1, 2)), axis=1)[:, -2]
    # In such a tile the average is mixed, and each position is sure.
    winner = evidence.argmax(axis=3).reshape(len(evidence), -1)
    held = np.sort([np.bincount(row, minlength=evidence.shape[3]) for row in winner], axis=1)[:, -2] / winner.shape[1]
    return np.argsort(-(second * held), kind="stable")[:n]


# ---- the figures

def filters(ax: Axes, kernels: np.ndarray, title: str, columns: int = 8, filter_px: int = 88,
            order: str = "RGB") -> Axes:
    """The first layer's filters, (n, 3, height, width), as pictures; grey is zero. ``order`` is "RGB" or "BGR"."""
    pictures = kernels.transpose(0, 2, 3, 1)
    pictures = pictures[..., ::-1] if order == "BGR" else pictures
    # The strongest weight of each filter becomes black or white.
    spread = np.abs(pictures).max(axis=(1, 2, 3), keepdims=True) + 1e-12
    pictures = np.uint8(255 * (0.5 + 0.5 * pictures / spread))
    # Grey filters come first, so that edges stand with edges and colours with colours.
    colourful = (pictures.max(axis=3).astype(int) - pictures.min(axis=3)).mean(axis=(1, 2))
    pictures = pictures[np.argsort(colourful, kind="stable")]
    repeat = max(1, filter_px // pictures.shape[1])
    enlarged = map(Image.fromarray, pictures.repeat(repeat, axis=1).repeat(repeat, axis=2))
    return show_sheet(ax, _mosaic(list(enlarged), columns, gap=10), title)


def _mosaic(pictures: Sequence[Image.Image], columns: int, gap: int) -> Image.Image:
    """Pictures of one size, in rows on white."""
    step_x, step_y = pictures[0].width + gap, pictures[0].height + gap
    rows, columns = -(-len(pictures) // columns), min(columns, len(pictures))
    sheet = white_sheet(columns * step_x - gap, rows * step_y - gap)
    for i, picture in enumerate(pictures):
        sheet.paste(picture, (i % columns * step_x, i // columns * step_y))
    return sheet


def _outline(ax: Axes, left: float, top: float, width: float, height: float, light: float, dark: float) -> None:
    """A dark line on a wider light line: it shows on any picture."""
    for colour, line in (("white", light), (INK, dark)):
        ax.add_patch(Rectangle((left, top), width, height, fill=False, edgecolor=colour, linewidth=line))


def layer(ax: Axes, tiles: np.ndarray, labels: np.ndarray, peaks: Peaks, receptive_field, channels: Sequence[int],
          title: str, class_names: Sequence[str], crop_px: int = 42, tile_px: int = 66) -> Axes:
    """For each class one neuron of ``channels``, with the crops that excite it most, framed in their tiles' classes.

    Above the crops stands the tile of the first crop with the receptive field on it, and the neuron's class and number.
    """
    colours = class_colours(class_names)
    shares = class_shares(peaks, labels, len(class_names))
    frame, gap, between, columns = 3, 2, 16, int(round(SHOWN ** 0.5))
    width = columns * (crop_px + 2 * frame + gap) - gap
    head = tile_px + 2 * frame + 8

    def framed(picture, label):
        return ImageOps.expand(picture, frame, colours[label])

    sheet = white_sheet(len(channels) * (width + between) - between, head + width)
    for class_id, channel in enumerate(channels):
        left = class_id * (width + between)
        rows = strongest(peaks, channel)
        at = peaks.positions[rows, channel]
        crops = _mosaic([framed(crop(tiles[i], receptive_field, position, crop_px), labels[i])
                         for i, position in zip(rows, at)], columns, gap)
        sheet.paste(crops, (left, head))
        sheet.paste(framed(resize(tiles[rows[0]], tile_px), labels[rows[0]]), (left, 0))
        seen = np.array(pixels_seen(receptive_field, at[0], tiles.shape[1:3]))
        top, bottom, first, last = seen * tile_px / tiles.shape[1] + frame - 0.5
        _outline(ax, left + first, top, last - first, bottom - top, 3.2, 1.3)
        of_class = int(round(shares[channel, class_id] * SHOWN))
        for n, line in enumerate((class_names[class_id], f"neuron {channel}", f"{of_class} of {SHOWN} crops")):
            ax.text(left + head - 2, 8 + 17 * n, line, ha="left", va="top", fontsize=7.5,
                    fontweight="normal" if n else "bold")
    return show_sheet(ax, sheet, title)


def class_legend(fig: Figure, class_names: Sequence[str]) -> Figure:
    """A legend of the classes' colours below a figure."""
    fig.legend(handles=[swatch(c, name) for c, name in zip(class_colours(class_names), class_names)],
               loc="lower center", ncol=len(class_names))
    return fig


def voices(ax: Axes, tiles: np.ndarray, labels: np.ndarray, contributions: np.ndarray, features: Sequence[tuple],
           title: str, class_names: Sequence[str]) -> Axes:
    """The six neurons that add most to each class, each with the crop of the class's tiles that excites it most.

    ``features`` are ``(peaks, channel, receptive_field)`` of the neuron of each feature.
    """
    crop_px, across, down, neurons = 74, 84, 100, 6  # pixels of a crop, and from one to the next
    sheet = white_sheet(neurons * across, len(class_names) * down)
    largest = contributions.max()
    for class_id, (name, colour) in enumerate(zip(class_names, class_colours(class_names))):
        own = np.flatnonzero(labels == class_id)
        top = class_id * down
        for column, k in enumerate(np.argsort(-contributions[:, class_id], kind="stable")[:neurons]):
            of_layer, channel, receptive_field = features[k]
            best = own[of_layer.values[own, channel].argmax()]
            left = column * across
            seen = crop(tiles[best], receptive_field, of_layer.positions[best, channel], crop_px)
            sheet.paste(seen, (left, top))
            foot, length = (left, top + crop_px + 4), crop_px * contributions[k, class_id] / largest
            ax.add_patch(Rectangle(foot, crop_px, 6, facecolor=GROUND))
            ax.add_patch(Rectangle(foot, length, 6, facecolor=colour, edgecolor=INK, linewidth=0.4))
        ax.text(-10, top + crop_px / 2, name, ha="right", va="center", fontsize=9)
    return show_sheet(ax, sheet, title)


def evidence_maps(ax: Axes, tiles: np.ndarray, evidence: np.ndarray, receptive_field, title: str,
                  class_names: Sequence[str], tile_px: int = 132) -> Axes:
    """Tiles, and below each tile a map of the classes that the head sees in it.

    A line surrounds the positions from which the ``receptive_field`` of the last layer lies within the tile.
    """
    colours = np.array([to_rgb(c) for c in class_colours(class_names)])
    small, gap = [resize(tile, tile_px) for tile in tiles], 8

    def coloured(logits, picture):
        # Classes change between positions, so each class's share is enlarged before the colours are mixed.
        large = np.stack([Image.fromarray(share).resize((tile_px, tile_px), Image.BICUBIC)
                          for share in np.moveaxis(softmax(logits, axis=-1), 2, 0)], axis=2).clip(0)
        colour = large.dot(colours) / large.sum(axis=2, keepdims=True)
        grey = np.asarray(picture).mean(axis=2, keepdims=True) / 255
        # Dark land keeps bright colours: only the differences within the picture show.
        return Image.fromarray(np.uint8(255 * np.clip(colour * (0.85 + 0.75 * (grey - grey.mean())), 0, 1)))

    rows, columns = np.nonzero(positions_inside(receptive_field, evidence.shape[1:3], tiles.shape[1:3]))
    down, across = tile_px / evidence.shape[1], tile_px / evidence.shape[2]
    for k in range(len(tiles) if len(rows) else 0):
        _outline(ax, k * (tile_px + gap) + columns.min() * across - 0.5, tile_px + gap + rows.min() * down - 0.5,
                 (np.ptp(columns) + 1) * across, (np.ptp(rows) + 1) * down, 2.2, 0.9)
    return show_sheet(ax, _mosaic(small + list(map(coloured, evidence, small)), len(tiles), gap), title)

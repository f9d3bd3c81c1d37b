"""What the layers of a network see: the patches that excite a neuron, and the evidence that a head finds where.

Plain NumPy over what the layers answered, and figures as in ``figures``: data and ``ax`` in, ``ax`` out. A *neuron*
is one channel of a convolutional layer; it looks at every place of a tile, through a window of so many pixels.

References
----------
Zeiler and Fergus 2013, *Visualizing and Understanding Convolutional Networks*; Zhou et al. 2015, *Learning Deep
Features for Discriminative Localization* (the evidence maps).
"""

from collections import namedtuple

import numpy as np
from matplotlib.colors import to_rgb
from matplotlib.patches import Rectangle

from helpers.figures import GROUND, INK, _class_colours, _patch, _resize, _show_sheet, _title
from helpers.landcover import CLASS_NAMES

# Strongest answers of each neuron to each tile, (N, channels) float32, and where in the map, (N, channels, 2) row and
# column.
Peaks = namedtuple("Peaks", "values places")


def peaks(compute, tiles, batch=32):
    """The strongest answer of each neuron to each tile, a batch at a time so that no map is kept.

    Parameters
    ----------
    compute : callable
        uint8 (n, h, w, 3) tiles to maps (n, channels, rows, columns) of a layer.
    tiles : numpy.ndarray
        Shape (N, h, w, 3), uint8.
    batch : int

    Returns
    -------
    Peaks
    """
    values, places = [], []
    for start in range(0, len(tiles), batch):
        maps = compute(tiles[start:start + batch])
        flat = maps.reshape(maps.shape[0], maps.shape[1], -1)
        at = flat.argmax(axis=2)
        values.append(np.take_along_axis(flat, at[..., None], axis=2)[..., 0])
        places.append(np.stack(np.unravel_index(at, maps.shape[2:]), axis=-1))
    return Peaks(np.concatenate(values), np.concatenate(places))


def neurons_for_classes(peaks, labels, n_classes):
    """For each class the neuron that answers to its tiles more than to all others, each neuron once.

    Parameters
    ----------
    peaks : Peaks
    labels : numpy.ndarray
        Shape (N,), ``class_id``.
    n_classes : int

    Returns
    -------
    list of int
        A channel for each class: the difference of means, in deviations, is largest there.
    """
    deviation = peaks.values.std(axis=0) + 1e-6
    separation = np.stack([(peaks.values[labels == c].mean(axis=0) - peaks.values[labels != c].mean(axis=0)) / deviation
                           for c in range(n_classes)])
    chosen = [None] * n_classes
    # The clearest case first; more classes than neurons have to share.
    for _ in range(n_classes):
        c, k = np.unravel_index(np.argmax(separation), separation.shape)
        chosen[c] = int(k)
        separation[c] = -np.inf
        if separation.shape[1] >= n_classes:
            separation[:, k] = -np.inf
    return chosen


def strongest(peaks, channel, n):
    """Rows of the ``n`` tiles that excite a neuron most, the strongest first."""
    return np.argsort(-peaks.values[:, channel], kind="stable")[:n]


def window_of(window, place, tile_px):
    """The pixels that a neuron looks at from one place of its map.

    Parameters
    ----------
    window : retraining_cntk.Window
        Of the layer: ``size``, ``start``, ``step``.
    place : tuple of int
        Row and column in the map.
    tile_px : tuple of int
        Height and width of the tile.

    Returns
    -------
    tuple of int
        ``(top, bottom, left, right)``, inside the tile.
    """
    edges = []
    for n, length in zip(place, tile_px):
        first = window.start + int(n) * window.step
        edges += [max(0, first), min(length, first + window.size)]
    return tuple(edges)


def patch(tile, window, place, size):
    """What a neuron looks at, as a square picture of ``size`` px: moved inside the tile where it sticks out."""
    width = min(window.size, tile.shape[0], tile.shape[1])
    top, left = (int(np.clip(window.start + n * window.step, 0, length - width))
                 for n, length in zip(place, tile.shape))
    return _resize(tile[top:top + width, left:left + width], size, size)


def evidence(maps, weights, mean, deviation, bias):
    """What each place of a tile adds to each class: their average over the tile is the logits.

    A head on averaged maps is a sum over places in disguise: exchange the two sums, and each place has logits.

    Parameters
    ----------
    maps : list of numpy.ndarray
        Of the layers that the features are read from, each (N, channels, rows, columns), all of one size.
    weights : numpy.ndarray
        (n_features, n_classes), for features of mean 0 and deviation 1.
    mean, deviation : numpy.ndarray
        (n_features,)
    bias : numpy.ndarray
        (n_classes,)

    Returns
    -------
    numpy.ndarray
        Shape (N, rows, columns, n_classes), float32.
    """
    features = np.concatenate(maps, axis=1).transpose(0, 2, 3, 1)
    return (((features - mean) / deviation).dot(weights) + bias).astype(np.float32)


def contributions(weights, mean, deviation, features, labels):
    """What each feature adds, on average, to the logit of a class on that class's own tiles.

    Parameters
    ----------
    weights : numpy.ndarray
        (n_features, n_classes), for features of mean 0 and deviation 1.
    mean, deviation : numpy.ndarray
        (n_features,)
    features : numpy.ndarray
        (N, n_features)
    labels : numpy.ndarray
        (N,) ``class_id``.

    Returns
    -------
    numpy.ndarray
        (n_features, n_classes); 0 where a class is known by a neuron's silence.
    """
    standardised = (features - mean) / deviation
    own = np.stack([standardised[labels == c].mean(axis=0) for c in range(weights.shape[1])], axis=1)
    return np.maximum(weights, 0) * np.maximum(own, 0)


def most_divided(evidence, n):
    """The tiles of which the two strongest classes hold the largest parts, the most evenly divided first.

    Parameters
    ----------
    evidence : numpy.ndarray
        (N, rows, columns, n_classes), of ``evidence``.
    n : int

    Returns
    -------
    numpy.ndarray
        (n,) int: rows of ``evidence``.
    """
    shares = np.exp(evidence - evidence.max(axis=3, keepdims=True))
    shares = (shares / shares.sum(axis=3, keepdims=True)).mean(axis=(1, 2))
    second = np.sort(shares, axis=1)[:, -2]
    # Sure of each place: the tile's average is mixed, its places are not.
    winner = evidence.argmax(axis=3).reshape(len(evidence), -1)
    held = np.sort([np.bincount(row, minlength=evidence.shape[3]) for row in winner], axis=1)[:, -2] / winner.shape[1]
    return np.argsort(-(second * held), kind="stable")[:n]


# Figures

def filters(ax, kernels, title, columns=12, filter_px=44, order="RGB"):
    """The first layer's filters as pictures.

    Parameters
    ----------
    kernels : numpy.ndarray
        Shape (n, 3, height, width): what each filter multiplies the pixels by. Grey is zero; the strongest weight of
        each filter is as bright or dark as the picture goes.
    columns : int
    filter_px : int
        Size of a filter on the sheet.
    order : str
        Of the three channels, ``"RGB"`` or ``"BGR"``.
    """
    pictures = kernels.transpose(0, 2, 3, 1)
    pictures = pictures[..., ::-1] if order == "BGR" else pictures
    spread = np.abs(pictures).max(axis=(1, 2, 3), keepdims=True) + 1e-12
    pictures = np.uint8(255 * (0.5 + 0.5 * pictures / spread))
    # From grey to colourful, so that edges stand with edges and colours with colours.
    colourful = (pictures.max(axis=3).astype(int) - pictures.min(axis=3)).mean(axis=(1, 2))
    pictures = pictures[np.argsort(colourful, kind="stable")]
    repeat = max(1, filter_px // pictures.shape[1])
    pictures = pictures.repeat(repeat, axis=1).repeat(repeat, axis=2)
    _show_sheet(ax, _mosaic(pictures, columns, gap=6, ground=(255, 255, 255)))
    _title(ax, title)
    return ax


def _mosaic(pictures, columns, gap, ground):
    """Pictures of one size, in rows; ``ground`` between them."""
    height, width = pictures[0].shape[:2]
    rows = -(-len(pictures) // columns)
    columns = min(columns, len(pictures))
    sheet = np.empty((rows * (height + gap) - gap, columns * (width + gap) - gap, 3), dtype=np.uint8)
    sheet[:] = ground
    for i, picture in enumerate(pictures):
        top, left = i // columns * (height + gap), i % columns * (width + gap)
        sheet[top:top + height, left:left + width] = picture
    return sheet


def layer(ax, tiles, labels, peaks, window, channels, title, class_names=CLASS_NAMES, side=3, patch_px=42):
    """What the neurons of a layer look for: for each the patches that excite it most, framed in their tile's class.

    On the left stands the tile that excites the last neuron most, with the window it looks through. Below each
    neuron stands its number and the class it was chosen for.

    Parameters
    ----------
    tiles : numpy.ndarray
        Shape (N, h, w, 3), uint8.
    labels : numpy.ndarray
        Shape (N,), ``class_id``.
    peaks : Peaks
    window : retraining_cntk.Window
        Of the layer.
    channels : list of int
        The neurons, one for each class, as ``neurons_for_classes`` gives them.
    class_names : sequence of str
    side : int
        Patches in a row and in a column.
    patch_px : int
    """
    colours = [tuple(int(round(255 * v)) for v in to_rgb(c)) for c in _class_colours(class_names)]
    frame, gap = 3, 14
    height = side * (patch_px + 2 * frame + 2) - 2
    tile_row = strongest(peaks, channels[-1], 1)[0]
    parts = [_resize(tiles[tile_row], height, height)]
    for channel in channels:
        framed = []
        for i in strongest(peaks, channel, side * side):
            cell = np.empty((patch_px + 2 * frame,) * 2 + (3,), dtype=np.uint8)
            cell[:] = colours[labels[i]]
            cell[frame:-frame, frame:-frame] = patch(tiles[i], window, peaks.places[i, channel], patch_px)
            framed.append(cell)
        parts.append(_mosaic(framed, side, 2, (255, 255, 255)))
    sheet = np.full((height, len(parts) * (height + gap) + gap, 3), 255, dtype=np.uint8)
    lefts = [i * (height + gap) + (gap if i else 0) for i in range(len(parts))]
    for left, part in zip(lefts, parts):
        sheet[:, left:left + part.shape[1]] = part
    _show_sheet(ax, sheet)
    scale = height / float(tiles.shape[1])
    top, bottom, left, right = window_of(window, peaks.places[tile_row, channels[-1]], tiles.shape[1:3])
    for colour, width in (("white", 4), (INK, 1.6)):
        ax.add_patch(Rectangle((left * scale, top * scale), (right - left) * scale - 1, (bottom - top) * scale - 1,
                               fill=False, edgecolor=colour, linewidth=width))
    ax.text(height / 2, height + 6, "one neuron's window", ha="center", va="top", fontsize=7.5)
    for left, channel, name in zip(lefts[1:], channels, class_names):
        ax.text(left + height / 2, height + 6, "neuron {} · {}".format(channel, name), ha="center", va="top",
                fontsize=7.5)
    _title(ax, title)
    return ax


def class_legend(fig, class_names=CLASS_NAMES):
    """A legend of the classes' colours below a figure."""
    fig.legend(handles=[_patch(c, name) for c, name in zip(_class_colours(class_names), class_names)],
               loc="lower center", ncol=len(class_names))
    return fig


def voices(ax, tiles, labels, contributions, features, title, class_names=CLASS_NAMES, n=6, patch_px=74):
    """The neurons that speak loudest for each class, each shown by the patch of its tiles that excites it most.

    Parameters
    ----------
    tiles : numpy.ndarray
        Shape (N, h, w, 3), uint8.
    labels : numpy.ndarray
        Shape (N,), ``class_id``.
    contributions : numpy.ndarray
        (n_features, n_classes), of ``contributions``.
    features : sequence of tuple
        For each feature ``(peaks, channel, window)`` of its neuron.
    class_names : sequence of str
    n : int
        Neurons for each class.
    patch_px : int
    """
    gap, room = 10, 16
    sheet = np.full((len(class_names) * (patch_px + room + gap), n * (patch_px + gap), 3), 255, dtype=np.uint8)
    colours = _class_colours(class_names)
    largest = contributions.max()
    bars = []
    for class_id in range(len(class_names)):
        own = np.flatnonzero(labels == class_id)
        loudest = np.argsort(-contributions[:, class_id], kind="stable")[:n]
        for column, k in enumerate(loudest):
            of_layer, channel, window = features[k]
            best = own[of_layer.values[own, channel].argmax()]
            top, left = class_id * (patch_px + room + gap), column * (patch_px + gap)
            sheet[top:top + patch_px, left:left + patch_px] = patch(
                tiles[best], window, of_layer.places[best, channel], patch_px)
            bars.append((left, top + patch_px + 4, patch_px * contributions[k, class_id] / largest, colours[class_id]))
    _show_sheet(ax, sheet)
    for left, top, width, colour in bars:
        ax.add_patch(Rectangle((left, top), patch_px, 6, facecolor=GROUND))
        ax.add_patch(Rectangle((left, top), max(width, 0), 6, facecolor=colour, edgecolor=INK, linewidth=0.4))
    for class_id, name in enumerate(class_names):
        ax.text(-10, class_id * (patch_px + room + gap) + patch_px / 2, name, ha="right", va="center", fontsize=9)
    _title(ax, title)
    return ax


def evidence_maps(ax, tiles, evidence, title, class_names=CLASS_NAMES, tile_px=132):
    """Tiles, and below each where the head sees which class.

    Parameters
    ----------
    tiles : numpy.ndarray
        Shape (n, h, w, 3), uint8.
    evidence : numpy.ndarray
        Shape (n, rows, columns, n_classes), of ``evidence``.
    class_names : sequence of str
    tile_px : int
    """
    colours = np.array([to_rgb(c) for c in _class_colours(class_names)])
    gap = 8
    sheet = np.full((2 * tile_px + gap, len(tiles) * (tile_px + gap) - gap, 3), 255, dtype=np.uint8)
    for i, (tile, logits) in enumerate(zip(tiles, evidence)):
        left = i * (tile_px + gap)
        small = _resize(tile, tile_px, tile_px)
        sheet[:tile_px, left:left + tile_px] = small
        # Classes change between places, so each class's share is brought to full size before colours are mixed.
        shares = np.exp(logits - logits.max(axis=2, keepdims=True))
        shares = shares / shares.sum(axis=2, keepdims=True)
        large = np.stack([_enlarge(shares[..., c], tile_px) for c in range(shares.shape[2])], axis=2)
        colour = large.dot(colours) / large.sum(axis=2, keepdims=True)
        grey = small.mean(axis=2, keepdims=True) / 255
        sheet[tile_px + gap:, left:left + tile_px] = np.uint8(255 * np.clip(colour * (0.35 + 0.75 * grey), 0, 1))
    _show_sheet(ax, sheet)
    _title(ax, title)
    return ax


def _enlarge(values, size):
    from PIL import Image
    return np.asarray(Image.fromarray(values.astype(np.float32)).resize((size, size), Image.BICUBIC)).clip(0)

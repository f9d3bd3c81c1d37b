"""What the layers of a network see: the crops that excite a neuron, and the evidence that a head finds where.

Plain NumPy over what the layers answered, and figures as in ``figures``: data and ``ax`` in, ``ax`` out. A *neuron*
is one channel of a convolutional layer. It answers at many places of a tile; what it sees from one of them is its
*receptive field* there, and the pixels in it, cut out, are a *crop*.

References
----------
Zeiler and Fergus 2013, *Visualizing and Understanding Convolutional Networks*; Zhou et al. 2015, *Learning Deep
Features for Discriminative Localization* (the evidence maps).
"""

from collections import namedtuple

import numpy as np
from matplotlib.colors import to_rgb
from matplotlib.patches import Rectangle

from helpers.figures.style import GROUND, INK, class_colours, resize, set_title, show_sheet, swatch
from helpers.land.classes import CLASS_NAMES

# Crops on a sheet for each neuron, and what it is judged by.
SHOWN = 9
# Of a layer: the strongest answer of each neuron to each tile, (N, channels) float32; where in the map it was given,
# (N, channels, 2) row and column; and what the layer answers on average, (channels, rows, columns) float32.
Peaks = namedtuple("Peaks", "values places usual")


def peaks(compute, tiles, receptive_field, batch=32):
    """The strongest answer of each neuron to each tile, a batch at a time so that no tile's map is kept.

    Beyond a tile there is nothing, and its edge can excite a neuron more than any land does. So only those places
    count from which the neuron sees nothing but the tile; in a layer that has none, all.

    Parameters
    ----------
    compute : callable
        uint8 (n, h, w, 3) tiles to maps (n, channels, rows, columns) of a layer.
    tiles : numpy.ndarray
        Shape (N, h, w, 3), uint8.
    receptive_field : retraining_cntk.ReceptiveField
        Of the layer.
    batch : int

    Returns
    -------
    Peaks
    """
    values, places, total = [], [], 0
    for start in range(0, len(tiles), batch):
        maps = compute(tiles[start:start + batch])
        total = total + maps.sum(axis=0, dtype=np.float64)
        inside = places_inside(receptive_field, maps.shape[2:], tiles.shape[1:3])
        flat = np.where(inside | ~inside.any(), maps, np.float32(-np.inf)).reshape(maps.shape[0], maps.shape[1], -1)
        at = flat.argmax(axis=2)
        values.append(np.take_along_axis(flat, at[..., None], axis=2)[..., 0])
        places.append(np.stack(np.unravel_index(at, maps.shape[2:]), axis=-1))
    return Peaks(np.concatenate(values), np.concatenate(places), (total / len(tiles)).astype(np.float32))


def strongest(peaks, channel, n):
    """Rows of the ``n`` tiles that excite a neuron most, the strongest first; each tile stands there once."""
    return np.argsort(-peaks.values[:, channel], kind="stable")[:n]


def class_shares(peaks, labels, n_classes, n=SHOWN):
    """The classes of the tiles that excite each neuron most.

    Parameters
    ----------
    peaks : Peaks
    labels : numpy.ndarray
        Shape (N,), ``class_id``.
    n_classes : int
    n : int
        Tiles to look at, for each neuron.

    Returns
    -------
    numpy.ndarray
        Shape (channels, n_classes), 0 to 1: the share of each class among the ``n`` strongest tiles. A tile to which
        the neuron is silent counts for no class.
    """
    channels = peaks.values.shape[1]
    silence = peaks.values.min(axis=0)
    shares = np.zeros((channels, n_classes))
    for k in range(channels):
        rows = strongest(peaks, k, n)
        rows = rows[peaks.values[rows, k] > silence[k]]
        shares[k] = np.bincount(labels[rows], minlength=n_classes) / float(n)
    return shares


def neurons_for_classes(peaks, labels, n_classes, n=SHOWN):
    """For each class the neuron whose strongest tiles are most often of that class, each neuron once.

    Parameters
    ----------
    peaks : Peaks
    labels : numpy.ndarray
        Shape (N,), ``class_id``.
    n_classes : int
    n : int
        Tiles to look at, for each neuron.

    Returns
    -------
    list of int
        A channel for each class. Among neurons of the same share, the one whose mean answer to the class stands out
        most from that to all other tiles.
    """
    deviation = peaks.values.std(axis=0) + 1e-6
    distance = np.stack([(peaks.values[labels == c].mean(axis=0) - peaks.values[labels != c].mean(axis=0)) / deviation
                         for c in range(n_classes)])
    # The distance is made smaller than the step between two shares: it decides among equals only.
    fitness = class_shares(peaks, labels, n_classes, n).T + distance / (np.abs(distance).max() + 1) / (2.0 * n)
    chosen = [None] * n_classes
    # The clearest case first; more classes than neurons have to share.
    for _ in range(n_classes):
        c, k = np.unravel_index(np.argmax(fitness), fitness.shape)
        chosen[c] = int(k)
        fitness[c] = -np.inf
        if fitness.shape[1] >= n_classes:
            fitness[:, k] = -np.inf
    return chosen


def pixels_seen(receptive_field, place, tile_px):
    """The pixels of a tile that a neuron sees from one place of its map.

    Parameters
    ----------
    receptive_field : retraining_cntk.ReceptiveField
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
        first = receptive_field.start + int(n) * receptive_field.step
        edges += [max(0, first), min(length, first + receptive_field.size)]
    return tuple(edges)


def places_inside(receptive_field, places, tile_px):
    """The places of a map from which a neuron sees nothing but the tile.

    Parameters
    ----------
    receptive_field : retraining_cntk.ReceptiveField
    places : tuple of int
        Rows and columns of the map.
    tile_px : tuple of int
        Height and width of the tile.

    Returns
    -------
    numpy.ndarray
        Shape (rows, columns), bool. False where the receptive field reaches beyond the tile, where there is nothing.
    """
    inside = []
    for n, length in zip(places, tile_px):
        first = receptive_field.start + np.arange(n) * receptive_field.step
        inside.append((first >= 0) & (first + receptive_field.size <= length))
    return inside[0][:, None] & inside[1]


def crop(tile, receptive_field, place, size):
    """What a neuron sees from one place, as a square picture.

    Parameters
    ----------
    tile : numpy.ndarray
        Shape (h, w, 3), uint8.
    receptive_field : retraining_cntk.ReceptiveField
        Of the neuron's layer.
    place : tuple of int
        Row and column in the layer's map.
    size : int
        Height and width of the picture, in pixels.

    Returns
    -------
    numpy.ndarray
        Shape (size, size, 3), uint8; grey where the receptive field reaches beyond the tile.
    """
    seen = np.empty((receptive_field.size, receptive_field.size, 3), dtype=np.uint8)
    seen[:] = _bytes(GROUND)
    top, bottom, left, right = pixels_seen(receptive_field, place, tile.shape[:2])
    down, across = (receptive_field.start + int(n) * receptive_field.step for n in place)
    seen[top - down:bottom - down, left - across:right - across] = tile[top:bottom, left:right]
    return resize(seen, size, size)


def _bytes(colour):
    return [int(round(255 * v)) for v in to_rgb(colour)]


def evidence(maps, usual, weights, mean, deviation, bias):
    """What each place of a tile adds to each class: their average over the tile is the logits.

    A head on averaged maps is a sum over places in disguise: exchange the two sums, and each place has logits. Near
    the edge a neuron answers otherwise than in the middle, whatever the land; so what counts at a place is how far
    the answer is from the usual one there.

    Parameters
    ----------
    maps : list of numpy.ndarray
        Of the layers that the features are read from, each (N, channels, rows, columns), all of one size.
    usual : list of numpy.ndarray
        The same layers' average maps, (channels, rows, columns), of ``Peaks``.
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
    usual = np.concatenate(usual).transpose(1, 2, 0)
    # The head was trained on other copies of the tiles too: on average over the places its own mean is taken away.
    usual = usual - usual.mean(axis=(0, 1)) + mean
    return (((features - usual) / deviation).dot(weights) + bias).astype(np.float32)


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

def filters(ax, kernels, title, columns=8, filter_px=88, order="RGB"):
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
    show_sheet(ax, _mosaic(pictures, columns, gap=10, ground=(255, 255, 255)))
    set_title(ax, title)
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


def layer(ax, tiles, labels, peaks, receptive_field, channels, title, class_names=CLASS_NAMES, crop_px=42,
          tile_px=66):
    """What the neurons of a layer look for: for each the crops that excite it most, framed in their tile's class.

    Above the crops stands the tile that the first of them is cut from, with the receptive field drawn on it, and
    beside it the class that the neuron was chosen for, its number, and how many of the crops are of that class.

    Parameters
    ----------
    tiles : numpy.ndarray
        Shape (N, h, w, 3), uint8.
    labels : numpy.ndarray
        Shape (N,), ``class_id``.
    peaks : Peaks
    receptive_field : retraining_cntk.ReceptiveField
        Of the layer.
    channels : list of int
        The neurons, one for each class, as ``neurons_for_classes`` gives them.
    class_names : sequence of str
    crop_px : int
        Size of a crop on the sheet.
    tile_px : int
        Size of the tile above the crops.
    """
    colours = class_colours(class_names)
    shares = class_shares(peaks, labels, len(class_names))
    frame, gap, between, columns = 3, 2, 16, int(round(SHOWN ** 0.5))
    width = columns * (crop_px + 2 * frame + gap) - gap
    head = tile_px + 2 * frame + 8

    def framed(picture, label):
        edged = np.empty((len(picture) + 2 * frame,) * 2 + (3,), dtype=np.uint8)
        edged[:] = _bytes(colours[label])
        edged[frame:-frame, frame:-frame] = picture
        return edged

    sheet = np.full((head + width, len(channels) * (width + between) - between, 3), 255, dtype=np.uint8)
    show_sheet(ax, sheet)  # so that what is written on it keeps within it
    for class_id, channel in enumerate(channels):
        left = class_id * (width + between)
        rows = strongest(peaks, channel, SHOWN)
        crops = [framed(crop(tiles[i], receptive_field, peaks.places[i, channel], crop_px), labels[i]) for i in rows]
        crops = _mosaic(crops, columns, gap, (255, 255, 255))
        sheet[head:head + crops.shape[0], left:left + crops.shape[1]] = crops
        sheet[:head - 8, left:left + head - 8] = framed(resize(tiles[rows[0]], tile_px, tile_px), labels[rows[0]])
        seen = pixels_seen(receptive_field, peaks.places[rows[0], channel], tiles.shape[1:3])
        top, bottom, first, last = (v * tile_px / float(tiles.shape[1]) + frame - 0.5 for v in seen)
        for colour, line in (("white", 3.2), (INK, 1.3)):
            ax.add_patch(Rectangle((left + first, top), last - first, bottom - top, fill=False, edgecolor=colour,
                                   linewidth=line))
        lines = (class_names[class_id], "neuron {}".format(channel),
                 "{} of {} crops".format(int(round(shares[channel, class_id] * SHOWN)), SHOWN))
        for n, line in enumerate(lines):
            ax.text(left + head - 2, 8 + 17 * n, line, ha="left", va="top", fontsize=7.5,
                    fontweight="normal" if n else "bold")
    ax.images[0].set_data(sheet)
    set_title(ax, title)
    return ax


def class_legend(fig, class_names=CLASS_NAMES):
    """A legend of the classes' colours below a figure."""
    fig.legend(handles=[swatch(c, name) for c, name in zip(class_colours(class_names), class_names)],
               loc="lower center", ncol=len(class_names))
    return fig


def voices(ax, tiles, labels, contributions, features, title, class_names=CLASS_NAMES, n=6, crop_px=74):
    """The neurons that speak loudest for each class, each shown by the crop of its tiles that excites it most.

    Parameters
    ----------
    tiles : numpy.ndarray
        Shape (N, h, w, 3), uint8.
    labels : numpy.ndarray
        Shape (N,), ``class_id``.
    contributions : numpy.ndarray
        (n_features, n_classes), of ``contributions``.
    features : sequence of tuple
        For each feature ``(peaks, channel, receptive_field)`` of its neuron.
    class_names : sequence of str
    n : int
        Neurons for each class.
    crop_px : int
    """
    gap, room = 10, 16
    step = crop_px + room + gap
    sheet = np.full((len(class_names) * step, n * (crop_px + gap), 3), 255, dtype=np.uint8)
    colours = class_colours(class_names)
    largest = contributions.max()
    bars = []
    for class_id in range(len(class_names)):
        own = np.flatnonzero(labels == class_id)
        loudest = np.argsort(-contributions[:, class_id], kind="stable")[:n]
        for column, k in enumerate(loudest):
            of_layer, channel, receptive_field = features[k]
            best = own[of_layer.values[own, channel].argmax()]
            top, left = class_id * step, column * (crop_px + gap)
            sheet[top:top + crop_px, left:left + crop_px] = crop(
                tiles[best], receptive_field, of_layer.places[best, channel], crop_px)
            bars.append((left, top + crop_px + 4, crop_px * contributions[k, class_id] / largest, colours[class_id]))
    show_sheet(ax, sheet)
    for left, top, width, colour in bars:
        ax.add_patch(Rectangle((left, top), crop_px, 6, facecolor=GROUND))
        ax.add_patch(Rectangle((left, top), max(width, 0), 6, facecolor=colour, edgecolor=INK, linewidth=0.4))
    for class_id, name in enumerate(class_names):
        ax.text(-10, class_id * step + crop_px / 2, name, ha="right", va="center", fontsize=9)
    set_title(ax, title)
    return ax


def evidence_maps(ax, tiles, evidence, receptive_field, title, class_names=CLASS_NAMES, tile_px=132):
    """Tiles, and below each where the head sees which class.

    Parameters
    ----------
    tiles : numpy.ndarray
        Shape (n, h, w, 3), uint8.
    evidence : numpy.ndarray
        Shape (n, rows, columns, n_classes), of ``evidence``.
    receptive_field : retraining_cntk.ReceptiveField
        Of the last layer that features are read from. A line is drawn around the places from which it lies within
        the tile.
    class_names : sequence of str
    tile_px : int
    """
    colours = np.array([to_rgb(c) for c in class_colours(class_names)])
    gap = 8
    sheet = np.full((2 * tile_px + gap, len(tiles) * (tile_px + gap) - gap, 3), 255, dtype=np.uint8)
    rows, columns = np.nonzero(places_inside(receptive_field, evidence.shape[1:3], tiles.shape[1:3]))
    if len(rows):
        top, bottom = (v * tile_px / float(evidence.shape[1]) for v in (rows.min(), rows.max() + 1))
        first, last = (v * tile_px / float(evidence.shape[2]) for v in (columns.min(), columns.max() + 1))
    show_sheet(ax, sheet)
    for i, (tile, logits) in enumerate(zip(tiles, evidence)):
        left = i * (tile_px + gap)
        small = resize(tile, tile_px, tile_px)
        sheet[:tile_px, left:left + tile_px] = small
        # Classes change between places, so each class's share is brought to full size before colours are mixed.
        shares = np.exp(logits - logits.max(axis=2, keepdims=True))
        shares = shares / shares.sum(axis=2, keepdims=True)
        large = np.stack([_enlarge(shares[..., c], tile_px) for c in range(shares.shape[2])], axis=2)
        colour = large.dot(colours) / large.sum(axis=2, keepdims=True)
        grey = small.mean(axis=2, keepdims=True) / 255
        sheet[tile_px + gap:, left:left + tile_px] = np.uint8(255 * np.clip(colour * (0.35 + 0.75 * grey), 0, 1))
        if len(rows):
            for edge, line in (("white", 2.2), (INK, 0.9)):
                ax.add_patch(Rectangle((left + first - 0.5, tile_px + gap + top - 0.5), last - first, bottom - top,
                                       fill=False, edgecolor=edge, linewidth=line))
    ax.images[0].set_data(sheet)
    set_title(ax, title)
    return ax


def _enlarge(values, size):
    from PIL import Image
    return np.asarray(Image.fromarray(values.astype(np.float32)).resize((size, size), Image.BICUBIC)).clip(0)

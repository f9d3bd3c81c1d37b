"""What can be computed from a picture: colours, energy at four scales, directions, local patterns.

Having to tell these from a picture teaches a network more about textures than telling classes apart does.
"""

import numpy as np

SCALES = 4
ORIENTATIONS = 8
RINGS = 6


def _uniform_patterns():
    """Of the 256 local binary patterns: to 59 bins, and to 10 that don't change when the picture is turned.

    Ojala et al. 2002: patterns with at most two changes around the circle are told apart, all others share a bin.
    """
    fine, turned = np.full(256, 58), np.full(256, 9)
    count = 0
    for pattern in range(256):
        bits = [(pattern >> i) & 1 for i in range(8)]
        if sum(bits[i] != bits[i - 1] for i in range(8)) <= 2:
            fine[pattern], turned[pattern] = count, sum(bits)
            count += 1
    return fine, turned


FINE, TURNED = _uniform_patterns()


def _histogram(bins, n):
    """Square roots of the shares of ``n`` bins, (N, n); ``bins`` are integers (N, …)."""
    bins = bins.reshape(len(bins), -1)
    flat = (bins + n * np.arange(len(bins))[:, None]).ravel()
    return np.sqrt(np.bincount(flat, minlength=n * len(bins)).reshape(len(bins), n) / bins.shape[1])


def _log_mean(values):
    return np.log(np.abs(values).mean(axis=(1, 2)) + 1e-3)


def _colours(levels):
    mean, deviation = levels.mean(axis=(1, 2)), levels.std(axis=(1, 2))
    shares = [_histogram((levels[..., band] * 7.999).astype(int), 8) for band in range(3)]
    red, green, blue = levels[..., 0], levels[..., 1], levels[..., 2]
    opponents = [red - green, (red + green) / 2 - blue, levels.max(axis=3) - levels.min(axis=3)]
    opponents = [f(o, axis=(1, 2)) for o in opponents for f in (np.mean, np.std)]
    return [mean, deviation] + shares + [np.stack(opponents, axis=1)]


def _energies(grey):
    """Of gradient and Laplacian at one scale, and how unevenly the gradient is spread over the picture."""
    down, across = grey[:, 1:, :-1] - grey[:, :-1, :-1], grey[:, :-1, 1:] - grey[:, :-1, :-1]
    gradient = np.sqrt(down ** 2 + across ** 2)
    laplacian = (grey[:, 2:, 1:-1] + grey[:, :-2, 1:-1] + grey[:, 1:-1, 2:] + grey[:, 1:-1, :-2]
                 - 4 * grey[:, 1:-1, 1:-1])
    third = gradient.shape[1] // 3
    cells = gradient[:, :3 * third, :3 * third].reshape(-1, 3, third, 3, third).mean(axis=(2, 4)).reshape(-1, 9)
    return np.stack([_log_mean(gradient), _log_mean(laplacian), np.log(cells + 1e-3).std(axis=1)], axis=1)


def _spectrum(grey):
    """Log power in rings of frequency × directions, (N, RINGS * ORIENTATIONS)."""
    px = grey.shape[1]
    window = np.hanning(px)[:, None] * np.hanning(px)
    power = np.abs(np.fft.rfft2((grey - grey.mean(axis=(1, 2), keepdims=True)) * window)) ** 2
    v, u = np.meshgrid(np.fft.fftfreq(px), np.fft.rfftfreq(px), indexing="ij")
    # Octaves from half the sampling rate downwards.
    ring = np.clip(np.floor(RINGS + np.log2(np.hypot(u, v) * 2 + 1e-9)), -1, RINGS - 1).astype(int)
    direction = np.floor(np.arctan2(v, u) / np.pi * ORIENTATIONS).astype(int) % ORIENTATIONS
    cells = np.where(ring >= 0, ring * ORIENTATIONS + direction, RINGS * ORIENTATIONS).ravel()
    n = RINGS * ORIENTATIONS + 1
    share = np.zeros((cells.size, n))
    share[np.arange(cells.size), cells] = 1 / np.maximum(np.bincount(cells, minlength=n), 1)[cells]
    return np.log(power.reshape(len(grey), -1) @ share + 1e-2)[:, :-1]


def _patterns(grey):
    """Local binary patterns (N, h - 2, w - 2): which of the eight neighbours are brighter."""
    n = grey.shape[1]
    centre = grey[:, 1:-1, 1:-1]
    around = [(0, 0), (0, 1), (0, 2), (1, 2), (2, 2), (2, 1), (2, 0), (1, 0)]
    return sum((grey[:, i:n - 2 + i, j:n - 2 + j] > centre).astype(np.int64) << bit
               for bit, (i, j) in enumerate(around))


def compute(pictures):
    """All statistics of some pictures.

    Parameters
    ----------
    pictures : numpy.ndarray
        Shape (N, px, px, 3), uint8, RGB.

    Returns
    -------
    numpy.ndarray
        Shape (N, n_statistics), float32, each in its own unit.
    """
    levels = pictures.astype(np.float32) / 255
    grey = levels.mean(axis=3)
    found = _colours(levels) + [_spectrum(grey)]
    for scale in range(SCALES):
        found.append(_energies(grey))
        patterns = _patterns(grey)
        found.append(_histogram(TURNED[patterns], 10))
        if not scale:
            found.append(_histogram(FINE[patterns], 59))
        half = grey.shape[1] // 2
        grey = grey[:, :2 * half, :2 * half].reshape(-1, half, 2, half, 2).mean(axis=(2, 4))
    return np.concatenate(found, axis=1).astype(np.float32)

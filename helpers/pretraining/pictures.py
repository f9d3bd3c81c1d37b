"""Pictures drawn by formula: nine families, many classes in each, any number of pictures of a class.

A class fixes what a family leaves open (exponents, shapes, directions, densities); a picture of it differs in
everything that is left to chance, and a little in those too. Everything follows from the seed.
"""

import numpy as np
from PIL import Image, ImageDraw

DRAWN_PX = 160
STORED_PX = 96


def _axes(px):
    """Two (px, px) arrays from -1 to 1: down and across."""
    return np.mgrid[-1:1:px * 1j, -1:1:px * 1j].astype(np.float32)


def _rotated(px, angle):
    y, x = _axes(px)
    return x * np.cos(angle) + y * np.sin(angle), y * np.cos(angle) - x * np.sin(angle)


def _unit(values):
    """Stretched to 0 … 1 between the first and the last percent."""
    low, high = np.percentile(values[::2, ::2], (1, 99))
    return np.clip((values - low) / (high - low + 1e-9), 0, 1)


def _noise(rng, px, exponent, angle=0.0, stretch=1.0, band=None):
    """Noise whose amplitude falls with frequency to ``exponent``; ``stretch`` > 1 draws it out along one direction."""
    v, u = np.meshgrid(np.fft.fftfreq(px), np.fft.rfftfreq(px), indexing="ij")
    along, across = u * np.cos(angle) + v * np.sin(angle), v * np.cos(angle) - u * np.sin(angle)
    frequency = np.sqrt((along * stretch) ** 2 + (across / stretch) ** 2)
    frequency[0, 0] = 1
    amplitude = frequency ** -exponent
    if band:
        amplitude *= np.exp(-np.log(frequency / band) ** 2 / 0.18)
    amplitude[0, 0] = 0
    phase = rng.normal(size=amplitude.shape) + 1j * rng.normal(size=amplitude.shape)
    return _unit(np.fft.irfft2(amplitude * phase, s=(px, px)))


def _palette(rng, n=5):
    """``n`` colours around a few tones, saturated to different degrees, (n, 3) in 0 … 1."""
    grey = rng.uniform(0.05, 0.95, (n, 1))
    tint = rng.normal(0, rng.choice([0.04, 0.1, 0.25]), (n, 3))
    return np.clip(grey + tint + rng.normal(0, 0.05, 3), 0, 1).astype(np.float32)


def _colour(levels, palette):
    """Levels 0 … 1 to colours along the palette, (h, w, 3)."""
    position = levels * (len(palette) - 1)
    low = np.clip(position.astype(int), 0, len(palette) - 2)
    part = (position - low)[..., None]
    return palette[low] * (1 - part) + palette[low + 1] * part


def _tuple(colour):
    return tuple(int(v) for v in np.clip(colour * 255, 0, 255))


def _canvas(picture):
    return Image.fromarray((np.clip(picture, 0, 1) * 255).astype(np.uint8))


def _shape(rng, kind, x, y, radius, angle, ratio):
    """Corners of a shape around (x, y)."""
    corners = {"disc": 18, "blob": 14, "rectangle": 4, "triangle": 3, "star": 10}[kind]
    turn = np.arange(corners) * 2 * np.pi / corners + (np.pi / 4 if kind == "rectangle" else 0)
    reach = np.full(corners, radius)
    if kind == "blob":
        reach = radius * rng.uniform(0.65, 1.2, corners)
    elif kind == "star":
        reach = radius * np.where(np.arange(corners) % 2, 0.4, 1.1)
    along, across = reach * np.cos(turn) * ratio, reach * np.sin(turn) / ratio
    return [(x + a * np.cos(angle) - b * np.sin(angle), y + a * np.sin(angle) + b * np.cos(angle))
            for a, b in zip(along, across)]


SHAPES = ("disc", "blob", "rectangle", "triangle", "star")


def _ground(rng, px, exponent, palette):
    """A quiet textured ground for things to lie on."""
    return _colour(0.5 + (_noise(rng, px, exponent) - 0.5) * rng.uniform(0.2, 0.8), palette[:2])


# Each family: a function from a generator to the class's parameters, and one from those to a picture.

def _spectral_class(rng):
    return dict(exponent=rng.uniform(0.2, 2.6), stretch=rng.choice([1, 1, 1.5, 2.5, 4]), angle=rng.uniform(0, np.pi),
                band=rng.choice([0, 0, 0.03, 0.06, 0.12, 0.25]), form=rng.choice(["plain", "ridge", "step", "sharp"]),
                steps=rng.integers(2, 6), colours=rng.choice([0, 0.3, 1]))


def _spectral(rng, px, c):
    angle, exponent = c["angle"] + rng.normal(0, 0.15), c["exponent"] + rng.normal(0, 0.08)
    levels = _noise(rng, px, exponent, angle, c["stretch"], c["band"])
    if c["form"] == "ridge":
        levels = 1 - np.abs(2 * levels - 1)
    elif c["form"] == "step":
        levels = np.floor(levels * c["steps"]) / c["steps"]
    elif c["form"] == "sharp":
        levels = 1 / (1 + np.exp(-14 * (levels - 0.5)))
    picture = _colour(levels, _palette(rng))
    if c["colours"]:
        other = np.stack([_noise(rng, px, exponent, angle, c["stretch"], c["band"]) for _ in range(3)], axis=-1)
        picture = picture + (other - 0.5) * c["colours"] * 0.5
    return picture


def _leaves_class(rng):
    return dict(kind=rng.choice(SHAPES), second=rng.choice(SHAPES), mixed=rng.choice([0, 0, 0.4]),
                power=rng.uniform(1, 3.2), smallest=rng.uniform(1.5, 6), largest=rng.uniform(10, 60),
                angle=rng.choice([-1, rng.uniform(0, np.pi)]), ratio=rng.choice([1, 1, 1.4, 2]),
                outline=rng.random() < 0.25, texture=rng.choice([0, 0.1, 0.3]), exponent=rng.uniform(0.5, 2))


def _leaves(rng, px, c):
    n, palette = 360, _palette(rng, 9)
    image = _canvas(_ground(rng, px, 1.5, palette))
    draw = ImageDraw.Draw(image)
    low, high = c["smallest"] ** -c["power"], c["largest"] ** -c["power"]
    radii = (high + rng.random(n) * (low - high)) ** (-1 / c["power"]) * rng.uniform(0.8, 1.25)
    places = rng.uniform(-10, px + 10, (n, 2))
    colours = np.clip(palette[rng.integers(9, size=n)] + rng.normal(0, 0.05, (n, 3)), 0, 1)
    for (x, y), radius, colour in zip(places, radii, colours):
        kind = c["second"] if rng.random() < c["mixed"] else c["kind"]
        angle = rng.uniform(0, 2 * np.pi) if c["angle"] < 0 else c["angle"] + rng.normal(0, 0.1)
        draw.polygon(_shape(rng, kind, x, y, radius, angle, c["ratio"]), _tuple(colour),
                     _tuple(palette[0]) if c["outline"] else None)
    picture = np.asarray(image, np.float32) / 255
    if c["texture"]:
        picture = picture + (_noise(rng, px, c["exponent"])[..., None] - 0.5) * c["texture"]
    return picture


def _voronoi_class(rng):
    return dict(n=int(np.exp(rng.uniform(np.log(8), np.log(130)))), metric=rng.choice(["1", "2", "max"]),
                layout=rng.choice(["free", "grid", "clusters"]), jitter=rng.uniform(0.05, 0.9),
                form=rng.choice(["flat", "border", "cone", "rows"]), width=rng.uniform(0.01, 0.05),
                angle=rng.uniform(0, np.pi), stretch=rng.choice([1, 1, 1.6, 2.5]), frequency=rng.uniform(8, 30),
                texture=rng.choice([0, 0.15, 0.35]))


def _voronoi(rng, px, c):
    along, across = _rotated(px, c["angle"] + rng.normal(0, 0.15))
    along = along / c["stretch"]
    n = max(4, int(c["n"] * rng.uniform(0.8, 1.25)))
    if c["layout"] == "grid":
        side = int(np.ceil(np.sqrt(2 * n)))
        seeds = np.stack(np.meshgrid(np.linspace(-1.45, 1.45, side), np.linspace(-1.45, 1.45, side)), -1).reshape(-1, 2)
        seeds = seeds + rng.normal(0, c["jitter"] / side, seeds.shape)
    elif c["layout"] == "clusters":
        centres = rng.uniform(-1.4, 1.4, (5, 2))
        seeds = centres[rng.integers(5, size=n)] + rng.normal(0, 0.15 + 0.3 * c["jitter"], (n, 2))
    else:
        seeds = rng.uniform(-1.45, 1.45, (n, 2))
    first = np.full((px, px), 9.0, np.float32)
    second, owner = first.copy(), np.zeros((px, px), int)
    for i, (x, y) in enumerate(seeds.astype(np.float32)):
        dx, dy = np.abs(along - x), np.abs(across - y)
        distance = dx + dy if c["metric"] == "1" else np.maximum(dx, dy) if c["metric"] == "max" else np.hypot(dx, dy)
        nearer = distance < first
        second = np.where(nearer, first, np.minimum(second, distance))
        first = np.where(nearer, distance, first)
        owner[nearer] = i
    palette = _palette(rng, 8)
    colours = palette[rng.integers(8, size=len(seeds))] + rng.normal(0, 0.04, (len(seeds), 3)).astype(np.float32)
    picture = colours[owner]
    if c["form"] == "border":
        picture = np.where((second - first < c["width"] * rng.uniform(0.7, 1.5))[..., None], palette[0], picture)
    elif c["form"] == "cone":
        picture = picture * (1.1 - 0.9 * _unit(first))[..., None]
    elif c["form"] == "rows":
        turn = rng.uniform(0, np.pi, len(seeds))[owner]
        rows = np.sin(c["frequency"] * 2 * (along * np.cos(turn) + across * np.sin(turn)))
        picture = picture + 0.15 * rows[..., None]
    return picture + (_noise(rng, px, 1.0)[..., None] - 0.5) * c["texture"]


def _grating_class(rng):
    n = rng.integers(1, 4)
    return dict(angles=rng.uniform(0, np.pi, n), frequencies=np.exp(rng.uniform(np.log(3), np.log(36), n)),
                form=rng.choice(["sine", "square", "saw"]), join=rng.choice(["add", "multiply", "larger"]),
                warp=rng.choice([0, 0, 0.15, 0.4]), radial=rng.random() < 0.15, texture=rng.choice([0.1, 0.3, 0.6]),
                exponent=rng.uniform(0.3, 1.8), fade=rng.random() < 0.4)


def _gratings(rng, px, c):
    turn, zoom = rng.normal(0, 0.2), rng.uniform(0.85, 1.2)
    levels = None
    for angle, frequency in zip(c["angles"], c["frequencies"]):
        along, across = _rotated(px, angle + turn)
        position = np.hypot(along, across + 0.3) if c["radial"] else along
        if c["warp"]:
            position = position + c["warp"] * (_noise(rng, px, 2.2) - 0.5)
        phase = np.pi * frequency * zoom * position + rng.uniform(0, 2 * np.pi)
        wave = np.sin(phase) if c["form"] == "sine" else np.tanh(6 * np.sin(phase)) if c["form"] == "square" else (
            phase / np.pi % 2 - 1)
        levels = wave if levels is None else levels + wave if c["join"] == "add" else (
            levels * wave if c["join"] == "multiply" else np.maximum(levels, wave))
    if c["fade"]:
        levels = levels * _noise(rng, px, 1.8)
    return _colour(_unit(_unit(levels) + c["texture"] * _noise(rng, px, c["exponent"])), _palette(rng, 3))


def _ifs_class(rng):
    n = rng.integers(2, 6)
    while True:
        maps = rng.uniform(-1, 1, (n, 2, 2))
        # Each map has to shrink, but not all to a point: Anderson and Farrell 2022 choose by singular values too.
        turn = np.linalg.svd(maps)
        scale = np.stack([rng.uniform(0.3, 0.85, n), rng.uniform(0.2, 0.75, n)], axis=1)
        maps = turn[0] * scale[:, None, :] @ turn[2]
        if 0.9 < np.abs(np.linalg.det(maps)).sum() < 2.2:
            break
    return dict(maps=maps, shifts=rng.uniform(-1, 1, (n, 2)), ground=rng.uniform(0.3, 2), power=rng.uniform(0.25, 0.6))


def _ifs(rng, px, c):
    maps = c["maps"] + rng.normal(0, 0.02, c["maps"].shape)
    shifts = c["shifts"] + rng.normal(0, 0.05, c["shifts"].shape)
    share = np.abs(np.linalg.det(maps)) + 0.03
    points, tones, history, tone_history = rng.normal(0, 0.3, (3000, 2)), np.zeros(3000), [], []
    for step in range(36):
        which = rng.choice(len(maps), size=len(points), p=share / share.sum())
        points = np.einsum("nij,nj->ni", maps[which], points) + shifts[which]
        tones = 0.5 * tones + 0.5 * which / max(1, len(maps) - 1)
        if step >= 8:
            history.append(points)
            tone_history.append(tones)
    points, tones = np.concatenate(history), np.concatenate(tone_history)
    low, high = np.percentile(points, (1, 99), axis=0)
    zoom, turn = rng.uniform(0.7, 1.0), rng.uniform(0, 2 * np.pi)
    centred = (points - (low + high) / 2) / ((high - low).max() + 1e-9) * 2 * zoom
    centred = centred @ np.array([[np.cos(turn), -np.sin(turn)], [np.sin(turn), np.cos(turn)]])
    cells = ((centred + 1) / 2 * px).astype(int)
    inside = ((cells >= 0) & (cells < px)).all(axis=1)
    flat = cells[inside, 0] * px + cells[inside, 1]
    count = np.bincount(flat, minlength=px * px).reshape(px, px)
    tone = np.bincount(flat, weights=tones[inside], minlength=px * px).reshape(px, px) / np.maximum(count, 1)
    density = np.clip(count / (np.percentile(count[count > 0], 95) + 1e-9), 0, 1)[..., None] ** c["power"]
    palette = _palette(rng, 6)
    return _ground(rng, px, c["ground"], palette) * (1 - density) + _colour(tone, palette[2:]) * density


def _network_class(rng):
    width = rng.integers(6, 13)
    layers = [rng.normal(0, rng.uniform(1.5, 7), (3, width))]
    layers += [rng.normal(0, rng.uniform(0.6, 1.6), (width, width)) for _ in range(rng.integers(1, 4))]
    return dict(layers=layers, radial=rng.random() < 0.3, texture=rng.choice([0, 0.1, 0.3]))


def _network(rng, px, c):
    along, across = _rotated(px, rng.uniform(0, 2 * np.pi))
    zoom, shift = rng.uniform(0.7, 1.3), rng.normal(0, 0.6, 2)
    along, across = along * zoom + shift[0], across * zoom + shift[1]
    third = np.hypot(along, across) if c["radial"] else np.ones_like(along)
    values = np.stack([along, across, third], axis=-1).reshape(-1, 3)
    for weights in c["layers"]:
        values = np.sin(values @ weights.astype(np.float32) + rng.uniform(0, 0.8, weights.shape[1]).astype(np.float32))
    values = values.reshape(px, px, -1)
    picture = np.clip(_colour(_unit(values[..., 0]), _palette(rng)) + 0.15 * values[..., 1:4], 0, 1)
    return picture + (_noise(rng, px, 0.8)[..., None] - 0.5) * c["texture"]


def _blobs_class(rng):
    return dict(kind=rng.choice(["disc", "blob", "blob", "rectangle", "star"]), n=int(np.exp(rng.uniform(2.2, 6.2))),
                radius=np.exp(rng.uniform(np.log(1.6), np.log(13))), spread=rng.uniform(0.05, 0.5),
                sun=rng.uniform(0, 2 * np.pi), shadow=rng.uniform(0.3, 1.8), ratio=rng.choice([1, 1, 1.3, 1.7]),
                angle=rng.choice([-1, rng.uniform(0, np.pi)]), layout=rng.choice(["free", "rows", "clusters"]),
                dome=rng.random() < 0.5, ground=rng.uniform(0.5, 2), texture=rng.choice([0.05, 0.15, 0.3]))


def _places(rng, px, n, layout, angle):
    if layout == "clusters":
        centres = rng.uniform(0, px, (4, 2))
        return centres[rng.integers(4, size=n)] + rng.normal(0, px / 9, (n, 2))
    if layout == "rows":
        side = int(np.ceil(np.sqrt(n * 2)))
        grid = np.stack(np.meshgrid(np.arange(side), np.arange(side)), -1).reshape(-1, 2) / side - 0.5
        grid = grid * px * 1.5 + rng.normal(0, px / side / 8, grid.shape)
        return grid @ np.array([[np.cos(angle), np.sin(angle)], [-np.sin(angle), np.cos(angle)]]) + px / 2
    return rng.uniform(0, px, (n, 2))


def _blobs(rng, px, c):
    palette, sun = _palette(rng, 6), c["sun"] + rng.normal(0, 0.3)
    ground = _ground(rng, px, c["ground"], palette)
    image = _canvas(ground)
    draw = ImageDraw.Draw(image)
    row_angle = abs(c["angle"]) + rng.normal(0, 0.2)
    # Large things are fewer: about twice the picture's area at most.
    n = max(3, int(min(c["n"], 2 * px * px / (3 * c["radius"] ** 2)) * rng.uniform(0.7, 1.3)))
    places = _places(rng, px, n, c["layout"], row_angle)
    radii = c["radius"] * np.exp(rng.normal(0, c["spread"], len(places)))
    shade = _tuple(palette[0] * 0.25)
    for (x, y), radius in zip(places[np.argsort(places[:, 1])], radii):
        angle = rng.uniform(0, 6.3) if c["angle"] < 0 else row_angle + rng.normal(0, 0.05)
        corners = _shape(rng, c["kind"], x, y, radius, angle, c["ratio"])
        away = (radius * c["shadow"] * np.cos(sun), radius * c["shadow"] * np.sin(sun))
        draw.polygon([(a + away[0], b + away[1]) for a, b in corners], shade)
        colour = palette[2 + rng.integers(3)] + rng.normal(0, 0.05)
        draw.polygon(corners, _tuple(colour * (0.7 if c["dome"] else 1)))
        if c["dome"] and radius > 2:
            draw.polygon([(x + (a - x) * 0.6 - away[0] * 0.15, y + (b - y) * 0.6 - away[1] * 0.15)
                          for a, b in corners], _tuple(colour * 1.15))
    return np.asarray(image, np.float32) / 255 + (_noise(rng, px, 0.7)[..., None] - 0.5) * c["texture"]


def _lines_class(rng):
    return dict(n=rng.integers(3, 45), width=rng.choice([1, 1, 2, 3, 5, 8]), bend=rng.choice([0, 0, 0.04, 0.15, 0.5]),
                angles=rng.uniform(0, np.pi, rng.choice([1, 2, 2, 3])), free=rng.random() < 0.25,
                regular=rng.random() < 0.4, edge=rng.random() < 0.3, ground=rng.uniform(0.3, 2),
                texture=rng.choice([0.05, 0.2, 0.4]))


def _lines(rng, px, c):
    palette = _palette(rng, 6)
    image = _canvas(_ground(rng, px, c["ground"], palette))
    draw = ImageDraw.Draw(image)
    n, turn = max(2, int(c["n"] * rng.uniform(0.8, 1.25))), rng.normal(0, 0.2)
    for i in range(n):
        angle = rng.uniform(0, np.pi) if c["free"] else c["angles"][i % len(c["angles"])] + turn
        offset = ((i + 0.5) / n - 0.5) * 1.4 * px if c["regular"] else rng.uniform(-0.7, 0.7) * px
        along = np.linspace(-0.75, 0.75, 20) * px
        across = offset + c["bend"] * np.cumsum(np.cumsum(rng.normal(0, 2.0, 20)))
        x = px / 2 + along * np.cos(angle) - across * np.sin(angle)
        y = px / 2 + along * np.sin(angle) + across * np.cos(angle)
        points, width = list(zip(x, y)), max(1, int(c["width"] * rng.uniform(0.7, 1.4)))
        if c["edge"]:
            draw.line(points, _tuple(palette[5]), width + 2)
        draw.line(points, _tuple(palette[2 + i % 3]), width)
    return np.asarray(image, np.float32) / 255 + (_noise(rng, px, 0.9)[..., None] - 0.5) * c["texture"]


SIMPLE = {"spectral noise": (_spectral_class, _spectral), "dead leaves": (_leaves_class, _leaves),
          "Voronoi": (_voronoi_class, _voronoi), "gratings": (_grating_class, _gratings),
          "iterated functions": (_ifs_class, _ifs), "sine networks": (_network_class, _network),
          "shadowed blobs": (_blobs_class, _blobs), "lines": (_lines_class, _lines)}


def _composite_class(rng):
    families = rng.choice(list(SIMPLE), 2, replace=False)
    return dict(parts=[(f, SIMPLE[f][0](rng)) for f in families],
                join=rng.choice(["patches", "half", "blend", "cells"]), exponent=rng.uniform(1.2, 2.4),
                share=rng.uniform(0.3, 0.7))


def _composite(rng, px, c):
    one, two = (SIMPLE[family][1](rng, px, parameters) for family, parameters in c["parts"])
    share = c["share"]
    if c["join"] == "patches":
        mask = _noise(rng, px, c["exponent"]) > share
    elif c["join"] == "half":
        mask = _rotated(px, rng.uniform(0, 2 * np.pi))[0] > (share - 0.5) * 1.5
    elif c["join"] == "cells":
        along, across = _rotated(px, rng.uniform(0, np.pi))
        mask = (np.floor(along * 2.5 + rng.random()) + np.floor(across * 2.5 + rng.random())) % 2 > 0
    else:
        mask = np.full((px, px), share)
    return one * (1 - mask[..., None]) + two * mask[..., None]


FAMILIES = dict(SIMPLE, composites=(_composite_class, _composite))


def draw(class_id, number, seed=0, px=DRAWN_PX):
    """One picture of a class.

    Parameters
    ----------
    class_id : int
        Families take turns: class 0 is spectral noise, class 9 again.
    number : int
        Which picture of the class.
    seed : int
    px : int
        Height and width.

    Returns
    -------
    numpy.ndarray
        Shape (px, px, 3), float32, 0 to 1.
    """
    new_class, picture = list(FAMILIES.values())[class_id % len(FAMILIES)]
    parameters = new_class(np.random.default_rng([seed, class_id]))
    levels = picture(np.random.default_rng([seed, class_id, number + 1]), px, parameters)
    return np.clip(levels, 0, 1).astype(np.float32)


def crop(picture, rng, px=STORED_PX):
    """A crop of a picture, turned, in other colours, seen by another sensor.

    Parameters
    ----------
    picture : numpy.ndarray
        Shape (h, h, 3), float32, 0 to 1.
    rng : numpy.random.Generator
    px : int
        Height and width of the crop.

    Returns
    -------
    numpy.ndarray
        Shape (px, px, 3), uint8.
    """
    # Down to parts that are enlarged: tiles and pictures are resampled too, and then lack the finest detail.
    side = rng.uniform(0.4, 1.0) * len(picture)
    left, top = rng.uniform(0, len(picture) - side, 2)
    image = _canvas(picture).resize((px, px), Image.BILINEAR, box=(left, top, left + side, top + side))
    levels = np.rot90(np.asarray(image, np.float32) / 255, rng.integers(4))
    if rng.integers(2):
        levels = levels[:, ::-1]
    grey = levels.mean(axis=2, keepdims=True)
    mix = np.eye(3)[rng.permutation(3)] + rng.normal(0, 0.15, (3, 3))
    levels = grey + (levels - grey) @ mix.astype(np.float32) * rng.uniform(0, 1.5)
    levels = np.clip(levels, 0, 1) ** np.exp(rng.normal(0, 0.35))
    centre = levels.mean()
    levels = (levels - centre) * np.exp(rng.normal(-0.35, 0.45)) + np.clip(centre + rng.normal(0, 0.12), 0.1, 0.9)
    levels = levels + rng.normal(0, 0.05, 3) + rng.normal(0, rng.choice([0, 0.01, 0.03]), levels.shape)
    return (np.clip(levels, 0, 1) * 255).astype(np.uint8)

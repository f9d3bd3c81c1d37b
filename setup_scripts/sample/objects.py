"""Objects on the ground of a county in a year: roads, tracks, houses, their shadows, and single trees."""

import numpy as np
import shapely
from PIL import Image, ImageDraw, ImageFilter

from sample import landscape as land
from sample.textures import noise, plants, soil

_SHADE = 105   # the share of light in a shadow, of 256
_ROOFS = np.array([(96, 92, 90, 92), (124, 118, 112, 114), (140, 94, 78, 130), (150, 146, 140, 136),
                   (84, 70, 60, 88), (114, 102, 90, 110), (188, 185, 180, 174), (106, 110, 120, 110),
                   (132, 112, 94, 124)], float)


class Objects:
    """Arrays of objects with the boxes that they fill. They are placed once, and drawn in any window."""

    def __init__(self, looks):
        self.looks, self.landscape, self.year, self.sun = looks, looks.landscape, looks.year, looks.sun
        self._rng, self._packed = looks.random, looks.packed
        self.away = np.array([-np.sin(self.sun[0]), np.cos(self.sun[0])])   # where shadows point: east, south
        self.flats, self.roofs, self.trees, self.shadows = [], [], [], []
        self._lay_lines()
        farms = land.CROPS, land.PASTURE, land.RANGE
        for kinds, lay, number in ((land.TOWN, self._build_cell, 20), (farms, self._plant_hedge, 21),
                                   (land.SITE, self._grade, 25)):
            for cell in np.flatnonzero(np.isin(self.landscape.cells["kind"][self.year], kinds)):
                lay(self._rng(number, cell), cell)
        for i, patch in enumerate(self.landscape.patches):
            if patch.year <= self.year:
                self._build_single(self._rng(22, i), patch)
        self.flats, self.roofs, self.shadows = (_boxed(s) for s in (self.flats, self.roofs, self.shadows))
        self.trees = np.concatenate(self.trees)

    def _lay_lines(self):
        """Two highways, a creek, and tracks through open land."""
        scape, rng = self.landscape, self._rng(23)
        width, height = scape.width, scape.height

        def wander(start, end, amount, steps):
            t = np.linspace(0, 1, steps)
            line = np.array(start) + (np.array(end) - start) * t[:, None]
            across = np.array([start[1] - end[1], end[0] - start[0]]) / np.hypot(*np.subtract(end, start))
            bend = noise(rng, (1, 128), 90, 2.0, 8)[0][:steps]
            return line + across * (bend - np.linspace(bend[0], bend[-1], steps))[:, None] * amount
        grey = np.array([1.0, 1.0, 0.98, 0.9])
        creek = wander((rng.uniform(0.1, 0.4) * width, -50), (rng.uniform(0.5, 0.8) * width, height + 50),
                       240, 120)
        water = np.array([0.8, 1.0, 0.95, 0.5]) * rng.uniform(45, 70)
        self._line(creek, rng.uniform(5, 9), water)
        banks = np.repeat(shapely.get_coordinates(shapely.LineString(creek).segmentize(14)), 2, axis=0)
        self._plant(rng, banks + rng.normal(0, 11, banks.shape), rng.uniform(2, 5, len(banks)))
        for _ in range(int(width * height / 5e5)):
            start = rng.uniform(0, 1, 2) * (width, height)
            turn = rng.uniform(0, 2 * np.pi)
            end = start + rng.uniform(300, 1100) * np.array([np.cos(turn), np.sin(turn)])
            track = wander(start, end, 40, 40)
            cells = scape.cells["kind"][2016][self._low(scape.low_cell, track)]
            natural = (cells == land.NATURAL) & (self._low(scape.low_nature[2010], track) != land.WATER)
            dust = soil(rng, scape.county.soils, 0.7)
            for a, b in zip(track[:-1][natural[:-1] & natural[1:]], track[1:][natural[:-1] & natural[1:]]):
                self._line(np.array([a, b]), 2.6, dust)
        for start, end in (((-60, rng.uniform(0.2, 0.8) * height), (width + 60, rng.uniform(0.2, 0.8) * height)),
                           ((rng.uniform(0.2, 0.6) * width, -60), (rng.uniform(0.3, 0.7) * width, height + 60))):
            road = wander(start, end, 160, 90)
            verge = plants(100, 0.4 - 0.3 * self.looks.season)
            shade = rng.uniform(95, 150)
            for wide, colour in ((24, verge), (12, grey * shade), (0.9, grey * (shade + 60))):
                self._line(road, wide, colour)

    def _line(self, points, width_m, colour):
        """A band along a line, in short pieces."""
        colour = self._packed(colour)
        for a, b in zip(points[:-1], points[1:]):
            band = shapely.LineString([a, b]).buffer(width_m / 2, quad_segs=2)
            self.flats.append((np.array(band.exterior.coords), colour))

    def _low(self, layer, points):
        """Values of a coarse layer at positions."""
        at = (np.asarray(points) // land.LOW_M).astype(int)
        return layer[np.clip(at[..., 1], 0, layer.shape[0] - 1), np.clip(at[..., 0], 0, layer.shape[1] - 1)]

    def _plant(self, rng, places, radius):
        """Trees at places (n, 2): radius, light and tint."""
        n = len(places)
        self.trees.append(np.column_stack([places, radius, rng.uniform(0.75, 1.2, n), rng.uniform(0, 1, n)]))

    def _boxes(self, lattice, u, v, w, h, colours, into, height=0.0):
        """Rectangles along a lattice, as arrays. Those with a height throw shadows."""
        u, v, w, h = (np.atleast_1d(np.asarray(a, float)) for a in np.broadcast_arrays(u, v, w, h))
        side = np.array([[-1, -1], [1, -1], [1, 1], [-1, 1]]) / 2
        corners = lattice.to_map(u[:, None] + w[:, None] * side[:, 0], v[:, None] + h[:, None] * side[:, 1])
        into += zip(corners, np.broadcast_to(self._packed(colours), len(u)))
        if height:
            # A shadow is the hexagon that a rectangle sweeps as it moves away from the sun.
            away = self.away * height / np.tan(self.sun[1])
            swept = shapely.convex_hull(shapely.multipoints(np.concatenate([corners, corners + away], axis=1)))
            self.shadows += [(shapely.get_coordinates(shape)[:-1], _SHADE) for shape in swept]

    def _houses(self, lattice, u, v, w, h, roofs):
        """Gabled roofs, the side that faces the sun lighter."""
        u, v, w, h = (np.atleast_1d(np.asarray(a, float)) for a in (u, v, w, h))
        east, south = -self.away
        long_u = w >= h
        facing = np.where(long_u, -east * lattice.sin + south * lattice.cos, east * lattice.cos + south * lattice.sin)
        self._boxes(lattice, u, v, w, h, roofs, [], height=4.5)
        for half in (-1, 1):
            self._boxes(lattice, u + np.where(long_u, 0, half * w / 4), v + np.where(long_u, half * h / 4, 0),
                        np.where(long_u, w, w / 2), np.where(long_u, h / 2, h),
                        np.atleast_2d(roofs) * (1 + 0.2 * half * facing[:, None]), self.roofs)

    def _block(self, cell):
        """Lattice and box of a cell, and a function that selects positions on its dry land."""
        scape = self.landscape
        lattice = scape.lattices[scape.cells["district"][cell]]

        def mine(u, v):
            at = lattice.to_map(*np.broadcast_arrays(u, v))
            return (self._low(scape.low_cell, at) == cell) & (self._low(scape.low_nature[2010], at) != land.WATER)
        return lattice, lattice.cell_bounds(scape.cells["key"][cell]), mine

    def _build_cell(self, rng, cell):
        """Streets, houses, drives and trees of a town block; a park has a path."""
        lattice, box, mine = self._block(cell)
        u0, v0, u1, v1 = box
        style = land.TOWN_KINDS[self.landscape.cells["style"][cell]]
        fresh = self.landscape.cells["built"][cell] > 2010
        street = np.array([1.02, 1, 0.98, 0.95]) * rng.uniform(105, 150)
        pale = np.array([1.04, 1, 0.95, 0.95]) * rng.uniform(140, 185)
        if style == "park":
            path, u = v0 + rng.uniform(0.3, 0.7) * (v1 - v0), np.arange(u0, u1, 6.0) + 3
            self._boxes(lattice, u[mine(u, path)], path, 6.5, 2.5, pale, self.flats)
            return self._greenery(rng, lattice, box, mine, rng.uniform(10, 250))
        if style == "commerce":
            return self._build_commerce(rng, lattice, box, mine)
        lot, deep, depth, trees = {"large_lots": (38, 15, 130, 80), "houses": (23, 12, 88, 32),
                                   "dense": (15.5, 11, 66, 18)}[style]
        cuts = np.linspace(v0, v1, max(1, round((v1 - v0) / depth)) + 1)
        for cut in cuts[1:-1]:
            u = np.arange(u0, u1, 12.0) + 6
            self._boxes(lattice, u[mine(u, cut)], cut, 13, 8.5, street, self.flats)
        fashion = rng.choice([0, 1, 2, 3, 4, 5, 7, 8], 3)
        for front, inward in [(cut, 1) for cut in cuts[:-1]] + [(cut, -1) for cut in cuts[1:]]:
            u = np.arange(u0 + 9 + lot / 2, u1 - 9 - lot / 2 + 0.1, lot)
            w, h = np.minimum(lot - 4, rng.uniform(0.8, 1.25, len(u)) * deep), rng.uniform(0.75, 1.05, len(u)) * deep
            back = rng.uniform(9, 13, len(u)) + (6 if style == "large_lots" else 0)
            v = front + inward * (back + h / 2)
            drive = u + rng.choice([-1, 1], len(u)) * (w / 2 - 1)
            roofs = _ROOFS[rng.choice(fashion, len(u))] * rng.uniform(0.85, 1.12, (len(u), 1))
            stands = mine(u, v) & mine(u, front + inward * (back + h + 8)) & (rng.random(len(u)) > 0.06)
            self._boxes(lattice, drive[stands], (front + inward * (back / 2 + 3))[stands], 3.4, back[stands], pale,
                        self.flats)
            self._houses(lattice, u[stands], v[stands], w[stands], h[stands], roofs[stands])
        count = (v1 - v0) * (u1 - u0) / 1e4 * trees
        self._greenery(rng, lattice, box, mine, count * (0.3 if fresh else rng.uniform(0.2, 1.3)), small=fresh)

    def _greenery(self, rng, lattice, box, mine, count, small=False):
        """Trees of a block, none on the streets around it."""
        u0, v0, u1, v1 = box
        u, v = rng.uniform(u0 + 8, u1 - 8, int(count)), rng.uniform(v0 + 8, v1 - 8, int(count))
        radius = rng.uniform(1.2, 2.2, int(count)) if small else rng.uniform(2.0, 5.2, int(count))
        here = mine(u, v)
        self._plant(rng, lattice.to_map(u[here], v[here]), radius[here])

    def _build_commerce(self, rng, lattice, box, mine):
        """Large flat roofs, and car parks with cars in rows."""
        u0, v0, u1, v1 = box
        v = v0 + 12
        while v < v1 - 40:
            depth = min(rng.uniform(30, 62), v1 - 12 - v)
            u = u0 + 12
            while u < u1 - 30:
                w = min(rng.uniform(35, 95), u1 - 12 - u)
                if mine(u + w * np.array([0.05, 0.5, 0.95]), v + depth * np.array([0.05, 0.5, 0.95])).all():
                    roof = _ROOFS[rng.choice([1, 3, 6, 7, 6])] * rng.uniform(0.85, 1.12)
                    self._boxes(lattice, u + w / 2, v + depth / 2, w, depth, roof, self.roofs, height=8)
                u += w + rng.uniform(8, 22)
            for row in np.arange(v + depth + 8, min(v + depth + rng.uniform(22, 48), v1 - 14), 15):
                u = np.arange(u0 + 14, u1 - 14, 2.9)
                u = u[mine(u, row) & (rng.random(len(u)) < 0.45)]
                paint = np.array([1, 1, 1, 0.9]) * rng.choice([45, 90, 150, 215, 235], len(u))[:, None]
                self._boxes(lattice, u, row, 1.9, 4.4, paint, self.roofs)
            v += depth + 38
        self._greenery(rng, lattice, box, mine, 8)

    def _build_single(self, rng, patch):
        """A house on its own land, with a drive, trees, perhaps a barn."""
        corners = patch.polygon
        along = corners[1] - corners[0]
        w, h = np.hypot(*along), np.hypot(*(corners[3] - corners[0]))
        plain = _Plain(corners.mean(axis=0), np.arctan2(along[1], along[0]))
        pale = np.array([1.04, 1, 0.95, 0.95]) * rng.uniform(140, 190)
        u, v = rng.uniform(-0.12, 0.12) * w, rng.uniform(-0.1, 0.12) * h
        self._boxes(plain, u + 9, (v - h / 2) / 2 - 8, 4, h / 2 + v + 14, pale, self.flats)
        self._boxes(plain, u + 6, v - 12, 16, 11, pale, self.flats)
        n = 1 + int(rng.random() < 0.6)
        self._houses(plain, [u, u - 0.28 * w][:n], [v, v + rng.uniform(-0.2, 0.25) * h][:n], rng.uniform(9, 20, n),
                     rng.uniform(8, 14, n), _ROOFS[rng.integers(len(_ROOFS), size=n)] * rng.uniform(0.9, 1.15))
        n = rng.integers(5, 16)
        u, v = rng.uniform(-0.48, 0.48, n) * w, rng.choice([-1, 1], n) * rng.uniform(0.3, 0.48, n) * h
        self._plant(rng, plain.to_map(u, v), rng.uniform(1.5, 4.5, n))

    def _grade(self, rng, cell):
        """Tracks of machines and pads on a building site, none of them a building."""
        lattice, (u0, v0, u1, v1), mine = self._block(cell)
        pale = np.array([1.04, 1, 0.95, 0.95]) * rng.uniform(120, 190)
        n = int(rng.integers(0, 9))
        u, v = rng.uniform(u0 + 25, u1 - 25, n), rng.uniform(v0 + 25, v1 - 25, n)
        here = mine(u, v)
        self._boxes(lattice, u[here], v[here], 15, 11, pale * rng.uniform(0.7, 1.1, (here.sum(), 1)), self.flats)
        along = np.arange(u0 + 15, u1 - 15, 10.0)
        for across in rng.uniform(v0 + 15, v1 - 15, int(rng.integers(0, 4))):
            self._boxes(lattice, along[mine(along, across)], across, 10.5, rng.uniform(3, 8), pale, self.flats)

    def _plant_hedge(self, rng, cell):
        """Trees along one edge of some fields."""
        if rng.random() > 0.22:
            return
        lattice, (u0, v0, u1, v1), mine = self._block(cell)
        along_u = rng.random() < 0.5
        t = np.arange(0, (u1 - u0) if along_u else (v1 - v0), rng.uniform(6, 11))
        u, v = (u0 + t, v0 + 0 * t) if along_u else (u0 + 0 * t, v0 + t)
        here = mine(u + 4, v + 4) & (rng.random(len(t)) < 0.85)
        places = lattice.to_map(u[here], v[here])
        self._plant(rng, places + rng.normal(0, 1, places.shape), rng.uniform(2, 4.4, len(places)))

    def draw(self, packed, left, top):
        """Flats, shadows, roofs and trees over a painted block; then the lens."""
        height, width = packed.shape
        image = Image.fromarray(packed.view(np.int32))
        _fill(image, self.flats, left, top)
        shadow = Image.new("L", (width, height), 255)
        _fill(shadow, self.shadows, left, top)
        trees = self.trees[(np.abs(self.trees[:, 0] - left - width / 2) < width / 2 + 12)
                           & (np.abs(self.trees[:, 1] - top - height / 2) < height / 2 + 12)]
        away, places = self.away, trees[:, :2] - (left, top)
        length, pen = 1.2 / np.tan(self.sun[1]), ImageDraw.Draw(shadow)
        for place, r in zip(places + away * trees[:, 2:3] * length, trees[:, 2]):
            pen.circle(place, r, fill=_SHADE)
        pixels = np.array(image).view(np.uint8).reshape(height, width, 4)
        dark = np.asarray(shadow) < 255
        pixels[dark] = (pixels[dark].astype(np.uint16) * _SHADE >> 8) + 2
        image = Image.fromarray(pixels.view(np.int32)[..., 0])
        _fill(image, self.roofs, left, top)
        leaf, pen = self._tree_colours(), ImageDraw.Draw(image)
        for place, (_, _, r, light, tint) in zip(places, trees):
            dim, lit = leaf[int(tint * 7.99)][int((light - 0.75) / 0.45 * 3.99)]
            pen.circle(place, r, fill=dim)
            pen.circle(place - away * r * 0.3, r * 0.62, fill=lit)
        pixels = np.array(image).view(np.uint8).reshape(height, width, 4)
        lens = ImageFilter.Kernel((3, 3), (1, 2, 1, 2, 5, 2, 1, 2, 1))
        return np.asarray(Image.fromarray(pixels, "RGBA").filter(lens))

    def _tree_colours(self):
        """Packed dim and lit colours of crowns, by tint and light."""
        greens = 0.9 - 0.09 * np.arange(8) - 0.3 * self.looks.drought - 0.3 * self.looks.season
        colours = [[plants(62 * light + 3 * tint, green) for light in (0.75, 0.9, 1.05, 1.2)]
                   for tint, green in enumerate(greens)]
        return [[tuple(map(int, self._packed([colour * 0.62, colour * 1.15]))) for colour in row] for row in colours]


class _Plain:
    """A lattice without bend around a point, for single properties."""

    def __init__(self, centre, angle):
        self.centre, self.cos, self.sin = centre, np.cos(angle), np.sin(angle)

    def to_map(self, u, v):
        u, v = np.asarray(u, float), np.asarray(v, float)
        return self.centre + np.stack([u * self.cos - v * self.sin, u * self.sin + v * self.cos], axis=-1)


def _boxed(shapes):
    """Shapes with their boxes: ``(list of (points, colour), (n, 4) bounds)``."""
    boxes = np.array([np.concatenate([p.min(axis=0), p.max(axis=0)]) for p, _ in shapes]).reshape(-1, 4)
    # PIL takes packed colours as signed 32-bit numbers.
    return [(p, int(np.uint32(c).view(np.int32))) for p, c in shapes], boxes


def _fill(image, shapes, left, top):
    """Draw the shapes that reach into an image, in their order; ``left`` and ``top`` are the image's corner."""
    things, boxes = shapes
    pen = ImageDraw.Draw(image)
    for i in np.flatnonzero((boxes[:, 2] >= left) & (boxes[:, 0] <= left + image.width)
                            & (boxes[:, 3] >= top) & (boxes[:, 1] <= top + image.height)):
        points, colour = things[i]
        pen.polygon([tuple(p) for p in points - (left + 0.5, top + 0.5)], fill=colour)

"""The layout of a sample county: what covers the ground, in 2010 and in 2016.

Positions here are metres east and south of the upper left corner of the county's frame. Nature (woods, scrub,
grass, bare ground, water) follows smooth noise; fields and town blocks fill the cells of lattices, one lattice for
each district, turned and bent in its own way. Everything has a *region*: an index into the tables that say how it
looks and which NLCD code it carries.
"""

from collections import namedtuple

import numpy as np
import shapely
from scipy import ndimage

from sample.textures import noise
from helpers.land.grid import TILE_M

LOW_M = 8                     # pixel of the coarse layout
TILE_LOW = int(TILE_M) // LOW_M
STANDS = 20                   # looks that one kind of nature may have in a county
NATURE = ("barren", "forest", "shrub", "herb", "marsh", "water", "mud", "cleared", "quarry")
BARREN, FOREST, SHRUB, HERB, MARSH, WATER, MUD, CLEARED, QUARRY = range(len(NATURE))
VERGE, ROAD, STREET = (len(NATURE) * STANDS + i for i in range(3))
FIRST_CELL = STREET + 1
NATURAL, FIELD, TOWN = range(3)
TOWN_KINDS = ("park", "large_lots", "houses", "dense", "commerce")
# Field name -> class_id of the six noise fields that compete for the land.
_CLASSES = 6
_CULTIVATED, _DEVELOPED = 3, 5
_NATURE_OF_CLASS = {0: BARREN, 1: FOREST, 2: SHRUB, 4: HERB}
# Ground with a look of its own: polygon (n, 2) in metres, kind "pivot" (a field) or "single" (a property), and the
# first year that shows it.
Patch = namedtuple("Patch", "polygon kind year")


class Lattice:
    """Columns and rows of cells of one district, at an angle, gently bent."""

    def __init__(self, rng, angle, size_m, fields):
        self.cos, self.sin = float(np.cos(angle)), float(np.sin(angle))
        self.origin = size_m * 1.05 + 200
        length = int(2.1 * self.origin)
        v = np.arange(length)
        bend = rng.uniform(20, 45) * np.sin(v / rng.uniform(400, 700) + rng.uniform(0, 6))
        self.bend = bend.astype(np.float32)
        self.columns = self._cuts(rng, fields, length)
        self.rows = [self._cuts(rng, (fields[0] * 1.15, fields[1] * 1.3), length) for _ in range(8)]
        self.column_of, self.column_edge = self._tables(self.columns, length)
        tables = [self._tables(rows, length) for rows in self.rows]
        self.row_of = np.array([t[0] for t in tables])
        self.row_edge = np.array([t[1] for t in tables])
        roads = self.columns[int(rng.integers(2, 5))::int(rng.integers(4, 6))]
        self.road_edge = np.abs(np.arange(length)[:, None] + 0.5 - roads[None]).min(axis=1).astype(np.float32)
        self.row_limit = max(len(rows) for rows in self.rows)

    @staticmethod
    def _cuts(rng, widths, length):
        cuts = np.cumsum(rng.uniform(*widths, int(length / widths[0]) + 1))
        return cuts[cuts < length - 1].astype(int)

    @staticmethod
    def _tables(cuts, length):
        at = np.arange(length)
        index = np.searchsorted(cuts, at, side="right")
        padded = np.concatenate([[-9999], cuts, [length + 9999]])
        edge = np.minimum(at + 0.5 - padded[index], padded[index + 1] - at - 0.5)
        return index.astype(np.int16), np.minimum(edge, 3000).astype(np.float32)

    def to_cell(self, x, y):
        """Lattice coordinates (u along rows, v along columns) of positions."""
        v = y * self.cos - x * self.sin + np.float32(self.origin)
        u = x * self.cos + y * self.sin + np.float32(self.origin) + self.bend[v.astype(np.int32)]
        return u, v

    def to_map(self, u, v):
        """Positions of lattice coordinates; undoes ``to_cell``."""
        u, v = np.asarray(u, float), np.asarray(v, float)
        ru = u - self.bend[v.astype(int)] - self.origin
        rv = v - self.origin
        return np.stack([ru * self.cos - rv * self.sin, ru * self.sin + rv * self.cos], axis=-1)

    def keys(self, u, v):
        """Column and row of lattice coordinates as one number, and the distance (m) to the nearest cut."""
        iu, iv = u.astype(np.int32), v.astype(np.int32)
        column = self.column_of[iu]
        variant = column & 7
        row = self.row_of[variant, iv]
        edge = np.minimum(self.column_edge[iu], self.row_edge[variant, iv])
        return column.astype(np.int32) * self.row_limit + row, edge

    def cell_bounds(self, key):
        """``(u0, v0, u1, v1)`` of a cell."""
        column, row = divmod(int(key), self.row_limit)
        rows = self.rows[column & 7]
        ends = [(cuts[i - 1] if i else 0, cuts[i] if i < len(cuts) else cuts[-1] + 200)
                for cuts, i in ((self.columns, column), (rows, row))]
        return ends[0][0], ends[1][0], ends[0][1], ends[1][1]


class Landscape:
    """The layout of one county.

    ``nature`` has the natural regions on the coarse grid by year. ``cells`` has arrays with a value for each cell:
    ``district``, ``key``, ``style``, and ``kind`` (NATURAL, FIELD, TOWN) by year. ``boundary`` is in metres of the
    frame.
    """

    def __init__(self, seed, county):
        self.seed, self.county = seed, county
        self.width, self.height = county.columns * TILE_M, county.rows * TILE_M
        self.shape = county.rows * TILE_LOW, county.columns * TILE_LOW
        self.rng = np.random.default_rng([seed, int(county.geoid), 1])
        self._lay_lattices()
        self._lay_boundary()
        self._lay_classes()
        self._lay_town_styles()
        self._lay_changes()
        self._lay_patches()

    # ---- lattices and boundary

    def _lay_lattices(self):
        rng = self.rng
        size = float(np.hypot(self.width, self.height))
        count = 3 if self.width > 5000 else 2
        turn = np.deg2rad(rng.uniform(0, 90))
        angles = turn + np.deg2rad(np.arange(count) * 90 / count + rng.uniform(-12, 12, count))
        self.lattices = [Lattice(rng, (a + np.pi / 4) % (np.pi / 2) - np.pi / 4, size, self.county.fields)
                         for a in angles]
        turn = rng.uniform(0, 2 * np.pi)
        around = turn + np.arange(count) * 2 * np.pi / count
        centre = np.array([self.width, self.height]) / 2
        self.sites = (centre + np.stack([np.cos(around), np.sin(around)], 1) * centre * 0.6
                      + rng.uniform(-300, 300, (count, 2))).astype(np.float32)
        y, x = (np.indices(self.shape, dtype=np.float32) + 0.5) * LOW_M
        self.low_district = self.district(x, y)
        key = np.zeros(self.shape, np.int64)
        for d, lattice in enumerate(self.lattices):
            key = np.where(self.low_district == d, lattice.keys(*lattice.to_cell(x, y))[0] + d * 10 ** 7, key)
        found, self.low_cell = np.unique(key, return_inverse=True)
        self.low_cell = self.low_cell.reshape(self.shape)
        self.cells = {"district": found // 10 ** 7, "key": found % 10 ** 7}
        area = np.bincount(self.low_cell.ravel())
        self.cells["x"] = np.bincount(self.low_cell.ravel(), x.ravel()) / area
        self.cells["y"] = np.bincount(self.low_cell.ravel(), y.ravel()) / area
        self.cells["area"] = area * LOW_M ** 2

    def district(self, x, y):
        """Index of the district that holds positions: that with the nearest site."""
        best = np.zeros(np.broadcast(x, y).shape, np.int8)
        nearest = (x - self.sites[0, 0]) ** 2 + (y - self.sites[0, 1]) ** 2
        for d in range(1, len(self.sites)):
            distance = (x - self.sites[d, 0]) ** 2 + (y - self.sites[d, 1]) ** 2
            closer = distance < nearest
            best[closer] = d
            nearest = np.minimum(nearest, distance)
        return best

    def _lay_boundary(self):
        """Three sides that wander, and one that follows a river."""
        rng = self.rng
        inset, depth = 290.0, 160.0

        def side(length, wander):
            t = np.arange(0, 1.0001, 1 / max(24, int(length / 60)))
            line = noise(rng, (1, 256), 80, 1.5, 6)[0]
            line = np.interp(t * 200, np.arange(256), line)
            return t, wander * (0.5 + 0.5 * np.tanh(line))
        t, top = side(self.width, depth)
        _, bottom = side(self.width, depth)
        s, left = side(self.height, depth)
        meander = 0.5 + 0.5 * np.sin(s * rng.uniform(16, 22) + rng.uniform(0, 6)) * (0.6 + 0.4 * np.sin(s * 7))
        right = 40 + 260 * meander + side(self.height, 60)[1]
        width, height = self.width - 2 * inset, self.height - 2 * inset
        points = np.concatenate([
            np.stack([t * width, top], 1), np.stack([width - right, s * height], 1),
            np.stack([t * width, height - bottom], 1)[::-1], np.stack([left, s * height], 1)[::-1]]) + inset
        ring = shapely.Polygon(points).buffer(0)
        self.boundary = max(ring.geoms, key=lambda g: g.area) if ring.geom_type != "Polygon" else ring
        river = np.stack([width - right, s * height], 1) + inset
        river = np.concatenate([river[:1] - [0, 2 * inset], river, river[-1:] + [0, 2 * inset]])
        self.river = shapely.LineString(river)
        rows, columns = np.indices((self.county.rows, self.county.columns))
        self.in_county = shapely.contains_xy(self.boundary, (columns + 0.5) * TILE_M, (rows + 0.5) * TILE_M)

    # ---- classes

    def _lay_classes(self):
        """Six noise fields compete for the land; of some such worlds, the first with enough pure tiles is taken."""
        rng = self.rng
        wavelength = (1500 if self.width < 5000 else 3200) / LOW_M
        best = (-1,)
        for _ in range(8):
            fields = np.stack([noise(rng, self.shape, wavelength, 2.8, 5) for _ in range(_CLASSES)])
            self._lay_water(rng)
            means = np.stack([ndimage.mean(f, self.low_cell, np.arange(len(self.cells["key"]))) for f in fields])
            fewest, bias = self._balance(fields, means)
            if fewest > best[0]:
                best = fewest, bias, fields, means, self.lakes, self.low_water
            if fewest >= self.county.target:
                break
        _, bias, fields, means, self.lakes, self.low_water = best
        kind = self._kinds(means + bias[:, None])
        self.cells["kind"] = {2010: kind, 2016: kind.copy()}
        biased = means + bias[:, None]
        self._town_field = biased[_DEVELOPED] - np.delete(biased, _DEVELOPED, 0).max(axis=0)
        natural = np.argmax((fields + bias[:, None, None])[list(_NATURE_OF_CLASS)], axis=0)
        nature = np.array(list(_NATURE_OF_CLASS.values()))[natural].astype(np.int16)
        wet = noise(rng, self.shape, 60, 1.8, 6)
        near = ndimage.distance_transform_edt(~self.low_water) * LOW_M
        nature[(near < 40 + 35 * wet) & (nature == HERB)] = MARSH
        nature[(near < 22 + 10 * wet) & (nature != FOREST)] = MUD
        nature[self.low_water] = WATER
        # Stands: five more noise fields compete for looks, and one makes each look a little lighter or darker.
        look = np.argmax([noise(rng, self.shape, 1400 / LOW_M, 2.4, 5) for _ in range(5)], axis=0)
        light = noise(rng, self.shape, 900 / LOW_M, 2.0, 5)
        stand = look * 4 + np.digitize(light, np.quantile(light, [0.25, 0.5, 0.75]))
        self.low_stand = stand.astype(np.int16)
        self.low_nature = {2010: nature, 2016: nature.copy()}

    def _balance(self, fields, means):
        """The fewest pure tiles of any class, and what to add to each field for it."""
        bias, best = np.zeros(_CLASSES), (-1, None)
        # Every fourth pixel tells enough while the balance is sought.
        coarse = np.ascontiguousarray(fields[:, 1::4, 1::4])
        for _ in range(80):
            kind = self._kinds(means + bias[:, None])
            pure = self.pure_tiles(self._classes(coarse + bias[:, None, None], kind[self.low_cell[1::4, 1::4]],
                                                 self.low_water[1::4, 1::4]))
            if pure.min() > best[0]:
                best = pure.min(), bias.copy()
            if pure.min() >= self.county.target:
                break
            bias += np.clip(0.35 * (1 - pure / max(pure.mean(), 1)), -0.05, 0.09)
        return best

    def _lay_water(self, rng):
        y, x = (np.indices(self.shape) + 0.5) * LOW_M
        inside = shapely.contains_xy(self.river.buffer(rng.uniform(17, 26)), x, y)
        self.lakes = np.full(self.shape, np.inf, np.float32)
        ragged = noise(rng, self.shape, 40, 2.0, 4)
        for _ in range(2 if self.width < 5000 else 4):
            cx, cy = rng.uniform(0.12, 0.85) * self.width, rng.uniform(0.12, 0.88) * self.height
            radius = rng.uniform(70, 190)
            ax, ay = rng.uniform(0.7, 1.4, 2)
            self.lakes = np.minimum(self.lakes, np.hypot((x - cx) * ax, (y - cy) * ay) / radius + 0.22 * ragged)
        self.low_water = inside | (self.lakes < 1)

    @staticmethod
    def _kinds(means):
        winner = means.argmax(axis=0)
        kind = np.where(winner == _DEVELOPED, TOWN, np.where(winner == _CULTIVATED, FIELD, NATURAL))
        return kind.astype(np.int8)

    @staticmethod
    def _classes(fields, kind, water):
        """Class of each pixel, -1 for water."""
        nature = list(_NATURE_OF_CLASS)
        natural = np.array(nature)[fields[nature].argmax(axis=0)]
        classes = np.where(kind == FIELD, _CULTIVATED, np.where(kind == TOWN, _DEVELOPED, natural))
        return np.where(water, -1, classes)

    def pure_tiles(self, classes):
        """How many of the county's tiles are pure, of each class; ``classes`` has every fourth coarse pixel."""
        blocks = classes.reshape(self.county.rows, TILE_LOW // 4, self.county.columns, TILE_LOW // 4)
        counts = np.empty(_CLASSES, int)
        for c in range(_CLASSES):
            same = blocks == c
            counts[c] = ((same.mean(axis=(1, 3)) > 0.93) & same[:, 1:6:2, :, 1:6:2].all(axis=(1, 3))
                         & self.in_county).sum()
        return counts

    # ---- towns

    def _lay_town_styles(self):
        """What stands on each town cell: the further inside a town, the denser."""
        rng = self.rng
        rank = self._town_field + rng.normal(0, 0.22, len(self._town_field))
        style = np.digitize(rank, [0.3, 0.75, 1.1])
        style = np.where((style >= 2) & (rng.random(style.size) < 0.33), 3, np.minimum(style, 2))
        style = np.where(rng.random(style.size) < 0.06, -1, style) + 1
        self.cells["style"] = style.astype(np.int8)
        self.cells["built"] = np.full(style.size, 1990)

    # ---- what is new in 2016

    def _lay_changes(self):
        rng, county = self.rng, self.county
        cells, kind = self.cells, self.cells["kind"][2016]
        self.subdivisions = []
        water = ndimage.maximum(self.low_water, self.low_cell, np.arange(len(kind)))
        inside = shapely.contains_xy(self.boundary.buffer(-150), cells["x"], cells["y"])
        free = (kind != TOWN) & (water == 0) & inside & (cells["area"] > 0.6 * np.median(cells["area"]))
        for _ in range(county.developments[1]):
            choice = np.flatnonzero(free)
            if not len(choice):
                break
            start = rng.choice(choice)
            distance = np.hypot(cells["x"] - cells["x"][start], cells["y"] - cells["y"][start])
            near = choice[np.argsort(distance[choice])][:int(rng.integers(4, 8))]
            near = near[distance[near] < 700]
            kind[near] = TOWN
            cells["style"][near] = rng.choice([1, 2, 2, 3]) if rng.random() < 0.85 else 4
            cells["built"][near] = 2014
            self.subdivisions.append(near)
            free &= distance > 900
        nature = self.low_nature[2016]
        y, x = (np.indices(self.shape) + 0.5) * LOW_M
        # A drought: lakes fall, and the smallest is dry.
        reach = rng.uniform(0.72, 0.82)
        low = (self.lakes > reach) & (self.lakes < 1) & (self.low_nature[2010] == WATER)
        nature[low] = MUD
        labels, count = ndimage.label(self.lakes < 1)
        if count > 1:
            sizes = ndimage.sum(labels > 0, labels, np.arange(1, count + 1))
            nature[(labels == 1 + int(np.argmin(sizes))) & (self.lakes < 1)] = MUD
        # Clearcuts in the woods, and a pit that grows into other land.
        cuts = max(2, int(self.in_county.sum() / 110))
        wood = np.argwhere(self.low_nature[2010] == FOREST)
        for _ in range(cuts):
            cy, cx = (wood[rng.integers(len(wood))] + 0.5) * LOW_M
            turn, a, b = rng.uniform(0, np.pi), rng.uniform(90, 210), rng.uniform(70, 140)
            dx = (x - cx) * np.cos(turn) + (y - cy) * np.sin(turn)
            dy = (y - cy) * np.cos(turn) - (x - cx) * np.sin(turn)
            nature[(np.abs(dx) < a) & (np.abs(dy) < b) & (nature == FOREST)] = CLEARED
        for _ in range(max(1, cuts // 5)):
            open_land = np.argwhere((nature == SHRUB) | (nature == HERB))
            cy, cx = (open_land[rng.integers(len(open_land))] + 0.5) * LOW_M
            pit = np.hypot(x - cx, y - cy) < rng.uniform(110, 190)
            nature[pit & ((nature == SHRUB) | (nature == HERB))] = QUARRY
        self.nature = {year: (n * STANDS + self.low_stand).astype(np.int16) for year, n in self.low_nature.items()}

    # ---- patches: pivots and single properties

    def _lay_patches(self):
        rng = self.rng
        self.patches = []
        kind = self.cells["kind"]
        for cell in np.flatnonzero(kind[2010] == FIELD):
            u0, v0, u1, v1 = self.bounds_of(cell)
            if min(u1 - u0, v1 - v0) > 150 and rng.random() < 0.07 and kind[2016][cell] == FIELD:
                t = np.linspace(0, 2 * np.pi, 60)
                radius = min(u1 - u0, v1 - v0) / 2 - 8
                circle = self.lattices[self.cells["district"][cell]].to_map(
                    (u0 + u1) / 2 + radius * np.cos(t), (v0 + v1) / 2 + radius * np.sin(t))
                self.patches.append(Patch(circle, "pivot", 2010))
        new = self.county.developments[0]
        tiles = np.argwhere(self.in_county)
        rng.shuffle(tiles)
        wanted = [2016] * new + [2010] * (new // 2)
        for row, column in tiles:
            if not wanted:
                break
            patch = self._single(rng, row, column, wanted[-1])
            if patch is not None:
                wanted.pop()
                self.patches.append(patch)

    def _single(self, rng, row, column, year):
        """A single property of 10 to 20 % of a tile, wholly inside it, or None where there is no room."""
        area = rng.uniform(0.118, 0.20) * TILE_M ** 2
        ratio = rng.uniform(1.0, 1.5)
        w, h = np.sqrt(area * ratio), np.sqrt(area / ratio)
        cx, cy = (np.array([column, row]) + 0.5) * TILE_M + rng.uniform(-40, 40, 2)
        lattice = self.lattices[self.district(np.float32(cx), np.float32(cy))]
        u, v = lattice.to_cell(np.float32([cx]), np.float32([cy]))
        corners = np.array([[-w, -h], [w, -h], [w, h], [-w, h]]) / 2
        polygon = lattice.to_map(u[0] + corners[:, 0], v[0] + corners[:, 1])
        low = np.array([column, row]) * TILE_M + 4
        if (polygon < low).any() or (polygon > low + TILE_M - 8).any():
            return None
        r0, c0 = (polygon.min(axis=0)[::-1] // LOW_M).astype(int)
        r1, c1 = (polygon.max(axis=0)[::-1] // LOW_M).astype(int) + 1
        cell = self.cells["kind"][2016][self.low_cell[r0:r1, c0:c1]]
        nature = np.concatenate([self.low_nature[y][r0:r1, c0:c1].ravel() for y in (2010, 2016)])
        if (cell == TOWN).any() or np.isin(nature, (WATER, MUD, CLEARED, QUARRY)).any():
            return None
        return Patch(polygon, "single", year)

    def bounds_of(self, cell):
        """``(u0, v0, u1, v1)`` of a cell in its lattice."""
        return self.lattices[self.cells["district"][cell]].cell_bounds(self.cells["key"][cell])

    def regions(self, year):
        """For each district, a table from cell key to region: 0 for natural cells."""
        tables = []
        for d, lattice in enumerate(self.lattices):
            table = np.zeros((len(lattice.columns) + 2) * lattice.row_limit + lattice.row_limit + 2, np.int32)
            mine = np.flatnonzero((self.cells["district"] == d) & (self.cells["kind"][year] != NATURAL))
            table[self.cells["key"][mine]] = FIRST_CELL + mine
            tables.append(table)
        return tables

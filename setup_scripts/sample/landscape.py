"""The layout of a sample county: what covers the ground, in 2010 and in 2016.

Positions here are metres east and south of the upper left corner of the county's frame. Six noise fields compete for
the land, and the true class is the one with the highest field. The covers of trees, bushes, grass and bare ground pass
into each other over hundreds of metres, as on real land. Fields and town blocks fill the cells of lattices, one lattice
for each district. Every position belongs to a *region*: an index into the tables of looks and true NLCD codes.
"""

from collections import namedtuple

import numpy as np
import shapely
from scipy import ndimage

from sample.lattice import Lattice
from sample.textures import noise
from helpers.land.grid import TILE_M

LOW_M = 8                     # pixel of the coarse layout
TILE_LOW = int(TILE_M) // LOW_M
STANDS = 20                   # looks that one kind of nature may have in a county
NATURE = ("barren", "forest", "shrub", "herb", "water", "cleared", "quarry")
BARREN, FOREST, SHRUB, HERB, WATER, CLEARED, QUARRY = range(len(NATURE))
VEGETATED = 4 * STANDS        # regions below it mix their looks by covers
VERGE, ROAD, STREET = (len(NATURE) * STANDS + i for i in range(3))
FIRST_CELL = STREET + 1
NATURAL, CROPS, PASTURE, RANGE, SITE, TOWN = range(6)
TOWN_KINDS = ("park", "large_lots", "houses", "dense", "commerce")
# Six noise fields compete for the land, by class_id. The highest one in a cell decides what the cell is.
_CULTIVATED, _DEVELOPED = 3, 5
_KINDS = np.array([NATURAL, NATURAL, NATURAL, CROPS, NATURAL, TOWN], np.int8)
_NATURAL_CLASSES = np.flatnonzero(_KINDS == NATURAL)   # those of BARREN, FOREST, SHRUB and HERB
# How far covers pass into each other: where two fields differ by this many deviations, one cover is e times the other.
_BLEND = 0.31
# A single property: polygon (4, 2) in metres, and the first year that shows it.
Patch = namedtuple("Patch", "polygon year")


class Landscape:
    """The layout of one county.

    ``nature`` has the natural regions on the coarse grid by year, ``covers`` the cover of trees, bushes and grass there
    (three layers, 0 to 254). ``cells`` has arrays with a value for each cell: ``district``, ``key``, ``style``,
    and ``kind`` (NATURAL ... TOWN) by year. ``boundary`` is in metres of the frame.
    """

    def __init__(self, seed, county):
        self.seed, self.county = seed, county
        self.width, self.height = county.columns * TILE_M, county.rows * TILE_M
        self.shape = county.rows * TILE_LOW, county.columns * TILE_LOW
        self.rng = np.random.default_rng([seed, int(county.geoid), 1])
        self._lay_lattices()
        self._lay_boundary()
        self._lay_classes()
        self._lay_farms()
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
        y, x = self._middles()
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

    def _dry(self):
        """For each cell, whether it is without water."""
        return ndimage.maximum(self.low_water, self.low_cell, np.arange(len(self.cells["key"]))) == 0

    def _middles(self):
        """Positions of the coarse pixels: y and x."""
        return (np.indices(self.shape, dtype=np.float32) + 0.5) * LOW_M

    def district(self, x, y):
        """The district at positions: the index of the nearest site."""
        return np.argmin([(x - at_x) ** 2 + (y - at_y) ** 2 for at_x, at_y in self.sites], axis=0).astype(np.int8)

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
        self.boundary = max(shapely.get_parts(shapely.Polygon(points).buffer(0)), key=shapely.area)
        river = np.stack([width - right, s * height], 1) + inset
        river = np.concatenate([river[:1] - [0, 2 * inset], river, river[-1:] + [0, 2 * inset]])
        self.river = shapely.LineString(river)
        rows, columns = np.indices((self.county.rows, self.county.columns))
        self.in_county = shapely.contains_xy(self.boundary, (columns + 0.5) * TILE_M, (rows + 0.5) * TILE_M)

    # ---- classes

    def _lay_classes(self):
        """Let six noise fields compete for the land, until a world has enough pure tiles of every class."""
        rng = self.rng
        wavelength = (1500 if self.width < 5000 else 3200) / LOW_M
        best = (-1,)
        for _ in range(8):
            fields = np.stack([noise(rng, self.shape, wavelength, 2.8, 5) for _ in _KINDS])
            self._lay_water(rng)
            means = np.stack([ndimage.mean(f, self.low_cell, np.arange(len(self.cells["key"]))) for f in fields])
            fewest, bias = self._balance(fields, means)
            if fewest > best[0]:
                best = fewest, bias, fields, means, self.low_water
            if fewest >= self.county.target:
                break
        _, bias, fields, means, self.low_water = best
        self._cell_fields = means + bias[:, None]
        kind = _KINDS[self._cell_fields.argmax(axis=0)]
        self.cells["kind"] = {2010: kind, 2016: kind.copy()}
        natural = (fields + bias[:, None, None])[_NATURAL_CLASSES]
        nature = natural.argmax(axis=0).astype(np.int16)
        nature[self.low_water] = WATER
        self._lay_covers(natural)
        # Stands: five more noise fields compete for looks, and one makes each look a little lighter or darker.
        look = np.argmax([noise(rng, self.shape, 1400 / LOW_M, 2.4, 5) for _ in range(5)], axis=0)
        light = noise(rng, self.shape, 900 / LOW_M, 2.0, 5)
        stand = look * 4 + np.digitize(light, np.quantile(light, [0.25, 0.5, 0.75]))
        self.low_stand = stand.astype(np.int16)
        self.low_nature = {2010: nature, 2016: nature.copy()}

    def _lay_covers(self, natural):
        """Covers of trees, bushes and grass: each is densest where its field is highest."""
        rng = self.rng
        # A place's covers differ somewhat from those that its class suggests.
        luck = np.stack([noise(rng, self.shape, 700 / LOW_M, 1.8, 4) for _ in range(4)])
        power = np.exp((natural + 0.18 * luck) / _BLEND)
        bare, trees, bushes, grass = power / power.sum(axis=0)
        shares = np.stack([trees ** 1.5, 0.85 * bushes + 0.25 * trees * (1 - trees),
                           grass / (grass + bare + 1e-6)])
        shares[2] = 0.5 + 0.5 * np.tanh(3 * (shares[2] - 0.5)) / np.tanh(1.5)
        self.covers = {year: np.clip(shares * np.array([1, 1, dry])[:, None, None] * 255, 0, 254).astype(np.uint8)
                       for year, dry in ((2010, 1.0), (2016, 0.9))}

    def _balance(self, fields, means):
        """Values to add to the fields, so that each class has enough pure tiles; with the count of the rarest class."""
        bias, best = np.zeros(len(_KINDS)), (-1, None)
        # Every fourth pixel is enough to find the balance.
        coarse = np.ascontiguousarray(fields[:, 1::4, 1::4])
        for _ in range(80):
            kind = _KINDS[(means + bias[:, None]).argmax(axis=0)]
            pure = self._pure_tiles(coarse + bias[:, None, None], kind[self.low_cell[1::4, 1::4]],
                                    self.low_water[1::4, 1::4])
            if pure.min() > best[0]:
                best = pure.min(), bias.copy()
            if pure.min() >= self.county.target:
                break
            bias += np.clip(0.35 * (1 - pure / max(pure.mean(), 1)), -0.05, 0.09)
        return best

    def _lay_water(self, rng):
        y, x = self._middles()
        self.low_water = shapely.contains_xy(self.river.buffer(rng.uniform(17, 26)), x, y)
        ragged = noise(rng, self.shape, 40, 2.0, 4)
        for _ in range(2 if self.width < 5000 else 4):
            cx, cy = rng.uniform(0.12, 0.85) * self.width, rng.uniform(0.12, 0.88) * self.height
            radius = rng.uniform(70, 190)
            ax, ay = rng.uniform(0.7, 1.4, 2)
            self.low_water = self.low_water | (np.hypot((x - cx) * ax, (y - cy) * ay) / radius + 0.22 * ragged < 1)

    def _pure_tiles(self, fields, kind, water):
        """The number of the county's pure tiles of each class, from every fourth coarse pixel."""
        natural = _NATURAL_CLASSES[fields[_NATURAL_CLASSES].argmax(axis=0)]
        classes = np.where(kind == CROPS, _CULTIVATED, np.where(kind == TOWN, _DEVELOPED, natural))
        classes[water] = -1
        blocks = classes.reshape(self.county.rows, TILE_LOW // 4, self.county.columns, TILE_LOW // 4)
        same = blocks == np.arange(len(_KINDS))[:, None, None, None, None]
        pure = (same.mean(axis=(2, 4)) > 0.93) & same[:, :, 1:6:2, :, 1:6:2].all(axis=(2, 4)) & self.in_county
        return pure.sum(axis=(1, 2))

    def _lay_farms(self):
        """Pasture (cultivated) and fenced range (grassland), on both sides of the border between the two classes."""
        rng, kind = self.rng, self.cells["kind"]
        barren, forest, shrub, cultivated, grass, developed = self._cell_fields
        margin = cultivated - grass
        pasture = (kind[2010] == CROPS) & (rng.random(grass.size) < 0.15 + 0.65 / (1 + np.exp((margin - 0.5) / 0.15)))
        fenced = ((kind[2010] == NATURAL) & (grass > np.max([barren, forest, shrub], axis=0) + 0.25) & self._dry()
                  & (rng.random(grass.size) < 0.2 + 0.6 / (1 + np.exp((-margin - 0.6) / 0.15))))
        for year in kind:
            kind[year][pasture], kind[year][fenced] = PASTURE, RANGE

    # ---- towns

    def _lay_town_styles(self):
        """The style of each town cell: the further inside a town, the denser."""
        rng, fields = self.rng, self._cell_fields
        rank = fields[_DEVELOPED] - np.delete(fields, _DEVELOPED, 0).max(axis=0)
        rank = rank + rng.normal(0, 0.22, len(rank))
        style = np.digitize(rank, [0.3, 0.75, 1.1])
        style = np.where((style >= 2) & (rng.random(style.size) < 0.33), 3, np.minimum(style, 2))
        style = np.where(rng.random(style.size) < 0.08, -1, style) + 1
        self.cells["style"] = style.astype(np.int8)
        self.cells["built"] = np.full(style.size, 1990)

    # ---- changes by 2016

    def _lay_changes(self):
        """Subdivisions, some of them building sites before; sites that stay empty; cuts and pits."""
        rng, county = self.rng, self.county
        cells, kinds = self.cells, self.cells["kind"]
        self.subdivisions = []
        inside = shapely.contains_xy(self.boundary.buffer(-150), cells["x"], cells["y"])
        free = (kinds[2010] != TOWN) & self._dry() & inside & (cells["area"] > 0.6 * np.median(cells["area"]))
        for i in range(3 * county.developments[1]):
            choice = np.flatnonzero(free)
            if not len(choice):
                break
            start = rng.choice(choice)
            distance = np.hypot(cells["x"] - cells["x"][start], cells["y"] - cells["y"][start])
            near = choice[np.argsort(distance[choice])][:int(rng.integers(4, 8) if i % 3 == 0 else rng.integers(1, 4))]
            near = near[distance[near] < 700]
            if i % 3 == 0:
                kinds[2016][near] = TOWN
                cells["style"][near] = rng.choice([1, 2, 2, 3]) if rng.random() < 0.85 else 4
                cells["built"][near] = 2014
                self.subdivisions.append(near)
                if rng.random() < 0.3:
                    kinds[2010][near] = SITE
            else:
                kinds[2016][near] = SITE
                if i % 3 == 2:
                    kinds[2010][near] = SITE
            free &= distance > (900 if i % 3 == 0 else 500)
        self._cut_and_dig()
        self.nature = {year: (n * STANDS + self.low_stand).astype(np.int16) for year, n in self.low_nature.items()}

    def _cut_and_dig(self):
        """Clearcuts in the woods, and a pit that grows into other land."""
        rng, nature = self.rng, self.low_nature[2016]
        y, x = self._middles()
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

    # ---- single properties

    def _lay_patches(self):
        new = self.county.developments[0]
        tiles = np.argwhere(self.in_county)
        self.rng.shuffle(tiles)
        wanted = [2016] * new + [2010] * (new // 2)
        self.patches = []
        for row, column in tiles:
            polygon = self._single(self.rng, row, column) if wanted else None
            if polygon is not None:
                self.patches.append(Patch(polygon, wanted.pop()))

    def _single(self, rng, row, column):
        """The polygon of a single property, 10 to 20% of a tile and wholly inside it; None if there is no room."""
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
        around = self.low_cell[r0:r1, c0:c1]
        cell = np.concatenate([self.cells["kind"][y][around].ravel() for y in (2010, 2016)])
        nature = np.concatenate([self.low_nature[y][r0:r1, c0:c1].ravel() for y in (2010, 2016)])
        if (cell >= SITE).any() or np.isin(nature, (WATER, CLEARED, QUARRY)).any():
            return None
        return polygon

    def regions(self, year):
        """For each district, a table from cell key to region: 0 for natural cells."""
        tables = []
        for d, lattice in enumerate(self.lattices):
            table = np.zeros((len(lattice.columns) + 2) * lattice.row_limit + lattice.row_limit + 2, np.int32)
            mine = np.flatnonzero((self.cells["district"] == d) & (self.cells["kind"][year] != NATURAL))
            table[self.cells["key"][mine]] = FIRST_CELL + mine
            tables.append(table)
        return tables

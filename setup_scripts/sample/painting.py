"""The ground of a county in a year, seen from straight above: what a perfect camera would record.

``Ground.draw`` paints any window of it at 1 m, in four bands. A position looks the same whatever the window: every
choice is made when the ``Ground`` is made, none while it is drawn.
"""

import numpy as np
import shapely
from PIL import Image, ImageDraw, ImageFilter

from sample import landscape as land
from sample.textures import SHADES, SIZE, Swatches, contrast, noise, pack, palette, plants, soil

MARGIN = 40   # metres around a window from which things reach into it: shadows, crowns, the lens
_CROPS = ("rows_fine", "rows_broad", "tilled", "hay", "orchard", "strips")
_WOODS = ("broadleaf", "conifer", "mixed", "swamp")
_WOOD_CODES = {"broadleaf": 41, "conifer": 42, "mixed": 43, "swamp": 90}
_TOWN_CODES = {"park": 21, "large_lots": 22, "houses": 23, "dense": 23, "commerce": 24}
_ROOFS = np.array([(96, 92, 90, 92), (124, 118, 112, 114), (140, 94, 78, 130), (150, 146, 140, 136),
                   (84, 70, 60, 88), (114, 102, 90, 110), (188, 185, 180, 174), (106, 110, 120, 110),
                   (132, 112, 94, 124)], float)


class Ground:
    """How a landscape looks in a year: 2010, or 2016, a drought. Without ``swatches`` only codes can be drawn."""

    def __init__(self, landscape, year, swatches=None):
        self.landscape, self.year = landscape, year
        self.drought = 0.45 if year == 2016 else 0.0
        rng = self._rng(2, year)
        # Flights start between mid-morning and early afternoon, in early summer or in autumn.
        self.sun = (np.deg2rad(rng.uniform(115, 235)), np.deg2rad(rng.uniform(36, 58)))
        self.away = np.array([-np.sin(self.sun[0]), np.cos(self.sun[0])])   # where shadows point: east, south
        self.season = rng.uniform(0.0, 0.25) if year == 2010 else rng.uniform(0.15, 0.45)
        self._index_regions()
        self.cell_region = landscape.regions(year)
        rng = np.random.default_rng([landscape.seed, 13])
        wave = [noise(rng, (SIZE, SIZE), 70, 1.2, 6) for _ in range(2)]
        self.warp = [np.clip(w * 6.5, -20, 20).astype(np.int32) for w in wave]
        if swatches is not None:
            self.swatch = swatches.lit(self.sun).reshape(-1)
            self.mottle = np.clip(noise(rng, (SIZE, SIZE), 200, 1.5, 4) * 16, -60, 60).astype(np.int32)
            self._lay_objects()

    def _rng(self, *what):
        """Random numbers of this county that belong to one thing, whatever else is drawn."""
        return np.random.default_rng([self.landscape.seed, int(self.landscape.county.geoid), *what])

    # ---- what each region looks like

    def _index_regions(self):
        """Tables by region: swatch and its offset, frame, mottling, palette, NLCD code."""
        land_ = self.landscape
        count = land.FIRST_CELL + len(land_.cells["key"]) + len(land_.patches)
        self.base = np.zeros(count, np.int32)
        self.offset = np.zeros((2, count), np.int32)
        self.frame = np.zeros(count, np.int8)      # 0 the map, 1 along the lattice, 2 across it
        self.patchy = np.zeros(count, np.int32)    # how strongly broad mottles show, in shades of 64
        self.code = np.zeros(count, np.uint8)
        self.palettes = np.zeros((count, SHADES * 8), np.uint32)
        for region in range(land.FIRST_CELL):
            nature, stand = divmod(region, land.STANDS)
            # Two generators: one for what stays over the years, one for what this year makes of it.
            # Neighbouring stands (four in a row) share a kind, and differ a little in light and green.
            lasting = self._rng(4, nature, stand // 4)
            now = self._rng(5, nature, stand // 4, self.year)
            self._lighter, self._greener = (stand % 4 - 1.5) * 0.11, (stand % 4 - 1.5) * 0.12
            look = getattr(self, "_look_" + land.NATURE[nature]) if nature < len(land.NATURE) else None
            if look is None:
                look = {land.VERGE: self._look_verge}.get(region, self._look_street)
            self._set(region, lasting, *look(lasting, now))
        self._lighter = self._greener = 0.0
        kind = land_.cells["kind"][self.year]
        for cell in np.flatnonzero(kind != land.NATURAL):
            region = land.FIRST_CELL + cell
            lasting = self._rng(6, cell)
            now = self._rng(7, cell, self.year)
            if kind[cell] == land.FIELD:
                look = self._look_field(lasting, now)
                self.frame[region] = lasting.integers(1, 3)
            else:
                look = self._look_town(lasting, now, land.TOWN_KINDS[land_.cells["style"][cell]],
                                       land_.cells["built"][cell] > 2010)
                self.frame[region] = 1
            self._set(region, lasting, *look)
        for i, patch in enumerate(land_.patches):
            region = land.FIRST_CELL + len(kind) + i
            lasting = self._rng(8, i)
            now = self._rng(9, i, self.year)
            if patch.kind == "pivot":
                look = self._look_field(lasting, now)
            else:
                look = self._look_town(lasting, now, "large_lots", patch.year > 2010)
                look = look[:3] + (21 if lasting.random() < 0.4 else 22,)
            self._set(region, lasting, *look)

    def _set(self, region, rng, swatch, colours, patchy, code):
        self.base[region] = Swatches.INDEX[swatch] * SIZE * SIZE
        self.offset[:, region] = rng.integers(0, SIZE, 2)
        self.patchy[region] = round(patchy * 64)
        ramp = (np.asarray(colour, float) * (1 + self._lighter) for colour in colours[:3])
        self.palettes[region] = palette(*ramp, *colours[3:])
        self.code[region] = code

    def _green(self, rng, spread=0.25):
        """How green plants are here: the county, the season, the drought, and the place's own luck."""
        good = self.landscape.county.green * (1 - 0.8 * self.drought)
        return good - 0.5 * self.season + rng.normal(0, spread) + 0.15

    def _look_forest(self, lasting, now):
        swatch = _WOODS[lasting.choice(4, p=(0.4, 0.25, 0.25, 0.1))]
        grey = lasting.uniform(52, 132) * (0.85 if swatch == "conifer" else 1)
        green = lasting.uniform(0.1, 1.05) + self._greener
        if swatch != "conifer":
            green -= 0.2 * self.season + 0.5 * self.drought
        depth = lasting.uniform(0.28, 0.8)
        colour = plants(grey, green)
        shade = contrast(colour, depth, light=0.75)
        shift = (1.0, 0.25, -0.2, 0.2) if lasting.random() < 0.6 else (0.5, 0.6, 0.2, 0.6)
        return swatch, (*shade, lasting.uniform(0.03, 0.13), shift), 0.35, _WOOD_CODES[swatch]

    def _look_shrub(self, lasting, now):
        swatch = ("scrub_sparse", "scrub_dense", "scrub_large")[lasting.integers(3)]
        ground = soil(lasting, self.landscape.county.soils, lasting.uniform(-0.1, 0.8))
        grass = max(0, lasting.uniform(-0.3, 0.7))
        ground = (1 - grass) * ground + grass * plants(ground.mean() * 0.85, self._green(now) + self._greener)
        depth = lasting.uniform(0.3, 0.8)
        bush = plants(ground[:3].mean() * (1 - depth), lasting.uniform(0.3, 0.9) - 0.3 * self.drought)
        middle = bush + (ground - bush) * 0.55
        return swatch, (bush * 0.8, middle, ground * 1.12, 0.06), 0.35, 52

    def _look_herb(self, lasting, now):
        swatch = ("meadow", "tussock")[lasting.integers(2)]
        green = self._green(lasting, 0.38) + now.normal(0, 0.08) + self._greener - 0.6 * self.drought
        # Lush grass is never as light as straw.
        grey = lasting.uniform(58, 178 - 60 * np.clip(green, 0, 1))
        colour = plants(grey, green)
        if lasting.random() < 0.5:
            colour = 0.55 * colour + 0.45 * soil(lasting, self.landscape.county.soils, lasting.uniform(0, 0.7))
        amount = lasting.uniform(0.12, 0.48)
        return swatch, (*contrast(colour, amount), lasting.uniform(0.02, 0.08), (1, 0.3, -0.4, 0.2)), \
            lasting.uniform(0.3, 0.75), 71

    def _look_marsh(self, lasting, now):
        colour = plants(lasting.uniform(62, 120), self._green(now) + 0.1)
        return "marsh", (colour * 0.35, colour * 0.9, colour * 1.3, 0.06), 0.8, 95

    def _look_barren(self, lasting, now):
        swatch = ("dunes", "rock", "badland", "gravel")[lasting.choice(4, p=(0.3, 0.27, 0.25, 0.18))]
        colour = soil(lasting, self.landscape.county.soils + (("pale",) if swatch == "dunes" else ()),
                      lasting.uniform(-0.25, 0.7))
        moss = max(0, lasting.uniform(-0.3, 0.3))
        colour = (1 - moss) * colour + moss * plants(colour[:3].mean(), 0.7)
        amount = lasting.uniform(0.14, 0.62) * (0.7 if swatch == "dunes" else 1)
        return swatch, (*contrast(colour, amount, light=0.7), 0.05, (1, 0.3, -0.6, 0.6)), 0.25, 31

    def _look_quarry(self, lasting, now):
        colour = soil(lasting, self.landscape.county.soils, lasting.uniform(0.6, 1))
        return "gravel", contrast(colour, 0.4, light=0.6), 0.2, 31

    def _look_mud(self, lasting, now):
        colour = soil(lasting, self.landscape.county.soils, lasting.uniform(0.1, 0.6))
        return "paved", contrast(colour, 0.3), 1.0, 31

    def _look_water(self, lasting, now):
        # One body of water has one colour, whichever stands its places belong to.
        rng = self._rng(10, self.year)
        grey = rng.uniform(32, 78)
        colour = grey * np.array([rng.uniform(0.5, 0.95), rng.uniform(0.95, 1.15), rng.uniform(0.8, 1.2), 0.45])
        return "water", contrast(colour, 0.2), 0.2, 11

    def _look_cleared(self, lasting, now):
        ground = soil(lasting, self.landscape.county.soils, lasting.uniform(0.1, 0.6))
        colour = 0.65 * ground + 0.35 * plants(ground.mean() * 0.8, 0.4)
        return "cleared", (colour * 0.45, colour, colour * 1.3, 0.1), 0.3, 71 if lasting.random() < 0.5 else 52

    def _look_verge(self, lasting, now):
        colour = plants(lasting.uniform(85, 115), self._green(now, 0.05) - 0.1)
        return "tussock", (*contrast(colour, 0.4), 0.05), 0.6, 81

    def _look_street(self, lasting, now):
        grey = lasting.uniform(105, 150)
        return "paved", contrast(np.array([1.02, 1, 0.98, 0.95]) * grey, 0.25), 0.2, 21

    def _look_field(self, lasting, now):
        """A field: the farmer sows and mows anew each year; what an orchard or a meadow is, it stays."""
        permanent = lasting.random()
        if permanent < 0.08:
            swatch, code = "orchard", 82
        elif permanent < 0.28:
            swatch, code = "hay", 81
        else:
            swatch, code = _CROPS[now.choice([0, 1, 2, 5], p=(0.32, 0.3, 0.22, 0.16))], 82
        ground = soil(now, self.landscape.county.soils, now.uniform(0, 0.8))
        state = now.random() + 0.25 * self.season + 0.3 * self.drought
        grown = plants(now.uniform(66, 150), self._green(now, 0.3) + 0.12)
        if swatch == "orchard":
            crown = plants(ground[:3].mean() * lasting.uniform(0.35, 0.65), 0.8)
            return swatch, (crown * 0.7, 0.5 * (crown + ground), ground * 1.05, 0.05), 0.3, code
        if swatch == "hay" or state < 0.45:
            light, dark = grown, 0.6 * grown + 0.4 * ground * 0.8
        elif state < 0.85:
            light, dark = plants(now.uniform(95, 165), -0.05), ground
        else:
            light, dark = ground, ground * 0.8
        middle, amount = 0.5 * (light + dark), now.uniform(0.16, 0.5)
        low, _, high = contrast(middle, amount)
        spread = (light - dark) * 0.35
        return swatch, (low - spread, middle, high + spread, 0.04), now.uniform(0.1, 0.6), code

    def _look_town(self, lasting, now, style, fresh):
        """The ground of a block: lawns, yards, or pavement; houses and trees come on top."""
        if style == "commerce":
            colour = np.array([1.03, 1, 0.97, 0.95]) * lasting.uniform(95, 165)
            return "paved", contrast(colour, 0.3), 0.3, 24
        grey = lasting.uniform(76, 128)
        colour = plants(grey, self._green(now, 0.15) + 0.2)
        bare = soil(lasting, self.landscape.county.soils, lasting.uniform(0.1, 0.6))
        share = {"park": 0.05, "large_lots": 0.15, "houses": 0.25, "dense": 0.45}[style] + (0.3 if fresh else 0)
        colour = (1 - share) * colour + share * bare
        return "lawn", (*contrast(colour, 0.38), 0.05), 0.6, _TOWN_CODES[style]

    # ---- what stands on it

    def _lay_objects(self):
        """Roads, tracks, driveways, roofs and trees, as arrays with the boxes they fill."""
        self.flats, self.roofs, self.trees, self.shadows = [], [], [], []
        self._lay_lines()
        cells = self.landscape.cells
        for cell in np.flatnonzero(cells["kind"][self.year] == land.TOWN):
            rng = self._rng(20, cell)
            self._build_cell(rng, cell)
        for cell in np.flatnonzero(cells["kind"][self.year] == land.FIELD):
            rng = self._rng(21, cell)
            self._plant_hedge(rng, cell)
        for i, patch in enumerate(self.landscape.patches):
            if patch.kind == "single" and patch.year <= self.year:
                rng = self._rng(22, i)
                self._build_single(rng, patch)
        self._scatter_trees()
        self.flats, self.roofs, self.shadows = (_boxed(s) for s in (self.flats, self.roofs, self.shadows))
        self.trees = np.concatenate(self.trees)

    def _lay_lines(self):
        """Two highways, a creek, and tracks through open land."""
        scape, rng = self.landscape, self._rng(23)
        width, height = scape.width, scape.height

        def wander(start, end, amount, steps=60):
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
            verge = plants(100, self._green(np.random.default_rng(5), 0) - 0.1)
            shade = rng.uniform(95, 150)
            for wide, colour in ((24, verge), (12, grey * shade), (0.9, grey * (shade + 60))):
                self._line(road, wide, colour)

    def _line(self, points, width_m, colour):
        """A band along a line, as one polygon."""
        band = shapely.LineString(points).buffer(width_m / 2, cap_style="flat", quad_segs=2)
        for part in getattr(band, "geoms", [band]):
            if part.interiors:
                # PIL fills no holes: cut a looping band in short pieces.
                for a, b in zip(points[:-1], points[1:]):
                    piece = shapely.LineString([a, b]).buffer(width_m / 2, quad_segs=2)
                    self.flats.append((np.array(piece.exterior.coords), pack(colour)))
            else:
                self.flats.append((np.array(part.exterior.coords), pack(colour)))

    def _low(self, layer, points):
        """Values of a coarse layer at positions."""
        at = (np.asarray(points) // land.LOW_M).astype(int)
        return layer[np.clip(at[..., 1], 0, layer.shape[0] - 1), np.clip(at[..., 0], 0, layer.shape[1] - 1)]

    def _plant(self, rng, places, radius):
        """Trees at places (n, 2): radius, light and tint."""
        n = len(places)
        self.trees.append(np.column_stack([places, radius, rng.uniform(0.75, 1.2, n), rng.uniform(0, 1, n)]))

    def _boxes(self, lattice, u, v, w, h, colours, into, height=0.0):
        """Rectangles along a lattice, as arrays; with a height they throw shadows."""
        u, v, w, h = (np.atleast_1d(np.asarray(a, float)) for a in np.broadcast_arrays(u, v, w, h))
        side = np.array([[-1, -1], [1, -1], [1, 1], [-1, 1]]) / 2
        corners = lattice.to_map(u[:, None] + w[:, None] * side[:, 0], v[:, None] + h[:, None] * side[:, 1])
        into += zip(corners, np.broadcast_to(pack(np.asarray(colours, float)), len(u)))
        if height:
            self._cast(corners, height)

    def _cast(self, corners, height):
        """Shadows of boxes: the hexagon that a rectangle (n, 4, 2) sweeps on its way from the sun."""
        away = self.away * height / np.tan(self.sun[1])
        across = corners[..., 0] * away[1] - corners[..., 1] * away[0]
        first, n = across.argmax(axis=1), np.arange(len(corners))
        toward = corners @ away
        near = np.where(toward[n, (first + 1) % 4] < toward[n, (first + 3) % 4], 1, 3)
        i, k = first, (first + near) % 4
        j, m = (first + 2) % 4, (first + near + 2) % 4
        ring = [corners[n, i], corners[n, k], corners[n, j],
                corners[n, j] + away, corners[n, m] + away, corners[n, i] + away]
        self.shadows += [(points, 1) for points in np.stack(ring, axis=1)]

    def _houses(self, rng, lattice, u, v, w, h, roofs):
        """Gabled roofs, the side that faces the sun lighter; some have a wing."""
        u, v, w, h = (np.atleast_1d(np.asarray(a, float)) for a in (u, v, w, h))
        roofs = np.atleast_2d(roofs)
        wing = rng.random(len(u)) < 0.35
        side = rng.choice([-1, 1], wing.sum())
        east, south = -self.away
        along_u = east * lattice.cos + south * lattice.sin
        along_v = -east * lattice.sin + south * lattice.cos
        for u, v, w, h, roof in ((u, v, w, h, roofs),
                                 (u[wing] + side * w[wing] * 0.3, v[wing] + h[wing] * 0.35, w[wing] * 0.45,
                                  h[wing] * 0.9, roofs[wing])):
            if not len(u):
                continue
            self._boxes(lattice, u, v, w, h, roof, [], height=4.5)
            long_u = w >= h
            for half in (-1, 1):
                slope = 1 + 0.2 * half * np.where(long_u, along_v, along_u)[:, None]
                self._boxes(lattice, u + np.where(long_u, 0, half * w / 4), v + np.where(long_u, half * h / 4, 0),
                            np.where(long_u, w, w / 2), np.where(long_u, h / 2, h), roof * slope, self.roofs)

    def _build_cell(self, rng, cell):
        """Streets, houses, drives and trees of a town block."""
        scape = self.landscape
        lattice = scape.lattices[scape.cells["district"][cell]]
        u0, v0, u1, v1 = box = scape.bounds_of(cell)
        style = land.TOWN_KINDS[scape.cells["style"][cell]]
        fresh = scape.cells["built"][cell] > 2010

        def mine(u, v):
            """Which positions lie in this block, and on dry land."""
            at = lattice.to_map(*np.broadcast_arrays(u, v))
            return (self._low(scape.low_cell, at) == cell) & (self._low(scape.low_nature[2010], at) != land.WATER)
        street = np.array([1.02, 1, 0.98, 0.95]) * rng.uniform(105, 150)
        pale = np.array([1.04, 1, 0.95, 0.95]) * rng.uniform(140, 185)
        if style == "park":
            path, u = v0 + rng.uniform(0.3, 0.7) * (v1 - v0), np.arange(u0, u1, 6.0) + 3
            self._boxes(lattice, u[mine(u, path)], path, 6.5, 2.5, pale, self.flats)
            u, v = rng.uniform(u0 + 40, u1 - 40), rng.uniform(v0 + 40, v1 - 40)
            if mine(u, v):
                self._boxes(lattice, u, v, 36, 19, (92, 132, 108, 120), self.flats)
                self._boxes(lattice, u, v, [36, 1], [1, 19], (215, 215, 210, 200), self.flats)
            self._greenery(rng, lattice, box, mine, 70)
            return
        if style == "commerce":
            self._build_commerce(rng, lattice, box, mine)
            return
        lot, deep = {"large_lots": (38, 15), "houses": (23, 12), "dense": (15.5, 11)}[style]
        rows = max(1, round((v1 - v0) / {"large_lots": 130, "houses": 88, "dense": 66}[style]))
        cuts = np.linspace(v0, v1, rows + 1)
        for cut in cuts[1:-1]:
            u = np.arange(u0, u1, 12.0) + 6
            u = u[mine(u, cut)]
            self._boxes(lattice, u, cut, 13, 8.5, street, self.flats)
        fashion = rng.choice([0, 1, 2, 3, 4, 5, 7, 8], 3)
        for a, b in zip(cuts[:-1], cuts[1:]):
            for front, inward in ((a, 1), (b, -1)):
                u = np.arange(u0 + 9 + lot / 2, u1 - 9 - lot / 2 + 0.1, lot)
                w = np.minimum(lot - 4, rng.uniform(0.8, 1.25, len(u)) * deep)
                h = rng.uniform(0.75, 1.05, len(u)) * deep
                back = rng.uniform(9, 13, len(u)) + (6 if style == "large_lots" else 0)
                v = front + inward * (back + h / 2)
                drive = u + rng.choice([-1, 1], len(u)) * (w / 2 - 1)
                roofs = _ROOFS[rng.choice(fashion, len(u))] * rng.uniform(0.85, 1.12, (len(u), 1))
                stands = mine(u, v) & mine(u, front + inward * (back + h + 8)) & (rng.random(len(u)) > 0.06)
                u, v, w, h, back, drive, roofs = (a_[stands] for a_ in (u, v, w, h, back, drive, roofs))
                if not len(u):
                    continue
                self._boxes(lattice, drive, front + inward * (back / 2 + 3), 3.4, back, pale, self.flats)
                self._houses(rng, lattice, u, v, w, h, roofs)
                if style == "large_lots":
                    pool = rng.random(len(u)) < 0.12
                    self._boxes(lattice, u[pool] + 3, (front + inward * (back + h + 10))[pool], 9, 4.5,
                                (70, 165, 190, 40), self.flats)
        count = (v1 - v0) * (u1 - u0) / 1e4 * {"large_lots": 34, "houses": 24, "dense": 18}[style]
        self._greenery(rng, lattice, box, mine, count * (0.35 if fresh else rng.uniform(0.5, 1.3)), small=fresh)

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
                    n = rng.integers(1, 7)
                    self._boxes(lattice, u + rng.uniform(0.15, 0.85, n) * w, v + rng.uniform(0.2, 0.8, n) * depth,
                                rng.uniform(2, 6, n), rng.uniform(2, 5, n), roof * 0.75, self.roofs)
                u += w + rng.uniform(8, 22)
            v += depth + 8
            for row in np.arange(v, min(v + rng.uniform(14, 40), v1 - 14), 15):
                u = np.arange(u0 + 14, u1 - 14, 2.9)
                u = u[mine(u, row) & (rng.random(len(u)) < 0.45)]
                paint = np.array([1, 1, 1, 0.9]) * rng.choice([45, 90, 150, 215, 235], len(u))[:, None]
                self._boxes(lattice, u, row, 1.9, 4.4, paint, self.roofs)
            v += 30
        self._greenery(rng, lattice, box, mine, 8)

    def _build_single(self, rng, patch):
        """A house on its own land, with a drive, trees, perhaps a barn."""
        corners = patch.polygon
        along = corners[1] - corners[0]
        w, h = np.hypot(*along), np.hypot(*(corners[3] - corners[0]))
        plain = _Plain(corners.mean(axis=0), np.arctan2(along[1], along[0]))
        pale = np.array([1.04, 1, 0.95, 0.95]) * rng.uniform(140, 190)
        u, v = rng.uniform(-0.12, 0.12) * w, rng.uniform(-0.1, 0.12) * h
        roof = _ROOFS[rng.integers(len(_ROOFS))] * rng.uniform(0.9, 1.15)
        self._boxes(plain, u + 9, (v - h / 2) / 2 - 8, 4, h / 2 + v + 14, pale, self.flats)
        self._boxes(plain, u + 6, v - 12, 16, 11, pale, self.flats)
        self._houses(rng, plain, u, v, rng.uniform(15, 21), rng.uniform(10, 14), roof)
        if rng.random() < 0.6:
            self._houses(rng, plain, u - 0.28 * w, v + rng.uniform(-0.2, 0.25) * h, rng.uniform(8, 14),
                         rng.uniform(7, 10), _ROOFS[rng.integers(len(_ROOFS))])
        if rng.random() < 0.3:
            self._boxes(plain, u, v + 16, 10, 5, (70, 165, 190, 40), self.flats)
        n = rng.integers(5, 16)
        u, v = rng.uniform(-0.48, 0.48, n) * w, rng.choice([-1, 1], n) * rng.uniform(0.3, 0.48, n) * h
        self._plant(rng, plain.to_map(u, v), rng.uniform(1.5, 4.5, n))

    def _plant_hedge(self, rng, cell):
        """Trees along some edges of a field."""
        if rng.random() > 0.22:
            return
        scape = self.landscape
        u0, v0, u1, v1 = scape.bounds_of(cell)
        lattice = scape.lattices[scape.cells["district"][cell]]
        along_u = rng.random() < 0.5
        t = np.arange(0, (u1 - u0) if along_u else (v1 - v0), rng.uniform(6, 11))
        u, v = (u0 + t, v0 + 0 * t) if along_u else (u0 + 0 * t, v0 + t)
        here = (self._low(scape.low_cell, lattice.to_map(u + 4, v + 4)) == cell) & (rng.random(len(t)) < 0.85)
        places = lattice.to_map(u[here], v[here])
        self._plant(rng, places + rng.normal(0, 1, places.shape), rng.uniform(2, 4.4, len(places)))

    def _scatter_trees(self):
        """Lone trees in grassland."""
        scape = self.landscape
        rng = self._rng(24)
        count = int(scape.width * scape.height / 26000)
        points, radius = rng.uniform(0, 1, (count, 2)) * (scape.width, scape.height), rng.uniform(2, 5, count)
        grass = ((self._low(scape.low_nature[2010], points) == land.HERB)
                 & (scape.cells["kind"][2016][self._low(scape.low_cell, points)] == land.NATURAL))
        self._plant(rng, points[grass], radius[grass])

    # ---- drawing

    def draw(self, left: int, top: int, width: int, height: int, block=1024) -> np.ndarray:
        """Paint a window, in metres east and south of the frame's corner.

        (height, width, 4) uint8: red, green, blue, near infrared; never 0 in all bands.
        """
        pixels = np.empty((height, width, 4), np.uint8)
        for y in range(0, height, block):
            for x in range(0, width, block):
                w, h = min(block, width - x), min(block, height - y)
                pixels[y:y + h, x:x + w] = self._draw_block(left + x, top + y, w, h)
        return pixels

    def regions(self, left, top, width, height, step=1):
        """Region of every ``step``-th metre of a window, and lattice coordinates there in whole metres, as int32."""
        scape = self.landscape
        ix, iy = np.arange(left, left + width, step), np.arange(top, top + height, step)
        warp = np.ix_(iy & SIZE - 1, ix & SIZE - 1)
        rows = np.clip((iy[:, None] + self.warp[0][warp]) >> 3, 0, scape.shape[0] - 1)
        columns = np.clip((ix[None] + self.warp[1][warp]) >> 3, 0, scape.shape[1] - 1)
        nature = scape.nature[self.year][rows, columns].astype(np.int32)
        x, y = (ix[None] + 0.5).astype(np.float32), (iy[:, None] + 0.5).astype(np.float32)
        corners = scape.district(np.float32([left, left + width])[None], np.float32([top, top + height])[:, None])
        if (corners == corners[0, 0]).all():
            region, u, v = self._lattice_regions(corners[0, 0], x, y)
        else:
            district = scape.district(x, y)
            region, u, v = (np.zeros(district.shape, np.int32) for _ in range(3))
            for d in np.unique(district):
                here = district == d
                for into, values in zip((region, u, v), self._lattice_regions(d, x, y)):
                    into[here] = values[here]
        water = nature // land.STANDS == land.WATER
        region = np.where((region == 0) | water & (region != land.ROAD), nature, region)
        return self._add_patches(region, left, top, step), u, v

    def _lattice_regions(self, d, x, y):
        """Regions of one lattice (0 for nature), and its coordinates in whole metres."""
        lattice = self.landscape.lattices[d]
        u, v = lattice.to_cell(x, y)
        key, edge = lattice.keys(u, v)
        iu, iv = u.astype(np.int32), v.astype(np.int32)
        region = self.cell_region[d][key]
        cell = np.where(region > 0, region - land.FIRST_CELL, 0)
        kind = np.where(region > 0, self.landscape.cells["kind"][self.year][cell], land.NATURAL)
        region[(kind == land.FIELD) & (edge < 3)] = land.VERGE
        region[(kind == land.TOWN) & (edge < 4.3)] = land.STREET
        road = lattice.road_edge[iu]
        region[(road < 7) & (kind != land.TOWN)] = land.VERGE
        region[road < 4] = land.ROAD
        return region, iu, iv

    def _add_patches(self, region, left, top, step):
        first = land.FIRST_CELL + len(self.landscape.cells["key"])
        height, width = region.shape
        image = None
        for i, patch in enumerate(self.landscape.patches):
            if patch.year > self.year:
                continue
            points = (patch.polygon - (left, top)) / step
            low, high = points.min(axis=0), points.max(axis=0)
            if high[0] < 0 or high[1] < 0 or low[0] > width or low[1] > height:
                continue
            image = image or Image.fromarray(region)
            ImageDraw.Draw(image).polygon([tuple(p) for p in points - 0.5], fill=first + i)
        return region if image is None else np.asarray(image)

    def codes(self, left, top, width, height, step=2):
        """NLCD codes of every ``step``-th metre of a window; roads take what they cross."""
        region, _, _ = self.regions(left, top, width, height, step)
        return self.code[region]

    def _draw_block(self, left, top, width, height):
        left, top = int(left) - MARGIN, int(top) - MARGIN
        width, height = width + 2 * MARGIN, height + 2 * MARGIN
        region, u, v = self.regions(left, top, width, height)
        ix = np.arange(left, left + width, dtype=np.int32)[None]
        iy = np.arange(top, top + height, dtype=np.int32)[:, None]
        frame = self.frame[region]
        across = frame == 2
        sx = np.where(frame == 0, ix, np.where(across, v, u)) + self.offset[0][region]
        sy = np.where(frame == 0, iy, np.where(across, u, v)) + self.offset[1][region]
        at = self.base[region] + ((sy & SIZE - 1) << 10) + (sx & SIZE - 1)
        texel = self.swatch[at].astype(np.int32)
        mottle = self.mottle[np.ix_(iy[:, 0] & SIZE - 1, ix[0] & SIZE - 1)]
        shade = np.clip((texel & SHADES - 1) + (self.patchy[region] * mottle >> 6), 0, SHADES - 1)
        packed = self.palettes.reshape(-1)[region * (SHADES * 8) + (texel & ~(SHADES - 1)) + shade]
        image = self._draw_objects(packed, left, top)
        return image[MARGIN:-MARGIN, MARGIN:-MARGIN]

    def _draw_objects(self, packed, left, top):
        """Flats, shadows, roofs and trees over a painted block; then the lens."""
        height, width = packed.shape
        image = Image.fromarray(packed.view(np.int32))
        pen = ImageDraw.Draw(image)
        for points, colour in _within(self.flats, left, top, width, height):
            pen.polygon(points, fill=colour)
        shadow = Image.new("L", (width, height), 255)
        shade = ImageDraw.Draw(shadow)
        for points, _ in _within(self.shadows, left, top, width, height):
            shade.polygon(points, fill=105)
        trees = self.trees[(np.abs(self.trees[:, 0] - left - width / 2) < width / 2 + 12)
                           & (np.abs(self.trees[:, 1] - top - height / 2) < height / 2 + 12)]
        away, places = self.away, trees[:, :2] - (left, top)
        length = 1.2 / np.tan(self.sun[1])
        for (x, y), r in zip(places + away * trees[:, 2:3] * length, trees[:, 2]):
            shade.ellipse((x - r, y - r, x + r, y + r), fill=105)
        pixels = np.array(image).view(np.uint8).reshape(height, width, 4)
        dark = np.asarray(shadow)
        rows, columns = np.nonzero(dark < 255)
        pixels[rows, columns] = (pixels[rows, columns].astype(np.uint16) * 105 >> 8) + 2
        image = Image.fromarray(pixels.view(np.int32)[..., 0])
        pen = ImageDraw.Draw(image)
        for points, colour in _within(self.roofs, left, top, width, height):
            pen.polygon(points, fill=colour)
        leaf = self._tree_colours()
        for (x, y), (_, _, r, light, tint) in zip(places, trees):
            dim, lit = leaf[int(tint * 7.99)][int((light - 0.75) / 0.45 * 3.99)]
            pen.ellipse((x - r, y - r, x + r, y + r), fill=dim)
            cx, cy, s = x - away[0] * r * 0.3, y - away[1] * r * 0.3, r * 0.62
            pen.ellipse((cx - s, cy - s, cx + s, cy + s), fill=lit)
        pixels = np.array(image).view(np.uint8).reshape(height, width, 4)
        image = Image.fromarray(pixels, "RGBA")
        lens = ImageFilter.Kernel((3, 3), (1, 2, 1, 2, 5, 2, 1, 2, 1))
        return np.asarray(image.filter(lens))

    def _tree_colours(self):
        """Packed dim and lit colours of crowns, by tint and light."""
        table = []
        for tint in range(8):
            green = 0.9 - 0.09 * tint - 0.3 * self.drought - 0.3 * self.season
            row = []
            for light in (0.75, 0.9, 1.05, 1.2):
                colour = plants(62 * light + 3 * tint, green)
                row.append((int(pack(colour * 0.62)), int(pack(colour * 1.15))))
            table.append(row)
        return table


class _Plain:
    """A lattice without bend, around a point: for what stands alone."""

    def __init__(self, centre, angle):
        self.centre, self.cos, self.sin = centre, np.cos(angle), np.sin(angle)

    def to_map(self, u, v):
        u, v = np.asarray(u, float), np.asarray(v, float)
        return self.centre + np.stack([u * self.cos - v * self.sin, u * self.sin + v * self.cos], axis=-1)


def _boxed(shapes):
    """Shapes with the boxes they fill: ``(list of (points, colour), (n, 4) bounds)``."""
    boxes = np.array([np.concatenate([p.min(axis=0), p.max(axis=0)]) for p, _ in shapes]).reshape(-1, 4)
    # PIL takes packed colours as signed 32-bit numbers.
    return [(p, int(np.uint32(c).view(np.int32))) for p, c in shapes], boxes


def _within(shapes, left, top, width, height):
    """Points (of the window) and colours of the shapes that reach into a window, in their order."""
    things, boxes = shapes
    hits = np.flatnonzero((boxes[:, 2] >= left) & (boxes[:, 0] <= left + width)
                          & (boxes[:, 3] >= top) & (boxes[:, 1] <= top + height))
    for i in hits:
        points, colour = things[i]
        yield [tuple(p) for p in points - (left + 0.5, top + 0.5)], colour

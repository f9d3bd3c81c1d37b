"""How each region of a county looks in a year, and its true NLCD code: tables that painting reads.

A region's cover, soil, season and drought make its colours, and a campaign's film shifts them.
"""

import numpy as np

from sample import landscape as land
from sample.textures import SHADES, SIZE, TINTS, Swatches, contrast, pack, palette, plants, soil

_WOODS = ("broadleaf", "conifer", "young")
_WOOD_CODES = {"broadleaf": 41, "conifer": 42, "young": 41}
_TOWN_CODES = {"park": 21, "large_lots": 22, "houses": 23, "dense": 23, "commerce": 24}
_SOWN = ("rows", "broad_rows", "hay")
_FARM_CODES = {land.CROPS: 82, land.PASTURE: 81, land.RANGE: 71}


class Looks:
    """Tables by region: swatch and its offset, frame, mottling, palette, NLCD code."""

    def __init__(self, landscape, year):
        self.landscape, self.year = landscape, year
        self.drought = 0.45 if year == 2016 else 0.0
        rng = self.random(2, year)
        # Flights start between mid-morning and early afternoon, in early summer or in autumn.
        self.sun = (np.deg2rad(rng.uniform(115, 235)), np.deg2rad(rng.uniform(30, 60)))
        self.season = rng.uniform(0.0, 0.35) if year == 2010 else rng.uniform(0.1, 0.55)
        # Film and printing mix the bands: pictures are paler or stronger, and lean to one hue.
        mean = np.full((4, 4), 1 / 3) * [[1, 1, 1, 0]] * np.array([1, 1, 1, 0])[:, None] + np.diag([0, 0, 0, 1.0])
        self.film = mean + rng.uniform(0.6, 1.2) * (np.eye(4) - mean)
        self.film[:3, :3] += rng.normal(0, 0.05, (3, 3))
        count = land.FIRST_CELL + len(landscape.cells["key"]) + len(landscape.patches)
        self.base = np.zeros(count, np.int32)
        self.offset = np.zeros((2, count), np.int32)
        self.frame = np.zeros(count, np.int8)      # 0 the map, 1 along the lattice, 2 across it
        self.patchy = np.zeros(count, np.int32)    # how strongly broad mottles show, in shades of 64
        self.code = np.zeros(count, np.uint8)
        self.palettes = np.zeros((count, SHADES * TINTS), np.uint32)
        self._lay_nature()
        self._lay_cells()

    def random(self, *what):
        """A generator of random numbers for one thing in this county, independent of all others."""
        return np.random.default_rng([self.landscape.seed, int(self.landscape.county.geoid), *what])

    def packed(self, colours):
        """Four-band colours (..., 4) on this year's film, packed."""
        return pack(np.asarray(colours, float) @ self.film.T)

    def _lay_nature(self):
        names = [*np.repeat(land.NATURE, land.STANDS), "verge", "street", "street"]
        for region, name in enumerate(names):
            nature, stand = divmod(region, land.STANDS)
            # Two generators: one for properties that last, one for those of this year.
            # Neighbouring stands (four in a row) share a kind, and differ a little in light and green.
            lasting = self.random(4, nature, stand // 4)
            now = self.random(5, nature, stand // 4, self.year)
            self._lighter, self._greener = (stand % 4 - 1.5) * 0.11, (stand % 4 - 1.5) * 0.12
            self._set(region, lasting, *getattr(self, "_look_" + name)(lasting, now))
        self._lighter = self._greener = 0.0

    def _lay_cells(self):
        cells, kind = self.landscape.cells, self.landscape.cells["kind"][self.year]
        for cell in np.flatnonzero(kind != land.NATURAL):
            region, lasting, now = land.FIRST_CELL + cell, self.random(6, cell), self.random(7, cell, self.year)
            if kind[cell] == land.TOWN:
                look = self._look_town(lasting, now, land.TOWN_KINDS[cells["style"][cell]], cells["built"][cell] > 2010)
            elif kind[cell] == land.SITE:
                look = self._look_site(lasting, now)
            else:
                look = self._look_farm(lasting, now, kind[cell])
            self._set(region, lasting, *look)
            self.frame[region] = lasting.integers(1, 3) if kind[cell] == land.CROPS else kind[cell] >= land.SITE
        for i, patch in enumerate(self.landscape.patches):
            region, lasting, now = land.FIRST_CELL + len(kind) + i, self.random(8, i), self.random(9, i, self.year)
            look = self._look_town(lasting, now, "large_lots", patch.year > 2010)[:3]
            self._set(region, lasting, *look, 21 if lasting.random() < 0.4 else 22)

    def _set(self, region, rng, swatch, colours, patchy, code):
        self.base[region] = Swatches.INDEX[swatch] * SIZE * SIZE
        # Crowns have no offset: their ranks, which covers are compared with, lie where the crowns lie.
        self.offset[:, region] = rng.integers(0, SIZE, 2) * (swatch not in Swatches.CROWNS)
        self.patchy[region] = round(patchy * 64)
        ramp = (np.asarray(colour, float) * (1 + self._lighter) for colour in colours[:3])
        self.palettes[region] = self.packed(palette(*ramp, *colours[3:]))
        self.code[region] = code

    # ---- nature

    def _soil(self, rng, least, most):
        return soil(rng, self.landscape.county.soils, rng.uniform(least, most))

    def _green(self, rng, spread=0.25):
        """How green plants are here, from the county, the season, the drought, and chance."""
        good = self.landscape.county.green * (1 - 0.8 * self.drought)
        return good - 0.5 * self.season + rng.normal(0, spread) + 0.15

    def _look_barren(self, lasting, now):
        swatch = ("sand", "rock", "tilled")[lasting.choice(3, p=(0.45, 0.4, 0.15))]
        amount = lasting.uniform(0.14, 0.5)
        shade = contrast(self._soil(lasting, -0.25, 0.8), amount, light=0.7)
        return swatch, (*shade, 0.05, (1, 0.3, -0.6, 0.6)), 0.25, 31

    def _look_forest(self, lasting, now):
        """Crowns of trees, and of young ones that look like large bushes."""
        swatch = _WOODS[lasting.choice(3, p=(0.5, 0.35, 0.15))]
        green = lasting.uniform(0.1, 1.05) + self._greener
        if swatch != "conifer":
            green -= 0.35 * self.season + 0.4 * self.drought
        colour = plants(lasting.uniform(52, 120), green)
        shift = (1.0, 0.25, -0.2, 0.2) if lasting.random() < 0.6 else (0.5, 0.6, 0.2, 0.6)
        shade = contrast(colour, lasting.uniform(0.28, 0.75), light=0.75)
        return swatch, (*shade, lasting.uniform(0.03, 0.13), shift), 0.35, _WOOD_CODES[swatch]

    def _look_shrub(self, lasting, now):
        swatch = ("bushes", "scrub", "young")[lasting.choice(3, p=(0.4, 0.45, 0.15))]
        colour = plants(lasting.uniform(48, 105), lasting.uniform(0.1, 0.9) + self._greener - 0.3 * self.drought)
        return swatch, (*contrast(colour, lasting.uniform(0.3, 0.7)), 0.08), 0.35, 52

    def _look_herb(self, lasting, now):
        return self._grass(lasting, now, ("meadow", "tussock")[lasting.integers(2)], 71)

    def _grass(self, lasting, now, swatch, code):
        """Grass from lush to straw. Sown and wild grass differ only in their lines."""
        green = self._green(lasting, 0.38) + now.normal(0, 0.15) + self._greener - 0.3 * self.drought
        # Lush grass is never as light as straw.
        colour = plants(lasting.uniform(58, 170 - 60 * np.clip(green, 0, 1)), green)
        if lasting.random() < 0.5:
            colour = 0.6 * colour + 0.4 * self._soil(lasting, 0, 0.7)
        shade = contrast(colour, lasting.uniform(0.12, 0.45))
        tints = lasting.uniform(0.02, 0.08), (1, 0.3, -0.4, 0.2)
        return swatch, (*shade, *tints), lasting.uniform(0.3, 0.75), code

    def _look_quarry(self, lasting, now):
        return "rock", contrast(self._soil(lasting, 0.6, 1), 0.4, light=0.6), 0.2, 31

    def _look_water(self, lasting, now):
        # All water has one colour, in every stand.
        rng = self.random(10, self.year)
        grey = rng.uniform(32, 78)
        colour = grey * np.array([rng.uniform(0.5, 0.95), rng.uniform(0.95, 1.15), rng.uniform(0.8, 1.2), 0.45])
        return "water", contrast(colour, 0.2), 0.2, 11

    def _look_cleared(self, lasting, now):
        ground = self._soil(lasting, 0.1, 0.6)
        colour = 0.65 * ground + 0.35 * plants(ground.mean() * 0.8, 0.4)
        return "tussock", (*contrast(colour, 0.6), 0.1), 0.6, 71 if lasting.random() < 0.5 else 52

    # ---- cultivated and built land

    def _look_verge(self, lasting, now):
        colour = plants(lasting.uniform(85, 115), self._green(now, 0.05) - 0.1)
        return "tussock", (*contrast(colour, 0.4), 0.05), 0.6, 81

    def _look_street(self, lasting, now):
        return "paved", contrast(np.array([1.02, 1, 0.98, 0.95]) * lasting.uniform(105, 150), 0.25), 0.2, 21

    def _look_farm(self, lasting, now, kind):
        """Pasture, range and orchards last for years; fields get a new crop each year."""
        code = _FARM_CODES[kind]
        if kind != land.CROPS:
            return self._grass(lasting, now, ("hay", "meadow", "tussock")[lasting.choice(3, p=(
                (0.45, 0.4, 0.15) if kind == land.PASTURE else (0.1, 0.5, 0.4)))], code)
        ground = self._soil(now, 0, 0.8)
        if lasting.random() < 0.08:
            crown = plants(ground[:3].mean() * lasting.uniform(0.35, 0.65), 0.8)
            return "orchard", (crown * 0.5, crown, ground * 1.1, 0.05), 0.3, code
        state = now.random() + 0.25 * self.season + 0.3 * self.drought
        grown = plants(now.uniform(66, 150), self._green(now, 0.3) + 0.12)
        if state < 0.45:
            swatch, light, dark = _SOWN[now.integers(3)], grown, 0.6 * grown + 0.32 * ground
        elif state < 0.8:
            swatch, light, dark = _SOWN[now.integers(3)], plants(now.uniform(95, 165), -0.05), ground
        else:
            swatch, light, dark = "tilled", ground, ground * 0.8
        low, middle, high = contrast(0.5 * (light + dark), now.uniform(0.1, 0.5))
        spread = (light - dark) * 0.35
        return swatch, (low - spread, middle, high + spread, 0.04), now.uniform(0.1, 0.6), code

    def _look_site(self, lasting, now):
        """A building site: graded soil without a building."""
        return ("tilled", "paved")[lasting.integers(2)], contrast(self._soil(lasting, 0.2, 0.9), 0.3), 0.6, 31

    def _look_town(self, lasting, now, style, fresh):
        """The ground of a block: lawns, yards, or pavement, below houses and trees."""
        if style == "commerce":
            colour = np.array([1.03, 1, 0.97, 0.95]) * lasting.uniform(95, 165)
            return "paved", contrast(colour, 0.3), 0.3, 24
        colour = plants(lasting.uniform(76, 128), self._green(now, 0.2) + 0.15)
        share = {"park": 0.05, "large_lots": 0.15, "houses": 0.25, "dense": 0.45}[style] + (0.3 if fresh else 0)
        colour = (1 - share) * colour + share * self._soil(lasting, 0.1, 0.6)
        return "meadow", (*contrast(colour, 0.38), 0.05), 0.6, _TOWN_CODES[style]

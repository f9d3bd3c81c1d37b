"""The ground of a county in a year, as a perfect camera straight above would record it.

``Ground.draw`` paints any window of it at 1 m, in four bands. A position looks the same in every window, because
``Ground`` makes all choices before it draws.
"""

import numpy as np
from PIL import Image, ImageDraw

from sample import landscape as land
from sample.looks import Looks
from sample.objects import Objects
from sample.textures import SHADES, SIZE, TINTS, noise

BLOCK = 1024  # metres that are painted at a time
MARGIN = 20   # metres around a block from which shadows, crowns and the lens reach into it


class Ground:
    """A landscape in 2010, or in the drought of 2016. Without ``swatches`` it draws only codes."""

    def __init__(self, landscape, year, swatches=None):
        self.landscape, self.year = landscape, year
        self.looks = Looks(landscape, year)
        self.cell_region = landscape.regions(year)
        rng = np.random.default_rng([landscape.seed, 13])
        self.warp = [np.clip(noise(rng, (SIZE, SIZE), 70, 1.2, 6) * 6.5, -20, 20).astype(np.int32) for _ in range(2)]
        if swatches is not None:
            self.swatch, ranks = (a.reshape(-1) for a in swatches.lit(self.looks.sun))
            self.ranks, self.grass_rank = ranks, swatches.grass_rank
            self.mottle = np.clip(noise(rng, (SIZE, SIZE), 200, 1.5, 4) * 16, -60, 60).astype(np.int32)
            self.objects = Objects(self.looks)

    def draw(self, left: int, top: int, width: int, height: int) -> np.ndarray:
        """Paint a window, in metres east and south of the frame's corner.

        (height, width, 4) uint8: red, green, blue, near infrared; never 0 in all bands.
        """
        pixels = np.empty((height, width, 4), np.uint8)
        for y in range(0, height, BLOCK):
            for x in range(0, width, BLOCK):
                w, h = min(BLOCK, width - x), min(BLOCK, height - y)
                pixels[y:y + h, x:x + w] = self._draw_block(left + x, top + y, w, h)
        return pixels

    def codes(self, step: int) -> np.ndarray:
        """True NLCD codes of every ``step``-th metre of the landscape, roads included."""
        return self.looks.code[self._regions(0, 0, int(self.landscape.width), int(self.landscape.height), step)[0]]

    # ---- regions

    def _regions(self, left, top, width, height, step=1):
        """Region of every ``step``-th metre, lattice coordinates in whole metres, and the coarse pixel's index."""
        scape = self.landscape
        ix, iy = np.arange(left, left + width, step), np.arange(top, top + height, step)
        warp = np.ix_(iy & SIZE - 1, ix & SIZE - 1)
        rows = np.clip((iy[:, None] + self.warp[0][warp]) >> 3, 0, scape.shape[0] - 1)
        columns = np.clip((ix[None] + self.warp[1][warp]) >> 3, 0, scape.shape[1] - 1)
        low = rows * scape.shape[1] + columns
        nature = scape.nature[self.year].ravel()[low].astype(np.int32)
        x, y = (ix[None] + 0.5).astype(np.float32), (iy[:, None] + 0.5).astype(np.float32)
        district = scape.district(x, y)
        region, u, v = (np.zeros(district.shape, np.int32) for _ in range(3))
        for d in np.unique(district):
            here = district == d
            for into, values in zip((region, u, v), self._lattice_regions(d, x, y)):
                into[here] = values[here]
        water = nature // land.STANDS == land.WATER
        region = np.where((region == 0) | water & (region != land.ROAD), nature, region)
        return self._add_patches(region, left, top, step), u, v, low

    def _lattice_regions(self, d, x, y):
        """Regions of one lattice (0 for nature), and its coordinates in whole metres."""
        lattice = self.landscape.lattices[d]
        u, v = lattice.to_cell(x, y)
        key, edge = lattice.keys(u, v)
        iu, iv = u.astype(np.int32), v.astype(np.int32)
        region = self.cell_region[d][key]
        cell = np.where(region > 0, region - land.FIRST_CELL, 0)
        kind = np.where(region > 0, self.landscape.cells["kind"][self.year][cell], land.NATURAL)
        region[(kind != land.NATURAL) & (kind < land.SITE) & (edge < 3)] = land.VERGE
        region[(kind == land.TOWN) & (edge < 4.3)] = land.STREET
        road = lattice.road_edge[iu]
        region[(road < 7) & (kind != land.TOWN)] = land.VERGE
        region[road < 4] = land.ROAD
        return region, iu, iv

    def _add_patches(self, region, left, top, step):
        first = land.FIRST_CELL + len(self.landscape.cells["key"])
        image = Image.fromarray(region)
        pen = ImageDraw.Draw(image)
        for i, patch in enumerate(self.landscape.patches):
            if patch.year <= self.year:
                points = (patch.polygon - (left, top)) / step - 0.5
                pen.polygon([tuple(p) for p in points], fill=first + i)
        return np.asarray(image)

    def _layers(self, region, low, place):
        """Regions after each pixel of mixed land has got its top layer: bare ground, grass, a bush or a tree."""
        mixed = np.flatnonzero(region < land.VEGETATED)
        region, place = region.ravel(), place.ravel()[mixed]
        stand = region[mixed] % land.STANDS
        trees, bushes, grass = self.landscape.covers[self.year].reshape(3, -1)[:, low.ravel()[mixed]]
        layer = np.where(self.grass_rank.ravel()[place] < grass, land.HERB, land.BARREN) * land.STANDS + stand
        for nature, cover in ((land.SHRUB, bushes), (land.FOREST, trees)):
            crowns = nature * land.STANDS + stand
            layer = np.where(self.ranks[self.looks.base[crowns] + place] < cover, crowns, layer)
        region = region.copy()
        region[mixed] = layer
        return region

    # ---- drawing

    def _draw_block(self, left, top, width, height):
        left, top = int(left) - MARGIN, int(top) - MARGIN
        width, height = width + 2 * MARGIN, height + 2 * MARGIN
        region, u, v, low = self._regions(left, top, width, height)
        ix = np.arange(left, left + width, dtype=np.int32)[None]
        iy = np.arange(top, top + height, dtype=np.int32)[:, None]
        place = ((iy & SIZE - 1) << 10) + (ix & SIZE - 1)
        region = self._layers(region, low, place).reshape(height, width)
        looks = self.looks
        frame = looks.frame[region]
        across = frame == 2
        sx = np.where(frame == 0, ix, np.where(across, v, u)) + looks.offset[0][region]
        sy = np.where(frame == 0, iy, np.where(across, u, v)) + looks.offset[1][region]
        at = looks.base[region] + ((sy & SIZE - 1) << 10) + (sx & SIZE - 1)
        texel = self.swatch[at].astype(np.int32)
        mottle = self.mottle[np.ix_(iy[:, 0] & SIZE - 1, ix[0] & SIZE - 1)]
        shade = np.clip((texel & SHADES - 1) + (looks.patchy[region] * mottle >> 6), 0, SHADES - 1)
        packed = looks.palettes.reshape(-1)[region * (SHADES * TINTS) + (texel & ~(SHADES - 1)) + shade]
        return self.objects.draw(packed, left, top)[MARGIN:-MARGIN, MARGIN:-MARGIN]

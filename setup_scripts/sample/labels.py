"""Label rasters in the manner of NLCD: the ground's codes at 30 m, wrong as often as NLCD's are.

NLCD agrees with interpreters of aerial pictures at 88% of places in 2011 and 83 to 90% in 2016, by groups of classes
(Level I); it errs most along the gradient of forest, shrub and grass, and in telling grassland, hay and lawns apart
(Wickham and others 2017, doi:10.1016/j.rse.2016.12.026; 2023, doi:10.1080/15481603.2023.2181143).
"""

import numpy as np
import shapely
from rasterio.transform import from_origin
from rasterio.warp import transform, transform_bounds
from scipy import ndimage

from helpers.land.classes import NLCD_LEGEND, NODATA_CODE
from helpers.land.grid import project
from sample import counties
from sample.scenes import write_cog
from sample.textures import noise

CODE_M = 2            # pixel at which codes are drawn before NLCD pixels take their majority
NLCD_M = 30.0
_BORDERS = 2.5   # deviations of luck between a pixel amid its own cover and one amid others
# For each true code: a wrong code, and the share of pixels that get it.
_ERRORS = {
    31: ((52, 0.11), (71, 0.05)), 41: ((52, 0.06), (43, 0.10), (21, 0.015)), 42: ((52, 0.06), (43, 0.08)),
    52: ((41, 0.06), (42, 0.03), (71, 0.06), (31, 0.02)), 71: ((81, 0.08), (52, 0.07)), 81: ((71, 0.08), (82, 0.10)),
    82: ((81, 0.05), (71, 0.03)), 21: ((41, 0.06), (81, 0.04), (22, 0.1)), 22: ((21, 0.1), (41, 0.03), (81, 0.02)),
    23: ((22, 0.1),), 24: ((23, 0.1),)}


def draw_labels(folder, codes, county, year, seed) -> dict:
    """Write an NLCD raster of a year, from the true code of each ``CODE_M`` metres; return what its STAC item says."""
    crs = counties.crs(county)
    left, bottom, right, top = counties.frame(county)
    west, south, east, north = transform_bounds(crs, "EPSG:5070", left, bottom, right, top)
    # NLCD pixels have their edges at 15 m beside multiples of 30 m.
    x0, y1 = np.floor((west - 15) / NLCD_M) * NLCD_M + 15, np.ceil((north - 15) / NLCD_M) * NLCD_M + 15
    width, height = int(np.ceil((east - x0) / NLCD_M)), int(np.ceil((y1 - south) / NLCD_M))
    ex, ey = np.meshgrid(x0 + NLCD_M * np.arange(width + 1), y1 - NLCD_M * np.arange(height + 1))
    ux, uy = (np.array(v).reshape(ex.shape) for v in transform("EPSG:5070", crs, ex.ravel(), ey.ravel()))
    said = mistaken(majority(codes, ux - left, top - uy), seed, county, year)
    table = {code: tuple(bytes.fromhex(colour[1:])) + (255,) for code, (_, colour) in NLCD_LEGEND.items()}
    raster = write_cog(folder, f"labels/nlcd_{year}_{county.geoid}.tif", said[None], "EPSG:5070",
                       from_origin(x0, y1, NLCD_M, NLCD_M), NODATA_CODE, table)
    outline = project(shapely.box(left, bottom, right, top), "EPSG:4326", source=crs)
    return dict(raster, year=year, outline=shapely.geometry.mapping(outline))


def majority(codes, x, y) -> np.ndarray:
    """The code that covers most of each 30 m pixel; ``x`` and ``y`` are their corners, in metres of the frame."""
    known = np.array(sorted(NLCD_LEGEND), np.uint8)
    along = (np.arange(15) + 0.5) / 15
    out = np.full((x.shape[0] - 1, x.shape[1] - 1), NODATA_CODE, np.uint8)
    # Inside one pixel the two projections differ by less than a millimetre from a parallelogram.
    for row in range(len(out)):
        samples = []
        for values in (x, y):
            corner = values[row, :-1, None, None]
            along_row, down = values[row, 1:, None, None] - corner, values[row + 1, :-1, None, None] - corner
            samples.append(np.floor((corner + along_row * along + down * along[:, None]) / CODE_M).astype(np.int32))
        c, r = samples
        inside = ((r >= 0) & (c >= 0) & (r < codes.shape[0]) & (c < codes.shape[1])).all(axis=(1, 2))
        if not inside.any():
            continue
        found = codes[r[inside], c[inside]].reshape(inside.sum(), -1)
        counts = [(found == code).sum(axis=1) for code in known]
        out[row, inside] = known[np.argmax(counts, axis=0)]
    return out


def mistaken(codes, seed, county, year) -> np.ndarray:
    """Codes with errors in patches, more of them near borders than within a cover, most of them lasting for years."""
    lasting, now = (np.random.default_rng([seed, int(county.geoid), 40, when]) for when in (0, year))
    said = codes.copy()
    for code, errors in _ERRORS.items():
        for other, share in errors:
            luck = sum(weight * noise(rng, codes.shape, wavelength, 2.2) for rng, weight, wavelength in (
                (lasting, 0.9, 18), (lasting, 0.12, 4), (now, 0.3, 14)))
            luck = luck + _BORDERS * ndimage.uniform_filter((codes == code).astype(np.float32), 5)
            mine = np.flatnonzero(codes.ravel() == code)
            worst = mine[np.argsort(luck.ravel()[mine])[:round(share * len(mine))]]
            said.ravel()[worst] = other
    return said

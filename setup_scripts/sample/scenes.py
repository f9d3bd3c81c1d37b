"""From the ground to what a user downloads: sensors, scenes, label rasters, truth."""

import csv
import errno
import json
import os
import shutil

import numpy as np
import rasterio
import rasterio.features
import rasterio.shutil
import shapely
from rasterio.transform import from_origin
from rasterio.warp import transform

from helpers.files import whole_file
from helpers.land.classes import NLCD_LEGEND, NODATA_CODE
from helpers.land.grid import TILE_M, project
from sample import counties, landscape as land

OVERLAP_M = 320.0     # between neighbouring scenes: more than a tile, turned as it may be
SCENE_M = 3300.0      # about the side of a scene
CODE_M = 2            # pixel at which codes are drawn before NLCD pixels take their majority
NLCD_M = 30.0
_STEPS = np.array([3, 3, 3, 8])[:, None]   # grey levels between two that a camera tells apart, by band


# ---- sensors

def sensor(seed, county, year, number) -> np.ndarray:
    """What a scene's camera makes of the ground: for each band a table (4, 256), uint8, never 0, which is nodata.

    Every campaign (a county in a year) has a gain, gamma, white balance and haze of its own, every scene a little more.
    """
    campaign = np.random.default_rng([seed, int(county.geoid), 30, year])
    scene = np.random.default_rng([seed, int(county.geoid), 31, year, number])
    gain = campaign.uniform(0.84, 1.2) * campaign.uniform(0.9, 1.1, 4) * scene.uniform(0.96, 1.04)
    gamma = campaign.uniform(0.8, 1.25) * scene.uniform(0.97, 1.03)
    haze = campaign.uniform(0, 32) * np.array([0.75, 0.9, 1.25, 0.4]) + scene.uniform(0, 5)
    value = np.arange(256) / 255
    seen = haze[:, None] + (255 - haze[:, None]) * (gain[:, None] * value[None] ** gamma)
    # Sensors tell fewer levels apart than a byte holds. With all 256 the scenes would take half as much disk again.
    return np.clip(np.floor(seen / _STEPS) * _STEPS + _STEPS // 2, 1, 255).astype(np.uint8)


# ---- footprints

def footprints(county) -> list:
    """The scenes that cover a county: cells of a grid of meridians and parallels, each a little larger than its cell.

    Polygons in UTM metres, from north to south and west to east.
    """
    crs = counties.crs(county)
    left, bottom, right, top = counties.frame(county)
    x, y = transform(crs, "EPSG:4326", [left, right, right, left], [top, top, bottom, bottom])
    west, east, south, north = max(x[0], x[3]), min(x[1], x[2]), max(y[2], y[3]), min(y[0], y[1])
    columns, rows = (max(2, round(size / SCENE_M)) for size in (right - left, top - bottom))
    pad_x = OVERLAP_M / 2 * (east - west) / (right - left)
    pad_y = OVERLAP_M / 2 * (north - south) / (top - bottom)
    shapes = []
    for j in range(rows):
        for i in range(columns):
            w = max(west, west + (east - west) * i / columns - pad_x)
            e = min(east, west + (east - west) * (i + 1) / columns + pad_x)
            n = min(north, north - (north - south) * j / rows + pad_y)
            s = max(south, north - (north - south) * (j + 1) / rows - pad_y)
            corners = transform("EPSG:4326", crs, [w, e, e, w], [n, n, s, s])
            shapes.append(shapely.Polygon(np.array(corners[:2]).T))
    return shapes


def acquired(seed, county, year, number) -> str:
    """The day a scene was flown, ISO."""
    rng = np.random.default_rng([seed, int(county.geoid), 32, year])
    month, day = rng.integers(6, 8) + (2 if year > 2010 else 0), rng.integers(1, 25)
    return f"{year}-{month:02d}-{day + number % 3:02d}"


def scene_ids(seed, county, year) -> list:
    """Names of a county's scenes in the manner of NAIP's: m_<county><number>_<zone>_<resolution>_<date>."""
    resolution = {1.0: "1", 0.6: "060"}[county.resolution[year]]
    return [f"m_{county.geoid}{number:02d}_{county.zone}_{resolution}_"
            + acquired(seed, county, year, number).replace("-", "")
            for number in range(1, len(footprints(county)) + 1)]


# ---- writing

def draw_scene(folder, seed, ground, number, name, footprint) -> dict:
    """Draw one scene as a Cloud-Optimized GeoTIFF, and tell what its STAC item says."""
    county, year = ground.landscape.county, ground.year
    resolution = county.resolution[year]
    left, bottom, right, top = footprint.bounds
    left, top = np.floor(left / resolution) * resolution, np.ceil(top / resolution) * resolution
    width, height = int(np.ceil((right - left) / resolution)), int(np.ceil((top - bottom) / resolution))
    to_map = from_origin(left, top, resolution, resolution)
    pixels = view(ground, left, top, width, height, resolution)
    table = sensor(seed, county, year, number)
    outside = rasterio.features.geometry_mask([footprint], (height, width), to_map)
    bands = np.empty((4, height, width), np.uint8)
    for b in range(4):
        bands[b] = table[b][pixels[..., b]]
        bands[b][outside] = 0
    del pixels, outside
    write_cog(folder / "scenes" / f"{name}.tif", bands, counties.crs(county), to_map)
    outline = project(footprint, "EPSG:4326", source=counties.crs(county))
    return {"id": name, "path": f"scenes/{name}.tif", "acquired": acquired(seed, county, year, number), "year": year,
            "epsg": 26900 + county.zone, "gsd": resolution, "shape": [height, width], "transform": list(to_map)[:6],
            "bbox": [left, top - height * resolution, left + width * resolution, top],
            "outline": shapely.geometry.mapping(outline)}


def view(ground, left: float, top: float, width: int, height: int, resolution=1.0) -> np.ndarray:
    """Pixels (height, width, 4) of the ground from a corner in map metres: drawn at 1 m, finer ones interpolated."""
    frame_left, _, _, frame_top = counties.frame(ground.landscape.county)
    x, y = left - frame_left, frame_top - top
    if resolution == 1.0:
        return ground.draw(int(round(x)), int(round(y)), width, height)
    x0, y0 = int(np.floor(x)) - 3, int(np.floor(y)) - 3
    source = ground.draw(x0, y0, int(np.ceil(width * resolution)) + 8, int(np.ceil(height * resolution)) + 8)
    rows, columns = (_cubic(start - zero, count, resolution) for start, zero, count in
                     ((y, y0, height), (x, x0, width)))
    out = np.empty((height, width, 4), np.uint8)
    for first in range(0, height, 256):
        part = slice(first, min(first + 256, height))
        taps, weights = rows[0][:, part], rows[1][:, part]
        strip = sum(source[taps[k]] * weights[k][:, None, None] for k in range(4))
        strip = sum(strip[:, columns[0][k]] * columns[1][k][None, :, None] for k in range(4))
        out[part] = np.clip(np.round(strip), 2, 255)
    return out


def _cubic(start, count, resolution):
    """Taps (4, count) and float32 weights of cubic interpolation (Keys, a = -0.5) along one axis."""
    at = start + (np.arange(count) + 0.5) * resolution - 0.5
    base = np.floor(at).astype(int)
    t = (at - base).astype(np.float32)
    weights = np.stack([-0.5 * t + t ** 2 - 0.5 * t ** 3, 1 - 2.5 * t ** 2 + 1.5 * t ** 3,
                        0.5 * t + 2 * t ** 2 - 1.5 * t ** 3, -0.5 * t ** 2 + 0.5 * t ** 3])
    return base[None] + np.arange(-1, 3)[:, None], weights


def write_cog(path, bands, crs, to_map, nodata=0, colours=None):
    """Write an array (bands, height, width) of uint8 as a Cloud-Optimized GeoTIFF; whole or not at all."""
    count, height, width = bands.shape
    profile = dict(driver="GTiff", width=width, height=height, count=count, dtype="uint8", crs=crs, nodata=nodata,
                   transform=to_map, interleave="pixel", tiled=True, blockxsize=512, blockysize=512)
    if colours is None:
        profile.update(photometric="RGB", alpha="NO")
    try:
        with rasterio.MemoryFile() as memory, whole_file(path) as part:
            with memory.open(**profile) as plain:
                plain.write(bands)
                if colours is not None:
                    plain.write_colormap(1, colours)
                    plain.update_tags(AREA_OR_POINT="Area")
                else:
                    for i, name in enumerate(("red", "green", "blue", "nir"), 1):
                        plain.set_band_description(i, name)
                    # The first overview is a quarter as wide: one of half the width would add a quarter to the file.
                    plain.build_overviews([4, 16], rasterio.enums.Resampling.average)
            with memory.open() as plain:
                rasterio.shutil.copy(plain, str(part), driver="COG", compress="ZSTD", level=3, blocksize=512,
                                     predictor="NO" if colours else "YES", bigtiff="NO",
                                     overviews="AUTO" if colours else "FORCE_USE_EXISTING",
                                     overview_resampling="MODE" if colours else "AVERAGE")
    except Exception as error:
        # GDAL raises errors of its own on a full disk, and doesn't always say so: the disk itself tells.
        if shutil.disk_usage(path.parent).free < bands.nbytes:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC)) from error
        raise


def draw_labels(folder, codes, county, year) -> dict:
    """Write an NLCD raster of a year, and tell what its STAC item says.

    Each 30 m pixel carries the code that covers most of it; ``codes`` has one for each ``CODE_M`` metres of the frame.
    """
    crs = counties.crs(county)
    left, bottom, right, top = counties.frame(county)
    edge = np.linspace(0, 1, 21)
    ring_x = np.concatenate([left + edge * (right - left)] * 2 + [np.full(21, left), np.full(21, right)])
    ring_y = np.concatenate([np.full(21, top), np.full(21, bottom)] + [bottom + edge * (top - bottom)] * 2)
    ax, ay = map(np.array, transform(crs, "EPSG:5070", ring_x, ring_y))
    # NLCD pixels have their edges at 15 m beside multiples of 30 m.
    x0, y1 = np.floor((ax.min() - 15) / NLCD_M) * NLCD_M + 15, np.ceil((ay.max() - 15) / NLCD_M) * NLCD_M + 15
    width, height = int(np.ceil((ax.max() - x0) / NLCD_M)), int(np.ceil((y1 - ay.min()) / NLCD_M))
    known = sorted(NLCD_LEGEND)
    place = np.zeros(256, np.uint8)
    place[known] = np.arange(len(known))
    along = (np.arange(15) + 0.5) / 15
    out = np.full((height, width), NODATA_CODE, np.uint8)
    ex, ey = np.meshgrid(x0 + NLCD_M * np.arange(width + 1), y1 - NLCD_M * np.arange(height + 1))
    ux, uy = (np.array(v).reshape(ex.shape) for v in transform("EPSG:5070", crs, ex.ravel(), ey.ravel()))
    # Inside one pixel the two projections differ by less than a millimetre from a parallelogram.
    for row in range(height):
        samples = []
        for values, zero, sign in ((ux, left, 1), (uy, top, -1)):
            corner = values[row, :-1, None, None]
            along_row, down = values[row, 1:, None, None] - corner, values[row + 1, :-1, None, None] - corner
            at = corner + along_row * along + down * along[:, None]
            samples.append(np.floor((at - zero) * sign / CODE_M).astype(np.int32))
        c, r = samples
        inside = ((r >= 0) & (c >= 0) & (r < codes.shape[0]) & (c < codes.shape[1])).all(axis=(1, 2))
        if not inside.any():
            continue
        found = place[codes[r[inside], c[inside]].reshape(inside.sum(), -1)]
        counts = np.zeros((len(found), len(known)), np.int32)
        np.add.at(counts, (np.arange(len(found))[:, None], found), 1)
        out[row, inside] = np.array(known, np.uint8)[counts.argmax(axis=1)]
    name = f"nlcd_{year}_{county.geoid}"
    to_map = from_origin(x0, y1, NLCD_M, NLCD_M)
    table = {code: tuple(bytes.fromhex(colour[1:])) + (255,) for code, (_, colour) in NLCD_LEGEND.items()}
    write_cog(folder / "labels" / f"{name}.tif", out[None], "EPSG:5070", to_map, NODATA_CODE, table)
    outline = project(shapely.box(left, bottom, right, top), "EPSG:4326", source=crs)
    return {"id": name, "path": f"labels/{name}.tif", "year": year, "epsg": 5070, "shape": [height, width],
            "transform": list(to_map)[:6], "bbox": [x0, y1 - height * NLCD_M, x0 + width * NLCD_M, y1],
            "outline": shapely.geometry.mapping(outline)}


def draw_truth(folder, scape, before, after):
    """Write what is newly developed, from the codes of two years: polygons, and each tile's newly developed share."""
    county, crs = scape.county, counties.crs(scape.county)
    left, _, _, top = counties.frame(county)
    built = [(c >= 21) & (c <= 24) for c in (before, after)]
    new = built[1] & ~built[0]
    side = int(TILE_M) // CODE_M
    share = new.reshape(county.rows, side, county.columns, side).mean(axis=(1, 3))
    to_map = from_origin(left, top, CODE_M, CODE_M)
    features, single_share = [], np.zeros(share.shape)
    polygons = [("single", shapely.Polygon(p.polygon * (1, -1) + (left, top)))
                for p in scape.patches if p.kind == "single" and p.year > 2010]
    for _, polygon in polygons:
        r, c = int((top - polygon.centroid.y) // TILE_M), int((polygon.centroid.x - left) // TILE_M)
        single_share[r, c] += polygon.area / TILE_M ** 2
    # What was built in one go is one polygon: fields of noise at its edge don't count.
    fresh = np.zeros(len(scape.cells["key"]), bool)
    fresh[[cell for group in scape.subdivisions for cell in group]] = True
    low = fresh[scape.low_cell]
    grown = np.kron(low, np.ones((land.LOW_M // CODE_M,) * 2, bool)) & new
    for shape, value in rasterio.features.shapes(grown.astype(np.uint8), mask=grown, transform=to_map):
        polygon = shapely.geometry.shape(shape).simplify(2)
        if polygon.area > 3000:
            polygons.append(("subdivision", polygon))
    for kind, polygon in polygons:
        features.append({"type": "Feature", "properties": {"kind": kind, "area_m2": round(polygon.area)},
                         "geometry": shapely.geometry.mapping(project(polygon, "EPSG:4326", source=crs))})
    with whole_file(folder / "truth" / f"{county.geoid}_developments.geojson") as part:
        part.write_text(json.dumps({"type": "FeatureCollection", "features": features}))
    first_row, first_column = round(top / TILE_M) - 1, round(left / TILE_M)
    with whole_file(folder / "truth" / f"{county.geoid}_new_tiles.csv") as part, open(part, "w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["row", "col", "share", "kind"])
        for r, c in np.argwhere((share > 0.005) & scape.in_county):
            kind = "single" if single_share[r, c] > share[r, c] / 2 else "subdivision"
            writer.writerow([first_row - r, first_column + c, round(float(share[r, c]), 4), kind])


def boundary(scape):
    """The county's boundary in longitude and latitude."""
    left, _, _, top = counties.frame(scape.county)
    ring = shapely.transform(scape.boundary, lambda p: p * (1, -1) + (left, top))
    return project(ring, "EPSG:4326", source=counties.crs(scape.county))

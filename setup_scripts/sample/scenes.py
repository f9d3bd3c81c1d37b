"""From the ground to scenes: sensors, weather, footprints, and Cloud-Optimized GeoTIFFs."""

from pathlib import Path

import numpy as np
import rasterio
import rasterio.features
import rasterio.shutil
import shapely
from PIL import Image
from rasterio.transform import array_bounds, from_origin
from rasterio.warp import transform

from helpers.files import write_whole
from helpers.land.grid import project
from sample import counties
from sample.textures import noise

OVERLAP_M = 320.0     # between neighbouring scenes: more than a tile, turned as it may be
SCENE_M = 3300.0      # about the side of a scene
_STEPS = np.array([3, 3, 3, 10])[:, None, None]   # grey levels between two that a camera tells apart, by band
_CLOUDY = 0.3        # share of scenes with clouds
_LEVELS, _WEATHER_M = 65, 8.0   # from the deepest shadow to the thickest veil; pixel of the weather


# ---- sensors

def exposed(pixels, seed, county, year, number, left, top) -> np.ndarray:
    """The picture that a scene's camera takes of ground (height, width, 4) with its corner at ``left``, ``top``.

    It has four bands of uint8, never 0, which is nodata. A campaign (a county in a year) has its own gain, gamma, white
    balance and haze, and a scene varies them a little. Some scenes lie under thin clouds: shadows or veils.
    """
    campaign = np.random.default_rng([seed, int(county.geoid), 30, year])
    scene = np.random.default_rng([seed, int(county.geoid), 31, year, number])
    gain = campaign.uniform(0.84, 1.2) * campaign.uniform(0.9, 1.1, 4) * scene.uniform(0.96, 1.04)
    gamma = campaign.uniform(0.8, 1.25) * scene.uniform(0.97, 1.03)
    haze = campaign.uniform(0, 32) * np.array([0.75, 0.9, 1.25, 0.4]) + scene.uniform(0, 6)
    level = np.linspace(-1, 1, _LEVELS)[None, :, None]
    value = gain[:, None, None] * (np.arange(256) / 255)[None, None] ** gamma * (1 + 0.5 * np.minimum(level, 0))
    veil = np.minimum(haze[:, None, None] + 70 * np.maximum(level, 0), 200)
    seen = veil + (255 - veil) * value
    # Sensors tell fewer levels apart than a byte holds. With all 256, scenes would take 1.5 times as much disk.
    table = np.clip(np.floor(seen / _STEPS) * _STEPS + _STEPS // 2, 1, 255).astype(np.uint8).reshape(4, -1)
    at = pixels.astype(np.int32)
    if scene.random() < _CLOUDY:
        weather = noise(scene, (512, 512), 160, 2.2, 4)
        height, width = pixels.shape[:2]
        resolution = county.resolution[year]
        rows = ((-top + np.arange(height) * resolution) / _WEATHER_M).astype(int) & 511
        columns = ((left + np.arange(width) * resolution) / _WEATHER_M).astype(int) & 511
        depth = np.clip(np.abs(weather) - 1.1, 0, 1) * np.sign(weather)
        at += (np.round((depth + 1) / 2 * (_LEVELS - 1)).astype(np.int32) << 8)[np.ix_(rows, columns)][..., None]
    else:
        at += _LEVELS // 2 << 8
    return np.stack([table[b][at[..., b]] for b in range(4)])


# ---- footprints

def footprints(county) -> list:
    """Polygons, in UTM metres, of the scenes that cover a county, from north to south and from west to east.

    Each lies between two meridians and two parallels, and overlaps its neighbours a little.
    """
    crs = counties.crs(county)
    left, bottom, right, top = counties.frame(county)
    x, y = transform(crs, "EPSG:4326", [left, right, right, left], [top, top, bottom, bottom])
    west, east, south, north = max(x[0], x[3]), min(x[1], x[2]), max(y[2], y[3]), min(y[0], y[1])
    columns, rows = (max(2, round(size / SCENE_M)) for size in (right - left, top - bottom))
    pad_x = OVERLAP_M / 2 * (east - west) / (right - left)
    pad_y = OVERLAP_M / 2 * (north - south) / (top - bottom)
    shapes = []
    for j, i in np.ndindex(rows, columns):
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
    """Names of a county's scenes, as NAIP has them: m_<county><number>_<zone>_<resolution>_<date>."""
    resolution = {1.0: "1", 0.6: "060"}[county.resolution[year]]
    return [f"m_{county.geoid}{number:02d}_{county.zone}_{resolution}_"
            + acquired(seed, county, year, number).replace("-", "")
            for number in range(1, len(footprints(county)) + 1)]


# ---- writing

def draw_scene(folder, seed, ground, number, name, footprint) -> dict:
    """Draw one scene as a Cloud-Optimized GeoTIFF, and return what its STAC item says."""
    county, year = ground.landscape.county, ground.year
    resolution = county.resolution[year]
    left, bottom, right, top = footprint.bounds
    left, top = np.floor(left / resolution) * resolution, np.ceil(top / resolution) * resolution
    width, height = int(np.ceil((right - left) / resolution)), int(np.ceil((top - bottom) / resolution))
    to_map = from_origin(left, top, resolution, resolution)
    bands = exposed(view(ground, left, top, width, height, resolution), seed, county, year, number, left, top)
    bands[:, rasterio.features.geometry_mask([footprint], (height, width), to_map)] = 0
    raster = write_cog(folder, f"scenes/{name}.tif", bands, counties.crs(county), to_map)
    outline = project(footprint, "EPSG:4326", source=counties.crs(county))
    return dict(raster, acquired=acquired(seed, county, year, number), year=year, gsd=resolution,
                outline=shapely.geometry.mapping(outline))


def view(ground, left: float, top: float, width: int, height: int, resolution=1.0) -> np.ndarray:
    """Pixels (height, width, 4) of the ground from a corner in map metres. Pixels finer than 1 m are interpolated."""
    frame_left, _, _, frame_top = counties.frame(ground.landscape.county)
    x, y = left - frame_left, frame_top - top
    if resolution == 1.0:
        return ground.draw(int(round(x)), int(round(y)), width, height)
    x0, y0 = int(np.floor(x)) - 3, int(np.floor(y)) - 3
    source = ground.draw(x0, y0, int(np.ceil(width * resolution)) + 8, int(np.ceil(height * resolution)) + 8)
    # As CMYK: Pillow takes the fourth band of RGBA for opacity.
    pixels = Image.frombytes("CMYK", source.shape[1::-1], np.ascontiguousarray(source).tobytes())
    from_pixel = resolution, 0, x - x0, 0, resolution, y - y0
    return np.maximum(np.asarray(pixels.transform(
        (width, height), Image.Transform.AFFINE, from_pixel, Image.Resampling.BICUBIC)), 2)


def write_cog(folder, path, bands, crs, to_map, nodata=0, colours=None) -> dict:
    """Write an array (bands, height, width) of uint8 as a Cloud-Optimized GeoTIFF, whole or not at all.

    Return what its STAC item says of it.
    """
    count, height, width = bands.shape
    profile = dict(driver="GTiff", width=width, height=height, count=count, dtype="uint8", crs=crs, nodata=nodata,
                   transform=to_map, interleave="pixel", tiled=True, blockxsize=512, blockysize=512)
    if colours is None:
        profile.update(photometric="RGB", alpha="NO")
    # GDAL writes into memory, because it has its own errors for a full disk, and not all of them say so.
    with rasterio.MemoryFile() as memory, rasterio.MemoryFile() as cog:
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
            rasterio.shutil.copy(plain, cog.name, driver="COG", compress="ZSTD", level=3, blocksize=512,
                                 predictor="NO" if colours else "YES", bigtiff="NO",
                                 overviews="AUTO" if colours else "FORCE_USE_EXISTING",
                                 overview_resampling="MODE" if colours else "AVERAGE")
        write_whole(folder / path, cog.getbuffer())
    return {"id": Path(path).stem, "path": path, "epsg": int(crs.rpartition(":")[2]), "shape": [height, width],
            "transform": list(to_map)[:6], "bbox": list(array_bounds(height, width, to_map))}

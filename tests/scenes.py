"""Small scenes and labels with a known ground, drawn for the tests of rasters, catalogues and preparation."""

import json
import shutil

import numpy as np
import pystac
import rasterio
import shapely
from rasterio.transform import from_origin

from helpers.land import grid

CRS = "EPSG:26919"
# A corner of a tile near Boston; the test county is 6 × 5 tiles south-east of it.
ROW, COL, ROWS, COLS = 20969, 1350, 6, 5
LEFT, TOP = COL * grid.TILE_M, (ROW + 1) * grid.TILE_M


def ground(x, y):
    """The colour of the ground at positions in metres: smooth, and different everywhere; (..., 3) uint8."""
    x, y = x - LEFT, TOP - y
    return np.stack([40 + x / 8 % 160 + 20 * np.sin(y / 31), 50 + y / 9 % 150 + 20 * np.cos(x / 23),
                     60 + (x + y) / 17 % 120 + 15 * np.sin((x - y) / 41)], axis=-1).round().astype(np.uint8)


def pixel_to_map(row, col, pixel_row, pixel_col):
    """x and y, in metres, of the centre of a tile's pixel, counted from the tile's upper left corner."""
    left, _, _, top = grid.tile_bounds(row, col)
    pixel_m = grid.TILE_M / grid.TILE_PX
    return left + (np.asarray(pixel_col) + 0.5) * pixel_m, top - (np.asarray(pixel_row) + 0.5) * pixel_m


def map_to_pixel(x, y):
    """The tile and pixel (row, col, pixel_row, pixel_col) that hold a position; undoes ``pixel_to_map``."""
    row, col = grid.tile_of(x, y)
    left, _, _, top = grid.tile_bounds(row, col)
    pixel_m = grid.TILE_M / grid.TILE_PX
    return (row, col, np.floor((top - np.asarray(y)) / pixel_m).astype(int),
            np.floor((np.asarray(x) - left) / pixel_m).astype(int))


def write_scene(path, left, top, width_m, height_m, resolution=1.0, blank_m=0, crs=CRS, bands=4):
    """A scene of the ground, with a nodata edge of ``blank_m`` on its west side; returns its path."""
    width, height = round(width_m / resolution), round(height_m / resolution)
    x = left + (np.arange(width) + 0.5) * resolution
    y = top - (np.arange(height) + 0.5) * resolution
    rgb = ground(*np.meshgrid(x, y)).transpose(2, 0, 1)
    pixels = np.concatenate([rgb, rgb[:1] // 2 + 80])[:bands]
    pixels[:, :, x < left + blank_m] = 0
    with rasterio.open(path, "w", driver="GTiff", width=width, height=height, count=bands, dtype="uint8", crs=crs,
                       transform=from_origin(left, top, resolution, resolution), nodata=0, tiled=True) as file:
        file.write(pixels)
    return str(path)


def write_cog(path, left, top, width_m, height_m, resolution=1.0, overviews=True, infrared_as_alpha=False, seed=0):
    """A scene of the ground with a seeded grain, as NAIP's are: blocks of 512 px, overviews by averaging; its path."""
    import rasterio.shutil
    width, height = round(width_m / resolution), round(height_m / resolution)
    x, y = left + (np.arange(width) + 0.5) * resolution, top - (np.arange(height) + 0.5) * resolution
    rng = np.random.default_rng(seed)
    declared = dict(photometric="RGB", alpha="YES") if infrared_as_alpha else {}
    with rasterio.MemoryFile() as memory:
        with memory.open(driver="GTiff", width=width, height=height, count=4, dtype="uint8", crs=CRS, tiled=True,
                         **declared, transform=from_origin(left, top, resolution, resolution)) as file:
            for start in range(0, height, 1024):  # strips, for a large scene
                rgb = ground(*np.meshgrid(x, y[start:start + 1024])).transpose(2, 0, 1).astype(int)
                rgb += rng.integers(-6, 7, rgb.shape[1:])
                pixels = np.concatenate([rgb, rgb[:1] // 2 + 80]).clip(1, 255).astype(np.uint8)
                file.write(pixels, window=rasterio.windows.Window(0, start, width, pixels.shape[1]))
        with memory.open() as plain:
            rasterio.shutil.copy(plain, str(path), driver="COG", compress="DEFLATE", blocksize=512,
                                 overview_resampling="AVERAGE", overviews="AUTO" if overviews else "NONE")
    return str(path)


def write_labels(path, codes_of, margin_m=300, nodata=250):
    """An NLCD raster in EPSG:5070 over the test county; ``codes_of(x, y)`` gives codes at UTM positions."""
    from rasterio.warp import transform, transform_bounds
    bounds = transform_bounds(CRS, "EPSG:5070", LEFT - margin_m, TOP - ROWS * 224 - margin_m,
                              LEFT + COLS * 224 + margin_m, TOP + margin_m)
    left, top = np.floor(bounds[0] / 30) * 30 + 15, np.ceil(bounds[3] / 30) * 30 + 15
    width, height = int((bounds[2] - left) // 30), int((top - bounds[1]) // 30)
    mx, my = np.meshgrid(left + 15 + 30 * np.arange(width), top - 15 - 30 * np.arange(height))
    x, y = transform("EPSG:5070", CRS, mx.ravel(), my.ravel())
    codes = codes_of(np.array(x), np.array(y)).reshape(height, width).astype(np.uint8)
    with rasterio.open(path, "w", driver="GTiff", width=width, height=height, count=1, dtype="uint8",
                       crs="EPSG:5070", transform=from_origin(left, top, 30, 30), nodata=nodata) as file:
        file.write(codes, 1)
    return str(path)


def county_boundary():
    """The test county in longitude and latitude, a little inside its tiles' outer edges."""
    square = shapely.box(LEFT + 20, TOP - ROWS * 224 + 20, LEFT + COLS * 224 - 20, TOP - 20)
    return grid.project(square, "EPSG:4326", source=CRS)


def write_catalog(folder, scenes, labels):
    """A static STAC catalogue; ``scenes`` maps ids to (path, year), ``labels`` maps years to paths."""
    import datetime
    root = pystac.Catalog("test", "test scenes")
    extent = pystac.Extent(pystac.SpatialExtent([[-180, -90, 180, 90]]), pystac.TemporalExtent([[None, None]]))
    for name, asset, key in (("naip", "image", "naip:year"), ("nlcd", "landcover", "nlcd:year")):
        child = pystac.Collection(name, name, extent)
        rows = scenes.items() if name == "naip" else ((f"nlcd_{y}", (p, y)) for y, p in labels.items())
        for item_id, (path, year) in rows:
            try:
                with rasterio.open(path) as raster:
                    shape = grid.project(shapely.box(*raster.bounds), "EPSG:4326", source=raster.crs or CRS)
            except rasterio.errors.RasterioIOError:
                shape = county_boundary()
            item = pystac.Item(item_id, shapely.geometry.mapping(shape), list(shape.bounds),
                               datetime.datetime(year, 7, 1), {key: str(year) if name == "naip" else year})
            item.add_asset(asset, pystac.Asset(str(path)))
            child.add_item(item)
        root.add_child(child)
    shutil.rmtree(folder / "stac", ignore_errors=True)
    root.normalize_and_save(str(folder / "stac"), pystac.CatalogType.SELF_CONTAINED)
    feature = {"type": "Feature", "properties": {"GEOID": "99001", "NAME": "Test", "STUSPS": "ZZ"},
               "geometry": shapely.geometry.mapping(county_boundary())}
    (folder / "stac" / "counties.geojson").write_text(json.dumps({"type": "FeatureCollection", "features": [feature]}))
    return folder / "stac"


def halves(x, y):
    """Codes: forest in the west, houses in the east, a lake in the north-west corner."""
    codes = np.where(x < LEFT + 560, 41, 22)
    return np.where(np.hypot(x - LEFT, y - TOP) < 250, 11, codes)


def write_county(folder):
    """A catalogue of one county of 30 tiles, in two overlapping scenes that leave its last column uncovered."""
    west = write_scene(folder / "west.tif", LEFT - 36, TOP + 48, 700, 1500)
    east = write_scene(folder / "east.tif", LEFT + 400, TOP + 48, 550, 1500, resolution=0.5)
    labels = write_labels(folder / "nlcd.tif", halves)
    return write_catalog(folder, {"west": (west, 2010), "east": (east, 2010)}, {2006: labels, 2011: labels})

"""Scenes: read as RGB pixels of 1 m on the tile grid, and cut into tiles."""

import contextlib
import functools
import re
from typing import Callable

import geopandas
import numpy as np
import pandas as pd
import rasterio
import rasterio.shutil
import shapely
from rasterio.enums import ColorInterp, Interleaving, MaskFlags, Resampling
from rasterio.vrt import WarpedVRT
from rasterio.windows import Window

from helpers import InputError
from helpers.land import downloads
from helpers.land.grid import TILE_M, TILE_PX, tile_bounds
from helpers.land.rasters import READ_ERRORS, REMOTE, colour_bands, open_raster, outline, whole
from helpers.land.sources import Scene
from helpers.uri import shown

PIXEL_M = TILE_M / TILE_PX
# GDAL's cache in a worker: a row of blocks of a scene of 12,500 px has 26 MB, and its warped pixels have as much again.
CACHE_MB = 128
# A tile is dropped if a larger share of its pixels shows nothing.
BLANK = 0.01


@contextlib.contextmanager
def open_scene(href: str, crs: str):
    """A scene, a raster with red, green and blue in uint8, as pixels of 1 m on the grid of ``crs``.

    A scene in another CRS or resolution is warped: averaged from finer pixels, interpolated from coarser ones. If it
    has an overview with pixels of at most 1 m, this is read instead, with a quarter of the bytes or less. An overview
    made by averaging gives the same picture but for rounding; one made of every second pixel gives a grainier picture.
    """
    with contextlib.ExitStack() as stack:
        _, scene, _, bounds, resolution = _open_fitting(stack, href, crs)
        if scene.count < 3 or {scene.dtypes[band - 1] for band in colour_bands(scene)} != {"uint8"}:
            raise InputError(
                f"expected a scene with at least 3 bands of uint8 (red, green, blue), got {scene.count} band(s) of "
                f"{scene.dtypes[0]} in {shown(href)}. Convert it, for example with gdal_translate -ot Byte.")
        if ColorInterp.alpha in scene.colorinterp and not _is_alpha(scene):
            scene = stack.enter_context(_with_infrared(scene, href))
        yield scene if _is_on_grid(scene, crs) else stack.enter_context(_warped(scene, crs, bounds, resolution))


def _open_fitting(stack, href, crs):
    """A scene, the scene or overview to read, the overview's level, and the scene's bounds and resolution in metres."""
    scene = stack.enter_context(open_raster(href, "scene"))
    polygon = outline(scene, crs, href)
    resolution = float(np.sqrt(polygon.area / (scene.width * scene.height)))
    flags = scene.mask_flag_enums[0]
    # A mask may lack overviews, or have those of an earlier mask.
    is_masked = MaskFlags.per_dataset in flags and MaskFlags.alpha not in flags
    level = None if is_masked else overview_level(resolution, scene.overviews(1))
    used = scene if level is None else stack.enter_context(open_raster(href, "scene", OVERVIEW_LEVEL=level))
    return scene, used, level, polygon.bounds, resolution


def overview_level(resolution: float, factors: list[int]):
    """The coarsest level, of ``factors`` from fine to coarse, that isn't coarser than ``PIXEL_M``; None if all are."""
    # In degrees or in another zone, 0.5 m may appear as a hundredth more.
    return max((level for level, factor in enumerate(factors) if resolution * factor <= 1.01 * PIXEL_M), default=None)


def _is_on_grid(scene, crs):
    to_map = scene.transform
    return (scene.crs == rasterio.CRS.from_string(crs) and to_map.is_rectilinear
            and (to_map.a, to_map.e) == (PIXEL_M, -PIXEL_M) and to_map.c % PIXEL_M == to_map.f % PIXEL_M == 0)


def _warped(scene, crs, bounds, resolution):
    left, top = np.floor(bounds[0] / PIXEL_M) * PIXEL_M, np.ceil(bounds[3] / PIXEL_M) * PIXEL_M
    width, height = int(np.ceil((bounds[2] - left) / PIXEL_M)), int(np.ceil((top - bounds[1]) / PIXEL_M))
    # Where a scene has both a mask and a value for nodata, GDAL reads by the mask but warps by the value.
    masked = {"src_nodata": None} if MaskFlags.per_dataset in scene.mask_flag_enums[0] else {}
    return WarpedVRT(scene, crs=crs, width=width, height=height,
                     transform=rasterio.Affine(PIXEL_M, 0, left, 0, -PIXEL_M, top),
                     resampling=Resampling.average if resolution < PIXEL_M else Resampling.bilinear,
                     # A dark pixel may be 0 in one band: only 0 in every band is nodata.
                     UNIFIED_SRC_NODATA="YES", add_alpha=ColorInterp.alpha not in scene.colorinterp, **masked)


def _is_alpha(scene):
    """Whether the band declared as alpha really is a mask: more than 90% of its values are 0 or 255."""
    band = scene.colorinterp.index(ColorInterp.alpha) + 1
    # A few blocks suffice: without overviews, the whole band would be a large download.
    height, width = scene.block_shapes[band - 1]
    last_row, last_col = (scene.height - 1) // height, (scene.width - 1) // width
    windows = [scene.block_window(band, int(share * last_row), int(share * last_col)) for share in (0.3, 0.5, 0.7)]
    look = np.concatenate([scene.read(band, window=window).ravel() for window in windows])
    return ((look == 0) | (look == 255)).mean() > 0.9


def _with_infrared(scene, href):
    """A scene whose near infrared is declared as alpha, as in many NAIP files, described to GDAL without an alpha."""
    with rasterio.MemoryFile(ext=".vrt") as memory:
        rasterio.shutil.copy(scene, memory.name, driver="VRT")
        description = memory.read().decode()
    description = description.replace("<ColorInterp>Alpha</ColorInterp>", "<ColorInterp>Undefined</ColorInterp>")
    if scene.nodata is None:
        description = re.sub(r"(<VRTRasterBand [^>]*>)", r"\1<NoDataValue>0</NoDataValue>", description)
    scene = rasterio.open(description, driver="VRT")
    if not downloads.is_remote(href):
        # With its first pixel GDAL opens the file, and looks for overviews beside it.
        with rasterio.Env(GDAL_DISABLE_READDIR_ON_OPEN="FALSE"):
            scene.read(window=Window(0, 0, 1, 1))
    return scene


def block_facts(href: str, crs: str) -> tuple[float, float, float]:
    """The cost of reading a scene, from its header alone: height and width in metres of a block to read (of the scene
    or an overview), and its mean bytes with all bands."""
    with rasterio.Env(**REMOTE), whole(href), contextlib.ExitStack() as stack:
        scene, used, level, _, resolution = _open_fitting(stack, href, crs)
        height, width = used.block_shapes[0]
        bands = range(1, used.count + 1) if used.interleaving == Interleaving.band else [1]
        down, across = -(-used.height // height), -(-used.width // width)
        # Blocks at the scene's edge are smaller, because they are blank in part.
        inner = (0.25, 0.4, 0.6, 0.75)
        chosen = {(int(down * a), int(across * b)) for a in inner for b in inner}
        sizes = [sum(int(scene.get_tag_item(f"BLOCK_SIZE_{j}_{i}", "TIFF", bidx=band, ovr=level) or 0)
                     for band in bands) for i, j in chosen]
        pixel_m = resolution * scene.width / used.width
        return height * pixel_m, width * pixel_m, float(np.mean(sizes))


def read_overview(href: str, crs: str, pixel_m: float = 20.0) -> tuple[np.ndarray, tuple]:
    """A small picture of a scene, RGB (h, w, 3) uint8, black where it has no data, and its bounds in metres."""
    with rasterio.Env(**REMOTE), whole(href), open_scene(href, crs) as scene:
        shape = tuple(max(1, round(pixels * PIXEL_M / pixel_m)) for pixels in scene.shape)
        rgb = scene.read(colour_bands(scene), out_shape=(3, *shape), resampling=Resampling.average)
        valid = scene.dataset_mask(out_shape=shape) > 0
        rgb[:, ~valid] = 0
        return rgb.transpose(1, 2, 0), tuple(scene.bounds)


@contextlib.contextmanager
def open_scenes(crs: str):
    """A function ``read(scene, act)``, which returns ``act`` of the scene's dataset.

    The dataset stays open: GDAL then unpacks a block once for several strips. If a server breaks off, or a token has
    ended, the scene is opened and read again.
    """
    # rasterio counts the cache in bytes.
    with rasterio.Env(GDAL_CACHEMAX=CACHE_MB << 20, **REMOTE), contextlib.ExitStack() as stack:
        opened = {}

        def get(scene, anew):
            dataset, own = opened.pop(scene.scene_id, (None, contextlib.ExitStack()))
            if anew:
                own.close()
                downloads.ready(scene.href, "a scene")
            if anew or dataset is None:
                own = stack.enter_context(contextlib.ExitStack())
                dataset = own.enter_context(open_scene(scene.href, crs))
            opened[scene.scene_id] = dataset, own
            return dataset

        def read(scene, act):
            passing = READ_ERRORS if downloads.is_remote(scene.href) else ()
            with whole(scene.href):
                return downloads.again(lambda attempt: act(get(scene, anew=attempt > 0)), passing)
        yield read


def outlines(scenes: list[Scene], crs: str) -> np.ndarray:
    """The footprints of scenes in the CRS of the grid, kept for the next call with the same scenes."""
    return _projected(tuple(scene.footprint for scene in scenes), crs)


@functools.lru_cache(maxsize=4)
def _projected(footprints, crs):
    return geopandas.GeoSeries(list(footprints), crs="EPSG:4326").to_crs(crs).to_numpy()


def scene_order(tiles: pd.DataFrame, scenes: list[Scene], crs: str) -> np.ndarray:
    """The scenes to try for each tile, as indices (scenes, N): the nearest centre first; on a tie, the first scene; and
    -1 behind the last scene that touches the tile."""
    row, col = tiles["row"].to_numpy(), tiles["col"].to_numpy()
    areas = outlines(scenes, crs)
    centres = shapely.centroid(areas)
    distance = np.hypot(shapely.get_x(centres)[:, None] - (col + 0.5) * TILE_M,
                        shapely.get_y(centres)[:, None] - (row + 0.5) * TILE_M)
    shapely.prepare(areas)
    distance[~shapely.intersects(areas[:, None], shapely.box(*tile_bounds(row, col)))] = np.inf
    order = np.argsort(distance, axis=0, kind="stable")
    return np.where(np.isfinite(np.take_along_axis(distance, order, axis=0)), order, -1)


def cut_tiles(tiles: pd.DataFrame, scenes: list[Scene], crs: str, read: Callable = None) -> tuple[list, list]:
    """Cut tiles from the scenes that cover them.

    Where several scenes show a whole tile, it comes from the scene with the nearest centre (on a tie, the lower
    ``scene_id``): the same choice every time. A scene shows a whole tile if no more than ``BLANK`` of its pixels are
    masked, or 0 in every band. ``read``, from ``open_scenes``, keeps scenes open for the next call.

    Returns
    -------
    images : for each tile (224, 224, 3) uint8 RGB, or None where no scene shows it whole.
    scene_ids : for each tile a str or None.
    """
    if read is None:
        with open_scenes(crs) as read:
            return cut_tiles(tiles, scenes, crs, read)
    images, scene_ids = [None] * len(tiles), [None] * len(tiles)
    scenes = sorted(scenes, key=lambda scene: scene.scene_id)
    row, col = tiles["row"].to_numpy(), tiles["col"].to_numpy()
    left = np.arange(len(tiles))
    for choice in scene_order(tiles, scenes, crs):
        for s in np.unique(choice[left][choice[left] >= 0]):
            for run in _runs(row, col, left[choice[left] == s]):
                for i, image in read(scenes[s], functools.partial(_read_run, row=row, col=col, run=run)):
                    images[i], scene_ids[i] = image, scenes[s].scene_id
        left = np.array([i for i in left if images[i] is None], dtype=int)
    return images, scene_ids


def _runs(row, col, wanted):
    """Neighbours in a row of the grid, row by row."""
    wanted = wanted[np.lexsort((col[wanted], -row[wanted]))]
    ends = np.flatnonzero((np.diff(row[wanted]) != 0) | (np.diff(col[wanted]) != 1)) + 1
    return np.split(wanted, ends)


def _read_run(scene, row, col, run):
    """``(i, image)`` for the tiles of a run that a scene shows whole."""
    left, bottom, right, top = scene.bounds
    # The footprint is a polygon in degrees; only the scene itself knows exactly how far its pixels reach.
    run = [i for i in run if col[i] * TILE_M >= left and (col[i] + 1) * TILE_M <= right
           and row[i] * TILE_M >= bottom and (row[i] + 1) * TILE_M <= top]
    if not run:
        return []
    first, last = col[run].min(), col[run].max()
    rgb, valid = _read_strip(scene, Window(col_off=round((first * TILE_M - left) / PIXEL_M),
                                           row_off=round((top - (row[run[0]] + 1) * TILE_M) / PIXEL_M),
                                           width=(last - first + 1) * TILE_PX, height=TILE_PX))
    columns = {i: slice((col[i] - first) * TILE_PX, (col[i] - first + 1) * TILE_PX) for i in run}
    return [(i, np.ascontiguousarray(rgb[:, :, columns[i]].transpose(1, 2, 0))) for i in run
            if (~valid[:, columns[i]]).mean() <= BLANK]


def _read_strip(scene, window):
    """RGB (3, h, w) uint8 of a window inside a scene, and validity (h, w) bool: not masked, nor 0 in every band."""
    colours = scene.read([i for i, c in zip(scene.indexes, scene.colorinterp) if c != ColorInterp.alpha], window=window)
    valid = colours.any(axis=0) & (scene.dataset_mask(window=window) > 0)
    return colours[[band - 1 for band in colour_bands(scene)]], valid

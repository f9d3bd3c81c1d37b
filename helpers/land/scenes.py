"""Rasters in and out: scenes, NLCD labels, maps. The only module that opens a raster."""

import contextlib
import logging
import os
import re
import time

import geopandas
import numpy as np
import rasterio
import rasterio.shutil
import rasterio.transform
import shapely
from pyproj import Geod
from rasterio.enums import ColorInterp, Resampling
from rasterio.vrt import WarpedVRT
from rasterio.warp import transform as transform_points, transform_bounds
from rasterio.windows import Window

from helpers import InputError
from helpers.land import downloads
from helpers.land.grid import TILE_M, TILE_PX, project

PIXEL_M = TILE_M / TILE_PX
# NLCD's pixels.
NLCD_M = 30
# Ground that one label request may look at around the tiles, so that pixels cut by the edge are seen whole.
_LABEL_MARGIN_M = 100.0
# Label pixels that are counted at a time.
_PIXELS_AT_ONCE = 1 << 20
# What GDAL keeps in a worker: a row of blocks of a scene of 12,500 px is 26 MB, and as much again of warped pixels.
CACHE_MB = 128
# A tile is dropped if a larger share of its pixels shows nothing.
BLANK = 0.01
# How GDAL reads over the network: no listing of folders, a slow server given up. It asks a busy one again once, and not
# when that wants to be asked: our own tries do that.
_REMOTE = {"GDAL_DISABLE_READDIR_ON_OPEN": "EMPTY_DIR", "GDAL_INGESTED_BYTES_AT_OPEN": 1 << 16,
           "GDAL_HTTP_MAX_RETRY": 1, "GDAL_HTTP_RETRY_DELAY": 1,
           "GDAL_HTTP_RETRY_CODES": ",".join(map(str, downloads.BUSY)), "GDAL_HTTP_CONNECTTIMEOUT": downloads.CONNECT_S,
           "GDAL_HTTP_LOW_SPEED_TIME": downloads.PIECE_S, "GDAL_HTTP_LOW_SPEED_LIMIT": 1,
           "GDAL_HTTP_MERGE_CONSECUTIVE_RANGES": "YES"}


def _open(href, kind):
    """Open a raster, or say in one sentence why it can't be used."""
    if not downloads.is_remote(href):
        try:
            # A file of one's own may have its overviews or its colours in a file beside it.
            with rasterio.Env(GDAL_DISABLE_READDIR_ON_OPEN="FALSE"):
                return rasterio.open(href)
        except rasterio.errors.RasterioIOError as error:
            came = "a broken file" if os.path.exists(href) else "no such file"
            raise InputError(f"expected a {kind} at {href}, got {came} ({_said(error)}). Bring the file again, or take "
                             "it out of the catalogue.") from None
    logger = logging.getLogger("rasterio._env")
    if _without_queries not in logger.filters:
        logger.addFilter(_without_queries)
    for attempt in range(downloads.TRIES):
        try:
            with _fresh() if attempt else rasterio.Env(**_REMOTE):
                return rasterio.open(downloads.signed(href)[0])
        except rasterio.errors.RasterioIOError as error:
            came = _said(error)
            downloads.ready(href, f"a {kind}")
            # All there, but no picture; or its beginning didn't come.
            if "not recognized" in came and attempt == 2:
                break
            time.sleep(downloads.BACKOFF_S * 2 ** attempt)
    # Without the cause: GDAL's own error shows the address with its token.
    raise InputError(f"expected a {kind} at {href}, got what can't be read ({came}). {downloads.OFFLINE}")


def _network(href):
    """GDAL's settings for a file, of a server or of this machine."""
    return rasterio.Env(**_REMOTE) if downloads.is_remote(href) else contextlib.nullcontext()


def _fresh():
    """GDAL's way to the network without what it has found there before: it takes a failure for final."""
    return rasterio.Env(CPL_VSIL_CURL_NON_CACHED="/vsicurl/http://:/vsicurl/https://", **_REMOTE)


def _broken(href, error):
    advice = (downloads.OFFLINE if downloads.is_remote(href)
              else "Bring the file again, or take it out of the catalogue.")
    return InputError(f"expected a whole scene at {href}, got one that breaks off ({_said(error)}). {advice}")


def _without_queries(record):
    """For logging: GDAL tells of its tries with the whole address."""
    record.msg, record.args = re.sub(r"\?[^\s']*", "", record.getMessage()), ()
    return True


def _said(error):
    """What GDAL says, without queries: a signed address has its signature there."""
    return re.sub(r"\?[^\s']*", "", str(error)).partition("\n")[0][:300].rstrip(".")


@contextlib.contextmanager
def open_scene(href, crs):
    """A scene as RGB pixels of 1 m on the tile grid.

    Parameters
    ----------
    href : str
        Path or URL of a raster with at least three uint8 bands: red, green, blue.
    crs : str
        The county's UTM zone; a scene in another CRS or resolution is warped: averaged from finer pixels,
        interpolated from coarser ones.

    Yields
    ------
    rasterio dataset
        With ``PIXEL_M`` pixels whose edges lie on whole metres.

    Raises
    ------
    InputError
        If the scene can't be opened, has fewer than three bands, is not uint8, or has no CRS.

    Notes
    -----
    Of a scene of 0.5 m or finer, the overview is read whose pixels are still no larger than ``PIXEL_M``: a quarter of
    the bytes. Made by averaging, as it should be, it gives the same picture but for some rounding; made by taking every
    second pixel, it would give a grainier one.
    """
    with contextlib.ExitStack() as stack:
        scene = stack.enter_context(_open(href, "scene"))
        if scene.count < 3 or set(scene.dtypes[:3]) != {"uint8"} or scene.crs is None:
            raise InputError(
                f"expected a scene with at least 3 bands of uint8 (red, green, blue) and a CRS, got {scene.count} "
                f"band(s) of {scene.dtypes[0]} {'without a CRS' if scene.crs is None else 'in ' + str(scene.crs)} "
                f"in {href}. Convert it, for example with gdal_translate -ot Byte -a_srs.")
        left, bottom, right, top = transform_bounds(scene.crs, crs, *scene.bounds, densify_pts=21)
        # The footprint tells the scene's ground resolution whatever the units of its CRS.
        resolution = np.sqrt((right - left) * (top - bottom) / (scene.width * scene.height))
        level = overview_level(resolution, scene.overviews(1))
        if level is not None:
            with _network(href):
                scene = stack.enter_context(rasterio.open(scene.name, OVERVIEW_LEVEL=level))
        if scene.nodata is None and ColorInterp.alpha in scene.colorinterp and not _is_alpha(scene, href):
            with _network(href):
                scene = stack.enter_context(_with_infrared(scene))
        to_metres = scene.transform
        on_grid = (scene.crs == rasterio.CRS.from_string(crs) and to_metres.is_rectilinear
                   and (to_metres.a, to_metres.e) == (PIXEL_M, -PIXEL_M)
                   and to_metres.c % PIXEL_M == 0 and to_metres.f % PIXEL_M == 0)
        if on_grid:
            yield scene
            return
        left, top = np.floor(left / PIXEL_M) * PIXEL_M, np.ceil(top / PIXEL_M) * PIXEL_M
        width, height = int(np.ceil((right - left) / PIXEL_M)), int(np.ceil((top - bottom) / PIXEL_M))
        with WarpedVRT(scene, crs=crs, width=width, height=height,
                       transform=rasterio.Affine(PIXEL_M, 0, left, 0, -PIXEL_M, top),
                       resampling=Resampling.average if resolution < PIXEL_M else Resampling.bilinear,
                       # A dark pixel may be 0 in one band: only 0 in every band is nodata.
                       UNIFIED_SRC_NODATA="YES",
                       add_alpha=scene.nodata is None and ColorInterp.alpha not in scene.colorinterp) as warped:
            yield warped


def overview_level(resolution, factors):
    """Which overview of a scene to read instead of its pixels: the coarsest that isn't coarser than ``PIXEL_M``.

    Parameters
    ----------
    resolution : float
        Metres per pixel of the scene.
    factors : list of int
        Of its overviews, from fine to coarse.

    Returns
    -------
    int or None
        Its number; None where the scene itself is read.
    """
    # A hundredth more is what a scene's width in degrees or another zone makes of 0.5 m.
    fine = [level for level, factor in enumerate(factors) if resolution * factor <= 1.01 * PIXEL_M]
    return fine[-1] if fine else None


def _is_alpha(scene, href):
    """Does the band that is declared as alpha say where there is a picture? Then it holds 0 and 255, and little
    between.
    """
    band = scene.colorinterp.index(ColorInterp.alpha) + 1
    # A few blocks: without overviews, a look at the whole band would be a download of all of it.
    height, width = scene.block_shapes[band - 1]
    windows = [scene.block_window(band, int(part * ((scene.height - 1) // height)),
                                  int(part * ((scene.width - 1) // width)))
               for part in (0.3, 0.5, 0.7)]
    try:
        look = np.concatenate([scene.read(band, window=window).ravel() for window in windows])
    except rasterio.errors.RasterioIOError as error:
        if downloads.is_remote(href):
            raise  # It may come when asked again.
        raise _broken(href, error) from None
    return ((look == 0) | (look == 255)).mean() > 0.9


def _with_infrared(scene):
    """A scene whose near infrared is declared as alpha, as many NAIP files are: a band like others.

    GDAL takes a band for alpha by what the file declares, so it reads a description of the file that declares
    otherwise.
    """
    with rasterio.MemoryFile(ext=".vrt") as memory:
        rasterio.shutil.copy(scene, memory.name, driver="VRT")
        description = memory.read().decode()
    description = description.replace("<ColorInterp>Alpha</ColorInterp>", "<ColorInterp>Undefined</ColorInterp>")
    return rasterio.open(re.sub(r"(<VRTRasterBand [^>]*>)", r"\1<NoDataValue>0</NoDataValue>", description))


def _read_strip(scene, window):
    """RGB (3, h, w) uint8 and validity (h, w) bool of a window that lies inside the scene.

    One rule for all kinds: what is masked, or 0 in every band, shows nothing, whether it is declared or not.
    """
    bands = scene.read(window=window)
    alpha = scene.colorinterp.index(ColorInterp.alpha) if ColorInterp.alpha in scene.colorinterp else None
    colours = bands if alpha is None else np.delete(bands, alpha, axis=0)
    valid = colours.any(axis=0)
    if alpha is not None:
        valid &= bands[alpha] > 0
    if scene.nodata:
        valid &= (colours != scene.nodata).any(axis=0)
    return bands[:3], valid


class _Scenes:
    """Opened scenes: call it with a scene to get its dataset, or ``again`` to open it anew."""

    def __init__(self, crs, stack):
        self.crs, self._stack, self._opened, self._outlines = crs, stack, {}, {}

    def __call__(self, scene):
        if scene.scene_id in self._opened:
            dataset, until, _ = self._opened[scene.scene_id]
            if time.time() < until:
                return dataset
            # Its token ends soon: opened anew, it gets another one.
            self._close(scene)
        own = self._stack.enter_context(contextlib.ExitStack())
        _, until = downloads.signed(scene.href)
        self._opened[scene.scene_id] = own.enter_context(open_scene(scene.href, self.crs)), until, own
        return self._opened[scene.scene_id][0]

    def _close(self, scene):
        self._opened.pop(scene.scene_id)[2].close()

    def again(self, scene):
        """Open a scene of a server anew, when that gives it out again, and with another token where it wants one."""
        if scene.scene_id in self._opened:
            self._close(scene)
        time.sleep(downloads.BACKOFF_S)
        downloads.ready(scene.href, "a scene")
        return self(scene)

    def outlines(self, scenes):
        """Footprints of scenes in the county's CRS, as an array."""
        new = [scene for scene in scenes if scene.scene_id not in self._outlines]
        if new:
            shapes = geopandas.GeoSeries([scene.footprint for scene in new], crs="EPSG:4326").to_crs(self.crs)
            self._outlines.update(zip((scene.scene_id for scene in new), shapes))
        return np.array([self._outlines[scene.scene_id] for scene in scenes])


@contextlib.contextmanager
def open_scenes(crs):
    """Scenes that stay open for many calls of ``cut_tiles``, each opened when it is first needed.

    What GDAL has read of them it keeps, so that a block that several strips of tiles share is read and unpacked once.
    It keeps at most ``CACHE_MB``.

    Yields
    ------
    callable
        A scene to its opened dataset, as from ``open_scene``.
    """
    # rasterio counts the cache in bytes.
    with rasterio.Env(GDAL_CACHEMAX=CACHE_MB << 20, **_REMOTE), contextlib.ExitStack() as stack:
        yield _Scenes(crs, stack)


def scene_order(tiles, outlines):
    """For each tile, scenes in the order in which to try them: the nearest centre first.

    Parameters
    ----------
    tiles : pandas.DataFrame
        ``row`` and ``col``.
    outlines : numpy.ndarray of shapely.Geometry
        Footprints of the scenes in the CRS of the grid.

    Returns
    -------
    numpy.ndarray
        Shape (scenes, N): positions in ``outlines``, -1 where there is none left that touches the tile. Of two as near,
        the first comes first.
    """
    row, col = tiles["row"].to_numpy(), tiles["col"].to_numpy()
    centres = shapely.centroid(outlines)
    distance = np.hypot(shapely.get_x(centres)[:, None] - (col + 0.5) * TILE_M,
                        shapely.get_y(centres)[:, None] - (row + 0.5) * TILE_M)
    squares = shapely.box(col * TILE_M, row * TILE_M, (col + 1) * TILE_M, (row + 1) * TILE_M)
    shapely.prepare(outlines)
    distance[~shapely.intersects(outlines[:, None], squares)] = np.inf
    order = np.argsort(distance, axis=0, kind="stable")
    return np.where(np.isfinite(np.take_along_axis(distance, order, axis=0)), order, -1)


def cut_tiles(tiles, scenes, crs, get=None):
    """Cut tiles from the scenes that cover them.

    Where scenes overlap, a tile comes from the one whose centre is nearest among those that show all of it
    (of two as near, the lower ``scene_id``): the same choice every time. A scene shows all of a tile if no more than
    ``BLANK`` of its pixels are masked, or 0 in every band.

    Parameters
    ----------
    tiles : pandas.DataFrame
        ``row`` and ``col``, any other columns.
    scenes : list of helpers.catalog.Scene
    crs : str
        The county's UTM zone.
    get : callable, optional
        From ``open_scenes``, to keep scenes open for the next call.

    Returns
    -------
    images : list of numpy.ndarray or None
        For each tile (224, 224, 3) uint8 RGB, or None where no scene shows all of it.
    scene_ids : list of str or None

    Notes
    -----
    A scene is opened when a tile is to come from it, and read a run of neighbouring tiles at a time.
    """
    if get is None:
        with open_scenes(crs) as get:
            return cut_tiles(tiles, scenes, crs, get)
    images, scene_ids = [None] * len(tiles), [None] * len(tiles)
    if not len(tiles) or not scenes:
        return images, scene_ids
    scenes = sorted(scenes, key=lambda scene: scene.scene_id)
    row, col = tiles["row"].to_numpy(), tiles["col"].to_numpy()
    open_tiles = np.arange(len(tiles))
    for choice in scene_order(tiles, get.outlines(scenes)):
        for s in np.unique(choice[open_tiles]):
            for run in _runs(row, col, open_tiles[choice[open_tiles] == s]) if s >= 0 else ():
                for i, image in _cut_run(get, scenes[s], row, col, run):
                    images[i], scene_ids[i] = image, scenes[s].scene_id
        open_tiles = np.array([i for i in open_tiles if images[i] is None], dtype=int)
        if not len(open_tiles):
            break
    return images, scene_ids


def _runs(row, col, wanted):
    """Neighbours in a row of the grid, row by row."""
    wanted = wanted[np.lexsort((col[wanted], -row[wanted]))]
    ends = np.flatnonzero((np.diff(row[wanted]) != 0) | (np.diff(col[wanted]) != 1)) + 1
    return np.split(wanted, ends) if len(wanted) else []


def _cut_run(get, scene, row, col, run):
    """Yield ``(i, image)`` for those of a run of tiles that a scene shows whole."""
    yield from with_tries(get, scene, lambda dataset: list(_read_run(dataset, row, col, run)))


def with_tries(get, scene, read):
    """Read from a scene; where a server breaks off, open it anew and read again.

    Parameters
    ----------
    get : callable
        From ``open_scenes``.
    scene : helpers.catalog.Scene
    read : callable
        Gets the opened dataset.

    Returns
    -------
    What ``read`` returns.

    Raises
    ------
    InputError
        If it can't be read after ``downloads.TRIES`` tries; a file of this machine after one.
    """
    for attempt in range(downloads.TRIES if downloads.is_remote(scene.href) else 1):
        try:
            return read(get.again(scene) if attempt else get(scene))
        except rasterio.errors.RasterioIOError as failure:
            error = failure
    # Without the cause: GDAL's own error shows the address with its token.
    raise _broken(scene.href, error) from None


def _read_run(dataset, row, col, run):
    left, bottom, right, top = dataset.bounds
    # The footprint is a polygon in degrees: whether the pixels reach as far, the scene itself says.
    run = [i for i in run if col[i] * TILE_M >= left and (col[i] + 1) * TILE_M <= right
           and row[i] * TILE_M >= bottom and (row[i] + 1) * TILE_M <= top]
    if not run:
        return
    first, last = col[run].min(), col[run].max()
    window = Window(col_off=round((first * TILE_M - left) / PIXEL_M),
                    row_off=round((top - (row[run[0]] + 1) * TILE_M) / PIXEL_M),
                    width=(last - first + 1) * TILE_PX, height=TILE_PX)
    rgb, valid = _read_strip(dataset, window)
    for i in run:
        columns = slice((col[i] - first) * TILE_PX, (col[i] - first + 1) * TILE_PX)
        if (~valid[:, columns]).mean() <= BLANK:
            yield i, np.ascontiguousarray(rgb[:, :, columns].transpose(1, 2, 0))


def block_facts(href, crs):
    """What reading a scene costs, from its header.

    Parameters
    ----------
    href, crs
        As for ``open_scene``.

    Returns
    -------
    pixel_m : float
        Of the pixels that are read: the scene's, or those of an overview.
    block_px : tuple of int
        ``(height, width)``.
    block_bytes : float
        Of a block with all its bands: the mean of some.
    """
    with _network(href), _open(href, "scene") as scene:
        left, bottom, right, top = transform_bounds(scene.crs, crs, *scene.bounds, densify_pts=21)
        pixel_m = float(np.sqrt((right - left) * (top - bottom) / (scene.width * scene.height)))
        level = overview_level(pixel_m, scene.overviews(1))
        with contextlib.ExitStack() as stack:
            used = scene if level is None else stack.enter_context(rasterio.open(scene.name, OVERVIEW_LEVEL=level))
            height, width = used.block_shapes[0]
            bands = range(1, used.count + 1) if used.interleaving == rasterio.enums.Interleaving.band else [1]
            down, across = -(-used.height // height), -(-used.width // width)
            # Blocks at the scene's edge are the cheaper ones for being blank in part.
            chosen = {(int(down * a), int(across * b)) for a in (0.25, 0.4, 0.6, 0.75) for b in (0.25, 0.4, 0.6, 0.75)}
            ns = {} if level is None else {"ovr": level}
            sizes = [sum(int(scene.get_tag_item(f"BLOCK_SIZE_{j}_{i}", "TIFF", bidx=band, **ns) or 0) for band in bands)
                     for i, j in chosen]
            return pixel_m * scene.width / used.width, (height, width), float(np.mean(sizes))


def footprint(href):
    """Where a scene lies, and how fine it is.

    Parameters
    ----------
    href : str

    Returns
    -------
    footprint : shapely.Geometry
        Longitude and latitude.
    resolution : float
        Metres per pixel.

    Raises
    ------
    InputError
        If the scene can't be opened, or has no CRS.
    """
    with _open(href, "scene") as scene:
        if scene.crs is None:
            raise InputError(f"expected a scene with a CRS, got {href} without one. Give it one, for example with "
                             "gdal_translate -a_srs.")
        # As fine as the ground between two neighbouring pixels in the middle, whatever the units.
        x, y = rasterio.transform.xy(scene.transform, [scene.height // 2] * 2, [scene.width // 2, scene.width // 2 + 1])
        longitude, latitude = transform_points(scene.crs, "EPSG:4326", x, y)
        resolution = Geod(ellps="GRS80").inv(longitude[0], latitude[0], longitude[1], latitude[1])[2]
        return project(shapely.segmentize(shapely.box(*scene.bounds), scene.res[0] * scene.width / 20), "EPSG:4326",
                       source=scene.crs), round(resolution, 2)


# ---- for the eye: what figures show

def read_overview(href, crs, pixel_m=20.0):
    """A scene, small enough to look at.

    Parameters
    ----------
    href : str
        As for ``open_scene``.
    crs : str
        The county's UTM zone.
    pixel_m : float
        Size of a pixel of the overview, in metres, about.

    Returns
    -------
    rgb : numpy.ndarray
        Shape (h, w, 3), uint8; black where the scene has no data.
    bounds : tuple of float
        ``(left, bottom, right, top)`` in metres.
    """
    with _network(href), open_scene(href, crs) as scene:
        shape = tuple(max(1, round(pixels * PIXEL_M / pixel_m)) for pixels in scene.shape)
        try:
            rgb = scene.read((1, 2, 3), out_shape=(3, *shape), resampling=Resampling.average)
            valid = (scene.dataset_mask(out_shape=shape) > 0 if scene.nodata is None
                     else (rgb != scene.nodata).any(axis=0))
        except rasterio.errors.RasterioIOError as error:
            raise _broken(href, error) from None
        rgb[:, ~valid] = 0
        return rgb.transpose(1, 2, 0), tuple(scene.bounds)

"""Rasters in and out: scenes, NLCD labels, maps. The only module that opens a raster."""

import contextlib
import os
import re
import time
from xml.sax.saxutils import escape

import numpy as np
import rasterio
import rasterio.shutil
import rasterio.transform
import shapely
from pyproj import Geod
from rasterio.enums import ColorInterp, Resampling
from rasterio.vrt import WarpedVRT
from rasterio.warp import transform as transform_points
from rasterio.warp import transform_bounds
from rasterio.windows import Window

from helpers import InputError, downloads
from helpers.grid import TILE_M, TILE_PX, nine_points, project, tile_of, tile_polygons
from helpers.landcover import NODATA_CODE, check_codes
from helpers.runs import whole_file

PIXEL_M = TILE_M / TILE_PX
# Ground that one label request may look at around the tiles, so that pixels cut by the edge are seen whole.
_LABEL_MARGIN_M = 100.0
# Blocks of scenes that GDAL keeps in a worker: a row of blocks of three scenes of 3,600 px is some 22 MB.
CACHE_MB = 64


# How GDAL reads over the network: no listing of folders, a busy server is asked again, a slow one given up.
_REMOTE = {"GDAL_HTTP_MAX_RETRY": downloads.TRIES, "GDAL_HTTP_RETRY_DELAY": 1,
           "GDAL_HTTP_RETRY_CODES": ",".join(map(str, downloads.BUSY)), "GDAL_HTTP_CONNECTTIMEOUT": downloads.CONNECT_S,
           "GDAL_HTTP_LOW_SPEED_TIME": downloads.PIECE_S, "GDAL_HTTP_LOW_SPEED_LIMIT": 1,
           "GDAL_HTTP_MERGE_CONSECUTIVE_RANGES": "YES"}


def _open(href, kind):
    """Open a raster, or say in one sentence why it can't be used."""
    remote = downloads.is_remote(href)
    try:
        if not remote:
            return rasterio.open(href)
        with rasterio.Env(GDAL_DISABLE_READDIR_ON_OPEN="EMPTY_DIR", **_REMOTE):
            return rasterio.open(downloads.signed(href)[0])
    except rasterio.errors.RasterioIOError as error:
        came = "a broken file" if remote or os.path.exists(href) else "no such file"
        raise InputError(f"expected a {kind} at {href}, got {came} ({_said(error)}). "
                         "Bring the file again, or take it out of the catalogue.") from error


def _broken(scene, error):
    return InputError(f"expected a whole scene at {_said(scene.name)}, got one that breaks off ({_said(error)}). "
                      "Bring the file again, or take it out of the catalogue.")


def _said(error):
    """What GDAL says, without queries: a signed address has its signature there."""
    return re.sub(r"\?[^\s']*", "", str(error))


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
    """
    with contextlib.ExitStack() as stack:
        scene = stack.enter_context(_open(href, "scene"))
        if scene.count < 3 or set(scene.dtypes[:3]) != {"uint8"} or scene.crs is None:
            raise InputError(
                f"expected a scene with at least 3 bands of uint8 (red, green, blue) and a CRS, got {scene.count} "
                f"band(s) of {scene.dtypes[0]} {'without a CRS' if scene.crs is None else 'in ' + str(scene.crs)} "
                f"in {href}. Convert it, for example with gdal_translate -ot Byte -a_srs.")
        if scene.nodata is None and ColorInterp.alpha in scene.colorinterp and not _is_alpha(scene):
            scene = stack.enter_context(_with_infrared(scene))
        to_metres = scene.transform
        on_grid = (scene.crs == rasterio.CRS.from_string(crs) and to_metres.is_rectilinear
                   and (to_metres.a, to_metres.e) == (PIXEL_M, -PIXEL_M)
                   and to_metres.c % PIXEL_M == 0 and to_metres.f % PIXEL_M == 0)
        if on_grid:
            yield scene
            return
        left, bottom, right, top = transform_bounds(scene.crs, crs, *scene.bounds, densify_pts=21)
        left, top = np.floor(left / PIXEL_M) * PIXEL_M, np.ceil(top / PIXEL_M) * PIXEL_M
        width, height = int(np.ceil((right - left) / PIXEL_M)), int(np.ceil((top - bottom) / PIXEL_M))
        # The footprint tells the scene's ground resolution whatever the units of its CRS.
        finer = (right - left) * (top - bottom) / (scene.width * scene.height) < PIXEL_M ** 2
        with WarpedVRT(scene, crs=crs, width=width, height=height,
                       transform=rasterio.Affine(PIXEL_M, 0, left, 0, -PIXEL_M, top),
                       resampling=Resampling.average if finer else Resampling.bilinear,
                       # A dark pixel may be 0 in one band: only 0 in every band is nodata.
                       UNIFIED_SRC_NODATA="YES",
                       add_alpha=scene.nodata is None and ColorInterp.alpha not in scene.colorinterp) as warped:
            yield warped


def _is_alpha(scene):
    """Does the band that is declared as alpha say where there is a picture? Then it holds 0 and 255, and little between."""
    band = scene.colorinterp.index(ColorInterp.alpha) + 1
    try:
        look = scene.read(band, out_shape=(min(64, scene.height), min(64, scene.width)))
    except rasterio.errors.RasterioIOError as error:
        raise _broken(scene, error) from error
    return ((look == 0) | (look == 255)).mean() > 0.9


def _with_infrared(scene):
    """A scene whose near infrared is declared as alpha, as many NAIP files are: a band like others, nodata where all are 0.

    GDAL takes a band for alpha by what the file declares, so it reads a description of the file that declares otherwise.
    """
    with rasterio.MemoryFile(ext=".vrt") as memory:
        rasterio.shutil.copy(scene, memory.name, driver="VRT")
        description = memory.read().decode()
    description = description.replace("<ColorInterp>Alpha</ColorInterp>", "<ColorInterp>Undefined</ColorInterp>")
    return rasterio.open(re.sub(r"(<VRTRasterBand [^>]*>)", r"\1<NoDataValue>0</NoDataValue>", description))


def _read_strip(scene, window):
    """RGB (3, h, w) uint8 and validity (h, w) bool of a window that lies inside the scene."""
    rgb = scene.read((1, 2, 3), window=window)
    if scene.nodata is not None:
        bands = scene.read(window=window) if scene.count > 3 else rgb
        return rgb, (bands != scene.nodata).any(axis=0)
    return rgb, scene.dataset_mask(window=window) > 0


@contextlib.contextmanager
def open_scenes(crs):
    """Scenes that stay open for many calls of ``cut_tiles``, each opened when it is first needed.

    What GDAL has read of them it keeps, so that a block that several strips of tiles share is read and unpacked once. It
    keeps at most ``CACHE_MB``.

    Yields
    ------
    callable
        A scene to its opened dataset, as from ``open_scene``.
    """
    # rasterio counts the cache in bytes.
    with rasterio.Env(GDAL_CACHEMAX=CACHE_MB << 20, **_REMOTE), contextlib.ExitStack() as stack:
        opened = {}

        def get(scene):
            if scene.scene_id in opened:
                dataset, until, own = opened[scene.scene_id]
                if time.time() < until:
                    return dataset
                # Its token ends soon: opened anew, it gets another one.
                own.close()
            own = stack.enter_context(contextlib.ExitStack())
            _, until = downloads.signed(scene.href)
            opened[scene.scene_id] = own.enter_context(open_scene(scene.href, crs)), until, own
            return opened[scene.scene_id][0]
        yield get


def cut_tiles(tiles, scenes, crs, get=None):
    """Cut tiles from the scenes that cover them.

    Where scenes overlap, a tile comes from the one whose centre is nearest among those that show all of it
    (of two as near, the lower ``scene_id``): the same choice every time.

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
    A scene is read a strip of tiles at a time.
    """
    if get is None:
        with open_scenes(crs) as get:
            return cut_tiles(tiles, scenes, crs, get)
    row, col = tiles["row"].to_numpy(), tiles["col"].to_numpy()
    x, y = (col + 0.5) * TILE_M, (row + 0.5) * TILE_M
    ground = project(shapely.box(x.min() - TILE_M, y.min() - TILE_M, x.max() + TILE_M, y.max() + TILE_M),
                     "EPSG:4326", source=crs)
    scenes = sorted((scene for scene in scenes if shapely.intersects(scene.footprint, ground)),
                    key=lambda scene: scene.scene_id)
    if not scenes:
        return [None] * len(tiles), [None] * len(tiles)
    opened = [get(scene) for scene in scenes]
    extents = np.array([scene.bounds for scene in opened])
    distance = np.hypot(extents[:, [0, 2]].mean(axis=1)[:, None] - x, extents[:, [1, 3]].mean(axis=1)[:, None] - y)
    covers = ((extents[:, 0, None] <= x - TILE_M / 2) & (extents[:, 2, None] >= x + TILE_M / 2)
              & (extents[:, 1, None] <= y - TILE_M / 2) & (extents[:, 3, None] >= y + TILE_M / 2))
    distance[~covers] = np.inf
    order = np.argsort(distance, axis=0, kind="stable")
    images, scene_ids = [None] * len(tiles), [None] * len(tiles)
    open_tiles = np.arange(len(tiles))
    for rank in range(len(scenes)):
        choice = order[rank, open_tiles]
        reachable = np.isfinite(distance[choice, open_tiles])
        for s in np.unique(choice[reachable]):
            wanted = open_tiles[reachable & (choice == s)]
            for strip_row in np.unique(row[wanted]):
                strip = wanted[row[wanted] == strip_row]
                for i, image in _cut_strip(opened[s], strip_row, col, strip):
                    images[i], scene_ids[i] = image, scenes[s].scene_id
        open_tiles = np.array([i for i in open_tiles if images[i] is None], dtype=int)
        if not len(open_tiles):
            break
    return images, scene_ids


def _cut_strip(scene, strip_row, col, strip):
    """Yield ``(i, image)`` for the tiles ``strip`` of one grid row that a scene shows whole."""
    first, last = col[strip].min(), col[strip].max()
    left, top = scene.bounds.left, scene.bounds.top
    window = Window(col_off=round((first * TILE_M - left) / PIXEL_M),
                    row_off=round((top - (strip_row + 1) * TILE_M) / PIXEL_M),
                    width=(last - first + 1) * TILE_PX, height=TILE_PX)
    try:
        rgb, valid = _read_strip(scene, window)
    except rasterio.errors.RasterioIOError as error:
        raise _broken(scene, error) from error
    for i in strip:
        columns = slice((col[i] - first) * TILE_PX, (col[i] - first + 1) * TILE_PX)
        if valid[:, columns].all():
            yield i, np.ascontiguousarray(rgb[:, :, columns].transpose(1, 2, 0))


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


def check_labels(content, what):
    """Refuse a downloaded raster that isn't whole, or isn't NLCD.

    Parameters
    ----------
    content : bytes
        Of a GeoTIFF.
    what : str
        How it is called in an error.

    Raises
    ------
    InputError
    """
    try:
        with rasterio.MemoryFile(content) as memory, memory.open() as raster:
            codes, nodata, crs = raster.read(1), raster.nodata, raster.crs
    except rasterio.errors.RasterioIOError as error:
        raise InputError(f"expected {what} as a whole GeoTIFF, got one that breaks off ({error}). "
                         f"{downloads.OFFLINE}") from error
    if crs is None:
        raise InputError(f"expected {what} with a CRS, got a GeoTIFF without one. {downloads.OFFLINE}")
    check_codes(codes[(codes != (NODATA_CODE if nodata is None else nodata)) & (codes != NODATA_CODE) & (codes != 0)], what)


def label_counts(href, tiles, crs):
    """Count the NLCD pixels in tiles, and read the codes at their nine points.

    A pixel belongs to the tile that holds its centre, so every pixel is counted once.

    Parameters
    ----------
    href : str
        Path or URL of an NLCD raster in any CRS.
    tiles : pandas.DataFrame
        ``row`` and ``col``.
    crs : str
        The CRS of the tile grid.

    Returns
    -------
    counts : numpy.ndarray
        Shape (N, 256), int32: pixels of each code in each tile; nodata is not counted.
    nine : numpy.ndarray
        Shape (N, 9), uint8: the codes at ``grid.nine_points``, ``landcover.NODATA_CODE`` outside the raster.

    Raises
    ------
    InputError
        If the raster can't be opened, has no CRS, or holds codes that are not NLCD's.
    """
    row, col = tiles["row"].to_numpy(), tiles["col"].to_numpy()
    bounds = (col.min() * TILE_M - _LABEL_MARGIN_M, row.min() * TILE_M - _LABEL_MARGIN_M,
              (col.max() + 1) * TILE_M + _LABEL_MARGIN_M, (row.max() + 1) * TILE_M + _LABEL_MARGIN_M)
    with _open(href, "NLCD raster") as raster:
        if raster.crs is None:
            raise InputError(f"expected an NLCD raster with a CRS, got {href} without one. "
                             "Give it one, for example with gdal_translate -a_srs EPSG:5070.")
        window = raster.window(*transform_bounds(crs, raster.crs, *bounds, densify_pts=21))
        r0, c0 = max(0, int(np.floor(window.row_off))), max(0, int(np.floor(window.col_off)))
        r1 = min(raster.height, int(np.ceil(window.row_off + window.height)))
        c1 = min(raster.width, int(np.ceil(window.col_off + window.width)))
        if r1 <= r0 or c1 <= c0:
            raise InputError(f"expected an NLCD raster over the county, got {href} with bounds {raster.bounds} "
                             f"in {raster.crs.to_string()[:60]}. Choose the raster of this place.")
        try:
            codes = raster.read(1, window=Window(col_off=c0, row_off=r0, width=c1 - c0, height=r1 - r0))
        except rasterio.errors.RasterioIOError as error:
            raise InputError(f"expected a whole NLCD raster at {href}, got one that breaks off ({error}). "
                             "Bring the file again.") from error
        nodata = NODATA_CODE if raster.nodata is None else int(raster.nodata)
        to_map = raster.transform * rasterio.Affine.translation(c0, r0)
        raster_crs = raster.crs
    # 0 is what NLCD files carry outside the mapped area, declared as nodata or not.
    known = (codes != nodata) & (codes != NODATA_CODE) & (codes != 0)
    check_codes(codes[known], href)
    codes = np.where(known, codes, NODATA_CODE).astype(np.uint8)

    pixel_row, pixel_col = np.indices(codes.shape)
    mx, my = rasterio.transform.xy(to_map, pixel_row.ravel(), pixel_col.ravel())
    x, y = map(np.asarray, transform_points(raster_crs, crs, mx, my))
    in_row, in_col = tile_of(x, y)
    # Tile of each pixel through a dense lookup over the tiles' bounding box.
    height, width = row.max() - row.min() + 1, col.max() - col.min() + 1
    index = np.full((height, width), -1)
    index[row - row.min(), col - col.min()] = np.arange(len(tiles))
    inside = ((in_row >= row.min()) & (in_row <= row.max()) & (in_col >= col.min()) & (in_col <= col.max())
              & known.ravel())
    tile = index[in_row[inside] - row.min(), in_col[inside] - col.min()]
    counts = np.zeros((len(tiles), 256), dtype=np.int32)
    np.add.at(counts, (tile[tile >= 0], codes.ravel()[inside][tile >= 0]), 1)

    px, py = nine_points(row, col)
    nx, ny = map(np.asarray, transform_points(crs, raster_crs, px.ravel(), py.ravel()))
    nr, nc = map(np.asarray, rasterio.transform.rowcol(to_map, nx, ny))
    nine = np.full(len(nr), NODATA_CODE, dtype=np.uint8)
    seen = (nr >= 0) & (nr < codes.shape[0]) & (nc >= 0) & (nc < codes.shape[1])
    nine[seen] = codes[nr[seen], nc[seen]]
    return counts, nine.reshape(-1, 9)


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
    with open_scene(href, crs) as scene:
        shape = tuple(max(1, round(pixels * PIXEL_M / pixel_m)) for pixels in scene.shape)
        rgb = scene.read((1, 2, 3), out_shape=(3, *shape), resampling=Resampling.average)
        valid = scene.dataset_mask(out_shape=shape) > 0 if scene.nodata is None else (rgb != scene.nodata).any(axis=0)
        rgb[:, ~valid] = 0
        return rgb.transpose(1, 2, 0), tuple(scene.bounds)


def read_labels(href, bounds, crs):
    """NLCD pixels as they lie on the ground: for looking at; ``label_counts`` does the counting.

    Parameters
    ----------
    href : str
        Path or URL of an NLCD raster in any CRS.
    bounds : tuple of float
        ``(left, bottom, right, top)`` in metres.
    crs : str
        The CRS of ``bounds``.

    Returns
    -------
    codes : numpy.ndarray
        Shape (h, w), uint8, in the raster's own projection; ``landcover.NODATA_CODE`` beyond it.
    corners : numpy.ndarray
        Shape (h, w, 4, 2): x and y of each pixel's corners in ``crs``, from the upper left clockwise.
    """
    with _open(href, "NLCD raster") as raster:
        window = raster.window(*transform_bounds(crs, raster.crs, *bounds, densify_pts=21))
        r0, c0 = int(np.floor(window.row_off)), int(np.floor(window.col_off))
        height = int(np.ceil(window.row_off + window.height)) - r0
        width = int(np.ceil(window.col_off + window.width)) - c0
        window = Window(col_off=c0, row_off=r0, width=width, height=height)
        codes = raster.read(1, window=window, boundless=True, fill_value=NODATA_CODE)
        edge_row, edge_col = np.indices((height + 1, width + 1))
        mx, my = raster.transform * np.stack([edge_col.ravel() + c0, edge_row.ravel() + r0])
        x, y = transform_points(raster.crs, crs, mx, my)
    edges = np.stack([x, y], axis=-1).reshape(height + 1, width + 1, 2)
    return codes, np.stack([edges[:-1, :-1], edges[:-1, 1:], edges[1:, 1:], edges[1:, :-1]], axis=2)


# ---- maps that others open

def write_map(path, grid, crs, legend, tags=None, nodata=255, description=None):
    """Write a map with one pixel for each tile as a Cloud-Optimized GeoTIFF with a colour table.

    Parameters
    ----------
    path : str or pathlib.Path
        File to write; it appears whole or not at all.
    grid : helpers.change.TileGrid
        ``values``, (height, width) integers, north-up; ``top_row`` and ``left_col`` say where they lie. Values that
        are not in the legend become nodata.
    crs : str
        The county's UTM zone.
    legend : dict
        Value to ``(name, "#rrggbb")``, as ``landcover.NLCD_LEGEND``.
    tags : dict of str, optional
        What else the file says of itself; the legend's names are always in it, as ``VALUE_0`` and so on.
    nodata : int
    description : str, optional
        Of the band.

    Notes
    -----
    GeoTIFF has no place for the names of categories, so they lie in ``<path>.aux.xml``, where GDAL looks for them.
    """
    values = np.where(np.isin(grid.values, list(legend)), grid.values, nodata).astype(np.uint8)
    height, width = values.shape
    profile = dict(driver="GTiff", width=width, height=height, count=1, dtype="uint8", crs=crs, nodata=nodata,
                   transform=rasterio.transform.from_origin(grid.left_col * TILE_M, (grid.top_row + 1) * TILE_M,
                                                            TILE_M, TILE_M))
    names = {f"VALUE_{value}": name for value, (name, _) in legend.items()}
    with whole_file(path) as part, rasterio.MemoryFile() as memory:
        with memory.open(**profile) as plain:
            plain.write(values, 1)
            plain.write_colormap(1, {value: tuple(bytes.fromhex(colour[1:])) + (255,)
                                     for value, (_, colour) in legend.items()})
            plain.update_tags(**dict(names, AREA_OR_POINT="Area", **(tags or {})))
            if description:
                plain.set_band_description(1, description)
        with memory.open() as plain:
            # Overviews of classes take the commonest value: an average of class ids means nothing.
            rasterio.shutil.copy(plain, str(part), driver="COG", compress="DEFLATE", overview_resampling="MODE")
    categories = "".join("<Category>{}</Category>".format(escape(legend[value][0] if value in legend else ""))
                         for value in range(max(legend) + 1))
    with whole_file(str(path) + ".aux.xml") as part:
        part.write_text('<PAMDataset><PAMRasterBand band="1"><CategoryNames>{}</CategoryNames></PAMRasterBand>'
                        '</PAMDataset>\n'.format(categories), encoding="utf-8")


def write_tiles(path, tiles, crs):
    """Write tiles as GeoParquet: a square of 224 m for each row, with all its columns.

    Parameters
    ----------
    path : str or pathlib.Path
        File to write; it appears whole or not at all.
    tiles : pandas.DataFrame
        With ``row`` and ``col``.
    crs : str
        The county's UTM zone.
    """
    with whole_file(path) as part:
        tile_polygons(tiles, crs).to_parquet(part, index=False)

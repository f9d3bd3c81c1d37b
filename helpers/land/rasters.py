"""Rasters of this machine and of servers: opened, or refused in one sentence that shows no token."""

import contextlib
import logging
import os
import re
import warnings
from urllib.parse import urlsplit
from urllib.request import url2pathname

import numpy as np
import pyproj
import rasterio
import shapely
from rasterio.enums import ColorInterp
from rasterio.errors import NotGeoreferencedWarning, RasterioIOError

from helpers import InputError
from helpers.land import downloads
from helpers.land.grid import project
from helpers.uri import shown

# How GDAL reads over the network: it lists no folders and gives up a slow server. It asks a busy one again only once,
# and without heeding when that wants to be asked: our own tries do.
REMOTE = {"GDAL_DISABLE_READDIR_ON_OPEN": "EMPTY_DIR", "GDAL_INGESTED_BYTES_AT_OPEN": 1 << 16,
          "GDAL_HTTP_MAX_RETRY": 1, "GDAL_HTTP_RETRY_DELAY": 1,
          "GDAL_HTTP_RETRY_CODES": ",".join(map(str, downloads.BUSY)), "GDAL_HTTP_CONNECTTIMEOUT": downloads.CONNECT_S,
          "GDAL_HTTP_LOW_SPEED_TIME": downloads.BLOCK_S, "GDAL_HTTP_LOW_SPEED_LIMIT": 100,
          "GDAL_HTTP_TIMEOUT": downloads.WHOLE_S,
          "GDAL_HTTP_MERGE_CONSECUTIVE_RANGES": "YES"}
# GDAL takes a failure for final: for another try it has to forget what it found before.
_FRESH = {"CPL_VSIL_CURL_NON_CACHED": "/vsicurl/http://:/vsicurl/https://", **REMOTE}
# What to do about a label raster that lies elsewhere.
ELSEWHERE = ("Choose the raster of this county. If this is it, the CRS in the file may be wrong: state the right one "
             "behind its name, TUTORIAL_LABELS=FILE#crs=EPSG:5070.")
_BRING_AGAIN = "Bring the file again, or take it out of the catalogue."
# In the text of an error: queries, in which signed addresses have their signature, and users with their passwords.
_SECRET = re.compile(r"\?[^\s']*|(?<=//)[^/\s'@]*@")
# GDAL unpacks a block as a whole, and a small file may claim a block of any size.
_BLOCK_BYTES = 1 << 30


def open_raster(href: str, kind: str, **options) -> rasterio.DatasetReader:
    """Open a raster with GDAL's options, or say in one sentence why it can't be used; ``kind`` names it there.

    The CRS behind a local file's name, ``nlcd_2016.tif#crs=EPSG:5070``, takes the place of the one in the file. GDAL
    knows formats that read other files: only GeoTIFF is opened, and of this machine ERDAS Imagine (``.img``) too.
    """
    if not downloads.is_remote(href):
        path, crs = split_crs(href)
        if crs and "?" in path:
            raise InputError(f"expected a name without a question mark before #crs=, got {path}. Rename the file.")
        driver = "HFA" if path.lower().endswith(".img") else "GTiff"
        try:
            # A file of one's own may have its overviews, its mask or its colours in a file beside it.
            with rasterio.Env(GDAL_DISABLE_READDIR_ON_OPEN="FALSE"):
                raster = _checked(path, href, kind, driver, options)
                if crs:
                    raster.close()
                    raster = rasterio.open(f"vrt://{path}?a_srs={crs}", **options)
                return raster
        except RasterioIOError as error:
            came = "a broken file" if os.path.exists(path) else "no such file"
            raise InputError(f"expected a {kind} at {shown(href)}, got {came} ({said(error)}). {_BRING_AGAIN}"
                             ) from None
    logger = logging.getLogger("rasterio._env")
    if _without_queries not in logger.filters:
        logger.addFilter(_without_queries)

    def open_once(attempt):
        if attempt:
            downloads.ready(href, f"a {kind}")
        with rasterio.Env(**_FRESH if attempt else REMOTE):
            return _checked(downloads.signed(href)[0], href, kind, "GTiff", options)
    try:
        return downloads.again(open_once, RasterioIOError)
    except RasterioIOError as error:
        # Without the cause: GDAL's own error shows the address with its token.
        raise InputError(f"expected a {kind} at {shown(href)}, got a file that can't be read ({said(error)}). "
                         f"{downloads.OFFLINE}") from None


def _checked(path, href, kind, driver, options):
    """A raster that lies in its own file, and in blocks that fit into memory."""
    if not (downloads.is_remote(path) or os.path.exists(path)):
        raise RasterioIOError("No such file or directory")  # GDAL would read a description of a raster from the name.
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", NotGeoreferencedWarning)  # ``outline`` says it in one sentence.
        raster = rasterio.open(path, driver=driver, **options)
    with contextlib.ExitStack() as stack:
        stack.callback(raster.close)
        if downloads.is_remote(href) and raster.tags(ns="OVERVIEWS"):
            raise InputError(f"expected a {kind} in one file at {shown(href)}, got one that names another file for its "
                             f"overviews. {_BRING_AGAIN}")
        most = max(h * w * np.dtype(t).itemsize for (h, w), t in zip(raster.block_shapes, raster.dtypes))
        if most * raster.count > _BLOCK_BYTES:
            raise InputError(f"expected a {kind} in blocks of at most {_BLOCK_BYTES >> 20} MB at {shown(href)}, got "
                             f"{most * raster.count >> 20} MB. Tile it, for example with gdal_translate -of COG.")
        stack.pop_all()
    return raster


def split_crs(href: str) -> tuple:
    """The path of a raster, and the CRS that the user states behind it; empty where there is none."""
    path, mark, crs = str(href).partition("#crs=")
    if path.startswith("file://"):
        path = url2pathname(urlsplit(path).path)
    if mark:
        try:
            rasterio.crs.CRS.from_user_input(crs)
        except rasterio.errors.CRSError:
            raise InputError(f"expected a CRS such as EPSG:5070 behind #crs= of {path}, got {crs!r}. Correct "
                             "it.") from None
    return path, crs


def network(href: str):
    """GDAL's settings for reading a file, of a server or of this machine."""
    return rasterio.Env(**REMOTE) if downloads.is_remote(href) else contextlib.nullcontext()


def broken(href: str, error: Exception) -> InputError:
    advice = downloads.OFFLINE if downloads.is_remote(href) else _BRING_AGAIN
    return InputError(f"expected a whole scene at {shown(href)}, got one that breaks off ({said(error)}). {advice}")


@contextlib.contextmanager
def whole(href: str):
    """Say of a scene that breaks off where it is read that it does."""
    try:
        yield
    except RasterioIOError as error:
        raise broken(href, error) from None


def said(error: Exception) -> str:
    """The first line of an error, without what may be secret in its addresses."""
    return _SECRET.sub("", str(error).strip().partition("\n")[0])[:300].rstrip(".")


def _without_queries(record):
    """For logging: GDAL tells of its tries with the whole address."""
    record.msg, record.args = _SECRET.sub("", record.getMessage()), ()
    return True


def outline(raster: rasterio.DatasetReader, crs: str, name: str) -> shapely.Geometry:
    """Where a raster lies in a CRS, whatever way its rows run; errors call it ``name``."""
    to_map = raster.transform
    if raster.crs is None or to_map.is_identity or to_map.is_degenerate:
        lacks = "a CRS" if raster.crs is None else "a position on the map"
        raise InputError(f"expected a raster with a CRS and a position, got {shown(name)} without {lacks}. Give it "
                         "both, for example with gdal_translate -a_srs -a_ullr.")
    edge = shapely.segmentize(shapely.box(0, 0, raster.width, raster.height), max(raster.shape) / 20)
    try:
        place = project(shapely.transform(edge, lambda xy: np.stack(to_map * xy.T, axis=1)), crs, source=raster.crs)
        if np.isfinite(place.bounds).all():
            return place
    except (pyproj.exceptions.ProjError, ValueError):
        pass  # As if it lay nowhere.
    raise InputError(f"expected a raster on the Earth, got {shown(name)}, which has no place in {crs}. Correct its CRS "
                     "or its position.")


def footprint(href: str) -> shapely.Geometry:
    """Where a raster lies, in longitude and latitude."""
    with open_raster(href, "scene") as scene:
        return outline(scene, "EPSG:4326", href)


def colour_bands(raster: rasterio.DatasetReader) -> list:
    """The bands that are declared as red, green and blue, or described so; the first three where none are.

    Raises
    ------
    InputError
        If the first three are declared as other colours, such as near infrared, red and green.
    """
    colours = ColorInterp.red, ColorInterp.green, ColorInterp.blue
    described = [str(text).strip().lower() for text in raster.descriptions]
    for declared, wanted in ((list(raster.colorinterp), colours), (described, [colour.name for colour in colours])):
        if set(wanted) <= set(declared):
            return [declared.index(colour) + 1 for colour in wanted]
    none = ColorInterp.undefined, ColorInterp.gray
    if any(came not in (own, *none) for came, own in zip(raster.colorinterp, colours)):
        came = ", ".join(colour.name for colour in raster.colorinterp)
        raise InputError(f"expected bands of red, green and blue, got {came} in {shown(raster.name)}. Convert it, or "
                         "declare its colours, for example with gdal_edit.py -colorinterp_1 red.")
    return [1, 2, 3]

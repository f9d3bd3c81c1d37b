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
from rasterio._err import CPLE_BaseError
from rasterio.enums import ColorInterp
from rasterio.errors import NotGeoreferencedWarning, RasterioIOError

from helpers import InputError
from helpers.land import downloads
from helpers.land.grid import project
from helpers.uri import shown

# Errors while pixels are read. The second is GDAL's own: rasterio passes it on for a broken header of an overview.
READ_ERRORS = RasterioIOError, CPLE_BaseError
# GDAL's settings for files of a server: it lists no folders, gives up a slow server and asks a busy one only once more,
# because it ignores Retry-After. ``downloads.ready`` heeds that.
REMOTE = {"GDAL_DISABLE_READDIR_ON_OPEN": "EMPTY_DIR", "GDAL_INGESTED_BYTES_AT_OPEN": 1 << 16,
          "GDAL_HTTP_MAX_RETRY": 1, "GDAL_HTTP_RETRY_DELAY": 1,
          "GDAL_HTTP_RETRY_CODES": ",".join(map(str, downloads.BUSY)), "GDAL_HTTP_CONNECTTIMEOUT": downloads.CONNECT_S,
          "GDAL_HTTP_LOW_SPEED_TIME": downloads.BLOCK_S, "GDAL_HTTP_LOW_SPEED_LIMIT": 100,
          "GDAL_HTTP_TIMEOUT": downloads.WHOLE_S, "GDAL_HTTP_MERGE_CONSECUTIVE_RANGES": "YES"}
# GDAL remembers a failure: for another try it has to forget what it read before.
_FRESH = {"CPL_VSIL_CURL_NON_CACHED": "/vsicurl/http://:/vsicurl/https://", **REMOTE}
ELSEWHERE = ("Choose the raster of this county. If this is it, the CRS in the file may be wrong: give the correct one "
             "behind its name, TUTORIAL_LABELS=FILE#crs=EPSG:5070.")
_BRING_AGAIN = "Bring the file again, or take it out of the catalogue."
# Secrets in the text of an error: queries, which may hold a signature, and users with their passwords.
_SECRET = re.compile(r"\?[^\s']*|(?<=//)[^/\s'@]*@")
# GDAL unpacks a block as a whole, and a small file may claim a block of any size.
_BLOCK_BYTES = 1 << 30


def open_raster(href: str, kind: str, **options) -> rasterio.DatasetReader:
    """Open a raster with GDAL's options, or say in one sentence why it can't be used; errors call it ``kind``.

    A CRS behind a local file's name, ``nlcd_2016.tif#crs=EPSG:5070``, replaces the CRS in the file. Some of GDAL's
    formats read other files, so only GeoTIFF is opened, and on this machine ERDAS Imagine (``.img``) too.
    """
    try:
        rasterio.CRS.from_epsg(4326)
    except rasterio.errors.CRSError as error:  # Other programs set variables for a PROJ of their own.
        raise InputError(f"expected PROJ's list of coordinate systems, got: {said(error)}. Unset PROJ_LIB and "
                         "PROJ_DATA.") from None
    if not downloads.is_remote(href):
        path, crs = split_crs(href)
        if crs and "?" in path:
            raise InputError(f"expected a name without a question mark before #crs=, got {path}. Rename the file.")
        driver = "HFA" if path.lower().endswith(".img") else "GTiff"
        try:
            # A local file may have its overviews, its mask or its colours in a file beside it.
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
    logging.getLogger("rasterio._env").addFilter(_without_queries)

    def open_once(attempt):
        if attempt:
            downloads.ready(href, f"a {kind}")
        with rasterio.Env(**_FRESH if attempt else REMOTE):
            return _checked(downloads.signed(href), href, kind, "GTiff", options)
    try:
        return downloads.again(open_once, RasterioIOError)
    except RasterioIOError as error:
        # GDAL's own error, the cause, would show the address with its token.
        raise InputError(f"expected a {kind} at {shown(href)}, got a file that can't be read ({said(error)}). "
                         f"{downloads.OFFLINE}") from None


def _checked(path, href, kind, driver, options):
    """Open a raster, and refuse one with other files or with blocks that would fill the memory."""
    if not (downloads.is_remote(path) or os.path.exists(path)):
        raise RasterioIOError("No such file or directory")  # GDAL would read a description of a raster from the name.
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", NotGeoreferencedWarning)  # ``outline`` reports this in one sentence.
        raster = rasterio.open(path, driver=driver, **options)
    if downloads.is_remote(href) and raster.tags(ns="OVERVIEWS"):
        raise InputError(f"expected a {kind} in one file at {shown(href)}, got one with overviews in another file. "
                         f"{_BRING_AGAIN}")
    most = max(h * w * np.dtype(t).itemsize for (h, w), t in zip(raster.block_shapes, raster.dtypes))
    if most * raster.count > _BLOCK_BYTES:
        raise InputError(f"expected a {kind} in blocks of at most {_BLOCK_BYTES >> 20} MB at {shown(href)}, got "
                         f"{most * raster.count >> 20} MB. Tile it, for example with gdal_translate -of COG.")
    return raster


def split_crs(href: str) -> tuple:
    """The path of a raster, and the CRS that the user gives behind it, or an empty text."""
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


@contextlib.contextmanager
def whole(href: str, kind: str = "scene"):
    """Turn GDAL's error about a file that ends too early into one sentence. The error itself would show a token."""
    try:
        yield
    except READ_ERRORS as error:
        advice = downloads.OFFLINE if downloads.is_remote(href) else _BRING_AGAIN
        raise InputError(f"expected a whole {kind} at {shown(href)}, got one that ends too early ({said(error)}). "
                         f"{advice}") from None


def said(error: Exception) -> str:
    """The first line of an error, without the secrets of its addresses."""
    return _SECRET.sub("", str(error).strip().partition("\n")[0])[:300].rstrip(".")


def _without_queries(record):
    """A filter for logging, because GDAL logs its tries with the whole address."""
    record.msg, record.args = _SECRET.sub("", record.getMessage()), ()
    return True


def outline(raster: rasterio.DatasetReader, crs: str, name: str) -> shapely.Geometry:
    """The outline of a raster in a CRS, in whatever direction its rows run; errors call it ``name``."""
    to_map = raster.transform
    if raster.crs is None or to_map.is_identity or to_map.is_degenerate:
        lacks = "a CRS" if raster.crs is None else "a position on the map"
        raise InputError(f"expected a raster with a CRS and a position, got {shown(name)} without {lacks}. Give it "
                         "both, for example with gdal_translate -a_srs -a_ullr.")
    edge = shapely.segmentize(shapely.box(0, 0, raster.width, raster.height), max(raster.shape) / 20)
    try:
        polygon = project(shapely.transform(edge, lambda xy: np.stack(to_map * xy.T, axis=1)), crs, source=raster.crs)
        if np.isfinite(polygon.bounds).all():
            return polygon
    except (pyproj.exceptions.ProjError, ValueError):
        pass  # The error below serves here too.
    raise InputError(f"expected a raster on the Earth, got {shown(name)}, which has no position in {crs}. Correct its "
                     "CRS or its position.")


def footprint(href: str) -> shapely.Geometry:
    """The outline of a raster in longitude and latitude."""
    with open_raster(href, "scene") as scene:
        return outline(scene, "EPSG:4326", href)


def colour_bands(raster: rasterio.DatasetReader) -> list:
    """The bands that are declared or described as red, green and blue, else the first three.

    If these are declared as other colours, such as near infrared, red and green, the raster is refused.
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

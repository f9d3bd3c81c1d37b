"""Rasters of this machine and of servers: opened, or refused in one sentence that shows no token."""

import contextlib
import logging
import os
import re

import rasterio
import shapely
from rasterio.errors import RasterioIOError

from helpers import InputError
from helpers.land import downloads
from helpers.land.grid import project

# How GDAL reads over the network: it lists no folders and gives up a slow server. It asks a busy one again only once,
# and without heeding when that wants to be asked: our own tries do.
REMOTE = {"GDAL_DISABLE_READDIR_ON_OPEN": "EMPTY_DIR", "GDAL_INGESTED_BYTES_AT_OPEN": 1 << 16,
          "GDAL_HTTP_MAX_RETRY": 1, "GDAL_HTTP_RETRY_DELAY": 1,
          "GDAL_HTTP_RETRY_CODES": ",".join(map(str, downloads.BUSY)), "GDAL_HTTP_CONNECTTIMEOUT": downloads.CONNECT_S,
          "GDAL_HTTP_LOW_SPEED_TIME": downloads.BLOCK_S, "GDAL_HTTP_LOW_SPEED_LIMIT": 1,
          "GDAL_HTTP_MERGE_CONSECUTIVE_RANGES": "YES"}
# GDAL takes a failure for final: for another try it has to forget what it found before.
_FRESH = {"CPL_VSIL_CURL_NON_CACHED": "/vsicurl/http://:/vsicurl/https://", **REMOTE}
_BRING_AGAIN = "Bring the file again, or take it out of the catalogue."


def open_raster(href: str, kind: str, **options) -> rasterio.DatasetReader:
    """Open a raster with GDAL's options, or say in one sentence why it can't be used; ``kind`` names it there."""
    if not downloads.is_remote(href):
        try:
            # A file of one's own may have its overviews or its colours in a file beside it.
            with rasterio.Env(GDAL_DISABLE_READDIR_ON_OPEN="FALSE"):
                return rasterio.open(href, **options)
        except RasterioIOError as error:
            came = "a broken file" if os.path.exists(href) else "no such file"
            raise InputError(f"expected a {kind} at {href}, got {came} ({said(error)}). {_BRING_AGAIN}") from None
    logger = logging.getLogger("rasterio._env")
    if _without_queries not in logger.filters:
        logger.addFilter(_without_queries)

    def open_once(attempt):
        if attempt:
            downloads.ready(href, f"a {kind}")
        with rasterio.Env(**_FRESH if attempt else REMOTE):
            return rasterio.open(downloads.signed(href)[0], **options)
    try:
        return downloads.again(open_once, RasterioIOError)
    except RasterioIOError as error:
        # Without the cause: GDAL's own error shows the address with its token.
        raise InputError(f"expected a {kind} at {href}, got a file that can't be read ({said(error)}). "
                         f"{downloads.OFFLINE}") from None


def network(href: str):
    """GDAL's settings for reading a file, of a server or of this machine."""
    return rasterio.Env(**REMOTE) if downloads.is_remote(href) else contextlib.nullcontext()


def broken(href: str, error: Exception) -> InputError:
    advice = downloads.OFFLINE if downloads.is_remote(href) else _BRING_AGAIN
    return InputError(f"expected a whole scene at {href}, got one that breaks off ({said(error)}). {advice}")


def said(error: Exception) -> str:
    """The first line of an error, without queries: a signed address has its signature there."""
    return re.sub(r"\?[^\s']*", "", str(error).strip().partition("\n")[0])[:300].rstrip(".")


def _without_queries(record):
    """For logging: GDAL tells of its tries with the whole address."""
    record.msg, record.args = re.sub(r"\?[^\s']*", "", record.getMessage()), ()
    return True


def footprint(href: str) -> shapely.Geometry:
    """Where a raster lies, in longitude and latitude."""
    with open_raster(href, "scene") as scene:
        if scene.crs is None:
            raise InputError(f"expected a scene with a CRS, got {href} without one. Give it one, for example with "
                             "gdal_translate -a_srs.")
        outline = shapely.segmentize(shapely.box(*scene.bounds), scene.res[0] * scene.width / 20)
        return project(outline, "EPSG:4326", source=scene.crs)

"""Annual NLCD around a county from a WCS 1.0.0 (OGC 03-065r6), checked and kept."""

import functools
import re
from pathlib import Path
from urllib.parse import parse_qsl, urlsplit, urlunsplit

import numpy as np
import rasterio
import rasterio.merge
import rasterio.transform
import shapely

from helpers import InputError
from helpers.land import downloads
from helpers.land.classes import NODATA_CODE
from helpers.land.grid import project
from helpers.land.labels import known_codes
from helpers.uri import host

# The size of NLCD's pixels, and the offset of their grid in EPSG:5070.
NLCD_M, _OFFSET_M = 30, 15
# Ground that is asked for around a county.
_MARGIN_M = 500
# Pixels along a side of one request. Servers refuse larger requests, or run out of time.
WINDOW_PX = 4096


def coverage(address: str, boundary: shapely.Geometry, year: int) -> Path:
    """A GeoTIFF on NLCD's own grid, EPSG:5070, 30 m, kept like every download; the boundary is in degrees.

    The query of the address has ``version`` and ``coverage``. If the coverage has no ``{year}`` in its name, it is
    asked for the time of that year.
    """
    parts = urlsplit(address)
    given = dict(parse_qsl(parts.query))
    if given.get("version") != "1.0.0" or "coverage" not in given:
        # Names only, because a value may be a secret.
        came = ", ".join(f"version={given[name]}" if name == "version" else name for name in sorted(given))
        raise InputError(f"expected version=1.0.0 and coverage=NAME in TUTORIAL_LABELS, got {came or 'neither'}. Give "
                         "both in the query of the address.")
    what, url, windows = f"NLCD of {year}", urlunsplit(parts[:3] + ("", "")), _windows(boundary)
    queries = [_query(given, window, year) for window in windows]

    def joined():
        paths = []
        for bounds, query in zip(windows, queries):
            check = functools.partial(check_labels, what=f"{what} from {host(address)}", bounds=bounds)
            # Each window is kept by itself, so that an interrupted run continues with the next.
            paths.append(downloads.fetch(url, what, ".tif", query, check, downloads.COMPUTE_S))
        return join_labels(paths)
    return downloads.keep([url, queries, "joined"], what, ".tif", joined, url)


def _windows(boundary):
    """Bounds in EPSG:5070, on NLCD's grid, of the windows to ask for."""
    pixels = (np.array(project(boundary, "EPSG:5070").buffer(_MARGIN_M).bounds) - _OFFSET_M) / NLCD_M
    whole = np.concatenate([np.floor(pixels[:2]), np.ceil(pixels[2:])]).astype(int)
    left, bottom, right, top = (whole * NLCD_M + _OFFSET_M).tolist()
    step = WINDOW_PX * NLCD_M
    return [(x, y, min(x + step, right), min(y + step, top))
            for y in range(bottom, top, step) for x in range(left, right, step)]


def _query(given, bounds, year):
    """The query of one window: a list of names and values."""
    name = given["coverage"].replace("{year}", str(year))
    asked = {**{k: v for k, v in given.items() if k not in ("version", "coverage")}, "service": "WCS",
             "version": given["version"], "request": "GetCoverage", "coverage": name, "crs": "EPSG:5070",
             "bbox": ",".join(map(str, bounds)), "resx": NLCD_M, "resy": NLCD_M,
             "format": given.get("format", "GeoTIFF")}
    if name == given["coverage"]:
        asked["time"] = f"{year}-01-01T00:00:00.000Z"
    return list(asked.items())


def check_labels(content: bytes, what: str, bounds: tuple):
    """Refuse an answer that isn't a whole GeoTIFF of NLCD with the bounds in EPSG:5070 that were asked for."""
    if content[:4] not in (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+"):
        # Servers report their errors in XML, with status 200.
        came = re.sub(r"\s+", " ", re.sub(r"<[^>]*>", " ", content[:4000].decode("utf-8", "replace"))).strip()
        raise InputError(f"expected {what} as a GeoTIFF, got {came[:200]!r}. {downloads.CORRECT}")
    try:
        with rasterio.MemoryFile(content) as memory, memory.open(driver="GTiff") as raster:
            crs, got, size = raster.crs, raster.bounds, raster.res
            if raster.width * raster.height <= 4 * WINDOW_PX ** 2:  # A small file may claim any size.
                raster.read(1)
            # If a server describes EPSG:5070 in its own words, GDAL reads a CRS that has only a name.
            if crs is None or not (crs.wkt.startswith(("LOCAL_CS", "ENGCRS", "ENGINEERINGCRS"))
                                   or crs.to_dict().get("proj") == "aea" or crs.to_epsg() == 5070):
                came = "none" if crs is None else repr(crs.to_string()[:60])
                raise InputError(f"expected {what} in EPSG:5070, got {came}. {downloads.CORRECT}")
            if not (np.allclose(got, bounds, rtol=0, atol=0.1) and np.allclose(size, NLCD_M, rtol=0, atol=1e-3)):
                raise InputError(f"expected {what} with pixels of {NLCD_M} m within {tuple(map(int, bounds))}, got "
                                 f"{size[0]:g} m within {tuple(round(b, 1) for b in got)}. {downloads.CORRECT}")
            known_codes(raster, what)
    except rasterio.errors.RasterioIOError as error:
        raise InputError(f"expected {what} as a whole GeoTIFF, got one that ends too early ({error}). "
                         f"{downloads.OFFLINE}") from error


def join_labels(paths: list[Path]) -> bytes:
    """Checked rasters side by side as one GeoTIFF in EPSG:5070, with ``NODATA_CODE`` for nodata."""
    codes, to_map = rasterio.merge.merge(paths, indexes=[1], nodata=NODATA_CODE)
    # A server's grid may be some centimetres off.
    to_map = rasterio.transform.from_origin(round(to_map.c), round(to_map.f), NLCD_M, NLCD_M)
    with rasterio.MemoryFile() as memory:
        with memory.open(driver="GTiff", width=codes.shape[2], height=codes.shape[1], count=1, dtype="uint8",
                         crs="EPSG:5070", tiled=True, nodata=NODATA_CODE, compress="DEFLATE", transform=to_map) as file:
            file.write(codes)
        return bytes(memory.getbuffer())

"""Annual NLCD around a county from a WCS 1.0.0 (OGC 03-065r6), checked and kept."""

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

# NLCD's pixels, and where their grid lies in EPSG:5070.
NLCD_M, _OFFSET_M = 30, 15
# Ground around a county that comes along.
_MARGIN_M = 500
# Pixels along a side that a WCS is asked for at once; larger requests are turned away or run out of time.
WINDOW_PX = 4096


def coverage(address: str, boundary: shapely.Geometry, year: int) -> Path:
    """A GeoTIFF on NLCD's own grid, EPSG:5070, 30 m, kept like every download; the boundary is in degrees.

    The query of the address has ``version`` and ``coverage``. A coverage with ``{year}`` in its name is one of a year;
    any other is asked for that time.
    """
    parts = urlsplit(address)
    given = dict(parse_qsl(parts.query))
    if given.get("version") != "1.0.0" or "coverage" not in given:
        # Only names: a value may be a secret.
        came = ", ".join(f"version={given[name]}" if name == "version" else name for name in sorted(given))
        raise InputError(f"expected version=1.0.0 and coverage=NAME in TUTORIAL_LABELS, got {came or 'neither'}. Give "
                         "both in the query of the address.")
    what, url = f"NLCD of {year}", urlunsplit(parts[:3] + ("", ""))
    server = host(address)
    windows = _windows(boundary)
    queries = [_query(given, window, year) for window in windows]

    def check(content, window):
        if content[:4] not in (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+"):
            # Servers tell of their errors in XML, with status 200.
            came = re.sub(r"\s+", " ", re.sub(r"<[^>]*>", " ", content[:4000].decode("utf-8", "replace"))).strip()
            raise InputError(f"expected {what} as a GeoTIFF from {server}, got {came[:200]!r}. "
                             f"{downloads.OFFLINE}")
        check_labels(content, f"{what} from {server}", window)

    def joined():
        # Each window is kept by itself, so that a run that was interrupted goes on with the next.
        return join_labels([
            downloads.fetch(url, what, ".tif", query, lambda content: check(content, window), downloads.COMPUTE_S)
            for query, window in zip(queries, windows)])
    return downloads.keep([url, queries, "joined"], what, ".tif", joined, url)


def _windows(boundary):
    """Bounds in EPSG:5070, on NLCD's grid, of the windows to ask for."""
    left, bottom, right, top = project(boundary, "EPSG:5070").buffer(_MARGIN_M).bounds
    low, high = (round_to(np.subtract(corner, _OFFSET_M) / NLCD_M).astype(int) * NLCD_M + _OFFSET_M
                 for round_to, corner in ((np.floor, (left, bottom)), (np.ceil, (right, top))))
    step = WINDOW_PX * NLCD_M
    return [(x, y, min(x + step, int(high[0])), min(y + step, int(high[1])))
            for y in range(low[1], high[1], step) for x in range(low[0], high[0], step)]


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
    """Refuse a GeoTIFF that isn't whole, isn't NLCD, or hasn't the bounds in EPSG:5070 that were asked for."""
    try:
        with rasterio.MemoryFile(content) as memory, memory.open(driver="GTiff") as raster:
            crs, got, size = raster.crs, raster.bounds, raster.res
            if raster.width * raster.height <= 4 * WINDOW_PX ** 2:  # A small file may claim any size.
                raster.read(1)
            # Where a server described EPSG:5070 in its own words, GDAL reads a CRS that has only a name.
            if crs is None or not (crs.wkt.startswith(("LOCAL_CS", "ENGCRS", "ENGINEERINGCRS"))
                                   or crs.to_dict().get("proj") == "aea" or crs.to_epsg() == 5070):
                came = "none" if crs is None else repr(crs.to_string()[:60])
                raise InputError(f"expected {what} in EPSG:5070, got {came}. {downloads.OFFLINE}")
            if not (np.allclose(got, bounds, rtol=0, atol=0.1) and np.allclose(size, NLCD_M, rtol=0, atol=1e-3)):
                raise InputError(f"expected {what} with pixels of {NLCD_M} m within {tuple(map(int, bounds))}, got "
                                 f"{size[0]:g} m within {tuple(round(b, 1) for b in got)}. {downloads.OFFLINE}")
            known_codes(raster, what)
    except rasterio.errors.RasterioIOError as error:
        raise InputError(f"expected {what} as a whole GeoTIFF, got one that breaks off ({error}). "
                         f"{downloads.OFFLINE}") from error


def join_labels(paths: list[Path]) -> bytes:
    """Checked rasters that lie side by side as one GeoTIFF in EPSG:5070, with ``NODATA_CODE`` for nodata."""
    codes, to_map = rasterio.merge.merge(paths, indexes=[1], nodata=NODATA_CODE)
    # Servers miss the grid by some centimetres.
    to_map = rasterio.transform.from_origin(round(to_map.c), round(to_map.f), NLCD_M, NLCD_M)
    with rasterio.MemoryFile() as memory:
        with memory.open(driver="GTiff", width=codes.shape[2], height=codes.shape[1], count=1, dtype="uint8",
                         crs="EPSG:5070", tiled=True, nodata=NODATA_CODE, compress="DEFLATE", transform=to_map) as file:
            file.write(codes)
        return bytes(memory.getbuffer())

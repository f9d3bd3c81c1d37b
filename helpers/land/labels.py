"""labels."""

import contextlib

import numpy as np
import pandas as pd
import rasterio
import rasterio.shutil
import rasterio.transform
from rasterio.warp import transform as transform_points, transform_bounds
from rasterio.windows import Window

from helpers import InputError
from helpers.land import classes as landcover, downloads
from helpers.land.classes import NODATA_CODE, check_codes
from helpers.land.grid import TILE_M, nine_points, tile_of
from helpers.land.scenes import NLCD_M, _LABEL_MARGIN_M, _PIXELS_AT_ONCE, _open, _said

def check_labels(content, what, bounds):
    """Refuse a downloaded raster that isn't whole, isn't NLCD, or isn't of the place that was asked for.

    Parameters
    ----------
    content : bytes
        Of a GeoTIFF.
    what : str
        How it is called in an error.
    bounds : tuple of float
        ``(left, bottom, right, top)`` in EPSG:5070, as asked for.

    Raises
    ------
    InputError
    """
    try:
        with rasterio.MemoryFile(content) as memory, memory.open() as raster:
            codes, nodata, crs, got, size = raster.read(1), raster.nodata, raster.crs, raster.bounds, raster.res
    except rasterio.errors.RasterioIOError as error:
        raise InputError(f"expected {what} as a whole GeoTIFF, got one that breaks off ({error}). "
                         f"{downloads.OFFLINE}") from error
    if crs is None:
        raise InputError(f"expected {what} with a CRS, got a GeoTIFF without one. {downloads.OFFLINE}")
    if not (_is_local(crs) or crs.to_dict().get("proj") == "aea" or crs.to_epsg() == 5070):
        raise InputError(f"expected {what} in EPSG:5070, got {crs.to_string()[:60]!r}. {downloads.OFFLINE}")
    if not (np.allclose(got, bounds, rtol=0, atol=0.1) and np.allclose(size, NLCD_M, rtol=0, atol=1e-3)):
        raise InputError(f"expected {what} with pixels of {NLCD_M} m within {tuple(map(int, bounds))}, got {size[0]:g} "
                         f"m within {tuple(round(b, 1) for b in got)}. {downloads.OFFLINE}")
    check_codes(codes[(codes != (NODATA_CODE if nodata is None else nodata)) & (codes != NODATA_CODE) & (codes != 0)],
                what)


def _is_local(crs):
    """A CRS that only has a name, as GDAL reads what a server wrote of EPSG:5070 in its own words."""
    return crs.wkt.startswith(("LOCAL_CS", "ENGCRS", "ENGINEERINGCRS"))


def join_labels(paths):
    """Rasters of ``check_labels`` that lie side by side as one.

    Parameters
    ----------
    paths : list of pathlib.Path

    Returns
    -------
    bytes
        A GeoTIFF in EPSG:5070, with ``landcover.NODATA_CODE`` for nodata.
    """
    with contextlib.ExitStack() as stack:
        pieces = [stack.enter_context(rasterio.open(path)) for path in paths]
        left, top = min(p.bounds.left for p in pieces), max(p.bounds.top for p in pieces)
        width = round((max(p.bounds.right for p in pieces) - left) / NLCD_M)
        height = round((top - min(p.bounds.bottom for p in pieces)) / NLCD_M)
        codes = np.full((height, width), NODATA_CODE, np.uint8)
        for piece in pieces:
            row, col = round((top - piece.bounds.top) / NLCD_M), round((piece.bounds.left - left) / NLCD_M)
            part = piece.read(1)
            if piece.nodata is not None:
                part = np.where(part == piece.nodata, NODATA_CODE, part)
            codes[row:row + piece.height, col:col + piece.width] = part
    with rasterio.MemoryFile() as memory:
        with memory.open(driver="GTiff", width=width, height=height, count=1, dtype="uint8", crs="EPSG:5070",
                         tiled=True, nodata=NODATA_CODE, compress="DEFLATE", transform=rasterio.transform.from_origin(
                             round(left), round(top), NLCD_M, NLCD_M)) as file:
            file.write(codes, 1)
        return bytes(memory.getbuffer())


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
            raise InputError(f"expected a whole NLCD raster at {href}, got one that breaks off ({_said(error)}). "
                             "Bring the file again.") from None
        nodata = NODATA_CODE if raster.nodata is None else int(raster.nodata)
        to_map = raster.transform * rasterio.Affine.translation(c0, r0)
        raster_crs = raster.crs
    # 0 is what NLCD files carry outside the mapped area, declared as nodata or not.
    known = (codes != nodata) & (codes != NODATA_CODE) & (codes != 0)
    check_codes(codes[known], href)
    codes = np.where(known, codes, NODATA_CODE).astype(np.uint8)

    # Tile of each pixel through a dense lookup over the tiles' bounding box.
    height, width = row.max() - row.min() + 1, col.max() - col.min() + 1
    index = np.full((height, width), -1)
    index[row - row.min(), col - col.min()] = np.arange(len(tiles))
    counts = np.zeros((len(tiles), 256), dtype=np.int32)
    # Some rows of pixels at a time: the largest counties' rectangles have tens of millions.
    step = max(1, _PIXELS_AT_ONCE // codes.shape[1])
    for start in range(0, len(codes), step):
        part = codes[start:start + step]
        pixel_row, pixel_col = np.nonzero(part != NODATA_CODE)
        if not len(pixel_row):
            continue
        mx, my = rasterio.transform.xy(to_map, pixel_row + start, pixel_col)
        x, y = map(np.asarray, transform_points(raster_crs, crs, mx, my))
        in_row, in_col = tile_of(x, y)
        inside = (in_row >= row.min()) & (in_row <= row.max()) & (in_col >= col.min()) & (in_col <= col.max())
        tile = index[in_row[inside] - row.min(), in_col[inside] - col.min()]
        np.add.at(counts, (tile[tile >= 0], part[pixel_row, pixel_col][inside][tile >= 0]), 1)

    px, py = nine_points(row, col)
    nx, ny = map(np.asarray, transform_points(crs, raster_crs, px.ravel(), py.ravel()))
    nr, nc = map(np.asarray, rasterio.transform.rowcol(to_map, nx, ny))
    nine = np.full(len(nr), NODATA_CODE, dtype=np.uint8)
    seen = (nr >= 0) & (nr < codes.shape[0]) & (nc >= 0) & (nc < codes.shape[1])
    nine[seen] = codes[nr[seen], nc[seen]]
    return counts, nine.reshape(-1, 9)


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


def label(tiles, labels, crs):
    """Label tiles from an NLCD raster.

    Parameters
    ----------
    tiles : pandas.DataFrame
        With ``row`` and ``col``.
    labels : helpers.catalog.Labels
    crs : str
        The CRS of the tile grid.

    Returns
    -------
    pandas.DataFrame
        The tiles with ``label``, ``group``, ``purity`` and ``class_2017``; tiles without an NLCD pixel are left
        out.
    """
    counts, nine = label_counts(labels.href, tiles, crs)
    class_id, group, purity = landcover.label_tiles(counts)
    labelled = tiles.assign(
        label=_nullable(class_id), group=group, purity=purity, class_2017=_nullable(landcover.nine_point_class(nine)))
    return labelled[group != landcover.NO_CLASS].reset_index(drop=True)


def _nullable(class_ids):
    """``class_id`` with null for ``NO_CLASS``."""
    return pd.Series(class_ids, dtype="Int8").mask(class_ids == landcover.NO_CLASS)

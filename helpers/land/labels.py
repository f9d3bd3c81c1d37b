"""Labels: NLCD pixels counted in tiles, or read as they lie on the ground."""

import numpy as np
import pandas as pd
import rasterio
import rasterio.transform
from rasterio.warp import transform as transform_points, transform_bounds
from rasterio.windows import Window

from helpers import InputError
from helpers.land.classes import NODATA_CODE, NO_CLASS, check_codes, label_tiles, nine_point_class
from helpers.land.grid import TILE_M, nine_points, tile_of
from helpers.land.rasters import open_raster, said
from helpers.land.sources import Labels

# Ground that one label request may look at around the tiles, so that pixels cut by the edge are seen whole.
_MARGIN_M = 100.0
# Label pixels that are counted at a time.
_PIXELS_AT_ONCE = 1 << 20


def label(tiles: pd.DataFrame, labels: Labels, crs: str) -> pd.DataFrame:
    """Tiles of the grid ``crs`` with ``label``, ``group``, ``purity`` and ``class_2017`` from an NLCD raster.

    Tiles without an NLCD pixel are left out.
    """
    counts, nine = label_counts(labels.href, tiles, crs)
    class_id, group, purity = label_tiles(counts)
    labelled = tiles.assign(
        label=_nullable(class_id), group=group, purity=purity, class_2017=_nullable(nine_point_class(nine)))
    return labelled[group != NO_CLASS].reset_index(drop=True)


def _nullable(class_ids):
    return pd.Series(class_ids, dtype="Int8").mask(class_ids == NO_CLASS)


def label_counts(href: str, tiles: pd.DataFrame, crs: str) -> tuple[np.ndarray, np.ndarray]:
    """Count the NLCD pixels in tiles, and read the codes at their nine points.

    A pixel belongs to the tile that holds its centre, so every pixel is counted once.

    Returns
    -------
    counts : (N, 256) int32, pixels of each code in each tile; nodata is not counted.
    nine : (N, 9) uint8, the codes at ``grid.nine_points``, ``NODATA_CODE`` outside the raster.
    """
    row, col = tiles["row"].to_numpy(), tiles["col"].to_numpy()
    bounds = (col.min() * TILE_M - _MARGIN_M, row.min() * TILE_M - _MARGIN_M,
              (col.max() + 1) * TILE_M + _MARGIN_M, (row.max() + 1) * TILE_M + _MARGIN_M)
    codes, to_map, raster_crs = _read_codes(href, bounds, crs)
    # Tile of each pixel through a dense lookup over the tiles' bounding box.
    index = np.full((row.max() - row.min() + 1, col.max() - col.min() + 1), -1)
    index[row - row.min(), col - col.min()] = np.arange(len(tiles))
    counts = np.zeros((len(tiles), 256), dtype=np.int32)
    # Some rows of pixels at a time: the largest counties' rectangles have tens of millions.
    step = max(1, _PIXELS_AT_ONCE // codes.shape[1])
    for start in range(0, len(codes), step):
        some = codes[start:start + step]
        pixel_row, pixel_col = np.nonzero(some != NODATA_CODE)
        if not len(pixel_row):
            continue
        mx, my = rasterio.transform.xy(to_map, pixel_row + start, pixel_col)
        x, y = map(np.asarray, transform_points(raster_crs, crs, mx, my))
        in_row, in_col = tile_of(x, y)
        inside = (in_row >= row.min()) & (in_row <= row.max()) & (in_col >= col.min()) & (in_col <= col.max())
        tile = index[in_row[inside] - row.min(), in_col[inside] - col.min()]
        np.add.at(counts, (tile[tile >= 0], some[pixel_row, pixel_col][inside][tile >= 0]), 1)
    px, py = nine_points(row, col)
    nx, ny = map(np.asarray, transform_points(crs, raster_crs, px.ravel(), py.ravel()))
    nr, nc = map(np.asarray, rasterio.transform.rowcol(to_map, nx, ny))
    nine = np.full(len(nr), NODATA_CODE, dtype=np.uint8)
    seen = (nr >= 0) & (nr < codes.shape[0]) & (nc >= 0) & (nc < codes.shape[1])
    nine[seen] = codes[nr[seen], nc[seen]]
    return counts, nine.reshape(-1, 9)


def _read_codes(href, bounds, crs):
    """NLCD codes within bounds, ``NODATA_CODE`` where none is known; the map position of a pixel; the raster's CRS."""
    with open_raster(href, "NLCD raster") as raster:
        if raster.crs is None:
            raise InputError(f"expected an NLCD raster with a CRS, got {href} without one. "
                             "Give it one, for example with gdal_translate -a_srs EPSG:5070.")
        top, bottom, left, right = _pixels(raster, bounds, crs)
        top, bottom, left, right = max(0, top), min(raster.height, bottom), max(0, left), min(raster.width, right)
        if bottom <= top or right <= left:
            raise InputError(f"expected an NLCD raster over the county, got {href} with bounds {raster.bounds} "
                             f"in {raster.crs.to_string()[:60]}. Choose the raster of this county.")
        try:
            codes = raster.read(1, window=Window(col_off=left, row_off=top, width=right - left, height=bottom - top))
        except rasterio.errors.RasterioIOError as error:
            raise InputError(f"expected a whole NLCD raster at {href}, got one that breaks off ({said(error)}). "
                             "Bring the file again.") from None
        to_map = raster.transform * rasterio.Affine.translation(left, top)
        return known_codes(codes, raster.nodata, href), to_map, raster.crs


def _pixels(raster, bounds, crs):
    """First and last + 1 row and column of the pixels of a raster within bounds."""
    window = raster.window(*transform_bounds(crs, raster.crs, *bounds, densify_pts=21))
    return (int(np.floor(window.row_off)), int(np.ceil(window.row_off + window.height)),
            int(np.floor(window.col_off)), int(np.ceil(window.col_off + window.width)))


def known_codes(codes: np.ndarray, nodata, source: str) -> np.ndarray:
    """The codes of an NLCD raster as uint8, ``NODATA_CODE`` for whatever says nothing; other values are refused."""
    # 0 is what NLCD files carry outside the mapped area, declared as nodata or not.
    known = (codes != (NODATA_CODE if nodata is None else int(nodata))) & (codes != NODATA_CODE) & (codes != 0)
    check_codes(codes[known], source)
    return np.where(known, codes, NODATA_CODE).astype(np.uint8)


def read_labels(href: str, bounds: tuple, crs: str) -> tuple[np.ndarray, np.ndarray]:
    """NLCD pixels as they lie on the ground: for looking at; ``label_counts`` does the counting.

    Returns
    -------
    codes : (h, w) uint8, in the raster's own projection; ``NODATA_CODE`` beyond it.
    corners : (h, w, 4, 2), x and y of each pixel's corners in ``crs``, from the upper left clockwise.
    """
    with open_raster(href, "NLCD raster") as raster:
        top, bottom, left, right = _pixels(raster, bounds, crs)
        window = Window(col_off=left, row_off=top, width=right - left, height=bottom - top)
        codes = raster.read(1, window=window, boundless=True, fill_value=NODATA_CODE)
        edge_row, edge_col = np.indices((bottom - top + 1, right - left + 1))
        mx, my = raster.transform * np.stack([edge_col.ravel() + left, edge_row.ravel() + top])
        x, y = transform_points(raster.crs, crs, mx, my)
    edges = np.stack([x, y], axis=-1).reshape(*edge_row.shape, 2)
    return codes, np.stack([edges[:-1, :-1], edges[:-1, 1:], edges[1:, 1:], edges[1:, :-1]], axis=2)

"""Labels: NLCD pixels counted in tiles, or read as they lie on the ground."""

import numpy as np
import pandas as pd
import rasterio
import rasterio.transform
import shapely
from rasterio.enums import ColorInterp
from rasterio.warp import transform as transform_points
from rasterio.windows import Window

from helpers import InputError
from helpers.land.classes import NODATA_CODE, NO_CLASS, check_codes, label_tiles, nine_point_class
from helpers.land.grid import TILE_M, nine_points, project, tile_of
from helpers.land.rasters import ELSEWHERE, open_raster, outline, said
from helpers.land.sources import Labels
from helpers.uri import shown

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


def has_codes(href: str, boundary: shapely.Geometry) -> bool:
    """Whether a raster holds NLCD codes around a boundary, which is in longitude and latitude, and nothing else."""
    try:
        codes, _, _ = _read_codes(href, boundary.bounds, "EPSG:4326")
        return bool((codes != NODATA_CODE).any())
    except InputError:
        return False


def _read_codes(href, bounds, crs):
    """NLCD codes within bounds, ``NODATA_CODE`` where none is known; the map position of a pixel; the raster's CRS."""
    with open_raster(href, "NLCD raster") as raster:
        top, bottom, left, right = _pixels(raster, bounds, crs, href)
        top, bottom, left, right = max(0, top), min(raster.height, bottom), max(0, left), min(raster.width, right)
        if bottom <= top or right <= left:
            raise InputError(f"expected an NLCD raster over the county, got {shown(href)} with bounds "
                             f"{tuple(raster.bounds)} in {raster.crs.to_string()[:60]}. {ELSEWHERE}")
        try:
            codes = known_codes(raster, shown(href), Window(left, top, right - left, bottom - top))
        except rasterio.errors.RasterioIOError as error:
            raise InputError(f"expected a whole NLCD raster at {shown(href)}, got one that breaks off ({said(error)}). "
                             "Bring the file again.") from None
        return codes, raster.transform * rasterio.Affine.translation(left, top), raster.crs


def _pixels(raster, bounds, crs, href):
    """First and last + 1 row and column of the pixels of a raster within bounds, whatever way its rows run."""
    outline(raster, crs, href)  # It refuses a raster that lies nowhere.
    edge = project(shapely.segmentize(shapely.box(*bounds), (bounds[2] - bounds[0]) / 20), raster.crs, source=crs)
    col, row = ~raster.transform * shapely.get_coordinates(edge).T
    if not np.isfinite([col, row]).all():
        return 0, 0, 0, 0
    return int(np.floor(row.min())), int(np.ceil(row.max())), int(np.floor(col.min())), int(np.ceil(col.max()))


def known_codes(raster: rasterio.DatasetReader, source: str, window: Window = None) -> np.ndarray:
    """The codes of an NLCD raster as uint8, ``NODATA_CODE`` for whatever says nothing; other values are refused."""
    bands = [i for i, colour in zip(raster.indexes, raster.colorinterp) if colour != ColorInterp.alpha]
    if bands != [1]:
        raise InputError(f"expected an NLCD raster of one band, got {len(bands)} in {source}. Choose one of its years, "
                         "for example with gdal_translate -b.")
    codes = raster.read(1, window=window)
    # 0 is what NLCD files carry outside the mapped area, declared as nodata or not.
    known = (raster.read_masks(1, window=window) > 0) & (codes != NODATA_CODE) & (codes != 0) & ~np.isnan(codes)
    check_codes(codes[known], source)
    found = np.full(codes.shape, NODATA_CODE, dtype=np.uint8)
    found[known] = codes[known]
    return found


def read_labels(href: str, bounds: tuple, crs: str) -> tuple[np.ndarray, np.ndarray]:
    """NLCD pixels as they lie on the ground: for looking at; ``label_counts`` does the counting.

    Returns
    -------
    codes : (h, w) uint8, in the raster's own projection; ``NODATA_CODE`` beyond it.
    corners : (h, w, 4, 2), x and y of each pixel's corners in ``crs``, from the upper left clockwise.
    """
    with open_raster(href, "NLCD raster") as raster:
        top, bottom, left, right = _pixels(raster, bounds, crs, href)
        codes = np.full((bottom - top, right - left), NODATA_CODE, dtype=np.uint8)
        rows, cols = (slice(max(0, a), max(0, min(size, b))) for a, b, size in (
            (top, bottom, raster.height), (left, right, raster.width)))
        if rows.stop > rows.start and cols.stop > cols.start:
            codes[rows.start - top:rows.stop - top, cols.start - left:cols.stop - left] = known_codes(
                raster, shown(href), Window.from_slices(rows, cols))
        edge_row, edge_col = np.indices((bottom - top + 1, right - left + 1))
        mx, my = raster.transform * np.stack([edge_col.ravel() + left, edge_row.ravel() + top])
        x, y = transform_points(raster.crs, crs, mx, my)
    edges = np.stack([x, y], axis=-1).reshape(*edge_row.shape, 2)
    return codes, np.stack([edges[:-1, :-1], edges[:-1, 1:], edges[1:, 1:], edges[1:, :-1]], axis=2)

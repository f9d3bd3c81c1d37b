"""Labels: NLCD pixels counted in tiles, or read with their corners on the ground."""

import numpy as np
import pandas as pd
import rasterio
import shapely
from rasterio.enums import ColorInterp
from rasterio.warp import transform as transform_points
from rasterio.windows import Window

from helpers import InputError
from helpers.land.classes import NODATA_CODE, NO_CLASS, check_codes, label_tiles, nine_point_class
from helpers.land.grid import TILE_M, nine_points, project, tile_of
from helpers.land.rasters import ELSEWHERE, open_raster, outline, whole
from helpers.land.sources import Labels
from helpers.uri import shown

# Ground to read around the tiles, so that the pixels at their edge are counted too.
_MARGIN_M = 100.0
# Label pixels to count at a time: the largest counties have tens of millions.
_PIXELS_AT_ONCE = 1 << 20


def label(tiles: pd.DataFrame, labels: Labels, crs: str) -> pd.DataFrame:
    """Tiles that have an NLCD pixel, with ``label``, ``group``, ``purity`` and ``class_2017``."""
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
    number_of, counts = pd.MultiIndex.from_arrays([row, col]), np.zeros((len(tiles), 256), dtype=np.int32)
    step = max(1, _PIXELS_AT_ONCE // codes.shape[1])
    for start in range(0, len(codes), step):
        some = codes[start:start + step]
        pixel_row, pixel_col = np.nonzero(some != NODATA_CODE)
        if not len(pixel_row):
            continue
        x, y = transform_points(raster_crs, crs, *(to_map * (pixel_col + 0.5, pixel_row + start + 0.5)))
        # -1 for a pixel outside all tiles.
        tile = number_of.get_indexer(pd.MultiIndex.from_arrays(tile_of(x, y)))
        np.add.at(counts, (tile[tile >= 0], some[pixel_row, pixel_col][tile >= 0]), 1)
    points = transform_points(crs, raster_crs, *map(np.ravel, nine_points(row, col)))
    point_col, point_row = np.floor(~to_map * np.array(points)).astype(int)
    return counts, codes[point_row, point_col].reshape(-1, 9)


def has_codes(href: str, boundary: shapely.Geometry) -> bool:
    """Whether a raster holds NLCD codes, and nothing else, around a boundary in longitude and latitude."""
    try:
        codes, _, _ = _read_codes(href, boundary.bounds, "EPSG:4326")
        return bool((codes != NODATA_CODE).any())
    except InputError:
        return False


def _read_codes(href, bounds, crs):
    """NLCD codes within bounds, ``NODATA_CODE`` where none is known, their transform, and the raster's CRS."""
    with whole(href, "NLCD raster"), open_raster(href, "NLCD raster") as raster:
        top, bottom, left, right = _pixels(raster, bounds, crs, href)
        codes = np.full((bottom - top, right - left), NODATA_CODE, dtype=np.uint8)
        rows, cols = (slice(max(0, first), max(0, min(size, last))) for first, last, size in (
            (top, bottom, raster.height), (left, right, raster.width)))
        if rows.stop <= rows.start or cols.stop <= cols.start:
            raise InputError(f"expected an NLCD raster over the county, got {shown(href)} with bounds "
                             f"{tuple(raster.bounds)} in {raster.crs.to_string()[:60]}. {ELSEWHERE}")
        codes[rows.start - top:rows.stop - top, cols.start - left:cols.stop - left] = known_codes(
            raster, shown(href), Window.from_slices(rows, cols))
        return codes, raster.transform * rasterio.Affine.translation(left, top), raster.crs


def _pixels(raster, bounds, crs, href):
    """First and last + 1 row and column of a raster's pixels within bounds, in whatever direction its rows run."""
    outline(raster, crs, href)  # It refuses a raster without a position.
    edge = project(shapely.segmentize(shapely.box(*bounds), (bounds[2] - bounds[0]) / 20), raster.crs, source=crs)
    col, row = ~raster.transform * shapely.get_coordinates(edge).T
    if not np.isfinite([col, row]).all():
        return 0, 0, 0, 0
    return int(np.floor(row.min())), int(np.ceil(row.max())), int(np.floor(col.min())), int(np.ceil(col.max()))


def known_codes(raster: rasterio.DatasetReader, source: str, window: Window = None) -> np.ndarray:
    """The codes of an NLCD raster as uint8, ``NODATA_CODE`` where none is known; other values are refused."""
    bands = [i for i, colour in zip(raster.indexes, raster.colorinterp) if colour != ColorInterp.alpha]
    if bands != [1]:
        raise InputError(f"expected an NLCD raster of one band, got {len(bands)} in {source}. Choose one of its years, "
                         "for example with gdal_translate -b.")
    codes = raster.read(1, window=window)
    # NLCD files hold 0 outside the mapped area, declared as nodata or not.
    known = (raster.read_masks(1, window=window) > 0) & (codes != NODATA_CODE) & (codes != 0) & ~np.isnan(codes)
    check_codes(codes[known], source)
    return np.where(known, codes, np.uint8(NODATA_CODE)).astype(np.uint8)


def read_labels(href: str, bounds: tuple, crs: str) -> tuple[np.ndarray, np.ndarray]:
    """NLCD pixels and their corners on the ground, to draw them; ``label_counts`` counts them.

    Returns
    -------
    codes : (h, w) uint8, in the raster's own projection; ``NODATA_CODE`` where none is known.
    corners : (h, w, 4, 2), x and y of each pixel's corners in ``crs``, from the upper left clockwise.
    """
    codes, to_map, raster_crs = _read_codes(href, bounds, crs)
    edge_row, edge_col = np.indices(np.add(codes.shape, 1))
    x, y = transform_points(raster_crs, crs, *(to_map * np.stack([edge_col.ravel(), edge_row.ravel()])))
    edges = np.stack([x, y], axis=-1).reshape(*edge_row.shape, 2)
    return codes, np.stack([edges[:-1, :-1], edges[:-1, 1:], edges[1:, 1:], edges[1:, :-1]], axis=2)

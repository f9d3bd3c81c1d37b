"""The tile grid: from a county's boundary to the tiles that cover it. Pure geometry, no files.

``row`` and ``col`` of a tile are its northing and easting in whole tiles of 224 m; rows grow to the north.
"""

import os
from collections import namedtuple

import geopandas
import numpy as np
import pandas as pd
import shapely

from helpers import InputError
from helpers.land.classes import NO_CLASS

TILE_M = 224.0
TILE_PX = 224
# The distance that a county may reach from the middle of its zone.
FARTHEST_DEG = 6


def utm_crs(longitude: float, latitude: float) -> str:
    """The NAD83 UTM zone of a position in North America, as ``"EPSG:269zz"``: the datum and projection of NAIP."""
    zone = int((longitude + 180) // 6) + 1
    if not (1 <= zone <= 23 and 0 < latitude < 84):
        raise InputError(
            f"expected a county in North America (NAD83 UTM zones 1 to 23 north), got longitude {longitude:.3f}, "
            f"latitude {latitude:.3f}. Give the boundary in longitude and latitude (EPSG:4326).")
    return f"EPSG:269{zone:02d}"


def tile_id(crs: str, row, col) -> list[str]:
    """Names of tiles, the same in every year, run and source: ``"utm19-20971-01461"``."""
    return [f"utm{crs[-2:]}-{r:05d}-{c:05d}" for r, c in zip(np.atleast_1d(row), np.atleast_1d(col))]


def tile_of(x, y) -> tuple[np.ndarray, np.ndarray]:
    """``row`` and ``col`` (int64) of the tiles that hold positions, given as easting and northing in metres."""
    return np.floor_divide(y, TILE_M).astype(np.int64), np.floor_divide(x, TILE_M).astype(np.int64)


def tile_bounds(row, col) -> tuple:
    """Bounds ``(left, bottom, right, top)`` of tiles, in metres."""
    return (col * TILE_M, row * TILE_M, (col + 1) * TILE_M, (row + 1) * TILE_M)


def nine_points(row, col) -> tuple[np.ndarray, np.ndarray]:
    """``x`` and ``y`` (N, 9) in metres of the 2017 rule's nine points, a 3 × 3 grid inside each of N tiles.

    They lie at a quarter, half and three quarters of its sides, row by row from the upper left point.
    """
    along = np.array([0.25, 0.5, 0.75]) * TILE_M
    dy, dx = np.meshgrid(along[::-1], along, indexing="ij")
    row, col = np.atleast_1d(row)[:, None], np.atleast_1d(col)[:, None]
    return col * TILE_M + dx.ravel(), row * TILE_M + dy.ravel()


def county_tiles(boundary: shapely.Geometry) -> tuple[pd.DataFrame, str]:
    """The tiles with their centre inside a county's boundary, and the county's UTM zone, ``"EPSG:269zz"``.

    The boundary is in longitude and latitude. The tiles have ``tile_id``, ``row``, ``col``, from north to south and
    west to east.
    """
    if boundary.is_empty or not (np.abs(boundary.bounds) <= (180, 90, 180, 90)).all():
        raise InputError(f"expected a county boundary in longitude and latitude, got bounds {boundary.bounds}. "
                         "Reproject it to EPSG:4326.")
    left, right = boundary.bounds[0::2]
    if right - left > 180:
        raise InputError(f"expected a county on one side of 180°, got one from {left:.1f}° to {right:.1f}°, on both. "
                         "Give the part on one side.")
    centre = boundary.centroid
    crs = utm_crs(centre.x, centre.y)
    # Farther out, the grid stretches distances by 0.3 to 0.5%.
    middle = 6 * (int(crs[-2:]) - 31) + 3
    if max(right - middle, middle - left) > FARTHEST_DEG or right // 6 - left // 6 > 1:
        raise InputError(f"expected a county in one UTM zone or two, got one from {left:.1f}° to {right:.1f}°. Give "
                         "its parts one by one.")
    polygon = project(boundary, crs)
    if not np.isfinite(polygon.bounds).all():
        raise InputError(f"expected a county with a position in {crs}, got none. Correct its boundary"
                         f"{', or unset PROJ_NETWORK' if os.environ.get('PROJ_NETWORK') else ''}.")
    (row0, row1), (col0, col1) = tile_of(polygon.bounds[0::2], polygon.bounds[1::2])
    row, col = np.meshgrid(np.arange(row1, row0 - 1, -1), np.arange(col0, col1 + 1), indexing="ij")
    row, col = row.ravel(), col.ravel()
    inside = shapely.contains_xy(polygon, (col + 0.5) * TILE_M, (row + 0.5) * TILE_M)
    row, col = row[inside], col[inside]
    if not len(row):
        raise InputError(f"expected a county of at least one 224 m tile, got a boundary of "
                         f"{polygon.area / 1e6:.3f} km². Give a larger area.")
    return pd.DataFrame({"tile_id": tile_id(crs, row, col), "row": row, "col": col}), crs


def project(geometry: shapely.Geometry, crs: str, source: str = "EPSG:4326") -> shapely.Geometry:
    """A geometry in another CRS."""
    return geopandas.GeoSeries([geometry], crs=source).to_crs(crs).iloc[0]


def tile_polygons(tiles: pd.DataFrame, crs: str) -> geopandas.GeoDataFrame:
    """Tiles as a GeoDataFrame of squares, with the columns of ``tiles``."""
    squares = shapely.box(*tile_bounds(tiles["row"].to_numpy(), tiles["col"].to_numpy()))
    return geopandas.GeoDataFrame(tiles.reset_index(drop=True), geometry=squares, crs=crs)


TileGrid = namedtuple("TileGrid", "values top_row left_col")
TileGrid.__doc__ = "Values of tiles as a north-up array, and the tile of its upper left corner."


def to_grid(row, col, values, fill: float = NO_CLASS) -> TileGrid:
    """Lay values of tiles (N,) out as a north-up array, int16 for whole numbers, else float32.

    Where there is no tile, or its value is missing (None, NaN, NA), the array holds ``fill``.
    """
    row, col = np.asarray(row, dtype=np.int64), np.asarray(col, dtype=np.int64)
    if not len(row):
        raise InputError("expected at least one tile, got none. Check the county and year that were asked for.")
    n_tiles = len(pd.MultiIndex.from_arrays([row, col]).unique())
    if n_tiles < len(row):
        raise InputError(f"expected one value for each tile, got {len(row)} values for {n_tiles} tiles. Take one "
                         "county and year at a time.")
    values = pd.Series(values if isinstance(values, pd.Series) else np.asarray(values))
    values = values.where(values.notna(), fill).to_numpy().astype(np.float64)
    whole = np.all(values == np.floor(values)) and float(fill).is_integer()
    top_row, left_col = int(row.max()), int(col.min())
    grid = np.full((top_row - row.min() + 1, col.max() - left_col + 1), fill, dtype=np.int16 if whole else np.float32)
    grid[top_row - row, col - left_col] = values
    return TileGrid(grid, top_row, left_col)


def from_grid(grid: TileGrid, row, col) -> np.ndarray:
    """The values (N,) of tiles inside a grid: the inverse of ``to_grid``."""
    i, j = grid.top_row - np.asarray(row), np.asarray(col) - grid.left_col
    height, width = grid.values.shape
    if np.any((i < 0) | (i >= height) | (j < 0) | (j >= width)):
        raise InputError(f"expected tiles of rows {grid.top_row - height + 1} to {grid.top_row} and columns "
                         f"{grid.left_col} to {grid.left_col + width - 1}, got some outside. Use the grid's own "
                         "tiles.")
    return grid.values[i, j]

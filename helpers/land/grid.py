"""The tile grid: from a county's boundary to the tiles that cover it. Pure geometry, no files."""

from collections import namedtuple

import geopandas
import numpy as np
import pandas as pd
import shapely

from helpers import InputError
from helpers.land.classes import NO_CLASS

TILE_M = 224.0
TILE_PX = 224
# NAD83 / UTM zones 1N to 23N are EPSG:26901 to 26923: the datum and projection of NAIP scenes.
_NAD83_UTM_EPSG = 26900


def utm_crs(longitude, latitude):
    """The NAD83 UTM zone of a place, as ``"EPSG:269zz"``.

    Parameters
    ----------
    longitude, latitude : float
        Degrees; North America only, where NAD83 is defined.

    Raises
    ------
    InputError
        If the place is outside zones 1N to 23N.
    """
    zone = int((longitude + 180) // 6) + 1
    if not (1 <= zone <= 23 and 0 < latitude < 84):
        raise InputError(
            f"expected a place in North America (NAD83 UTM zones 1 to 23 north), got longitude {longitude:.3f}, "
            f"latitude {latitude:.3f}. Give the boundary in longitude and latitude (EPSG:4326).")
    return f"EPSG:{_NAD83_UTM_EPSG + zone}"


def tile_id(crs, row, col):
    """Names of tiles, the same in every year, run and source: ``"utm19-20971-01461"``.

    Parameters
    ----------
    crs : str
        As from ``utm_crs``.
    row, col : array_like of int
        Northing and easting in whole tiles of 224 m; rows grow to the north.

    Returns
    -------
    list of str
    """
    zone = int(crs.split(":")[1]) - _NAD83_UTM_EPSG
    return [f"utm{zone:02d}-{r:05d}-{c:05d}" for r, c in zip(np.atleast_1d(row), np.atleast_1d(col))]


def tile_of(x, y):
    """The tile that holds a position.

    Parameters
    ----------
    x, y : array_like of float
        Easting and northing in metres.

    Returns
    -------
    row, col : numpy.ndarray of int64
    """
    return (np.floor_divide(y, TILE_M).astype(np.int64), np.floor_divide(x, TILE_M).astype(np.int64))


def tile_bounds(row, col):
    """Bounds ``(left, bottom, right, top)`` of a tile, in metres."""
    return (col * TILE_M, row * TILE_M, (col + 1) * TILE_M, (row + 1) * TILE_M)


def pixel_to_map(row, col, pixel_row, pixel_col):
    """Position of the centre of a tile's pixel.

    Parameters
    ----------
    row, col : int
        The tile.
    pixel_row, pixel_col : array_like
        Pixel inside the tile, 0 to 223, counted from its upper left corner.

    Returns
    -------
    x, y : numpy.ndarray
        Easting and northing in metres.
    """
    left, _, _, top = tile_bounds(row, col)
    pixel_m = TILE_M / TILE_PX
    return (left + (np.asarray(pixel_col) + 0.5) * pixel_m, top - (np.asarray(pixel_row) + 0.5) * pixel_m)


def map_to_pixel(x, y):
    """The tile and pixel that hold a position; undoes ``pixel_to_map``.

    Parameters
    ----------
    x, y : array_like of float
        Shape (N,), metres in the county's CRS.

    Returns
    -------
    row, col, pixel_row, pixel_col : numpy.ndarray
        Shape (N,), int.
    """
    row, col = tile_of(x, y)
    left, top = col * TILE_M, (row + 1) * TILE_M
    pixel_m = TILE_M / TILE_PX
    pixel_row = np.clip(np.floor((top - np.asarray(y)) / pixel_m), 0, TILE_PX - 1).astype(int)
    pixel_col = np.clip(np.floor((np.asarray(x) - left) / pixel_m), 0, TILE_PX - 1).astype(int)
    return row, col, pixel_row, pixel_col


def nine_points(row, col):
    """The 2017 rule's nine points: a 3 × 3 grid inside a tile, a quarter, half and three quarters along.

    Parameters
    ----------
    row, col : array_like of int
        N tiles.

    Returns
    -------
    x, y : numpy.ndarray
        Shape (N, 9), metres, row by row from the upper left point.
    """
    along = np.array([0.25, 0.5, 0.75]) * TILE_M
    dy, dx = np.meshgrid(along[::-1], along, indexing="ij")
    row, col = np.atleast_1d(row)[:, None], np.atleast_1d(col)[:, None]
    return col * TILE_M + dx.ravel(), row * TILE_M + dy.ravel()


def county_tiles(boundary):
    """The tiles of a county: those whose centre lies inside its boundary.

    Parameters
    ----------
    boundary : shapely.Polygon or shapely.MultiPolygon
        Longitude and latitude in degrees.

    Returns
    -------
    tiles : pandas.DataFrame
        ``tile_id``, ``row``, ``col``, from north to south and west to east.
    crs : str
        The county's UTM zone.

    Raises
    ------
    InputError
        If the boundary is empty, not in North America, or smaller than a tile.
    """
    if boundary.is_empty or not (abs(boundary.bounds[0]) <= 180 and abs(boundary.bounds[1]) <= 90):
        raise InputError(f"expected a county boundary in longitude and latitude, got bounds {boundary.bounds}. "
                         "Reproject it to EPSG:4326.")
    centre = boundary.centroid
    crs = utm_crs(centre.x, centre.y)
    polygon = project(boundary, crs)
    left, bottom, right, top = polygon.bounds
    (row0, row1), (col0, col1) = zip(*(map(int, tile_of(x, y)) for x, y in ((left, bottom), (right, top))))
    row, col = np.meshgrid(np.arange(row1, row0 - 1, -1), np.arange(col0, col1 + 1), indexing="ij")
    row, col = row.ravel(), col.ravel()
    inside = shapely.contains_xy(polygon, (col + 0.5) * TILE_M, (row + 0.5) * TILE_M)
    row, col = row[inside], col[inside]
    if not len(row):
        raise InputError(f"expected a county of at least one 224 m tile, got a boundary of "
                         f"{polygon.area / 1e6:.3f} km². Give a larger area.")
    return pd.DataFrame({"tile_id": tile_id(crs, row, col), "row": row, "col": col}), crs


def project(geometry, crs, source="EPSG:4326"):
    """Bring a geometry from one CRS to another.

    Parameters
    ----------
    geometry : shapely geometry
    crs, source : str
        To and from.

    Returns
    -------
    shapely geometry
    """
    return geopandas.GeoSeries([geometry], crs=source).to_crs(crs).iloc[0]


def tile_polygons(tiles, crs):
    """Tiles as a GeoDataFrame of squares.

    Parameters
    ----------
    tiles : pandas.DataFrame
        With ``row`` and ``col``; its other columns are kept.
    crs : str
        As from ``county_tiles``.

    Returns
    -------
    geopandas.GeoDataFrame
    """
    row, col = tiles["row"].to_numpy(), tiles["col"].to_numpy()
    squares = shapely.box(col * TILE_M, row * TILE_M, (col + 1) * TILE_M, (row + 1) * TILE_M)
    return geopandas.GeoDataFrame(tiles.reset_index(drop=True), geometry=squares, crs=crs)


TileGrid = namedtuple("TileGrid", "values top_row left_col")


def to_grid(row, col, values, fill=NO_CLASS):
    """Lay values of tiles out as a north-up array.

    Parameters
    ----------
    row, col : array_like of int
        Shape (N,), grid rows (growing to the north) and columns.
    values : array_like
        Shape (N,); missing ones (None, NaN, NA) become ``fill``.
    fill : number
        What a place without a tile holds.

    Returns
    -------
    TileGrid
        ``values``, shape (height, width), int16 for whole numbers, else float32; and the grid's ``top_row`` and
        ``left_col``, the tile of ``values[0, 0]``.

    Raises
    ------
    InputError
        If there is no tile, or two at the same place.
    """
    row, col = np.asarray(row, dtype=np.int64), np.asarray(col, dtype=np.int64)
    if not len(row):
        raise InputError("expected at least one tile, got none. Check the county and year that were asked for.")
    top_row, left_col = int(row.max()), int(col.min())
    height, width = top_row - int(row.min()) + 1, int(col.max()) - left_col + 1
    place = (top_row - row) * width + (col - left_col)
    if len(np.unique(place)) < len(place):
        raise InputError("expected one value for each tile, got {} values for {} tiles. Take one county and year "
                         "at a time.".format(len(place), len(np.unique(place))))
    values = pd.Series(np.asarray(values) if not isinstance(values, pd.Series) else values)
    values = values.where(values.notna(), fill).to_numpy().astype(np.float64)
    whole = np.all(values == np.floor(values)) and float(fill).is_integer()
    grid = np.full(height * width, fill, dtype=np.int16 if whole else np.float32)
    grid[place] = values
    return TileGrid(grid.reshape(height, width), top_row, left_col)


def from_grid(grid, row, col):
    """Read the values of tiles back: undoes ``to_grid``.

    Parameters
    ----------
    grid : TileGrid
    row, col : array_like of int
        Shape (N,), tiles inside the grid.

    Returns
    -------
    numpy.ndarray
        Shape (N,).

    Raises
    ------
    InputError
        If a tile lies outside the grid.
    """
    i, j = grid.top_row - np.asarray(row), np.asarray(col) - grid.left_col
    height, width = grid.values.shape
    if np.any((i < 0) | (i >= height) | (j < 0) | (j >= width)):
        raise InputError("expected tiles of rows {} to {} and columns {} to {}, got some outside. Use the tiles "
                         "that the grid was made of.".format(
                             grid.top_row - height + 1, grid.top_row, grid.left_col, grid.left_col + width - 1))
    return grid.values[i, j]

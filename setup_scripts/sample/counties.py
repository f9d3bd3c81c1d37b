"""The five sample counties: where they lie, how large they are, and when scenes show them.

No state has FIPS codes that begin with 99.
"""

from collections import namedtuple

from helpers.land.grid import TILE_M

County = namedtuple("County", "geoid name zone longitude latitude columns rows resolution soils green "
                              "fields developments target")
County.__doc__ = """A sample county.

``zone`` is its UTM zone. Its centre lies well away from the zone's central meridian, so that scenes cut along meridians
are turned against the grid, as quarter quads are. Its landscape fills ``columns`` by ``rows`` tiles, of which its
boundary takes a part. ``resolution``: metres per pixel by year of flight. ``soils``: names in ``textures.SOILS``.
``green``: how green plants are in a good year, 0 to 1. ``fields``: least and most width of a field or block, in metres.
``developments``: new single properties and new subdivisions between 2011 and 2016. ``target``: pure tiles of each class
that its landscape aims at.
"""
LABEL_YEARS = {2010: 2011, 2016: 2016}
COUNTIES = {county.geoid: county for county in (
    County("99001", "Alder", 19, -70.50, 42.35, 31, 31, {2010: 1.0, 2016: 1.0}, ("brown", "grey", "tan"), 0.75,
           (150, 230), (44, 5), 76),
    County("99003", "Bracken", 13, -103.40, 38.60, 31, 31, {2010: 1.0, 2016: 1.0}, ("tan", "red", "pale"), 0.45,
           (160, 270), (44, 5), 76),
    County("99005", "Cedar", 16, -85.40, 40.10, 29, 29, {2010: 1.0}, ("brown", "red", "pale"), 0.6,
           (150, 250), (30, 4), 62),
    County("99007", "Dogwood", 11, -118.60, 39.40, 40, 38, {2010: 1.0, 2016: 1.0}, ("grey", "tan", "brown"), 0.6,
           (150, 250), (80, 9), 90),
    County("99009", "Elder", 17, -79.30, 37.20, 17, 16, {2010: 1.0, 2016: 0.6}, ("red", "brown", "tan"), 0.65,
           (150, 230), (12, 2), 8),
)}


def crs(county) -> str:
    return f"EPSG:{26900 + county.zone}"


def frame(county) -> tuple:
    """Bounds ``(left, bottom, right, top)`` of the county's landscape in metres, on the tile grid."""
    from rasterio.warp import transform
    (x,), (y,) = transform("EPSG:4326", crs(county), [county.longitude], [county.latitude])
    left = (x // TILE_M - county.columns // 2) * TILE_M
    bottom = (y // TILE_M - county.rows // 2) * TILE_M
    return left, bottom, left + county.columns * TILE_M, bottom + county.rows * TILE_M

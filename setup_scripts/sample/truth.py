"""The truth about a county: its boundary, and its newly developed land, which labels may miss."""

import json

import numpy as np
import pandas as pd
import rasterio.features
import shapely
from rasterio.transform import from_origin

from helpers.files import write_whole
from helpers.land.grid import TILE_M, project
from sample import counties, landscape as land
from sample.labels import CODE_M


def draw_truth(folder, scape, before, after):
    """Write newly developed land, from the codes of two years: polygons, and the share of each tile."""
    county, crs = scape.county, counties.crs(scape.county)
    left, _, _, top = counties.frame(county)
    built = [(c >= 21) & (c <= 24) for c in (before, after)]
    new = built[1] & ~built[0]
    side = int(TILE_M) // CODE_M
    share = new.reshape(county.rows, side, county.columns, side).mean(axis=(1, 3))
    to_map = from_origin(left, top, CODE_M, CODE_M)
    single_share = np.zeros(share.shape)
    polygons = [("single", shapely.Polygon(p.polygon * (1, -1) + (left, top)))
                for p in scape.patches if p.year > 2010]
    for _, polygon in polygons:
        r, c = int((top - polygon.centroid.y) // TILE_M), int((polygon.centroid.x - left) // TILE_M)
        single_share[r, c] += polygon.area / TILE_M ** 2
    # Each subdivision is one polygon; small patches of noise at its edge don't count.
    low = np.isin(scape.low_cell, [cell for group in scape.subdivisions for cell in group])
    grown = np.kron(low, np.ones((land.LOW_M // CODE_M,) * 2, bool)) & new
    for shape, value in rasterio.features.shapes(grown.astype(np.uint8), mask=grown, transform=to_map):
        polygon = shapely.geometry.shape(shape).simplify(2)
        if polygon.area > 3000:
            polygons.append(("subdivision", polygon))
    features = [{"type": "Feature", "properties": {"kind": kind, "area_m2": round(polygon.area)},
                 "geometry": shapely.geometry.mapping(project(polygon, "EPSG:4326", source=crs))}
                for kind, polygon in polygons]
    write_whole(folder / "truth" / f"{county.geoid}_developments.geojson",
                json.dumps({"type": "FeatureCollection", "features": features}).encode())
    r, c = np.nonzero((share > 0.005) & scape.in_county)
    tiles = pd.DataFrame({
        "row": round(top / TILE_M) - 1 - r, "col": round(left / TILE_M) + c, "share": share[r, c].round(4),
        "kind": np.where(single_share[r, c] > share[r, c] / 2, "single", "subdivision")})
    write_whole(folder / "truth" / f"{county.geoid}_new_tiles.csv",
                tiles.to_csv(index=False, lineterminator="\r\n").encode())


def boundary(scape):
    """The county's boundary in longitude and latitude, as GeoJSON."""
    left, _, _, top = counties.frame(scape.county)
    ring = shapely.transform(scape.boundary, lambda p: p * (1, -1) + (left, top))
    return shapely.geometry.mapping(project(ring, "EPSG:4326", source=counties.crs(scape.county)))

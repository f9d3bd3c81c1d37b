"""Every county of the conterminous US: scenes from a STAC API, labels from a WCS or from files, boundaries."""

import json
import re
import warnings
from functools import lru_cache
from pathlib import Path
from urllib.parse import parse_qsl, urlencode, urlsplit, urlunsplit

import pystac
import shapely

from helpers import InputError
from helpers.land import downloads
from helpers.land.rasters import footprint, said
from helpers.land.sources import County, Labels, Scene, Source, nearest, scene_of
from helpers.land.wcs import coverage
from helpers.uri import shown

# How long the list of a county's scenes is kept before it is asked for again.
KEPT_S = 7 * 24 * 3600
# Years of Annual NLCD.
LABEL_YEARS = range(1985, 2025)


class Online(Source):
    """Every county of the conterminous US, from the servers of ``downloads.ADDRESSES``."""

    name = "the NAIP catalogue"

    def __init__(self):
        self.county = lru_cache(maxsize=None)(boundary_of)
        self._scenes = lru_cache(maxsize=None)(search)

    def _labels(self, county, year):
        where = downloads.address("TUTORIAL_LABELS")
        if not downloads.is_remote(where):
            return nearest(label_files(where, county), year)
        year = min(max(year, LABEL_YEARS[0]), LABEL_YEARS[-1])
        return Labels(str(coverage(where, county.boundary, year)), year, shown(where))


def search(county: County) -> list[Scene]:
    """All years' scenes over a county from a STAC API: one search, so that an error can list the years there are.

    The answer is kept like every download: a county that is finished needs no network. ``collection`` and ``asset`` in
    the query of the address take the place of ``naip`` and ``image``.
    """
    parts = urlsplit(downloads.address("TUTORIAL_SCENES"))
    given = dict(parse_qsl(parts.query))
    collection, asset = given.pop("collection", "naip"), given.pop("asset", "image")
    url, bounds = urlunsplit(parts[:3] + (urlencode(given), "")), list(county.boundary.bounds)

    def found():
        from pystac_client import Client
        from pystac_client.exceptions import APIError
        from pystac_client.stac_api_io import StacApiIO
        try:
            io = StacApiIO(max_retries=downloads.retries(), timeout=(downloads.CONNECT_S, downloads.BLOCK_S))
            items = Client.open(url, stac_io=io).search(collections=[collection], bbox=bounds, limit=250).items()
            items = sorted(items, key=lambda item: item.id)
        except (APIError, OSError, ValueError, KeyError, pystac.STACError) as error:
            raise InputError(f"expected NAIP scenes from {parts.netloc}, got {type(error).__name__}: {said(error)}. "
                             f"{downloads.OFFLINE}") from None
        scenes = [scene_of(item, item.assets[asset].href) for item in items if asset in item.assets]
        return json.dumps([scene._replace(footprint=shapely.geometry.mapping(scene.footprint))
                           for scene in scenes]).encode()
    asked = [url, collection, asset, bounds, Scene._fields]
    path = downloads.keep(asked, f"scenes over {county.name}", ".scenes", found, url, KEPT_S)
    scenes = [Scene(*values) for values in json.loads(path.read_text())]
    scenes = [scene._replace(footprint=shapely.geometry.shape(scene.footprint)) for scene in scenes]
    return [scene for scene in scenes if shapely.intersects(scene.footprint, county.boundary)]


def boundary_of(county: str) -> County:
    """A county from the file ``TUTORIAL_COUNTIES``, by its FIPS code, or as ``"Middlesex, MA"``.

    In a file with one shape and no ``GEOID``, the file's name is the county's.
    """
    where = downloads.address("TUTORIAL_COUNTIES")
    shapes, names = _boundaries(where)
    found = shapes[(shapes["GEOID"] == str(county)) | (names.str.lower() == str(county).lower())]
    if not len(found) and re.fullmatch(r"\d{5}", str(county)) and where != downloads.ADDRESSES["TUTORIAL_COUNTIES"]:
        # A file of one's own holds the county to map, and the counties to train on are the Census's.
        try:
            shapes, names = _boundaries(downloads.ADDRESSES["TUTORIAL_COUNTIES"])
        except InputError as error:
            raise InputError(f"expected county {county} in {Path(where).name} or among all counties, got none in the "
                             f"file, and of the others: {error}") from None
        found = shapes[shapes["GEOID"] == str(county)]
    if len(found) != 1:
        wanted = str(county).split(",")[0].strip().lower()
        alike = found if len(found) else shapes[shapes["NAME"].str.lower() == wanted]
        like = sorted(f"{names[i]} ({shapes['GEOID'][i]})" for i in alike.index)
        raise InputError(f"expected a FIPS code of five digits, or a county and its state such as 'Middlesex, MA', got "
                         f"{county!r}. Choose one of {', '.join(like or sorted(names)[:5])}{'' if like else ', …'}.")
    row = found.iloc[0]
    return County(str(row["GEOID"]), row["NAME"], shapely.make_valid(row.geometry))


def _boundaries(where):
    """The shapes of a file of boundaries in longitude and latitude, and their names with the state."""
    import geopandas
    import pyogrio
    if downloads.is_remote(where):
        host = urlsplit(where).netloc

        def check(content):
            if content[:2] != b"PK" and content.lstrip()[:1] != b"{":
                raise InputError(f"expected a zipped shapefile or a GeoJSON from {host}, got something else. "
                                 f"{downloads.OFFLINE}")
        where = downloads.fetch(where, "county boundaries", ".zip" if where.endswith(".zip") else ".geojson",
                                check=check)
    if not Path(where).exists():
        raise InputError(f"expected county boundaries at {where}, got no such file. Set TUTORIAL_COUNTIES to a file "
                         "that geopandas reads.")
    try:
        with warnings.catch_warnings():
            # Some programs leave a ring open; it is closed here.
            warnings.filterwarnings("ignore", message="Non closed ring")
            shapes = geopandas.read_file(where, on_invalid="fix").to_crs("EPSG:4326")
    except (pyogrio.errors.DataSourceError, ValueError) as error:
        raise InputError(f"expected county boundaries with a CRS at {where}, got {said(error)}. Set TUTORIAL_COUNTIES "
                         "to a file that geopandas reads.") from error
    if "GEOID" not in shapes:
        own = Path(where).name.split(".")[0]
        shapes = shapes.dissolve()[["geometry"]].assign(GEOID=own, NAME=own)
    return shapes, shapes["NAME"] + ", " + shapes["STUSPS"] if "STUSPS" in shapes else shapes["NAME"]


def label_files(where: str, county: County) -> list[Labels]:
    """NLCD rasters over a county in a folder of this machine, as MRLC names them: with ``nlcd`` and the year.

    ``where`` may also be one raster, with the year in its name.
    """
    path = Path(where)
    files = [path] if path.is_file() else sorted(
        p for p in path.glob("*") if p.suffix.lower() in (".tif", ".tiff", ".img") and "nlcd" in p.name.lower())
    if not files:
        raise InputError(f"expected an NLCD raster, or a folder with some, at {where}, got none. Download one from "
                         "mrlc.gov, and keep 'nlcd' and the year in its name.")
    found = []
    for file in files:
        years = re.findall(r"(?<!\d)(?:19|20)\d\d(?!\d)", file.stem)
        if not years:
            raise InputError(f"expected the year in the name of the NLCD raster {file.name}, got none. Rename it, for "
                             "example to nlcd_2011.tif.")
        if shapely.intersects(footprint(str(file)), county.boundary):
            found.append(Labels(str(file), int(years[0])))
    if not found:
        raise InputError(f"expected an NLCD raster over county {county.fips} ({county.name}), got {len(files)} "
                         f"elsewhere in {where}. Choose the raster of this county.")
    return found

"""online."""

import json
import re
import warnings
from functools import lru_cache
from pathlib import Path
from urllib.parse import parse_qsl, urlencode, urlsplit, urlunsplit

import numpy as np
import pystac
import shapely

from helpers import InputError
from helpers.land import downloads, grid, scenes as rasters
from helpers.land.labels import check_labels, join_labels
from helpers.land.sources import County, Labels, Scene, _Source, _nearest, _scene

# How long the list of a county's scenes is kept before it is asked for anew.
KEPT_S = 7 * 24 * 3600
# Years of Annual NLCD.
LABEL_YEARS = range(1985, 2025)
# Where the grid of NLCD's pixels lies in EPSG:5070, in metres, and ground around a county that comes along.
_NLCD_OFFSET_M, _MARGIN_M = 15, 500
# Pixels along a side that a WCS is asked for at once; larger requests are turned away or run out of time.
PIECE_PX = 4096


class Online(_Source):
    """Every county of the conterminous US, from the servers of ``downloads.ADDRESSES``."""

    name = "the NAIP catalogue"

    def __init__(self):
        self._found = {}
        self.county = lru_cache(maxsize=None)(self.county)

    def county(self, county):
        """A county by its FIPS code, or as ``"Middlesex, MA"``.

        Returns
        -------
        County

        Raises
        ------
        InputError
            If there is none, or the boundaries can't be had.
        """
        return boundary_of(county)

    def _scenes(self, place):
        if place.county not in self._found:
            self._found[place.county] = search(downloads.address("TUTORIAL_SCENES"), place)
        return self._found[place.county]

    def _labels(self, place, year):
        where = downloads.address("TUTORIAL_LABELS")
        if not downloads.is_remote(where):
            return _nearest(label_files(where, place), year)
        year = min(max(year, LABEL_YEARS[0]), LABEL_YEARS[-1])
        path = coverage(where, place.boundary, year)
        return Labels(str(path), year, urlunsplit(urlsplit(where)[:3] + ("", "")))


def search(address, place):
    """All years' scenes over a county from a STAC API: one search, so that an error can list the years there are.

    What it finds is kept like every download: a county that is finished needs no network.

    Parameters
    ----------
    address : str
        The API; ``collection`` and ``asset`` in its query take the place of ``naip`` and ``image``.
    place : County

    Returns
    -------
    list of Scene
        In order of their ids.

    Raises
    ------
    InputError
        If there is no answer.
    """
    parts = urlsplit(address)
    given = dict(parse_qsl(parts.query))
    collection, asset = given.pop("collection", "naip"), given.pop("asset", "image")
    url, bounds = urlunsplit(parts[:3] + (urlencode(given), "")), list(place.boundary.bounds)

    def found():
        from pystac_client import Client
        from pystac_client.exceptions import APIError
        from pystac_client.stac_api_io import StacApiIO
        try:
            io = StacApiIO(max_retries=downloads.retries(), timeout=(downloads.CONNECT_S, downloads.PIECE_S))
            items = Client.open(url, stac_io=io).search(collections=[collection], bbox=bounds, limit=250).items()
            scenes = [_scene(item, item.assets[asset].href) for item in sorted(items, key=lambda item: item.id)
                      if asset in item.assets]
        except InputError:
            raise
        except (APIError, OSError, ValueError, KeyError, pystac.STACError) as error:
            raise InputError(f"expected NAIP scenes from {parts.netloc}, got {type(error).__name__}: "
                             f"{_first_line(error)}. {downloads.OFFLINE}") from None
        return json.dumps([scene._replace(footprint=shapely.geometry.mapping(scene.footprint))
                           for scene in scenes]).encode()
    path = downloads.keep([url, collection, asset, bounds], f"scenes over {place.name}", ".scenes", found, url, KEPT_S)
    scenes = [Scene(*values) for values in json.loads(path.read_text())]
    scenes = [scene._replace(footprint=shapely.geometry.shape(scene.footprint)) for scene in scenes]
    return [scene for scene in scenes if shapely.intersects(scene.footprint, place.boundary)]


def _first_line(error):
    """What an error says first, without queries: a signed address has its signature there."""
    lines = str(error).strip().splitlines() or [""]
    return re.sub(r"\?\S*", "", lines[0])[:200].rstrip(".")


def boundary_of(county):
    """A county's boundary from the file of boundaries, ``TUTORIAL_COUNTIES``.

    Parameters
    ----------
    county : str
        FIPS code, or name and state as ``"Middlesex, MA"``. In a file with one shape and no ``GEOID``, the file's name.

    Returns
    -------
    County

    Raises
    ------
    InputError
    """
    where = downloads.address("TUTORIAL_COUNTIES")
    shapes, names = _boundaries(where)
    found = shapes[(shapes["GEOID"] == str(county)) | (names.str.lower() == str(county).lower())]
    if not len(found) and re.fullmatch(r"\d{5}", str(county)) and where != downloads.ADDRESSES["TUTORIAL_COUNTIES"]:
        # A file of one's own holds the place to map, and the counties to train on are the Census's.
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
        address = where
        where = downloads.fetch(where, "county boundaries", ".zip" if where.endswith(".zip") else ".geojson",
                                check=lambda content: _check_boundaries(content, address))
    if not Path(where).exists():
        raise InputError(f"expected county boundaries at {where}, got no such file. Set TUTORIAL_COUNTIES to a file "
                         "that geopandas reads.")
    try:
        with warnings.catch_warnings():
            # A ring that isn't closed is closed: other programs write such.
            warnings.filterwarnings("ignore", message="Non closed ring")
            shapes = geopandas.read_file(where, on_invalid="fix").to_crs("EPSG:4326")
    except (pyogrio.errors.DataSourceError, ValueError) as error:
        raise InputError(f"expected county boundaries with a CRS at {where}, got {_first_line(error)}. Set "
                         "TUTORIAL_COUNTIES to a file that geopandas reads.") from error
    if "GEOID" not in shapes:
        own = Path(where).name.split(".")[0]
        shapes = shapes.dissolve()[["geometry"]].assign(GEOID=own, NAME=own)
    return shapes, shapes["NAME"] + ", " + shapes["STUSPS"] if "STUSPS" in shapes else shapes["NAME"]


def _check_boundaries(content, where):
    if content[:2] != b"PK" and content.lstrip()[:1] != b"{":
        raise InputError(f"expected a zipped shapefile or a GeoJSON from {urlsplit(where).netloc}, got something else. "
                         f"{downloads.OFFLINE}")


def coverage(address, boundary, year):
    """Annual NLCD around a county from a WCS, kept like every download.

    Parameters
    ----------
    address : str
        The service with ``version`` (1.0.0 or 2.0.1) and ``coverage`` in its query. A coverage with ``{year}`` in its
        name is one of a year; any other is asked for that time.
    boundary : shapely.Geometry
        Longitude and latitude.
    year : int

    Returns
    -------
    pathlib.Path
        A GeoTIFF on NLCD's own grid, EPSG:5070, 30 m.

    Raises
    ------
    InputError
        If the server doesn't give a whole raster of NLCD codes.

    References
    ----------
    OGC 03-065r6 (WCS 1.0.0) and OGC 09-110r4 (WCS 2.0).
    """
    parts = urlsplit(address)
    given = dict(parse_qsl(parts.query))
    if not {"version", "coverage"} <= set(given) or given["version"][:2] not in ("1.", "2."):
        raise InputError(f"expected version=1.0.0 or 2.0.1 and coverage=NAME in TUTORIAL_LABELS, got {sorted(given)}. "
                         "Give both in the query of the address.")
    left, bottom, right, top = grid.project(boundary, "EPSG:5070").buffer(_MARGIN_M).bounds
    low, high = (round_to(np.subtract(corner, _NLCD_OFFSET_M) / rasters.NLCD_M).astype(int) * rasters.NLCD_M
                 + _NLCD_OFFSET_M for round_to, corner in ((np.floor, (left, bottom)), (np.ceil, (right, top))))
    what, url = f"NLCD of {year}", urlunsplit(parts[:3] + ("", ""))
    step = PIECE_PX * rasters.NLCD_M
    pieces = [(x, y, min(x + step, high[0]), min(y + step, high[1]))
              for y in range(low[1], high[1], step) for x in range(low[0], high[0], step)]
    queries = [_coverage_query(given, bounds, year) for bounds in pieces]

    def checked(bounds):
        def check(content):
            if content[:4] not in (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+"):
                # Servers tell of their errors in XML, with status 200.
                said = re.sub(r"\s+", " ", re.sub(r"<[^>]*>", " ", content[:4000].decode("utf-8", "replace"))).strip()
                raise InputError(f"expected {what} as a GeoTIFF from {parts.netloc}, got {said[:200]!r}. "
                                 f"{downloads.OFFLINE}")
            check_labels(content, f"{what} from {parts.netloc}", bounds)
        return check

    def joined():
        # Each piece is kept by itself, so that a run that was interrupted goes on with the next.
        files = [downloads.fetch(url, what, ".tif", query, checked(bounds), downloads.COMPUTE_S)
                 for query, bounds in zip(queries, pieces)]
        return join_labels(files)
    return downloads.keep([url, queries, "joined"], what, ".tif", joined, url)


def _coverage_query(given, bounds, year):
    """What a WCS is asked: a list of names and values."""
    when, name = f"{year}-01-01T00:00:00.000Z", given["coverage"].replace("{year}", str(year))
    left, bottom, right, top = map(int, bounds)
    asked = dict({k: v for k, v in given.items() if k not in ("version", "coverage")}, service="WCS",
                 version=given["version"], request="GetCoverage")
    if given["version"].startswith("1."):
        asked.update(coverage=name, crs="EPSG:5070", bbox=f"{left},{bottom},{right},{top}", resx=rasters.NLCD_M,
                     resy=rasters.NLCD_M, format=given.get("format", "GeoTIFF"))
        return list(asked.items()) + ([("time", when)] if name == given["coverage"] else [])
    asked.update(coverageId=name, format=given.get("format", "image/tiff"))
    query = list(asked.items()) + [("subset", f"X({left},{right})"), ("subset", f"Y({bottom},{top})")]
    return query + ([("subset", f'time("{when}")')] if name == given["coverage"] else [])


def label_files(where, place):
    """NLCD rasters on this machine over a county, as they are downloaded from MRLC; the year is in the name.

    Parameters
    ----------
    where : str
        A raster, or a folder of them with ``nlcd`` in their names.
    place : County

    Returns
    -------
    list of Labels

    Raises
    ------
    InputError
        If there is none over the county, or a name lacks the year.
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
        if shapely.intersects(rasters.footprint(str(file))[0], place.boundary):
            found.append(Labels(str(file), int(years[0])))
    if not found:
        raise InputError(f"expected an NLCD raster over county {place.county} ({place.name}), got {len(files)} "
                         f"elsewhere in {where}. Choose the raster of this place.")
    return found

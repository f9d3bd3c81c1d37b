"""Every county of the conterminous US: scenes from a STAC API, labels from a WCS or from files, boundaries."""

import json
import re
from functools import lru_cache
from pathlib import Path
from urllib.parse import parse_qsl, urlencode, urlsplit, urlunsplit

import pystac
import shapely

from helpers import InputError
from helpers.land import boundaries, downloads
from helpers.land.labels import has_codes
from helpers.land.listing import files_in
from helpers.land.rasters import ELSEWHERE, footprint, said, split_crs
from helpers.land.sources import County, Labels, Scene, Source, nearest, scene_of
from helpers.land.wcs import coverage
from helpers.uri import host, shown

# How long the list of a county's scenes is kept before it is asked for again.
KEPT_S = 7 * 24 * 3600
# Years of Annual NLCD.
LABEL_YEARS = range(1985, 2025)
RASTERS = (".tif", ".tiff", ".img")
# How MRLC names its products other than land cover.
_OTHERS = re.compile(r"imperv|imp(?![a-z])|fct|canopy|tcc|descriptor|change|chg|confidence|lndcnf|science", re.I)
# The largest county has some fifty pages of scenes, of 250 each.
MOST_PAGES = 400


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
    address = downloads.address("TUTORIAL_SCENES")
    parts, server = urlsplit(address), host(address)
    given = dict(parse_qsl(parts.query))
    collection, asset = given.pop("collection", "naip"), given.pop("asset", "image")
    url, bounds = urlunsplit(parts[:3] + (urlencode(given), "")), list(county.boundary.bounds)

    def found():
        from pystac_client import Client
        try:
            # Every STAC API answers to GET, and what it answers passes the limits of all downloads.
            search = Client.open(url, stac_io=_stac_io()).search(
                method="GET", collections=[collection], bbox=bounds, limit=250)
            items = sorted(search.items(), key=lambda item: item.id)
            scenes = [scene_of(item, item.assets[asset].href) for item in items if asset in item.assets]
        except InputError:
            raise
        except Exception as error:  # Those of pystac and its client have nothing in common.
            raise InputError(f"expected NAIP scenes from {server}, got {type(error).__name__}: {said(error)}. "
                             f"{downloads.OFFLINE}") from None
        scenes = [scene for scene in scenes if scene is not None]
        if not all(downloads.is_remote(scene.href) for scene in scenes):
            raise InputError(f"expected scenes at http(s) addresses from {server}, got one elsewhere. Ask "
                             "another server: this one would have files of this machine read.")
        return json.dumps([scene._replace(footprint=shapely.geometry.mapping(scene.footprint))
                           for scene in scenes]).encode()
    asked = [url, collection, asset, bounds, Scene._fields]
    path = downloads.keep(asked, f"scenes over {county.name}", ".scenes", found, url, KEPT_S)
    scenes = [Scene(*values) for values in json.loads(path.read_text())]
    scenes = [scene._replace(footprint=shapely.geometry.shape(scene.footprint)) for scene in scenes]
    return [scene for scene in scenes if shapely.intersects(scene.footprint, county.boundary)]


def _stac_io():
    """How pystac reads a STAC API: from the network only, and so many answers and bytes at most."""
    from pystac_client.stac_api_io import StacApiIO

    class Limited(StacApiIO):
        answers, size = 0, 0

        def request(self, href, method=None, headers=None, parameters=None):
            self.answers += 1
            if self.answers > MOST_PAGES:
                raise InputError(f"expected NAIP scenes on at most {MOST_PAGES} pages from {urlsplit(href).hostname}, "
                                 f"got more. {downloads.OFFLINE}")
            content = downloads.get(href, "NAIP scenes", parameters)
            self.size += len(content)
            if self.size > downloads.MOST_BYTES:
                raise InputError(f"expected NAIP scenes in at most {downloads.MOST_BYTES >> 20} MB from "
                                 f"{urlsplit(href).hostname}, got more. {downloads.OFFLINE}")
            return content.decode()

        def read_text(self, source, *args, **kwargs):
            if isinstance(source, pystac.Link):  # The next page, which has the question in its address.
                return self.request(source.get_href(transform_href=False))
            return self.request(str(source), *args, **kwargs)
    return Limited()


def boundary_of(county: str) -> County:
    """A county from the file ``TUTORIAL_COUNTIES``, by its FIPS code, or as ``"Middlesex, MA"``.

    In a file with one shape and no ``GEOID``, the file's name is the county's.
    """
    where = downloads.address("TUTORIAL_COUNTIES")
    shapes = _boundaries(where)
    found = boundaries.find(shapes, county)
    if not len(found) and re.fullmatch(r"\d{5}", str(county)) and where != downloads.ADDRESSES["TUTORIAL_COUNTIES"]:
        # A file of one's own holds the county to map, and the counties to train on are the Census's.
        name = Path(shown(where)).name
        try:
            shapes = _boundaries(downloads.ADDRESSES["TUTORIAL_COUNTIES"])
        except InputError as error:
            raise InputError(f"expected county {county} in {name} or among all counties, got none in the "
                             f"file, and of the others: {error}") from None
        found = boundaries.find(shapes, county)
        if len(found):
            print(f"The boundary of county {county} is the Census's: {name} has none.")
    if found["GEOID"].nunique() != 1:
        # Names and codes change, those of Connecticut in 2022: the state's counties are the likeliest.
        state = "^" + str(county)[:2] if str(county)[:2].isdigit() else ", *" + re.escape(str(county)[-2:]) + "$"
        alike = found if len(found) else shapes[shapes["NAME"].str.lower() == str(county).split(",")[0].strip().lower()]
        if not len(alike):
            alike = shapes[shapes["GEOID"].str.match(state) | shapes["full"].str.contains(state, case=False)]
        like = sorted(f"{name} ({code})" for name, code in zip(alike["full"], alike["GEOID"]))
        listed = like or sorted(shapes["full"])
        raise InputError(f"expected a FIPS code of five digits, or a county and its state such as 'Middlesex, MA', got "
                         f"{county!r}. Choose one of {', '.join(listed[:12])}{', …' if len(listed) > 12 else ''}.")
    return boundaries.county_of(found, shown(where))


def _boundaries(where):
    """The shapes of a file, of this machine or a server."""
    if downloads.is_remote(where):
        server = host(where)

        def check(content):
            if content[:2] != b"PK" and content.lstrip()[:1] != b"{":
                raise InputError(f"expected a zipped shapefile or a GeoJSON from {server}, got something else. "
                                 f"{downloads.OFFLINE}")
        where = downloads.fetch(where, "county boundaries", ".zip" if where.endswith(".zip") else ".geojson",
                                check=check)
    return boundaries.read(where)


def label_files(where: str, county: County) -> list[Labels]:
    """NLCD rasters over a county in a folder of this machine, as MRLC names them: with ``nlcd`` and the year.

    ``where`` may also be one raster, with the year in its name, and ``#crs=EPSG:5070`` behind it.
    """
    path, crs = split_crs(where)
    path = Path(path)
    files = [path] if path.is_file() else [p for p in files_in(path, RASTERS)[0] if "nlcd" in p.name.lower()]
    # MRLC's bundles hold other products of the same year.
    others = [] if path.is_file() else [p.name for p in files if _OTHERS.search(p.stem)]
    files = [p for p in files if p.name not in others]
    if not files:
        came = f"only other products ({', '.join(others[:3])})" if others else "none"
        raise InputError(f"expected an NLCD land cover raster, or a folder with some, at {where}, got {came}. Download "
                         "one from mrlc.gov, and keep 'nlcd' and the year in its name.")
    found = {}
    for file in files:
        years = re.findall(r"(?<!\d)(?:19|20)\d\d(?!\d)", file.stem)
        if not years:
            raise InputError(f"expected the year in the name of the NLCD raster {file.name}, got none. Rename it, for "
                             "example to nlcd_2011.tif.")
        href = f"{file}#crs={crs}" if crs else str(file)
        if shapely.intersects(footprint(href), county.boundary):
            found.setdefault(int(years[0]), []).append(Labels(href, int(years[0])))
    if not found:
        raise InputError(f"expected an NLCD raster over county {county.fips} ({county.name}), got {len(files)} "
                         f"elsewhere in {where}. {ELSEWHERE}")
    # Of several of a year, those whose codes are land cover's come first.
    return [same[0] if len(same) == 1 else max(same, key=lambda labels: has_codes(labels.href, county.boundary))
            for same in found.values()]

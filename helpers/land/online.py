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
from helpers.land.sources import County, Labels, Scene, Source, scene_of
from helpers.land.wcs import coverage
from helpers.uri import host, shown

# The list of a county's scenes is asked for again after this time.
KEPT_S = 7 * 24 * 3600
LABEL_YEARS = range(1985, 2025)  # of Annual NLCD
RASTERS = (".tif", ".tiff", ".img")
# Words in the names of MRLC's other products.
_OTHERS = re.compile(r"imperv|imp(?![a-z])|fct|canopy|tcc|descriptor|change|chg|confidence|lndcnf|science", re.I)
# The largest county has some fifty pages of 250 scenes each.
MOST_PAGES = 400


class Online(Source):
    """Every county of the conterminous US, from the servers of ``downloads.ADDRESSES``."""

    name = "the NAIP catalogue"

    def __init__(self):
        self.county, self._search = (lru_cache(maxsize=None)(ask) for ask in (boundary_of, search))

    def _scenes(self, county):
        return self._search(county)

    def _labels(self, county, year):
        where = downloads.address("TUTORIAL_LABELS")
        if not downloads.is_remote(where):
            return label_files(where, county)
        year = min(max(year, LABEL_YEARS[0]), LABEL_YEARS[-1])
        return [Labels(str(coverage(where, county.boundary, year)), year, shown(where))]


def search(county: County) -> list[Scene]:
    """All years' scenes around a county from one search of a STAC API, kept like every download.

    ``collection`` and ``asset`` in the query of the address replace ``naip`` and ``image``.
    """
    address = downloads.address("TUTORIAL_SCENES")
    parts, server = urlsplit(address), host(address)
    given = dict(parse_qsl(parts.query))
    collection, asset = given.pop("collection", "naip"), given.pop("asset", "image")
    url, bounds = urlunsplit(parts[:3] + (urlencode(given), "")), list(county.boundary.bounds)

    def found():
        from pystac_client import Client
        try:
            # Every STAC API answers to GET.
            search = Client.open(url, stac_io=_stac_io()).search(
                method="GET", collections=[collection], bbox=bounds, limit=250)
            scenes = [scene_of(item, item.assets[asset].href) for item in search.items() if asset in item.assets]
        except InputError:
            raise
        except Exception as error:  # The errors of pystac and its client have no common class.
            raise InputError(f"expected NAIP scenes from {server}, got {type(error).__name__}: {said(error)}. "
                             f"{downloads.OFFLINE}") from None
        scenes = sorted(filter(None, scenes), key=lambda scene: scene.scene_id)
        if not all(downloads.is_remote(scene.href) for scene in scenes):
            raise InputError(f"expected scenes at http(s) addresses from {server}, got one elsewhere. Choose another "
                             "server: this one names files of this machine.")
        return json.dumps([scene._replace(footprint=shapely.geometry.mapping(scene.footprint))
                           for scene in scenes]).encode()
    asked = [url, collection, asset, bounds, Scene._fields]
    path = downloads.keep(asked, f"scenes over {county.name}", ".scenes", found, url, KEPT_S)
    scenes = [Scene(*values) for values in json.loads(path.read_text())]
    return [scene._replace(footprint=shapely.geometry.shape(scene.footprint)) for scene in scenes]


def _stac_io():
    """A reader for pystac's client that asks the network only, within the limits of all downloads."""
    from pystac_client.stac_api_io import StacApiIO

    class Limited(StacApiIO):
        answers, size = 0, 0

        def request(self, href, method=None, headers=None, parameters=None):
            content = downloads.get(href, "NAIP scenes", parameters)
            self.answers, self.size = self.answers + 1, self.size + len(content)
            if self.answers > MOST_PAGES or self.size > downloads.MOST_BYTES:
                raise InputError(f"expected NAIP scenes on at most {MOST_PAGES} pages and in at most "
                                 f"{downloads.MOST_BYTES >> 20} MB from {urlsplit(href).hostname}, got more. "
                                 f"{downloads.CORRECT}")
            return content.decode()

        def read_text(self, source, *args, **kwargs):
            if isinstance(source, pystac.Link):  # The next page, with the query in its address.
                return self.request(source.get_href(transform_href=False))
            return self.request(str(source), *args, **kwargs)
    return Limited()


def boundary_of(county: str) -> County:
    """A county from the file ``TUTORIAL_COUNTIES``, by its FIPS code, or as ``"Middlesex, MA"``."""
    where = downloads.address("TUTORIAL_COUNTIES")
    shapes, census = _boundaries(where), downloads.ADDRESSES["TUTORIAL_COUNTIES"]
    if where != census and re.fullmatch(r"\d{5}", str(county)) and not len(boundaries.find(shapes, county)):
        # The user's file holds the county to map; those to train on come from the Census.
        name = Path(shown(where)).name
        try:
            shapes = _boundaries(census)
        except InputError as error:
            raise InputError(f"expected county {county} in {name}, got none there, and the Census's file is not "
                             f"available. {str(error)[0].upper()}{str(error)[1:]}") from None
        if len(boundaries.find(shapes, county)):
            print(f"The boundary of county {county} is the Census's: {name} has none.")
    return boundaries.county_of(shapes, county, shown(where))


def _boundaries(where):
    """The shapes of a file on this machine or on a server."""
    if downloads.is_remote(where):
        server = host(where)

        def check(content):
            if content[:2] != b"PK" and content.lstrip()[:1] != b"{":
                raise InputError(f"expected a zipped shapefile or a GeoJSON from {server}, got something else. "
                                 f"{downloads.CORRECT}")
        where = downloads.fetch(where, "county boundaries", ".zip" if where.endswith(".zip") else ".geojson",
                                check=check)
    return boundaries.read(where)


def label_files(where: str, county: County) -> list[Labels]:
    """NLCD rasters over a county in a local folder, with ``nlcd`` and the year in their names, as MRLC names them.

    ``where`` may also be one raster, with the year in its name, and ``#crs=EPSG:5070`` behind it.
    """
    path, crs = split_crs(where)
    path = Path(path)
    named = [path] if path.is_file() else [p for p in files_in(path, RASTERS)[0] if "nlcd" in p.name.lower()]
    # MRLC's bundles hold other products of the same year.
    files = named if path.is_file() else [p for p in named if not _OTHERS.search(p.stem)]
    if not files:
        came = f"only other products ({', '.join(p.name for p in named[:3])})" if named else "none"
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
    # Of several rasters of a year, one with codes of land cover comes first.
    return [same[0] if len(same) == 1 else max(same, key=lambda labels: has_codes(labels.href, county.boundary))
            for same in found.values()]

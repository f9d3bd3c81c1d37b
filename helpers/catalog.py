"""Where scenes, labels and county boundaries come from.

Three kinds of catalogue answer the same questions:

- ``Catalog``, a static STAC catalogue laid out as the sample is: a collection ``naip`` with an ``image`` asset for each
  scene, a collection ``nlcd`` with a ``landcover`` asset for each label raster, and ``counties.geojson`` beside
  ``catalog.json``. The property names are the Planetary Computer's.
- ``Online``, all of the conterminous US: NAIP from a STAC API, Annual NLCD from a WCS, boundaries from the Census.
- ``Folder``, GeoTIFFs of one's own.
"""

import json
import re
import warnings
from collections import namedtuple
from functools import lru_cache
from pathlib import Path
from urllib.parse import parse_qsl, urlencode, urlsplit, urlunsplit

import numpy as np
import pystac
import shapely

from helpers import InputError, downloads, grid, rasters
from helpers.runs import home

# Twelve counties to begin with, as many as in 2017, chosen for climate and land cover: desert and shrub, prairie,
# fields, pastures, forests of both kinds, and towns in each.
TRAINING = {
    "06065": "Riverside, CA", "08069": "Larimer, CO", "12105": "Polk, FL", "13121": "Fulton, GA", "19153": "Polk, IA",
    "25027": "Worcester, MA", "27137": "St. Louis, MN", "32003": "Clark, NV", "36001": "Albany, NY",
    "41039": "Lane, OR", "48029": "Bexar, TX", "55025": "Dane, WI"}
# Those of them that validate, the second where the first is mapped: from mountains to fields, they have all six
# classes.
VALIDATION = ("08069", "06065")
# A year's scenes have to cover this share of a county, or it counts as not flown: the border scenes of a neighbouring
# state's year touch it too.
COVERED = 0.9
# How long the list of a county's scenes is kept before it is asked for anew.
KEPT_S = 7 * 24 * 3600
# Years of Annual NLCD.
LABEL_YEARS = range(1985, 2025)
# In these months broad-leaved trees of the northern US stand bare, and fields lie brown.
LEAF_OFF = (11, 12, 1, 2, 3)
# Where the grid of NLCD's pixels lies in EPSG:5070, in metres, and ground around a county that comes along.
_NLCD_OFFSET_M, _MARGIN_M = 15, 500
# Pixels along a side that a WCS is asked for at once; larger requests are turned away or run out of time.
PIECE_PX = 4096

Scene = namedtuple("Scene", "scene_id href acquired year footprint resolution", defaults=(1.0,))
Scene.__doc__ = """A catalogued scene.

Attributes
----------
scene_id, href : str
acquired : str
    ISO date of the flight.
year : int
footprint : shapely.Geometry
    Longitude and latitude.
resolution : float
    Metres per pixel.
"""

Labels = namedtuple("Labels", "href year source", defaults=("",))
Labels.__doc__ = "An NLCD raster, the year it describes, and where it came from if not from its ``href``."

County = namedtuple("County", "county name boundary")
County.__doc__ = "A county: FIPS code, name, and boundary as a shapely geometry in longitude and latitude."


def leaf_off(scenes, boundary):
    """Scenes that were taken while trees stood bare.

    Parameters
    ----------
    scenes : list of Scene
    boundary : shapely.Geometry
        Of the county, in longitude and latitude.

    Returns
    -------
    dict
        ``scene_id`` to its share of the county, for each scene of ``LEAF_OFF``.
    """
    return {scene.scene_id: round(scene.footprint.intersection(boundary).area / boundary.area, 3) for scene in scenes
            if int(scene.acquired[5:7]) in LEAF_OFF}


class _Source:
    """What all catalogues answer, from the items that each of them finds.

    Attributes
    ----------
    name : str
        How it is called in errors.
    """

    def county(self, county):
        raise NotImplementedError

    def _scenes(self, place):
        raise NotImplementedError

    def _labels(self, place, year):
        raise NotImplementedError

    def _all_scenes(self, county):
        place = self.county(county)
        scenes = self._scenes(place)
        if not scenes:
            raise InputError(f"expected scenes over county {place.county} ({place.name}), got none in {self.name}. "
                             "Choose a county inside the scenes, or add scenes that cover it.")
        return scenes

    def scenes(self, county, year):
        """The scenes that touch a county in a year.

        Parameters
        ----------
        county : str
            FIPS code, or what else ``county`` takes.
        year : int

        Returns
        -------
        list of Scene
            In order of their ids.

        Raises
        ------
        InputError
            If there is none; the message lists the years that have some.
        """
        chosen = [scene for scene in self._all_scenes(county) if scene.year == year]
        if not chosen:
            shares = self.covered(county)
            raise InputError(f"expected scenes of county {county} from {year}, got scenes from "
                             + ", ".join(f"{y}" if share >= COVERED else f"{y} (of {share:.0%} of it)"
                                         for y, share in shares.items()) + " only. Choose one of these years.")
        return chosen

    def covered(self, county):
        """The share of a county that each year's scenes cover.

        Parameters
        ----------
        county : str

        Returns
        -------
        dict of int to float
            In order of the years.
        """
        boundary, by_year = self.county(county).boundary, {}
        for scene in self._all_scenes(county):
            by_year.setdefault(scene.year, []).append(scene.footprint)
        return {year: round(shapely.union_all(by_year[year]).intersection(boundary).area / boundary.area, 3)
                for year in sorted(by_year)}

    def nearest_year(self, county, year):
        """The year that is nearest to another (of two, the later) among those whose scenes cover a county.

        Where no year's cover ``COVERED`` of it, the year whose scenes cover most.
        """
        shares = self.covered(county)
        whole = [y for y, share in shares.items() if share >= COVERED]
        if not whole:
            return max(shares, key=lambda y: (shares[y], -abs(y - year)))
        return min(whole, key=lambda y: (abs(y - year), -y))

    def labels(self, county, year):
        """The NLCD raster over a county whose year is nearest to an imagery year (of two, the later).

        Parameters
        ----------
        county : str
        year : int
            Of the imagery.

        Returns
        -------
        Labels

        Raises
        ------
        InputError
            If no label raster touches the county.
        """
        return self._labels(self.county(county), year)


def _nearest(found, year):
    return min(found, key=lambda raster: (abs(raster.year - year), -raster.year))


class Catalog(_Source):
    """A static STAC catalogue of scenes and labels, with its county boundaries.

    Parameters
    ----------
    folder : pathlib.Path
        Holds ``catalog.json`` and ``counties.geojson``.

    Raises
    ------
    InputError
        If the folder holds no such catalogue.
    """

    def __init__(self, folder):
        self.folder = Path(folder)
        self.name = self.folder.name
        for name in ("catalog.json", "counties.geojson"):
            if not (self.folder / name).is_file():
                raise InputError(f"expected a catalogue folder with catalog.json and counties.geojson, got "
                                 f"{self.folder} without {name}. Give the folder, or catalog='sample'.")
        try:
            self._root = pystac.Catalog.from_file(str(self.folder / "catalog.json"))
            self._counties = json.loads((self.folder / "counties.geojson").read_text())["features"]
        except (ValueError, KeyError, pystac.STACError) as error:
            raise InputError(f"expected a STAC catalogue in {self.folder}, got {type(error).__name__}: {error}. "
                             "Check its JSON files.") from error

    def counties(self):
        """FIPS codes and names of the counties, as a dict."""
        return {f["properties"]["GEOID"]: f["properties"]["NAME"] for f in self._counties}

    def county(self, county):
        """The county with a FIPS code.

        Returns
        -------
        County

        Raises
        ------
        InputError
            If the catalogue has no such county; the message lists those it has.
        """
        for feature in self._counties:
            if feature["properties"]["GEOID"] == str(county):
                return County(str(county), feature["properties"]["NAME"], shapely.geometry.shape(feature["geometry"]))
        known = ", ".join(f"{code} ({name})" for code, name in sorted(self.counties().items()))
        raise InputError(f"expected a county of the catalogue {self.folder.name}, got {county!r}. "
                         f"Choose one that it has: {known}.")

    def _items(self, collection, asset, boundary):
        """Items of a collection that touch a boundary, with the absolute path of one asset."""
        child = self._root.get_child(collection)
        if child is None:
            raise InputError(f"expected a collection {collection!r} in {self.folder}/catalog.json, got "
                             f"{[c.id for c in self._root.get_children()]}. Add it.")
        for item in sorted(child.get_items(recursive=True), key=lambda i: i.id):
            if asset not in item.assets:
                raise InputError(f"expected an asset {asset!r} in item {item.id}, got {sorted(item.assets)}. "
                                 "Name the picture's asset so.")
            if shapely.intersects(shapely.geometry.shape(item.geometry), boundary):
                yield item, item.assets[asset].get_absolute_href()

    def _scenes(self, place):
        return [_scene(item, href) for item, href in self._items("naip", "image", place.boundary)]

    def _labels(self, place, year):
        rasters = [Labels(href, int(item.properties["nlcd:year"]))
                   for item, href in self._items("nlcd", "landcover", place.boundary)]
        if not rasters:
            raise InputError(f"expected an NLCD raster over county {place.county} ({place.name}), got none in "
                             f"{self.name}. Add one to its collection 'nlcd'.")
        return _nearest(rasters, year)


def _scene(item, href):
    """The scene of a STAC item; its year is that of its date where it has no ``naip:year``."""
    try:
        date = (item.datetime or item.common_metadata.start_datetime).date()
        return Scene(item.id, href, date.isoformat(), int(item.properties.get("naip:year") or date.year),
                     shapely.geometry.shape(item.geometry), float(item.properties.get("gsd") or 1.0))
    except (ValueError, TypeError, AttributeError) as error:
        raise InputError(f"expected a date and a footprint in the STAC item {item.id}, got {type(error).__name__}: "
                         f"{error}. Add them, or take the item out of the catalogue.") from error


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
            rasters.check_labels(content, f"{what} from {parts.netloc}", bounds)
        return check

    def joined():
        # Each piece is kept by itself, so that a run that was interrupted goes on with the next.
        files = [downloads.fetch(url, what, ".tif", query, checked(bounds), downloads.COMPUTE_S)
                 for query, bounds in zip(queries, pieces)]
        return rasters.join_labels(files)
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


class Folder(_Source):
    """GeoTIFFs of one's own: scenes with their date as ``YYYYMMDD`` in the name, as NAIP's have, and NLCD rasters.

    Parameters
    ----------
    folder : str or pathlib.Path

    Notes
    -----
    Boundaries are asked of ``TUTORIAL_COUNTIES``, and labels of ``TUTORIAL_LABELS`` where the folder has none.
    """

    def __init__(self, folder):
        self.folder = Path(folder)
        self.name = self.folder.name
        self._online = Online()

    def county(self, county):
        """As ``Online.county``."""
        return self._online.county(county)

    def _scenes(self, place):
        scenes = []
        for path in sorted(p for p in self.folder.glob("*.tif*") if "nlcd" not in p.name.lower()):
            date = re.search(r"(?<!\d)((?:19|20)\d\d)([01]\d)([0-3]\d)(?!\d)", path.stem)
            if not date:
                raise InputError(f"expected the date of the flight as YYYYMMDD in the name of the scene {path.name}, "
                                 "got none. Rename it.")
            footprint, resolution = rasters.footprint(str(path))
            if shapely.intersects(footprint, place.boundary):
                scenes.append(Scene(path.stem, str(path), "-".join(date.groups()), int(date[1]), footprint, resolution))
        return scenes

    def _labels(self, place, year):
        own = any("nlcd" in path.name.lower() for path in self.folder.glob("*.tif*"))
        return _nearest(label_files(self.folder, place), year) if own else self._online._labels(place, year)


def open(name="sample", seed=0, progress=None):
    """Open a catalogue by name.

    Parameters
    ----------
    name : str
        ``"sample"`` for the embedded counties, drawn into ``data/sample-<seed>`` on first use (two to three
        minutes), ``"naip"`` for any county of the conterminous US, or the path of a folder: a static catalogue, or
        GeoTIFFs.
    seed : int
        Seed of the sample; ignored for others.
    progress : callable, optional
        Called with one line of text for each step of the drawing.

    Returns
    -------
    Catalog, Online or Folder
    """
    if name == "naip":
        return Online()
    if name != "sample":
        folder = Path(name)
        is_static = (folder / "catalog.json").exists() or not any(folder.glob("*.tif*"))
        return Catalog(folder) if is_static else Folder(folder)
    from helpers import sample
    return Catalog(sample.draw(home() / "data" / f"sample-{seed}", seed=seed, progress=progress))

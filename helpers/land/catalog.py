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
from pathlib import Path

import pandas as pd
import pystac
import shapely

from helpers import InputError
from helpers.land import scenes as rasters
from helpers.runs import home
from helpers.land.online import Online, label_files
from helpers.land.sources import County, Labels, Scene, _Source, _nearest, _scene

# Twelve counties to begin with, as many as in 2017, chosen for climate and land cover: desert and shrub, prairie,
# fields, pastures, forests of both kinds, and towns in each.
TRAINING = {
    "06065": "Riverside, CA", "08069": "Larimer, CO", "12105": "Polk, FL", "13121": "Fulton, GA", "19153": "Polk, IA",
    "25027": "Worcester, MA", "27137": "St. Louis, MN", "32003": "Clark, NV", "36001": "Albany, NY",
    "41039": "Lane, OR", "48029": "Bexar, TX", "55025": "Dane, WI"}
# Those of them that validate, the second where the first is mapped: from mountains to fields, they have all six
# classes.
VALIDATION = ("08069", "06065")


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


def open(name="sample", seed=0):
    """Open a catalogue by name.

    Parameters
    ----------
    name : str
        ``"sample"`` for the counties that ``setup_scripts/sample`` has drawn into ``data/``, ``"naip"`` for any county of the conterminous US, or the path of a folder: a static catalogue, or
        GeoTIFFs.
    seed : int
        Seed of the sample; ignored for others.

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
    folder = home() / "data" / f"sample-{seed}"
    if not (folder / "complete.json").is_file():
        raise InputError(f"expected the sample counties of seed {seed} in {folder}, got none. Draw them first, in two or "
                         f"three minutes: .venv/bin/python setup_scripts/sample --seed {seed}")
    return Catalog(folder)


def new_tiles(labels_href, county):
    """The truth about a county of the sample: its tiles in which land was newly developed from 2011 to 2016.

    Parameters
    ----------
    labels_href : str
        Where the county's labels lie, as a tile store's manifest tells it.
    county : str
        FIPS code.

    Returns
    -------
    pandas.DataFrame or None
        ``row``, ``col``, ``share`` (of the tile's area, newly developed) and ``kind``; None for a county that wasn't
        drawn here.
    """
    path = Path(labels_href).parent.parent / "truth" / f"{county}_new_tiles.csv"
    return pd.read_csv(path) if path.is_file() else None

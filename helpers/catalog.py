"""Where scenes, labels and county boundaries come from.

A catalogue is a static STAC catalogue laid out as the sample is: a collection ``naip`` with an ``image`` asset
for each scene, a collection ``nlcd`` with a ``landcover`` asset for each label raster, and ``counties.geojson``
beside ``catalog.json``. The property names are the Planetary Computer's.
"""

import json
from collections import namedtuple
from pathlib import Path

import pystac
import shapely

from helpers import InputError
from helpers.runs import home

Scene = namedtuple("Scene", "scene_id href acquired year footprint")
Scene.__doc__ = """A catalogued scene.

Attributes
----------
scene_id, href : str
acquired : str
    ISO date of the flight.
year : int
footprint : shapely.Geometry
    Longitude and latitude.
"""

Labels = namedtuple("Labels", "href year")
Labels.__doc__ = "An NLCD raster and the year it describes."

County = namedtuple("County", "county name boundary")
County.__doc__ = "A county: FIPS code, name, and boundary as a shapely geometry in longitude and latitude."


class Catalog:
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

    def scenes(self, county, year):
        """The scenes that touch a county in a year.

        Parameters
        ----------
        county : str
            FIPS code.
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
        place = self.county(county)
        scenes = [Scene(item.id, href, item.datetime.date().isoformat(), int(item.properties["naip:year"]),
                        shapely.geometry.shape(item.geometry))
                  for item, href in self._items("naip", "image", place.boundary)]
        if not scenes:
            raise InputError(f"expected scenes over county {county} ({place.name}), got none in {self.folder.name}. "
                             "Choose a county inside the scenes, or add scenes that cover it.")
        chosen = [scene for scene in scenes if scene.year == year]
        if not chosen:
            raise InputError(f"expected scenes of county {county} from {year}, got scenes from "
                             f"{', '.join(str(y) for y in sorted({s.year for s in scenes}))} only. "
                             "Choose one of these years.")
        return chosen

    def labels(self, county, year):
        """The NLCD raster over a county whose year is nearest to an imagery year (of two, the later).

        Parameters
        ----------
        county : str
            FIPS code.
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
        place = self.county(county)
        rasters = [Labels(href, int(item.properties["nlcd:year"]))
                   for item, href in self._items("nlcd", "landcover", place.boundary)]
        if not rasters:
            raise InputError(f"expected an NLCD raster over county {county} ({place.name}), got none in "
                             f"{self.folder.name}. Add one to its collection 'nlcd'.")
        return min(rasters, key=lambda raster: (abs(raster.year - year), -raster.year))


def open(name="sample", seed=0, progress=None):
    """Open a catalogue by name.

    Parameters
    ----------
    name : str
        ``"sample"`` for the embedded counties, drawn into ``data/sample-<seed>`` on first use (two to three
        minutes), or the path of a catalogue folder.
    seed : int
        Seed of the sample; ignored for a folder.
    progress : callable, optional
        Called with one line of text for each step of the drawing.

    Returns
    -------
    Catalog
    """
    if name != "sample":
        return Catalog(name)
    from helpers import sample
    return Catalog(sample.draw(home() / "data" / f"sample-{seed}", seed=seed, progress=progress))

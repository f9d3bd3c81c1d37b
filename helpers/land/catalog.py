"""Catalogues of scenes, labels and county boundaries: ``Catalog``, ``Online`` and ``Folder`` have the same methods."""

from pathlib import Path

import pandas as pd
import pystac
import pystac.stac_io
import shapely

from helpers import InputError
from helpers.land import boundaries, downloads
from helpers.land.listing import files_in, told
from helpers.land.online import RASTERS, Online, label_files
from helpers.land.rasters import footprint
from helpers.land.sources import County, Labels, Scene, Source, date_in, date_of, outline_of, refusing, scene_of
from helpers.runs import home
from helpers.uri import absolute

# Twelve counties, as many as in 2017, chosen for climate and land cover: desert and shrub, prairie, fields, pastures,
# deciduous and evergreen forests, and towns in each.
TRAINING = {
    "06065": "Riverside, CA", "08069": "Larimer, CO", "12105": "Polk, FL", "13121": "Fulton, GA", "19153": "Polk, IA",
    "25027": "Worcester, MA", "27137": "St. Louis, MN", "32003": "Clark, NV", "36001": "Albany, NY",
    "41039": "Lane, OR", "48029": "Bexar, TX", "55025": "Dane, WI"}
# The county to validate on, and another in case the first is mapped: both have all six classes.
VALIDATION = ("08069", "06065")


class _StacIO(pystac.stac_io.DefaultStacIO):
    """A reader for pystac that keeps to the limits of all downloads."""

    def read_text_from_href(self, href):
        if downloads.is_remote(href):
            return downloads.get(href, "a part of the catalogue").decode()
        return super().read_text_from_href(href)


class Catalog(Source):
    """A static STAC catalogue in a folder, with county boundaries.

    Its collection ``naip`` has an ``image`` asset for each scene, and ``nlcd`` a ``landcover`` asset for each label
    raster. The property names are the Planetary Computer's.
    """

    def __init__(self, folder):
        self.folder = Path(folder)
        self.name = self.folder.name
        for name in ("catalog.json", "counties.geojson"):
            if not (self.folder / name).is_file():
                raise InputError(f"expected a catalogue folder with catalog.json and counties.geojson, got "
                                 f"{self.folder} without {name}. Give the folder, or catalog='sample'.")
        with refusing(f"a STAC catalogue in {self.folder}", "Check its JSON files."):
            self._root = pystac.Catalog.from_file(str(self.folder / "catalog.json"), _StacIO())
        self._counties = boundaries.read(str(self.folder / "counties.geojson"))

    def county(self, county: str) -> County:
        """The county with a FIPS code; an error lists the counties of the catalogue."""
        return boundaries.county_of(self._counties, county, self.folder / "counties.geojson")

    def _items(self, collection, asset, boundary):
        """Items of a collection that touch a boundary, each with the absolute path of one asset."""
        with refusing(f"a STAC catalogue in {self.folder}", "Check its JSON files."):
            children = {child.id: child for child in self._root.get_children()}
            items = list(children[collection].get_items(recursive=True)) if collection in children else None
        if items is None:
            raise InputError(f"expected a collection {collection!r} in {self.folder}/catalog.json, got "
                             f"{list(children)}. Add it.")
        for item in sorted(items, key=lambda item: str(item.id)):
            if asset not in item.assets:
                raise InputError(f"expected an asset {asset!r} in item {item.id}, got {sorted(item.assets)}. "
                                 "Give the asset this name.")
            if shapely.intersects(outline_of(item), boundary):  # False for an item without an outline.
                yield item, item.assets[asset].get_absolute_href()

    def _scenes(self, county):
        return [scene_of(item, href) for item, href in self._items("naip", "image", county.boundary)]

    def _labels(self, county, year):
        found = [Labels(href, date_of(item, "nlcd:year")[1])
                 for item, href in self._items("nlcd", "landcover", county.boundary)]
        if not found:
            raise InputError(f"expected an NLCD raster over county {county.fips} ({county.name}), got none in "
                             f"{self.name}. Add one to its collection 'nlcd'.")
        return found


class Folder(Online):
    """A folder of GeoTIFFs: scenes with their date as ``YYYYMMDD`` in the name, like NAIP's, and NLCD rasters.

    Boundaries come from ``TUTORIAL_COUNTIES``, and labels from ``TUTORIAL_LABELS`` where the folder has none.
    """

    def __init__(self, folder):
        super().__init__()
        self.folder = Path(folder)
        self.name = self.folder.name
        _, skipped = files_in(self.folder, RASTERS)
        if skipped:
            print(told(skipped, self.folder))

    def _scenes(self, county):
        files = [path for path in files_in(self.folder, RASTERS)[0]
                 if "nlcd" not in path.name.lower() and path.suffix.lower() != ".img"]
        scenes = []
        for path in files:
            date = date_in(path.stem)
            if not date:
                raise InputError(f"expected the date of the flight as YYYYMMDD in the name of the scene {path.name}, "
                                 "got no date. Rename it.")
            scenes.append(Scene(path.stem, str(path), date.isoformat(), date.year, footprint(str(path))))
        return scenes

    def _labels(self, county, year):
        own = any("nlcd" in path.name.lower() for path in files_in(self.folder, RASTERS)[0])
        return label_files(self.folder, county) if own else super()._labels(county, year)


def open(name: str = "sample", seed: int = 0) -> Source:
    """Open a catalogue: ``"sample"``, the counties that ``setup_scripts/sample`` has drawn from ``seed``; ``"naip"``,
    any county of the conterminous US; or the path of a folder with a static catalogue or with GeoTIFFs.
    """
    if name == "naip":
        return Online()
    if name != "sample":
        folder = Path(absolute(name))
        is_static = (folder / "catalog.json").exists() or not files_in(folder, RASTERS)[0]
        return Catalog(folder) if is_static else Folder(folder)
    folder = home() / "data" / f"sample-{seed}"
    if not (folder / "complete.json").is_file():
        raise InputError(f"expected the sample counties of seed {seed} in {folder}, got none. Draw them first, in two "
                         f"or three minutes: .venv/bin/python setup_scripts/sample --seed {seed}")
    return Catalog(folder)


def new_tiles(labels_href: str, county: str) -> pd.DataFrame:
    """The true tiles with newly developed land, and the new share of each, if the county with these labels was drawn
    for the sample; else None."""
    path = Path(labels_href).parent.parent / "truth" / f"{county}_new_tiles.csv"
    return pd.read_csv(path) if path.is_file() else None

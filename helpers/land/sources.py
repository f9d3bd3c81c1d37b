"""The questions that every catalogue answers about a county: its scenes, the years they cover, its labels."""

import contextlib
import datetime
import re
from collections import Counter, namedtuple

import numpy as np
import pystac
import shapely

from helpers import InputError
from helpers.land.rasters import said

# A county counts as flown in a year if the scenes cover this share of it: a neighbouring state's scenes touch it too.
COVERED = 0.9
# In these months broad-leaved trees of the northern US stand bare, and fields lie brown.
LEAF_OFF = (11, 12, 1, 2, 3)
_ADD_IT = "Add it, or take the item out of the catalogue."
Scene = namedtuple("Scene", "scene_id href acquired year footprint")
Scene.__doc__ = "A catalogued scene: ``acquired`` is an ISO date, ``footprint`` in longitude and latitude."
Labels = namedtuple("Labels", "href year source", defaults=("",))
Labels.__doc__ = "An NLCD raster, the year it describes, and its source if that isn't its ``href``."
County = namedtuple("County", "fips name boundary")
County.__doc__ = "A county: FIPS code, name, and boundary as a shapely geometry in longitude and latitude."


def leaf_off(scenes: list[Scene], boundary: shapely.Geometry) -> dict[str, float]:
    """The share of a county that each scene from the months ``LEAF_OFF`` shows, by ``scene_id``."""
    return {scene.scene_id: round(scene.footprint.intersection(boundary).area / boundary.area, 3) for scene in scenes
            if int(scene.acquired[5:7]) in LEAF_OFF}


class Source:
    """A catalogue. Methods take a county by its FIPS code, or by another name that ``county`` understands.

    Each catalogue adds its ``name`` for errors, ``county(county)``, which finds a County, ``_scenes(County)`` of all
    years over or near it, and ``_labels(County, year)``, a list of label rasters to choose from.
    """

    def _all_scenes(self, county):
        """Scenes in order of their ids. Several scenes may have the same id: they get numbers."""
        county = self.county(county)
        # Some servers give an item on two pages.
        scenes = list({(scene.scene_id, scene.href): scene for scene in self._scenes(county)
                       if shapely.intersects(scene.footprint, county.boundary)}.values())
        if not scenes:
            raise InputError(f"expected scenes over county {county.fips} ({county.name}), got none in {self.name}. "
                             "Choose a county that the scenes cover, or add scenes that cover it.")
        times, number, named = Counter(scene.scene_id for scene in scenes), Counter(), []
        for scene in sorted(scenes, key=lambda scene: (scene.scene_id, scene.href)):
            number[scene.scene_id] += 1
            named.append(scene if times[scene.scene_id] == 1 else scene._replace(
                scene_id=f"{scene.scene_id} ({number[scene.scene_id]})"))
        return named

    def scenes(self, county: str, year: int) -> list[Scene]:
        """The scenes that touch a county in a year, in order of their ids; an error lists the years that have some."""
        chosen = [scene for scene in self._all_scenes(county) if scene.year == year]
        if not chosen:
            shares = self.covered(county)
            raise InputError(f"expected scenes of county {county} from {year}, got scenes from "
                             + ", ".join(f"{y}" + f" (covering only {share:.0%} of the county)" * (share < COVERED)
                                         for y, share in shares.items()) + " only. Choose one of these years.")
        return chosen

    def covered(self, county: str) -> dict[int, float]:
        """The share of a county that each year's scenes cover, in order of the years."""
        boundary, by_year = self.county(county).boundary, {}
        for scene in self._all_scenes(county):
            by_year.setdefault(scene.year, []).append(scene.footprint)
        return {year: round(shapely.union_all(by_year[year]).intersection(boundary).area / boundary.area, 3)
                for year in sorted(by_year)}

    def nearest_year(self, county: str, year: int) -> int:
        """The year nearest to another (of two, the later) with scenes of the whole county, else with most of it."""
        shares = self.covered(county)
        # All shares above COVERED count the same.
        return max(shares, key=lambda y: (min(shares[y], COVERED), -abs(y - year), y))

    def labels(self, county: str, year: int) -> Labels:
        """The NLCD raster over a county whose year is nearest to an imagery year (of two, the later)."""
        found = self._labels(self.county(county), year)
        return min(found, key=lambda raster: (abs(raster.year - year), -raster.year))


@contextlib.contextmanager
def refusing(wanted: str, advice: str):
    """Say in one sentence that a part of a catalogue can't be read. Its own error may show a signed address."""
    try:
        yield
    except (ArithmeticError, AttributeError, LookupError, OSError, RecursionError, TypeError, ValueError,
            pystac.STACError, pystac.STACTypeError, shapely.errors.ShapelyError) as error:
        raise InputError(f"expected {wanted}, got {type(error).__name__}: {said(error)}. {advice}") from None


def date_in(name: str) -> datetime.date:
    """The first date as ``YYYYMMDD`` in a name, None if there is none; 20180230 is not a date."""
    for digits in re.findall(r"(?<!\d)(?:19|20)\d{6}(?!\d)", name):
        with contextlib.suppress(ValueError):
            return datetime.datetime.strptime(digits, "%Y%m%d").date()


def date_of(item: pystac.Item, key: str) -> tuple[datetime.date, int]:
    """The date of a STAC item, and the year of its property ``key``, or else of the date."""
    with refusing(f"a date in the STAC item {item.id}", _ADD_IT):
        date = (item.datetime or item.common_metadata.start_datetime).date()
        year = int(float(item.properties.get(key) or 0))
        return date, year if 1900 <= year < 2100 else date.year


def outline_of(item: pystac.Item) -> shapely.Geometry:
    """The outline of a STAC item, with its corners in any order; None where it has none."""
    with refusing(f"a footprint in the STAC item {item.id}", _ADD_IT), np.errstate(invalid="ignore"):
        shape = shapely.force_2d(shapely.geometry.shape(item.geometry)) if item.geometry else None
    if shape is None or shape.is_empty or not np.isfinite(shapely.get_coordinates(shape)).all():
        return None
    return shape if shape.is_valid else shape.convex_hull


def scene_of(item: pystac.Item, href: str) -> Scene:
    """The scene of a STAC item; None for an item without an outline."""
    outline, (date, year) = outline_of(item), date_of(item, "naip:year")
    return outline and Scene(str(item.id), href, date.isoformat(), year, outline)

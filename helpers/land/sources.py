"""sources."""

from collections import namedtuple

import shapely

from helpers import InputError

# A year's scenes have to cover this share of a county, or it counts as not flown: the border scenes of a neighbouring
# state's year touch it too.
COVERED = 0.9
# In these months broad-leaved trees of the northern US stand bare, and fields lie brown.
LEAF_OFF = (11, 12, 1, 2, 3)
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


def _scene(item, href):
    """The scene of a STAC item; its year is that of its date where it has no ``naip:year``."""
    try:
        date = (item.datetime or item.common_metadata.start_datetime).date()
        return Scene(item.id, href, date.isoformat(), int(item.properties.get("naip:year") or date.year),
                     shapely.geometry.shape(item.geometry), float(item.properties.get("gsd") or 1.0))
    except (ValueError, TypeError, AttributeError) as error:
        raise InputError(f"expected a date and a footprint in the STAC item {item.id}, got {type(error).__name__}: "
                         f"{error}. Add them, or take the item out of the catalogue.") from error

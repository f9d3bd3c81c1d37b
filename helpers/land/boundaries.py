"""Boundaries of counties and other places, from the files that people have."""

import re
import unicodedata
import warnings
import zipfile
from pathlib import Path

import geopandas
import pandas as pd
import pyogrio
import shapely

from helpers import InputError
from helpers.land import downloads
from helpers.land.rasters import said
from helpers.land.sources import County

# How files of each kind begin, and the prefix that keeps GDAL to one driver: some drivers open further files.
_KINDS = {b"{": "GEOJSON:", b"\0\0\x27\x0a": "", b"SQLite format 3\0": ""}
# Columns, and the names that the Census has given them in other years.
_COLUMNS = {"GEOID": r"GEO_?ID(00|10|20)?", "NAMELSAD": r"NAMELSAD(00|10|20)?", "NAME": r"NAME(00|10|20)?",
            "STUSPS": "STUSPS"}
_WANTED = "a shapefile, a GeoPackage or a GeoJSON file with a CRS, zipped or not"
# The words behind a county's name in the Census's longer name.
_LONGER = re.compile(r" (county|parish|borough|census area|municipality|municipio|planning region)(?= *(,|$))")


def read(where: str) -> geopandas.GeoDataFrame:
    """The shapes of a file in longitude and latitude, with the texts ``GEOID`` and ``NAME``, and two names with the
    state: ``full`` as in "Middlesex, MA" and ``longer`` as in "Middlesex County, MA".

    In a file without ``GEOID`` all shapes are one place, with the name of the file.
    """
    if not Path(where).is_file():
        raise InputError(f"expected county boundaries at {where}, got no such file. Set TUTORIAL_COUNTIES to "
                         f"{_WANTED}.")
    try:
        with warnings.catch_warnings():
            # Some programs leave a ring open, or mix numbers and text: GDAL closes it, and ``_text`` makes texts.
            warnings.simplefilter("ignore")
            checked = _checked(Path(where))
            layer, names = _layer(checked)
            # A height that isn't a number would open a ring again, so heights are dropped.
            shapes = geopandas.read_file(checked, layer=layer, on_invalid="fix", force_2d=True, columns=list(names))
            shapes = shapes.rename(columns=names).to_crs("EPSG:4326")
            shapes.geometry = shapely.make_valid(shapes.geometry.to_numpy())
    except (OSError, RuntimeError, TypeError, ValueError, shapely.errors.GEOSException, zipfile.BadZipFile) as error:
        raise InputError(f"expected {_WANTED} at {where}, got {said(error)}. Set TUTORIAL_COUNTIES to one.") from None
    if "GEOID" not in shapes:
        own = Path(where).name.split(".")[0]
        shapes = shapes.dissolve()[["geometry"]].assign(GEOID=own, NAME=own)
    code, longer, name, state = (
        shapes[column].map(_text) if column in shapes else pd.Series("", shapes.index) for column in _COLUMNS)
    name = name.where(name != "", longer).where(lambda names: names != "", code)
    longer, state = longer.where(longer != "", name), state.where(state == "", ", " + state)
    return shapes[["geometry"]].assign(GEOID=code.map(_code), NAME=name, full=name + state, longer=longer + state)


def _checked(path):
    """The name by which GDAL opens a file of shapes, or the only such file in a zip. Other files are refused."""
    where = path.absolute()
    if zipfile.is_zipfile(path):
        with zipfile.ZipFile(path) as archive:
            main = [name for name in archive.namelist() if not re.search(r"(^|/)(\.|__MACOSX)", name)
                    and name.lower().endswith((".shp", ".gpkg", ".json", ".geojson"))]
            if len(main) != 1:
                raise ValueError(f"a zip that holds {len(main)} of them ({', '.join(archive.namelist()[:3])})")
            if sum(member.file_size for member in archive.infolist()) > 4 * downloads.MOST_BYTES:
                raise ValueError(f"more than {4 * downloads.MOST_BYTES >> 20} MB in a zip")
            if archive.testzip() is not None:
                raise ValueError("a damaged zip")
            with archive.open(main[0]) as file:
                head = file.read(1 << 16)
        where = f"/vsizip/{{{where}}}/{main[0]}"
    else:
        with open(path, "rb") as file:
            head = file.read(1 << 16)
    head = head.removeprefix(b"\xef\xbb\xbf")
    begin = next((begin for begin in _KINDS if (head.lstrip() if begin == b"{" else head).startswith(begin)), None)
    if begin is None or b"<OGRVRT" in head and begin != b"{":
        raise ValueError("something else")
    return f"{_KINDS[begin]}{where}"


def _layer(where):
    """The layer with counties, else the only one with areas, and its columns with the names that they get here."""
    found, layers = {}, pyogrio.list_layers(where)
    for layer, kind in layers:
        if kind and not (len(layers) > 1 and re.search("Point|Line", kind)):
            # GEOID comes before geoid, and geoid before GEOID20.
            fields = sorted(pyogrio.read_info(where, layer=layer)["fields"], key=lambda field: (len(field), field))
            names = {column: [field for field in fields if re.fullmatch(pattern, field, re.I)]
                     for column, pattern in _COLUMNS.items()}
            found[layer] = {same[0]: column for column, same in names.items() if same}
    counties = {layer: names for layer, names in found.items() if "GEOID" in names.values()} or found
    if len(counties) != 1:
        raise ValueError(f"several layers with areas ({', '.join(counties)}): keep only the counties" if counties
                         else "no layer with areas")
    return counties.popitem()


def _text(value):
    return "" if value is None or value != value else " ".join(str(value).split())


def _code(value):
    """A FIPS code as text: spreadsheets make it a number and drop its first zero, other programs add 0500000US."""
    text = re.sub(r"^(\d+)\.0+$|^\d*US(?=\d{5}$)", r"\1", str(value).strip())
    return text.zfill(5) if re.fullmatch(r"\d{4}", text) else text


def _folded(name, longer=True):
    name = " ".join(unicodedata.normalize("NFC", str(name)).casefold().split())
    return _LONGER.sub("", name) if longer else name


def find(shapes: geopandas.GeoDataFrame, county: str) -> geopandas.GeoDataFrame:
    """The shapes of a county by its FIPS code, or as ``"Middlesex, MA"`` or ``"Middlesex County, MA"``."""
    found = shapes[shapes["GEOID"] == _code(county)]
    if not len(found):
        found = shapes[shapes["longer"].map(lambda name: _folded(name, False)) == _folded(county, False)]
    return found if len(found) else shapes[shapes["full"].map(_folded) == _folded(county)]


def county_of(shapes: geopandas.GeoDataFrame, county: str, where: str) -> County:
    """The county that ``find`` finds; ``where`` names the file or catalogue in errors."""
    found = find(shapes, county)
    if found["GEOID"].nunique() != 1:
        # Names and codes change, as in Connecticut in 2022: the best guess is a county of the same name or state.
        state = "^" + str(county)[:2] if str(county)[:2].isdigit() else ", *" + re.escape(str(county)[-2:]) + "$"
        named = shapes[shapes["NAME"].str.lower() == str(county).split(",")[0].strip().lower()]
        near = shapes[shapes["GEOID"].str.match(state) | shapes["full"].str.contains(state, case=False)]
        alike = next((some for some in (found, named, near) if len(some)), shapes)
        listed = sorted(alike["full"] + " (" + alike["GEOID"] + ")")
        raise InputError(f"expected the FIPS code of five digits of a county in {where}, or its name and state such as "
                         f"'Middlesex, MA', got {county!r}. Choose one of {', '.join(listed[:12])}"
                         f"{', …' if len(listed) > 12 else ''}.")
    parts = shapely.get_parts(found.geometry.dropna().to_numpy())
    row, shape = found.iloc[0], shapely.union_all(parts[shapely.area(parts) > 0])
    if not shape.area > 0:
        raise InputError(f"expected the boundary of {row['full']} ({row['GEOID']}) as an area, got none in {where}. "
                         "Draw its outline there, or take it out.")
    return County(row["GEOID"], row["NAME"], shape)

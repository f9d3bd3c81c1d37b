"""Boundaries of counties and other places, from the files that people have."""

import re
import tempfile
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

# How the kinds of files begin, their endings, and what makes GDAL take no other driver: some read files that they name.
_KINDS = {b"{": (".geojson", "GEOJSON:"), b"\0\0\x27\x0a": (".shp", ""), b"SQLite format 3\0": (".gpkg", "")}
_COLUMNS = ["GEOID", "NAMELSAD", "NAME", "STUSPS"]
_WANTED = "a shapefile, a GeoPackage or a GeoJSON file with a CRS, zipped or not"
_ENDINGS = (".shp", ".shx", ".dbf", ".prj", ".cpg", ".gpkg", ".geojson", ".json")
# What follows a county's name in the Census's longer one.
_LONGER = re.compile(r" (county|parish|borough|census area|municipality|municipio|planning region)(?= *(,|$))")


def read(where: str) -> geopandas.GeoDataFrame:
    """The shapes of a file in longitude and latitude, with ``GEOID``, ``NAME``, and with the state ``full`` and
    ``longer``, the name as in "Middlesex County, MA": all of them text.

    In a file without ``GEOID`` all shapes are one place, which has the name of the file.
    """
    if not Path(where).is_file():
        raise InputError(f"expected county boundaries at {where}, got no such file. Set TUTORIAL_COUNTIES to "
                         f"{_WANTED}.")
    try:
        with tempfile.TemporaryDirectory() as folder, warnings.catch_warnings():
            # Some programs leave a ring open, or mix numbers and text; GDAL closes it, and all becomes text.
            warnings.simplefilter("ignore")
            # Heights that are no numbers would open rings again.
            checked = _checked(Path(where), folder)
            # Of GEOID and geoid, the one in capitals.
            there = {name.upper(): name for name in sorted(pyogrio.read_info(checked)["fields"], reverse=True)}
            names = {there[column]: column for column in _COLUMNS if column in there}
            shapes = geopandas.read_file(checked, on_invalid="fix", force_2d=True, columns=list(names))
            if not isinstance(shapes, geopandas.GeoDataFrame):
                raise ValueError("a table without shapes")
            shapes = shapes.rename(columns=names).to_crs("EPSG:4326")
            shapes.geometry = shapely.make_valid(shapes.geometry.to_numpy())
    except (pyogrio.errors.DataSourceError, pyogrio.errors.DataLayerError, shapely.errors.GEOSException, OSError,
            ValueError, TypeError, RuntimeError, zipfile.BadZipFile) as error:
        raise InputError(f"expected {_WANTED} at {where}, got {said(error)}. Set TUTORIAL_COUNTIES to one.") from None
    if "GEOID" not in shapes:
        own = Path(where).name.split(".")[0]
        shapes = shapes.dissolve()[["geometry"]].assign(GEOID=own, NAME=own)
    texts = {column: shapes[column].map(_text) for column in _COLUMNS if column in shapes}
    name = texts["GEOID"]
    for column in ("NAMELSAD", "NAME"):
        name = texts[column].where(texts[column] != "", name) if column in texts else name
    state = texts.get("STUSPS", pd.Series("", shapes.index))
    full = {column: names + state.where(state == "", ", " + state) for column, names in (
        ("full", name), ("longer", texts.get("NAMELSAD", name)))}
    return shapes[["geometry"]].assign(GEOID=texts["GEOID"].map(_code), NAME=name, **full)


def _checked(path, folder):
    """What to tell GDAL to read, of a kind that holds shapes only; what is zipped is unpacked into a folder."""
    if zipfile.is_zipfile(path):
        with zipfile.ZipFile(path) as archive:
            members = [m for m in archive.infolist() if m.filename.lower().endswith(_ENDINGS)
                       and not re.search(r"(^|/)(\.|__MACOSX)", m.filename)]
            main = [m for m in members if m.filename.lower().endswith((".shp", ".gpkg", ".json", ".geojson"))]
            if len(main) != 1:
                raise ValueError(f"a zip that holds {len(main)} of them ({', '.join(archive.namelist()[:3])})")
            if sum(m.file_size for m in members) > 4 * downloads.MOST_BYTES:
                raise ValueError(f"more than {4 * downloads.MOST_BYTES >> 20} MB in a zip")
            stem = main[0].filename.rpartition(".")[0]
            for member in members:
                if member.filename.rpartition(".")[0] == stem:
                    ending = member.filename.rpartition(".")[2].lower()
                    (Path(folder) / f"{path.stem}.{ending}").write_bytes(archive.read(member))
            path = Path(folder) / f"{path.stem}.{main[0].filename.rpartition('.')[2].lower()}"
    with open(path, "rb") as file:
        head = file.read(1 << 16)
    kind = next((kind for begin, kind in _KINDS.items() if head.removeprefix(b"\xef\xbb\xbf").lstrip(
        b" \t\r\n" if begin == b"{" else b"").startswith(begin)), None)
    if kind is None or b"<OGRVRT" in head and kind[0] != ".geojson":
        raise ValueError("something else")
    return f"{kind[1]}{path.absolute()}"


def _text(value):
    return "" if value is None or value != value else str(value).strip()


def _code(value):
    """A FIPS code as text: a spreadsheet makes a number of it and drops its first zero, others add 0500000US."""
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


def county_of(found: geopandas.GeoDataFrame, where: str) -> County:
    """One county of the shapes that ``find`` has found of it, which lie in the file ``where``."""
    row, shape = found.iloc[0], shapely.union_all(found.geometry.dropna().to_numpy())
    if not shape.area > 0:
        raise InputError(f"expected the boundary of {row['full']} ({row['GEOID']}) as an area, got none in {where}. "
                         "Draw its outline there, or take it out.")
    return County(row["GEOID"], row["NAME"], shape)

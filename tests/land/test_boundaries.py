"""Files of boundaries as people have them: read for what they mean, or refused in one sentence."""

import io
import json
import unicodedata
import zipfile

import geopandas
import pytest
import shapely

import scenes as drawn
from helpers import InputError
from helpers.land import downloads, grid
from helpers.land.online import boundary_of

PLACE = drawn.county_boundary()


@pytest.mark.parametrize("asked, columns", [
    ("25017", dict(GEOID=25017, NAME="Middlesex", STUSPS="MA")), ("25017", dict(GEOID=25017.0, NAME="Middlesex")),
    ("25017", dict(geoid="25017", Name="Middlesex")), ("25017", dict(GEOID="25017", geoid="1", Name="Middlesex")),
    ("25017", dict(GEOID="0500000US25017", NAME="Middlesex")),
    ("25017", dict(GEO_ID="0500000US25017", NAME="Middlesex")),
    ("25017", dict(GEOID20="25017", NAME20="Middlesex")), ("25017", dict(GEOID10="1", GEOID="25017", GEOIDFQ="x")),
    ("Middlesex County", dict(GEOID10="25017", NAMELSAD10="Middlesex County")),
    ("06065", dict(GEOID="6065", NAME="Riverside")), ("06065", dict(GEOID=6065, NAME="Riverside")),
    ("25017", dict(GEOID="25017", NAMELSAD="Middlesex County")), ("25017", dict(GEOID="25017", NAME=None)),
    ("Middlesex County, MA", dict(GEOID="25017", NAME="Middlesex", STUSPS="MA")),
    (unicodedata.normalize("NFD", "Doña Ana, NM"), dict(GEOID="35013", NAME="Doña Ana", STUSPS="NM")),
    ("Doña Ana, NM", dict(GEOID="35013", NAME=unicodedata.normalize("NFD", "Doña Ana"), STUSPS="NM"))])
def test_codes_and_names_in_other_spellings(own_county, asked, columns):
    own_county(**columns)
    county = boundary_of(asked)
    assert len(county.fips) == 5 and len(grid.county_tiles(county.boundary)[0]) == 30


@pytest.mark.parametrize("name", ["own.gpkg", "own.shp", "own.geojson"])
@pytest.mark.parametrize("shape", ["heights", "bow"])
@pytest.mark.filterwarnings("ignore:Infinite or NaN coordinate")
def test_heights_and_crossing_rings(own_county, name, shape):
    corners = list(PLACE.exterior.coords)[:-1]
    if shape == "heights":
        ring = shapely.Polygon([(x, y, float("nan") if name == "own.gpkg" else 3.0) for x, y in corners])
    else:
        w, s, e, n = PLACE.bounds
        ring = shapely.Polygon([(w, n), (e, n), (w, s), (e, s), (w, n)])
    own_county(name, ring, GEOID="25017", NAME="M")
    boundary = boundary_of("25017").boundary
    assert boundary.is_valid and not boundary.has_z
    expected = PLACE.area if shape == "heights" else shapely.box(*PLACE.bounds).area / 2
    assert boundary.area == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize("geometry", [
    None, shapely.Polygon(), shapely.Point(-71, 42), shapely.LineString([(0, 1), (2, 3)])])
def test_a_county_of_ones_own_without_an_area_is_refused_and_not_the_censuses(own_county, geometry):
    own_county(geometry=geometry, GEOID="25017", NAME="M")
    with pytest.raises(InputError, match="expected the boundary of M .25017. as an area"):
        boundary_of("25017")


def test_parts_of_a_county_are_one_place(own_county, tmp_path, monkeypatch):
    west, east = shapely.box(-71.5, 42.3, -71.4, 42.4), shapely.box(-71.4, 42.3, -71.3, 42.4)
    geopandas.GeoDataFrame({"GEOID": ["25017"] * 2, "NAME": ["M"] * 2}, geometry=[west, east], crs=4326).to_file(
        tmp_path / "parts.gpkg")
    monkeypatch.setenv("TUTORIAL_COUNTIES", str(tmp_path / "parts.gpkg"))
    assert boundary_of("25017").boundary.area == pytest.approx(0.02)


def test_of_several_layers_the_one_with_counties_is_read(own_county, tmp_path):
    def write(layer, geometry, **columns):
        geopandas.GeoDataFrame({key: [value] for key, value in columns.items()}, geometry=[geometry],
                               crs=4326).to_file(tmp_path / "own.gpkg", layer=layer)
    own_county("own.gpkg", PLACE.boundary, road="1")
    write("study area", PLACE.buffer(1), author="me")
    assert boundary_of("own").boundary.area == pytest.approx(PLACE.buffer(1).area)
    write("counties", PLACE, GEOID="25017")
    assert boundary_of("25017").boundary.area == pytest.approx(PLACE.area)
    write("tracts", PLACE, GEOID="25017350100")
    with pytest.raises(InputError, match=r"got several layers with areas \(counties, tracts\): keep only the counties"):
        boundary_of("25017")


def test_lines_beside_an_area_are_no_part_of_a_county(own_county):
    own_county(geometry=shapely.GeometryCollection([PLACE, shapely.LineString([(-71, 42), (-60, 42)])]), GEOID="25017")
    assert boundary_of("25017").boundary.equals(PLACE)


def test_a_code_of_before_the_counties_changed_lists_the_states(own_county):
    own_county(GEOID="09110", NAME="Capitol", STUSPS="CT")
    for asked in ("Hartford, CT", "Hartford County, CT"):
        with pytest.raises(InputError, match=r"Choose one of Capitol, CT \(09110\)\.$"):
            boundary_of(asked)


def zipped(**members):
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as file:
        for name, content in members.items():
            file.writestr(name.replace("__", "."), content)
    return buffer.getvalue()


def test_files_that_are_no_boundaries_are_refused(own_county, tmp_path, monkeypatch):
    """Above all those that make GDAL read another file."""
    local = own_county("local.geojson", GEOID="25017", NAME="LOCAL")
    vrt = (f'<OGRVRTDataSource><OGRVRTLayer name="local"><SrcDataSource>{local}</SrcDataSource></OGRVRTLayer>'
           "</OGRVRTDataSource>")
    monkeypatch.setattr(downloads, "MOST_BYTES", 1 << 20)
    for content in (b"GEOID,NAME\n25017,M\n", vrt.encode(), json.dumps({"x": vrt}).encode(), zipped(c__vrt=vrt),
                    zipped(c__csv="GEOID\n1"), zipped(inner__zip=zipped(c__geojson=local.read_text())), b"", b"PK\3\4",
                    zipped(c__geojson=vrt), zipped(c__shp=vrt), zipped(c__geojson=" " * (5 << 20))):
        path = tmp_path / ("c.zip" if content[:2] == b"PK" else "c.geojson")
        path.write_bytes(content)
        monkeypatch.setenv("TUTORIAL_COUNTIES", str(path))
        with pytest.raises(InputError, match="expected a shapefile, a GeoPackage or a GeoJSON file") as error:
            boundary_of("25017")
        assert "LOCAL" not in str(error.value) and "\n" not in str(error.value)
    path.write_bytes(zipped(MIDDLE__GEOJSON=local.read_text(), **{"__MACOSX/__MIDDLE__geojson": "x"}))
    monkeypatch.setenv("TUTORIAL_COUNTIES", str(path.rename(tmp_path / "z.zip")))
    assert boundary_of("25017").name == "LOCAL"

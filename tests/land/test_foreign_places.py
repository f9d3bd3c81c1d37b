"""Boundaries, catalogues and answers of servers as they come: read for what they mean, or refused in one sentence."""

import datetime
import gzip
import io
import itertools
import json
import time
import traceback
import unicodedata
import zipfile

import geopandas
import pystac
import pytest
import shapely

import scenes as drawn
import servers
from helpers import InputError
from helpers.land import catalog, downloads, grid, online, rasters
from helpers.land.online import boundary_of, search
from helpers.land.scenes import cut_tiles
from helpers.land.sources import County

PLACE = drawn.county_boundary()


@pytest.fixture
def use(tmp_path, monkeypatch):
    """Write a boundary file of one county, and set it."""
    monkeypatch.setitem(downloads.ADDRESSES, "TUTORIAL_COUNTIES", f"http://127.0.0.1:{servers.free_port()}/c.zip")
    monkeypatch.setattr(downloads, "TRIES", 1)

    def write(name="own.geojson", geometry=PLACE, **columns):
        path = tmp_path / name
        geopandas.GeoDataFrame({key: [value] for key, value in columns.items()}, geometry=[geometry],
                               crs=4326).to_file(path)
        monkeypatch.setenv("TUTORIAL_COUNTIES", str(path))
        return path
    return write


@pytest.mark.parametrize("asked, columns", [
    ("25017", dict(GEOID=25017, NAME="Middlesex", STUSPS="MA")), ("25017", dict(GEOID=25017.0, NAME="Middlesex")),
    ("25017", dict(geoid="25017", Name="Middlesex")), ("25017", dict(GEOID="25017", geoid="1", Name="Middlesex")),
    ("25017", dict(GEOID="0500000US25017", NAME="Middlesex")), ("25017", dict(GEO_ID="0500000US25017", NAME="Middlesex")),
    ("25017", dict(GEOID20="25017", NAME20="Middlesex")), ("25017", dict(GEOID10="1", GEOID="25017", GEOIDFQ="x")),
    ("Middlesex County", dict(GEOID10="25017", NAMELSAD10="Middlesex County")),
    ("06065", dict(GEOID="6065", NAME="Riverside")), ("06065", dict(GEOID=6065, NAME="Riverside")),
    ("25017", dict(GEOID="25017", NAMELSAD="Middlesex County")), ("25017", dict(GEOID="25017", NAME=None)),
    ("Middlesex County, MA", dict(GEOID="25017", NAME="Middlesex", STUSPS="MA")),
    (unicodedata.normalize("NFD", "Doña Ana, NM"), dict(GEOID="35013", NAME="Doña Ana", STUSPS="NM")),
    ("Doña Ana, NM", dict(GEOID="35013", NAME=unicodedata.normalize("NFD", "Doña Ana"), STUSPS="NM"))])
def test_codes_and_names_in_other_spellings(use, asked, columns):
    use(**columns)
    county = boundary_of(asked)
    assert len(county.fips) == 5 and len(grid.county_tiles(county.boundary)[0]) == 30


@pytest.mark.parametrize("name", ["own.gpkg", "own.shp", "own.geojson"])
@pytest.mark.parametrize("shape", ["heights", "bow"])
@pytest.mark.filterwarnings("ignore:Infinite or NaN coordinate")
def test_heights_and_crossing_rings(use, name, shape):
    corners = list(PLACE.exterior.coords)[:-1]
    if shape == "heights":
        ring = shapely.Polygon([(x, y, float("nan") if name == "own.gpkg" else 3.0) for x, y in corners])
    else:
        w, s, e, n = PLACE.bounds
        ring = shapely.Polygon([(w, n), (e, n), (w, s), (e, s), (w, n)])
    use(name, ring, GEOID="25017", NAME="M")
    boundary = boundary_of("25017").boundary
    assert boundary.is_valid and not boundary.has_z
    expected = PLACE.area if shape == "heights" else shapely.box(*PLACE.bounds).area / 2
    assert boundary.area == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize("geometry", [
    None, shapely.Polygon(), shapely.Point(-71, 42), shapely.LineString([(0, 1), (2, 3)])])
def test_a_county_of_ones_own_without_an_area_is_refused_and_not_the_censuses(use, geometry):
    use(geometry=geometry, GEOID="25017", NAME="M")
    with pytest.raises(InputError, match="expected the boundary of M .25017. as an area"):
        boundary_of("25017")


def test_parts_of_a_county_are_one_place(use, tmp_path, monkeypatch):
    west, east = shapely.box(-71.5, 42.3, -71.4, 42.4), shapely.box(-71.4, 42.3, -71.3, 42.4)
    geopandas.GeoDataFrame({"GEOID": ["25017"] * 2, "NAME": ["M"] * 2}, geometry=[west, east], crs=4326).to_file(
        tmp_path / "parts.gpkg")
    monkeypatch.setenv("TUTORIAL_COUNTIES", str(tmp_path / "parts.gpkg"))
    assert boundary_of("25017").boundary.area == pytest.approx(0.02)


def test_of_several_layers_the_one_with_counties_is_read(use, tmp_path):
    def write(layer, geometry, **columns):
        geopandas.GeoDataFrame({key: [value] for key, value in columns.items()}, geometry=[geometry],
                               crs=4326).to_file(tmp_path / "own.gpkg", layer=layer)
    use("own.gpkg", PLACE.boundary, road="1")
    write("study area", PLACE.buffer(1), author="me")
    assert boundary_of("own").boundary.area == pytest.approx(PLACE.buffer(1).area)
    write("counties", PLACE, GEOID="25017")
    assert boundary_of("25017").boundary.area == pytest.approx(PLACE.area)
    write("tracts", PLACE, GEOID="25017350100")
    with pytest.raises(InputError, match=r"got several layers with areas \(counties, tracts\): keep only the counties\. Set"):
        boundary_of("25017")


def test_lines_beside_an_area_are_no_part_of_a_county(use):
    use(geometry=shapely.GeometryCollection([PLACE, shapely.LineString([(-71, 42), (-60, 42)])]), GEOID="25017")
    assert boundary_of("25017").boundary.equals(PLACE)


def test_a_code_of_before_the_counties_changed_lists_the_states(use):
    use(GEOID="09110", NAME="Capitol", STUSPS="CT")
    for asked in ("Hartford, CT", "Hartford County, CT"):
        with pytest.raises(InputError, match=r"Choose one of Capitol, CT \(09110\)\.$"):
            boundary_of(asked)


def test_the_censuses_boundary_is_said_to_be_its(use, tmp_path, monkeypatch, capsys):
    (tmp_path / "served").mkdir()
    use(GEOID="25017", NAME="M").rename(tmp_path / "served" / "census.geojson")
    with servers.Files(tmp_path / "served") as files:
        monkeypatch.setitem(downloads.ADDRESSES, "TUTORIAL_COUNTIES", f"{files.url}/census.geojson")
        use(GEOID="09110", NAME="Capitol", STUSPS="CT")
        assert boundary_of("25017").name == "M"
        (tmp_path / "own.geojson").rename(tmp_path / "served" / "own.geojson")
        monkeypatch.setenv("TUTORIAL_COUNTIES", f"{files.url}/own.geojson?sig=SECRET")
        assert boundary_of("25017").name == "M"
        with pytest.raises(InputError, match="got '25003'. Choose one of M .25017.\\.$"):
            boundary_of("25003")
        monkeypatch.setitem(downloads.ADDRESSES, "TUTORIAL_COUNTIES", f"{files.url}/none.zip")
        with pytest.raises(InputError, match="expected county 25017 in own.geojson, got none there, and the Census"):
            boundary_of("25017")
    said = capsys.readouterr().out
    assert said.count("25017 is the Census's: own.geojson has none") == 2 and "SECRET" not in said


def zipped(**members):
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as file:
        for name, content in members.items():
            file.writestr(name.replace("__", "."), content)
    return buffer.getvalue()


def test_files_that_are_no_boundaries_are_refused(use, tmp_path, monkeypatch):
    """Above all those that make GDAL read another file."""
    local = use("local.geojson", GEOID="25017", NAME="LOCAL")
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


@pytest.mark.parametrize("shape, words", [
    (shapely.union(shapely.box(172.5, 52.3, 173.5, 53), shapely.box(-180, 51.3, -176, 52.1)), "one side of 180°"),
    (shapely.box(-123, 40, -114, 40.1), "one UTM zone or two"),
    (shapely.Polygon([(-71, 42), (-70.9, 42), (-70.9, 1e300)]), "in longitude and latitude"),
    (shapely.union(shapely.box(-123, 40, -122.9, 40.1), shapely.box(-71, 42, -70.9, 42.1)), "one UTM zone or two")])
def test_places_that_the_grid_cannot_serve(shape, words):
    with pytest.raises(InputError, match=words):
        grid.county_tiles(shape)
    assert len(grid.county_tiles(shapely.box(-72.2, 42, -71.8, 42.1))[0]) > 5000


def make(folder, geometry=PLACE, labels=(("nlcd:year", 2016),), more=()):
    """A static catalogue of one scene and one label raster."""
    root = pystac.Catalog("root", "root")
    extent = pystac.Extent(pystac.SpatialExtent([[-180, -90, 180, 90]]), pystac.TemporalExtent([[None, None]]))
    when = datetime.datetime(2018, 7, 14, tzinfo=datetime.timezone.utc)
    for name, asset, properties, shape in (("naip", "image", {"naip:year": "2018"}, geometry),
                                           ("nlcd", "landcover", dict(labels), PLACE)):
        child = pystac.Collection(name, name, extent)
        root.add_child(child)
        for i, outline in enumerate([shape, *(more if name == "naip" else ())]):
            outline = shapely.geometry.mapping(outline) if isinstance(outline, shapely.Geometry) else outline
            item = pystac.Item(f"{name}-{i}", outline, [-72, 42, -71, 43] if outline else None, when, properties)
            item.add_asset(asset, pystac.Asset("x.tif"))
            child.add_item(item)
    root.normalize_and_save(str(folder), pystac.CatalogType.SELF_CONTAINED)
    geopandas.GeoDataFrame({"GEOID": [25017], "NAME": ["M"]}, geometry=[PLACE], crs=4326).to_file(
        folder / "counties.geojson")
    return catalog.open(str(folder))


def test_catalogues_with_less_or_in_another_order(tmp_path):
    source = make(tmp_path / "null", more=[None, {"type": "Polygon", "coordinates": []}])
    assert [scene.scene_id for scene in source.scenes("25017", 2018)] == ["naip-0"]
    # A year that no picture can have is none: the year of the date serves.
    for i, labels in enumerate([(), [("nlcd:year", 20180230)], [("nlcd:year", True)], [("nlcd:year", -1)]]):
        assert make(tmp_path / f"year {i}", labels=labels).labels("25017", 2018).year == 2018
    w, s, e, n = PLACE.buffer(0.001).bounds
    for i, corners in enumerate(itertools.permutations([(w, n), (e, n), (e, s), (w, s)])):
        if i % 7 == 0:
            source = make(tmp_path / str(i), {"type": "Polygon", "coordinates": [[*corners, corners[0]]]})
            assert source.covered("25017") == {2018: 1.0}


def test_an_outline_with_a_corner_that_is_no_number_is_none(tmp_path):
    corners = [[[0, 0], [1, 0], [1, float("nan")]], [[0, 0], [0, 1], [1, float("nan")]]]
    source = make(tmp_path, more=[{"type": "Polygon", "coordinates": [some]} for some in corners])
    assert [scene.scene_id for scene in source.scenes("25017", 2018)] == ["naip-0"]


def test_numbers_as_ids_of_scenes(tmp_path):
    make(tmp_path, more=[PLACE, PLACE])
    for i, path in enumerate(sorted(tmp_path.rglob("naip-?.json"))):
        item = json.loads(path.read_text())
        path.write_text(json.dumps(dict(item, id="9" if i else 8)))
    assert [scene.scene_id for scene in catalog.open(str(tmp_path)).scenes("25017", 2018)] == ["8", "9 (1)", "9 (2)"]


ROOT = {"type": "Catalog", "id": "x", "stac_version": "1.0.0", "description": "d", "links": [
    {"rel": "child", "href": "./part.json"}]}
PART = dict(ROOT, id="naip", links=[{"rel": "item", "href": "./item.json"}])


@pytest.mark.parametrize("files", [
    {"catalog": []}, {"catalog": {"type": "Catalog", "id": "x"}}, {"catalog": ROOT}, {"catalog": ROOT, "part": "{"},
    {"catalog": ROOT, "part": PART}, {"catalog": ROOT, "part": PART, "item": []},
    {"catalog": ROOT, "part": dict(PART, links=ROOT["links"])},
    {"catalog": dict(ROOT, links=[{"rel": "child", "href": "http://127.0.0.1:1/x.json?sig=SECRET"}])}])
def test_a_catalogue_that_breaks_off_is_refused(tmp_path, monkeypatch, files):
    monkeypatch.setattr(downloads, "TRIES", 1)
    for name, content in files.items():
        (tmp_path / f"{name}.json").write_text(content if isinstance(content, str) else json.dumps(content))
    geopandas.GeoDataFrame({"GEOID": [25017], "NAME": ["M"]}, geometry=[PLACE], crs=4326).to_file(
        tmp_path / "counties.geojson")
    with pytest.raises(InputError, match="expected a STAC catalogue in .*Check its JSON files.$") as error:
        catalog.open(str(tmp_path)).scenes("25017", 2018)
    assert "\n" not in str(error.value) and "SECRET" not in "".join(traceback.format_exception(error.value))


def test_scenes_that_parts_of_a_catalogue_call_the_same(tmp_path):
    west, east = (drawn.write_scene(tmp_path / f"{i}.tif", drawn.LEFT - 36 + 648 * i, drawn.TOP + 48, 648, 1500)
                  for i in (0, 1))
    source = make(tmp_path / "catalogue")
    # And one of them comes twice.
    source._items = lambda *_: [(pystac.Item("scene", shapely.geometry.mapping(place), None, datetime.datetime(
        2018, 7, 14), {}), href) for place, href in ((rasters.footprint(p), str(p)) for p in (east, west, east))]
    scenes = source.scenes("25017", 2018)
    assert [(scene.scene_id, scene.href) for scene in scenes] == [("scene (1)", str(west)), ("scene (2)", str(east))]
    tiles, crs = grid.county_tiles(PLACE)
    assert set(cut_tiles(tiles, scenes, crs)[1]) >= {"scene (1)", "scene (2)"}


def endless(request, content=b"\0" * (1 << 16), pause=0.0, header=False):
    request.close_connection = True
    request.connection.sendall(b"HTTP/1.1 200 OK\r\n" + (b"X: " if header else b"\r\n"))
    while True:
        request.connection.sendall(content)
        time.sleep(pause)


@pytest.mark.parametrize("fault, came", [
    (endless, "more than 4 MB"), (lambda request: endless(request, b"{", 0.1), "no complete answer"),
    (lambda request: endless(request, b"a", 0.1, True), "no complete answer"),
    (lambda request: servers.reply(request, 200, gzip.compress(bytes(50 << 20)), {"Content-Encoding": "gzip"}),
     "more than 4 MB"),
    (servers.moved_to("file:///etc/passwd"), "no answer .InvalidSchema")])
def test_an_answer_without_end_ends(tmp_path, monkeypatch, fault, came):
    monkeypatch.setattr(downloads, "MOST_BYTES", 4 << 20)
    monkeypatch.setattr(downloads, "WHOLE_S", 4)
    monkeypatch.setattr(downloads, "BLOCK_S", 0.5)
    started = time.monotonic()
    with servers.Files(tmp_path) as files:
        files.faults[:] = [fault] * 9
        with pytest.raises(InputError, match=f"got {came}"):
            downloads.get(f"{files.url}/x?sig=secret", "a file")
    assert time.monotonic() - started < 20


class Stac(servers.Files):
    """A STAC API whose every page has a next one, or one page only."""

    pages, href = True, "http://127.0.0.1:1/x.tif"

    def answer(self, request):
        self.asked.append(request.path)
        item = {"type": "Feature", "stac_version": "1.0.0", "id": f"i{len(self.asked)}", "collection": "naip",
                "links": [], "geometry": shapely.geometry.mapping(PLACE), "bbox": list(PLACE.bounds),
                "assets": {"image": {"href": self.href}}, "properties": {"datetime": "2010-07-01T00:00:00Z"}}
        search = {"rel": "search", "href": self.search or f"{self.url}/search", "type": "application/geo+json",
                  "method": "GET"}
        found = {"type": "FeatureCollection", "features": [item], "links": [
            {"rel": "next", "href": f"{self.url}/search?page={len(self.asked)}", "method": "GET"}] * self.pages}
        api = "https://api.stacspec.org/v1.0.0/"
        root = {"type": "Catalog", "id": "x", "stac_version": "1.0.0", "description": "d", "links": [search],
                "conformsTo": [api + "core", api + "item-search"]}
        servers.reply(request, 200, json.dumps(found if "search" in request.path else root).encode())

    search = None


@pytest.mark.parametrize("root", [[], {}, {"type": "Catalog", "id": "x"}, dict(ROOT, conformsTo=[])])
def test_an_answer_that_is_no_stac_api_is_one_sentence(monkeypatch, root):
    monkeypatch.setenv("TUTORIAL_SCENES", "http://me:SECRET@127.0.0.1:1/stac?key=SECRET")
    monkeypatch.setattr(downloads, "get", lambda *_: json.dumps(root).encode())
    with pytest.raises(InputError, match="expected NAIP scenes from 127.0.0.1:1, got") as error:
        search(County("25017", "M", PLACE))
    assert "\n" not in str(error.value) and "SECRET" not in "".join(traceback.format_exception(error.value))


def test_a_search_ends_and_names_only_what_lies_on_servers(tmp_path, monkeypatch):
    monkeypatch.setattr(online, "MOST_PAGES", 20)
    county = County("25017", "M", PLACE)
    with Stac(tmp_path) as api:
        monkeypatch.setenv("TUTORIAL_SCENES", api.url)
        with pytest.raises(InputError, match="on at most 20 pages"):
            search(county)
        monkeypatch.setattr(downloads, "MOST_BYTES", 5000)  # Fewer than the pages have together.
        with pytest.raises(InputError, match="in at most 0 MB from 127.0.0.1, got more"):
            search(county)
        api.pages = False
        api.href = "/home/me/scene.tif"
        with pytest.raises(InputError, match="scenes at http.s. addresses"):
            search(county)
        api.search = f"file://{tmp_path}/own.json"
        (tmp_path / "own.json").write_text('{"features": []}')
        with pytest.raises(InputError, match="InvalidSchema"):
            search(county)
        api.search, api.href = None, "https://server/scene.tif"
        assert [scene.href for scene in search(county)] == [api.href]

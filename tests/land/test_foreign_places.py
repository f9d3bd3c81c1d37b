"""Catalogues and answers of servers as they come: read for what they mean, or refused in one sentence."""

import datetime
import gzip
import itertools
import json
import time
import traceback

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


def test_the_censuses_boundary_is_said_to_be_its(own_county, tmp_path, monkeypatch, capsys):
    (tmp_path / "served").mkdir()
    own_county(GEOID="25017", NAME="M").rename(tmp_path / "served" / "census.geojson")
    with servers.Files(tmp_path / "served") as files:
        monkeypatch.setitem(downloads.ADDRESSES, "TUTORIAL_COUNTIES", f"{files.url}/census.geojson")
        own_county(GEOID="09110", NAME="Capitol", STUSPS="CT")
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

"""Any county's pictures, labels and boundary from real servers: STAC, range requests, WCS."""

import datetime
import io
import json
import time
import zipfile
from pathlib import Path
from urllib.parse import parse_qsl, urlsplit

import numpy as np
import pandas as pd
import pystac
import pytest
import rasterio
import shapely

import servers
from helpers import InputError
from helpers.land import catalog, classes as landcover, downloads, grid, scenes as rasters
from helpers.tiles import prepare as preparation, store as tilestore
from helpers.land.labels import check_labels, join_labels, label
from helpers.land.sources import COVERED, Labels, Scene
from helpers.tiles.choose import jobs_of
from helpers.tiles.forecast import download_bytes, forecast

COUNTY, YEAR = "99001", 2010


@pytest.fixture(autouse=True)
def own_home(tmp_path, monkeypatch):
    monkeypatch.setenv("TUTORIAL_HOME", str(tmp_path / "home"))
    monkeypatch.setattr(downloads, "BACKOFF_S", 0.02)
    monkeypatch.setattr(downloads, "_tokens", {})


@pytest.fixture
def sample(sample_world):
    return sample_world


@pytest.fixture
def files(sample):
    with servers.Files(sample.folder) as files:
        yield files


@pytest.fixture
def online(sample, files, tmp_path, monkeypatch):
    """The sample behind servers, as the catalogue of the whole country."""
    items = []
    for item in sample._root.get_child("naip").get_items(recursive=True):
        found = item.to_dict(include_self_link=False, transform_hrefs=False)
        relative = pystac.utils.make_absolute_href(item.assets["image"].href, item.get_self_href())
        found["assets"]["image"]["href"] = f"{files.url}/{relative.split(str(sample.folder))[1].lstrip('/')}"
        found["links"], found["collection"] = [], "naip"
        items.append(found)
    monkeypatch.setenv("TUTORIAL_COUNTIES", f"{files.url}/counties.geojson")
    monkeypatch.setenv("TUTORIAL_SIGNING", "")
    with servers.stac(items, tmp_path) as url:
        monkeypatch.setenv("TUTORIAL_SCENES", url)
        with servers.wcs({YEAR: sample.labels(COUNTY, YEAR).href}, tmp_path) as (address, asked):
            monkeypatch.setenv("TUTORIAL_LABELS", f"{address}?version=2.0.1&coverage=nlcd_{{year}}")
            source = catalog.open("naip")
            source.asked = asked
            yield source


def test_the_same_scenes_and_boundary_as_in_the_sample(online, sample):
    assert shapely.equals(online.county(COUNTY).boundary, sample.county(COUNTY).boundary)
    name = f"{sample.county(COUNTY).name}, ZZ"
    assert online.county(name).county == online.county(name.lower()).county == COUNTY
    ours, theirs = online.scenes(COUNTY, YEAR), sample.scenes(COUNTY, YEAR)
    assert [scene[0] for scene in ours] == [scene[0] for scene in theirs]
    assert [scene.acquired for scene in ours] == [scene.acquired for scene in theirs]
    assert online.nearest_year(COUNTY, 1999) == YEAR
    with pytest.raises(InputError, match="got scenes from 2010, 2016 only"):
        online.scenes(COUNTY, 1999)
    with pytest.raises(InputError, match="FIPS code of five digits.*got 'Nowhere, ZZ'"):
        online.county("Nowhere, ZZ")


def test_what_a_file_of_ones_own_lacks_the_census_has(sample, files, tmp_path, monkeypatch):
    own = tmp_path / "my_place.geojson"
    own.write_text(json.dumps(shapely.geometry.mapping(sample.county(COUNTY).boundary)))
    monkeypatch.setenv("TUTORIAL_COUNTIES", str(own))
    monkeypatch.setitem(downloads.ADDRESSES, "TUTORIAL_COUNTIES", f"{files.url}/counties.geojson")
    source = catalog.open("naip")
    assert source.county("my_place").county == "my_place" and not files.asked
    assert shapely.equals(source.county("99003").boundary, sample.county("99003").boundary) and len(files.asked) == 1
    with pytest.raises(InputError, match="FIPS code of five digits.*got '12345'"):
        source.county("12345")
    with pytest.raises(InputError, match="got 'Middlesex, MA'. Choose one of my_place"):
        source.county("Middlesex, MA")
    monkeypatch.setitem(downloads.ADDRESSES, "TUTORIAL_COUNTIES", f"{files.url}/gone.geojson")
    with pytest.raises(InputError, match="county 99005 in my_place.geojson or among all counties.*status 404") as error:
        source.county("99005")
    assert "\n" not in str(error.value)


def test_a_name_that_two_counties_have_is_asked_for_by_code(tmp_path, monkeypatch):
    place = shapely.geometry.mapping(shapely.box(-90.5, 38.5, -90.4, 38.6))
    features = [{"type": "Feature", "properties": {"GEOID": code, "NAME": "St. Louis", "STUSPS": state},
                 "geometry": place}
                for code, state in (("29189", "MO"), ("29510", "MO"), ("27137", "MN"))]
    (tmp_path / "counties.geojson").write_text(json.dumps({"type": "FeatureCollection", "features": features}))
    monkeypatch.setenv("TUTORIAL_COUNTIES", str(tmp_path / "counties.geojson"))
    with pytest.raises(InputError, match=r"Choose one of St. Louis, MO \(29189\), St. Louis, MO \(29510\)\.$"):
        catalog.open("naip").county("St. Louis, MO")
    assert catalog.open("naip").county("St. Louis, MN").county == "27137"


@pytest.mark.parametrize("version", ["1.0.0", "2.0.1"])
def test_labels_of_a_wcs_count_as_those_of_the_file(online, sample, monkeypatch, version):
    if version == "1.0.0":  # Formats have other names there, each server its own.
        address = downloads.address("TUTORIAL_LABELS").replace("2.0.1", version)
        monkeypatch.setenv("TUTORIAL_LABELS", address + "&format=GTiff")
    place = online.county(COUNTY)
    tiles, crs = grid.county_tiles(place.boundary)
    labels = online.labels(COUNTY, YEAR)
    assert f"version={version}" in online.asked[-1].lower() and labels.year == YEAR
    with rasterio.open(labels.href) as got:
        assert got.crs == rasterio.CRS.from_epsg(5070) and got.res == (30, 30)
        assert got.bounds.left % 30 == got.bounds.top % 30 == 15
    ours = label(tiles, labels, crs)
    theirs = label(tiles, sample.labels(COUNTY, YEAR), crs)
    pd.testing.assert_frame_equal(ours, theirs)
    asked = len(online.asked)
    assert online.labels(COUNTY, YEAR) == labels and len(online.asked) == asked


def test_the_default_address_asks_what_the_live_server_answers(sample, files, monkeypatch):
    """Word by word, from the untouched address; only the host is another."""
    default = downloads.ADDRESSES["TUTORIAL_LABELS"]
    host = "https://dmsdata.cr.usgs.gov"
    assert default.startswith(host)
    monkeypatch.setenv("TUTORIAL_COUNTIES", str(sample.folder / "counties.geojson"))
    monkeypatch.setenv("TUTORIAL_LABELS", default.replace(host, files.url))
    with pytest.raises(InputError, match="status 404"):
        catalog.open("naip").labels(COUNTY, 2018)
    path, _, query = files.asked[-1].partition("?")
    assert path == "/geoserver/mrlc_Land-Cover-Native_conus_year_data/wcs"
    asked = dict(parse_qsl(query))
    left, bottom, right, top = map(int, asked.pop("bbox").split(","))
    assert asked == {
        "service": "WCS", "version": "1.0.0", "request": "GetCoverage", "crs": "EPSG:5070", "resx": "30", "resy": "30",
        "coverage": "mrlc_Land-Cover-Native_conus_year_data:Land-Cover-Native_conus_year_data", "format": "GeoTIFF",
        "time": "2018-01-01T00:00:00.000Z"}
    county = grid.project(sample.county(COUNTY).boundary, "EPSG:5070").bounds
    assert {left % 30, bottom % 30, right % 30, top % 30} == {15}
    assert 500 <= county[0] - left < 530 and 500 <= county[1] - bottom < 530
    assert 500 <= right - county[2] < 530 and 500 <= top - county[3] < 530


def test_a_coverage_with_a_time_answers_for_each_year(sample, tmp_path, monkeypatch):
    default = downloads.ADDRESSES["TUTORIAL_LABELS"]
    rasters_of = {year: sample.labels(COUNTY, year).href for year in (2011, 2016)}
    monkeypatch.setenv("TUTORIAL_COUNTIES", str(sample.folder / "counties.geojson"))
    with servers.wcs(rasters_of, tmp_path, timed=dict(parse_qsl(urlsplit(default).query))["coverage"]) as (url, asked):
        monkeypatch.setenv("TUTORIAL_LABELS", f"{url}?{urlsplit(default).query}")
        source = catalog.open("naip")
        tiles, crs = grid.county_tiles(source.county(COUNTY).boundary)
        for year, href in rasters_of.items():
            ours = label(tiles, source.labels(COUNTY, year), crs)
            pd.testing.assert_frame_equal(ours, label(tiles, Labels(href, year), crs))
        assert len(asked) == 2
        with pytest.raises(InputError, match="NullPointerException"):
            source.labels(COUNTY, 2013)


def test_a_large_place_is_asked_for_in_pieces_and_joined(online, sample, monkeypatch):
    monkeypatch.setattr(catalog, "PIECE_PX", 90)
    tiles, crs = grid.county_tiles(online.county(COUNTY).boundary)
    ours = label(tiles, online.labels(COUNTY, YEAR), crs)
    pd.testing.assert_frame_equal(ours, label(tiles, sample.labels(COUNTY, YEAR), crs))
    assert len(online.asked) >= 9
    asked = len(online.asked)
    online.labels(COUNTY, YEAR)
    assert len(online.asked) == asked


def label_content(bounds, crs="EPSG:5070", code=41):
    """A label raster of one code, as a server sends it."""
    left, bottom, right, top = bounds
    shape = int((top - bottom) / 30), int((right - left) / 30)
    with rasterio.MemoryFile() as memory:
        with memory.open(driver="GTiff", width=shape[1], height=shape[0], count=1, dtype="uint8", crs=crs,
                         transform=rasterio.transform.from_origin(left, top, 30, 30)) as file:
            file.write(np.full(shape, code, np.uint8), 1)
        return bytes(memory.getbuffer())


BOUNDS = (1950015, 2300415, 1953015, 2303415)


@pytest.mark.parametrize("content, said", [
    (label_content(np.add(BOUNDS, (0, 15, 0, 15))), "got 30 m within"),
    (label_content(np.add(BOUNDS, (0, 0, -300, 0))), "got 30 m within"),
    (label_content(BOUNDS, "EPSG:32619"), "in EPSG:5070, got 'EPSG:32619'"),
    (label_content(BOUNDS, code=77), "got 77"),
])
def test_labels_of_another_place_grid_or_kind_are_turned_away(content, said):
    with pytest.raises(InputError, match=said):
        check_labels(content, "NLCD of 2018", BOUNDS)


def test_a_crs_that_has_only_a_name_is_taken_for_what_was_asked(tmp_path):
    """As GDAL reads a projection that a server wrote in its own words."""
    content = label_content(np.add(BOUNDS, 0.04), 'LOCAL_CS["NAD83 / Conus Albers",UNIT["metre",1]]')
    check_labels(content, "NLCD of 2018", BOUNDS)
    (tmp_path / "local.tif").write_bytes(content)
    with rasterio.MemoryFile(join_labels([tmp_path / "local.tif"])) as memory, memory.open() as joined:
        assert joined.crs.to_epsg() == 5070 and tuple(joined.bounds) == BOUNDS and (joined.read(1) == 41).all()


@pytest.mark.parametrize("fault, said", [
    (lambda request: servers.reply(request, 200, b'<?xml version="1.0"?><ServiceExceptionReport><ServiceException>'
                                   b'no such year</ServiceException></ServiceExceptionReport>'), "no such year"),
    (lambda request: servers.reply(request, 200, b"<html><body>We are moving</body></html>"), "We are moving"),
    (lambda request: servers.reply(request, 502, b"bad gateway"), "status 502"),
    ("cut", "breaks off")])
def test_labels_that_are_none_end_in_one_sentence_and_are_not_kept(files, sample, tmp_path, monkeypatch, fault, said):
    monkeypatch.setenv("TUTORIAL_COUNTIES", str(sample.folder / "counties.geojson"))
    monkeypatch.setenv("TUTORIAL_LABELS", f"{files.url}/wcs?version=2.0.1&coverage=nlcd")
    if fault == "cut":
        whole = Path(sample.labels(COUNTY, YEAR).href).read_bytes()

        def fault(request):
            return servers.reply(request, 200, whole[:len(whole) // 2])
    files.faults[:] = [fault] * 20
    with pytest.raises(InputError, match=said) as error:
        catalog.open("naip").labels(COUNTY, YEAR)
    assert "\n" not in str(error.value)
    assert not list((tmp_path / "home").rglob("*.tif"))


def test_a_county_is_prepared_from_the_network_as_from_the_disk(spark, online, sample, files, tmp_path):
    """And the bytes that are read are those of the windows' own blocks."""
    place = online.county(COUNTY)
    tiles, crs = grid.county_tiles(place.boundary)
    plan = forecast({"map": online}, [(COUNTY, YEAR, "map")], 2)
    files.bytes_sent = 0
    facts = preparation.prepare(spark, online, COUNTY, YEAR, "map", str(tmp_path / "online"))
    read = files.bytes_sent
    theirs = preparation.prepare(spark, sample, COUNTY, YEAR, "map", str(tmp_path / "disk"))
    assert facts["tiles"] == theirs["tiles"] and facts["label_source"].endswith("/wcs")
    ours, theirs = tilestore.read(tmp_path / "online"), tilestore.read(tmp_path / "disk")
    assert ours["tile_id"].tolist() == theirs["tile_id"].tolist()
    assert ours["image"].tolist() == theirs["image"].tolist()
    assert ours["label"].fillna(-1).tolist() == theirs["label"].fillna(-1).tolist()
    own = own_blocks(sample.scenes(COUNTY, YEAR), ours)
    print(f"{read / 1e6:.1f} MB read, {own / 1e6:.1f} MB in the windows' own blocks: {read / own:.2f}")
    assert read <= 1.3 * own
    assert 1 / 1.5 <= plan["download_mb"][0] * 1e6 / read <= 1.5


def own_blocks(scenes, tiles):
    """Bytes of the blocks that the tiles' windows touch, each once; of an overview where one is fine enough."""
    total = 0
    for scene in scenes:
        wanted = tiles[tiles["scene_id"] == scene.scene_id]
        with rasterio.open(scene.href) as raster:
            level = rasters.overview_level(scene.resolution, raster.overviews(1))
            with rasterio.open(scene.href, **({} if level is None else {"OVERVIEW_LEVEL": level})) as used:
                height, width = used.block_shapes[0]
                blocks = set()
                for row, col in zip(wanted["row"], wanted["col"]):
                    top, left = used.index(col * grid.TILE_M + 0.01, (row + 1) * grid.TILE_M - 0.01)
                    bottom, right = used.index((col + 1) * grid.TILE_M - 0.01, row * grid.TILE_M + 0.01)
                    blocks |= {(i, j) for i in range(top // height, bottom // height + 1)
                               for j in range(left // width, right // width + 1)}
                bands = range(1, raster.count + 1) if raster.interleaving == rasterio.enums.Interleaving.band else [1]
                total += sum(int(raster.get_tag_item(f"BLOCK_SIZE_{j}_{i}", "TIFF", bidx=band, ovr=level) or 0)
                             for i, j in blocks for band in bands)
    return total


@pytest.mark.parametrize("resolution", [0.6, 0.3])
@pytest.mark.parametrize("infrared_as_alpha", [False, True])
def test_of_a_fine_scene_only_the_windows_own_blocks_are_read(tmp_path, resolution, infrared_as_alpha):
    """And the plan said so before."""
    import scenes as drawn
    width_m, height_m = (2400, 1200) if resolution == 0.6 else (1200, 1000)
    drawn.write_cog(tmp_path / "one.tif", drawn.LEFT - 90, drawn.TOP + 70, width_m, height_m, resolution,
                    infrared_as_alpha=infrared_as_alpha)
    with servers.Files(tmp_path) as files:
        local = Scene("one", str(tmp_path / "one.tif"), "2018-07-01", 2018,
                              rasters.footprint(str(tmp_path / "one.tif"))[0], resolution)
        scene = local._replace(href=f"{files.url}/one.tif")
        rows, cols = map(np.ravel, np.indices((int(height_m - 70) // 224, int(width_m - 90) // 224)))
        tiles = pd.DataFrame({"row": drawn.ROW - rows, "col": drawn.COL + cols})
        files.bytes_sent = 0
        planned, header = download_bytes(tiles, [scene], drawn.CRS), files.bytes_sent
        assert header < 100_000
        files.bytes_sent = 0
        images = []
        with rasters.open_scenes(drawn.CRS) as get:
            for start in range(0, len(tiles), 16):
                images += rasters.cut_tiles(tiles.iloc[start:start + 16], [scene], drawn.CRS, get)[0]
        read, own = files.bytes_sent, own_blocks([local], tiles.assign(scene_id="one"))
        print(f"{resolution} m: {read / 1e6:.2f} MB read, {own / 1e6:.2f} MB in own blocks: {read / own:.2f}, "
              f"planned {planned / 1e6:.2f} MB")
        assert all(image is not None for image in images)
        assert own <= read <= 1.3 * own
        assert 1 / 1.5 <= planned / read <= 1.5
        # Nothing is looked for beside the picture.
        assert {path.partition("?")[0] for path in files.asked} == {"/one.tif"}


def test_tokens_are_asked_for_when_read_and_anew_when_they_end(sample, tmp_path, monkeypatch):
    issued = {}

    class Tokens(servers.Files):
        def answer(self, request):
            self.asked.append(request.path)
            name, ends = f"t{len(issued)}", time.time() + 3
            issued[name] = ends
            when = datetime.datetime.fromtimestamp(ends, datetime.timezone.utc)
            servers.reply(request, 200, json.dumps(
                {"token": f"sig={name}", "msft:expiry": when.isoformat().replace("+00:00", "Z")}).encode())

    def valid(signature):
        return issued.get(signature, 0) > time.time()

    place = sample.county(COUNTY)
    tiles, crs = grid.county_tiles(place.boundary)
    with servers.Files(sample.folder, token=valid) as files, Tokens(tmp_path) as tokens:
        monkeypatch.setenv("TUTORIAL_SIGNING", tokens.url + "/token")
        scenes = [scene._replace(href=f"{files.url}/{scene.href.split(str(sample.folder))[1].lstrip('/')}")
                  for scene in sample.scenes(COUNTY, YEAR)]
        labelled = label(tiles, sample.labels(COUNTY, YEAR), crs).assign(split="map")
        batches = [labelled.iloc[i:i + 3] for i in (0, 100, 200, 300)]

        def slowly():
            for batch in batches:
                yield batch
                time.sleep(1.2)
        ours = pd.concat(preparation.cut(slowly(), scenes, crs))
        assert 2 <= len(tokens.asked) <= 4
        # Who has no token is turned away, in one sentence that shows no token.
        monkeypatch.setenv("TUTORIAL_SIGNING", "")
        with pytest.raises(InputError, match="expected a scene at") as error:
            next(preparation.cut(batches[:1], scenes, crs))
        assert "sig=" not in str(error.value)
    theirs = pd.concat(preparation.cut(batches, sample.scenes(COUNTY, YEAR), crs))
    assert len(ours) and ours["image"].tolist() == theirs["image"].tolist()


def test_a_year_counts_where_its_scenes_cover_the_county(sample, monkeypatch):
    scenes = sample._all_scenes(COUNTY)
    later = [scene for scene in scenes if scene.year == 2016]
    assert len(later) > 1 and sample.nearest_year(COUNTY, 2018) == 2016
    monkeypatch.setattr(sample, "_scenes", lambda place: [scene for scene in scenes if scene.year == 2010] + later[:1])
    shares = sample.covered(COUNTY)
    assert shares[2010] > COVERED > shares[2016] > 0
    assert sample.nearest_year(COUNTY, 2018) == 2010
    with pytest.raises(InputError, match=rf"got scenes from 2010, 2016 \(of {shares[2016]:.0%} of it\) only"):
        sample.scenes(COUNTY, 2012)
    # Where no year covers it, the one that covers most.
    monkeypatch.setattr(sample, "_scenes", lambda place: later[:1])
    assert sample.nearest_year(COUNTY, 2010) == 2016


@pytest.fixture
def remote(sample, files):
    """Five tiles, their scenes behind the server, and what should come out."""
    tiles, crs = grid.county_tiles(sample.county(COUNTY).boundary)
    scenes = [scene._replace(href=f"{files.url}/{scene.href.split(str(sample.folder))[1].lstrip('/')}")
              for scene in sample.scenes(COUNTY, YEAR)]
    labelled = label(tiles, sample.labels(COUNTY, YEAR), crs).assign(split="map").head(5)
    return labelled, scenes, crs, next(preparation.cut([labelled], sample.scenes(COUNTY, YEAR), crs))["image"].tolist()


def in_the_middle(files, fault, times):
    """A fault behind what is read when a scene is opened, so many times."""
    left = [times]

    def check(request):
        files.faults.append(check)  # the server takes each out as it answers
        first = int((request.headers.get("Range") or "bytes=0-").split("=")[1].split("-")[0])
        if first < 1 << 17 or not left[0]:
            files.faults.remove(check)
            return False
        left[0] -= 1
        return fault(request)
    files.faults[:] = [check]
    return left


@pytest.mark.parametrize("fault", [servers.busy(503), servers.busy(429), servers.cut_off,
                                   lambda request: servers.reply(request, 403, b"expired")])
def test_what_fails_in_the_middle_is_read_again(remote, files, fault):
    labelled, scenes, crs, expected = remote
    left = in_the_middle(files, fault, 6)
    cut = next(preparation.cut([labelled], scenes, crs))
    assert cut["image"].tolist() == expected and left[0] == 0
    # Of all scenes around only those were opened that tiles came from.
    assert {Path(path).stem for path in files.asked} == set(cut["scene_id"]) and len(scenes) > cut["scene_id"].nunique()


def test_a_busy_server_of_scenes_is_left_alone_for_as_long_as_it_wants(remote, files):
    """GDAL's own tries don't heed Retry-After; ours do."""
    labelled, scenes, crs, expected = remote
    until, early = time.monotonic() + 4, []

    def busy(request):
        if time.monotonic() >= until:
            return False
        files.faults.append(busy)
        early.append(request.path)
        return servers.reply(request, 503, b"", {"Retry-After": "3"})
    files.faults[:] = [busy]
    assert next(preparation.cut([labelled], scenes, crs))["image"].tolist() == expected
    assert 3 <= len(early) <= 8, early


@pytest.mark.parametrize("infrared_as_alpha", [False, True])
def test_what_never_mends_ends_in_one_sentence_without_a_token(tmp_path, monkeypatch, caplog, infrared_as_alpha):
    import traceback

    import scenes as drawn
    monkeypatch.setattr(downloads, "TRIES", 2)
    path = drawn.write_cog(tmp_path / "one.tif", drawn.LEFT - 90, drawn.TOP + 70, 600, 600, 0.6,
                           infrared_as_alpha=infrared_as_alpha)
    tiles = pd.DataFrame({"row": [drawn.ROW], "col": [drawn.COL]})
    with servers.Files(tmp_path) as files, servers.Files(tmp_path) as tokens:
        monkeypatch.setenv("TUTORIAL_SIGNING", tokens.url + "/token")
        tokens.faults[:] = [lambda request: servers.reply(request, 200, json.dumps(
            {"token": "st=1&sig=secret", "msft:expiry": "2099-01-01T00:00:00Z"}).encode())] * 9
        scene = Scene("one", files.url + "/one.tif", "2018-07-01", 2018, rasters.footprint(path)[0], 0.6)
        # The header, which is asked for anew each time it is opened, comes; no picture does.
        size = Path(path).stat().st_size

        def cut(request):
            files.faults.append(cut)
            first = int((request.headers.get("Range") or "bytes=0-").split("=")[1].split("-")[0])
            if first >= min(16384, size // 4) or "Range" not in request.headers:
                return servers.cut_off(request)
            files.faults.remove(cut)
            files.faults.append(cut)
            return False
        files.faults[:] = [cut]
        with pytest.raises(InputError, match=r"at http://127.0.0.1:\d+/one.tif, got .*Try again later") as error:
            rasters.cut_tiles(tiles, [scene], drawn.CRS)
        assert "\n" not in str(error.value) and len(str(error.value)) < 500 and "VRT" not in str(error.value)
        shown = "".join(traceback.format_exception(error.value))
        assert "sig" not in shown and "secret" not in shown and "sig" not in caplog.text
        assert any("sig=secret" in path for path in files.asked)


@pytest.mark.parametrize("fault", [servers.busy(503), servers.busy(429), servers.moved_to("/again?x=1")])
def test_a_token_is_asked_for_again(tmp_path, monkeypatch, fault):
    with servers.Files(tmp_path) as tokens:
        answer = lambda request: servers.reply(request, 200, json.dumps(
            {"token": "sig=t", "msft:expiry": "2099-01-01T00:00:00Z"}).encode())
        monkeypatch.setenv("TUTORIAL_SIGNING", tokens.url + "/token")
        tokens.faults[:] = [fault, answer]
        assert downloads.signed("http://host/one.tif")[0] == "http://host/one.tif?sig=t" and len(tokens.asked) == 2
        monkeypatch.setattr(downloads, "PIECE_S", 0.2)
        monkeypatch.setattr(downloads, "TRIES", 1)
        tokens.faults[:] = [servers.silent(0.6)] * 9
        with pytest.raises(InputError, match="expected a token to read scenes with from .*, got no"):
            downloads.signed("http://host/one.tif", anew=True)


@pytest.mark.parametrize("faults", [[servers.busy(503)], [servers.busy(429)], "moved"])
def test_a_stac_server_in_trouble_is_asked_again_and_its_answer_kept(online, sample, tmp_path, monkeypatch, faults):
    with servers.Proxy(downloads.address("TUTORIAL_SCENES")) as proxy:
        monkeypatch.setenv("TUTORIAL_SCENES", proxy.url)
        proxy.faults[:] = [servers.moved_to("/?again=1", 307)] if faults == "moved" else faults
        expected = [scene.scene_id for scene in sample.scenes(COUNTY, YEAR)]
        assert [scene.scene_id for scene in catalog.open("naip").scenes(COUNTY, YEAR)] == expected and not proxy.faults
        asked = len(proxy.asked)
        # In another process too: what a search found is kept, and serves on where the server is gone.
        assert [scene.scene_id for scene in catalog.open("naip").scenes(COUNTY, YEAR)] == expected
        assert len(proxy.asked) == asked
        monkeypatch.setattr(catalog, "KEPT_S", 0)
        proxy.faults[:] = [servers.busy(503, "0")] * 50
        assert [scene.scene_id for scene in catalog.open("naip").scenes(COUNTY, YEAR)] == expected
        assert len(proxy.asked) > asked


def test_a_slow_stac_server_is_given_up_in_one_sentence(online, monkeypatch):
    with servers.Proxy(downloads.address("TUTORIAL_SCENES")) as proxy:
        monkeypatch.setenv("TUTORIAL_SCENES", proxy.url)
        monkeypatch.setattr(downloads, "PIECE_S", 0.2)
        monkeypatch.setattr(downloads, "TRIES", 1)
        proxy.faults[:] = [servers.silent(0.6)] * 9
        with pytest.raises(InputError, match="expected NAIP scenes from 127.0.0.1:.*catalog='sample'") as error:
            catalog.open("naip").scenes(COUNTY, YEAR)
        assert "\n" not in str(error.value)


def test_another_collection_of_another_api(sample, files, tmp_path, monkeypatch):
    """Without naip:year the item's date tells the year."""
    item = next(sample._root.get_child("naip").get_items(recursive=True)).to_dict(
        include_self_link=False, transform_hrefs=False)
    item["assets"], item["links"], item["collection"] = {"rgb": item["assets"]["image"]}, [], "ortho"
    item["assets"]["rgb"]["href"] = f"{files.url}/one.tif"
    item["properties"].pop("naip:year")
    monkeypatch.setenv("TUTORIAL_COUNTIES", str(sample.folder / "counties.geojson"))
    with servers.stac([item], tmp_path) as url:
        monkeypatch.setenv("TUTORIAL_SCENES", f"{url}?collection=ortho&asset=rgb")
        source = catalog.open("naip")
        scene, = source.scenes(COUNTY, int(item["properties"]["datetime"][:4]))
        assert scene.href == f"{files.url}/one.tif"


def test_a_folder_of_geotiffs_is_a_catalogue(sample, tmp_path, monkeypatch):
    folder = tmp_path / "mine"
    folder.mkdir()
    for scene in sample.scenes(COUNTY, YEAR):
        (folder / f"{scene.scene_id}.tif").symlink_to(scene.href)
    (folder / "nlcd_2011.tif").symlink_to(sample.labels(COUNTY, YEAR).href)
    boundary = tmp_path / "my_place.geojson"
    boundary.write_text(json.dumps(shapely.geometry.mapping(sample.county(COUNTY).boundary)))
    monkeypatch.setenv("TUTORIAL_COUNTIES", str(boundary))
    source = catalog.open(str(folder))
    place = source.county("my_place")
    tiles, crs = grid.county_tiles(place.boundary)
    assert source.labels("my_place", YEAR).year == 2011
    scenes = source.scenes("my_place", YEAR)
    assert [s.scene_id for s in scenes] == [s.scene_id for s in sample.scenes(COUNTY, YEAR)]
    assert {s.resolution for s in scenes} == {1.0}
    labelled = label(tiles, source.labels("my_place", YEAR), crs).assign(split="map").head(4)
    ours = next(preparation.cut([labelled], scenes, crs))
    assert ours["image"].tolist() == next(
        preparation.cut([labelled], sample.scenes(COUNTY, YEAR), crs))["image"].tolist()
    (folder / "scene.tif").symlink_to(sample.scenes(COUNTY, YEAR)[0].href)
    with pytest.raises(InputError, match="YYYYMMDD in the name of the scene scene.tif"):
        source.scenes("my_place", YEAR)


def test_labels_of_another_place_are_refused(sample, monkeypatch):
    monkeypatch.setenv("TUTORIAL_COUNTIES", str(sample.folder / "counties.geojson"))
    monkeypatch.setenv("TUTORIAL_LABELS", sample.labels("99007", YEAR).href)
    with pytest.raises(InputError, match="NLCD raster over county 99001 .*, got 1 elsewhere"):
        catalog.open("naip").labels(COUNTY, YEAR)


def notebook_02(parameters, folder):
    """Execute it; its tiles."""
    import papermill
    notebook = Path(__file__).resolve().parents[2] / "notebooks" / "02_data_preparation.ipynb"
    takes = papermill.inspect_notebook(str(notebook))
    papermill.execute_notebook(str(notebook), str(folder / "02.ipynb"), cwd=str(notebook.parent), progress_bar=False,
                               parameters={name: value for name, value in parameters.items() if name in takes})
    return tilestore.read(folder / "home" / "runs" / parameters["run_name"] / "tiles",
                          columns=["county", "year", "split", "label", "purity", "tile_id"])


@pytest.fixture
def script():
    import importlib.util
    path = Path(__file__).resolve().parents[2] / "setup_scripts" / "run_tutorial.py"
    spec = importlib.util.spec_from_file_location("run_tutorial", path)
    script = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(script)
    return script


def test_a_county_of_the_network_from_the_command_line_to_its_tiles(online, sample, tmp_path, monkeypatch, script,
                                                                    capsys):
    """All of it: a place of one's own, other counties to train on, some of their tiles, and what is said before."""
    own = tmp_path / "my_place.geojson"
    own.write_text(json.dumps(shapely.geometry.mapping(sample.county("99001").boundary.centroid.buffer(0.01))))
    # The Census's file, as if it had been downloaded before: the kernel has its address.
    census, zipped = downloads.ADDRESSES["TUTORIAL_COUNTIES"], io.BytesIO()
    with zipfile.ZipFile(zipped, "w") as file:
        file.write(sample.folder / "counties.geojson", "counties.geojson")
    downloads.keep([census, None], "county boundaries", ".zip", zipped.getvalue, census)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("TUTORIAL_COUNTIES", "my_place.geojson")
    monkeypatch.setenv("TUTORIAL_LABELS", str(sample.folder / "labels"))
    monkeypatch.setattr(catalog, "TRAINING", {"99003": "", "99005": ""})
    monkeypatch.setattr(catalog, "VALIDATION", ("99005",))
    monkeypatch.setattr(script, "TRAIN_TILES", 3)
    script.whole_paths()
    chosen = script.options(["--county", "my_place", "--years", "2010,2016", "--leaf-off", "exclude", "--master",
                             "local[2]"])
    assert chosen["train_counties"] == ["99003"] and chosen["validation_county"] == "99005"
    script.announce(chosen)
    said = capsys.readouterr().out
    assert "MB to download" in said and "my_place" in said and "download_mb" in said and "covered" in said
    table = notebook_02(chosen, tmp_path)
    assert set(map(tuple, table[["county", "year", "split"]].drop_duplicates().values)) == {
        ("99003", 2010, "train"), ("99003", 2016, "train"), ("99005", 2010, "validation"), ("my_place", 2010, "map"),
        ("my_place", 2016, "map")}
    trained = table[table["split"] == "train"]
    before, after = (set(part["tile_id"]) for _, part in trained.groupby("year"))
    assert before == after and (trained["purity"] < tilestore.PURE).any()
    pure = trained[(trained["purity"] >= tilestore.PURE) & (trained["year"] == 2010)]["label"].value_counts()
    assert len(pure) == 6 and pure.min() >= 3


def test_a_folder_on_the_command_line(online, sample, tmp_path, monkeypatch, script):
    """The folder is mapped; where to train, another catalogue says, or the folder itself."""
    folder = tmp_path / "mine"
    folder.mkdir()
    for year in (2010, 2016):
        for scene in sample.scenes(COUNTY, year):
            (folder / f"{scene.scene_id}.tif").symlink_to(scene.href)
    monkeypatch.setenv("TUTORIAL_LABELS", str(sample.folder / "labels"))
    monkeypatch.setattr(catalog, "TRAINING", {"99003": "", "99007": "", "99005": ""})
    monkeypatch.setattr(catalog, "VALIDATION", ("99005",))
    monkeypatch.setattr(script, "TRAIN_TILES", 12)
    options = ["--catalog", str(folder), "--county", COUNTY, "--years", "2010,2016"]
    chosen = script.options(options)
    assert (chosen["catalog"], chosen["train_catalog"]) == (str(folder), "naip")
    own = script.options(options + ["--train-counties", "99003, 99007", "--validation-county", "99005"])
    assert own["train_counties"] == ["99003", "99007"] and "train_catalog" not in own
    source, teaching = catalog.open(chosen["catalog"]), catalog.open(chosen["train_catalog"])
    jobs = jobs_of({"map": source, "train": teaching, "validation": teaching}, *(chosen[name] for name in (
        "county", "years", "train_counties", "train_years", "validation_county", "validation_years")))
    plan = forecast({"map": source, "train": teaching, "validation": teaching}, jobs, 2, per_class=12)
    assert (plan["download_mb"] > 0).tolist() == [split != "map" for split in plan["split"]]
    with pytest.raises(InputError, match="--train-counties and --validation-county together"):
        script.options(options + ["--train-counties", "99003"])
    with pytest.raises(InputError, match="--county and --years beside --catalog"):
        script.options(["--catalog", str(folder)])


def test_a_real_county_on_the_command_line(sample, monkeypatch, script):
    monkeypatch.setenv("TUTORIAL_COUNTIES", str(sample.folder / "counties.geojson"))
    name = f"{sample.county(COUNTY).name}, ZZ"
    chosen = script.options(["--county", name, "--years", "2012,2018"])
    assert chosen["county"] == COUNTY and chosen["catalog"] == "naip" and chosen["run_name"] == "county-99001"
    assert chosen["years"] == chosen["train_years"] == [2012, 2018] and chosen["validation_years"] == [2018]
    assert len(chosen["train_counties"]) == 11 and chosen["validation_county"] not in chosen["train_counties"]
    # What is cut to train on is also trained on.
    assert 0.5 <= chosen["per_class"] / (chosen["train_tiles"] * 11) <= 1
    assert "catalog" not in script.options(["--county", "99007"])
    with pytest.raises(InputError, match="--county and --years beside --catalog naip"):
        script.options(["--county", "25017"])


def test_another_address_is_another_run(monkeypatch, tmp_path, script):
    from helpers.runs import Run
    monkeypatch.setenv("TUTORIAL_LABELS", str(tmp_path / "nlcd_2011.tif"))
    (tmp_path / "nlcd_2011.tif").write_bytes(b"1")
    step = script.Step(script.REPOSITORY / "notebooks" / "02_data_preparation.ipynb", Run("one"), {})
    before = step.fingerprint(None, "")
    assert step.fingerprint(None, "") == before
    (tmp_path / "nlcd_2011.tif").write_bytes(b"22")
    changed = step.fingerprint(None, "")
    monkeypatch.setenv("TUTORIAL_SCENES", "http://127.0.0.1/")
    assert len({before, changed, step.fingerprint(None, "")}) == 3


def test_training_counties_are_twelve_and_split_by_county():
    assert len(catalog.TRAINING) == 12 and all(len(code) == 5 for code in catalog.TRAINING)
    assert np.unique([code[:2] for code in catalog.TRAINING]).size == 12
    assert set(catalog.VALIDATION) < set(catalog.TRAINING) and len(catalog.VALIDATION) == 2
    assert len(landcover.CLASSES) == 6

"""Any county's pictures, labels and boundary from real servers, to its tiles."""

import io
import json
import zipfile
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import rasterio
import shapely

import servers
from helpers import InputError
from helpers.land import catalog, downloads, grid, online as anywhere, scenes as rasters
from helpers.tiles import forecast as to_forecast, prepare as preparation, store as tilestore
from helpers.land.rasters import footprint
from helpers.land.sources import Scene
from helpers.tiles.choose import jobs_of
from helpers.tiles.forecast import _download_bytes

COUNTY, YEAR = "99001", 2010


def test_the_same_scenes_and_boundary_as_in_the_sample(online, sample):
    assert shapely.equals(online.county(COUNTY).boundary, sample.county(COUNTY).boundary)
    name = f"{sample.county(COUNTY).name}, ZZ"
    assert online.county(name).fips == online.county(name.lower()).fips == COUNTY
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
    assert source.county("my_place").fips == "my_place" and not files.asked
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
    assert catalog.open("naip").county("St. Louis, MN").fips == "27137"


def test_a_county_is_prepared_from_the_network_as_from_the_disk(spark, online, sample, files, tmp_path):
    """And the bytes that are read are those of the windows' own blocks."""
    place = online.county(COUNTY)
    tiles, crs = grid.county_tiles(place.boundary)
    plan = to_forecast.plan({"map": online}, [(COUNTY, YEAR, "map")], 2)
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
            level = rasters.overview_level(raster.res[0], raster.overviews(1))
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
                              footprint(str(tmp_path / "one.tif")))
        scene = local._replace(href=f"{files.url}/one.tif")
        rows, cols = map(np.ravel, np.indices((int(height_m - 70) // 224, int(width_m - 90) // 224)))
        tiles = pd.DataFrame({"row": drawn.ROW - rows, "col": drawn.COL + cols})
        files.bytes_sent = 0
        found = preparation.Sources(None, tiles, drawn.CRS, [scene], None, {}, len(tiles), {})
        planned, header = _download_bytes(found), files.bytes_sent
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
        assert own <= read <= 1.15 * own
        assert 1 / 1.25 <= planned / read <= 1.25
        # Nothing is looked for beside the picture.
        assert {path.partition("?")[0] for path in files.asked} == {"/one.tif"}


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
        monkeypatch.setattr(anywhere, "KEPT_S", 0)
        proxy.faults[:] = [servers.busy(503, "0")] * 50
        assert [scene.scene_id for scene in catalog.open("naip").scenes(COUNTY, YEAR)] == expected
        assert len(proxy.asked) > asked


def test_a_slow_stac_server_is_given_up_in_one_sentence(online, monkeypatch):
    with servers.Proxy(downloads.address("TUTORIAL_SCENES")) as proxy:
        monkeypatch.setenv("TUTORIAL_SCENES", proxy.url)
        monkeypatch.setattr(downloads, "BLOCK_S", 0.2)
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
    plan = to_forecast.plan({"map": source, "train": teaching, "validation": teaching}, jobs, 2, per_class=12)
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

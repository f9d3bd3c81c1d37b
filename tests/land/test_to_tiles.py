"""A county of the network, to its tiles: prepared, forecast, and asked for on the command line."""

import io
import json
import zipfile
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import rasterio
import shapely

import run_tutorial as script
import scenes as drawn
import servers
from helpers import InputError
from helpers.land import catalog, downloads, grid
from helpers.land.rasters import footprint
from helpers.land.scenes import cut_tiles, open_scenes, overview_level
from helpers.land.sources import Scene
from helpers.runs import Run
from helpers.tiles import choose, store
from helpers.tiles.choose import jobs_of
from helpers.tiles.forecast import download_bytes, forecast
from helpers.tiles.prepare import prepare

COUNTY, YEAR = "99001", 2010


def test_a_county_is_prepared_from_the_network_as_from_the_disk(spark, online, sample, files, tmp_path):
    """And the bytes that are read are those of the windows' own blocks."""
    expected = forecast({"map": online}, [(COUNTY, YEAR, "map")], 2)
    files.bytes_sent = 0
    facts = prepare(spark, online, COUNTY, YEAR, "map", str(tmp_path / "online"))
    read = files.bytes_sent
    theirs = prepare(spark, sample, COUNTY, YEAR, "map", str(tmp_path / "disk"))
    assert facts["tiles"] == theirs["tiles"] and facts["label_source"].endswith("/wcs")
    ours, theirs = store.read(tmp_path / "online"), store.read(tmp_path / "disk")
    assert ours["tile_id"].tolist() == theirs["tile_id"].tolist()
    assert ours["image"].tolist() == theirs["image"].tolist()
    assert ours["label"].fillna(-1).tolist() == theirs["label"].fillna(-1).tolist()
    own = own_blocks(sample.scenes(COUNTY, YEAR), ours)
    print(f"{read / 1e6:.1f} MB read, {own / 1e6:.1f} MB in the windows' own blocks: {read / own:.2f}")
    assert read <= 1.3 * own
    assert 1 / 1.5 <= expected["download_mb"][0] * 1e6 / read <= 1.5


def own_blocks(scenes, tiles):
    """Bytes of the blocks that the tiles' windows touch, each once; of an overview where one is fine enough."""
    total = 0
    for scene in scenes:
        wanted = tiles[tiles["scene_id"] == scene.scene_id]
        with rasterio.open(scene.href) as raster:
            level = overview_level(raster.res[0], raster.overviews(1))
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
    """And the forecast said so before."""
    width_m, height_m = (2400, 1200) if resolution == 0.6 else (1200, 1000)
    drawn.write_cog(tmp_path / "one.tif", drawn.LEFT - 90, drawn.TOP + 70, width_m, height_m, resolution,
                    infrared_as_alpha=infrared_as_alpha)
    with servers.Files(tmp_path) as files:
        path = str(tmp_path / "one.tif")
        local = Scene("one", path, "2018-07-01", 2018, footprint(path))
        scene = local._replace(href=f"{files.url}/one.tif")
        rows, cols = map(np.ravel, np.indices((int(height_m - 70) // 224, int(width_m - 90) // 224)))
        tiles = pd.DataFrame({"row": drawn.ROW - rows, "col": drawn.COL + cols})
        files.bytes_sent = 0
        expected, header = download_bytes(tiles, [scene], drawn.CRS), files.bytes_sent
        assert header < 100_000
        files.bytes_sent = 0
        images = []
        with open_scenes(drawn.CRS) as read:
            for start in range(0, len(tiles), 16):
                images += cut_tiles(tiles.iloc[start:start + 16], [scene], drawn.CRS, read)[0]
        read, own = files.bytes_sent, own_blocks([local], tiles.assign(scene_id="one"))
        print(f"{resolution} m: {read / 1e6:.2f} MB read, {own / 1e6:.2f} MB in own blocks: {read / own:.2f}, "
              f"forecast {expected / 1e6:.2f} MB")
        assert all(image is not None for image in images)
        assert own <= read <= 1.15 * own
        assert 1 / 1.25 <= expected / read <= 1.25
        # Nothing is looked for beside the picture.
        assert {path.partition("?")[0] for path in files.asked} == {"/one.tif"}


def notebook_02(parameters, folder):
    """Execute it; its tiles."""
    import papermill
    notebook = Path(__file__).resolve().parents[2] / "notebooks" / "02_data_preparation.ipynb"
    takes = papermill.inspect_notebook(str(notebook))
    papermill.execute_notebook(str(notebook), str(folder / "02.ipynb"), cwd=str(notebook.parent), progress_bar=False,
                               parameters={name: value for name, value in parameters.items() if name in takes})
    return store.read(folder / "home" / "runs" / parameters["run_name"] / "tiles",
                      columns=["county", "year", "split", "label", "purity", "tile_id"])


def test_a_county_of_the_network_from_the_command_line_to_its_tiles(online, sample, tmp_path, monkeypatch, capsys):
    """All of it: a county of one's own, other counties to train on, some of their tiles, and what is said before."""
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
    assert before == after and (trained["purity"] < store.PURE).any()
    pure = trained[(trained["purity"] >= store.PURE) & (trained["year"] == 2010)]["label"].value_counts()
    assert len(pure) == 6 and pure.min() >= 3


def test_a_folder_on_the_command_line(online, sample, tmp_path, monkeypatch):
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
    source, training = catalog.open(chosen["catalog"]), catalog.open(chosen["train_catalog"])
    jobs = jobs_of({"map": source, "train": training, "validation": training}, *(chosen[name] for name in (
        "county", "years", "train_counties", "train_years", "validation_county", "validation_years")))
    found = forecast({"map": source, "train": training, "validation": training}, jobs, 2, per_class=12)
    assert (found["download_mb"] > 0).tolist() == [split != "map" for split in found["split"]]
    # No county has a pure tile of ice. Only retraining needs some of every class; other blocks are drawn by this seed.
    monkeypatch.setattr(choose, "CLASS_NAMES", choose.CLASS_NAMES + ("Ice",))
    with pytest.raises(InputError, match="expected pure tiles of every class in the train counties"):
        script.announce(dict(chosen, seed=5))
    script.announce(dict(chosen, seed=5, model_uri="a network that is brought"))
    with pytest.raises(InputError, match="--train-counties and --validation-county together"):
        script.options(options + ["--train-counties", "99003"])
    with pytest.raises(InputError, match="--county and --years beside --catalog"):
        script.options(["--catalog", str(folder)])


def test_a_real_county_on_the_command_line(sample, monkeypatch):
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


def test_another_address_is_another_run(monkeypatch, tmp_path):
    monkeypatch.setenv("TUTORIAL_LABELS", str(tmp_path / "nlcd_2011.tif"))
    (tmp_path / "nlcd_2011.tif").write_bytes(b"1")
    step = script.Step(script.REPOSITORY / "notebooks" / "02_data_preparation.ipynb", Run("one"), {})
    before = step.fingerprint(None, "")
    assert step.fingerprint(None, "") == before
    (tmp_path / "nlcd_2011.tif").write_bytes(b"22")
    changed = step.fingerprint(None, "")
    monkeypatch.setenv("TUTORIAL_SCENES", "http://127.0.0.1/")
    assert len({before, changed, step.fingerprint(None, "")}) == 3

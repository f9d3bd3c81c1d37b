import json
import os
import signal
import subprocess
import sys
import time

import numpy as np
import pandas as pd
import pytest
import shapely

import scenes
from helpers import InputError
from helpers.land import catalog, classes as landcover, grid, labels as to_labels
from helpers.tiles import forecast as to_forecast, prepare as preparation, store as tilestore
from helpers.tiles.choose import _drawn, check_classes, check_split, draw_blocks, first_years, in_blocks
from helpers.tiles.forecast import plan_in_words
from helpers.tiles.pictures import encode


def halves(x, y):
    """Forest in the west, houses in the east, a lake in the north-west corner."""
    codes = np.where(x < scenes.LEFT + 560, 41, 22)
    return np.where(np.hypot(x - scenes.LEFT, y - scenes.TOP) < 250, 11, codes)


@pytest.fixture(scope="module")
def county(tmp_path_factory):
    """A catalogue of one county in two overlapping scenes that leave its last column uncovered."""
    folder = tmp_path_factory.mktemp("county")
    west = scenes.write_scene(folder / "west.tif", scenes.LEFT - 36, scenes.TOP + 48, 700, 1500)
    east = scenes.write_scene(folder / "east.tif", scenes.LEFT + 400, scenes.TOP + 48, 550, 1500, resolution=0.5)
    labels = scenes.write_labels(folder / "nlcd.tif", halves)
    return scenes.write_catalog(folder, {"west": (west, 2010), "east": (east, 2010)}, {2006: labels, 2011: labels})


def test_ten_tiles_on_the_driver_equal_those_of_spark(spark, county, tmp_path):
    source = catalog.Catalog(county)
    facts = preparation.prepare(spark, source, "99001", 2010, "map", str(tmp_path / "store"))
    assert (facts["wanted"], facts["tiles"], facts["no_scene"], facts["no_label"]) == (30, 24, 6, 0)
    assert facts["label_year"] == 2011 and not facts["reused"]
    store = tilestore.read(tmp_path / "store").set_index("tile_id")

    tiles, crs = grid.county_tiles(source.county("99001").boundary)
    labelled = to_labels.label(tiles.head(10), source.labels("99001", 2010), crs).assign(split="map")
    on_driver = next(preparation.cut([labelled], source.scenes("99001", 2010), crs)).set_index("tile_id")
    assert len(on_driver) == 8
    for tile_id, tile in on_driver.iterrows():
        assert tile["image"] == store.loc[tile_id, "image"]
        for column in ("row", "col", "scene_id", "group", "purity", "acquired"):
            assert tile[column] == store.loc[tile_id, column]
    assert set(store["scene_id"]) == {"west", "east"} and set(store["county"]) == {"99001"}


def test_labels_in_the_store(spark, county, tmp_path):
    preparation.prepare(spark, catalog.Catalog(county), "99001", 2010, "map", str(tmp_path / "store"))
    store = tilestore.read(tmp_path / "store")
    lake = store[(store.row == scenes.ROW) & (store.col == scenes.COL)].iloc[0]
    assert np.isnan(lake["label"]) and lake["group"] == landcover.UNDEVELOPED and lake["purity"] == 0
    west, east = store[store.col == scenes.COL + 1], store[store.col == scenes.COL + 3]
    assert set(west["label"]) == {1} and set(east["label"]) == {5}
    assert (west["purity"].iloc[0], west["nine_point"].iloc[0]) == (1, 1)
    mixed = store[store.col == scenes.COL + 2]
    assert mixed["nine_point"].isna().all() and (mixed["purity"] < 0.9).all()


def test_what_is_finished_is_kept_and_what_changed_is_made_anew(spark, county, tmp_path):
    source, store = catalog.Catalog(county), str(tmp_path / "store")
    preparation.prepare(spark, source, "99001", 2010, "map", store)
    before = {p: p.stat().st_mtime_ns for p in (tmp_path / "store").rglob("*.parquet")}
    assert preparation.prepare(spark, source, "99001", 2010, "map", store)["reused"]
    assert before == {p: p.stat().st_mtime_ns for p in (tmp_path / "store").rglob("*.parquet")}
    assert not preparation.prepare(spark, source, "99001", 2010, "train", store)["reused"]
    assert set(tilestore.read(store)["split"]) == {"train"}


def test_tiles_without_a_manifest_are_not_taken_for_finished(spark, county, tmp_path):
    source, store = catalog.Catalog(county), str(tmp_path / "store")
    preparation.prepare(spark, source, "99001", 2010, "map", store)
    (tmp_path / "store" / "county=99001" / "year=2010" / tilestore.MANIFEST).unlink()
    with pytest.raises(InputError, match="no finished county"):
        tilestore.read(store)
    assert not preparation.prepare(spark, source, "99001", 2010, "map", store)["reused"]
    assert len(tilestore.read(store)) == 24


def test_a_killed_preparation_goes_on_with_its_chunks(spark, county, tmp_path, monkeypatch):
    store = tmp_path / "store"
    program = (
        "from helpers import catalog, preparation, session, tilestore\n"
        "real = encode\n"
        "def slow(tile):\n"
        "    import time; time.sleep(0.3); return real(tile)\n"
        "tilestore.encode = slow\n"
        "preparation.CHUNK_TILES = 8\n"
        f"source = catalog.Catalog({str(county)!r})\n"
        "spark = session.start('local[1]')\n"
        f"preparation.prepare(spark, source, '99001', 2010, 'map', {str(store)!r})\n")
    process = subprocess.Popen([sys.executable, "-c", program], start_new_session=True,
                               stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        deadline = time.monotonic() + 240
        while not list(store.rglob("0001/_temporary")) and time.monotonic() < deadline:
            time.sleep(0.1)
    finally:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
    with pytest.raises(InputError, match="no finished county"):
        tilestore.read(store)
    done = {path.name for path in store.rglob("0000/*.parquet")}
    assert done and list(store.rglob("0000/_SUCCESS"))
    monkeypatch.setattr(preparation, "CHUNK_TILES", 4)  # on two slots, and 8 above on one
    folder = store / "county=99001" / "year=2010"
    # As if it had been killed again while files were moved.
    first = sorted(folder.rglob("0000/*.parquet"))[0]
    prefix = next(folder.glob("_chunks-*")).name.partition("-")[2]
    first.rename(folder / f"{prefix}-0000-{first.name}")
    facts = preparation.prepare(spark, catalog.Catalog(county), "99001", 2010, "map", str(store))
    table = tilestore.read(store)
    assert facts["tiles"] == len(table) == 24 and table["tile_id"].is_unique
    assert {path.name.split("-", 2)[2] for path in folder.glob("*-0000-*.parquet")} == done
    assert not list(folder.glob("_chunks-*"))


def test_leaf_off_scenes_are_named_and_can_be_left_out(spark, county, tmp_path, monkeypatch):
    source = catalog.Catalog(county)
    real = source._scenes
    # The test's scenes are of July; let the western one be of November.
    monkeypatch.setattr(source, "_scenes", lambda place: [
        scene._replace(acquired="2010-11-20") if scene.scene_id == "west" else scene for scene in real(place)])
    kept = preparation.prepare(spark, source, "99001", 2010, "map", str(tmp_path / "kept"))
    assert list(kept["leaf_off"]) == ["west"] and 0 < kept["leaf_off"]["west"] <= 1
    without = preparation.prepare(spark, source, "99001", 2010, "map", str(tmp_path / "without"), leaf_off="exclude")
    assert set(tilestore.read(tmp_path / "without")["scene_id"]) == {"east"}
    assert without["tiles"] + without["no_scene"] == kept["tiles"] + kept["no_scene"] and without["no_scene"] > 0
    monkeypatch.setattr(source, "_scenes", lambda place: [s._replace(acquired="2010-01-02") for s in real(place)])
    with pytest.raises(InputError, match="with leaves on, got none"):
        preparation.prepare(spark, source, "99001", 2010, "map", str(tmp_path / "none"), leaf_off="exclude")
    # Florida is flown in winter: its months are no reason to train without it.
    trained = preparation.prepare(spark, source, "99001", 2010, "train", str(tmp_path / "none"), leaf_off="exclude")
    assert trained["tiles"] == kept["tiles"] and set(trained["leaf_off"]) == {"west", "east"}
    with pytest.raises(InputError, match="'keep' or 'exclude'"):
        to_forecast.plan({"map": source}, [("99001", 2010, "map")], 2, leaf_off="drop")


def test_the_plan_of_a_county(county):
    source = catalog.Catalog(county)
    plan = to_forecast.plan({"map": source, "train": source}, [("99001", 2010, "map"), ("99001", 2010, "train")], 2,
                            per_class=1)
    assert plan["tiles"][0] == 30 > plan["tiles"][1] and plan["download_mb"].tolist() == [0, 0]
    assert (plan["label_year"] == 2011).all() and (plan["minutes"] >= 0).all()
    assert plan["covered"].between(0.7, 0.9).all()  # the last column has no scene


def drawn_county(side=48, seed=0):
    """A labelled county of tiles: forest, a town in one corner, pure barren in a single block, shrub here and there."""
    row, col = map(np.ravel, np.indices((side, side)))
    label = np.where((row < 16) & (col < 16), 5, 1)
    label[(row // 8 == 4) & (col // 8 == 4)] = 0
    rng = np.random.default_rng(seed)
    label[rng.choice(len(label), 60, replace=False)] = 2
    purity = np.where(rng.random(len(label)) < 0.7, 1.0, 0.6)
    return pd.DataFrame({"row": row + 8 * 1000, "col": col + 8 * 500, "label": pd.array(label, "Int8"),
                         "purity": purity})


def test_blocks_are_compact_whole_balanced_and_the_same_every_time():
    labelled = drawn_county()
    blocks = draw_blocks(labelled, 20, seed=1)
    assert blocks == draw_blocks(labelled.sample(frac=1, random_state=5), 20, seed=1)
    assert blocks != draw_blocks(labelled, 20, seed=2)
    chosen = in_blocks(labelled, blocks)
    assert len(chosen) == 64 * len(blocks) and (chosen["purity"] < tilestore.PURE).any()
    pure = chosen[chosen["purity"] >= tilestore.PURE]["label"].value_counts()
    whole = labelled[labelled["purity"] >= tilestore.PURE]["label"].value_counts()
    assert all(pure[c] >= min(20, whole[c]) for c in (0, 1, 5))
    assert len(blocks) <= 12 and (1004, 504) in blocks
    # A neighbour of nearly every tile is there too: what is new is judged by its surroundings.
    have = set(zip(chosen["row"], chosen["col"]))
    assert np.mean([(r, c + 1) in have for r, c in have]) >= 0.85


def test_a_county_is_drawn_once_for_all_its_years(spark, county, tmp_path, monkeypatch):
    """The same tiles in both years; the seed is part of what they are made from."""
    monkeypatch.setattr(preparation, "BLOCK", 2)
    monkeypatch.setattr(preparation, "draw_blocks", lambda labelled, per_class, seed: sorted(
        set(zip(labelled["row"] // 2, labelled["col"] // 2)))[seed:seed + 4])
    _drawn.cache_clear()
    source, store = catalog.Catalog(county), str(tmp_path / "store")
    real = source._scenes
    monkeypatch.setattr(source, "_scenes", lambda place: real(place) + [
        scene._replace(scene_id=scene.scene_id + "_later", year=2016) for scene in real(place)])
    jobs = [("99001", 2010, "train"), ("99001", 2016, "train")]
    first = first_years(jobs)
    assert first == {"99001": 2010}
    for job_county, year, split in jobs:
        facts = preparation.prepare(spark, source, job_county, year, split, store, "keep", 5, 0, first[job_county])
        assert facts["wanted"] == facts["tiles"] + facts["not_drawn"] + facts["no_label"] + facts["no_scene"] == 30
        assert facts["not_drawn"] > 0
    ours = tilestore.read(store)
    by_year = [set(part["tile_id"]) for _, part in ours.groupby("year")]
    assert by_year[0] == by_year[1] and 4 <= len(by_year[0]) <= 16
    assert preparation.prepare(spark, source, "99001", 2016, "train", store, "keep", 5, 0, 2010)["reused"]
    assert not preparation.prepare(spark, source, "99001", 2016, "train", store, "keep", 5, 1, 2010)["reused"]
    _drawn.cache_clear()


def test_a_class_without_pure_tiles_is_told_from_the_labels_alone(county, monkeypatch):
    source = catalog.Catalog(county)
    monkeypatch.setattr(source, "scenes", None)  # no scene is asked for
    jobs = [("99001", 2010, "validation")]
    with pytest.raises(InputError, match=r"in the validation counties \(99001\), got none of Barren, Shrub, "
                       "Cultivated, Herbaceous"):
        check_classes({"validation": source}, jobs, 5)


def test_a_year_counts_where_its_scenes_cover_the_county(county, monkeypatch):
    """The border scenes of a neighbouring state's flight touch the county too."""
    source = catalog.Catalog(county)
    one = source.scenes("99001", 2010)[0]
    whole = source.county("99001").boundary.buffer(0.001)
    left, bottom, right, top = whole.bounds
    strip = shapely.box(left, bottom, left + (right - left) / 10, top)
    scenes_of = {2011: strip, 2014: whole, 2016: strip}
    monkeypatch.setattr(source, "_scenes", lambda place: [
        one._replace(year=year, footprint=shape) for year, shape in scenes_of.items()])
    assert source.covered("99001")[2014] == 1 and source.covered("99001")[2011] < 0.2
    assert source.nearest_year("99001", 2011) == source.nearest_year("99001", 2016) == 2014
    with pytest.raises(InputError, match=r"got scenes from 2011 \(of \d+% of it\), 2014, 2016 \(of \d+% of it\) only"):
        source.scenes("99001", 2012)
    scenes_of[2014] = shapely.box(left, bottom, (left + right) / 2, top)
    assert source.nearest_year("99001", 2016) == 2014  # the best there is
    lines = plan_in_words({"map": source}, [("99001", 2014, "map")], to_forecast.plan(
        {"map": source}, [("99001", 2014, "map")], 2))
    assert any("scenes of 2014 cover only" in line for line in lines)


def test_scenes_with_bare_trees_are_printed_by_name(county, monkeypatch):
    source = catalog.Catalog(county)
    real = source._scenes
    monkeypatch.setattr(source, "_scenes", lambda place: [
        scene._replace(acquired="2010-11-20") if scene.scene_id == "west" else scene for scene in real(place)])
    jobs = [("99001", 2010, "map")]
    lines = plan_in_words({"map": source}, jobs, to_forecast.plan({"map": source}, jobs, 2))
    named = [line for line in lines if line.startswith("Scene ")]
    assert len(named) == 1 and "west, taken on 2010-11-20, shows" in named[0] and "%" in named[0]
    assert any(line.startswith("In all 30 tiles, 0 MB to download, 2 MB on the disk") for line in lines)


def test_a_scene_broken_in_the_middle_ends_in_one_sentence(spark, county, tmp_path):
    folder = tmp_path
    path = scenes.write_scene(folder / "one.tif", scenes.LEFT - 36, scenes.TOP + 48, 1300, 1500)
    labels = scenes.write_labels(folder / "nlcd.tif", halves)
    source = catalog.Catalog(scenes.write_catalog(folder, {"one": (path, 2010)}, {2011: labels}))
    whole = (folder / "one.tif").read_bytes()
    (folder / "one.tif").write_bytes(whole[:len(whole) // 2])
    with pytest.raises(InputError, match=r"^expected a (whole )?scene at .*one\.tif, got .*Bring the file again"):
        preparation.prepare(spark, source, "99001", 2010, "map", str(tmp_path / "store"))
    with pytest.raises(InputError, match="no finished county"):
        tilestore.read(tmp_path / "store")
    (folder / "one.tif").write_bytes(whole)
    assert preparation.prepare(spark, source, "99001", 2010, "map", str(tmp_path / "store"))["tiles"] == 30


def test_a_county_outside_the_scenes(county, tmp_path):
    text = json.loads((county / "counties.geojson").read_text())
    for ring in text["features"][0]["geometry"]["coordinates"]:
        for point in ring:
            point[0] += 2
    moved = tmp_path / "moved"
    import shutil
    shutil.copytree(county, moved)
    (moved / "counties.geojson").write_text(json.dumps(text))
    with pytest.raises(InputError, match="Choose a county inside the scenes"):
        catalog.Catalog(moved).scenes("99001", 2010)


@pytest.mark.parametrize("ask, words", [
    (lambda c: c.county("12345"), r"got '12345'\. Choose one that it has: 99001 \(Test\)"),
    (lambda c: c.scenes("99001", 1999), r"scenes from 2010 \(of 86% of it\) only"),
])
def test_what_the_catalogue_does_not_have(county, ask, words):
    with pytest.raises(InputError, match=words):
        ask(catalog.Catalog(county))


def test_a_folder_that_is_no_catalogue(tmp_path):
    with pytest.raises(InputError, match="without catalog.json"):
        catalog.Catalog(tmp_path)
    (tmp_path / "catalog.json").write_text("{")
    (tmp_path / "counties.geojson").write_text("{}")
    with pytest.raises(InputError, match="Check its JSON files"):
        catalog.Catalog(tmp_path)


def test_a_county_is_for_one_purpose():
    jobs = [("99001", 2010, "train"), ("99001", 2016, "train"), ("99005", 2010, "validation"), ("99007", 2010, "map")]
    check_split(jobs)
    with pytest.raises(InputError, match="got 99005 as validation and as map. Choose another one"):
        check_split(jobs + [("99005", 2016, "map")])


def test_a_full_disk_ends_in_one_sentence(spark, county, tmp_path):
    """A tmpfs of 300 KB, so that the disk really is full in the middle of the job."""
    mount = tmp_path / "small"
    mount.mkdir()
    made = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=300k", "tmpfs", str(mount)], capture_output=True)
    if made.returncode:
        pytest.skip("mounting a small disk needs root")
    try:
        with pytest.raises(InputError, match="expected room on the disk|MB of free disk"):
            preparation.prepare(spark, catalog.Catalog(county), "99001", 2010, "map", str(mount / "store"))
        with pytest.raises(InputError, match="no finished county"):
            tilestore.read(mount / "store")
        preparation_check, preparation._check_disk = preparation._check_disk, lambda *_: None
        try:
            with pytest.raises(InputError, match="expected room on the disk"):
                preparation.prepare(spark, catalog.Catalog(county), "99001", 2010, "map", str(mount / "store"))
        finally:
            preparation._check_disk = preparation_check
    finally:
        subprocess.run(["umount", "-l", str(mount)], check=True)

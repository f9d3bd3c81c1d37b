"""Preparation: the same tiles on the driver and on Spark, what is done is what is there, and what ends it."""

import os
import pickle
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import shapely

import scenes
from helpers import DamagedFile, InputError
from helpers.land import catalog, grid, rasters
from helpers.land.classes import UNDEVELOPED
from helpers.land.labels import label
from helpers.land.sources import Scene
from helpers.tiles import choose, prepare as preparation, store
from helpers.tiles.choose import drawn_blocks, first_years
from helpers.tiles.prepare import cut, cut_unit, prepare, units_of
from servers import wait_until


@pytest.fixture(scope="module")
def county(tmp_path_factory):
    return scenes.write_county(tmp_path_factory.mktemp("county"))


@pytest.fixture
def source(county):
    return catalog.Catalog(county)


@pytest.fixture
def small_units(monkeypatch):
    """Units of at most four tiles, as in the program that is killed."""
    monkeypatch.setattr(store, "_FEWEST_TILES", 4)


def files(folder):
    """Times of change of the files of a store, by name."""
    return {path.name: path.stat().st_mtime_ns for path in Path(folder).rglob("*.parquet")}


def test_ten_tiles_on_the_driver_equal_those_of_spark(spark, source, tmp_path):
    facts = prepare(spark, source, "99001", 2010, "map", str(tmp_path / "store"))
    assert (facts["wanted"], facts["tiles"], facts["no_scene"], facts["no_label"]) == (30, 24, 6, 0)
    assert facts["label_year"] == 2011 and not facts["reused"]
    stored = store.read(tmp_path / "store").set_index("tile_id")

    tiles, crs = grid.county_tiles(source.county("99001").boundary)
    labelled = label(tiles.head(10), source.labels("99001", 2010), crs).assign(split="map")
    on_driver = next(cut([labelled], source.scenes("99001", 2010), crs)).set_index("tile_id")
    assert len(on_driver) == 8
    for tile_id, tile in on_driver.iterrows():
        for column in ("image", "row", "col", "scene_id", "group", "purity", "acquired"):
            assert tile[column] == stored.loc[tile_id, column]
    assert set(stored["scene_id"]) == {"west", "east"} and set(stored["county"]) == {"99001"}


def test_labels_in_the_store(spark, source, tmp_path):
    prepare(spark, source, "99001", 2010, "map", str(tmp_path / "store"))
    stored = store.read(tmp_path / "store")
    lake = stored[(stored.row == scenes.ROW) & (stored.col == scenes.COL)].iloc[0]
    assert np.isnan(lake["label"]) and lake["group"] == UNDEVELOPED and lake["purity"] == 0
    west, east = stored[stored.col == scenes.COL + 1], stored[stored.col == scenes.COL + 3]
    assert set(west["label"]) == {1} and set(east["label"]) == {5}
    assert (west["purity"].iloc[0], west["class_2017"].iloc[0]) == (1, 1)
    mixed = stored[stored.col == scenes.COL + 2]
    assert mixed["class_2017"].isna().all() and (mixed["purity"] < 0.9).all()


def test_a_file_is_a_row_group_that_knows_its_pictures(spark, source, tmp_path, small_units):
    """From the footers alone: no driver reads a picture."""
    facts = prepare(spark, source, "99001", 2010, "map", str(tmp_path / "store"))
    part, = store.partitions(tmp_path / "store")
    listed, damaged = store.files(str(tmp_path / "store"), part)
    assert [one["name"] for one in listed] == part["files"] == facts["files"] and not damaged
    assert all(len(one["rows"]) == 1 and 1 <= one["rows"][0] <= 4 for one in listed) and len(listed) >= 6
    assert len({tuple(one["pictures"]) for one in listed}) == len(listed)


def test_what_is_done_is_kept_and_what_changed_is_made_again(spark, county, source, tmp_path, small_units):
    folder = str(tmp_path / "store")
    prepare(spark, source, "99001", 2010, "map", folder)
    before = files(folder)
    mine = tmp_path / "store" / "county=99001" / "year=2010" / "mine.parquet"
    mine.write_bytes(b"of somebody else")
    assert prepare(spark, source, "99001", 2010, "map", folder)["reused"]
    # A file that is gone, or a scene that has changed since, costs only what it takes part in.
    gone = tmp_path / "store" / "county=99001" / "year=2010" / min(before)
    gone.unlink()
    assert not prepare(spark, source, "99001", 2010, "map", folder)["reused"]
    after = files(folder)
    assert {name for name in before if after[name] != before[name]} == {gone.name}
    os.utime(county.parent / "east.tif")
    assert not prepare(spark, source, "99001", 2010, "map", folder)["reused"]
    assert len(files(folder)) == len(before) + 1 and not set(files(folder)) & set(before)
    assert not prepare(spark, source, "99001", 2010, "train", folder)["reused"]
    stored = store.read(folder)
    assert set(stored["split"]) == {"train"} and len(stored) == 24
    assert len(files(folder)) == len(before) + 1 and mine.read_bytes() == b"of somebody else"


def test_tiles_without_a_manifest_are_not_taken_for_finished(spark, source, tmp_path):
    folder = str(tmp_path / "store")
    prepare(spark, source, "99001", 2010, "map", folder)
    before = files(folder)
    (tmp_path / "store" / "county=99001" / "year=2010" / store.MANIFEST).unlink()
    with pytest.raises(InputError, match="no finished county"):
        store.read(folder)
    assert not prepare(spark, source, "99001", 2010, "map", folder)["reused"]
    assert len(store.read(folder)) == 24 and files(folder) == before


def test_a_damaged_file_is_named(spark, source, tmp_path, small_units):
    folder = str(tmp_path / "store")
    prepare(spark, source, "99001", 2010, "map", folder)
    store.remove_manifest(folder, "99001", 2010)
    path = sorted((tmp_path / "store").rglob("*.parquet"))[2]
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(DamagedFile, match=f"but {path.name} is missing or damaged. Delete it and run the same command"):
        prepare(spark, source, "99001", 2010, "map", folder)


KILLED = """
import time
from helpers.cluster import session
from helpers.land import catalog
from helpers.tiles import prepare, store
real = prepare.cut_unit
def slow(unit, **options):
    time.sleep(0.7)
    return real(unit, **options)
prepare.cut_unit = slow
store._FEWEST_TILES = 4
prepare.prepare(session.start("local[1]"), catalog.Catalog({catalogue!r}), "99001", 2010, "map", {store!r})
"""


def test_a_killed_preparation_goes_on_with_its_units(spark, county, source, tmp_path, small_units):
    folder = tmp_path / "store"
    process = subprocess.Popen([sys.executable, "-c", KILLED.format(catalogue=str(county), store=str(folder))],
                               start_new_session=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        wait_until(lambda: len(files(folder)) >= 2, process)
    finally:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
    with pytest.raises(InputError, match="no finished county"):
        store.read(folder)
    done = files(folder)
    facts = prepare(spark, source, "99001", 2010, "map", str(folder))
    table = store.read(folder)
    assert facts["tiles"] == len(table) == 24 and table["tile_id"].is_unique
    after = files(folder)
    assert 2 <= len(done) < len(after) and done == {name: after[name] for name in done}
    assert not [path for path in folder.rglob("*") if path.name.endswith(".part")]


def test_two_preparations_at_once_write_the_same(spark, county, source, tmp_path, small_units):
    folder = tmp_path / "store"
    process = subprocess.Popen([sys.executable, "-c", KILLED.format(catalogue=str(county), store=str(folder))],
                               stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    wait_until(lambda: files(folder), process)
    prepare(spark, source, "99001", 2010, "map", str(folder))
    assert process.wait(240) == 0
    table = store.read(folder)
    assert len(table) == 24 and table["tile_id"].is_unique
    part, = store.partitions(folder)
    assert sorted(files(folder)) == part["files"]


def test_leaf_off_scenes_are_named_and_can_be_left_out(spark, source, tmp_path, monkeypatch):
    real = source._scenes
    # The test's scenes are of July; let the western one be of November.
    monkeypatch.setattr(source, "_scenes", lambda county: [
        scene._replace(acquired="2010-11-20") if scene.scene_id == "west" else scene for scene in real(county)])
    kept = prepare(spark, source, "99001", 2010, "map", str(tmp_path / "kept"))
    assert list(kept["leaf_off"]) == ["west"] and 0 < kept["leaf_off"]["west"] <= 1
    without = prepare(spark, source, "99001", 2010, "map", str(tmp_path / "without"), leaf_off="exclude")
    assert set(store.read(tmp_path / "without")["scene_id"]) == {"east"}
    assert without["tiles"] + without["no_scene"] == kept["tiles"] + kept["no_scene"] and without["no_scene"] > 0
    monkeypatch.setattr(source, "_scenes", lambda county: [s._replace(acquired="2010-01-02") for s in real(county)])
    with pytest.raises(InputError, match="with leaves on, got none"):
        prepare(spark, source, "99001", 2010, "map", str(tmp_path / "none"), leaf_off="exclude")
    # Florida is flown in winter: its months are no reason to train without it.
    trained = prepare(spark, source, "99001", 2010, "train", str(tmp_path / "none"), leaf_off="exclude")
    assert trained["tiles"] == kept["tiles"] and set(trained["leaf_off"]) == {"west", "east"}


def test_a_county_is_drawn_once_for_all_its_years(spark, source, tmp_path, monkeypatch):
    """The same tiles in both years; the seed is part of what they are made from."""
    monkeypatch.setattr(choose, "BLOCK", 2)
    monkeypatch.setattr(choose, "draw_blocks", lambda labelled, per_class, seed: sorted(
        set(zip(labelled["row"] // 2, labelled["col"] // 2)))[seed:seed + 4])
    drawn_blocks.cache_clear()
    folder, real = str(tmp_path / "store"), source._scenes
    monkeypatch.setattr(source, "_scenes", lambda county: real(county) + [
        scene._replace(scene_id=scene.scene_id + "_later", year=2016) for scene in real(county)])
    jobs = [("99001", 2010, "train"), ("99001", 2016, "train")]
    first = first_years(jobs)
    assert first == {"99001": 2010}
    for fips, year, split in jobs:
        facts = prepare(spark, source, fips, year, split, folder, "keep", 5, 0, first[fips])
        assert facts["wanted"] == facts["tiles"] + facts["not_drawn"] + facts["no_label"] + facts["no_scene"] == 30
        assert facts["not_drawn"] > 0
    by_year = [set(part["tile_id"]) for _, part in store.read(folder).groupby("year")]
    assert by_year[0] == by_year[1] and 4 <= len(by_year[0]) <= 16
    assert prepare(spark, source, "99001", 2016, "train", folder, "keep", 5, 0, 2010)["reused"]
    assert not prepare(spark, source, "99001", 2016, "train", folder, "keep", 5, 1, 2010)["reused"]
    drawn_blocks.cache_clear()


def test_a_scene_that_is_cut_off_ends_in_one_sentence(spark, tmp_path):
    """It is found before the job begins; with the whole file, the same call prepares all tiles."""
    paths = {name: scenes.write_scene(tmp_path / f"{name}.tif", scenes.LEFT + x, scenes.TOP + 48, 720, 1500)
             for name, x in (("west", -36), ("east", 560))}
    labels = scenes.write_labels(tmp_path / "nlcd.tif", scenes.halves)
    source = catalog.Catalog(scenes.write_catalog(
        tmp_path, {name: (path, 2010) for name, path in paths.items()}, {2011: labels}))
    folder, broken = tmp_path / "store", Path(paths["east"])
    whole = broken.read_bytes()
    broken.write_bytes(whole[:len(whole) // 2])
    with pytest.raises(InputError, match=r"^expected a (whole )?scene at .*east\.tif, got .*Bring the file again"):
        prepare(spark, source, "99001", 2010, "map", str(folder))
    assert not files(folder)
    broken.write_bytes(whole)
    assert prepare(spark, source, "99001", 2010, "map", str(folder))["tiles"] == 30


def test_a_full_disk_ends_in_one_sentence(spark, source, mount_small_disk, monkeypatch):
    small_disk = mount_small_disk("300k")
    with pytest.raises(InputError, match="MB of free disk"):
        prepare(spark, source, "99001", 2010, "map", str(small_disk / "store"))
    monkeypatch.setattr(preparation, "_check_disk", lambda *_: None)
    with pytest.raises(InputError, match="expected room on the disk"):
        prepare(spark, source, "99001", 2010, "map", str(small_disk / "store"))
    with pytest.raises(InputError, match="no finished county"):
        store.read(small_disk / "store")


def labelled_county(rows, cols):
    row, col = map(np.ravel, np.indices((rows, cols)))
    return pd.DataFrame({"row": scenes.ROW - row, "col": scenes.COL + col, "label": pd.array(row % 6, "Int8"),
                         "group": np.int8(1), "purity": np.float32(0.7), "class_2017": pd.array([None] * len(row), "Int8")})


def grid_of_scenes(rows, cols, width=30):
    """Scenes of 30 × 30 tiles that lie side by side over a county."""
    size = width * grid.TILE_M
    return [Scene(f"{r:02d}-{c:02d}", f"https://server/{r}-{c}.tif", "2010-07-01", 2010, grid.project(
        shapely.box(scenes.LEFT + c * size - 50, scenes.TOP - (r + 1) * size - 50, scenes.LEFT + (c + 1) * size + 50,
                    scenes.TOP - r * size + 50), "EPSG:4326", source=scenes.CRS))
            for r in range(-(-rows // width)) for c in range(-(-cols // width))]


def test_units_share_evenly_and_travel_light():
    """A small county has 16 of them, one of 65,563 tiles has none that is too large, in under 3 MB."""
    one = [grid_of_scenes(30, 30)[0]._replace(href="one.tif")]
    small = units_of(labelled_county(27, 30).head(743), one, scenes.CRS, "map")
    sizes = [len(unit["tiles"]) for unit in small.values()]
    assert len(sizes) >= 16 and sum(sizes) == 743 and max(sizes) <= min(sizes) + 1
    assert [len(unit["tiles"]) for unit in units_of(labelled_county(5, 6), one, scenes.CRS, "map").values()] == [30]

    county = labelled_county(256, 257).head(65563)
    large = units_of(county, grid_of_scenes(256, 257), scenes.CRS, "map")
    sizes = [len(unit["tiles"]) for unit in large.values()]
    # On a server two tasks of a scene share a row of its blocks.
    assert sum(sizes) == 65563 and max(sizes) <= 512 and len(pickle.dumps(large)) < 3e6
    local = [scene._replace(href=f"{scene.scene_id}.tif") for scene in grid_of_scenes(256, 257, 64)]
    assert 900 < max(len(unit["tiles"]) for unit in units_of(county, local, scenes.CRS, "map").values()) <= 1024
    for unit in large.values():
        centre = unit["tiles"].mean()
        assert len(unit["scenes"]) <= 9 and unit["tiles"]["row"].is_monotonic_decreasing
        assert any(scene.footprint.buffer(0.05).contains(grid.project(
            shapely.Point((centre["col"] + 0.5) * 224, (centre["row"] + 0.5) * 224), "EPSG:4326",
            source=scenes.CRS)) for scene in unit["scenes"])


def test_a_unit_is_named_after_all_that_it_reads(tmp_path):
    county, path = labelled_county(4, 4), tmp_path / "one.tif"
    path.write_bytes(b"a scene")
    scene = grid_of_scenes(4, 4)[0]._replace(href=str(path))

    def name(tiles=county, scene=scene, split="map"):
        return next(iter(units_of(tiles, [scene], scenes.CRS, split)))

    before = name()
    assert before == name(county.sample(frac=1, random_state=0))  # the driver's order is no matter
    others = {name(county.assign(purity=np.float32(0.8))), name(split="train"), name(county.head(15)),
              name(scene=scene._replace(acquired="2010-07-02")), name(scene=scene._replace(scene_id="other"))}
    os.utime(path, (1, 1))
    others.add(name())
    assert len(others | {before}) == 7


def test_a_changed_scene_costs_only_the_units_that_it_touches(tmp_path):
    county, four = labelled_county(60, 60), [scene._replace(href=str(tmp_path / f"{scene.scene_id}.tif"))
                                             for scene in grid_of_scenes(60, 60)]
    for scene in four:
        Path(scene.href).write_bytes(b"a scene")
    before = units_of(county, four, scenes.CRS, "map")
    os.utime(four[0].href, (1, 1))
    after = units_of(county, four, scenes.CRS, "map")
    touched = {name for name, unit in before.items() if four[0] in unit["scenes"]}
    assert set(before) - set(after) == touched and 4 <= len(touched) < len(before)


def test_a_scene_is_opened_once_for_all_batches_of_a_unit(source, monkeypatch):
    tiles, crs = grid.county_tiles(source.county("99001").boundary)
    labelled = label(tiles, source.labels("99001", 2010), crs)
    unit, = units_of(labelled[labelled["col"] <= scenes.COL], source.scenes("99001", 2010), crs, "map").values()
    opened, really = [], rasters.open_raster
    monkeypatch.setattr("helpers.land.scenes.open_raster",
                        lambda href, kind: opened.append(href) or really(href, kind))
    monkeypatch.setattr(preparation, "BATCH_TILES", 4)
    table, facts, seconds = cut_unit(unit, crs, "map")
    assert len(table) == 6 and len(opened) == 1 and table.schema == store.SCHEMA
    assert set(seconds) == {"read", "encode"} and all(len(one) == 64 for one in facts["pictures"])

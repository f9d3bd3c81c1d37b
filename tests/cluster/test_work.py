"""A job as a list of units: what is done is what is there, whatever dies, fails or runs at the same time."""

import contextlib
import json
import os
import shutil
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pandas as pd
import pyarrow.parquet as pq
import pytest

import toy
from helpers import DamagedFile, InputError
from helpers.cluster import work
from servers import wait_until

UNITS = toy.units(6)
NAMES = sorted(UNITS, key=UNITS.get)


@pytest.fixture(scope="module")
def whole(spark, tmp_path_factory):
    """A folder of all units."""
    folder = tmp_path_factory.mktemp("whole")
    work.run(spark, UNITS, toy.work(), str(folder))
    return folder


def test_each_unit_is_done_once_and_writes_one_file(spark, tmp_path):
    done = work.run(spark, UNITS, toy.work(tmp_path / "log"), str(tmp_path / "out"))
    assert done.rows == 1 + 2 + 3 + 4 + 5 + 6 and done.failed == {}
    assert done.seconds["toy"] == 6 * 0.5 and done.seconds["write"] > 0
    assert toy.log(tmp_path / "log") == Counter(UNITS.values())
    assert set(toy.files(tmp_path / "out")) == {f"{name}.parquet" for name in UNITS}
    assert work.names(str(tmp_path / "out")) == set(UNITS)


def test_a_name_says_what_is_read():
    assert work.name("year=2010", {"a": 1, "b": 2}) == work.name("year=2010", {"b": 2, "a": 1})
    assert len({work.name("", 1), work.name("", 2), work.name("", 1, 2), work.name("year=2010", 1)}) == 4


def test_facts_come_from_the_footers(whole):
    found = work.facts(str(whole), UNITS)
    assert found == {name: {"unit": number, "rows": number} for name, number in UNITS.items()}


def test_the_files_are_a_partitioned_table(whole):
    table = pd.read_parquet(whole).astype({"year": int})
    assert len(table) == 21 and set(table["county"]) == {25017} and set(table["year"]) == {2010, 2012}


def test_a_second_run_does_what_is_missing(spark, whole, tmp_path):
    shutil.copytree(whole, tmp_path / "out")
    for name in NAMES[1:3]:
        (tmp_path / "out" / f"{name}.parquet").unlink()
    done = work.run(spark, UNITS, toy.work(tmp_path / "log"), str(tmp_path / "out"))
    assert done.rows == 2 + 3 and toy.log(tmp_path / "log") == {2: 1, 3: 1}
    assert toy.files(tmp_path / "out") == toy.files(whole)


def test_a_run_with_nothing_to_do_does_not_ask_spark(whole):
    assert work.run(None, UNITS, toy.work(), str(whole)) == work.Done(0, {}, {})


def test_what_fails_one_unit_lets_the_others_finish(spark, tmp_path):
    done = work.run(spark, UNITS, toy.work(fails={2: InputError, 5: DamagedFile}), str(tmp_path))
    assert work.names(str(tmp_path)) == set(UNITS) - set(done.failed)
    assert {UNITS[name]: (type(error), str(error)) for name, error in done.failed.items()} == {
        2: (InputError, "expected another unit, got 2."), 5: (DamagedFile, "expected another unit, got 5.")}


def test_another_error_ends_the_run_and_keeps_what_is_done(spark, tmp_path):
    with pytest.raises(Exception, match="ZeroDivisionError"):
        work.run(spark, UNITS, toy.work(fails={6: ZeroDivisionError}), str(tmp_path))
    assert NAMES[5] not in work.names(str(tmp_path))


@pytest.mark.parametrize("damage", [None, b"", b"PAR1", b"no Parquet at all, but long enough to look like some"])
def test_a_damaged_or_missing_file_is_named(whole, tmp_path, damage):
    shutil.copytree(whole, tmp_path / "out")
    path = tmp_path / "out" / f"{NAMES[3]}.parquet"
    path.unlink() if damage is None else path.write_bytes(damage)
    with pytest.raises(DamagedFile, match=f"but {path.name} is missing or damaged. Write it again"):
        work.facts(str(tmp_path / "out"), UNITS)


def test_a_file_cut_off_is_named(whole, tmp_path):
    content = (whole / f"{NAMES[5]}.parquet").read_bytes()
    (tmp_path / "cut.parquet").write_bytes(content[:-20])
    with pytest.raises(DamagedFile, match="but cut.parquet is missing or damaged"):
        work.footer(str(tmp_path / "cut.parquet"))


def test_the_watcher_sees_what_is_done(spark, tmp_path):
    seen = []
    work.run(spark, UNITS, toy.work(pause_s=0.4), str(tmp_path), seen.append)
    assert seen[-1] == set(UNITS) and len(seen) >= 3
    assert all(before <= after for before, after in zip(seen, seen[1:]))


def test_an_error_of_the_watcher_does_not_end_the_run(spark, tmp_path):
    assert work.run(spark, UNITS, toy.work(), str(tmp_path), lambda names: 1 / 0).rows == 21


def test_a_worker_that_dies_costs_its_units(spark, tmp_path):
    done = work.run(spark, UNITS, toy.work(tmp_path / "log", dies=4), str(tmp_path / "out"))
    log = toy.log(tmp_path / "log")
    assert log[4] == 2 and sum(log.values()) <= 6 + 2 and done.failed == {}
    assert work.names(str(tmp_path / "out")) == set(UNITS)


@contextlib.contextmanager
def driver_at(folder, count, pause_s):
    """A driver of its own that does all units; it has done so many."""
    with subprocess.Popen([sys.executable, toy.__file__, "local[2]", str(folder), str(pause_s)], text=True,
                          env=dict(os.environ, PYTHONPATH=os.pathsep.join(sys.path)), stdout=subprocess.PIPE) as driver:
        try:
            wait_until(lambda: len(work.names(str(folder / "out"))) >= count, driver)
            yield driver
        finally:
            driver.kill()


def test_two_runs_at_once_write_the_same_files(spark, whole, tmp_path):
    with driver_at(tmp_path, 1, 0.5) as other:
        mine = work.run(spark, UNITS, toy.work(tmp_path / "log", 0.5), str(tmp_path / "out"))
        theirs = json.loads(other.communicate(timeout=120)[0])
    assert theirs["failed"] == [] == list(mine.failed)
    assert 0 < mine.rows <= 21 <= mine.rows + theirs["rows"]
    assert toy.files(tmp_path / "out") == toy.files(whole)


def test_a_driver_that_is_killed_costs_the_units_in_flight(spark, whole, tmp_path):
    with driver_at(tmp_path, 2, 0.7) as driver:
        driver.kill()
    done = work.run(spark, UNITS, toy.work(tmp_path / "log"), str(tmp_path / "out"))
    assert 0 < done.rows < 21 and sum(toy.log(tmp_path / "log").values()) <= 6 + 2
    work.keep_only(str(tmp_path / "out"), UNITS, toy.FOLDERS)
    assert toy.files(tmp_path / "out") == toy.files(whole)


def test_only_files_of_units_that_nobody_wants_are_removed(whole, tmp_path):
    shutil.copytree(whole, tmp_path / "out")
    folder = tmp_path / "out" / toy.FOLDERS[0]
    unwanted, kept, *_ = [name for name in NAMES if name.startswith(toy.FOLDERS[0])]
    table = pd.DataFrame({"tile_id": ["theirs"]})
    others = ["theirs.parquet", "0123456789abcdef0123.parquet"]
    for name in others:
        table.to_parquet(folder / name)
    (folder / "notes.txt").write_text("theirs")
    (tmp_path / "out" / "elsewhere").mkdir()
    shutil.copy(tmp_path / "out" / f"{NAMES[0]}.parquet", tmp_path / "out" / "elsewhere" / ("1" * 20 + ".parquet"))
    # What killed writers leave: the first one's unit is done, the second's is not.
    for unit in (Path(kept).name, "f" * 20):
        (folder / f".{unit}.parquet.01234567.part").write_text("half")
    # Another job may be writing its manifest at this moment.
    others += ["notes.txt", "_manifest.json", "._manifest.json.01234567.part", f".{'f' * 20}.parquet.01234567.part"]
    for name in others[-3:-1]:
        (folder / name).write_text("{}")
    work.keep_only(str(tmp_path / "out"), set(UNITS) - {unwanted}, toy.FOLDERS)
    assert set(toy.files(tmp_path / "out")) == {f"{name}.parquet" for name in UNITS if name != unwanted} | {
        f"{toy.FOLDERS[0]}/{name}" for name in others} | {f"elsewhere/{'1' * 20}.parquet"}


def test_a_full_disk_is_one_sentence_and_the_rest_is_done_when_there_is_room(spark, whole, mount_small_disk):
    small_disk = mount_small_disk("1m")
    (small_disk / "ballast").write_bytes(bytes(2 ** 20 - 4 * 4096))
    done = work.run(spark, UNITS, toy.work(), str(small_disk / "out"))
    assert done.failed and set(map(str, done.failed.values())) == {
        f"expected room on the disk for {small_disk / 'out'}, got a full one (no space left on device). Free "
        "some space and run the same command again."}
    assert set(toy.files(small_disk)) - {"ballast"} == {f"out/{name}.parquet" for name in set(UNITS) - set(done.failed)}
    (small_disk / "ballast").unlink()
    work.run(spark, UNITS, toy.work(), str(small_disk / "out"))
    assert toy.files(small_disk / "out") == toy.files(whole)


def test_the_footer_of_somebody_elses_file_has_no_facts(tmp_path):
    pd.DataFrame({"a": [1]}).to_parquet(tmp_path / "theirs.parquet")
    assert work.facts_in(pq.read_metadata(tmp_path / "theirs.parquet")) is None


@pytest.mark.parametrize("units, slots, tasks", [(0, 2, None), (1, 2, None), (49, 2, None), (64, 48, None), (49, 2, 7),
                                                 (3, 2, 60)])
def test_tasks_share_every_unit_once(units, slots, tasks):
    cuts = work.shares(units, slots, tasks)
    assert [number for cut in cuts for number in cut] == list(range(units))
    assert len(cuts) == min(units, tasks) if tasks else True


def test_large_tasks_come_first_and_single_units_last():
    sizes = [len(cut) for cut in work.shares(64, 2)]
    assert sizes[0] == 16 and sizes[-2:] == [1, 1]
    assert sizes == sorted(sizes, reverse=True)

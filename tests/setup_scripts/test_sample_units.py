"""Drawing the sample counties: what is done is what is there, whatever stopped a drawing, and whoever else draws."""

import errno
import json
import os
import random
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import psutil
import pytest

import sample
from helpers import InputError
from helpers.files import sha256, whole_file, write_json
from sample import catalogue, labels, units
from servers import wait_until

TINY = "99009"
UNITS = [unit for unit in units.UNITS if unit[0] == TINY]


@pytest.fixture(autouse=True)
def tiny_world(monkeypatch):
    """A world of the tiny county alone."""
    monkeypatch.setattr(units, "UNITS", UNITS)


def start(folder, workers):
    """A drawing of the tiny county, as a process of its own."""
    command = (f"import sample\nsample.units.UNITS = {UNITS}\nif __name__ == '__main__':\n"
               f"    sample.draw({str(folder)!r}, 0, {workers}, lambda line: print(line, flush=True))")
    return subprocess.Popen([sys.executable, "-c", command], stdout=subprocess.PIPE, text=True,
                            env=dict(os.environ, PYTHONPATH=os.pathsep.join(sys.path)))


def kill(process):
    """Kill a drawing with -9; its workers end too."""
    workers = psutil.Process(process.pid).children(recursive=True)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    assert psutil.wait_procs(workers, timeout=30)[1] == []


def leave(folder, name, text="left"):
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    return path


def unfinished(folder, name):
    """What a process that died while it wrote a file has left of it, or what one at work has written so far."""
    return leave((folder / name).parent, f".{Path(name).name}.12345678.part")


def files(folder):
    return {path.relative_to(folder).as_posix(): sha256(path) for path in sorted(folder.rglob("*")) if path.is_file()}


def same_as_world(folder, world):
    """Whether what is drawn of the tiny county is what the world has of it, byte for byte."""
    drawn = [name for name in files(folder) if name.startswith(("scenes/m", "labels/n", "truth/9"))]
    assert len(drawn) == 12
    return all(sha256(folder / name) == sha256(world / name) for name in drawn)


# ---- for real: processes that draw, and are killed

@pytest.mark.slow
def test_a_killed_drawing_goes_on_beside_another_and_ends_in_the_same_bytes(sample_world, tmp_path):
    process = start(tmp_path, workers=2)
    wait_until(lambda: list(tmp_path.glob("scenes/m_*.tif")), process)
    kill(process)
    assert list(tmp_path.glob("scenes/*.tif")) and not (tmp_path / "complete.json").exists()
    for name in ("catalog.json", units.files_of(0, UNITS[0])[0], units.files_of(0, UNITS[2])[0]):
        unfinished(tmp_path, name)
    of_another = unfinished(tmp_path, units.files_of(0, ("99003", 2010))[0])

    other = start(tmp_path, workers=1)
    sample.draw(tmp_path, workers=1)
    assert json.loads((tmp_path / "complete.json").read_text())["counties"] == [TINY]
    other.communicate()
    assert other.returncode == 0
    assert same_as_world(tmp_path, sample_world.folder)
    assert list(tmp_path.rglob(".*.part*")) == [of_another]
    assert json.loads((tmp_path / "complete.json").read_text())["counties"] == [TINY]


@pytest.mark.slow
def test_a_drawing_may_be_killed_at_any_moment(sample_world, tmp_path):
    moment = random.Random(0)
    for _ in range(10):
        process = start(tmp_path, workers=2)
        try:
            process.wait(moment.uniform(0, 25))
        except subprocess.TimeoutExpired:
            kill(process)
    sample.draw(tmp_path, workers=1)
    assert same_as_world(tmp_path, sample_world.folder) and not list(tmp_path.rglob("*.part"))


# ---- with units that take no time

@pytest.fixture
def drawn(monkeypatch):
    """The units drawn, in order; a unit's files hold only its seed."""
    drawn = []

    def do(folder, seed, unit):
        drawn.append(unit)
        names = units.files_of(seed, unit)
        for name in names:
            leave(folder, name, f"seed {seed}")
        write_json(folder / units.facts_name(seed, unit), {
            "county": unit[0], "items": [], "files": {name: (folder / name).stat().st_size for name in names}})

    monkeypatch.setattr(units, "do", do)
    monkeypatch.setattr(catalogue, "write", lambda folder, facts: None)
    return drawn


def test_a_unit_is_done_when_its_facts_and_files_are_there(drawn, tmp_path):
    sample.draw(tmp_path, workers=1)
    assert drawn == UNITS == [(TINY, 2016), (TINY, 2010), (TINY, "labels")]
    before = files(tmp_path)
    sample.draw(tmp_path, workers=1)
    assert drawn == UNITS and files(tmp_path) == before

    for spoil in (Path.unlink, lambda path: path.write_text("another size")):
        for name, unit in ((f"labels/nlcd_2016_{TINY}.tif", UNITS[2]), (f"truth/{TINY}_new_tiles.csv", UNITS[2]),
                           (units.facts_name(0, UNITS[1]), UNITS[1])):
            drawn.clear()
            spoil(tmp_path / name)
            sample.draw(tmp_path, workers=1)
            assert drawn == [unit] and files(tmp_path) == before


def test_a_county_that_has_lost_a_file_is_not_called_finished(drawn, tmp_path, monkeypatch):
    sample.draw(tmp_path, workers=1)
    (tmp_path / f"labels/nlcd_2016_{TINY}.tif").unlink()
    monkeypatch.setattr(units, "do", lambda *unit: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        sample.draw(tmp_path, workers=1)
    assert not (tmp_path / "complete.json").exists()


@pytest.mark.parametrize("seed, version", [(1, units.VERSION), (0, units.VERSION - 1)])
def test_another_world_in_the_folder_is_replaced(drawn, tmp_path, monkeypatch, seed, version):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(units, "VERSION", version)
        sample.draw(tmp_path, seed, workers=1)
    leave(tmp_path, "naip/m_9900101_19_1_20100101/m_9900101_19_1_20100101.json")
    leave(tmp_path, "scenes/m_9900101_19_1_20100101.tif")
    leave(tmp_path, "mine.txt")
    do = units.do

    def stop(folder, seed, unit):
        do(folder, seed, unit)
        1 / 0
    monkeypatch.setattr(units, "do", stop)
    drawn.clear()
    with pytest.raises(ZeroDivisionError):
        sample.draw(tmp_path, workers=1)
    assert not (tmp_path / "complete.json").exists() and units.facts(tmp_path, seed, UNITS[1]) is None

    monkeypatch.setattr(units, "do", do)
    sample.draw(tmp_path, workers=1)
    assert drawn == UNITS
    assert set(files(tmp_path)) == {"complete.json", "mine.txt"}.union(
        *({units.facts_name(0, unit), *units.files_of(0, unit)} for unit in UNITS))
    assert (tmp_path / f"labels/nlcd_2016_{TINY}.tif").read_text() == "seed 0"


def test_a_drawing_whose_unfinished_file_was_taken_away_goes_on(drawn, tmp_path, monkeypatch):
    """Another drawing has finished the same file meanwhile, and taken this one's for what a killed one has left."""
    do = units.do

    def write(folder, seed, unit):
        do(folder, seed, unit)
        with whole_file(folder / units.files_of(seed, unit)[0]) as part:
            part.write_text("seed 0")
            sample._remove_leftovers(folder, 0)
            assert not part.exists()
    monkeypatch.setattr(units, "do", write)
    sample.draw(tmp_path, workers=1)
    assert drawn == UNITS


def test_files_that_change_under_a_drawing_are_not_called_finished(drawn, tmp_path, monkeypatch):
    do = units.do

    def lose(folder, seed, unit):
        do(folder, seed, unit)
        (folder / units.files_of(0, UNITS[0])[0]).unlink(missing_ok=True)
    monkeypatch.setattr(units, "do", lose)
    with pytest.raises(InputError, match="to stay as they were drawn"):
        sample.draw(tmp_path, workers=1)


# ---- what stops a drawing

def test_too_little_room_is_found_before_anything_is_drawn(tmp_path, monkeypatch):
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(shutil, "disk_usage", lambda folder: usage._replace(free=5_000_000))
    with pytest.raises(InputError, match="MB of free disk.*got 5 MB"):
        sample.draw(tmp_path, workers=1)
    assert not list(tmp_path.glob("scenes/*"))


def test_full_disk_is_one_sentence_and_nothing_is_finished(tmp_path, monkeypatch):
    def full(*args, **options):
        raise OSError(errno.ENOSPC, "No space left on device")
    monkeypatch.setattr(labels, "write_cog", full)
    # The labels alone come to the same end as the scenes, sooner.
    monkeypatch.setattr(units, "UNITS", [(TINY, "labels")])
    with pytest.raises(InputError, match="expected room on the disk"):
        sample.draw(tmp_path, workers=1)
    assert not (tmp_path / "complete.json").exists()


def test_folder_that_cannot_be_written_is_one_sentence(tmp_path):
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(InputError, match="can't be written"):
        sample.draw(tmp_path / "file" / "world", workers=1)

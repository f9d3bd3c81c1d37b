"""The prediction table: grown chunk by chunk, by one job at a time, of one model."""

import logging
import os
import shutil
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest

import cluster_driver
import tiny
from helpers import InputError
from helpers.scoring import predictions, score as scoring, table as to_table
from helpers.tiles import pictures, store as tilestore
from helpers.scoring.table import COLUMNS, read, tell
from helpers.tiles.folder import write_images
from helpers.tiles.pictures import encode

TILES = 90


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return tiny.model(tmp_path_factory.mktemp("model") / "bundle")


@pytest.fixture
def place(tmp_path):
    """A folder of pictures that is a store too."""
    tiny.pictures(tmp_path / "place", range(TILES))
    return Place(tmp_path)


class Place:
    def __init__(self, folder):
        self.folder, self.store, self.table = folder / "place", str(folder / "tiles"), str(folder / "table")
        self.write()

    def write(self):
        write_images(self.folder, self.store)

    def score(self, spark, model, **options):
        """Tiles scored by one more job, and the table."""
        rows = scoring.score(spark, self.store, model, self.table, **dict({"chunk_tiles": 40}, **options))
        table = read(self.table)
        assert rows == len(table) and table["tile_id"].is_unique
        assert table["tile_id"].tolist() == sorted(path.name for path in self.folder.iterdir())
        return to_table.summary(self.table)["scored_now"], table


def test_the_table_grows_by_chunks_and_a_second_run_does_nothing(spark, model, place, caplog, monkeypatch):
    caplog.set_level(logging.INFO, "helpers")
    scored, table = place.score(spark, model)
    assert scored == TILES and list(table) == COLUMNS
    joined = [record.getMessage() for record in caplog.records if "chunk joined" in record.getMessage()]
    assert [message.split(" tiles_per")[0].rsplit(" ", 2)[0] for message in joined] == [
        f"chunk joined number={i} of=3 tiles={n}" for i, n in ((1, 40), (2, 40), (3, 10))]
    assert not any("\n" in record.getMessage() for record in caplog.records)
    caplog.clear()
    monkeypatch.setattr(type(spark), "read", property(lambda self: pytest.fail("Spark read something")))
    assert scoring.score(spark, place.store, model, place.table) == TILES
    assert "nothing new" in caplog.text
    summary = to_table.summary(place.table)
    assert summary["scored_now"] == 0 and tell(summary).startswith("Nothing new: all 90 tiles have their row.")


def test_a_chunk_reads_its_own_files_alone(spark, model, place):
    """In a store of many files, whose names are no URIs."""
    folder = Path(tilestore.partition_folder(place.store, "place", 0))
    whole, = folder.glob("*.parquet")
    table = pq.read_table(whole, partitioning=None)
    whole.unlink()
    for i in range(3):
        pq.write_table(table.slice(30 * i, 30), folder / f"part {i}+a%20b.parquet")
    job = scoring._Job(spark, place.store, model, place.table, "fastest", None, 30)
    job.open(False)
    chunks, _ = job._plan(job.choose(None, None), TILES)
    assert [piece["names"] for chunk in chunks for piece in chunk] == [[f"part {i}+a%20b.parquet"] for i in range(3)]
    scored, before = place.score(spark, model)
    assert scored == TILES
    tiny.pictures(place.folder, range(TILES, TILES + 10))
    place.write()
    scored, table = place.score(spark, model)
    assert scored == 10 and table["tile_id"].tolist()[:TILES] == before["tile_id"].tolist()


def test_new_tiles_alone_are_scored(spark, model, place):
    _, before = place.score(spark, model)
    tiny.pictures(place.folder, range(TILES, TILES + 7))
    place.write()
    scored, table = place.score(spark, model)
    assert scored == 7
    same = table.merge(before, on="tile_id", suffixes=("", "_before"))
    assert len(same) == TILES and same["class_id"].equals(same["class_id_before"])


def test_a_new_county_alone_is_scored(spark, model, place, tmp_path):
    place.score(spark, model)
    tiny.pictures(tmp_path / "other", range(1000, 1011))
    grown = tilestore.manifest(place.store, "place", 0)
    write_images(tmp_path / "other", place.store)
    tilestore.write_manifest(place.store, **grown)  # another folder of pictures would have replaced the first
    assert scoring.score(spark, place.store, model, place.table) == TILES + 11
    assert to_table.summary(place.table)["scored_now"] == 11
    assert read(place.table)["county"].value_counts().to_dict() == {"place": TILES, "other": 11}
    # Each of them has its rows, so a job for one has nothing to do.
    assert scoring.score(spark, place.store, model, place.table, county="other") == 11
    assert to_table.summary(place.table)["scored_now"] == 0


def test_a_changed_picture_is_scored_again_and_one_that_is_gone_leaves_the_table(spark, model, place):
    _, before = place.score(spark, model)
    (place.folder / "00011.png").write_bytes(tiny.picture(5000))
    place.write()
    assert place.score(spark, model)[0] == 1
    (place.folder / "00012.png").write_bytes(b"broken now")
    (place.folder / "00013.png").unlink()
    place.write()
    scored, table = place.score(spark, model)
    assert scored == 1 and len(table) == TILES - 1
    rows = table.set_index("tile_id")
    assert rows["error_kind"]["00012.png"] == "unreadable" and rows["error_kind"].notna().sum() == 1
    old = before.set_index("tile_id")
    assert not np.allclose(rows["probabilities"]["00011.png"], old["probabilities"]["00011.png"])
    named = {name for chunk in predictions.Table(place.table).state()["chunks"] for name in chunk["files"]}
    assert named == set(predictions.Table(place.table).files())


def test_a_store_that_was_only_copied_is_not_scored_again(spark, model, place):
    place.score(spark, model)
    for path in (p for p in os.scandir(place.store + "/county=place/year=0") if p.name.endswith(".parquet")):
        os.utime(path.path, (1, 1))
    assert place.score(spark, model)[0] == 0


def test_another_model_or_engine_never_mixes_in(spark, model, place, tmp_path):
    place.score(spark, model)
    other = tiny.model(tmp_path / "other", seed=1)
    with pytest.raises(InputError, match=f"expected a prediction table of model {other.checksum} in onnxruntime.* got "
                                         f"one of model {model.checksum} in onnxruntime"):
        scoring.score(spark, place.store, other, place.table)
    assert set(read(place.table)["model"]) == {model.checksum}
    scored, table = place.score(spark, other, replace=True)
    assert scored == TILES and set(table["model"]) == {other.checksum}
    # The same again goes on, it doesn't begin anew.
    assert place.score(spark, other, replace=True)[0] == 0


def test_a_table_of_another_store_is_kept(spark, model, place, tmp_path):
    place.score(spark, model)
    tiny.pictures(tmp_path / "elsewhere", range(3))
    write_images(tmp_path / "elsewhere", str(tmp_path / "other_tiles"))
    with pytest.raises(InputError, match="one that also has place 0, which the store lacks"):
        scoring.score(spark, str(tmp_path / "other_tiles"), model, place.table)
    assert len(read(place.table)) == TILES


class Died(BaseException):
    """What no code here catches, like the end of a process."""


@pytest.mark.parametrize("where", ["_check", "adopt", "write_json"])
def test_a_driver_that_dies_loses_one_chunk(spark, model, place, monkeypatch, where):
    """Between any two steps of the second chunk's way into the table."""
    owner = scoring._Job if where == "_check" else predictions.Table
    plain, calls = getattr(owner, where), []

    def dies(self, *arguments):
        # table.json is written once before the first chunk; the claim is another file.
        if not (where == "write_json" and arguments[0] != "table.json"):
            calls.append(1)
            if len(calls) == (3 if where == "write_json" else 2):
                raise Died
        return plain(self, *arguments)

    monkeypatch.setattr(owner, where, dies)
    with pytest.raises(Died):
        scoring.score(spark, place.store, model, place.table, chunk_tiles=40)
    monkeypatch.undo()
    with pytest.raises(InputError, match="expected a finished prediction table"):
        read(place.table)
    scored, _ = place.score(spark, model)
    assert scored == TILES - 40
    table = predictions.Table(place.table)
    assert {name for chunk in table.state()["chunks"] for name in chunk["files"]} == set(table.files())


def steal(table):
    """Another job takes the claim, as after this one has stood still."""
    table.write_json("claim.json", {"owner": "another", "host": "elsewhere", "process": 1, "started": 0,
                                    "renewed": time.time()})


def test_a_job_that_loses_its_claim_adds_nothing_more(spark, model, place, monkeypatch):
    plain, calls = predictions.Table.write, []

    def write(table, frame, name):
        calls.append(name)
        if len(calls) == 2:
            steal(table)
        return plain(table, frame, name)

    monkeypatch.setattr(predictions.Table, "write", write)
    with pytest.raises(InputError, match="got another at work .host elsewhere"):
        scoring.score(spark, place.store, model, place.table, chunk_tiles=40)
    table = predictions.Table(place.table)
    assert len(calls) == 2 and len(table.state()["chunks"]) == 1 and len(table.files()) == len(
        table.state()["chunks"][0]["files"])
    assert table.read_json("claim.json")["owner"] == "another" and not table.is_finished()


def test_a_job_that_loses_its_claim_at_the_end_does_not_finish(spark, model, place, monkeypatch):
    plain = scoring._Job._join

    def join(job, *arguments):
        plain(job, *arguments)
        steal(job.table)

    monkeypatch.setattr(scoring._Job, "_join", join)
    with pytest.raises(InputError, match="got another at work .host elsewhere"):
        scoring.score(spark, place.store, model, place.table)
    assert not predictions.Table(place.table).is_finished()


def dies_at(monkeypatch, number):
    """The driver dies before its n-th chunk is looked at."""
    plain, calls = scoring._Job._check, []

    def check(*arguments):
        calls.append(1)
        if len(calls) == number:
            raise Died
        return plain(*arguments)

    monkeypatch.setattr(scoring._Job, "_check", check)


def test_a_finished_table_that_grows_is_not_finished_until_it_has_grown(spark, model, place, monkeypatch):
    place.score(spark, model)
    tiny.pictures(place.folder, range(TILES, TILES + 50))
    place.write()
    dies_at(monkeypatch, 2)
    with pytest.raises(Died):
        scoring.score(spark, place.store, model, place.table, chunk_tiles=30)
    monkeypatch.undo()
    with pytest.raises(InputError, match="expected a finished prediction table"):
        read(place.table)
    assert place.score(spark, model)[0] == 20


def test_what_another_job_began_must_be_ended_too(spark, model, place, tmp_path, monkeypatch):
    """One dies in a county; one that scores another county leaves the table unfinished."""
    tiny.pictures(tmp_path / "other", range(1000, 1011))
    first = tilestore.manifest(place.store, "place", 0)
    write_images(tmp_path / "other", place.store)
    tilestore.write_manifest(place.store, **first)
    dies_at(monkeypatch, 2)
    with pytest.raises(Died):
        scoring.score(spark, place.store, model, place.table, county="place", chunk_tiles=40)
    monkeypatch.undo()
    assert scoring.score(spark, place.store, model, place.table, county="other") == 11
    with pytest.raises(InputError, match="expected a finished prediction table"):
        read(place.table)
    scoring.score(spark, place.store, model, place.table, county="place")
    assert len(read(place.table)) == TILES + 11


CRASHES = """
import os, signal
from helpers import engines, scoring, scoring_process
engines.OnnxRuntime.score = lambda self, tiles: os.kill(os.getpid(), signal.SIGSEGV)
scoring_process.serve(scoring.score_batch)
"""


def test_an_engine_that_crashes_with_every_tile_stops_the_job(spark, place, tmp_path, monkeypatch):
    """Those that were given up have their row, no other tile was tried, and the next job goes on."""
    other = tiny.model(tmp_path / "other", seed=2)
    monkeypatch.setattr(scoring, "_on_worker", cluster_driver.slowed(scoring._on_worker, CRASHES))
    with pytest.raises(InputError, match=r"expected scores from the engine onnxruntime, got none 4 times one after "
                                         r"another.* \d+ tiles of this chunk were left out"):
        scoring.score(spark, place.store, other, place.table, chunk_tiles=40)
    table = predictions.Table(place.table)
    rows = table.rows(table.files())
    assert 3 <= len(rows) <= 6 and set(rows["error_kind"]) == {"engine"} and not table.is_finished()


def test_rows_of_another_engine_are_refused(spark, place, tmp_path, monkeypatch):
    """Some workers with a GPU, some without."""
    other = tiny.model(tmp_path / "other", seed=3)
    job = scoring._Job(spark, place.store, other, place.table, "onnxruntime", None, None)
    job.open(False)
    frame = pd.DataFrame({"model": other.checksum, "engine": ["onnxruntime-cuda", "onnxruntime"], "error_kind": None})
    job._check_engine(frame[:1])
    assert job.state["scored_by"] == "onnxruntime-cuda"
    job._check_engine(frame[:1])
    with pytest.raises(InputError, match="expected rows of one engine, got onnxruntime and onnxruntime-cuda"):
        job._check_engine(frame[1:])
    with pytest.raises(RuntimeError, match="expected rows of model"):
        job._check_engine(frame[:1].assign(model="another"))


SLOW = """
import time
from helpers import engines, pictures, scoring, scoring_process
decode, score = pictures.decode, engines.OnnxRuntime.score
def slow_decode(*arguments):
    time.sleep(0.03)
    return decode(*arguments)
def slow_score(self, tiles):
    time.sleep(0.03 * len(tiles))
    return score(self, tiles)
{}
scoring_process.serve(scoring.score_batch)
"""
SLOWED = {"decode": "pictures.decode = slow_decode", "network": "engines.OnnxRuntime.score = slow_score",
          "start": "time.sleep(2.7)"}


@pytest.mark.parametrize("phase", ["start", "read", "decode", "network", "write"])
def test_where_the_time_went(spark, place, tmp_path, monkeypatch, phase):
    """Each phase made slow by 30 ms a tile, in one task."""
    other = tiny.model(tmp_path / "other", seed=10 + len(phase))
    on_worker, write = scoring._on_worker, predictions.Table.write

    def slowly(batches):
        import time
        for batch in batches:
            time.sleep(0.03 * len(batch))
            yield batch

    def reading(*arguments):
        run = on_worker(*arguments)
        return lambda batches: run(slowly(batches))

    if phase == "write":
        monkeypatch.setattr(predictions.Table, "write", lambda table, frame, name: write(
            table, frame.mapInArrow(slowly, frame.schema), name))
    else:
        monkeypatch.setattr(scoring, "_on_worker", reading if phase == "read" else cluster_driver.slowed(
            on_worker, SLOW.format(SLOWED[phase])))
    place.score(spark, other, partitions=1, chunk_tiles=1000)
    spent = to_table.summary(place.table)["slot_seconds"]
    # How long a process takes to start is the machine's affair.
    assert spent[phase] >= 2.6 and max(s for name, s in spent.items() if name not in (phase, "start")) < 1.5, spent


def test_a_store_that_names_a_tile_twice(spark, model, place):
    folder = place.store + "/county=place/year=0/"
    shutil.copy(folder + "part-0.parquet", folder + "part-1.parquet")
    tilestore.write_manifest(place.store, "place", 0, tiles=2 * TILES)
    with pytest.raises(InputError, match=r"expected one tile of each name .* got 000\d\d.png twice in county place"):
        scoring.score(spark, place.store, model, place.table)


def broken_manifest(place, text):
    Path(tilestore.partition_folder(place.store, "place", 0), "_manifest.json").write_text(text)


def foreign_claim(place):
    path = Path(place.table, "_scoring", "claim.json")
    path.parent.mkdir(parents=True)
    path.write_text('{"a": 1}')


MISTAKES = {
    "a manifest of another number": (lambda place: tilestore.write_manifest(place.store, "place", 0, tiles=91), {},
                                     "expected 91 tiles of county place, year 0 .* got 90. Write its tiles again."),
    "a manifest that is cut off": (lambda place: broken_manifest(place, '{"tiles": '), {},
                                   "expected a manifest with county, year and tiles at .*, got one that is cut off"),
    "a manifest without tiles": (lambda place: broken_manifest(place, '{"county": "place", "year": 0}'), {},
                                 "expected a manifest .* got one without 'tiles'"),
    "a manifest of words": (lambda place: broken_manifest(place, '{"county": "place", "year": 0, "tiles": "many"}'), {},
                            "expected a manifest .* got one with other kinds of values"),
    "a table that is a file": (lambda place: Path(place.table).write_text("mine"), {},
                               "expected the folder of a prediction table at .*, got a file"),
    "a table below a file": (lambda place: Path(place.table).write_text("mine"), {"below": "/table"},
                             "expected a folder to write a prediction table to at .*, got: Not a directory"),
    "a claim of something else": (foreign_claim, {},
                                  "expected a claim of this program in .*claim.json, got another file"),
    "no tiles in a chunk": (None, {"chunk_tiles": 0}, "expected chunks of 1 tile or more, got 0"),
    "fewer than none": (None, {"chunk_tiles": -5}, "expected chunks of 1 tile or more, got -5"),
    "no partition": (None, {"partitions": 0}, "expected 1 partition or more, got 0"),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_mistakes_are_told_in_one_sentence(spark, model, place, mistake):
    make, options, sentence = MISTAKES[mistake]
    if make:
        make(place)
    options = dict(options)
    table = place.table + options.pop("below", "")
    with pytest.raises(InputError, match=sentence) as told:
        scoring.score(spark, place.store, model, table, **options)
    assert "\n" not in str(told.value)


def test_a_name_with_a_line_end_is_told_on_one_line(spark, model, place):
    (place.folder / "a\nb.png").write_bytes(b"none")
    place.write()
    place.score(spark, model)
    assert r"  unreadable, 'a\nb.png': expected" in tell(to_table.summary(place.table))


def split_into(place, files):
    """Write the store again as several files; the folder."""
    folder = Path(tilestore.partition_folder(place.store, "place", 0))
    whole, = folder.glob("*.parquet")
    table = pq.read_table(whole, partitioning=None)
    whole.unlink()
    for i in range(files):
        pq.write_table(table.slice(TILES // files * i, TILES // files), folder / f"part-{i}.parquet")
    return folder


def damage(path, what):
    if what == "gone":
        return path.unlink()
    place, content = -4, b"XXXX"
    if what in ("image", "tile_id"):
        group = pq.ParquetFile(path).metadata.row_group(0)
        column = next(group.column(i) for i in range(group.num_columns) if group.column(i).path_in_schema == what)
        place, content = column.dictionary_page_offset or column.data_page_offset, b"\xff" * 40
    if what == "footer":
        # Its length and the magic word stay.
        place, content = -60, b"\xff" * 40
    with open(path, "r+b") as file:
        file.seek(place, os.SEEK_SET if place > 0 else os.SEEK_END)
        file.write(content)


@pytest.mark.parametrize("what", ["end", "footer", "image"])
def test_a_damaged_file_of_the_store_stops_no_other_tile(spark, model, place, what):
    folder = split_into(place, 3)
    kept = (folder / "part-1.parquet").read_bytes()
    damage(folder / "part-1.parquet", what)
    for _ in range(2):
        with pytest.raises(InputError, match="expected every file of the tile store .* got 1 damaged: "
                                             "county=place/year=0/part-1.parquet. All other tiles have their row"):
            scoring.score(spark, place.store, model, place.table, chunk_tiles=40)
        table = predictions.Table(place.table)
        assert not table.is_finished()
        rows = table.rows([name for chunk in table.state()["chunks"] for name in chunk["files"]])
        assert sorted(rows["tile_id"]) == [f"{i:05d}.png" for i in range(TILES) if i // 30 != 1]
    assert to_table.summary(place.table)["scored_now"] == 0  # by the second job
    (folder / "part-1.parquet").write_bytes(kept)
    assert place.score(spark, model)[0] == 30


@pytest.mark.parametrize("what", ["end", "gone", "tile_id"])
def test_a_damaged_file_of_the_table_is_no_reason_to_score_its_tiles_again(spark, model, place, what):
    place.score(spark, model)
    table = predictions.Table(place.table)
    file, = table.state()["chunks"][0]["files"]
    damage(Path(place.table) / file, what)
    tiny.pictures(place.folder, [TILES])
    place.write()
    before = table.state()
    with pytest.raises(InputError, match="got chunk-.* gone or damaged"):
        read(place.table)
    with pytest.raises(InputError, match=f"expected every file of the prediction table .*, got {Path(file).name} "
                                         "gone or damaged"):
        scoring.score(spark, place.store, model, place.table)
    assert table.state()["chunks"] == before["chunks"]


def test_a_file_of_the_store_that_is_gone(spark, model, place):
    damage(split_into(place, 3) / "part-1.parquet", "gone")
    with pytest.raises(InputError, match="expected 90 tiles of county place, year 0 in the tile store .*, as its "
                                         "_manifest.json says, got 60. Write its tiles again."):
        scoring.score(spark, place.store, model, place.table)


def test_a_picture_of_300_mb_costs_one_row(spark, model, place):
    """Which Java has no memory for."""
    with open(place.folder / "00007.png", "wb") as file:
        file.write(b"\x89PNG\r\n\x1a\n")
        file.truncate(300 << 20)
    place.write()
    _, table = place.score(spark, model)
    assert table.set_index("tile_id")["error_kind"].dropna().to_dict() == {"00007.png": "too_large"}


def test_large_pictures_travel_alone(spark, model, place):
    """The plan goes by the largest of them, not by the mean."""
    noise = np.random.default_rng(0).bytes(pictures.MAX_BYTES - 8)
    for number in (7, 8, 9, 40, 41):
        (place.folder / f"000{number:02d}.png").write_bytes(b"\x89PNG\r\n\x1a\n" + noise)
    place.write()
    job = scoring._Job(spark, place.store, model, place.table, "fastest", None, None)
    assert job._look_at(job.choose(None, None)).batch_rows == 1
    _, table = place.score(spark, model)
    assert table["error_kind"].value_counts().to_dict() == {"unreadable": 5}


def test_pieces_that_java_has_no_memory_for(spark, model, place, monkeypatch):
    monkeypatch.setattr(tilestore, "ROW_GROUP_BYTES", -pictures.MAX_BYTES)
    monkeypatch.setattr(scoring._Job, "_java_bytes", lambda self: 100_000)
    with pytest.raises(InputError, match="expected row groups of at most 0 MB .* Write its tiles again in smaller "
                                         "ones"):
        scoring.score(spark, place.store, model, place.table)


def test_an_engine_that_fails_with_every_tile_stops_the_job(spark, place, tmp_path):
    """A bug is no table of errors."""
    broken = tiny.model(tmp_path / "broken", scale=float("nan"))
    with pytest.raises(RuntimeError, match="the engine onnxruntime failed with all 90 tiles of a chunk: expected a "
                                           "score, got values that are no numbers"):
        scoring.score(spark, place.store, broken, place.table)
    with pytest.raises(InputError, match="expected a finished prediction table"):
        read(place.table)


def test_the_summary_counts_and_shows_examples(spark, model, place):
    for number in range(5):
        (place.folder / f"0000{number}.png").write_bytes(b"")
    (place.folder / "00050.png").write_bytes(encode(np.zeros((2, 2, 3), np.uint8)))
    place.write()
    _, table = place.score(spark, model)
    summary = to_table.summary(place.table)
    assert summary["errors"]["unreadable"]["tiles"] == 5 and len(summary["errors"]["unreadable"]["examples"]) == 3
    assert [one["tile_id"] for one in summary["errors"]["wrong_size"]["examples"]] == ["00050.png"]
    counts = table["class_id"].value_counts()
    assert summary["classes"] == {name: int(counts.get(i, 0)) for i, name in enumerate(model.classes)}
    assert summary["tiles"] == TILES == sum(summary["classes"].values()) + 6
    spent = summary["slot_seconds"]
    assert set(spent) == {"start", "read", "decode", "network", "write", "other"} and min(spent.values()) >= 0
    told = tell(summary)
    assert "Errors: unreadable 5, wrong_size 1\n  unreadable, 00000.png: expected a whole picture" in told


def test_the_bar_counts_tiles(spark, model, place, capsys):
    from helpers.cluster.progress import progress
    (place.folder / "00007.png").write_bytes(b"")
    place.write()
    with progress(spark, "scoring"):
        place.score(spark, model)
    assert f"scoring: {TILES} of {TILES} tiles, " in (said := capsys.readouterr().err) and ", 1 errors, " in said
    with progress(spark, "scoring"):
        place.score(spark, model)
    assert capsys.readouterr().err == "scoring: nothing new\n"


# The claim

def test_two_jobs_at_once(tmp_path):
    table = predictions.Table(tmp_path / "table")
    with predictions.Claim(table) as first:
        with pytest.raises(InputError, match=f"expected to be the only job that writes the prediction table .* got "
                                             f"another at work .host {socket.gethostname()}, process {os.getpid()}."):
            with predictions.Claim(table):
                pass
        first.check()
    with predictions.Claim(table):
        pass
    assert table.read_json("claim.json") is None


@pytest.mark.parametrize("before", ["nothing", "the claim of a dead process"])
def test_jobs_that_start_at_the_same_moment(tmp_path, before):
    """Of processes that begin together one gets the table, again and again, and the others never begin."""
    program = ("import sys, time; from helpers import InputError, predictions\n"
               "claim = predictions.Claim(predictions.Table(sys.argv[1]))\n"
               "print('ready', flush=True); sys.stdin.readline()\n"
               "try:\n"
               "    with claim:\n"
               "        print('began'); time.sleep(1); claim.check(); print('held')\n"
               "except InputError as error: print('refused')")
    for attempt in range(3):
        table = predictions.Table(tmp_path / str(attempt))
        if before != "nothing":
            table.write_json("claim.json", {"owner": "gone", "host": "elsewhere", "space": "", "process": 1,
                                            "started": 0, "renewed": time.time() - 2 * predictions.CLAIM_S})
        jobs = [subprocess.Popen([sys.executable, "-c", program, table.uri], text=True,
                                 stdin=subprocess.PIPE, stdout=subprocess.PIPE) for _ in range(4)]
        for job in jobs:
            assert job.stdout.readline() == "ready\n"
        for job in jobs:
            job.stdin.write("\n")
            job.stdin.flush()
        assert sorted(job.communicate()[0] for job in jobs) == ["began\nheld\n"] + 3 * ["refused\n"]


def test_a_store_that_is_slow_to_write(tmp_path):
    """A claim that is on its way while another is looked for: whoever wrote first stops before it begins."""
    class Slow(predictions.Table):
        def create_json(self, name, value):
            return False  # As a store in the cloud.

        def write_json(self, name, value):
            time.sleep(self.delay)
            super().write_json(name, value)

    def begin(delay):
        table = Slow(tmp_path)
        table.delay = delay
        try:
            with predictions.Claim(table):
                began.append(delay)
                time.sleep(1)
        except InputError:
            refused.append(delay)

    began, refused = [], []
    jobs = [threading.Thread(target=begin, args=[delay]) for delay in (0.3, 0)]
    for job in jobs:
        job.start()
    for job in jobs:
        job.join()
    assert (began, refused) == ([0.3], [0])


def test_the_claim_of_a_dead_process_has_expired(tmp_path):
    program = ("import os, sys; from helpers import predictions\n"
               "predictions.Claim(predictions.Table(sys.argv[1])).__enter__(); os.kill(os.getpid(), 9)")
    subprocess.run([sys.executable, "-c", program, str(tmp_path)])
    table = predictions.Table(tmp_path)
    assert table.read_json("claim.json")["owner"]
    with predictions.Claim(table):
        pass


def test_another_container_of_this_machine_has_process_numbers_of_its_own(tmp_path):
    table = predictions.Table(tmp_path)
    with predictions.Claim(table):
        pass
    table.write_json("claim.json", {"owner": "x", "host": socket.gethostname(), "space": "pid:[1]",
                                    "process": 2 ** 22 + 1, "started": 0, "renewed": time.time()})
    with pytest.raises(InputError, match="got another at work"):
        with predictions.Claim(table):
            pass


@pytest.mark.parametrize("age, expired", [(5, False), (predictions.CLAIM_S + 5, True)])
def test_a_claim_from_another_machine_expires_by_its_age(tmp_path, age, expired):
    table = predictions.Table(tmp_path)
    table.write_json("claim.json", {"owner": "x", "host": "elsewhere", "space": "", "process": 1, "started": 0,
                                    "renewed": time.time() - age})
    if expired:
        with predictions.Claim(table):
            pass
    else:
        with pytest.raises(InputError, match="host elsewhere, process 1"):
            with predictions.Claim(table):
                pass


def test_a_job_whose_claim_was_taken_adds_nothing_more(tmp_path):
    table = predictions.Table(tmp_path)
    with predictions.Claim(table) as claim:
        table.write_json("claim.json", {"owner": "y", "host": "elsewhere", "space": "", "process": 1, "started": 0,
                                        "renewed": time.time()})
        with pytest.raises(InputError, match="got another at work"):
            claim.check()
    assert table.read_json("claim.json")["owner"] == "y"


def test_a_claim_is_renewed(tmp_path, monkeypatch):
    monkeypatch.setattr(predictions, "CLAIM_S", 0.6)
    table = predictions.Table(tmp_path)
    with predictions.Claim(table):
        first = table.read_json("claim.json")["renewed"]
        time.sleep(0.5)
        assert table.read_json("claim.json")["renewed"] > first


def test_claims_on_a_store_without_folders(monkeypatch):
    """A file system in memory has the calls of an object store."""
    table = predictions.Table("memory://somewhere/table")
    with predictions.Claim(table):
        with pytest.raises(InputError, match="got another at work"):
            with predictions.Claim(predictions.Table("memory://somewhere/table")):
                pass
    assert table.read_json("claim.json") is None


@pytest.mark.parametrize("uri, said", [
    ("abfs://box@account.dfs.core.windows.net/tiles", "abfs://box@account.dfs.core.windows.net/tiles"),
    ("https://account.blob.core.windows.net/tiles?sv=2024&sig=SECRET", "https://account.blob.core.windows.net/tiles"),
    ("sftp://me:SECRET@host/tiles", "sftp://host/tiles"), ("sftp://SECRET@host/tiles", "sftp://host/tiles"),
    ("sftp://me:SEC/RET@host/tiles", "sftp://host/tiles"), ("sftp://me:SEC?RET@host/tiles", "sftp://host/tiles"),
    ("https://host:80/tiles?sig=SEC@RET", "https://host:80/tiles"), ("https://host/a#SECRET", "https://host/a"),
    ("abfss://me:SECRET@account.dfs.core.windows.net/t", "abfss://account.dfs.core.windows.net/t"),
    ("s3://bucket/it@home", "s3://bucket/it@home"), ("/data/tiles", "/data/tiles")])
def test_a_uri_is_shown_without_its_secret(uri, said):
    assert predictions.shown(uri) == said

"""The prediction table: what is done is what is there, of one model, and nobody else's file is touched."""

import logging
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.dataset as ds
import pyarrow.parquet as pq
import pytest

import faulty
import tiny
from helpers import DamagedFile, InputError
from helpers.cluster import work
from helpers.model import engines
from helpers.scoring import score as scoring
from helpers.scoring import table as tables
from helpers.scoring.batch import score_images
from helpers.scoring.table import COLUMNS, as_text, read, summary
from helpers.tiles import pictures
from helpers.tiles import store as tilestore
from helpers.tiles.folder import write_images
from helpers.tiles.pictures import encode

TILES = 90


@pytest.fixture
def pile(tmp_path):
    """A folder of pictures that is a store too."""
    tiny.pictures(tmp_path / "pile", range(TILES))
    return Pile(tmp_path)


class Pile:
    def __init__(self, folder):
        self.folder, self.store, self.table = folder / "pile", str(folder / "tiles"), str(folder / "table")
        self.write()

    def write(self):
        write_images(self.folder, self.store)

    def own_files(self, files=3):
        """Write the store again as somebody else would: files of 30 tiles, without a digest; their folder."""
        folder = Path(tilestore.partition_folder(self.store, "pile", 0))
        whole = pa.concat_tables([pq.read_table(path, partitioning=None) for path in sorted(folder.glob("*.parquet"))])
        for path in folder.glob("*"):
            path.unlink()
        rows = whole.sort_by("tile_id").replace_schema_metadata()
        for i in range(files):
            pq.write_table(rows.slice(TILES // files * i, TILES // files), folder / f"part-{i}.parquet")
        tilestore.write_manifest(self.store, "pile", 0, tiles=TILES)
        return folder

    def score(self, spark, model, **options):
        """Tiles scored by one more job, and the table."""
        rows = scoring.score(spark, self.store, model, self.table, **options)
        table = read(self.table)
        assert rows == len(table) and table["tile_id"].is_unique
        assert table["tile_id"].tolist() == sorted(path.name for path in self.folder.iterdir())
        return summary(self.table)["scored_now"], table

    def files(self):
        return sorted(path.relative_to(self.table).as_posix() for path in Path(self.table).rglob("*") if path.is_file())


def test_a_second_run_does_nothing(spark, model, pile, caplog, monkeypatch):
    caplog.set_level(logging.INFO, "helpers")
    scored, table = pile.score(spark, model)
    assert scored == TILES and list(table) == COLUMNS
    before = pile.files()
    monkeypatch.setattr(type(spark), "range", lambda *_: pytest.fail("Spark was asked for something"))
    assert scoring.score(spark, pile.store, model, pile.table) == TILES
    assert summary(pile.table)["scored_now"] == 0 and pile.files() == before
    assert as_text(summary(pile.table)).startswith("Nothing new: all 90 tiles already have a row.")
    assert not any("\n" in record.getMessage() for record in caplog.records)


def test_other_readers_open_it_as_a_partitioned_table(spark, model, pile):
    _, table = pile.score(spark, model)
    arrow = ds.dataset(pile.table, partitioning="hive").to_table().to_pandas()
    assert set(arrow) == set(COLUMNS) and len(arrow) == TILES
    plain = pd.read_parquet(pile.table).sort_values("tile_id", ignore_index=True)
    assert plain["class_id"].tolist() == table["class_id"].tolist()
    rows = spark.read.parquet(pile.table)
    assert set(rows.columns) == set(COLUMNS) and rows.count() == TILES
    assert rows.where("county = 'pile' and year = 0 and class_id is not null").count() == TILES
    duckdb = pytest.importorskip("duckdb")  # The cluster's environment has none.
    assert duckdb.sql(f"select count(*) from read_parquet('{pile.table}/*/*/*.parquet', hive_partitioning = true) "
                      "where county = 'pile'").fetchall() == [(TILES,)]


def test_other_readers_and_a_countys_code(spark, tmp_path):
    """As the README says."""
    folder = tmp_path / "table" / "county=08069" / "year=2016"
    folder.mkdir(parents=True)
    pq.write_table(pa.table({"tile_id": ["a"]}), folder / "a.parquet")
    assert list(pd.read_parquet(tmp_path / "table")["county"]) == [8069]
    assert spark.read.parquet(str(tmp_path / "table")).first()["county"] == 8069
    duckdb = pytest.importorskip("duckdb")
    assert duckdb.sql(f"select county from read_parquet('{folder.parent.parent}/*/*/*.parquet', "
                      "hive_partitioning = true)").fetchall() == [("08069",)]


def test_new_tiles_alone_are_scored(spark, model, pile):
    folder = pile.own_files()
    _, before = pile.score(spark, model)
    tiny.pictures(pile.folder, range(TILES, TILES + 7))
    write_images(pile.folder, str(pile.folder.parent / "more"))
    rows = tilestore.read(str(pile.folder.parent / "more")).iloc[TILES:].drop(columns=["county", "year"])
    pq.write_table(pa.Table.from_pandas(rows, tilestore.SCHEMA, preserve_index=False), folder / "more.parquet")
    tilestore.write_manifest(pile.store, "pile", 0, tiles=TILES + 7)
    scored, table = pile.score(spark, model)
    assert scored == 7
    same = table.merge(before, on="tile_id", suffixes=("", "_before"))
    assert len(same) == TILES and same["class_id"].equals(same["class_id_before"])


def test_a_new_county_alone_is_scored(spark, model, pile, tmp_path):
    pile.score(spark, model)
    tiny.pictures(tmp_path / "other", range(1000, 1011))
    grown = tilestore.manifest(pile.store, "pile", 0)
    write_images(tmp_path / "other", pile.store)
    tilestore.write_manifest(pile.store, **grown)  # another folder of pictures would have replaced the first
    assert scoring.score(spark, pile.store, model, pile.table) == TILES + 11
    assert summary(pile.table)["scored_now"] == 11
    assert read(pile.table)["county"].value_counts().to_dict() == {"pile": TILES, "other": 11}
    # Each of them has its rows, so a job for one has nothing to do, and keeps the other.
    assert scoring.score(spark, pile.store, model, pile.table, county="other") == 11
    assert summary(pile.table)["scored_now"] == 0 and len(read(pile.table)) == TILES + 11


def test_a_changed_picture_of_the_same_size_is_scored_again(spark, model, pile):
    _, before = pile.score(spark, model)
    path = pile.folder / "00011.png"
    content = bytearray(path.read_bytes())
    content[-20] ^= 1
    path.write_bytes(bytes(content))
    pile.write()
    assert 1 <= pile.score(spark, model)[0] < TILES
    # A picture that is gone leaves the table, and files of units that nobody wants any more go.
    (pile.folder / "00012.png").write_bytes(b"broken now")
    (pile.folder / "00013.png").unlink()
    pile.write()
    _, table = pile.score(spark, model)
    rows, old = table.set_index("tile_id"), before.set_index("tile_id")
    assert len(table) == TILES - 1 and rows["error_kind"]["00012.png"] == "unreadable"
    assert np.allclose(rows["probabilities"]["00014.png"], old["probabilities"]["00014.png"])
    assert [name for name in pile.files() if name.endswith(".parquet")] == [
        f"{name}.parquet" for name in summary(pile.table)["units"]]


def test_a_store_that_was_only_copied_is_not_scored_again(spark, model, pile):
    pile.score(spark, model)
    for path in Path(pile.store).rglob("*.parquet"):
        os.utime(path, (1, 1))
    assert pile.score(spark, model)[0] == 0


def test_files_of_others_are_named_by_size_and_time(spark, model, pile):
    folder = pile.own_files()
    assert pile.score(spark, model)[0] == TILES and pile.score(spark, model)[0] == 0
    os.utime(folder / "part-1.parquet", (1, 1))
    assert pile.score(spark, model)[0] == 30


def test_another_model_or_engine_never_mixes_in(spark, model, pile, tmp_path):
    pile.score(spark, model)
    other = tiny.model(tmp_path / "other", seed=1)
    with pytest.raises(InputError, match=f"expected a prediction table of model {other.checksum} and engine onnxruntime.* "
                                         f"got one of model {model.checksum} and engine onnxruntime"):
        scoring.score(spark, pile.store, other, pile.table)
    assert set(read(pile.table)["model"]) == {model.checksum}
    scored, table = pile.score(spark, other, replace=True)
    assert scored == TILES and set(table["model"]) == {other.checksum}
    assert len([name for name in pile.files() if name.endswith(".parquet")]) == len(summary(pile.table)["units"])
    # The same again goes on, it doesn't begin anew.
    assert pile.score(spark, other, replace=True)[0] == 0


def test_a_table_of_another_store_is_kept(spark, model, pile, tmp_path):
    pile.score(spark, model)
    tiny.pictures(tmp_path / "elsewhere", range(3))
    write_images(tmp_path / "elsewhere", str(tmp_path / "other_tiles"))
    with pytest.raises(InputError, match="one that also has county=pile/year=0, which the store lacks"):
        scoring.score(spark, str(tmp_path / "other_tiles"), model, pile.table)
    assert len(read(pile.table)) == TILES


def test_files_of_others_stay(spark, model, pile, tmp_path):
    """In the folder of a table, whatever their names; and a folder of others never becomes a table."""
    pile.score(spark, model)
    theirs = [Path(pile.table, name) for name in (
        "mine.parquet", "county=pile/year=0/mine.parquet", f"county=pile/year=0/{'a' * 20}.parquet", "notes.txt")]
    for path in theirs:
        path.write_bytes(b"mine")
    pq.write_table(pa.table({"a": [1]}), theirs[2])
    assert pile.score(spark, model)[0] == 0
    scoring.score(spark, pile.store, tiny.model(tmp_path / "other", seed=1), pile.table, replace=True)
    assert all(path.exists() for path in theirs) and len(read(pile.table)) == TILES
    folder = tmp_path / "colleague"
    folder.mkdir()
    pq.write_table(pa.table({"a": [1]}), folder / "data.parquet")
    for replace in (False, True):
        with pytest.raises(InputError, match="got Parquet files that no job of this program has written there"):
            scoring.score(spark, pile.store, model, str(folder), replace=replace)
    assert [path.name for path in folder.iterdir()] == ["data.parquet"]
    (folder / "data.parquet").rename(folder / "_manifest.json")
    with pytest.raises(InputError, match="got a _manifest.json of another program. Choose another folder"):
        tables.begin(str(folder), "model", "onnxruntime", "ab", replace=True)
    assert [path.name for path in folder.iterdir()] == ["_manifest.json"]


def test_a_table_whose_job_has_not_finished_is_not_read(spark, model, pile):
    with pytest.raises(InputError, match="expected a finished prediction table"):
        read(pile.table)
    pile.score(spark, model)
    Path(pile.table, tables.MANIFEST).unlink()
    with pytest.raises(InputError, match="expected a finished prediction table"):
        read(pile.table)
    assert pile.score(spark, model)[0] == 0


def test_a_table_of_other_classes_is_not_drawn_as_land_cover(spark, model, pile):
    pile.score(spark, model)
    assert len(read(pile.table, classes=model.classes)) == len(read(pile.table))
    with pytest.raises(InputError, match="expected predictions of the classes Crops, Grass in .*, got those of"):
        read(pile.table, classes=["Crops", "Grass"])


def test_a_reader_sees_the_old_table_until_the_new_one_is_finished(spark, model, pile, monkeypatch):
    _, before = pile.score(spark, model)
    (pile.folder / "00011.png").write_bytes(tiny.picture(5000))
    pile.write()
    monkeypatch.setattr(tables, "finish", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
    with pytest.raises(KeyboardInterrupt):
        scoring.score(spark, pile.store, model, pile.table)
    monkeypatch.undo()
    assert read(pile.table).equals(before)
    assert pile.score(spark, model)[0] == 0 and not read(pile.table).equals(before)


def first_unit_alone(monkeypatch):
    plain = scoring.units

    def first(*arguments):
        units, damaged = plain(*arguments)
        return dict(list(units.items())[:1]), damaged

    monkeypatch.setattr(scoring, "units", first)


def torment(monkeypatch, **environment):
    monkeypatch.setattr(scoring, "score_unit", faulty.on_workers(scoring.score_unit, **environment))


def test_an_engine_that_crashes_with_every_tile_stops_the_job(spark, pile, tmp_path, monkeypatch):
    """No row is written, and the next job goes on."""
    other = tiny.model(tmp_path / "other", seed=2)
    pile.own_files()
    first_unit_alone(monkeypatch)
    torment(monkeypatch, TORMENT="crash")
    with pytest.raises(InputError, match="expected scores from the engine onnxruntime, but it ended with status -11 on "
                                         "4 tiles in a row"):
        scoring.score(spark, pile.store, other, pile.table)
    assert not work.names(pile.table)


def test_an_engine_that_fails_with_every_tile_stops_the_job(spark, pile, tmp_path):
    """A bug is no table of errors."""
    broken = tiny.model(tmp_path / "broken", scale=float("nan"))
    with pytest.raises(InputError, match=r"the engine onnxruntime, but it failed with all \d+ tiles of a unit: expected a "
                                         "score, got values that are not numbers"):
        scoring.score(spark, pile.store, broken, pile.table)
    with pytest.raises(InputError, match="expected a finished prediction table"):
        read(pile.table)


def test_rows_of_two_engines_are_refused(spark, model, pile, monkeypatch):
    """Some workers with a GPU, some without."""
    pile.own_files()
    torment(monkeypatch, FAULTY_NAME="onnxruntime-cuda")
    with pytest.raises(InputError, match="expected rows of one engine, got onnxruntime and onnxruntime-cuda"):
        first_unit_alone(monkeypatch)
        scoring.score(spark, pile.store, model, pile.table)
        monkeypatch.undo()
        scoring.score(spark, pile.store, model, pile.table)


@pytest.mark.parametrize("phase", ["read", "decode", "network", "write"])
def test_where_the_time_went(spark, model, pile, monkeypatch, phase):
    """Each phase made slow by 30 ms a tile, on the driver's own call of the function that workers run."""
    units, _ = scoring.units(pile.store, tilestore.partitions(pile.store), model.checksum, "onnxruntime")
    shipped = scoring.ship(spark, model)
    class Here:
        """Scores in this process, so that its parts can be made slow."""

        def score(self, images, tile_px):
            found = score_images(images, model, network, tile_px)
            return found._replace(seconds=dict(found.seconds, load=0.0))

    network = engines.load(model, "onnxruntime")
    monkeypatch.setattr(scoring.guard, "kept", lambda *_: Here())
    if phase == "decode":
        plain = pictures.decode
        monkeypatch.setattr("helpers.scoring.batch.decode", lambda *a: (time.sleep(0.03), plain(*a))[1])
    elif phase == "network":
        plain_score = network.score
        network.score = lambda tiles: (time.sleep(0.03 * len(tiles)), plain_score(tiles))[1]
    elif phase == "read":
        plain_batches = pq.ParquetFile.iter_batches
        monkeypatch.setattr(pq.ParquetFile, "iter_batches", lambda *a, **o: (
            (time.sleep(0.03 * len(batch)), batch)[1] for batch in plain_batches(*a, **o)))
    else:
        plain_write = work.write
        monkeypatch.setattr(work, "write", lambda table, *a: (time.sleep(0.03 * len(table)), plain_write(table, *a)))
    spent = dict.fromkeys(("read", "decode", "network", "write"), 0.0)
    for name, unit in units.items():
        report = work._do(name, unit, lambda one: scoring.score_unit(
            one, shipped, model.checksum, "onnxruntime", 1, "job"), pile.table)
        for stage, seconds in report["seconds"].items():
            spent[stage] = spent.get(stage, 0) + seconds
    assert spent[phase] >= 2.6 and max(s for name, s in spent.items() if name != phase) < 1.5, spent


def test_a_store_that_names_a_tile_twice(spark, model, pile):
    folder = pile.own_files()
    shutil.copy(folder / "part-0.parquet", folder / "part-9.parquet")
    tilestore.write_manifest(pile.store, "pile", 0, tiles=TILES + 30)
    with pytest.raises(InputError, match="twice"):
        scoring.score(spark, pile.store, model, pile.table)
    rows = pq.read_table(folder / "part-0.parquet", partitioning=None)
    (folder / "part-9.parquet").unlink()
    pq.write_table(pa.concat_tables([rows.slice(0, 29), rows.slice(0, 1)]), folder / "part-0.parquet")
    tilestore.write_manifest(pile.store, "pile", 0, tiles=TILES)
    with pytest.raises(InputError, match="00000.png twice"):
        scoring.score(spark, pile.store, model, pile.table)


def broken_manifest(pile, text):
    Path(tilestore.partition_folder(pile.store, "pile", 0), "_manifest.json").write_text(text)


def deep_table(pile):
    Path(pile.table).mkdir()
    Path(pile.table, "_table.json").write_text("[" * 100_000)


MISTAKES = {
    "a manifest of another number": (lambda pile: tilestore.write_manifest(pile.store, "pile", 0, tiles=91), "",
                                     "expected 91 tiles of county pile, year 0 .* got 90"),
    "a manifest that is cut off": (lambda pile: broken_manifest(pile, '{"tiles": '), "",
                                   "expected a manifest with county, year, tiles and classes at .*, got one that is cut off"),
    "a manifest that is nested too deep": (lambda pile: broken_manifest(pile, "[" * 100_000), "",
                                           "expected a manifest with county, year, tiles and classes at .*, got one that is cut"),
    "a table that is nested too deep": (deep_table, "",
                                        "got a _table.json of another program"),
    "a manifest without tiles": (lambda pile: broken_manifest(pile, '{"county": "pile", "year": 0}'), "",
                                 "expected a manifest .* got one without 'tiles'"),
    "a manifest of words": (lambda pile: broken_manifest(pile, '{"county": "pile", "year": 0, "tiles": "many", "classes": []}'), "",
                            "expected a manifest .* got one with other kinds of values"),
    "a table that is a file": (lambda pile: Path(pile.table).write_text("mine"), "",
                               "expected the folder of a prediction table, or none, at .*, got a file"),
    "a table below a file": (lambda pile: Path(pile.table).write_text("mine"), "/table",
                             "expected a folder to write a prediction table to at .*, got: Not a directory"),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_mistakes_are_told_in_one_sentence(spark, model, pile, mistake):
    make, below, sentence = MISTAKES[mistake]
    make(pile)
    with pytest.raises(InputError, match=sentence) as told:
        scoring.score(spark, pile.store, model, pile.table + below)
    assert "\n" not in str(told.value)


def test_a_name_with_a_line_end_is_told_on_one_line(spark, model, pile):
    (pile.folder / "a\nb.png").write_bytes(b"none")
    pile.write()
    pile.score(spark, model)
    assert r"  unreadable, 'a\nb.png': expected" in as_text(summary(pile.table))


def damage(path, what):
    if what == "gone":
        return path.unlink()
    position, content = -4, b"XXXX"
    if what in ("image", "tile_id"):
        group = pq.ParquetFile(path).metadata.row_group(0)
        column = next(group.column(i) for i in range(group.num_columns) if group.column(i).path_in_schema == what)
        position, content = column.dictionary_page_offset or column.data_page_offset, b"\xff" * 40
    if what == "footer":
        # Its length and the magic word stay.
        position, content = -60, b"\xff" * 40
    with open(path, "r+b") as file:
        file.seek(position, os.SEEK_SET if position > 0 else os.SEEK_END)
        file.write(content)


@pytest.mark.parametrize("what", ["end", "footer", "image"])
def test_a_damaged_file_of_the_store_stops_no_other_tile(spark, model, pile, what):
    folder = pile.own_files()
    kept, times = (folder / "part-1.parquet").read_bytes(), os.stat(folder / "part-1.parquet")
    damage(folder / "part-1.parquet", what)
    for _ in range(2):
        with pytest.raises(DamagedFile, match="expected the files of the tile store .* to be unchanged, got 1 damaged: "
                                              "county=pile/year=0/part-1.parquet. All other tiles have their row"):
            scoring.score(spark, pile.store, model, pile.table)
        with pytest.raises(InputError, match="expected a finished prediction table"):
            read(pile.table)
        rows = pa.concat_tables([pq.read_table(path, partitioning=None) for path in Path(pile.table).rglob("*.parquet")])
        assert sorted(rows["tile_id"].to_pylist()) == [f"{i:05d}.png" for i in range(TILES) if i // 30 != 1]
    (folder / "part-1.parquet").write_bytes(kept)
    os.utime(folder / "part-1.parquet", ns=(times.st_atime_ns, times.st_mtime_ns))
    assert pile.score(spark, model)[0] == 30


@pytest.mark.parametrize("what", ["end", "tile_id"])
def test_a_damaged_file_of_the_table_is_named(spark, model, pile, what):
    pile.score(spark, model)
    file = next(Path(pile.table).rglob("*.parquet"))
    damage(file, what)
    with pytest.raises(InputError, match=f"but {file.name} is missing or damaged. Delete it and run the same command"):
        read(pile.table)
    if what == "end":
        with pytest.raises(InputError, match=f"but {file.name} is missing or damaged. Delete it and run the same command"):
            scoring.score(spark, pile.store, model, pile.table)
    file.unlink()
    assert 0 < pile.score(spark, model)[0] < TILES


def test_a_file_of_the_store_that_is_gone(spark, model, pile):
    damage(pile.own_files() / "part-1.parquet", "gone")
    with pytest.raises(InputError, match="expected 90 tiles of county pile, year 0 .* got 60"):
        scoring.score(spark, pile.store, model, pile.table)


def test_a_picture_of_300_mb_costs_one_row(spark, model, pile):
    with open(pile.folder / "00007.png", "wb") as file:
        file.write(b"\x89PNG\r\n\x1a\n")
        file.truncate(300 << 20)
    pile.write()
    _, table = pile.score(spark, model)
    assert table.set_index("tile_id")["error_kind"].dropna().to_dict() == {"00007.png": "too_large"}


def test_large_pictures_travel_in_small_batches(spark, model, pile):
    noise = np.random.default_rng(0).bytes(pictures.MAX_BYTES - 8)
    for number in (7, 8, 9, 40, 41):
        (pile.folder / f"000{number:02d}.png").write_bytes(b"\x89PNG\r\n\x1a\n" + noise)
    pile.write()
    units, _ = scoring.units(pile.store, tilestore.partitions(pile.store), model.checksum, "onnxruntime")
    assert min(unit["batch_tiles"] for unit in units.values()) < min(16, scoring.BATCH_TILES)
    _, table = pile.score(spark, model)
    assert table["error_kind"].value_counts().to_dict() == {"unreadable": 5}


def test_the_summary_counts_and_shows_examples(spark, model, pile):
    for number in range(5):
        (pile.folder / f"0000{number}.png").write_bytes(b"")
    (pile.folder / "00050.png").write_bytes(encode(np.zeros((2, 2, 3), np.uint8)))
    pile.write()
    _, table = pile.score(spark, model)
    found = summary(pile.table)
    assert found["errors"]["unreadable"]["tiles"] == 5 and len(found["errors"]["unreadable"]["examples"]) == 3
    assert [one["tile_id"] for one in found["errors"]["wrong_size"]["examples"]] == ["00050.png"]
    counts = table["class_id"].value_counts()
    assert found["classes"] == {name: int(counts.get(i, 0)) for i, name in enumerate(model.classes)}
    assert found["tiles"] == TILES == sum(found["classes"].values()) + 6
    assert set(found["slot_seconds"]) == {"load", "read", "decode", "network", "write"}
    assert min(found["slot_seconds"].values()) >= 0
    assert "Errors: unreadable 5, wrong_size 1\n  unreadable, 00000.png: expected a whole picture" in as_text(found)


def test_the_bar_counts_tiles(spark, model, pile, capsys):
    (pile.folder / "00007.png").write_bytes(b"")
    pile.write()
    pile.score(spark, model)
    assert f"scoring: {TILES} of {TILES} tiles, " in (said := capsys.readouterr().err) and ", 1 errors, " in said
    pile.score(spark, model)
    assert capsys.readouterr().err == "scoring: nothing new\n"


def test_two_jobs_of_two_models_that_start_at_the_same_moment(model, pile, tmp_path):
    """Of processes that begin together one gets the folder, again and again; the same model may always."""
    other = tiny.model(tmp_path / "other", seed=1)
    program = ("import sys; from helpers import InputError; from helpers.scoring import table\n"
               "print('ready', flush=True); sys.stdin.readline()\n"
               "try: table.begin(sys.argv[1], sys.argv[2], 'onnxruntime', 'abcdef'); print('began')\n"
               "except InputError as error: print('refused')")
    for attempt in range(3):
        jobs = [(checksum, subprocess.Popen([sys.executable, "-c", program, str(tmp_path / f"table{attempt}"), checksum],
                                            text=True, stdin=subprocess.PIPE, stdout=subprocess.PIPE))
                for checksum in (model.checksum, other.checksum, model.checksum, other.checksum)]
        for _, job in jobs:
            assert job.stdout.readline() == "ready\n"
        for _, job in jobs:
            job.stdin.write("\n")
            job.stdin.flush()
        answers = {}
        for checksum, job in jobs:
            answers.setdefault(checksum, set()).add(job.communicate()[0])
        assert sorted(map(sorted, answers.values())) == [["began\n"], ["refused\n"]]

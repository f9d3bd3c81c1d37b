"""The command that scores: two at once, stopped by hand, the same one again; the table as CSV."""

import argparse
import csv
import os
import signal
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pyarrow as pa
import pytest

import score_tiles
import tiny
from helpers import DamagedFile, InputError
from helpers.cluster import work
from helpers.scoring import table
from helpers.tiles.folder import write_images
from servers import wait_until

REPOSITORY = Path(__file__).resolve().parents[2]
TILES = 400


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Tiles and a model."""
    folder = tmp_path_factory.mktemp("scored")
    tiny.pictures(folder / "pictures", range(TILES))
    write_images(folder / "pictures", str(folder / "tiles"))
    tiny.model(folder / "model")
    return folder


def command(folder, *options):
    return subprocess.Popen(
        [sys.executable, str(REPOSITORY / "setup_scripts" / "score_tiles.py"), str(folder / "tiles"),
         str(folder / "model"), str(folder / "table"), "--master", "local[1]", *options], cwd=REPOSITORY, text=True,
        stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        env=dict(os.environ, PYTHONPATH=str(REPOSITORY), PYTHONIOENCODING="ascii"))


def test_two_at_once_one_stopped_by_hand_and_run_again(folder):
    first, second = command(folder, "--log", str(folder / "log")), command(folder)
    wait_until(lambda: list((folder / "table").glob("county=*/year=*/*.parquet")), first)
    first.send_signal(signal.SIGINT)
    said, error = first.communicate(timeout=240)
    assert first.returncode == 130, error
    assert "Stopped. Run the same command again, and it goes on where it was." in error.splitlines()
    assert "Traceback" not in error
    said, error = second.communicate(timeout=240)
    assert second.returncode == 0 and f"{TILES} in the table" in said, error

    spreadsheet = folder / "größe.csv"
    again = command(folder, "--csv", str(spreadsheet))
    said, error = again.communicate(timeout=240)
    assert again.returncode == 0 and f"Nothing new: all {TILES} tiles already have a row." in said, error
    # What an output of ASCII alone lacks is written as an escape.
    assert said.splitlines()[-1] == f"For a spreadsheet: {spreadsheet}".replace("ö", "\\xf6").replace("ß", "\\xdf")
    rows, written = table.read(str(folder / "table")), pd.read_csv(spreadsheet, dtype={"county": str})
    assert len(rows) == TILES and rows["tile_id"].is_unique
    written = written.sort_values("tile_id", ignore_index=True)
    assert (written["tile_id"] == rows["tile_id"]).all() and (written["county"] == rows["county"]).all()
    assert [list("abcdef").index(name) for name in written["class"]] == rows["class_id"].tolist()
    probabilities = written[[f"probability {name}" for name in "abcdef"]].to_numpy("float32")
    assert (probabilities == rows["probabilities"].tolist()).all()
    log = (folder / "log").read_text()
    assert "job begins" in log and "\nTraceback" not in log


# ---- the table as CSV

CLASSES = ["Forest", "=1+1", 'a "quoted", b']
IDS = ["plain", "=1+1", "+1", "-1", "@sum", " =1+1", "a × b", 'with "quotes", and\na line']


def rows_of(ids):
    probabilities = [[0.1, 0.2, 0.7]] * (len(ids) - 1) + [None]
    return pa.table([ids, ["m"] * len(ids), ["e"] * len(ids), [2] * (len(ids) - 2) + [1, None], probabilities,
                     [None] * (len(ids) - 1) + ["unreadable"], [None] * (len(ids) - 1) + ["-: not a picture"]],
                    schema=table.SCHEMA)


@pytest.fixture
def finished(tmp_path):
    """A finished table of two files."""
    uri, units = str(tmp_path / "table"), {}
    table.begin(uri, "m", "e", CLASSES)
    for county, year, ids in (("06065", 2010, IDS), ("99007", 2016, ["a", "b"])):
        units[work.name(f"county={county}/year={year}", ids)] = rows_of(ids)
    for name, rows in units.items():
        work.write(rows, table.facts_of(rows), uri, name)
    table.finish(uri, {"units": list(units)}, ())
    return uri


def test_a_table_as_csv(finished, tmp_path):
    path = tmp_path / "new folder" / "table.csv"
    score_tiles.write_csv(finished, CLASSES, path)
    assert path.read_bytes().startswith(b"\xef\xbb\xbf")
    with open(path, encoding="utf-8-sig", newline="") as file:
        header, *rows = csv.reader(file)
    assert header == ["tile_id", "county", "year", "class", "probability Forest", "probability =1+1",
                      'probability a "quoted", b', "error_kind", "error"]
    assert rows[0] == ["plain", "06065", "2010", 'a "quoted", b', "0.1", "0.2", "0.7", "", ""]
    assert rows[6][3] == "'=1+1" and rows[7][1:] == ["06065", "2010", "", "", "", "", "unreadable", "'-: not a picture"]
    assert [row[0] for row in rows[:8]] == ["plain", "'=1+1", "'+1", "'-1", "'@sum", "' =1+1", *IDS[6:]]
    assert [row[:3] for row in rows[8:]] == [["a", "99007", "2016"], ["b", "99007", "2016"]]
    assert not [cell for row in rows for cell in row if cell[:1] in tuple("=+-@\t")]


def test_a_csv_file_is_written_whole_or_not_at_all(finished, tmp_path):
    path = tmp_path / "table.csv"
    path.write_text("of an earlier table")
    damaged = Path(table.files(finished)[1][2])
    damaged.write_bytes(damaged.read_bytes()[:-100])
    with pytest.raises(DamagedFile, match=damaged.name):
        score_tiles.write_csv(finished, CLASSES, path)
    assert path.read_text() == "of an earlier table" and list(tmp_path.glob("*.csv*")) == [path]
    assert not list(tmp_path.glob(".*.part"))


@pytest.mark.parametrize("name", [".", "abfss://tables@lake.dfs.core.windows.net/table.csv"])
def test_a_csv_file_is_a_file_on_this_machine(name):
    with pytest.raises(argparse.ArgumentTypeError, match="expected a file on this machine, got"):
        score_tiles.csv_path(name)


def test_a_log_in_a_missing_folder_ends_in_one_sentence(tmp_path):
    with pytest.raises(InputError, match="expected a file that can be written for --log, got .*/no/such.log"):
        score_tiles.main(["tiles", "model", "table", "--log", str(tmp_path / "no" / "such.log")])

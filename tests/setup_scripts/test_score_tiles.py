"""The command that scores: the same one again, two at once, stopped by hand."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

import tiny
from helpers.scoring.table import read
from helpers.tiles.folder import write_images

REPOSITORY = Path(__file__).resolve().parents[2]
TILES = 400


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    folder = tmp_path_factory.mktemp("place")
    tiny.pictures(folder / "place", range(TILES))
    write_images(folder / "place", str(folder / "tiles"))
    tiny.model(folder / "model")
    return folder


def command(place, *options):
    return subprocess.Popen(
        [sys.executable, str(REPOSITORY / "setup_scripts" / "score_tiles.py"), str(place / "tiles"),
         str(place / "model"), str(place / "table"), "--master", "local[1]", *options], cwd=REPOSITORY, text=True,
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=dict(os.environ, PYTHONPATH=str(REPOSITORY)))


def test_two_at_once_stopped_by_hand_and_run_again(place):
    first = command(place, "--chunk-tiles", "10", "--log", str(place / "log"))
    state, deadline = place / "table" / "_scoring" / "table.json", time.monotonic() + 120
    while not (state.exists() and json.loads(state.read_text())["chunks"]):
        assert first.poll() is None and time.monotonic() < deadline
        time.sleep(0.1)
    # Stopped, so that it is there for as long as the second one looks.
    first.send_signal(signal.SIGSTOP)
    second = command(place)
    said, error = second.communicate(timeout=120)
    first.send_signal(signal.SIGCONT)
    assert second.returncode == 2 and said == ""
    assert error.splitlines()[-1].startswith("expected to be the only job that writes the prediction table")
    assert "0 of 0" not in error and "Traceback" not in error
    first.send_signal(signal.SIGINT)
    said, error = first.communicate(timeout=120)
    assert first.returncode == 130, error
    assert error.splitlines()[-1] == "Stopped. Run the same command again, and it goes on where it was."
    assert "Traceback" not in error
    for wanted in ("400 in the table", "Nothing new: all 400 tiles have their row."):
        again = command(place)
        said, error = again.communicate(timeout=120)
        assert again.returncode == 0 and wanted in said, error
    table = read(place / "table")
    assert len(table) == TILES and table["tile_id"].is_unique
    assert "job stopped" in (place / "log").read_text() and "\nTraceback" not in (place / "log").read_text()

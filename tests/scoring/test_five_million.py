"""Five million tiles: the driver lists, scores and resumes them its Python in less than 1 GB. It never holds the tiles.

    setup_scripts/run_tests.sh tests/scoring/test_five_million.py -m slow

Each step is a process of its own. What it took goes to ``five_million.json``: seconds, the most memory of the driver's
Python, and of its Java. The executors write rows, but no network computes them.
"""

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

import tiny
from helpers.cluster import session, work
from helpers.files import write_json
from helpers.model import bundle
from helpers.scoring import score as scoring, table
from helpers.scoring.batch import Row, Scored
from helpers.tiles import store

COUNTIES, TILES, FILE_TILES = 50, 100_000, 1024
RESULTS = Path(__file__).with_name("five_million.json")


def ids(numbers):
    return pa.array([f"utm19-{number:011d}" for number in numbers])


def write_own(uri):
    """A store as preparation writes it. Its counties share their files: the driver reads each of them all the same."""
    first = Path(store.partition_folder(uri, "00", 2010))
    for start in range(0, TILES, FILE_TILES):
        names = ids(range(start, min(start + FILE_TILES, TILES)))
        tiles = pa.table({"tile_id": names, "image": pa.array([b"x"] * len(names))})
        work.write(tiles, {"group_rows": FILE_TILES, "pictures": [f"{start:064x}"]}, str(first), f"{start:020x}")
    files = sorted(path.name for path in first.iterdir())
    for county in (f"{number:02d}" for number in range(COUNTIES)):
        folder = Path(store.partition_folder(uri, county, 2010))
        folder.mkdir(parents=True, exist_ok=True)
        for name in files if folder != first else ():
            os.link(first / name, folder / name)
        store.write_manifest(uri, county, 2010, tiles=TILES, files=files)


def write_foreign(uri):
    """The most that a store of another program can ask for: one county, and ids that say nothing of their file."""
    folder = Path(store.partition_folder(uri, "00", 2010))
    folder.mkdir(parents=True)
    for number, numbers in enumerate(np.random.default_rng(0).permutation(COUNTIES * TILES).reshape(COUNTIES, TILES)):
        pq.write_table(pa.table({"tile_id": ids(numbers), "image": pa.array([b"x"] * TILES)}),
                       folder / f"part-{number:02d}.parquet", row_group_size=10_000)
    store.write_manifest(uri, "00", 2010, tiles=COUNTIES * TILES)


def rows_of(unit, model, engine, **_):
    """What ``score_unit`` makes of a unit, without pictures."""
    names = pq.ParquetFile(unit["uri"]).read_row_group(unit["group"], ["tile_id"])["tile_id"]
    found = Scored([Row(0, [1.0] * 6, None, None)] * len(names), engine, {})
    rows = scoring._rows(names, found, model)
    return rows, table.facts_of(rows), {}


def peak_mb(process="self"):
    status = Path(f"/proc/{process}/status").read_text()
    return int(status.partition("VmHWM:")[2].split()[0]) / 1000


def step(name, folder):
    """One step, in a process of its own: its seconds, tiles and memory."""
    import psutil
    uri, found = f"{folder}/{'foreign' if name == 'list foreign' else 'own'}", {}
    spark = session.start("local[2]", name) if not name.startswith("list") else None
    started = time.monotonic()
    if spark is None:
        units, _ = scoring.units(uri, store.partitions(uri), "model", "onnxruntime")
        found["tiles"] = sum(unit["tiles"] for unit in units.values())
    else:
        scoring.score_unit = rows_of
        found["tiles"] = scoring.score(spark, uri, bundle.load(f"{folder}/model"), f"{folder}/table", "onnxruntime")
        found["scored_now"] = table.summary(f"{folder}/table")["scored_now"]
        found["java_mb"] = round(max(peak_mb(child.pid) for child in psutil.Process().children(recursive=True)
                                     if child.name() == "java"))
    found.update(seconds=round(time.monotonic() - started, 1), driver_mb=round(peak_mb()))
    if spark is not None:
        session.stop(spark)
    print(json.dumps(found))


@pytest.mark.slow
def test_the_driver_of_five_million_tiles(tmp_path):
    write_own(str(tmp_path / "own"))
    write_foreign(str(tmp_path / "foreign"))
    tiny.model(tmp_path / "model")

    def take(name):
        done = subprocess.run([sys.executable, __file__, name, str(tmp_path)], capture_output=True, text=True,
                              env=dict(os.environ, PYTHONPATH=os.pathsep.join(sys.path)))
        assert done.returncode == 0, done.stderr[-2000:]
        return json.loads(done.stdout.splitlines()[-1])

    found = {name: take(name) for name in ("list", "list foreign", "score", "resume")}
    # A file of one county changes, and a tenth of the table is lost.
    changed = next((tmp_path / "own").rglob("*.parquet"))
    tiles = pq.read_table(changed, partitioning=None)
    changed.unlink()
    work.write(tiles, {"group_rows": FILE_TILES, "pictures": ["f" * 64]}, str(changed.parent), changed.stem)
    lost = sorted((tmp_path / "table").rglob("*.parquet"))[::10]
    lost_tiles = sum(pq.read_metadata(path).num_rows for path in lost)
    for path in lost:
        path.unlink()
    found["resume after a change"] = take("resume after a change")
    print(json.dumps(found, indent=1))
    write_json(RESULTS, found)
    assert {one["tiles"] for one in found.values()} == {COUNTIES * TILES}
    assert [one.get("scored_now") for one in found.values()][2:4] == [COUNTIES * TILES, 0]
    assert abs(found["resume after a change"]["scored_now"] - lost_tiles) <= FILE_TILES < lost_tiles
    assert max(one["driver_mb"] for one in found.values()) < 1000
    assert max(one["seconds"] for name, one in found.items() if name.startswith("list")) < 60


if __name__ == "__main__":
    step(*sys.argv[1:])

"""Driver, executor, Spark worker, Python worker and the process that scores, killed at random: no tile is lost.

    setup_scripts/run_tests.sh tests/cluster/test_kills.py -m slow

``KILLS`` says how many; ``CLUSTER_RESULTS=write`` keeps the counts in ``kills.json``.
"""

import collections
import os
import random
import time
from pathlib import Path

import numpy as np
import psutil
import pytest

import tiny
from helpers.files import write_json
from helpers.scoring.table import read
from helpers.tiles.folder import write_images
from test_cluster import Cluster, Driver

KILLS, TILES = int(os.environ.get("KILLS", "36")), 960
VICTIMS = ("driver", "executor", "Python worker", "scorer", "Spark worker")


def victim(kind, cluster, driver):
    if kind == "driver":
        return driver.process_info()
    if kind == "Spark worker":
        return cluster.process("worker-1")
    found = {"executor": cluster.executors, "Python worker": cluster.python_workers, "scorer": cluster.scorers}[kind]()
    return random.choice(found) if found else None


@pytest.mark.slow
def test_random_kills(tmp_path):
    random.seed(int(os.environ.get("KILLS_SEED", "0")))
    cluster = Cluster(tmp_path)
    cluster.start()
    tiny.pictures(tmp_path / "pile", range(TILES))
    write_images(tmp_path / "pile", str(tmp_path / "tiles"))
    tiny.model(tmp_path / "model")
    asked = {"tiles": str(tmp_path / "tiles"), "model": str(tmp_path / "model")}
    drivers = [Driver(cluster, tmp_path / "scored-0")]
    drivers[0].ask(**asked, predictions_uri=str(tmp_path / "undisturbed"))
    drivers[0].answer()
    expected = read(tmp_path / "undisturbed")
    killed, lost, doubled, left, again, round_ = collections.Counter(), 0, 0, set(), [], 0
    while sum(killed.values()) < KILLS:
        round_ += 1
        table, driver = tmp_path / f"table-{round_}", drivers[-1]
        driver.forget()
        driver.ask(**asked, predictions_uri=str(table))
        alive, before = True, 0
        for _ in range(random.choice([1, 2])):
            time.sleep(random.uniform(0.5, 4))
            kind = random.choice(VICTIMS)
            chosen = victim(kind, cluster, driver)
            if chosen is None or len(driver.scored()) >= TILES:
                break
            try:
                chosen.kill()
            except psutil.NoSuchProcess:
                continue
            killed[kind] += 1
            if kind == "Spark worker":
                cluster.start()
            if kind == "driver":
                alive = False
                break
        if not alive:
            driver.close()
            before = len(driver.scored())
            drivers.append(Driver(cluster, tmp_path / f"scored-{round_}"))
            drivers[-1].ask(**asked, predictions_uri=str(table))
        drivers[-1].answer()
        if not alive:
            again.append(before + len(drivers[-1].scored()) - TILES)
        rows = read(table)
        lost += len(set(expected["tile_id"]) - set(rows["tile_id"]))
        doubled += int(rows["tile_id"].duplicated().sum())
        assert rows.drop(columns="probabilities").equals(expected.drop(columns="probabilities"))
        assert np.allclose(np.stack(rows["probabilities"]), np.stack(expected["probabilities"]), atol=1e-6)
        left |= {path.name for path in table.rglob("*") if path.is_file() and path.name not in (
            "_table.json", "_manifest.json") and not path.name.endswith(".parquet")}
        left |= {path.name for path in table.rglob(".*.part")}
    family = cluster.family() + [child for driver in drivers for child in (
        psutil.Process(driver.process.pid).children(recursive=True) if driver.process.poll() is None else [])]
    drivers[-1].close()
    cluster.command("stop")
    time.sleep(2)
    processes = [one for one in family if one.is_running() and one.status() != psutil.STATUS_ZOMBIE]
    result = {"kills": dict(killed), "rounds": round_, "tiles_lost": lost, "tiles_doubled": doubled,
              "files_left": len(left), "processes_left": len(processes),
              "scored_again_after_a_driver_died": {"most": max(again, default=0), "times": len(again)}}
    print(result)
    if os.environ.get("CLUSTER_RESULTS") == "write":
        write_json(Path(__file__).with_name("kills.json"), result)
    assert (lost, doubled, left, processes) == (0, 0, set(), [])

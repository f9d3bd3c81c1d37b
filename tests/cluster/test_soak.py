"""Twenty minutes of scoring in one session: memory, file handles and processes stay what they were.

What counts is resident memory as the system sees it, its median over the third minute and over the last. What Java says
of itself is noted beside it: the heap in use and committed, what it takes beside the heap, and its threads.

    setup_scripts/run_tests.sh tests/cluster/test_soak.py -m soak

``SOAK_MINUTES`` makes it shorter, for a look. What it measured goes to ``tests/cluster/soak.json``.
"""

import json
import os
import shutil
import statistics
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from helpers.cluster import session
from helpers.model import bundle
from helpers.scoring import score as scoring
from helpers.tiles import store as tilestore
from helpers.runs import Run

REPOSITORY = Path(__file__).resolve().parents[2]
MINUTES = float(os.environ.get("SOAK_MINUTES") or 20)
# The first jobs start workers and fill caches.
SETTLED = min(2.0, MINUTES / 4)


def soak(table):
    """Score the sample's tiles again and again; a line of figures after each time."""
    run = Run("sample")
    model = bundle.load(run.models / "tensorflow")
    part = tilestore.partitions(run.tiles)[0]
    spark = session.start("local[2]", "soak")
    started = time.monotonic()
    while time.monotonic() - started < 60 * MINUTES:
        shutil.rmtree(table, ignore_errors=True)
        rows = scoring.score(spark, str(run.tiles), model, table, county=part["county"], years=[part["year"]])
        family = {"driver": [psutil.Process()], "java": [], "workers": []}
        for child in psutil.Process().children(recursive=True):
            family["java" if child.name() == "java" else "workers"].append(child)
        figures = {"minutes": (time.monotonic() - started) / 60, "tiles": rows}
        for name, processes in family.items():
            # What a fork shares with its parent counts once.
            figures[name + "_mb"] = sum(p.memory_full_info().pss if hasattr(p.memory_full_info(), "pss")
                                        else p.memory_info().rss for p in processes) / 2 ** 20
            figures[name + "_handles"] = sum(p.num_fds() for p in processes)
            figures[name + "_processes"] = len(processes)
        figures.update(of_java(spark))
        print(json.dumps(figures), flush=True)
    children = [child.pid for child in psutil.Process().children(recursive=True)]
    session.stop(spark)
    print(json.dumps({"children": children}), flush=True)
    sys.stdin.readline()


def of_java(spark):
    beans = spark._jvm.java.lang.management.ManagementFactory
    heap, beside = beans.getMemoryMXBean().getHeapMemoryUsage(), beans.getMemoryMXBean().getNonHeapMemoryUsage()
    return {"heap_used": heap.getUsed() >> 20, "heap_committed": heap.getCommitted() >> 20,
            "beside_heap": beside.getCommitted() >> 20, "java_threads": beans.getThreadMXBean().getThreadCount()}


def medians(lines):
    """Of each figure over some lines."""
    return {name: statistics.median(line[name] for line in lines) for name in lines[0]
            if name not in ("minutes", "tiles")}


@pytest.mark.soak
def test_twenty_minutes(tmp_path):
    run = Run("sample")
    if not (run.models / "tensorflow" / "model.json").exists():
        pytest.skip("no bundle in runs/sample: execute the notebooks first")
    job = subprocess.Popen([sys.executable, __file__, str(tmp_path / "table")], cwd=REPOSITORY, text=True,
                           stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    lines = []
    for line in job.stdout:
        lines.append(json.loads(line))
        if "children" in lines[-1]:
            break
    children = lines.pop()["children"]
    job.communicate("\n", timeout=60)
    assert job.returncode == 0
    time.sleep(2)
    left = [pid for pid in children if psutil.pid_exists(pid)]
    last_minute = lines[-1]["minutes"] - 1
    first = medians([line for line in lines if SETTLED <= line["minutes"] < SETTLED + 1])
    last = medians([line for line in lines if line["minutes"] >= last_minute])
    growth = {name: last[name] / first[name] - 1 for name in last if name.endswith("_mb")}
    figures = {"minutes": round(lines[-1]["minutes"], 1), "jobs": len(lines),
               "tiles": sum(line["tiles"] for line in lines),
               "after_two_minutes": {name: round(value) for name, value in first.items()},
               "at_the_end": {name: round(value) for name, value in last.items()},
               "growth": {name: round(share, 3) for name, share in growth.items()}, "orphans": len(left)}
    print(json.dumps(figures, indent=1))
    assert max(growth.values()) <= 0.1, growth
    for name in ("driver", "java", "workers"):
        assert last[name + "_processes"] == first[name + "_processes"]
        assert last[name + "_handles"] <= first[name + "_handles"] + 2, name
    assert left == []
    if MINUTES >= 20:
        Path(__file__).with_name("soak.json").write_text(json.dumps(figures, indent=1) + "\n")


if __name__ == "__main__":
    soak(sys.argv[1])

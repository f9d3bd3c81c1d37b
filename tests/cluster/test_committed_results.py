"""Committed files agree: the README's figures of survival, and those that the cluster's tests have written."""

import json
import re
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parents[2]
# The tests behind the rows of the table.
ROWS = {"an executor is killed": "test_an_executor_is_killed",
        "a Python worker is killed": "test_a_python_worker_is_killed",
        "the process that scores is killed": "test_the_process_that_scores_is_killed",
        "a Spark worker is killed, another started": "test_a_spark_worker_is_killed_and_another_started",
        "a worker stands still for 20 seconds": "test_a_worker_stands_still_for_twenty_seconds",
        "the disk is full; it is freed, and the job run again": "test_the_disk_is_full",
        "the driver is killed, and the same command run again":
            "test_the_driver_is_killed_and_the_same_command_run_again"}


def test_the_readme_says_what_the_committed_counts_say():
    measured = json.loads((REPOSITORY / "tests" / "cluster" / "cluster_results.json").read_text())
    table = dict(re.findall(r"^\| ([^|]+) \| 960 of 960[^|]*\| ([\d,]+)", (REPOSITORY / "README.md").read_text(), re.M))
    assert {name: measured[test] for name, test in ROWS.items()} == {name: table.get(name) for name in ROWS}


def test_the_readme_says_what_the_committed_kills_say():
    kills = json.loads((REPOSITORY / "tests" / "cluster" / "kills.json").read_text())
    said = " ".join((REPOSITORY / "README.md").read_text().split())
    assert f"{sum(kills['kills'].values())} random kills" in said and sum(kills["kills"].values()) >= 30
    assert (f"{kills['tiles_lost']} tiles lost, {kills['tiles_doubled']} doubled, {kills['files_left']} files and "
            f"{kills['processes_left']} processes left over") in said

"""Committed files agree: the README's figures of survival, and those that the cluster's tests have written."""

import json
import re
from pathlib import Path

from helpers.cluster import session
from helpers.scoring import cost

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
    assert (f"{kills['tiles_lost']} tiles were lost and {kills['tiles_doubled']} doubled; {kills['files_left']} files "
            f"and {kills['processes_left']} processes were left over") in said


def test_a_long_run_of_every_property_test_is_committed():
    counts = json.loads((REPOSITORY / "tests" / "fuzz.json").read_text())
    tests = [name for path in (REPOSITORY / "tests").rglob("test_*.py")
             for name in re.findall(r"^@many\n@[^@]*?^def (test_\w+)", path.read_text(), re.M)]
    assert len(tests) >= 9 and set(tests) == set(counts)
    assert min(one["examples"] for one in counts.values()) >= 5000


# Of HDInsight's page: worker nodes for each region. YARN is taken to offer 56 of a node's 64 GB.
NODES = (("Middlesex County", 3), ("Massachusetts", 4), ("conterminous US", 10), ("conterminous US", 40))
WORKER_MB = 56 * 1024


def capacity_table(rate, cents):
    """Rows of the page's table, from tiles a second on one core and from settings.sh's prices."""
    # Of the two executors of a node: each has four vCPUs, which count as two cores, and half of the node's network.
    executor = cost.Machine("half a Standard_E8ads_v5", 2, 0, 12.5e9 / 8 / 2)
    for region, nodes in NODES:
        tiles = cost.REGIONS[region]
        executors = session._executors([(8, WORKER_MB)] * nodes, (8 * nodes, WORKER_MB * nodes))[
            "spark.dynamicAllocation.initialExecutors"]
        hours = cost.capacity(tiles, rate, executor, executors, efficiency=cost.EFFICIENCY, start_s=1800)["hours"]
        dollars = hours * (nodes * cents["worker"] + 2 * cents["head"] + 3 * cents["zookeeper"]) / 100
        yield f"| {region} | {tiles:,} | {nodes} | {executors} | {hours:.1f} | {dollars:,.0f} |"


def test_the_clusters_page_says_what_the_capacity_model_says():
    results = min((REPOSITORY / "tests" / "benchmarks" / "results").glob("*.json"))  # of the first processor
    measured = json.loads(results.read_text())["cores"]
    folder = REPOSITORY / "setup_scripts" / "hdinsight"
    settings = (folder / "settings.sh").read_text()
    cents = {name: int(value) for name, value in re.findall(r"^(\w+)_cents=\$\{\w+:-(\d+)}", settings, re.M)}
    assert "worker_size:-Standard_E8ads_v5" in settings
    page, rate = (folder / "README.md").read_text(), measured["tiles_per_second"]["1"]
    rows = list(capacity_table(rate, cents))
    assert re.findall(r"^\| (?:%s) .*$" % "|".join({region for region, _ in NODES}), page, re.M) == rows
    said = " ".join(page.split())
    assert f": {rate:.0f} tiles a second on one core, with ResNet-50 in int8" in said
    assert f"The predicted time was {measured['capacity_model_over_measured']:.2f} times the measured" in said
    assert f"keep {cost.EFFICIENCY:.0%} of it" in said and f"offers {WORKER_MB // 1024} GB of its 64" in said
    terabytes = cost.REGIONS["conterminous US"] * cost.TILE_BYTES / 1e12
    dollars = terabytes * 1000 * cents["storage"] / 100
    assert f"are {terabytes:.1f} TB" in said and f"cost some {round(dollars, -1):.0f} dollars a month" in said

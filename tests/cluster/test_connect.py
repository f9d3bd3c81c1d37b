"""Spark Connect: a client without Java, as on Databricks' serverless clusters. The server is a process of this machine."""

import contextlib
import json
import select
import socket
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest

import scenes
import spark4
import tiny
import toy
from helpers.cluster import work
from helpers.land.catalog import Catalog
from helpers.scoring.score import score
from helpers.scoring.table import read
from helpers.tiles import store
from helpers.tiles.folder import write_images
from helpers.tiles.prepare import prepare
from servers import free_port, wait_until

ANSWER_S = 180
UNITS = toy.units(6)


class Driver:
    """A process of ``connect_job.py``: a driver, or a server."""

    def __init__(self, environment, *arguments):
        self.process = subprocess.Popen(
            [sys.executable, str(Path(__file__).with_name("connect_job.py")), *map(str, arguments)], env=environment,
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        assert self.answer() == "ready"

    def ask(self, job, **asked):
        self.process.stdin.write(json.dumps(dict(asked, job=job)) + "\n")
        self.process.stdin.flush()

    def answer(self):
        assert select.select([self.process.stdout], [], [], ANSWER_S)[0], f"no answer within {ANSWER_S} s"
        return json.loads(self.process.stdout.readline())

    def asked(self, job, **asked):
        self.ask(job, **asked)
        return self.answer()

    def end(self):
        """What a driver says last."""
        last = self.process.communicate(timeout=ANSWER_S)[0]
        assert self.process.returncode == 0
        return last


@contextlib.contextmanager
def running(*arguments):
    driver = Driver(*arguments)
    try:
        yield driver
    finally:
        driver.process.kill()
        driver.process.communicate()


@pytest.fixture(scope="module")
def environment():
    return spark4.environment()


@pytest.fixture(scope="module")
def server(environment):
    """Its address."""
    port = free_port()
    with running(environment, "serve", port) as process:
        yield f"sc://127.0.0.1:{port}"
        process.end()


@pytest.fixture(scope="module")
def drivers(environment, server):
    """Two drivers of one server."""
    with running(environment, server) as one, running(environment, server) as other:
        yield one, other
        assert one.end() == other.end() == "3\n"


@pytest.fixture(scope="module")
def classic(spark, tmp_path_factory):
    """The files of a classic session, of an older Spark."""
    folder = tmp_path_factory.mktemp("classic")
    work.run(spark, UNITS, toy.work(), str(folder))
    return toy.files(folder)


def test_a_session_passes_the_preflight_that_makes_sense(drivers):
    about, other = (driver.asked("about") for driver in drivers)
    assert about["failed"] == [] and about["version"].startswith("4.")
    assert about["checks"] == ["Python of the workers", "helpers on the workers", "packages of the workers", "Arrow",
                               "cores", "disk"]
    assert (about["slots"], about["threads"], about["master"]) == (2, 1, "connect")
    assert about["application"] != other["application"]


def test_a_server_that_the_environment_names_is_used(environment, server):
    program = ("from helpers.cluster import adapter, session\nspark = session.start()\n"
               "print(adapter.is_connect(spark), spark.range(9).count())")
    done = subprocess.run([sys.executable, "-c", program], env=dict(environment, SPARK_REMOTE=server), text=True,
                          stdout=subprocess.PIPE, timeout=ANSWER_S)
    assert done.stdout == "True 9\n"


def test_a_file_reaches_the_workers_of_each_session(drivers, tmp_path):
    assert [driver.asked("ship", folder=str(tmp_path)) for driver in drivers] == [["hello"] * 2] * 2


def test_units_give_the_files_of_a_classic_session(drivers, classic, tmp_path):
    assert drivers[0].asked("toy", folder=str(tmp_path)) == {"rows": 21, "failed": []}
    assert toy.log(tmp_path / "log") == Counter(UNITS.values()) and toy.files(tmp_path / "out") == classic
    assert drivers[1].asked("toy", folder=str(tmp_path)) == {"rows": 0, "failed": []}


def test_two_jobs_at_once_write_the_same_files(drivers, classic, tmp_path):
    for driver in drivers:
        driver.ask("toy", folder=str(tmp_path), pause_s=0.3)
    one, other = (driver.answer() for driver in drivers)
    assert one["failed"] == other["failed"] == [] and one["rows"] + other["rows"] >= 21
    assert toy.files(tmp_path / "out") == classic


def test_a_driver_that_is_killed_costs_the_units_in_flight(environment, server, drivers, classic, tmp_path):
    """The server may go on with what it has: then both do it."""
    with running(environment, server) as driver:
        driver.ask("toy", folder=str(tmp_path), pause_s=0.7)
        wait_until(lambda: len(work.names(str(tmp_path / "out"))) >= 2)
        driver.process.kill()
    assert work.names(str(tmp_path / "out")) != set(UNITS)
    again = drivers[0].asked("toy", folder=str(tmp_path))
    assert again["failed"] == [] and again["rows"] < 21 and toy.files(tmp_path / "out") == classic
    assert sum(toy.log(tmp_path / "log").values()) <= 6 + 2


def test_preparation_gives_the_files_of_a_classic_session(spark, drivers, tmp_path):
    (tmp_path / "county").mkdir()
    catalogue = scenes.write_county(tmp_path / "county")
    there = drivers[0].asked("prepare", catalogue=str(catalogue), uri=str(tmp_path / "there"))
    here = prepare(spark, Catalog(catalogue), "99001", 2010, "map", str(tmp_path / "here"))
    assert there == {"tiles": here["tiles"], "files": here["files"]} and there["tiles"] > 0
    tiles = store.read(str(tmp_path / "there"))
    assert tiles.equals(store.read(str(tmp_path / "here")))


def test_scoring_that_is_killed_and_run_again(spark, environment, server, drivers, tmp_path):
    """The rows of a classic session. The server may go on with what a dead driver has asked for."""
    tiny.pictures(tmp_path / "pile", range(320))
    write_images(tmp_path / "pile", str(tmp_path / "tiles"))
    model = tiny.model(tmp_path / "model")
    asked = dict(tiles=str(tmp_path / "tiles"), model=str(tmp_path / "model"), table=str(tmp_path / "table"))
    with running(environment, server) as driver:
        driver.ask("score", pause_s=1, **asked)
        wait_until(lambda: work.names(asked["table"]))
        done = work.names(asked["table"])
        driver.process.kill()
    answer = drivers[0].asked("score", **asked)
    assert 0 < len(done) < 10 and answer["rows"] == 320 and answer["scored_now"] < 320
    score(spark, asked["tiles"], model, str(tmp_path / "classic"))
    table, classic = read(asked["table"]), read(str(tmp_path / "classic"))
    assert table.drop(columns="probabilities").equals(classic.drop(columns="probabilities"))


def test_a_server_of_the_drivers_own(environment, classic, tmp_path):
    """``SparkSession.builder.remote("local[2]")``: always at the same port."""
    with socket.socket() as probe:
        if not probe.connect_ex(("127.0.0.1", 15002)):
            pytest.skip("port 15002 of this machine is taken: end what uses it")
    quick = "--conf spark.connect.grpc.binding.address=127.0.0.1 --driver-java-options -XX:TieredStopAtLevel=1"
    with running(dict(environment, PYSPARK_SUBMIT_ARGS=f"{quick} pyspark-shell"), "local[2]") as driver:
        assert driver.asked("toy", folder=str(tmp_path)) == {"rows": 21, "failed": []}
        assert driver.end() == "3\n" and toy.files(tmp_path / "out") == classic

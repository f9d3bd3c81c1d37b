"""What dies in the middle of a job on a real cluster: every tile is scored, and has one row.

The tests follow each other: one cluster, and one driver that lives until a test kills it.
"""

import contextlib
import http.client
import json
import os
import select
import signal
import subprocess
import sys
import time
import zlib
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import psutil
import pytest

import local_cluster
import tiny
from helpers import InputError
from helpers.files import write_json
from helpers.tiles import store as tilestore
from helpers.scoring.table import as_text, read
from helpers.tiles.folder import write_images
from servers import free_port, wait_until
from test_run_tutorial import House

REPOSITORY = Path(__file__).resolve().parents[2]
# Units of 60 tiles; in flight are as many as the cluster has slots.
TILES, UNIT_TILES, SLOTS = 960, 60, 2
IN_FLIGHT = UNIT_TILES * SLOTS
SECRET = "planted-7c1f0a9e-not-to-be-seen"
ANSWER_S = 120


class Cluster:
    """``setup_scripts/local_cluster.sh`` with a home of its own."""

    def __init__(self, home):
        self.home = home
        self.folder = home / "data" / "local_cluster"
        self.port = str(free_port())
        # Places where credentials are kept, by the names of their owners.
        self.environment = dict(
            os.environ, TUTORIAL_HOME=str(home), PYTHONPATH=str(REPOSITORY), AZURE_CLIENT_SECRET=SECRET,
            AZURE_STORAGE_KEY=SECRET, AZURE_STORAGE_SAS_TOKEN=f"sv=2024-01-01&sig={SECRET}",
            AZURE_STORAGE_CONNECTION_STRING=f"AccountName=a;AccountKey={SECRET}")
        # And what another Spark leaves in a shell.
        self.shell = dict(self.environment, SPARK_HOME="/opt/spark-2.4.5-bin-hadoop2.7",
                          SPARK_LOCAL_DIRS="/proc/nowhere", SPARK_SUBMIT_OPTS="-XX:MaxPermSize=512m")

    def command(self, *arguments):
        return subprocess.run([sys.executable, "setup_scripts/local_cluster.py", *arguments], cwd=REPOSITORY,
                              env=self.shell, capture_output=True, text=True, timeout=120)

    def score_tiles(self, tiles, model, table, *options):
        return subprocess.run(
            [sys.executable, str(REPOSITORY / "setup_scripts" / "score_tiles.py"), str(tiles), str(model), str(table),
             "--master", self.master, *options], cwd=REPOSITORY, env=self.shell, capture_output=True, text=True,
            timeout=200)

    def start(self):
        done = self.command("start", "--port", self.port)
        assert done.returncode == 0, done.stderr
        return done.stdout

    @property
    def master(self):
        return f"spark://127.0.0.1:{self.port}"

    def secret(self):
        return next(line.split()[1] for line in (self.folder / "spark.conf").read_text().splitlines()
                    if "secret" in line)

    def process(self, name):
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv("TUTORIAL_HOME", str(self.home))
            return local_cluster.Cluster().running()[name]

    def executors(self):
        return [child for name in ("worker-1", "worker-2")
                for child in children(self.process(name), "CoarseGrainedExecutorBackend")]

    def python_workers(self):
        """Processes that Spark has forked for tasks, each with its process that scores."""
        # An executor has other children too, of a moment: Hadoop calls chmod.
        daemons = [child for executor in self.executors() for child in children(executor, "pyspark.daemon")]
        return [worker for daemon in daemons for worker in children(daemon)]

    def scorers(self):
        return [child for worker in self.python_workers() for child in children(worker, "spawn_main")]

    def family(self):
        return [one for name in ("master", "worker-1", "worker-2")
                for one in [self.process(name), *self.process(name).children(recursive=True)]]


def children(process, word=""):
    """Its children that have a word in their command line; one that ends while we look is none."""
    found = []
    with contextlib.suppress(psutil.NoSuchProcess):
        for child in process.children():
            with contextlib.suppress(psutil.NoSuchProcess):
                if any(word in argument for argument in child.cmdline()):
                    found.append(child)
    return found


class Driver:
    def __init__(self, cluster, folder):
        self.folder = folder
        folder.mkdir()
        self.errors = open(folder.with_suffix(".log"), "a")
        self.process = subprocess.Popen(
            [sys.executable, str(REPOSITORY / "tests" / "cluster" / "cluster_driver.py"), cluster.master, str(folder),
             "0.15"], env=cluster.environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=self.errors,
            text=True)
        assert self.answer() == {"slots": 2}

    def process_info(self):
        return psutil.Process(self.process.pid)

    def ask(self, **asked):
        self.process.stdin.write(json.dumps(asked) + "\n")
        self.process.stdin.flush()

    def answer(self):
        ready, _, _ = select.select([self.process.stdout], [], [], ANSWER_S)
        assert ready, f"no answer within {ANSWER_S} s; see {self.errors.name}"
        return json.loads(self.process.stdout.readline())

    def scored(self):
        """Checksums of the pictures that were scored, in no order; one scored twice is there twice."""
        return [name for path in self.folder.iterdir() for name in path.read_text().split("\n") if name]

    def wait_for(self, count):
        wait_until(lambda: len(self.scored()) >= count, timeout_s=ANSWER_S, otherwise=f"see {self.errors.name}")

    def forget(self):
        for path in self.folder.iterdir():
            path.unlink()

    def close(self):
        with contextlib.suppress(BrokenPipeError):
            self.process.stdin.close()
        self.process.wait(60)
        self.process.stdout.close()
        self.errors.close()


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    return tmp_path_factory.mktemp("cluster")


@pytest.fixture(scope="module")
def cluster(home):
    cluster = Cluster(home)
    cluster.start()
    yield cluster
    family = cluster.family()
    assert cluster.command("stop").stdout == "Stopped.\n"
    assert [one for one in family if one.is_running() and one.status() != psutil.STATUS_ZOMBIE] == []
    assert cluster.command("status").returncode == 1


@pytest.fixture(scope="module")
def asked(home):
    """What every job is asked for, but the folder of its table."""
    tiny.pictures(home / "pile", range(TILES))
    (home / "pile" / "00100.png").write_bytes(b"not a picture")
    write_images(home / "pile", str(home / "tiles"))
    tiny.model(home / "model")
    return {"tiles": str(home / "tiles"), "model": str(home / "model")}


@pytest.fixture(scope="module")
def driver(cluster, home):
    driver = Driver(cluster, home / "scored")
    yield driver
    driver.close()


@pytest.fixture(scope="module")
def undisturbed(driver, asked, home):
    """The table of a job that nobody disturbed."""
    driver.ask(**asked, predictions_uri=str(home / "undisturbed"))
    answer = driver.answer()
    assert answer["rows"] == answer["summary"]["scored_now"] == TILES
    assert len(answer["summary"]["units"]) == TILES // UNIT_TILES
    assert sorted(driver.scored()) == sorted(str(zlib.crc32(path.read_bytes())) for path in (home / "pile").iterdir())
    return read(home / "undisturbed")


@pytest.fixture(autouse=True)
def afresh(request):
    if "driver" in request.fixturenames:
        request.getfixturevalue("driver").forget()


def assert_same(table, undisturbed):
    """Every tile exactly once, with the row that it has in the other table."""
    assert table["tile_id"].tolist() == undisturbed["tile_id"].tolist() and len(table) == TILES
    for column in ("class_id", "error_kind", "error", "model", "engine"):
        assert table[column].fillna(-1).tolist() == undisturbed[column].fillna(-1).tolist()
    scored = table["class_id"].notna()
    # A batch of another size adds the same numbers in another order.
    assert np.allclose(np.stack(table["probabilities"][scored]), np.stack(undisturbed["probabilities"][scored]),
                       atol=1e-6)


def disturbed(driver, asked, folder, disturb, at=4 * UNIT_TILES + 36):
    """Run a job, and do something to it in the middle, and in the middle of two of its units."""
    driver.ask(**asked, predictions_uri=str(folder))
    driver.wait_for(at)
    before = len(driver.scored())
    try:
        disturb()
    finally:
        # Read in any case, or the next test would take it for its own.
        answer = driver.answer()
    assert before < TILES, "it was over when it was disturbed"
    note(f"{len(driver.scored()):,}")
    return answer


COUNTS = {}


def note(scored):
    """Keep how many tiles a test has scored, those done twice included, for ``tests/cluster/cluster_results.json``."""
    COUNTS[os.environ["PYTEST_CURRENT_TEST"].split("::")[1].split(" ")[0]] = scored


@pytest.fixture(scope="module", autouse=True)
def results():
    """With ``CLUSTER_RESULTS=write`` the counts are kept; the README's table has the same."""
    yield
    if os.environ.get("CLUSTER_RESULTS") == "write":
        write_json(REPOSITORY / "tests" / "cluster" / "cluster_results.json", COUNTS)


def test_no_page_of_a_browser_can_end_an_application(cluster, driver):
    """The kill button of the master's web page would ask for no password."""
    web_port = json.loads((cluster.folder / "cluster.json").read_text())["web_port"]

    def ask(method, path, body=None):
        page = http.client.HTTPConnection("127.0.0.1", web_port)
        page.request(method, path, body, {"Content-Type": "application/x-www-form-urlencoded"})
        return page.getresponse().read()

    def applications():
        return [one["id"] for one in json.loads(ask("GET", "/json/"))["activeapps"]]

    running = applications()
    assert len(running) == 1
    ask("POST", "/app/kill/", f"id={running[0]}&terminate=true")
    time.sleep(1)
    assert applications() == running


def test_the_undisturbed_job(driver, undisturbed, asked, home):
    plain = tiny.scored(tilestore.read(home / "tiles"), home / "model")
    assert undisturbed["class_id"].fillna(-1).tolist() == plain["class_id"].fillna(-1).tolist()
    assert undisturbed["error_kind"].value_counts().to_dict() == {"unreadable": 1}


def test_a_second_run_does_nothing_and_says_so(driver, undisturbed, asked, home):
    driver.ask(**asked, predictions_uri=str(home / "undisturbed"))
    answer = driver.answer()
    assert driver.scored() == [] and answer["rows"] == TILES and answer["summary"]["scored_now"] == 0
    assert as_text(answer["summary"]).startswith("Nothing new: all 960 tiles already have a row.")


def test_everything_listens_on_loopback(cluster, driver, undisturbed, asked, tmp_path):
    """Looked at in the middle of a job: master, workers, executors, the driver with its Java, and all Pythons."""
    found = {}

    def look():
        family = cluster.family() + [driver.process_info(), *driver.process_info().children(recursive=True)]
        for process in family:
            with contextlib.suppress(psutil.NoSuchProcess):
                found[process.pid] = " ".join(process.cmdline()), [
                    one.laddr for one in process.net_connections("inet") if one.status == psutil.CONN_LISTEN]

    disturbed(driver, asked, tmp_path / "table", look)
    for word in ("Master", "Worker", "CoarseGrainedExecutorBackend", "pyspark.daemon", "SparkSubmit", "cluster_driver"):
        assert any(word in command for command, _ in found.values()), word
    ports = [address for _, addresses in found.values() for address in addresses]
    assert len(ports) >= 7
    assert {address.ip.replace("::ffff:", "") for address in ports} == {"127.0.0.1"}
    for command, _ in found.values():
        assert SECRET not in command and cluster.secret() not in command


def test_an_executor_is_killed(cluster, driver, undisturbed, asked, tmp_path):
    answer = disturbed(driver, asked, tmp_path / "table", lambda: cluster.executors()[0].kill())
    assert answer["summary"]["tiles"] == TILES
    assert_same(read(tmp_path / "table"), undisturbed)


def test_a_python_worker_is_killed(cluster, driver, undisturbed, asked, tmp_path):
    answer = disturbed(driver, asked, tmp_path / "table", lambda: cluster.python_workers()[0].kill())
    assert answer["summary"]["tiles"] == TILES
    assert_same(read(tmp_path / "table"), undisturbed)


def test_the_process_that_scores_is_killed(cluster, driver, undisturbed, asked, tmp_path):
    def kill():
        scorers = cluster.scorers()
        assert len(scorers) == SLOTS
        scorers[0].kill()

    disturbed(driver, asked, tmp_path / "table", kill)
    assert_same(read(tmp_path / "table"), undisturbed)


def test_a_spark_worker_is_killed_and_another_started(cluster, driver, undisturbed, asked, tmp_path):
    def kill():
        cluster.process("worker-1").kill()
        assert cluster.command("status").returncode == 1
        cluster.start()

    disturbed(driver, asked, tmp_path / "table", kill)
    assert_same(read(tmp_path / "table"), undisturbed)


def test_a_worker_stands_still_for_twenty_seconds(cluster, driver, undisturbed, asked, tmp_path):
    def stop():
        worker = cluster.process("worker-2")
        family = [worker, *worker.children(recursive=True)]
        for process in family:
            process.suspend()
        time.sleep(20)
        for process in family:
            process.resume()

    disturbed(driver, asked, tmp_path / "table", stop)
    assert_same(read(tmp_path / "table"), undisturbed)


def test_the_disk_is_full(driver, undisturbed, asked, mount_small_disk):
    small_disk = mount_small_disk("2m")

    def fill():
        with open(small_disk / "ballast", "wb", buffering=0) as file:
            with pytest.raises(OSError):
                while True:
                    file.write(bytes(4096))

    answer = disturbed(driver, asked, small_disk / "table", fill)
    assert answer["refused"].startswith("expected room on the disk for "), answer
    with pytest.raises(InputError, match="expected a finished prediction table"):
        read(small_disk / "table")
    (small_disk / "ballast").unlink()
    driver.ask(**asked, predictions_uri=str(small_disk / "table"))
    assert 0 < driver.answer()["summary"]["scored_now"] < TILES
    # Each unit that found no room is scored again once there is some.
    note(f"{len(driver.scored()):,}")
    assert_same(read(small_disk / "table"), undisturbed)


def test_the_driver_is_killed_and_the_same_command_run_again(cluster, driver, undisturbed, asked, home, tmp_path):
    driver.ask(**asked, predictions_uri=str(tmp_path / "table"))
    driver.wait_for(4 * UNIT_TILES + 36)
    driver.process.kill()
    driver.process.wait()
    second = Driver(cluster, home / "scored_again")
    second.ask(**asked, predictions_uri=str(tmp_path / "table"))
    answer = second.answer()
    again = len(driver.scored()) + len(second.scored()) - TILES
    note(f"{TILES + again:,}")
    second.close()
    assert 0 < again <= IN_FLIGHT and answer["summary"]["scored_now"] == len(second.scored()) < TILES
    assert_same(read(tmp_path / "table"), undisturbed)
    assert sorted(path.name for path in (tmp_path / "table").iterdir()) == [
        "_manifest.json", "_table.json", "county=pile"]


def test_two_jobs_at_once_write_one_table(cluster, undisturbed, asked, home, tmp_path):
    """Each on a core of its own: the same files with the same content."""
    jobs = [subprocess.Popen(
        [sys.executable, str(REPOSITORY / "setup_scripts" / "score_tiles.py"), asked["tiles"], asked["model"],
         str(tmp_path / "table"), "--master", "local[1]"], cwd=REPOSITORY, env=cluster.environment,
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) for _ in range(2)]
    for job in jobs:
        _, said = job.communicate(timeout=300)
        assert job.returncode == 0, said
    assert_same(read(tmp_path / "table"), undisturbed)


def test_who_lacks_the_secret_is_turned_away(cluster, home):
    settings = cluster.folder / "spark.conf"
    assert settings.stat().st_mode & 0o077 == 0 and cluster.folder.stat().st_mode & 0o077 == 0
    (home / "elsewhere").mkdir()
    program = ("import sys; from helpers.cluster import session\n"
               "session.start(sys.argv[1], settings={'spark.driver.host': '127.0.0.1'}); print('let in')")
    stranger = subprocess.Popen([sys.executable, "-c", program, cluster.master], stdout=subprocess.PIPE, text=True,
                                stderr=subprocess.STDOUT, start_new_session=True,
                                env=dict(cluster.environment, TUTORIAL_HOME=str(home / "elsewhere")))
    log, deadline = cluster.folder / "logs" / "master.log", time.monotonic() + 40
    # It would go on trying for a minute.
    while "Expected SaslMessage" not in log.read_text() and stranger.poll() is None and time.monotonic() < deadline:
        time.sleep(0.2)
    os.killpg(stranger.pid, signal.SIGKILL)
    said, _ = stranger.communicate()
    assert "Expected SaslMessage" in log.read_text() and "let in" not in said, said


def test_no_secret_is_in_what_a_run_leaves_behind(cluster, home, undisturbed):
    """A planted credential, and the cluster's own: in no log, table, argument or state file."""
    own = cluster.secret()
    done = cluster.score_tiles(home / "tiles", home / "model", home / "by_command", "--log", str(home / "command.log"))
    assert done.returncode == 0, done.stderr
    for text in (done.stdout, done.stderr):
        assert SECRET not in text and own not in text
    assert "job ended" in (home / "command.log").read_text()
    looked_at = [path for path in home.rglob("*") if path.is_file() and path.name != "spark.conf"]
    assert {path.suffix for path in looked_at} >= {".log", ".json", ".parquet"}
    for path in looked_at:
        content = path.read_bytes()
        assert SECRET.encode() not in content and own.encode() not in content, path
    for process in cluster.family():
        assert own not in " ".join(process.cmdline()) and SECRET not in " ".join(process.cmdline())


def test_the_tutorial_is_run_on_it(cluster, tmp_path):
    """As the cluster's own last line says: ``run_tutorial.sh --master`` with its address."""
    house = House(tmp_path)
    house.environment["TUTORIAL_HOME"] = str(cluster.home)
    house.notebook("02")
    house.notebook("03")
    house.notebook("05", "from helpers.cluster import session\nspark = session.start(master)\n"
                         "(folder / 'counted').write_text(f'{spark.sparkContext.master} {spark.range(1000).count()}')\n"
                         "session.stop(spark)", master="local[*]")
    done = house.run("--run-name", "rehearsal", "--master", cluster.master)
    assert done.returncode == 0, done.stderr
    assert (cluster.home / "runs" / "rehearsal" / "counted").read_text() == f"{cluster.master} 1000"


def test_starting_what_runs_starts_nothing(cluster):
    before = {name: cluster.process(name).pid for name in ("master", "worker-1", "worker-2")}
    assert f"{cluster.master}: 2 workers of 1 core" in cluster.start()
    assert {name: cluster.process(name).pid for name in before} == before
    other = cluster.command("start", "--port", "1")
    assert other.returncode == 2
    assert other.stderr.startswith("expected no cluster here, or one on port 1, got one on port")


@pytest.mark.parametrize("home, options, words", [
    ("/proc/nowhere", [], "expected a place to write /proc/nowhere/data/local_cluster, got: No such file or directory"),
    ("here", ["--port", "99999"], "expected a port of 1 to 65535, got '99999'"),
    ("here", ["--port", "-1"], "expected a port of 1 to 65535, got '-1'")])
def test_a_cluster_that_cannot_be_is_refused(tmp_path, home, options, words):
    done = Cluster(tmp_path / home).command("start", *options)
    assert done.returncode == 2 and words in done.stderr and "Traceback" not in done.stderr


def test_two_starts_at_once_and_lost_notes_lose_no_process(tmp_path):
    there = Cluster(tmp_path)
    with ThreadPoolExecutor(2) as threads:
        done = list(threads.map(lambda _: there.command("start", "--workers", "1", "--port", there.port), range(2)))
    assert [one.returncode for one in done] == [0, 0], [one.stderr for one in done]
    family = [there.process(name) for name in ("master", "worker-1")]
    (there.folder / "cluster.json").unlink()
    assert there.command("stop").stdout == "Stopped.\n"
    assert not any(one.is_running() for one in family)

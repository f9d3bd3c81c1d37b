"""From laptop to cluster, rehearsed: the scripts, a node's set-up, and the notebooks on the cluster's versions.

What the set-up builds stays in the ignored folder ``.venv-hdinsight``; a second run of the tests finds it there.
"""

import json
import os
import re
import shlex
import shutil
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

from azurite import Azurite
from helpers import bundle, storage, tilestore
from helpers import scoring as scoring_module

REPOSITORY = Path(__file__).resolve().parents[1]
SCRIPTS = REPOSITORY / "setup_scripts" / "hdinsight"
NOTEBOOKS = REPOSITORY / "notebooks"
KEPT = REPOSITORY / ".venv-hdinsight"
RESULTS = REPOSITORY / "tests" / "hdinsight_results.json"
PYSPARK = ["pyspark==3.3.1", "py4j==0.10.9.5"]
README = (SCRIPTS / "README.md").read_text()
SECRET = "planted-5b1c7d2e-not-to-be-seen"


def blocks(language):
    return re.findall(rf"```{language}\n(.*?)```", README, flags=re.DOTALL)


def commands():
    """The README's shell commands, as words."""
    return [shlex.split(line, comments=True) for block in blocks("sh") for line in block.splitlines()
            if line.split("#")[0].strip()]


def run(*command, env=None, timeout=300, cwd=REPOSITORY):
    return subprocess.run([str(word) for word in command], cwd=cwd, env=env, capture_output=True, text=True, timeout=timeout)


@pytest.fixture
def no_az(tmp_path):
    """An environment without the Azure CLI, but with secrets that must not be shown."""
    folder = tmp_path / "bin"
    folder.mkdir()
    for name in ("bash", "env", "dirname", "sed", "git", "mktemp", "rm", "cp", "find", "head", "basename", "sleep", "grep"):
        (folder / name).symlink_to(shutil.which(name))
    return {"PATH": str(folder), "HOME": str(tmp_path), "AZURE_STORAGE_SAS_TOKEN": SECRET,
            "AZURE_STORAGE_CONNECTION_STRING": SECRET}


# The scripts ------------------------------------------------------------------------------------------------------


def test_shell_scripts_have_no_known_mistakes():
    scripts = sorted(str(path) for path in (REPOSITORY / "setup_scripts").rglob("*.sh"))
    scripts += [str(REPOSITORY / ".ci" / "run"), str(REPOSITORY / "tests" / "benchmarks" / "run.sh")]
    done = run(Path(sys.executable).with_name("shellcheck"), "-x", "-S", "warning", *scripts)
    assert done.returncode == 0, done.stdout


def test_nothing_is_open_to_all_and_nothing_unpinned():
    for path in SCRIPTS.iterdir():
        text = path.read_text()
        assert "chmod 777" not in text.replace("No `chmod 777`", "") and "0777" not in text
        for line in re.findall(r".*pip install.*(?:\\\n.*)*", text):
            assert "--require-hashes" in line, line
    pins = (SCRIPTS / "requirements-cluster.txt").read_text()
    entries = re.findall(r"^([a-z0-9.-]+)(.*) \\\n    --hash=sha256:[0-9a-f]{64}$", pins, flags=re.MULTILINE)
    assert len(entries) == len([line for line in pins.splitlines() if line and line[0] not in "# "]) > 100
    assert all(re.fullmatch(r"==[^,<>]+", version) for _, version in entries)
    assert not {name for name, _ in entries} & {"pyspark", "py4j"}  # those are the cluster's own


@pytest.mark.parametrize("words", [words for words in commands() if "hdinsight/" in words[0]], ids=" ".join)
def test_each_command_of_the_page_has_a_dry_run(words, no_az):
    done = run(*words, *(["--dry-run"] if "--dry-run" not in words else []), env=no_az)
    assert done.returncode == 0, done.stderr
    said = done.stdout + done.stderr
    shown = [line for line in said.splitlines() if line.startswith("+ ")]
    assert shown and SECRET not in said and "password" not in said.lower().replace("asks for the password", "")
    assert os.listdir(no_az["HOME"]) == ["bin"]  # It did nothing.


def test_the_other_blocks_of_the_page(no_az):
    for block in blocks("python"):
        exec(compile(block, "README", "exec"), {"os": os} if "import os" not in block else {})
    os.environ.pop("TUTORIAL_STORAGE")
    for block in blocks("text"):
        magic, _, rest = block.partition("\n")
        assert magic == "%%configure -f" and set(json.loads(rest)) == {"conf"}
    rest = [words for words in commands() if "hdinsight/" not in words[0]]
    assert [words[0] for words in rest] == ["setup_scripts/run_tests.sh"]
    for words in rest:
        assert all((REPOSITORY / word).exists() for word in words if "/" in word)
    for target in re.findall(r"\]\((?!https?:)([^)]+)\)", README):
        assert (SCRIPTS / target).exists(), target


def test_prices_come_before_anything_is_created(no_az):
    lines = run(SCRIPTS / "create_cluster.sh", "--dry-run", env=dict(no_az, worker_cents="100", head_cents="50",
                                                                    least_workers="2", most_workers="5")).stdout.splitlines()
    assert "$3.00 an hour with 2 workers, $6.00 with 5" in lines[0]
    assert next(i for i, line in enumerate(lines) if line.startswith("+ az")) > 0


def test_without_the_cli_there_is_one_sentence(no_az):
    for name in ("create_cluster.sh", "delete_cluster.sh", "open_jupyter.sh"):
        done = run(SCRIPTS / name, env=no_az)
        assert done.returncode == 2 and done.stderr.startswith("expected the Azure CLI (az) on the path, got none.")
    for words, sentence in ((["resize_cluster.sh", "many"], "expected a number of workers, got 'many'"),
                            (["upload.sh", "music"], "expected code, tiles or model, got 'music'"),
                            (["delete_cluster.sh", "now"], "expected --keep-storage, --yes or --dry-run, got 'now'"),
                            (["submit_scoring.sh", "TILES"], "expected the URIs of tiles, model and table, got 1 of them")):
        done = run(SCRIPTS / words[0], *words[1:], "--dry-run", env=no_az)
        assert done.returncode == 2 and sentence in done.stderr and len(done.stderr.splitlines()) == 1


@pytest.mark.parametrize("left, status", [("", 0), ("/subscriptions/1/Microsoft.Compute/disks/forgotten", 2)])
def test_what_is_left_after_deletion_is_seen(no_az, left, status):
    """A stand-in answers for Azure, which can't be had here; what the script makes of its answers is tested."""
    az = Path(no_az["PATH"]) / "az"
    az.write_text(f'#!/usr/bin/env bash\ncase "$*" in "group exists"*) echo true ;; "resource list"*) echo "{left}" ;; esac\n')
    az.chmod(0o755)
    done = run(SCRIPTS / "delete_cluster.sh", "--yes", env=no_az)
    assert done.returncode == status
    if status:
        assert "expected nothing billable to be left" in done.stderr and "forgotten" in done.stderr
    else:
        assert done.stdout.splitlines()[-1] == "Nothing else that is billed is left of landcover-spark."


# A node's set-up --------------------------------------------------------------------------------------------------


def find_python310():
    for candidate in [os.environ.get("PYTHON310"), "python3.10",
                      *sorted(map(str, Path(os.environ.get("PYENV_ROOT") or Path.home() / ".pyenv").glob(
                          "versions/3.10.*/bin/python3.10")))]:
        if candidate and run(candidate, "-c", "import ensurepip").returncode == 0 if candidate and shutil.which(
                candidate) else False:
            return shutil.which(candidate)
    pytest.skip("no Python 3.10 here: install one (pyenv install 3.10.13), or set PYTHON310")


class Node:
    """A node that ``script_action.sh`` has set up."""

    def __init__(self, prefix, python, head="yes"):
        self.prefix, self.spark = prefix, KEPT / "spark" / "pyspark"
        self.kernels = prefix / "kernels"
        self.python = prefix / "environment" / "bin" / "python"
        self.environment = dict(os.environ, TUTORIAL_PREFIX=str(prefix), TUTORIAL_PYTHON=python, TUTORIAL_CNTK="no",
                                TUTORIAL_SPARK=str(self.spark), TUTORIAL_KERNELS=str(self.kernels), TUTORIAL_HEAD=head)

    def command(self):
        return ["bash", str(SCRIPTS / "script_action.sh"), str(REPOSITORY), "client-id"]

    def set_up(self):
        done = run(*self.command(), env=self.environment, timeout=500)
        assert done.returncode == 0, done.stderr[-2000:]
        lines = [line for line in done.stdout.splitlines() if line]
        # One line a step, each with its time and node.
        assert all(re.match(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ \S+ \S", line) for line in lines), lines
        return [line.split(" ", 2)[2] for line in lines]


@pytest.fixture(scope="session")
def node():
    python = find_python310()
    spark = KEPT / "spark"
    if not (spark / "pyspark" / "python" / "lib" / "pyspark.zip").exists():
        done = run(python, "-m", "pip", "install", "--quiet", "--no-deps", "--target", spark, *PYSPARK, timeout=500)
        assert done.returncode == 0, done.stderr
    node = Node(KEPT / "node", python)
    node.set_up()
    return node


def test_the_set_up_again_does_nothing_twice(node):
    before = {name: (node.prefix / name).stat().st_mtime_ns for name in ("environment/complete", "executors.tar.gz")}
    steps = node.set_up()
    assert [step.split(":")[0] for step in steps] == ["code", "interpreter", "environment", "CNTK", "executors' archive",
                                                      "kernels", "self-test"]
    assert steps[2] == "environment: there already" and steps[4] == "executors' archive: there already"
    assert steps[-1] == "self-test: passed"
    assert before == {name: (node.prefix / name).stat().st_mtime_ns for name in before}
    kernel = json.loads((node.kernels / "landcover" / "kernel.json").read_text())
    assert kernel["argv"][0] == str(node.python) and kernel["env"]["SPARK_HOME"] == str(node.spark)
    assert kernel["env"]["TUTORIAL_MASTER"] == "yarn" and kernel["env"]["AZURE_CLIENT_ID"] == "client-id"


def test_the_set_up_over_one_that_ended_in_the_middle(node):
    """Between any two steps: parts lie about, the code and a kernel are gone."""
    for part in (".tutorial.part", ".executors.part"):
        (node.prefix / part).mkdir()
        (node.prefix / part / "half").write_text("half")
    (node.prefix / "executors.tar.gz.part").write_text("half")
    shutil.rmtree(node.prefix / "tutorial")
    shutil.rmtree(node.kernels)
    assert node.set_up()[-1] == "self-test: passed"
    assert (node.kernels / "landcover" / "kernel.json").exists() and (node.prefix / "tutorial" / "helpers").is_dir()


def test_two_set_ups_at_once_wait_for_each_other(node):
    """As autoscale may start them: the second finds everything done."""
    both = [subprocess.Popen(node.command(), env=node.environment, stdout=subprocess.PIPE, text=True) for _ in range(2)]
    for one in both:
        said = one.communicate(timeout=120)[0]
        assert one.returncode == 0 and "self-test: passed" in said


def test_a_set_up_that_cannot_go_on_says_why(node, tmp_path):
    wrong = Node(tmp_path / "node", sys.executable)
    done = run(*wrong.command(), env=wrong.environment)
    assert done.returncode == 2 and "failed: expected Python 3.10 at" in done.stderr


def test_a_worker_gets_no_kernel(node, tmp_path):
    worker = Node(node.prefix, node.environment["TUTORIAL_PYTHON"], head="no")
    worker.environment["TUTORIAL_KERNELS"] = str(tmp_path / "kernels")
    steps = worker.set_up()
    assert "kernels: only on head nodes" in steps and not (tmp_path / "kernels").exists()


@pytest.mark.slow
def test_a_set_up_that_was_killed_while_packages_came(node, tmp_path):
    fresh = Node(tmp_path / "node", node.environment["TUTORIAL_PYTHON"])
    killed = subprocess.Popen(fresh.command(), env=fresh.environment, stdout=subprocess.DEVNULL, start_new_session=True)
    deadline = time.monotonic() + 120
    while not (fresh.prefix / "environment" / "bin" / "python").exists():
        assert time.monotonic() < deadline
        time.sleep(0.2)
    time.sleep(8)
    os.killpg(killed.pid, signal.SIGKILL)
    killed.wait()
    assert not (fresh.prefix / "environment" / "complete").exists()
    started = time.monotonic()
    assert fresh.set_up()[-1] == "self-test: passed"
    record("set_up_from_nothing_s", round(time.monotonic() - started))


# The notebooks on the cluster's versions --------------------------------------------------------------------------


class Cluster:
    """A standalone cluster of PySpark 3.3.1 whose executors have nothing but the archive."""

    def __init__(self, node, home):
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port = probe.getsockname()[1]
        self.master, self.node, self.home = f"spark://127.0.0.1:{self.port}", node, home
        conf = home / "conf"
        conf.mkdir()
        (conf / "spark-defaults.conf").write_text(f"spark.archives {node.prefix / 'executors.tar.gz'}#environment\n")
        # The kernel's own environment, but for the executors' Python: here they share the node's disk, and must not use it.
        kernel = json.loads((node.kernels / "landcover" / "kernel.json").read_text())
        kernel["env"].update(PYSPARK_PYTHON="./environment/bin/python", SPARK_CONF_DIR=str(conf), TUTORIAL_HOME=str(home),
                             TUTORIAL_MASTER=self.master)
        folder = home / "jupyter" / "kernels" / "landcover"
        folder.mkdir(parents=True)
        (folder / "kernel.json").write_text(json.dumps(kernel))
        self.environment = {key: value for key, value in os.environ.items() if key not in storage.CREDENTIALS}
        self.environment.update(kernel["env"], JUPYTER_PATH=str(home / "jupyter"), MPLBACKEND="Agg")
        self.environment.pop("VIRTUAL_ENV", None)

    def control(self, *arguments):
        environment = dict(self.environment, PYTHONPATH=f"{KEPT / 'spark'}:{self.node.prefix / 'tutorial'}")
        environment.pop("SPARK_CONF_DIR")  # The archive is for the applications, not for the workers' own Java.
        return run(self.node.python, "-m", "helpers.local_cluster", *arguments, env=environment)

    def papermill(self, name, **parameters):
        words = [word for key, value in parameters.items() for word in ("-y", json.dumps({key: value}))]
        done = run(self.node.python, "-m", "papermill", NOTEBOOKS / f"{name}.ipynb", self.home / f"{name}.ipynb", "-k",
                   "landcover", "--cwd", NOTEBOOKS, "--no-progress-bar", *words, env=self.environment, timeout=400)
        assert done.returncode == 0, done.stderr[-3000:]


@pytest.fixture(scope="session")
def cluster(node, tmp_path_factory, sample_world):
    home = tmp_path_factory.mktemp("hdinsight")
    (home / "data").mkdir()
    for path in (REPOSITORY / "data").iterdir():
        if path.name != "local_cluster":
            (home / "data" / path.name).symlink_to(path)
    cluster = Cluster(node, home)
    started = cluster.control("start", "--port", str(cluster.port))
    assert started.returncode == 0, started.stderr
    yield cluster
    cluster.control("stop")


@pytest.fixture(scope="session")
def ran(cluster):
    """Notebooks 02, 03, 05 and 06, unchanged, on one tiny county of some 200 tiles."""
    common = {"run_name": "tiny", "county": "99009"}
    cluster.papermill("02_data_preparation", master=cluster.master, train_counties=["99003"], train_years=[2010],
                      train_tiles=15, **common)
    cluster.papermill("03_retraining_tensorflow", run_name="tiny", per_class=12, copies=1, head_epochs=2, tuning_epochs=1)
    cluster.papermill("05_parallel_scoring", run_name="tiny")  # its default master gives way to the kernel's
    cluster.papermill("06_mapping_results", **common)
    return cluster.home / "runs" / "tiny"


@pytest.mark.slow
def test_the_notebooks_run_on_the_clusters_versions(cluster, ran):
    metrics = json.loads((ran / "metrics.json").read_text())
    parts = tilestore.partitions(ran / "tiles")
    assert {part["county"] for part in parts} == {"99003", "99005", "99009"}
    assert metrics["scoring"]["tiles"] == sum(part["tiles"] for part in parts) and metrics["scoring"]["errors"] == 0
    assert set(metrics["seconds"]) == {"02_data_preparation", "03_retraining_tensorflow", "05_parallel_scoring",
                                       "06_mapping_results"}
    assert {"99009.html", "99009_tiles.parquet", "99009_class_2010.tif"} <= {path.name for path in (ran / "maps").iterdir()}


@pytest.mark.slow
def test_its_predictions_are_those_of_the_laptop(spark, ran, tmp_path):
    """Spark 3.3.1 and Python 3.10 there, 3.5 and 3.11 or newer here."""
    model = bundle.load(ran / "models" / "tensorflow")
    scoring_module.score(spark, str(ran / "tiles"), model, str(tmp_path / "table"), "onnxruntime")
    here = scoring_module.read(str(tmp_path / "table"))
    engine = [name for name in (ran / "predictions_side_by_side").iterdir() if name.name.endswith("_in_onnxruntime")][0]
    there = scoring_module.read(str(engine))
    both = here.merge(there, on=["tile_id", "county", "year"], suffixes=("", "_there"))
    assert len(both) > 0
    assert both["class_id"].equals(both["class_id_there"])


@pytest.fixture(scope="session")
def shared(cluster, ran, tmp_path_factory):
    """The tile store and the bundle on Azure storage; the environment to read them with."""
    azure = Azurite(tmp_path_factory.mktemp("azurite"))
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("AZURE_STORAGE_CONNECTION_STRING", azure.connection_string)
        try:
            azure.container("tutorial")
            upload(ran)
            yield dict(cluster.environment, AZURE_STORAGE_CONNECTION_STRING=azure.connection_string)
        finally:
            azure.close()


def upload(ran):
    for path in sorted((ran / "tiles" / "county=99009").rglob("*")):
        if path.suffix in (".parquet", ".json"):
            with storage.writing(f"abfs://tutorial/tiles/{path.relative_to(ran / 'tiles')}") as file:
                file.write(path.read_bytes())
    bundle.upload(bundle.load(ran / "models" / "tensorflow"), "abfs://tutorial/model")


@pytest.mark.slow
def test_a_long_job_is_submitted_with_an_archive(cluster, shared, ran):
    """Tiles and bundle from Azure storage, rows to it; and once more: nothing new."""
    environment = dict(shared, TUTORIAL_PREFIX=str(cluster.node.prefix), TUTORIAL_SPARK=str(cluster.node.spark),
                       MASTER=cluster.master)
    environment.pop("SPARK_CONF_DIR")
    submit = [SCRIPTS / "submit_scoring.sh", "abfs://tutorial/tiles", "abfs://tutorial/model", "abfs://tutorial/table"]
    first, again = run(*submit, env=environment), run(*submit, env=environment)
    tiles = sum(part["tiles"] for part in tilestore.partitions(ran / "tiles") if part["county"] == "99009")
    assert f"{tiles:,} tiles scored in" in first.stdout, first.stderr[-3000:]
    assert f"Nothing new: all {tiles:,} tiles have their row." in again.stdout, again.stderr[-3000:]
    assert len(scoring_module.read("abfs://tutorial/table")) == tiles
    key = shared["AZURE_STORAGE_CONNECTION_STRING"].split("AccountKey=")[1].split(";")[0]
    assert key not in first.stdout + first.stderr


@pytest.mark.slow
def test_notebook_05_runs_as_livy_runs_it(cluster, shared, ran):
    """A bare interpreter, a session that somebody else started, tiles and table on Azure storage."""
    # Livy's session has what the cluster asks of any: here the secret, which session.start would have brought.
    conf = cluster.home / "livy"
    conf.mkdir()
    (conf / "spark-defaults.conf").write_text("".join(path.read_text() for path in (
        cluster.home / "conf" / "spark-defaults.conf", cluster.home / "data" / "local_cluster" / "spark.conf")))
    environment = dict(shared, TUTORIAL_STORAGE="abfs://tutorial/shared", SPARK_CONF_DIR=str(conf),
                       SPARK_LOCAL_IP="127.0.0.1")
    parameters = {"run_name": "tiny", "tiles_uri": "abfs://tutorial/tiles", "model_uri": "abfs://tutorial/model"}
    done = run(cluster.node.python, REPOSITORY / "tests" / "livy.py", NOTEBOOKS / "05_parallel_scoring.ipynb", cluster.master,
               json.dumps(parameters), env=environment, timeout=300)
    assert done.returncode == 0, done.stderr[-3000:]
    assert "still there: 3" in done.stdout and "a row for each tile: True | errors: 0" in done.stdout
    assert len(scoring_module.read("abfs://tutorial/shared/runs/tiny/predictions"))


def test_notebook_05_has_no_magics():
    for cell in json.loads((NOTEBOOKS / "05_parallel_scoring.ipynb").read_text())["cells"]:
        if cell["cell_type"] == "code":
            compile("".join(cell["source"]), "cell", "exec")


# What takes minutes -----------------------------------------------------------------------------------------------


def record(name, value):
    """Keep what a slow test has found."""
    known = json.loads(RESULTS.read_text()) if RESULTS.exists() else {}
    RESULTS.write_text(json.dumps(dict(known, **{name: value}), indent=1, sort_keys=True) + "\n")


def environment_of(name, *packages):
    """An environment beside the others, kept between runs."""
    folder = REPOSITORY / name
    if not (folder / "complete").exists():
        assert run(sys.executable, "-m", "venv", "--clear", folder).returncode == 0
        done = run(folder / "bin" / "python", "-m", "pip", "install", "--quiet", *packages, timeout=900)
        assert done.returncode == 0, done.stderr[-2000:]
        (folder / "complete").touch()
    return folder / "bin" / "python"


@pytest.mark.slow
def test_the_azure_cli_takes_each_command(no_az):
    python = environment_of(".venv-azure-cli", "azure-cli==2.91.0")
    shown = []
    for words in commands():
        if "hdinsight/" in words[0]:
            done = run(*words, "--dry-run", env=no_az)
            shown += [shlex.split(line[2:]) for line in (done.stdout + done.stderr).splitlines() if line.startswith("+ az ")]
    shown = [list(words) for words in dict.fromkeys(map(tuple, shown))]
    wrong = [["az", "hdinsight", "create", "--colour", "blue"], ["az", "hdinsight", "resize", "--name", "x"]]
    # It asks the cloud for nothing: the tests' network would be closed to it anyhow.
    environment = dict(os.environ, AZURE_CONFIG_DIR=no_az["HOME"] + "/azure", AZURE_CORE_COLLECT_TELEMETRY="no",
                       AZURE_EXTENSION_USE_DYNAMIC_INSTALL="no")
    done = subprocess.run([str(python), str(REPOSITORY / "tests" / "az_parser.py")], env=environment, timeout=580, text=True,
                          input="".join(json.dumps(words[1:]) + "\n" for words in shown + wrong), capture_output=True)
    said = done.stdout.split("\n")[:-1]
    assert len(said) == len(shown) + 2, done.stderr[-2000:]
    assert all(said[-2:]), "the parser takes anything"
    refused = {" ".join(words): sentence for words, sentence in zip(shown, said) if sentence}
    assert not refused
    record("az_commands_parsed", len(shown))
    record("azure_cli", run(python, "-c", "from importlib.metadata import version; print(version('azure-cli'))").stdout.strip())


@pytest.mark.slow
def test_scoring_on_spark_4():
    """For Microsoft Fabric. The newest Spark goes before the other on Python's path; everything else is the same."""
    folder = REPOSITORY / ".venv-spark4"
    if not (folder / "pyspark").exists():
        done = run(sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--target", folder, "pyspark==4.1.1",
                   "py4j==0.10.9.9", timeout=900)
        assert done.returncode == 0, done.stderr[-2000:]
    done = run(sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "tests/test_scoring.py", "tests/test_predictions.py",
               "-W", "ignore::FutureWarning", env=dict(os.environ, PYTHONPATH=str(folder)), timeout=580)
    assert done.returncode == 0, done.stdout[-3000:]
    version = run(sys.executable, "-c", "import pyspark; print(pyspark.__version__)", env=dict(os.environ, PYTHONPATH=str(folder)))
    record("spark_4", {"version": version.stdout.strip(), "tests": done.stdout.strip().splitlines()[-1].split(" in ")[0]})

"""run_tutorial.py over toy notebooks, each started for real as a process of its own."""

import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import nbformat
import psutil
import pytest
from nbformat.v4 import new_code_cell, new_notebook

import run_tutorial
from helpers import InputError
from servers import wait_until

REPOSITORY = Path(__file__).resolve().parents[2]

NAMES = {"01": "01_cluster_setup", "02": "02_data_preparation", "03": "03_retraining_tensorflow",
         "05": "05_parallel_scoring", "06": "06_mapping_results"}
WRITES = {"01": None, "02": "tiles", "03": "models", "05": "predictions", "06": "maps"}


class House:
    """A copy of the scripts beside toy notebooks; each notes that it ran, with its parameters."""

    def __init__(self, folder):
        self.folder = folder
        (folder / "setup_scripts").mkdir()
        (folder / "notebooks").mkdir()
        for name in ("run_tutorial.py", "tutorial_options.py"):
            shutil.copy(REPOSITORY / "setup_scripts" / name, folder / "setup_scripts")
        shutil.copytree(REPOSITORY / "helpers", folder / "helpers", ignore=shutil.ignore_patterns("__pycache__"))
        self.environment = dict(os.environ, PYTHONPATH=str(folder), TUTORIAL_HOME=str(folder))

    def notebook(self, number, code="", kernel="python3", **parameters):
        parameters = dict(run_name="sample", **parameters)
        cells = [new_code_cell("\n".join(f"{name} = {value!r}" for name, value in parameters.items()),
                               metadata={"tags": ["parameters"]}),
                 new_code_cell("import json\nfrom helpers import InputError\nfrom helpers.runs import Run\n"
                               "folder = Run(run_name).folder\nfolder.mkdir(parents=True, exist_ok=True)"),
                 new_code_cell(f"with open(folder / 'ran', 'a') as file:\n"
                               f"    print('{number}', json.dumps([{', '.join(parameters)}]), file=file)")]
        if WRITES[number]:
            cells.append(new_code_cell(f"(folder / '{WRITES[number]}').mkdir(exist_ok=True)\n"
                                       f"(folder / '{WRITES[number]}' / 'part').write_text('1')"))
        if code:
            cells.append(new_code_cell(code))
        notebook = new_notebook(cells=cells, metadata={"kernelspec": {
            "name": kernel, "display_name": kernel, "language": "python"}})
        nbformat.write(notebook, self.folder / "notebooks" / f"{NAMES[number]}.ipynb")

    def command(self, *options):
        return [sys.executable, str(self.folder / "setup_scripts" / "run_tutorial.py"), *options]

    def run(self, *options):
        return subprocess.run(self.command(*options), capture_output=True, text=True, cwd=self.folder, timeout=300,
                              env=self.environment)

    def ran(self, name="sample"):
        """Numbers of the notebooks that have run since the last call."""
        path = self.folder / "runs" / name / "ran"
        lines = path.read_text().splitlines() if path.exists() else []
        path.unlink(missing_ok=True)
        return [line[:2] for line in lines]

    def executed(self, number, name="sample"):
        return self.folder / "runs" / name / "notebooks" / f"{NAMES[number]}.ipynb"


@pytest.fixture
def house(tmp_path):
    return House(tmp_path)


@pytest.mark.parametrize("options, words", [
    (["--contry", "99007"], "unrecognized arguments: --contry 99007 (did you mean --county?)"),
    (["--model", "http://127.0.0.1:1/x?sig=SECRETSIG"], "without a password or signature, because a run's notebooks keep "
     "their parameters, got one for http://127.0.0.1:1/x. Put"),
    (["--count", "99007"], "unrecognized arguments: --count 99007"),
    (["--seed"], "argument --seed: expected one argument"),
    (["--years", "2016"], "expected two years, the earlier first, such as 2010,2016, got '2016'"),
    (["--years", "2016,2010"], "got '2016,2010'"),
    (["--years", "10,16"], "got '10,16'"),
    (["--from", "scoring"], "expected one of start, prepare, retrain, retrain_cntk, score, map, got 'scoring'"),
    (["--master", "locall"], "expected a Spark master"),
    (["--backbone", "resnet_smal"], "expected a backbone"),
    (["--seed", "one"], "expected a whole number of 0 to 4294967295, got 'one'"),
    (["--seed=-1"], "got '-1'"),
    (["--seed", "4294967296"], "got '4294967296'"),
    (["--run-name", "../elsewhere"], "expected a run name"),
    (["--tiles", "no/such/folder"], "expected a folder or file that exists, got 'no/such/folder'"),
    (["--images", "no/such/folder"], "expected a folder or file that exists"),
    (["--held-out-images", "."], "expected --images beside --held-out-images"),
    (["--images", ".", "--tiles", "."], "expected either --images or a place, got --images and --tiles. Leave"),
    (["--images", ".", "--county", "25017", "--years", "2012,2018"], "got --images and --county. Leave one out"),
    (["--images", ".", "--train-counties", "1", "--validation-county", "2"], "got --images and --train-counties."),
    (["--per-class", "0"], "expected --per-class of 1 or more, got 0"),
])
def test_a_wrong_option_is_refused_in_one_sentence(options, words):
    with pytest.raises(InputError) as error:
        run_tutorial.main(options)
    assert words in str(error.value) and "\n" not in str(error.value)


def test_options_are_checked_before_anything_is_installed(tmp_path):
    """By a Python without any package: -I -S hides those of this one."""
    program = [sys.executable, "-I", "-S", run_tutorial.REPOSITORY / "setup_scripts" / "tutorial_options.py"]
    for options, status, words in ((["--help"], 0, "--county COUNTY"), (["--tile", "."], 2, "did you mean --tiles?"),
                                   (["--tiles", "no/such"], 2, "got 'no/such'"), (["--master", "local[2]"], 0, ""),
                                   (["--model", str(tmp_path)], 0, "")):
        done = subprocess.run(program + options, capture_output=True, text=True)
        assert done.returncode == status and words in done.stdout + done.stderr, done


@pytest.mark.parametrize("name", ["-rf", "$(touch planted)", "no 'such\" place"])
def test_an_environment_that_is_not_there_is_refused(tmp_path, name):
    for script in ("run_tutorial.sh", "local_cluster.sh"):
        command = ["bash", str(REPOSITORY / "setup_scripts" / script)]
        done = subprocess.run(command, env=dict(os.environ, TUTORIAL_ENVIRONMENT=name), cwd=tmp_path, text=True,
                              capture_output=True)
        assert (done.returncode, done.stdout) == (2, "") and done.stderr == (
            f"expected a Python environment in TUTORIAL_ENVIRONMENT, got {name} without bin/python. Set it to one, or "
            "unset it.\n")
    (tmp_path / "-rf" / "bin").mkdir(parents=True)
    (tmp_path / "-rf" / "bin" / "python").symlink_to(sys.executable)
    done = subprocess.run(command + ["status"], env=dict(os.environ, TUTORIAL_ENVIRONMENT="-rf", TUTORIAL_HOME=str(
        tmp_path), PYTHONPATH=os.pathsep.join(sys.path)), cwd=tmp_path, text=True, capture_output=True)
    assert done.stdout.startswith("No cluster runs here."), done.stderr
    assert not (tmp_path / "planted").exists()


def test_paths_in_the_environment_become_absolute(tmp_path, monkeypatch):
    """The notebooks run in another folder. They would write a second home there."""
    monkeypatch.chdir(tmp_path)
    given = {"HOME": str(tmp_path), "TUTORIAL_HOME": "out", "TUTORIAL_LABELS": "~/labels", "TUTORIAL_SIGNING": "",
             "TUTORIAL_STORAGE": "abfss://tiles@lake/x"}
    for name, value in given.items():
        monkeypatch.setenv(name, value)
    run_tutorial.whole_paths()
    assert {name: os.environ[name] for name in given} == dict(
        given, TUTORIAL_HOME=str(tmp_path / "out"), TUTORIAL_LABELS=str(tmp_path / "labels"))


def test_folders_that_cd_searches_change_nothing(tmp_path):
    """Where CDPATH is set, cd prints the folder that it has found."""
    done = subprocess.run(["bash", "setup_scripts/local_cluster.sh", "status"], cwd=REPOSITORY, text=True,
                          capture_output=True, env=dict(os.environ, CDPATH=".", TUTORIAL_HOME=str(tmp_path),
                                                        TUTORIAL_ENVIRONMENT=sys.prefix))
    assert done.stdout.startswith("No cluster runs here."), done.stderr


@pytest.mark.parametrize("name", ["/proc/nowhere", "file"])
def test_a_home_that_cannot_be_written_is_refused(house, name):
    (house.folder / "file").touch()
    house.environment["TUTORIAL_HOME"] = name
    done = house.run()
    assert done.returncode == 2 and done.stdout == ""
    assert "got: No" in done.stderr and done.stderr.endswith("Set TUTORIAL_HOME to a folder that can be written.\n")


def test_a_refusal_is_all_that_is_shown(house):
    done = house.run("--years", "2016")
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == ("run_tutorial.sh: argument --years: expected two years, the earlier first, such as "
                           "2010,2016, got '2016'. Run it with --help to see its options.\n")
    assert not (house.folder / "runs").exists()


@pytest.mark.parametrize("options, parameters", [
    (["--years", "2010,2016", "--county", "99009"], {"years": [2010, 2016], "county": "99009"}),
    (["--seed", "7", "--from", "05"], {"seed": 7, "first": "05"}),
    (["--from", "score"], {"first": "05"}),
    (["--from", "05_parallel_scoring"], {"first": "05"}),
    (["--tiles", "abfss://tiles@lake.dfs.core.windows.net/here"],
     {"tiles_uri": "abfss://tiles@lake.dfs.core.windows.net/here"}),
    (["--images", "."], {"images": os.getcwd(), "run_name": "pictures"}),
    (["--images", "photographs", "--per-class", "30"],
     {"images": "photographs", "run_name": "photographs", "per_class": 30}),
    (["--backbone", "mobilenet", "--master", "local[2]"], {"backbone": "mobilenet", "master": "local[2]"}),
])
def test_options_become_parameters(options, parameters):
    assert run_tutorial.options(options) == parameters


def test_a_folder_with_the_name_of_the_photographs_is_not_passed_over(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "photographs").mkdir()
    with pytest.raises(InputError, match=r"Write ./photographs for the folder"):
        run_tutorial.options(["--images", "photographs"])
    assert run_tutorial.options(["--images", "./photographs"])["images"] == str(tmp_path / "photographs")


def test_an_option_that_no_notebook_takes(house):
    house.notebook("02", county="99007")
    done = house.run("--backbone", "mobilenet")
    assert done.returncode == 2 and len(done.stderr.splitlines()) == 1
    assert "expected parameters that a notebook has, got backbone" in done.stderr


def test_what_is_done_is_kept_and_what_changed_is_done_again(house):
    house.notebook("01")
    house.notebook("02", county="99007", years=[2010, 2016])
    house.notebook("03", backbone="mobilenet")
    done = house.run()
    assert done.returncode == 0, done.stderr
    assert house.ran() == ["01", "02", "03"]
    assert [nb for nb in "01 02 03".split() if house.executed(nb).exists()] == ["01", "02", "03"]

    assert house.run().stdout.count("done before") == 3 and house.ran() == []

    house.notebook("01", "1")  # Nothing follows from the first notebook.
    house.run()
    assert house.ran() == ["01"]

    house.notebook("03", "'another line'", backbone="mobilenet")
    house.run()
    assert house.ran() == ["03"]

    done = house.run("--county", "99009", "--years", "2011,2015")
    assert "unknown parameter" not in done.stdout + done.stderr
    lines = (house.folder / "runs" / "sample" / "ran").read_text().splitlines()
    assert lines == ['02 ["sample", "99009", [2011, 2015]]', '03 ["sample", "mobilenet"]']
    house.ran()

    # Its output is gone, so the step that made it and what follows from it are not done.
    shutil.rmtree(house.folder / "runs" / "sample" / "tiles")
    house.run("--county", "99009", "--years", "2011,2015")
    assert house.ran() == ["02", "03"]

    house.run("--county", "99009", "--years", "2011,2015", "--from", "retrain")
    assert house.ran() == ["03"]

    with open(house.folder / "helpers" / "runs.py", "a") as file:
        file.write("# changed\n")
    house.run("--county", "99009", "--years", "2011,2015")
    assert house.ran() == ["01", "02", "03"]


def test_a_broken_input_shows_its_sentence_and_is_not_taken_for_finished(house):
    house.notebook("02")
    house.notebook("03", "raise InputError('expected a tile, got a cat. Bring tiles.')")
    house.notebook("05")
    done = house.run()
    assert done.returncode == 1
    assert done.stderr.startswith("expected a tile, got a cat. Bring tiles.\n") and "Traceback" not in done.stderr
    assert not house.executed("03").exists() and house.executed("03").with_suffix(".failed.ipynb").exists()
    assert NAMES["03"] + ".failed.ipynb" in done.stderr
    assert house.ran() == ["02", "03"]

    house.notebook("03")
    assert house.run().returncode == 0
    assert house.ran() == ["03", "05"]
    assert not house.executed("03").with_suffix(".failed.ipynb").exists()


def test_errors_derived_from_input_errors_show_their_sentence_too(house):
    house.notebook("02", "from helpers import DamagedFile\nraise DamagedFile('expected room, got none. Make some.')")
    done = house.run()
    assert done.returncode == 1
    assert done.stderr.startswith("expected room, got none. Make some.\n") and "Traceback" not in done.stderr


def test_a_full_disk_ends_in_one_sentence(house):
    house.notebook("02", "import errno, os\nraise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))")
    done = house.run()
    assert done.returncode == 1 and "Traceback" not in done.stderr
    assert done.stderr.startswith("expected room on the disk for the run, got a full one (no space left on device).")


def test_a_bug_is_shown_whole(house):
    house.notebook("02", "def divide():\n    1 / 0\ndivide()")
    done = house.run()
    assert done.returncode == 1
    assert "ZeroDivisionError" in done.stderr and "in divide" in done.stderr


WAIT = "import time\n(folder / 'waiting').write_text('1')\ntime.sleep(120)"


@pytest.mark.parametrize("number, code", [(signal.SIGKILL, -signal.SIGKILL), (signal.SIGINT, 130)])
def test_stopped_in_the_middle_and_run_again(house, number, code):
    house.notebook("02", WAIT)
    process = subprocess.Popen(house.command(), cwd=house.folder, env=house.environment, stdout=subprocess.DEVNULL,
                               stderr=subprocess.PIPE, text=True)
    wait_until((house.folder / "runs" / "sample" / "waiting").exists, process)
    children = psutil.Process(process.pid).children(recursive=True)
    assert children
    process.send_signal(number)
    stderr = process.communicate(timeout=60)[1]
    assert process.returncode == code
    assert "Traceback" not in stderr
    assert psutil.wait_procs(children, timeout=30)[1] == []  # No kernel is left behind.
    assert not house.executed("02").exists()

    house.ran()
    house.notebook("02", WAIT.replace("120", "0"))
    assert house.run().returncode == 0
    assert house.ran() == ["02"] and house.executed("02").exists()


def test_what_is_brought_is_not_made(house):
    house.notebook("02", county="99007")
    house.notebook("03", tiles_uri="")
    house.notebook("05", tiles_uri="", model_uri="")
    tiles, model = house.folder / "my tiles", house.folder / "model"
    tiles.mkdir()
    (tiles / "gone").symlink_to("../annex/object")  # A link that leads nowhere.
    model.mkdir()
    done = house.run("--tiles", "my tiles", "--model", "model", "--run-name", "mine")
    assert done.returncode == 0, done.stderr
    assert "02_data_preparation         skipped: --tiles gives the tiles" in done.stdout
    assert "03_retraining_tensorflow    skipped: --model gives the network" in done.stdout
    line, = (house.folder / "runs" / "mine" / "ran").read_text().splitlines()
    assert json.loads(line[3:]) == ["mine", str(tiles), str(model)]

    (tiles / "another").write_text("1")  # A store that has grown is another store.
    house.ran("mine")
    house.run("--tiles", "my tiles", "--model", "model", "--run-name", "mine")
    assert house.ran("mine") == ["05"]


def test_the_sample_is_drawn_before_the_notebook_that_opens_it(house):
    (house.folder / "setup_scripts" / "sample").mkdir()
    (house.folder / "setup_scripts" / "sample" / "__init__.py").write_text(
        "def draw(folder, seed, progress):\n    progress(f'drew {folder.name} of {seed}')\n")
    house.notebook("02", catalog="sample", seed=0)
    house.notebook("05", tiles_uri="")
    assert "drew sample-7 of 7\n02_data_preparation" in house.run("--seed", "7").stdout
    assert "drew" not in house.run("--seed", "7").stdout  # Nothing else opens the catalogue.
    assert "drew" not in house.run("--from", "score", "--seed", "7").stdout
    assert "drew" not in house.run("--tiles", ".", "--seed", "8").stdout
    house.notebook("02", catalog="naip", train_catalog="", seed=0)
    assert "drew sample-0" in house.run("--catalog", "sample").stdout
    (house.folder / "setup_scripts" / "sample" / "__init__.py").write_text("def draw(*world, progress):\n    pass\n")
    house.ran()
    house.run("--catalog", "sample")
    assert house.ran() == ["02", "05"]  # Other counties are drawn.


def test_beginning_where_something_is_missing(house):
    for number in ("02", "03", "05"):
        house.notebook(number)
    done = house.run("--from", "score")
    assert done.returncode == 2 and len(done.stderr.splitlines()) == 1
    assert "expected tiles for the step score in runs/sample/tiles, got none. Begin with --from prepare" in done.stderr


def test_a_notebook_whose_kernel_is_missing_is_skipped_with_the_reason(house):
    house.notebook("02", kernel="no_such_kernel")
    done = house.run()
    assert done.returncode == 0
    assert "02_data_preparation         skipped: there is no Jupyter kernel 'no_such_kernel' here" in done.stdout


def test_two_at_once_in_one_run(house):
    import fcntl
    (house.folder / "runs" / "sample").mkdir(parents=True)
    with open(house.folder / "runs" / "sample" / ".lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        done = house.run()
    assert done.returncode == 2 and "another run at work there" in done.stderr


def test_it_ends_by_saying_where_everything_is(house):
    house.notebook("05")
    house.notebook("06", "(folder / 'figures').mkdir(exist_ok=True)\n(folder / 'figures' / 'map.png').write_text('1')\n"
                   "(folder / 'metrics.json').write_text(json.dumps({'map': {'page': page}}))\n"
                   "(folder / 'maps' / '99007.html').write_text('1')\n", page="99007.html")
    for name in ("tiles", "models"):
        (house.folder / "runs" / "sample" / name).mkdir(parents=True)
        (house.folder / "runs" / "sample" / name / "part").write_text("1")
    done = house.run("--from", "score")
    for path in ("runs/sample/notebooks", "runs/sample/figures/map.png", "runs/sample/predictions",
                 "runs/sample/metrics.json"):
        assert path in done.stdout and (house.folder / path).exists()
    assert "jupyter lab notebooks" in done.stdout
    # The page to review on comes last, for it is what to open next.
    assert done.stdout.splitlines()[-2:] == ["To review the candidates, open this page in a browser:",
                                             "  runs/sample/maps/99007.html"]

    (house.folder / "runs" / "sample" / "maps" / "99007.html").unlink()
    done = house.run()  # What isn't there is not named.
    assert done.returncode == 0 and "in a browser" not in done.stdout


def test_what_kernels_say_goes_to_a_file(house):
    house.notebook("02", "import sys\nprint('a word from below', file=sys.__stderr__, flush=True)")
    done = house.run()
    assert done.returncode == 0 and "a word from below" not in done.stdout + done.stderr
    assert "a word from below" in (house.folder / "runs" / "sample" / "kernels.log").read_text()

"""From laptop to cluster, rehearsed: the scripts, a node's set-up, and the notebooks on the cluster's versions.

What the set-up builds stays in the ignored folder ``.venv-hdinsight``; a second run of the tests finds it there.
"""

import json
import os
import pty
import re
import shlex
import shutil
import signal
import subprocess
import sys
import time
from importlib.metadata import distributions
from pathlib import Path
from urllib.parse import unquote

import nbformat
import pyspark
import pytest
import rasterio

import scenes
import spark4
import symbols
import tiny
import toy
import yarn
from azurite import ACCOUNT, Azurite
from helpers import InputError
from helpers.cluster import session
from helpers.credentials import TOKEN_FILE, VARIABLES
from helpers.files import create, filesystem, write_whole
from helpers.land.catalog import Catalog
from helpers.maps import new_development
from helpers.model import bundle
from helpers.model.engine_cntk import cntk_environment
from helpers.tiles import store as tilestore
from helpers.tiles.prepare import prepare
from helpers.scoring import score as scoring_module
from helpers.scoring.table import read
from livy import KERNEL, PACKAGES, Livy, kernel, texts
from servers import wait_until
from test_results import with_answers
from yarn import Yarn

REPOSITORY = Path(__file__).resolve().parents[2]
SCRIPTS = REPOSITORY / "setup_scripts" / "hdinsight"
NOTEBOOKS = REPOSITORY / "notebooks"
KEPT = REPOSITORY / ".venv-hdinsight"
RESULTS = Path(__file__).with_name("hdinsight_results.json")
PYSPARK = ["pyspark==3.3.1", "py4j==0.10.9.5"]
README = (SCRIPTS / "README.md").read_text()
SECRET = "planted-5b1c7d2e-not-to-be-seen"
PASSWORD = "Planted-5b1c7d2e-pw"


def blocks(language):
    return re.findall(rf"```{language}\n(.*?)```", README, flags=re.DOTALL)


def commands():
    """The README's shell commands, as words."""
    return [shlex.split(line, comments=True) for block in blocks("sh") for line in block.splitlines()
            if line.split("#")[0].strip()]


def run(*command, env=None, timeout=300, cwd=REPOSITORY, said=""):
    return subprocess.run([str(word) for word in command], cwd=cwd, env=env, capture_output=True, text=True,
                          timeout=timeout, input=said)


@pytest.fixture
def no_az(tmp_path):
    """An environment without the Azure CLI, but with secrets that must not be shown."""
    folder = tmp_path / "bin"
    folder.mkdir()
    for name in ("bash", "env", "dirname", "sed", "git", "mktemp", "rm", "find", "head", "basename", "sleep", "grep",
                 "date", "sort", "paste", "id", "sh", "cat", "mkdir", "mv", "gzip", "awk"):
        (folder / name).symlink_to(shutil.which(name))
    return {"PATH": str(folder), "HOME": str(tmp_path), "AZURE_STORAGE_SAS_TOKEN": SECRET,
            "AZURE_STORAGE_CONNECTION_STRING": SECRET}


def record(section, values):
    known = json.loads(RESULTS.read_text())
    known[section] = dict(known.get(section, {}), **values)
    RESULTS.write_text(json.dumps(known, indent=1, sort_keys=True) + "\n")


def record_seconds(name, seconds):
    """Keep how long a part of the rehearsal took, if asked to: otherwise the tests change no committed file."""
    if os.environ.get("RECORD_SECONDS"):
        record("seconds", {name: round(seconds, 1), "date": time.strftime("%Y-%m-%d")})


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
        for line in re.findall(r".*conda\" create.*(?:\\\n.*)*", text):
            assert re.search(r"python=3\.\d+\.\d+\b", line), line
    for name, least in (("requirements-cluster.txt", 100), ("requirements-cluster-cntk.txt", 35)):
        pins = (SCRIPTS / name).read_text()
        entries = dict(re.findall(r"^([a-z0-9.-]+)==([^,<>\s]+) \\\n    --hash=sha256:[0-9a-f]{64}$", pins,
                                  re.MULTILINE))
        assert len(entries) == len([line for line in pins.splitlines() if line and line[0] not in "# "]) > least
        assert not set(entries) & {"pyspark", "py4j"}  # those are the cluster's own
    # What install_cntk.sh takes elsewhere, and with hashes and nothing beside the list where it is given one.
    requirements = (REPOSITORY / "requirements.txt").read_text()
    wanted = re.findall(r'^(\S+)==(\S+) ; python_version < "3.7"', requirements, re.MULTILINE)
    assert wanted and all(entries[name] == version for name, version in wanted)
    assert "${hashed:+--require-hashes --no-deps}" in (REPOSITORY / "setup_scripts" / "install_cntk.sh").read_text()
    assert "CNTK_REQUIREMENTS=" in (SCRIPTS / "script_action.sh").read_text()


# Executed for real, on the rehearsal's node.
FOR_REAL = ("export", "setup_scripts/hdinsight/script_action.sh", "setup_scripts/run_tests.sh")


@pytest.mark.parametrize("words", [words for words in commands() if words[0] not in FOR_REAL], ids=" ".join)
def test_each_command_of_the_page_has_a_dry_run(words, no_az):
    done = run(*words, *(["--dry-run"] if "--dry-run" not in words else []), env=no_az)
    assert done.returncode == 0, done.stderr
    said = done.stdout + done.stderr
    shown = [line for line in said.splitlines() if line.startswith("+ ")]
    assert shown and SECRET not in said and "password" not in said.lower().replace("--http-password @/dev/fd/3", "")
    assert os.listdir(no_az["HOME"]) == ["bin"]  # It did nothing.


def test_the_other_blocks_of_the_page(no_az):
    assert set(re.findall(r"^```(\w+)", README, flags=re.MULTILINE)) == {"sh", "text"}
    for block in blocks("text"):
        magic, _, rest = block.partition("\n")
        assert magic == "%%configure -f" and set(json.loads(rest)) == {"conf", "files"}
        # The token is laid beside the driver under the name that storage looks for.
        assert json.loads(rest)["files"][0].endswith("/tutorial/storage_token")
        conf = json.loads(rest)["conf"]
        assert conf[f"spark.yarn.appMasterEnv.{TOKEN_FILE}"] == "storage_token"
        memory = session.BESIDE_MB + int(conf["spark.executor.cores"]) * session.SLOT_MB
        assert conf["spark.executor.memoryOverhead"] == f"{memory}m"
    rest = [words for words in commands() if words[0] in FOR_REAL]
    assert [words[0] for words in rest] == list(FOR_REAL)
    assert all((REPOSITORY / word).exists() for word in rest[-1] if "/" in word)
    for target in re.findall(r"\]\((?!https?:|#)([^)#]+)", README):
        assert (SCRIPTS / target).exists(), target


def test_prices_come_before_anything_is_created(no_az):
    lines = run(SCRIPTS / "create_cluster.sh", "--dry-run", env=dict(
        no_az, worker_cents="100", head_cents="50", zookeeper_cents="10", least_workers="2",
        most_workers="5")).stdout.splitlines()
    assert "$3.30 an hour with 2 workers, $6.30 with 5" in lines[0]
    assert next(i for i, line in enumerate(lines) if line.startswith("+ az")) > 0


def test_a_dry_run_warns_of_what_would_be_refused(no_az):
    done = run(SCRIPTS / "create_cluster.sh", "--dry-run", env=dict(no_az, ssh_public_key="/nowhere", script_uri=""))
    assert done.returncode == 0
    warnings = [line for line in done.stderr.splitlines() if line.startswith("Warning: expected ")]
    assert len(warnings) == 2 and "SSH public key at /nowhere" in warnings[0] and "script_uri" in warnings[1]


@pytest.mark.parametrize("script", ["upload.sh", "resize_cluster.sh"])
def test_without_arguments_there_is_the_usage(no_az, script):
    """Before anything else is asked for, such as the Azure CLI."""
    done = run(SCRIPTS / script, env=no_az)
    assert done.returncode == 2 and f"\n  {script} " in done.stderr and "az" not in done.stderr.split()


@pytest.mark.parametrize("setting, value", [
    ("cluster", "$(touch planted)"), ("cluster", "a b"), ("group", "x'; rm -r /"), ("storage", '"'), ("container", "-rf"),
    ("ssh_user", "a\nb"), ("workers", "many"), ("worker_cents", "1; touch planted"), ("most_workers", "a[$(touch planted)]"),
    ("script_uri", "http://example.org/x"), ("script_uri", "https://example.org/$(touch planted)")])
def test_a_setting_that_is_no_name_is_refused(no_az, tmp_path, setting, value):
    done = run(SCRIPTS / "create_cluster.sh", "--dry-run", env=dict(no_az, **{setting: value}), cwd=tmp_path)
    assert done.returncode == 2 and f"in the setting {setting}, got '{value}'. Correct it" in done.stderr, done.stderr
    assert not done.stdout and not (tmp_path / "planted").exists()


def test_a_folder_that_looks_like_an_option_is_a_folder(no_az):
    done = run(SCRIPTS / "upload.sh", "tiles", "-rf", "--dry-run", env=no_az)
    assert done.returncode == 0 and "--source ./-rf" in done.stdout, done.stderr


def test_a_quota_that_azure_does_not_tell_stops_nothing(no_az, tmp_path):
    azure = Azure(no_az, tmp_path / "azure", quota={"cores": 4})
    done = azure.run("create_cluster.sh", "--yes")
    assert done.returncode == 0 and done.stdout.count("reports no quota for this family") == 2, done.stderr


def test_without_the_cli_there_is_one_sentence(no_az):
    for name in ("create_cluster.sh", "delete_cluster.sh", "open_jupyter.sh"):
        done = run(SCRIPTS / name, env=no_az)
        assert done.returncode == 2 and done.stderr.startswith("expected the Azure CLI (az) on the path, got none.")
    for words, sentence in ((["resize_cluster.sh", "many"], "expected a number of workers, got 'many'"),
                            (["upload.sh", "music"], "expected code, tiles or model, got 'music'"),
                            (["delete_cluster.sh", "now"], "expected --keep-storage, --yes or --dry-run, got 'now'"),
                            (["create_cluster.sh", "now"], "expected --yes, --set-up-again or --dry-run, got 'now'"),
                            (["storage_token.sh", "--days", "8"], "expected 1 to 7 days, got '8'"),
                            (["submit_scoring.sh", "TILES"],
                             "expected the URIs of tiles, model and table, got 1 of them")):
        done = run(SCRIPTS / words[0], *words[1:], "--dry-run", env=no_az)
        assert done.returncode == 2 and sentence in done.stderr and len(done.stderr.splitlines()) == 1


def test_help_is_printed_and_nothing_done(no_az, tmp_path):
    for name in ("script_action.sh", "submit_scoring.sh"):
        done = run(SCRIPTS / name, "--help", env=dict(no_az, TUTORIAL_PREFIX=str(tmp_path / "node")))
        assert done.returncode == 0 and f"  {name} " in done.stdout and not (tmp_path / "node").exists(), done.stderr


def test_options_of_the_user_reach_spark_submit(no_az):
    given = "--queue maps --conf spark.dynamicAllocation.maxExecutors=4"
    for options in (given, ""):
        done = run(SCRIPTS / "submit_scoring.sh", "TILES", "MODEL", "TABLE", "--dry-run",
                   env=dict(no_az, SUBMIT_OPTIONS=options))
        assert done.returncode == 0 and (f" {given} --archives " in done.stdout) == bool(options), done.stderr
        assert done.stdout.index(" --archives ") < done.stdout.index("score_tiles.py TILES MODEL TABLE")


# Stands for Azure, which can't be had here: what it has is a file, and what it is asked goes to another, each word of
# it.
AZ = """#!{python}
import json, os, re, sys
words, where = sys.argv[1:], {where!r}
with open(where + "/asked", "a") as file:
    file.write(json.dumps(words) + "\\n")
with open(where + "/azure") as file:
    azure = json.load(file)
has = dict(zip(words, words[1:]))
what = " ".join(word for word in words[:4] if not word.startswith("-"))
what = re.match(r"[a-z -]+?(create|delete|show|list-usage|list|exists|execute|upload-batch|generate-sas)",
                " ".join(words)).group()
mine, tag = azure["resources"], "landcover-spark"


def say(lines):
    print("\\n".join(lines) if isinstance(lines, list) else lines)


if what == "group exists":
    say("true" if azure["group"] is not None else "false")
elif what == "group show":
    say(azure["group"] or "")
elif what == "group create":
    azure["group"] = tag
elif what == "group delete":
    azure.update(group=None, resources={{}}, clusters={{}})
elif what in ("storage account create", "identity create"):
    mine[has["--name"]] = tag
elif what in ("storage account show", "identity show"):
    if has["--name"] not in mine:
        sys.exit(3)
    say({{"id": "/of/", "principalId": "principal-of-"}}[has.get("--query", "id")] + has["--name"])
elif what == "hdinsight create":
    assert azure["group"] is not None
    azure["clusters"][has["--name"]] = "Running"
    mine[has["--name"]] = tag
    with open(has["--http-password"][1:]) as file:
        azure["password"] = file.read()
elif what == "hdinsight list":
    if azure["group"] is None:
        sys.exit(3)
    named = re.search("name=='(.*?)'", has["--query"])
    found = {{name: state for name, state in azure["clusters"].items() if not named or name == named.group(1)}}
    say([state if "clusterState" in has["--query"] else name for name, state in found.items()])
elif what == "hdinsight list-usage":
    say([f"{{name}}\\t{{limit}}\\t4" for name, limit in azure["quota"].items()])
elif what == "role assignment list":
    say(azure["roles"].get(has["--assignee"], []))
elif what == "role assignment create":
    azure["roles"].setdefault(has["--assignee-object-id"], []).append(has["--role"])
elif what == "hdinsight delete":
    azure["clusters"].pop(has["--name"])
    mine.pop(has["--name"])
elif what == "hdinsight script-action list":
    say(azure["actions"])
elif what == "hdinsight script-action execute":
    if has["--name"] in azure["actions"]:
        sys.exit("a persisted script action of this name is there already")
    azure["actions"].append(has["--name"])
elif what == "hdinsight script-action delete":
    azure["actions"].remove(has["--name"])
elif what == "resource list" and "--tag" in has:
    say([name.replace("landcovertiles", "/of/Microsoft.Storage/storageAccounts/landcovertiles")
         for name, its in mine.items() if its == tag and name != "landcover-cluster"] + azure["elsewhere"])
elif what == "resource list":
    say([name for name, its in mine.items() if its != tag])
elif what == "storage container generate-sas":
    say("sv=1&sig=" + {secret!r})
with open(where + "/azure", "w") as file:
    json.dump(azure, file)
"""


class Azure:
    """The stand-in, on the path of the scripts."""

    def __init__(self, environment, folder, **has):
        folder.mkdir()
        self.folder = folder
        quota = {"standardEADSv5Family": 100, "STANDARDDADSV5FAMILY": 16, "standardDSv5Family": 0}
        self.write(dict({"group": None, "resources": {}, "clusters": {}, "actions": [], "elsewhere": [], "roles": {},
                         "quota": quota}, **has))
        (Path(environment["PATH"]) / "sleep").unlink()
        (Path(environment["PATH"]) / "sleep").write_text(f"#!/bin/sh\necho $1 >> {folder}/slept\n")
        (Path(environment["PATH"]) / "sleep").chmod(0o755)
        az = Path(environment["PATH"]) / "az"
        az.write_text(AZ.format(python=sys.executable, where=str(folder), secret=SECRET))
        az.chmod(0o755)
        key = folder / "key.pub"
        key.write_text("ssh-rsa AAAA planted\n")
        self.environment = dict(environment, ssh_public_key=str(key),
                                script_uri="https://example.org/v1/script_action.sh")

    def write(self, has):
        (self.folder / "azure").write_text(json.dumps(has))

    def has(self):
        return json.loads((self.folder / "azure").read_text())

    def asked(self):
        """The command lines since it was asked last."""
        path = self.folder / "asked"
        lines = [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []
        path.write_text("")
        return lines

    def run(self, script, *arguments, said=PASSWORD + "\n", **environment):
        return run(SCRIPTS / script, *arguments, env=dict(self.environment, **environment), said=said)


# Of what is asked, these change something; assigning a role, making a container and uploading may be done twice.
MAKING = ("group create", "storage account create", "identity create", "hdinsight create",
          "hdinsight script-action execute", "hdinsight script-action delete", "group delete", "hdinsight delete")


def made(asked):
    return [making for words in asked for making in MAKING if " ".join(words).startswith(making)]


def test_a_cluster_is_created_once(no_az, tmp_path):
    azure = Azure(no_az, tmp_path / "azure")
    done = azure.run("create_cluster.sh", "--yes")
    assert done.returncode == 0, done.stderr
    asked = azure.asked()
    assert made(asked) == list(MAKING[:5])
    has = azure.has()
    assert has["clusters"] == {"landcover-spark": "Running"} and has["actions"] == ["tutorial"]
    # The password arrives, and stands in no argument and in nothing that is shown.
    assert has["password"] == PASSWORD and PASSWORD not in json.dumps(asked) + done.stdout + done.stderr
    create = next(words for words in asked if words[:2] == ["hdinsight", "create"])
    assert f"@{azure.environment['ssh_public_key']}" in create and "--assign-identity" not in create
    action = next(words for words in asked if words[1:3] == ["script-action", "execute"])
    assert azure.environment["script_uri"] in action
    # The cluster needs its identity's role from the beginning: a new one is waited for, one that was there is not.
    assert has["roles"]["principal-of-landcover-cluster"] == ["Storage Blob Data Owner"]
    assert (azure.folder / "slept").read_text() == "600\n"
    assert "96 free cores of the family EADSV5" in done.stdout and "no quota" not in done.stdout

    done = azure.run("create_cluster.sh", "--yes", said="")
    assert done.returncode == 0, done.stderr
    asked = azure.asked()
    assert made(asked) == [] and "upload-batch" not in json.dumps(asked) and azure.has()["actions"] == ["tutorial"]
    assert (azure.folder / "slept").read_text() == "600\n"
    assert "To give them the code that is committed now: create_cluster.sh --set-up-again" in done.stdout

    done = azure.run("create_cluster.sh", "--yes", "--set-up-again", said="")
    assert done.returncode == 0, done.stderr
    assert made(azure.asked()) == ["hdinsight script-action delete", "hdinsight script-action execute"]
    assert azure.has()["actions"] == ["tutorial"] and azure.has()["clusters"] == has["clusters"]


@pytest.mark.parametrize("has, sentence", [
    ({"group": "landcover-spark", "clusters": {"landcover-spark": "Error"}},
     "got the state Error. Run delete_cluster.sh"),
    ({"group": "landcover-spark", "clusters": {"landcover-spark": "Deleting"}},
     "got the state Deleting. Wait, then run"),
    ({"group": ""}, "expected a resource group that this script has created, got landcover, which somebody else has created."),
    ({"said": ""}, "expected a password of 10 or more characters"),
    ({"said": "short-A1\n"}, "expected a password of 10 or more characters"),
    ({"script_uri": ""}, "expected script_uri to be the https address of script_action.sh at a tagged commit"),
    ({"ssh_public_key": "/nowhere"}, "expected an SSH public key at /nowhere, got none."),
    ({"quota": {"standardEADSv5Family": 99, "standardDADSv5Family": 16}},
     "expected 96 free cores of the family EADSV5 in eastus, got 95. Ask Azure for more"),
])
def test_what_stands_against_a_cluster_is_said_before_anything_is_made(no_az, tmp_path, has, sentence):
    settings = {name: has.pop(name) for name in ("said", "script_uri", "ssh_public_key") if name in has}
    azure = Azure(no_az, tmp_path / "azure", **has)
    done = azure.run("create_cluster.sh", "--yes", **settings)
    assert done.returncode == 2 and sentence in done.stderr and len(done.stderr.splitlines()) == 1
    assert made(azure.asked()) == [] and "role" not in json.dumps(azure.asked())


def test_the_password_is_asked_for_and_not_echoed(no_az, tmp_path):
    """On a terminal, after the question whether to create it, and before anything is made."""
    azure = Azure(no_az, tmp_path / "azure")
    ours, its = pty.openpty()
    going = subprocess.Popen([str(SCRIPTS / "create_cluster.sh")], env=azure.environment, stdin=its, stdout=its,
                             stderr=its, cwd=REPOSITORY, start_new_session=True)
    os.close(its)
    said = b""

    def until(prompt):
        nonlocal said
        while prompt not in said:
            said += os.read(ours, 1000)

    until(b"Continue? [y/N]")
    os.write(ours, b"y\n")
    until(b"Password of the cluster's web pages:")
    assert made(azure.asked()) == []
    os.write(ours, PASSWORD.encode() + b"\n")
    until(b"Once more:")
    os.write(ours, PASSWORD.encode() + b"\n")
    until(b"Next: setup_scripts/hdinsight/storage_token.sh")
    assert going.wait(60) == 0
    os.close(ours)
    assert azure.has()["password"] == PASSWORD and PASSWORD.encode() not in said


OURS = dict.fromkeys(("landcovertiles", "landcover-cluster", "landcover-spark"), "landcover-spark")


@pytest.mark.parametrize("keep, others, elsewhere, status", [
    (False, {}, [], 0), (True, {}, [], 0),
    (False, {}, ["/subscriptions/1/Microsoft.Compute/disks/forgotten"], 2),
    (False, {"theirs": "another"}, [], 2),
])
def test_what_is_left_after_deletion_is_seen(no_az, tmp_path, keep, others, elsewhere, status):
    azure = Azure(no_az, tmp_path / "azure", group="landcover-spark", clusters={"landcover-spark": "Running"},
                  resources=dict(OURS, **others), elsewhere=elsewhere)
    done = azure.run("delete_cluster.sh", "--yes", *(["--keep-storage"] if keep else []))
    assert done.returncode == status, done.stderr
    asked = azure.asked()
    if others:
        assert made(asked) == [] and "got landcover with theirs. Move the other resources" in done.stderr
        return
    # The proof is asked for when the deletion is done.
    assert made(asked) == ["hdinsight delete" if keep else "group delete"]
    deletion = next(i for i, words in enumerate(asked) if "delete" in words)
    assert [words[:2] for words in asked[deletion + 1:]][:2] == [["resource", "list"], ["group", "exists"]]
    assert "landcover-spark" not in azure.has()["clusters"] and ("landcovertiles" in azure.has()["resources"]) == keep
    if elsewhere:
        assert "expected no billable resource" in done.stderr and "forgotten" in done.stderr
    elif not keep:
        assert done.stdout.splitlines()[-1] == "No other billable resource of landcover-spark remains."


def test_a_cluster_of_another_name_is_left_and_billed(no_az, tmp_path):
    azure = Azure(no_az, tmp_path / "azure", group="landcover-spark", resources=OURS,
                  clusters={"landcover-spark": "Running", "older": "Running"})
    done = azure.run("delete_cluster.sh", "--keep-storage", "--yes")
    assert done.returncode == 2 and "no billable resource of landcover-spark to remain, got: older." in done.stderr


def test_a_token_goes_to_the_head_node_and_is_shown_nowhere(no_az, tmp_path):
    """From the stand-in for Azure through one for ssh into two files, each for one account; for Livy to the storage."""
    azure, home = Azure(no_az, tmp_path / "azure"), {}
    folder = Path(no_az["PATH"])
    for name in ("head", "jupyter"):
        home[name] = tmp_path / name
        home[name].mkdir()
    for name, script in (
            ("ssh", f'echo "$@" >> {tmp_path}/ssh; shift; export HOME={home["head"]}; script=$1; shift; '
                    f'exec {SCRIPTS}/${{script##*/}} "$@"'),
            ("sudo", f'echo "$@" >> {tmp_path}/sudo; while [ "$1" != sh ] && [ "$1" != hdfs ]; do shift; done; '
                     f'HOME={home["jupyter"]} exec "$@"'),
            ("hdfs", f'echo "$@" >> {tmp_path}/hdfs; [ "$2" != -put ] || cat > {tmp_path}/put')):
        (folder / name).write_text(f"#!/usr/bin/env bash\n{script}\n")
        (folder / name).chmod(0o755)
    (folder / "id").unlink()
    (folder / "id").write_text("#!/usr/bin/env bash\necho sshuser\n")
    (folder / "id").chmod(0o755)
    done = azure.run("storage_token.sh", "--days", "3", "--livy")
    assert done.returncode == 0, done.stderr
    words = next(words for words in azure.asked() if "generate-sas" in words)
    assert "--as-user" in words and words[words.index("--permissions") + 1] == "acdlrw"
    for name in home:
        file = home[name] / "landcover" / "storage_token"
        assert file.read_text() == f"sv=1&sig={SECRET}\n" and file.stat().st_mode & 0o777 == 0o600
        assert os.listdir(file.parent) == ["storage_token"]
    assert (tmp_path / "put").read_text() == f"sv=1&sig={SECRET}\n"
    shown = done.stdout + done.stderr + "".join((tmp_path / name).read_text() for name in ("ssh", "sudo", "hdfs"))
    # HDInsight refuses storage commands to the account of ssh: both are Jupyter's.
    assert re.findall(r"-u spark hdfs dfs (-\w+)", (tmp_path / "sudo").read_text()) == ["-put", "-chmod"]
    assert SECRET not in shown and "-chmod 600 abfs://tutorial@landcovertiles" in shown


# A node's set-up --------------------------------------------------------------------------------------------------


def find_python(version):
    variable = "PYTHON" + version.replace(".", "")
    for candidate in [os.environ.get(variable), f"python{version}",
                      *sorted(map(str, Path(os.environ.get("PYENV_ROOT") or Path.home() / ".pyenv").glob(
                          f"versions/{version}.*/bin/python{version}")))]:
        if candidate and shutil.which(candidate) and run(candidate, "-c", "import ensurepip").returncode == 0:
            return shutil.which(candidate)
    pytest.skip(f"no Python {version} here: install one (pyenv install {version}), or set {variable}")


class Node:
    """A node that ``script_action.sh`` has set up."""

    def __init__(self, prefix, python, head="yes"):
        self.prefix, self.spark = prefix, KEPT / "spark" / "pyspark"
        self.kernels = prefix / "kernels"
        self.python = prefix / "environment" / "bin" / "python"
        self.environment = dict(os.environ, TUTORIAL_PREFIX=str(prefix), TUTORIAL_PYTHON=python, TUTORIAL_CNTK="no",
                                TUTORIAL_SPARK=str(self.spark), TUTORIAL_KERNELS=str(self.kernels), TUTORIAL_HEAD=head)

    def command(self, source=REPOSITORY):
        return ["bash", str(SCRIPTS / "script_action.sh"), str(source)]

    def leave_half_finished(self):
        """A first set-up is killed while packages come. Then, and where one had ended well before, parts lie about,
        code and kernels are gone, and of three packages one has no list of its files yet, one has lost a file, one is
        gone.
        """
        stamp = self.prefix / "environment" / "complete"
        if not stamp.exists():
            killed = subprocess.Popen(self.command(), env=self.environment, stdout=subprocess.DEVNULL,
                                      start_new_session=True)
            wait_until(lambda: len(list(self.packages().glob("*.dist-info"))) >= 5, killed, 500)
            os.killpg(killed.pid, signal.SIGKILL)
            killed.wait()
            assert not stamp.exists()
        stamp.unlink(missing_ok=True)
        for part in (".tutorial.part", ".executors.part"):
            (self.prefix / part).mkdir(exist_ok=True)
            (self.prefix / part / "half").write_text("half")
        (self.prefix / "executors.tar.gz.part").write_text("half")
        shutil.rmtree(self.prefix / "tutorial")
        shutil.rmtree(self.kernels, ignore_errors=True)
        found = [folder for folder in sorted(self.packages().glob("*.dist-info"))
                 if folder.name[:3] not in ("pip", "set") and (folder / "RECORD").exists()
                 # pip was stopped while it unpacked this one: its list has the wheel's names.
                 and ".data/" not in (folder / "RECORD").read_text()]
        files = [[self.packages() / line.split(",")[0] for line in (folder / "RECORD").read_text().splitlines()
                  if line.split(",")[0].endswith(".py")] for folder in found[:3]]
        (found[0] / "RECORD").unlink()
        [file.unlink() for file in files[1][:1] + files[2]]
        shutil.rmtree(found[2])
        self.damaged = sum(files, [])

    def packages(self):
        return self.prefix / "environment" / "lib" / "python3.10" / "site-packages"

    def launched(self, home, *command, **changed):
        """A command as the kernel is started, for an account with a home."""
        kernel = json.loads((self.kernels / "landcover" / "kernel.json").read_text())
        environment = dict(os.environ, HOME=str(home), **dict(kernel["env"], **changed))
        return run(*kernel["argv"][:2], *command, env=environment)

    def set_up(self, source=REPOSITORY, **environment):
        done = run(*self.command(source), env=dict(self.environment, **environment), timeout=500)
        assert done.returncode == 0, done.stderr[-2000:]
        lines = [line for line in done.stdout.splitlines() if line]
        # One line a step, each with its time and node.
        assert all(re.match(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ \S+ \S", line) for line in lines), lines
        return [line.split(" ", 2)[2] for line in lines]


@pytest.fixture(scope="session")
def node():
    python = find_python("3.10")
    spark = KEPT / "spark"
    if not (spark / "pyspark" / "python" / "lib" / "pyspark.zip").exists():
        done = run(python, "-m", "pip", "install", "--quiet", "--no-deps", "--target", spark, *PYSPARK, timeout=500)
        assert done.returncode == 0, done.stderr
    node = Node(KEPT / "node", python)
    node.leave_half_finished()
    started = time.monotonic()
    node.steps = node.set_up()
    record_seconds("set-up over a half-finished one", time.monotonic() - started)
    return node


STEPS = ["code", "interpreter", "environment", "CNTK", "self-test", "executors' archive", "kernels"]
HOME = """from helpers import runs
print(runs.home())
(runs.home() / "data").mkdir(exist_ok=True)
(runs.home() / "data" / "note").touch()"""


def test_the_set_up_again_does_nothing_twice_and_leaves_what_is_the_users(node, tmp_path):
    """The second time from the storage, as a node does it: a stand-in for hdfs hands the archive over."""
    (tmp_path / "hdfs").write_text(f"""#!/usr/bin/env bash
[ "$*" = "dfs -cat abfs://tutorial@landcovertiles.dfs.core.windows.net/tutorial/tutorial.tar.gz" ] || exit 1
cd {REPOSITORY}; git ls-files -z -co --exclude-standard | tar --null --ignore-failed-read -T - -czf - 2>/dev/null
""")
    (tmp_path / "hdfs").chmod(0o755)
    home = tmp_path / "home"
    home.mkdir()
    assert node.launched(home, "-c", HOME).stdout.strip() == str(home / "landcover")
    before = {name: (node.prefix / name).stat().st_mtime_ns for name in ("environment/complete", "executors.tar.gz")}
    steps = node.set_up("abfs://tutorial@landcovertiles.dfs.core.windows.net/tutorial/tutorial.tar.gz",
                        PATH=f"{tmp_path}:{os.environ['PATH']}")
    assert [step.split(":")[0] for step in steps] == STEPS
    assert steps[2] == "environment: there already" and steps[5] == "executors' archive: there already"
    assert steps[4] == "self-test: passed"
    assert before == {name: (node.prefix / name).stat().st_mtime_ns for name in before}
    kernel = json.loads((node.kernels / "landcover" / "kernel.json").read_text())
    assert kernel["argv"][1] == str(node.python) and kernel["env"]["SPARK_HOME"] == str(node.spark)
    assert kernel["env"]["TUTORIAL_MASTER"] == "yarn" and "client" in kernel["env"]["PYSPARK_SUBMIT_ARGS"]
    assert kernel["env"]["TUTORIAL_STORAGE"] == "abfs://tutorial@landcovertiles.dfs.core.windows.net"
    assert (home / "landcover" / "data" / "note").exists()
    told = "import os; print(os.environ.get('AZURE_STORAGE_SAS_TOKEN_FILE'))"
    token = home / "landcover" / "storage_token"
    assert node.launched(home, "-c", told).stdout.strip() == str(token)  # The storage is Azure's: it is needed there.
    assert node.launched(home, "-c", told, TUTORIAL_STORAGE="").stdout.strip() == "None"
    token.touch()
    assert node.launched(home, "-c", told, TUTORIAL_STORAGE="").stdout.strip() == str(token)


def test_everyone_may_read_a_node_and_nobody_but_its_owner_change_it(node):
    for path in [node.prefix / "executors.tar.gz", node.prefix / "tutorial" / "helpers", node.python.parent,
                 node.packages(), node.kernels / "landcover" / "kernel.json"]:
        assert path.stat().st_mode & 0o777 == (0o755 if path.is_dir() else 0o644), path


def test_the_set_up_over_one_that_ended_in_the_middle(node):
    """What the fixture has left half-finished is whole: packages, code, kernel, an archive that has scored by
    itself.
    """
    assert [step.split(":")[0] for step in node.steps] == STEPS
    assert node.steps[2].startswith("environment: 1") and node.steps[4] == "self-test: passed"
    assert node.damaged and all(file.exists() for file in node.damaged)
    assert (node.kernels / "landcover" / "kernel.json").exists() and (node.prefix / "tutorial" / "helpers").is_dir()
    assert "passed the self-test" in node.steps[5] and not (node.prefix / "executors.tar.gz.part").exists()


def test_an_environment_that_does_not_work_is_fixed_by_the_next_set_up(node):
    """Its stamp is there, a package is not: the self-test sees it, and takes the stamp away."""
    (node.packages() / "onnxruntime" / "__init__.py").rename(node.prefix / "gone")
    done = run(*node.command(), env=node.environment)
    assert done.returncode == 2 and "failed: expected an environment that works" in done.stderr
    assert not (node.prefix / "environment" / "complete").exists()
    (node.prefix / "gone").rename(node.packages() / "onnxruntime" / "__init__.py")
    (node.prefix / "environment" / "complete").write_text((node.prefix / "environment" / "begun").read_text())


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


def test_the_nodes_own_python_comes_before_conda(node, tmp_path):
    base = Path(run(node.environment["TUTORIAL_PYTHON"], "-c", "import sys; print(sys.base_prefix)").stdout.strip())
    (tmp_path / "conda").write_text("#!/bin/sh\necho $@ > {}/asked\nexit 1\n".format(tmp_path))
    (tmp_path / "conda").chmod(0o755)
    environment = dict(node.environment, TUTORIAL_PREFIX=str(tmp_path / "node"), TUTORIAL_CONDA=str(tmp_path / "conda"))
    del environment["TUTORIAL_PYTHON"]
    # Killed after that step: what follows takes minutes.
    for path, said in ((f"{base / 'bin'}:{os.environ['PATH']}", f"at {base / 'bin' / 'python3.10'}"),
                       ("/usr/bin:/bin", "failed: expected conda to install Python 3.10 within 20 minutes")):
        going = subprocess.Popen(node.command(), env=dict(environment, PATH=path), text=True, start_new_session=True,
                                 stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
        assert any(said in line for line in going.stdout)
        if going.poll() is None:
            os.killpg(going.pid, signal.SIGKILL)
        going.communicate()
    assert "python=3.10.16" in (tmp_path / "asked").read_text()


def test_the_kernel_can_work_on_the_head_node_alone(node, tmp_path):
    """``master = "local[2]"``, as the page says for the sample; the cluster's own settings would stop it."""
    conf = tmp_path / "conf"
    conf.mkdir()
    (conf / "spark-defaults.conf").write_text("spark.executor.memory no-number\n")
    done = node.launched(tmp_path, "-c", "from helpers.cluster import session\nspark = session.start('local[2]')\n"
                         "print(spark.range(7).count())", TUTORIAL_STORAGE="", SPARK_CONF_DIR=str(conf))
    assert done.returncode == 0 and done.stdout.endswith("7\n"), done.stderr[-2000:]


def test_a_worker_gets_no_kernel(node, tmp_path):
    worker = Node(node.prefix, node.environment["TUTORIAL_PYTHON"], head="no")
    worker.environment["TUTORIAL_KERNELS"] = str(tmp_path / "kernels")
    steps = worker.set_up()
    assert "kernels: only on head nodes" in steps and not (tmp_path / "kernels").exists()


# The newest symbols of Ubuntu 18.04's libraries: glibc 2.27, and the C++ library of GCC 8.
UBUNTU = {"GLIBC": (2, 27), "GLIBCXX": (3, 4, 25), "CXXABI": (1, 3, 11)}


def beyond_ubuntu(pins, site, limits=UBUNTU):
    """What the pinned packages need that Ubuntu 18.04 lacks, and the number of compiled files that were read."""
    plain = {re.sub(r"[-_.]+", "-", found.metadata["Name"]).lower(): found for found in distributions(path=[str(site)])}
    wanted = dict(re.findall(r"^([a-z0-9.-]+)==(\S+) \\", (SCRIPTS / pins).read_text(), re.MULTILINE))
    packages = [plain[name.replace(".", "-")] for name in wanted]
    assert [package.version for package in packages] == list(wanted.values())
    found, read_files = [], 0
    for package in packages:
        files = [Path(package.locate_file(file)) for file in package.files if ".so" in file.name]
        read_files += len(files)
        own = {file.name for file in files}
        found += [needs for file in files for needs in symbols.beyond(file, limits, own)]
    return found, read_files


def test_every_wheel_fits_ubuntu_18(node):
    found, files = beyond_ubuntu("requirements-cluster.txt", node.packages())
    assert not found and files > 400
    older = dict(UBUNTU, GLIBC=(2, 16), GLIBCXX=(3, 4, 18))
    assert len(beyond_ubuntu("requirements-cluster.txt", node.packages(), older)[0]) > 50  # It does see them.


def test_every_wheel_of_cntk_fits_ubuntu_18():
    try:
        site = cntk_environment() / "lib" / "python3.6" / "site-packages"
    except InputError as error:
        pytest.skip(str(error))
    found, files = beyond_ubuntu("requirements-cluster-cntk.txt", site)
    assert not found and files > 100


def test_units_of_work_are_done_on_its_spark(node, tmp_path):
    done = run(node.python, toy.__file__, "local[2]", tmp_path, 0, env=dict(
        os.environ, PYTHONPATH=f"{KEPT / 'spark'}:{REPOSITORY}"))
    assert json.loads(done.stdout) == {"rows": 21, "failed": []}, done.stderr


def test_the_way_of_an_account_that_is_not_root(node, tmp_path, no_az):
    """The page's own lines, in a home where the rehearsal's node is the environment."""
    (tmp_path / "landcover-node").symlink_to(node.prefix)
    block = next(block for block in blocks("sh") if block.startswith("export"))
    environment = {name: value for name, value in node.environment.items() if not name.startswith("TUTORIAL_")}
    environment.update(HOME=str(tmp_path), TUTORIAL_PYTHON=node.environment["TUTORIAL_PYTHON"],
                       TUTORIAL_SPARK=str(node.spark))
    done = run("bash", "-ec", block.replace("TILES MODEL TABLE", "TILES MODEL TABLE --dry-run"), env=environment)
    assert done.returncode == 0 and "self-test: passed" in done.stdout, done.stderr
    assert f"--archives {tmp_path}/landcover-node/executors.tar.gz" in done.stdout


# The notebooks on the cluster's versions --------------------------------------------------------------------------


# As HDInsight's own value, without which its application masters die. On this Java a flag that changes nothing.
JAVA_OPTIONS = "-Dhdp.version=5.1.0 -Djavax.xml.accessExternalDTD=all"


# Half an hour in all, so only -m slow runs them; RECORD_SECONDS=1 keeps what each takes.
on_yarn = pytest.mark.slow


class Cluster:
    """A YARN and an HDFS of PySpark 3.3.1's Hadoop; executors have nothing but the archive."""

    master = "yarn"

    def __init__(self, node, home, servers):
        self.node, self.home, self.yarn = node, home, servers
        self.storage = servers.storage + "/tutorial"
        self.defaults = f"spark.yarn.jars local:{node.spark}/jars/*\nspark.driver.extraJavaOptions {JAVA_OPTIONS}\n"
        # On HDFS, where all may read it, a node unpacks the archive once, and not for each application.
        archive = f"spark.yarn.dist.archives {servers.put(node.prefix / 'executors.tar.gz')}#environment\n"
        conf = self.configure("conf", self.defaults + archive)
        # The kernel's own environment, but for the executors' Python: here they share the node's disk, and must not use
        # it.
        kernel = json.loads((node.kernels / "landcover" / "kernel.json").read_text())
        kernel["env"].update(PYSPARK_PYTHON="./environment/bin/python", SPARK_CONF_DIR=str(conf),
                             HADOOP_CONF_DIR=str(servers.conf), SPARK_LOCAL_IP="127.0.0.1",
                             TUTORIAL_STORAGE=self.storage)
        folder = home / "jupyter" / "kernels" / "landcover"
        folder.mkdir(parents=True)
        (folder / "kernel.json").write_text(json.dumps(kernel))
        # What the kernel's launcher makes of HOME is where runs/ and data/ are.
        self.launcher, self.own = kernel["argv"][0], home / "landcover"
        self.environment = {key: value for key, value in os.environ.items()
                            if key not in VARIABLES and key != "TUTORIAL_HOME"}
        self.environment.update(kernel["env"], HOME=str(home), JUPYTER_PATH=str(home / "jupyter"), MPLBACKEND="Agg",
                                PATH=f"{servers.bin}:{os.environ['PATH']}")
        self.environment.pop("VIRTUAL_ENV", None)

    def configure(self, name, defaults):
        """A folder with Spark's defaults."""
        conf = self.home / name
        conf.mkdir()
        (conf / "spark-defaults.conf").write_text(defaults)
        return conf

    def run(self, program, *arguments):
        """A program in the driver's Python, as the kernel would run it."""
        return run(self.launcher, self.node.python, "-W", "ignore", program, *arguments, env=self.environment)

    def papermill(self, name, **parameters):
        started = time.monotonic()
        words = [word for key, value in parameters.items() for word in ("-y", json.dumps({key: value}))]
        path = with_answers(name, self.home, parameters)
        done = run(self.node.python, "-m", "papermill", path, path.with_suffix(".done.ipynb"), "-k", "landcover",
                   "--cwd", NOTEBOOKS, "--no-progress-bar", *words, env=self.environment, timeout=1200)
        assert done.returncode == 0, done.stderr[-3000:]
        record_seconds(f"notebook {name}", time.monotonic() - started)


@pytest.fixture(scope="session")
def cluster(node, tmp_path_factory, sample_world):
    home = tmp_path_factory.mktemp("hdinsight")
    (home / "landcover" / "data").mkdir(parents=True)
    for path in (REPOSITORY / "data").iterdir():
        if path.name != "local_cluster":
            (home / "landcover" / "data" / path.name).symlink_to(path)
    servers = Yarn(node.spark, KEPT, tmp_path_factory.mktemp("yarn"))
    yield Cluster(node, home, servers)
    servers.close()


@pytest.fixture(scope="session")
def ran(cluster):
    """Notebooks 02, 03, 05 and 06 with other parameters and their answers, on a county of some 200 tiles."""
    common = {"run_name": "tiny", "county": "99009"}
    cluster.papermill("02_data_preparation", master=cluster.master, train_counties=["99003"], train_years=[2010],
                      train_tiles=15, **common)
    cluster.papermill("03_retraining_tensorflow", run_name="tiny", per_class=12, copies=1, head_epochs=3,
                      tuning_epochs=1, seed=5)
    # The default master gives way to the kernel's.
    cluster.papermill("05_parallel_scoring", run_name="tiny", engine="onnxruntime")
    cluster.papermill("06_mapping_results", **common)
    return cluster.own / "runs" / "tiny"


@on_yarn
def test_the_notebooks_run_on_the_clusters_versions(cluster, ran):
    metrics = json.loads((ran / "metrics.json").read_text())
    parts = tilestore.partitions(f"{cluster.storage}/runs/tiny/tiles")
    assert {part["county"] for part in parts} == {"99003", "99005", "99009"}
    assert metrics["scoring"]["tiles"] == sum(part["tiles"] for part in parts) and metrics["scoring"]["errors"] == 0
    assert set(metrics["seconds"]) == {"02_data_preparation", "03_retraining_tensorflow", "05_parallel_scoring",
                                       "06_mapping_results"}
    assert {"99009.html", "99009_tiles.parquet", "99009_class_2010.tif"} <= {
        path.name for path in (ran / "maps").iterdir()}
    assert metrics["scoring"]["engine"] == "onnxruntime"
    assert bundle.load(ran / "models" / "tensorflow").facts["seed"] == 5


@on_yarn
def test_without_enough_to_learn_from_the_rule_of_2017_ranks(ran):
    """One training county of one year fits no score: there is a page all the same, and nowhere a chance in it."""
    change = json.loads((ran / "metrics.json").read_text())["change"]
    assert "precision" in change and change["calibrated"] is False
    assert not [name for name in change if name.startswith("calibration")]
    for name in ("99009.html", "99009_tiles.qml"):
        assert new_development.RANKED in (ran / "maps" / name).read_text(encoding="utf-8")
    with rasterio.open(ran / "maps" / "99009_change_score.tif") as file:
        assert file.tags()["SCORE"] == new_development.RANKED and file.tags()["VALUE_60"] == "60"


@on_yarn
def test_its_predictions_are_those_of_the_laptop(spark, cluster, ran, tmp_path):
    """Spark 3.3.1 and Python 3.10 there, 3.5 and 3.11 or newer here."""
    model, its = bundle.load(ran / "models" / "tensorflow"), f"{cluster.storage}/runs/tiny"
    scoring_module.score(spark, its + "/tiles", model, str(tmp_path / "table"), "onnxruntime")
    here, there = read(str(tmp_path / "table")), read(its + "/predictions")
    both = here.merge(there, on=["tile_id", "county", "year"], suffixes=("", "_there"))
    assert len(both) > 0
    assert both["class_id"].equals(both["class_id_there"])


@on_yarn
def test_a_long_job_is_submitted_with_an_archive(cluster, ran, tmp_path):
    """Tiles from HDFS at ``webhdfs://``, rows to it at ``hdfs://``, by the archive's helpers: YARN would hand on those
    of a PYTHONPATH.
    """
    (tmp_path / "helpers").mkdir()
    (tmp_path / "helpers" / "__init__.py").write_text("raise SystemExit('the wrong helpers')")
    environment = dict(cluster.environment, TUTORIAL_PREFIX=str(cluster.node.prefix), PYTHONPATH=str(tmp_path),
                       TUTORIAL_SPARK=str(cluster.node.spark),
                       SPARK_CONF_DIR=str(cluster.configure("submit", cluster.defaults)))
    tiles, table = cluster.storage + "/runs/tiny/tiles", cluster.yarn.hdfs + "/tutorial/table"
    submit = [SCRIPTS / "submit_scoring.sh", tiles, ran / "models" / "tensorflow", table]
    refused = run(*submit, env=dict(environment, HADOOP_USER_NAME="nobody"))
    assert refused.returncode == 2 and "the cluster's storage, got: mkdir: Permission denied" in refused.stderr
    started = time.monotonic()
    first = run(*submit, env=environment, timeout=500)
    count = sum(part["tiles"] for part in tilestore.partitions(tiles))
    assert f"{count:,} tiles scored in" in first.stdout, first.stderr[-3000:]
    # How large the job is comes from what YARN offers, and is told before.
    offered = f"YARN has 2 nodes with {2 * yarn.CORES} cores and {2 * yarn.NODE_MB / 1024:.0f} GB. "
    assert first.stdout.index(offered) < first.stdout.index("tiles scored in") and len(read(table)) == count
    record_seconds("submitted job", time.monotonic() - started)


@on_yarn
def test_a_clusters_own_java_options_reach_the_driver(cluster):
    done = cluster.run("-c", "from helpers.cluster import session; spark = session.start('yarn')\n"
                       "print(spark.sparkContext._jvm.System.getProperty('hdp.version')); session.stop(spark)")
    assert done.stdout.splitlines()[-1] == "5.1.0", done.stderr[-2000:]


@pytest.fixture(scope="session")
def shared(cluster, ran, tmp_path_factory):
    """The tile store and the bundle on Azure storage; the environment to read them with."""
    azure = Azurite(tmp_path_factory.mktemp("azurite"))
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("AZURE_STORAGE_CONNECTION_STRING", azure.connection_string)
        try:
            azure.container("tutorial")
            upload(cluster, ran)
            yield azure
        finally:
            azure.close()


def upload(cluster, ran):
    system, tiles = filesystem(f"{cluster.storage}/runs/tiny/tiles")
    for path in system.find(f"{tiles}/county=99009/year=2010"):
        if path.endswith((".parquet", ".json")):
            write_whole(f"abfs://tutorial/tiles/{path[len(tiles) + 1:]}", system.cat_file(path))
    bundle.upload(bundle.load(ran / "models" / "tensorflow"), "abfs://tutorial/model")


@pytest.fixture(scope="session")
def livy(cluster):
    """A Livy that starts its drivers on YARN, in an environment that knows nothing of the tutorial."""
    folder = cluster.home / "livy"
    folder.mkdir()
    environment = {key: value for key, value in os.environ.items()
                   if key not in VARIABLES and not key.startswith(("TUTORIAL_", "PYTHON", "VIRTUAL_ENV"))}
    environment.update(HADOOP_CONF_DIR=str(cluster.yarn.conf), SPARK_LOCAL_IP="127.0.0.1",
                       SPARK_CONF_DIR=str(cluster.configure("livy_conf", cluster.defaults)))
    server = Livy(cluster.node.spark, KEPT, folder, environment,
                  **{"livy.spark.master": "yarn", "livy.spark.deploy-mode": "cluster"})
    yield server
    server.close()


def configuration(cluster, shared):
    """The page's cell for Livy, with the places of this machine: the token lies on HDFS, for its owner alone. And the
    token.
    """
    page = json.loads(blocks("text")[0].partition("\n")[2])
    token = cluster.home / page["files"][0].rsplit("/", 1)[-1]
    secret = shared.token("tutorial", 60)
    token.write_text(secret)
    page["files"] = [cluster.yarn.put(token, "600")]
    token.unlink()
    page["conf"].update({"spark.pyspark.python": str(cluster.node.python),
                         "spark.yarn.appMasterEnv.TUTORIAL_STORAGE": f"abfs://tutorial@{ACCOUNT}.dfs.core.windows.net",
                         "spark.yarn.appMasterEnv.AZURE_STORAGE_SERVICE_ENDPOINT": shared.endpoint})
    return "%%configure -f\n" + json.dumps(page), secret


# Of the session that the notebook has used: it is still there, the container is the tutorial's home, and what was set
# for the thread of the cells is set.
SEEN = """import os
print("rows:", spark.range(3).count(), "kept:", spark.sparkContext.getLocalProperty("rehearsal"), sorted(os.listdir()))"""


@on_yarn
def test_notebook_05_runs_by_way_of_livy(cluster, shared, ran, livy):
    """sparkmagic's kernel, Livy's server, a driver in a container of YARN; tiles, bundle and table on the storage, by a
    token alone.
    """
    if not shutil.which("krb5-config"):
        pytest.skip("no krb5-config to install sparkmagic with: on Debian, apt-get install libkrb5-dev")
    python = environment_of(".venv-sparkmagic", *PACKAGES)
    home = cluster.home / "jupyter_user"
    home.mkdir()
    kernel(python, home, livy.url)
    notebook = nbformat.read(NOTEBOOKS / "05_parallel_scoring.ipynb", as_version=4)
    cell, token = configuration(cluster, shared)
    before = [cell, 'spark.sparkContext.setLocalProperty("rehearsal", "yes")']
    notebook.cells = [*map(nbformat.v4.new_code_cell, before), *notebook.cells, nbformat.v4.new_code_cell(SEEN)]
    nbformat.write(notebook, home / "notebook.ipynb")
    where = f"abfs://tutorial@{ACCOUNT}.dfs.core.windows.net"
    parameters = {"run_name": "tiny", "tiles_uri": where + "/tiles", "model_uri": where + "/model"}
    words = [word for key, value in parameters.items() for word in ("-p", key, value)]
    started = time.monotonic()
    done = run(python, "-m", "papermill", home / "notebook.ipynb", home / "done.ipynb", "-k", KERNEL,
               "--no-progress-bar", *words, timeout=900, cwd=home,
               env=dict(os.environ, HOME=str(home), JUPYTER_PATH=str(home / "jupyter")))
    assert done.returncode == 0, done.stderr[-3000:]
    said = texts(home / "done.ipynb")
    # papermill goes on after a cell that raises: for the kernel it is text.
    assert not [text for text in said if "An error was encountered" in text]
    assert any("a row for each tile: True | errors: 0" in text for text in said)
    assert "rows: 3 kept: yes" in said[-1] and "'runs'" in said[-1] and "'storage_token'" in said[-1], said[-1]
    assert len(read("abfs://tutorial/runs/tiny/predictions"))
    left = [path for path in cluster.home.rglob("*") if path.is_file() and not path.is_symlink()]
    left += cluster.yarn.logs()
    assert {path.suffix for path in left} >= {"", ".json", ".log", ".ipynb"}
    signature, = re.findall(r"sig=([^&]+)", token)
    for written in (signature, unquote(signature)):
        assert not [path for path in left if written.encode() in path.read_bytes()]
    record_seconds("notebook 05 by way of Livy", time.monotonic() - started)


def test_notebook_05_has_no_magics():
    for cell in json.loads((NOTEBOOKS / "05_parallel_scoring.ipynb").read_text())["cells"]:
        if cell["cell_type"] == "code":
            compile("".join(cell["source"]), "cell", "exec")


@on_yarn
def test_deaths_on_yarn_lose_no_unit(cluster, tmp_path):
    """YARN kills a container for its memory, somebody kills the application master, and a node manager stops. This test
    is the last on this YARN, which has one node left.
    """
    count, swells, begun = 24, 3, lambda: toy.log(tmp_path / "log") if (tmp_path / "log").exists() else {}
    masters = lambda: cluster.yarn.processes("org.apache.spark.deploy.yarn.ExecutorLauncher")  # noqa: E731
    with open(tmp_path / "stderr", "w") as said:
        going = subprocess.Popen([cluster.launcher, cluster.node.python, "-W", "ignore", toy.__file__, "yarn", tmp_path,
                                  "4", str(count), str(swells)], env=cluster.environment, stdout=said, stderr=said)
    try:
        wait_until(lambda: begun().get(swells, 0) > 1, going)
        first, = masters()
        first.kill()
        wait_until(lambda: [master for master in masters() if master.pid != first.pid], going)
        cluster.yarn.stop_node(0)
        assert going.wait(400) == 0, (tmp_path / "stderr").read_text()[-3000:]
    finally:
        going.kill()
    said = (tmp_path / "stderr").read_text()
    assert "killed by YARN for exceeding physical memory limits" in said and '"failed": []' in said
    assert set(toy.files(tmp_path / "out")) == {f"{name}.parquet" for name in toy.units(count)}


# What takes minutes -----------------------------------------------------------------------------------------------


def record_passed(request, started, **found):
    """Keep, if asked to, that a slow test has passed, when, in how many seconds, and what it has found."""
    if os.environ.get("RECORD_SECONDS"):
        record("slow", {request.node.name: dict(found, date=time.strftime("%Y-%m-%d"),
                                                seconds=round(time.monotonic() - started))})


def environment_of(name, *packages, python=sys.executable):
    """An environment beside the others, kept between runs."""
    folder = REPOSITORY / name
    wanted = repr(packages) + "".join(Path(p).read_text() for p in packages if Path(p).is_file())
    if not (folder / "complete").exists() or (folder / "complete").read_text() != wanted:
        assert run(python, "-m", "venv", "--clear", folder).returncode == 0
        done = run(folder / "bin" / "python", "-m", "pip", "install", "--quiet", *packages, timeout=900)
        assert done.returncode == 0, done.stderr[-2000:]
        (folder / "complete").write_text(wanted)
    return folder / "bin" / "python"


# An account of HDFS that is none of this machine; its queue has half of YARN.
ACCOUNT_ON_HDFS, QUEUES = "ada", {"queues": "default,maps", "default.capacity": 50, "maps.capacity": 50,
                                  "maps.maximum-capacity": 50}
JOB = """import sys
from helpers.cluster import session
from helpers.land.catalog import Catalog
from helpers.model import bundle
from helpers.scoring.score import score
from helpers.tiles.prepare import prepare
catalogue, home, jars = sys.argv[1:]
spark = session.start("yarn", settings={"spark.yarn.jars": jars, "spark.yarn.queue": "maps"})
prepare(spark, Catalog(catalogue), "99001", 2010, "map", home + "/tiles")
score(spark, home + "/tiles", bundle.load(home + "/model"), home + "/table", "onnxruntime")
session.stop(spark)"""


@pytest.mark.slow
def test_the_laptops_spark_on_a_yarn_of_its_own_hadoop(spark, request, tmp_path, monkeypatch):
    """Tiles are prepared and scored with store, bundle and table at ``hdfs://``: the files of a laptop, in the name of
    the driver's account. The session asks for what its queue has.
    """
    started, folder = time.monotonic(), Path(pyspark.__file__).parent
    monkeypatch.setattr(tiny, "PX", 224)
    (tmp_path / "county").mkdir()
    catalogue = scenes.write_county(tmp_path / "county")
    model = tiny.model(tmp_path / "model")
    prepare(spark, Catalog(catalogue), "99001", 2010, "map", str(tmp_path / "tiles"))
    scoring_module.score(spark, str(tmp_path / "tiles"), model, str(tmp_path / "table"), "onnxruntime")
    servers = Yarn(folder, KEPT, tmp_path / "yarn", **QUEUES)
    try:
        system, _ = filesystem(servers.hdfs)
        home = f"/user/{ACCOUNT_ON_HDFS}"
        system.makedirs(home)
        system.client.set_owner(home, owner=ACCOUNT_ON_HDFS)
        bundle.upload(model, f"{servers.hdfs}{home}/model")
        done = run(sys.executable, "-W", "ignore", "-c", JOB, catalogue, servers.hdfs + home, f"local:{folder}/jars/*",
                   env=dict(os.environ, HADOOP_CONF_DIR=str(servers.conf), HADOOP_USER_NAME=ACCOUNT_ON_HDFS,
                            SPARK_LOCAL_IP="127.0.0.1", TUTORIAL_HOME=str(tmp_path)))
        assert done.returncode == 0, done.stderr[-3000:]
        whole = f"YARN has 2 nodes with {2 * yarn.CORES} cores and {2 * yarn.NODE_MB / 1024:.0f} GB."
        half = f"Your queue has {yarn.CORES} cores and {yarn.NODE_MB / 1024:.0f} GB left. The job begins with 1 "
        assert f"{whole} {half}" in done.stdout
        tiles, table = (tilestore.read(f"{servers.hdfs}{home}/tiles"), read(f"{servers.hdfs}{home}/table"))
        assert tiles.equals(tilestore.read(str(tmp_path / "tiles")))
        here = read(str(tmp_path / "table"))
        assert table.drop(columns="probabilities").equals(here.drop(columns="probabilities"))
        assert len(here) == len(tiles)
        taken = f"{servers.hdfs}/taken/_table.json"
        create(taken, b"first")
        with pytest.raises(FileExistsError):
            create(taken, b"second")
        assert system.cat_file("/taken/_table.json") == b"first" and len(system.ls("/taken")) == 1
        written = [path for name in ("tiles", "table") for path in system.find(f"{home}/{name}")]
        assert written and {system.info(path)["owner"] for path in written} == {ACCOUNT_ON_HDFS}
        monkeypatch.setenv("HADOOP_USER_NAME", "nobody")
        system.clear_instance_cache()
        with pytest.raises(InputError, match='got: Permission denied: user=nobody, access=WRITE, inode="/user/ada":'):
            write_whole(f"{servers.hdfs}{home}/t/file", b"")
    finally:
        servers.close()
    with pytest.raises(InputError, match="expected an answer from the name node of hdfs://.*, got: Connection refused"):
        tilestore.partitions(servers.hdfs)
    hadoop = next(re.findall(r"api-(.+)\.jar", jar.name)[0] for jar in servers.jars if "client-api" in jar.name)
    record_passed(request, started, spark=pyspark.__version__, hadoop=hadoop, tiles=len(tiles))


@pytest.mark.slow
def test_the_azure_cli_takes_each_command(no_az, tmp_path, request):
    """Each is read by its parser; what would be sent to create the cluster has key, password and identity."""
    started, key = time.monotonic(), tmp_path / "key.pub"
    key.write_text("ssh-rsa AAAA planted\n")
    python = environment_of(".venv-azure-cli", "azure-cli==2.91.0")
    shown = []
    for words in commands():
        if words[0] not in FOR_REAL:
            done = run(*words, "--dry-run", env=dict(no_az, ssh_public_key=str(key)))
            shown += [shlex.split(line[2:]) for line in (done.stdout + done.stderr).splitlines()
                      if line.startswith("+ az ")]
    shown = [list(words) for words in dict.fromkeys(map(tuple, shown))]
    wrong = [["az", "hdinsight", "create", "--colour", "blue"], ["az", "hdinsight", "resize", "--name", "x"]]
    # It asks the cloud for nothing: the tests' network would be closed to it anyhow.
    environment = dict(os.environ, PASSWORD=PASSWORD, AZURE_CONFIG_DIR=no_az["HOME"] + "/azure",
                       AZURE_CORE_COLLECT_TELEMETRY="no", AZURE_EXTENSION_USE_DYNAMIC_INSTALL="no")
    done = subprocess.run([str(python), str(Path(__file__).with_name("az_parser.py"))], env=environment, timeout=580,
                          text=True, input="".join(json.dumps(words[1:]) + "\n" for words in shown + wrong),
                          capture_output=True)
    said = done.stdout.split("\n")[:-1]
    assert len(said) == len(shown) + 2, done.stderr[-2000:]
    assert all(said[-2:]), "the parser takes anything"
    sent = {" ".join(words): json.loads(sentence) for words, sentence in zip(shown, said) if sentence.startswith("{")}
    refused = {" ".join(words): sentence for words, sentence in zip(shown, said)
               if sentence and " ".join(words) not in sent}
    assert not refused
    (cluster,) = sent.values()
    roles = cluster["properties"]["computeProfile"]["roles"]
    keys = [role["osProfile"]["linuxOperatingSystemProfile"]["sshProfile"]["publicKeys"] for role in roles]
    assert len(keys) == 3 and all(one == [{"certificateData": "ssh-rsa AAAA planted"}] for one in keys)
    identity = cluster["properties"]["storageProfile"]["storageaccounts"][0]["msiResourceId"]
    assert identity.endswith("/IDENTITY_ID") and list(cluster["identity"]["userAssignedIdentities"]) == [identity]
    gateway = cluster["properties"]["clusterDefinition"]["configurations"]["gateway"]
    assert gateway["restAuthCredential.password"] == PASSWORD
    record_passed(request, started, commands=len(shown), azure_cli=run(
        python, "-c", "from importlib.metadata import version; print(version('azure-cli'))").stdout.strip())


def passed_on(python, environment, *tests):
    """The tests of units of work, of preflight and of scoring, and others, in a Python and its environment."""
    tests = ["scoring/test_score", "scoring/test_table", "cluster/test_preflight", "cluster/test_work", *tests]
    done = run(python, "-m", "pytest", "-q", "-p", "no:cacheprovider", *(f"tests/{name}.py" for name in tests),
               "-W", "ignore::FutureWarning", env=environment, timeout=900)
    assert done.returncode == 0, done.stdout[-3000:]
    return done.stdout.strip().splitlines()[-1].split(" in ")[0]


@pytest.mark.slow
def test_scoring_on_spark_4(request):
    """The newest Spark goes before the other on Python's path; everything else is the same."""
    started = time.monotonic()
    environment = spark4.environment()
    passed = passed_on(sys.executable, environment)
    version = run(sys.executable, "-c", "import pyspark; print(pyspark.__version__)", env=environment)
    record_passed(request, started, version=version.stdout.strip(), tests=passed)


VERSIONS = """import platform, pyspark
from helpers.cluster import adapter, session
spark = session.start("local[1]")
print(pyspark.__version__, adapter.java(spark), platform.python_version())
session.stop(spark)"""


@pytest.mark.slow
def test_scoring_on_the_versions_of_fabric(request):
    """Runtime 2.0 of Microsoft Fabric: Spark 4.1, classic and by Connect, Java 21, Python 3.13."""
    started = time.monotonic()
    python = environment_of(".venv-fabric", "-r", REPOSITORY / "requirements.txt", python=find_python("3.13"))
    environment = spark4.fabric(python)
    versions = run(python, "-W", "ignore", "-c", VERSIONS, env=environment).stdout.split()
    assert [version.rpartition(".")[0] for version in versions] == ["4.1", "21.0", "3.13"]
    passed = passed_on(python, environment, "cluster/test_connect")
    record_passed(request, started, tests=passed, **dict(zip(("spark", "java", "python"), versions)))


def test_the_committed_results_name_every_slow_test():
    slow = re.findall(r"^@pytest.mark.slow\ndef (test_\w+)", Path(__file__).read_text(), flags=re.MULTILINE)
    recorded = json.loads(RESULTS.read_text())["slow"]
    assert slow and set(recorded) == set(slow)
    assert all(re.fullmatch(r"\d{4}-\d\d-\d\d", one["date"]) and one["seconds"] > 0 for one in recorded.values())

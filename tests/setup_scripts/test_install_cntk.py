"""The installation of CNTK's environment."""

import json
import shutil
import subprocess
import sys

import pytest

from helpers.model.engine_cntk import cntk_environment
from networks import ROOT, needs_cntk


@pytest.fixture
def house(tmp_path):
    """A repository of its own: the script, and a main environment that is there already."""
    (tmp_path / "setup_scripts").mkdir()
    (tmp_path / "tools").mkdir()
    shutil.copy(ROOT / "setup_scripts" / "install_cntk.sh", tmp_path / "setup_scripts")
    shutil.copytree(ROOT / "helpers", tmp_path / "helpers", ignore=shutil.ignore_patterns("weights", "__pycache__"))
    (tmp_path / "setup_scripts" / "environment.sh").write_text(
        f"repository={tmp_path}; environment={tmp_path}/.venv; python={sys.executable}\n")
    (tmp_path / "requirements.txt").write_text('cntk==2.7.post2 ; python_version < "3.7"\n')
    return tmp_path


def install(house, tools=None, arguments=(), **environment):
    """Run the script, with small programs in place of those of the same name."""
    for name, text in (tools or {}).items():
        (house / "tools" / name).write_text("#!/bin/sh\n" + text)
        (house / "tools" / name).chmod(0o755)
    command = [house / "setup_scripts" / "install_cntk.sh", *arguments]
    return subprocess.run(command, capture_output=True, text=True, env=dict(
        {"PATH": f"{house}/tools:/usr/bin:/bin", "HOME": str(house), "PYENV_ROOT": str(house)}, **environment))


def test_help_is_printed_and_nothing_installed(house):
    done = install(house, arguments=["--help"])
    assert done.returncode == 0 and "CNTK_PYTHON" in done.stdout and not (house / ".venv-cntk").exists()


def test_where_cntk_cannot_be_had_one_line_says_why(house):
    kernel = house / ".venv/share/jupyter/kernels/cntk/kernel.json"
    kernel.parent.mkdir(parents=True)
    kernel.write_text("{}")
    done = install(house, {"uname": "echo Darwin"})
    assert done.returncode == 3 and done.stdout == "" and not kernel.parent.exists()
    assert done.stderr.count("\n") == 1 and "expected Linux on x86-64" in done.stderr and "Darwin" in done.stderr
    done = install(house, {"uname": '[ "$1" = -m ] && echo x86_64 || echo Linux', "python3.6": "exit 1"})
    assert done.returncode == 3 and done.stderr.count("\n") == 1
    assert "expected Python 3.6 in CNTK_PYTHON, on the path or in pyenv" in done.stderr
    done = install(house, CNTK_PYTHON=sys.executable)
    assert done.returncode == 3 and f"got {sys.executable}." in done.stderr


def test_python36_is_looked_for_in_order(house):
    """The first that is Python 3.6 is used: each stand-in claims to be, and fails with its name when used."""
    def stand_in(name):
        return f'case "$*" in *version_info*) exit 0;; *--version*) echo {name};; *) exit 7;; esac'
    (house / "versions/3.6.15/bin").mkdir(parents=True)
    pyenv = house / "versions/3.6.15/bin/python3.6"
    pyenv.write_text("#!/bin/sh\n" + stand_in("of-pyenv"))
    pyenv.chmod(0o755)
    assert "CNTK 2.7 for of-pyenv" in install(house).stdout
    assert "CNTK 2.7 for of-path" in install(house, {"python3.6": stand_in("of-path")}).stdout
    (house / "tools/chosen").write_text("#!/bin/sh\n" + stand_in("chosen"))
    (house / "tools/chosen").chmod(0o755)
    assert "CNTK 2.7 for chosen" in install(house, CNTK_PYTHON=str(house / "tools/chosen")).stdout
    shutil.rmtree(house / "versions")
    (house / "tools/python3.6").unlink()
    conda = (f'case "$1" in create) mkdir -p "{house}/.venv-cntk-python/bin"; '
             f'cp "{house}/tools/chosen" "{house}/.venv-cntk-python/bin/python3.6";; esac')
    done = install(house, {"micromamba": conda})
    assert "Creating Python 3.6 with micromamba" in done.stderr and "CNTK 2.7 for chosen" in done.stdout
    assert not (house / ".venv-cntk/complete").exists()


@needs_cntk
def test_an_installation_that_is_whole_is_kept_and_another_done_again(house):
    """With the real environment in its place; only the stamp tells a whole one from half of one."""
    real = cntk_environment()
    (house / ".venv-cntk/bin").mkdir(parents=True)
    (house / ".venv-cntk/bin/python").symlink_to(real / "bin" / "python")
    (house / ".venv-cntk/lib").mkdir()
    (house / ".venv-cntk/lib/mpi").symlink_to(real / "lib" / "mpi")
    lines = subprocess.run(["sh", "-c", f"grep 'python_version < \"3.7\"' {house}/requirements.txt | cksum"],
                           capture_output=True, text=True).stdout.strip()
    (house / ".venv-cntk/complete").write_text(f"{lines} {house}/.venv-cntk\n")
    done = install(house, {"python3.6": "exit 1"})
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    kernel = json.loads((house / ".venv/share/jupyter/kernels/cntk/kernel.json").read_text())
    assert kernel["env"] == {"LD_LIBRARY_PATH": f"{house}/.venv-cntk/lib/mpi", "TUTORIAL_PYTHON": sys.executable}
    assert kernel["argv"][0] == f"{house}/.venv-cntk/bin/python"
    (house / ".venv-cntk/complete").unlink()
    assert "expected Python 3.6" in install(house).stderr  # it wants to install again

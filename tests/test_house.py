"""The house: which module may use which, and that importing one does nothing."""

import ast
import re
import subprocess
import sys
from pathlib import Path

import helpers

FOLDER = Path(helpers.__file__).parent


def modules():
    """The modules in the order of the package's docstring; imports may go up this list only."""
    return re.findall(r"^    (\w+)/? +\w", helpers.__doc__, flags=re.MULTILINE)


def module_of(path):
    return path.relative_to(FOLDER).parts[0].removesuffix(".py")


def imported(path):
    """Names of the modules of this package that a file imports, anywhere in it."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == "helpers":
            parts = node.module.split(".")
            yield from [parts[1]] if len(parts) > 1 else [alias.name for alias in node.names if alias.name.islower()]


def test_every_module_is_listed():
    found = {module_of(path) for path in FOLDER.rglob("*.py")} - {"__init__", "pretraining"}
    assert found == set(modules()) and len(modules()) == len(set(modules()))


def test_imports_go_downhill():
    order = modules() + ["pretraining"]
    for path in FOLDER.rglob("*.py"):
        if path.parent == FOLDER and path.stem == "__init__":
            continue
        mine = module_of(path)
        uphill = [name for name in imported(path) if name != mine and order.index(name) > order.index(mine)]
        assert not uphill, f"{path.name} imports {uphill}"


def test_importing_a_module_does_nothing(tmp_path):
    """No session, no network, no file; and what takes seconds to import is imported where it is used."""
    names = [f"helpers.{name}" for name in modules()]
    program = ("import importlib, sys, threading\n"
               f"for name in {names!r}: importlib.import_module(name)\n"
               "heavy = {'tensorflow', 'keras', 'pyspark', 'cntk', 'onnxruntime', 'sklearn'} & set(sys.modules)\n"
               "print(sorted(heavy), threading.active_count())")
    done = subprocess.run([sys.executable, "-c", program], cwd=tmp_path, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[] 1" and list(tmp_path.iterdir()) == []

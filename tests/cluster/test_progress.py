import os
import pty
import re
import subprocess
import sys
from pathlib import Path

import pytest

from helpers.cluster.progress import progress

REPOSITORY = Path(__file__).resolve().parents[2]
PROGRAM = ("from helpers.cluster.progress import progress\n"
           "with progress('scoring', 4) as show:\n"
           "    for done in range(5): show(done, 1)")


@pytest.mark.parametrize("shown, said", [
    ([(1, None), (4, None)], r"scoring: 4 of 4 tiles, \d+\.\d s\n"),
    ([(2, 0), (3, 1)], r"scoring: 3 of 4 tiles, [\d.]+ tiles/s, 1 errors, \d+\.\d s\n"),
    ([], r"scoring: 0 of 4 tiles, \d+\.\d s\n")])
def test_a_file_gets_the_end_alone(capsys, shown, said):
    with progress("scoring", 4) as show:
        for arguments in shown:
            show(*arguments)
    assert re.fullmatch(said, capsys.readouterr().err)


def test_nothing_to_do(capsys):
    with progress("scoring", 0) as show:
        show(0, 0)
    assert capsys.readouterr().err == "scoring: nothing new\n"


def test_an_error_leaves_the_bar_and_comes_through(capsys):
    with pytest.raises(ZeroDivisionError):
        with progress("breaking", 3) as show:
            show(1)
            raise ZeroDivisionError
    assert capsys.readouterr().err.startswith("breaking: 1 of 3 tiles")


def test_a_terminal_gets_a_line_that_renews_itself():
    ours, its = pty.openpty()
    done = subprocess.run([sys.executable, "-c", PROGRAM], stderr=its, timeout=60, env=dict(
        os.environ, PYTHONPATH=str(REPOSITORY)))
    os.close(its)
    said = os.read(ours, 10_000).decode()
    os.close(ours)
    lines = said.strip().split("\r")
    assert done.returncode == 0 and len(lines) == 5 and said.endswith("\n")
    assert lines[0].startswith("scoring:   0%|") and re.search(r"4/4 \[.* tiles/s, errors: 1\]$", lines[-1])


def test_a_notebook_keeps_the_last_line(tmp_path):
    import nbclient
    from nbformat.v4 import new_code_cell, new_notebook
    nothing = "with progress('again', 0) as show: show(0, 0)"
    notebook = new_notebook(cells=[new_code_cell(PROGRAM), new_code_cell(nothing)])
    nbclient.NotebookClient(notebook, timeout=60, kernel_name="python3", resources={
        "metadata": {"path": str(tmp_path)}}).execute(env=dict(os.environ, PYTHONPATH=str(REPOSITORY)))
    (bar,), (none,) = (cell.outputs for cell in notebook.cells)
    assert re.fullmatch(r"scoring: 100%\|█+\| 4/4 \[.* tiles/s, errors: 1\]", bar.data["text/plain"])
    assert none.data["text/plain"] == "again: nothing new"

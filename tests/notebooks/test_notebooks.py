"""How a notebook is built: what a reader and the machine that executes it rely on."""

import re
import sys
from pathlib import Path

import nbformat
import pytest

REPOSITORY = Path(__file__).resolve().parents[2]
PATHS = sorted((REPOSITORY / "notebooks").glob("*.ipynb"))
PARAMETERS = {"run_name", "catalog", "county", "years", "train_catalog", "train_counties", "train_years",
              "validation_county", "validation_years", "train_tiles", "per_class", "leaf_off",
              "backbone", "cntk_backbone", "master", "tiles_uri", "model_uri", "images", "held_out_images", "seed"}


@pytest.fixture(params=PATHS, ids=lambda path: path.stem)
def path(request):
    return request.param


@pytest.fixture
def notebook(path):
    return nbformat.read(path, as_version=4)


def code(notebook):
    return [cell for cell in notebook.cells if cell.cell_type == "code"]


def tagged(notebook, tag):
    return [cell for cell in notebook.cells if tag in cell.metadata.get("tags", [])]


def headings(notebook):
    """Headings of a notebook in order, ``(level, text)``, without those inside code blocks."""
    text = "\n\n".join(cell.source for cell in notebook.cells if cell.cell_type == "markdown")
    text = re.sub(r"^```.*?^```", "", text, flags=re.MULTILINE | re.DOTALL)
    return [(len(marks), words.strip()) for marks, words in re.findall(r"^(#+) (.+)$", text, flags=re.MULTILINE)]


def test_prose_says_nothing_that_only_the_sample_makes_true(notebook):
    """A name or code of a county of the sample in a sentence would be false for every other county."""
    from sample.counties import COUNTIES
    counties = COUNTIES.values() if isinstance(COUNTIES, dict) else COUNTIES
    words = {county.geoid for county in counties} | {county.name.split()[0] for county in counties}
    for cell in notebook.cells:
        if cell.cell_type == "markdown":
            prose = re.sub(r"`[^`]*`|\|.*\|", "", cell.source)  # Code and tables show what an option looks like.
            assert not re.findall(rf"\b(?:{'|'.join(sorted(words))})\b", prose), prose


def test_all_notebooks_are_there():
    assert {p.name[:2] for p in PATHS} == {"01", "02", "03", "04", "05", "06"}


def test_the_skeleton_stands(notebook):
    found = headings(notebook)
    assert [level for level, _ in found].count(1) == 1 and found[0][0] == 1
    second = [words for level, words in found if level == 2]
    frame = ["Overview", "Prerequisites", "Imports", "Parameters", "Summary", "Exercises", "Next", "References"]
    assert [words for words in second if words in frame] == frame
    assert second[-4:] == frame[-4:]


def test_one_cell_of_parameters_of_plain_literals(notebook):
    import ast
    cells = tagged(notebook, "parameters")
    assert len(cells) == 1
    for statement in ast.parse(cells[0].source).body:
        ast.literal_eval(statement.value)  # papermill computes nothing


def test_parameters_have_the_names_that_the_tutorial_gives(path):
    """A name that run_tutorial.py gives under another spelling would never arrive."""
    import papermill
    names = set(papermill.inspect_notebook(str(path)))
    alike = {name.replace("_", "").rstrip("s"): name for name in PARAMETERS}
    assert "run_name" in names
    assert all(alike.get(name.replace("_", "").rstrip("s"), name) == name for name in names)


def test_cells_are_short(notebook):
    assert max(len(cell.source.splitlines()) for cell in code(notebook)) <= 25


def test_committed_executed_from_top_to_bottom(notebook):
    assert [cell.execution_count for cell in code(notebook)] == list(range(1, len(code(notebook)) + 1))
    assert not [o for cell in code(notebook) for o in cell.outputs if o.output_type == "error"]


def test_something_is_compared_on_every_run(notebook):
    """nbval passes a cell without output whatever it does."""
    checked = tagged(notebook, "nbval-check-output")
    assert checked and all(cell.outputs for cell in checked)


def test_small_and_clean(path, notebook):
    assert path.stat().st_size < 500_000
    assert set(notebook.metadata) <= {"kernelspec", "language_info"}
    assert notebook.metadata.kernelspec.name == ("cntk" if path.name.startswith("04") else "python3")
    assert {key for cell in notebook.cells for key in cell.metadata} <= {"tags"}
    # A path of one machine helps nobody on another.
    text = path.read_text()
    assert str(REPOSITORY) not in text and str(Path.home()) + "/" not in text and sys.prefix not in text


def test_every_picture_says_what_it_shows(notebook):
    markdown = "\n".join(cell.source for cell in notebook.cells if cell.cell_type == "markdown")
    assert not re.search(r"!\[\s*\]\(", markdown)
    for number, cell in enumerate(notebook.cells):
        if any(kind.startswith("image/") for output in cell.get("outputs", []) for kind in output.get("data", {})):
            below = notebook.cells[number + 1]
            assert below.cell_type == "markdown" and len(below.source.split()) >= 10, cell.source


def test_links_between_notebooks_lead_somewhere(path, notebook):
    markdown = "\n".join(cell.source for cell in notebook.cells if cell.cell_type == "markdown")
    for target in re.findall(r"\]\((?!https?:|#)([^)]+)\)", markdown):
        assert (path.parent / target.split("#")[0]).exists(), target


def test_exercises_check_themselves(notebook):
    """An answer in code ends in an assertion, or a cell of the notebook checks it; a check holds for no empty cell."""
    blocks, check = [], ""
    for cell in notebook.cells:
        if "check" in cell.metadata.get("tags", []):
            check = cell.source
            assert cell.execution_count is None or "Nothing to check yet" in str(cell.outputs)
        for answer in re.findall(r"<details>.*?</details>", cell.source, flags=re.DOTALL):
            blocks.append(re.findall(r"```python\n(.*?)```", answer, flags=re.DOTALL) + ([check] if check else []))
            check = ""
    assert len(blocks) >= 3 and sum(map(bool, blocks)) >= 2
    assert all("assert " in found[-1] or "check(" in found[-1] for found in blocks if found)

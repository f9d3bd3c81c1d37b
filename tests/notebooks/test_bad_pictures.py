"""Notebook 05 with pictures that nobody can read, executed cell by cell in this process."""

import matplotlib.pyplot as plt
import nbformat
import pytest

import tiny
from helpers import InputError
from helpers.scoring import table
from test_notebooks import REPOSITORY


def cells():
    """The code of notebook 05 without its sections on time and cost, and without the end of the session."""
    heading, found = "", []
    for cell in nbformat.read(REPOSITORY / "notebooks" / "05_parallel_scoring.ipynb", as_version=4).cells:
        if cell.cell_type == "markdown":
            heading = next((line for line in cell.source.splitlines() if line.startswith("## ")), heading)
        elif heading[3:4] not in ("5", "7") and heading != "## Exercises":
            found.append((cell.source, "parameters" in cell.metadata.get("tags", [])))
    assert len(found) > 25
    return found


@pytest.fixture
def execute(spark, tmp_path, monkeypatch):
    """Execute the cells on 30 pictures, some of which hold no picture; the names that they define."""
    monkeypatch.setenv("TUTORIAL_HOME", str(tmp_path))
    monkeypatch.setattr(plt, "show", lambda: None)
    tiny.model(tmp_path / "model")

    def run(bad):
        tiny.pictures(tmp_path / "pictures", range(30))
        for number in bad:
            (tmp_path / "pictures" / f"{number:05d}.png").write_bytes(b"no picture")
        names = {}
        with plt.rc_context():
            for source, is_parameters in cells():
                exec(compile(source, "<cell>", "exec"), names)
                if is_parameters:
                    names.update(run_name="pictures", images=str(tmp_path / "pictures"), master="local[2]",
                                 model_uri=str(tmp_path / "model"))
        plt.close("all")
        return names
    return run


@pytest.mark.filterwarnings("ignore")
def test_one_bad_picture_among_thirty_stops_nothing(execute):
    names = execute([7])
    rows = table.read(names["predictions"]).set_index("tile_id")
    assert len(rows) == 30 and rows["error_kind"].dropna().to_dict() == {"00007.png": "unreadable"}
    assert len(names["some"]) == 29 and len(names["pixels"]) == 24  # Of readable pictures, calls of eight.
    assert (names["speeds"] > 0).all(axis=None) and names["errors"] == 1
    assert len(names["again"]) == 10 and (names["again"]["class_id_driver"] == names["again"]["class_id_spark"]).all()


def test_bad_pictures_only_are_one_sentence(execute):
    with pytest.raises(InputError, match=r"^expected pictures that can be read, got none among 30 \(\d+.png: expected "
                                         r"a whole picture .*\). Replace them\.$"):
        execute(range(30))

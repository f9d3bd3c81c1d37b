"""What the default run of the notebooks has measured; ``run_tests.sh`` executes them just before."""

import json
import re
import shutil
from pathlib import Path

import nbformat
import numpy as np
import papermill
import pytest

from helpers import InputError
from helpers.land import classes as landcover
from helpers.model import bundle, engines
from helpers.tiles import store as tilestore
from helpers.model.engine_cntk import cntk_environment
from helpers.scoring.table import read
from helpers.runs import Run

NOTEBOOKS = Path(__file__).resolve().parents[2] / "notebooks"
OTHER_WORLDS = Path(__file__).with_name("other_worlds.json")
# MobileNet was measured at 0.968 and 0.984 on 62 photographs; less two standard deviations of so few.
PHOTOGRAPHS_FLOOR = 0.92
# What was measured, less two standard deviations of the 365 tiles that it was measured on; of the other worlds, less
# those of the harder one. The last two prove that it takes a network, and pretraining.
FLOORS = {
    "tensorflow": {"accuracy": 0.90, "accuracy_grouped": 0.98, "above_colour": 0.49, "above_untrained": 0.48},
    "cntk": {"accuracy": 0.82, "accuracy_grouped": 0.95, "above_colour": 0.42, "above_untrained": 0.40},
    "other worlds": {"accuracy": 0.80, "accuracy_grouped": 0.95, "above_colour": 0.45, "above_untrained": 0.39}}
# The share of all tiles of the validation county, mixed ones too, that the default network should name as labelled: the
# drawn counties are neither harder than real ones nor easier.
ALL_TILES = 0.80, 0.93


def reached(metrics, model="tensorflow"):
    """The figures that have floors, from ``metrics.json``."""
    network = metrics[model]
    return {"accuracy": network["accuracy"], "accuracy_grouped": network["accuracy_grouped"],
            "above_colour": network["accuracy"] - metrics["baseline_colour"]["accuracy"],
            "above_untrained": network["accuracy"] - metrics["baseline_untrained"]["accuracy"]}


def assert_floors(figures, floors):
    short = {name: round(figures[name], 3) for name, floor in floors.items() if not figures[name] >= floor}
    assert not short, f"below their floors {floors}: {short}"


def need_cntk():
    try:
        cntk_environment()
    except InputError as error:
        pytest.skip(str(error))


@pytest.fixture(scope="module")
def run():
    """The default run, finished."""
    run = Run("sample")
    if not {"tensorflow", "scoring", "map"} <= set(run.metrics()):
        pytest.fail("expected runs/sample/metrics.json of the default run, got none or a part. "
                    "Run setup_scripts/run_tests.sh without naming files, or setup_scripts/run_tutorial.sh first.")
    return run


@pytest.mark.parametrize("model", ["tensorflow", "cntk"])
def test_the_networks_reach_their_floors(run, model):
    if model == "cntk":
        need_cntk()
    assert_floors(reached(run.metrics(), model), FLOORS[model])


def test_the_floors_can_fail(run):
    metrics = json.loads(json.dumps(run.metrics()))
    metrics["tensorflow"]["accuracy"] = metrics["baseline_untrained"]["accuracy"] + 0.03
    with pytest.raises(AssertionError, match="}: .*above_untrained"):
        assert_floors(reached(metrics), FLOORS["tensorflow"])


def test_all_tiles_are_as_hard_as_of_real_counties(run):
    assert ALL_TILES[0] <= run.metrics()["tensorflow"]["accuracy_all"] <= ALL_TILES[1]


def test_spark_scores_the_validation_county_as_tensorflow_did(run):
    """Two programs, one by TensorFlow in notebook 03 and one by Spark in notebook 05, count the same tiles."""
    metrics = run.metrics()
    model, engine = bundle.load(run.models / "tensorflow"), metrics["scoring"]["engine"]
    assert engine in engines.candidates(model)
    judged = model.facts["judged"].get(engine, {"accuracy": metrics["tensorflow"]["accuracy"]})
    assert metrics["scoring"]["accuracy"] == pytest.approx(judged["accuracy"], abs=0.005)
    assert metrics["agreement"]["onnxruntime tensorflow"] >= 0.999


def test_cntk_and_its_export_name_the_same_classes_on_spark(run):
    need_cntk()
    assert run.metrics()["agreement"]["cntk onnxruntime"] == 1


def test_accuracy_counted_again_from_the_tables(run):
    labels = tilestore.read(run.tiles, split="validation", columns=["tile_id", "county", "year", "label", "purity"])
    joined = labels.merge(read(run.predictions), on=["tile_id", "county", "year"], validate="one_to_one")
    judged = joined[joined["label"].notna() & (joined["purity"] >= 0.9)]
    right = sum(int(a) == int(b) for a, b in zip(judged["label"], judged["class_id"]))
    groups = [landcover.GROUPS.index(next(g for g in landcover.GROUPS if g.group_id == c.group_id))
              for c in landcover.CLASSES]
    grouped = sum(groups[int(a)] == groups[int(b)] for a, b in zip(judged["label"], judged["class_id"]))
    assert right / len(judged) == pytest.approx(run.metrics()["scoring"]["accuracy"])
    assert grouped / len(judged) == pytest.approx(run.metrics()["scoring"]["accuracy_grouped"])


def test_the_prediction_table_has_a_row_for_each_tile(run):
    tiles = tilestore.read(run.tiles, columns=["tile_id", "county", "year"])
    table = read(run.predictions)
    keys = ["county", "year", "tile_id"]
    assert tiles[keys].sort_values(keys).values.tolist() == table[keys].values.tolist()
    assert table["error_kind"].isna().all() and table["class_id"].between(0, 5).all()
    assert np.allclose(np.stack(table["probabilities"]).sum(axis=1), 1, atol=1e-4)


def test_no_validation_tile_was_trained_on(run):
    facts = bundle.load(run.models / "tensorflow").facts
    train = tilestore.read(run.tiles, split="train", columns=["county", "image"])
    validation = tilestore.read(run.tiles, split="validation", columns=["county", "image"])
    assert set(facts["training"]["counties"]) <= set(train["county"])
    assert not set(train["county"]) & set(validation["county"])
    assert not set(map(hash, train["image"])) & set(map(hash, validation["image"]))


def test_the_map_files_are_there(run):
    assert (run.figures / "map.png").stat().st_size > 20_000
    maps = ["99007_change_score.tif", "99007_class_2010.tif", "99007_class_2016.tif", "99007_developed_2010.tif",
            "99007_developed_2016.tif"]
    assert sorted(p.name for p in run.maps.iterdir()) == sorted(
        maps + [name + ".aux.xml" for name in maps] + ["99007.html", "99007_class_2010.qml", "99007_class_2016.qml",
                                                       "99007_tiles.parquet", "99007_tiles.qml"])


def with_answers(name, folder, parameters):
    """Write a notebook that ends in the answers to its exercises, each followed by the cell that checks it; its path.

    All its parameters must exist.
    """
    path = NOTEBOOKS / f"{name}.ipynb"
    unknown = set(parameters) - set(papermill.inspect_notebook(str(path)))
    assert not unknown, f"{name} has no parameter {unknown}"
    notebook = nbformat.read(path, as_version=4)
    answers, check = [], []
    for cell in notebook.cells:
        if "check" in cell.metadata.get("tags", []):
            check = [nbformat.v4.new_code_cell(cell.source, metadata={"tags": ["answered"]})]
        for answer in re.findall(r"<details>.*?</details>", cell.source, flags=re.DOTALL):
            code = re.findall(r"```python\n(.*?)```", answer, flags=re.DOTALL)
            answers += [nbformat.v4.new_code_cell(block) for block in code] + check
            check = []
    notebook.cells += answers
    nbformat.write(notebook, folder / f"{name}.ipynb")
    return folder / f"{name}.ipynb"


def execute(name, folder, **parameters):
    """Execute a notebook and its answers with papermill."""
    path = with_answers(name, folder, parameters)
    done = papermill.execute_notebook(str(path), str(path.with_suffix(".done.ipynb")), parameters=parameters,
                                      cwd=str(NOTEBOOKS), progress_bar=False)
    checked = ["".join(output.get("text", "") for output in cell.outputs) for cell in done.cells
               if "answered" in cell.metadata.get("tags", [])]
    assert all(text.startswith("Right: ") for text in checked), checked


@pytest.mark.slow
def test_notebook_04_takes_a_store_and_its_answers_hold(run, tmp_path, monkeypatch):
    """On few tiles, to save time: notebook 04's own run has all."""
    need_cntk()
    monkeypatch.setenv("TUTORIAL_HOME", str(tmp_path))
    execute("04_retraining_cntk", tmp_path, run_name="answers", tiles_uri=str(run.tiles), per_class=30, copies=2, epochs=10)
    assert 2 / 6 < Run("answers").metrics()["cntk"]["accuracy"] < run.metrics()["cntk"]["accuracy"] + 0.05


def test_real_places_are_ranked(run):
    """Of 22 places the five newly developed: a perfect ranking has a mean of 3, chance 11.5."""
    found = run.metrics()["places"]
    assert found["mean_rank"] <= 7 and found["best_rank"] == 3, found


def test_real_photographs_are_named(run):
    assert run.metrics()["photographs"]["accuracy"] >= PHOTOGRAPHS_FLOOR


def test_the_readme_says_what_the_run_measured(run):
    """Each figure of the README's sentence on real land; another make of processor may move a few tiles."""
    text = " ".join((NOTEBOOKS.parent / "README.md").read_text().split())
    found = re.search(r"gives (\d+)% of the pure tiles and (\d+)% of all tiles the class of their label. .* seen "
                      r"no real photograph in its retraining. It classifies (\d+)% of 62 held-out photographs correctly. "
                      r"A second network has learned from tiles and from 144 other photographs. It classifies (\d+)% of "
                      r"the 62 correctly, and a model that sees only colours classifies (\d+)% correctly. .* The mean "
                      r"rank of the five is ([\d.]+)\. .* The rule of 2017 finds (\d) of the", text)
    network, photographs, places = (run.metrics()[name] for name in ("tensorflow", "photographs", "places"))
    assert [int(share) / 100 for share in found.groups()[:5]] == pytest.approx([
        network["accuracy"], network["accuracy_all"], photographs["no_photographs"], photographs["accuracy"],
        photographs["baseline_colour"]], abs=0.05)
    assert float(found[6]) == pytest.approx(places["mean_rank"], abs=1.5) and int(found[7]) == places["rule_hits"]


@pytest.mark.slow
def test_the_notebooks_take_the_photographs_of_the_repository(tmp_path, monkeypatch):
    monkeypatch.setenv("TUTORIAL_HOME", str(tmp_path))
    execute("03_retraining_tensorflow", tmp_path, run_name="real", images="photographs")
    execute("05_parallel_scoring", tmp_path, run_name="real", images="photographs", master="local[2]")
    metrics = Run("real").metrics()
    assert metrics["tensorflow"]["accuracy"] >= PHOTOGRAPHS_FLOOR
    assert metrics["scoring"]["tiles"] == 206 and not metrics["scoring"]["errors"]


@pytest.mark.slow
def test_the_notebooks_take_pictures(run, real_data, tmp_path, monkeypatch):
    """Real aerial pictures: retrained on four fifths, judged on the last; and then some without labels."""
    monkeypatch.setenv("TUTORIAL_HOME", str(tmp_path))
    pictures = real_data / "aerial"
    execute("03_retraining_tensorflow", tmp_path, run_name="real", images=str(pictures))
    execute("05_parallel_scoring", tmp_path, run_name="real", images=str(pictures), master="local[2]")
    metrics = Run("real").metrics()
    print("a fifth of the real pictures, held out:", metrics["tensorflow"])
    assert metrics["tensorflow"]["accuracy"] >= 0.95
    assert metrics["scoring"]["accuracy"] == pytest.approx(metrics["tensorflow"]["accuracy"], abs=0.01)
    assert metrics["scoring"]["tiles"] == len(list(pictures.rglob("*.jpg"))) and not metrics["scoring"]["errors"]

    unlabelled = tmp_path / "unlabelled"
    unlabelled.mkdir()
    for picture in sorted(pictures.glob("Forest/*.jpg"))[:20]:
        shutil.copy(picture, unlabelled)
    execute("05_parallel_scoring", tmp_path, run_name="new", images=str(unlabelled), master="local[2]",
            model_uri=str(Run("real").models / "tensorflow"))
    table = read(Run("new").predictions)
    forest = bundle.load(Run("real").models / "tensorflow").classes.index("Forest")
    assert len(table) == 20 and (table["class_id"] == forest).mean() >= 0.9


@pytest.mark.slow
@pytest.mark.parametrize("seed", [17, 26])
def test_the_floors_hold_in_other_worlds(seed, tmp_path, monkeypatch):
    """Counties drawn from other seeds, first drawn when nothing was changed any more. Fifteen minutes each."""
    import sample
    from helpers.files import write_json
    from helpers.runs import home
    name = f"world-{seed}"
    sample.draw(home() / "data" / f"sample-{seed}", seed=seed, workers=2)
    execute("02_data_preparation", tmp_path, run_name=name, seed=seed)
    execute("03_retraining_tensorflow", tmp_path, run_name=name, seed=seed)
    execute("05_parallel_scoring", tmp_path, run_name=name)
    execute("06_mapping_results", tmp_path, run_name=name, seed=seed)
    metrics = Run(name).metrics()
    figures = json.loads(OTHER_WORLDS.read_text()) if OTHER_WORLDS.exists() else {}
    figures[str(seed)] = {model: metrics[model] for model in (
        "tensorflow", "baseline_colour", "baseline_untrained", "change")}
    write_json(OTHER_WORLDS, figures)
    assert_floors(reached(metrics), FLOORS["other worlds"])


@pytest.mark.parametrize("world", ["17", "26"])
def test_the_committed_figures_of_other_worlds_reach_the_floors(world):
    assert_floors(reached(json.loads(OTHER_WORLDS.read_text())[world]), FLOORS["other worlds"])


@pytest.mark.parametrize("world", ["17", pytest.param("26", marks=pytest.mark.xfail(
    reason="the county of seed 26 is harder: 77% of all its tiles", strict=True))])
def test_the_committed_figures_of_all_tiles_are_as_hard_as_of_real_counties(world):
    found = json.loads(OTHER_WORLDS.read_text())[world]["tensorflow"]["accuracy_all"]
    assert ALL_TILES[0] <= found <= ALL_TILES[1]


def test_the_readme_says_the_committed_figures_of_other_worlds():
    text = " ".join((NOTEBOOKS.parent / "README.md").read_text().split())
    shares = [round(100 * world["tensorflow"]["accuracy_all"]) for world in json.loads(OTHER_WORLDS.read_text()).values()]
    assert "In runs with two other seeds, {}% and {}% of all tiles get the class of their label.".format(*shares) in text

"""Whatever stands in a manifest or in a bundle's facts: an answer, or one sentence; and no file outside is looked at."""

import json
import tempfile
from pathlib import Path

import hypothesis
import pyarrow as pa
import pytest
from hypothesis import strategies as st

import tiny
from fuzzing import attempt, many
from helpers.cluster import work
from helpers.model import bundle, engines
from helpers.scoring import table
from helpers.scoring.score import units
from helpers.tiles import store
from helpers.tiles.folder import write_images

JSON = st.recursive(st.one_of(st.none(), st.booleans(), st.integers(), st.floats(), st.sampled_from(
    ["0", "pictures", "../x", "/etc/passwd", "model.onnx", "é", "", "a\nb"])), lambda inner: st.one_of(
        st.lists(inner, max_size=3), st.dictionaries(st.sampled_from(["a", "../b", "model.onnx"]), inner, max_size=2)),
    max_leaves=4)


def changed(path, facts, changes, dropped):
    path.write_text(json.dumps({key: value for key, value in dict(facts, **changes).items() if key not in dropped}))


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A store of eight pictures, and a bundle."""
    folder = tmp_path_factory.mktemp("facts")
    for name in "ab":
        tiny.pictures(folder / "pictures" / name, range(4) if name == "a" else range(4, 8))
    write_images(folder / "pictures", str(folder / "store"))
    tiny.model(folder / "bundle")
    return folder


KEYS = ["county", "year", "tiles", "classes", "codec", "files", "split"]


@many
@hypothesis.given(st.dictionaries(st.sampled_from(KEYS), JSON, max_size=3), st.sets(st.sampled_from(KEYS), max_size=2))
def test_any_manifest(made, changes, dropped):
    uri = str(made / "store")
    path = next((made / "store").rglob("_manifest.json"))
    whole = path.read_text()
    try:
        changed(path, json.loads(whole), changes, dropped)
        attempt(lambda: store.classes(uri))
        found = attempt(lambda: units(uri, store.partitions(uri), "m", "e"))
        for unit in (found[0].values() if found else ()):
            assert unit["uri"].startswith(uri) and ".." not in unit["uri"]
    finally:
        path.write_text(whole)


NAMES = st.text("aB1. _-+#%?*[]{}\\'\"&=:~$;é東\n", min_size=1, max_size=8).filter(lambda name: name not in (".", ".."))


@many
@hypothesis.given(NAMES, NAMES, NAMES)
def test_any_name_of_pictures_store_and_table(pictures, tiles, rows):
    with tempfile.TemporaryDirectory() as base:
        folder, uri, predictions = (str(Path(base) / key / name) for key, name in zip("pst", (pictures, tiles, rows)))
        for name in (folder, f"{base}/p/neighbour of {pictures[:2]}"):
            Path(name).mkdir(parents=True)
            (Path(name) / "1.png").write_bytes(name.encode())
        write_images(folder, uri)
        assert store.read(uri)["image"].tolist() == [folder.encode()]
        (name, unit), = units(uri, store.partitions(uri), "m", "e")[0].items()
        table.begin(predictions, "m", "e", ["a"])
        row = pa.table([["1.png"], ["m"], ["e"], [0], [[1.0]], [None], [None]], schema=table.SCHEMA)
        work.write(row, table.facts_of(row), predictions, name)
        table.finish(predictions, {"units": [name]}, [name.rpartition("/")[0]])
        assert table.read(predictions)["county"].tolist() == [Path(folder).name]
        table.remove(predictions)
        assert not [path for path in Path(predictions).rglob("*") if path.is_file()]
        assert sorted(path.parent.name for path in Path(base).glob("*/*")) == ["p", "p", "s", "t"]


@many
@hypothesis.given(JSON, st.booleans())
def test_any_manifest_of_a_table(made, value, is_alone):
    path = made / "table" / "_manifest.json"
    path.parent.mkdir(exist_ok=True)
    path.write_text(json.dumps(value if is_alone else {"units": value}))
    attempt(lambda: table.read(str(made / "table")))


FACTS = ["classes", "input_px", "files", "backbone", "judged", "framework"]


@many
@hypothesis.given(st.dictionaries(st.sampled_from(FACTS), JSON, max_size=3), st.sets(st.sampled_from(FACTS), max_size=2))
def test_any_facts_of_a_bundle(made, changes, dropped):
    path = made / "bundle" / "model.json"
    whole = path.read_text()
    try:
        changed(path, json.loads(whole), changes, dropped)
        loaded = attempt(lambda: bundle.load(made / "bundle"))
        if loaded:
            attempt(lambda: engines.load(loaded))
    finally:
        path.write_text(whole)

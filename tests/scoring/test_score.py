import json

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest

import tiny
from helpers import InputError
from helpers.model import bundle, engines
from helpers.scoring import score as scoring
from helpers.tiles import store as tilestore
from helpers.scoring.table import read
from helpers.tiles.folder import write_images
from helpers.tiles.pictures import encode

PX = 32


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    """A tiny network with random weights, saved as a bundle, and its Keras model."""
    import keras
    keras.utils.set_random_seed(0)
    tiles = keras.Input((PX, PX, 3), dtype="uint8")
    x = keras.layers.Rescaling(1 / 64, offset=-2.0, dtype="float32")(tiles)
    x = keras.layers.Conv2D(8, 5, strides=2, activation="relu")(x)
    x = keras.layers.GlobalAveragePooling2D()(x)
    x = keras.layers.Normalization(mean=np.zeros(8), variance=np.full(8, 0.01))(x)
    network = keras.Model(tiles, keras.layers.Dense(6, activation="softmax", name="probabilities")(x))
    sample = np.random.default_rng(1).integers(0, 256, (20, PX, PX, 3), dtype=np.uint8)
    folder = tmp_path_factory.mktemp("model") / "bundle"
    saved = bundle.save_tensorflow(network, folder, sample, {"classes": list("abcdef"), "backbone": {"name": "tiny"}})
    return saved, network


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    """A store of 150 pictures, three of which can't be read."""
    folder = tmp_path_factory.mktemp("pictures") / "place"
    folder.mkdir()
    rng = np.random.default_rng(0)
    for i in range(150):
        colour = rng.integers(0, 256, 3)
        noise = rng.integers(0, 80, (PX, PX, 3))
        (folder / f"{i:03d}.png").write_bytes(encode(np.clip(colour + noise, 0, 255).astype(np.uint8)))
    (folder / "007.png").write_bytes(b"")
    (folder / "070.png").write_bytes(b"not a picture")
    whole = (folder / "100.png").read_bytes()
    (folder / "100.png").write_bytes(whole[:len(whole) // 2])
    write_images(folder, str(folder.parent / "store"))
    return str(folder.parent / "store")


def test_the_exported_network_predicts_what_keras_predicts(model):
    saved, network = model
    tiles = np.random.default_rng(2).integers(0, 256, (30, PX, PX, 3), dtype=np.uint8)
    expected = network.predict(tiles, verbose=0)
    assert len(set(expected.argmax(axis=1))) > 1
    for name in ("onnxruntime", "tensorflow"):
        scored = engines.load(saved, name).score(tiles)
        assert scored.dtype == np.float32 and np.allclose(scored, expected, atol=1e-5)
    assert saved.facts["parity"]["model.onnx"]["same_class"] == 1
    assert saved.facts["parity"]["model.onnx"]["max_difference"] < 1e-5


def test_an_export_that_predicts_otherwise_is_refused_and_nothing_written(model, tmp_path, monkeypatch):
    import onnx
    _, network = model
    export = bundle.export_onnx

    def damaged(model, path):
        export(model, path)
        graph = onnx.load(str(path))
        weights = max(graph.graph.initializer, key=lambda w: np.prod(w.dims))
        weights.CopyFrom(onnx.numpy_helper.from_array(onnx.numpy_helper.to_array(weights) * 1.1, weights.name))
        onnx.save(graph, str(path))

    monkeypatch.setattr(bundle, "export_onnx", damaged)
    sample = np.random.default_rng(1).integers(0, 256, (20, PX, PX, 3), dtype=np.uint8)
    with pytest.raises(bundle.ExportRefused, match="Nothing was written"):
        bundle.save_tensorflow(network, tmp_path / "bundle", sample, {"classes": list("abcdef"), "backbone": {}})
    assert list(tmp_path.iterdir()) == []


def test_bundles_that_cannot_be_used(model, tmp_path):
    import shutil
    saved, _ = model
    with pytest.raises(InputError, match="no model.json there"):
        bundle.load(tmp_path)
    copy = tmp_path / "copy"
    shutil.copytree(saved.folder, copy)
    content = bytearray((copy / "model.onnx").read_bytes())
    content[len(content) // 2] ^= 1
    (copy / "model.onnx").write_bytes(bytes(content))
    with pytest.raises(InputError, match="expected model.onnx of the bundle .* with SHA-256"):
        bundle.load(copy)
    (copy / "model.onnx").unlink()
    with pytest.raises(InputError, match="got no such file"):
        bundle.load(copy)
    facts = json.loads((copy / "model.json").read_text())
    (copy / "model.json").write_text(json.dumps({k: v for k, v in facts.items() if k != "classes"}))
    with pytest.raises(InputError, match="can't be read"):
        bundle.load(copy)


@pytest.mark.parametrize("name", ["../secret.txt", "/etc/passwd", "folder/file"])
def test_a_bundle_that_points_outside_itself(model, tmp_path, name):
    """Even with the right checksum."""
    import shutil
    saved, _ = model
    shutil.copytree(saved.folder, tmp_path / "copy")
    (tmp_path / "secret.txt").write_text("mine")
    (tmp_path / "copy" / "folder").mkdir()
    (tmp_path / "copy" / "folder" / "file").write_text("mine")
    facts = json.loads((tmp_path / "copy" / "model.json").read_text())
    facts["files"][name] = bundle.sha256(tmp_path / "copy" / name)
    (tmp_path / "copy" / "model.json").write_text(json.dumps(facts))
    with pytest.raises(InputError, match="got no such file"):
        bundle.load(tmp_path / "copy")


@pytest.mark.parametrize("where", ["weights.bin", "../weights.bin"])
def test_a_network_whose_weights_lie_elsewhere_is_refused(tmp_path, where):
    """Even with the right checksum: of that other file there is none."""
    import onnx
    saved = tiny.model(tmp_path / "bundle")
    path = saved.folder / "model.onnx"
    network = onnx.load(str(path))
    weights = network.graph.initializer[0]
    (saved.folder / where).write_bytes(onnx.numpy_helper.to_array(weights).tobytes())
    weights.ClearField("raw_data")
    weights.data_location = onnx.TensorProto.EXTERNAL
    weights.external_data.add(key="location", value=where)
    path.write_bytes(network.SerializeToString())
    rewrite_checksum(saved.folder, "model.onnx")
    with pytest.raises(InputError, match="expected model.onnx of the bundle .* to hold its weights, got one that has "
                                         "them"):
        bundle.load(saved.folder)


def rewrite_checksum(folder, name):
    facts = json.loads((folder / "model.json").read_text())
    facts["files"][name] = bundle.sha256(folder / name)
    (folder / "model.json").write_text(json.dumps(facts))


def test_a_link_in_a_bundle_is_refused(tmp_path):
    saved = tiny.model(tmp_path / "bundle")
    (saved.folder / "model.onnx").rename(tmp_path / "elsewhere.onnx")
    (saved.folder / "model.onnx").symlink_to(tmp_path / "elsewhere.onnx")
    with pytest.raises(InputError, match="expected model.onnx .* got no such fil"):
        bundle.load(saved.folder)


def test_a_file_that_is_no_network_is_one_sentence(tmp_path):
    saved = tiny.model(tmp_path / "bundle")
    (saved.folder / "model.onnx").write_bytes(b"\xff" * 100)
    rewrite_checksum(saved.folder, "model.onnx")
    with pytest.raises(InputError, match="expected model.onnx .* to be an ONNX network, got: "):
        bundle.load(saved.folder)


def test_nothing_here_reads_pickles():
    """A pickle runs what is in it."""
    import ast
    from pathlib import Path
    house = Path(bundle.__file__).parents[2]
    for path in [*(house / "helpers").rglob("*.py"), *(house / "setup_scripts").rglob("*.py")]:
        for node in ast.walk(ast.parse(path.read_text())):
            names = [alias.name for alias in node.names] if isinstance(node, (ast.Import, ast.ImportFrom)) else []
            modules = {name.split(".")[0] for name in names + [getattr(node, "module", None) or ""]}
            assert not {"pickle", "cloudpickle", "joblib", "dill", "shelve", "marshal"} & modules, path
            if isinstance(node, ast.keyword) and node.arg in ("allow_pickle", "safe_mode"):
                assert node.value.value is (node.arg == "safe_mode"), path
            if isinstance(node, ast.Attribute):
                assert node.attr not in ("read_pickle", "enable_unsafe_deserialization"), path


def test_an_engine_that_is_not_there(model):
    with pytest.raises(InputError, match="expected an engine of fastest, cntk, .* got 'caffe'"):
        engines.load(model[0], "caffe")


def test_tiles_of_another_shape_are_refused(model):
    with pytest.raises(InputError, match=r"expected tiles of 32 × 32 px .* got \(1, 64, 64, 3\) uint8"):
        engines.load(model[0]).score(np.zeros((1, 64, 64, 3), np.uint8))
    with pytest.raises(InputError, match="float64"):
        engines.load(model[0]).score(np.zeros((1, 32, 32, 3)))


def on_driver(store, saved, engine="onnxruntime"):
    """The prediction table computed by a plain loop on the driver."""
    batches = [tilestore.read(store)[["tile_id", "county", "year", "image"]]]
    return pd.concat(scoring.score_batches(batches, saved.folder, engine)).sort_values("tile_id", ignore_index=True)


@pytest.mark.parametrize("partitions", [None, 1, 2, 7])
def test_the_same_predictions_whatever_the_partition_count(spark, model, store, tmp_path, partitions):
    written = scoring.score(spark, store, model[0], str(tmp_path / "table"), partitions=partitions)
    table = read(tmp_path / "table")
    expected = on_driver(store, model[0])
    assert written == len(table) == 150 and table["tile_id"].is_unique
    assert table["tile_id"].tolist() == expected["tile_id"].tolist()
    scored = table["class_id"].notna()
    assert table["class_id"][scored].tolist() == expected["class_id"][scored].tolist()
    # A batch of another size adds the same numbers in another order.
    assert np.allclose(np.stack(table["probabilities"][scored]), np.stack(expected["probabilities"][scored]), atol=1e-6)


def test_the_engines_agree_on_spark(spark, model, store, tmp_path):
    scoring.score(spark, store, model[0], str(tmp_path / "tf"), engine="tensorflow")
    table = read(tmp_path / "tf")
    assert set(table["engine"]) == {"tensorflow"} and set(table["model"]) == {model[0].checksum}
    expected = on_driver(store, model[0])
    assert table["class_id"].fillna(-1).tolist() == expected["class_id"].fillna(-1).tolist()


def test_a_tile_that_cannot_be_read_is_a_row_with_its_reason(model, store):
    table = on_driver(store, model[0]).set_index("tile_id")
    bad = table[table["error_kind"].notna()]
    assert sorted(bad.index) == ["007.png", "070.png", "100.png"]
    assert set(bad["error_kind"]) == {"unreadable"} and bad["error"].str.len().min() > 10
    assert bad["class_id"].isna().all() and bad["probabilities"].isna().all()
    assert table["class_id"].notna().sum() == 147


def test_a_unit_is_scored_by_plain_python(spark, model, store):
    """The function that an executor runs, here on the driver."""
    units, damaged = scoring.units(store, tilestore.partitions(store), model[0].checksum, "onnxruntime")
    assert not damaged and sum(unit["tiles"] for unit in units.values()) == 150
    shipped = scoring.ship(spark, model[0])
    done = [scoring.score_unit(unit, shipped, model[0].checksum, "onnxruntime", 1, "job") for unit in units.values()]
    rows = pa.concat_tables([rows for rows, _, _ in done]).sort_by("tile_id").to_pandas()
    assert rows["class_id"].fillna(-1).tolist() == on_driver(store, model[0])["class_id"].fillna(-1).tolist()
    assert sum(facts["errors"].get("unreadable", {"tiles": 0})["tiles"] for _, facts, _ in done) == 3
    assert all(set(seconds) == {"start", "read", "decode", "network"} for _, _, seconds in done)


def test_tiles_that_are_not_in_the_store(spark, model, store, tmp_path):
    with pytest.raises(InputError, match="expected tiles of county 99, .* got place 0"):
        scoring.score(spark, store, model[0], str(tmp_path / "table"), county="99")


def test_no_partition(spark, model, store, tmp_path):
    with pytest.raises(InputError, match="expected 1 partition or more, got 0"):
        scoring.score(spark, store, model[0], str(tmp_path / "table"), partitions=0)

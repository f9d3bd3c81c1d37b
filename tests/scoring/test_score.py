import os

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

import tiny
from helpers import InputError
from helpers.model import bundle, engines
from helpers.scoring import score as scoring
from helpers.tiles import store as tilestore
from helpers.scoring.table import as_text, read, summary
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


def on_driver(store, saved, engine="onnxruntime"):
    """The prediction table computed by a plain loop on the driver."""
    return tiny.scored(tilestore.read(store), saved.folder, engine).sort_values("tile_id", ignore_index=True)


@pytest.mark.parametrize("tasks", [None, 1, 2, 7])
def test_the_same_predictions_whatever_the_number_of_tasks(spark, model, store, tmp_path, monkeypatch, tasks):
    monkeypatch.chdir(tmp_path)  # The workers stay in another folder.
    written = scoring.score(spark, os.path.relpath(store), model[0], "table", tasks=tasks)
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


def test_the_fastest_engine_is_measured_on_a_slot_and_kept(spark, model, store, tmp_path, monkeypatch):
    """And a job that goes on keeps the engine with which its table began."""
    rng = np.random.default_rng(3)
    tiles, labels = rng.integers(0, 256, (300, PX, PX, 3), dtype=np.uint8), rng.integers(0, 6, 300)
    judged = bundle.save_tensorflow(model[1], tmp_path / "bundle", tiles[:20], {
        "classes": list("abcdef"), "backbone": {"name": "tiny"}}, tiles[:60], (tiles, labels))
    assert "openvino" in engines.candidates(judged)
    scoring.score(spark, store, judged, str(tmp_path / "table"))
    found = summary(tmp_path / "table")
    assert {"onnxruntime", "openvino"} <= set(found["engine_ms"]) <= set(engines.candidates(judged))
    assert found["engine"] == min(found["engine_ms"], key=found["engine_ms"].get)
    assert set(read(tmp_path / "table")["engine"].dropna()) == {found["engine"]}
    assert f"Engine: {found['engine']}. Milliseconds for a tile, measured on one slot" in as_text(found)
    key, = [key for key in scoring._measured if key[1] == judged.checksum]
    other = ({"onnxruntime", "openvino"} - {found["engine"]}).pop()
    monkeypatch.setitem(scoring._measured, key, {other: 0.1, found["engine"]: 0.2})
    assert scoring.fastest(spark, judged) == other
    scoring.score(spark, store, judged, str(tmp_path / "table"), replace=True)
    assert summary(tmp_path / "table")["engine"] == found["engine"] and not summary(tmp_path / "table")["scored_now"]


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
    assert all(set(seconds) == {"load", "read", "decode", "network"} for _, _, seconds in done)


def test_tiles_that_are_not_in_the_store(spark, model, store, tmp_path):
    with pytest.raises(InputError, match="expected tiles of county 99, .* got place 0"):
        scoring.score(spark, store, model[0], str(tmp_path / "table"), county="99")


def test_no_task(spark, model, store, tmp_path):
    with pytest.raises(InputError, match="expected 1 task or more, got 0"):
        scoring.score(spark, store, model[0], str(tmp_path / "table"), tasks=0)


def test_a_picture_that_many_tiles_share_is_in_memory_once(tmp_path):
    """A file of two megabytes may hold as many gigabytes of pictures."""
    pq.write_table(pa.table({"image": [b"x" * 1_000_000] * 500 + [None]}), tmp_path / "shared.parquet")
    column = pq.ParquetFile(tmp_path / "shared.parquet", read_dictionary=["image"]).read()["image"].chunk(0)
    images = scoring._images(column)
    assert len({id(image) for image in images[:-1]}) == 1 and images[-1] is None and len(images) == 501


def test_tile_ids_that_are_no_text_are_refused(model, store, tmp_path):
    ids = pa.Array.from_buffers(pa.string(), 2, [None, pa.py_buffer(np.array([0, 1, 2], "i4")), pa.py_buffer(b"\xff\xfe")])
    rows = pa.table({"tile_id": ids})
    with pytest.raises(InputError, match="expected tile ids in UTF-8 in a.parquet, got others"):
        scoring._check(rows, {"uri": "a.parquet", "tiles": 2}, "onnxruntime")

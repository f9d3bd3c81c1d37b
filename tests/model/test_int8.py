import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from helpers import InputError
from helpers.model import engines, int8
from networks import coloured_tiles, model_of, save_coloured, session


def test_int8_is_measured_written_and_the_default(saved):
    facts = saved.facts["int8"]
    assert facts["refused"] is None and facts["calibration_tiles"] == 60 and facts["tiles"] == 300
    assert "model.int8.onnx" in saved.facts["files"]
    assert engines.load(saved).name == engines.fastest(saved) == "onnxruntime-int8"
    # What the facts say, counted again; and it is a quantised network indeed, by channel.
    tiles, labels = coloured_tiles(300, 2)
    exact, rounded = (engines.load(saved, name).score(tiles) for name in ("onnxruntime", "onnxruntime-int8"))
    assert facts["accuracy"] == (rounded.argmax(axis=1) == labels).mean() >= 0.97
    assert facts["same_class"] == (exact.argmax(axis=1) == rounded.argmax(axis=1)).mean()
    assert 0 < np.abs(exact - rounded).max() < 0.2
    graph = onnx.load(str(saved.folder / "model.int8.onnx"))
    assert max(w.dims[0] for w in graph.graph.initializer if w.name.endswith("_scale") and w.dims) == 16
    assert "int8 is used: on 300 validation tiles" in int8.as_text(saved)


def test_the_logits_have_the_mean_of_float32_on_the_calibration_tiles(saved, tmp_path):
    tiles, _ = coloured_tiles(64, 3)
    int8.quantise(saved.folder / "model.onnx", tmp_path / "q.onnx", tiles)
    exact, rounded = (np.log(np.maximum(engine.score(tiles), 1e-12)).mean(axis=0) for engine in (
        engines.load(saved, "onnxruntime"), engines.OnnxRuntimeInt8(tmp_path / "q.onnx")))
    assert np.ptp(exact - rounded) < 1e-3


def test_a_damaged_int8_network_is_refused_and_float32_used(network, tmp_path, monkeypatch):
    quantise = int8.quantise

    def damaged(path, int8_path, tiles):
        quantise(path, int8_path, tiles)
        graph = onnx.load(str(int8_path))
        for weight in graph.graph.initializer:
            if weight.data_type == TensorProto.INT8 and len(weight.dims) == 4:
                weight.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(weight)[::-1].copy(), weight.name))
        onnx.save(graph, str(int8_path))

    monkeypatch.setattr(int8, "quantise", damaged)
    refused = save_coloured(network, tmp_path / "bundle")
    assert refused.facts["int8"]["same_class"] < 0.97
    assert sorted(p.name for p in refused.folder.iterdir()) == ["model.json", "model.keras", "model.onnx"]
    assert engines.load(refused).name == "onnxruntime"
    assert int8.as_text(refused).startswith("int8 is refused: expected the int8 network to name 97% of 300 ")
    with pytest.raises(InputError, match=r"model.int8.onnx .* \(it was refused: expected the int8 network"):
        engines.load(refused, "onnxruntime-int8")


@pytest.mark.parametrize("others, right_before, refused", [
    (6, True, True),     # 98 % alike, but two points lost
    (6, False, False),   # 98 % alike, nothing lost
    (15, False, True)])  # nothing lost, but only 95 % alike
def test_each_of_the_two_rules_refuses(network, tmp_path, monkeypatch, others, right_before, refused):
    """Some of the 300 tiles get another class, which were right before, or as wrong."""
    score = engines.OnnxRuntimeInt8.score

    def other_class(self, tiles):
        return np.concatenate([np.roll(score(self, tiles[:others]), 1, axis=1), score(self, tiles[others:])])

    monkeypatch.setattr(engines.OnnxRuntimeInt8, "score", other_class)
    labels = coloured_tiles(300, 2)[1]
    if not right_before:
        labels[:others] = (labels[:others] + 3) % 6
    facts = save_coloured(network, tmp_path / "bundle", labels=labels).facts["int8"]
    assert facts["same_class"] == 1 - others / 300
    assert bool(facts["refused"]) == refused


def test_too_few_validation_tiles_judge_nothing(network, tmp_path):
    few = save_coloured(network, tmp_path / "bundle", validation=299)
    assert "at least 300 labelled validation tiles" in few.facts["int8"]["refused"]
    assert engines.fastest(few) == "onnxruntime"


@pytest.mark.parametrize("after_relu, own", [(True, {"pads": [0] * 4}), (True, {"auto_pad": "VALID"}), (False, {})])
def test_a_pad_goes_into_the_pooling_only_where_nothing_is_negative(after_relu, own):
    nodes = [helper.make_node("Relu" if after_relu else "Identity", ["x"], ["y"]),
             helper.make_node("Pad", ["y", "pads"], ["padded"]),
             helper.make_node("MaxPool", ["padded"], ["out"], kernel_shape=[3, 3], strides=[2, 2], **own)]
    model = model_of(nodes, {"x": ("N", 4, 9, 9)}, {"out": ("N", 4, 5, 5)},
                     {"pads": np.array([0, 0, 1, 1, 0, 0, 1, 1])})
    x = np.random.default_rng(0).normal(0, 1, (2, 4, 9, 9)).astype(np.float32)
    before = session(model).run(None, {"x": x})[0]
    int8.pad_inside_pooling(model.graph)
    assert ("Pad" not in [node.op_type for node in model.graph.node]) == after_relu
    assert (session(model).run(None, {"x": x})[0] == before).all()


@pytest.mark.parametrize("size, channels", [(5, 24), (3, 8), (5, 4)])
def test_local_response_normalisation_in_plain_operations_is_the_same(size, channels):
    shape = ("N", channels, 6, 6)
    nodes = [helper.make_node("Relu", ["x"], ["relu"]),
             helper.make_node("LRN", ["relu"], ["out"], size=size, alpha=0.3, beta=0.75, bias=1.5)]
    model = model_of(nodes, {"x": shape}, {"out": shape}, {},
                     value_info=[helper.make_tensor_value_info("relu", TensorProto.FLOAT, shape)])
    x = np.random.default_rng(0).normal(0, 3, (2, channels, 6, 6)).astype(np.float32)
    before = session(model).run(None, {"x": x})[0]
    assert len(int8.lrn_in_plain_operations(model.graph)) == 6
    assert "LRN" not in [node.op_type for node in model.graph.node]
    assert np.allclose(session(model).run(None, {"x": x})[0], before, rtol=1e-5, atol=1e-6)

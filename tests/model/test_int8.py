import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from helpers.model import engines, int8
from networks import coloured_tiles, model_of, session


def test_the_network_is_quantised_by_channel(saved):
    graph = onnx.load(str(saved.folder / "model.int8.onnx"))
    assert max(w.dims[0] for w in graph.graph.initializer if w.name.endswith("_scale") and w.dims) == 16


def test_the_logits_have_the_mean_of_float32_on_the_calibration_tiles(saved, tmp_path):
    tiles, _ = coloured_tiles(64, 3)
    int8.quantise(saved.folder / "model.onnx", tmp_path / "q.onnx", tiles)
    exact, rounded = (np.log(np.maximum(engine.score(tiles), 1e-12)).mean(axis=0) for engine in (
        engines.load(saved, "onnxruntime"), engines.start("onnxruntime-int8", tmp_path / "q.onnx")))
    assert np.ptp(exact - rounded) < 1e-3


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

"""Operators of ONNX in CNTK give the numbers of ONNX Runtime."""

import numpy as np
import pytest
from onnx import numpy_helper
from onnx.helper import make_node as node

from networks import features_of_onnx_runtime, needs_cntk, one_sentence, python36, write_network

pytestmark = needs_cntk


def same_features(path, values, preprocess=lambda x: x, suffix="#preprocessing=none"):
    came = python36("layers", name=str(path) + suffix)
    expected = features_of_onnx_runtime(path, values, preprocess)
    assert np.allclose(came["features"], expected, rtol=1e-4, atol=1e-4 * np.abs(expected).max())
    return came


def test_a_network_like_caffes_alexnet(caffe, tmp_path):
    """Groups on two threads, local response normalisation, padding at one end, nodes without names."""
    nodes = [
        node("Conv", ["data", "w1", "b1"], ["conv1_1"], kernel_shape=[7, 7], strides=[4, 4]),
        node("Relu", ["conv1_1"], ["conv1_2"]),
        node("LRN", ["conv1_2"], ["norm1_1"], size=5, alpha=0.01, beta=0.75, bias=1.0),
        node("MaxPool", ["norm1_1"], ["pool1_1"], kernel_shape=[3, 3], strides=[2, 2], pads=[0, 0, 1, 1]),
        node("Conv", ["pool1_1", "w2", "b2"], ["conv2_1"], kernel_shape=[5, 5], pads=[2, 2, 2, 2], group=2),
        node("Relu", ["conv2_1"], ["conv2_2"]),
        node("Reshape", ["conv2_2", "flat_shape"], ["flat"]),
        node("Gemm", ["flat", "w6", "b6"], ["fc6_1"], transB=1),
        node("Relu", ["fc6_1"], ["fc6_2"]),
        node("Dropout", ["fc6_2"], ["fc6_3", "mask"]),
        node("Gemm", ["fc6_3", "w8", "b8"], ["fc8_1"], transB=1),
        node("Softmax", ["fc8_1"], ["prob_1"], axis=1)]
    path = write_network(tmp_path / "alexnet.onnx", nodes, {
        "w1": (16, 3, 7, 7), "b1": (16,), "w2": (24, 8, 5, 5), "b2": (24,), "flat_shape": (1, 24 * 7 * 7),
        "w6": (32, 24 * 7 * 7), "b6": (32,), "w8": (10, 32), "b8": (10,)}, inputs_too=True)
    came = same_features(path, ["fc6_2"], caffe, suffix="")
    assert came["cut_at"] == ["fc6_2"]  # what the last dense layer reads, before it drops out


def test_a_network_like_squeezenet(tmp_path):
    """Layers side by side, put together; a pooling that counts kernels which end outside; no dense layer."""
    path = write_network(tmp_path / "squeezenet.onnx", [
        node("Conv", ["data", "w1", "b1"], ["c1"], name="conv1", strides=[2, 2]),
        node("Relu", ["c1"], ["r1"], name="relu1"),
        node("MaxPool", ["r1"], ["p1"], name="pool1", kernel_shape=[3, 3], strides=[2, 2], pads=[0, 0, 1, 1]),
        node("Conv", ["p1", "w2"], ["small"], name="expand1x1"),
        node("Conv", ["p1", "w3"], ["large"], name="expand3x3", pads=[1] * 4),
        node("Concat", ["small", "large"], ["fire"], name="concat", axis=1),
        node("Dropout", ["fire"], ["kept"], name="drop"),
        node("Conv", ["kept", "w4"], ["c10"], name="conv10"),
        node("GlobalAveragePool", ["c10"], ["pooled"], name="pool10")],
        {"w1": (8, 3, 7, 7), "b1": (8,), "w2": (4, 8, 1, 1), "w3": (6, 8, 3, 3), "w4": (5, 10, 1, 1)})
    came = same_features(path, ["fire", "pooled"], suffix="#layer=concat+pool10&preprocessing=none")
    # 7 px; pooled by 3 at a stride of 2; then 3 at a stride of 4.
    sees = dict(zip(came["names"], came["sees"]))
    assert [sees[name] for name in ("conv1", "pool1", "expand1x1", "concat", "pool10")] == [7, 11, 11, 19, None]


# Before opset 11 the limits of a Clip are attributes, behind it weights; weights may come through other nodes.
OF_NEWER_FILES = [node("Clip", ["n1", "low", "high"], ["a1"]), node("Identity", ["w1"], ["w2"]),
                  node("Constant", [], ["low"], value=numpy_helper.from_array(np.float32(0))),
                  node("Constant", [], ["high"], value_float=6.0)]


@pytest.mark.parametrize("opset", [9, 17])
def test_a_network_with_the_parts_of_resnet_and_mobilenet(opset, tmp_path):
    """Shortcuts, batch normalisation, depthwise convolutions, average pooling, a dense layer in two nodes."""
    newer = OF_NEWER_FILES if opset > 10 else []
    nodes = newer[1:] + [
        node("Conv", ["data", "w0"], ["c1"], strides=[2, 2], pads=[1, 1, 0, 0]),
        node("BatchNormalization", ["c1", "scale", "bias", "mean", "variance"], ["n1"], epsilon=0.1),
        newer[0] if newer else node("Clip", ["n1"], ["a1"], min=0.0, max=6.0),
        node("Conv", ["a1", "w2" if newer else "w1", "b1"], ["c2"], name="depthwise", strides=[2, 2], pads=[1] * 4,
             group=8),
        node("Conv", ["c2", "w3"], ["c3"], name="pointwise"),
        node("AveragePool", ["a1"], ["p1"], kernel_shape=[3, 3], strides=[2, 2], pads=[0, 0, 1, 1],
             count_include_pad=1),
        node("Add", ["c3", "p1"], ["sum"], name="shortcut"),
        node("Mul", ["sum", "scales"], ["scaled"]),
        node("Sum", ["scaled", "sum", "c3"], ["three"], name="three"),
        node("GlobalAveragePool", ["three"], ["pooled"]),
        node("Flatten", ["pooled"], ["flat"]),
        node("MatMul", ["flat", "w4"], ["dense"], name="dense"),
        node("Add", ["b4", "dense"], ["logits"], name="logits"),
        node("Softmax", ["logits"], ["probabilities"])]
    path = write_network(tmp_path / "resnet.onnx", nodes, {
        "w0": (8, 3, 3, 3), "scale": (8,), "bias": (8,), "mean": (8,), "variance": (8,), "w1": (8, 1, 3, 3), "b1": (8,),
        "w3": (8, 8, 1, 1), "scales": (1, 8, 1, 1), "w4": (8, 5), "b4": (5,)}, opset=opset)
    came = same_features(path, ["three"])
    assert came["cut_at"] == ["three"]
    same_features(path, ["logits"], suffix="#layer=logits&preprocessing=none")
    sees = dict(zip(came["names"], came["sees"]))
    # 3 px; a kernel of 3 at a stride of 2; the pooling beside it starts one step later.
    assert [sees[name] for name in ("depthwise", "pointwise", "shortcut")] == [7, 7, 9]


def test_what_cntk_would_compute_otherwise_is_refused(tmp_path):
    strange = {
        "got HardSigmoid in the layer gate": node("HardSigmoid", ["c"], ["h"], name="gate"),
        "dilations [2, 2]": node("Conv", ["c", "w2"], ["h"], name="gate", dilations=[2, 2]),
        "auto_pad": node("Conv", ["c", "w2"], ["h"], name="gate", auto_pad="SAME_UPPER"),
        "leaves out what it pads": node("AveragePool", ["c"], ["h"], name="gate", kernel_shape=[2, 2], pads=[1] * 4),
        "Concat along axis 2": node("Concat", ["c", "c"], ["h"], name="gate", axis=2),
        "a weight that isn't in the file": node("Conv", ["c", "c"], ["h"], name="gate")}
    paths = [write_network(tmp_path / f"strange{i}.onnx", [node("Conv", ["data", "w"], ["c"], name="conv1"), gate],
                           {"w": (4, 3, 3, 3), "w2": (2, 4, 3, 3)}) for i, gate in enumerate(strange.values())]
    sentences = python36("refusals", names=[f"{path}#layer=gate" for path in paths] + [f"{paths[0]}#layer=conv1"])
    for path, sentence, part in zip(paths, sentences["sentences"], strange):
        one_sentence(sentence, part, f"in the layer gate of {path.name}")
    # It isn't needed for a layer before it.
    assert sentences["sentences"][-1] is None

"""Operators of ONNX in CNTK give the numbers of ONNX Runtime."""

import numpy as np
from onnx.helper import make_node as node

from networks import features_of_onnx_runtime, needs_cntk, one_sentence, python36, write_network

pytestmark = needs_cntk


def same_features(path, values, preprocess=lambda x: x, suffix="#preprocessing=none"):
    came = python36("layers", name=str(path) + suffix)
    expected = features_of_onnx_runtime(path, values, preprocess)
    assert np.allclose(came["features"], expected, rtol=1e-4, atol=1e-4 * np.abs(expected).max())
    return came


def test_a_network_like_caffes_alexnet(caffe_alexnet, caffe):
    came = same_features(caffe_alexnet, ["fc6_2"], caffe, suffix="")
    assert came["cut_at"] == ["fc6_3"]  # what the last dense layer reads


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


def test_what_cntk_would_compute_otherwise_is_refused(tmp_path):
    strange = {
        "got HardSigmoid in the layer gate": node("HardSigmoid", ["c"], ["h"], name="gate"),
        "dilations [2, 2]": node("Conv", ["c", "w2"], ["h"], name="gate", dilations=[2, 2]),
        "auto_pad": node("Conv", ["c", "w2"], ["h"], name="gate", auto_pad="SAME_UPPER"),
        "Concat along axis 2": node("Concat", ["c", "c"], ["h"], name="gate", axis=2),
        "a weight that isn't in the file": node("Conv", ["c", "c"], ["h"], name="gate")}
    paths = [write_network(tmp_path / f"strange{i}.onnx", [node("Conv", ["data", "w"], ["c"], name="conv1"), gate],
                           {"w": (4, 3, 3, 3), "w2": (2, 4, 3, 3)}) for i, gate in enumerate(strange.values())]
    sentences = python36("refusals", names=[f"{path}#layer=gate" for path in paths] + [f"{paths[0]}#layer=conv1"])
    for path, sentence, part in zip(paths, sentences["sentences"], strange):
        one_sentence(sentence, part, f"in the layer gate of {path.name}")
    # It isn't needed for a layer before it.
    assert sentences["sentences"][-1] is None

import numpy as np
from onnx import helper

from helpers.model import backbones
from networks import features_of_onnx_runtime, needs_cntk, one_sentence, python36, write_network

pytestmark = needs_cntk


def test_the_embedded_network_computes_what_its_file_says():
    came = python36("layers", name="alexnet_small")
    assert came["cut_at"] == ["relu4", "relu5"] and came["free"] == 0
    expected = features_of_onnx_runtime(backbones.WEIGHTS / "alexnet_small.onnx", ["relu4", "relu5"])
    assert np.allclose(came["features"], expected, rtol=1e-4, atol=1e-4 * np.abs(expected).max())
    # 11 px, then strides of 4 and 2 before kernels of 5 and 3: worked out by hand.
    sees = dict(zip(came["names"], came["sees"]))
    assert [sees[f"relu{i}"] for i in range(1, 6)] == [11, 51, 99, 131, 163]


def test_networks_that_cannot_be_used(tmp_path):
    path = write_network(tmp_path / "net.onnx", [
        helper.make_node("Conv", ["data", "w"], ["c"], name="conv1", kernel_shape=[3, 3]),
        helper.make_node("Relu", ["c"], ["r"])], {"w": (4, 3, 3, 3)})
    broken = tmp_path / "broken.onnx"
    broken.write_bytes(path.read_bytes()[:len(path.read_bytes()) // 2])
    says = {str(broken): ("a whole ONNX file", "can't be read"), f"{path}#layer=relu9": ("got 'relu9'", "conv1, r."),
            str(path): ("no dense layer to stand before", "#layer=<name>: conv1, r."),
            f"{path}#sha256={'0' * 64}": ("with SHA-256 000000000000…",),
            str(tmp_path / "none.onnx"): ("which is no file",), "vgg": ("got 'vgg'", "alexnet_small"),
            f"{path}#layers=r": ("with #layer=<name>", "Correct it")}
    for sentence, parts in zip(python36("refusals", names=list(says))["sentences"], says.values()):
        one_sentence(sentence, *parts)

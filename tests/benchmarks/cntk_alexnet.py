"""AlexNet at its full size with random weights, as a CNTK bundle: run as ``python3.6 cntk_alexnet.py <folder>``."""

import sys
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from helpers.model import retrain_cntk as retraining
from helpers.model.cntk_network import get


def write_alexnet(path):
    """Caffe's AlexNet up to its last but one dense layer, as the ONNX model zoo has it; He's random weights."""
    rng, nodes, weights = np.random.RandomState(0), [], []

    def node(operator, name, inputs, **attributes):
        nodes.append(helper.make_node(operator, inputs, [name], name=name, **attributes))
        return name

    def layer(operator, name, x, shape, **attributes):
        values = rng.normal(0, np.sqrt(2 / np.prod(shape[1:])), shape).astype(np.float32)
        for kind, value in (("kernel", values), ("bias", np.zeros(shape[0], np.float32))):
            weights.append(numpy_helper.from_array(value, "{}/{}".format(name, kind)))
        x = node(operator, name, [x, name + "/kernel", name + "/bias"], **attributes)
        return node("Relu", name.replace("conv", "relu").replace("fc", "relu"), [x])

    x = "pictures"
    for i, (filters, channels, size, stride, pad, group) in enumerate((
            (96, 3, 11, 4, 0, 1), (256, 48, 5, 1, 2, 2), (384, 256, 3, 1, 1, 1), (384, 192, 3, 1, 1, 2),
            (256, 192, 3, 1, 1, 2)), 1):
        x = layer("Conv", "conv{}".format(i), x, (filters, channels, size, size), kernel_shape=[size] * 2,
                  strides=[stride] * 2, pads=[pad] * 4, group=group)
        if i in (1, 2):
            x = node("LRN", "norm{}".format(i), [x], size=5, alpha=1e-4, beta=0.75, bias=1.0)
        if i in (1, 2, 5):
            # 54 px don't divide by 2: Caffe pads the far end.
            x = node("MaxPool", "pool{}".format(i), [x], kernel_shape=[3, 3], strides=[2, 2],
                     pads=[0, 0, 1, 1] if i == 1 else [0] * 4)
    x = node("Flatten", "flatten", [x], axis=1)
    x = layer("Gemm", "fc6", x, (4096, 9216), transB=1)
    x = layer("Gemm", "fc7", x, (4096, 4096), transB=1)
    graph = helper.make_graph(
        nodes, "alexnet", [helper.make_tensor_value_info("pictures", TensorProto.FLOAT, ("N", 3, 224, 224))],
        [helper.make_tensor_value_info(x, TensorProto.FLOAT, ("N", 4096))], weights)
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 9)], ir_version=4), str(path))


if __name__ == "__main__":
    folder = Path(sys.argv[1])
    retraining.start_cntk(1)
    write_alexnet(folder / "alexnet.onnx")
    pretrained = get("{}#layer=relu7".format(folder / "alexnet.onnx"))
    tiles = np.load(str(folder / "tiles.npy"))[:retraining.PARITY_TILES]
    features = retraining.compute(pretrained.features(), tiles[:32])
    # Many features of random weights are nearly constant: brought to a deviation of 1 they would show each rounding.
    head = retraining.new_head(np.random.RandomState(0).normal(0, 10 * features.std(), features.shape), 6, 0)
    retraining.save(pretrained, head, folder / "alexnet", tiles, {
        "classes": list("abcdef"), "backbone": {"name": "alexnet, random weights"}})

"""AlexNet at its full size with random weights, written as the ONNX model zoo's bvlcalexnet-9 is; for both Pythons."""

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

# Filters, channels that each reads, kernel, stride, padding and groups of its convolutions.
CONVOLUTIONS = ((96, 3, 11, 4, 0, 1), (256, 48, 5, 1, 2, 2), (384, 256, 3, 1, 1, 1), (384, 192, 3, 1, 1, 2),
                (256, 192, 3, 1, 1, 2))
DENSE = ((4096, 9216), (4096, 4096), (1000, 4096))


def write_alexnet(path, seed: int = 0):
    """Write it: nodes without names, weights that are inputs too, a batch of 1 written into the shapes."""
    rng, nodes, weights = np.random.RandomState(seed), [], []

    def node(operator, output, *inputs, **attributes):
        nodes.append(helper.make_node(operator, inputs, [output], **attributes))
        return output

    def weight(name, values):
        weights.append(numpy_helper.from_array(values, name))
        return name

    def layer(operator, name, x, shape, **attributes):
        kernel = rng.standard_normal(shape).astype(np.float32) * np.float32(np.sqrt(2 / np.prod(shape[1:])))
        return node(operator, name + "_1", x, weight(name + "_w_0", kernel),
                    weight(name + "_b_0", rng.normal(0, 0.1, shape[0]).astype(np.float32)), **attributes)

    x = "data_0"
    for i, (filters, channels, size, stride, pad, group) in enumerate(CONVOLUTIONS, 1):
        x = layer("Conv", "conv%d" % i, x, (filters, channels, size, size), kernel_shape=[size] * 2,
                  strides=[stride] * 2, pads=[pad] * 4, group=group)
        x = node("Relu", "conv%d_2" % i, x)
        if i in (1, 2):
            x = node("LRN", "norm%d_1" % i, x, size=5, alpha=1e-4, beta=0.75, bias=1.0)
        if i in (1, 2, 5):
            # 54 px don't divide by 2: Caffe pads the far end.
            x = node("MaxPool", "pool%d_1" % i, x, kernel_shape=[3, 3], strides=[2, 2],
                     pads=[0, 0, 1, 1] if i == 1 else [0] * 4)
    x = node("Reshape", "flat_1", x, weight("flat_shape", np.array([1, 9216])))
    for i, shape in enumerate(DENSE, 6):
        x = layer("Gemm", "fc%d" % i, x, shape, transB=1)
        if i < 8:
            x = node("Dropout", "fc%d_3" % i, node("Relu", "fc%d_2" % i, x))
    x = node("Softmax", "prob_1", x, axis=1)

    def value(name, dims, kind=TensorProto.FLOAT):
        return helper.make_tensor_value_info(name, kind, dims)
    graph = helper.make_graph(
        nodes, "bvlc_alexnet", [value("data_0", [1, 3, 224, 224])] + [value(w.name, w.dims, w.data_type)
                                                                      for w in weights],
        [value(x, [1, 1000])], weights)
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 9)], ir_version=3), str(path))

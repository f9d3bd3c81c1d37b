"""The files of the embedded weights, as training writes them."""

import numpy as np

from helpers.model.small_networks import ALEXNET, INPUT_PX


def weights_of(network):
    """All weights of a Keras network by name, ``layer/kind``, float32."""
    return {layer.name + "/" + variable.name: variable.numpy()
            for layer in network.layers for variable in layer.weights}


def write_npz(path, weights):
    """Write weights as compressed NumPy arrays: kernels as float16, the short vectors as float32."""
    np.savez_compressed(str(path), **{name: value.astype(np.float16 if value.ndim > 1 else np.float32)
                                      for name, value in weights.items()})


def write_onnx(path, weights):
    """Write AlexNet's weights as ONNX opset 9, which CNTK 2.7 and today's ONNX Runtime both read.

    Input ``pictures`` float32 (N, 3, 224, 224) RGB 0 to 255; outputs ``relu4`` (N, 96, 12, 12), ``relu5``
    (N, 64, 12, 12) and ``relu7`` (N, 256). Each node and its output carry the layer's name: conv1 … conv5, fc6, fc7,
    relu1 … relu7, pool1, pool2, pool5, flatten. Weights are initialisers, not inputs.

    Parameters
    ----------
    path : str or pathlib.Path
    weights : dict of numpy.ndarray
        Of ``alexnet_small()``, as ``weights_of`` gives them.
    """
    import onnx
    from onnx import TensorProto, helper, numpy_helper
    nodes, initializers = [], []

    def node(operator, name, inputs, **attributes):
        nodes.append(helper.make_node(operator, inputs, [name], name=name, **attributes))
        return name

    def weight(layer, kind):
        value = weights[layer + "/" + kind]
        value = value.transpose(3, 2, 0, 1) if value.ndim == 4 else value.T
        initializers.append(numpy_helper.from_array(np.ascontiguousarray(value), layer + "/" + kind))
        return layer + "/" + kind

    x = "pictures"
    for i, (_, size, stride, padding) in enumerate(ALEXNET, 1):
        layer, pad = "conv{}".format(i), size // 2 if padding == "same" else 0
        x = node("Conv", layer, [x, weight(layer, "kernel"), weight(layer, "bias")], kernel_shape=[size, size],
                 strides=[stride, stride], pads=[pad] * 4, dilations=[1, 1], group=1)
        x = node("Relu", "relu{}".format(i), [x])
        if i in (1, 2, 5):
            x = node("MaxPool", "pool{}".format(i), [x], kernel_shape=[3, 3], strides=[2, 2], pads=[0] * 4)
    x = node("Flatten", "flatten", [x], axis=1)
    for i in (6, 7):
        layer = "fc{}".format(i)
        x = node("Gemm", layer, [x, weight(layer, "kernel"), weight(layer, "bias")], transB=1)
        x = node("Relu", "relu{}".format(i), [x])

    def value(name, *shape):
        return helper.make_tensor_value_info(name, TensorProto.FLOAT, ("N",) + shape)

    graph = helper.make_graph(nodes, "alexnet_small", [value("pictures", 3, INPUT_PX, INPUT_PX)],
                              [value("relu4", 96, 12, 12), value("relu5", 64, 12, 12), value("relu7", 256)],
                              initializers)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 9)], ir_version=4)
    onnx.checker.check_model(model)
    onnx.save(model, str(path))

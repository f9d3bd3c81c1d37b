"""A pretrained network and its new head as ONNX, in the version of the pretrained file, because CNTK can't write it."""

import numpy as np

from helpers.model.backbones import PREPROCESSING

# Before the names of pretrained values, so that they differ from all names that a bundle's network must have.
INSIDE = "pretrained/"


def export(pretrained, head):
    """The ``onnx.ModelProto`` of a ``Pretrained`` and a trained ``Head``.

    It goes from ``tiles``, uint8 (N, height, width, 3) RGB, to ``probabilities`` and ``logits`` (N, n_classes).
    """
    from onnx import TensorProto, compose, helper, numpy_helper
    order, mean, deviation = PREPROCESSING[pretrained.preprocessing]
    constants = {"bgr": np.array([2, 1, 0]), "mean": np.float32(mean).reshape(1, 3, 1, 1),
                 "deviation": np.float32(deviation).reshape(1, 3, 1, 1), "head/mean": head.mean,
                 "head/deviation": head.deviation, "head/weights": head.weights, "head/bias": head.bias}
    constants.update((INSIDE + name, value) for name, value in pretrained.weights.items())
    nodes = []

    def add(operator, inputs, output, **attributes):
        nodes.append(helper.make_node(operator, inputs, [output], name=output, **attributes))
        return output

    value = add("Cast", ["tiles"], "float_tiles", to=TensorProto.FLOAT)
    value = add("Transpose", [value], "channels_first", perm=[0, 3, 1, 2])
    if order == "BGR":
        value = add("Gather", [value, "bgr"], "reordered", axis=1)
    value = add("Div", [add("Sub", [value, "mean"], "centred"), "deviation"], "preprocessed")
    add("Identity", [value], INSIDE + pretrained.input)
    inside = helper.make_graph(pretrained.needed(pretrained.cut_at), "pretrained", [], [])
    compose.add_prefix_graph(inside, INSIDE, inplace=True)
    for node in inside.node:
        if node.op_type == "Dropout":  # It does nothing while a network predicts.
            node.CopyFrom(helper.make_node("Identity", node.input[:1], node.output[:1], name=node.name))
        if node.op_type == "Reshape":
            # The file may hold the size of a batch; 0 keeps the size of each batch.
            constants[node.input[1]] = np.array([0, -1])
    nodes.extend(inside.node)
    parts = []
    for layer in pretrained.cut_at:
        value = INSIDE + pretrained.output_of(layer)
        if len(pretrained.function(layer).shape) == 3:
            value = add("GlobalAveragePool", [value], value + "/average")
        parts.append(add("Flatten", [value], value + "/flat", axis=1))
    value = parts[0] if len(parts) == 1 else add("Concat", parts, "features", axis=1)
    value = add("Div", [add("Sub", [value, "head/mean"], "head/centred"), "head/deviation"], "head/standardised")
    value = add("Gemm", [value, "head/weights", "head/bias"], "logits")
    add("Softmax", [value], "probabilities", axis=1)
    read = {name for node in nodes for name in node.input}
    graph = helper.make_graph(
        nodes, "land_cover",
        [helper.make_tensor_value_info("tiles", TensorProto.UINT8, ("N",) + pretrained.input_px + (3,))],
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, ("N", len(head.bias)))
         for name in ("probabilities", "logits")],
        [numpy_helper.from_array(np.ascontiguousarray(value), name)
         for name, value in constants.items() if name in read])
    # IR 4 is the first in which weights needn't be inputs too.
    return helper.make_model(graph, opset_imports=list(pretrained.model.opset_import),
                             ir_version=max(4, pretrained.model.ir_version))

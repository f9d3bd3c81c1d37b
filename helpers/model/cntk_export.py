"""A pretrained network and its new head as ONNX, in the version of the pretrained file: CNTK itself can't write it."""

import numpy as np

from helpers.model.cntk_network import PREPROCESSING


class _Graph:
    """Nodes and weights of an ONNX graph in the making."""

    def __init__(self):
        self.nodes, self.initializers = [], []

    def constant(self, name, value):
        from onnx import numpy_helper
        self.initializers.append(numpy_helper.from_array(np.ascontiguousarray(value), name))
        return name

    def node(self, operator, inputs, output, **attributes):
        from onnx import helper
        self.nodes.append(helper.make_node(operator, inputs, [output], name=output, **attributes))
        return output


def export(pretrained, head):
    """The ``onnx.ModelProto`` of a ``Pretrained`` and a trained ``Head``.

    It goes from ``tiles``, uint8 (N, height, width, 3) RGB, to ``probabilities`` and ``logits`` (N, n_classes).
    """
    from onnx import TensorProto, helper
    graph = _Graph()
    _preprocess(graph, pretrained)
    _copy(graph, pretrained)
    x = _features(graph, pretrained)
    x = graph.node("Sub", [x, graph.constant("head/mean", head.mean)], "head/centred")
    x = graph.node("Div", [x, graph.constant("head/deviation", head.deviation)], "head/standardised")
    graph.node("Gemm", [x, graph.constant("head/weights", head.weights), graph.constant("head/bias", head.bias)],
               "logits")
    graph.node("Softmax", ["logits"], "probabilities", axis=1)
    whole = helper.make_graph(
        graph.nodes, "land_cover",
        [helper.make_tensor_value_info("tiles", TensorProto.UINT8, ("N",) + pretrained.input_px + (3,))],
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, ("N", len(head.bias)))
         for name in ("probabilities", "logits")],
        graph.initializers)
    # IR 4 is the first in which weights needn't be inputs too.
    return helper.make_model(whole, opset_imports=list(pretrained.model.opset_import),
                             ir_version=max(4, pretrained.model.ir_version))


def _inside(name):
    """The name of a pretrained value, apart from the names that a bundle's network has by contract."""
    return name and "pretrained/" + name


def _preprocess(graph, pretrained):
    """From the tiles to what the pretrained network expects of its pixels."""
    from onnx import TensorProto
    x = graph.node("Cast", ["tiles"], "float_tiles", to=TensorProto.FLOAT)
    x = graph.node("Transpose", [x], "channels_first", perm=[0, 3, 1, 2])
    order, mean, deviation = PREPROCESSING[pretrained.preprocessing]
    if order == "BGR":
        x = graph.node("Gather", [x, graph.constant("bgr", np.array([2, 1, 0], dtype=np.int64))], "reordered", axis=1)
    if pretrained.preprocessing != "none":
        x = graph.node("Sub", [x, graph.constant("mean", np.float32(mean).reshape(1, 3, 1, 1))], "centred")
        x = graph.node("Div", [x, graph.constant("deviation", np.float32(deviation).reshape(1, 3, 1, 1))],
                       "preprocessed")
    graph.node("Identity", [x], _inside(pretrained.input))


def _copy(graph, pretrained):
    """The pretrained nodes up to the layers that features are read from, and their weights."""
    import onnx
    for source in pretrained.needed(pretrained.cut_at):
        if source.op_type == "Dropout":
            graph.node("Identity", [_inside(source.input[0])], _inside(source.output[0]))
            continue
        copy = onnx.NodeProto()
        copy.CopyFrom(source)
        copy.input[:] = [_inside(name) for name in source.input]
        copy.output[:] = [_inside(name) for name in source.output]
        if source.op_type == "Reshape":
            # The file may have the batch written into it: 0 keeps the batch that comes.
            copy.input[1] = graph.constant(_inside(source.output[0]) + "/shape", np.array([0, -1], dtype=np.int64))
        graph.nodes.append(copy)
    read = {name for node in graph.nodes for name in node.input}
    for name, value in pretrained.weights.items():
        if _inside(name) in read:
            graph.constant(_inside(name), value)


def _features(graph, pretrained):
    """The layers' outputs, maps averaged over the picture, one beside the other."""
    parts = []
    for layer in pretrained.cut_at:
        output = _inside(pretrained.output_of(layer))
        if len(pretrained.shape(layer)) == 3:
            output = graph.node("GlobalAveragePool", [output], output + "/average")
        parts.append(graph.node("Flatten", [output], output + "/flat", axis=1))
    return parts[0] if len(parts) == 1 else graph.node("Concat", parts, "features", axis=1)

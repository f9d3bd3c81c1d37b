"""The int8 network of a bundle, calibrated on training tiles."""

import tempfile
from pathlib import Path

import numpy as np

from helpers.model import engines

# The version of ONNX that bundles have: the first that can quantise by channel.
OPSET = 13


def quantise(path: Path, int8_path: Path, tiles: np.ndarray):
    """Write an ONNX network in int8: weights by channel, activations by the ranges that they have on training tiles.

    The layers before the first convolution and the head stay float32. So do, in networks like MobileNet, the
    convolutions up to the first depthwise one, where errors would grow most.
    """
    import onnx
    from onnxruntime import quantization
    from onnxruntime.quantization import shape_inference

    # Four tiles at a time, because ONNX Runtime keeps all values; in an order that mixes the classes.
    order = np.random.RandomState(0).permutation(len(tiles))
    batches = iter([{"tiles": tiles[np.sort(rows)]} for rows in np.array_split(order, max(1, len(tiles) // 4))])

    class Batches(quantization.CalibrationDataReader):
        def get_next(self):
            return next(batches, None)

    with tempfile.TemporaryDirectory() as folder:
        plain = str(Path(folder) / "plain.onnx")
        # Batch normalisations become part of the convolutions, and every value gets its shape.
        shape_inference.quant_pre_process(str(path), plain, skip_symbolic_shape=True)
        network = onnx.load(plain)
        pad_inside_pooling(network.graph)
        fractions = lrn_in_plain_operations(network.graph)
        onnx.save(network, plain)
        dense = [node.name for node in network.graph.node if node.op_type in ("Gemm", "MatMul")]
        quantization.quantize_static(
            plain, str(int8_path), Batches(), quant_format=quantization.QuantFormat.QDQ, per_channel=True,
            activation_type=quantization.QuantType.QUInt8, weight_type=quantization.QuantType.QInt8,
            op_types_to_quantize=["Conv", "Relu", "Clip", "MaxPool", "Add", "Concat", "Gemm", "MatMul"],
            nodes_to_exclude=dense[-1:] + fractions + _to_first_depthwise(network.graph),
            # A mean of the batches' ranges: one odd tile would coarsen the steps for all others.
            extra_options={"CalibMovingAverage": True})
    _correct_mean(path, int8_path, tiles)


def _to_first_depthwise(graph) -> list:
    """Names of the convolutions up to the first depthwise one, if there is one."""
    convolutions = [node for node in graph.node if node.op_type == "Conv"]
    groups = {kernel.name: kernel.dims[0] for kernel in graph.initializer
              if len(kernel.dims) == 4 and kernel.dims[1] == 1}
    depthwise = [i for i, node in enumerate(convolutions)
                 if any(a.name == "group" and a.i == groups.get(node.input[1]) > 1 for a in node.attribute)]
    return [node.name for node in convolutions[:depthwise[0] + 1]] if depthwise else []


def _correct_mean(path, int8_path, tiles):
    """Give the int8 network's logits the mean that float32 has on the calibration tiles.

    Rounding errors of one sign add up from layer to layer, and the average over a picture keeps them. The logarithm of
    a probability differs from its logit by a number that all classes share, and softmax ignores that number.
    """
    import onnx
    from onnx import helper, numpy_helper
    network = onnx.load(str(int8_path))
    softmax = [node for node in network.graph.node if node.op_type == "Softmax"][-1:]
    if not softmax or softmax[0].output[0] != network.graph.output[0].name:
        return
    exact, rounded = (np.log(np.maximum(engine.score(tiles), 1e-12)).mean(axis=0)
                      for engine in (engines.start("onnxruntime", path), engines.start("onnxruntime-int8", int8_path)))
    logits, position = softmax[0].input[0], list(network.graph.node).index(softmax[0])
    network.graph.initializer.append(numpy_helper.from_array(exact - rounded, "mean_correction"))
    network.graph.node.insert(position, helper.make_node("Add", [logits, "mean_correction"], ["corrected_logits"]))
    softmax[0].input[0] = "corrected_logits"
    onnx.save(network, str(int8_path))


def lrn_in_plain_operations(graph) -> list:
    """Write local response normalisation, as in AlexNet, with operations that ONNX Runtime computes quickly.

    The sum of squares over neighbouring channels is a 1 × 1 convolution with a band of ones. The power of 3/4 is the
    root times the root's root. Returns the names of the new nodes, whose range is too wide for int8.
    """
    from onnx import helper, numpy_helper
    shapes = {value.name: [d.dim_value for d in value.type.tensor_type.shape.dim] for value in graph.value_info}
    nodes, names = [], []
    for node in graph.node:
        given = {a.name: helper.get_attribute_value(a) for a in node.attribute}
        channels = shapes.get(node.input[0], [0, 0])[1] if node.op_type == "LRN" else 0
        if not channels or given.get("beta", 0.75) != 0.75:
            nodes.append(node)
            continue
        x, y, size = node.input[0], node.output[0], given["size"]
        # ONNX's window reaches from (size - 1) // 2 channels before to size // 2 after.
        apart = np.subtract.outer(np.arange(channels), np.arange(channels))
        band = (apart <= (size - 1) // 2) & (-apart <= size // 2)
        kernel = (band * given.get("alpha", 1e-4) / size).astype(np.float32)[:, :, None, None]
        graph.initializer.extend([
            numpy_helper.from_array(kernel, y + "/band"),
            numpy_helper.from_array(np.full(channels, given.get("bias", 1.0), np.float32), y + "/bias")])
        steps = [("Mul", [x, x], "/squares"), ("Conv", [y + "/squares", y + "/band", y + "/bias"], "/sum"),
                 ("Sqrt", [y + "/sum"], "/root"), ("Sqrt", [y + "/root"], "/fourth"),
                 ("Mul", [y + "/root", y + "/fourth"], "/power"), ("Div", [x, y + "/power"], "")]
        nodes += [helper.make_node(operator, inputs, [y + output], name=y + output)
                  for operator, inputs, output in steps]
        names += [y + output for _, _, output in steps]
    del graph.node[:]
    graph.node.extend(nodes)
    return names


def pad_inside_pooling(graph):
    """Replace a Pad with 0 between a Relu and a MaxPool by the MaxPool's own padding.

    Nothing is below 0 after a Relu, so the result is the same. Keras's ResNet-50 has such a Pad, for which a quantised
    network would convert to float32 and back.
    """
    from onnx import helper, numpy_helper
    constants = {tensor.name: numpy_helper.to_array(tensor) for tensor in graph.initializer}
    makers = {output: node for node in graph.node for output in node.output}
    for pool in graph.node:
        pad = makers.get(pool.input[0]) if pool.op_type == "MaxPool" else None
        relu = makers.get(pad.input[0]) if pad is not None and pad.op_type == "Pad" else None
        if (relu is None or relu.op_type != "Relu" or len(pad.input) > 3
                or any(name not in constants for name in pad.input[1:])):
            continue
        pads, *value = [constants[name] for name in pad.input[1:]]
        given = {a.name: helper.get_attribute_value(a) for a in pool.attribute}
        pads_itself = any(given.get("pads", [])) or given.get("auto_pad", b"VALID") not in (b"VALID", b"NOTSET")
        # The pads stand at the beginning, then at the end, of batch, channels, rows and columns.
        if (np.any(value) or pads.reshape(2, 4)[:, :2].any() or pads_itself
                or sum(pad.output[0] in node.input for node in graph.node) > 1):
            continue
        given.pop("auto_pad", None)
        given["pads"] = pads.reshape(2, 4)[:, 2:].ravel().tolist()
        del pool.attribute[:]
        pool.attribute.extend(helper.make_attribute(name, one) for name, one in given.items())
        pool.input[0] = pad.input[0]
        graph.node.remove(pad)
    # ONNX Runtime warns of weights that no node reads.
    read = {name for node in graph.node for name in node.input}
    for tensor in [tensor for tensor in graph.initializer if tensor.name not in read]:
        graph.initializer.remove(tensor)

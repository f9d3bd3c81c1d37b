"""ONNX nodes as CNTK functions: the operators that AlexNet, SqueezeNet, VGG, ResNet and MobileNet are made of.

CNTK's own reader of ONNX gives a graph that CNTK can't write again, so ``cntk_network`` builds its networks from these.
All weights are constants: no learner can move them.
"""

import functools

import numpy as np

from helpers import InputError


def attributes(node) -> dict:
    """The attributes of an ``onnx.NodeProto``, by name."""
    from onnx import helper
    return {a.name: helper.get_attribute_value(a) for a in node.attribute}


def compute(cntk, node, values: dict, weights: dict, file: str):
    """The ``cntk.Function`` of an ``onnx.NodeProto``, from the functions before it and the weights, both by name."""
    step = _Step(node, values, weights, file)
    if step.operator not in _OPERATIONS:
        raise step.refusal(step.operator)
    if not step.values:
        raise step.refusal(f"{step.operator} without an input")
    return cntk.alias(_OPERATIONS[step.operator](cntk, step, step.values[0]), name=node.output[0])


class _Step:
    """A node with its attributes, the functions that it reads, and its weights."""

    def __init__(self, node, values, weights, file):
        self.operator, self.name, self.given = node.op_type, node.name, attributes(node)
        self.values = [values[name] for name in node.input if name in values]
        self.constants = [weights[name] for name in node.input if name in weights]
        self._inputs, self._weights, self._file = node.input, weights, file

    def weight(self, position):
        """The weights at an input, float32; None where the file leaves out an optional input."""
        name = self._inputs[position] if position < len(self._inputs) else ""
        if name and name not in self._weights:
            raise self.refusal(f"{self.operator} with a weight that isn't in the file")
        return np.asarray(self._weights[name], dtype=np.float32) if name else None

    def refusal(self, reason):
        return InputError(
            f"expected an ONNX network of operators that CNTK 2.7 can compute ({', '.join(sorted(_OPERATIONS))}), got "
            f"{reason} in the layer {self.name} of {self._file}. Cut it at a layer before that one, or take the "
            "embedded default squeezenet.")


def _window(cntk, step, x, size, outside):
    """The padded input of a kernel, and its strides."""
    given = step.given
    strides, dilations = tuple(given.get("strides", [1, 1])), list(given.get("dilations", [1, 1]))
    if len(size) != 2 or dilations != [1, 1] or given.get("auto_pad", b"NOTSET") != b"NOTSET":
        raise step.refusal(f"{step.operator} with a kernel of {list(size)}, dilations {dilations} or auto_pad")
    top, left, bottom, right = given.get("pads", [0] * 4)
    if given.get("ceil_mode"):
        # ONNX counts a kernel that begins inside the picture, though it ends outside.
        bottom += -(x.shape[1] + top + bottom - size[0]) % strides[0]
        right += -(x.shape[2] + left + right - size[1]) % strides[1]
    if any((top, left, bottom, right)):
        # CNTK's own padding differs from ONNX's where strides are larger than 1.
        x = cntk.pad(x, [(0, 0), (top, bottom), (left, right)], constant_value=outside)
    return x, strides


def _convolution(cntk, step, x):
    kernel, bias = step.weight(1), step.weight(2)
    x, strides = _window(cntk, step, x, kernel.shape[2:], 0)
    groups = step.given.get("group", 1)
    if groups == len(kernel) == x.shape[0]:
        outputs = _depthwise(cntk, x, kernel, strides)
    else:
        # One convolution for each group: CNTK's own groups compute nonsense on more than one thread.
        inputs = [x] if groups == 1 else [
            cntk.slice(x, 0, i * kernel.shape[1], (i + 1) * kernel.shape[1]) for i in range(groups)]
        outputs = [cntk.convolution(cntk.constant(part), one, strides, auto_padding=[False] * 3)
                   for part, one in zip(np.split(kernel, groups), inputs)]
        outputs = outputs[0] if groups == 1 else cntk.splice(*outputs, axis=0)
    return outputs if bias is None else outputs + bias.reshape(-1, 1, 1)


def _depthwise(cntk, x, kernel, strides):
    """A convolution of each channel alone, as a sum over the places of the kernel."""
    height, width = (n - size + 1 for n, size in zip(x.shape[1:], kernel.shape[2:]))
    shifted = [cntk.slice(x, (1, 2), (i, j), (i + height, j + width), strides) * kernel[:, :, i, j:j + 1]
               for i in range(kernel.shape[2]) for j in range(kernel.shape[3])]
    return functools.reduce(cntk.plus, shifted)


def _pool(cntk, step, x):
    size, averages = step.given["kernel_shape"], step.operator == "AveragePool"
    # Padding that is lower than anything never is the maximum.
    padded, strides = _window(cntk, step, x, size, 0 if averages else -1e30)
    if averages and padded is not x and (step.given.get("ceil_mode") or not step.given.get("count_include_pad")):
        raise step.refusal("AveragePool that leaves out what it pads")
    kind = cntk.AVG_POOLING if averages else cntk.MAX_POOLING
    return cntk.pooling(padded, kind, tuple(size), strides, auto_padding=[False, False])


def _response_normalization(cntk, step, x):
    # CNTK divides alpha by the number of channels too.
    return cntk.local_response_normalization(
        x, step.given["size"] // 2, step.given.get("bias", 1.0), step.given.get("alpha", 1e-4),
        step.given.get("beta", 0.75))


def _concat(cntk, step, x):
    if step.given["axis"] != 1:
        raise step.refusal(f"Concat along axis {step.given['axis']}")
    return cntk.splice(*step.values, axis=0)


def _dense(cntk, step, x):
    given = step.given
    if given.get("transA") or given.get("alpha", 1.0) != 1 or given.get("beta", 1.0) != 1 or len(step.values) > 1:
        raise step.refusal("a dense layer with factors")
    kernel, bias = step.weight(1), step.weight(2)
    kernel = np.ascontiguousarray(kernel.T if given.get("transB") else kernel)
    outputs = cntk.times(cntk.reshape(x, (kernel.shape[0],)), cntk.constant(kernel))
    return outputs if bias is None else outputs + bias


def _batch_normalization(cntk, step, x):
    shape = (-1,) + (1,) * (len(x.shape) - 1)
    scale, bias, mean, variance = (step.weight(i).reshape(shape) for i in range(1, 5))
    factor = scale / np.sqrt(variance + np.float32(step.given.get("epsilon", 1e-5)))
    return x * factor + (bias - mean * factor)


def _together(cntk, step, x):
    """The sum or product of values and weights."""
    operation = cntk.element_times if step.operator == "Mul" else cntk.plus
    # CNTK's values have no axis for the batch.
    constants = [w[0] if w.ndim > len(x.shape) else w for w in step.constants]
    return functools.reduce(operation, step.values + constants)


def _clip(cntk, step, x):
    # The limits are attributes until opset 10, and optional inputs after it.
    low, high = (step.given.get(name, step.weight(i)) for i, name in ((1, "min"), (2, "max")))
    low, high = -3e38 if low is None else low, 3e38 if high is None else high
    return cntk.clip(x, np.float32(low), np.float32(high))


def _flat(cntk, step, x):
    """Flatten, or a Reshape to (batch, everything), however the batch is written."""
    size = int(np.prod(x.shape))
    shape = [int(n) for n in step.weight(1)] if step.operator == "Reshape" else [0, size]
    if len(shape) != 2 or shape[1] not in (-1, size) or step.given.get("axis", 1) != 1:
        raise step.refusal(f"{step.operator} to {shape}")
    return cntk.reshape(x, (size,))


_OPERATIONS = {
    "Add": _together, "AveragePool": _pool, "BatchNormalization": _batch_normalization, "Clip": _clip,
    "Concat": _concat, "Conv": _convolution, "Flatten": _flat, "Gemm": _dense, "LRN": _response_normalization,
    "MatMul": _dense, "MaxPool": _pool, "Mul": _together, "Reshape": _flat, "Sum": _together,
    "Dropout": lambda cntk, step, x: x,
    "GlobalAveragePool": lambda cntk, step, x: cntk.reduce_mean(x, axis=(1, 2)),
    "Identity": lambda cntk, step, x: x,
    "Relu": lambda cntk, step, x: cntk.relu(x),
}

"""ONNX nodes as CNTK functions: the operators that AlexNet, SqueezeNet, VGG, ResNet and MobileNet are made of.

CNTK's own reader of ONNX gives a graph that CNTK can't write again, so ``cntk_network`` builds its networks from these.
All weights are constants: no learner can move them. A function of an operator gets CNTK, the node's attributes, and its
inputs: CNTK functions, weights as float32 arrays, and None where the file leaves out an optional one.
"""

import functools

import numpy as np

from helpers import InputError


class _Refused(Exception):
    """CNTK would compute something else; the text follows the name of the operator."""


def attributes(node) -> dict:
    """The attributes of an ``onnx.NodeProto``, by name."""
    from onnx import helper
    return {a.name: helper.get_attribute_value(a) for a in node.attribute}


def compute(cntk, node, known: dict, path):
    """The ``cntk.Function`` of an ``onnx.NodeProto``, from all functions and weights before it, by name."""
    default = "take the embedded default squeezenet."
    try:
        if node.op_type not in _OPERATIONS:
            raise _Refused
        if not {name for name in node.input if name} <= set(known):
            raise _Refused(" with an input that isn't in the file")
        inputs = [known[name] if name else None for name in node.input]
        are_values = [one is not None and not isinstance(one, np.ndarray) for one in inputs]
        if not any(are_values):
            raise _Refused(" without an input")
        if node.op_type not in ("Add", "Concat", "Mul", "Sum") and (not are_values[0] or any(are_values[1:])):
            raise _Refused(" with a weight that isn't in the file")
        return cntk.alias(_OPERATIONS[node.op_type](cntk, attributes(node), *inputs), name=node.output[0])
    except _Refused as reason:
        raise InputError(
            f"expected an ONNX network of operators that CNTK 2.7 can compute ({', '.join(sorted(_OPERATIONS))}), got "
            f"{node.op_type}{reason} in the layer {node.name} of {path.name}. Cut it at a layer before that one, or "
            f"{default}") from None
    except Exception as error:  # CNTK's errors about shapes have several kinds, and are pages long.
        reason = str(error).split("\n")[0][:200]
        raise InputError(f"expected an ONNX network whose shapes fit at {path}, got an error of CNTK in the layer "
                         f"{node.name}: {reason} Export it again, or {default}") from error


def _window(cntk, given, x, size, outside):
    """The padded input of a kernel, and its strides."""
    strides, dilations = tuple(given.get("strides", [1, 1])), list(given.get("dilations", [1, 1]))
    if len(size) != 2 or dilations != [1, 1] or given.get("auto_pad", b"NOTSET") != b"NOTSET":
        raise _Refused(f" with a kernel of {list(size)}, dilations {dilations} or auto_pad")
    top, left, bottom, right = given.get("pads", [0] * 4)
    if given.get("ceil_mode"):
        # ONNX counts a kernel that begins inside the picture, though it ends outside.
        bottom += -(x.shape[1] + top + bottom - size[0]) % strides[0]
        right += -(x.shape[2] + left + right - size[1]) % strides[1]
    if any((top, left, bottom, right)):
        # CNTK's own padding differs from ONNX's where strides are larger than 1.
        x = cntk.pad(x, [(0, 0), (top, bottom), (left, right)], constant_value=outside)
    return x, strides


def _convolution(cntk, given, x, kernel, bias=None):
    x, strides = _window(cntk, given, x, kernel.shape[2:], 0)
    groups = given.get("group", 1)
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


def _max_pool(cntk, given, x):
    # Padding that is lower than anything never is the maximum.
    padded, strides = _window(cntk, given, x, given["kernel_shape"], -1e30)
    return cntk.pooling(padded, cntk.MAX_POOLING, tuple(given["kernel_shape"]), strides, auto_padding=[False, False])


def _average_pool(cntk, given, x):
    padded, strides = _window(cntk, given, x, given["kernel_shape"], 0)
    if padded is not x and (given.get("ceil_mode") or not given.get("count_include_pad")):
        raise _Refused(" that leaves out what it pads")
    return cntk.pooling(padded, cntk.AVG_POOLING, tuple(given["kernel_shape"]), strides, auto_padding=[False, False])


def _response_normalization(cntk, given, x):
    # CNTK divides alpha by the number of channels too.
    return cntk.local_response_normalization(x, given["size"] // 2, given.get("bias", 1.0), given.get("alpha", 1e-4),
                                             given.get("beta", 0.75))


def _concat(cntk, given, *inputs):
    if given["axis"] != 1:
        raise _Refused(f" along axis {given['axis']}")
    return cntk.splice(*inputs, axis=0)


def _dense(cntk, given, x, kernel, bias=None):
    if given.get("transA") or given.get("alpha", 1.0) != 1 or given.get("beta", 1.0) != 1:
        raise _Refused(" with factors")
    kernel = np.ascontiguousarray(kernel.T if given.get("transB") else kernel)
    outputs = cntk.times(cntk.reshape(x, (kernel.shape[0],)), cntk.constant(kernel))
    return outputs if bias is None else outputs + bias


def _batch_normalization(cntk, given, x, *weights):
    shape = (-1,) + (1,) * (len(x.shape) - 1)
    scale, bias, mean, variance = (one.reshape(shape) for one in weights)
    factor = scale / np.sqrt(variance + np.float32(given.get("epsilon", 1e-5)))
    return x * factor + (bias - mean * factor)


def _together(operation, cntk, given, *inputs):
    """The sum or product of values and weights."""
    first, *others = sorted(inputs, key=lambda one: isinstance(one, np.ndarray))
    # CNTK's values have no axis for the batch.
    others = [one[0] if isinstance(one, np.ndarray) and one.ndim > len(first.shape) else one for one in others]
    return functools.reduce(getattr(cntk, operation), others, first)


def _clip(cntk, given, x, low=None, high=None):
    # The limits are attributes until opset 10, and optional inputs after it.
    low, high = given.get("min", low), given.get("max", high)
    return cntk.clip(x, np.float32(-3e38 if low is None else low), np.float32(3e38 if high is None else high))


def _flat(cntk, given, x, shape=None):
    """Flatten, or a Reshape to (batch, everything), however the batch is written."""
    size = int(np.prod(x.shape))
    shape = [0, size] if shape is None else shape.tolist()
    if len(shape) != 2 or shape[1] not in (-1, size) or given.get("axis", 1) != 1:
        raise _Refused(f" to {shape}")
    return cntk.reshape(x, (size,))


def _same(cntk, given, x, *options):
    return x


_OPERATIONS = {
    "Add": functools.partial(_together, "plus"), "AveragePool": _average_pool,
    "BatchNormalization": _batch_normalization, "Clip": _clip, "Concat": _concat, "Conv": _convolution,
    "Dropout": _same, "Flatten": _flat, "Gemm": _dense,
    "GlobalAveragePool": lambda cntk, given, x: cntk.reduce_mean(x, axis=(1, 2)), "Identity": _same,
    "LRN": _response_normalization, "MatMul": _dense, "MaxPool": _max_pool,
    "Mul": functools.partial(_together, "element_times"), "Relu": lambda cntk, given, x: cntk.relu(x),
    "Reshape": _flat, "Sum": functools.partial(_together, "plus"),
}

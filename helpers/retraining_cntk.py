"""Transfer learning in Microsoft Cognitive Toolkit 2.7: a network from ONNX, cut, frozen, and given a new head.

Runs in Python 3.6, in the environment that ``setup_scripts/install_cntk.sh`` makes. CNTK's own reader of ONNX
gives a graph that it can't write again, so the weights are read out of the file into the same network built from
CNTK's operations.
"""

import json
import os
import re
import subprocess
import tempfile
import urllib.parse
import urllib.request
from collections import namedtuple
from pathlib import Path

import numpy as np

from helpers import InputError, backbones, runs
from helpers import bundle as bundles
from helpers.cntk_process import (  # noqa: F401 (part of this module's interface)
    BATCH, compute, load_network, start_cntk)
from helpers.retraining_tensorflow import augment  # noqa: F401 (the same tiles for both frameworks)

# Caffe's AlexNet, as in 2017, from the ONNX model zoo.
ALEXNET_URL = ("https://media.githubusercontent.com/media/onnx/models/main/validated/vision/classification/alexnet/"
               "model/bvlcalexnet-9.onnx")
ALEXNET_SHA256 = "ef3c82dad5c512f969dbf701fe35c0b3feb1585687d541f765eb68730c0a8af7"
# What a network expects of its pixels: order of the channels, mean and deviation of each in that order.
PREPROCESSING = {
    "none": ("RGB", (0, 0, 0), (1, 1, 1)),
    "caffe": ("BGR", backbones.IMAGENET_MEAN_BGR, (1, 1, 1)),
    # torchvision.transforms.Normalize, for pixels of 0 to 255.
    "torch": ("RGB", tuple(255 * v for v in (0.485, 0.456, 0.406)), tuple(255 * v for v in (0.229, 0.224, 0.225))),
}
# The layers that the embedded network is cut at: it is best read from its last two, averaged over the picture.
EMBEDDED_LAYERS = "relu4+relu5"
# Of 0 to 1 the best on the sample's training counties, trained on one of them and judged on the other.
WEIGHT_DECAY = 0.03
# Fewer tiles can't show that an export predicts the same.
PARITY_TILES = 200

Layer = namedtuple("Layer", "name operator shape weights receptive_field_px")
# What a layer's units see of the picture, alike in both directions: the width in pixels, where that of the first unit
# starts, and how far apart those of neighbouring units are.
ReceptiveField = namedtuple("ReceptiveField", "size start step")
# A value of the network: the CNTK function and its receptive field; None where each unit sees the whole picture.
_Value = namedtuple("_Value", "function receptive_field")


def get(name):
    """Find a pretrained network.

    Parameters
    ----------
    name : str
        ``"alexnet_small"`` (embedded; the default), ``"alexnet"`` (Caffe's AlexNet, as in 2017: downloaded once, 244
        MB), or the path of an ONNX file with options behind it, joined by ``&``: ``file.onnx#layer=fc7``. The layer
        is the one to cut at, or several as ``relu4+relu5``; without it, the input of the last dense layer.
        ``preprocessing`` is ``caffe`` (BGR minus ImageNet's mean; the default), ``torch``, or ``none`` (RGB 0 to
        255); ``sha256`` has the file verified.

    Returns
    -------
    Pretrained

    Raises
    ------
    InputError
        If there is no such file, its checksum differs, it isn't whole, or CNTK can't compute it.
    """
    if name in ("alexnet_small", "alexnet"):
        embedded = name == "alexnet_small"
        path = backbones.WEIGHTS / backbones.EMBEDDED[name] if embedded else _download_alexnet()
        expected = backbones._embedded_sha256(path.name) if embedded else ALEXNET_SHA256
        return Pretrained(name, path, expected, EMBEDDED_LAYERS if embedded else None, "none" if embedded else "caffe")
    path, _, fragment = str(name).partition("#")
    options = dict(urllib.parse.parse_qsl(fragment.replace("+", "%2B"), keep_blank_values=True))
    if (Path(path).suffix != ".onnx" or set(options) - {"layer", "preprocessing", "sha256"}
            or bool(fragment) and not options or options.get("preprocessing", "none") not in PREPROCESSING
            or not re.match(r"^[0-9a-fA-F]{64}$", options.get("sha256", "0" * 64))):
        raise InputError(
            "expected alexnet_small, alexnet, or the path of an .onnx file, with #layer=<name>, "
            "preprocessing=<{}> or sha256=<64 digits> behind it joined by &, got {!r}. Correct it, or take the "
            "embedded default alexnet_small.".format("|".join(sorted(PREPROCESSING)), name))
    return Pretrained(Path(path).name, Path(path).expanduser(), options.get("sha256"), options.get("layer"),
                      options.get("preprocessing", "caffe"))


def _download_alexnet():
    """The model zoo's AlexNet in ``data/pretrained``, downloaded there once."""
    path = runs.home() / "data" / "pretrained" / "bvlcalexnet-9.onnx"
    if path.is_file():
        return path
    try:
        with runs.whole_file(path) as part:
            with urllib.request.urlopen(ALEXNET_URL, timeout=60) as answer, open(str(part), "wb") as file:
                for block in iter(lambda: answer.read(1 << 20), b""):
                    file.write(block)
            came = runs.sha256(part)
            if came != ALEXNET_SHA256:
                raise OSError("a file with SHA-256 {}… in place of {}…".format(came[:12], ALEXNET_SHA256[:12]))
    except (OSError, ValueError) as error:  # URLError and timeouts are OSErrors.
        raise InputError(
            "expected to download AlexNet from {}, got: {}. Bring the file bvlcalexnet-9.onnx yourself and give its "
            "path, or take the embedded default alexnet_small.".format(
                urllib.parse.urlsplit(ALEXNET_URL).netloc, error))
    return path


class Pretrained:
    """A network read from an ONNX file and built from CNTK's operations.

    Attributes
    ----------
    name : str
    path : pathlib.Path
    sha256 : str
    input_px : tuple of int
        Height and width of the pictures that it takes.
    cut_at : tuple of str
        The layers that features are read from.
    preprocessing : str
        A key of ``PREPROCESSING``.
    layers : list of Layer
        In the order of computing: ``name``, ONNX ``operator``, ``shape`` of the output without the batch, number of
        ``weights``, and ``receptive_field_px``, the width of what one unit sees (None: the whole picture).
    """

    def __init__(self, name, path, sha256=None, layer=None, preprocessing="caffe"):
        self.name, self.path, self.preprocessing = name, Path(path), preprocessing
        self.source = {
            "alexnet_small": "pretrained on pictures drawn by formula (helpers/pretraining)",
            "alexnet": "ImageNet, the ONNX model zoo's bvlcalexnet-9"}.get(name, str(path))
        self._model = _read_onnx(self.path, sha256)
        self.sha256 = runs.sha256(self.path)
        self._weights, self._input, self.input_px = _contract(self._model, self.path)
        self._names = _names(self._model.graph)
        self._values = None
        if layer is None:
            dense = [node for node in self._model.graph.node if node.op_type in ("Gemm", "MatMul")]
            if not dense:
                raise InputError("expected the layer to cut {} at, which has no dense layer to stand before, got none. "
                                 "Write it behind the path as #layer=<name>: {}.".format(path, self._listed()))
            layer = self._name_of(dense[-1].input[0])
        self.cut_at = tuple(layer.split("+"))
        for one in self.cut_at:
            self._output_of(one)

    def _name_of(self, value):
        return {output: name for name, output in self._names.items()}.get(value, value)

    def _listed(self):
        return ", ".join(self._names)

    def _output_of(self, layer):
        """The ONNX value that a layer gives, by the layer's name or the value's own."""
        if layer in self._names:
            return self._names[layer]
        if layer in self._names.values():
            return layer
        raise InputError("expected a layer of {}, got {!r}. Choose one that it has: {}.".format(
            self.path.name, layer, self._listed()))

    def _needed(self, layers):
        """The nodes that these layers are computed by, in order."""
        wanted, nodes = {self._output_of(layer) for layer in layers}, []
        for node in reversed(self._model.graph.node):
            if wanted & set(node.output):
                nodes.append(node)
                wanted.update(node.input)
        return nodes[::-1]

    def _build(self, layers):
        """CNTK functions of layers and of what they are computed from, on an input of their own."""
        cntk = start_cntk()
        pictures = cntk.input_variable((3,) + self.input_px, name="pixels")
        values = {self._input: _Value(pictures, ReceptiveField(1, 0, 1))}
        for node in self._needed(layers):
            try:
                values[node.output[0]] = _operation(cntk, node, values, self._weights, self.path.name)
            except InputError:
                raise
            except Exception as error:  # CNTK refuses shapes by errors of several kinds, pages long.
                raise InputError("expected an ONNX network whose shapes fit at {}, got in the layer {}: {} Export it "
                                 "again, or take the embedded default alexnet_small.".format(
                                     self.path, node.name or node.output[0], str(error).split("\n")[0][:200]))
        return pictures, values

    @property
    def layers(self):
        """The layers up to the last that features are read from, in the order of computing: a list of ``Layer``."""
        if self._values is None:
            self._values = self._build(self.cut_at)[1]
        found = []
        for node in self._needed(self.cut_at):
            function, seen = self._values[node.output[0]]
            weights = sum(self._weights[i].size for i in node.input if i in self._weights)
            found.append(Layer(self._name_of(node.output[0]), node.op_type, function.shape, weights,
                               seen and seen.size))
        return found

    def shape(self, layer):
        """The shape of a layer's output, without the batch."""
        self.layers
        return self._values[self._output_of(layer)].function.shape

    def receptive_field(self, layer):
        """The ``ReceptiveField`` of a layer, or None where each unit sees the whole picture."""
        self.layers
        return self._values[self._output_of(layer)].receptive_field

    def kernels(self, layer):
        """Weights of a layer, float32, as in the file: (filters, channels, height, width) of a convolution."""
        node = next(n for n in self._model.graph.node if n.output[0] == self._output_of(layer))
        return next(self._weights[i] for i in node.input if i in self._weights)

    def maps(self, layer):
        """A layer as a frozen CNTK function.

        Parameters
        ----------
        layer : str
            One that the features are computed from.

        Returns
        -------
        cntk.Function
            float32 (3, height, width) RGB 0 to 255, to the layer's output.
        """
        return self._frozen([layer], lambda cntk, outputs: outputs[0])

    def features(self):
        """The network up to the layers it is cut at, cloned with frozen weights.

        Returns
        -------
        cntk.Function
            float32 (3, height, width) RGB 0 to 255, to features (n_features,): maps are averaged over the picture, and
            several layers stand one beside the other.
        """
        return self._frozen(self.cut_at, lambda cntk, outputs: _beside(cntk, [_pooled(cntk, o) for o in outputs]))

    def _frozen(self, layers, finish):
        cntk = start_cntk()
        pictures, values = self._build(layers)
        outputs = [values[self._output_of(layer)].function for layer in layers]
        tiles = cntk.input_variable((3,) + self.input_px, name="tiles")
        order, mean, deviation = PREPROCESSING[self.preprocessing]
        pixels = tiles
        if order == "BGR":
            pixels = cntk.splice(*[cntk.slice(tiles, 0, i, i + 1) for i in (2, 1, 0)], axis=0)
        if self.preprocessing != "none":
            pixels = (pixels - _per_channel(cntk, mean)) / _per_channel(cntk, deviation)
        # The clone's weights are constants: no learner can move them.
        return finish(cntk, outputs).clone(cntk.CloneMethod.freeze, {pictures: pixels})


def _per_channel(cntk, values):
    return cntk.constant(np.asarray(values, dtype=np.float32).reshape(3, 1, 1))


def _pooled(cntk, output):
    """The average of maps over the picture; anything else laid out flat."""
    if len(output.shape) == 3:
        return cntk.reshape(cntk.reduce_mean(output, axis=(1, 2)), (output.shape[0],))
    return cntk.reshape(output, (int(np.prod(output.shape)),))


def _beside(cntk, vectors):
    return vectors[0] if len(vectors) == 1 else cntk.splice(*vectors, axis=0)


def _read_onnx(path, expected=None):
    """An ONNX model, or one sentence that says why not."""
    import onnx
    advice = "Bring the file again, or take the embedded default alexnet_small."
    if not path.is_file():
        raise InputError("expected alexnet_small, alexnet or the path of an .onnx file, got {}, which is no file. "
                         "Correct the path, or take the embedded default alexnet_small.".format(path))
    came = runs.sha256(path)
    if expected and came != expected.lower():
        raise InputError("expected the file {} with SHA-256 {}…, got {}…. {}".format(
            path, expected[:12], came[:12], advice))
    try:
        model = onnx.load(str(path))
    except Exception as error:  # protobuf's errors differ from version to version
        raise InputError("expected a whole ONNX file at {}, got {:,} bytes that can't be read ({}). {}".format(
            path, path.stat().st_size, " ".join(str(error).split())[:120], advice))
    if not model.graph.node:
        raise InputError("expected a whole ONNX file at {}, got {:,} bytes without a network. {}".format(
            path, path.stat().st_size, advice))
    return model


def _contract(model, path):
    """Weights by name, the name of the input, and the height and width that it takes."""
    from onnx import numpy_helper
    weights = {tensor.name: numpy_helper.to_array(tensor) for tensor in model.graph.initializer}
    for node in model.graph.node:
        if node.op_type == "Constant":
            weights[node.output[0]] = numpy_helper.to_array(node.attribute[0].t)
    inputs = [value for value in model.graph.input if value.name not in weights]
    shapes = [[d.dim_value for d in value.type.tensor_type.shape.dim] for value in inputs]
    if len(shapes) != 1 or len(shapes[0]) != 4 or shapes[0][1] != 3 or 0 in shapes[0][2:]:
        raise InputError("expected an ONNX network of pictures (N, 3, height, width) at {}, got inputs {}. Export it "
                         "with a fixed height and width.".format(path, shapes))
    return weights, inputs[0].name, tuple(shapes[0][2:])


def _names(graph):
    """Layers' names and the values they give: nodes without a name are called as what they give."""
    names = {}
    for node in graph.node:
        if node.op_type != "Constant":
            name = node.name if node.name and node.name not in names else node.output[0]
            names[name] = node.output[0]
    return names


def _operation(cntk, node, values, weights, file):
    """One ONNX node as a CNTK function.

    Parameters
    ----------
    cntk : module
    node : onnx.NodeProto
    values : dict of _Value
        What has been computed, by name.
    weights : dict of numpy.ndarray
    file : str
        For messages.

    Returns
    -------
    _Value
    """
    from onnx import helper
    given = {a.name: helper.get_attribute_value(a) for a in node.attribute}
    operator, name = node.op_type, node.output[0]
    if operator == "Constant":
        return _Value(cntk.constant(np.asarray(weights[name], dtype=np.float32)), None)

    def refuse(reason):
        return InputError(
            "expected an ONNX network of operators that CNTK 2.7 can compute ({}), got {} in the layer {} of {}. Cut "
            "it at a layer before that one, or take the embedded default alexnet_small.".format(
                ", ".join(sorted(_SIMPLE) + ["AveragePool", "Conv", "Dropout", "LRN", "MaxPool"]), reason,
                node.name or name, file))

    def weight(position):
        # ONNX leaves an optional input out by an empty name.
        key = node.input[position] if position < len(node.input) else ""
        if key and key not in weights:
            raise refuse("{} with a weight that isn't in the file".format(operator))
        return np.asarray(weights[key], dtype=np.float32) if key else None

    tensors = [values[i] for i in node.input if i in values]
    if not tensors:
        raise refuse("{} without an input".format(operator))
    x, before = tensors[0]
    if operator in ("Conv", "MaxPool", "AveragePool"):
        kernel = weight(1) if operator == "Conv" else None
        size = list(kernel.shape[2:]) if operator == "Conv" else list(given["kernel_shape"])
        steps, dilations = given.get("strides", [1, 1]), given.get("dilations", [1, 1])
        if len(size) != 2 or list(dilations) != [1, 1] or before is None:
            raise refuse("{} with dilations {}".format(operator, list(dilations)))
        top, left, bottom, right = _padding(given, size, steps, x.shape[1:])
        if given.get("ceil_mode"):
            # A kernel that begins inside the picture counts, though it ends outside.
            bottom += -(x.shape[1] + top + bottom - size[0]) % steps[0]
            right += -(x.shape[2] + left + right - size[1]) % steps[1]
        padded = (top, left, bottom, right) != (0, 0, 0, 0)
        if operator == "AveragePool" and padded and not given.get("count_include_pad"):
            raise refuse("AveragePool that leaves its padding out")
        if (top, left, bottom, right) != (0, 0, 0, 0):
            # Explicit, for CNTK's own padding is not ONNX's where strides are larger than 1. Nothing is as low as the
            # padding of a maximum.
            x = cntk.pad(x, [(0, 0), (top, bottom), (left, right)],
                         constant_value=-1e30 if operator == "MaxPool" else 0)
        if operator == "Conv":
            # One convolution for each group: CNTK's own groups compute nonsense on more than one thread.
            groups = given.get("group", 1)
            inputs = [x] if groups == 1 else [
                cntk.slice(x, 0, i * kernel.shape[1], (i + 1) * kernel.shape[1]) for i in range(groups)]
            outputs = [cntk.convolution(cntk.parameter(part.shape, init=part), x, tuple(steps),
                                        auto_padding=[False] * 3)
                       for part, x in zip(np.split(kernel, groups), inputs)]
            outputs = outputs[0] if groups == 1 else cntk.splice(*outputs, axis=0)
            bias = weight(2)
            if bias is not None:
                outputs = outputs + cntk.parameter((len(bias), 1, 1), init=bias.reshape(-1, 1, 1))
        else:
            kind = cntk.MAX_POOLING if operator == "MaxPool" else cntk.AVG_POOLING
            outputs = cntk.pooling(x, kind, tuple(size), tuple(steps), auto_padding=[False, False])
        seen = ReceptiveField(before.size + (size[0] - 1) * before.step, before.start - top * before.step,
                              before.step * steps[0])
        return _Value(cntk.alias(outputs, name=name), seen)
    if operator == "LRN":
        # CNTK divides alpha by the number of channels too.
        outputs = cntk.local_response_normalization(x, given["size"] // 2, given.get("bias", 1.0),
                                                    given.get("alpha", 1e-4), given.get("beta", 0.75))
        return _Value(cntk.alias(outputs, name=name), before)
    if operator not in _SIMPLE:
        if operator == "Dropout":
            return _Value(cntk.alias(x, name=name), before)
        raise refuse(operator)
    outputs, seen = _SIMPLE[operator](cntk, given, tensors, weight, refuse)
    return _Value(cntk.alias(outputs, name=name), seen)


def _padding(given, size, steps, shape):
    """Rows and columns that ONNX pads: top, left, bottom, right."""
    kind = given.get("auto_pad", b"NOTSET").decode()
    if kind in ("NOTSET", "VALID"):
        return tuple(given.get("pads", [0] * 4)) if kind == "NOTSET" else (0,) * 4
    total = [max(0, (-(-n // s) - 1) * s + k - n) for n, s, k in zip(shape, steps, size)]
    less, more = [t // 2 for t in total], [t - t // 2 for t in total]
    before, after = (less, more) if kind == "SAME_UPPER" else (more, less)
    return before[0], before[1], after[0], after[1]


def _global_average(cntk, given, tensors, weight, refuse):
    return cntk.reduce_mean(tensors[0].function, axis=(1, 2)), None


def _concat(cntk, given, tensors, weight, refuse):
    if given["axis"] != 1:
        raise refuse("Concat along axis {}".format(given["axis"]))
    fields = [t.receptive_field for t in tensors]
    if None in fields:
        seen = None
    else:
        start = min(f.start for f in fields)
        seen = ReceptiveField(max(f.start + f.size for f in fields) - start, start, fields[0].step)
    return cntk.splice(*[t.function for t in tensors], axis=0), seen


def _add(cntk, given, tensors, weight, refuse):
    if len(tensors) == 1:  # and a weight
        return _with_weight(cntk, tensors[0], weight, lambda x, w: x + w, refuse)
    total = tensors[0].function
    for other in tensors[1:]:
        total = total + other.function
    return total, _concat(cntk, {"axis": 1}, tensors, weight, refuse)[1]


def _multiply(cntk, given, tensors, weight, refuse):
    if len(tensors) > 1:
        return tensors[0].function * tensors[1].function, tensors[0].receptive_field
    return _with_weight(cntk, tensors[0], weight, lambda x, w: x * w, refuse)


def _with_weight(cntk, tensor, weight, combine, refuse):
    value = weight(1)
    value = value[0] if value.ndim == len(tensor.function.shape) + 1 and value.shape[0] == 1 else value
    return combine(tensor.function, cntk.parameter(value.shape, init=value)), tensor.receptive_field


def _batch_normalization(cntk, given, tensors, weight, refuse):
    scale, offset, mean, variance = (weight(i) for i in range(1, 5))
    factor = scale / np.sqrt(variance + given.get("epsilon", 1e-5))
    shape = (-1,) + (1,) * (len(tensors[0].function.shape) - 1)
    factor, offset = factor.reshape(shape), (offset - mean * factor).reshape(shape)
    return (tensors[0].function * cntk.parameter(factor.shape, init=factor)
            + cntk.parameter(offset.shape, init=offset)), tensors[0].receptive_field


def _dense(cntk, given, tensors, weight, refuse):
    if given.get("transA") or given.get("alpha", 1.0) != 1 or given.get("beta", 1.0) != 1 or len(tensors) > 1:
        raise refuse("a dense layer with factors")
    kernel, x = weight(1), tensors[0].function
    kernel = np.ascontiguousarray(kernel.T if given.get("transB") else kernel)
    outputs = cntk.times(cntk.reshape(x, (kernel.shape[0],)), cntk.parameter(kernel.shape, init=kernel))
    bias = weight(2)
    return outputs if bias is None else outputs + cntk.parameter(bias.shape, init=bias), None


def _flat(cntk, given, tensors, weight, refuse):
    if given.get("axis", 1) != 1:
        raise refuse("Flatten along axis {}".format(given["axis"]))
    return cntk.reshape(tensors[0].function, (int(np.prod(tensors[0].function.shape)),)), None


def _reshape(cntk, given, tensors, weight, refuse):
    shape = [int(n) for n in weight(1)]
    size = int(np.prod(tensors[0].function.shape))
    # To (batch, everything), however the batch is written.
    if len(shape) != 2 or shape[1] not in (-1, size):
        raise refuse("Reshape to {}".format(shape))
    return cntk.reshape(tensors[0].function, (size,)), None


_SIMPLE = {
    "Relu": lambda cntk, given, t, weight, refuse: (cntk.relu(t[0].function), t[0].receptive_field),
    "Sigmoid": lambda cntk, given, t, weight, refuse: (cntk.sigmoid(t[0].function), t[0].receptive_field),
    "Tanh": lambda cntk, given, t, weight, refuse: (cntk.tanh(t[0].function), t[0].receptive_field),
    "Identity": lambda cntk, given, t, weight, refuse: (t[0].function, t[0].receptive_field),
    "Softmax": lambda cntk, given, t, weight, refuse: (cntk.softmax(t[0].function, axis=0), t[0].receptive_field),
    "GlobalAveragePool": _global_average, "Concat": _concat, "Add": _add, "Sum": _add, "Mul": _multiply,
    "BatchNormalization": _batch_normalization, "Gemm": _dense, "MatMul": _dense, "Flatten": _flat, "Reshape": _reshape,
}


def new_head(features, n_classes, seed):
    """A head: features brought to mean 0 and deviation 1, then one dense layer.

    Parameters
    ----------
    features : numpy.ndarray
        Shape (N, n_features), of the training tiles; gives mean and deviation.
    n_classes : int
    seed : int
        Of the initial weights.

    Returns
    -------
    Head
    """
    cntk = start_cntk()
    mean = features.mean(axis=0).astype(np.float32)
    deviation = np.sqrt(features.var(axis=0) + 1e-6).astype(np.float32)
    inputs = cntk.input_variable(features.shape[1], name="features")
    dense = cntk.layers.Dense(n_classes, init=cntk.glorot_uniform(seed=seed + 1), name="dense")
    return Head(cntk.alias(dense((inputs - cntk.constant(mean)) / cntk.constant(deviation)), name="head"),
                mean, deviation)


class Head:
    """The new last layer.

    Attributes
    ----------
    logits : cntk.Function
        float32 features (n_features,) to logits (n_classes,).
    mean, deviation : numpy.ndarray
        (n_features,) float32, of the training tiles' features.
    """

    def __init__(self, logits, mean, deviation):
        self.logits, self.mean, self.deviation = logits, mean, deviation

    @property
    def weights(self):
        """(n_features, n_classes) float32, for features of mean 0 and deviation 1."""
        return next(p.value for p in self.logits.parameters if len(p.shape) == 2)

    @property
    def bias(self):
        """(n_classes,) float32."""
        return next(p.value for p in self.logits.parameters if len(p.shape) == 1)

    def predict(self, features):
        """Logits, float32 (N, n_classes), of features (N, n_features)."""
        return self.logits.eval({self.logits.arguments[0]: np.ascontiguousarray(features, dtype=np.float32)})


def train(head, features, labels, validation, seed, epochs, learning_rate, weight_decay=WEIGHT_DECAY, progress=None):
    """Train a head by Adam in minibatches, with a learning rate that falls to zero along a cosine.

    The validation tiles are measured after each epoch and choose nothing: neither the epoch nor a parameter.

    Parameters
    ----------
    head : Head
        Its weights are changed in place.
    features, labels : numpy.ndarray
        (N, n_features) and (N,) integer.
    validation : tuple of numpy.ndarray
        Features and labels of the validation county.
    seed : int
        Of the shuffling.
    epochs : int
    learning_rate : float
        At the start.
    weight_decay : float
        Of L2 regularisation.
    progress : callable, optional
        Called with one line of text for each epoch.

    Returns
    -------
    dict of list of float
        ``loss``, ``accuracy``, ``val_loss``, ``val_accuracy``, one value an epoch.
    """
    cntk = start_cntk()
    n_classes = head.logits.shape[0]
    target = cntk.input_variable(n_classes, name="target")
    loss = cntk.cross_entropy_with_softmax(head.logits, target)
    error = cntk.classification_error(head.logits, target)
    rates = [learning_rate * 0.5 * (1 + np.cos(np.pi * (epoch + 0.5) / epochs)) for epoch in range(epochs)]
    # A rate is meant for a whole minibatch (IGNORE), and one holds for each epoch of len(labels) tiles.
    schedule = cntk.learning_parameter_schedule(rates, minibatch_size=cntk.learners.IGNORE, epoch_size=len(labels))
    learner = cntk.adam(head.logits.parameters, schedule,
                        momentum=cntk.momentum_schedule(0.9), unit_gain=True, use_mean_gradient=True,
                        l2_regularization_weight=weight_decay)
    trainer = cntk.Trainer(head.logits, (loss, error), [learner])
    one_hot = np.eye(n_classes, dtype=np.float32)
    inputs = head.logits.arguments[0]
    rng = np.random.RandomState(seed)
    history = {"loss": [], "accuracy": [], "val_loss": [], "val_accuracy": []}
    for epoch in range(epochs):
        order = rng.permutation(len(labels))
        sums = np.zeros(2)
        for start in range(0, len(order), BATCH):
            rows = order[start:start + BATCH]
            trainer.train_minibatch({inputs: np.ascontiguousarray(features[rows], dtype=np.float32),
                                     target: one_hot[labels[rows]]})
            sums += len(rows) * np.array([trainer.previous_minibatch_loss_average,
                                          1 - trainer.previous_minibatch_evaluation_average])
        logits = head.predict(validation[0]).astype(np.float64)
        shifted = logits - logits.max(axis=1, keepdims=True)
        log_probabilities = shifted - np.log(np.exp(shifted).sum(axis=1, keepdims=True))
        history["loss"].append(float(sums[0] / len(labels)))
        history["accuracy"].append(float(sums[1] / len(labels)))
        history["val_loss"].append(float(-log_probabilities[np.arange(len(logits)), validation[1]].mean()))
        history["val_accuracy"].append(float((logits.argmax(axis=1) == validation[1]).mean()))
        if progress:
            progress("epoch {:2d} of {}: accuracy {:.3f}, on the validation county {:.3f}".format(
                epoch + 1, epochs, history["accuracy"][-1], history["val_accuracy"][-1]))
    return history


def assemble(features, head):
    """The network to save: the frozen part and the head on it.

    Parameters
    ----------
    features : cntk.Function
        From ``Pretrained.features``.
    head : Head

    Returns
    -------
    cntk.Function
        float32 (3, height, width) RGB 0 to 255 in; two outputs, ``probabilities`` and ``logits``, both (n_classes,).
    """
    cntk = start_cntk()
    logits = head.logits.clone(cntk.CloneMethod.freeze, {head.logits.arguments[0]: features})
    logits = cntk.alias(logits, name="logits")
    return cntk.combine([cntk.alias(cntk.softmax(logits, axis=0), name="probabilities"), logits])


def save(pretrained, head, folder, tiles, facts, calibration=None, validation=None):
    """Write the bundle: CNTK's own file, the same network as ONNX, and the proof that both predict the same.

    The ONNX file is the source's, cut at the layers, with the preprocessing before it and the trained head behind it.
    The main Python brings it to a version of today, compares it with CNTK, and writes the bundle, or refuses to.

    Parameters
    ----------
    pretrained : Pretrained
    head : Head
        Trained.
    folder : str or pathlib.Path
        The bundle; an older one there is replaced when the new one is whole.
    tiles : numpy.ndarray
        At least ``PARITY_TILES`` tiles to compare on, uint8 (N, height, width, 3).
    facts : dict
        JSON values for ``model.json``: at least ``classes`` and ``backbone``.
    calibration, validation : optional
        What an int8 network is made of and judged by, as in ``helpers.bundle.save_tensorflow``.

    Returns
    -------
    helpers.bundle.Bundle

    Raises
    ------
    helpers.bundle.ExportRefused
        If the export differs from CNTK. Nothing is written then.
    """
    import onnx
    if len(tiles) < PARITY_TILES:
        raise InputError("expected at least {} tiles to compare an export on, got {}. Give more; they need no "
                         "label.".format(PARITY_TILES, len(tiles)))
    cntk = start_cntk()
    network = assemble(pretrained.features(), head)
    with tempfile.TemporaryDirectory() as draft:
        draft = Path(draft)
        network.save(str(draft / bundles.CNTK))
        # What is compared is the network as CNTK reads it back, not the one in memory.
        saved = load_network(cntk, str(draft / bundles.CNTK))
        np.save(str(draft / "tiles.npy"), tiles)
        np.save(str(draft / "logits.npy"), compute(cntk.combine([saved.find_by_name("logits").outputs[0]]), tiles))
        onnx.save(export(pretrained, head), str(draft / bundles.ONNX))
        if calibration is not None:
            for name, array in zip(("calibration", "validation", "labels"), (calibration,) + tuple(validation)):
                np.save(str(draft / (name + ".npy")), array)
        facts = dict(facts, framework="cntk", input_px=list(pretrained.input_px))
        (draft / bundles.FACTS).write_text(json.dumps(facts))
        _finish(draft, folder)
    return bundles.load(folder)


def _finish(draft, folder):
    """Have the main Python check a draft and write the bundle."""
    python = os.environ.get("TUTORIAL_PYTHON") or str(runs.home() / ".venv" / "bin" / "python")
    if not Path(python).exists():
        raise InputError("expected the tutorial's own Python to finish the bundle, got no {}. Run "
                         "setup_scripts/run_tutorial.sh once, or set TUTORIAL_PYTHON.".format(python))
    environment = {k: v for k, v in os.environ.items() if k not in ("LD_LIBRARY_PATH", "PYTHONHOME", "MPLBACKEND")}
    environment["PYTHONPATH"] = str(Path(__file__).resolve().parents[1])
    program = "import sys; from helpers import bundle; sys.exit(bundle.finish_draft(sys.argv))"
    done = subprocess.run([python, "-c", program,
                           str(draft), str(Path(folder).resolve())], env=environment, stdout=subprocess.PIPE,
                          stderr=subprocess.PIPE, universal_newlines=True)
    if done.returncode == 2:
        raise bundles.ExportRefused(done.stderr.strip().splitlines()[-1])
    if done.returncode:
        raise RuntimeError("the main Python could not finish the bundle:\n" + done.stderr[-2000:])


def export(pretrained, head):
    """A pretrained network and a trained head as ONNX, in the version of the pretrained file.

    Returns
    -------
    onnx.ModelProto
        ``tiles`` uint8 (N, height, width, 3) RGB in; ``probabilities`` and ``logits`` (N, n_classes) out.
    """
    import onnx
    from onnx import TensorProto, helper, numpy_helper
    nodes, initializers = [], []

    def constant(name, value):
        initializers.append(numpy_helper.from_array(np.ascontiguousarray(value), name))
        return name

    def node(operator, inputs, output, **attributes):
        nodes.append(helper.make_node(operator, inputs, [output], name=output, **attributes))
        return output

    def inside(name):
        # Apart from the names that a bundle's network has by contract.
        return name and "pretrained/" + name

    x = node("Cast", ["tiles"], "float_tiles", to=TensorProto.FLOAT)
    x = node("Transpose", [x], "channels_first", perm=[0, 3, 1, 2])
    order, mean, deviation = PREPROCESSING[pretrained.preprocessing]
    if order == "BGR":
        x = node("Gather", [x, constant("bgr", np.array([2, 1, 0], dtype=np.int64))], "reordered", axis=1)
    if pretrained.preprocessing != "none":
        x = node("Sub", [x, constant("mean", np.float32(mean).reshape(1, 3, 1, 1))], "centred")
        x = node("Div", [x, constant("deviation", np.float32(deviation).reshape(1, 3, 1, 1))], "preprocessed")
    node("Identity", [x], inside(pretrained._input))

    used = pretrained._needed(pretrained.cut_at)
    for source in used:
        if source.op_type == "Dropout":
            node("Identity", [inside(source.input[0])], inside(source.output[0]))
            continue
        copy = onnx.NodeProto()
        copy.CopyFrom(source)
        copy.input[:] = [inside(name) for name in source.input]
        copy.output[:] = [inside(name) for name in source.output]
        if source.op_type == "Reshape":
            # The file may have the batch written into it: 0 keeps the batch that comes.
            copy.input[1] = constant(inside(source.output[0]) + "/shape", np.array([0, -1], dtype=np.int64))
        nodes.append(copy)
    reads = {name for n in nodes for name in n.input}
    constants = {n.output[0] for n in pretrained._model.graph.node if n.op_type == "Constant"}
    for name, value in pretrained._weights.items():
        if inside(name) in reads and name not in constants:
            constant(inside(name), value)

    parts = []
    for layer in pretrained.cut_at:
        value = pretrained._output_of(layer)
        output = inside(value)
        if len(pretrained.shape(layer)) == 3:
            output = node("GlobalAveragePool", [output], output + "/average")
        parts.append(node("Flatten", [output], output + "/flat", axis=1))
    x = parts[0] if len(parts) == 1 else node("Concat", parts, "features", axis=1)
    x = node("Sub", [x, constant("head/mean", head.mean)], "head/centred")
    x = node("Div", [x, constant("head/deviation", head.deviation)], "head/standardised")
    node("Gemm", [x, constant("head/weights", head.weights), constant("head/bias", head.bias)], "logits")
    node("Softmax", ["logits"], "probabilities", axis=1)

    n_classes = len(head.bias)
    graph = helper.make_graph(
        nodes, "land_cover",
        [helper.make_tensor_value_info("tiles", TensorProto.UINT8, ("N",) + pretrained.input_px + (3,))],
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, ("N", n_classes))
         for name in ("probabilities", "logits")],
        initializers)
    # IR 4 is the first in which weights needn't be inputs too.
    return helper.make_model(graph, opset_imports=list(pretrained._model.opset_import),
                             ir_version=max(4, pretrained._model.ir_version))

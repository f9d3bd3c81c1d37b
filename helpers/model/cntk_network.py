"""cntk_network."""

import re
import urllib.parse
import urllib.request
from collections import namedtuple
from pathlib import Path

import numpy as np

from helpers import InputError, files as to_files, runs
from helpers.files import whole_file
from helpers.model import backbones
from helpers.model.cntk_process import start_cntk

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
        with whole_file(path) as part:
            with urllib.request.urlopen(ALEXNET_URL, timeout=60) as answer, open(str(part), "wb") as file:
                for block in iter(lambda: answer.read(1 << 20), b""):
                    file.write(block)
            came = to_files.sha256(part)
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
        self.sha256 = to_files.sha256(self.path)
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
    came = to_files.sha256(path)
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

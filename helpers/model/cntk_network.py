"""Pretrained networks for CNTK: read from ONNX, built from CNTK's operations, cut at a layer and frozen."""

import itertools
import shutil
import urllib.parse
import urllib.request
from collections import namedtuple
from pathlib import Path

import numpy as np

from helpers import InputError
from helpers.files import sha256, whole_file
from helpers.model import backbones
from helpers.model.cntk_operations import attributes, compute
from helpers.model.cntk_process import start_cntk
from helpers.model.engines import said
from helpers.runs import home

# Caffe's AlexNet, as in 2017, from the ONNX model zoo.
ALEXNET_URL = ("https://media.githubusercontent.com/media/onnx/models/main/validated/vision/classification/alexnet/"
               "model/bvlcalexnet-9.onnx")
ALEXNET_SHA256 = "ef3c82dad5c512f969dbf701fe35c0b3feb1585687d541f765eb68730c0a8af7"
# Layers that only average maps, lay them out differently, or pass them on: features are the same before them.
_SAME_FEATURES = {"AveragePool", "Dropout", "Flatten", "GlobalAveragePool", "Identity", "ReduceMean", "Reshape",
                  "Squeeze"}
# In these layers each unit reads the whole layer before.
_READS_ALL = {"Flatten", "Gemm", "GlobalAveragePool", "MatMul", "Reshape"}
# Layers that may follow the last weights of a classifier.
_ANSWERS = _SAME_FEATURES | {"Add", "LogSoftmax", "Relu", "Softmax"}
_WANTED = "squeezenet, alexnet or the path of an .onnx file"
_DEFAULT = "take the embedded default squeezenet."
# A row of the table of layers; the shape leaves out the batch, ``parameters`` is their number.
Layer = namedtuple("Layer", "name operator shape parameters receptive_field_px")
# The part of the picture that each unit of a layer sees, alike in both directions: its width in pixels, where the first
# unit's starts, and the distance between those of neighbouring units.
ReceptiveField = namedtuple("ReceptiveField", "size start step")


def get(name) -> "Pretrained":
    """Find a pretrained network.

    ``name`` is ``"squeezenet"`` (embedded), ``"alexnet"`` (Caffe's, as in 2017: downloaded once, 244 MB), or the path
    of an ONNX file. Options may follow the path, joined by ``&``: ``file.onnx#preprocessing=torch&layer=relu5``.
    ``preprocessing`` is a name of ``backbones.PREPROCESSING``, by default ``caffe``. ``layer`` is where the network is
    cut, ``relu4+relu5`` at two layers; by default the layer that the classifier reads. ``sha256`` verifies the file.
    """
    if name == "squeezenet":
        return Pretrained(name, backbones.WEIGHTS / backbones.EMBEDDED[name],
                          "ImageNet, SqueezeNet 1.0 by Iandola et al. 2016")
    if name == "alexnet":
        return Pretrained(name, _download_alexnet(), "ImageNet, the ONNX model zoo's bvlcalexnet-9", ALEXNET_SHA256)
    path, options = backbones.path_and_options(name, (".onnx",), _WANTED, "squeezenet")
    return Pretrained(path.name, path, str(path), **options)


def _download_alexnet() -> Path:
    """The file of AlexNet from the model zoo, downloaded once into ``data/pretrained``."""
    path = home() / "data" / "pretrained" / "bvlcalexnet-9.onnx"
    if path.is_file():
        return path
    try:
        with whole_file(path) as part:
            with urllib.request.urlopen(ALEXNET_URL, timeout=60) as answer, part.open("wb") as file:
                shutil.copyfileobj(answer, file)
            came = sha256(part)
            if came != ALEXNET_SHA256:
                raise OSError(f"a file with SHA-256 {came[:12]}… in place of {ALEXNET_SHA256[:12]}…")
    except (OSError, ValueError) as error:  # URLError and timeouts are OSErrors.
        raise InputError(
            f"expected to download AlexNet from {urllib.parse.urlsplit(ALEXNET_URL).netloc}, got: {error}. Bring the "
            f"file bvlcalexnet-9.onnx yourself and give its path, or {_DEFAULT}")
    return path


class Pretrained:
    """A network read from an ONNX file and built from CNTK's operations.

    It takes pictures of ``input_px`` (height, width); features are read from the layers ``cut_at``.
    """

    def __init__(self, name, path, source, sha256=None, layer=None, preprocessing="caffe"):
        self.name, self.path, self.source, self.preprocessing = name, path, source, preprocessing
        self.sha256 = backbones.verified(self.path, sha256, _WANTED, "squeezenet")
        self.model = _read_onnx(self.path)
        self._read_nodes()
        self._read_contract()
        self._functions = {}
        self.cut_at = tuple((layer or self._before_classifier()).split("+"))
        self.needed(self.cut_at)  # An InputError, if there is no such layer.

    def _read_nodes(self):
        """Collect the weights by name, float32, and all nodes but those that only give a weight, by layer."""
        from onnx import numpy_helper
        self._nodes, arrays = {}, {one.name: numpy_helper.to_array(one) for one in self.model.graph.initializer}
        for node in self.model.graph.node:
            if node.op_type == "Constant":
                value = next(iter(attributes(node).values()))
                arrays[node.output[0]] = numpy_helper.to_array(value) if hasattr(value, "dims") else np.asarray(value)
            elif node.op_type in ("Cast", "Identity") and node.input[0] in arrays:
                arrays[node.output[0]] = arrays[node.input[0]]
            else:
                if not node.name or node.name in self._nodes:
                    node.name = node.output[0]
                while node.name in self._nodes:  # A layer may have the name of another layer's output.
                    node.name += "_"
                self._nodes[node.name] = node
        self.weights = {name: array.astype(np.float32, copy=False) if array.dtype.kind == "f" else array
                        for name, array in arrays.items()}

    def _read_contract(self):
        """Find the name of the input, and the height and width that it takes."""
        inputs = {value.name: [d.dim_value for d in value.type.tensor_type.shape.dim]
                  for value in self.model.graph.input if value.name not in self.weights}
        self.input, shape = next(iter(inputs.items()), (None, []))
        if len(inputs) != 1 or len(shape) != 4 or shape[1] != 3:
            raise InputError(f"expected an ONNX network of pictures (N, 3, height, width) at {self.path}, got inputs "
                             f"{list(inputs.values())}. Export it with the channels first.")
        self.input_px = tuple(px or backbones.INPUT_PX for px in shape[2:])

    def _before_classifier(self):
        """The layer that the classifier reads, or the last layer of a network without a classifier."""
        made_by = {node.output[0]: node for node in self._nodes.values()}
        # The layers that follow each other up to the output, the last first.
        chain, value = [], self.model.graph.output[0].name
        while value in made_by:
            chain.append(made_by[value])
            read = [name for name in chain[-1].input[:2] if name not in self.weights]
            if len(read) != 1 and chain[-1].op_type not in _SAME_FEATURES:
                break
            value = read[0]
        answers = list(itertools.takewhile(lambda node: node.op_type in _ANSWERS, chain))
        rest = chain[len(answers):]
        if rest and self._is_classifier(rest[0], {node.op_type for node in answers}):
            chain = rest[1:]
        return next((node.name for node in chain if node.op_type not in _SAME_FEATURES), value)

    def _is_classifier(self, node, passed):
        """Whether a node is dense, or a convolution of 1 × 1 whose outputs are averaged later."""
        kernel = self.weights.get(node.input[1]) if len(node.input) > 1 else None
        return kernel is not None and (node.op_type in ("Gemm", "MatMul") or (
            node.op_type == "Conv" and kernel.shape[2:] == (1, 1)
            and bool(passed & {"AveragePool", "GlobalAveragePool", "ReduceMean"})))

    def output_of(self, layer: str) -> str:
        """The name of the ONNX value that a layer gives, from the layer's name or the value's own."""
        outputs = {name: node.output[0] for name, node in self._nodes.items()}
        if layer not in outputs and layer not in outputs.values():
            raise InputError(f"expected a layer of {self.path.name}, got {layer!r}. Choose one that it has: "
                             f"{', '.join(outputs)}.")
        return outputs.get(layer, layer)

    def needed(self, layers) -> list:
        """The nodes that compute these layers, in order."""
        wanted, nodes = {self.output_of(layer) for layer in layers}, []
        for node in reversed(list(self._nodes.values())):
            if wanted & set(node.output):
                nodes.append(node)
                wanted.update(node.input)
        return nodes[::-1]

    def function(self, layer: str):
        """The ``cntk.Function`` of a layer, of ``tiles`` (3, height, width) RGB 0 to 255."""
        cntk = start_cntk()
        if not self._functions:
            self._functions[self.input] = self._preprocessed(cntk)
        for node in self.needed([layer]):
            if node.output[0] not in self._functions:
                known = {**self.weights, **self._functions}
                self._functions[node.output[0]] = compute(cntk, node, known, self.path)
        return self._functions[self.output_of(layer)]

    def _preprocessed(self, cntk):
        order, mean, deviation = backbones.PREPROCESSING[self.preprocessing]
        pixels = cntk.input_variable((3,) + self.input_px, name="tiles")
        if order == "BGR":
            pixels = cntk.splice(*[cntk.slice(pixels, 0, i, i + 1) for i in (2, 1, 0)], axis=0)
        return (pixels - np.float32(mean).reshape(3, 1, 1)) / np.float32(deviation).reshape(3, 1, 1)

    @property
    def layers(self) -> list:
        """Each ``Layer`` up to the cut. A unit with a ``receptive_field_px`` of None sees the whole picture."""
        found = []
        for node in self.needed(self.cut_at):
            shape, seen = self.function(node.name).shape, self.receptive_field(node.name)
            parameters = sum(self.weights[name].size for name in node.input if name in self.weights)
            found.append(Layer(node.name, node.op_type, shape, parameters, seen and seen.size))
        return found

    def receptive_field(self, layer: str):
        """The ``ReceptiveField`` of a layer, or None where each unit sees the whole picture."""
        fields = {self.input: ReceptiveField(1, 0, 1)}
        for node in self.needed([layer]):
            if node.op_type in _READS_ALL:
                return None
            seen = [fields[name] for name in node.input if name in fields]
            start, step = min(field.start for field in seen), seen[0].step
            size = max(field.start + field.size for field in seen) - start
            if node.op_type in ("AveragePool", "Conv", "MaxPool"):
                given = attributes(node)
                kernel = given.get("kernel_shape") or self.weights[node.input[1]].shape[2:]
                size += (kernel[0] - 1) * step
                start -= given.get("pads", [0])[0] * step
                step *= given.get("strides", [1])[0]
            fields[node.output[0]] = ReceptiveField(size, start, step)
        return fields[self.output_of(layer)]

    def kernels(self, layer: str) -> np.ndarray:
        """The weights of a layer as in the file: for a convolution (filters, channels, height, width) float32."""
        node = self.needed([layer])[-1]
        return next(self.weights[name] for name in node.input if name in self.weights)

    def maps(self, *layers):
        """One ``cntk.Function`` whose outputs are these layers."""
        return start_cntk().combine([self.function(layer) for layer in layers])

    def features(self):
        """The ``cntk.Function`` of features (n_features,): all layers that the network is cut at, beside each other.

        Maps are averaged over the picture.
        """
        cntk, vectors = start_cntk(), []
        for layer in self.cut_at:
            output = self.function(layer)
            if len(output.shape) == 3:
                output = cntk.reduce_mean(output, axis=(1, 2))
            vectors.append(cntk.reshape(output, (int(np.prod(output.shape)),)))
        return vectors[0] if len(vectors) == 1 else cntk.splice(*vectors, axis=0)


def _read_onnx(path):
    import onnx
    try:
        model = onnx.load(str(path))
        if model.graph.node:
            return model
        problem = "without a network"
    except Exception as error:  # protobuf's errors differ from version to version
        problem = f"that can't be read ({said(error)})"
    raise InputError(f"expected a whole ONNX file at {path}, got {path.stat().st_size:,} bytes {problem}. Bring the "
                     f"file again, or {_DEFAULT}")

"""Pretrained networks: name, source, checksum, input contract; the embedded weights.

All of them take float32 RGB pictures of 0 to 255, so nobody outside this module preprocesses anything.
"""

import re
import urllib.parse
from pathlib import Path

import numpy as np

from helpers import InputError, files as to_files
from helpers.model.small_networks import ALEXNET, INPUT_PX, alexnet_small, resnet_small

WEIGHTS = Path(__file__).resolve().parent / "weights"
EMBEDDED = {"resnet_small": "resnet_small.npz", "alexnet_small": "alexnet_small.onnx"}
# Of Keras's ImageNet weights: keras.applications.resnet, BASE_WEIGHTS_PATH and WEIGHTS_HASHES (MD5), keras 3.15.
RESNET50_FILE = "resnet50_weights_tf_dim_ordering_tf_kernels_notop.h5"
RESNET50_URL = "https://storage.googleapis.com/tensorflow/keras-applications/resnet/" + RESNET50_FILE
RESNET50_MD5 = "4d473c1dd8becc155b73f8504c6f6626"
# Subtracted by keras.applications.resnet50.preprocess_input: the means of ImageNet's blue, green and red.
IMAGENET_MEAN_BGR = (103.939, 116.779, 123.68)


def get(name, untrained=False, seed=0):
    """Find a backbone by its name, or by the path of a file.

    Parameters
    ----------
    name : str
        ``"resnet_small"`` (embedded; the default everywhere), ``"alexnet_small"`` (embedded), ``"resnet50"``
        (ImageNet weights, downloaded once by Keras), or the path of a file: ``.keras``, a network with one feature
        map as its output; ``.weights.h5`` or ``.h5``, weights of ``keras.applications.ResNet50`` without its top.

        A ``.keras`` file is given what Keras's ResNet-50 is given (``resnet50.preprocess_input``). If yours takes
        RGB 0 to 255 as they are, its preprocessing being inside, write ``file.keras#preprocessing=none``; to have
        the file verified, ``file.keras#sha256=<64 digits>``; for both, join them by ``&``.
    untrained : bool
        The same network with random weights: a baseline.
    seed : int
        Of the random weights.

    Returns
    -------
    Backbone

    Raises
    ------
    InputError
        If there is no such file, or its checksum differs.
    """
    if name in EMBEDDED:
        path = WEIGHTS / EMBEDDED[name]
        return Backbone(name, path, _verified(path, _embedded_sha256(path.name)), untrained, seed)
    if name == "resnet50":
        path = None if untrained else _resnet50_file()
        return Backbone(name, path, path and _verified(path), untrained, seed)
    path, options = _parse(str(name))
    sha256 = _verified(path, options.get("sha256"))
    kind = "resnet50" if path.suffix == ".h5" else "file"
    return Backbone(kind, path, sha256, untrained, seed, options.get("preprocessing", "resnet50"))


class Backbone:
    """A network that turns pictures into features.

    Attributes
    ----------
    name : str
        As given to ``get``, or the file's name.
    source : str
        Where the weights come from.
    sha256 : str or None
        Of the file of weights; None for an untrained ResNet-50, which has none.
    input_px : int
        Height and width of the pictures, 224.
    path : pathlib.Path or None
        The file of weights.
    """

    input_px = INPUT_PX

    def __init__(self, kind, path, sha256, untrained, seed, preprocessing="resnet50"):
        self.kind, self.path, self.sha256 = kind, path, sha256
        self.untrained, self.seed, self.preprocessing = untrained, seed, preprocessing
        embedded = kind in EMBEDDED
        given = not embedded and path is not None and path.name != RESNET50_FILE
        self.name = path.name if given else kind
        self.source = ("random weights, seed {}".format(seed) if untrained else
                       "pretrained on pictures drawn by formula (helpers/pretraining)" if embedded else
                       str(path) if given else "ImageNet, keras.applications.ResNet50")

    def build(self):
        """The network from pictures to features.

        Returns
        -------
        keras.Model
            float32 (N, 224, 224, 3) RGB 0 to 255, to float32 (N, n_features): the feature maps of the last two
            stages, each averaged over the picture; of a file whose stages can't be told apart, those of its output.
        """
        network = self._network()
        return self._for_pictures(network.inputs[0], pooled_stages(self.kind, network), self._model_name())

    def build_stages(self):
        """The network in two parts, so that the last stage can be fine-tuned on maps computed once.

        Returns
        -------
        frozen_part : keras.Model
            float32 (N, 224, 224, 3) RGB 0 to 255, to the feature maps of the stage before the last.
        last_stage : keras.Model
            Those maps to features (N, n_features). ``last_stage(frozen_part(x))`` equals ``build()(x)``.

        Raises
        ------
        InputError
            If the file's stages can't be told apart.
        """
        import keras
        network = self._network()
        stage_ends = _stage_ends(self.kind, network)
        if len(stage_ends) < 2:
            raise InputError(
                "expected a network whose layers are named like those of keras.applications.ResNet50 "
                "(conv4_block6_out) to fine-tune its last stage, got {} without such names. Name its layers so, or "
                "take the embedded default resnet_small.".format(self.name))
        before, last = stage_ends
        return (self._for_pictures(network.inputs[0], before, self._model_name() + "_frozen"),
                keras.Model(before, _pooled([before, last]), name=self._model_name() + "_last_stage"))

    def _for_pictures(self, inputs, outputs, name):
        import keras
        preprocessing = "none" if self.kind in EMBEDDED else self.preprocessing
        return _with_preprocessing(keras.Model(inputs, outputs, name=name), preprocessing)

    def _model_name(self):
        return re.sub(r"\W+", "_", self.name.split(".")[0])

    def _network(self):
        """Pictures to the output of the last stage, weights in place, all layers at one level."""
        import keras
        if self.kind == "resnet_small":
            network = resnet_small()
        elif self.kind == "alexnet_small":
            network = alexnet_small(dense=False)
        else:
            network = self._open() if self.kind == "file" else keras.applications.ResNet50(
                include_top=False, weights=None, input_shape=(INPUT_PX, INPUT_PX, 3))
            if self.kind == "resnet50" and not self.untrained:
                self._trying(lambda: network.load_weights(str(self.path)))
        if self.untrained:
            _randomise(network, self.seed)
        elif self.kind == "resnet_small":
            set_weights(network, read_npz(self.path))
        elif self.kind == "alexnet_small":
            set_weights(network, read_onnx(self.path))
        return network

    def _open(self):
        import keras
        network = self._trying(lambda: keras.saving.load_model(str(self.path), compile=False, safe_mode=True))
        shapes = [tuple(tensor.shape[1:]) for tensor in list(network.inputs) + list(network.outputs)]
        fits = (len(shapes) == 2 and len(shapes[0]) == 3 and shapes[0][2] == 3 and len(shapes[1]) == 3
                and all(px in (None, INPUT_PX) for px in shapes[0][:2]))
        if not fits:
            raise InputError(
                "expected a network from pictures ({0}, {0}, 3) to one feature map (height, width, channels), got "
                "{1} with {2}. Cut it before its pooling and classifier, or take the embedded default "
                "resnet_small.".format(INPUT_PX, self.path, " and ".join(map(str, shapes))))
        return network

    def _trying(self, load):
        # A file from anywhere can fail in any way, from zip and HDF5 down to a layer that is not known here.
        try:
            return load()
        except Exception as error:
            reason = " ".join(str(error).split())[:200]
            raise InputError(
                "expected a backbone that Keras can open at {}, got: {}. Save it again as .keras with plain Keras "
                "layers, or take the embedded default resnet_small.".format(self.path, reason)) from error


def _embedded_sha256(name):
    """The checksum in ``SHA256SUMS``, in the format of the command ``sha256sum``."""
    lines = (WEIGHTS / "SHA256SUMS").read_text().splitlines()
    return {line.split()[1]: line.split()[0] for line in lines}[name]


def _verified(path, expected=None):
    """SHA-256 of a file, compared with ``expected`` where there is one."""
    if not path.is_file():
        raise InputError("expected a backbone (resnet_small, alexnet_small, resnet50) or the path of a .keras or "
                         ".weights.h5 file, got {}, which is no file. Correct the path, or take the embedded default "
                         "resnet_small.".format(path))
    sha256 = to_files.sha256(path)
    if expected and sha256 != expected.lower():
        raise InputError("expected the file {} with SHA-256 {}…, got {}…. Bring the file again ({}).".format(
            path, expected[:12], sha256[:12],
            "git checkout helpers/model/weights" if path.parent == WEIGHTS else "or take the embedded default resnet_small"))
    return sha256


def _parse(name):
    """``file.keras#preprocessing=none&sha256=…`` to its path and options."""
    path, _, fragment = name.partition("#")
    options = dict(urllib.parse.parse_qsl(fragment, keep_blank_values=True))
    bad = (set(options) - {"preprocessing", "sha256"} or bool(fragment) and not options
           or options.get("preprocessing", "none") not in ("none", "resnet50")
           or not re.match(r"^[0-9a-fA-F]{64}$", options.get("sha256", "0" * 64)))
    if bad:
        raise InputError("expected #preprocessing=none, #preprocessing=resnet50 or #sha256=<64 digits> behind the "
                         "path of a backbone, got #{}. Correct it or leave it out.".format(fragment))
    if Path(path).suffix not in (".keras", ".h5"):
        raise InputError("expected a backbone (resnet_small, alexnet_small, resnet50) or the path of a .keras or "
                         ".weights.h5 file, got {!r}. Choose one of them; resnet_small is the embedded "
                         "default.".format(name))
    return Path(path).expanduser(), options


def _resnet50_file():
    """Keras's ImageNet weights, from its own cache or downloaded into it."""
    import keras
    try:
        return Path(keras.utils.get_file(RESNET50_FILE, RESNET50_URL, cache_subdir="models", file_hash=RESNET50_MD5))
    except Exception as error:  # Keras raises a plain Exception when a download fails.
        raise InputError(
            "expected to download ResNet-50's ImageNet weights from {}, got: {}. Give the path of a .keras or "
            ".weights.h5 file as the backbone instead, or take the embedded default resnet_small.".format(
                urllib.parse.urlsplit(RESNET50_URL).netloc, " ".join(str(error).split())[-160:])) from error


def _with_preprocessing(network, preprocessing):
    """The same network for RGB 0 to 255, with its preprocessing inside and exported with it."""
    import keras
    if preprocessing == "none":
        return network
    # A 1 × 1 convolution that turns RGB to BGR and subtracts the mean: a plain layer that every format can hold.
    preprocess = keras.layers.Conv2D(3, 1, trainable=False, name="preprocess")
    pictures = keras.Input((INPUT_PX, INPUT_PX, 3), name="pictures")
    outputs = network(preprocess(pictures))
    preprocess.set_weights([np.eye(3, dtype=np.float32)[::-1][None, None], -np.float32(IMAGENET_MEAN_BGR)])
    return keras.Model(pictures, outputs, name=network.name)


def pooled_stages(kind, network):
    """Features of a network, symbolic: the maps of its last two stages, each averaged over the picture."""
    return _pooled(_stage_ends(kind, network))


def _stage_ends(kind, network):
    """Output of the stage before the last and of the last, or only the latter."""
    if kind == "alexnet_small":
        return [network.get_layer("relu4").output, network.get_layer("relu5").output]
    ends = {}
    for layer in network.layers:
        block = re.match(r"conv(\d)_block\d+_out$", layer.name)
        if block:
            ends[int(block.group(1))] = layer.output
    last = network.outputs[0]
    before = [ends[stage] for stage in sorted(ends) if ends[stage] is not last][-1:]
    return before + [last]


def _pooled(maps):
    """Feature maps averaged over the picture, one beside the other."""
    import keras
    pooled = [keras.layers.GlobalAveragePooling2D()(one) for one in maps]
    return pooled[0] if len(pooled) == 1 else keras.layers.Concatenate()(pooled)


def weights_of(network):
    """All weights of a Keras network by name, ``layer/kind``, float32."""
    return {layer.name + "/" + variable.name: variable.numpy()
            for layer in network.layers for variable in layer.weights}


def set_weights(network, weights):
    """Put named weights into a Keras network; every one of its own must be there, in the same shape."""
    for layer in network.layers:
        if layer.weights:
            layer.set_weights([weights[layer.name + "/" + variable.name] for variable in layer.weights])


def write_npz(path, weights):
    """Write weights as compressed NumPy arrays: kernels as float16, the short vectors as float32."""
    np.savez_compressed(str(path), **{name: value.astype(np.float16 if value.ndim > 1 else np.float32)
                                      for name, value in weights.items()})


def read_npz(path):
    """Weights by name, float32, from a file of ``write_npz``. Pickled objects, which could run code, are refused."""
    with np.load(str(path), allow_pickle=False) as file:
        return {name: file[name].astype(np.float32) for name in file.files}


def read_onnx(path):
    """Weights of ``alexnet_small.onnx`` by name, in the shapes of Keras."""
    import onnx
    from onnx import numpy_helper
    weights = {}
    for tensor in onnx.load(str(path)).graph.initializer:
        value = numpy_helper.to_array(tensor)
        # ONNX: (out, in, height, width) and (out, in); Keras: (height, width, in, out) and (in, out).
        weights[tensor.name] = value.transpose(2, 3, 1, 0) if value.ndim == 4 else value.T
    return weights


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


def _randomise(network, seed):
    """Random weights that depend on the seed only: He's for kernels, neutral ones for everything else."""
    rng = np.random.RandomState(seed)
    neutral = {"gamma": 1.0, "moving_variance": 1.0}
    for layer in network.layers:
        values = []
        for variable in layer.weights:
            shape = tuple(variable.shape)
            values.append(rng.normal(0, np.sqrt(2 / np.prod(shape[:-1])), shape) if len(shape) > 1 else
                          np.full(shape, neutral.get(variable.name, 0.0)))
        layer.set_weights(values)

"""Pretrained networks: name, source, checksum, input contract; the embedded weights.

All of them take float32 RGB pictures of 0 to 255 and preprocess them inside.
"""

import re
import urllib.parse
from pathlib import Path

import numpy as np

from helpers import InputError
from helpers.files import sha256 as sha256_of
from helpers.model import cut
from helpers.model.engines import said

# The size of pictures for a network that takes any size.
INPUT_PX = 224
WEIGHTS = Path(__file__).resolve().parent / "weights"
EMBEDDED = {"mobilenet": "mobilenet.npz", "squeezenet": "squeezenet.onnx"}
# Keras's ImageNet weights: BASE_WEIGHTS_PATH and WEIGHTS_HASHES (MD5) of keras.applications.resnet, keras 3.15.
RESNET50_FILE = "resnet50_weights_tf_dim_ordering_tf_kernels_notop.h5"
RESNET50_URL = "https://storage.googleapis.com/tensorflow/keras-applications/resnet/" + RESNET50_FILE
RESNET50_MD5 = "4d473c1dd8becc155b73f8504c6f6626"
# The pixels that a network expects: order of the channels, and in that order the mean and deviation of each. The names
# are those of keras.applications.imagenet_utils.preprocess_input.
PREPROCESSING = {
    "none": ("RGB", (0, 0, 0), (1, 1, 1)),
    "tf": ("RGB", (127.5, 127.5, 127.5), (127.5, 127.5, 127.5)),
    "caffe": ("BGR", (103.939, 116.779, 123.68), (1, 1, 1)),
    # torchvision.transforms.Normalize, for pixels of 0 to 255.
    "torch": ("RGB", tuple(255 * v for v in (0.485, 0.456, 0.406)), tuple(255 * v for v in (0.229, 0.224, 0.225))),
}
# The options that may follow the path of a network's file.
_OPTIONS = {"preprocessing": "|".join(PREPROCESSING), "layer": ".+", "sha256": "[0-9a-fA-F]{64}"}
_WANTED = "a backbone (mobilenet, resnet50) or the path of a .keras or .weights.h5 file"


def get(name, untrained: bool = False, seed: int = 0) -> "Backbone":
    """Find a backbone.

    Parameters
    ----------
    name : ``"mobilenet"`` (embedded), ``"resnet50"`` (downloaded once by Keras), or the path of a file: ``.keras``, any
        Keras classifier of pictures or its convolutions alone; ``.weights.h5`` or ``.h5``, weights of
        ``keras.applications.ResNet50`` without its top. Options may follow the path, joined by ``&``:
        ``mine.keras#preprocessing=tf&layer=a+b``. ``preprocessing`` is a name of ``PREPROCESSING``, by default ``none``
        for a network that rescales its pixels itself, else ``caffe``. ``layer`` names one or two layers to read
        features from. ``sha256`` verifies the file.
    untrained : The same network with random weights of ``seed``: a baseline.
    """
    if name == "mobilenet":
        path = WEIGHTS / EMBEDDED[name]
        return Backbone(name, path, verified(path, None, _WANTED), {"preprocessing": "tf"}, untrained, seed,
                        "ImageNet, keras.applications.MobileNet")
    if name == "resnet50":
        path = None if untrained else _resnet50_file()
        return Backbone(name, path, path and sha256_of(path), {}, untrained, seed,
                        "ImageNet, keras.applications.ResNet50")
    path, options = path_and_options(name, (".keras", ".h5"), _WANTED)
    sha256 = verified(path, options.get("sha256"), _WANTED)
    return Backbone("resnet50" if path.suffix == ".h5" else "file", path, sha256, options, untrained, seed)


class Backbone:
    """A network that turns pictures into features; ``sha256`` is of its file of weights, or None."""

    def __init__(self, kind, path, sha256, options, untrained, seed, source=None):
        self.kind, self.path, self.sha256 = kind, path, sha256
        self.untrained, self.seed, self._options = untrained, seed, options
        self.name = kind if source else path.name
        self.source = f"random weights, seed {seed}" if untrained else source or str(path)
        self._start = None

    def build(self):
        """The ``keras.Model`` from pictures, float32 (N, height, width, 3) RGB 0 to 255, to features (N, n_features).

        Features are averages over the picture: of the last maps of the last stage and of the stage before, or of the
        layers that the user named. A network that takes pictures of any size gets 224 px.
        """
        import keras
        network = self._network()
        pictures = keras.Input((*_picture_px(network, self.name), 3), name="pictures")
        prepared = _preprocessed(pictures, self._preprocessing_of(network))
        outputs = self._trying(lambda: cut.flattened(network, prepared))
        whole = keras.Model(pictures, outputs, name=re.sub(r"\W+", "_", self.name.split(".")[0]))
        start, layers = cut.ends(whole, self._options.get("layer"))
        self._start = start and start.name
        features = keras.Model(pictures, cut.pooled(layers), name=whole.name)
        if self.untrained:
            _randomise(features, self.seed)
        return features

    def last_stage(self, network) -> list:
        """The layers of the last stage of the network that ``build`` gave, for fine-tuning."""
        names = [layer.name for layer in network.layers]
        return network.layers[names.index(self._start) + 1 if self._start else 0:]

    def _network(self):
        import keras
        if self.kind == "file":
            return self._trying(lambda: keras.saving.load_model(str(self.path), compile=False, safe_mode=True))
        kind = keras.applications.MobileNet if self.kind == "mobilenet" else keras.applications.ResNet50
        network = kind(include_top=False, weights=None, input_shape=(INPUT_PX, INPUT_PX, 3))
        if self.kind == "mobilenet":
            # NumPy refuses pickled objects, which could run code.
            with np.load(str(self.path), allow_pickle=False) as weights:
                for layer in network.layers:
                    layer.set_weights([weights[f"{layer.name}/{variable.name}"].astype(np.float32)
                                       for variable in layer.weights])
        elif not self.untrained:
            self._trying(lambda: network.load_weights(str(self.path)))
        return network

    def _preprocessing_of(self, network):
        """The row of ``PREPROCESSING`` for a network, checked against the layers that it has."""
        named, rescales = self._options.get("preprocessing"), _rescales(network)
        if rescales and named not in (None, "none"):
            raise InputError(
                f"expected #preprocessing=none for {self.name}, which rescales its pixels itself (by its layer "
                f"{rescales}), got {named}. Leave the option out.")
        return PREPROCESSING[named or ("none" if rescales else "caffe")]

    def _trying(self, load):
        # A file of the user's can fail in many ways: zip, HDF5, layers that Keras doesn't know.
        try:
            return load()
        except Exception as error:
            raise InputError(
                f"expected a backbone that Keras can open at {self.path}, got: {said(error)}. Save it again as .keras "
                "with plain Keras layers, or take the embedded default mobilenet.") from error


def verified(path: Path, expected, wanted: str, default: str = "mobilenet") -> str:
    """SHA-256 of a file, compared with ``expected`` if it is given, and for an embedded file with ``SHA256SUMS``."""
    if not path.is_file():
        raise InputError(f"expected {wanted}, got {path}, which is no file. Correct the path, or take the embedded "
                         f"default {default}.")
    sha256, advice = sha256_of(path), f"or take the embedded default {default}"
    if path.parent == WEIGHTS:
        lines = (WEIGHTS / "SHA256SUMS").read_text().splitlines()
        expected = dict(line.split()[::-1] for line in lines).get(path.name, expected)
        advice = "git checkout helpers/model/weights"
    if expected and sha256 != expected.lower():
        raise InputError(f"expected the file {path} with SHA-256 {expected[:12]}…, got {sha256[:12]}…. Bring the "
                         f"file again ({advice}).")
    return sha256


def path_and_options(name, suffixes: tuple, wanted: str, default: str = "mobilenet") -> tuple:
    """Split ``path#key=value&key=value`` into the path, of one of the suffixes, and the options of ``_OPTIONS``."""
    path, _, fragment = str(name).partition("#")
    # A plus joins layers; parse_qsl would turn it into a blank.
    options = dict(urllib.parse.parse_qsl(fragment.replace("+", "%2B"), keep_blank_values=True))
    fits = all(key in _OPTIONS and re.fullmatch(_OPTIONS[key], value) for key, value in options.items())
    path = Path(path).expanduser()
    if path.suffix not in suffixes or not fits or bool(options) != bool(fragment):
        raise InputError(f"expected {wanted}, with #layer=<name>, preprocessing=<{'|'.join(sorted(PREPROCESSING))}> or "
                         f"sha256=<64 digits> after the path, joined by &, got {str(name)!r}. Correct it, or take the "
                         f"embedded default {default}.")
    return path, options


def _resnet50_file():
    """Keras's ImageNet weights, from its own cache or downloaded into it."""
    import keras
    try:
        return Path(keras.utils.get_file(RESNET50_FILE, RESNET50_URL, cache_subdir="models", file_hash=RESNET50_MD5))
    except Exception as error:  # Keras raises a plain Exception when a download fails.
        raise InputError(
            f"expected to download ResNet-50's ImageNet weights from storage.googleapis.com, got: {said(error)}. Give "
            "the path of a .keras or .weights.h5 file as the backbone instead, or take the embedded default "
            "mobilenet.") from error


def _picture_px(network, name):
    """The size of the pictures that a network takes."""
    shapes = [tuple(tensor.shape[1:]) for tensor in getattr(network, "inputs", None) or []]
    px = [INPUT_PX if size is None else size for size in shapes[0][:2]] if shapes else []
    if len(shapes) != 1 or len(shapes[0]) != 3 or shapes[0][2] != 3 or px[0] != px[1] or len(network.outputs) != 1:
        raise InputError(
            f"expected a network from square pictures (height, width, 3) to one output, got {name} with inputs "
            f"{' and '.join(map(str, shapes)) or 'unknown to Keras'}. Save a functional or sequential "
            "Keras model with one such input and one output, or take the embedded default mobilenet.")
    return px


def _rescales(network):
    """The name of a layer by which a network rescales its pixels, before any other weights; None if it has none."""
    for layer in network.layers:
        found = _rescales(layer) if hasattr(layer, "layers") else None
        if found or type(layer).__name__ in ("Rescaling", "Normalization"):
            return found or layer.name
        if layer.weights:
            return None
    return None


def _preprocessed(pictures, preprocessing):
    """Symbolic pictures as a network expects them, by a layer that is exported with the network."""
    import keras
    order, mean, deviation = preprocessing
    if preprocessing == PREPROCESSING["none"]:
        return pictures
    # This 1 × 1 convolution takes each channel from its place in RGB.
    layer = keras.layers.Conv2D(3, 1, trainable=False, name=cut.PREPROCESS)
    outputs = layer(pictures)
    kernel = np.eye(3)[["RGB".index(channel) for channel in order]].T / np.array(deviation)
    layer.set_weights([kernel[None, None], -np.array(mean) / np.array(deviation)])
    return outputs


def _randomise(network, seed):
    """Give a network random weights that depend on the seed only: He's for kernels, neutral ones for all else.

    Batch normalisation takes its statistics from noise: otherwise activations double with each block that is added.
    """
    import keras
    rng = np.random.RandomState(seed)
    neutral = {"gamma": 1.0, "moving_variance": 1.0}
    normalisations = [one for one in network.layers if isinstance(one, keras.layers.BatchNormalization)]
    for layer in network.layers:
        if layer.name != cut.PREPROCESS and not isinstance(layer, keras.layers.Normalization):
            layer.set_weights([rng.normal(0, np.sqrt(2 / _fan_in(layer, w)), w.shape) if len(w.shape) > 1 else
                               np.full(w.shape, neutral.get(w.name, 0.0)) for w in layer.weights])
    if normalisations:
        px = network.input_shape[1]
        noise = sum(np.kron(rng.normal(0, 20, (4, n, n, 3)), np.ones((1, px // n + 1, px // n + 1, 1)))[:, :px, :px]
                    for n in (2, 8, 32, px))
        for one in normalisations:
            one.momentum, one.trainable = 0.0, True
        network(np.clip(128 + noise, 0, 255).astype(np.float32), training=True)


def _fan_in(layer, kernel):
    """The number of inputs that each output of a kernel adds up."""
    import keras
    by_channel = isinstance(layer, keras.layers.DepthwiseConv2D) or kernel.name.startswith("depthwise")
    return np.prod(kernel.shape[:2] if by_channel else kernel.shape[:-1])

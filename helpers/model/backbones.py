"""Pretrained networks: name, source, checksum, input contract; the embedded weights.

All of them take float32 RGB pictures of 0 to 255, so nobody outside this module preprocesses anything.
"""

import re
import urllib.parse
from pathlib import Path

import numpy as np

from helpers import InputError
from helpers.files import sha256 as sha256_of
from helpers.model.small_networks import INPUT_PX, alexnet_small, resnet_small

WEIGHTS = Path(__file__).resolve().parent / "weights"
EMBEDDED = {"resnet_small": "resnet_small.npz", "alexnet_small": "alexnet_small.onnx"}
# Of Keras's ImageNet weights: keras.applications.resnet, BASE_WEIGHTS_PATH and WEIGHTS_HASHES (MD5), keras 3.15.
RESNET50_FILE = "resnet50_weights_tf_dim_ordering_tf_kernels_notop.h5"
RESNET50_URL = "https://storage.googleapis.com/tensorflow/keras-applications/resnet/" + RESNET50_FILE
RESNET50_MD5 = "4d473c1dd8becc155b73f8504c6f6626"
# Subtracted by keras.applications.resnet50.preprocess_input: the means of ImageNet's blue, green and red.
IMAGENET_MEAN_BGR = (103.939, 116.779, 123.68)
SHA256 = "[0-9a-fA-F]{64}"
_WANTED = "a backbone (resnet_small, alexnet_small, resnet50) or the path of a .keras or .weights.h5 file"


def get(name, untrained: bool = False, seed: int = 0) -> "Backbone":
    """Find a backbone by its name, or by the path of a file.

    Parameters
    ----------
    name : ``"resnet_small"`` (embedded; the default everywhere), ``"alexnet_small"`` (embedded), ``"resnet50"``
        (ImageNet weights, downloaded once by Keras), or the path of a file: ``.keras``, a network with one feature
        map as its output; ``.weights.h5`` or ``.h5``, weights of ``keras.applications.ResNet50`` without its top.
        A ``.keras`` file is given pixels as Keras's ResNet-50 takes them. If yours takes RGB 0 to 255 as they are,
        write ``file.keras#preprocessing=none``; ``#sha256=<64 digits>`` has the file verified; ``&`` joins the two.
    untrained : The same network with random weights of ``seed``: a baseline.
    """
    if name in EMBEDDED:
        path = WEIGHTS / EMBEDDED[name]
        return Backbone(name, path, verified(path, embedded_sha256(name), _WANTED), untrained, seed, "none")
    if name == "resnet50":
        path = None if untrained else _resnet50_file()
        return Backbone(name, path, path and sha256_of(path), untrained, seed)
    path, options = split_options(name, {"preprocessing": "none|resnet50", "sha256": SHA256})
    if options is None:
        raise InputError("expected #preprocessing=none, #preprocessing=resnet50 or #sha256=<64 digits> behind the "
                         f"path of a backbone, got #{str(name).partition('#')[2]}. Correct it or leave it out.")
    if path.suffix not in (".keras", ".h5"):
        raise InputError(f"expected {_WANTED}, got {str(name)!r}. Choose one of them; resnet_small is the embedded "
                         "default.")
    return Backbone("resnet50" if path.suffix == ".h5" else "file", path,
                    verified(path, options.get("sha256"), _WANTED), untrained, seed,
                    options.get("preprocessing", "resnet50"))


class Backbone:
    """A network that turns pictures into features; ``source`` and ``sha256`` (or None) are of its file of weights."""

    def __init__(self, kind, path, sha256, untrained, seed, preprocessing="resnet50"):
        self.kind, self.path, self.sha256 = kind, path, sha256
        self.untrained, self.seed, self.preprocessing = untrained, seed, preprocessing
        embedded = kind in EMBEDDED
        given = not embedded and path is not None and path.name != RESNET50_FILE
        self.name = path.name if given else kind
        self.source = (f"random weights, seed {seed}" if untrained else
                       "pretrained on pictures drawn by formula (helpers/pretraining)" if embedded else
                       str(path) if given else "ImageNet, keras.applications.ResNet50")
        self._model_name = re.sub(r"\W+", "_", self.name.split(".")[0])

    def build(self):
        """The ``keras.Model`` from pictures, float32 (N, 224, 224, 3) RGB 0 to 255, to features (N, n_features).

        Features are the maps of the last two stages, each averaged over the picture; of a file whose stages can't be
        told apart, those of its output.
        """
        network = self._network()
        return self._for_pictures(network, pooled_stages(self.kind, network), self._model_name)

    def build_stages(self) -> tuple:
        """``build`` in two parts, so that the last stage can be fine-tuned on maps computed once.

        The first goes from pictures to the maps of the stage before the last, the second from those maps to features.
        """
        import keras
        network = self._network()
        ends = _stage_ends(self.kind, network)
        if len(ends) < 2:
            raise InputError(
                "expected a network whose layers are named like those of keras.applications.ResNet50 "
                f"(conv4_block6_out) to fine-tune its last stage, got {self.name} without such names. Name its layers "
                "so, or take the embedded default resnet_small.")
        return (self._for_pictures(network, ends[0], self._model_name + "_frozen"),
                keras.Model(ends[0], _pooled(ends), name=self._model_name + "_last_stage"))

    def _for_pictures(self, network, outputs, name):
        import keras
        return _with_preprocessing(keras.Model(network.inputs[0], outputs, name=name), self.preprocessing)

    def _network(self):
        """Pictures to the output of the last stage, weights in place, all layers at one level."""
        import keras
        if self.kind == "file":
            network = self._open()
        elif self.kind == "resnet50":
            network = keras.applications.ResNet50(include_top=False, weights=None, input_shape=(INPUT_PX, INPUT_PX, 3))
        else:
            network = resnet_small() if self.kind == "resnet_small" else alexnet_small(dense=False)
        if self.untrained:
            _randomise(network, self.seed)
        elif self.kind == "resnet50":
            self._trying(lambda: network.load_weights(str(self.path)))
        elif self.kind in EMBEDDED:
            set_weights(network, (read_npz if self.kind == "resnet_small" else read_onnx)(self.path))
        return network

    def _open(self):
        import keras
        network = self._trying(lambda: keras.saving.load_model(str(self.path), compile=False, safe_mode=True))
        shapes = [tuple(tensor.shape[1:]) for tensor in list(network.inputs) + list(network.outputs)]
        fits = (len(shapes) == 2 and len(shapes[0]) == 3 and shapes[0][2] == 3 and len(shapes[1]) == 3
                and all(px in (None, INPUT_PX) for px in shapes[0][:2]))
        if not fits:
            raise InputError(
                f"expected a network from pictures ({INPUT_PX}, {INPUT_PX}, 3) to one feature map (height, width, "
                f"channels), got {self.path} with {' and '.join(map(str, shapes))}. Cut it before its pooling and "
                "classifier, or take the embedded default resnet_small.")
        return network

    def _trying(self, load):
        # A file from anywhere can fail in any way, from zip and HDF5 down to a layer that is not known here.
        try:
            return load()
        except Exception as error:
            reason = " ".join(str(error).split())[:200]
            raise InputError(
                f"expected a backbone that Keras can open at {self.path}, got: {reason}. Save it again as .keras with "
                "plain Keras layers, or take the embedded default resnet_small.") from error


def embedded_sha256(name: str) -> str:
    """The checksum of an embedded network in ``SHA256SUMS``, in the format of the command ``sha256sum``."""
    lines = (WEIGHTS / "SHA256SUMS").read_text().splitlines()
    return {line.split()[1]: line.split()[0] for line in lines}[EMBEDDED[name]]


def verified(path: Path, expected, wanted: str, default: str = "resnet_small") -> str:
    """SHA-256 of a file, compared with ``expected`` where there is one."""
    if not path.is_file():
        raise InputError(f"expected {wanted}, got {path}, which is no file. Correct the path, or take the embedded "
                         f"default {default}.")
    sha256 = sha256_of(path)
    if expected and sha256 != expected.lower():
        advice = ("git checkout helpers/model/weights" if path.parent == WEIGHTS else
                  f"or take the embedded default {default}")
        raise InputError(f"expected the file {path} with SHA-256 {expected[:12]}…, got {sha256[:12]}…. Bring the "
                         f"file again ({advice}).")
    return sha256


def split_options(name, patterns: dict) -> tuple:
    """Path and options of ``path#key=value&key=value``; None for options that the patterns, by key, don't match."""
    path, _, fragment = str(name).partition("#")
    # A plus joins layers; parse_qsl would take it for a blank.
    options = dict(urllib.parse.parse_qsl(fragment.replace("+", "%2B"), keep_blank_values=True))
    fits = all(key in patterns and re.fullmatch(patterns[key], value) for key, value in options.items())
    return Path(path).expanduser(), options if fits and bool(options) == bool(fragment) else None


def _resnet50_file():
    """Keras's ImageNet weights, from its own cache or downloaded into it."""
    import keras
    try:
        return Path(keras.utils.get_file(RESNET50_FILE, RESNET50_URL, cache_subdir="models", file_hash=RESNET50_MD5))
    except Exception as error:  # Keras raises a plain Exception when a download fails.
        raise InputError(
            "expected to download ResNet-50's ImageNet weights from storage.googleapis.com, got: "
            f"{' '.join(str(error).split())[-160:]}. Give the path of a .keras or .weights.h5 file as the backbone "
            "instead, or take the embedded default resnet_small.") from error


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


def pooled_stages(kind: str, network):
    """Features of a network, symbolic: the maps of its last two stages, each averaged over the picture."""
    return _pooled(_stage_ends(kind, network))


def _stage_ends(kind, network):
    """Output of the stage before the last and of the last, or only the latter."""
    if kind == "alexnet_small":
        return [network.get_layer("relu4").output, network.get_layer("relu5").output]
    # Of each stage the last block.
    ends = {layer.name[:5]: layer.output for layer in network.layers if re.match(r"conv\d_block\d+_out$", layer.name)}
    last = network.outputs[0]
    return [ends[stage] for stage in sorted(ends) if ends[stage] is not last][-1:] + [last]


def _pooled(maps):
    """Feature maps averaged over the picture, one beside the other."""
    import keras
    pooled = [keras.layers.GlobalAveragePooling2D()(one) for one in maps]
    return pooled[0] if len(pooled) == 1 else keras.layers.Concatenate()(pooled)


def set_weights(network, weights: dict):
    """Put weights, by ``layer/kind``, into a Keras network; every one of its own must be there, in the same shape."""
    for layer in network.layers:
        if layer.weights:
            layer.set_weights([weights[layer.name + "/" + variable.name] for variable in layer.weights])


def read_npz(path: Path) -> dict:
    """Weights by name, float32, of ``resnet_small``. Pickled objects, which could run code, are refused."""
    with np.load(str(path), allow_pickle=False) as file:
        return {name: file[name].astype(np.float32) for name in file.files}


def read_onnx(path: Path) -> dict:
    """Weights of ``alexnet_small.onnx`` by name, in the shapes of Keras."""
    import onnx
    from onnx import numpy_helper
    weights = {tensor.name: numpy_helper.to_array(tensor) for tensor in onnx.load(str(path)).graph.initializer}
    # ONNX: (out, in, height, width) and (out, in); Keras: (height, width, in, out) and (in, out).
    return {name: w.transpose(2, 3, 1, 0) if w.ndim == 4 else w.T for name, w in weights.items()}


def _randomise(network, seed):
    """Random weights that depend on the seed only: He's for kernels, neutral ones for everything else."""
    rng = np.random.RandomState(seed)
    neutral = {"gamma": 1.0, "moving_variance": 1.0}
    for layer in network.layers:
        layer.set_weights([rng.normal(0, np.sqrt(2 / np.prod(w.shape[:-1])), w.shape) if len(w.shape) > 1 else
                           np.full(w.shape, neutral.get(w.name, 0.0)) for w in layer.weights])

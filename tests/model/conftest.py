import numpy as np
import pytest
from onnx import helper

from helpers.model import bundle
from helpers.model.backbones import IMAGENET_MEAN_BGR
from networks import coloured_tiles, python36, save_coloured, solve_head, write_network


@pytest.fixture(scope="session")
def network():
    """A small Keras network that knows six colours: random convolutions, a head by least squares."""
    import keras
    keras.utils.set_random_seed(0)
    tiles, labels = coloured_tiles(120, 1)
    inputs = keras.Input(tiles.shape[1:], dtype="uint8")
    x = keras.layers.Rescaling(1 / 128, offset=-1.0, dtype="float32")(inputs)
    x = keras.layers.Conv2D(16, 5, strides=2, activation="relu")(x)
    features = keras.Model(inputs, keras.layers.GlobalAveragePooling2D()(x))
    head = keras.layers.Dense(6, activation="softmax")
    whole = keras.Model(inputs, head(features.output))
    head.set_weights(solve_head(features.predict(tiles, verbose=0), labels))
    return whole


@pytest.fixture(scope="session")
def saved(network, tmp_path_factory):
    return save_coloured(network, tmp_path_factory.mktemp("saved") / "bundle")


@pytest.fixture(scope="session")
def textures(tmp_path_factory):
    """240 tiles of three textures, in colours that tell nothing; every fourth held out."""
    px, rng = 224, np.random.default_rng(0)
    y, x = np.mgrid[:px, :px]
    tiles, labels = [], np.arange(240) % 3
    for label in labels:
        angle, wave = rng.uniform(0, np.pi), rng.uniform(3, 5)
        along, across = np.cos(angle) * x + np.sin(angle) * y, np.cos(angle) * y - np.sin(angle) * x
        pattern = [np.sin(along / wave) > 0, (np.sin(along / wave) > 0.3) & (np.sin(across / wave) > 0.3),
                   np.sin(along / (6 * wave)) > 0][label]
        tile = np.where(pattern[..., None], rng.integers(0, 256, 3), rng.integers(0, 256, 3))
        tiles.append(np.clip(tile + rng.normal(0, 8, tile.shape), 0, 255).astype(np.uint8))
    folder = tmp_path_factory.mktemp("textures")
    np.savez(folder / "tiles.npz", tiles=np.array(tiles), labels=labels, names=["stripes", "dots", "bands"],
             fold=np.where(np.arange(240) % 4 == 3, 0, -1))
    return folder


@pytest.fixture(scope="session")
def trained(textures):
    """The embedded AlexNet retrained on the textures in CNTK, its bundle, and the tiles."""
    result = python36("train", folder=str(textures), name="alexnet_small", tiles=str(textures / "tiles.npz"),
                      out=str(textures / "bundle"), copies=2)
    return result, bundle.load(textures / "bundle"), np.load(textures / "tiles.npz")["tiles"]


@pytest.fixture(scope="session")
def aerial(real_data):
    """Real aerial pictures, their classes, and folds that keep neighbours together."""
    from real_pictures import aerial
    return aerial(real_data)


@pytest.fixture(scope="session")
def caffe():
    """What Caffe's networks expect of their pixels."""
    return lambda x: x[..., ::-1] - np.float32(IMAGENET_MEAN_BGR)


@pytest.fixture(scope="session")
def caffe_alexnet(tmp_path_factory):
    """What is particular to Caffe's AlexNet in the model zoo, on a small scale.

    Groups, local response normalisation, padding at one end, a batch of 1 written into the shapes, nodes without
    names, weights that are inputs too.
    """
    node = helper.make_node
    nodes = [
        node("Conv", ["data", "w1", "b1"], ["conv1_1"], kernel_shape=[7, 7], strides=[4, 4]),
        node("Relu", ["conv1_1"], ["conv1_2"]),
        node("LRN", ["conv1_2"], ["norm1_1"], size=5, alpha=0.01, beta=0.75, bias=1.0),
        node("MaxPool", ["norm1_1"], ["pool1_1"], kernel_shape=[3, 3], strides=[2, 2], pads=[0, 0, 1, 1]),
        node("Conv", ["pool1_1", "w2", "b2"], ["conv2_1"], kernel_shape=[5, 5], pads=[2, 2, 2, 2], group=2),
        node("Relu", ["conv2_1"], ["conv2_2"]),
        node("Reshape", ["conv2_2", "flat_shape"], ["flat"]),
        node("Gemm", ["flat", "w6", "b6"], ["fc6_1"], transB=1),
        node("Relu", ["fc6_1"], ["fc6_2"]),
        node("Dropout", ["fc6_2"], ["fc6_3", "mask"]),
        node("Gemm", ["fc6_3", "w8", "b8"], ["fc8_1"], transB=1),
        node("Softmax", ["fc8_1"], ["prob_1"], axis=1)]
    return write_network(tmp_path_factory.mktemp("caffe") / "alexnet.onnx", nodes, {
        "w1": (16, 3, 7, 7), "b1": (16,), "w2": (24, 8, 5, 5), "b2": (24,), "flat_shape": (1, 24 * 7 * 7),
        "w6": (32, 24 * 7 * 7), "b6": (32,), "w8": (10, 32), "b8": (10,)}, inputs_too=True)

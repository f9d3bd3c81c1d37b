import numpy as np
import pytest

from helpers.model import bundle
from helpers.model.backbones import PREPROCESSING
from networks import coloured_tiles, python36, save_coloured, solve_head


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
    px, rng = 227, np.random.default_rng(0)
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
    """The embedded SqueezeNet retrained on the textures in CNTK, its bundle, and the tiles."""
    result = python36("train", folder=str(textures), name="squeezenet", tiles=str(textures / "tiles.npz"),
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
    return lambda x: x[..., ::-1] - np.float32(PREPROCESSING["caffe"][1])

"""Where a network is cut: at its last maps and at those of the stage before, or at layers that the user names."""

import re

import numpy as np
import pytest

from helpers import InputError
from helpers.model import backbones
from networks import one_sentence, run_keras

# Keras writes its files through an interface that NumPy 2 deprecates.
pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")


def classifier(keras, inputs, channels=8, classes=5):
    """A small classifier of the usual form, with a branch in its last stage."""
    x = keras.layers.Conv2D(channels, 3, 2, padding="same", activation="relu", name="first")(inputs)
    x = keras.layers.Conv2D(channels, 3, 2, padding="same", activation="relu", name="before")(x)
    x = keras.layers.ZeroPadding2D(1)(x)
    x = keras.layers.Conv2D(channels, 3, 2, name="halved")(x)
    y = keras.layers.Conv2D(channels, 1, name="branch")(x)
    x = keras.layers.Activation("relu", name="last")(keras.layers.Add(name="joined")([x, y]))
    x = keras.layers.Dropout(0.5)(keras.layers.GlobalAveragePooling2D()(x))
    return keras.layers.Dense(classes, activation="softmax", name="classes")(x)


@pytest.fixture(params=["functional", "sequential", "nested", "twice nested", "any size", "class maps"])
def classifier_file(request, tmp_path):
    """A classifier's file, with the names of the layers that it should be cut at, and the picture's size."""
    import keras
    keras.utils.set_random_seed(0)
    px, names = 96, ["before", "last"]
    inputs = keras.Input((px, px, 3))
    if request.param == "sequential":
        layers = [keras.layers.Conv2D(8, 3, 4, name="before"), keras.layers.Conv2D(8, 3, 2, name="last"),
                  keras.layers.Flatten(), keras.layers.Dense(5)]
        model = keras.Sequential([inputs, *layers])
    elif request.param == "any size":
        inputs, px = keras.Input((None, None, 3)), 224
        model = keras.Model(inputs, classifier(keras, inputs))
    elif request.param == "class maps":
        x = keras.layers.Conv2D(8, 3, 4, name="before")(inputs)
        x = keras.layers.Conv2D(8, 3, 2, name="last")(x)
        x = keras.layers.GlobalAveragePooling2D()(keras.layers.Conv2D(5, 1, name="one_each")(x))
        model = keras.Model(inputs, keras.layers.Softmax()(x))
    else:
        model = keras.Model(inputs, classifier(keras, inputs), name="inner")
        if request.param != "functional":
            model = keras.Sequential([keras.Input((px, px, 3)), keras.layers.RandomFlip(), model,
                                      keras.layers.Dense(3)])
        if request.param == "twice nested":
            outer = keras.Input((px, px, 3))
            model = keras.Model(outer, keras.layers.Dense(2)(model(outer)))
    model.save(tmp_path / "mine.keras")
    return tmp_path / "mine.keras", model, names, px


def _layers_in(model):
    return [one for layer in model.layers for one in (_layers_in(layer) if hasattr(layer, "layers") else [layer])]


def test_any_classifier_is_cut_at_its_last_maps(classifier_file):
    import keras
    path, model, names, px = classifier_file
    backbone = backbones.get(f"{path}#preprocessing=none")
    network = backbone.build()
    assert network.input_shape == (None, px, px, 3)
    pictures = np.random.default_rng(0).uniform(0, 255, (2, px, px, 3)).astype(np.float32)
    maps = run_keras(keras.Model(network.input, [network.get_layer(name).output for name in names]), pictures)
    expected = np.concatenate([m.mean(axis=(1, 2)) for m in maps], axis=1)
    np.testing.assert_allclose(run_keras(network, pictures), expected, rtol=1e-4, atol=1e-4)
    last_stage = [layer.name for layer in backbone.last_stage(network)]
    assert names[0] not in last_stage and names[1] in last_stage and "first" not in last_stage
    # The copy has the weights of the file.
    theirs = {layer.name: layer.get_weights() for layer in _layers_in(model)}
    for name in names:
        assert all((a == b).all() for a, b in zip(network.get_layer(name).get_weights(), theirs[name]))


def test_the_user_may_name_the_layers(tmp_path):
    import keras
    inputs = keras.Input((96, 96, 3))
    keras.Model(inputs, classifier(keras, inputs)).save(tmp_path / "mine.keras")
    pictures = np.zeros((1, 96, 96, 3), np.float32)
    for layers, width in (("first", 8), ("before+last", 16), ("last+before", 16), ("classes", 5)):
        network = backbones.get(f"{tmp_path}/mine.keras#layer={layers}&preprocessing=tf").build()
        assert run_keras(network, pictures).shape == (1, width)
    for layers in ("third", "first+third", "first+before+last"):
        with pytest.raises(InputError, match=re.escape(layers)) as error:
            backbones.get(f"{tmp_path}/mine.keras#layer={layers}").build()
        one_sentence(error, "Correct it", "joined and last")

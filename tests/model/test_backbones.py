"""Backbones: what is loaded is what was meant, and any classifier's features are found in its graph."""

import re
import shutil

import numpy as np
import pytest
from PIL import Image

import networks
from helpers import InputError
from helpers.model import backbones
from networks import run_keras

# Keras writes its files through an interface that NumPy 2 deprecates.
pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")


@pytest.fixture(scope="module")
def some_pictures():
    return np.random.default_rng(3).uniform(0, 255, (2, 224, 224, 3)).astype(np.float32)


def one_sentence(error):
    """Wanted, got, and what to do, on one line."""
    text = networks.one_sentence(error)
    assert re.search(r"mobilenet|git checkout|Correct it|Leave the option out", text)
    return text


# The embedded network

@pytest.fixture(scope="module")
def mobilenet():
    backbone = backbones.get("mobilenet")
    return backbone, backbone.build()


def test_the_embedded_network_has_the_shapes_and_size_of_the_contract(mobilenet):
    backbone, network = mobilenet
    assert backbone.path.stat().st_size <= 8_000_000
    assert network.input_shape == (None, 224, 224, 3) and network.output_shape == (None, 512 + 1024)
    names = [layer.name for layer in backbone.last_stage(network)]
    assert names[0] == "conv_pad_12" and "conv_pw_13" in names and "conv_pw_11" not in names
    # Every layer can be reached for fine-tuning, batch normalisation too.
    assert not any(hasattr(layer, "layers") for layer in network.layers)
    kept = np.load(backbone.path, allow_pickle=False)
    assert {v.dtype for v in kept.values() if v.ndim > 1} == {np.dtype(np.float16)}


def test_the_embedded_network_names_two_photographs(real_data, mobilenet):
    """With the classifier of the same network; its first class is the background."""
    classifier = np.load(real_data / "weights" / "mobilenet_v1_logits.npz", allow_pickle=False)
    pictures = np.stack([np.asarray(Image.open(real_data / "weights" / name).convert("RGB").resize((224, 224), 2))
                         for name in ("espresso.jpg", "african_bush_elephant.jpg")]).astype(np.float32)
    logits = run_keras(mobilenet[1], pictures)[:, -1024:] @ classifier["W"] + classifier["b"]
    best = np.argsort(logits)[:, ::-1] - 1
    assert best[0, 0] == 967 and set(best[1, :2]) == {101, 386}
    wrong = run_keras(mobilenet[1], pictures / 255)[:, -1024:] @ classifier["W"] + classifier["b"]
    assert wrong[0].argmax() - 1 != 967


def test_float16_changes_features_by_a_hundredth_at_most(real_data, aerial, mobilenet):
    file = backbones.get(real_data / "weights" / "mobilenet_v1_1.0_224_imagenet.keras")
    tiles = aerial[0][::40].astype(np.float32)
    exact, rounded = run_keras(file.build(), tiles), run_keras(mobilenet[1], tiles)
    assert np.linalg.norm(exact - rounded) <= 0.01 * np.linalg.norm(exact)


def test_one_damaged_byte_is_refused(tmp_path, monkeypatch):
    for file in backbones.WEIGHTS.iterdir():
        shutil.copy(file, tmp_path)
    monkeypatch.setattr(backbones, "WEIGHTS", tmp_path)
    assert backbones.get("mobilenet").sha256
    path = tmp_path / backbones.EMBEDDED["mobilenet"]
    damaged = bytearray(path.read_bytes())
    damaged[len(damaged) // 2] ^= 1
    path.write_bytes(damaged)
    with pytest.raises(InputError, match="SHA-256") as error:
        backbones.get("mobilenet")
    assert "git checkout" in one_sentence(error)


def test_untrained_depends_on_the_seed_and_nothing_else(some_pictures, mobilenet):
    one, same, other = (run_keras(backbones.get("mobilenet", untrained=True, seed=s).build(), some_pictures)
                        for s in (1, 1, 2))
    np.testing.assert_allclose(one, same, rtol=1e-3, atol=1e-4)
    assert np.abs(one - other).max() > 0.1 and np.abs(one - run_keras(mobilenet[1], some_pictures)).max() > 0.1


def _depthwise(keras, x):
    for i in range(12):
        x = keras.layers.DepthwiseConv2D(3, padding="same", activation="relu")(x)
        x = keras.layers.Conv2D(32, 1, activation="relu", strides=2 if i in (3, 7) else 1)(x)
    return x


def _separable(keras, x):
    for i in range(12):
        x = keras.layers.SeparableConv2D(32, 3, padding="same", activation="relu", strides=2 if i in (3, 7) else 1)(x)
    return x


def _added(keras, x):
    x = keras.layers.Conv2D(32, 3, padding="same", strides=2)(x)
    for _ in range(12):
        y = keras.layers.BatchNormalization()(keras.layers.Conv2D(32, 3, padding="same", activation="relu")(x))
        x = keras.layers.Add()([x, y])
    return keras.layers.Conv2D(32, 1, strides=2, activation="relu")(keras.layers.BatchNormalization()(x))


@pytest.mark.parametrize("body", [_depthwise, _separable, _added])
def test_activations_of_random_weights_neither_vanish_nor_explode(body, tmp_path):
    import keras
    inputs = keras.Input((64, 64, 3))
    keras.Model(inputs, body(keras, inputs)).save(tmp_path / "mine.keras")
    pictures = np.random.default_rng(0).uniform(0, 255, (8, 64, 64, 3)).astype(np.float32)
    network = backbones.get(f"{tmp_path}/mine.keras#preprocessing=tf", untrained=True).build()
    maps = [layer.output for layer in network.layers if len(layer.output.shape) == 4][2:]
    sizes = [np.sqrt((value ** 2).mean()) for value in run_keras(keras.Model(network.input, maps), pictures)]
    assert 0.1 < min(sizes) and max(sizes) < 40, sizes


# ResNet-50 and files of one's own

@pytest.mark.parametrize("name", ["none", "tf", "caffe", "torch"])
def test_our_preprocessing_equals_keras(name, some_pictures):
    import keras
    pictures = keras.Input((224, 224, 3))
    ours = keras.Model(pictures, backbones._preprocessed(pictures, backbones.PREPROCESSING[name]))
    theirs = some_pictures if name == "none" else keras.applications.imagenet_utils.preprocess_input(
        some_pictures.copy(), mode=name)
    np.testing.assert_allclose(run_keras(ours, some_pictures), theirs, atol=1e-4)


@pytest.fixture(scope="module")
def small_file(tmp_path_factory):
    """A Keras file whose layers are named like ResNet's."""
    import keras
    inputs = keras.Input((None, None, 3))
    x = keras.layers.Conv2D(4, 3, 8, name="conv1_conv")(inputs)
    x = keras.layers.Activation("relu", name="conv3_block4_out")(x)
    x = keras.layers.Conv2D(6, 3, 2, name="conv4_block1_1_conv")(x)
    x = keras.layers.Activation("relu", name="conv4_block6_out")(x)
    path = tmp_path_factory.mktemp("files") / "mine.keras"
    model = keras.Model(inputs, x)
    model.save(path)
    return path, model


def test_a_file_of_ones_own_sees_what_its_preprocessing_says(small_file, some_pictures):
    import keras
    path, model = small_file
    bgr = keras.applications.resnet50.preprocess_input(some_pictures.copy())
    for suffix, pixels in (("", bgr), ("#preprocessing=caffe", bgr), ("#preprocessing=none", some_pictures)):
        backbone = backbones.get(str(path) + suffix)
        maps = run_keras(model, pixels).mean(axis=(1, 2))
        features = run_keras(backbone.build(), some_pictures)
        assert features.shape == (2, 10) and backbone.name == "mine.keras"
        np.testing.assert_allclose(features[:, 4:], maps, rtol=1e-3, atol=1e-3)
        assert [layer.name for layer in backbone.last_stage(backbone.build())][0] == "conv4_block1_1_conv"


def test_a_checksum_given_with_the_path_is_verified(small_file):
    path, _ = small_file
    sha256 = backbones.get(path).sha256
    assert backbones.get(f"{path}#sha256={sha256}").sha256 == sha256
    with pytest.raises(InputError, match="SHA-256") as error:
        backbones.get(f"{path}#sha256={'0' * 64}")
    one_sentence(error)


def test_a_network_that_rescales_its_pixels_gets_them_as_they_are(tmp_path, some_pictures):
    import keras
    path = tmp_path / "mine.keras"
    keras.Sequential([keras.Input((224, 224, 3)), keras.layers.Rescaling(1 / 255),
                      keras.layers.Conv2D(5, 3, 16)]).save(path)
    plain = run_keras(backbones.get(path).build(), some_pictures)
    np.testing.assert_array_equal(plain, run_keras(backbones.get(f"{path}#preprocessing=none").build(), some_pictures))
    with pytest.raises(InputError, match="rescales its pixels itself") as error:
        backbones.get(f"{path}#preprocessing=tf").build()
    one_sentence(error)


def test_a_network_of_one_stage_is_fine_tuned_as_a_whole(tmp_path, some_pictures):
    import keras
    path = tmp_path / "plain.keras"
    keras.Sequential([keras.Input((224, 224, 3)), keras.layers.Conv2D(5, 3, 16)]).save(path)
    backbone = backbones.get(path)
    network = backbone.build()
    assert run_keras(network, some_pictures).shape == (2, 5)
    assert backbone.last_stage(network) == network.layers


def _no_maps(path):
    import keras
    keras.Sequential([keras.Input((224, 224, 3)), keras.layers.GlobalAveragePooling2D(),
                      keras.layers.Dense(10)]).save(path)


def _oblong(path):
    import keras
    keras.Sequential([keras.Input((299, 224, 3)), keras.layers.Conv2D(5, 3)]).save(path)


def _grey(path):
    import keras
    keras.Sequential([keras.Input((224, 224, 1)), keras.layers.Conv2D(5, 3)]).save(path)


def _two_inputs(path):
    import keras
    both = [keras.Input((224, 224, 3)), keras.Input((224, 224, 3))]
    keras.Model(both, keras.layers.Conv2D(5, 3)(keras.layers.Add()(both))).save(path)


def _runs_code(path):
    import keras
    keras.Sequential([keras.Input((224, 224, 3)), keras.layers.Lambda(lambda x: x * 2)]).save(path)


@pytest.mark.parametrize("write, says", [
    (lambda path: path.write_bytes(b"no network"), "Keras can open"),
    (lambda path: path.write_bytes(b""), "Keras can open"),
    (_runs_code, "Keras can open"), (_no_maps, "give maps"), (_oblong, "square pictures"), (_two_inputs, "square pictures"),
    (_grey, "square pictures")])
def test_a_broken_or_unfit_keras_file_ends_in_one_sentence(write, says, tmp_path):
    path = tmp_path / "given.keras"
    write(path)
    with pytest.raises(InputError, match=says) as error:
        backbones.get(path).build()
    one_sentence(error)


@pytest.mark.parametrize("name", ["mobilenett", "nowhere/model.keras", "model.pt", "a.keras#preprocess=none", "a.keras#layer=",
                                  "a.keras#sha256=12", "a.keras#preprocessing=mine"])
def test_a_wrong_name_ends_in_one_sentence(name):
    with pytest.raises(InputError) as error:
        backbones.get(name)
    one_sentence(error)


def test_resnet50_without_a_network_names_the_path_option_and_the_default(monkeypatch, tmp_path):
    import keras

    def no_network(*arguments, **options):
        raise Exception("URL fetch failure on https://storage.googleapis.com/…: None -- no route to host")

    monkeypatch.setattr(keras.utils, "get_file", no_network)
    with pytest.raises(InputError, match="path of a .keras or .weights.h5") as error:
        backbones.get("resnet50")
    assert "mobilenet" in one_sentence(error)
    assert backbones.get("resnet50", untrained=True).path is None  # needs no weights, so no network


def test_resnet50_from_a_file_of_weights_equals_keras(tmp_path, some_pictures):
    import keras
    keras.utils.set_random_seed(0)
    network = keras.applications.ResNet50(include_top=False, weights=None, input_shape=(224, 224, 3), pooling="avg")
    network.save_weights(tmp_path / "mine.weights.h5")
    backbone = backbones.get(tmp_path / "mine.weights.h5")
    features = run_keras(backbone.build(), some_pictures)
    expected = run_keras(network, keras.applications.resnet50.preprocess_input(some_pictures.copy()))
    assert features.shape == (2, 1024 + 2048)
    np.testing.assert_allclose(features[:, 1024:], expected, rtol=1e-3, atol=1e-4)
    (tmp_path / "broken.weights.h5").write_bytes(b"no weights")
    with pytest.raises(InputError, match="Keras can open") as error:
        backbones.get(tmp_path / "broken.weights.h5").build()
    one_sentence(error)

import os

import numpy as np
import pytest

from helpers.model import backbones, evaluation
from helpers.model import retrain_tensorflow as retraining
from networks import retrain


@pytest.fixture(scope="module")
def tiles():
    """Twelve tiles of two textures: stripes and dots, each in its own colours."""
    retraining.start_tensorflow()
    rng = np.random.default_rng(0)
    y, x = np.mgrid[:224, :224]
    patterns = [np.sin(x / 4) > 0, (np.sin(x / 6) > 0.8) & (np.sin(y / 6) > 0.8)]
    pictures = [np.where(patterns[i % 2][..., None], rng.integers(0, 256, 3), rng.integers(0, 256, 3))
                for i in range(12)]
    return np.array(pictures, dtype=np.uint8), np.arange(12) % 2


def test_a_users_settings_of_keras_change_nothing(monkeypatch):
    import keras
    monkeypatch.setenv("KERAS_BACKEND", "torch")
    keras.config.set_image_data_format("channels_first")
    keras.config.set_floatx("float16")
    retraining.start_tensorflow()
    assert (os.environ["KERAS_BACKEND"], keras.config.image_data_format(), keras.config.floatx()) == (
        "tensorflow", "channels_last", "float32")


@pytest.fixture
def backbone(tmp_path):
    """A small network with two stages and batch normalisation, and the features it was built to."""
    import keras
    keras.utils.set_random_seed(0)
    layers = keras.layers
    keras.Sequential([keras.Input((224, 224, 3)), layers.Conv2D(16, 7, 8, activation="relu", name="first"),
                      layers.Conv2D(24, 3, 2, name="second"), layers.BatchNormalization(), layers.ReLU(),
                      layers.GlobalAveragePooling2D(), layers.Dense(2)]).save(tmp_path / "small.keras")
    return backbones.get(f"{tmp_path}/small.keras#preprocessing=tf")


def test_augmentation_changes_pictures_and_only_by_seed(tiles):
    pictures, _ = tiles
    once = retraining.augment(pictures, 1)
    assert once.shape == pictures.shape and once.dtype == np.uint8
    assert (once == retraining.augment(pictures, 1)).all()
    other = retraining.augment(pictures, 2)
    assert all((a != b).any() and (a != c).any() for a, b, c in zip(once, other, pictures))


def test_augmentation_keeps_the_pattern(tiles):
    """Turned back to where it came from, a copy correlates with its original or with its negative."""
    picture = tiles[0][0]
    changed = retraining.augment(np.repeat(picture[None], 8, axis=0), 3)
    for copy in changed:
        turned = [np.rot90(side, k) for side in (copy, copy[:, ::-1]) for k in range(4)]
        best = max(abs(np.corrcoef(t[..., c].ravel(), picture[..., c].ravel())[0, 1])
                   for t in turned for c in range(3))
        assert best > 0.95


def test_a_changed_tile_depends_on_its_number_and_not_on_its_batch(tiles):
    pictures, _ = tiles
    whole = retraining.augment(pictures, 5)
    assert (whole[[7, 2]] == retraining.augment(pictures[[7, 2]], 5, [7, 2])).all()


def test_batches_give_every_tile_once_each_time_in_another_order(tiles, monkeypatch):
    pictures, _ = tiles
    monkeypatch.setattr(retraining, "BATCH", 5)
    numbers = np.arange(len(pictures))
    data = retraining.batches(pictures, numbers, seed=1, shuffle=True)
    times = [[(some.numpy(), rows.numpy()) for some, rows in data] for _ in range(2)]
    orders = [np.concatenate([rows for _, rows in time]) for time in times]
    assert all((np.sort(order) == numbers).all() for order in orders) and (orders[0] != orders[1]).any()
    by_number = [dict(zip(order, np.concatenate([some for some, _ in time]))) for order, time in zip(orders, times)]
    assert all((by_number[0][n] != by_number[1][n]).any() for n in numbers)
    plain = np.concatenate([some.numpy() for some in retraining.batches(pictures)])
    assert (plain == pictures).all()
    assert data.options().autotune.enabled is False  # Its thread would delay the end of the data.


def test_features_of_several_seeds_stand_one_after_another(tiles, backbone):
    pictures, _ = tiles
    network = backbone.build()
    both = retraining.compute(network, pictures, [None, 3])
    expected = np.concatenate([network(some.astype(np.float32)).numpy()
                               for some in (pictures, retraining.augment(pictures, 3))])
    np.testing.assert_allclose(both, expected, rtol=1e-4, atol=1e-5)


def test_fine_tuning_moves_the_last_stage_and_nothing_else(tiles, backbone):
    pictures, labels = tiles
    network = backbone.build()
    features = retraining.compute(network, pictures)
    head = retraining.new_head(features, 2, seed=0)
    # Not for long: a head that is sure of everything leaves nothing to learn.
    retraining.train(head, (features, labels), (features, labels), 0, epochs=1, learning_rate=1e-3)
    last_stage = backbone.last_stage(network)
    tuned = retraining.with_head(network, last_stage, head)
    assert np.allclose(retraining.compute(tuned, pictures), head.predict(features, verbose=0), atol=1e-4)
    before = {w.path: w.numpy().copy() for w in network.weights}
    history = retraining.train(tuned, retraining.batches(pictures, labels, 0, shuffle=True),
                               retraining.batches(pictures, labels), 0, epochs=2, learning_rate=1e-3)
    assert len(history["accuracy"]) == 2 and len(history["val_accuracy"]) == 1  # validation: after the last epoch
    moved = {w.path for w in network.weights if (w.numpy() != before[w.path]).any()}
    assert moved == {"second/kernel", "second/bias"}


def test_the_same_seed_trains_the_same_head(tiles, backbone):
    pictures, labels = tiles
    features = retraining.compute(backbone.build(), pictures)
    weights = []
    for seed in (0, 0, 1):
        head = retraining.new_head(features, 2, seed)
        retraining.train(head, (features, labels), (features, labels), seed, epochs=3, learning_rate=1e-3)
        weights.append(head.get_weights()[-2])
    assert np.allclose(weights[0], weights[1], atol=1e-6)
    assert not np.allclose(weights[0], weights[2], atol=1e-6)


def test_retraining_in_one_call_learns_dark_from_light(backbone):
    labels = np.arange(96) % 2
    noise = np.random.default_rng(0).integers(-20, 20, (96, 224, 224, 3))
    pictures = (np.where(labels, 200, 50)[:, None, None, None] + noise).astype(np.uint8)
    model, histories = retrain(backbone, pictures, labels, (pictures, labels), seed=0, copies=2, head_epochs=20,
                               tuning_epochs=1)
    assert [len(history["val_accuracy"]) for history in histories] == [20, 1]
    assert (retraining.compute(model, pictures).argmax(axis=1) == labels).mean() > 0.95


def test_an_untrained_mobilenet_is_a_baseline_and_not_at_chance(textures):
    data = np.load(textures / "tiles.npz")
    labels, fold = data["labels"], np.arange(len(data["labels"])) // 3 % 4
    # The textures are 227 px large, as SqueezeNet takes them.
    tiles = data["tiles"][:, :224, :224]
    features = retraining.compute(backbones.get("mobilenet", untrained=True).build(), tiles)
    right = np.concatenate([evaluation.linear_head(features[fold != k], labels[fold != k], features[fold == k])
                            == labels[fold == k] for k in range(4)])
    # Whoever guesses one of three is right on more than 97 of 240 tiles one time in a hundred.
    assert len(right) == 240 and right.sum() > 97, right.sum()


def test_the_assembled_network_takes_the_pixels_themselves(tiles, backbone):
    pictures, _ = tiles
    network = backbone.build()
    features = retraining.compute(network, pictures)
    head = retraining.new_head(features, 2, seed=0)
    whole = retraining.assemble(retraining.with_head(network, [], head), 224)
    assert whole.input.dtype == "uint8"
    assert np.allclose(whole.predict(pictures, verbose=0), head.predict(features, verbose=0), atol=1e-4)


@pytest.mark.slow
def test_tensorflow_retrains_resnet_on_real_pictures(real_data, aerial):
    tiles, labels, fold = aerial
    network = backbones.get(str(real_data / "weights" / "resnet50_imagenet_conv4.keras")).build()
    features = retraining.compute(network, tiles)
    right = np.zeros(len(labels), bool)
    for k in range(5):
        train, held_out = np.flatnonzero(fold != k), np.flatnonzero(fold == k)
        head = retraining.new_head(features[train], 6, seed=0)
        retraining.train(head, (features[train], labels[train]), (features[held_out], labels[held_out]),
                         seed=0, epochs=20, learning_rate=1e-3)
        right[held_out] = head.predict(features[held_out], verbose=0).argmax(axis=1) == labels[held_out]
    print(f"ResNet-50 in TensorFlow: {right.mean():.1%}")
    assert right.mean() >= 0.97

import numpy as np
import pytest

from helpers.model import backbones
from helpers.model import retrain_tensorflow as retraining


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


@pytest.fixture(scope="module")
def stages(tiles):
    return backbones.get("resnet_small").build_stages()


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


def test_the_two_parts_make_the_whole_network(tiles, stages):
    pictures, _ = tiles
    frozen, last_stage = stages
    whole = retraining.compute(backbones.get("resnet_small").build(), pictures)
    parts = retraining.compute(last_stage, retraining.compute(frozen, pictures))
    assert np.allclose(whole, parts, rtol=1e-4, atol=1e-4)


def test_fine_tuning_moves_the_last_stage_and_nothing_else(tiles, stages):
    pictures, labels = tiles
    frozen = stages[0]
    last_stage = backbones.get("resnet_small").build_stages()[1]  # a copy that may be changed
    maps = retraining.compute(frozen, pictures)
    features = retraining.compute(last_stage, maps)
    head = retraining.new_head(features, 2, seed=0)
    # Not for long: a head that is sure of everything leaves nothing to learn.
    retraining.train(head, features, labels, (features, labels), 0, epochs=1, learning_rate=1e-3)
    before_frozen = [w.numpy().copy() for w in frozen.weights]
    before = {w.path: w.numpy().copy() for w in last_stage.weights}
    tuned = retraining.with_head(last_stage, head)
    start = tuned.predict(maps, verbose=0)
    assert np.allclose(start, head.predict(features, verbose=0), atol=1e-4)
    history = retraining.train(tuned, maps, labels, (maps, labels), 0, epochs=2, learning_rate=1e-3)
    assert len(history["accuracy"]) == len(history["val_accuracy"]) == 2
    moved = {w.path: bool((w.numpy() != before[w.path]).any()) for w in last_stage.weights}
    kernels = [path for path in moved if path.endswith("kernel")]
    statistics = [path for path in moved if "moving" in path or "gamma" in path or "beta" in path]
    assert kernels and all(moved[path] for path in kernels)
    assert statistics and not any(moved[path] for path in statistics)
    assert all((w.numpy() == old).all() for w, old in zip(frozen.weights, before_frozen))


def test_the_same_seed_trains_the_same_head(tiles, stages):
    pictures, labels = tiles
    features = retraining.compute(stages[1], retraining.compute(stages[0], pictures))
    weights = []
    for seed in (0, 0, 1):
        head = retraining.new_head(features, 2, seed)
        retraining.train(head, features, labels, (features, labels), seed, epochs=3, learning_rate=1e-3)
        weights.append(head.get_weights()[-2])
    assert np.allclose(weights[0], weights[1], atol=1e-6)
    assert not np.allclose(weights[0], weights[2], atol=1e-6)


def test_the_assembled_network_takes_the_pixels_themselves(tiles, stages):
    pictures, _ = tiles
    frozen, last_stage = stages
    features = retraining.compute(last_stage, retraining.compute(frozen, pictures))
    head = retraining.new_head(features, 2, seed=0)
    network = retraining.assemble([frozen, last_stage, head], 224)
    assert network.input.dtype == "uint8"
    assert np.allclose(network.predict(pictures, verbose=0), head.predict(features, verbose=0), atol=1e-4)


def test_tensorflow_retrains_resnet_on_real_pictures(real_data, aerial):
    tiles, labels, fold = aerial
    network = backbones.get(str(real_data / "weights" / "resnet50_imagenet_conv4.keras")).build()
    features = retraining.compute(network, tiles)
    right = np.zeros(len(labels), bool)
    for k in range(5):
        train, held_out = np.flatnonzero(fold != k), np.flatnonzero(fold == k)
        head = retraining.new_head(features[train], 6, seed=0)
        retraining.train(head, features[train], labels[train], (features[held_out], labels[held_out]),
                         seed=0, epochs=20, learning_rate=1e-3)
        right[held_out] = head.predict(features[held_out], verbose=0).argmax(axis=1) == labels[held_out]
    print(f"ResNet-50 in TensorFlow: {right.mean():.1%}")
    assert right.mean() >= 0.97

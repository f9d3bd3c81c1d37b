"""The recipe of the embedded weights: the same pictures from the same seed, and training that may be interrupted."""

import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from helpers.model import backbones
from helpers.pretraining import dataset, pictures, statistics, training
from networks import ROOT

# Keras writes its files through an interface that NumPy 2 deprecates.
pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")


def test_pictures_follow_from_the_seed_and_differ_within_and_between_classes():
    for class_id in range(len(pictures.FAMILIES)):
        one = pictures.draw(class_id, 0, px=64)
        assert one.shape == (64, 64, 3) and one.dtype == np.float32 and 0 <= one.min() and one.max() <= 1
        assert one.std() > 0.01
        np.testing.assert_array_equal(one, pictures.draw(class_id, 0, px=64))
        for other in (pictures.draw(class_id, 1, px=64), pictures.draw(class_id, 0, seed=1, px=64),
                      pictures.draw(class_id + 9, 0, px=64)):
            assert np.abs(one - other).mean() > 0.01
    crops = [pictures.crop(one, np.random.default_rng(seed)) for seed in (5, 5, 6)]
    np.testing.assert_array_equal(crops[0], crops[1])
    assert (crops[0] != crops[2]).any() and crops[0].dtype == np.uint8


def test_statistics_tell_what_they_are_named_after():
    across = np.arange(96)
    stripes = np.broadcast_to((127 + 120 * np.sin(across * 2 * np.pi / 8))[None, :, None], (96, 96, 3)).astype(np.uint8)
    both = np.stack([stripes, stripes.transpose(1, 0, 2)])
    power = statistics._spectrum(both.astype(np.float32).mean(axis=3) / 255).reshape(2, statistics.RINGS, -1)
    # Brightness that changes from left to right is power along u: direction 0; from top to bottom: the middle one.
    ring = np.floor(statistics.RINGS + np.log2(2 / 8 + 1e-9)).astype(int)
    assert np.unravel_index(power[0].argmax(), power[0].shape) == (ring, 0)
    assert np.unravel_index(power[1].argmax(), power[1].shape) == (ring, statistics.ORIENTATIONS // 2)
    flat, noise = np.full((1, 96, 96, 3), 100, np.uint8), np.random.default_rng(0).integers(0, 255, (1, 96, 96, 3))
    found = statistics.compute(np.concatenate([flat, noise.astype(np.uint8)]))
    assert np.isfinite(found).all()
    np.testing.assert_allclose(found[0, :3], 100 / 255, atol=1e-4)
    # A flat picture: no neighbour is brighter anywhere, the pattern of eight zeros.
    patterns = statistics._patterns(np.full((1, 9, 9), 0.5))
    assert (patterns == 0).all() and patterns.shape == (1, 7, 7)


def test_the_same_pictures_whatever_the_workers(tmp_path):
    one, two = (dataset.Dataset(tmp_path / str(w), classes=12, n_pictures=1, n_crops=2, drawn_px=64, stored_px=48,
                                workers=w, progress=lambda _: 0) for w in (1, 2))
    assert len(one) == 24 and sorted(np.unique(one.labels)) == list(range(12))
    np.testing.assert_array_equal(one.pictures(np.arange(24)), two.pictures(np.arange(24)))
    np.testing.assert_array_equal(one.statistics, two.statistics)
    fresh = statistics.compute(one.pictures(np.arange(24)))
    order = np.argsort(fresh[:, 0])
    np.testing.assert_array_equal(order, np.argsort(one.statistics[:, 0]))


def _weights(folder, until=None, seen=None):
    """AlexNet's first kernel after the small rehearsal."""
    training.pretrain("alexnet_small", folder, small=True, workers=1, until=until,
                      progress=([] if seen is None else seen).append)
    path = Path(folder) / "alexnet_small.onnx"
    return backbones.read_onnx(path)["conv1/kernel"] if path.exists() else None


def test_an_interrupted_training_goes_on_and_ends_as_an_unbroken_one(tmp_path):
    whole = _weights(tmp_path / "whole")
    shutil.copytree(tmp_path / "whole", tmp_path / "broken", ignore=shutil.ignore_patterns("alexnet*"))
    assert _weights(tmp_path / "broken", until=4) is None
    seen = []
    resumed = _weights(tmp_path / "broken", seen=seen)
    assert any("going on from step 4 of 10" in line for line in seen)
    np.testing.assert_allclose(resumed, whole, atol=1e-5)


def test_a_killed_drawing_leaves_no_half_shard(tmp_path):
    command = [sys.executable, "-c", "from helpers.pretraining.dataset import Dataset; "
               f"Dataset({str(tmp_path)!r}, classes=40, n_pictures=2, n_crops=1, workers=1)"]
    process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
                               start_new_session=True)
    for _ in range(600):
        if list(tmp_path.glob("*/pictures_*[0-9].npy")) or process.poll() is not None:
            break
        time.sleep(0.05)
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    drawn = set(tmp_path.glob("*/pictures_*[0-9].npy"))
    assert 1 <= len(drawn) < 4
    before = {path: path.stat().st_mtime_ns for path in drawn}
    assert len(dataset.Dataset(tmp_path, classes=40, n_pictures=2, n_crops=1, workers=1, progress=lambda _: 0)) == 80
    assert {path: path.stat().st_mtime_ns for path in drawn} == before

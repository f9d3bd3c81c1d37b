import numpy as np
import pytest

from helpers import InputError
from helpers.model import engines
from networks import coloured_tiles


def test_the_exported_network_predicts_what_keras_predicts(saved, network):
    tiles = np.random.default_rng(2).integers(0, 256, (30, 32, 32, 3), dtype=np.uint8)
    expected = network.predict(tiles, verbose=0)
    assert len(set(expected.argmax(axis=1))) > 1
    for name in ("onnxruntime", "tensorflow"):
        scored = engines.load(saved, name).score(tiles)
        assert scored.dtype == np.float32 and np.allclose(scored, expected, atol=1e-5)


def test_the_batch_changes_no_prediction(saved):
    tiles = coloured_tiles(21, 5)[0]
    network = engines.load(saved, "onnxruntime")
    expected = network.score(tiles)
    for network.batch_tiles in (1, 5, 64):
        assert np.allclose(network.score(tiles), expected, atol=1e-6)


def test_an_engine_that_is_not_there(saved):
    with pytest.raises(InputError, match="expected an engine of cntk, .* fastest, got 'caffe'"):
        engines.load(saved, "caffe")
    with pytest.raises(InputError, match="expected model.model in the bundle .* for the engine cntk, got model.int8"):
        engines.load(saved, "cntk")


def test_tiles_of_another_shape_are_refused(saved):
    with pytest.raises(InputError, match=r"expected tiles of 32 × 32 px .* got \(1, 64, 64, 3\) uint8"):
        engines.load(saved).score(np.zeros((1, 64, 64, 3), np.uint8))
    with pytest.raises(InputError, match="float64"):
        engines.load(saved).score(np.zeros((1, 32, 32, 3)))

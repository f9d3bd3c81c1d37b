"""Pixels: the tiles of a store in their order, read a few at a time, without filling the memory."""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from helpers import InputError
from helpers.tiles import pixels, store
from helpers.tiles.folder import write_images
from helpers.tiles.pictures import decode_all

# Keras writes its files through an interface that NumPy 2 deprecates.
pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")
TESTS = Path(__file__).resolve().parents[1]


def write_store(folder, n, ending, draw, **options) -> str:
    """A store of pictures of three classes, each a number's drawing."""
    for number in range(n):
        of_class = folder / "pictures" / "abc"[number % 3]
        of_class.mkdir(parents=True, exist_ok=True)
        Image.fromarray(draw(number)).save(of_class / f"{number}.{ending}", **options)
    write_images(str(folder / "pictures"), str(folder / "store"))
    return str(folder / "store")


@pytest.fixture
def written(tmp_path, monkeypatch):
    """A store of 90 pictures of three classes and three sizes, two of them alike."""
    monkeypatch.setenv("TUTORIAL_HOME", str(tmp_path / "home"))
    rng = np.random.default_rng(0)

    def draw(number):
        px = (16, 24, 32)[number % 3]
        return rng.integers(0, 256, (px, px, 3)).astype(np.uint8)
    return write_store(tmp_path, 90, "png", draw)


def test_tiles_come_in_the_order_of_the_table_and_as_often(written):
    whole = store.read(written)
    table = whole.sample(70, replace=True, random_state=1)
    tiles = pixels.read(written, table[["county", "year", "tile_id"]], (24, 24))
    expected = decode_all(table, (24, 24))
    assert tiles.shape == expected.shape and tiles.ndim == 4 and tiles.dtype == np.uint8 and len(tiles) == 70
    assert (tiles[:] == expected).all() and (tiles[5] == expected[5]).all()
    assert (tiles[[3, 60, 3]] == expected[[3, 60, 3]]).all() and (tiles[table["label"] == 1] == expected[
        table["label"] == 1]).all()
    assert (np.array(list(tiles)) == expected).all()


def test_a_tile_that_the_store_lacks_is_said(written):
    table = store.read(written, columns=["county", "year", "tile_id"])
    with pytest.raises(InputError, match="got 90") as error:
        pixels.read(written, table._append(dict(table.iloc[0], tile_id="nowhere"), ignore_index=True), (24, 24))
    assert str(error.value).startswith("expected ")


def test_nothing_is_left_when_the_process_ends(written, tmp_path):
    table = store.read(written, columns=["county", "year", "tile_id"])
    tiles = pixels.read(written, table, (24, 24))
    assert len(tiles[:3]) == 3 and list((tmp_path / "home" / "data").iterdir()) == []


MEASURED = """
import resource, sys, time
import numpy as np
from helpers.model import backbones, bundle
from helpers.model import retrain_tensorflow as retraining
from helpers.tiles import pixels, store
from networks import retrain
retraining.start_tensorflow()
written, n, folder, backbone = sys.argv[1], int(sys.argv[2]), sys.argv[3], sys.argv[4]
begun = time.time()
table = store.read(written, columns=["county", "year", "tile_id", "label"])
table = table.loc[np.resize(table.index, n)]
tiles = pixels.read(written, table, (224, 224))
labels = table["label"].to_numpy().astype(int)
few = tiles[:300]
model, _ = retrain(backbones.get(backbone), tiles, labels, (few, labels[:300]), 0, 1, 2, 1)
bundle.save_tensorflow(retraining.assemble(model, 224), folder, few[:50], {"classes": list("abc"), "backbone": {}},
                       calibration=few[:100], validation=(few, labels[:300]))
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6, time.time() - begun)
"""


@pytest.mark.slow
def test_memory_does_not_grow_with_the_pictures(tmp_path, monkeypatch):
    """Generated pictures of 256 px through retraining and the bundle: 1,000 of them and 10,000."""
    monkeypatch.setenv("TUTORIAL_HOME", str(tmp_path / "home"))
    rng = np.random.default_rng(0)
    written = write_store(tmp_path, 1000, "jpg", lambda _: rng.integers(0, 256, (32, 32, 3)).astype(np.uint8).repeat(
        8, axis=0).repeat(8, axis=1), quality=95)
    # What grows does so with any network: a small one tells in a fraction of the time.
    import keras
    small = tmp_path / "small.keras"
    keras.Sequential([keras.Input((224, 224, 3)), keras.layers.Conv2D(1024, 16, 16, name="first"),
                      keras.layers.Conv2D(512, 2, 2)]).save(small)
    peaks = []
    for backbone, n in (("mobilenet", 1000), (f"{small}#preprocessing=tf", 1000), (f"{small}#preprocessing=tf", 10000)):
        done = subprocess.run([sys.executable, "-c", MEASURED, written, str(n), str(tmp_path / "bundle"),
                               backbone], capture_output=True, text=True,
                              env=dict(os.environ, PYTHONPATH=str(TESTS)))
        assert done.returncode == 0, done.stderr[-2000:]
        peak, seconds = map(float, done.stdout.split()[-2:])
        print(f"{n:,} pictures, {backbone.split('/')[-1]}: {peak:.2f} GB at most, {seconds:.0f} s")
        peaks.append(peak)
    # The features of 9,000 pictures more take 0.06 GB, and as much again while they are joined.
    assert max(peaks) < 2.5 and peaks[2] - peaks[1] < 0.3

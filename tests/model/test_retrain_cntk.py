"""Retraining in CNTK: the head learns, and the export says what CNTK says or is refused."""

import subprocess
import tempfile
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx.helper import make_node as node
from scipy.special import softmax

from alexnet import write_alexnet
from helpers.files import sha256
from helpers.model import bundle, engines
from helpers.model.engine_cntk import cntk_environment
from helpers.tiles.pictures import decode, encode
from networks import coloured_tiles, needs_cntk, one_sentence, python36, session, write_network
from servers import Files

pytestmark = needs_cntk


def test_the_new_layer_learns_and_the_export_says_the_same(trained, textures):
    result, saved, tiles = trained
    history = result["history"]
    assert result["accuracy"] >= 0.95, result["accuracy"]
    assert history["loss"][-1] < 0.5 * history["loss"][0] and len(history["val_accuracy"]) == 20
    assert result["moved"] > 0.01
    assert result["parity"] == saved.facts["parity"]["model.onnx"]
    assert result["parity"]["tiles"] >= 200 and result["parity"]["same_class"] == 1
    assert result["parity"]["max_difference"] <= 1e-3
    assert sorted(saved.facts["files"]) == ["model.model", "model.onnx"]
    # Beyond the batches that it was compared in: one tile, and seven.
    assert onnx.load(str(saved.folder / "model.onnx")).opset_import[0].version >= 13
    logits = np.load(textures / "logits.npy")
    running = session(saved.folder / "model.onnx")
    for n in (1, 7):
        assert np.allclose(running.run(["logits"], {"tiles": tiles[:n]})[0], logits[:n], atol=1e-3)


@pytest.mark.slow
def test_alexnet_at_its_full_size_is_downloaded_cut_retrained_exported_and_scored(textures, monkeypatch):
    """What is particular to Caffe's AlexNet in the model zoo, with random weights, from a server on this machine."""
    data = dict(np.load(textures / "tiles.npz"))
    # It takes a gigabyte of disk, which pytest would keep.
    with tempfile.TemporaryDirectory() as folder, Files(folder) as server:
        folder = Path(folder)
        monkeypatch.setenv("TUTORIAL_HOME", str(folder / "home"))
        write_alexnet(folder / "zoo.onnx")
        np.savez(folder / "tiles.npz", **dict(data, tiles=data["tiles"][:, :224, :224]))
        result = python36("train", folder=str(folder), name="alexnet", tiles=str(folder / "tiles.npz"),
                          out=str(folder / "bundle"), epochs=5,
                          alexnet=(server.url + "/zoo.onnx", sha256(folder / "zoo.onnx")))
        assert server.asked == ["/zoo.onnx"] and (folder / "home/data/pretrained/bvlcalexnet-9.onnx").is_file()
        assert result["cut_at"] == ["fc7_2"] and result["moved"] > 0.01
        assert result["parity"]["tiles"] >= 200 and result["parity"]["same_class"] == 1
        saved, tiles = bundle.load(folder / "bundle"), data["tiles"][:20, :224, :224]
        scored = [engines.load(saved, name).score(tiles) for name in ("onnxruntime", "cntk")]
        expected = np.load(folder / "logits.npy")[:20]
        assert np.allclose(scored[0], softmax(expected, axis=1), atol=1e-3) and np.allclose(*scored, atol=1e-3)


def test_an_export_that_predicts_otherwise_is_refused_and_nothing_written(textures, tmp_path):
    data = dict(np.load(textures / "tiles.npz"))
    np.savez(tmp_path / "tiles.npz", **dict(data, tiles=data["tiles"][:, :64, :64]))
    path = write_network(tmp_path / "net.onnx", [
        node("Conv", ["data", "conv1_w"], ["c"], strides=[4, 4]), node("Relu", ["c"], ["r"])], {"conv1_w": (8, 3, 7, 7)})
    refusal = python36("train", True, folder=str(tmp_path), name=str(path), tiles=str(tmp_path / "tiles.npz"),
                       out=str(tmp_path / "bundle"), epochs=2, damage="weights")
    one_sentence(refusal, "model.onnx", " that differ by up to", "Nothing was written")
    assert sorted(one.name for one in tmp_path.iterdir()) == ["net.onnx", "tiles.npz"]


def test_a_tile_is_a_lossless_webp_that_the_pillow_of_python_36_reads():
    tile = coloured_tiles(1, 0)[0][0]
    image = encode(tile)
    assert image[8:12] == b"WEBP" and (decode(image) == tile).all()
    read_there = subprocess.run(
        [cntk_environment() / "bin" / "python", "-c", "import io, sys, numpy as np; from PIL import Image; "
         "sys.stdout.buffer.write(np.asarray(Image.open(io.BytesIO(sys.stdin.buffer.read()))).tobytes())"],
        input=image, capture_output=True, check=True)
    assert read_there.stdout == tile.tobytes()

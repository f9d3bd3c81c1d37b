"""Retraining in CNTK: the head learns, and the export says what CNTK says or is refused."""

import subprocess

import numpy as np
import onnx
from PIL import Image

from helpers.model import bundle, engines
from helpers.model.engine_cntk import cntk_environment
from helpers.scoring.score import score
from helpers.scoring.table import read
from helpers.tiles.folder import write_images
from helpers.tiles.pictures import decode, encode
from networks import coloured_tiles, needs_cntk, one_sentence, python36, session

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


def test_a_batch_of_one_and_other_parts_of_caffes_alexnet_are_exported(caffe_alexnet, textures, tmp_path):
    data = dict(np.load(textures / "tiles.npz"))
    np.savez(tmp_path / "tiles.npz", **dict(data, tiles=data["tiles"][:, :64, :64]))
    result = python36("train", folder=str(tmp_path), name=str(caffe_alexnet), tiles=str(tmp_path / "tiles.npz"),
                      out=str(tmp_path / "bundle"), epochs=2)
    assert result["parity"]["tiles"] >= 200 and result["parity"]["max_difference"] <= 1e-3
    assert engines.load(bundle.load(tmp_path / "bundle")).score(data["tiles"][:5, :64, :64]).shape == (5, 3)


def test_an_export_that_predicts_otherwise_is_refused_and_nothing_written(textures, tmp_path):
    refusal = python36("train", True, folder=str(tmp_path), name="alexnet_small", tiles=str(textures / "tiles.npz"),
                       out=str(tmp_path / "bundle"), epochs=2, damage="weights")
    one_sentence(refusal, "model.onnx", " that differ by up to", "Nothing was written")
    assert list(tmp_path.iterdir()) == []


def test_a_tile_is_a_lossless_webp_that_the_pillow_of_python_36_reads():
    tile = coloured_tiles(1, 0)[0][0]
    image = encode(tile)
    assert image[8:12] == b"WEBP" and (decode(image) == tile).all()
    read_there = subprocess.run(
        [cntk_environment() / "bin" / "python", "-c", "import io, sys, numpy as np; from PIL import Image; "
         "sys.stdout.buffer.write(np.asarray(Image.open(io.BytesIO(sys.stdin.buffer.read()))).tobytes())"],
        input=image, capture_output=True, check=True)
    assert read_there.stdout == tile.tobytes()


def test_cntk_retrains_squeezenet_on_real_pictures(real_data, aerial, spark, tmp_path):
    tiles, labels, fold = aerial
    tiles = np.stack([np.asarray(Image.fromarray(tile).resize((227, 227), Image.BILINEAR)) for tile in tiles])
    np.savez(tmp_path / "tiles.npz", tiles=tiles, labels=labels, fold=fold, names=[str(i) for i in range(6)])
    result = python36("train", folder=str(tmp_path), tiles=str(tmp_path / "tiles.npz"), out=str(tmp_path / "bundle"),
                      name=f"{real_data}/weights/squeezenet_v1.0_imagenet.onnx#layer=fire9_concat", epochs=30)
    print(f"SqueezeNet in CNTK: {result['accuracy']:.1%}")
    assert result["accuracy"] >= 0.95
    held_out = np.flatnonzero(fold == 4)
    folder = tmp_path / "aerial"
    folder.mkdir()
    for i in held_out:
        (folder / f"{i:03d}.png").write_bytes(encode(tiles[i]))
    write_images(folder, str(tmp_path / "store"))
    score(spark, str(tmp_path / "store"), bundle.load(tmp_path / "bundle"), str(tmp_path / "table"))
    of_cntk = np.load(tmp_path / "logits.npy")[held_out].argmax(axis=1)
    assert read(tmp_path / "table")["class_id"].tolist() == of_cntk.tolist()

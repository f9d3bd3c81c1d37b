"""What CNTK with SqueezeNet tells of real pictures, in folds by content; nothing is tuned on these."""

import numpy as np
import pytest

from helpers.model import bundle
from helpers.scoring.score import score
from helpers.scoring.table import read
from helpers.tiles.folder import write_images
from helpers.tiles.pictures import encode
from networks import needs_cntk, python36
from real_pictures import aerial, linear_accuracy, uc_merced

pytestmark = needs_cntk
PX = 227


@pytest.mark.slow
def test_aerial_pictures_of_six_classes(real_data, spark, tmp_path):
    """A linear head on the features, and what the product makes of them: trained in CNTK, exported, scored on Spark."""
    tiles, labels, fold = aerial(real_data, PX)
    np.savez(tmp_path / "tiles.npz", tiles=tiles, labels=labels, fold=fold, names=[str(i) for i in range(6)])
    result = python36("train", folder=str(tmp_path), tiles=str(tmp_path / "tiles.npz"), out=str(tmp_path / "bundle"),
                      name="squeezenet", epochs=30)
    accuracy = linear_accuracy(np.load(tmp_path / "features.npy"), labels, fold)
    print(f"SqueezeNet in CNTK, aerial: {accuracy:.3f} with a linear head, {result['accuracy']:.3f} with the product's")
    assert accuracy >= 0.95 and result["accuracy"] >= 0.95
    held_out = np.flatnonzero(fold == 4)
    folder = tmp_path / "aerial"
    folder.mkdir()
    for i in held_out:
        (folder / f"{i:03d}.png").write_bytes(encode(tiles[i]))
    write_images(folder, str(tmp_path / "store"))
    score(spark, str(tmp_path / "store"), bundle.load(tmp_path / "bundle"), str(tmp_path / "table"))
    of_cntk = np.load(tmp_path / "logits.npy")[held_out].argmax(axis=1)
    assert read(tmp_path / "table")["class_id"].tolist() == of_cntk.tolist()


@pytest.mark.slow
def test_uc_merced_of_21_classes(real_data, tmp_path):
    tiles, labels, fold = uc_merced(real_data, PX)
    np.save(tmp_path / "pictures.npy", tiles)
    features = python36("layers", name="squeezenet", pictures=str(tmp_path / "pictures.npy"))["features"]
    accuracy = linear_accuracy(np.array(features), labels, fold)
    print(f"SqueezeNet in CNTK, UC Merced: {accuracy:.3f} with a linear head")
    assert len(labels) == 1050 and accuracy >= 0.84

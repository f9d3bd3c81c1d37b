"""How well the default network tells real pictures apart. Nothing is tuned on them."""

import re

import numpy as np
import pytest

from helpers.model import backbones, bundle, engines, evaluation
from helpers.model import retrain_tensorflow as retraining
from helpers.tiles import pixels, store
from helpers.tiles.folder import write_images
from networks import retrain
from real_pictures import linear_accuracy

# Keras writes its files through an interface that NumPy 2 deprecates.
pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")
COLUMNS = ["tile_id", "county", "year", "label", "purity"]


@pytest.fixture(scope="module")
def features_of():
    network = backbones.get("mobilenet").build()
    return lambda tiles: retraining.compute(network, tiles)


def tiles_of(folder, written, split):
    """Pixels, labels and the table of a split of a folder of pictures."""
    table = store.read(written, split=split, columns=COLUMNS)
    return pixels.read(written, table, (224, 224)), table["label"].to_numpy().astype(int), table


@pytest.fixture(scope="module")
def ucm(real_data, tmp_path_factory):
    """The pictures of UC Merced, their classes, and five folds of neighbouring numbers."""
    written = str(tmp_path_factory.mktemp("ucm"))
    write_images(str(real_data / "ucm"), written)
    tables = [tiles_of(real_data / "ucm", written, split) for split in ("train", "validation")]
    names = np.concatenate([table["tile_id"] for _, _, table in tables])
    labels = np.concatenate([labels for _, labels, _ in tables])
    number = np.array([int(re.search(r"(\d+)\.\w+$", name).group(1)) for name in names])
    fold = np.empty(len(names), int)
    for label in np.unique(labels):
        members = np.flatnonzero(labels == label)[np.argsort(number[labels == label])]
        fold[members] = np.arange(len(members)) * 5 // len(members)
    return np.concatenate([tiles[:] for tiles, _, _ in tables]), labels, fold, written


@pytest.mark.slow
def test_a_linear_head_on_aerial_pictures(aerial, features_of):
    tiles, labels, fold = aerial
    features = features_of(tiles)
    accuracy, few = linear_accuracy(features, labels, fold), linear_accuracy(features, labels, fold, 10, draws=5)
    print(f"aerial, by content: {accuracy:.1%} with all pictures, {few:.1%} with ten a class")
    assert len(labels) == 751 and accuracy >= 0.955


@pytest.mark.slow
def test_a_linear_head_on_uc_merced(ucm, features_of):
    tiles, labels, fold, _ = ucm
    features = features_of(tiles)
    accuracy, few = linear_accuracy(features, labels, fold), linear_accuracy(features, labels, fold, 10, draws=3)
    print(f"UC Merced, by content: {accuracy:.1%} with all pictures, {few:.1%} with ten a class")
    assert len(labels) == 1050 and accuracy >= 0.92 and few >= 0.86


@pytest.mark.slow
def test_the_product_on_a_held_out_fifth_of_uc_merced(ucm, tmp_path):
    """As notebook 03 does it, and through the bundle's own engine."""
    written = ucm[3]
    train, labels, _ = tiles_of(None, written, "train")
    held_out, right, _ = tiles_of(None, written, "validation")
    model, histories = retrain(backbones.get("mobilenet"), train, labels, (held_out, right), seed=0)
    saved = bundle.save_tensorflow(retraining.assemble(model, 224), tmp_path / "bundle", held_out[:50],
                                   {"classes": list(store.classes(written)), "backbone": {"name": "mobilenet"}})
    predicted = engines.load(saved, "onnxruntime", threads=2).score(held_out).argmax(axis=1)
    accuracy = evaluation.accuracy(right, predicted)
    print(f"UC Merced, held out: head {histories[0]['val_accuracy'][-1]:.1%}, fine-tuned {accuracy:.1%}")
    assert len(right) == 210 and accuracy >= 0.92


# Classes of UC Merced that stand for one of the six, by the names of the folders.
SIX = {"beach": "Barren", "forest": "Forest", "chaparral": "Shrub", "agricultural": "Cultivated",
       "denseresidential": "Developed", "mediumresidential": "Developed", "buildings": "Developed"}


@pytest.mark.slow
@pytest.mark.xfail(strict=True, reason="the goal; 0.797 was measured on an Intel Xeon and 0.794 on an AMD EPYC")
def test_trained_on_one_source_and_tested_on_another(aerial, ucm, real_data):
    tiles, labels, fold = aerial
    names = sorted(path.name for path in (real_data / "aerial").iterdir() if path.is_dir())
    others = sorted(path.name for path in (real_data / "ucm").iterdir())
    chosen = np.isin(ucm[1], [others.index(name) for name in SIX])
    right = np.array([names.index(SIX[others[label]]) for label in ucm[1][chosen]])
    model, histories = retrain(backbones.get("mobilenet"), tiles[fold != 0], labels[fold != 0],
                               (tiles[fold == 0], labels[fold == 0]), seed=0)
    predicted = retraining.compute(model, ucm[0][chosen]).argmax(axis=1)
    for label in np.unique(right):
        print(f"{names[label]}: {(predicted[right == label] == label).mean():.1%}")
    accuracy = evaluation.accuracy(right, predicted)
    print(f"aerial to UC Merced, six classes: {accuracy:.1%}")
    assert accuracy >= 0.80

"""What each choice gains, and what it costs in tiles a second: on real pictures, and on the drawn county.

``REAL_RESULTS=write`` keeps the figures in ``real_results.json``, which the README shows. Nothing is chosen by them.
"""

import os
import time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from helpers.files import read_json, write_json
from helpers.model import backbones, evaluation
from helpers.model import retrain_tensorflow as retraining
from helpers.runs import Run
from helpers.tiles import pixels, store
from real_pictures import linear_accuracy, uc_merced

pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")
RESULTS = Path(__file__).with_name("real_results.json")
README = Path(__file__).resolve().parents[2] / "README.md"
# Accuracies that differ by less are equal: so much one of 1,050 pictures and the draw of ten a class may do.
EQUAL = 0.005


def keep(**figures):
    print(figures)
    if os.environ.get("REAL_RESULTS") == "write":
        write_json(RESULTS, dict(read_json(RESULTS) or {}, **figures))


def seconds_of(network, tiles):
    """Seconds of this machine's cores for one tile, after a first call that warms up."""
    retraining.compute(network, tiles[:32])
    started = time.process_time()
    retraining.compute(network, tiles[:128])
    return (time.process_time() - started) / 128


def squeezenet(tiles):
    """Averages of the last maps of the embedded SqueezeNet, and seconds of a core for a tile."""
    import onnx
    import onnxruntime
    from onnx.utils import Extractor
    network = onnx.shape_inference.infer_shapes(onnx.load(str(backbones.WEIGHTS / "squeezenet.onnx")))
    last = [node.output[0] for node in network.graph.node if node.op_type == "Concat"][-1]
    given = network.graph.input[0].name
    cut = Extractor(network).extract_model([given], [last])
    session = onnxruntime.InferenceSession(cut.SerializeToString(), providers=["CPUExecutionProvider"])
    _, mean, _ = backbones.PREPROCESSING["caffe"]
    started, found = time.process_time(), []
    for tile in tiles:
        tile = np.asarray(Image.fromarray(tile).resize((227, 227), Image.BILINEAR))[..., ::-1]
        pixels = (tile - np.float32(mean)).transpose(2, 0, 1)[None]
        found.append(session.run([last], {given: np.ascontiguousarray(pixels, np.float32)})[0].mean(axis=(2, 3))[0])
    return np.array(found), (time.process_time() - started) / len(tiles)


def turned(tiles):
    """The eight turns and mirrorings of tiles."""
    for flip in (1, -1):
        for turn in range(4):
            yield np.ascontiguousarray(np.rot90(tiles[:, :, ::flip], turn, axes=(1, 2)))


def cropped(tiles):
    """Five crops of tiles, the corners and the centre: three quarters of a side, in the tiles' size."""
    side = tiles.shape[1]
    most = side - 3 * side // 4
    for top, left in ((0, 0), (0, most), (most, 0), (most, most), (most // 2, most // 2)):
        yield np.stack([np.asarray(Image.fromarray(tile[top:top + side - most, left:left + side - most]).resize(
            (side, side), Image.BILINEAR)) for tile in tiles])


@pytest.mark.slow
def test_what_the_choices_gain_and_cost_on_uc_merced(real_data):
    tiles, labels, fold = uc_merced(real_data)
    other, other_s = squeezenet(tiles)
    network = backbones.get("mobilenet").build()
    once = seconds_of(network, tiles)
    features = retraining.compute(network, tiles)
    turns = np.mean([features, *(retraining.compute(network, one) for one in list(turned(tiles))[1:])], axis=0)
    crops = np.mean([features, *(retraining.compute(network, one) for one in cropped(tiles))], axis=0)
    colours = evaluation.colour_features(tiles)
    resnet = backbones.get(f"{real_data / 'weights' / 'resnet50_imagenet_conv4.keras'}#preprocessing=caffe").build()
    resnet_s = seconds_of(resnet, tiles)
    rows = {"colours": (colours, 0.0), "SqueezeNet": (other, other_s), "MobileNet": (features, once),
            "ResNet-50": (retraining.compute(resnet, tiles), resnet_s),
            "MobileNet, its last maps alone": (features[:, -1024:], once),
            "MobileNet, averaged over eight turns": (turns, 8 * once),
            "MobileNet, averaged with five crops": (crops, 6 * once),
            "MobileNet and SqueezeNet": (np.hstack([features, other]), once + other_s)}
    found = {name: {"all": round(linear_accuracy(values, labels, fold), 4),
                    "ten": round(linear_accuracy(values, labels, fold, 10, draws=3), 4),
                    "ms": round(1e3 * seconds, 2)} for name, (values, seconds) in rows.items()}
    keep(ucm_choices=found)
    assert found["colours"]["all"] < found["SqueezeNet"]["all"] < found["MobileNet"]["all"]
    assert found["MobileNet"]["ten"] < found["MobileNet"]["all"]


@pytest.mark.slow
def test_networks_rank_on_the_drawn_county_as_on_real_pictures(real_data):
    """A plain head on each network's features: pure tiles of the validation county, after notebook 02 has run."""
    written = str(Run("sample").tiles)
    if not store.partitions(written):
        pytest.skip("expected the sample's tiles in runs/sample/tiles, got none: execute notebook 02 first")
    columns = ["tile_id", "county", "year", "label", "purity"]
    classes = store.classes(written)
    train = store.balanced(store.pure(store.read(written, split="train", columns=columns), classes), 0, 120)
    held_out = store.pure(store.read(written, split="validation", columns=columns), classes)
    tiles, others = (pixels.read(written, table, (224, 224)) for table in (train, held_out))
    labels, right = (table["label"].to_numpy().astype(int) for table in (train, held_out))
    resnet = real_data / "weights" / "resnet50_imagenet_conv4.keras"
    named = {"MobileNet, untrained": backbones.get("mobilenet", untrained=True),
             "MobileNet": backbones.get("mobilenet"), "ResNet-50": backbones.get(f"{resnet}#preprocessing=caffe")}
    features = {"colours": (evaluation.colour_features(tiles[:]), evaluation.colour_features(others[:])),
                "SqueezeNet": (squeezenet(tiles[:])[0], squeezenet(others[:])[0])}
    for name, backbone in named.items():
        network = backbone.build()
        features[name] = retraining.compute(network, tiles), retraining.compute(network, others)
    found = {name: round(evaluation.accuracy(right, evaluation.linear_head(known, labels, unknown)), 4)
             for name, (known, unknown) in features.items()}
    keep(drawn_ranking=dict(found, tiles=len(right)))
    assert max(found["colours"], found["MobileNet, untrained"]) + 0.1 < found["SqueezeNet"]
    assert found["SqueezeNet"] < found["MobileNet"] + EQUAL and found["MobileNet"] < found["ResNet-50"] + EQUAL


def test_the_readme_shows_the_committed_figures():
    found, said = read_json(RESULTS), README.read_text()
    on_ucm, on_drawn = found["ucm_choices"], found["drawn_ranking"]
    for name in {*on_ucm, *on_drawn} - {"tiles"}:
        one, drawn = on_ucm.get(name), on_drawn.get(name)
        real = "– | –" if one is None else f"{one['all']:.1%} | {one['ten']:.1%}"
        times = f"{one['ms'] / on_ucm['MobileNet']['ms']:.1f}" if one and one["ms"] else "–"
        assert f"| {name} | {real} | {'–' if drawn is None else f'{drawn:.1%}'} | {times} |" in said

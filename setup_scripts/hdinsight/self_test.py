"""Scores ten drawn tiles with the embedded SqueezeNet: a node's set-up tests itself with it.

    python self_test.py head|worker|executor FOLDER

On a node (``head``, ``worker``) it draws tiles and network into FOLDER, scores, and keeps the answer there.
``executor`` runs in the Python of the executors' archive. It scores the same tiles and must get the same probabilities.
"""

import sys
import warnings
from pathlib import Path

import numpy as np
import pandas as pd

from helpers.files import whole_folder
from helpers.model import bundle, engines
from helpers.scoring.batch import score_images
from helpers.tiles.pictures import encode

PX = 227


def draw(folder):
    """A store's file of ten tiles of noise around ten colours, and a bundle."""
    rng = np.random.default_rng(0)
    pixels = (rng.integers(0, 200, (10, 1, 1, 3)) + rng.integers(0, 56, (10, PX, PX, 3))).astype(np.uint8)
    folder.mkdir(parents=True)
    pd.DataFrame({"tile_id": [f"utm19-{n:05d}" for n in range(10)], "county": "99001", "year": 2010,
                  "image": [encode(image) for image in pixels]}).to_parquet(folder / "tiles.parquet")
    with whole_folder(folder / "model", bundle.FILES) as part:
        network(part / "model.onnx")
        bundle.finish(part, {"classes": list("abcdef"), "backbone": {"name": "squeezenet"},
                             "input_px": [PX, PX]})


def network(path):
    """The embedded SqueezeNet with a random head, which turns its 1,000 logits into six probabilities."""
    import onnx
    from onnx import TensorProto, helper, numpy_helper

    from helpers.model import backbones
    model = onnx.load(str(Path(backbones.__file__).with_name("weights") / backbones.EMBEDDED["squeezenet"]))
    graph = model.graph
    graph.node.insert(0, helper.make_node("Transpose", ["values"], [graph.input[0].name], perm=[0, 3, 1, 2]))
    graph.node.insert(0, helper.make_node("Cast", ["tiles"], ["values"], to=TensorProto.FLOAT))
    graph.node.append(helper.make_node("MatMul", ["logits", "directions"], ["directed"]))
    graph.node.append(helper.make_node("Softmax", ["directed"], ["probabilities"], axis=1))
    graph.initializer.append(numpy_helper.from_array(
        np.random.default_rng(0).normal(0, 0.1, (1000, 6)).astype(np.float32), "directions"))
    del graph.input[:], graph.output[:]
    graph.input.append(helper.make_tensor_value_info("tiles", TensorProto.UINT8, ["n", PX, PX, 3]))
    graph.output.append(helper.make_tensor_value_info("probabilities", TensorProto.FLOAT, ["n", 6]))
    onnx.save(model, str(path))


def main(where, folder):
    warnings.simplefilter("ignore")
    import adlfs  # noqa: F401  Import it now: a missing part of it would otherwise show only when storage is read.
    folder = Path(folder)
    if where == "executor":
        import importlib.util
        assert importlib.util.find_spec("tensorflow") is None, "expected an archive without TensorFlow, got it."
    else:
        import rasterio  # noqa: F401
        draw(folder)
    if where == "head":
        import pyspark
        assert pyspark.__version__ >= "3.3", pyspark.__version__
    # Open the bundle as a worker does, without ``bundle.load``: that check needs onnx, which the archive lacks.
    model = bundle.Bundle(folder / "model")
    scored = score_images(pd.read_parquet(folder / "tiles.parquet")["image"].tolist(), model, engines.load(model), PX)
    assert [row.error for row in scored.rows] == [None] * 10, scored
    probabilities = np.array([row.probabilities for row in scored.rows])
    assert np.isfinite(probabilities).all() and probabilities.std(axis=0).max() > 0, probabilities
    if where == "executor":
        np.testing.assert_allclose(probabilities, np.load(folder / "probabilities.npy"), atol=1e-5)
    else:
        np.save(folder / "probabilities.npy", probabilities)
    print("ten tiles scored:", "".join(str(row.class_id) for row in scored.rows))


main(*sys.argv[1:])

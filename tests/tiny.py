"""A bundle and a store that are made in a moment, for tests of what happens around them."""

import numpy as np
import pandas as pd

from helpers.files import whole_folder
from helpers.land.grid import TILE_PX
from helpers.model import bundle, engines
from helpers.scoring.batch import score_images
from helpers.tiles.pictures import encode

PX = 32


def model(folder, seed=0, scale=0.05):
    """A bundle whose network has one layer: six probabilities of a tile's mean colour. No framework is needed."""
    import onnx
    from onnx import TensorProto, helper, numpy_helper
    weights = (np.random.default_rng(seed).normal(0, 1, (3, 6)) * scale).astype(np.float32)
    nodes = [helper.make_node("Cast", ["tiles"], ["values"], to=TensorProto.FLOAT),
             helper.make_node("ReduceMean", ["values"], ["means"], axes=[1, 2], keepdims=0),
             helper.make_node("MatMul", ["means", "weights"], ["logits"]),
             helper.make_node("Softmax", ["logits"], ["probabilities"], axis=1)]
    graph = helper.make_graph(
        nodes, "tiny", [helper.make_tensor_value_info("tiles", TensorProto.UINT8, ["n", PX, PX, 3])],
        [helper.make_tensor_value_info("probabilities", TensorProto.FLOAT, ["n", 6])],
        [numpy_helper.from_array(weights, "weights")])
    with whole_folder(folder, bundle.FILES) as part:
        onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8),
                  str(part / "model.onnx"))
        bundle.finish(part, {"classes": list("abcdef"), "backbone": {"name": "tiny"}, "input_px": [PX, PX]})
    return bundle.load(folder)


def scored(tiles, folder, engine="onnxruntime"):
    """The prediction table of a frame of tiles by a plain loop, in this process and without Spark."""
    saved = bundle.load(folder)
    network = engines.load(saved, engine)
    rows = []
    for (county, year), part in tiles.groupby(["county", "year"], sort=False):
        found = score_images(list(part["image"]), saved, network, TILE_PX if year else None)
        rows.append(pd.DataFrame(found.rows).assign(
            county=county, year=year, tile_id=part["tile_id"].to_numpy(), model=saved.checksum,
            engine=found.engine).astype({"class_id": "Int8"}))
    return pd.concat(rows, ignore_index=True)


def picture(seed):
    """An encoded tile of noise around one colour."""
    rng = np.random.default_rng(seed)
    noise = rng.integers(0, 256, 3) + rng.integers(0, 60, (PX, PX, 3))
    return encode(np.clip(noise, 0, 255).astype(np.uint8))


def pictures(folder, numbers):
    """Write pictures ``<number>.png`` into a folder."""
    folder.mkdir(parents=True, exist_ok=True)
    for number in numbers:
        (folder / f"{number:05d}.png").write_bytes(picture(number))

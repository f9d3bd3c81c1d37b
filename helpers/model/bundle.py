"""The model bundle: a folder with the network in its framework's format, the same network as ONNX, and facts.

``model.json`` holds classes, input contract, backbone, training data, metrics, and the SHA-256 of every other file. It
is written last; a folder without it is no bundle.
"""

import contextlib
import gc
import hashlib
import json
import os
import re
import shutil
import sys
from pathlib import Path

import numpy as np

from helpers import InputError
from helpers.files import NOT_JSON, filesystem, sha256, whole_folder, write_json, write_whole
from helpers.model import engines, judging
from helpers.model.engines import INT8, ONNX
from helpers.model.int8 import OPSET
from helpers.model.retrain_tensorflow import as_graph
from helpers.runs import home
from helpers.uri import absolute, join, shown

FACTS = "model.json"
KERAS = "model.keras"
CNTK = "model.model"
# The files of a bundle. With the last one it is complete.
FILES = [KERAS, CNTK, ONNX, INT8, FACTS]
# Two programs that add the same float32 numbers in a different order differ by less in a probability or logit.
TOLERANCE = 1e-3


class ExportRefused(InputError):
    """An exported network doesn't predict the same as its framework."""


def parity(reference: np.ndarray, exported: np.ndarray, quantity: str) -> dict:
    """Compare the ONNX file's outputs (N, n_classes) with the framework's, and refuse the export if they differ."""
    difference = float(np.abs(reference - exported).max())
    same = float((reference.argmax(axis=1) == exported.argmax(axis=1)).mean())
    if not difference <= TOLERANCE or same < 1:
        raise ExportRefused(
            f"expected {ONNX} to predict what the trained network predicts on {len(reference)} tiles, got {quantity} "
            f"that differ by up to {difference:.2g} (allowed: {TOLERANCE:g}) and the same class on {same:.1%}. Nothing "
            "was written; export it again with the versions in requirements.txt.")
    return {"tiles": len(reference), "max_difference": difference, "same_class": same}


def export_onnx(model, path):
    """Write a Keras model as ONNX: ``tiles`` uint8 (N, height, width, 3) in, ``probabilities`` out."""
    import onnx
    import tf2onnx
    # Keras's own exporter would turn constants that the graph captured into inputs.
    frozen = as_graph(lambda tiles: model(tiles, training=False), model.input_shape[1:])
    output = frozen.outputs[0].name
    with _collecting():
        exported, _ = tf2onnx.convert.from_graph_def(
            frozen.graph.as_graph_def(), input_names=["tiles:0"], output_names=[output], opset=OPSET,
            tensors_to_rename={"tiles:0": "tiles", output: "probabilities"})
        onnx.checker.check_model(exported)
        onnx.save(exported, str(path))
        del frozen, exported


@contextlib.contextmanager
def _collecting():
    """Soon free new objects that refer to each other: tf2onnx copies its graph in each of its passes, 1 GB in all."""
    thresholds = gc.get_threshold()
    gc.freeze()  # The collector need not look through older objects each time.
    gc.collect()
    gc.set_threshold(1000, 2, 1)
    try:
        yield
    finally:
        gc.unfreeze()
        gc.set_threshold(*thresholds)
        gc.collect()


def save_tensorflow(model, folder, tiles: np.ndarray, facts: dict, calibration=None, validation=None) -> "Bundle":
    """Write the bundle of a Keras model, or raise ``ExportRefused`` and write nothing.

    Parameters
    ----------
    folder : The bundle replaces an older one there; other files stay.
    tiles : Tiles to compare the export on, uint8.
    facts : JSON values for ``model.json``: at least ``classes`` and ``backbone``.
    calibration : Some 200 training tiles of all classes to calibrate an int8 network on; without them no faster engine
        is judged.
    validation : Other tiles and their class ids, at least ``judging.JUDGED_TILES``, to judge engines on.
    """
    reference = model.predict(tiles, batch_size=32, verbose=0)
    with whole_folder(folder, FILES) as part:
        model.save(str(part / KERAS))
        export_onnx(model, part / ONNX)
        exported = engines.start("onnxruntime", part / ONNX, os.cpu_count()).score(tiles)
        facts = dict(facts, framework="tensorflow", input_px=list(model.input_shape[1:3]),
                     parity={ONNX: parity(reference, exported, "probabilities")})
        finish(part, facts, calibration, validation)
    return load(folder)


def save_cntk(draft, folder):
    """Finish the bundle of a CNTK network, which ``retrain_cntk.save`` has drafted in another Python.

    The draft's ``arrays.npz`` holds ``tiles``, CNTK's ``logits`` of them and, to judge engines on, ``calibration``,
    ``validation`` and ``labels``. Its ``model.onnx``, of any version, gives ``probabilities`` and ``logits``.
    """
    from scipy.special import softmax
    draft = Path(draft)
    with np.load(str(draft / "arrays.npz"), allow_pickle=False) as file:
        arrays = dict(file)
    with whole_folder(folder, FILES) as part:
        shutil.copy(str(draft / CNTK), str(part / CNTK))
        try:
            logits, probabilities = _modernise(draft / ONNX, part / ONNX, arrays["tiles"])
        except Exception as error:  # Three libraries, each with its own kinds of errors.
            raise ExportRefused(f"expected {ONNX} that ONNX Runtime can run, got: {engines.said(error)}. Nothing was "
                                "written; cut the network at another layer.")
        parity(softmax(arrays["logits"], axis=1), probabilities, "probabilities")
        facts = dict(json.loads((draft / FACTS).read_text()), parity={ONNX: parity(arrays["logits"], logits, "logits")})
        finish(part, facts, arrays.get("calibration"), (arrays.get("validation"), arrays.get("labels")))


def _modernise(old, new, tiles):
    """Bring an ONNX file to ``OPSET`` or later, and compute the new file's logits and probabilities of tiles."""
    import onnx
    from onnx import version_converter
    exported = onnx.load(str(old))
    if exported.opset_import[0].version < OPSET:
        exported = version_converter.convert_version(exported, OPSET)
    onnx.checker.check_model(exported, full_check=True)
    onnx.save(exported, str(new))
    session = engines.onnx_session(str(new), os.cpu_count())
    outputs = [session.run(["logits", "probabilities"], {"tiles": tiles[i:i + 32]}) for i in range(0, len(tiles), 32)]
    return tuple(np.concatenate(one) for one in zip(*outputs))


def finish_draft(arguments: list) -> int:
    """Run ``save_cntk`` as a program: a refusal becomes exit status 2 and a sentence on standard error."""
    try:
        save_cntk(*arguments[1:])
    except InputError as error:
        print(error, file=sys.stderr)
        return 2
    return 0


def finish(folder: Path, facts: dict, calibration=None, validation=None):
    """Judge engines if there are tiles for it, and write ``model.json`` with the checksums of all files beside it."""
    if calibration is not None:
        facts = dict(facts, judged=judging.judge(folder, calibration, validation))
    write_json(folder / FACTS, dict(facts, files={path.name: sha256(path) for path in sorted(folder.iterdir())}))


class Bundle:
    """A model bundle on this machine with verified checksums; ``facts`` are those of its ``model.json``.

    It takes tiles of ``input_px``, height and width. Twelve digits, the ``checksum``, name it in prediction tables.
    """

    def __init__(self, folder):
        self.folder = Path(folder)
        if not (self.folder / FACTS).is_file():
            raise InputError(f"expected a model bundle at {self.folder}, got no {FACTS} there. Run notebook "
                             "03_retraining_tensorflow, or give the folder of a bundle.")
        self.facts = _facts((self.folder / FACTS).read_bytes(), self.folder)
        self.classes = tuple(self.facts["classes"])
        self.input_px = tuple(self.facts["input_px"])
        for name, expected in self.facts["files"].items():
            path = self.folder / name
            # A link could lead out of the bundle.
            came = sha256(path) if path.is_file() and not path.is_symlink() else "no such file"
            if came != expected:
                raise InputError(f"expected {name} of the bundle {self.folder} with SHA-256 {expected[:12]}…, got "
                                 f"{came[:12]}. Bring the bundle again.")
        self.checksum = sha256(self.folder / FACTS)[:12]


def _facts(content: bytes, source) -> dict:
    """The facts in a ``model.json``, if their values are of the right kinds and all its files lie beside it."""
    try:
        facts = json.loads(content.decode())
        texts = [*facts["classes"], *facts["files"], *facts["files"].values()]
        if not (facts["classes"] and all(isinstance(text, str) for text in texts)
                and len(set(facts["classes"])) == len(facts["classes"])
                and all(re.fullmatch("[0-9a-f]{64}", digest) for digest in facts["files"].values())
                and [type(px) for px in facts["input_px"]] == [int, int] and min(facts["input_px"]) > 0
                and isinstance(facts["backbone"], dict)
                and all(isinstance(one["refused"], (str, type(None))) for one in facts.get("judged", {}).values())):
            raise ValueError("a value of the wrong kind")
        for name in facts["files"]:
            if not re.fullmatch(r"\w[\w.-]*", name):
                raise ValueError(f"a file {name!r}, which lies elsewhere")
        return facts
    except (*NOT_JSON, ValueError, KeyError, TypeError, AttributeError) as error:
        raise InputError(f"expected {FACTS} of a model bundle at {source}, got one that can't be used ({error!r}). "
                         "Bring the bundle again.")


def _refuse_weights_elsewhere(bundle):
    """Refuse ONNX files whose weights lie in another file, which has no checksum and may be anywhere."""
    import onnx

    def elsewhere(message):
        parts = [part for field, value in message.ListFields() if field.message_type is not None
                 for part in ([value] if hasattr(value, "ListFields") else value)]
        return getattr(message, "data_location", 0) == onnx.TensorProto.EXTERNAL or any(map(elsewhere, parts))

    for name in bundle.facts["files"]:
        if name.endswith(".onnx"):
            try:
                network = onnx.load(str(bundle.folder / name), load_external_data=False)
            except Exception as error:  # protobuf has its own kinds of errors.
                raise InputError(f"expected {name} of the bundle {bundle.folder} to be an ONNX network, got: "
                                 f"{engines.said(error)}. Bring the bundle again.")
            if elsewhere(network):
                raise InputError(f"expected {name} of the bundle {bundle.folder} to hold its weights, got one that has "
                                 "them in another file. Save it as one file.")
    return bundle


def load(uri) -> Bundle:
    """Open the bundle in a folder, or copy it from any fsspec URI to ``data/bundles`` and open it there.

    A bundle is refused if a file in it is missing or changed, or if an ONNX file keeps its weights elsewhere.
    """
    if "://" not in str(uri):
        return _refuse_weights_elsewhere(Bundle(absolute(uri)))
    system, path = filesystem(uri)
    try:
        facts = system.cat_file(join(path, FACTS))
    except FileNotFoundError:
        raise InputError(f"expected a model bundle at {shown(uri)}, got no {FACTS} there. Upload one: "
                         "helpers.model.bundle.upload, or setup_scripts/hdinsight/upload.sh.")
    # The copy is named after its content: two jobs that make it at the same time write the same files.
    folder = home() / "data" / "bundles" / hashlib.sha256(facts).hexdigest()[:20]
    names = _facts(facts, shown(uri))["files"]
    with contextlib.suppress(InputError):
        return _refuse_weights_elsewhere(Bundle(folder))  # It was copied before, and is whole.
    for name in names:
        write_whole(folder / name, system.cat_file(join(path, name)))
    write_whole(folder / FACTS, facts)
    return _refuse_weights_elsewhere(Bundle(folder))


def upload(bundle: Bundle, uri: str):
    """Copy a bundle to a URI, ``model.json`` last: an interrupted copy is no bundle."""
    for name in sorted(bundle.facts["files"]) + [FACTS]:
        write_whole(join(uri, name), (bundle.folder / name).read_bytes())

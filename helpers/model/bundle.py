"""The model bundle: a folder with the network in its framework's format, the same network as ONNX, and facts.

A second ONNX file holds the network in int8, where that has been measured to predict as well. ``model.json`` holds
classes, input contract, backbone, training data, metrics, and the SHA-256 of every other file. It is written last; a
folder without it is no bundle.
"""

import hashlib
import json
import shutil
import sys
from pathlib import Path

import numpy as np

from helpers import InputError, files as storage
from helpers.files import sha256, whole_folder
from helpers.runs import home
from helpers.uri import join, shown
from helpers.model.int8 import ONNX, OPSET, _add_int8

FACTS = "model.json"
KERAS = "model.keras"
CNTK = "model.model"
# Two programs that add the same float32 numbers in another order differ by less than this in a probability or logit.
TOLERANCE = 1e-3


class ExportRefused(InputError):
    """An exported network doesn't predict what its framework predicts."""


def parity(reference, exported, name, quantity="probabilities"):
    """Compare an exported network with its framework, and refuse one that differs.

    Parameters
    ----------
    reference, exported : numpy.ndarray
        Shape (N, n_classes), float32, of the same tiles.
    name : str
        The exported file, for the message.
    quantity : str
        What the numbers are: ``"probabilities"`` or ``"logits"``.

    Returns
    -------
    dict
        ``tiles``, ``max_difference`` of a number, ``same_class``: share of tiles.

    Raises
    ------
    ExportRefused
        If a number differs by more than ``TOLERANCE``, or a tile changes its class.
    """
    difference = float(np.abs(reference - exported).max())
    same = float((reference.argmax(axis=1) == exported.argmax(axis=1)).mean())
    if not difference <= TOLERANCE or same < 1:
        raise ExportRefused(
            "expected {} to predict what the trained network predicts on {} tiles, got {} that differ by "
            "up to {:.2g} (allowed: {:g}) and the same class on {:.1%}. Nothing was written; export it again with "
            "the versions in requirements.txt.".format(
                name, len(reference), quantity, difference, TOLERANCE, same))
    return {"tiles": len(reference), "max_difference": difference, "same_class": same}


def export_onnx(model, path):
    """Write a Keras model as ONNX: ``tiles`` uint8 (N, height, width, 3) in, ``probabilities`` out.

    Parameters
    ----------
    model : keras.Model
        With its preprocessing inside.
    path : str or pathlib.Path
    """
    import onnx
    import tensorflow as tf
    import tf2onnx
    from tensorflow.python.framework.convert_to_constants import convert_variables_to_constants_v2

    specification = tf.TensorSpec((None,) + tuple(model.input_shape[1:]), tf.uint8, name="tiles")
    graph = tf.function(lambda tiles: model(tiles, training=False)).get_concrete_function(specification)
    # Frozen first: Keras's own exporter turns constants that the graph captured into inputs nobody can feed.
    frozen = convert_variables_to_constants_v2(graph)
    exported, _ = tf2onnx.convert.from_graph_def(
        frozen.graph.as_graph_def(), input_names=["tiles:0"], output_names=[frozen.outputs[0].name], opset=OPSET)
    _rename(exported.graph, {"tiles:0": "tiles", frozen.outputs[0].name: "probabilities"})
    onnx.checker.check_model(exported)
    onnx.save(exported, str(path))


def _rename(graph, names):
    """Rename values of an ONNX graph, wherever they occur."""
    for node in graph.node:
        node.input[:] = [names.get(name, name) for name in node.input]
        node.output[:] = [names.get(name, name) for name in node.output]
    for value in list(graph.input) + list(graph.output):
        value.name = names.get(value.name, value.name)


def save_tensorflow(model, folder, tiles, facts, calibration=None, validation=None):
    """Write the bundle of a Keras model.

    Parameters
    ----------
    model : keras.Model
        uint8 (N, height, width, 3) RGB tiles to (N, n_classes) probabilities.
    folder : str or pathlib.Path
        The bundle; an older one there is replaced when the new one is whole.
    tiles : numpy.ndarray
        Tiles to compare the export on, uint8 (N, height, width, 3).
    facts : dict
        JSON values for ``model.json``: at least ``classes`` and ``backbone``.
    calibration : numpy.ndarray, optional
        Training tiles to calibrate an int8 network on, some 200 of all classes; without them there will be none.
    validation : tuple of numpy.ndarray, optional
        Other tiles and their class ids, at least ``JUDGED_TILES``, that decide whether it is good enough.

    Returns
    -------
    Bundle
        ``facts["int8"]`` says what was measured of the int8 network, and why it was ``refused`` if it was.

    Raises
    ------
    ExportRefused
        If the export differs from the model. Nothing is written then.
    """
    from helpers.model import engines
    reference = model.predict(tiles, batch_size=32, verbose=0)
    with whole_folder(folder) as part:
        model.save(str(part / KERAS))
        export_onnx(model, part / ONNX)
        exported = engines.OnnxRuntime(part / ONNX).score(tiles)
        facts = dict(facts, framework="tensorflow", input_px=list(model.input_shape[1:3]),
                     parity={ONNX: parity(reference, exported, ONNX)})
        if calibration is not None:
            facts["int8"] = _add_int8(part, calibration, validation)
        _finish(part, facts)
    return load(folder)


def save_cntk(draft, folder):
    """Finish the bundle of a CNTK network, which ``retraining_cntk.save`` has drafted in another Python.

    Parameters
    ----------
    draft : str or pathlib.Path
        Folder with ``model.model``; ``model.onnx``, the same network in ONNX of any version, with outputs
        ``probabilities`` and ``logits``; ``tiles.npy`` and ``logits.npy``, what CNTK computed of them;
        ``model.json``; and, to have an int8 network too, ``calibration.npy``, ``validation.npy`` and ``labels.npy``.
    folder : str or pathlib.Path
        The bundle; an older one there is replaced when the new one is whole.

    Raises
    ------
    ExportRefused
        If the export can't be run, or differs from CNTK. Nothing is written then.
    """
    import onnx
    import onnxruntime
    from onnx import version_converter
    draft = Path(draft)
    tiles = np.load(str(draft / "tiles.npy"), allow_pickle=False)
    reference = np.load(str(draft / "logits.npy"), allow_pickle=False)
    with whole_folder(folder) as part:
        shutil.copy(str(draft / CNTK), str(part / CNTK))
        try:
            exported = onnx.load(str(draft / ONNX))
            if exported.opset_import[0].version < OPSET:
                exported = version_converter.convert_version(exported, OPSET)
            onnx.checker.check_model(exported, full_check=True)
            onnx.save(exported, str(part / ONNX))
            session = onnxruntime.InferenceSession(str(part / ONNX), providers=["CPUExecutionProvider"])
            logits, probabilities = zip(*(session.run(["logits", "probabilities"], {"tiles": tiles[i:i + 32]})
                                          for i in range(0, len(tiles), 32)))
        except Exception as error:  # Three libraries, each with errors of its own kinds.
            raise ExportRefused("expected {} that ONNX Runtime can run, got: {}. Nothing was written; cut the network "
                                "at another layer.".format(ONNX, " ".join(str(error).split())[:300]))
        logits, probabilities = np.concatenate(logits), np.concatenate(probabilities)
        shifted = np.exp(reference - reference.max(axis=1, keepdims=True))
        parity(shifted / shifted.sum(axis=1, keepdims=True), probabilities, ONNX)
        facts = dict(json.loads((draft / FACTS).read_text()),
                     parity={ONNX: parity(reference, logits, ONNX, "logits")})
        if (draft / "calibration.npy").is_file():
            calibration, tiles, labels = (np.load(str(draft / name), allow_pickle=False) for name in (
                "calibration.npy", "validation.npy", "labels.npy"))
            facts["int8"] = _add_int8(part, calibration, (tiles, labels))
        _finish(part, facts)


def finish_draft(arguments):
    """``save_cntk`` as a program: exit status 2, with its sentence on standard error, where it refuses."""
    try:
        save_cntk(*arguments[1:])
    except InputError as error:
        print(error, file=sys.stderr)
        return 2
    return 0


def _finish(part, facts):
    """Write ``model.json`` with the checksums of all files beside it."""
    facts = dict(facts, files={p.name: sha256(p) for p in sorted(part.iterdir())})
    (part / FACTS).write_text(json.dumps(facts, indent=1, sort_keys=True) + "\n")


class Bundle:
    """A model bundle on this machine, its checksums verified.

    Parameters
    ----------
    folder : str or pathlib.Path

    Attributes
    ----------
    folder : pathlib.Path
    facts : dict
        ``model.json``.
    classes : tuple of str
    input_px : tuple of int
        Height and width of the tiles it takes.
    checksum : str
        Twelve hexadecimal digits that name this model in prediction tables.

    Raises
    ------
    InputError
        If the folder is no bundle, or a file in it is missing or changed.
    """

    def __init__(self, folder):
        self.folder = Path(folder)
        if not (self.folder / FACTS).is_file():
            raise InputError("expected a model bundle at {}, got no {} there. Run notebook 03_retraining_tensorflow, "
                             "or give the folder of a bundle.".format(self.folder, FACTS))
        try:
            self.facts = json.loads((self.folder / FACTS).read_text())
            self.classes = tuple(self.facts["classes"])
            self.input_px = tuple(self.facts["input_px"])
            files = dict(self.facts["files"])
        except (ValueError, KeyError, TypeError) as error:
            raise InputError("expected {} of a model bundle at {}, got one that can't be read ({!r}). Bring the "
                             "bundle again.".format(FACTS, self.folder, error))
        for name, expected in files.items():
            path = self.folder / name
            # A name with a folder in it, or a link, could lead out of the bundle.
            is_here = path.is_file() and path.name == name and not path.is_symlink()
            came = sha256(path) if is_here else "no such file"
            if came != expected:
                raise InputError("expected {} of the bundle {} with SHA-256 {}…, got {}. Bring the bundle "
                                 "again.".format(name, self.folder, expected[:12], came[:12]))
        self.checksum = sha256(self.folder / FACTS)[:12]


def _refuse_weights_elsewhere(bundle):
    """Refuse ONNX files whose weights lie in another file: that one has no checksum, and may be anywhere."""
    import onnx

    def tensors(message):
        for field, value in message.ListFields():
            if field.message_type is not None:
                for part in [value] if hasattr(value, "ListFields") else value:
                    if isinstance(part, onnx.TensorProto):
                        yield part
                    yield from tensors(part)

    for name in bundle.facts["files"]:
        if name.endswith(".onnx"):
            try:
                network = onnx.load(str(bundle.folder / name), load_external_data=False)
            except Exception as error:  # protobuf's own kinds
                raise InputError("expected {} of the bundle {} to be an ONNX network, got: {}. Bring the bundle "
                                 "again.".format(name, bundle.folder, " ".join(str(error).split())[:200].rstrip(".")))
            if any(tensor.data_location == onnx.TensorProto.EXTERNAL for tensor in tensors(network)):
                raise InputError("expected {} of the bundle {} to hold its weights, got one that has them in another "
                                 "file. Save it as one file.".format(name, bundle.folder))
    return bundle


def load(uri):
    """Open a bundle.

    Parameters
    ----------
    uri : str or pathlib.Path
        A folder, or any fsspec URI of one, which is copied to ``data/bundles`` first.

    Returns
    -------
    Bundle

    Raises
    ------
    InputError
        If there is no bundle, or a file in it is missing or changed, or an ONNX file keeps its weights elsewhere.
    """
    if "://" not in str(uri):
        return _refuse_weights_elsewhere(Bundle(uri))
    folder = home() / "data" / "bundles" / hashlib.sha256(str(uri).encode()).hexdigest()[:12]
    filesystem, path = storage.filesystem(uri)
    with whole_folder(folder) as part:
        try:
            names = filesystem.ls(path, detail=False)
        except FileNotFoundError:
            raise InputError("expected a model bundle at {}, got nothing there. Upload one: helpers.model.bundle.upload, or "
                             "setup_scripts/hdinsight/upload.sh.".format(shown(uri)))
        for name in names:
            (part / name.rsplit("/", 1)[-1]).write_bytes(filesystem.cat_file(name))
    return _refuse_weights_elsewhere(Bundle(folder))


def upload(bundle, uri):
    """Copy a bundle to a URI, its ``model.json`` last: a copy that was cut off is no bundle.

    Parameters
    ----------
    bundle : Bundle
    uri : str
    """
    for name in sorted(bundle.facts["files"]) + [FACTS]:
        with storage.writing(join(uri, name)) as file:
            with open(str(bundle.folder / name), "rb") as source:
                shutil.copyfileobj(source, file)

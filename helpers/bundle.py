"""The model bundle: a folder with the network in its framework's format, the same network as ONNX, and facts.

``model.json`` holds classes, input contract, backbone, training data, metrics, and the SHA-256 of every other
file. It is written last; a folder without it is no bundle.
"""

import contextlib
import hashlib
import json
import os
import shutil
import sys
from pathlib import Path

import numpy as np

from helpers import InputError
from helpers.runs import home, sha256

FACTS = "model.json"
ONNX = "model.onnx"
KERAS = "model.keras"
CNTK = "model.model"
# Two programs that add the same float32 numbers in another order differ by less than this in a probability or logit.
TOLERANCE = 1e-3
# Of the ONNX that is written.
OPSET = 13


class ExportRefused(InputError):
    """An exported network doesn't predict what its framework predicts."""


@contextlib.contextmanager
def writing(folder):
    """A new folder that takes the place of ``folder`` only when everything in it has been written.

    Yields
    ------
    pathlib.Path
        Where to write.
    """
    folder = Path(folder)
    part = folder.with_name(".{}.{}.part".format(folder.name, os.getpid()))
    shutil.rmtree(str(part), ignore_errors=True)
    part.mkdir(parents=True)
    try:
        yield part
        if folder.exists():
            shutil.rmtree(str(folder))
        part.rename(folder)
    finally:
        shutil.rmtree(str(part), ignore_errors=True)


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


def save_tensorflow(model, folder, tiles, facts):
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

    Returns
    -------
    Bundle

    Raises
    ------
    ExportRefused
        If the export differs from the model. Nothing is written then.
    """
    from helpers import engines
    reference = model.predict(tiles, batch_size=32, verbose=0)
    with writing(folder) as part:
        model.save(str(part / KERAS))
        export_onnx(model, part / ONNX)
        exported = engines.OnnxRuntime(part / ONNX).score(tiles)
        _finish(part, dict(facts, framework="tensorflow", input_px=list(model.input_shape[1:3]),
                           parity={ONNX: parity(reference, exported, ONNX)}))
    return load(folder)


def save_cntk(draft, folder):
    """Finish the bundle of a CNTK network, which ``retraining_cntk.save`` has drafted in another Python.

    Parameters
    ----------
    draft : str or pathlib.Path
        Folder with ``model.model``; ``model.onnx``, the same network in ONNX of any version, with outputs
        ``probabilities`` and ``logits``; ``tiles.npy`` and ``logits.npy``, what CNTK computed of them; and
        ``model.json``.
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
    with writing(folder) as part:
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
        _finish(part, dict(json.loads((draft / FACTS).read_text()),
                           parity={ONNX: parity(reference, logits, ONNX, "logits")}))


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
            # A name with a folder in it could point outside the bundle.
            came = sha256(path) if path.is_file() and path.name == name else "no such file"
            if came != expected:
                raise InputError("expected {} of the bundle {} with SHA-256 {}…, got {}. Bring the bundle "
                                 "again.".format(name, self.folder, expected[:12], came[:12]))
        self.checksum = sha256(self.folder / FACTS)[:12]


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
        If there is no bundle, or a file in it is missing or changed.
    """
    if "://" not in str(uri):
        return Bundle(uri)
    import fsspec
    folder = home() / "data" / "bundles" / hashlib.sha256(str(uri).encode()).hexdigest()[:12]
    filesystem, path = fsspec.core.url_to_fs(str(uri))
    with writing(folder) as part:
        for name in filesystem.ls(path, detail=False):
            filesystem.get(name, str(part / name.rsplit("/", 1)[-1]))
    return Bundle(folder)

"""The model bundle: a folder with the network in its framework's format, the same network as ONNX, and facts.

A second ONNX file holds the network in int8, where that has been measured to predict as well. ``model.json`` holds
classes, input contract, backbone, training data, metrics, and the SHA-256 of every other file. It is written last; a
folder without it is no bundle.
"""

import contextlib
import hashlib
import json
import os
import shutil
import sys
import tempfile
from pathlib import Path

import numpy as np

from helpers import InputError, storage
from helpers.runs import home, sha256

FACTS = "model.json"
ONNX = "model.onnx"
INT8 = "model.int8.onnx"
KERAS = "model.keras"
CNTK = "model.model"
# Two programs that add the same float32 numbers in another order differ by less than this in a probability or logit.
TOLERANCE = 1e-3
# Of the ONNX that is written; the first whose quantisation knows channels.
OPSET = 13
# An int8 network is used where it names at least this share of the tiles as the float32 network does, and is right on
# no more than this share fewer. On fewer tiles than these neither is known well enough.
SAME_CLASS, ACCURACY_LOST, JUDGED_TILES = 0.97, 0.005, 300


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


def quantise(path, int8_path, tiles):
    """Write an ONNX network in int8: weights by channel, activations by the ranges they have on some tiles.

    What comes before the first convolution stays as it is, and so does the head: it is small, and decides.

    Parameters
    ----------
    path : str or pathlib.Path
        float32, opset 13 or later; ``tiles`` in, ``probabilities`` out.
    int8_path : str or pathlib.Path
        File to write.
    tiles : numpy.ndarray
        Training tiles, uint8 (N, height, width, 3).
    """
    import onnx
    from onnxruntime import quantization
    from onnxruntime.quantization import shape_inference

    class Batches(quantization.CalibrationDataReader):
        def __init__(self):
            # One order for any order of the tiles' classes, so that each batch sees several of them.
            order = np.random.RandomState(0).permutation(len(tiles))
            self._batches = iter([{"tiles": tiles[np.sort(rows)]} for rows in np.array_split(
                order, max(1, len(tiles) // 8))])

        def get_next(self):
            return next(self._batches, None)

    with tempfile.TemporaryDirectory() as folder:
        plain = os.path.join(folder, ONNX)
        # Batch normalisations become part of the convolutions, and every value gets its shape.
        shape_inference.quant_pre_process(str(path), plain, skip_symbolic_shape=True)
        network = onnx.load(plain)
        _pad_inside_pooling(network.graph)
        fractions = _lrn_in_plain_operations(network.graph)
        onnx.save(network, plain)
        dense = [node.name for node in network.graph.node if node.op_type in ("Gemm", "MatMul")]
        quantization.quantize_static(
            plain, str(int8_path), Batches(), quant_format=quantization.QuantFormat.QDQ, per_channel=True,
            activation_type=quantization.QuantType.QUInt8, weight_type=quantization.QuantType.QInt8,
            op_types_to_quantize=["Conv", "Relu", "MaxPool", "Add", "Concat", "Gemm", "MatMul"],
            nodes_to_exclude=dense[-1:] + fractions,
            # A mean of the batches' ranges: one odd tile would coarsen the steps for all others.
            extra_options={"CalibMovingAverage": True})


def _lrn_in_plain_operations(graph):
    """Write local response normalisation, as in AlexNet, with operations that ONNX Runtime computes quickly.

    Its own takes two thirds of an int8 AlexNet's time. The sum of squares over neighbouring channels is a 1 × 1
    convolution with a band of ones; to the power of 3/4 is the root times the root's root.

    Returns
    -------
    list of str
        Names of the nodes that must stay in float32: squares and their roots have too wide a range for int8.
    """
    from onnx import helper, numpy_helper
    shapes = {value.name: [d.dim_value for d in value.type.tensor_type.shape.dim] for value in graph.value_info}
    nodes, names = [], []
    for node in graph.node:
        given = {a.name: helper.get_attribute_value(a) for a in node.attribute}
        channels = shapes.get(node.input[0], [0, 0])[1] if node.op_type == "LRN" else 0
        if not channels or given.get("beta", 0.75) != 0.75:
            nodes.append(node)
            continue
        x, y, size = node.input[0], node.output[0], given["size"]
        # ONNX's window: from (size - 1) // 2 channels before to size // 2 after, rounded up.
        apart = np.subtract.outer(np.arange(channels), np.arange(channels))
        band = (apart <= (size - 1) // 2) & (-apart <= size // 2)
        kernel = (band * given.get("alpha", 1e-4) / size).astype(np.float32)[:, :, None, None]
        graph.initializer.extend([
            numpy_helper.from_array(kernel, y + "/band"),
            numpy_helper.from_array(np.full(channels, given.get("bias", 1.0), np.float32), y + "/bias")])
        steps = [("Mul", [x, x], "/squares"), ("Conv", [y + "/squares", y + "/band", y + "/bias"], "/sum"),
                 ("Sqrt", [y + "/sum"], "/root"), ("Sqrt", [y + "/root"], "/fourth"),
                 ("Mul", [y + "/root", y + "/fourth"], "/power"), ("Div", [x, y + "/power"], "")]
        nodes += [helper.make_node(operator, inputs, [y + output], name=y + output)
                  for operator, inputs, output in steps]
        names += [y + output for _, _, output in steps]
    del graph.node[:]
    graph.node.extend(nodes)
    return names


def _pad_inside_pooling(graph):
    """Have a MaxPool pad by itself what a Pad with 0 pads before it, where nothing is below 0: after a Relu.

    Keras's ResNet-50 has such a Pad; quantised networks compute it in float32, back and forth.
    """
    from onnx import helper, numpy_helper
    constants = {tensor.name: numpy_helper.to_array(tensor) for tensor in graph.initializer}
    makers = {output: node for node in graph.node for output in node.output}
    for pool in graph.node:
        pad = makers.get(pool.input[0]) if pool.op_type == "MaxPool" else None
        relu = makers.get(pad.input[0]) if pad is not None and pad.op_type == "Pad" else None
        if relu is None or relu.op_type != "Relu" or pad.input[1] not in constants:
            continue
        value = constants.get(pad.input[2]) if len(pad.input) > 2 else np.float32(0)
        before, after = np.split(constants[pad.input[1]], 2)
        attributes = {a.name: a for a in pool.attribute}
        pads_itself = (any(attributes["pads"].ints) if "pads" in attributes else
                       "auto_pad" in attributes and attributes["auto_pad"].s not in (b"VALID", b"NOTSET"))
        if (value is None or value != 0 or before[:2].any() or after[:2].any() or pads_itself
                or sum(pad.output[0] in node.input for node in graph.node) > 1):
            continue
        for name in set(attributes) & {"pads", "auto_pad"}:
            pool.attribute.remove(attributes[name])
        pool.attribute.append(helper.make_attribute("pads", [int(n) for n in np.concatenate([before[2:], after[2:]])]))
        pool.input[0] = pad.input[0]
        graph.node.remove(pad)
    # ONNX Runtime warns of weights that nothing reads.
    read = {name for node in graph.node for name in node.input}
    for tensor in [tensor for tensor in graph.initializer if tensor.name not in read]:
        graph.initializer.remove(tensor)


def _add_int8(part, calibration, validation):
    """Write ``model.int8.onnx`` into a bundle in the making, if it predicts as well as ``model.onnx``.

    Parameters
    ----------
    part : pathlib.Path
        The folder, with ``model.onnx``.
    calibration : numpy.ndarray
        Training tiles, uint8 (N, height, width, 3).
    validation : tuple of numpy.ndarray
        Other tiles, and their class ids, (N,) integer.

    Returns
    -------
    dict
        ``refused``: why it was not written, else None; ``calibration_tiles``; and as far as it came ``tiles``,
        ``same_class``, ``accuracy``, ``accuracy_float32``.
    """
    from helpers import engines
    tiles, labels = validation
    facts = {"calibration_tiles": len(calibration), "tiles": len(tiles), "refused": None}
    if len(tiles) < JUDGED_TILES:
        return dict(facts, refused="expected at least {} labelled validation tiles to judge the int8 network on, got "
                    "{}. float32 is used; hold more tiles out to have int8.".format(JUDGED_TILES, len(tiles)))
    try:
        quantise(part / ONNX, part / INT8, calibration)
        came = engines.OnnxRuntimeInt8(part / INT8).score(tiles).argmax(axis=1)
    except Exception as error:  # A network of someone's own may have any operator; the bundle is good without int8.
        (part / INT8).unlink(missing_ok=True)
        return dict(facts, refused="expected a network that ONNX Runtime can quantise, got: {}. float32 is used; cut "
                    "the network at another layer to have int8.".format(" ".join(str(error).split())[:200]))
    wanted = engines.OnnxRuntime(part / ONNX).score(tiles).argmax(axis=1)
    facts.update(same_class=float((came == wanted).mean()), accuracy=float((came == labels).mean()),
                 accuracy_float32=float((wanted == labels).mean()))
    lost = facts["accuracy_float32"] - facts["accuracy"]
    if not (facts["same_class"] >= SAME_CLASS and lost <= ACCURACY_LOST):
        (part / INT8).unlink()
        facts["refused"] = (
            "expected the int8 network to name {:.0%} of {} validation tiles as float32 does and to lose at most "
            "{:.1f} points of accuracy, got {:.1%} and {:.1f} points. float32 is used; calibrate on more tiles to have "
            "int8.".format(SAME_CLASS, len(tiles), 100 * ACCURACY_LOST, facts["same_class"], 100 * lost))
    return facts


def int8_in_words(bundle):
    """One sentence about a bundle's int8 network: how well it was measured to predict, or why there is none."""
    facts = bundle.facts.get("int8")
    if facts is None:
        return "No int8 network was asked for when this bundle was written: float32 is used."
    if facts["refused"]:
        return "int8 is refused: " + facts["refused"]
    return ("int8 is used: on {tiles} validation tiles it names {same_class:.1%} as float32 does, and is right on "
            "{accuracy:.1%} against {accuracy_float32:.1%}.".format(**facts))


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
    from helpers import engines
    reference = model.predict(tiles, batch_size=32, verbose=0)
    with writing(folder) as part:
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
    with writing(folder) as part:
        try:
            names = filesystem.ls(path, detail=False)
        except FileNotFoundError:
            raise InputError("expected a model bundle at {}, got nothing there. Upload one: helpers.bundle.upload, or "
                             "setup_scripts/hdinsight/upload.sh.".format(storage.shown(uri)))
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
        with storage.writing(storage.join(uri, name)) as file:
            with open(str(bundle.folder / name), "rb") as source:
                shutil.copyfileobj(source, file)

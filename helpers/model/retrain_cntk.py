"""Transfer learning in Microsoft Cognitive Toolkit 2.7: a network from ONNX, cut, frozen, and given a new head.

Runs in Python 3.6, in the environment that ``setup_scripts/install_cntk.sh`` makes. CNTK's own reader of ONNX
gives a graph that it can't write again, so the weights are read out of the file into the same network built from
CNTK's operations.
"""

import json
import os
import subprocess
import tempfile
from pathlib import Path

import numpy as np

from helpers import InputError, runs
from helpers.model import bundle as bundles
from helpers.model.cntk_network import PREPROCESSING
from helpers.model.cntk_process import BATCH, compute, load_network, start_cntk
from helpers.model.int8 import ONNX

# Of 0 to 1 the best on the sample's training counties, trained on one of them and judged on the other.
WEIGHT_DECAY = 0.03
# Fewer tiles can't show that an export predicts the same.
PARITY_TILES = 200


def new_head(features, n_classes, seed):
    """A head: features brought to mean 0 and deviation 1, then one dense layer.

    Parameters
    ----------
    features : numpy.ndarray
        Shape (N, n_features), of the training tiles; gives mean and deviation.
    n_classes : int
    seed : int
        Of the initial weights.

    Returns
    -------
    Head
    """
    cntk = start_cntk()
    mean = features.mean(axis=0).astype(np.float32)
    deviation = np.sqrt(features.var(axis=0) + 1e-6).astype(np.float32)
    inputs = cntk.input_variable(features.shape[1], name="features")
    dense = cntk.layers.Dense(n_classes, init=cntk.glorot_uniform(seed=seed + 1), name="dense")
    return Head(cntk.alias(dense((inputs - cntk.constant(mean)) / cntk.constant(deviation)), name="head"),
                mean, deviation)


class Head:
    """The new last layer.

    Attributes
    ----------
    logits : cntk.Function
        float32 features (n_features,) to logits (n_classes,).
    mean, deviation : numpy.ndarray
        (n_features,) float32, of the training tiles' features.
    """

    def __init__(self, logits, mean, deviation):
        self.logits, self.mean, self.deviation = logits, mean, deviation

    @property
    def weights(self):
        """(n_features, n_classes) float32, for features of mean 0 and deviation 1."""
        return next(p.value for p in self.logits.parameters if len(p.shape) == 2)

    @property
    def bias(self):
        """(n_classes,) float32."""
        return next(p.value for p in self.logits.parameters if len(p.shape) == 1)

    def predict(self, features):
        """Logits, float32 (N, n_classes), of features (N, n_features)."""
        return self.logits.eval({self.logits.arguments[0]: np.ascontiguousarray(features, dtype=np.float32)})


def train(head, features, labels, validation, seed, epochs, learning_rate, weight_decay=WEIGHT_DECAY, progress=None):
    """Train a head by Adam in minibatches, with a learning rate that falls to zero along a cosine.

    The validation tiles are measured after each epoch and choose nothing: neither the epoch nor a parameter.

    Parameters
    ----------
    head : Head
        Its weights are changed in place.
    features, labels : numpy.ndarray
        (N, n_features) and (N,) integer.
    validation : tuple of numpy.ndarray
        Features and labels of the validation county.
    seed : int
        Of the shuffling.
    epochs : int
    learning_rate : float
        At the start.
    weight_decay : float
        Of L2 regularisation.
    progress : callable, optional
        Called with one line of text for each epoch.

    Returns
    -------
    dict of list of float
        ``loss``, ``accuracy``, ``val_loss``, ``val_accuracy``, one value an epoch.
    """
    cntk = start_cntk()
    n_classes = head.logits.shape[0]
    target = cntk.input_variable(n_classes, name="target")
    loss = cntk.cross_entropy_with_softmax(head.logits, target)
    error = cntk.classification_error(head.logits, target)
    rates = [learning_rate * 0.5 * (1 + np.cos(np.pi * (epoch + 0.5) / epochs)) for epoch in range(epochs)]
    # A rate is meant for a whole minibatch (IGNORE), and one holds for each epoch of len(labels) tiles.
    schedule = cntk.learning_parameter_schedule(rates, minibatch_size=cntk.learners.IGNORE, epoch_size=len(labels))
    learner = cntk.adam(head.logits.parameters, schedule,
                        momentum=cntk.momentum_schedule(0.9), unit_gain=True, use_mean_gradient=True,
                        l2_regularization_weight=weight_decay)
    trainer = cntk.Trainer(head.logits, (loss, error), [learner])
    one_hot = np.eye(n_classes, dtype=np.float32)
    inputs = head.logits.arguments[0]
    rng = np.random.RandomState(seed)
    history = {"loss": [], "accuracy": [], "val_loss": [], "val_accuracy": []}
    for epoch in range(epochs):
        order = rng.permutation(len(labels))
        sums = np.zeros(2)
        for start in range(0, len(order), BATCH):
            rows = order[start:start + BATCH]
            trainer.train_minibatch({inputs: np.ascontiguousarray(features[rows], dtype=np.float32),
                                     target: one_hot[labels[rows]]})
            sums += len(rows) * np.array([trainer.previous_minibatch_loss_average,
                                          1 - trainer.previous_minibatch_evaluation_average])
        logits = head.predict(validation[0]).astype(np.float64)
        shifted = logits - logits.max(axis=1, keepdims=True)
        log_probabilities = shifted - np.log(np.exp(shifted).sum(axis=1, keepdims=True))
        history["loss"].append(float(sums[0] / len(labels)))
        history["accuracy"].append(float(sums[1] / len(labels)))
        history["val_loss"].append(float(-log_probabilities[np.arange(len(logits)), validation[1]].mean()))
        history["val_accuracy"].append(float((logits.argmax(axis=1) == validation[1]).mean()))
        if progress:
            progress("epoch {:2d} of {}: accuracy {:.3f}, on the validation county {:.3f}".format(
                epoch + 1, epochs, history["accuracy"][-1], history["val_accuracy"][-1]))
    return history


def assemble(features, head):
    """The network to save: the frozen part and the head on it.

    Parameters
    ----------
    features : cntk.Function
        From ``Pretrained.features``.
    head : Head

    Returns
    -------
    cntk.Function
        float32 (3, height, width) RGB 0 to 255 in; two outputs, ``probabilities`` and ``logits``, both (n_classes,).
    """
    cntk = start_cntk()
    logits = head.logits.clone(cntk.CloneMethod.freeze, {head.logits.arguments[0]: features})
    logits = cntk.alias(logits, name="logits")
    return cntk.combine([cntk.alias(cntk.softmax(logits, axis=0), name="probabilities"), logits])


def save(pretrained, head, folder, tiles, facts, calibration=None, validation=None):
    """Write the bundle: CNTK's own file, the same network as ONNX, and the proof that both predict the same.

    The ONNX file is the source's, cut at the layers, with the preprocessing before it and the trained head behind it.
    The main Python brings it to a version of today, compares it with CNTK, and writes the bundle, or refuses to.

    Parameters
    ----------
    pretrained : Pretrained
    head : Head
        Trained.
    folder : str or pathlib.Path
        The bundle; an older one there is replaced when the new one is whole.
    tiles : numpy.ndarray
        At least ``PARITY_TILES`` tiles to compare on, uint8 (N, height, width, 3).
    facts : dict
        JSON values for ``model.json``: at least ``classes`` and ``backbone``.
    calibration, validation : optional
        What an int8 network is made of and judged by, as in ``helpers.model.bundle.save_tensorflow``.

    Returns
    -------
    helpers.model.bundle.Bundle

    Raises
    ------
    helpers.model.bundle.ExportRefused
        If the export differs from CNTK. Nothing is written then.
    """
    import onnx
    if len(tiles) < PARITY_TILES:
        raise InputError("expected at least {} tiles to compare an export on, got {}. Give more; they need no "
                         "label.".format(PARITY_TILES, len(tiles)))
    cntk = start_cntk()
    network = assemble(pretrained.features(), head)
    with tempfile.TemporaryDirectory() as draft:
        draft = Path(draft)
        network.save(str(draft / bundles.CNTK))
        # What is compared is the network as CNTK reads it back, not the one in memory.
        saved = load_network(cntk, str(draft / bundles.CNTK))
        np.save(str(draft / "tiles.npy"), tiles)
        np.save(str(draft / "logits.npy"), compute(cntk.combine([saved.find_by_name("logits").outputs[0]]), tiles))
        onnx.save(export(pretrained, head), str(draft / ONNX))
        if calibration is not None:
            for name, array in zip(("calibration", "validation", "labels"), (calibration,) + tuple(validation)):
                np.save(str(draft / (name + ".npy")), array)
        facts = dict(facts, framework="cntk", input_px=list(pretrained.input_px))
        (draft / bundles.FACTS).write_text(json.dumps(facts))
        _finish(draft, folder)
    return bundles.load(folder)


def _finish(draft, folder):
    """Have the main Python check a draft and write the bundle."""
    python = os.environ.get("TUTORIAL_PYTHON") or str(runs.home() / ".venv" / "bin" / "python")
    if not Path(python).exists():
        raise InputError("expected the tutorial's own Python to finish the bundle, got no {}. Run "
                         "setup_scripts/run_tutorial.sh once, or set TUTORIAL_PYTHON.".format(python))
    environment = {k: v for k, v in os.environ.items() if k not in ("LD_LIBRARY_PATH", "PYTHONHOME", "MPLBACKEND")}
    environment["PYTHONPATH"] = str(Path(__file__).resolve().parents[2])
    program = "import sys; from helpers.model import bundle; sys.exit(bundle.finish_draft(sys.argv))"
    done = subprocess.run([python, "-c", program,
                           str(draft), str(Path(folder).resolve())], env=environment, stdout=subprocess.PIPE,
                          stderr=subprocess.PIPE, universal_newlines=True)
    if done.returncode == 2:
        raise bundles.ExportRefused(done.stderr.strip().splitlines()[-1])
    if done.returncode:
        raise RuntimeError("the main Python could not finish the bundle:\n" + done.stderr[-2000:])


def export(pretrained, head):
    """A pretrained network and a trained head as ONNX, in the version of the pretrained file.

    Returns
    -------
    onnx.ModelProto
        ``tiles`` uint8 (N, height, width, 3) RGB in; ``probabilities`` and ``logits`` (N, n_classes) out.
    """
    import onnx
    from onnx import TensorProto, helper, numpy_helper
    nodes, initializers = [], []

    def constant(name, value):
        initializers.append(numpy_helper.from_array(np.ascontiguousarray(value), name))
        return name

    def node(operator, inputs, output, **attributes):
        nodes.append(helper.make_node(operator, inputs, [output], name=output, **attributes))
        return output

    def inside(name):
        # Apart from the names that a bundle's network has by contract.
        return name and "pretrained/" + name

    x = node("Cast", ["tiles"], "float_tiles", to=TensorProto.FLOAT)
    x = node("Transpose", [x], "channels_first", perm=[0, 3, 1, 2])
    order, mean, deviation = PREPROCESSING[pretrained.preprocessing]
    if order == "BGR":
        x = node("Gather", [x, constant("bgr", np.array([2, 1, 0], dtype=np.int64))], "reordered", axis=1)
    if pretrained.preprocessing != "none":
        x = node("Sub", [x, constant("mean", np.float32(mean).reshape(1, 3, 1, 1))], "centred")
        x = node("Div", [x, constant("deviation", np.float32(deviation).reshape(1, 3, 1, 1))], "preprocessed")
    node("Identity", [x], inside(pretrained._input))

    used = pretrained._needed(pretrained.cut_at)
    for source in used:
        if source.op_type == "Dropout":
            node("Identity", [inside(source.input[0])], inside(source.output[0]))
            continue
        copy = onnx.NodeProto()
        copy.CopyFrom(source)
        copy.input[:] = [inside(name) for name in source.input]
        copy.output[:] = [inside(name) for name in source.output]
        if source.op_type == "Reshape":
            # The file may have the batch written into it: 0 keeps the batch that comes.
            copy.input[1] = constant(inside(source.output[0]) + "/shape", np.array([0, -1], dtype=np.int64))
        nodes.append(copy)
    reads = {name for n in nodes for name in n.input}
    constants = {n.output[0] for n in pretrained._model.graph.node if n.op_type == "Constant"}
    for name, value in pretrained._weights.items():
        if inside(name) in reads and name not in constants:
            constant(inside(name), value)

    parts = []
    for layer in pretrained.cut_at:
        value = pretrained._output_of(layer)
        output = inside(value)
        if len(pretrained.shape(layer)) == 3:
            output = node("GlobalAveragePool", [output], output + "/average")
        parts.append(node("Flatten", [output], output + "/flat", axis=1))
    x = parts[0] if len(parts) == 1 else node("Concat", parts, "features", axis=1)
    x = node("Sub", [x, constant("head/mean", head.mean)], "head/centred")
    x = node("Div", [x, constant("head/deviation", head.deviation)], "head/standardised")
    node("Gemm", [x, constant("head/weights", head.weights), constant("head/bias", head.bias)], "logits")
    node("Softmax", ["logits"], "probabilities", axis=1)

    n_classes = len(head.bias)
    graph = helper.make_graph(
        nodes, "land_cover",
        [helper.make_tensor_value_info("tiles", TensorProto.UINT8, ("N",) + pretrained.input_px + (3,))],
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, ("N", n_classes))
         for name in ("probabilities", "logits")],
        initializers)
    # IR 4 is the first in which weights needn't be inputs too.
    return helper.make_model(graph, opset_imports=list(pretrained._model.opset_import),
                             ir_version=max(4, pretrained._model.ir_version))

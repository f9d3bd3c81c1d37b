"""Transfer learning in Microsoft Cognitive Toolkit 2.7: a frozen network from ONNX gets a new head.

This module runs in Python 3.6, in the environment that ``setup_scripts/install_cntk.sh`` makes.
"""

import json
import os
import subprocess
import tempfile
from pathlib import Path

import numpy as np
from scipy.special import log_softmax

from helpers import InputError
from helpers.model import bundle as bundles
from helpers.model.cntk_export import export
from helpers.model.cntk_process import BATCH, compute, evaluate, load_network, start_cntk
from helpers.model.engines import ONNX
from helpers.model.retrain_tensorflow import augment
from helpers.runs import home

# The best value from 0 to 1 for heads that learn one of the sample's training counties and are judged on the other.
WEIGHT_DECAY = 0.1
# Rows of features in each step of training.
MINIBATCH = 32


def compute_copies(function, tiles, copies: int, seed: int) -> np.ndarray:
    """Outputs (copies × N, …) of a CNTK function on all tiles, then on changed copies of them, set after set."""
    found = [compute(function, tiles)]
    for copy in range(1, copies):
        found += [compute(function, augment(tiles[start:start + BATCH], seed + copy, range(start, start + BATCH)))
                  for start in range(0, len(tiles), BATCH)]
    return np.concatenate(found)


def compute_maps(function, tiles: np.ndarray) -> list:
    """Each output, float32 (N, …), of a CNTK function with one or more outputs, on a few uint8 tiles."""
    answers = evaluate(function, tiles)
    return [answers[output] for output in function.outputs] if len(function.outputs) > 1 else [answers]


def new_head(features: np.ndarray, n_classes: int, seed: int) -> "Head":
    """A head that scales features (N, n_features) like these to mean 0 and deviation 1, and has one dense layer."""
    cntk = start_cntk()
    mean = features.mean(axis=0).astype(np.float32)
    deviation = np.sqrt(features.var(axis=0) + 1e-6).astype(np.float32)
    inputs = cntk.input_variable(features.shape[1], name="features")
    dense = cntk.layers.Dense(n_classes, init=cntk.glorot_uniform(seed=seed + 1), name="dense")
    return Head(cntk.alias(dense((inputs - mean) / deviation), name="head"), mean, deviation)


class Head:
    """The new last layer: a ``cntk.Function`` of ``logits``, and the ``mean`` and ``deviation`` of the features."""

    def __init__(self, logits, mean, deviation):
        self.logits, self.mean, self.deviation = logits, mean, deviation

    @property
    def weights(self) -> np.ndarray:
        """(n_features, n_classes) float32, for features of mean 0 and deviation 1."""
        return next(p.value for p in self.logits.parameters if len(p.shape) == 2)

    @property
    def bias(self) -> np.ndarray:
        return next(p.value for p in self.logits.parameters if len(p.shape) == 1)

    def predict(self, features: np.ndarray) -> np.ndarray:
        """The logits, float32 (N, n_classes), of features (N, n_features)."""
        return self.logits.eval({self.logits.arguments[0]: np.ascontiguousarray(features, dtype=np.float32)})


def train(head: Head, features: np.ndarray, labels: np.ndarray, validation: tuple, seed: int, epochs: int,
          learning_rate: float) -> dict:
    """Train a head by Adam in minibatches, with a learning rate that falls to zero along a cosine.

    Features and labels of ``validation`` are measured after each epoch and choose nothing. The history has a list with
    a value for each epoch of ``loss``, ``accuracy``, ``val_loss`` and ``val_accuracy``.
    """
    cntk = start_cntk()
    n_classes = head.logits.shape[0]
    target = cntk.input_variable(n_classes, name="target")
    loss = cntk.cross_entropy_with_softmax(head.logits, target)
    error = cntk.classification_error(head.logits, target)
    rates = [learning_rate * 0.5 * (1 + np.cos(np.pi * (epoch + 0.5) / epochs)) for epoch in range(epochs)]
    # A rate is for a whole minibatch (IGNORE), and holds for an epoch of len(labels) tiles.
    schedule = cntk.learning_parameter_schedule(rates, minibatch_size=cntk.learners.IGNORE, epoch_size=len(labels))
    learner = cntk.adam(head.logits.parameters, schedule, momentum=cntk.momentum_schedule(0.9), unit_gain=True,
                        use_mean_gradient=True, l2_regularization_weight=WEIGHT_DECAY)
    trainer = cntk.Trainer(head.logits, (loss, error), [learner])
    one_hot = np.eye(n_classes, dtype=np.float32)
    inputs = head.logits.arguments[0]
    rng = np.random.RandomState(seed)
    history = {"loss": [], "accuracy": [], "val_loss": [], "val_accuracy": []}
    for _ in range(epochs):
        order = rng.permutation(len(labels))
        sums = np.zeros(2)
        for start in range(0, len(order), MINIBATCH):
            rows = order[start:start + MINIBATCH]
            trainer.train_minibatch({inputs: np.ascontiguousarray(features[rows], dtype=np.float32),
                                     target: one_hot[labels[rows]]})
            sums += len(rows) * np.array([trainer.previous_minibatch_loss_average,
                                          1 - trainer.previous_minibatch_evaluation_average])
        logits = head.predict(validation[0]).astype(np.float64)
        of_labels = log_softmax(logits, axis=1)[np.arange(len(logits)), validation[1]]
        measured = [*(sums / len(labels)), -of_labels.mean(), (logits.argmax(axis=1) == validation[1]).mean()]
        for values, value in zip(history.values(), measured):
            values.append(float(value))
    return history


def save(pretrained, head: Head, folder, tiles: np.ndarray, facts: dict, calibration=None, validation=None):
    """Write the bundle: CNTK's own file, the same network as ONNX, and the proof that both predict the same.

    The ONNX file is the pretrained one, cut, with the preprocessing before it and the head behind it. The main Python
    modernises it, compares it with CNTK on the tiles, and writes the bundle or refuses to.
    The other arguments are those of ``helpers.model.bundle.save_tensorflow``.
    """
    import onnx
    cntk = start_cntk()
    logits = cntk.alias(head.logits.clone(
        cntk.CloneMethod.freeze, {head.logits.arguments[0]: pretrained.features()}), name="logits")
    network = cntk.combine([cntk.alias(cntk.softmax(logits, axis=0), name="probabilities"), logits])
    with tempfile.TemporaryDirectory() as draft:
        draft = Path(draft)
        network.save(str(draft / bundles.CNTK))
        # The comparison is with the network as CNTK reads it back from the file.
        saved = load_network(cntk, str(draft / bundles.CNTK))
        arrays = {"tiles": tiles, "logits": compute(cntk.combine([saved.find_by_name("logits").outputs[0]]), tiles)}
        if calibration is not None:
            arrays.update(calibration=calibration, validation=validation[0], labels=validation[1])
        np.savez(str(draft / "arrays.npz"), **arrays)
        onnx.save(export(pretrained, head), str(draft / ONNX))
        facts = dict(facts, framework="cntk", input_px=list(pretrained.input_px))
        (draft / bundles.FACTS).write_text(json.dumps(facts))
        _finish(draft, folder)
    return bundles.load(folder)


def _finish(draft, folder):
    """Let the main Python check a draft and write the bundle."""
    python = os.environ.get("TUTORIAL_PYTHON") or str(home() / ".venv" / "bin" / "python")
    if not Path(python).exists():
        raise InputError(f"expected the tutorial's own Python to finish the bundle, got no {python}. Run "
                         "setup_scripts/run_tutorial.sh once, or set TUTORIAL_PYTHON.")
    environment = {k: v for k, v in os.environ.items() if k not in ("LD_LIBRARY_PATH", "PYTHONHOME", "MPLBACKEND")}
    environment["PYTHONPATH"] = str(Path(__file__).resolve().parents[2])
    program = "import sys; from helpers.model import bundle; sys.exit(bundle.finish_draft(sys.argv))"
    done = subprocess.run([python, "-c", program, str(draft), str(Path(folder).resolve())], env=environment,
                          stdout=subprocess.PIPE, stderr=subprocess.PIPE, universal_newlines=True)
    if done.returncode == 2:
        raise bundles.ExportRefused(done.stderr.strip().splitlines()[-1])
    if done.returncode:
        raise RuntimeError("the main Python could not finish the bundle. Run setup_scripts/run_tutorial.sh once to "
                           "repair it:\n" + done.stderr[-2000:])

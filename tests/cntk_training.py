"""What tests have CNTK's Python do: run as ``python3.6 cntk_training.py <task> <arguments as JSON>``.

Each task prints one line of JSON: its result, or the sentence of the InputError that it ended with.
"""

import json
import sys
from pathlib import Path

import numpy as np

from helpers import InputError
from helpers.model import cntk_network
from helpers.model import retrain_cntk as retraining
from helpers.model.cntk_network import get
from helpers.model.engines import ONNX
from helpers.model.retrain_tensorflow import augment


def layers(name, pictures=None):
    """The layers of a network, and its features of pictures in a file, or of two of noise."""
    # Two threads: some of CNTK's operations are right on one only. Where cores are shared, many pictures want one.
    retraining.start_cntk(1 if pictures else 2)
    pretrained = get(name)
    pictures = np.load(pictures) if pictures else np.random.RandomState(0).randint(
        0, 256, (2,) + pretrained.input_px + (3,)).astype(np.uint8)
    features = retraining.compute(pretrained.features(), pictures)
    return {"names": [row.name for row in pretrained.layers],
            "sees": [row.receptive_field_px for row in pretrained.layers],
            "cut_at": pretrained.cut_at, "features": features.tolist(),
            "free": len(pretrained.features().parameters)}


def refusals(names):
    """The sentence that ends the way to each network's features; None where there is none."""
    retraining.start_cntk(1)
    sentences = []
    for name in names:
        try:
            get(name).features()
            sentences.append(None)
        except InputError as error:
            sentences.append(str(error))
    return {"sentences": sentences}


def train(folder, name, tiles, out=None, epochs=20, copies=1, damage=None, alexnet=None):
    """Train a head for each fold, save the bundle of the last; accuracy on what was held out.

    ``alexnet`` is an address and checksum in place of the model zoo's.
    """
    if alexnet:
        cntk_network.ALEXNET_URL, cntk_network.ALEXNET_SHA256 = alexnet
    retraining.start_cntk(1)
    data = np.load(tiles)
    pictures, labels = data["tiles"], data["labels"]
    fold = data["fold"]
    pretrained = get(name)
    function = pretrained.features()
    features = retraining.compute(function, pictures)
    changed = [retraining.compute(function, augment(pictures, n)) for n in range(1, copies)]
    right, histories = np.zeros(len(labels), bool), []
    for k in sorted(set(fold[fold >= 0])):
        of_train, held_out = np.flatnonzero(fold != k), np.flatnonzero(fold == k)
        many = np.concatenate([features[of_train]] + [c[of_train] for c in changed])
        head = retraining.new_head(many, int(labels.max()) + 1, 0)
        before = head.weights.copy()
        histories.append(retraining.train(head, many, np.tile(labels[of_train], copies),
                                          (features[held_out], labels[held_out]), 0, epochs, 3e-3))
        right[held_out] = head.predict(features[held_out]).argmax(axis=1) == labels[held_out]
    result = {"cut_at": pretrained.cut_at, "accuracy": float(right[fold >= 0].mean()), "history": histories[-1],
              "moved": float(np.abs(head.weights - before).max()), "weights": head.weights[0].tolist()}
    if damage == "weights":
        # CNTK computes with one layer, the export is written with another.
        whole = retraining.export

        def export(pretrained, head):
            pretrained.weights["conv1_w"] = pretrained.weights["conv1_w"] * np.float32(1.05)
            return whole(pretrained, head)
        retraining.export = export
    if out:
        names = [str(n) for n in data["names"]]
        saved = retraining.save(pretrained, head, out, pictures[-max(200, len(pictures) // 5):],
                                {"classes": names, "backbone": {"name": pretrained.name}})
        result["parity"] = saved.facts["parity"][ONNX]
        np.save(str(Path(folder) / "logits.npy"), head.predict(features))
        np.save(str(Path(folder) / "features.npy"), features)
    return result


def with_code(path, writes):
    """Save a model with a user function whose name is a line of Python that writes a file."""
    cntk = retraining.start_cntk(1)

    class Same(cntk.ops.functions.UserFunction):
        def __init__(self, value):
            super().__init__([value], name="same")

        def infer_outputs(self):
            value = self.inputs[0]
            return [cntk.output_variable(value.shape, value.dtype, value.dynamic_axes)]

        def serialize(self):
            return {}

    Same.__module__, Same.__name__ = "os", "system; open({!r}, 'w')".format(writes)
    same = cntk.user_function(Same(cntk.input_variable((3, 32, 32))))
    cntk.softmax(cntk.layers.Dense(6)(same), name="probabilities").save(path)
    return {}


if __name__ == "__main__":
    task, arguments = sys.argv[1], json.loads(sys.argv[2])
    try:
        print(json.dumps({"layers": layers, "refusals": refusals, "train": train, "with_code": with_code}[task](
            **arguments)))
    except InputError as error:
        print(json.dumps({"refused": str(error)}))

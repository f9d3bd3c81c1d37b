"""Which engines a bundle allows: those that predict as well as ONNX Runtime does in float32.

An engine that rounds to int8 or bfloat16 is faster and less exact, and another library may round anywhere. So each is
judged on validation tiles when the bundle is written, and ``model.json`` keeps the facts under ``judged``.
"""

import os
from pathlib import Path

import numpy as np

from helpers import InputError
from helpers.model import engines, int8
from helpers.model.engines import INT8, ONNX

# An engine is allowed if it gives at least this share of the tiles the class that float32 gives, and loses at most this
# share of accuracy. Fewer tiles than these would not measure it well enough.
SAME_CLASS, ACCURACY_LOST, JUDGED_TILES = 0.97, 0.005, 300


def judge(folder: Path, calibration: np.ndarray, validation: tuple) -> dict:
    """Write ``model.int8.onnx`` beside ``model.onnx`` if an engine may use it; ``facts["judged"]`` of the bundle.

    ``calibration`` are training tiles, ``validation`` other tiles and their class ids. The facts of an engine are how
    well it did, and why it is ``refused`` or None.
    """
    tiles, labels = validation
    if len(tiles) < JUDGED_TILES:
        refused = (f"expected at least {JUDGED_TILES} labelled validation tiles to judge engines on, got {len(tiles)}. "
                   "Hold more tiles out to have faster ones.")
        return {name: {"tiles": len(tiles), "refused": refused} for name in engines.JUDGED}
    unusable = _quantise(folder, calibration)
    exact, facts = engines.start("onnxruntime", folder / ONNX, os.cpu_count()).score(tiles).argmax(axis=1), {}
    for name in engines.JUDGED:
        file = engines.FILES[name][0]
        facts[name] = {"tiles": len(tiles), "refused": unusable if file == INT8 else None}
        if facts[name]["refused"] is None:
            try:
                predicted = engines.start(name, folder / file, os.cpu_count()).score(tiles).argmax(axis=1)
                facts[name].update(_compare(name, predicted, exact, labels))
            except InputError as error:  # The library isn't installed, or not for this processor.
                facts[name]["refused"] = str(error)
            except Exception as error:  # Each library has its own kinds of errors.
                facts[name]["refused"] = (f"expected a network that {name} can run, got: {engines.said(error)}. "
                                          "Cut the network at another layer to have it.")
    if all(facts[name]["refused"] for name in engines.JUDGED if engines.FILES[name][0] == INT8):
        (folder / INT8).unlink(missing_ok=True)
    return facts


def _quantise(folder, calibration):
    """Write the int8 network, or return the reason why there is none."""
    try:
        int8.quantise(folder / ONNX, folder / INT8, calibration)
    except Exception as error:  # A user's network may have any operator; the bundle is good without int8.
        return (f"expected a network that ONNX Runtime can quantise, got: {engines.said(error)}. Cut the "
                "network at another layer to have int8.")


def _compare(name, predicted, exact, labels):
    """The facts of an engine, from its classes of the validation tiles, those of float32, and the labels."""
    same, accuracy, before = ((a == b).mean().item() for a, b in (
        (predicted, exact), (predicted, labels), (exact, labels)))
    is_good = same >= SAME_CLASS and before - accuracy <= ACCURACY_LOST
    return {"same_class": same, "accuracy": accuracy, "accuracy_float32": before, "refused": None if is_good else (
        f"expected {name} to give at least {SAME_CLASS:.0%} of {len(labels)} validation tiles the same class as "
        f"float32, and to lose at most {100 * ACCURACY_LOST:.1f} percentage points of accuracy, got {same:.1%} and "
        f"{100 * (before - accuracy):.1f}. Calibrate on more tiles to have it.")}


def as_text(bundle) -> str:
    """A line about each engine that was judged: how well it predicts, or why it is refused."""
    facts = bundle.facts.get("judged")
    if facts is None:
        return "No faster engine was judged when this bundle was written: float32 is used."
    reasons = {one["refused"] for one in facts.values()}
    if len(reasons) == 1 and all(reasons):
        return f"All faster engines are refused: {reasons.pop()}"
    return "\n".join(f"{name} is refused: {one['refused']}" if one["refused"] else name + (
        " is allowed: {same_class:.1%} of {tiles} validation tiles get the same class as in float32, and "
        "{accuracy:.1%} get the class of their label ({accuracy_float32:.1%} in float32).".format(**one))
        for name, one in facts.items())

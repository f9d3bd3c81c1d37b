"""Which engines a bundle allows: those whose predictions were good enough, counted again here."""

import re

import numpy as np
import onnx
import pytest
from onnx import TensorProto, numpy_helper

from helpers import InputError
from helpers.model import bundle, engines, int8, judging
from networks import coloured_tiles, save_coloured


@pytest.mark.parametrize("name", engines.JUDGED)
def test_every_engine_is_judged_by_what_it_predicts(saved, name):
    facts = saved.facts["judged"][name]
    if facts["refused"] and "expected a processor that computes bf16" in facts["refused"]:
        pytest.skip(facts["refused"])
    assert facts["refused"] is None and facts["tiles"] == 300 and "model.int8.onnx" in saved.facts["files"]
    tiles, labels = coloured_tiles(300, 2)
    exact, rounded = (engines.load(saved, one).score(tiles) for one in ("onnxruntime", name))
    assert facts["accuracy"] == (rounded.argmax(axis=1) == labels).mean() >= 0.97
    assert facts["same_class"] == (exact.argmax(axis=1) == rounded.argmax(axis=1)).mean()
    noise = np.random.default_rng(2).integers(0, 256, (30, 32, 32, 3), dtype=np.uint8)  # Of which no class is sure.
    difference = np.subtract(*(engines.load(saved, one).score(noise) for one in ("onnxruntime", name)))
    difference = np.abs(difference).max()
    assert difference < 1e-4 if name == "openvino" else 1e-4 < difference < 0.2
    assert re.search(rf"^{name} is allowed: [\d.]+% of 300 validation tiles", judging.as_text(saved), re.M)


def test_an_engine_that_was_never_judged_is_refused(saved, tmp_path):
    facts = dict(saved.facts)
    del facts["judged"]
    for name in facts["files"]:
        (tmp_path / name).write_bytes((saved.folder / name).read_bytes())
    bundle.finish(tmp_path, facts)
    unjudged = bundle.load(tmp_path)
    assert engines.of(unjudged) == ["onnxruntime", "tensorflow"] and engines.candidates(unjudged) == ["onnxruntime"]
    with pytest.raises(InputError, match="never compared with float32"):
        engines.load(unjudged, "openvino")
    assert "float32 is used" in judging.as_text(unjudged)


def test_an_engine_that_cannot_run_the_network_is_refused(network, tmp_path, monkeypatch):
    """A library that is missing, and one that fails in its own way: the bundle is good without them."""
    def fails(name, path, threads):
        raise InputError("expected OpenVINO in the Python that scores, got none.") if name == "openvino" else \
            RuntimeError("no such operation\nin this version.")

    for name in ("openvino", "openvino-bf16"):
        monkeypatch.setitem(engines.FILES, name, ("model.onnx", fails))
    facts = save_coloured(network, tmp_path / "bundle").facts["judged"]
    assert facts["openvino"]["refused"].startswith("expected OpenVINO in the Python that scores, got none")
    assert "openvino-bf16 can run, got: no such operation in this version. Cut the" in facts["openvino-bf16"]["refused"]
    assert facts["onnxruntime-int8"]["refused"] is None


def test_a_damaged_int8_network_is_refused_and_float32_used(network, tmp_path, monkeypatch):
    quantise = int8.quantise

    def damaged(path, int8_path, tiles):
        quantise(path, int8_path, tiles)
        graph = onnx.load(str(int8_path))
        for weight in graph.graph.initializer:
            if weight.data_type == TensorProto.INT8 and len(weight.dims) == 4:
                weight.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(weight)[::-1].copy(), weight.name))
        onnx.save(graph, str(int8_path))

    monkeypatch.setattr(int8, "quantise", damaged)
    refused = save_coloured(network, tmp_path / "bundle")
    for name in ("onnxruntime-int8", "openvino-int8"):
        assert refused.facts["judged"][name]["same_class"] < 0.97
    assert sorted(p.name for p in refused.folder.iterdir()) == ["model.json", "model.keras", "model.onnx"]
    assert not [name for name in engines.candidates(refused) if "int8" in name]
    assert "openvino" in engines.of(refused)
    assert "onnxruntime-int8 is refused: expected onnxruntime-int8 to give at least 97% of 300 " in judging.as_text(refused)
    with pytest.raises(InputError, match="allows the engine onnxruntime-int8, got .*: expected onnxruntime-int8 to give"):
        engines.load(refused, "onnxruntime-int8")


@pytest.mark.parametrize("others, right_before, refused", [
    (6, True, True),     # 98% alike, but two points lost
    (6, False, False),   # 98% alike, nothing lost
    (15, False, True)])  # nothing lost, but only 95% alike
def test_each_of_the_two_rules_refuses(network, tmp_path, monkeypatch, others, right_before, refused):
    """Some of the 300 tiles get another class, which were right before, or as wrong."""
    score = engines.Engine.score

    def other_class(self, tiles):
        scored = score(self, tiles)
        if self.name == "onnxruntime-int8":
            scored[:others] = np.roll(scored[:others], 1, axis=1)
        return scored

    monkeypatch.setattr(engines.Engine, "score", other_class)
    labels = coloured_tiles(300, 2)[1]
    if not right_before:
        labels[:others] = (labels[:others] + 3) % 6
    facts = save_coloured(network, tmp_path / "bundle", labels=labels).facts["judged"]["onnxruntime-int8"]
    assert facts["same_class"] == 1 - others / 300
    assert bool(facts["refused"]) == refused


def test_too_few_validation_tiles_judge_nothing(network, tmp_path):
    few = save_coloured(network, tmp_path / "bundle", validation=299)
    assert "at least 300 labelled validation tiles" in few.facts["judged"]["openvino"]["refused"]
    assert engines.of(few) == ["onnxruntime", "tensorflow"] and engines.candidates(few) == ["onnxruntime"]
    assert judging.as_text(few).count("at least 300 labelled validation tiles") == 1

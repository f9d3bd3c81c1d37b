"""What the benchmark makes of its runs."""

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import helper

from networks import model_of


@pytest.fixture
def benchmark(monkeypatch):
    monkeypatch.syspath_prepend(str(Path(__file__).parent))
    import benchmark
    return benchmark


def test_ratios_are_of_medians_and_a_missed_goal_is_called_so(benchmark):
    runs = [{"way": way, "network": "resnet50", "engine": engine, "tiles_per_second": rate}
            for (way, engine), rates in {
                ("ours", "onnxruntime-int8"): (90, 100, 500), ("ours", "openvino-int8"): (120,),
                ("bare_loop", "onnxruntime-int8"): (110, 104, 1), ("bare_loop", "openvino-int8"): (125,),
                ("daft", "onnxruntime-int8"): (80,), ("ray_data", "onnxruntime-int8"): (50,),
                ("recipe_2017", "tensorflow"): (10,)}.items() for rate in rates]
    results = {"runs": runs, "goals": benchmark.GOALS, "macs": {"resnet50": 10},
               "peaks": {"int8": {"onnxruntime": 1500, "openvino": 2000}}}
    results["ratios"] = benchmark.ratios(results)
    # Daft and Ray Data in the same engine, all others with our fastest; the best bare loop and product count.
    assert results["ratios"] == {"resnet50": {
        "bare_loop": 0.96, "daft": 1.25, "daft_onnxruntime": 1.5, "ray_data": 2.0, "recipe_2017_tensorflow": 12.0,
        "limit_int8": 0.6}}
    other = dict(results, runs=[run for run in runs if run["way"] in ("ours", "daft")], peaks={}, macs={})
    other["ratios"] = benchmark.ratios(other)
    lines = benchmark.table({"AMD": results, "Intel": other}).splitlines()
    assert lines[0] == "| way to score | network | goal | AMD: tiles/s | ours is | Intel: tiles/s | ours is |"
    assert "| bare loop, openvino-int8 | ResNet-50 | ≥ 0.97 × | 125.0 | 0.96 ×, missed by 1% | – |  |" in lines
    assert "| bare loop, onnxruntime-int8 | ResNet-50 |  | 104.0 |  | – |  |" in lines
    assert "| 2017 recipe, tensorflow | ResNet-50 | ≥ 10.0 × | 10.0 | 12.00 × | – |  |" in lines
    assert "| Daft, onnxruntime-int8 | ResNet-50 | ≥ 1.03 × | 80.0 | 1.25 × | 80.0 | 1.25 × |" in lines


def test_multiply_accumulates_by_hand(benchmark, tmp_path):
    weights = {"w": np.zeros((16, 3, 5, 5), np.float32), "head": np.zeros((16, 6), np.float32)}
    nodes = [helper.make_node("Conv", ["x", "w"], ["conv"], strides=[2, 2]),
             helper.make_node("GlobalAveragePool", ["conv"], ["pool"]),
             helper.make_node("Flatten", ["pool"], ["flat"]), helper.make_node("Gemm", ["flat", "head"], ["y"])]
    onnx.save(model_of(nodes, {"x": (1, 3, 32, 32)}, {"y": (1, 6)}, weights), str(tmp_path / "model.onnx"))
    # 14 × 14 windows of 5 × 5 × 3 for 16 filters, and a head of 16 × 6.
    assert benchmark.multiply_accumulates(tmp_path / "model.onnx") == 14 * 14 * 16 * 75 + 16 * 6


def test_the_committed_readme_shows_the_committed_runs(benchmark):
    committed = benchmark.committed()
    assert committed
    for results in committed.values():
        assert set(results) >= {"runs", "stages", "start", "preparation", "cores"} and not results["quick"]
        assert results["ratios"] == benchmark.ratios(results)
    assert benchmark.in_readme() in (benchmark.REPOSITORY / "README.md").read_text()

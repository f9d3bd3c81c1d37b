"""What the benchmark makes of its runs."""

import json
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
    runs = [{"way": way, "tiles_per_second": rate} for way, rates in {
        "ours_int8": (90, 100, 500), "ours_float32": (30,), "bare_loop": (110, 104, 1), "ray_data": (50,),
        "recipe_2017_tensorflow": (10,), "predict_batch_udf": (20,)}.items() for rate in rates]
    results = {"runs": runs, "limits": {"int8": 125.0, "fp32": 40.0}, "goals": benchmark.GOALS}
    results["ratios"] = benchmark.ratios(results)
    assert results["ratios"] == {"bare_loop": 0.962, "recipe_2017_tensorflow": 10.0, "predict_batch_udf": 5.0,
                                 "ray_data": 2.0, "limit_int8": 0.8, "limit_fp32": 0.75}
    lines = benchmark.table(results).splitlines()
    assert "| bare loop, int8 | ResNet-50 | 104.0 | 0.96 × | ≥ 0.97 × | missed by 1% |" in lines
    assert "| 2017 recipe, TensorFlow | ResNet-50 | 10.0 | 10.00 × | ≥ 7.5 × | reached |" in lines


def test_multiply_accumulates_by_hand(benchmark, tmp_path):
    weights = {"w": np.zeros((16, 3, 5, 5), np.float32), "head": np.zeros((16, 6), np.float32)}
    nodes = [helper.make_node("Conv", ["x", "w"], ["conv"], strides=[2, 2]),
             helper.make_node("GlobalAveragePool", ["conv"], ["pool"]),
             helper.make_node("Flatten", ["pool"], ["flat"]), helper.make_node("Gemm", ["flat", "head"], ["y"])]
    onnx.save(model_of(nodes, {"x": (1, 3, 32, 32)}, {"y": (1, 6)}, weights), str(tmp_path / "model.onnx"))
    # 14 × 14 windows of 5 × 5 × 3 for 16 filters, and a head of 16 × 6.
    assert benchmark.multiply_accumulates(tmp_path / "model.onnx") == 14 * 14 * 16 * 75 + 16 * 6


def test_the_committed_readme_shows_the_committed_runs(benchmark):
    if not benchmark.RESULTS.exists():
        pytest.skip("no results.json yet: run tests/benchmarks/run.sh")
    results = json.loads(benchmark.RESULTS.read_text())
    assert results["complete"] and not results["quick"]
    assert results["ratios"] == benchmark.ratios(results)
    assert benchmark.in_readme(results) in (benchmark.REPOSITORY / "README.md").read_text()

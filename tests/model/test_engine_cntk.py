"""The process behind the engine ``cntk``: what it predicts, how it dies, and what it refuses."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

import tiny
from helpers import InputError
from helpers.model import bundle, engines, evaluation
from helpers.model.engine_cntk import CntkProcess, cntk_environment
from helpers.scoring.batch import score_images
from helpers.scoring.score import score
from helpers.scoring.table import read
from helpers.tiles.folder import write_images
from helpers.tiles.pictures import encode
from networks import ROOT, needs_cntk, one_sentence, python36


def with_checksum(folder):
    """The bundle again, after its model.model was changed."""
    facts = json.loads((folder / "model.json").read_text())
    facts["files"]["model.model"] = bundle.sha256(folder / "model.model")
    (folder / "model.json").write_text(json.dumps(facts))
    return bundle.load(folder)


@needs_cntk
def test_the_engine_predicts_what_the_export_predicts(trained):
    _, saved, tiles = trained
    engine = engines.load(saved, "cntk")
    expected = engines.load(saved).score(tiles[:40])
    for n in (40, 1, 7):
        scored = engine.score(tiles[:n])
        assert scored.dtype == np.float32 and np.allclose(scored, expected[:n], atol=1e-4)
    with pytest.raises(InputError, match="expected tiles of 227 × 227 px"):
        engine.score(tiles[:1, :100])


@pytest.fixture
def cntk(trained):
    return CntkProcess(trained[1].folder / "model.model", 1)


@needs_cntk
def test_a_killed_process_is_started_again_and_the_batch_scored(cntk, trained):
    tiles = trained[2][:8]
    expected = cntk.compute(tiles)
    first = cntk.process
    first.send_signal(signal.SIGKILL)
    first.wait()
    assert np.array_equal(cntk.compute(tiles), expected)
    assert cntk.process.pid != first.pid
    # In the middle of a batch: stopped, so that it can't answer before it is killed.
    second = cntk.process
    second.send_signal(signal.SIGSTOP)
    killer = subprocess.Popen(["sh", "-c", f"sleep 0.5; kill -9 {second.pid}"])
    assert np.array_equal(cntk.compute(tiles), expected)
    killer.wait()
    assert second.returncode == -signal.SIGKILL


@needs_cntk
def test_a_process_that_dies_again_leaves_its_last_words_in_the_rows(cntk, trained):
    _, saved, tiles = trained
    cntk._command[3:] = ["-c", "raise ValueError('last words')"]
    cntk.process.kill()
    network = engines.Engine("cntk", cntk.input_px, cntk.compute)
    scored = score_images([encode(tiles[0]), b"nothing"], saved, network)
    assert [row.error_kind for row in scored.rows] == ["engine", "unreadable"]
    assert [row.class_id for row in scored.rows] == [None, None]
    assert "CNTK's process ended with status 1: ValueError: last words" in scored.rows[0].error


@needs_cntk
def test_a_damaged_network_ends_in_one_sentence_with_its_last_words(trained, tmp_path):
    shutil.copytree(trained[1].folder, tmp_path / "copy")
    path = tmp_path / "copy" / "model.model"
    path.write_bytes(path.read_bytes()[:1000])
    with pytest.raises(InputError) as error:
        engines.load(with_checksum(tmp_path / "copy"), "cntk")
    one_sentence(error, "that cntk can run, got: CNTK's process ended with status 1: ", "Error")


@needs_cntk
def test_a_model_that_holds_code_is_refused_and_the_code_not_run(tmp_path):
    """Its user function is named so that importing it would write a file."""
    saved = tiny.model(tmp_path / "bundle")
    python36("with_code", path=str(saved.folder / "model.model"), writes=str(tmp_path / "ran"))
    with pytest.raises(InputError) as error:
        engines.load(with_checksum(saved.folder), "cntk")
    assert not (tmp_path / "ran").exists()
    assert "expected a network of CNTK's own operations, got one with a user-defined function" in str(error.value)


@needs_cntk
def test_the_process_ends_with_its_worker(trained):
    program = ("import sys; from helpers.model.engine_cntk import CntkProcess; cntk = CntkProcess(sys.argv[1], 1); "
               "print(cntk.process.pid, flush=True) or input()")
    worker = subprocess.Popen([sys.executable, "-c", program, str(trained[1].folder / "model.model")], cwd=ROOT,
                              text=True, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    pid = int(worker.stdout.readline())
    os.kill(pid, 0)
    worker.kill()
    worker.communicate()
    for _ in range(100):
        if not Path(f"/proc/{pid}").exists():
            return
        time.sleep(0.1)
    os.kill(pid, signal.SIGKILL)
    raise AssertionError("the process outlived its worker")


@needs_cntk
def test_cntk_scores_on_spark(spark, trained, tmp_path):
    _, saved, tiles = trained
    folder = tmp_path / "pictures"
    folder.mkdir()
    for i, tile in enumerate(tiles[:60]):
        (folder / f"{i:03d}.png").write_bytes(encode(tile))
    write_images(folder, str(tmp_path / "store"))
    tables = {}
    for name in ("cntk", "onnxruntime"):
        assert score(spark, str(tmp_path / "store"), saved, str(tmp_path / name), name, tasks=3) == 60
        tables[name] = read(tmp_path / name)
        assert set(tables[name]["engine"]) == {name} and tables[name]["error_kind"].isna().all()
    assert evaluation.agreement(*tables.values()) == 1
    assert np.allclose(*(np.stack(t["probabilities"]) for t in tables.values()), atol=1e-4)


def test_an_environment_that_is_half_installed(tmp_path, monkeypatch):
    for folder, found in ((tmp_path / "none", "got none"), (tmp_path, "whose installation was not finished")):
        monkeypatch.setenv("CNTK_ENVIRONMENT", str(folder))
        with pytest.raises(InputError) as error:
            cntk_environment()
        one_sentence(error, found, "install_cntk.sh")

"""The process that scores: what hangs or crashes in it costs one row, and it leaves nothing behind."""

import multiprocessing
import os
import subprocess
import sys
import time

import numpy as np
import psutil
import pytest

import faulty
import tiny
from helpers import InputError
from helpers.model import bundle, engines
from helpers.scoring import guard
from helpers.scoring.batch import score_images
from helpers.tiles.pictures import encode
from odd_pictures import CONVERTED, ERRORS, PNG, PX, mutations

MUTATED = 2400


@pytest.fixture
def guarded(model, monkeypatch):
    """Makes guards that end with the test."""
    others[:] = children()
    made = []

    def make(folder=model.folder, engine="onnxruntime", is_faulty=False):
        if is_faulty:
            monkeypatch.setattr(guard, "_score", faulty.score)
        made.append(guard.Guard(folder, engine))
        return made[-1]

    yield make
    for one in made:
        one.close()


@pytest.fixture
def hangs_after(monkeypatch):
    """Sets the time limits of a call."""
    def limit(call_s, tile_s):
        monkeypatch.setattr(guard, "CALL_S", call_s)
        monkeypatch.setattr(guard, "TILE_S", tile_s)
    return limit


others = []  # Processes of this one that other tests have started, as a Spark session's are.


def children():
    return [child for child in psutil.Process().children()
            if child.status() != psutil.STATUS_ZOMBIE and "spawn_main" in " ".join(child.cmdline())]


def scorers():
    """Processes of this one that a test's guards have started."""
    return [child for child in children() if child not in others]


def kinds_of(scored):
    return [row.error_kind for row in scored.rows]


def test_a_row_for_each_picture_as_without_the_process(model, guarded):
    everything = [image for image, _ in dict(CONVERTED, **ERRORS).values()]
    there = guarded().score(everything)
    here = score_images(everything, model, engines.load(model, "onnxruntime"))
    assert there.engine == here.engine and len(there.rows) == len(everything)
    assert [(row.class_id, row.error_kind, row.error) for row in there.rows] == [
        (row.class_id, row.error_kind, row.error) for row in here.rows]
    kinds = dict(zip(dict(CONVERTED, **ERRORS), kinds_of(there)))
    assert {name: kinds[name] for name in ERRORS} == {name: kind for name, (_, kind) in ERRORS.items()}
    assert all(kinds[name] is None for name in CONVERTED)
    assert [row.probabilities is None for row in there.rows] == [kind is not None for kind in kinds_of(there)]


def test_thousands_of_damaged_pictures(guarded):
    """No crash, no hang, no row missing, and the memory of the process bounded."""
    scorer = guarded()
    scorer.score([PNG] * 64)
    process, = scorers()
    before, highest, kinds = process.memory_info().rss, 0, []
    damaged = list(mutations(MUTATED))
    for start in range(0, MUTATED, 64):
        rows = scorer.score(damaged[start:start + 64]).rows
        assert [row.class_id is None for row in rows] == [row.error_kind is not None for row in rows]
        assert all(row.error.startswith("expected ") and ", got " in row.error and row.error.endswith(".")
                   for row in rows if row.error)
        kinds += [row.error_kind for row in rows]
        highest = max(highest, process.memory_info().rss)
    assert len(kinds) == MUTATED and set(kinds) <= {None, "unreadable", "too_large", "wrong_size"}
    assert kinds.count("unreadable") > MUTATED / 3
    # 64 MB is the largest picture that is opened; as much again for its conversion.
    assert scorers() == [process] and highest - before < 200 * 2 ** 20


def test_a_picture_that_hangs_or_crashes_is_given_up_alone(guarded, hangs_after, monkeypatch):
    hangs_after(1, 0.1)
    monkeypatch.setenv("FAULTY_NAME", "onnxruntime-cuda")
    scorer = guarded(is_faulty=True)
    scored = scorer.score([PNG, b"hang", PNG, b"crash", b"", PNG])
    assert kinds_of(scored) == [None, "timeout", None, "crash", "unreadable", None]
    assert scored.rows[1].error.startswith("expected a score, but the process that reads and scores the picture gave no "
                                           "answer in time, twice.")
    assert "ended with status -11, twice" in scored.rows[3].error and scored.engine == "onnxruntime-cuda"
    process, = scorers()
    assert kinds_of(scorer.score([PNG])) == [None] and scorers() == [process]
    scorer.close()
    assert not psutil.pid_exists(process.pid)


def test_a_network_that_hangs_or_crashes_costs_one_tile(guarded, hangs_after):
    hangs_after(1, 0.1)
    colours = [encode(faulty.solid(colour, PX)) for colour in (10, 66, 20, 99, 30, 33)]
    scored = guarded(is_faulty=True).score(colours)
    assert kinds_of(scored) == [None, "timeout", None, "crash", None, "engine"]
    assert scored.rows[5].error == "expected a score, got ValueError: a shape that it does not like. Try another engine."


def test_a_network_that_only_hangs_is_given_up_soon(guarded, hangs_after):
    """After that no tile is tried, until another job begins."""
    hangs_after(0.5, 0.01)
    hangs = encode(faulty.solid(66, PX))
    scorer = guarded(is_faulty=True)
    started = time.monotonic()
    for _ in range(2):
        with pytest.raises(InputError, match="expected scores from the engine onnxruntime, but it gave no answer in time "
                                             "on 4 tiles in a row. Try another engine."):
            scorer.score([hangs] * 50)
    assert time.monotonic() - started < 60
    scorer.begin("another")
    assert kinds_of(scorer.score([PNG] * 10)) == [None] * 10
    for _ in range(guard.IN_VAIN):  # A score in between, and it is trusted on.
        assert kinds_of(scorer.score([hangs, PNG])) == ["timeout", None]


def judged(folder, **files):
    """A tiny bundle that allows every engine, and files that take the place of its own or stand beside them."""
    made = tiny.model(folder)
    for name, content in files.items():
        (made.folder / name.replace("__", ".")).write_bytes(content)
    (made.folder / bundle.FACTS).unlink()
    bundle.finish(made.folder, dict(made.facts, judged={name: {"refused": None} for name in engines.JUDGED}))
    return made.folder


def test_the_seconds_of_each_engine_that_can_score_here(tmp_path):
    took = guard.seconds(judged(tmp_path / "bundle", model__int8__onnx=b"no network"), 1)
    assert {"onnxruntime", "openvino"} <= set(took) <= {"onnxruntime", "openvino", "openvino-bf16"}
    assert all(0 < seconds < 1 for seconds in took.values())


def test_an_engine_that_crashes_or_hangs_is_not_the_fastest(tmp_path, monkeypatch):
    monkeypatch.setattr(guard, "_seconds", faulty.seconds)
    monkeypatch.setattr(guard, "START_S", 3)
    took = guard.seconds(judged(tmp_path / "bundle", model__int8__onnx=b""), 1)
    assert took == {"onnxruntime": 1.0, "onnxruntime-int8": 1.0, "openvino": 1.0}


def test_a_scorer_that_hangs_goes_with_its_worker(model):
    """Which the kernel sees to: it would never read its pipe again."""
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe()
    worker = context.Process(target=faulty.hold, args=(model.folder, theirs))
    worker.start()
    children = ours.recv()
    assert children
    time.sleep(1)
    os.kill(worker.pid, 9)
    worker.join()
    deadline = time.monotonic() + 10
    while any(map(alive, children)) and time.monotonic() < deadline:
        time.sleep(0.1)
    left = [pid for pid in children if alive(pid)]
    for pid in left:
        os.kill(pid, 9)
    assert not left


def alive(pid):
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def test_a_process_that_is_killed_from_outside_changes_nothing(model, guarded):
    expected = score_images([PNG] * 8, model, engines.load(model, "onnxruntime")).rows[0].class_id
    scorer = guarded()
    for _ in range(3):
        assert {(row.class_id, row.error) for row in scorer.score([PNG] * 8).rows} == {(expected, None)}
        scorers()[0].kill()
        assert kinds_of(scorer.score([PNG])) == [None]  # The only picture of a batch is not to blame either.
        scorers()[0].kill()


def test_a_process_that_cannot_start_says_why(guarded, tmp_path, monkeypatch):
    with pytest.raises(InputError, match="expected an engine of"):
        guarded(engine="caffe").score([PNG])
    with pytest.raises(InputError, match="no model.json there"):
        guarded(folder=tmp_path).score([PNG])


def test_what_it_prints_is_no_answer(model):
    """A program that uses a guard keeps its standard output clean."""
    done = subprocess.run(
        [sys.executable, "-c", "import sys; from helpers.scoring.guard import Guard\n"
         "if __name__ == '__main__':\n"
         "    scorer = Guard(sys.argv[1], 'onnxruntime'); print(scorer.score([b'']).rows[0].error_kind); scorer.close()",
         str(model.folder)], capture_output=True, text=True, timeout=120)
    assert done.stdout == "unreadable\n", done.stderr


def test_rows_do_not_depend_on_the_batch(model, guarded):
    images = [tiny.picture(seed) for seed in range(40)]
    together, scorer = guarded().score(images), guarded()
    alone = [scorer.score([image]).rows[0].probabilities for image in images]
    assert np.allclose(np.stack([row.probabilities for row in together.rows]), np.stack(alone), atol=1e-6)

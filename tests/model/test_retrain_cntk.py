"""CNTK: networks out of ONNX, retraining, the export and its refusal, the process behind the engine."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper, numpy_helper

from helpers import InputError
from helpers.model import backbones, bundle, engines, evaluation, retrain_tensorflow as retraining_tensorflow
from helpers.scoring import score as scoring
from helpers.model.engine_cntk import EngineDied, cntk_environment
from helpers.scoring.table import read
from helpers.tiles.folder import write_images
from helpers.tiles.pictures import encode

ROOT = Path(__file__).resolve().parents[2]
PX = 224


def why_no_cntk():
    try:
        cntk_environment()
    except InputError as error:
        return str(error)


needs_cntk = pytest.mark.skipif(bool(why_no_cntk()), reason=why_no_cntk() or "")


def python36(task, refused=False, **arguments):
    """What a task of cntk_training.py answers; the sentence of its InputError where it should be ``refused``."""
    environment = cntk_environment()
    done = subprocess.run(
        [environment / "bin" / "python", ROOT / "tests" / "cntk_training.py", task, json.dumps(arguments)],
        env=dict(os.environ, LD_LIBRARY_PATH=str(environment / "lib" / "mpi"), PYTHONPATH=str(ROOT),
                 TUTORIAL_PYTHON=sys.executable), capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    answer = json.loads(done.stdout.splitlines()[-1])
    assert ("refused" in answer) == refused, answer
    return answer["refused"] if refused else answer


def one_sentence(text, *parts):
    """Wanted, came, and what to do, on one line."""
    assert text.startswith("expected ") and " got" in text and "\n" not in text and text.endswith(".")
    for part in parts:
        assert part in text, text


def features_of_onnx_runtime(path, values, preprocess=lambda x: x):
    """The same two pictures' features, computed by ONNX Runtime from the file itself, one picture at a time."""
    model = onnx.load(str(path))
    known = {output.name for output in model.graph.output}
    model.graph.output.extend(helper.make_tensor_value_info(v, TensorProto.FLOAT, None)
                              for v in values if v not in known)
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    given = session.get_inputs()[0]
    pictures = np.random.RandomState(0).randint(0, 256, (2, *given.shape[2:], 3)).astype(np.uint8)
    x = preprocess(pictures.astype(np.float32)).transpose(0, 3, 1, 2)
    rows = [session.run(list(values), {given.name: x[i:i + 1]}) for i in range(2)]
    return np.array([np.concatenate([v[0].mean(axis=(1, 2)) if v.ndim == 4 else v[0] for v in row]) for row in rows])


def caffe(x):
    return x[..., ::-1] - np.float32(backbones.IMAGENET_MEAN_BGR)


def write_network(path, nodes, shapes, inputs_too=False, seed=0):
    """An ONNX file of nodes on an input ``data`` (1, 3, 64, 64), with random weights of these shapes."""
    rng = np.random.default_rng(seed)
    weights = [numpy_helper.from_array(
        np.array(shape) if name.endswith("shape") else
        rng.normal(0, (2 / np.prod(shape[1:])) ** 0.5 if len(shape) > 1 else 0.1, shape).astype(np.float32), name)
        for name, shape in shapes.items()]
    inputs = [helper.make_tensor_value_info("data", TensorProto.FLOAT, [1, 3, 64, 64])]
    if inputs_too:
        inputs += [helper.make_tensor_value_info(w.name, w.data_type, w.dims) for w in weights]
    graph = helper.make_graph(nodes, "network", inputs, [helper.make_tensor_value_info(
        nodes[-1].output[0], TensorProto.FLOAT, None)], weights)
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 9)], ir_version=3 if inputs_too else 4),
              str(path))
    return path


@pytest.fixture(scope="module")
def caffe_alexnet(tmp_path_factory):
    """What is particular to Caffe's AlexNet in the model zoo, on a small scale.

    Groups, local response normalisation, padding at one end, a batch of 1 written into the shapes, nodes without
    names, weights that are inputs too.
    """
    node = helper.make_node
    nodes = [
        node("Conv", ["data", "w1", "b1"], ["conv1_1"], kernel_shape=[7, 7], strides=[4, 4]),
        node("Relu", ["conv1_1"], ["conv1_2"]),
        node("LRN", ["conv1_2"], ["norm1_1"], size=5, alpha=0.01, beta=0.75, bias=1.0),
        node("MaxPool", ["norm1_1"], ["pool1_1"], kernel_shape=[3, 3], strides=[2, 2], pads=[0, 0, 1, 1]),
        node("Conv", ["pool1_1", "w2", "b2"], ["conv2_1"], kernel_shape=[5, 5], pads=[2, 2, 2, 2], group=2),
        node("Relu", ["conv2_1"], ["conv2_2"]),
        node("Reshape", ["conv2_2", "flat_shape"], ["flat"]),
        node("Gemm", ["flat", "w6", "b6"], ["fc6_1"], transB=1),
        node("Relu", ["fc6_1"], ["fc6_2"]),
        node("Dropout", ["fc6_2"], ["fc6_3", "mask"]),
        node("Gemm", ["fc6_3", "w8", "b8"], ["fc8_1"], transB=1),
        node("Softmax", ["fc8_1"], ["prob_1"], axis=1)]
    return write_network(tmp_path_factory.mktemp("caffe") / "alexnet.onnx", nodes, {
        "w1": (16, 3, 7, 7), "b1": (16,), "w2": (24, 8, 5, 5), "b2": (24,), "flat_shape": (1, 24 * 7 * 7),
        "w6": (32, 24 * 7 * 7), "b6": (32,), "w8": (10, 32), "b8": (10,)}, inputs_too=True)


@pytest.fixture(scope="module")
def textures(tmp_path_factory):
    """240 tiles of three textures, in colours that tell nothing; every fourth held out."""
    rng = np.random.default_rng(0)
    y, x = np.mgrid[:PX, :PX]
    tiles, labels = [], np.arange(240) % 3
    for label in labels:
        angle, wave = rng.uniform(0, np.pi), rng.uniform(3, 5)
        along, across = np.cos(angle) * x + np.sin(angle) * y, np.cos(angle) * y - np.sin(angle) * x
        pattern = [np.sin(along / wave) > 0, (np.sin(along / wave) > 0.3) & (np.sin(across / wave) > 0.3),
                   np.sin(along / (6 * wave)) > 0][label]
        tile = np.where(pattern[..., None], rng.integers(0, 256, 3), rng.integers(0, 256, 3))
        tiles.append(np.clip(tile + rng.normal(0, 8, tile.shape), 0, 255).astype(np.uint8))
    folder = tmp_path_factory.mktemp("textures")
    np.savez(folder / "tiles.npz", tiles=np.array(tiles), labels=labels, names=["stripes", "dots", "bands"],
             fold=np.where(np.arange(240) % 4 == 3, 0, -1))
    return folder


@pytest.fixture(scope="module")
def trained(textures):
    """The embedded AlexNet retrained on the textures, and its bundle."""
    result = python36("train", folder=str(textures), name="alexnet_small", tiles=str(textures / "tiles.npz"),
                      out=str(textures / "bundle"), copies=2)
    return result, bundle.load(textures / "bundle"), np.load(textures / "tiles.npz")["tiles"]


# Networks out of ONNX

@needs_cntk
def test_the_embedded_network_computes_what_its_file_says():
    came = python36("layers", name="alexnet_small")
    assert came["cut_at"] == ["relu4", "relu5"] and came["free"] == 0
    expected = features_of_onnx_runtime(backbones.WEIGHTS / "alexnet_small.onnx", ["relu4", "relu5"])
    assert np.allclose(came["features"], expected, rtol=1e-4, atol=1e-4 * np.abs(expected).max())
    # 11 px, then strides of 4 and 2 before kernels of 5 and 3: worked out by hand.
    sees = dict(zip(came["names"], came["sees"]))
    assert [sees["relu{}".format(i)] for i in range(1, 6)] == [11, 51, 99, 131, 163]


@needs_cntk
def test_a_network_like_caffes_alexnet(caffe_alexnet):
    came = python36("layers", name=str(caffe_alexnet))
    assert came["cut_at"] == ["fc6_3"]  # what the last dense layer reads
    expected = features_of_onnx_runtime(caffe_alexnet, ["fc6_2"], caffe)
    assert np.allclose(came["features"], expected, rtol=1e-4, atol=1e-4 * np.abs(expected).max())


@needs_cntk
def test_networks_that_cannot_be_used(caffe_alexnet, tmp_path, monkeypatch):
    whole = caffe_alexnet.read_bytes()
    broken = tmp_path / "broken.onnx"
    broken.write_bytes(whole[:len(whole) // 2])
    one_sentence(python36("layers", True, name=str(broken)), "a whole ONNX file", "can't be read")
    one_sentence(python36("layers", True, name=f"{caffe_alexnet}#layer=relu9"),
                 "got 'relu9'", "conv1_1, conv1_2, norm1_1", "fc8_1, prob_1")
    one_sentence(python36("layers", True, name=f"{caffe_alexnet}#sha256={'0' * 64}"), "with SHA-256 000000000000…")
    one_sentence(python36("layers", True, name=str(tmp_path / "none.onnx")), "which is no file")
    one_sentence(python36("layers", True, name="vgg"), "got 'vgg'", "alexnet_small")
    strange = write_network(tmp_path / "strange.onnx", [
        helper.make_node("Conv", ["data", "w"], ["c"], name="conv1", kernel_shape=[3, 3]),
        helper.make_node("HardSigmoid", ["c"], ["h"], name="gate")], {"w": (4, 3, 3, 3)})
    one_sentence(python36("layers", True, name=f"{strange}#layer=gate"), "got HardSigmoid in the layer gate")
    # It isn't needed for a layer before it.
    assert len(python36("layers", name=f"{strange}#layer=conv1")["features"][0]) == 4


# Training and export

@needs_cntk
def test_the_new_layer_learns_and_the_export_says_the_same(trained, textures):
    result, saved, tiles = trained
    history = result["history"]
    assert result["accuracy"] >= 0.9, result["accuracy"]
    assert history["loss"][-1] < 0.5 * history["loss"][0] and len(history["val_accuracy"]) == 20
    assert result["moved"] > 0.01
    assert result["parity"] == saved.facts["parity"]["model.onnx"]
    assert result["parity"]["tiles"] >= 200 and result["parity"]["same_class"] == 1
    assert result["parity"]["max_difference"] <= 1e-3
    assert sorted(saved.facts["files"]) == ["model.model", "model.onnx"]
    # Beyond the batches that it was compared in: one tile, and seven.
    model = onnx.load(str(saved.folder / "model.onnx"))
    assert model.opset_import[0].version >= 13
    logits = np.load(textures / "logits.npy")
    session = onnxruntime.InferenceSession(str(saved.folder / "model.onnx"), providers=["CPUExecutionProvider"])
    for n in (1, 7):
        came = session.run(["logits"], {"tiles": tiles[:n]})[0]
        assert np.allclose(came, logits[:n], atol=1e-3)


@needs_cntk
def test_a_batch_of_one_and_other_parts_of_caffes_alexnet_are_exported(caffe_alexnet, textures, tmp_path):
    data = dict(np.load(textures / "tiles.npz"))
    np.savez(tmp_path / "tiles.npz", **dict(data, tiles=data["tiles"][:, :64, :64]))
    result = python36("train", folder=str(tmp_path), name=str(caffe_alexnet), tiles=str(tmp_path / "tiles.npz"),
                      out=str(tmp_path / "bundle"), epochs=2)
    assert result["parity"]["tiles"] >= 200 and result["parity"]["max_difference"] <= 1e-3
    assert engines.load(bundle.load(tmp_path / "bundle")).score(data["tiles"][:5, :64, :64]).shape == (5, 3)


@needs_cntk
def test_an_export_that_predicts_otherwise_is_refused_and_nothing_written(textures, tmp_path):
    refusal = python36("train", True, folder=str(tmp_path), name="alexnet_small", tiles=str(textures / "tiles.npz"),
                       out=str(tmp_path / "bundle"), epochs=2, damage="weights")
    one_sentence(refusal, "model.onnx", " that differ by up to", "Nothing was written")
    assert list(tmp_path.iterdir()) == []


# The engine

@pytest.fixture
def engine(trained):
    loaded = engines.load(trained[1], "cntk")
    yield loaded
    loaded.close()


@needs_cntk
def test_the_engine_predicts_what_the_export_predicts(engine, trained):
    _, saved, tiles = trained
    assert engine._process is None  # nothing runs before the first batch
    expected = engines.load(saved).score(tiles[:40])
    for n in (40, 1, 7):
        scored = engine.score(tiles[:n])
        assert scored.dtype == np.float32 and np.allclose(scored, expected[:n], atol=1e-4)
    with pytest.raises(InputError, match="expected tiles of 224 × 224 px"):
        engine.score(tiles[:1, :100])


@needs_cntk
def test_a_killed_process_is_started_again_and_the_batch_scored(engine, trained):
    tiles = trained[2][:8]
    expected = engine.score(tiles)
    first = engine._process
    first.send_signal(signal.SIGKILL)
    first.wait()
    assert np.array_equal(engine.score(tiles), expected)
    assert engine._process.pid != first.pid
    # In the middle of a batch: stopped, so that it can't answer before it is killed.
    second = engine._process
    second.send_signal(signal.SIGSTOP)
    killer = subprocess.Popen(["sh", "-c", f"sleep 0.5; kill -9 {second.pid}"])
    assert np.array_equal(engine.score(tiles), expected)
    killer.wait()
    assert second.returncode == -signal.SIGKILL


@needs_cntk
def test_a_process_that_dies_again_leaves_its_last_words_in_the_rows(trained, tmp_path):
    _, saved, tiles = trained
    import pandas as pd
    copy = tmp_path / "copy"
    shutil.copytree(saved.folder, copy)
    (copy / "model.model").write_bytes((copy / "model.model").read_bytes()[:1000])
    facts = json.loads((copy / "model.json").read_text())
    facts["files"]["model.model"] = bundle.sha256(copy / "model.model")
    (copy / "model.json").write_text(json.dumps(facts))
    batch = pd.DataFrame({"tile_id": ["a", "b"], "county": "x", "year": 0,
                          "image": [encode(tiles[0]), b"nothing"]})
    rows = next(scoring.score_batches([batch], copy, "cntk"))
    assert rows["error_kind"].tolist() == ["engine", "unreadable"] and rows["class_id"].isna().all()
    assert "CNTK's process ended with status 1: " in rows["error"][0] and "Error" in rows["error"][0]
    assert "UnidentifiedImageError" in rows["error"][1]


@needs_cntk
def test_a_model_that_holds_code_is_refused_and_the_code_not_run(tmp_path):
    """Its user function is named so that importing it would write a file."""
    import tiny
    saved = tiny.model(tmp_path / "bundle")
    python36("with_code", path=str(saved.folder / "model.model"), writes=str(tmp_path / "ran"))
    facts = json.loads((saved.folder / "model.json").read_text())
    facts["files"]["model.model"] = bundle.sha256(saved.folder / "model.model")
    (saved.folder / "model.json").write_text(json.dumps(facts))
    engine = engines.load(bundle.load(saved.folder), "cntk")
    with pytest.raises(EngineDied) as died:
        engine.score(np.zeros((1, tiny.PX, tiny.PX, 3), np.uint8))
    assert not (tmp_path / "ran").exists()
    assert "expected a network of CNTK's own operations, got one with a function of someone's own" in str(died.value)


@needs_cntk
def test_the_process_ends_with_its_worker(trained):
    program = ("import sys, numpy as np; from helpers import bundle, engines; "
               "engine = engines.load(bundle.load(sys.argv[1]), 'cntk'); "
               "engine.score(np.zeros((1, 224, 224, 3), np.uint8)); print(engine._process.pid, flush=True); input()")
    worker = subprocess.Popen([sys.executable, "-c", program, str(trained[1].folder)], cwd=ROOT, text=True,
                              stdin=subprocess.PIPE, stdout=subprocess.PIPE)
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
    folder = tmp_path / "place"
    folder.mkdir()
    for i, tile in enumerate(tiles[:60]):
        (folder / f"{i:03d}.png").write_bytes(encode(tile))
    write_images(folder, str(tmp_path / "store"))
    tables = {}
    for name in ("cntk", "onnxruntime"):
        assert scoring.score(spark, str(tmp_path / "store"), saved, str(tmp_path / name), name, partitions=3) == 60
        tables[name] = read(tmp_path / name)
        assert set(tables[name]["engine"]) == {name} and tables[name]["error_kind"].isna().all()
    assert evaluation.agreement(*tables.values()).share == 1
    assert np.allclose(*(np.stack(t["probabilities"]) for t in tables.values()), atol=1e-4)


def test_an_environment_that_is_half_installed(tmp_path, monkeypatch):
    monkeypatch.setenv("CNTK_ENVIRONMENT", str(tmp_path / "none"))
    with pytest.raises(InputError) as error:
        cntk_environment()
    one_sentence(str(error.value), "got none", "install_cntk.sh")
    monkeypatch.setenv("CNTK_ENVIRONMENT", str(tmp_path))
    with pytest.raises(InputError) as error:
        cntk_environment()
    one_sentence(str(error.value), "whose installation was not finished", "install_cntk.sh")


# The installation

@pytest.fixture
def house(tmp_path):
    """A repository of its own: the script, and a main environment that is there already."""
    (tmp_path / "setup_scripts").mkdir()
    (tmp_path / "tools").mkdir()
    shutil.copy(ROOT / "setup_scripts" / "install_cntk.sh", tmp_path / "setup_scripts")
    shutil.copytree(ROOT / "helpers", tmp_path / "helpers", ignore=shutil.ignore_patterns("weights", "__pycache__"))
    (tmp_path / "setup_scripts" / "environment.sh").write_text(
        f"repository={tmp_path}; environment={tmp_path}/.venv; python={sys.executable}\n")
    (tmp_path / "requirements.txt").write_text('cntk==2.7.post2 ; python_version < "3.7"\n')
    return tmp_path


def install(house, tools=None, **environment):
    """Run the script, with small programs in place of those of the same name."""
    for name, text in (tools or {}).items():
        (house / "tools" / name).write_text("#!/bin/sh\n" + text)
        (house / "tools" / name).chmod(0o755)
    return subprocess.run([house / "setup_scripts" / "install_cntk.sh"], capture_output=True, text=True, env=dict(
        {"PATH": f"{house}/tools:/usr/bin:/bin", "HOME": str(house), "PYENV_ROOT": str(house)}, **environment))


def test_where_cntk_cannot_be_had_one_line_says_why(house):
    kernel = house / ".venv/share/jupyter/kernels/cntk/kernel.json"
    kernel.parent.mkdir(parents=True)
    kernel.write_text("{}")
    done = install(house, {"uname": "echo Darwin"})
    assert done.returncode == 3 and done.stdout == "" and not kernel.parent.exists()
    assert done.stderr.count("\n") == 1 and "expected Linux on x86-64" in done.stderr and "Darwin" in done.stderr
    done = install(house, {"uname": '[ "$1" = -m ] && echo x86_64 || echo Linux', "python3.6": "exit 1"})
    assert done.returncode == 3 and done.stderr.count("\n") == 1
    assert "expected Python 3.6 in CNTK_PYTHON, on the path, in pyenv" in done.stderr
    done = install(house, CNTK_PYTHON=sys.executable)
    assert done.returncode == 3 and f"got {sys.executable}." in done.stderr


def test_python36_is_looked_for_in_order(house):
    """The first that is Python 3.6 is used: each stand-in claims to be, and fails with its name when used."""
    def stand_in(name):
        return f'case "$*" in *version_info*) exit 0;; *--version*) echo {name};; *) exit 7;; esac'
    (house / "versions/3.6.15/bin").mkdir(parents=True)
    pyenv = house / "versions/3.6.15/bin/python3.6"
    pyenv.write_text("#!/bin/sh\n" + stand_in("of-pyenv"))
    pyenv.chmod(0o755)
    assert "CNTK 2.7 for of-pyenv" in install(house).stdout
    assert "CNTK 2.7 for of-path" in install(house, {"python3.6": stand_in("of-path")}).stdout
    (house / "tools/chosen").write_text("#!/bin/sh\n" + stand_in("chosen"))
    (house / "tools/chosen").chmod(0o755)
    assert "CNTK 2.7 for chosen" in install(house, CNTK_PYTHON=str(house / "tools/chosen")).stdout
    shutil.rmtree(house / "versions")
    (house / "tools/python3.6").unlink()
    conda = (f'case "$1" in create) mkdir -p "{house}/.venv-cntk-python/bin"; '
             f'cp "{house}/tools/chosen" "{house}/.venv-cntk-python/bin/python3.6";; esac')
    done = install(house, {"micromamba": conda})
    assert "Creating Python 3.6 with micromamba" in done.stderr and "CNTK 2.7 for chosen" in done.stdout
    assert not (house / ".venv-cntk/complete").exists()


@needs_cntk
def test_an_installation_that_is_whole_is_kept_and_another_done_again(house):
    """With the real environment in its place; only the stamp tells a whole one from half of one."""
    real = cntk_environment()
    (house / ".venv-cntk/bin").mkdir(parents=True)
    (house / ".venv-cntk/bin/python").symlink_to(real / "bin" / "python")
    (house / ".venv-cntk/lib").mkdir()
    (house / ".venv-cntk/lib/mpi").symlink_to(real / "lib" / "mpi")
    lines = subprocess.run(["sh", "-c", f"grep 'python_version < \"3.7\"' {house}/requirements.txt | cksum"],
                           capture_output=True, text=True).stdout.strip()
    (house / ".venv-cntk/complete").write_text(f"{lines} {house}/.venv-cntk\n")
    done = install(house, {"python3.6": "exit 1"})
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    kernel = json.loads((house / ".venv/share/jupyter/kernels/cntk/kernel.json").read_text())
    assert kernel["env"] == {"LD_LIBRARY_PATH": f"{house}/.venv-cntk/lib/mpi", "TUTORIAL_PYTHON": sys.executable}
    assert kernel["argv"][0] == f"{house}/.venv-cntk/bin/python"
    (house / ".venv-cntk/complete").unlink()
    assert "expected Python 3.6" in install(house).stderr  # it wants to install again


# Real weights, real pictures

@pytest.fixture(scope="module")
def aerial(real_data):
    """Real aerial pictures, their classes, and folds that keep places together."""
    from test_backbones import aerial
    return aerial()


def save_tiles(path, aerial, px):
    from PIL import Image
    tiles, labels, fold = aerial
    if px != tiles.shape[1]:
        tiles = np.stack([np.asarray(Image.fromarray(tile).resize((px, px), Image.BILINEAR)) for tile in tiles])
    np.savez(path, tiles=tiles, labels=labels, fold=fold, names=[str(i) for i in range(6)])
    return tiles


@needs_cntk
def test_cntk_retrains_squeezenet_on_real_pictures(real_data, aerial, spark, tmp_path):
    tiles = save_tiles(tmp_path / "tiles.npz", aerial, 227)
    result = python36("train", folder=str(tmp_path), tiles=str(tmp_path / "tiles.npz"), out=str(tmp_path / "bundle"),
                      name=f"{real_data}/weights/squeezenet_v1.0_imagenet.onnx#layer=fire9_concat", epochs=30)
    print("SqueezeNet in CNTK: {:.1%}".format(result["accuracy"]))
    assert result["accuracy"] >= 0.95
    held_out = np.flatnonzero(aerial[2] == 4)
    folder = tmp_path / "aerial"
    folder.mkdir()
    for i in held_out:
        (folder / f"{i:03d}.png").write_bytes(encode(tiles[i]))
    write_images(folder, str(tmp_path / "store"))
    scoring.score(spark, str(tmp_path / "store"), bundle.load(tmp_path / "bundle"), str(tmp_path / "table"))
    table = read(tmp_path / "table")
    of_cntk = np.load(tmp_path / "logits.npy")[held_out].argmax(axis=1)
    assert table["class_id"].tolist() == of_cntk.tolist()


def test_tensorflow_retrains_resnet_on_real_pictures(real_data, aerial):
    tiles, labels, fold = aerial
    network = backbones.get(str(real_data / "weights" / "resnet50_imagenet_conv4.keras")).build()
    features = retraining_tensorflow.compute(network, tiles)
    right = np.zeros(len(labels), bool)
    for k in range(5):
        train, held_out = np.flatnonzero(fold != k), np.flatnonzero(fold == k)
        head = retraining_tensorflow.new_head(features[train], 6, seed=0)
        retraining_tensorflow.train(head, features[train], labels[train], (features[held_out], labels[held_out]),
                                    seed=0, epochs=20, learning_rate=1e-3)
        right[held_out] = head.predict(features[held_out], verbose=0).argmax(axis=1) == labels[held_out]
    print("ResNet-50 in TensorFlow: {:.1%}".format(right.mean()))
    assert right.mean() >= 0.97

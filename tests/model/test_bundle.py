import json
import shutil
from concurrent.futures import ThreadPoolExecutor

import fsspec
import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

import tiny
from helpers import InputError
from helpers.model import bundle, engines
from networks import PX, coloured_tiles, model_of, session, solve_head


def rewrite_checksum(folder, name):
    facts = json.loads((folder / "model.json").read_text())
    facts["files"][name] = bundle.sha256(folder / name)
    (folder / "model.json").write_text(json.dumps(facts))


@pytest.fixture
def copy(saved, tmp_path):
    """The folder of a bundle that may be damaged."""
    shutil.copytree(saved.folder, tmp_path / "copy")
    return tmp_path / "copy"


# Writing one

def test_the_facts_say_how_well_the_export_agrees(saved):
    parity = saved.facts["parity"]["model.onnx"]
    assert parity["tiles"] == 20 and parity["same_class"] == 1 and parity["max_difference"] < 1e-5


def test_an_export_that_predicts_otherwise_is_refused_and_nothing_written(network, tmp_path, monkeypatch):
    export = bundle.export_onnx

    def damaged(model, path):
        export(model, path)
        graph = onnx.load(str(path))
        weights = max(graph.graph.initializer, key=lambda w: np.prod(w.dims))
        weights.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(weights) * 1.1, weights.name))
        onnx.save(graph, str(path))

    monkeypatch.setattr(bundle, "export_onnx", damaged)
    # Noise, of which the network is sure of nothing.
    noise = np.random.default_rng(1).integers(0, 256, (20, PX, PX, 3), dtype=np.uint8)
    with pytest.raises(bundle.ExportRefused, match="Nothing was written"):
        bundle.save_tensorflow(network, tmp_path / "bundle", noise, {"classes": list("abcdef"), "backbone": {}})
    assert list(tmp_path.iterdir()) == []


def test_a_draft_of_cntk_gets_an_int8_network_too(tmp_path):
    """Its ONNX is of version 9, where quantisation knows no channels."""
    draft = tmp_path / "draft"
    draft.mkdir()
    rng = np.random.default_rng(0)
    weights = {"w": rng.normal(0, 0.2, (16, 3, 5, 5)), "b": np.zeros(16),
               "head": rng.normal(0, 1, (16, 6)), "bias": np.zeros(6)}
    nodes = [helper.make_node("Cast", ["tiles"], ["float"], to=TensorProto.FLOAT),
             helper.make_node("Transpose", ["float"], ["first"], perm=[0, 3, 1, 2]),
             helper.make_node("Conv", ["first", "w", "b"], ["conv"], kernel_shape=[5, 5], strides=[2, 2]),
             helper.make_node("Relu", ["conv"], ["relu"]), helper.make_node("GlobalAveragePool", ["relu"], ["pool"]),
             helper.make_node("Flatten", ["pool"], ["features"], axis=1),
             helper.make_node("Gemm", ["features", "head", "bias"], ["logits"]),
             helper.make_node("Softmax", ["logits"], ["probabilities"], axis=1)]

    def computed(name, n):
        """What the network gives under a name; the file has the outputs of the last call."""
        model = model_of(nodes, {"tiles": ("N", PX, PX, 3)}, {name: ("N", n), "probabilities": ("N", 6)},
                         {key: value.astype(np.float32) for key, value in weights.items()}, opset=9, ir_version=4)
        onnx.save(model, str(draft / "model.onnx"))
        return session(model).run([name], {"tiles": tiles})[0]

    tiles, labels = coloured_tiles(300, 2)
    weights["head"], weights["bias"] = solve_head(computed("features", 16), labels)
    np.savez(draft / "arrays.npz", tiles=tiles, logits=computed("logits", 6), calibration=coloured_tiles(60, 3)[0],
             validation=tiles, labels=labels)
    (draft / "model.model").write_bytes(b"CNTK's")
    (draft / "model.json").write_text(json.dumps({"classes": list("abcdef"), "input_px": [PX, PX], "backbone": {}}))
    bundle.save_cntk(draft, tmp_path / "bundle")
    finished = bundle.load(tmp_path / "bundle")
    assert finished.facts["judged"]["onnxruntime-int8"]["refused"] is None, finished.facts["judged"]
    assert [name for name in engines.of(finished) if "bf16" not in name] == [
        "onnxruntime-int8", "onnxruntime", "openvino-int8", "openvino", "cntk"]
    assert (engines.load(finished).score(tiles).argmax(axis=1) == labels).mean() >= 0.97


# Opening one

def test_bundles_that_cannot_be_used(copy, tmp_path):
    with pytest.raises(InputError, match="no model.json there"):
        bundle.load(tmp_path)
    content = bytearray((copy / "model.onnx").read_bytes())
    content[len(content) // 2] ^= 1
    (copy / "model.onnx").write_bytes(bytes(content))
    with pytest.raises(InputError, match="expected model.onnx of the bundle .* with SHA-256"):
        bundle.load(copy)
    (copy / "model.onnx").unlink()
    with pytest.raises(InputError, match="got no such file"):
        bundle.load(copy)
    facts = json.loads((copy / "model.json").read_text())
    (copy / "model.json").write_text(json.dumps({k: v for k, v in facts.items() if k != "classes"}))
    with pytest.raises(InputError, match="can't be used"):
        bundle.load(copy)


@pytest.mark.parametrize("change", [lambda facts: "[" * 100_000,
                                    lambda facts: json.dumps(dict(facts, classes=["a"] * 6)),
                                    lambda facts: json.dumps(dict(facts, files={"model.onnx": "a\nb"}))])
def test_facts_that_cannot_be_used(tmp_path, change):
    saved = tiny.model(tmp_path / "bundle")
    (saved.folder / "model.json").write_text(change(saved.facts))
    with pytest.raises(InputError, match="expected model.json of a model bundle at .*, got one that can't be used"):
        bundle.load(saved.folder)


@pytest.mark.parametrize("name", ["../secret.txt", "/etc/passwd", "folder/file"])
def test_a_bundle_that_points_outside_itself(copy, tmp_path, name):
    """Even with the right checksum."""
    (tmp_path / "secret.txt").write_text("mine")
    (copy / "folder").mkdir()
    (copy / "folder" / "file").write_text("mine")
    rewrite_checksum(copy, name)
    with pytest.raises(InputError, match="can't be used .*which lies elsewhere"):
        bundle.load(copy)


@pytest.mark.parametrize("where", ["weights.bin", "../weights.bin"])
def test_a_network_whose_weights_lie_elsewhere_is_refused(tmp_path, where):
    """Even with the right checksum: of that other file there is none."""
    saved = tiny.model(tmp_path / "bundle")
    path = saved.folder / "model.onnx"
    network = onnx.load(str(path))
    weights = network.graph.initializer[0]
    (saved.folder / where).write_bytes(numpy_helper.to_array(weights).tobytes())
    weights.ClearField("raw_data")
    weights.data_location = TensorProto.EXTERNAL
    weights.external_data.add(key="location", value=where)
    path.write_bytes(network.SerializeToString())
    rewrite_checksum(saved.folder, "model.onnx")
    with pytest.raises(InputError, match="expected model.onnx of the bundle .* to hold its weights, got one that has "
                                         "them"):
        bundle.load(saved.folder)


def test_a_link_in_a_bundle_is_refused(tmp_path):
    saved = tiny.model(tmp_path / "bundle")
    (saved.folder / "model.onnx").rename(tmp_path / "elsewhere.onnx")
    (saved.folder / "model.onnx").symlink_to(tmp_path / "elsewhere.onnx")
    with pytest.raises(InputError, match="expected model.onnx .* got no such fil"):
        bundle.load(saved.folder)


def test_a_file_that_is_no_network_is_one_sentence(tmp_path):
    saved = tiny.model(tmp_path / "bundle")
    (saved.folder / "model.onnx").write_bytes(b"\xff" * 100)
    rewrite_checksum(saved.folder, "model.onnx")
    with pytest.raises(InputError, match="expected model.onnx .* to be an ONNX network, got: "):
        bundle.load(saved.folder)


def test_a_bundle_is_uploaded_and_opened_from_any_file_system(tmp_path, monkeypatch):
    monkeypatch.setenv("TUTORIAL_HOME", str(tmp_path / "home"))
    saved = tiny.model(tmp_path / "bundle")
    bundle.upload(saved, "memory://models/one")
    assert bundle.load("memory://models/one").checksum == saved.checksum
    with pytest.raises(InputError, match="expected a model bundle at memory://models/two, got no model.json there"):
        bundle.load("memory://models/two")


def test_of_a_remote_bundle_only_the_files_that_it_lists_are_copied(tmp_path, monkeypatch):
    monkeypatch.setenv("TUTORIAL_HOME", str(tmp_path / "home"))
    saved = tiny.model(tmp_path / "bundle")
    bundle.upload(saved, "memory://listed/one")
    fsspec.filesystem("memory").pipe_file("/listed/one/other.bin", b"x" * 100)
    with ThreadPoolExecutor(4) as threads:  # jobs that load it at the same time
        found = list(threads.map(lambda _: bundle.load("memory://listed/one"), range(8)))
    assert {one.checksum for one in found} == {saved.checksum}
    assert sorted(path.name for path in found[0].folder.iterdir()) == ["model.json", "model.onnx"]


def test_a_remote_bundle_is_copied_once_and_again_where_the_copy_is_damaged(tmp_path, monkeypatch):
    monkeypatch.setenv("TUTORIAL_HOME", str(tmp_path / "home"))
    saved, memory = tiny.model(tmp_path / "bundle"), fsspec.filesystem("memory")
    bundle.upload(saved, "memory://once/one")
    copied = bundle.load("memory://once/one").folder / "model.onnx"
    whole = copied.read_bytes()
    copied.write_bytes(whole[:-1])
    assert bundle.load("memory://once/one").checksum == saved.checksum and copied.read_bytes() == whole
    memory.rm_file("/once/one/model.onnx")  # Nobody asks for it any more.
    assert bundle.load("memory://once/one").checksum == saved.checksum


@pytest.mark.parametrize("name", ["../victim", "/etc/passwd", "a/b", ".hidden", ""])
def test_a_remote_bundle_cannot_name_files_elsewhere(tmp_path, monkeypatch, name):
    monkeypatch.setenv("TUTORIAL_HOME", str(tmp_path / "home"))
    facts = {"classes": ["a"], "input_px": [32, 32], "backbone": {}, "files": {name: "0" * 64}}
    fsspec.filesystem("memory").pipe_file("/named/one/model.json", json.dumps(facts).encode())
    with pytest.raises(InputError, match="can't be used .*which lies elsewhere"):
        bundle.load("memory://named/one")


def test_a_network_with_other_classes_than_its_facts_is_refused(tmp_path):
    saved = tiny.model(tmp_path / "bundle")
    (saved.folder / "model.json").unlink()
    bundle.finish(saved.folder, dict({key: value for key, value in saved.facts.items() if key != "files"},
                                     classes=list("abcdefgh")))
    with pytest.raises(InputError, match="expected 8 probabilities from model.onnx of the bundle .*, got 6"):
        engines.load(bundle.load(saved.folder), "onnxruntime")


def test_a_network_whose_output_has_another_name_is_refused(tmp_path):
    saved = tiny.model(tmp_path / "bundle")
    network = onnx.load(str(saved.folder / "model.onnx"))
    network.graph.node[-1].output[0] = network.graph.output[0].name = "scores"
    onnx.save(network, str(saved.folder / "model.onnx"))
    (saved.folder / "model.json").unlink()
    bundle.finish(saved.folder, {key: value for key, value in saved.facts.items() if key != "files"})
    with pytest.raises(InputError, match="to be a network that onnxruntime can run, got: .*probabilities"):
        engines.load(bundle.load(saved.folder), "onnxruntime")

"""Pretrained networks for CNTK: the embedded one, files of one's own, and where they are cut."""

import shutil

import numpy as np
import onnx
import pytest
from onnx.helper import make_node as node
from PIL import Image

from helpers import InputError
from helpers.model import backbones, cntk_network
from helpers.model.cntk_network import get
from networks import features_of_onnx_runtime, needs_cntk, one_sentence, python36, session, write_network
from servers import Files


@needs_cntk
def test_the_embedded_network_computes_what_its_file_says(caffe):
    came = python36("layers", name="squeezenet")
    assert came["cut_at"] == ["fire9_concat"] and came["free"] == 0
    expected = features_of_onnx_runtime(backbones.WEIGHTS / "squeezenet.onnx", ["fire9_concat"], caffe)
    assert np.allclose(came["features"], expected, rtol=1e-4, atol=1e-4 * np.abs(expected).max())
    # 7 px at a stride of 2, then of 4 behind pool1 and of 8 behind pool4: worked out by hand.
    sees = dict(zip(came["names"], came["sees"]))
    assert [sees[name] for name in ("conv1", "pool1", "fire2_concat", "fire4_concat", "pool4", "fire5_concat")] \
        == [7, 11, 19, 35, 43, 59]


@needs_cntk
def test_the_embedded_network_knows_two_photographs(real_data, caffe, tmp_path):
    names = ["espresso.jpg", "african_bush_elephant.jpg"]
    pictures = np.stack([np.asarray(Image.open(real_data / "weights" / name).convert("RGB").resize((227, 227)))
                         for name in names])
    np.save(tmp_path / "pictures.npy", pictures)
    path = backbones.WEIGHTS / "squeezenet.onnx"
    of_cntk = np.array(python36("layers", name=f"{path}#layer=logits", pictures=str(tmp_path / "pictures.npy"))[
        "features"])
    of_onnx_runtime = session(path).run(["logits"], {"data": caffe(pictures.astype(np.float32)).transpose(0, 3, 1, 2)})
    assert of_cntk.argmax(axis=1).tolist() == of_onnx_runtime[0].argmax(axis=1).tolist() == [967, 386]
    # In the published weights' own precision, too.
    published = session(real_data / "weights" / "squeezenet_v1.0_imagenet.onnx").run(
        ["logits"], {"data": caffe(pictures.astype(np.float32)).transpose(0, 3, 1, 2)})[0]
    assert np.abs(of_onnx_runtime[0] - published).max() < 0.01 * np.abs(published).max()


def ending(*nodes):
    """Two convolutions and what stands behind them."""
    return [node("Conv", ["data", "w1"], ["c1"], name="conv1"), node("Relu", ["c1"], ["r1"], name="relu1"),
            node("Conv", ["r1", "w2"], ["c2"], name="conv2"), node("Relu", ["c2"], ["r2"], name="relu2"), *nodes]


POOLED = node("GlobalAveragePool", ["r2"], ["p"], name="pool")
FLAT = node("Flatten", ["p"], ["f"], name="flat")


@pytest.mark.parametrize("cut_at, nodes", [
    ("relu2", ending(POOLED, FLAT, node("Gemm", ["f", "d"], ["g"]), node("Softmax", ["g"], ["s"]))),
    ("relu2", ending(POOLED, FLAT, node("MatMul", ["f", "d"], ["m"]), node("Add", ["m", "b"], ["s"]))),
    ("relu2", ending(POOLED, node("Reshape", ["p", "flat_shape"], ["f"]), node("Dropout", ["f"], ["k"]),
                     node("Gemm", ["k", "d"], ["s"]))),
    # As in AlexNet and VGG: of several dense layers the last one is the classifier.
    ("relu3", ending(POOLED, FLAT, node("Gemm", ["f", "e"], ["h"]), node("Relu", ["h"], ["r3"], name="relu3"),
                     node("Dropout", ["r3"], ["k"]), node("Gemm", ["k", "d"], ["s"]))),
    # As in SqueezeNet: conv2 has a map for each class.
    ("relu1", ending(POOLED, FLAT, node("Softmax", ["f"], ["s"]))),
    ("relu1", ending(node("AveragePool", ["r2"], ["p"], kernel_shape=[64, 64]), FLAT)),
    # Without a classifier; a shortcut is none, nor is a dense layer of two values.
    ("relu2", ending()), ("sum", ending(node("Add", ["r2", "c2"], ["t"], name="sum"))),
    ("sum", ending(node("Add", ["r2", "c2"], ["t"], name="sum"), node("GlobalAveragePool", ["t"], ["s"]))),
    ("product", ending(node("MatMul", ["r2", "r2"], ["m"], name="product")))])
def test_the_layer_to_cut_at_is_what_the_classifier_reads(cut_at, nodes, tmp_path):
    path = write_network(tmp_path / "net.onnx", nodes, {
        "w1": (4, 3, 1, 1), "w2": (6, 4, 1, 1), "d": (6, 10), "e": (6, 6), "b": (10,), "flat_shape": (1, 6)})
    assert get(str(path)).cut_at == (cut_at,)


def test_a_network_for_any_size_takes_tiles(tmp_path):
    path = write_network(tmp_path / "net.onnx", ending(), {"w1": (4, 3, 1, 1), "w2": (6, 4, 1, 1)})
    model = onnx.load(str(path))
    for name, dim in zip(("height", "width"), model.graph.input[0].type.tensor_type.shape.dim[2:]):
        dim.dim_param = name
    onnx.save(model, str(path))
    assert get(str(path)).input_px == (224, 224)
    model.graph.input[0].type.tensor_type.shape.dim[1].dim_value = 1
    onnx.save(model, str(path))
    with pytest.raises(InputError) as error:
        get(str(path))
    one_sentence(error, "pictures (N, 3, height, width)", "channels first")


def test_one_damaged_byte_is_refused(tmp_path, monkeypatch):
    for file in backbones.WEIGHTS.iterdir():
        shutil.copy(file, tmp_path)
    monkeypatch.setattr(backbones, "WEIGHTS", tmp_path)
    assert get("squeezenet").sha256
    damaged = bytearray((tmp_path / "squeezenet.onnx").read_bytes())
    damaged[len(damaged) // 2] ^= 1
    (tmp_path / "squeezenet.onnx").write_bytes(damaged)
    with pytest.raises(InputError) as error:
        get("squeezenet")
    one_sentence(error, "SHA-256", "git checkout")


def test_a_download_of_something_else_is_refused(tmp_path, monkeypatch):
    monkeypatch.setenv("TUTORIAL_HOME", str(tmp_path / "home"))
    (tmp_path / "zoo.onnx").write_bytes(b"a page that asks to log in")
    with Files(tmp_path) as server:
        for name, says in (("zoo.onnx", "a file with SHA-256"), ("gone.onnx", "404")):
            monkeypatch.setattr(cntk_network, "ALEXNET_URL", f"{server.url}/{name}")
            with pytest.raises(InputError) as error:
                get("alexnet")
            one_sentence(error, says, "bvlcalexnet-9.onnx", "squeezenet")
    assert not [path for path in (tmp_path / "home").rglob("*") if path.is_file()]


@needs_cntk
def test_networks_that_cannot_be_used(tmp_path):
    path = write_network(tmp_path / "net.onnx", [
        node("Conv", ["data", "w"], ["c"], name="conv1", kernel_shape=[3, 3]),
        node("Relu", ["c"], ["r"])], {"w": (4, 3, 3, 3)})
    broken = tmp_path / "broken.onnx"
    broken.write_bytes(path.read_bytes()[:len(path.read_bytes()) // 2])
    says = {str(broken): ("a whole ONNX file", "can't be read"), f"{path}#layer=relu9": ("got 'relu9'", "conv1, r."),
            f"{path}#sha256={'0' * 64}": ("with SHA-256 000000000000…",),
            str(tmp_path / "none.onnx"): ("which is no file",), "vgg": ("got 'vgg'", "squeezenet"),
            f"{path}#layers=r": ("with #layer=<name>", "Correct it")}
    for sentence, parts in zip(python36("refusals", names=list(says))["sentences"], says.values()):
        one_sentence(sentence, *parts)

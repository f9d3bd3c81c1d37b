"""Small networks and tiles for the tests of ``helpers.model``, and CNTK's own Python."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper, numpy_helper

from helpers import InputError
from helpers.model import bundle
from helpers.model.engine_cntk import cntk_environment

ROOT = Path(__file__).resolve().parents[1]
PX = 32


def why_no_cntk():
    try:
        cntk_environment()
    except InputError as error:
        return str(error)


needs_cntk = pytest.mark.skipif(bool(why_no_cntk()), reason=why_no_cntk() or "")


def python36(task, refused=False, **arguments):
    """The answer of a task of cntk_training.py; the sentence of its InputError where it should be ``refused``."""
    environment = cntk_environment()
    done = subprocess.run(
        [environment / "bin" / "python", ROOT / "tests" / "cntk_training.py", task, json.dumps(arguments)],
        env=dict(os.environ, LD_LIBRARY_PATH=str(environment / "lib" / "mpi"), PYTHONPATH=str(ROOT),
                 TUTORIAL_PYTHON=sys.executable), capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    answer = json.loads(done.stdout.splitlines()[-1])
    assert ("refused" in answer) == refused, answer
    return answer["refused"] if refused else answer


def one_sentence(error, *parts):
    """The text of an error: wanted, got, and do, on one line."""
    text = str(getattr(error, "value", error))
    assert text.startswith("expected ") and " got" in text and "\n" not in text and text.endswith("."), text
    for part in parts:
        assert part in text, text
    return text


def run_keras(network, inputs):
    """Outputs of a network, without compiling it: a test uses each only once or twice."""
    outputs = network(inputs, training=False)
    return [o.numpy() for o in outputs] if isinstance(outputs, (list, tuple)) else outputs.numpy()


def session(model):
    """ONNX Runtime's session of a file or a ``ModelProto``."""
    return onnxruntime.InferenceSession(str(model) if isinstance(model, (str, Path)) else model.SerializeToString(),
                                        providers=["CPUExecutionProvider"])


def model_of(nodes, inputs, outputs, weights, opset=13, ir_version=8, **more):
    """An ONNX model; inputs and outputs are shapes by name, all float32 but ``tiles``."""
    def values(shapes):
        return [helper.make_tensor_value_info(name, TensorProto.UINT8 if name == "tiles" else TensorProto.FLOAT, shape)
                for name, shape in shapes.items()]
    graph = helper.make_graph(nodes, "network", values(inputs), values(outputs),
                              [numpy_helper.from_array(value, name) for name, value in weights.items()], **more)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=ir_version)


def write_network(path, nodes, shapes, inputs_too=False, seed=0, opset=9):
    """An ONNX file of nodes on an input ``data`` (1, 3, 64, 64), with random weights of these shapes."""
    rng = np.random.default_rng(seed)
    weights = {name: np.array(shape) if name.endswith("shape") else
               rng.uniform(0.5, 2, shape).astype(np.float32) if name == "variance" else
               rng.normal(0, (2 / np.prod(shape[1:])) ** 0.5 if len(shape) > 1 else 0.1, shape).astype(np.float32)
               for name, shape in shapes.items()}
    model = model_of(nodes, {"data": [1, 3, 64, 64]}, {nodes[-1].output[0]: None}, weights, opset=opset,
                     ir_version=3 if inputs_too else 4)
    if inputs_too:
        model.graph.input.extend(helper.make_tensor_value_info(w.name, w.data_type, w.dims)
                                 for w in model.graph.initializer)
    onnx.save(model, str(path))
    return path


def features_of_onnx_runtime(path, values, preprocess=lambda x: x):
    """Two pictures' features, the same as in cntk_training.py, that ONNX Runtime computes from the file itself."""
    model = onnx.load(str(path))
    known = {output.name for output in model.graph.output}
    model.graph.output.extend(helper.make_tensor_value_info(v, TensorProto.FLOAT, None)
                              for v in values if v not in known)
    running = session(model)
    given = running.get_inputs()[0]
    pictures = np.random.RandomState(0).randint(0, 256, (2, *given.shape[2:], 3)).astype(np.uint8)
    x = preprocess(pictures.astype(np.float32)).transpose(0, 3, 1, 2)
    rows = [running.run(list(values), {given.name: x[i:i + 1]}) for i in range(2)]
    return np.array([np.concatenate([v[0].mean(axis=(1, 2)) if v.ndim == 4 else v[0] for v in row]) for row in rows])


def coloured_tiles(n, seed):
    """Tiles of six colours, some noise on them, and which colour each has."""
    rng = np.random.default_rng(seed)
    labels = np.arange(n) % 6
    colours = np.array([(200, 40, 40), (40, 200, 40), (40, 40, 200), (200, 200, 40), (40, 200, 200), (200, 40, 200)])
    return (colours[labels][:, None, None] + rng.integers(-30, 30, (n, PX, PX, 3))).astype(np.uint8), labels


def solve_head(features, labels):
    """Weights and biases of a head that knows the colours, by least squares."""
    known = np.c_[features, np.ones(len(features))]
    solved = np.linalg.lstsq(known, 20 * np.eye(6)[labels], rcond=None)[0].astype(np.float32)
    return solved[:-1], solved[-1]


def save_coloured(network, folder, validation=300, labels=None):
    """The bundle of a Keras network that was judged on so many tiles of six colours."""
    tiles, right = coloured_tiles(validation, 2)
    return bundle.save_tensorflow(network, folder, tiles[:20],
                                  {"classes": list("abcdef"), "backbone": {"name": "tiny"}},
                                  calibration=coloured_tiles(60, 3)[0],
                                  validation=(tiles, right if labels is None else labels))


def retrain(pretrained, tiles, labels, validation, seed, copies=4, head_epochs=30, tuning_epochs=8):
    """Notebook 03's steps with the larger numbers that it suggests: a head on a backbone, then the last stage.

    The ``keras.Model`` from tiles to probabilities, and the histories of the head and of the fine-tuning.
    """
    from helpers.model import retrain_tensorflow as retraining
    network = pretrained.build()
    features = retraining.compute(network, tiles, [None, *range(seed + 1, seed + copies)])
    head = retraining.new_head(features, int(labels.max()) + 1, seed)
    known = retraining.compute(network, validation[0]), validation[1]
    histories = [retraining.train(head, (features, np.tile(labels, copies)), known, seed, head_epochs, 1e-3)]
    model = retraining.with_head(network, pretrained.last_stage(network), head)
    histories.append(retraining.train(model, retraining.batches(tiles, labels, seed, shuffle=True),
                                      retraining.batches(*validation), seed, tuning_epochs, 1e-4))
    return model, histories

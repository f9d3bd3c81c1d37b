"""What the layers see: receptive fields, the neurons chosen for classes, and the evidence by position."""

from collections import namedtuple

import numpy as np
import onnx
import onnxruntime
import pytest
from matplotlib.colors import to_rgb
from onnx import TensorProto, helper, numpy_helper

from helpers.figures import layers as seeing
from helpers.figures.style import GROUND
from helpers.land.classes import CLASSES
from helpers.model import cntk_network

Field = namedtuple("Field", "size start step")
Head = namedtuple("Head", "weights mean deviation bias")
N_CLASSES = 3


def answers(values, positions=None):
    """Peaks of neurons with these answers, (N, channels)."""
    values = np.asarray(values, dtype=np.float32)
    positions = np.zeros(values.shape + (2,), dtype=int) if positions is None else positions
    return seeing.Peaks(values, positions, None)


@pytest.fixture
def network(tmp_path):
    """A small network of random weights, with padding, strides and a pooling layer: 33 px in, maps of 8 positions."""
    rng = np.random.RandomState(0)
    weights = {"w1": rng.randn(4, 3, 5, 5), "w2": rng.randn(6, 4, 3, 3)}
    graph = helper.make_graph(
        [helper.make_node("Conv", ["data", "w1"], ["conv1"], kernel_shape=[5, 5], strides=[2, 2], pads=[1] * 4),
         helper.make_node("MaxPool", ["conv1"], ["pool1"], kernel_shape=[3, 3], strides=[2, 2], pads=[1] * 4),
         helper.make_node("Conv", ["pool1", "w2"], ["conv2"], kernel_shape=[3, 3], pads=[1] * 4)],
        "net", [helper.make_tensor_value_info("data", TensorProto.FLOAT, ["N", 3, 33, 33])],
        [helper.make_tensor_value_info("conv2", TensorProto.FLOAT, None)],
        [numpy_helper.from_array(w.astype(np.float32), name) for name, w in weights.items()])
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 9)], ir_version=4),
              str(tmp_path / "net.onnx"))
    return tmp_path / "net.onnx"


def test_the_receptive_field_is_what_changes_the_answer(network):
    """The test changes one pixel after another, and notes the positions whose answers change with it."""
    field = cntk_network.get(network).receptive_field("conv2")
    session = onnxruntime.InferenceSession(str(network), providers=["CPUExecutionProvider"])
    px = 33
    plain = np.random.RandomState(1).rand(1, 3, px, px).astype(np.float32)
    changed = np.repeat(plain, px * px, axis=0)
    for i in range(px * px):
        changed[i, :, i // px, i % px] += 1000 * np.random.RandomState(i).choice([-1, 1], 3)
    difference = session.run(None, {"data": changed})[0] != session.run(None, {"data": plain})[0]
    sees = difference.any(axis=1).reshape(px, px, *difference.shape[2:])
    expected = {}
    for position in np.ndindex(sees.shape[2:]):
        rows, columns = np.nonzero(sees[(slice(None), slice(None)) + position])
        expected[position] = rows.min(), rows.max() + 1, columns.min(), columns.max() + 1
        assert seeing.pixels_seen(field, position, (px, px)) == expected[position], position
    # Where it isn't cut off by the tile's edge.
    inside = seeing.positions_inside(field, sees.shape[2:], (px, px))
    whole = [(bottom - top, right - left) == (field.size,) * 2 for top, bottom, left, right in expected.values()]
    assert inside.ravel().tolist() == whole and 0 < inside.sum() < inside.size


def test_a_crop_shows_the_receptive_field_and_grey_beyond_the_tile():
    tile = np.random.RandomState(0).randint(0, 200, (20, 20, 3)).astype(np.uint8)
    field = Field(8, -4, 4)
    assert np.array_equal(seeing.crop(tile, field, (2, 3), 8), tile[4:12, 8:16])
    corner = np.asarray(seeing.crop(tile, field, (0, 5), 8))
    assert np.array_equal(corner[4:, :4], tile[:4, 16:])
    grey = np.round(255 * np.array(to_rgb(GROUND)))
    assert (corner[:4] == grey).all() and (corner[:, 4:] == grey).all()


def test_peaks_are_found_where_the_neuron_sees_nothing_but_the_tile():
    maps = np.zeros((5, 2, 6, 6), dtype=np.float32)
    maps[:, 0, 0, 0] = 9     # at the edge, whatever the land
    maps[np.arange(5), 0, 2, [1, 2, 3, 4, 3]] = [1, 5, 2, 4, 3]
    maps[:, 1] = 7
    tiles = np.arange(5, dtype=np.uint8)[:, None, None, None] * np.ones((1, 24, 24, 3), dtype=np.uint8)
    found = seeing.peaks(lambda some: [maps[some[:, 0, 0, 0]]], tiles, [Field(8, -2, 4)], batch=2)[0]
    assert found.values[:, 0].tolist() == [1, 5, 2, 4, 3]
    assert found.positions[:, 0].tolist() == [[2, 1], [2, 2], [2, 3], [2, 4], [2, 3]]
    assert np.allclose(found.usual, maps.mean(axis=0))
    # If every position sees beyond the tile, the strongest of all counts.
    assert (seeing.peaks(lambda some: [maps[some[:, 0, 0, 0]]], tiles, [Field(40, -8, 4)])[0].values[:, 0] == 9).all()


def test_the_strongest_crops_come_from_different_tiles():
    rng = np.random.RandomState(0)
    maps = rng.rand(30, 4, 5, 5).astype(np.float32)
    maps[7, 2] += 10  # every position of one tile excites it more than all other tiles
    tiles = np.arange(30, dtype=np.uint8)[:, None, None, None] * np.ones((1, 20, 20, 3), dtype=np.uint8)
    found = seeing.peaks(lambda some: [maps[some[:, 0, 0, 0]]], tiles, [Field(4, 0, 4)])[0]
    for channel in range(4):
        rows = seeing.strongest(found, channel).tolist()
        assert len(set(rows)) == 9
        assert rows == sorted(range(30), key=lambda i: -maps[i, channel].max())[:9]
    assert seeing.strongest(found, 2)[0] == 7


def test_a_neuron_is_chosen_by_what_its_crops_show():
    """The mean answer does not choose it: the strongest crops may show another class than that of the highest mean."""
    labels = np.repeat(np.arange(N_CLASSES), 20)
    values = np.random.RandomState(0).rand(60, 8)
    own = np.flatnonzero(labels == 2)
    values[own, 3] += 8              # excited by all of the class, but most
    values[:9, 3] = 10               # by nine tiles of another
    values[own[:9], 5] = 2           # the planted one: by nine of its tiles only
    values[:, 6] = 0                 # silent: its first nine tiles are all of class 0
    found = answers(values)
    shares = seeing.class_shares(found, labels, N_CLASSES)
    assert shares[3].tolist() == [1, 0, 0] and shares[5].tolist() == [0, 0, 1] and shares[6].tolist() == [0, 0, 0]
    chosen = seeing.neurons_for_classes(found, labels, N_CLASSES)
    assert chosen[0] == 3 and chosen[2] == 5 and len(set(chosen)) == N_CLASSES
    # Of two neurons with the same crops, the one whose mean stands out more is chosen.
    values[own, 7] = 2
    assert seeing.neurons_for_classes(answers(values), labels, N_CLASSES)[2] == 7


def test_a_sheet_names_each_neuron_and_frames_each_crop_in_its_class(ax):
    names = ("Forest", "Developed")
    labels = np.repeat([0, 1], 10)
    values = np.random.RandomState(0).rand(20, 3)
    values[:9, 1], values[[10, 11, 12, 13, 14, 15, 16, 0, 1], 2] = 5, 7
    field, positions = Field(10, 5, 5), np.full((20, 3, 2), 1)
    tiles = np.full((20, 40, 40, 3), 120, dtype=np.uint8)
    seeing.layer(ax, tiles, labels, answers(values, positions), field, [1, 2], "Two neurons", names, crop_px=20,
                 tile_px=40)
    assert [text.get_text() for text in ax.texts] == [
        "Forest", "neuron 1", "9 of 9 crops", "Developed", "neuron 2", "7 of 9 crops"]
    # On a tile of 40 px in a frame of 3: the receptive field is 10 to 20.
    box = ax.patches[0]
    assert (box.get_x(), box.get_y(), box.get_width(), box.get_height()) == (12.5, 12.5, 10, 10)
    assert len(ax.patches) == 2 * 2  # a dark line on a light one, for each neuron
    sheet = np.asarray(ax.images[0].get_array())
    colours = {c.name: np.round(255 * np.array(to_rgb(c.colour))) for c in CLASSES}
    first, second = sheet[54:, :82], sheet[54:, 98:]
    assert not (first == colours["Developed"]).all(axis=2).any()
    # Two of the nine crops of 26 px are of forest: the frame of each has 26² - 20² pixels.
    assert (second == colours["Forest"]).all(axis=2).sum() == 2 * (26 ** 2 - 20 ** 2)


def test_the_votes_of_all_positions_average_to_the_logits():
    rng = np.random.RandomState(0)
    maps = [rng.rand(7, n, 4, 6).astype(np.float32) for n in (5, 3)]
    usual = [rng.rand(n, 4, 6) for n in (5, 3)]
    head = Head(rng.randn(8, N_CLASSES), rng.rand(8), 0.5 + rng.rand(8), rng.randn(N_CLASSES))
    features = np.concatenate([m.mean(axis=(2, 3)) for m in maps], axis=1)
    logits = (features - head.mean) / head.deviation @ head.weights + head.bias
    votes = seeing.evidence(maps, usual, head)
    assert votes.shape == (7, 4, 6, N_CLASSES) and votes.dtype == np.float32
    assert np.allclose(votes.mean(axis=(1, 2)), logits, atol=1e-5)


def test_a_position_that_answers_as_usual_votes_as_all_others_do():
    """Neurons answer differently near the edge. That must not show in the evidence."""
    rng = np.random.RandomState(0)
    usual = rng.rand(5, 4, 4)
    head = Head(rng.randn(5, N_CLASSES), usual.mean(axis=(1, 2)), np.ones(5), np.arange(N_CLASSES))
    votes = seeing.evidence([usual[None]], [usual], head)
    assert np.allclose(votes, np.arange(N_CLASSES), atol=1e-5)


def test_most_divided_tiles_come_first():
    votes = np.zeros((4, 4, 4, N_CLASSES), dtype=np.float32)
    votes[0, ..., 0] = 9                               # all of one class
    votes[1, :1, :, 1] = votes[1, 1:, :, 0] = 9        # a quarter of another
    votes[2, :, :2, 2] = votes[2, :, 2:, 1] = 9        # halves
    votes[3, ..., 0], votes[3, ..., 1] = 1.01, 1       # unsure, but everywhere of one
    assert seeing.most_divided(votes, 2).tolist() == [2, 1]
    assert len(seeing.most_divided(votes, 9)) == 4


def test_what_a_feature_adds_is_counted_on_the_class_s_own_tiles():
    labels = np.array([0, 0, 1, 1])
    features = np.array([[2.0, 5], [4, 5], [0, 7], [0, 9]])
    head = Head(np.array([[1.0, 1], [-1, 2]]), np.array([1.0, 6]), np.array([2.0, 1]), None)
    added = seeing.contributions(head, features, labels)
    # Class 0: feature 0 is 1 above its mean on average; class 1: feature 1 is 2 above.
    assert added.tolist() == [[1, 0], [0, 4]]


def test_evidence_is_drawn_in_the_colours_of_the_classes(ax):
    names = ("Forest", "Developed")
    votes = np.zeros((1, 6, 6, 2), dtype=np.float32)
    votes[0, :, :3, 0] = votes[0, :, 3:, 1] = 50
    tiles = np.full((1, 24, 24, 3), 220, dtype=np.uint8)
    seeing.evidence_maps(ax, tiles, votes, Field(8, -2, 4), "Where", names, tile_px=60)
    sheet = np.asarray(ax.images[0].get_array()).astype(int)
    left, right = sheet[-30, 10], sheet[-30, -10]
    assert left.argmax() == 1 and right.argmax() == 0  # Forest's green, Developed's red
    # Of 6 by 6 positions the middle 4 by 4 see nothing but the tile.
    assert ax.patches[0].get_width() == 40 and ax.patches[0].get_x() == 9.5


def test_filters_stand_from_grey_to_colourful(ax):
    kernels = np.zeros((3, 3, 4, 4), dtype=np.float32)
    kernels[0, 0] = 0.5                  # red
    kernels[1, :, :2] = -2               # dark above, grey below
    kernels[2] = 0.1                     # light
    seeing.filters(ax, kernels, "Filters", columns=3, filter_px=8)
    sheet = np.asarray(ax.images[0].get_array())
    assert sheet.shape == (8, 3 * 18 - 10, 3)
    assert sheet[0, 0].tolist() == [0, 0, 0] and sheet[7, 0].tolist() == [127] * 3
    assert sheet[0, 18].tolist() == [255] * 3 and sheet[0, 36].tolist() == [255, 127, 127]

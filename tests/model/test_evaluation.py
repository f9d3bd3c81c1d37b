import numpy as np
import pandas as pd
import pytest
from sklearn import metrics

from helpers import InputError
from helpers.model import evaluation

RNG = np.random.RandomState(5)
LABELS = RNG.randint(0, 6, 400)
PREDICTED = np.where(RNG.rand(400) < 0.3, RNG.randint(0, 6, 400), LABELS)


def test_accuracy_and_confusion_are_sklearns():
    assert evaluation.accuracy(LABELS, PREDICTED) == pytest.approx(metrics.accuracy_score(LABELS, PREDICTED))
    matrix = evaluation.confusion_matrix(LABELS, PREDICTED)
    assert (matrix == metrics.confusion_matrix(LABELS, PREDICTED, labels=range(6))).all()
    # A class that no tile has keeps its row and column.
    assert (evaluation.confusion_matrix([0, 1], [1, 1], n_classes=4)
            == [[0, 1, 0, 0], [0, 1, 0, 0], [0, 0, 0, 0], [0, 0, 0, 0]]).all()


def test_grouped_accuracy_forgives_confusions_inside_a_group():
    # Forest for Shrub is forgiven; Forest for Cultivated, Herbaceous for Developed are not.
    assert evaluation.accuracy_grouped([1, 1, 4, 5], [2, 3, 5, 5]) == 0.5
    assert evaluation.accuracy([1, 1, 4, 5], [2, 3, 5, 5]) == 0.25


@pytest.mark.parametrize("labels, predicted, message", [
    ([0, 1], [0], "got 2 labels and 1 predictions"),
    ([], [], "got 0 labels"),
    ([0, 1, 2], pd.Series([0, None, 2], dtype="Int8"), "got 1 of 3 without"),
    ([0, np.nan], [0, 1], "in labels, got 1 of 2 without"),
    ([0, 1], [-1, 1], "in predicted, got 1 of 2 without"),
    ([0, 6], [0, 1], "class ids from 0 to 5, got 0 to 6"),
])
def test_what_cannot_be_compared_is_refused(labels, predicted, message):
    with pytest.raises(InputError, match=message):
        evaluation.confusion_matrix(labels, predicted)


def table(classes, county="99001", year=2010):
    return pd.DataFrame({"tile_id": ["t%d" % i for i in range(len(classes))], "county": county, "year": year,
                         "class_id": pd.array(classes, dtype="Int8")})


def test_agreement_joins_rows_by_tile_county_and_year_and_leaves_errors_out():
    a, b = table([0, 1, 2, None, 4]), table([0, 1, 3, 3, None])
    shuffled = b.sample(frac=1, random_state=1)
    assert evaluation.agreement(a, shuffled) == 2 / 3
    # The same tile in another year is another row.
    both_years = pd.concat([a, table([5, 5, 5, 5, 5], year=2016)])
    assert evaluation.agreement(both_years, b) == 2 / 3
    # A table read by pandas without nullable types has NaN for errors.
    assert evaluation.agreement(a.astype({"class_id": "float"}), b) == 2 / 3


def test_agreement_refuses_repeated_tiles_and_tables_without_common_tiles():
    with pytest.raises(InputError, match="second table, got 5 repeated"):
        evaluation.agreement(table([0] * 5), pd.concat([table([0] * 5)] * 2))
    with pytest.raises(InputError, match="none among 5 and 5 rows"):
        evaluation.agreement(table([0] * 5), table([0] * 5, year=2016))


def test_colour_features_are_means_and_deviations_of_the_channels():
    tiles = RNG.randint(0, 256, (3, 40, 30, 3)).astype(np.uint8)
    features = evaluation.colour_features(tiles)
    assert features.shape == (3, 6) and features.dtype == np.float32
    for i, tile in enumerate(tiles):
        assert np.allclose(features[i, :3], [np.mean(tile[..., c].tolist()) for c in range(3)], atol=1e-4)
        assert np.allclose(features[i, 3:], [np.std(tile[..., c].tolist()) for c in range(3)], atol=1e-4)
    with pytest.raises(InputError, match="got .3, 40, 30, 3. of float32"):
        evaluation.colour_features(tiles.astype(np.float32))


def coloured(n, colour, seed):
    noise = np.random.RandomState(seed).normal(0, 12, (n, 16, 16, 3))
    return np.clip(noise + colour, 0, 255).astype(np.uint8)


def test_colour_baseline_knows_colours_and_nothing_else():
    greens, reds = coloured(20, (60, 120, 60), 1), coloured(20, (150, 80, 70), 2)
    train, labels = np.concatenate([greens, reds]), [1] * 20 + [5] * 20
    tests = np.concatenate([coloured(10, (60, 120, 60), 3), coloured(10, (150, 80, 70), 4)])
    assert evaluation.colour_baseline(train, labels, tests).tolist() == [1] * 10 + [5] * 10
    # Pixels in another order have another look and the same colours.
    mixed = tests.reshape(20, 256, 3)[:, np.random.RandomState(0).permutation(256)].reshape(tests.shape)
    assert evaluation.colour_baseline(train, labels, mixed).tolist() == [1] * 10 + [5] * 10


def test_linear_head_does_not_depend_on_the_scale_of_a_feature():
    features = RNG.normal(size=(120, 8))
    labels = (features[:, 0] + 0.5 * features[:, 1] > 0).astype(int) * 4
    scaled = features * np.array([1e4, 1e-4, 1, 1, 1, 1, 1, 1]) + 7
    plain = evaluation.linear_head(features[:80], labels[:80], features[80:])
    assert set(plain) <= {0, 4} and plain.dtype == np.int64 and (plain == labels[80:]).mean() > 0.75
    assert (evaluation.linear_head(scaled[:80], labels[:80], scaled[80:]) == plain).all()


# ---- probabilities that mean what they say

def overconfident(n=6000, factor=3.0, seed=0):
    """Labels drawn from true probabilities, and a network that multiplies their logits."""
    rng = np.random.default_rng(seed)
    logits = rng.normal(0, 1.5, (n, 6))
    true = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    labels = (true.cumsum(axis=1) > rng.random((n, 1))).argmax(axis=1)
    said = np.exp(factor * logits)
    return labels, true, said / said.sum(axis=1, keepdims=True)


def test_the_temperature_undoes_overconfidence():
    labels, true, said = overconfident()
    temperature = evaluation.fit_temperature(labels, said)
    assert temperature == pytest.approx(3, rel=0.05)
    tempered = evaluation.temper(said, 3.0)
    assert np.allclose(tempered, true, atol=0.02)
    right = said.argmax(axis=1) == labels
    assert evaluation.calibration_error(said.max(axis=1), right) > 0.2
    assert evaluation.calibration_error(tempered.max(axis=1), right) < 0.03


def test_tempering_changes_no_class_and_bears_zeros_and_missing_rows():
    p = np.array([[1, 0, 0], [0.2, 0.5, 0.3], [np.nan] * 3])
    tempered = evaluation.temper(p, 2.5)
    assert (tempered[:2].argmax(axis=1) == [0, 1]).all() and np.isnan(tempered[2]).all()
    assert np.allclose(tempered[:2].sum(axis=1), 1) and np.allclose(evaluation.temper(p[1], 1), p[1])


def test_calibration_error_by_hand():
    # Two ranges: 0.15 twice, of which one came true; 0.9 twice, both true.
    assert evaluation.calibration_error([0.1, 0.19, 0.95, 0.91], [0, 1, 1, 1]) == pytest.approx(
        (abs(0.145 - 0.5) + abs(0.93 - 1)) / 2)
    assert evaluation.calibration_error([0, 1], [False, True]) == 0
    table = evaluation.reliability([0.1, 0.19, 1.0], [0, 1, 1])
    assert table.values.tolist() == [[2, pytest.approx(0.145), 0.5], [1, 1, 1]]


@pytest.mark.parametrize("scores, outcomes", [([], []), ([1.2], [1]), ([0.5, np.nan], [1, 0]), ([0.5], [1, 0])])
def test_what_is_no_probability_is_refused(scores, outcomes):
    with pytest.raises(InputError, match="scores of 0 to 1"):
        evaluation.calibration_error(scores, outcomes)


def test_uncertainty_goes_from_certain_to_all_alike():
    p = np.array([[1, 0, 0, 0, 0, 0], [1 / 6] * 6, [0.5, 0.5, 0, 0, 0, 0], [np.nan] * 6])
    assert evaluation.uncertainty(p)[:3] == pytest.approx([0, 1, np.log(2) / np.log(6)], abs=1e-9)
    assert np.isnan(evaluation.uncertainty(p)[3])


def test_stacked_probabilities_keep_the_rows_of_errors():
    table = pd.DataFrame({"probabilities": [np.full(6, 1 / 6, dtype=np.float32), None, [1, 0, 0, 0, 0, 0]]})
    p = evaluation.stacked(table)
    assert p.shape == (3, 6) and np.isnan(p[1]).all() and p[2, 0] == 1
    assert evaluation.stacked(table[:0]).shape == (0, 6)


def laid_out(n=3000, seed=1):
    """Labels, and probabilities twice as sure as they should be, on a grid of fifty rows."""
    rng = np.random.default_rng(seed)
    true = rng.dirichlet(np.ones(6) * 0.7, n)
    labels = np.array([rng.choice(6, p=p) for p in true])
    said = true ** 2 / (true ** 2).sum(axis=1, keepdims=True)
    return labels, said, rng.integers(0, 50, n)


def test_a_strip_is_tempered_by_the_others_alone():
    labels, said, rows = laid_out()
    found = evaluation.cross_tempered(labels, said, rows)
    right = said.argmax(axis=1) == labels
    assert (evaluation.calibration_error(found.max(axis=1), right)
            < 0.03 < 0.1 < evaluation.calibration_error(said.max(axis=1), right))
    # What a strip's own labels say doesn't reach its probabilities.
    first = rows < np.quantile(rows, 0.2)
    other = labels.copy()
    other[first] = (labels[first] + 1) % 6
    assert np.allclose(evaluation.cross_tempered(other, said, rows)[first], found[first])
    assert not np.allclose(evaluation.cross_tempered(other, said, rows)[~first], found[~first])
    # A single strip has no others.
    assert np.allclose(evaluation.cross_tempered(labels, said, np.zeros(len(rows))), said)


def test_a_tempered_table_keeps_its_errors():
    table = pd.DataFrame({"tile_id": ["a", "b"], "probabilities": [np.array([0.8, 0.2]), None]})
    found = evaluation.tempered(table, 2.0)
    assert found["probabilities"][1] is None and found["tile_id"].tolist() == ["a", "b"]
    assert found["probabilities"][0] == pytest.approx([2 / 3, 1 / 3])


def test_class_calibration_leaves_out_what_has_no_label_or_prediction():
    table = pd.DataFrame({"probabilities": [np.array([0.8, 0.2]), None, np.array([0.3, 0.7]), np.array([0.6, 0.4])]})
    said, right = evaluation.class_calibration(table, pd.Series([0, 1, 0, pd.NA], dtype="Int8"))
    assert said.tolist() == [0.8, 0.7] and right.tolist() == [True, False]

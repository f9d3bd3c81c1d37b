"""How good predictions are: accuracy, confusion, calibration, agreement, and the baselines to beat."""

from collections import namedtuple

import numpy as np
import pandas as pd

from helpers import InputError
from helpers.land.classes import CLASS_NAMES, NO_CLASS, group_of_class

Agreement = namedtuple("Agreement", "share tiles left_out")
TILE_KEYS = ["tile_id", "county", "year"]


def _class_ids(values, name):
    """Class ids as int64, or one sentence that says how many are missing."""
    values = pd.Series(np.asarray(values)) if not isinstance(values, pd.Series) else values
    missing = int((values.isna() | (values == NO_CLASS)).sum())
    if missing:
        raise InputError("expected a class for every tile in {}, got {} of {} without. Leave those rows out and "
                         "count them.".format(name, missing, len(values)))
    return values.to_numpy().astype(np.int64)


def _paired(labels, predicted):
    labels, predicted = _class_ids(labels, "labels"), _class_ids(predicted, "predicted")
    if labels.shape != predicted.shape or not len(labels):
        raise InputError("expected a label for each prediction, at least one, got {} labels and {} predictions. "
                         "Join the two tables on tile_id, county and year first.".format(
                             len(labels), len(predicted)))
    return labels, predicted


def accuracy(labels, predicted):
    """Share of tiles whose predicted class is their label.

    Parameters
    ----------
    labels, predicted : array_like of int
        Shape (N,), ``class_id``; in the same order.

    Returns
    -------
    float
        0 to 1.

    Raises
    ------
    InputError
        If they differ in length, are empty, or a class is missing.
    """
    labels, predicted = _paired(labels, predicted)
    return float((labels == predicted).mean())


def accuracy_grouped(labels, predicted):
    """Share of tiles whose predicted class is in the same map group as their label: forgives Forest for Shrub.

    Parameters and errors as for ``accuracy``.
    """
    labels, predicted = _paired(labels, predicted)
    return float((group_of_class(labels) == group_of_class(predicted)).mean())


def confusion_matrix(labels, predicted, n_classes=len(CLASS_NAMES)):
    """Count the tiles of each true class that were given each class.

    Parameters
    ----------
    labels, predicted : array_like of int
        Shape (N,), ``class_id`` 0 to ``n_classes`` - 1.
    n_classes : int

    Returns
    -------
    numpy.ndarray
        Shape (n_classes, n_classes), int64: rows are the truth, columns the prediction; sums to N.

    Raises
    ------
    InputError
        As ``accuracy``, or if a class id is out of range.
    """
    labels, predicted = _paired(labels, predicted)
    least, most = min(labels.min(), predicted.min()), max(labels.max(), predicted.max())
    if least < 0 or most >= n_classes:
        raise InputError("expected class ids from 0 to {}, got {} to {}. Give the number of classes that the "
                         "model knows.".format(n_classes - 1, least, most))
    return np.bincount(labels * n_classes + predicted, minlength=n_classes ** 2).reshape(n_classes, n_classes)


def per_class(labels, predicted, class_names=CLASS_NAMES):
    """How well each class is found.

    Parameters
    ----------
    labels, predicted : array_like of int
        Shape (N,), ``class_id``.
    class_names : sequence of str
        In order of ``class_id``.

    Returns
    -------
    pandas.DataFrame
        One row a class: ``tiles`` (that truly are of the class), ``recall`` (the share of them that was found) and
        ``precision`` (the share of the tiles given this class that truly are of it); NaN where there are none.
    """
    matrix = confusion_matrix(labels, predicted, len(class_names))
    found = np.diag(matrix).astype(float)
    truth, given = matrix.sum(axis=1), matrix.sum(axis=0)
    blank = np.full(len(found), np.nan)
    return pd.DataFrame({
        "tiles": truth,
        "recall": np.divide(found, truth, out=blank.copy(), where=truth > 0),
        "precision": np.divide(found, given, out=blank.copy(), where=given > 0),
    }, index=pd.Index(class_names, name="class_name"))


# ---- probabilities that mean what they say

def stacked(predictions):
    """Probabilities of a prediction table as one array.

    Parameters
    ----------
    predictions : pandas.DataFrame
        With ``probabilities``, an array over the classes in each row, or None where there was an error.

    Returns
    -------
    numpy.ndarray
        Shape (N, n_classes), float64; NaN where there was an error.
    """
    rows = [None if p is None or np.ndim(p) == 0 else np.asarray(p, dtype=np.float64)
            for p in predictions["probabilities"]]
    n_classes = max([len(row) for row in rows if row is not None] or [len(CLASS_NAMES)])
    return np.array([np.full(n_classes, np.nan) if row is None else row for row in rows]).reshape(-1, n_classes)


def temper(probabilities, temperature):
    """Divide the logits of probabilities by a temperature: above 1 they become less sure, the class stays.

    Parameters
    ----------
    probabilities : numpy.ndarray
        Shape (N, n_classes), rows that sum to 1, or of NaN.
    temperature : float
        Above 0; 1 changes nothing.

    Returns
    -------
    numpy.ndarray
        Same shape, float64.
    """
    # A network in float32 or int8 rounds what is improbable to 0, whose logarithm would be infinite.
    logits = np.log(np.maximum(probabilities, 1e-7)) / temperature
    logits -= logits.max(axis=-1, keepdims=True)
    powers = np.exp(logits)
    return powers / powers.sum(axis=-1, keepdims=True)


def fit_temperature(labels, probabilities):
    """The temperature under which labels are likeliest.

    Parameters
    ----------
    labels : array_like of int
        Shape (N,), ``class_id`` of tiles that the network was not trained on.
    probabilities : numpy.ndarray
        Shape (N, n_classes).

    Returns
    -------
    float
        0.05 to 20.

    References
    ----------
    Guo et al. 2017, *On Calibration of Modern Neural Networks*.
    """
    from scipy.optimize import minimize_scalar
    labels = _class_ids(labels, "labels")
    if len(labels) != len(probabilities) or not len(labels):
        raise InputError("expected a label for each row of probabilities, at least one, got {} labels and {} rows. "
                         "Join the two tables on tile_id, county and year first.".format(
                             len(labels), len(probabilities)))

    def loss(log_temperature):
        chosen = temper(probabilities, np.exp(log_temperature))[np.arange(len(labels)), labels]
        return -np.log(np.maximum(chosen, 1e-12)).mean()
    return float(np.exp(minimize_scalar(loss, bounds=(np.log(0.05), np.log(20)), method="bounded").x))


def tempered(predictions, temperature):
    """A prediction table with its probabilities tempered; where there was an error there are still none.

    Parameters
    ----------
    predictions : pandas.DataFrame
        With ``probabilities``.
    temperature : float

    Returns
    -------
    pandas.DataFrame
    """
    rows = temper(stacked(predictions), temperature)
    return predictions.assign(probabilities=[None if np.isnan(row).any() else row for row in rows])


def cross_tempered(labels, probabilities, rows, folds=5):
    """Probabilities tempered by what other tiles say: an honest "after" for a calibration figure.

    Parameters
    ----------
    labels : array_like of int
        Shape (N,), ``class_id``.
    probabilities : numpy.ndarray
        Shape (N, n_classes).
    rows : array_like of int
        Shape (N,), rows of the tile grid. Each fold is a strip of rows, for neighbours are alike.
    folds : int

    Returns
    -------
    numpy.ndarray
        As ``temper``; each strip by the temperature of the others, or by none where there is a single strip.
    """
    labels, rows = pd.Series(np.asarray(labels)), np.asarray(rows)
    strip = np.searchsorted(np.quantile(rows, np.arange(1, folds) / folds), rows, side="right")
    found = np.array(probabilities, dtype=np.float64)
    for k in np.unique(strip):
        mine = strip == k
        if not mine.all():
            found[mine] = temper(found[mine], fit_temperature(labels[~mine], probabilities[~mine]))
    return found


def class_calibration(predictions, labels):
    """What a network says of its classes and whether it is right, as ``calibration_error`` and ``reliability`` take it.

    Parameters
    ----------
    predictions : pandas.DataFrame
        With ``probabilities``.
    labels : pandas.Series of int
        In the same order; missing ones are left out.

    Returns
    -------
    scores : numpy.ndarray
        Probability of the likeliest class of each tile that has a label and a prediction.
    right : numpy.ndarray of bool
    """
    p, labels = stacked(predictions), pd.Series(np.asarray(labels, dtype=object)).astype("Float64")
    known = labels.notna().to_numpy() & ~np.isnan(p).any(axis=1)
    return p[known].max(axis=1), p[known].argmax(axis=1) == labels[known].to_numpy(dtype=float)


def calibration_error(scores, outcomes, bins=10):
    """Expected calibration error: how far scores are from the share that came true.

    Scores are sorted into ranges of equal width; in each the mean score is compared with the share of outcomes that
    are true, and the differences are averaged, each range weighing what it holds.

    Parameters
    ----------
    scores : array_like of float
        Shape (N,), 0 to 1.
    outcomes : array_like of bool
        Shape (N,), what happened.
    bins : int

    Returns
    -------
    float
        0 (they mean what they say) to 1.

    Raises
    ------
    InputError
        If there is nothing to compare, or a score is no probability.
    """
    table = reliability(scores, outcomes, bins)
    return float((table["tiles"] * (table["score"] - table["share"]).abs()).sum() / table["tiles"].sum())


def reliability(scores, outcomes, bins=10):
    """What became of scores, range by range: what a calibration figure shows.

    Parameters and errors as for ``calibration_error``.

    Returns
    -------
    pandas.DataFrame
        A row for each range that holds something: ``tiles``, ``score`` (their mean) and ``share`` (of those that came
        true).
    """
    scores, outcomes = np.asarray(scores, dtype=np.float64), np.asarray(outcomes, dtype=bool)
    if scores.shape != outcomes.shape or not scores.size or not np.all((scores >= 0) & (scores <= 1)):
        raise InputError("expected scores of 0 to 1, and an outcome for each, got {} scores and {} outcomes. Leave "
                         "out what has no prediction.".format(scores.size, outcomes.size))
    which = np.minimum((scores * bins).astype(int), bins - 1)
    table = pd.DataFrame({"range": which, "score": scores, "share": outcomes.astype(float)}).groupby("range")
    return table.mean().assign(tiles=table.size()).reset_index(drop=True)[["tiles", "score", "share"]]


def uncertainty(probabilities):
    """Entropy of each row of probabilities, as a share of the most there can be.

    Parameters
    ----------
    probabilities : numpy.ndarray
        Shape (N, n_classes).

    Returns
    -------
    numpy.ndarray
        Shape (N,): 0 where one class is certain, 1 where all are equally likely, NaN where there was an error.
    """
    p = np.asarray(probabilities, dtype=np.float64)
    return np.clip(-(p * np.log(np.maximum(p, 1e-12))).sum(axis=-1) / np.log(p.shape[-1]), 0, 1)


def agreement(a, b):
    """Share of tiles to which two prediction tables give the same class.

    Parameters
    ----------
    a, b : pandas.DataFrame
        Prediction tables: ``tile_id``, ``county``, ``year``, ``class_id``; in any order.

    Returns
    -------
    Agreement
        ``share`` of the ``tiles`` that both tables give a class; ``left_out`` counts the others: errors in one of
        the tables, or tiles that only one of them has.

    Raises
    ------
    InputError
        If a table has a tile twice, or no tile has a class in both.
    """
    for name, table in (("first", a), ("second", b)):
        repeated = int(table.duplicated(TILE_KEYS).sum())
        if repeated:
            raise InputError("expected one row for each tile, county and year in the {} table, got {} repeated. "
                             "Read one run's predictions at a time.".format(name, repeated))
    columns = TILE_KEYS + ["class_id"]
    both = a[columns].merge(b[columns], on=TILE_KEYS, how="outer", suffixes=("_a", "_b"))
    known = both.dropna(subset=["class_id_a", "class_id_b"])
    if not len(known):
        raise InputError("expected tiles with a class in both tables, got none among {} and {} rows. Compare "
                         "predictions of the same county and year.".format(len(a), len(b)))
    same = known["class_id_a"].astype(int) == known["class_id_b"].astype(int)
    return Agreement(float(same.mean()), len(known), len(both) - len(known))


def colour_features(tiles):
    """Mean and standard deviation of each colour channel: all that the colour baseline sees of a tile.

    Parameters
    ----------
    tiles : numpy.ndarray
        Shape (N, h, w, 3), uint8 RGB.

    Returns
    -------
    numpy.ndarray
        Shape (N, 6), float32, 0 to 255: means of R, G, B, then their standard deviations.

    Raises
    ------
    InputError
        If the tiles are not uint8 with three bands.
    """
    if tiles.ndim != 4 or tiles.shape[-1] != 3 or tiles.dtype != np.uint8:
        raise InputError("expected tiles of shape (N, height, width, 3) and dtype uint8, got {} of {}. Keep R, G "
                         "and B, unscaled.".format(tiles.shape, tiles.dtype))
    features = np.empty((len(tiles), 6), dtype=np.float32)
    # A tile at a time: float64 copies of thousands of tiles would not fit in memory.
    for i, tile in enumerate(tiles):
        pixels = tile.reshape(-1, 3)
        features[i, :3] = pixels.mean(axis=0)
        features[i, 3:] = pixels.std(axis=0)
    return features


def linear_head(train_features, train_labels, features):
    """Classify features with standardised logistic regression (C = 1), the plainest head there is.

    Parameters
    ----------
    train_features : numpy.ndarray
        Shape (M, n_features).
    train_labels : array_like of int
        Shape (M,), ``class_id``.
    features : numpy.ndarray
        Shape (N, n_features).

    Returns
    -------
    numpy.ndarray
        Shape (N,), int64: predicted ``class_id``.
    """
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler
    head = make_pipeline(StandardScaler(), LogisticRegression(C=1.0, max_iter=2000))
    head.fit(np.asarray(train_features, dtype=np.float64), _class_ids(train_labels, "train_labels"))
    return head.predict(np.asarray(features, dtype=np.float64)).astype(np.int64)


def colour_baseline(train_tiles, train_labels, tiles):
    """Classify tiles by their colours alone.

    Parameters
    ----------
    train_tiles : numpy.ndarray
        Shape (M, h, w, 3), uint8 RGB.
    train_labels : array_like of int
        Shape (M,), ``class_id``.
    tiles : numpy.ndarray
        Shape (N, h, w, 3), uint8 RGB.

    Returns
    -------
    numpy.ndarray
        Shape (N,), int64: predicted ``class_id``.
    """
    return linear_head(colour_features(train_tiles), train_labels, colour_features(tiles))


def scores(labels, predicted, class_names=CLASS_NAMES):
    """The accuracies that ``metrics.json`` keeps of a model.

    Parameters
    ----------
    labels, predicted : array_like of int
        Shape (N,), ``class_id``.
    class_names : sequence of str
        Of the model; only the six land cover classes have map groups.

    Returns
    -------
    dict
        ``accuracy``, and ``accuracy_grouped`` for land cover, each 0 to 1.
    """
    found = {"accuracy": accuracy(labels, predicted)}
    if tuple(class_names) == CLASS_NAMES:
        found["accuracy_grouped"] = accuracy_grouped(labels, predicted)
    return found

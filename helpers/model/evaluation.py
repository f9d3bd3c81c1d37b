"""Measures of predictions: accuracy, confusion, agreement and calibration; and the baselines to beat."""

import numpy as np
import pandas as pd
from scipy.special import entr, softmax

from helpers import InputError
from helpers.land.classes import CLASS_NAMES, NO_CLASS, group_of_class

TILE_KEYS = ["tile_id", "county", "year"]


def _class_ids(values, name: str) -> np.ndarray:
    """Class ids as int64, if none is missing."""
    values = values if isinstance(values, pd.Series) else pd.Series(np.asarray(values))
    missing = int((values.isna() | (values == NO_CLASS)).sum())
    if missing:
        raise InputError(f"expected a class for every tile in {name}, got {missing} of {len(values)} without. Leave "
                         "those rows out and count them.")
    return values.to_numpy().astype(np.int64)


def _paired(labels, predicted) -> tuple:
    labels, predicted = _class_ids(labels, "labels"), _class_ids(predicted, "predicted")
    if labels.shape != predicted.shape or not len(labels):
        raise InputError(f"expected a label for each prediction, at least one, got {len(labels)} labels and "
                         f"{len(predicted)} predictions. Join the two tables on tile_id, county and year first.")
    return labels, predicted


def accuracy(labels, predicted) -> float:
    """Share of tiles whose predicted class id is their label, 0 to 1."""
    labels, predicted = _paired(labels, predicted)
    return float((labels == predicted).mean())


def accuracy_grouped(labels, predicted) -> float:
    """Share of tiles whose predicted class and label have the same map group, as Forest and Shrub do."""
    labels, predicted = _paired(labels, predicted)
    return float((group_of_class(labels) == group_of_class(predicted)).mean())


def scores(labels, predicted, class_names=CLASS_NAMES) -> dict:
    """The accuracies that ``metrics.json`` keeps; only the six land cover classes have a grouped one."""
    found = {"accuracy": accuracy(labels, predicted)}
    if tuple(class_names) == CLASS_NAMES:
        found["accuracy_grouped"] = accuracy_grouped(labels, predicted)
    return found


def confusion_matrix(labels, predicted, n_classes: int = len(CLASS_NAMES)) -> np.ndarray:
    """The number of tiles of each true class (rows) that the network gave each class (columns)."""
    labels, predicted = _paired(labels, predicted)
    least, most = min(labels.min(), predicted.min()), max(labels.max(), predicted.max())
    if least < 0 or most >= n_classes:
        raise InputError(f"expected class ids from 0 to {n_classes - 1}, got {least} to {most}. Give the number of "
                         "classes that the model knows.")
    return np.bincount(labels * n_classes + predicted, minlength=n_classes ** 2).reshape(n_classes, n_classes)


def agreement(a: pd.DataFrame, b: pd.DataFrame) -> float:
    """Share of tiles with the same class, among those with a class in both tables."""
    for name, table in (("first", a), ("second", b)):
        repeated = int(table.duplicated(TILE_KEYS).sum())
        if repeated:
            raise InputError(f"expected one row for each tile, county and year in the {name} table, got {repeated} "
                             "repeated. Read one run's predictions at a time.")
    columns = TILE_KEYS + ["class_id"]
    both = a[columns].merge(b[columns], on=TILE_KEYS, suffixes=("_a", "_b")).dropna()
    if not len(both):
        raise InputError(f"expected tiles with a class in both tables, got none among {len(a)} and {len(b)} rows. "
                         "Compare predictions of the same county and year.")
    return float((both["class_id_a"].astype(int) == both["class_id_b"].astype(int)).mean())


# ---- calibration

def stacked(predictions: pd.DataFrame) -> np.ndarray:
    """The ``probabilities`` of a prediction table, (N, n_classes) float64; NaN for a tile with an error."""
    rows = [None if p is None or np.ndim(p) == 0 else np.asarray(p, dtype=np.float64)
            for p in predictions["probabilities"]]
    n_classes = max([len(row) for row in rows if row is not None] or [len(CLASS_NAMES)])
    return np.array([np.full(n_classes, np.nan) if row is None else row for row in rows]).reshape(-1, n_classes)


def temper(probabilities: np.ndarray, temperature: float) -> np.ndarray:
    """Divide the logits by a temperature: above 1 the probabilities become less sure, and the class stays."""
    # A network may round a small probability to 0, and the logarithm of 0 is infinite.
    return softmax(np.log(np.maximum(probabilities, 1e-7)) / temperature, axis=-1)


def fit_temperature(labels, probabilities: np.ndarray) -> float:
    """The temperature, 0.05 to 20, that makes the labels of tiles likeliest (Guo et al. 2017, arXiv:1706.04599)."""
    from scipy.optimize import minimize_scalar
    labels, _ = _paired(labels, probabilities.argmax(axis=1))

    def loss(log_temperature):
        chosen = temper(probabilities, np.exp(log_temperature))[np.arange(len(labels)), labels]
        return -np.log(np.maximum(chosen, 1e-12)).mean()
    return float(np.exp(minimize_scalar(loss, bounds=(np.log(0.05), np.log(20)), method="bounded").x))


def tempered(predictions: pd.DataFrame, temperature: float) -> pd.DataFrame:
    """A prediction table with tempered probabilities; a tile with an error still has none."""
    rows = temper(stacked(predictions), temperature)
    return predictions.assign(probabilities=[None if np.isnan(row).any() else row for row in rows])


def cross_tempered(labels, probabilities: np.ndarray, rows) -> np.ndarray:
    """Probabilities, each tempered by labels of other tiles: an honest "after" for a calibration figure.

    Each of five folds is a strip of ``rows`` of the tile grid, because neighbours are alike. A single strip stays as it
    is.
    """
    labels, rows = pd.Series(np.asarray(labels)), np.asarray(rows)
    strip = np.searchsorted(np.quantile(rows, np.arange(1, 5) / 5), rows, side="right")
    found = np.array(probabilities, dtype=np.float64)
    for k in np.unique(strip):
        mine = strip == k
        if not mine.all():
            found[mine] = temper(found[mine], fit_temperature(labels[~mine], probabilities[~mine]))
    return found


def class_calibration(predictions: pd.DataFrame, labels: pd.Series) -> tuple:
    """For tiles with a label and a prediction, the probability of the likeliest class, and whether it is the label."""
    p, labels = stacked(predictions), pd.Series(np.asarray(labels, dtype=object)).astype("Float64")
    known = labels.notna().to_numpy() & ~np.isnan(p).any(axis=1)
    return p[known].max(axis=1), p[known].argmax(axis=1) == labels[known].to_numpy(dtype=float)


def reliability(scores, outcomes, bins: int = 10) -> pd.DataFrame:
    """The table of a calibration figure: for each range of scores (N,) of 0 to 1 that holds something, a row.

    Its columns are ``tiles``, ``score`` (their mean) and ``share`` (of those that came true).
    """
    scores, outcomes = np.asarray(scores, dtype=np.float64), np.asarray(outcomes, dtype=bool)
    if scores.shape != outcomes.shape or not scores.size or not np.all((scores >= 0) & (scores <= 1)):
        raise InputError(f"expected scores of 0 to 1, and an outcome for each, got {scores.size} scores and "
                         f"{outcomes.size} outcomes. Leave out tiles that have no prediction.")
    which = np.minimum((scores * bins).astype(int), bins - 1)
    table = pd.DataFrame({"range": which, "score": scores, "share": outcomes.astype(float)}).groupby("range")
    return table.mean().assign(tiles=table.size()).reset_index(drop=True)[["tiles", "score", "share"]]


def calibration_error(scores, outcomes, bins: int = 10) -> float:
    """Expected calibration error, 0 to 1: the mean distance of a score from the share that came true."""
    table = reliability(scores, outcomes, bins)
    return float((table["tiles"] * (table["score"] - table["share"]).abs()).sum() / table["tiles"].sum())


def uncertainty(probabilities: np.ndarray) -> np.ndarray:
    """Entropy of each row, 0 (one class is certain) to 1 (all are equally likely); NaN for a tile with an error."""
    p = np.asarray(probabilities, dtype=np.float64)
    return np.clip(entr(p).sum(axis=-1) / np.log(p.shape[-1]), 0, 1)


# ---- baselines

def colour_features(tiles: np.ndarray) -> np.ndarray:
    """Mean and standard deviation of R, G and B, (N, 6) float32, from which the colour baseline learns."""
    if tiles.ndim != 4 or tiles.shape[-1] != 3 or tiles.dtype != np.uint8:
        raise InputError(f"expected tiles of shape (N, height, width, 3) and dtype uint8, got {tiles.shape} of "
                         f"{tiles.dtype}. Keep R, G and B, unscaled.")
    # One tile at a time, because float64 copies of thousands of tiles would not fit in memory.
    return np.float32([np.r_[tile.mean(axis=(0, 1)), tile.std(axis=(0, 1))] for tile in tiles]).reshape(-1, 6)


def logistic_regression(strength: float, max_iter: int = 2000):
    """A logistic regression of standardised features, not fitted yet."""
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler
    return make_pipeline(StandardScaler(), LogisticRegression(C=strength, max_iter=max_iter))


def linear_head(train_features: np.ndarray, train_labels, features: np.ndarray) -> np.ndarray:
    """Class ids of features by standardised logistic regression (C = 1)."""
    head = logistic_regression(1.0).fit(np.float64(train_features), _class_ids(train_labels, "train_labels"))
    return head.predict(np.float64(features)).astype(np.int64)


def colour_baseline(train_tiles: np.ndarray, train_labels, tiles: np.ndarray) -> np.ndarray:
    """Class ids of tiles, uint8 RGB, by their colours alone."""
    return linear_head(colour_features(train_tiles), train_labels, colour_features(tiles))

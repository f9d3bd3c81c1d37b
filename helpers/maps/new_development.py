"""New development: newly built land, found in two years' pictures; each tile gets a score and its reason.

A single house may be new, so heads judge each cell of a tile (``cells``). The tile's score comes from their judgements,
the network's probabilities, the first year's label, the neighbours, and the difference between the pictures.

The model is fitted on the training counties alone; the heads that judge one of them were fitted on the others. The
mean logarithmic loss in the sample chose the model's strength (0.0489 at C = 1, 0.0508 at 0.3, 0.0511 at 3), and
Platt's line only where it helps (0.0489 without, 0.063 with it).
"""

import numpy as np
import pandas as pd
from scipy.ndimage import convolve, uniform_filter
from scipy.special import expit, logit

from helpers import InputError
from helpers.land.classes import CLASS_NAMES, DEVELOPED, GROUPS
from helpers.land.grid import TILE_M, from_grid, to_grid
from helpers.maps.cells import Heads, Judgement, Views, fit_heads, judge, labelled_cells, pair_features
from helpers.maps.change import probability_of
from helpers.model.evaluation import calibration_error, logistic_regression

# A tile is newly developed where at least this share of its area is.
NEW_SHARE = 0.1
# A tile whose score is at least this is a candidate.
CANDIDATE = 0.5
# The fewest newly developed tiles to fit a model on: it has thirteen coefficients.
LEAST_CHANGED = 20
# The meaning of a score, for every legend, caption and file.
CHANCE = "the probability that at least a tenth of the tile is newly developed"
RANKED = "ranked by the rule of 2017, no probability"
# The columns that a score is computed from, and the term of a reason that each belongs to. Columns of one term overlap,
# so that a single coefficient means little.
EVIDENCE = {
    "strongest_rise": "cells", "rise_extent": "cells", "mean_rise": "cells", "strongest_new": "cells",
    "new_extent": "cells", "cells_before": "cells", "cells_after": "cells", "labelled": "label",
    "logit_before": "network", "logit_after": "network", "gain": "network", "neighbours": "neighbours",
    "distance": "pictures"}
SCORES = ["tile_id", "row", "col", "score", "reason", "new_m2", "probability_before", "probability_after"]


# ---- evidence: tiles

def _logit(p):
    return logit(np.clip(p, 1e-3, 1 - 1e-3))


def _strongest(maps):
    """Mean of the strongest tenth of a tile's cells, after each is averaged with its neighbours: (N,)."""
    smooth = uniform_filter(maps, (0, 3, 3)).reshape(len(maps), -1)
    return np.sort(smooth, axis=1)[:, -max(1, smooth.shape[1] // 10):].mean(axis=1)


def _around(tiles, values):
    """The sum of the values of each tile's eight neighbours, (N,)."""
    laid = to_grid(tiles["row"], tiles["col"], values, fill=0)
    total = convolve(laid.values.astype(np.float64), [[1, 1, 1], [1, 0, 1], [1, 1, 1]], mode="constant")
    return from_grid(laid._replace(values=total), tiles["row"], tiles["col"])


def evidence(views: Views, judgement: Judgement, predictions: pd.DataFrame) -> pd.DataFrame:
    """``views.tiles`` with the columns of ``EVIDENCE``, and those that ``SCORES`` needs besides."""
    rise = np.maximum(judgement.after - judgement.before, 0)
    table = views.tiles.copy()
    for when, year in zip(("before", "after"), views.years):
        mine = predictions[(predictions["county"] == views.county) & (predictions["year"] == year)]
        scored = pd.Series(probability_of(mine, DEVELOPED), index=mine["tile_id"].to_numpy())
        # A tile without a prediction counts neither for nor against.
        table[f"probability_{when}"] = scored.reindex(table["tile_id"]).to_numpy()
        table[f"logit_{when}"] = _logit(table[f"probability_{when}"].fillna(0.5))
    new, risen = (judgement.new > 0.5).mean(axis=(1, 2)), (rise > 0.5).mean(axis=(1, 2))
    table["extent"] = np.maximum(new, risen)
    table["strongest_rise"], table["strongest_new"] = _logit(_strongest(rise)), _logit(_strongest(judgement.new))
    # Roots, because the first hundred square metres say more than the last.
    table["rise_extent"], table["new_extent"] = np.sqrt(risen), np.sqrt(new)
    table["mean_rise"] = _logit(rise.mean(axis=(1, 2)))
    table["cells_before"], table["cells_after"] = (m.mean(axis=(1, 2)) for m in (judgement.before, judgement.after))
    table["labelled"] = (table["group"] == DEVELOPED).astype(float)
    table["gain"] = table["logit_after"] - table["logit_before"]
    # The mean of the neighbours that exist: a training county may be blocks of tiles with gaps between them.
    table["neighbours"] = _around(table, risen) / np.maximum(_around(table, np.ones(len(table))), 1)
    table["new_neighbours"] = np.rint(_around(table, risen >= NEW_SHARE)).astype(int)
    table["distance"] = judgement.distance
    return table


# ---- scores

class Scorer:
    """Turns two years' pictures into a calibrated score for each tile, fitted on at least two training counties.

    ``cross_fitted`` has ``county``, ``tile_id``, ``new_share`` (by the labels), ``score`` and ``new_m2`` of the
    training tiles, each from a fit on the other counties. ``uses_line``: whether Platt's line makes such scores better.
    ``usual`` is the margin of the average training tile. ``coefficients`` are the margins that one standard deviation
    of each column of ``EVIDENCE`` adds.
    """

    def __init__(self, views: list[Views], predictions: pd.DataFrame, seed: int = 0):
        if len(views) < 2:
            raise InputError("expected at least two training counties with pictures and labels of two years, got "
                             f"{len(views)}. Prepare more in notebook 02_data_preparation.")
        counties = [(v, [labelled_cells(facts["labels"], v.tiles, facts["crs"], v.cells.side) for facts in v.facts])
                    for v in views]
        shares = [(built * (1 - was)).mean(axis=(1, 2)) for _, (was, built) in counties]
        changed = [int((share >= NEW_SHARE).sum()) for share in shares]
        if sum(changed) - max(changed) < LEAST_CHANGED:
            counts = ", ".join(f"{n} in {view.county}" for n, view in zip(changed, views))
            raise InputError(f"expected at least {LEAST_CHANGED} newly developed tiles in the training counties, even "
                             f"without one of them, got {counts}. Prepare more training tiles or counties, or years "
                             "further apart.")
        self.heads = [fit_heads(counties[:left] + counties[left + 1:], seed) for left in range(len(views))]
        self._fit(pd.concat([evidence(view, judge(view, [heads]), predictions).assign(county=view.county)
                             for view, heads in zip(views, self.heads)], ignore_index=True), np.concatenate(shares))

    def _fit(self, tiles, share):
        """Fit the model, Platt's line from its margins to chances, and a curve from the extent of new cells to area."""
        from sklearn.isotonic import IsotonicRegression
        from sklearn.linear_model import LogisticRegression
        from sklearn.metrics import log_loss
        from sklearn.model_selection import LeaveOneGroupOut, cross_val_predict

        def of_others(model, x, y, method):
            return cross_val_predict(model, x, y, groups=tiles["county"], cv=LeaveOneGroupOut(), method=method)
        self.model = logistic_regression(1.0)
        self.line = LogisticRegression(C=1e3)
        # New cells show roofs, and labels include the yards. The curve is right on average, so areas can be summed.
        self.area = IsotonicRegression(y_min=0, y_max=1, out_of_bounds="clip")
        real, x, extent = share >= NEW_SHARE, tiles[list(EVIDENCE)], tiles["extent"].to_numpy()
        margin = of_others(self.model, x, real, "decision_function")
        plain, lined = expit(margin), of_others(self.line, margin[:, None], real, "predict_proba")[:, 1]
        self.uses_line = bool(log_loss(real, lined) < log_loss(real, plain))
        self.cross_fitted = tiles[["county", "tile_id"]].assign(
            new_share=share, score=lined if self.uses_line else plain,
            new_m2=of_others(self.area, extent, share, "predict") * TILE_M ** 2)
        self.model.fit(x, real)
        self.line.fit(margin[:, None], real)
        self.area.fit(extent, share)
        self.usual = float(self.model[-1].intercept_[0])
        self.coefficients = pd.Series(self.model[-1].coef_[0], list(EVIDENCE))

    def score(self, views: Views, seen: pd.DataFrame) -> pd.DataFrame:
        """The columns ``SCORES`` of a county's tiles, by falling ``score``, from their ``evidence``.

        ``score`` is the chance that a tenth of the tile or more is newly developed, ``new_m2`` the expected area.
        """
        table = seen.assign(score=self.chance(self.model.decision_function(seen[list(EVIDENCE)])),
                            new_m2=self.area.predict(seen["extent"]) * TILE_M ** 2)
        label_year = views.facts[0].get("label_year", views.years[0])
        table["reason"] = [reason_as_text(tile, terms, label_year) for tile, terms in
                           zip(table.itertuples(index=False), self.terms(table).to_dict("records"))]
        return _ranked(table)

    def chance(self, margin: np.ndarray) -> np.ndarray:
        """Scores, 0 to 1, of the model's margins, by Platt's line or as log-odds."""
        margin = np.reshape(margin, (-1, 1))
        return self.line.predict_proba(margin)[:, 1] if self.uses_line else expit(margin[:, 0])

    def terms(self, table: pd.DataFrame) -> pd.DataFrame:
        """The margin that each term adds to the usual one: coefficients times evidence."""
        standardised = pd.DataFrame(self.model[0].transform(table[list(EVIDENCE)]), columns=list(EVIDENCE))
        return (standardised * self.coefficients).T.groupby(EVIDENCE).sum().T


def _ranked(table):
    return table.sort_values(["score", "tile_id"], ascending=[False, True], ignore_index=True)[SCORES]


def reason_as_text(tile: tuple, terms: dict[str, float], label_year: int) -> str:
    """Why a tile has its score: its two strongest terms, and the third if it weighs a quarter of the first."""
    label = (GROUPS[int(tile.group)].name if pd.isna(tile.label) or int(tile.label) < 0
             else CLASS_NAMES[int(tile.label)])
    before, after = f"{tile.probability_before:.0%}", f"{tile.probability_after:.0%}"
    words = {"cells": (f"about {tile.new_m2 / 1e4:.1f} ha look newly built" if terms["cells"] > 0
                       else "little of it looks newly built"),
             "network": f"the probability of Developed goes from {before} to {after}",
             "label": f"labelled {label} in {label_year}",
             "neighbours": _neighbours_as_text(tile.new_neighbours, terms["neighbours"]),
             "pictures": f"the difference between the two pictures is {tile.distance:.1f} times the usual one here"
                         + ("" if terms["pictures"] > 0 else ", so the tile may only look new")}
    # A rise from a thousandth to a hundredth can weigh much, but "from 0% to 0%" would puzzle.
    if "nan%" in (before, after) or before == after:
        del words["network"]
    largest = sorted(words, key=lambda term: -abs(terms[term]))[:3]
    if abs(terms[largest[2]]) < abs(terms[largest[0]]) / 4:
        largest.pop()
    speaking = {begin: "; ".join(words[term] for term in largest if side * terms[term] > 0)
                for begin, side in (("Reason for", 1), ("Reason against", -1))}
    return " ".join(f"{begin}: {said}." for begin, said in speaking.items() if said)


def _neighbours_as_text(n, term):
    """The words for changed neighbours. They may count against a tile: at the edge of new land many only look new."""
    if n:
        return f"{n} neighbour{'s' * (n > 1)} changed too" + (
            "" if term > 0 else ", so it may only be the edge of their new land")
    return "no neighbour changed" + (", so it is not just the edge of other new land" if term > 0 else "")


def example(views: Views, heads: Heads) -> tuple:
    """A tile, about a fifth of it new, to work through: its position in ``views.tiles``, and its features."""
    nearest = (np.inf,)
    for where, before, after in views.strips(kept_only=True):
        features = pair_features(before, after)
        new = heads.pair.predict_proba(features.reshape(-1, features.shape[-1]))[:, 1].reshape(len(where), -1)
        gaps = np.abs((new > 0.5).mean(axis=1) - 0.2)
        best = gaps.argmin()
        if gaps[best] < nearest[0]:
            nearest = gaps[best], int(where[best]), before[best], after[best]
    return nearest[1:]


def by_rule(candidates: pd.DataFrame, tiles: pd.DataFrame) -> pd.DataFrame:
    """A table like that of ``Scorer.score``, from ``change.candidates_2017``, where no ``Scorer`` can be fitted.

    Candidates score ``CANDIDATE`` or more by their gain, other tiles 0. Such a score ranks and is no probability.
    """
    found = candidates[["tile_id", "probability_before", "probability_after"]].assign(
        score=CANDIDATE + (1 - CANDIDATE) * candidates["gain"].fillna(0).clip(0, 1), new_m2=TILE_M ** 2,
        reason="The rule of 2017: labelled otherwise in the first year, predicted Developed in the second.")
    table = tiles[["tile_id", "row", "col"]].merge(found, on="tile_id", how="left")
    return _ranked(table.fillna({"score": 0, "new_m2": 0, "reason": ""}))


def to_show(candidates: pd.DataFrame) -> pd.DataFrame:
    """A few ranked candidates to look at, with ``rank``: the first six, and six spread evenly over the rest."""
    n = len(candidates)
    chosen = np.arange(n) if n <= 12 else np.append(np.arange(6), np.linspace(6, n - 1, 6).round().astype(int))
    return candidates.assign(rank=np.arange(1, n + 1)).iloc[chosen]


# ---- how good it is

def performance(scores: pd.DataFrame, baseline: pd.DataFrame, truth: pd.DataFrame) -> dict:
    """Precision, recall, areas and calibration of scores, beside the candidates of ``change.candidates_2017``.

    ``truth`` has ``row``, ``col`` and the ``share`` that is newly developed; all other tiles have none. A figure is NaN
    if there is nothing to count. ``false_candidates_ratio`` is our number of false candidates, counted from the top of
    the list until as many true tiles are found as the baseline finds, divided by the baseline's number.
    ``estimated_km2`` sums the tiles' areas, ``baseline_km2`` counts candidates whole. The area errors are shares of
    ``new_km2``. ``calibration_error_above`` is that of the scores above 0.02.
    """
    table = scores.merge(truth[["row", "col", "share"]], how="left").fillna({"share": 0})
    share, score = table["share"], table["score"]
    real, ours, theirs = share >= NEW_SHARE, score >= CANDIDATE, table["tile_id"].isin(baseline["tile_id"])
    reached = int(np.searchsorted(real.cumsum(), (theirs & real).sum())) + 1
    km2 = (TILE_M / 1000) ** 2
    new_km2, our_km2, their_km2 = share.sum() * km2, table["new_m2"].sum() / 1e6, theirs.sum() * km2
    off, their_off = (area / (new_km2 or np.nan) - 1 for area in (our_km2, their_km2))
    above = score[score > 0.02]
    figures = {"precision": real[ours].mean(), "baseline_precision": real[theirs].mean(),
               "recall": ours[real].mean(), "baseline_recall": theirs[real].mean(),
               "false_candidates_ratio": (~real[:reached]).sum() / ((theirs & ~real).sum() or np.nan),
               "new_km2": new_km2, "estimated_km2": our_km2, "baseline_km2": their_km2,
               "area_error": off, "baseline_area_error": their_off, "calibration_error": calibration_error(score, real),
               "calibration_error_above": calibration_error(above, real[above.index]) if len(above) else np.nan}
    counts = {"candidates": ours, "baseline_candidates": theirs, "truth": real}
    return {**{name: float(value) for name, value in figures.items()},
            **{name: int(which.sum()) for name, which in counts.items()}}


def recall_by_size(scores: pd.DataFrame, baseline: pd.DataFrame, truth: pd.DataFrame) -> pd.DataFrame:
    """``tiles``, ``recall``, ``baseline_recall`` and ``area_error`` by the new share of a tile, NaN if there is none.

    Single properties, by the ``kind`` in ``truth``, stand apart. ``area_error`` is the median error of the areas of the
    tiles that were found, as a share of the true area.
    """
    sizes = ["single properties", "10 to 25% of the tile", "25 to 50%", "50% and more"]
    real = truth[truth["share"] >= NEW_SHARE].merge(scores[["row", "col", "score", "new_m2", "tile_id"]], how="left")
    real["ours"], real["theirs"] = real["score"] >= CANDIDATE, real["tile_id"].isin(baseline["tile_id"])
    real["off"] = (real["new_m2"] / (real["share"] * TILE_M ** 2) - 1).abs().where(real["ours"])
    by_share = np.array(sizes[1:])[np.digitize(real["share"], [0.25, 0.5])]
    table = real.groupby(np.where(real["kind"] == "single", sizes[0], by_share)).agg(
        tiles=("share", "size"), recall=("ours", "mean"), baseline_recall=("theirs", "mean"),
        area_error=("off", "median")).reindex(sizes)
    return table.fillna({"tiles": 0}).astype({"tiles": int})

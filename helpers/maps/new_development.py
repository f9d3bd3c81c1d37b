"""Newly developed places: judged place by place in two years' pictures, each tile with a score and its reason.

A tile is 224 m wide, and what is new in it may be a single house. So each tile is read as a square of small *places*
(14 × 14 of 16 m with the embedded network): the maps of the retrained network's last but one stage, those of the
stage before, and the place's own colours. Two small heads judge each place: is it developed, in either year, and is
it newly so, from both years at once. A tile's score comes from these judgements, from the network's probabilities of
both years, the first year's label, the neighbours, and how far the two pictures differ as a whole.

Light, season and drought move a whole county's pictures at once. So features are measured against what is usual in
their own county and year. Everything is fitted on training counties, each judged by heads that were fitted on the
others; the network below the heads was retrained on all of them. Such judgements of the sample's training counties,
their mean logarithmic loss, chose the strength of the model (0.0489 at C = 1, 0.0508 at 0.3, 0.0511
at 3), that Platt's line is taken only where it helps (0.0489 without, 0.063 with it), and, by their totals, that areas
are read from the extent of new places. No label of a mapped or a validation county had a part in it.
"""

import numpy as np
import pandas as pd

from helpers import InputError
from helpers.land.classes import CLASS_NAMES, DEVELOPED, GROUPS
from helpers.land.grid import TILE_M, from_grid, to_grid
from helpers.maps.change import probability_of
from helpers.maps.places import _fit_heads, _judge, labelled_places

# A tile is newly developed where at least this share of its area is.
NEW_SHARE = 0.1
# A tile whose score is at least this is a candidate.
CANDIDATE = 0.5
# Newly developed tiles that a model is fitted on at least: fewer say too little about its thirteen coefficients.
LEAST_CHANGED = 20
# What a score says, in every legend, caption and file.
CHANCE = "the chance that a tenth of a tile or more is newly developed"
RANKED = "ranked by the rule of 2017, no probability"


# ---- evidence: tiles

def _logit(p):
    p = np.clip(p, 1e-3, 1 - 1e-3)
    return np.log(p / (1 - p))


def _strongest(maps):
    """Mean of the strongest tenth of a tile's places, each first averaged with its neighbours: (N,)."""
    from scipy.ndimage import uniform_filter
    smooth = uniform_filter(maps, (0, 3, 3)).reshape(len(maps), -1)
    return np.sort(smooth, axis=1)[:, -max(1, smooth.shape[1] // 10):].mean(axis=1)


def _around(tiles, values):
    """Sum of the eight neighbours' values, and how many neighbours there are: two arrays (N,)."""
    sums = []
    for of_tile in (values, np.ones(len(tiles))):
        laid = to_grid(tiles["row"], tiles["col"], of_tile, fill=0)
        height, width = laid.values.shape
        padded = np.pad(laid.values.astype(np.float64), 1)
        total = sum(padded[i:i + height, j:j + width] for i in range(3) for j in range(3)) - laid.values
        sums.append(from_grid(laid._replace(values=total), tiles["row"], tiles["col"]))
    return sums


def evidence(views, judgement, predictions):
    """What speaks for and against each tile's being newly developed.

    Parameters
    ----------
    views : Views
    judgement : Judgement
    predictions : pandas.DataFrame
        The prediction table; both years of the county.

    Returns
    -------
    pandas.DataFrame
        A row for each of ``views.tiles``: ``EVIDENCE``, what the score is made of; ``extent``, what the area is read
        from; ``probability_before`` and ``probability_after`` of Developed; and ``new_neighbours``.
    """
    tiles = views.tiles
    rise = np.maximum(judgement.after - judgement.before, 0)
    table = pd.DataFrame({"tile_id": tiles["tile_id"]})
    for when, year in zip(("before", "after"), views.years):
        mine = predictions[(predictions["county"] == views.county) & (predictions["year"] == year)]
        scored = pd.Series(probability_of(mine, DEVELOPED), index=mine["tile_id"].to_numpy())
        # A tile without a prediction says nothing either way.
        table["probability_" + when] = scored.reindex(tiles["tile_id"]).to_numpy()
        table["logit_" + when] = _logit(table["probability_" + when].fillna(0.5))
    new, risen = (judgement.new > 0.5).mean(axis=(1, 2)), (rise > 0.5).mean(axis=(1, 2))
    table["extent"] = np.maximum(new, risen)
    table["strongest_rise"], table["strongest_new"] = _logit(_strongest(rise)), _logit(_strongest(judgement.new))
    # Roots: of the first hundred square metres each says more than of the last.
    table["rise_extent"], table["new_extent"] = np.sqrt(risen), np.sqrt(new)
    table["mean_rise"] = _logit(rise.mean(axis=(1, 2)))
    table["places_before"], table["places_after"] = (m.mean(axis=(1, 2)) for m in (judgement.before, judgement.after))
    table["labelled"] = (tiles["group"] == DEVELOPED).astype(float)
    table["gain"] = table["logit_after"] - table["logit_before"]
    # Of those that are there: a training county may be blocks of tiles with gaps between them.
    total, there = _around(tiles, risen)
    table["neighbours"] = total / np.maximum(there, 1)
    table["new_neighbours"] = np.rint(_around(tiles, risen >= NEW_SHARE)[0]).astype(int)
    table["distance"] = judgement.distance
    return table


EVIDENCE = ["strongest_rise", "rise_extent", "mean_rise", "strongest_new", "new_extent", "places_before",
            "places_after", "labelled", "logit_before", "logit_after", "gain", "neighbours", "distance"]
# Columns that tell of one thing: singly their coefficients say little, for they stand in for each other.
TERMS = {"places": ["strongest_rise", "rise_extent", "mean_rise", "strongest_new", "new_extent", "places_before",
                    "places_after"],
         "network": ["logit_before", "logit_after", "gain"], "label": ["labelled"], "neighbours": ["neighbours"],
         "pictures": ["distance"]}
SCORES = ["tile_id", "row", "col", "score", "plain", "line", "reason", "new_m2", "probability_before",
          "probability_after", "new_neighbours"]


class Scorer:
    """From two years' pictures to a calibrated score for each tile, fitted on training counties.

    Parameters
    ----------
    views : list of Views
        Training counties, at least two with the same network.
    predictions : pandas.DataFrame
        The prediction table of all of them.
    seed : int
        Of the draw of training places.

    Attributes
    ----------
    heads : list of Fitted
        One for each training county, fitted on all the others.
    cross_fitted : pandas.DataFrame
        ``county``, ``tile_id``, ``new_share`` (by the labels of both years), ``plain``, ``line``, ``score`` and
        ``new_m2`` of every training tile, judged by heads, a model, a line and an area curve that were fitted on the
        other counties.
    uses_line : bool
        Is the score what Platt's line makes of the model's ``plain`` chance, or the plain chance itself? The line is
        taken only where it betters the judgement of counties that it was not fitted on.

    Raises
    ------
    InputError
        If there are fewer than two training counties, or too few newly developed tiles in them.
    """

    def __init__(self, views, predictions, seed=0):
        if len(views) < 2:
            raise InputError("expected at least two training counties with pictures and labels of two years, got {}. "
                             "Prepare more in notebook 02_data_preparation.".format(len(views)))
        labels = [[labelled_places(facts["labels"], v.tiles, facts["crs"], v.places.side) for facts in v.facts]
                  for v in views]
        shares = [(built * (1 - was)).mean(axis=(1, 2)) for was, built in labels]
        changed = [int((share >= NEW_SHARE).sum()) for share in shares]
        if sum(changed) - max(changed) < LEAST_CHANGED:
            raise InputError("expected at least {} newly developed tiles in the training counties, whichever one is "
                             "left out, got {}. Prepare more training tiles or counties, or years further "
                             "apart.".format(LEAST_CHANGED, ", ".join(
                                 "{} in {}".format(n, view.county) for n, view in zip(changed, views))))
        self.heads = [_fit_heads([v for v in views if v is not left],
                                 [b for v, b in zip(views, labels) if v is not left], seed) for left in views]
        tables = [evidence(view, _judge(view, [heads]), predictions) for view, heads in zip(views, self.heads)]
        folds = []
        for k, view in enumerate(views):
            model = self._fit(*_all_but(k, tables, shares))
            folds.append(pd.DataFrame({"county": view.county, "tile_id": view.tiles["tile_id"], "new_share": shares[k],
                                       "margin": model.decision_function(tables[k][EVIDENCE]),
                                       "extent": tables[k]["extent"]}))
        for k, fold in enumerate(folds):
            others = pd.concat(folds[:k] + folds[k + 1:])
            _add(fold, _fit_line(others), _fit_area(others))
        self.cross_fitted = pd.concat(folds, ignore_index=True)
        real = self.cross_fitted["new_share"] >= NEW_SHARE
        self.uses_line = bool(_surprise(self.cross_fitted["line"], real) < _surprise(self.cross_fitted["plain"], real))
        self.cross_fitted["score"] = self.cross_fitted["line" if self.uses_line else "plain"]
        self.model = self._fit(pd.concat(tables), np.concatenate(shares))
        self.line, self.area = _fit_line(self.cross_fitted), _fit_area(self.cross_fitted)

    @staticmethod
    def _fit(tables, shares):
        from sklearn.linear_model import LogisticRegression
        from sklearn.pipeline import make_pipeline
        from sklearn.preprocessing import StandardScaler
        return make_pipeline(StandardScaler(), LogisticRegression(C=1.0, max_iter=2000)).fit(
            tables[EVIDENCE], shares >= NEW_SHARE)

    def score(self, views, predictions):
        """Score the tiles of a county.

        Parameters
        ----------
        views : Views
        predictions : pandas.DataFrame

        Returns
        -------
        pandas.DataFrame
            A row for each tile, by falling ``score`` (0 to 1: the chance that a tenth of it or more is newly
            developed): ``tile_id``, ``row``, ``col``, ``score``, ``plain`` and ``line`` (of which it is one),
            ``reason``, ``new_m2`` (how much of it is new, to be expected of what was seen), ``probability_before``,
            ``probability_after``, ``new_neighbours``.
        """
        table = evidence(views, _judge(views, self.heads), predictions)
        table = pd.concat([views.tiles[["row", "col", "group", "label"]], table], axis=1)
        table["margin"] = self.model.decision_function(table[EVIDENCE])
        _add(table, self.line, self.area)
        table["score"] = table["line" if self.uses_line else "plain"]
        spoken = self.terms(table)
        label_year = views.facts[0].get("label_year", views.years[0])
        table["reason"] = [reason(one, terms, label_year) for one, terms in
                           zip(table.itertuples(index=False), spoken.to_dict("records"))]
        table = table.sort_values(["score", "tile_id"], ascending=[False, True])
        return table[SCORES].reset_index(drop=True)

    def terms(self, table):
        """What each term adds to a tile's margin, beside that of a usual tile: coefficients times evidence.

        Parameters
        ----------
        table : pandas.DataFrame
            With the columns ``EVIDENCE``.

        Returns
        -------
        pandas.DataFrame
            A column for each of ``TERMS``.
        """
        scaler, model = self.model[0], self.model[-1]
        added = pd.DataFrame(scaler.transform(table[EVIDENCE]) * model.coef_[0], columns=EVIDENCE)
        return pd.DataFrame({term: added[columns].sum(axis=1) for term, columns in TERMS.items()})


def _all_but(k, tables, shares):
    return pd.concat(tables[:k] + tables[k + 1:]), np.concatenate(shares[:k] + shares[k + 1:])


def _add(table, line, area):
    """Chances and areas, from ``margin`` and ``extent``."""
    table["plain"] = 1 / (1 + np.exp(-table["margin"]))
    table["line"] = line.predict_proba(table[["margin"]])[:, 1]
    table["new_m2"] = area.predict(table["extent"]) * TILE_M ** 2


def _fit_line(tiles):
    """Platt's line from margins to chances, from tiles that the model was not fitted on."""
    from sklearn.linear_model import LogisticRegression
    return LogisticRegression(C=1e3).fit(tiles[["margin"]], tiles["new_share"] >= NEW_SHARE)


def _surprise(chance, real):
    """Mean logarithmic loss."""
    return -np.log(np.clip(np.where(real, chance, 1 - chance), 1e-6, 1)).mean()


def _fit_area(tiles):
    """A curve that never falls, from the extent of the places seen as new to the share of a tile that labels call new.

    Places see a part of what a label calls developed, roofs without their yard, and a few where nothing is new. The
    curve is fitted on all tiles, so it is right on average: areas can be summed.
    """
    from sklearn.isotonic import IsotonicRegression
    return IsotonicRegression(y_min=0, y_max=1, out_of_bounds="clip").fit(tiles["extent"], tiles["new_share"])


def reason(tile, terms, label_year):
    """Why a tile has its score: the two or three terms that weigh most, in words.

    Parameters
    ----------
    tile : namedtuple
        With ``new_m2``, ``probability_before``, ``probability_after``, ``group``, ``label``, ``new_neighbours`` and
        ``distance``.
    terms : dict of str to float
        Of ``Scorer.terms``.
    label_year : int
        Of the first labels.

    Returns
    -------
    str
        What speaks for it, then what speaks against it; a third term only where it weighs a quarter of the first.
    """
    label = (GROUPS[int(tile.group)].name if pd.isna(tile.label) or int(tile.label) < 0
             else CLASS_NAMES[int(tile.label)])
    n = tile.new_neighbours
    words = {"places": "about {:.1f} ha look newly built".format(tile.new_m2 / 1e4) if terms["places"] > 0
             else "few of its places look newly built",
             "network": "Developed goes from {:.0%} to {:.0%}".format(tile.probability_before, tile.probability_after),
             "label": "labelled {} in {}".format(label, label_year),
             "neighbours": "{} neighbour{} changed too".format(n, "s" * (n > 1)) if n else "no neighbour changed",
             "pictures": "the two pictures differ {:.1f} times as much as is usual here".format(tile.distance)}
    # What rises from a thousandth to a hundredth can weigh; "from 0% to 1%" says it, "from 0% to 0%" would puzzle.
    shown = ["{:.0%}".format(p) for p in (tile.probability_before, tile.probability_after)]
    if "nan%" in shown or shown[0] == shown[1]:
        del words["network"]
    largest = sorted(words, key=lambda term: -abs(terms[term]))[:3]
    if abs(terms[largest[2]]) < abs(terms[largest[0]]) / 4:
        largest.pop()
    told = []
    for begin, side in (("For it: ", 1), ("Against it: ", -1)):
        spoken = [words[term] for term in largest if side * terms[term] > 0]
        if spoken:
            told.append(begin + "; ".join(spoken) + ".")
    return " ".join(told)


def by_rule(candidates, tiles):
    """Scores where none can be fitted: the 2017 rule's candidates by their gain, which no calibration stands behind.

    Parameters
    ----------
    candidates : pandas.DataFrame
        From ``change.candidates_2017``.
    tiles : pandas.DataFrame
        All tiles: ``tile_id``, ``row``, ``col``.

    Returns
    -------
    pandas.DataFrame
        As from ``Scorer.score``; the score of a candidate is at least ``CANDIDATE``, of another tile 0: it ranks, and
        is no probability (``RANKED``).
    """
    table = tiles[["tile_id", "row", "col"]].merge(
        candidates[["tile_id", "gain", "probability_before", "probability_after"]], on="tile_id", how="left")
    found = table["tile_id"].isin(candidates["tile_id"])
    gain = table.pop("gain").fillna(0).clip(0, 1)
    table["score"] = np.where(found, CANDIDATE + (1 - CANDIDATE) * gain, 0.0)
    table["reason"] = np.where(found, "The rule of 2017: labelled otherwise in the first year, predicted Developed in "
                               "the second.", "")
    table["new_m2"], table["new_neighbours"] = np.where(found, TILE_M ** 2, 0.0), 0
    table["plain"] = table["line"] = table["score"]
    table = table.sort_values(["score", "tile_id"], ascending=[False, True])
    return table[SCORES].reset_index(drop=True)


def to_show(candidates, first=6, spread=6):
    """A few candidates to look at: the first, and some spread evenly over the rest.

    Parameters
    ----------
    candidates : pandas.DataFrame
        Ranked.
    first, spread : int

    Returns
    -------
    pandas.DataFrame
        With ``rank``, from 1.
    """
    ranked = candidates.assign(rank=np.arange(1, len(candidates) + 1))
    rest = np.linspace(first, len(ranked) - 1, spread).round().astype(int) if len(ranked) > first + spread else \
        np.arange(first, len(ranked))
    return ranked.iloc[np.concatenate([np.arange(min(first, len(ranked))), rest])]


# ---- how good it is

def performance(scores, baseline, truth):
    """Precision, recall and calibration of scores, beside the candidates of the 2017 rule.

    Parameters
    ----------
    scores : pandas.DataFrame
        From ``Scorer.score``.
    baseline : pandas.DataFrame
        From ``change.candidates_2017``.
    truth : pandas.DataFrame
        ``row``, ``col`` and ``share`` newly developed; a tile that isn't in it has a share of 0.

    Returns
    -------
    dict
        ``precision`` and ``recall`` of the tiles that score ``CANDIDATE`` or more; ``baseline_precision`` and
        ``baseline_recall``; ``false_candidates_ratio``, our false candidates over the baseline's, ours cut where they
        reach the baseline's recall (NaN where it has none); ``calibration_error`` of all scores, and of those above
        0.02, ``calibration_error_above``, each with ``_plain`` and ``_line`` too, the scores before and after Platt's
        line; ``candidates``, ``baseline_candidates`` and ``truth``, counts; areas in km²: ``new_km2``,
        ``estimated_km2`` (the sum of the tiles' areas) and ``baseline_km2`` (each of its candidates counted whole), and
        what the two are off by, ``area_error`` and ``baseline_area_error``, as a share of ``new_km2``.
    """
    from helpers.model.evaluation import calibration_error
    share = scores[["row", "col"]].merge(truth[["row", "col", "share"]], how="left")["share"].fillna(0).to_numpy()
    real = share >= NEW_SHARE
    score = scores["score"].to_numpy()
    ours = score >= CANDIDATE
    theirs = scores["tile_id"].isin(baseline["tile_id"]).to_numpy()
    n, found = real.sum(), np.cumsum(real)
    reached = int(np.searchsorted(found, (theirs & real).sum())) + 1
    false, their_false = reached - found[reached - 1], (theirs & ~real).sum()

    def share_of(part, whole):
        return float(part.sum() / whole) if whole else float("nan")
    new_m2, theirs_m2 = share.sum() * TILE_M ** 2, theirs.sum() * TILE_M ** 2
    ours_m2 = float(scores["new_m2"].sum())
    calibration = {}
    for suffix, column in (("", "score"), ("_plain", "plain"), ("_line", "line")):
        values = scores[column].to_numpy()
        calibration["calibration_error" + suffix] = calibration_error(values, real)
        calibration["calibration_error_above" + suffix] = _calibration_above(values, real)
    return {"precision": share_of(ours & real, ours.sum()), "recall": share_of(ours & real, n),
            "baseline_precision": share_of(theirs & real, theirs.sum()), "baseline_recall": share_of(theirs & real, n),
            "false_candidates_ratio": float(false / their_false) if their_false else float("nan"),
            "candidates": int(ours.sum()), "baseline_candidates": int(theirs.sum()), "truth": int(n),
            "new_km2": float(new_m2 / 1e6), "estimated_km2": ours_m2 / 1e6, "baseline_km2": float(theirs_m2 / 1e6),
            "area_error": share_of(np.array(ours_m2 - new_m2), new_m2),
            "baseline_area_error": share_of(np.array(theirs_m2 - new_m2), new_m2), **calibration}


def _calibration_above(score, real):
    """Calibration error of the scores above 0.02; NaN where there are none."""
    from helpers.model.evaluation import calibration_error
    return calibration_error(score[score > 0.02], real[score > 0.02]) if (score > 0.02).any() else float("nan")


def recall_by_size(scores, baseline, truth):
    """Which newly developed tiles are found, by how much of them is new; single properties apart.

    Parameters
    ----------
    scores, baseline, truth
        As for ``performance``; ``truth`` with ``kind`` too, ``"single"`` or ``"subdivision"``.

    Returns
    -------
    pandas.DataFrame
        ``tiles``, ``recall``, ``baseline_recall`` and ``area_error`` for each size: how far the area of a tile that
        was found is off, the median, as a share of its true area. NaN where there are none.
    """
    real = truth[truth["share"] >= NEW_SHARE].merge(scores[["row", "col", "score", "new_m2", "tile_id"]], how="left")
    real["ours"], real["theirs"] = real["score"] >= CANDIDATE, real["tile_id"].isin(baseline["tile_id"])
    real["off"] = (real["new_m2"] / (real["share"] * TILE_M ** 2) - 1).abs().where(real["ours"])
    larger = real["kind"] != "single"
    sizes = {"single properties": ~larger, "10 to 25 % of the tile": larger & (real["share"] < 0.25),
             "25 to 50 %": larger & real["share"].between(0.25, 0.5, inclusive="left"),
             "50 % and more": larger & (real["share"] >= 0.5)}
    return pd.DataFrame({name: {"tiles": int(which.sum()), "recall": real.loc[which, "ours"].mean(),
                                "baseline_recall": real.loc[which, "theirs"].mean(),
                                "area_error": real.loc[which, "off"].dropna().median()}
                         for name, which in sizes.items()}).T.astype({"tiles": int})

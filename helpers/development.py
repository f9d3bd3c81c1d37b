"""Newly developed places: judged place by place in two years' pictures, each tile with a score and its reason.

A tile is 224 m wide, and what is new in it may be a single house. So each tile is read as a square of small *places*
(14 × 14 of 16 m with the embedded network): the maps of the retrained network's last but one stage, those of the
stage before, and the place's own colours. Two small heads judge each place: is it developed, in either year, and is
it newly so, from both years at once. A tile's score comes from these judgements, from the network's probabilities of
both years, the first year's label, the neighbours, and how far the two pictures differ as a whole.

Light, season and drought move a whole county's pictures at once. So features are measured against what is usual in
their own county and year. Everything is fitted on training counties, each judged by heads that have not seen it.
"""

from collections import namedtuple

import numpy as np
import pandas as pd

from helpers import InputError, rasters, tilestore
from helpers.change import from_grid, probability_of, to_grid
from helpers.grid import TILE_M
from helpers.landcover import CLASS_NAMES, DEVELOPED, GROUPS, group_of_code

# A tile is newly developed where at least this share of its area is.
NEW_SHARE = 0.1
# A tile whose score is at least this is a candidate.
CANDIDATE = 0.5
# Features of a county and year that are kept, to tell what is usual there and to train heads on; the others are
# computed again when they are needed.
KEPT_BYTES = 300e6
# Places of a county, drawn for training a head.
TRAINING_PLACES = 40_000

Judgement = namedtuple("Judgement", "before after new")
Fitted = namedtuple("Fitted", "single pair")


class Places:
    """Describes the places of tiles, by the retrained network up to its last but one stage.

    Parameters
    ----------
    bundle : helpers.bundle.Bundle
        Its ``model.onnx`` is cut, not changed.
    threads : int
        Cores to compute on; 0 for all.

    Attributes
    ----------
    side : int
        Places along an edge of a tile.
    n_features : int

    Raises
    ------
    InputError
        If the network doesn't average feature maps, so that places can't be told apart in it.
    """

    def __init__(self, bundle, threads=0):
        import onnx
        import onnxruntime
        from onnx.utils import Extractor
        network = onnx.shape_inference.infer_shapes(onnx.load(str(bundle.folder / "model.onnx")))
        shapes = {value.name: [d.dim_value for d in value.type.tensor_type.shape.dim]
                  for value in network.graph.value_info}
        averaged = [node.input[0] for node in network.graph.node if node.op_type == "GlobalAveragePool"]
        if not averaged or len(shapes.get(averaged[0], ())) != 4:
            raise InputError("expected a network that averages feature maps, as a ResNet does, got {} without. Take the "
                             "bundle of notebook 03_retraining_tensorflow.".format(bundle.folder))
        self.side = shapes[averaged[0]][2]
        # The stage before has maps of twice the detail, where single roofs are still apart. Of its maps the widest
        # are its last.
        finer = max(((shapes[node.output[0]][1], i, node.output[0]) for i, node in enumerate(network.graph.node)
                     if node.op_type == "Relu" and shapes.get(node.output[0], [0] * 4)[2:] == [2 * self.side] * 2),
                    default=None)
        self.input_px = bundle.input_px
        self.outputs = [averaged[0]] + ([finer[2]] if finer else [])
        self.n_features = sum(shapes[name][1] for name in self.outputs) + 6
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        part = Extractor(network).extract_model([network.graph.input[0].name], self.outputs)
        self._name = network.graph.input[0].name
        self._session = onnxruntime.InferenceSession(part.SerializeToString(), options,
                                                     providers=["CPUExecutionProvider"])

    def describe(self, tiles, batch=32):
        """Features of each place.

        Parameters
        ----------
        tiles : numpy.ndarray
            Shape (N, h, w, 3), uint8 RGB.

        Returns
        -------
        numpy.ndarray
            Shape (N, side, side, n_features), float16, north-up: maps of the network, then mean and standard deviation
            of R, G and B.
        """
        found = np.empty((len(tiles), self.side, self.side, self.n_features), dtype=np.float16)
        for i in range(0, len(tiles), batch):
            pixels = tiles[i:i + batch]
            maps = [_by_place(m.transpose(0, 2, 3, 1), self.side).mean(axis=(2, 4))
                    for m in self._session.run(self.outputs, {self._name: pixels})]
            pixels = _by_place(pixels, self.side).astype(np.float32)
            found[i:i + batch] = np.concatenate(maps + [pixels.mean(axis=(2, 4)), pixels.std(axis=(2, 4))], axis=-1)
        return found


def _by_place(maps, side):
    """(N, h, w, C) to (N, side, h / side, side, w / side, C)."""
    n, height, width, channels = maps.shape
    return maps.reshape(n, side, height // side, side, width // side, channels)


class Views:
    """The pictures of a county in two years, described place by place.

    Parameters
    ----------
    places : Places
    store : str
        The tile store.
    county : str
    years : tuple of int
        The earlier first.

    Attributes
    ----------
    tiles : pandas.DataFrame
        Those that both years show: ``tile_id``, ``row``, ``col``, and ``group`` and ``label`` of the first year.
    facts : list of dict
        Manifests of the two years.
    """

    def __init__(self, places, store, county, years):
        self.places, self.store, self.county, self.years = places, store, county, tuple(years)
        self.facts = [tilestore.manifest(store, county, year, required=["crs"]) for year in years]
        first, second = (tilestore.read(store, county, year, columns=["tile_id", "row", "col", "group", "label"])
                         for year in years)
        tiles = first.merge(second[["tile_id"]], on="tile_id").sort_values(["row", "col"], ascending=[False, True])
        self.tiles = tiles[["tile_id", "row", "col", "group", "label"]].reset_index(drop=True)
        if not len(tiles):
            raise InputError("expected tiles of county {} in both {} and {}, got none that both show. Prepare both "
                             "years in notebook 02_data_preparation.".format(county, *years))
        rows, counts = np.unique(self.tiles["row"], return_counts=True)
        tile_bytes = places.side ** 2 * places.n_features * 2
        n = max(1, min(len(rows), int(KEPT_BYTES / tile_bytes / counts.mean())))
        chosen = rows[np.linspace(0, len(rows) - 1, n).round().astype(int)]
        self.rows = rows[::-1]
        self._kept = {int(row): self._describe(row) for row in chosen}
        self.usual = []
        for year in (0, 1):
            known = [kept[year].reshape(-1, places.n_features).astype(np.float32) for kept in self._kept.values()]
            count = sum(map(len, known))
            mean = sum(part.sum(axis=0, dtype=np.float64) for part in known) / count
            variance = sum(((part - mean) ** 2).sum(axis=0) for part in known) / count
            # Where a feature never differs, its deviation of 0 would make noise of nothing.
            self.usual.append((mean.astype(np.float32), np.sqrt(variance).astype(np.float32) + 1e-3))

    def _describe(self, row):
        """Features of a row of tiles in both years, as the network gives them."""
        wanted = self.tiles.loc[self.tiles["row"] == row, ["tile_id"]]
        found = []
        for year in self.years:
            tiles = tilestore.read(self.store, self.county, year, columns=["tile_id", "image"], row=int(row))
            found.append(self.places.describe(tilestore.decode_all(wanted.merge(tiles, on="tile_id"),
                                                                   self.places.input_px)))
        return found

    def strips(self, kept_only=False):
        """Go through the county, a row of tiles at a time.

        Parameters
        ----------
        kept_only : bool
            Only the rows that told what is usual; those of a small county are all.

        Yields
        ------
        where : numpy.ndarray
            Positions in ``tiles``.
        before, after : numpy.ndarray
            Shape (n, side, side, n_features), float32: deviations from what is usual in the county and year.
        """
        for row in self.rows:
            if kept_only and int(row) not in self._kept:
                continue
            raw = self._kept.get(int(row)) or self._describe(row)
            yield (np.flatnonzero(self.tiles["row"] == row),
                   *((features - mean) / deviation for features, (mean, deviation) in zip(raw, self.usual)))


def labelled_places(href, tiles, crs, side):
    """The share of each place that NLCD calls developed.

    Parameters
    ----------
    href : str
        An NLCD raster.
    tiles : pandas.DataFrame
        ``row`` and ``col``.
    crs : str
        Of the tile grid.
    side : int
        Places along an edge of a tile.

    Returns
    -------
    numpy.ndarray
        Shape (N, side, side), float32, 0 to 1, in quarters: the NLCD pixels nearest to four points of each place.
    """
    from scipy.spatial import cKDTree
    row, col = tiles["row"].to_numpy(), tiles["col"].to_numpy()
    bounds = (col.min() * TILE_M - 60, row.min() * TILE_M - 60, (col.max() + 1) * TILE_M + 60,
              (row.max() + 1) * TILE_M + 60)
    codes, corners = rasters.read_labels(href, bounds, crs)
    nearest = cKDTree(corners.mean(axis=2).reshape(-1, 2))
    built = np.zeros(codes.size, dtype=np.float32)
    built[:] = group_of_code(codes.ravel()) == DEVELOPED
    along = (np.arange(2 * side) + 0.5) * TILE_M / (2 * side)
    share = np.empty((len(tiles), side, side), dtype=np.float32)
    for i in range(len(tiles)):
        x, y = np.meshgrid(col[i] * TILE_M + along, (row[i] + 1) * TILE_M - along)
        at = nearest.query(np.stack([x.ravel(), y.ravel()], axis=-1))[1]
        share[i] = built[at].reshape(side, 2, side, 2).mean(axis=(1, 3))
    return share


# ---- heads: places

def _pair(before, after):
    return np.concatenate([after, after - before], axis=-1)


def _fit_heads(views, labels, seed):
    """Heads of some counties: developed or not, from one year's features; newly so or not, from both years'."""
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler
    rng = np.random.default_rng(seed)
    single, pair = ([], []), ([], [])

    def draw(into, features, truth, wanted):
        chosen = rng.permutation(np.flatnonzero(wanted))[:TRAINING_PLACES]
        into[0].append(features[chosen])
        into[1].append(truth[chosen])
    for view, (was, built) in zip(views, labels):
        where, before, after = zip(*view.strips(kept_only=True))
        n = view.places.n_features
        before, after = (np.concatenate(f).reshape(-1, n) for f in (before, after))
        was, built = (share[np.concatenate(where)].ravel() for share in (was, built))
        # Places that a pixel of 30 m cuts in two teach little.
        for features, share in ((before, was), (after, built)):
            draw(single, features, share > 0.5, (share < 0.1) | (share > 0.9))
        new, old = (was < 0.1) & (built > 0.9), built - was <= 0.3
        keep = new | (old & (rng.random(len(old)) < TRAINING_PLACES / max(1, old.sum())))
        pair[0].append(_pair(before[keep], after[keep]))
        pair[1].append(new[keep])

    def fit(features, truth, strength):
        truth = np.concatenate(truth)
        if truth.all() or not truth.any():
            raise InputError("expected training counties with land that was newly developed, and land that was not, "
                             "got only one of the two. Train on more counties.")
        return make_pipeline(StandardScaler(), LogisticRegression(C=strength, max_iter=300)).fit(
            np.concatenate(features), truth)
    return Fitted(fit(*single, 0.01), fit(*pair, 0.003))


def _judge(views, heads):
    """What heads say of each place of a county: a ``Judgement`` of three (N, side, side) arrays, 0 to 1.

    Several sets of heads are averaged.
    """
    side, n = views.places.side, views.places.n_features
    found = Judgement(*(np.zeros((len(views.tiles), side, side), dtype=np.float32) for _ in range(3)))
    for where, before, after in views.strips():
        before, after = before.reshape(-1, n), after.reshape(-1, n)
        for single, pair in heads:
            for array, head, features in ((found.before, single, before), (found.after, single, after),
                                          (found.new, pair, _pair(before, after))):
                array[where] += head.predict_proba(features)[:, 1].reshape(len(where), side, side) / len(heads)
    return found


# ---- evidence: tiles

def _logit(p):
    p = np.clip(p, 1e-3, 1 - 1e-3)
    return np.log(p / (1 - p))


def _strongest(maps):
    """Mean of the strongest tenth of a tile's places, each first averaged with its neighbours: (N,)."""
    from scipy.ndimage import uniform_filter
    smooth = uniform_filter(maps, (0, 3, 3)).reshape(len(maps), -1)
    return np.sort(smooth, axis=1)[:, -max(1, smooth.shape[1] // 10):].mean(axis=1)


def _neighbours(tiles, values):
    """Mean of the eight neighbours' values, 0 where there is none."""
    laid = to_grid(tiles["row"], tiles["col"], values, fill=0)
    height, width = laid.values.shape
    padded = np.pad(laid.values.astype(np.float64), 1)
    total = sum(padded[i:i + height, j:j + width] for i in range(3) for j in range(3)) - laid.values
    return from_grid(laid._replace(values=total / 8), tiles["row"], tiles["col"])


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
        A row for each of ``views.tiles``: the columns that the score is made of, and ``new_m2``, the area of its newly
        developed places, ``probability_before`` and ``probability_after`` of Developed, ``new_neighbours``.
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
    new = (judgement.new > 0.5).mean(axis=(1, 2))
    table["new_m2"] = np.maximum(new, (rise > 0.5).mean(axis=(1, 2))) * TILE_M ** 2
    table["strongest_rise"], table["strongest_new"] = _logit(_strongest(rise)), _logit(_strongest(judgement.new))
    # Roots: of the first hundred square metres each says more than of the last.
    table["rise_extent"], table["new_extent"] = np.sqrt((rise > 0.5).mean(axis=(1, 2))), np.sqrt(new)
    table["mean_rise"] = _logit(rise.mean(axis=(1, 2)))
    table["places_before"], table["places_after"] = (m.mean(axis=(1, 2)) for m in (judgement.before, judgement.after))
    table["labelled"] = (tiles["group"] == DEVELOPED).astype(float)
    table["gain"] = table["logit_after"] - table["logit_before"]
    table["neighbours"] = _neighbours(tiles, table["rise_extent"] ** 2)
    table["new_neighbours"] = np.rint(8 * _neighbours(tiles, table["new_m2"] >= NEW_SHARE * TILE_M ** 2)).astype(int)
    table["distance"] = _distance(views)
    return table


def _distance(views):
    """How far the two pictures of each tile differ, 1 for what is usual in the county: (N,)."""
    distance = np.empty(len(views.tiles))
    for where, before, after in views.strips():
        distance[where] = np.linalg.norm(before.mean(axis=(1, 2)) - after.mean(axis=(1, 2)), axis=1)
    return distance / np.median(distance)


EVIDENCE = ["strongest_rise", "rise_extent", "mean_rise", "strongest_new", "new_extent", "places_before",
            "places_after", "labelled", "logit_before", "logit_after", "gain", "neighbours", "distance"]


SCORES = ["tile_id", "row", "col", "score", "reason", "new_m2", "probability_before", "probability_after",
          "new_neighbours"]


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
        ``county``, ``score`` and ``new_share`` (by the labels of both years) of every training tile, judged by heads
        and a scorer that have not seen its county.

    Raises
    ------
    InputError
        If there are fewer than two training counties.
    """

    def __init__(self, views, predictions, seed=0):
        if len(views) < 2:
            raise InputError("expected at least two training counties with pictures and labels of both years, got {}. "
                             "Prepare more in notebook 02_data_preparation.".format(len(views)))
        labels = [[labelled_places(facts["labels"], v.tiles, facts["crs"], v.places.side) for facts in v.facts]
                  for v in views]
        self.heads = [_fit_heads([v for v in views if v is not left], [b for v, b in zip(views, labels) if v is not left],
                                 seed) for left in views]
        tables, shares = [], []
        for view, heads, (was, built) in zip(views, self.heads, labels):
            tables.append(evidence(view, _judge(view, [heads]), predictions))
            shares.append((built * (1 - was)).mean(axis=(1, 2)))
        folds = []
        for k, view in enumerate(views):
            others = [i for i in range(len(views)) if i != k]
            model = self._fit([tables[i] for i in others], [shares[i] for i in others])
            folds.append(pd.DataFrame({"county": view.county, "tile_id": view.tiles["tile_id"], "new_share": shares[k],
                                       "score": model.predict_proba(tables[k][EVIDENCE])[:, 1],
                                       "new_m2": tables[k]["new_m2"]}))
        self.cross_fitted = pd.concat(folds, ignore_index=True)
        self.model = self._fit(tables, shares)
        # Places see a part of what a label calls developed, a yard as well as its roofs: areas are brought to what the
        # labels say in all.
        self.area_ratio = _area_ratio(self.cross_fitted, np.concatenate(shares).sum() * TILE_M ** 2)

    @staticmethod
    def _fit(tables, shares):
        from sklearn.linear_model import LogisticRegression
        from sklearn.pipeline import make_pipeline
        from sklearn.preprocessing import StandardScaler
        return make_pipeline(StandardScaler(), LogisticRegression(C=1.0, max_iter=2000)).fit(
            pd.concat(tables)[EVIDENCE], np.concatenate(shares) >= NEW_SHARE)

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
            developed): ``tile_id``, ``row``, ``col``, ``score``, ``reason``, ``new_m2``, ``probability_before``,
            ``probability_after``, ``new_neighbours``.
        """
        table = evidence(views, _judge(views, self.heads), predictions)
        table = pd.concat([views.tiles[["row", "col", "group", "label"]], table], axis=1)
        table["score"] = self.model.predict_proba(table[EVIDENCE])[:, 1]
        table["new_m2"] = np.minimum(table["new_m2"] * self.area_ratio, TILE_M ** 2)
        table["reason"] = [reason(one, views.facts[0].get("label_year", views.years[0])) for one in
                           table.itertuples(index=False)]
        table = table.sort_values(["score", "tile_id"], ascending=[False, True])
        return table[SCORES].reset_index(drop=True)


def _area_ratio(tiles, total_m2):
    """What to multiply areas by so that, weighed by their scores and no larger than a tile, they sum to the total."""
    from scipy.optimize import brentq

    def excess(ratio):
        return float((tiles["score"] * np.minimum(ratio * tiles["new_m2"], TILE_M ** 2)).sum()) - total_m2
    return brentq(excess, 0, 100) if excess(100) > 0 else 1.0


def reason(tile, label_year):
    """Why a tile has its score, in words.

    Parameters
    ----------
    tile : namedtuple
        With ``new_m2``, ``probability_before``, ``probability_after``, ``group``, ``label``, ``new_neighbours`` and
        ``distance``.
    label_year : int
        Of the first labels.

    Returns
    -------
    str
    """
    label = (GROUPS[int(tile.group)].name if pd.isna(tile.label) or int(tile.label) < 0
             else CLASS_NAMES[int(tile.label)])
    parts = ["About {:.1f} ha look newly developed".format(tile.new_m2 / 1e4)]
    if not (np.isnan(tile.probability_before) or np.isnan(tile.probability_after)):
        parts.append("Developed goes from {:.0%} to {:.0%}".format(tile.probability_before, tile.probability_after))
    parts.append("labelled {} in {}".format(label, label_year))
    parts.append("no neighbour changed so" if not tile.new_neighbours else
                 "{} neighbour{} changed so too".format(tile.new_neighbours, "s" * (tile.new_neighbours > 1)))
    parts.append("the two pictures differ {:.1f} times as much as is usual here".format(tile.distance))
    return "; ".join(parts) + "."


def training_views(places, store, years):
    """``Views`` of the training counties of a store that have pictures and labels of both years; a list."""
    found = {}
    for part in tilestore.partitions(store):
        if part.get("split") == "train" and part["year"] in years and "labels" in part:
            found.setdefault(part["county"], set()).add(part["year"])
    return [Views(places, store, county, years) for county in sorted(found) if found[county] == set(years)]


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
        As from ``Scorer.score``; the score of a candidate is at least ``CANDIDATE``, of another tile 0.
    """
    table = tiles[["tile_id", "row", "col"]].merge(
        candidates[["tile_id", "gain", "probability_before", "probability_after"]], on="tile_id", how="left")
    found = table["tile_id"].isin(candidates["tile_id"])
    gain = table.pop("gain").fillna(0).clip(0, 1)
    table["score"] = np.where(found, CANDIDATE + (1 - CANDIDATE) * gain, 0.0)
    table["reason"] = np.where(found, "The rule of 2017: labelled otherwise in the first year, predicted Developed in "
                               "the second.", "")
    table["new_m2"], table["new_neighbours"] = np.where(found, TILE_M ** 2, 0.0), 0
    table = table.sort_values(["score", "tile_id"], ascending=[False, True])
    return table[SCORES].reset_index(drop=True)


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
        0.02, ``calibration_error_above``; ``candidates``, ``baseline_candidates`` and ``truth``, counts; areas in
        km²: ``new_km2``, ``estimated_km2`` and ``baseline_km2`` (each of its candidates counted whole).
    """
    from helpers.evaluation import calibration_error
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
    return {"precision": share_of(ours & real, ours.sum()), "recall": share_of(ours & real, n),
            "baseline_precision": share_of(theirs & real, theirs.sum()), "baseline_recall": share_of(theirs & real, n),
            "false_candidates_ratio": float(false / their_false) if their_false else float("nan"),
            "calibration_error": calibration_error(score, real),
            "calibration_error_above": calibration_error(score[score > 0.02], real[score > 0.02]),
            "candidates": int(ours.sum()), "baseline_candidates": int(theirs.sum()), "truth": int(n),
            "new_km2": float(share.sum() * TILE_M ** 2 / 1e6),
            "estimated_km2": float((scores["score"] * scores["new_m2"]).sum() / 1e6),
            "baseline_km2": float(theirs.sum() * TILE_M ** 2 / 1e6)}


def recall_by_size(scores, baseline, truth):
    """Which newly developed tiles are found, by how much of them is new; single properties apart.

    Parameters
    ----------
    scores, baseline, truth
        As for ``performance``; ``truth`` with ``kind`` too, ``"single"`` or ``"subdivision"``.

    Returns
    -------
    pandas.DataFrame
        ``tiles``, ``recall`` and ``baseline_recall`` for each size; NaN where there are none.
    """
    real = truth[truth["share"] >= NEW_SHARE].merge(scores[["row", "col", "score", "tile_id"]], how="left")
    real["ours"], real["theirs"] = real["score"] >= CANDIDATE, real["tile_id"].isin(baseline["tile_id"])
    larger = real["kind"] != "single"
    sizes = {"single properties": ~larger, "10 to 25 % of the tile": larger & (real["share"] < 0.25),
             "25 to 50 %": larger & real["share"].between(0.25, 0.5, inclusive="left"),
             "50 % and more": larger & (real["share"] >= 0.5)}
    return pd.DataFrame({name: {"tiles": int(which.sum()), "recall": real.loc[which, "ours"].mean(),
                                "baseline_recall": real.loc[which, "theirs"].mean()}
                         for name, which in sizes.items()}).T.astype({"tiles": int})

"""places."""

from collections import namedtuple

import numpy as np
import pandas as pd

from helpers import InputError
from helpers.tiles import store as tilestore
from helpers.land.classes import DEVELOPED, group_of_code
from helpers.land.grid import TILE_M
from helpers.land.labels import read_labels
from helpers.tiles.pictures import decode_all

# Features of a county and year that are kept, to tell what is usual there and to train heads on; the others are
# computed again when they are needed.
KEPT_BYTES = 300e6
# Places of a county, drawn for training a head.
TRAINING_PLACES = 40_000
Judgement = namedtuple("Judgement", "before after new distance")
Fitted = namedtuple("Fitted", "single pair")


class Places:
    """Describes the places of tiles, by the retrained network up to its last but one stage.

    Parameters
    ----------
    bundle : helpers.model.bundle.Bundle
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
            raise InputError("expected a network that averages feature maps, as a ResNet does, got {} without. Take "
                             "the bundle of notebook 03_retraining_tensorflow.".format(bundle.folder))
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
            maps = self._session.run(self.outputs, {self._name: pixels})
            pixels = pixels.transpose(0, 3, 1, 2).astype(np.float32)
            mean = _by_place(pixels, self.side)
            # The squares of a place's bytes add up exactly, or nearly, so that little is lost in the difference.
            variance = _by_place(pixels ** 2, self.side).astype(np.float64) - mean.astype(np.float64) ** 2
            found[i:i + batch] = np.concatenate(
                [_by_place(m, self.side) for m in maps] + [mean, np.sqrt(np.maximum(variance, 0))],
                axis=1).transpose(0, 2, 3, 1)
        return found


def _by_place(maps, side):
    """Mean of each place: (N, C, h, w) to (N, C, side, side). Sums of whole slices, which NumPy is quick at."""
    n, channels, height, width = maps.shape
    rows = maps.reshape(n, channels, side, height // side, width).sum(axis=3)
    return sum(rows[..., i::width // side] for i in range(width // side)) * (side * side / (height * width))


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
            found.append(self.places.describe(decode_all(wanted.merge(tiles, on="tile_id"),
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
    along = (np.arange(2 * side) + 0.5) * TILE_M / (2 * side)
    share = np.empty((len(tiles), side, side), dtype=np.float32)
    # A piece of the raster at a time: blocks of a real county lie far apart.
    for piece in pd.DataFrame({"row": row // 16, "col": col // 16}).groupby(["row", "col"]).indices.values():
        bounds = (col[piece].min() * TILE_M - 60, row[piece].min() * TILE_M - 60, (col[piece].max() + 1) * TILE_M + 60,
                  (row[piece].max() + 1) * TILE_M + 60)
        codes, corners = read_labels(href, bounds, crs)
        nearest = cKDTree(corners.mean(axis=2).reshape(-1, 2))
        built = (group_of_code(codes.ravel()) == DEVELOPED).astype(np.float32)
        for i in piece:
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
                             "got only one of the two. Prepare more training counties, or years further apart.")
        return make_pipeline(StandardScaler(), LogisticRegression(C=strength, max_iter=300)).fit(
            np.concatenate(features), truth)
    return Fitted(fit(*single, 0.01), fit(*pair, 0.003))


def _judge(views, heads):
    """What heads say of each place of a county: a ``Judgement`` of three (N, side, side) arrays, 0 to 1, and how far
    the two pictures of each tile differ, (N,), 1 for what is usual in the county.

    Several sets of heads are averaged. All that needs the network's features is done in this one passage.
    """
    side, n = views.places.side, views.places.n_features
    found = Judgement(*(np.zeros((len(views.tiles), side, side), dtype=np.float32) for _ in range(3)),
                      np.empty(len(views.tiles)))
    for where, before, after in views.strips():
        found.distance[where] = np.linalg.norm(before.mean(axis=(1, 2)) - after.mean(axis=(1, 2)), axis=1)
        before, after = before.reshape(-1, n), after.reshape(-1, n)
        for single, pair in heads:
            for array, head, features in ((found.before, single, before), (found.after, single, after),
                                          (found.new, pair, _pair(before, after))):
                array[where] += head.predict_proba(features)[:, 1].reshape(len(where), side, side) / len(heads)
    return found._replace(distance=found.distance / max(np.median(found.distance), 1e-6))


def training_views(places, store):
    """``Views`` of the training counties of a store that have pictures and labels of two years; a list.

    A county's years are its own, the first and the last that it has: they need not be those of the mapped county.
    """
    found = {}
    for part in tilestore.partitions(store):
        if part.get("split") == "train" and "labels" in part:
            found.setdefault(part["county"], set()).add(part["year"])
    return [Views(places, store, county, (min(years), max(years))) for county, years in sorted(found.items())
            if len(years) > 1]

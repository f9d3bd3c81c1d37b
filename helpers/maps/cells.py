"""Cells, 16 m squares of a tile, in two years' pictures: what they look like, what labels say, what heads judge.

Light, season and drought move a whole county's pictures at once, so features are measured against what is usual in
their own county and year. Two small heads judge each cell: is it developed, and is it newly so, from both years.
"""

from collections import namedtuple

import numpy as np
import pandas as pd

from helpers import InputError
from helpers.land.classes import DEVELOPED, group_of_code
from helpers.land.grid import TILE_M
from helpers.land.labels import read_labels
from helpers.model.bundle import Bundle
from helpers.tiles import store as tilestore
from helpers.tiles.pictures import decode_all

# Features of a county and year that are kept, to learn what is usual there and to train heads on; the others are
# computed again when they are needed.
KEPT_BYTES = 300e6
# Cells of a county, drawn for training a head.
TRAINING_CELLS = 40_000
Judgement = namedtuple("Judgement", "before after new distance")
Heads = namedtuple("Heads", "single pair")


class Cells:
    """Describes the cells of tiles by the retrained network, up to its last but one stage.

    ``side`` is the number of cells along an edge of a tile, 14 with the embedded network.
    """

    def __init__(self, bundle: Bundle):
        import onnx
        import onnxruntime
        from onnx.utils import Extractor
        network = onnx.shape_inference.infer_shapes(onnx.load(str(bundle.folder / "model.onnx")))
        shapes = {value.name: [d.dim_value for d in value.type.tensor_type.shape.dim]
                  for value in network.graph.value_info}
        averaged = [node.input[0] for node in network.graph.node if node.op_type == "GlobalAveragePool"]
        if not averaged or len(shapes.get(averaged[0], ())) != 4:
            raise InputError("expected a network that averages feature maps, as a ResNet does, got "
                             f"{bundle.folder} without. Take the bundle of notebook 03_retraining_tensorflow.")
        self.side = shapes[averaged[0]][2]
        # The stage before has maps of twice the detail, where single roofs are still apart. Of its maps the widest
        # are its last.
        finer = max(((shapes[node.output[0]][1], i, node.output[0]) for i, node in enumerate(network.graph.node)
                     if shapes.get(node.output[0], [0] * 4)[2:] == [2 * self.side] * 2), default=None)
        self.input_px = bundle.input_px
        self.outputs = [averaged[0]] + ([finer[2]] if finer else [])
        self.n_features = sum(shapes[name][1] for name in self.outputs) + 6
        self._input = network.graph.input[0].name
        cut = Extractor(network).extract_model([self._input], self.outputs)
        self._session = onnxruntime.InferenceSession(cut.SerializeToString(), providers=["CPUExecutionProvider"])

    def describe(self, tiles: np.ndarray, batch: int = 32) -> np.ndarray:
        """Features of the cells of uint8 RGB tiles: (N, side, side, n_features) float16, north-up.

        First the network's maps, then mean and standard deviation of R, G and B.
        """
        found = np.empty((len(tiles), self.side, self.side, self.n_features), dtype=np.float16)
        for i in range(0, len(tiles), batch):
            pixels = tiles[i:i + batch]
            maps = self._session.run(self.outputs, {self._input: pixels})
            pixels = pixels.transpose(0, 3, 1, 2).astype(np.float32)
            mean = _by_cell(pixels, self.side)
            # The squares of a cell's bytes add up exactly, or nearly, so that little is lost in the difference.
            variance = _by_cell(pixels ** 2, self.side).astype(np.float64) - mean.astype(np.float64) ** 2
            found[i:i + batch] = np.concatenate(
                [_by_cell(m, self.side) for m in maps] + [mean, np.sqrt(np.maximum(variance, 0))],
                axis=1).transpose(0, 2, 3, 1)
        return found


def _by_cell(maps, side):
    """Mean of each cell: (N, C, h, w) to (N, C, side, side). Sums of whole slices, which NumPy is quick at."""
    n, channels, height, width = maps.shape
    rows = maps.reshape(n, channels, side, height // side, width).sum(axis=3)
    return sum(rows[..., i::width // side] for i in range(width // side)) * (side * side / (height * width))


class Views:
    """The pictures of a county in two years, the earlier first, described cell by cell.

    ``tiles`` are those that both years show, with ``group`` and ``label`` of the first; ``facts`` are the manifests.
    """

    def __init__(self, cells: Cells, store: str, county: str, years: tuple[int, int]):
        self.cells, self.store, self.county, self.years = cells, store, county, tuple(years)
        self.facts = [tilestore.manifest(store, county, year, required=["crs"]) for year in years]
        first, second = (tilestore.read(store, county, year, columns=["tile_id", "row", "col", "group", "label"])
                         for year in years)
        self.tiles = first.merge(second[["tile_id"]], on="tile_id").sort_values(
            ["row", "col"], ascending=[False, True], ignore_index=True)
        if not len(self.tiles):
            raise InputError(f"expected tiles of county {county} in both {years[0]} and {years[1]}, got none that both "
                             "show. Prepare both years in notebook 02_data_preparation.")
        rows, counts = np.unique(self.tiles["row"], return_counts=True)
        tile_bytes = cells.side ** 2 * cells.n_features * 2
        n = max(1, min(len(rows), int(KEPT_BYTES / tile_bytes / counts.mean())))
        chosen = rows[np.linspace(0, len(rows) - 1, n).round().astype(int)]
        self.rows = rows[::-1]
        self._kept = {int(row): self._describe(row) for row in chosen}
        self.usual = [self._usual(year) for year in (0, 1)]

    def _usual(self, year):
        """Mean and standard deviation of each feature in a year, from the rows that are kept."""
        known = [kept[year].reshape(-1, self.cells.n_features).astype(np.float32) for kept in self._kept.values()]
        count = sum(map(len, known))
        mean = sum(row.sum(axis=0, dtype=np.float64) for row in known) / count
        variance = sum(((row - mean) ** 2).sum(axis=0) for row in known) / count
        # Where a feature never differs, its deviation of 0 would make noise of nothing.
        return mean.astype(np.float32), np.sqrt(variance).astype(np.float32) + 1e-3

    def _describe(self, row):
        """Features of a row of tiles in both years, as the network gives them."""
        wanted = self.tiles.loc[self.tiles["row"] == row, ["tile_id"]]
        both = (tilestore.read(self.store, self.county, year, columns=["tile_id", "image"], row=int(row))
                for year in self.years)
        return [self.cells.describe(decode_all(wanted.merge(tiles, on="tile_id"), self.cells.input_px))
                for tiles in both]

    def strips(self, kept_only: bool = False):
        """Go through the county, a row of tiles at a time; or only through those rows that are kept.

        Yields positions in ``tiles`` and the features before and after, each (n, side, side, n_features) float32:
        deviations from what is usual in the county and year.
        """
        for row in map(int, self.rows):
            if row in self._kept or not kept_only:
                raw = self._kept.get(row) or self._describe(row)
                yield (np.flatnonzero(self.tiles["row"] == row),
                       *((features - mean) / deviation for features, (mean, deviation) in zip(raw, self.usual)))


def training_views(cells: Cells, store: str) -> list[Views]:
    """``Views`` of the training counties of a store that have pictures and labels of two years.

    A county's years are its own, the first and the last that it has: they need not be those of the mapped county.
    """
    found = {}
    for facts in tilestore.partitions(store):
        if facts.get("split") == "train" and "labels" in facts:
            found.setdefault(facts["county"], set()).add(facts["year"])
    return [Views(cells, store, county, (min(years), max(years))) for county, years in sorted(found.items())
            if len(years) > 1]


def labelled_cells(href: str, tiles: pd.DataFrame, crs: str, side: int) -> np.ndarray:
    """The share of each cell that an NLCD raster calls developed: (N, side, side) float32, 0 to 1.

    In quarters: the NLCD pixels nearest to four points of each cell.
    """
    from scipy.spatial import cKDTree
    row, col = tiles["row"].to_numpy(), tiles["col"].to_numpy()
    along = (np.arange(2 * side) + 0.5) * TILE_M / (2 * side)
    share = np.empty((len(tiles), side, side), dtype=np.float32)
    # A block of the raster at a time: the tiles of a real county lie in blocks, far apart.
    for block in pd.DataFrame({"row": row // 16, "col": col // 16}).groupby(["row", "col"]).indices.values():
        bounds = (col[block].min() * TILE_M - 60, row[block].min() * TILE_M - 60, (col[block].max() + 1) * TILE_M + 60,
                  (row[block].max() + 1) * TILE_M + 60)
        codes, corners = read_labels(href, bounds, crs)
        nearest = cKDTree(corners.mean(axis=2).reshape(-1, 2))
        built = (group_of_code(codes.ravel()) == DEVELOPED).astype(np.float32)
        for i in block:
            x, y = np.meshgrid(col[i] * TILE_M + along, (row[i] + 1) * TILE_M - along)
            at = nearest.query(np.stack([x.ravel(), y.ravel()], axis=-1))[1]
            share[i] = built[at].reshape(side, 2, side, 2).mean(axis=(1, 3))
    return share


def pair_features(before: np.ndarray, after: np.ndarray) -> np.ndarray:
    """What the head of both years sees of a cell: how it looks in the second, and how far that is from the first."""
    return np.concatenate([after, after - before], axis=-1)


def fit_heads(views: list[Views], labels: list, seed: int) -> Heads:
    """Heads of some counties, from the labelled shares of their cells in both years.

    Developed or not, from one year's features; newly so or not, from both years'.
    """
    rng = np.random.default_rng(seed)
    single, pair = [], []
    for view, (was, built) in zip(views, labels):
        where, before, after = zip(*view.strips(kept_only=True))
        before, after = (np.concatenate(f).reshape(-1, view.cells.n_features) for f in (before, after))
        was, built = (share[np.concatenate(where)].ravel() for share in (was, built))
        # Cells that a pixel of 30 m cuts in two teach little.
        for features, share in ((before, was), (after, built)):
            chosen = rng.permutation(np.flatnonzero((share < 0.1) | (share > 0.9)))[:TRAINING_CELLS]
            single.append((features[chosen], share[chosen] > 0.5))
        new, old = (was < 0.1) & (built > 0.9), built - was <= 0.3
        keep = new | (old & (rng.random(len(old)) < TRAINING_CELLS / max(1, old.sum())))
        pair.append((pair_features(before[keep], after[keep]), new[keep]))
    return Heads(_fit_head(single, 0.01), _fit_head(pair, 0.003))


def _fit_head(examples, strength):
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler
    features, truth = (np.concatenate(of_counties) for of_counties in zip(*examples))
    if truth.all() or not truth.any():
        raise InputError("expected training counties with land that was newly developed, and land that was not, got "
                         "only one of the two. Prepare more training counties, or years further apart.")
    return make_pipeline(StandardScaler(), LogisticRegression(C=strength, max_iter=300)).fit(features, truth)


def judge(views: Views, heads: list[Heads]) -> Judgement:
    """What heads say of each cell of a county, on average, and how far the two pictures of each tile differ.

    Three (N, side, side) arrays, 0 to 1, and (N,), 1 for what is usual in the county.
    """
    side, n = views.cells.side, views.cells.n_features
    found = Judgement(*(np.zeros((len(views.tiles), side, side), dtype=np.float32) for _ in range(3)),
                      np.empty(len(views.tiles)))
    for where, before, after in views.strips():
        found.distance[where] = np.linalg.norm(before.mean(axis=(1, 2)) - after.mean(axis=(1, 2)), axis=1)
        before, after = before.reshape(-1, n), after.reshape(-1, n)
        for single, pair in heads:
            for array, head, features in ((found.before, single, before), (found.after, single, after),
                                          (found.new, pair, pair_features(before, after))):
                array[where] += head.predict_proba(features)[:, 1].reshape(len(where), side, side) / len(heads)
    return found._replace(distance=found.distance / max(np.median(found.distance), 1e-6))

"""Cells, 16 m squares of a tile, in the pictures of two years: their features, their labels, and the heads' judgement.

Light, season and drought change all pictures of a county and year. So features are measured against their average in
that county and year. Of two small heads, one judges from a year's features whether a cell is developed. The other
judges from both years' features whether it is newly developed.
"""

import os
from collections import namedtuple
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pandas as pd

from helpers import InputError
from helpers.land.classes import DEVELOPED, group_of_code
from helpers.land.grid import TILE_M, tile_bounds
from helpers.land.labels import read_labels
from helpers.model.bundle import Bundle
from helpers.model.engines import onnx_session
from helpers.model.evaluation import logistic_regression
from helpers.tiles import store as tilestore
from helpers.tiles.pictures import decode_all

# Features of a county and year that stay in memory. They tell the average, and they train heads. All other features are
# computed again when they are needed.
KEPT_BYTES = 300e6
# Cells of a county that train a head.
TRAINING_CELLS = 40_000
# Of each cell, (N, side, side): developed before, developed after, newly developed, 0 to 1. Of each tile: distance.
Judgement = namedtuple("Judgement", "before after new distance")
Heads = namedtuple("Heads", "single pair")


class Cells:
    """Describes cells by the maps of the retrained network. ``side`` is the number of cells along an edge of a tile."""

    def __init__(self, bundle: Bundle):
        import onnx
        from onnx.utils import Extractor
        network = onnx.shape_inference.infer_shapes(onnx.load(str(bundle.folder / "model.onnx")))
        shapes = {value.name: [d.dim_value for d in value.type.tensor_type.shape.dim]
                  for value in network.graph.value_info}
        averaged = [node.input[0] for node in network.graph.node if node.op_type == "GlobalAveragePool"]
        if not averaged or len(shapes.get(averaged[0], ())) != 4:
            raise InputError("expected a network that averages feature maps, as a ResNet does, got another in "
                             f"{bundle.folder}. Take the bundle of notebook 03_retraining_tensorflow.")
        self.side = shapes[averaged[0]][2]
        # The maps of the stage before have twice the detail, and show single roofs. Its widest maps are its last.
        finer = [node.output[0] for node in network.graph.node
                 if shapes.get(node.output[0], [])[2:] == [2 * self.side] * 2]
        self.input_px = bundle.input_px
        self.outputs = averaged[:1] + sorted(finer, key=lambda name: shapes[name][1])[-1:]
        self.n_features = sum(shapes[name][1] for name in self.outputs) + 6
        cut = Extractor(network).extract_model(["tiles"], self.outputs)
        # A session's threads include the one that calls it. Two years are described at once: one call more.
        self._session = onnx_session(cut.SerializeToString(), max(1, (os.cpu_count() or 2) - 1))

    def describe(self, tiles: np.ndarray, batch: int = 32) -> np.ndarray:
        """Features of uint8 RGB tiles, (N, side, side, n_features) float16: maps, mean and deviation of R, G and B."""
        found = np.empty((len(tiles), self.side, self.side, self.n_features), dtype=np.float16)
        for i in range(0, len(tiles), batch):
            pixels = tiles[i:i + batch]
            maps = self._session.run(self.outputs, {"tiles": pixels})
            pixels = pixels.transpose(0, 3, 1, 2).astype(np.float32)
            # The sums of a cell's squares are exact, or nearly, so their difference loses little.
            *means, squares = (_by_cell(one, self.side) for one in [*maps, pixels, pixels ** 2])
            deviation = np.sqrt(np.maximum(squares.astype(np.float64) - means[-1].astype(np.float64) ** 2, 0))
            means.append(deviation.astype(np.float32))
            found[i:i + batch] = np.concatenate(means, axis=1).transpose(0, 2, 3, 1)
        return found


def _by_cell(maps, side):
    """Mean of each cell, (N, C, h, w) to (N, C, side, side). It adds whole slices, because NumPy does so quickly."""
    n, channels, height, width = maps.shape
    rows = maps.reshape(n, channels, side, height // side, width).sum(axis=3)
    return sum(rows[..., i::width // side] for i in range(width // side)) * (side * side / (height * width))


class Views:
    """The cells of a county in two years, the earlier first.

    ``tiles`` are in both years; their ``group`` and ``label`` are the first year's. ``facts`` are the two manifests.
    """

    def __init__(self, cells: Cells, store: str, county: str, years: tuple[int, int]):
        self.cells, self.store, self.county, self.years = cells, store, county, tuple(years)
        self.facts = [tilestore.manifest(store, county, year, required=["crs"]) for year in years]
        first, second = (tilestore.read(store, county, year, columns=["tile_id", "row", "col", "group", "label"])
                         for year in years)
        self.tiles = first.merge(second[["tile_id"]], on="tile_id").sort_values(
            ["row", "col"], ascending=[False, True], ignore_index=True)
        if not len(self.tiles):
            raise InputError(f"expected tiles of county {county} in both {years[0]} and {years[1]}, got none in both. "
                             "Prepare both years in notebook 02_data_preparation.")
        rows, counts = np.unique(self.tiles["row"], return_counts=True)
        tile_bytes = cells.side ** 2 * cells.n_features * 2
        n = max(1, min(len(rows), int(KEPT_BYTES / tile_bytes / counts.mean())))
        chosen = rows[np.linspace(0, len(rows) - 1, n).round().astype(int)]
        self.rows = rows[::-1]
        self._kept = {int(row): self._describe(row) for row in chosen}
        self.usual = [self._usual(year) for year in (0, 1)]

    def _usual(self, year):
        """Mean and standard deviation of each feature in a year, from the rows that stay in memory."""
        known = [kept[year].reshape(-1, self.cells.n_features).astype(np.float32) for kept in self._kept.values()]
        count = sum(map(len, known))
        mean = (sum(row.sum(axis=0, dtype=np.float64) for row in known) / count).astype(np.float32)
        variance = sum(((row - mean) ** 2).sum(axis=0, dtype=np.float64) for row in known) / count
        # A deviation of 0, of a feature that never differs, would turn rounding into large values.
        return mean, np.sqrt(variance).astype(np.float32) + 1e-3

    def _describe(self, row):
        """Features of a row of tiles in both years, from ``Cells.describe``."""
        wanted = self.tiles.loc[self.tiles["row"] == row, ["tile_id"]]

        def of_year(year):
            tiles = tilestore.read(self.store, self.county, year, columns=["tile_id", "image"], row=int(row))
            return self.cells.describe(decode_all(wanted.merge(tiles, on="tile_id"), self.cells.input_px))
        with ThreadPoolExecutor(2) as threads:
            return list(threads.map(of_year, self.years))

    def strips(self, kept_only: bool = False):
        """Yield rows of tiles: positions in ``tiles``, and each year's features as deviations from the average."""
        for row in map(int, self.rows):
            if row in self._kept or not kept_only:
                raw = self._kept.get(row) or self._describe(row)
                yield (np.flatnonzero(self.tiles["row"] == row),
                       *((features - mean) / deviation for features, (mean, deviation) in zip(raw, self.usual)))


def training_views(cells: Cells, store: str) -> list[Views]:
    """``Views`` of a store's training counties, each in the first and the last year that it has pictures and labels of.

    These years may differ from the mapped county's.
    """
    found = {}
    for facts in tilestore.partitions(store):
        if facts.get("split") == "train" and "labels" in facts:
            found.setdefault(facts["county"], set()).add(facts["year"])
    return [Views(cells, store, county, (min(years), max(years))) for county, years in sorted(found.items())
            if len(years) > 1]


def labelled_cells(href: str, tiles: pd.DataFrame, crs: str, side: int) -> np.ndarray:
    """The share of each cell that an NLCD raster calls developed, by four points: (N, side, side) float32, 0 to 1."""
    from scipy.spatial import cKDTree
    row, col = tiles["row"].to_numpy(), tiles["col"].to_numpy()
    along = (np.arange(2 * side) + 0.5) * TILE_M / (2 * side)
    share = np.empty((len(tiles), side, side), dtype=np.float32)
    # One block of the raster after another, because the training tiles of a real county lie in blocks, far apart.
    for block in tiles.groupby([row // 16, col // 16]).indices.values():
        left, bottom, right, top = tile_bounds(row[block], col[block])
        bounds = left.min() - 60, bottom.min() - 60, right.max() + 60, top.max() + 60
        codes, corners = read_labels(href, bounds, crs)
        built = (group_of_code(codes.ravel()) == DEVELOPED).astype(np.float32)
        points = np.broadcast_arrays(left[:, None, None] + along, top[:, None, None] - along[:, None])
        nearest = cKDTree(corners.mean(axis=2).reshape(-1, 2)).query(np.stack(points, axis=-1))[1]
        share[block] = built[nearest].reshape(-1, side, 2, side, 2).mean(axis=(2, 4))
    return share


def pair_features(before: np.ndarray, after: np.ndarray) -> np.ndarray:
    """Features for the head of both years: those of the second year, and their difference from the first."""
    return np.concatenate([after, after - before], axis=-1)


def fit_heads(counties: list, seed: int) -> Heads:
    """Fit the two heads on counties: the ``Views`` of each, and the labelled shares of its cells in both years."""
    rng = np.random.default_rng(seed)
    single, pair = [], []
    for view, (was, built) in counties:
        where, before, after = zip(*view.strips(kept_only=True))
        before, after = (np.concatenate(f).reshape(-1, view.cells.n_features) for f in (before, after))
        was, built = (share[np.concatenate(where)].ravel() for share in (was, built))
        # Cells on the edge of a pixel of 30 m teach little.
        for features, share in ((before, was), (after, built)):
            chosen = rng.permutation(np.flatnonzero((share < 0.1) | (share > 0.9)))[:TRAINING_CELLS]
            single.append((features[chosen], share[chosen] > 0.5))
        new, old = (was < 0.1) & (built > 0.9), built - was <= 0.3
        keep = new | (old & (rng.random(len(old)) < TRAINING_CELLS / max(1, old.sum())))
        pair.append((pair_features(before[keep], after[keep]), new[keep]))
    return Heads(_fit_head(single, 0.01), _fit_head(pair, 0.003))


def _fit_head(examples, strength):
    features, truth = (np.concatenate(of_counties) for of_counties in zip(*examples))
    if truth.all() or not truth.any():
        raise InputError("expected training counties with land that was newly developed, and land that was not, got "
                         "only one of the two. Prepare more training counties, or years further apart.")
    return logistic_regression(strength, max_iter=300).fit(features, truth)


def judge(views: Views, heads: list[Heads]) -> Judgement:
    """The mean judgement of each cell by heads, and the distance between each tile's pictures, whose median is 1."""
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

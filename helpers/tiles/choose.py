"""Choosing the counties, years and blocks of tiles that a run prepares."""

import functools

import numpy as np
import pandas as pd

from helpers import InputError
from helpers.land import grid
from helpers.land.classes import CLASS_NAMES
from helpers.land.labels import label
from helpers.tiles.store import PURE

# Tiles along a side of a block. A training county gives whole blocks, because neighbours share a scene's blocks.
BLOCK = 8


def jobs_of(sources: dict, county: str, years: list, train_counties: list, train_years: list, validation_county: str,
            validation_years: list) -> list:
    """The jobs of a run, ``(county, year, split)``, each once; ``sources`` has a catalogue for each split.

    If nobody flew a county to train or validate on in a year, the job takes the nearest year with scenes.
    """
    taught = [("train", c, year) for c in train_counties for year in train_years]
    taught += [("validation", validation_county, year) for year in validation_years]
    jobs = [(c, sources[split].nearest_year(c, year), split) for split, c, year in taught]
    jobs = list(dict.fromkeys(jobs + [(county, year, "map") for year in years]))
    check_split(jobs)
    return jobs


def check_split(jobs: list):
    """Refuse a county with two purposes: a model must not train on the county that it maps or is validated on."""
    splits = {}
    for county, _, split in jobs:
        if splits.setdefault(county, split) != split:
            raise InputError("expected different counties to train on, to validate on and to map, got "
                             f"{county} for {splits[county]} and {split}. Choose another county for one of them.")


def first_years(jobs: list) -> dict:
    """The earliest year of each county. The labels of this year decide which blocks all its years take."""
    return {county: min(year for other, year, _ in jobs if other == county) for county, _, _ in jobs}


def check_classes(sources: dict, jobs: list, per_class: int = None, seed: int = 0,
                  retrain: bool = True) -> pd.DataFrame:
    """Count pure tiles of each class in one year, from the labels alone: a row for each county to train or validate on.

    To ``retrain``, both the training and the validation counties must have tiles of every class.
    """
    first, rows = first_years(jobs), []
    for county, split in dict.fromkeys((county, split) for county, _, split in jobs if split != "map"):
        labels = sources[split].labels(county, first[county])
        rows.append([split, county, *drawn_blocks(labels, sources[split].county(county), per_class, seed)[1]])
    table = pd.DataFrame(rows, columns=["split", "county", *CLASS_NAMES])
    for split, part in table.groupby("split") if retrain else ():
        sums = part[list(CLASS_NAMES)].sum()
        if (sums == 0).any():
            raise InputError(f"expected pure tiles of every class in the {split} counties "
                             f"({', '.join(part['county'])}), got none of {', '.join(sums.index[sums == 0])}. "
                             "Choose others, or add one.")
    return table


@functools.lru_cache(maxsize=64)
def drawn_blocks(labels, county, per_class: int, seed: int) -> tuple:
    """Blocks of a county (None: all of it), and the count of pure tiles of each class in them."""
    tiles, crs = grid.county_tiles(county.boundary)
    labelled = label(tiles, labels, crs)
    blocks = None
    if per_class:
        blocks = draw_blocks(labelled, per_class, seed)
        labelled = in_blocks(labelled, blocks)
    return blocks, tuple(np.bincount(labelled["label"][_pure(labelled)].astype(int), minlength=len(CLASS_NAMES)))


def draw_blocks(labelled: pd.DataFrame, per_class: int, seed: int) -> list:
    """Choose blocks of a county to train or validate on: ``(row, col)`` in multiples of ``BLOCK`` tiles of the grid.

    Every second block is random, so that mixed tiles and common covers are seen too. The others have most pure tiles of
    the class that is furthest from ``per_class``; a rarer class gives all its tiles. The blocks together hold at most
    twice as many tiles as ``per_class`` makes for all classes.
    """
    rows, cols = labelled["row"] // BLOCK, labelled["col"] // BLOCK
    names = sorted(set(zip(rows, cols)))
    order = np.random.default_rng(seed).permutation(len(names))
    n_classes, pure = len(CLASS_NAMES), _pure(labelled)
    counts = pd.crosstab([rows[pure], cols[pure]], labelled["label"][pure].astype(int)).reindex(
        index=pd.MultiIndex.from_tuples(names), columns=range(n_classes), fill_value=0).to_numpy()[order]
    wanted, chosen = np.minimum(per_class, counts.sum(axis=0)), []
    most = min(len(names), max(2 * n_classes, -(-2 * per_class * n_classes // BLOCK ** 2)))
    free = np.ones(len(names), dtype=bool)
    while len(chosen) < most and (counts[chosen].sum(axis=0) < wanted).any():
        if len(chosen) % 2 == 0:
            block = int(np.flatnonzero(free)[0])
        else:
            short = int(np.argmax(wanted - counts[chosen].sum(axis=0)))
            block = int(np.argmax(np.where(free, counts[:, short], -1)))
        chosen.append(block)
        free[block] = False
    return sorted(tuple(map(int, names[order[block]])) for block in chosen)


def in_blocks(tiles: pd.DataFrame, blocks: list) -> pd.DataFrame:
    """The tiles that lie in some blocks."""
    own = pd.MultiIndex.from_arrays([tiles["row"] // BLOCK, tiles["col"] // BLOCK])
    return tiles[own.isin(list(blocks))].reset_index(drop=True)


def _pure(labelled):
    return (labelled["label"].notna() & (labelled["purity"] >= PURE)).to_numpy()

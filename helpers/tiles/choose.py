"""choose."""

import functools

import numpy as np
import pandas as pd

from helpers import InputError
from helpers.land import classes as landcover, grid
from helpers.tiles import store as tilestore
from helpers.land.labels import label

# Training counties are cut in blocks of this many tiles in square: neighbours share a scene's blocks.
BLOCK = 8


def check_split(jobs):
    """Refuse to prepare a county for two purposes: what is mapped or validated on must not be trained on.

    Parameters
    ----------
    jobs : list of tuple
        ``(county, year, split)``.

    Raises
    ------
    InputError
    """
    splits = {}
    for county, _, split in jobs:
        if splits.setdefault(county, split) != split:
            raise InputError(f"expected counties to train on, to validate on and to map that differ, got {county} as "
                             f"{splits[county]} and as {split}. Choose another one.")


def draw_blocks(labelled, per_class, seed):
    """Choose blocks of a county to train or validate on, before any picture is read.

    Every second block is drawn at random, so that the county is seen as it is, mixed tiles and common covers as well.
    The others are those with most pure tiles of the class that is furthest from its number.

    Parameters
    ----------
    labelled : pandas.DataFrame
        All tiles of the county, of ``label``.
    per_class : int
        Pure tiles of each class to reach; of a rarer one all, while no more than twice as many tiles as that makes for
        all classes together come along.
    seed : int
        Of the draw, and of ties.

    Returns
    -------
    list of tuple of int
        ``(row, col)`` of blocks, in multiples of ``BLOCK`` tiles of the grid: the same place in every year.
    """
    rows, cols = labelled["row"] // BLOCK, labelled["col"] // BLOCK
    names = sorted(set(zip(rows, cols)))
    index = pd.MultiIndex.from_tuples(names)
    order = np.random.default_rng(seed).permutation(len(names))
    n_classes = len(landcover.CLASSES)
    pure = _pure(labelled)
    counts = np.zeros((len(names), n_classes), dtype=int)
    np.add.at(counts, (index.get_indexer(pd.MultiIndex.from_arrays([rows[pure], cols[pure]])),
                       labelled["label"][pure].astype(int)), 1)
    counts = counts[order]
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


def in_blocks(tiles, blocks):
    """The tiles of blocks.

    Parameters
    ----------
    tiles : pandas.DataFrame
        ``row`` and ``col``.
    blocks : list of tuple of int
        From ``draw_blocks``.

    Returns
    -------
    pandas.DataFrame
        In the same order.
    """
    own = pd.MultiIndex.from_arrays([tiles["row"] // BLOCK, tiles["col"] // BLOCK])
    return tiles[own.isin(list(blocks))].reset_index(drop=True)


def _pure(labelled):
    return (labelled["label"].notna() & (labelled["purity"] >= tilestore.PURE)).to_numpy()


@functools.lru_cache(maxsize=64)
def _drawn(labels, place, per_class, seed):
    """Blocks of a county, None for all of it, and its pure tiles of each class in them; kept, for it takes seconds."""
    tiles, crs = grid.county_tiles(place.boundary)
    labelled = label(tiles, labels, crs)
    blocks = draw_blocks(labelled, per_class, seed) if per_class else None
    if per_class:
        labelled = in_blocks(labelled, blocks)
    return blocks, tuple(np.bincount(labelled["label"][_pure(labelled)].astype(int), minlength=len(landcover.CLASSES)))


def jobs_of(sources, county, years, train_counties, train_years, validation_county, validation_years):
    """What a run prepares.

    Parameters
    ----------
    sources : dict of str to catalogue
        For each split, where it comes from.
    county : str
        To map.
    years : list of int
        Of its imagery.
    train_counties, train_years, validation_county, validation_years
        Where a county wasn't flown in a year, the nearest year in which it was takes its place.

    Returns
    -------
    list of tuple
        ``(county, year, split)``, each once.
    """
    jobs = [(c, sources["train"].nearest_year(c, year), "train") for c in train_counties for year in train_years]
    jobs += [(validation_county, sources["validation"].nearest_year(validation_county, year), "validation")
             for year in validation_years]
    jobs = list(dict.fromkeys(jobs + [(county, year, "map") for year in years]))
    check_split(jobs)
    return jobs


def first_years(jobs):
    """The earliest year of each county: that year's labels draw its blocks, the same for all its years."""
    return {county: min(year for other, year, _ in jobs if other == county) for county, _, _ in jobs}


def check_classes(sources, jobs, per_class=None, seed=0):
    """Refuse to begin where a model couldn't be trained or examined, from the labels alone.

    Parameters
    ----------
    sources, jobs, per_class, seed
        As in ``plan``.

    Returns
    -------
    pandas.DataFrame
        Pure tiles of each class, a row for each county to train or validate on; those of one year.

    Raises
    ------
    InputError
        If a class has no pure tile in all training counties together, or in the validation county.
    """
    first, rows = first_years(jobs), []
    for county, split in dict.fromkeys((county, split) for county, _, split in jobs if split != "map"):
        place, labels = sources[split].county(county), sources[split].labels(county, first[county])
        _, counts = _drawn(labels, place, per_class, seed)
        rows.append([split, county, *counts])
    table = pd.DataFrame(rows, columns=["split", "county", *landcover.CLASS_NAMES])
    for split, part in table.groupby("split"):
        sums = part[list(landcover.CLASS_NAMES)].sum()
        if (sums == 0).any():
            raise InputError(f"expected pure tiles of every class in the {split} counties "
                             f"({', '.join(part['county'])}), got none of {', '.join(sums.index[sums == 0])}. "
                             "Choose others, or add one.")
    return table

"""From scenes and labels to a tile store, on every core of a cluster.

A unit of work is a run of tiles of one scene, and makes one file of the store (``cluster.work``).
"""

import functools
import os
import time
from collections import Counter, namedtuple

import numpy as np
import pyarrow as pa

from helpers import InputError
from helpers.cluster import work
from helpers.cluster.progress import progress
from helpers.files import free_bytes
from helpers.land import downloads, grid
from helpers.land.labels import label
from helpers.land.rasters import split_crs
from helpers.land.scenes import cut_tiles, open_scenes, scene_order, with_tries
from helpers.land.sources import LEAF_OFF, leaf_off as leaf_off_scenes
from helpers.runs import check_seed
from helpers.tiles import store
from helpers.tiles.choose import drawn_blocks, in_blocks
from helpers.tiles.pictures import CODEC, encode
from helpers.uri import shown

# Changes whenever the same scenes and labels give other tiles: what is there is then cut again.
VERSION = [1, CODEC]
# Most tiles of a unit from a server, half of what a NAIP scene has: two units of a scene share a row of its blocks,
# which then travels twice. Its file has as many row groups as scoring needs units.
REMOTE_TILES = 512
# Tiles that a worker holds as pixels at a time: 40 MB.
BATCH_TILES = 256
# What makes the tiles of a county and year; ``facts`` are those that its manifest keeps.
Sources = namedtuple("Sources", "county tiles crs scenes labels bare wanted facts")


def cut(batches, scenes: list, crs: str, seconds: Counter = None):
    """Cut and encode tiles, in plain Python: try it on ten tiles first.

    Parameters
    ----------
    batches : iterable of pandas.DataFrame
        Labelled tiles.
    seconds : collections.Counter, optional
        Gets the time spent to ``read`` and to ``encode``.

    Yields
    ------
    pandas.DataFrame
        Columns of ``store.SCHEMA``; tiles that no scene shows whole are left out.
    """
    acquired, seconds = {scene.scene_id: scene.acquired for scene in scenes}, Counter() if seconds is None else seconds
    with open_scenes(crs) as get:
        for batch in batches:
            started = time.perf_counter()
            images, scene_ids = cut_tiles(batch, scenes, crs, get)
            read = time.perf_counter()
            batch = batch.assign(image=[None if image is None else encode(image) for image in images],
                                 scene_id=scene_ids)
            seconds.update(read=read - started, encode=time.perf_counter() - read)
            batch = batch[batch["image"].notna()]
            yield batch.assign(acquired=batch["scene_id"].map(acquired))[store.SCHEMA.names]


def cut_unit(unit: dict, crs: str, split: str, signing: str = None):
    """The tiles of a unit, as ``work.run`` wants them: what an executor runs."""
    if signing is not None:  # Workers of a cluster don't have the driver's settings.
        os.environ["TUTORIAL_SIGNING"] = signing
    tiles, seconds = unit["tiles"], Counter()
    tiles = tiles.assign(tile_id=grid.tile_id(crs, tiles["row"], tiles["col"]), split=split)
    batches = (tiles.iloc[start:start + BATCH_TILES] for start in range(0, len(tiles), BATCH_TILES))
    table = pa.Table.from_batches([pa.RecordBatch.from_pandas(batch, store.SCHEMA, preserve_index=False)
                                   for batch in cut(batches, unit["scenes"], crs, seconds)], store.SCHEMA)
    return table, store.facts_of(table, unit["group_rows"]), seconds


def sources_of(catalog, county, year, split, leaf_off, per_class, seed, first_year) -> Sources:
    """What the tiles of a county and year are to be made from."""
    if leaf_off not in ("keep", "exclude"):
        raise InputError(f"expected leaf_off='keep' or 'exclude', got {leaf_off!r}. Choose one of them.")
    check_seed(seed)
    county = catalog.county(county)
    tiles, crs = grid.county_tiles(county.boundary)
    scenes, labels = catalog.scenes(county.fips, year), catalog.labels(county.fips, year)
    bare, wanted, drawn = leaf_off_scenes(scenes, county.boundary), len(tiles), None
    # A month says nothing of leaves in Florida, and a model may well have seen some bare trees.
    if leaf_off == "exclude" and split == "map":
        scenes = [scene for scene in scenes if scene.scene_id not in bare]
        if not scenes:
            raise InputError(f"expected scenes of county {county.fips} from {year} with leaves on, got none: all are "
                             f"from the months {', '.join(map(str, LEAF_OFF))}. Choose another year, or "
                             "leaf_off='keep'.")
    if per_class and split != "map":
        reference = catalog.labels(county.fips, first_year) if first_year else labels
        blocks, _ = drawn_blocks(reference, county, per_class, seed)
        tiles, drawn = in_blocks(tiles, blocks), [per_class, seed, reference.href]
    return Sources(county, tiles, crs, scenes, labels, bare, wanted, {
        "name": county.name, "crs": crs, "split": split, "wanted": wanted,
        "scenes": sorted(shown(scene.href) for scene in scenes),
        "labels": labels.href, "label_year": labels.year, "boundary": county.boundary.wkt, "drawn": drawn,
        "sources": work.name("", VERSION, _state(labels.href), list(map(_reads, scenes)))})


def _reads(scene):
    """What tells a scene from another, or from what it was: JSON values."""
    return [scene.scene_id, scene.href, scene.acquired, scene.footprint.wkt, _state(scene.href)]


def _state(href):
    """Size and time of change of a file of this machine; None of one on a server, or of one that is gone."""
    path = href if downloads.is_remote(href) else split_crs(href)[0]
    if downloads.is_remote(href) or not os.path.exists(path):
        return None
    found = os.stat(path)
    return [found.st_size, found.st_mtime_ns]


def prepare(spark, catalog, county: str, year: int, split: str, uri: str, leaf_off: str = "keep",
            per_class: int = None, seed: int = 0, first_year: int = None) -> dict:
    """Write a county's tiles of one year to a tile store, on every core. What was done before it was stopped is kept.

    Parameters
    ----------
    catalog : helpers.land.catalog.Catalog
    split : str
        ``"train"``, ``"validation"`` or ``"map"``.
    uri : str
        The store.
    leaf_off : str
        ``"keep"`` or ``"exclude"`` scenes of the months ``sources.LEAF_OFF``, if the county is mapped.
    per_class, seed, first_year : int, optional
        Of a county that is not mapped, only blocks with so many pure tiles of each class: ``draw_blocks`` draws them
        from the labels of ``first_year``.

    Returns
    -------
    dict
        The manifest: ``tiles`` written, ``wanted`` by the county, of which ``not_drawn``, ``no_scene`` and ``no_label``
        were dropped, ``leaf_off`` scenes with their share of the county, and ``reused`` if nothing had to be done.
    """
    found = sources_of(catalog, county, year, split, leaf_off, per_class, seed, first_year)
    county, folder = found.county.fips, store.partition_folder(uri, found.county.fips, year)
    finished = store.manifest(uri, county, year) or {}
    there = work.names(folder)
    if found.facts.items() <= finished.items() and {name + ".parquet" for name in there} >= set(finished["files"]):
        return dict(finished, reused=True)

    labelled = label(found.tiles, found.labels, found.crs)
    _check_scenes(found.scenes, found.crs)
    units = units_of(labelled, found.scenes, found.crs, split)
    _check_disk(uri, sum(len(unit["tiles"]) for name, unit in units.items() if name not in there))
    store.remove_manifest(uri, county, year)
    cutting = functools.partial(cut_unit, crs=found.crs, split=split, signing=os.environ.get("TUTORIAL_SIGNING"))
    with progress(f"{split} {county} {year}", sum(len(unit["tiles"]) for unit in units.values())) as show:
        done = work.run(spark, units, cutting, folder,
                        lambda names: show(sum(len(units[name]["tiles"]) for name in names)))
    for error in done.failed.values():
        raise error
    written = work.facts(folder, units, "Delete it and run the same command.")
    tiles = sum(facts["rows"] for facts in written.values())
    if not tiles:
        raise InputError(f"expected scenes from {year} that show county {county} ({found.county.name}), got none that "
                         "shows a whole tile of it. Choose a county inside the scenes, or add scenes that cover it.")
    store.write_manifest(uri, county, year, tiles=tiles, files=sorted(name + ".parquet" for name in units),
                         no_label=len(found.tiles) - len(labelled), no_scene=len(labelled) - tiles,
                         not_drawn=found.wanted - len(found.tiles), leaf_off=found.bare,
                         label_source=found.labels.source or found.labels.href, **found.facts)
    work.keep_only(folder, units)
    return dict(store.manifest(uri, county, year), reused=False)


def units_of(labelled, scenes: list, crs: str, split: str) -> dict:
    """Labelled tiles as units of work: neighbours of one scene, which share its blocks.

    A unit travels to the workers, so it holds numbers only, and those scenes that touch its tiles.
    """
    scenes = sorted(scenes, key=lambda scene: scene.scene_id)
    order = scene_order(labelled, np.array([grid.project(scene.footprint, crs) for scene in scenes]))
    by_scene = np.lexsort((labelled["col"], -labelled["row"], order[0]))
    by_scene = by_scene[order[0][by_scene] >= 0]
    order = order[:, by_scene]
    tiles = labelled[["row", "col", "label", "group", "purity", "class_2017"]].iloc[by_scene].astype(
        {"row": "int32", "col": "int32"})
    group_rows, units = store.unit_tiles(len(tiles)), {}
    is_remote = any(downloads.is_remote(scene.href) for scene in scenes)
    for first, last in _runs(order[0], REMOTE_TILES if is_remote else group_rows):
        own = [scenes[i] for i in np.unique(order[:, first:last]) if i >= 0]
        run = tiles.iloc[first:last].reset_index(drop=True)
        name = work.name("", VERSION, crs, split, group_rows, list(map(_reads, own)), run.to_json(orient="values"))
        units[name] = {"tiles": run, "scenes": own, "group_rows": group_rows}
    return units


def _runs(nearest, most):
    """Runs of tiles, at most so many and each of one scene: ``(first, last + 1)``."""
    edges = np.flatnonzero(np.diff(nearest, prepend=-1))
    for first, last in zip(edges, [*edges[1:], len(nearest)]):
        cuts = np.linspace(first, last, -(-(last - first) // most) + 1).astype(int).tolist()
        yield from zip(cuts[:-1], cuts[1:])


def _check_scenes(scenes, crs):
    """Find a scene that can't be used before the job does. One speaks for all of a server: to open hundreds takes
    minutes.
    """
    remote, local = ([scene for scene in scenes if downloads.is_remote(scene.href) == is_remote]
                     for is_remote in (True, False))
    for scene in remote[:1] + local:
        with open_scenes(crs) as get:
            with_tries(get, scene, lambda dataset: None)


def _check_disk(uri, tiles):
    """Refuse to begin if the local disk plainly can't hold the tiles."""
    if "://" in str(uri):
        return
    # An encoded tile is at most its pixels; aerial pictures come to half of them.
    needed, free = tiles * grid.TILE_PX ** 2 * 3, free_bytes(uri)
    if free < needed:
        raise InputError(f"expected {needed / 1e6:,.0f} MB of free disk for {tiles} tiles at {uri}, got "
                         f"{free / 1e6:,.0f} MB. Free some space, or write elsewhere.")

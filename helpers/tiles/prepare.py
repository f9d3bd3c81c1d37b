"""From scenes and labels to a tile store, on every core of a cluster.

A unit of work is a run of tiles of one scene. It writes one file of the store (``cluster.work``).
"""

import contextlib
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
from helpers.land.scenes import cut_tiles, open_scenes, scene_order
from helpers.land.sources import LEAF_OFF, leaf_off as leaf_off_scenes
from helpers.runs import check_seed
from helpers.tiles import store
from helpers.tiles.choose import drawn_blocks, in_blocks
from helpers.tiles.pictures import CODEC, encode
from helpers.uri import absolute, shown

# A new version makes every job cut its tiles again: raise it when the same scenes and labels give other tiles.
VERSION = [1, CODEC]
# Most tiles of a unit whose scene is on a server, half of a NAIP scene. Two units of a scene share a row of its blocks,
# which then travels twice.
REMOTE_TILES = 512
# Tiles that a worker holds as pixels at a time: 40 MB.
BATCH_TILES = 256
# The sources of a county's tiles in one year. The manifest keeps ``facts``.
Sources = namedtuple("Sources", "county tiles crs scenes labels facts")


def cut(batches, scenes: list, crs: str, seconds: Counter = None):
    """Cut and encode frames of labelled tiles, in plain Python: try it on ten tiles first.

    It yields frames with the columns of ``store.SCHEMA``, without the tiles that no scene shows whole. ``seconds`` gets
    the time that it takes to ``read`` and to ``encode``.
    """
    acquired, seconds = {scene.scene_id: scene.acquired for scene in scenes}, Counter() if seconds is None else seconds
    with open_scenes(crs) as read:
        for batch in batches:
            started = time.perf_counter()
            images, scene_ids = cut_tiles(batch, scenes, crs, read)
            was_read = time.perf_counter()
            batch = batch.assign(image=[None if image is None else encode(image) for image in images],
                                 scene_id=scene_ids)
            seconds.update(read=was_read - started, encode=time.perf_counter() - was_read)
            batch = batch[batch["image"].notna()]
            yield batch.assign(acquired=batch["scene_id"].map(acquired))[store.SCHEMA.names]


def cut_unit(unit: dict, crs: str, split: str, signing: str = None):
    """Cut the tiles of a unit on an executor; ``work.run`` writes them."""
    if signing is not None:  # A cluster's workers don't have the driver's environment.
        os.environ["TUTORIAL_SIGNING"] = signing
    tiles, seconds = unit["tiles"], Counter()
    tiles = tiles.assign(tile_id=grid.tile_id(crs, tiles["row"], tiles["col"]), split=split)
    batches = (tiles.iloc[start:start + BATCH_TILES] for start in range(0, len(tiles), BATCH_TILES))
    table = pa.Table.from_batches([pa.RecordBatch.from_pandas(batch, store.SCHEMA, preserve_index=False)
                                   for batch in cut(batches, unit["scenes"], crs, seconds)], store.SCHEMA)
    return table, store.facts_of(table, unit["group_rows"]), seconds


def sources_of(catalog, county, year, split, leaf_off, per_class, seed, first_year) -> Sources:
    """The scenes, labels and tiles of a county and year that a job prepares."""
    if leaf_off not in ("keep", "exclude"):
        raise InputError(f"expected leaf_off='keep' or 'exclude', got {leaf_off!r}. Choose one of them.")
    check_seed(seed)
    county = catalog.county(county)
    tiles, crs = grid.county_tiles(county.boundary)
    scenes, labels = catalog.scenes(county.fips, year), catalog.labels(county.fips, year)
    bare, wanted, drawn = leaf_off_scenes(scenes, county.boundary), len(tiles), None
    # A model may well train on bare trees, and in Florida winter scenes show leaves.
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
    return Sources(county, tiles, crs, scenes, labels, {
        "name": county.name, "crs": crs, "split": split, "wanted": wanted, "leaf_off": bare,
        "scenes": sorted(shown(scene.href) for scene in scenes),
        "labels": labels.href, "label_year": labels.year, "boundary": county.boundary.wkt, "drawn": drawn,
        "sources": work.name("", VERSION, _state(labels.href), list(map(_reads, scenes)))})


def _reads(scene):
    """JSON values that change with a scene's file or catalogue entry."""
    return [scene.scene_id, scene.href, scene.acquired, scene.footprint.wkt, _state(scene.href)]


def _state(href):
    """Size and time of change of a local file; None for a file on a server, or for a missing file."""
    with contextlib.suppress(OSError):
        found = os.stat(split_crs(href)[0])
        return [found.st_size, found.st_mtime_ns]


def prepare(spark, catalog, county: str, year: int, split: str, uri: str, leaf_off: str = "keep",
            per_class: int = None, seed: int = 0, first_year: int = None) -> dict:
    """Write a county's tiles of one year to the tile store ``uri``, on every core. It keeps the units that are done.

    Parameters
    ----------
    split : ``"train"``, ``"validation"`` or ``"map"``.
    leaf_off : ``"keep"`` or ``"exclude"`` a mapped county's scenes of the months ``sources.LEAF_OFF``.
    per_class, seed, first_year : for a county that is not mapped: ``draw_blocks`` chooses blocks that aim at
        ``per_class`` pure tiles of each class, by the labels of ``first_year``. Without ``per_class``, it takes all.

    Returns
    -------
    The manifest. It counts the ``tiles`` written and all tiles ``wanted``; ``not_drawn``, ``no_scene`` and ``no_label``
    count the difference. ``leaf_off`` has, for each scene of the months ``LEAF_OFF``, the share of the county that it
    shows. ``reused`` is true if all was done before.
    """
    uri = absolute(uri)
    store.check_folder(uri)
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
                         "shows a whole tile. Choose a county that the scenes cover, or add scenes that cover it.")
    store.write_manifest(uri, county, year, tiles=tiles, files=sorted(name + ".parquet" for name in units),
                         no_label=len(found.tiles) - len(labelled), no_scene=len(labelled) - tiles,
                         not_drawn=found.facts["wanted"] - len(found.tiles),
                         label_source=found.labels.source or found.labels.href, **found.facts)
    work.keep_only(folder, units)
    return dict(store.manifest(uri, county, year), reused=False)


def units_of(labelled, scenes: list, crs: str, split: str) -> dict:
    """Labelled tiles as units of work by name. The tiles of a unit are neighbours in one scene, and share its blocks.

    A unit travels to the workers, so it holds only numbers and the scenes that touch its tiles.
    """
    scenes = sorted(scenes, key=lambda scene: scene.scene_id)
    order = scene_order(labelled, scenes, crs)
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
    """Runs ``(first, last + 1)`` of at most ``most`` tiles, each of one scene."""
    edges = np.flatnonzero(np.diff(nearest, prepend=-1))
    for first, last in zip(edges, [*edges[1:], len(nearest)]):
        cuts = np.linspace(first, last, -(-(last - first) // most) + 1).astype(int).tolist()
        yield from zip(cuts[:-1], cuts[1:])


def _check_scenes(scenes, crs):
    """Refuse an unusable scene before the job begins. Of remote scenes it opens only one: hundreds take minutes."""
    remote, local = ([scene for scene in scenes if downloads.is_remote(scene.href) == is_remote]
                     for is_remote in (True, False))
    for scene in remote[:1] + local:
        with open_scenes(crs) as read:
            read(scene, lambda dataset: None)


def _check_disk(uri, tiles):
    """Refuse to begin if the local disk is too small for the tiles."""
    if "://" in str(uri):
        return
    # An encoded tile is no larger than its pixels, 150 KB. Aerial pictures need about half.
    needed, free = tiles * grid.TILE_PX ** 2 * 3, free_bytes(uri)
    if free < needed:
        raise InputError(f"expected {needed / 1e6:,.0f} MB of free disk for {tiles} tiles at {uri}, got "
                         f"{free / 1e6:,.0f} MB. Free some space, or write elsewhere.")

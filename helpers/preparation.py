"""From scenes and labels to a tile store: what an executor runs, and the job around it.

A county and year is cut in chunks, each a Spark job of its own, so that a run that was interrupted goes on where it
was.
"""

import errno
import functools
import hashlib
import json
import os
import shutil
from collections import namedtuple
from pathlib import Path

import numpy as np
import pandas as pd

from helpers import InputError, downloads, grid, landcover, rasters, session, storage, tilestore
from helpers import catalog as catalogs

# Tiles of a chunk for each slot: an interrupted run cuts as many again at most.
CHUNK_TILES = 1024
# From a server: most tiles of a task, half of what a NAIP scene has. Two tasks that share a scene share a row of its
# blocks, which then travels twice.
REMOTE_TILES = 512
# Training counties are cut in blocks of this many tiles in square: neighbours share a scene's blocks.
BLOCK = 8
# Tiles that a task holds at a time, before and after they are encoded: 40 MB.
BATCH_TILES = 256
# For the plan: tiles a second on a core, as the benchmark measures them; bytes a second of a connection; a tile's bytes
# in the store.
TILES_A_SECOND, BYTES_A_SECOND, BYTES_A_TILE = 150, 5e6, 80e3


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


def label(tiles, labels, crs):
    """Label tiles from an NLCD raster.

    Parameters
    ----------
    tiles : pandas.DataFrame
        With ``row`` and ``col``.
    labels : helpers.catalog.Labels
    crs : str
        The CRS of the tile grid.

    Returns
    -------
    pandas.DataFrame
        The tiles with ``label``, ``group``, ``purity`` and ``nine_point``; tiles without an NLCD pixel are left
        out.
    """
    counts, nine = rasters.label_counts(labels.href, tiles, crs)
    class_id, group, purity = landcover.label_tiles(counts)
    labelled = tiles.assign(
        label=_nullable(class_id), group=group, purity=purity, nine_point=_nullable(landcover.nine_point_class(nine)))
    return labelled[group != landcover.NO_CLASS].reset_index(drop=True)


def _nullable(class_ids):
    """``class_id`` with null for ``NO_CLASS``."""
    return pd.Series(class_ids, dtype="Int8").mask(class_ids == landcover.NO_CLASS)


def cut(batches, scenes, crs):
    """Cut and encode tiles: the function that Spark runs, plain Python over batches.

    Parameters
    ----------
    batches : iterable of pandas.DataFrame
        Labelled tiles.
    scenes : list of helpers.catalog.Scene
    crs : str
        The CRS of the tile grid.

    Yields
    ------
    pandas.DataFrame
        Columns of ``tilestore.SCHEMA``; tiles that no scene shows whole are left out.
    """
    acquired = {scene.scene_id: scene.acquired for scene in scenes}
    with rasters.open_scenes(crs) as get:
        for batch in batches:
            images, scene_ids = rasters.cut_tiles(batch, scenes, crs, get)
            batch = batch.assign(image=[None if image is None else tilestore.encode(image) for image in images],
                                 scene_id=scene_ids)
            batch = batch[batch["image"].notna()]
            yield batch.assign(acquired=batch["scene_id"].map(acquired))[tilestore.SCHEMA.names]


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


Sources = namedtuple("Sources", "place tiles crs scenes labels bare wanted facts")
Sources.__doc__ = "What the tiles of a county and year are made from; ``facts`` are those that make them what they are."


def _sources(catalog, county, year, split, leaf_off, per_class, seed, first_year):
    if leaf_off not in ("keep", "exclude"):
        raise InputError(f"expected leaf_off='keep' or 'exclude', got {leaf_off!r}. Choose one of them.")
    place = catalog.county(county)
    tiles, crs = grid.county_tiles(place.boundary)
    scenes, labels = catalog.scenes(county, year), catalog.labels(county, year)
    bare, wanted, drawn = catalogs.leaf_off(scenes, place.boundary), len(tiles), None
    # A month says nothing of leaves in Florida, and a model may well have seen some bare trees.
    if leaf_off == "exclude" and split == "map":
        scenes = [scene for scene in scenes if scene.scene_id not in bare]
        if not scenes:
            raise InputError(f"expected scenes of county {place.county} from {year} with leaves on, got none: all are "
                             f"from the months {', '.join(map(str, catalogs.LEAF_OFF))}. Choose another year, or "
                             "leaf_off='keep'.")
    if per_class and split != "map":
        reference = catalog.labels(county, year if first_year is None else first_year)
        blocks, _ = _drawn(reference, place, per_class, seed)
        tiles, drawn = in_blocks(tiles, blocks), [per_class, seed, reference.href]
    return Sources(place, tiles, crs, scenes, labels, bare, wanted, {
        "crs": crs, "split": split, "wanted": wanted, "scenes": sorted(s.href for s in scenes), "labels": labels.href,
        "label_year": labels.year, "boundary": place.boundary.wkt, "drawn": drawn})


def plan(sources, jobs, slots, leaf_off="keep", per_class=None, seed=0):
    """What preparing counties will take, before it begins.

    Parameters
    ----------
    sources : dict of str to catalogue
        For each split, where it comes from.
    jobs : list of tuple
        ``(county, year, split)``.
    slots : int
        Tasks at a time.
    leaf_off, per_class, seed
        As in ``prepare``.

    Returns
    -------
    pandas.DataFrame
        For each job ``covered``, the share of the county that the year's scenes cover; ``tiles``, at most; ``scenes``;
        ``leaf_off``, the share of the county that scenes without leaves show; ``label_year``; ``download_mb``,
        ``disk_mb`` and ``minutes``, estimated from the header of one scene each.
    """
    rows, first = [], first_years(jobs)
    for county, year, split in jobs:
        found = _sources(sources[split], county, year, split, leaf_off, per_class, seed, first[county])
        download = _download_bytes(found)
        seconds = len(found.tiles) / TILES_A_SECOND / slots + download / BYTES_A_SECOND / slots
        rows.append({"county": found.place.county, "year": year, "split": split, "label_year": found.labels.year,
                     "covered": sources[split].covered(county)[year], "scenes": len(found.scenes),
                     "leaf_off": min(1.0, sum(found.bare.values())), "tiles": len(found.tiles),
                     "download_mb": round(download / 1e6, 1), "disk_mb": round(len(found.tiles) * BYTES_A_TILE / 1e6),
                     "minutes": round(seconds / 60, 1)})
    return pd.DataFrame(rows)


def _download_bytes(found):
    """Bytes of the blocks that hold the tiles, taking all scenes for as the one is that most tiles come from."""
    remote = [scene for scene in found.scenes if downloads.is_remote(scene.href)]
    if not remote:
        return 0.0
    outlines = np.array([grid.project(scene.footprint, found.crs) for scene in found.scenes])
    choice = rasters.scene_order(found.tiles, outlines)[0]
    used = np.bincount(choice[choice >= 0], minlength=len(found.scenes))
    pixel_m, (height, width), block_bytes = rasters.block_facts(found.scenes[int(used.argmax())].href, found.crs)
    blocks = 0
    for number in np.flatnonzero(used):
        left, _, _, top = outlines[number].bounds
        tiles = found.tiles[choice == number]
        x, y = tiles["col"].to_numpy() * grid.TILE_M - left, top - (tiles["row"].to_numpy() + 1) * grid.TILE_M
        touched = set()
        for i in range(len(tiles)):
            down, across = ([int((start + m) // (size * pixel_m)) for m in (0, grid.TILE_M)]
                            for start, size in ((y[i], height), (x[i], width)))
            touched.update((r, c) for r in range(down[0], down[1] + 1) for c in range(across[0], across[1] + 1))
        blocks += len(touched)
    return blocks * block_bytes


def plan_in_words(sources, jobs, table):
    """A plan as lines to print: the table, its sums, and each scene of the mapped county without leaves.

    Parameters
    ----------
    sources, jobs
        As in ``plan``.
    table : pandas.DataFrame
        From ``plan``.

    Returns
    -------
    list of str
    """
    lines = table.to_string(index=False).splitlines()
    lines.append(f"In all {table['tiles'].sum():,} tiles, {table['download_mb'].sum():,.0f} MB to download, "
                 f"{table['disk_mb'].sum():,} MB on the disk, about {table['minutes'].sum():.0f} minutes.")
    for county, year, split in jobs:
        if split == "map":
            scenes = sources[split].scenes(county, year)
            bare = catalogs.leaf_off(scenes, sources[split].county(county).boundary)
            lines += [f"Scene {scene.scene_id}, taken on {scene.acquired}, shows {bare[scene.scene_id]:.1%} of the "
                      "county, perhaps with bare trees." for scene in scenes if scene.scene_id in bare]
            share = sources[split].covered(county)[year]
            if share < catalogs.COVERED:
                lines.append(f"The scenes of {year} cover only {share:.0%} of county {county}.")
    return lines


def prepare(spark, catalog, county, year, split, uri, leaf_off="keep", per_class=None, seed=0, first_year=None):
    """Write a county's tiles of one year to a tile store, on every core of the cluster.

    What is finished already, from the same scenes and labels, is kept; so are the finished chunks of a run that was
    interrupted.

    Parameters
    ----------
    spark : pyspark.sql.SparkSession
    catalog : helpers.catalog.Catalog
    county : str
        FIPS code.
    year : int
        Of the scenes.
    split : str
        ``"train"``, ``"validation"`` or ``"map"``.
    uri : str
        The store.
    leaf_off : str
        ``"keep"`` or ``"exclude"`` scenes of the months ``catalog.LEAF_OFF``, where the county is mapped.
    per_class : int, optional
        Of a county that is not mapped, only blocks with so many pure tiles of each class; see ``draw_blocks``.
    seed : int
        Of their draw.
    first_year : int, optional
        The year whose labels draw the blocks, of ``first_years``; by default ``year``.

    Returns
    -------
    dict
        The manifest: ``tiles`` written, ``wanted`` by the county, of which ``not_drawn``, ``no_scene`` and ``no_label``
        were dropped, CRS, sources, ``leaf_off`` scenes with their share of the county, and ``reused`` if nothing had to
        be done.

    Raises
    ------
    InputError
        If the county, a scene or the labels can't be used, no tile is covered, or the disk is full.
    """
    found = _sources(catalog, county, year, split, leaf_off, per_class, seed, first_year)
    county, crs, scenes = found.place.county, found.crs, found.scenes
    finished = tilestore.manifest(uri, county, year)
    # A manifest of an older version lacks some.
    if finished and found.facts.items() <= finished.items():
        return dict(finished, reused=True)

    labelled = label(found.tiles, found.labels, crs)
    no_label = len(found.tiles) - len(labelled)
    _check_disk(uri, len(labelled))
    _check_scenes(scenes, crs)
    tilestore.remove_manifest(uri, county, year)
    chunk = CHUNK_TILES * spark.sparkContext.defaultParallelism
    chunks = _Chunks(tilestore.partition_folder(uri, county, year), dict(found.facts, chunk_tiles=chunk))
    labelled, nearest = _by_scene(labelled.assign(split=split), scenes, crs)
    for number, start in enumerate(range(0, len(labelled), chunk)):
        if not chunks.has(number):
            end = start + chunk
            _cut_on_spark(spark, labelled.iloc[start:end], nearest[start:end], scenes, crs, chunks.folder(number))
    chunks.join()
    written = spark.read.parquet(chunks.uri).count()
    if not written:
        raise InputError(f"expected scenes from {year} that show county {county} ({found.place.name}), got none that "
                         "shows a whole tile of it. Choose a county inside the scenes, or add scenes that cover it.")
    tilestore.write_manifest(uri, county, year, tiles=written, no_label=no_label, leaf_off=found.bare,
                             not_drawn=found.wanted - len(found.tiles), no_scene=len(labelled) - written,
                             label_source=found.labels.source or found.labels.href, **found.facts)
    chunks.remove()
    return dict(tilestore.manifest(uri, county, year), reused=False)


def _check_scenes(scenes, crs):
    """Open scenes on the driver, so that one that can't be used is found here and not in the middle of the job.

    From a server one speaks for all: to open hundreds, one after another, takes minutes. Of the others, a worker tells.
    """
    remote = [scene for scene in scenes if downloads.is_remote(scene.href)]
    with rasters.open_scenes(crs) as get:
        for scene in remote[:1]:
            rasters.with_tries(get, scene, lambda dataset: None)
    for scene in scenes:
        if not downloads.is_remote(scene.href):
            with rasters.open_scene(scene.href, crs):
                pass


def _by_scene(labelled, scenes, crs):
    """The tiles in order of the scene whose centre is nearest, and in it by row: neighbours share a scene's blocks."""
    outlines = np.array([grid.project(scene.footprint, crs) for scene in scenes])
    nearest = rasters.scene_order(labelled, outlines)[0]
    order = np.lexsort((labelled["col"], -labelled["row"], nearest))
    return labelled.iloc[order].reset_index(drop=True), nearest[order]


def _pieces(nearest, most):
    """Runs of tiles, at most so many and each of one scene: ``(first, last + 1)``."""
    found = []
    edges = np.flatnonzero(np.diff(nearest, prepend=-2))
    for first, last in zip(edges, [*edges[1:], len(nearest)]):
        count = -(-(last - first) // most)
        cuts = np.linspace(first, last, count + 1).astype(int)
        found += list(zip(cuts[:-1].tolist(), cuts[1:].tolist()))
    return found


def _cut_on_spark(spark, labelled, nearest, scenes, crs, folder):
    """Write the tiles of a chunk to a folder of its own."""
    slots = spark.sparkContext.defaultParallelism
    # As many tasks as keep all slots busy to the end; from a server fewer, for the blocks that two tasks share travel
    # twice.
    remote = any(downloads.is_remote(scene.href) for scene in scenes)
    pieces = _pieces(nearest, REMOTE_TILES if remote else -(-len(labelled) // (4 * slots)))
    # The rows go to each worker whole, and nothing is shuffled.
    rows = spark.sparkContext.broadcast(labelled)
    frame = spark.range(0, len(pieces), 1, len(pieces))
    columns = ", ".join(f"{name} {_SPARK_TYPES[name]}" for name in tilestore.SCHEMA.names)
    # Workers of a cluster don't have the driver's settings.
    signing = os.environ.get("TUTORIAL_SIGNING")

    def batches_of(frames):
        for numbers in frames:
            for first, last in (pieces[number] for number in numbers["id"]):
                for start in range(first, last, BATCH_TILES):
                    yield rows.value.iloc[start:min(start + BATCH_TILES, last)]

    def run(frames):
        if signing is not None:
            os.environ["TUTORIAL_SIGNING"] = signing
        yield from cut(batches_of(frames), scenes, crs)
        session.ready_worker()

    try:
        (frame.mapInPandas(run, columns).write.mode("overwrite")
         .option("parquet.block.size", tilestore.ROW_GROUP_BYTES)
         # Parquet looks at the size of a piece only after so many rows, by default 100.
         .option("parquet.page.size.row.check.min", 16).parquet(folder))
    except Exception as error:
        raise_user_error(error)
        raise
    finally:
        rows.destroy()


class _Chunks:
    """The chunks of a county and year while it is prepared: finished ones are found again, and joined at the end.

    Parameters
    ----------
    uri : str
        The folder of the county and year in the store.
    sources : dict
        What its tiles are made from: chunks of others are thrown away.
    """

    def __init__(self, uri, sources):
        digest = hashlib.sha256(json.dumps(sources, sort_keys=True).encode()).hexdigest()[:12]
        self.uri, self._prefix = str(uri), digest
        self.filesystem, self.path = storage.filesystem(uri)
        # Spark and Arrow pass over names that begin so.
        self._name = "_chunks-" + digest
        there = self._names(self.path)
        for name in there:
            # Files of these chunks may have been moved already, where the run was interrupted while it moved them.
            is_own = self._name in there and name.startswith((digest, self._name))
            if name.endswith(".parquet") and not is_own or name.startswith("_chunks-") and not is_own:
                self.filesystem.rm(f"{self.path}/{name}", recursive=True)

    def _names(self, path):
        if not self.filesystem.exists(path):
            return []
        return [found.rstrip("/").rsplit("/", 1)[1] for found in self.filesystem.ls(path, detail=False)]

    def folder(self, number):
        return f"{self.uri}/{self._name}/{number:04d}"

    def has(self, number):
        """Is this chunk finished? Spark's committer says so last."""
        return self.filesystem.exists(f"{self.path}/{self._name}/{number:04d}/_SUCCESS")

    def join(self):
        """Move the files of all chunks where the store's are; a run that is interrupted here goes on with the rest."""
        for chunk in self._names(f"{self.path}/{self._name}"):
            for name in self._names(f"{self.path}/{self._name}/{chunk}"):
                if name.endswith(".parquet"):
                    self.filesystem.mv(f"{self.path}/{self._name}/{chunk}/{name}",
                                       f"{self.path}/{self._prefix}-{chunk}-{name}")

    def remove(self):
        self.filesystem.rm(f"{self.path}/{self._name}", recursive=True)


_SPARK_TYPES = {"tile_id": "string", "row": "int", "col": "int", "scene_id": "string", "acquired": "string",
                "image": "binary", "label": "byte", "group": "byte", "purity": "float", "nine_point": "byte",
                "split": "string"}


def raise_user_error(error):
    """Raise the sentence behind a failed Spark job, where the user can mend its cause; else return.

    Parameters
    ----------
    error : Exception
        What Spark raised on the driver.

    Raises
    ------
    InputError
    """
    text = str(error)
    marker = "helpers.InputError: "
    if marker in text:
        raise InputError(text.split(marker, 1)[1].splitlines()[0].strip()) from error
    if "No space left on device" in text or getattr(error, "errno", None) == errno.ENOSPC:
        raise InputError("expected room on the disk for the output, got a full one (no space left on device). "
                         "Free some space and run the same command again.") from error


def _check_disk(uri, tiles):
    """Refuse to begin where the local disk plainly can't hold the tiles."""
    if "://" in str(uri):
        return
    folder = Path(uri)
    while not folder.exists():
        folder = folder.parent
    # An encoded tile is at most its pixels; aerial pictures come to half of them.
    needed = tiles * int(np.prod((grid.TILE_PX, grid.TILE_PX, 3)))
    free = shutil.disk_usage(folder).free
    if free < needed:
        raise InputError(f"expected {needed / 1e6:,.0f} MB of free disk for {tiles} tiles at {uri}, got "
                         f"{free / 1e6:,.0f} MB. Free some space, or write elsewhere.")

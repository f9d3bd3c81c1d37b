"""From scenes and labels to a tile store: what an executor runs, and the job around it.

A county and year is cut in chunks, each a Spark job of its own, so that a run that was interrupted goes on where it
was.
"""

import errno
import hashlib
import json
import os
import shutil
from collections import namedtuple
from pathlib import Path

import numpy as np

from helpers import InputError, files as storage
from helpers.cluster import session
from helpers.land import downloads, grid, scenes as rasters, sources as to_sources
from helpers.tiles import store as tilestore
from helpers.land.labels import label
from helpers.land.sources import LEAF_OFF
from helpers.tiles.choose import _drawn, in_blocks
from helpers.tiles.pictures import encode

# Tiles of a chunk for each slot: an interrupted run cuts as many again at most.
CHUNK_TILES = 1024
# From a server: most tiles of a task, half of what a NAIP scene has. Two tasks that share a scene share a row of its
# blocks, which then travels twice.
REMOTE_TILES = 512
# Tiles that a task holds at a time, before and after they are encoded: 40 MB.
BATCH_TILES = 256
# For the plan: tiles a second on a core, as the benchmark measures them; bytes a second of a connection; a tile's bytes
# in the store.
TILES_A_SECOND, BYTES_A_SECOND, BYTES_A_TILE = 150, 5e6, 80e3


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
            batch = batch.assign(image=[None if image is None else encode(image) for image in images],
                                 scene_id=scene_ids)
            batch = batch[batch["image"].notna()]
            yield batch.assign(acquired=batch["scene_id"].map(acquired))[tilestore.SCHEMA.names]


Sources = namedtuple("Sources", "place tiles crs scenes labels bare wanted facts")
Sources.__doc__ = "What the tiles of a county and year are made from; ``facts`` are those that make them what they are."


def _sources(catalog, county, year, split, leaf_off, per_class, seed, first_year):
    if leaf_off not in ("keep", "exclude"):
        raise InputError(f"expected leaf_off='keep' or 'exclude', got {leaf_off!r}. Choose one of them.")
    place = catalog.county(county)
    tiles, crs = grid.county_tiles(place.boundary)
    scenes, labels = catalog.scenes(county, year), catalog.labels(county, year)
    bare, wanted, drawn = to_sources.leaf_off(scenes, place.boundary), len(tiles), None
    # A month says nothing of leaves in Florida, and a model may well have seen some bare trees.
    if leaf_off == "exclude" and split == "map":
        scenes = [scene for scene in scenes if scene.scene_id not in bare]
        if not scenes:
            raise InputError(f"expected scenes of county {place.fips} from {year} with leaves on, got none: all are "
                             f"from the months {', '.join(map(str, LEAF_OFF))}. Choose another year, or "
                             "leaf_off='keep'.")
    if per_class and split != "map":
        reference = catalog.labels(county, year if first_year is None else first_year)
        blocks, _ = _drawn(reference, place, per_class, seed)
        tiles, drawn = in_blocks(tiles, blocks), [per_class, seed, reference.href]
    return Sources(place, tiles, crs, scenes, labels, bare, wanted, {
        "crs": crs, "split": split, "wanted": wanted, "scenes": sorted(s.href for s in scenes), "labels": labels.href,
        "label_year": labels.year, "boundary": place.boundary.wkt, "drawn": drawn})


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
    county, crs, scenes = found.place.fips, found.crs, found.scenes
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

"""From scenes and labels to a tile store: what an executor runs, and the job around it.

A county and year is cut in chunks, each a Spark job of its own, so that a run that was interrupted goes on where it was.
"""

import errno
import hashlib
import json
import os
import shutil
from pathlib import Path

import numpy as np
import pandas as pd

from helpers import InputError, downloads, grid, landcover, rasters, session, storage, tilestore
from helpers import catalog as catalogs

# Tiles of a chunk: an interrupted run cuts as many again at most.
CHUNK_TILES = 2048
# Tiles that a task holds at a time, before and after they are encoded: 40 MB.
BATCH_TILES = 256
# For the plan: tiles a second on a core, as the benchmark measures them; bytes a second of a connection; a NAIP scene's
# bytes for each of its pixels (1.8 GB for a quarter quad of 0.3 m with four bands); a tile's bytes in the store.
TILES_A_SECOND, BYTES_A_SECOND, BYTES_A_PIXEL, BYTES_A_TILE = 150, 5e6, 2.9, 80e3


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


def some(labelled, per_class, seed):
    """Pure tiles to train or validate on, drawn before any picture is read.

    Parameters
    ----------
    labelled : pandas.DataFrame
        Of ``label``.
    per_class : int
        Tiles of each class; of a rarer one all.
    seed : int

    Returns
    -------
    pandas.DataFrame
        In the same order.
    """
    pure = labelled[labelled["label"].notna() & (labelled["purity"] >= tilestore.PURE)]
    drawn = [part.sample(min(per_class, len(part)), random_state=seed) for _, part in pure.groupby("label")]
    return labelled.loc[sorted(index for part in drawn for index in part.index)].reset_index(drop=True)


def _sources(catalog, county, year, split, leaf_off, per_class):
    """What the tiles of a county and year are made from."""
    if leaf_off not in ("keep", "exclude"):
        raise InputError(f"expected leaf_off='keep' or 'exclude', got {leaf_off!r}. Choose one of them.")
    place = catalog.county(county)
    tiles, crs = grid.county_tiles(place.boundary)
    scenes, labels = catalog.scenes(county, year), catalog.labels(county, year)
    bare = catalogs.leaf_off(scenes, place.boundary)
    if leaf_off == "exclude":
        scenes = [scene for scene in scenes if scene.scene_id not in bare]
        if not scenes:
            raise InputError(f"expected scenes of county {place.county} from {year} with leaves on, got none: all are "
                             f"from the months {', '.join(map(str, catalogs.LEAF_OFF))}. Choose another year, or "
                             "leaf_off='keep'.")
    return place, tiles, scenes, labels, bare, {
        "crs": crs, "split": split, "wanted": len(tiles), "scenes": sorted(s.href for s in scenes),
        "labels": labels.href, "label_year": labels.year, "boundary": place.boundary.wkt, "per_class": per_class}


def plan(catalog, jobs, slots, leaf_off="keep", per_class=None):
    """What preparing counties will take, before it begins.

    Parameters
    ----------
    catalog : helpers.catalog.Catalog
    jobs : list of tuple
        ``(county, year, split)``.
    slots : int
        Tasks at a time.
    leaf_off, per_class
        As in ``prepare``.

    Returns
    -------
    pandas.DataFrame
        For each job ``tiles`` (at most), ``scenes``, ``leaf_off`` (share of the county that they show without leaves),
        ``label_year``, ``download_mb``, ``disk_mb`` and ``minutes``, estimated.
    """
    rows = []
    for county, year, split in jobs:
        place, tiles, scenes, labels, bare, _ = _sources(catalog, county, year, split, leaf_off, per_class)
        count = len(tiles)
        if per_class and split != "map":
            count = min(count, per_class * len(landcover.CLASSES))
        remote = [scene for scene in scenes if downloads.is_remote(scene.href)]
        pixels = np.mean([(grid.TILE_M / scene.resolution) ** 2 for scene in remote]) if remote else 0
        download = count * pixels * BYTES_A_PIXEL
        seconds = count / TILES_A_SECOND / slots + download / BYTES_A_SECOND / slots
        rows.append({"county": place.county, "year": year, "split": split, "label_year": labels.year,
                     "scenes": len(scenes), "leaf_off": min(1.0, sum(bare.values())), "tiles": count,
                     "download_mb": round(download / 1e6), "disk_mb": round(count * BYTES_A_TILE / 1e6),
                     "minutes": round(seconds / 60, 1)})
    return pd.DataFrame(rows)


def prepare(spark, catalog, county, year, split, uri, leaf_off="keep", per_class=None, seed=0):
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
        ``"keep"`` or ``"exclude"`` scenes of the months ``catalog.LEAF_OFF``.
    per_class : int, optional
        Of a county that is not mapped, only so many pure tiles of each class.
    seed : int
        Of their draw.

    Returns
    -------
    dict
        The manifest: ``tiles`` written, ``wanted`` by the county, ``no_scene`` and ``no_label`` dropped, CRS,
        sources, ``leaf_off`` scenes with their share of the county, and ``reused`` if nothing had to be done.

    Raises
    ------
    InputError
        If the county, a scene or the labels can't be used, no tile is covered, or the disk is full.
    """
    per_class = None if split == "map" else per_class
    place, tiles, scenes, labels, bare, sources = _sources(catalog, county, year, split, leaf_off, per_class)
    county, crs = place.county, sources["crs"]
    finished = tilestore.manifest(uri, county, year)
    if finished and {key: finished.get(key) for key in sources} == sources:
        return dict(finished, reused=True)

    labelled = label(tiles, labels, crs)
    no_label = len(tiles) - len(labelled)
    if per_class:
        labelled = some(labelled, per_class, seed)
    _check_disk(uri, len(labelled))
    for scene in scenes:
        with rasters.open_scene(scene.href, crs):
            pass  # A scene that can't be used is found here, on the driver, and not in the middle of the job.
    tilestore.remove_manifest(uri, county, year)
    chunks = _Chunks(tilestore.partition_folder(uri, county, year), dict(sources, seed=seed, chunk_tiles=CHUNK_TILES))
    labelled, nearest = _by_scene(labelled.assign(split=split), scenes, crs)
    for number, start in enumerate(range(0, len(labelled), CHUNK_TILES)):
        if not chunks.has(number):
            end = start + CHUNK_TILES
            _cut_on_spark(spark, labelled.iloc[start:end], nearest[start:end], scenes, crs, chunks.folder(number))
    chunks.join()
    written = spark.read.parquet(chunks.uri).count()
    if not written:
        raise InputError(f"expected scenes from {year} that show county {county} ({place.name}), got none that shows "
                         "a whole tile of it. Choose a county inside the scenes, or add scenes that cover it.")
    tilestore.write_manifest(uri, county, year, tiles=written, no_label=no_label, leaf_off=bare,
                             no_scene=len(labelled) - written, label_source=labels.source or labels.href, **sources)
    chunks.remove()
    return dict(tilestore.manifest(uri, county, year), reused=False)


def _by_scene(labelled, scenes, crs):
    """The tiles in order of the scene whose centre is nearest, and in it by row: neighbours share a scene's blocks."""
    centres = np.array([[point.x, point.y] for point in (
        grid.project(scene.footprint.centroid, crs) for scene in scenes)])
    x, y = ((labelled[name].to_numpy() + 0.5) * grid.TILE_M for name in ("col", "row"))
    nearest = np.hypot(x[:, None] - centres[:, 0], y[:, None] - centres[:, 1]).argmin(axis=1)
    order = np.lexsort((labelled["col"], -labelled["row"], nearest))
    return labelled.iloc[order].reset_index(drop=True), nearest[order]


def _pieces(nearest, most):
    """Runs of tiles, at most so many and each of one scene: ``(first, last + 1)``."""
    found = []
    edges = np.flatnonzero(np.diff(nearest, prepend=-1))
    for first, last in zip(edges, [*edges[1:], len(nearest)]):
        count = -(-(last - first) // most)
        cuts = np.linspace(first, last, count + 1).astype(int)
        found += list(zip(cuts[:-1].tolist(), cuts[1:].tolist()))
    return found


def _cut_on_spark(spark, labelled, nearest, scenes, crs, folder):
    """Write the tiles of a chunk to a folder of its own."""
    slots = spark.sparkContext.defaultParallelism
    # From a disk: tasks as many as keep all slots busy to the end. From a server: a scene is one task's alone, for the
    # blocks that two tasks share travel twice.
    remote = any(downloads.is_remote(scene.href) for scene in scenes)
    pieces = _pieces(nearest, CHUNK_TILES if remote else -(-len(labelled) // (4 * slots)))
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

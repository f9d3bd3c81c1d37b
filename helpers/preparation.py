"""From scenes and labels to a tile store: what an executor runs, and the job around it."""

import errno
import shutil
from pathlib import Path

import numpy as np
import pandas as pd

from helpers import InputError, grid, landcover, rasters, session, tilestore


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


def prepare(spark, catalog, county, year, split, uri):
    """Write a county's tiles of one year to a tile store, on every core of the cluster.

    What is finished already, from the same scenes and labels, is kept.

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

    Returns
    -------
    dict
        The manifest: ``tiles`` written, ``wanted`` by the county, ``no_scene`` and ``no_label`` dropped, CRS,
        sources, and ``reused`` if nothing had to be done.

    Raises
    ------
    InputError
        If the county, a scene or the labels can't be used, no tile is covered, or the disk is full.
    """
    place = catalog.county(county)
    tiles, crs = grid.county_tiles(place.boundary)
    scenes, labels = catalog.scenes(county, year), catalog.labels(county, year)
    sources = {"crs": crs, "split": split, "wanted": len(tiles), "scenes": sorted(s.href for s in scenes),
               "labels": labels.href, "label_year": labels.year, "boundary": place.boundary.wkt}
    finished = tilestore.manifest(uri, county, year)
    if finished and {key: finished.get(key) for key in sources} == sources:
        return dict(finished, reused=True)

    labelled = label(tiles, labels, crs)
    no_label = len(tiles) - len(labelled)
    _check_disk(uri, len(labelled))
    for scene in scenes:
        with rasters.open_scene(scene.href, crs):
            pass  # A scene that can't be used is found here, on the driver, and not in the middle of the job.
    tilestore.remove_manifest(uri, county, year)
    folder = tilestore.partition_folder(uri, county, year)
    # The rows go to each worker whole, and a task gets a run of neighbouring ones: grid rows stay together, so that a
    # window of a scene is read once, and nothing is shuffled.
    rows = spark.sparkContext.broadcast(labelled.assign(split=split))
    slots = spark.sparkContext.defaultParallelism
    frame = spark.range(0, len(labelled), 1, min(slots * 4, len(labelled)))
    columns = ", ".join(f"{name} {_SPARK_TYPES[name]}" for name in tilestore.SCHEMA.names)

    def run(batches):
        yield from cut((rows.value.iloc[batch["id"]] for batch in batches), scenes, crs)
        session.ready_worker()

    try:
        (frame.mapInPandas(run, columns).write.mode("overwrite")
         .option("parquet.block.size", tilestore.ROW_GROUP_BYTES)
         # Parquet looks at the size of a piece only after so many rows, by default 100.
         .option("parquet.page.size.row.check.min", 16).parquet(str(folder)))
    except Exception as error:
        raise_user_error(error)
        raise
    written = spark.read.parquet(str(folder)).count()
    if not written:
        raise InputError(f"expected scenes from {year} that show county {county} ({place.name}), got none that shows "
                         "a whole tile of it. Choose a county inside the scenes, or add scenes that cover it.")
    tilestore.write_manifest(uri, county, year, tiles=written, no_label=no_label,
                             no_scene=len(labelled) - written, **sources)
    return dict(tilestore.manifest(uri, county, year), reused=False)


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

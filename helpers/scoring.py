"""Parallel scoring: the function that an executor runs, and the Spark job around it."""

import atexit
import shutil
import tempfile
from pathlib import Path

import fsspec
import numpy as np
import pandas as pd
import pyarrow.dataset as ds

from helpers import InputError, engines, tilestore
from helpers import bundle as bundles
from helpers.preparation import raise_user_error

# The prediction table, one row for each tile.
PREDICTION_TYPE = ("tile_id string, county string, year int, model string, engine string, class_id byte, "
                   "probabilities array<float>, error_kind string, error string")
TILE_TYPE = "tile_id string, image binary, county string, year int"

# Engines of this Python worker, by bundle and name: loaded with the first batch, kept for the next task.
_loaded = {}
# Bundles that this driver has sent, by application and name.
_shipped = set()


def _engine(folder, engine, threads):
    """The engine of a bundle, loaded once for each worker process."""
    key = (str(folder), engine, threads)
    if key not in _loaded:
        bundle = bundles.load(folder)
        _loaded[key] = bundle, engines.load(bundle, engine, threads)
    return _loaded[key]


def score_batches(batches, folder, engine="onnxruntime", threads=1):
    """Score batches of tiles: the function that Spark runs, plain Python over batches.

    Parameters
    ----------
    batches : iterable of pandas.DataFrame
        ``tile_id``, ``county``, ``year``, and ``image``, the encoded picture.
    folder : str or pathlib.Path
        The model bundle on this machine.
    engine : str
        As in ``engines.load``.
    threads : int
        Cores of a slot.

    Yields
    ------
    pandas.DataFrame
        Rows of the prediction table, one for each tile. A tile that can't be read (``unreadable``) or scored
        (``engine``) is a row with its reason and no class.
    """
    bundle, network = _engine(folder, engine, threads)
    for batch in batches:
        pixels, errors, kinds = [], [None] * len(batch), [None] * len(batch)
        for i, image in enumerate(batch["image"]):
            try:
                pixels.append(tilestore.decode(image, bundle.input_px))
            except Exception as error:  # Pillow raises errors of many kinds for one cause: bytes it can't read.
                kinds[i], errors[i] = "unreadable", "{}: {}".format(type(error).__name__, error)
        probabilities = np.empty((0, len(bundle.classes)), np.float32)
        if pixels:
            try:
                probabilities = network.score(np.stack(pixels))
            except engines.EngineDied as died:
                kinds = [kind or "engine" for kind in kinds]
                errors = [error or str(died) for error in errors]
        scored = np.array([kind is None for kind in kinds], dtype=bool)
        class_id = pd.array([None] * len(batch), dtype="Int8")
        class_id[scored] = probabilities.argmax(axis=1)
        rows = iter(probabilities)
        yield pd.DataFrame({
            "tile_id": batch["tile_id"].to_numpy(), "county": batch["county"].to_numpy(),
            "year": batch["year"].to_numpy(), "model": bundle.checksum, "engine": network.name,
            "class_id": class_id, "probabilities": [next(rows) if ok else None for ok in scored],
            "error_kind": kinds, "error": errors})


def ship(spark, bundle):
    """Send a bundle to every node, once.

    Returns
    -------
    str
        Its name under ``pyspark.SparkFiles``.
    """
    # Spark ships a folder under its own name, and refuses a second one of that name: so the name tells the model.
    name = "bundle-" + bundle.checksum
    key = (spark.sparkContext.applicationId, name)
    if key not in _shipped:
        # Executors fetch it when their first task starts, so the copy stays until this process ends.
        staging = tempfile.mkdtemp(prefix="bundle-")
        atexit.register(shutil.rmtree, staging, ignore_errors=True)
        spark.sparkContext.addFile(str(shutil.copytree(bundle.folder, Path(staging) / name)), recursive=True)
        _shipped.add(key)
    return name


def tiles_frame(spark, tiles_uri, county=None, years=None):
    """The finished tiles of a store as a Spark DataFrame of ``TILE_TYPE``.

    Parameters
    ----------
    spark : pyspark.sql.SparkSession
    tiles_uri : str
    county : str or list of str, optional
    years : list of int, optional

    Returns
    -------
    frame : pyspark.sql.DataFrame
    count : int
        How many tiles the store's manifests promise.
    """
    counties = None if county is None else {str(c) for c in ([county] if isinstance(county, str) else county)}
    chosen = [m for m in tilestore.partitions(tiles_uri)
              if (counties is None or m["county"] in counties) and (years is None or m["year"] in years)]
    if not chosen:
        raise InputError("expected tiles of county {}, years {} in {}, got {}. Prepare them in notebook "
                         "02_data_preparation.".format(county, years, tiles_uri, ", ".join(
                             "{county} {year}".format(**m) for m in tilestore.partitions(tiles_uri))))
    folders = [tilestore.partition_folder(tiles_uri, m["county"], m["year"]) for m in chosen]
    frame = spark.read.schema(TILE_TYPE).option("basePath", str(tiles_uri)).parquet(*folders)
    return frame, sum(m["tiles"] for m in chosen)


def score(spark, tiles_uri, bundle, predictions_uri, engine="onnxruntime", county=None, years=None, partitions=None):
    """Score the tiles of a store in parallel and write the prediction table.

    Parameters
    ----------
    spark : pyspark.sql.SparkSession
    tiles_uri : str
        The tile store.
    bundle : helpers.bundle.Bundle
    predictions_uri : str
        Folder of the table; what is there is replaced.
    engine : str
    county, years : optional
        Score only these.
    partitions : int, optional
        Split the tiles into this many; by default as Spark reads the files.

    Returns
    -------
    int
        Rows written: one for each tile.

    Raises
    ------
    InputError
        If the store lacks the tiles, or the disk is full.
    """
    frame, tiles = tiles_frame(spark, tiles_uri, county, years)
    if partitions is not None:
        frame = frame.repartition(partitions)
    name = ship(spark, bundle)

    def run(batches):
        from pyspark import SparkFiles
        yield from score_batches(batches, SparkFiles.get(name), engine)

    try:
        frame.mapInPandas(run, PREDICTION_TYPE).write.mode("overwrite").parquet(str(predictions_uri))
        written = spark.read.parquet(str(predictions_uri)).count()
    except Exception as error:
        raise_user_error(error)
        raise
    if written != tiles:
        raise RuntimeError("scored {} tiles of {}".format(written, tiles))
    return written


def read(predictions_uri, columns=None):
    """Read a prediction table on the driver.

    Parameters
    ----------
    predictions_uri : str
    columns : list of str, optional

    Returns
    -------
    pandas.DataFrame

    Raises
    ------
    InputError
        If there is no table, or its job has not finished.
    """
    filesystem, path = fsspec.core.url_to_fs(str(predictions_uri))
    if not filesystem.exists(path.rstrip("/") + "/_SUCCESS"):
        raise InputError("expected a finished prediction table at {}, got none. Run notebook "
                         "05_parallel_scoring.".format(predictions_uri))
    table = ds.dataset(path, format="parquet", filesystem=filesystem).to_table(columns=columns)
    return table.to_pandas().sort_values([c for c in ("county", "year", "tile_id") if c in table.column_names],
                                         ignore_index=True)

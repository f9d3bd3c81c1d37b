"""Parallel scoring: the function that an executor runs, and the Spark job around it.

**Every tile ends as exactly one row, whatever happens in between.** The job is cut into chunks; each is one Spark
job that writes to a folder of its own, is read back and counted, and then joins the table in one step
(``predictions``).

- A part that dies inside a chunk is Spark's matter: its task is tried again, and its committer keeps what another
  attempt wrote out of the chunk. A picture that hangs or crashes is a matter of ``scoring_process``.
- When the driver dies, the chunks that have joined stay. The next run asks the table which tiles have a row and
  scores the others: at most one chunk, ``planning.CHUNK_TILES`` a slot, is scored again.

Spark has other ways. One write of the whole table would lose a night with the driver. A streaming query with
``availableNow`` and a checkpoint resumes too, but remembers files and not tiles: a store that is written again
doubles its rows, a chunk can't be smaller than a file, what dies leaves files in the table that only Spark knows
to skip, and a second query on the same checkpoint is noticed when both have done the work. Speculative execution
helps against a slow machine and not against a dead one; on a cluster ``spark.speculation`` can be set, the
committer allows it. ``tests/benchmarks/ways_to_resume.py`` measures them.
"""

import atexit
import hashlib
import json
import logging
import re
import shutil
import tempfile
import time
import uuid
import zipfile
from functools import reduce
from pathlib import Path
from urllib.parse import unquote

import numpy as np
import pandas as pd
import pyarrow.dataset as ds

from helpers import InputError, files as storage
from helpers.cluster import session
from helpers.land import grid
from helpers.model import bundle as bundles, engines
from helpers.scoring import cost as planning, guard as scoring_process, predictions
from helpers.tiles import pictures, store as tilestore
from helpers.uri import is_azure, join, shown
from helpers.cluster.progress import report_tiles
from helpers.scoring.table import EXAMPLES, KEYS, PREDICTION_TYPE, _examples
from helpers.tiles.prepare import raise_user_error

TILE_TYPE = "tile_id string, image binary, county string, year int"
KEY_TYPE = "county string, year int, tile_id string"
# Kept beside the row: tells whether the store still holds the picture that was scored.
CRC = "image_crc"
# An engine that fails with every tile of a chunk of a batch or more is broken: a night of such rows helps nobody.
BROKEN_TILES = 64
# What a job counts on its workers: tiles, errors, and seconds of its slots.
TILES, ERRORS, LEFT_OUT, READ, DECODE, NETWORK, WRITE, START, SLOT = COUNTS = range(9)
log = logging.getLogger(__name__)
# Engines of this Python process, by bundle and name.
_loaded = {}
# Bundles that this driver has sent, by application and name.
_shipped = set()


def _engine(folder, engine, threads):
    """The engine of a bundle, loaded once in this process."""
    key = (str(folder), engine, threads)
    if key not in _loaded:
        bundle = bundles.load(folder)
        _loaded[key] = bundle, engines.load(bundle, engine, threads)
    return _loaded[key]


def score_batches(batches, folder, engine="fastest", threads=1):
    """Score batches of tiles: the function that Spark runs, plain Python over batches.

    On Spark's workers it runs in a process of its own (``scoring_process``).

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
        Rows of the prediction table, one for each tile. A tile that can't be read (``unreadable``, ``wrong_size``,
        ``too_large``, ``missing``) or scored (``engine``) is a row with its reason and no class.
    """
    bundle, network = _engine(folder, engine, threads)
    for batch in batches:
        yield score_batch(batch, bundle, network)[0]


def score_batch(batch, bundle, network, report=lambda position: None):
    """Score one batch of tiles.

    Parameters
    ----------
    batch : pandas.DataFrame
        As in ``score_batches``; with ``image_crc``, so are the rows.
    bundle : helpers.model.bundle.Bundle
    network : object
        An engine of ``engines.load``.
    report : callable
        Told the number of each picture before it is read, and ``scoring_process.NETWORK`` before the network
        begins.

    Returns
    -------
    rows : pandas.DataFrame
    decode_s, network_s : float
        Seconds that it took.
    """
    pixels, errors, kinds = [], [None] * len(batch), [None] * len(batch)
    started = time.perf_counter()
    for i, (image, year) in enumerate(zip(batch["image"], batch["year"])):
        report(i)
        try:
            # A folder of pictures, year 0, may hold any size; a tile of a grid has the grid's.
            pixels.append(pictures.decode(image, bundle.input_px, grid.TILE_PX if year else None))
        except pictures.BadPicture as bad:
            kinds[i], errors[i] = bad.kind, str(bad)
    decoded = time.perf_counter()
    readable = [i for i, kind in enumerate(kinds) if kind is None]
    report(scoring_process.NETWORK)
    probabilities = np.empty((0, len(bundle.classes)), np.float32)
    if readable:
        probabilities, failed = _probabilities(network, np.stack(pixels), len(bundle.classes))
        for i, error in failed.items():
            kinds[readable[i]], errors[readable[i]] = "engine", error
    ended = time.perf_counter()
    scored = np.array([kind is None for kind in kinds], dtype=bool)
    class_id = pd.array([None] * len(batch), dtype="Int8")
    class_id[scored] = probabilities.argmax(axis=1)
    rows = iter(probabilities)
    frame = pd.DataFrame({
        "tile_id": batch["tile_id"].to_numpy(), "county": batch["county"].to_numpy(),
        "year": batch["year"].to_numpy(), "model": bundle.checksum, "engine": network.name,
        "class_id": class_id, "probabilities": [next(rows) if ok else None for ok in scored],
        "error_kind": kinds, "error": errors})
    if CRC in batch:
        frame[CRC] = batch[CRC].to_numpy()
    return frame, decoded - started, ended - decoded


def _probabilities(network, pixels, classes):
    """Probabilities of the tiles that could be scored, and a sentence for each that could not, by its number."""
    try:
        probabilities = network.score(pixels)
    except InputError:
        raise
    except Exception as error:  # Each engine has errors of its own.
        if len(pixels) > 1:  # One of them may be the cause: each alone.
            alone = [_probabilities(network, pixels[i:i + 1], classes) for i in range(len(pixels))]
            return (np.concatenate([probabilities for probabilities, _ in alone]),
                    {i: failed[0] for i, (_, failed) in enumerate(alone) if failed})
        return np.empty((0, classes), np.float32), {
            0: "expected a score, got {}: {}. Try another engine.".format(
                type(error).__name__, " ".join(str(error).split())[:300].rstrip("."))}
    finite = np.isfinite(probabilities).all(axis=1)
    return probabilities[finite], {int(i): "expected a score, got values that are no numbers. Try another engine."
                                   for i in np.flatnonzero(~finite)}


def ship(spark, bundle):
    """Send a bundle to every node, once.

    Returns
    -------
    str
        Its name under ``pyspark.SparkFiles``.
    """
    # Spark refuses a second archive of the same name: so the name tells the model.
    name = "bundle-" + bundle.checksum
    key = (spark.sparkContext.applicationId, name)
    if key not in _shipped:
        # Executors fetch it when their first task starts, so the copy stays until this process ends. An archive,
        # for a folder of this machine can only be sent to itself; not compressed, for weights don't shrink.
        staging = tempfile.mkdtemp(prefix="bundle-")
        atexit.register(shutil.rmtree, staging, ignore_errors=True)
        path = Path(staging) / (name + ".zip")
        with zipfile.ZipFile(str(path), "w", zipfile.ZIP_STORED) as archive:
            for file in [bundles.FACTS] + sorted(bundle.facts["files"]):
                archive.write(str(bundle.folder / file), file)
        spark.sparkContext.addArchive("{}#{}".format(path, name))
        _shipped.add(key)
    return name


class _Sums:
    """How Spark adds up what the tasks count: arrays, number by number. A task that fails adds nothing."""

    @staticmethod
    def zero(value):
        return np.zeros_like(value)

    @staticmethod
    def addInPlace(one, other):
        return one + other


def score(spark, tiles_uri, bundle, predictions_uri, engine="fastest", county=None, years=None,
          partitions=None, chunk_tiles=None, replace=False):
    """Score the tiles of a store in parallel into the prediction table: those that have no row yet.

    Run again after whatever stopped it, it goes on; with nothing new it does nothing; when the store has grown it
    scores the new tiles, and those whose picture has changed.

    Parameters
    ----------
    spark : pyspark.sql.SparkSession
    tiles_uri : str
        The tile store.
    bundle : helpers.model.bundle.Bundle
    predictions_uri : str
        Folder of the table.
    engine : str
    county, years : optional
        Score only these; what the table has of others stays.
    partitions : int, optional
        Shuffle the tiles of a chunk into this many; by default as ``planning.plan`` cuts the files.
    chunk_tiles : int, optional
        Tiles that join the table together, and are scored again at most; by default ``planning.CHUNK_TILES`` a slot.
    replace : bool
        Delete a table of another model, engine or store first. Without it, such a table is refused.

    Returns
    -------
    int
        Rows of the tiles asked for: one for each. ``summary`` tells how many of them were scored now.

    Raises
    ------
    InputError
        If the store lacks the tiles, the folder holds another table, another job writes to it, or the disk is
        full.
    """
    job = _Job(spark, tiles_uri, bundle, predictions_uri, engine, partitions, chunk_tiles)
    chosen = job.choose(county, years)
    try:
        with predictions.Claim(job.table) as claim:
            job.claim = claim
            job.open(replace)
            job.run(chosen)
    except BaseException as error:  # Whoever stops it by hand finds that in the log, too.
        log.info("job stopped table=%s error=%s", shown(predictions_uri), type(error).__name__)
        if isinstance(error, Exception) and not isinstance(error, InputError):
            if _is_store_error(error):
                job.check_table()
                _raise_store_error(error, tiles_uri)
            raise_user_error(error)
        raise
    return sum(part["tiles"] for part in chosen)


def _is_store_error(error):
    """Whether a Spark job ended for a file of the store that can't be read."""
    if isinstance(error, FileNotFoundError):  # The driver's own: of what isn't a table's file it is no such error.
        return ".parquet" in str(error)
    return re.search(
        storage.AS_IT_WAS + r"|FileNotFoundException|Path does not exist|is not a Parquet file|Could not read footer|"
        r"CANNOT_READ_FILE|FAILED_READ_FILE|Encountered error while reading file|PATH_NOT_FOUND", str(error))


def _raise_store_error(error, tiles_uri):
    """Raise the sentence behind a store whose files can't be read."""
    # Not its query: a signed URI has its signature there.
    names = re.findall(r"(?:/|got )([^/\s?]+\.parquet)", str(error))
    raise InputError("expected every file of the tile store {} {}, got {} gone or damaged. Write its tiles again and "
                     "run the same command.".format(
                         shown(tiles_uri), storage.AS_IT_WAS, names[0] if names else "one")) from error


class _Job:
    """One run of ``score``."""

    def __init__(self, spark, tiles_uri, bundle, predictions_uri, engine, partitions, chunk_tiles):
        engine = engines.fastest(bundle) if engine == "fastest" else engine
        if engine not in engines.of(bundle):
            engines.load(bundle, engine)  # says what is wrong
        if chunk_tiles is not None and not chunk_tiles >= 1:
            raise InputError("expected chunks of 1 tile or more, got {}. Leave it out, or give more.".format(
                chunk_tiles))
        if partitions is not None and not partitions >= 1:
            raise InputError("expected 1 partition or more, got {}. Leave it out, or give more.".format(partitions))
        self.spark, self.tiles_uri, self.bundle, self.engine = spark, str(tiles_uri), bundle, engine
        self.partitions = partitions
        self.slots = spark.sparkContext.defaultParallelism
        self.chunk_tiles = chunk_tiles or planning.CHUNK_TILES * self.slots
        self.table = predictions.Table(predictions_uri)
        self.task_bytes = 64 << 20
        self.scored, self.is_damaged, self.id = 0, False, uuid.uuid4().hex
        self.counts = spark.sparkContext.accumulator(np.zeros(len(COUNTS)), _Sums)
        self.started = time.monotonic()

    def choose(self, county, years):
        """The store's manifests of these counties and years, each with its ``name`` and ``files``."""
        counties = None if county is None else {str(c) for c in ([county] if isinstance(county, str) else county)}
        self.stored = tilestore.partitions(self.tiles_uri)
        chosen = [m for m in self.stored
                  if (counties is None or m["county"] in counties) and (years is None or m["year"] in years)]
        if not chosen:
            raise InputError("expected tiles of county {}, years {} in {}, got {}. Prepare them in notebook "
                             "02_data_preparation.".format(county, years, shown(self.tiles_uri), ", ".join(
                                 "{county} {year}".format(**m) for m in self.stored)))
        return [dict(m, name=_name(m), files=self._fingerprint(m)) for m in chosen]

    def _fingerprint(self, manifest):
        """Changes with the names, sizes and times of a county's files."""
        folder = tilestore.partition_folder(self.tiles_uri, manifest["county"], manifest["year"])
        filesystem, path = storage.filesystem(folder)
        filesystem.invalidate_cache()
        found = []
        for info in filesystem.ls(path, detail=True):
            if info["name"].endswith(".parquet"):
                keys = ("mtime", "last_modified", "LastModified", "etag")  # what file systems call it
                changed = [str(info[key]) for key in keys if key in info]
                found.append([info["name"].rsplit("/", 1)[-1], info["size"], changed])
        return hashlib.sha256(json.dumps(sorted(found)).encode()).hexdigest()[:16]

    def open(self, replace):
        """Find what the table has, and see that it belongs to this model, engine and store."""
        table, state = self.table, self.table.state()
        lacking = sorted({name for chunk in state["chunks"] for name in chunk["tiles"]}
                         - set(map(_name, self.stored))) if state else []
        other = None
        if state is None and table.files():
            other = "one that was written in another way"
        elif state and (state["model"], state["engine"]) != (self.bundle.checksum, self.engine):
            other = "one of model {} in {}".format(state["model"], state["engine"])
        elif lacking:
            other = "one that also has {}, which the store lacks".format(lacking[0])
        if other and not replace:
            raise InputError("expected a prediction table of model {} in {}, or none, at {}, got {}. Choose "
                             "another folder, or replace=True to delete it.".format(
                                 self.bundle.checksum, self.engine, shown(table.uri), other))
        if other:
            log.info("table replaced table=%s was=%r", shown(table.uri), other)
            table.remove()
            state = None
        self.state = state or {"model": self.bundle.checksum, "engine": self.engine,
                               "classes": list(self.bundle.classes), "chunks": [], "pending": []}

    def run(self, chosen):
        table, done = self.table, {part["name"]: 0 for part in chosen}
        current = {part["name"]: part["files"] for part in chosen}
        for chunk in self.state["chunks"]:
            for name, tiles in chunk["tiles"].items():
                if current.get(name) == chunk["files_of"][name]:
                    done[name] += tiles
        todo = [part for part in chosen if done[part["name"]] != part["tiles"]]
        log.info("job begins table=%s model=%s engine=%s tiles=%d have_rows=%d", shown(table.uri),
                 self.bundle.checksum, self.engine, sum(part["tiles"] for part in chosen), sum(done.values()))
        if not todo and table.is_finished():
            log.info("nothing new table=%s", shown(table.uri))
            report_tiles(lambda: (0, 0, 0))
            return self._summarize(0)
        plan = self._look_at(todo)
        table.unfinish()
        # From here on the folder is this table's, and unfinished until all that any job was asked for has its
        # rows.
        self.state["pending"] = sorted(set(self.state["pending"]) & set(map(_name, self.stored))
                                       | {part["name"] for part in todo})
        table.write_json("table.json", self.state)
        table.remove_leftovers()
        scored = 0
        if todo:
            readable = [part for part in todo if part["names"] != []]
            with session.settings(self.spark, plan.settings):
                self._drop_outdated(readable)
                scored = self._score(readable) if readable else 0
        have = dict.fromkeys(current, 0)
        for chunk in self.state["chunks"]:
            for name in set(chunk["tiles"]) & set(have):
                have[name] += chunk["tiles"][name]
        lacking = [part for part in chosen if have[part["name"]] != part["tiles"]]
        if lacking:
            self._raise_damage(lacking)
            raise RuntimeError("expected rows {}, got {}".format({p["name"]: p["tiles"] for p in lacking}, have))
        self.claim.check()
        self.state["pending"] = sorted(set(self.state["pending"]) - set(have))
        self._summarize(scored)
        if not self.state["pending"]:
            table.finish()

    def _look_at(self, todo):
        """Plan the job by what the files of these counties and years say of themselves.

        Those that don't are put aside: each of ``todo`` gets the ``names`` of the others.

        Raises
        ------
        InputError
            If they hold other numbers of tiles than they should, or pieces that Java has no memory for.
        """
        groups = []
        for part in todo:
            found = tilestore.row_groups(self.tiles_uri, part)
            whole = {name: of for name, of in found.items() if of is not None}
            part["names"] = None if len(whole) == len(found) else sorted(whole)
            tiles = sum(rows for of in whole.values() for rows, _ in of)
            if part["names"] is None and tiles != part["tiles"]:
                raise InputError("expected {:,} tiles of county {county}, year {year} in the tile store {}, as its {} "
                                 "says, got {:,}. Write its tiles again.".format(
                                     part["tiles"], shown(self.tiles_uri), tilestore.MANIFEST, tiles, **part))
            groups += [pair for of in whole.values() for pair in of if pair[0]]
        largest, room = max((n_bytes for _, n_bytes in groups), default=0), self._java_bytes() // 2
        if largest > max(room, tilestore.ROW_GROUP_BYTES + pictures.MAX_BYTES):
            raise InputError("expected row groups of at most {} MB in the tile store {}, for which Java has memory, "
                             "got one of {} MB. Write its tiles again in smaller ones.".format(
                                 room >> 20, shown(self.tiles_uri), largest >> 20))
        plan = planning.plan(*tilestore.size(self.tiles_uri, todo), self.slots, self.bundle, self.engine,
                             self.chunk_tiles, max((n_bytes // rows for rows, n_bytes in groups), default=0))
        self.task_bytes = int(plan.settings["spark.sql.files.maxPartitionBytes"])
        return plan

    def _java_bytes(self):
        """The heap that a slot has."""
        context = self.spark.sparkContext
        if context.master.startswith("local"):
            return context._jvm.java.lang.Runtime.getRuntime().maxMemory() // self.slots
        known = context.getConf()
        return (context._jvm.org.apache.spark.network.util.JavaUtils.byteStringAsBytes(
            known.get("spark.executor.memory", "1g")) // int(known.get("spark.executor.cores", "1")))

    def _despite_damage(self, action):
        """Do something with the store's files; where one can't be read, again with what can be read of them."""
        try:
            return action()
        except Exception as error:
            if not _is_store_error(error):
                raise
            self.check_table()
            log.warning("store damaged tiles=%s", shown(self.tiles_uri))
            self.is_damaged = True
            self.spark.catalog.clearCache()
            self.table.remove_leftovers()
            with session.settings(self.spark, {"spark.sql.files.ignoreCorruptFiles": "true",
                                               "spark.sql.files.ignoreMissingFiles": "true"}), \
                    session.local_property(self.spark, storage.IGNORE_DAMAGED, "true"):
                return action()

    def check_table(self):
        """Say so if it is the table that has a damaged file: of no tile it is known then whether it has its row."""
        state = self.table.state()
        self.table.check([file for chunk in state["chunks"] for file in chunk["files"]] if state else [])

    def _raise_damage(self, lacking):
        """Say which files are the reason why tiles of these counties and years lack their row; else return."""
        names = ["county={county}/year={year}/{}".format(name, **part) for part in lacking
                 for name in tilestore.damaged(self.tiles_uri, part, tilestore.row_groups(self.tiles_uri, part))]
        if names:
            self._summarize(self.scored)
            raise InputError("expected every file of the tile store {} as it was written, got {} damaged: {}. All "
                             "other tiles have their row; write these again and run the same command.".format(
                                 shown(self.tiles_uri), len(names), ", ".join(names[:EXAMPLES]) + (
                                     ", …" if len(names) > EXAMPLES else "")))

    def _score(self, todo):
        """Score the tiles of these counties and years that have no row, chunk by chunk; how many were scored."""
        total = sum(part["tiles"] for part in todo)
        chunks, wanted = self._despite_damage(lambda: self._plan(todo, total))
        threads = int(self.spark.conf.get("spark.task.cpus", "1"))
        left = sum(piece["tiles"] for chunk in chunks for piece in chunk)
        shipped = ship(self.spark, self.bundle)
        report_tiles(lambda: (int(self.counts.value[TILES]), left, int(self.counts.value[ERRORS])))
        current = {part["name"]: part["files"] for part in todo}
        for number, pieces in enumerate(chunks, 1):
            frame = self._frame(pieces, wanted)
            if self.partitions is not None:
                frame = frame.repartition(self.partitions)
            before, jobs = self.counts.value.copy(), self._jobs()
            started = time.monotonic()
            scored = frame.mapInArrow(_on_worker(shipped, self.engine, threads, self.counts, self.id),
                                      PREDICTION_TYPE + ", {} bigint".format(CRC))
            name, paths = self._despite_damage(lambda: self._write(scored))
            counted = self.counts.value - before
            self._count_writing(jobs, counted[SLOT])
            expected = {}
            for piece in pieces:
                expected[_name(piece)] = expected.get(_name(piece), 0) + piece["tiles"]
            facts = self._check(paths, expected, self.is_damaged or counted[LEFT_OUT] > 0)
            if facts["tiles"]:
                self._join(name, paths, dict(facts, files_of={part: current[part] for part in expected}))
            self.scored += sum(facts["tiles"].values())
            seconds = time.monotonic() - started
            log.info("chunk joined number=%d of=%d tiles=%d errors=%d seconds=%.1f tiles_per_second=%.0f", number,
                     len(chunks), counted[TILES], counted[ERRORS], seconds, counted[TILES] / seconds)
            if counted[LEFT_OUT]:
                self._summarize(self.scored)
                raise InputError("expected scores from the engine {}, got none {} times one after another, for it hung "
                                 "or crashed. {:,} tiles of this chunk were left out, all others so far have their "
                                 "row; try another engine.".format(
                                     self.engine, scoring_process.IN_VAIN, int(counted[LEFT_OUT])))
        if wanted is not None:
            wanted.unpersist()
        return self.scored

    def _write(self, frame):
        """Let Spark write a chunk; its name and the paths of its files."""
        name = "chunk-" + uuid.uuid4().hex[:12]
        return name, self.table.write(frame, name)

    def _plan(self, todo, total):
        """Cut the tiles without a row into chunks.

        Returns
        -------
        chunks : list of list of dict
            Pieces ``county, year, tiles, first, last`` of consecutive ``tile_id``, with the ``names`` of the files that
            hold them; together a chunk.
        wanted : pyspark.sql.DataFrame or None
            The keys of these tiles; None where every tile of the pieces is one.
        """
        from pyspark.sql import Window
        from pyspark.sql import functions as F
        files = self._files_of(todo)
        if not files and total <= self.chunk_tiles and all(p.get("names") is None for p in todo):
            return [[dict(county=p["county"], year=p["year"], tiles=p["tiles"], first=None, last=None, names=None)
                     for p in todo]], None
        # A chunk reads its own files: Spark would start tasks for all the others, to find nothing in them.
        wanted, keys = None, self._read(todo, KEY_TYPE + ", file string")
        if files:
            rows = self._rows(files, KEY_TYPE)
            keys = wanted = keys.join(rows, KEYS, "left_anti").persist()
        order = Window.partitionBy("county", "year").orderBy("tile_id")
        piece = ((F.row_number().over(order) - 1) / self.chunk_tiles).cast("int")
        pieces = keys.select("*", piece.alias("piece")).groupBy("county", "year", "piece").agg(
            F.count("*").alias("tiles"), F.min("tile_id").alias("first"), F.max("tile_id").alias("last"),
            F.collect_set("file").alias("names"))
        chunks, room = [], 0
        for row in pieces.orderBy("county", "year", "piece").collect():
            piece = row.asDict()
            # Spark gives URIs.
            piece["names"] = sorted(unquote(name.rsplit("/", 1)[1]) for name in piece["names"])
            if piece["tiles"] > room:
                chunks.append([])
                room = self.chunk_tiles
            chunks[-1].append(piece)
            room -= piece["tiles"]
        return chunks, wanted

    def _read(self, parts, row_type=TILE_TYPE):
        """The store's tiles of counties and years; of pieces, those of their files. A column may be the ``file``."""
        from pyspark.sql import functions as F
        if is_azure(self.tiles_uri):
            return storage.read_parquet(self.spark, [file for part in parts for file in self._store_files(part)],
                                        row_type, self.task_bytes, may_lack=True)
        paths = []
        for part in parts:
            folder = tilestore.partition_folder(self.tiles_uri, part["county"], part["year"])
            names = part.get("names")
            paths += [folder] if names is None else ["{}/{}".format(folder, name) for name in names]
        columns = [column.split()[0] for column in row_type.split(", ")]
        return self.spark.read.schema(TILE_TYPE).option("basePath", self.tiles_uri).parquet(*paths).select(
            [F.input_file_name().alias("file") if name == "file" else name for name in columns])

    def _store_files(self, part):
        """Files of a county and year on Azure, or of a piece, as ``storage.read_parquet`` wants them."""
        folder = tilestore.partition_folder(self.tiles_uri, part["county"], part["year"])
        filesystem, path = storage.filesystem(folder)
        between = None if part.get("first") is None else ("tile_id", part["first"], part["last"])
        found = {info["name"].rsplit("/", 1)[-1]: info["size"] for info in filesystem.ls(path, detail=True)}
        return [{"uri": join(folder, name), "size": size, "between": between,
                 "constants": {"county": part["county"], "year": part["year"], "file": join(folder, name)}}
                for name, size in sorted(found.items())
                if name.endswith(".parquet") and name in (part.get("names") or found)]

    def _frame(self, pieces, wanted):
        """The tiles of a chunk, with the checksums of their pictures."""
        from pyspark.sql import functions as F

        def within(frame, piece):
            return frame if piece["first"] is None else frame.where(
                F.col("tile_id").between(piece["first"], piece["last"]))

        frame = _union(within(self._read([piece]), piece) for piece in pieces)
        if wanted is not None:
            chosen = _union(
                within(wanted.where((F.col("county") == piece["county"]) & (F.col("year") == piece["year"])), piece)
                for piece in pieces)
            # The keys travel to the pictures, not the pictures to the keys.
            frame = frame.join(F.broadcast(chosen), KEYS, "left_semi")
        return frame.select("tile_id", "image", "county", "year", _crc(F).alias(CRC))

    def _files_of(self, parts):
        """Files of the table with rows of these counties and years."""
        names = {part["name"] for part in parts}
        return [file for chunk in self.state["chunks"] if names & set(chunk["tiles"]) for file in chunk["files"]]

    def _rows(self, files, row_type=PREDICTION_TYPE + ", {} bigint".format(CRC)):
        """Rows of the table that are in some of its files."""
        uris = [join(self.table.uri, file) for file in files]
        if is_azure(self.table.uri):
            return storage.read_parquet(self.spark, [
                {"uri": uri, "size": self.table.filesystem.size(self.table.path(file)), "constants": {}}
                for uri, file in zip(uris, files)], row_type)
        return self.spark.read.parquet(*uris).select([column.split()[0] for column in row_type.split(", ")])

    def _drop_outdated(self, todo):
        """Take rows out of the table whose tile is gone from the store, or has another picture now."""
        from pyspark.sql import functions as F
        current = {part["name"]: part["files"] for part in todo}
        changed = [part for part in todo if any(
            chunk["files_of"].get(part["name"], part["files"]) != part["files"] for chunk in self.state["chunks"])]
        # Of what is damaged nobody knows whether it has changed.
        changed = [part for part in changed if part["names"] is None]
        if not changed:
            return
        files = self._files_of(changed)
        names = {part["name"] for part in changed}
        there = self._read(changed).select("county", "year", "tile_id", _crc(F).alias(CRC))
        rows = self._rows(files)
        is_changed = F.concat_ws(" ", "county", F.col("year").cast("string")).isin(sorted(names))
        outdated = rows.where(is_changed).select(KEYS + [CRC]).join(there, KEYS + [CRC], "left_anti").persist()
        count = outdated.count()
        if count:
            log.info("rows outdated table=%s rows=%d", shown(self.table.uri), count)
            name, paths = self._write(rows.join(F.broadcast(outdated), KEYS, "left_anti").select(rows.columns))
            facts = self._check(paths)
            old = [chunk for chunk in self.state["chunks"] if set(chunk["files"]) & set(files)]
            files_of = {part: of for chunk in old for part, of in chunk["files_of"].items() if part in facts["tiles"]}
            self._join(name, paths, dict(facts, files_of=files_of), instead_of=old)
        outdated.unpersist()
        # What is left belongs to the files as they are now.
        for chunk in self.state["chunks"]:
            chunk["files_of"].update({part: current[part] for part in set(chunk["files_of"]) & names})

    def _check(self, paths, expected=None, some_lack=False):
        """Read a new chunk back.

        Parameters
        ----------
        paths : list of str
            Its files.
        expected : dict, optional
            Tiles of each county and year.
        some_lack : bool
            Whether there may be fewer.

        Returns
        -------
        dict
            ``tiles`` of each county and year, ``classes`` and ``errors``, counted.
        """
        columns = KEYS + ["class_id", "error_kind", "error", "model", "engine"]
        # On Azure a chunk of which nothing could be read has no file.
        rows = ds.dataset(paths, format="parquet", filesystem=self.table.filesystem).to_table(
            columns=columns).to_pandas() if paths else pd.DataFrame(columns=columns)
        double = rows[rows.duplicated(KEYS)]
        if len(double):
            raise InputError("expected one tile of each name in the store {}, got {} twice in county {}, year {}. "
                             "Write the store again.".format(
                                 shown(self.tiles_uri), *double.iloc[0][["tile_id", "county", "year"]]))
        tiles = {_name({"county": county, "year": year}): int(count)
                 for (county, year), count in rows.groupby(["county", "year"]).size().items()}
        if expected is not None and tiles != expected and not (some_lack and all(
                count <= expected.get(name, 0) for name, count in tiles.items())):
            raise RuntimeError("expected rows {}, got {}".format(expected, tiles))
        self._check_engine(rows)
        failed = rows[rows["error_kind"].notna()]
        kinds = set(failed["error_kind"])
        if len(rows) >= BROKEN_TILES and len(failed) == len(rows) and kinds <= {"engine", "timeout"}:
            raise RuntimeError("the engine {} failed with all {} tiles of a chunk: {}".format(
                self.engine, len(rows), failed["error"].iloc[0]))
        classes = rows["class_id"].dropna().astype(int).value_counts()
        return {"tiles": tiles, "classes": {str(class_id): int(count) for class_id, count in classes.items()},
                "errors": {kind: {"tiles": len(part), "examples": _examples(part)}
                           for kind, part in failed.groupby("error_kind")}}

    def _check_engine(self, rows):
        """See that rows come from this table's model and engine, by the name that it gives itself on the workers."""
        if set(rows["model"]) - {self.bundle.checksum}:
            raise RuntimeError("expected rows of model {}, got {}".format(self.bundle.checksum, set(rows["model"])))
        names = set(rows["engine"][rows["error_kind"].isna()]) | {self.state.get("scored_by")} - {None}
        if len(names) > 1:
            raise InputError("expected rows of one engine, got {}. Let all workers have a GPU, or none, or choose "
                             "another folder.".format(" and ".join(sorted(names))))
        self.state["scored_by"] = names.pop() if names else None

    def _jobs(self):
        """Numbers of the Spark jobs that this thread has started."""
        context = self.spark.sparkContext
        return set(context.statusTracker().getJobIdsForGroup(context.getLocalProperty("spark.jobGroup.id")))

    def _count_writing(self, before, slot_s):
        """Count what Java spent on the tasks of a chunk beside what Python did: it writes when all rows are there."""
        context = self.spark.sparkContext
        context._jsc.sc().listenerBus().waitUntilEmpty()
        jobs = [context.statusTracker().getJobInfo(job) for job in self._jobs() - before]
        stages = sorted({stage for job in jobs if job for stage in job.stageIds})
        store = context._jsc.sc().statusStore()
        try:
            seconds = [store.lastStageAttempt(stage).executorRunTime() / 1000 for stage in stages]
        except Exception:  # Py4J's: Spark has forgotten the stage.
            return
        if seconds:
            # Where the tiles are shuffled, what comes before reads them.
            more = np.zeros(len(COUNTS))
            more[READ], more[WRITE], more[SLOT] = sum(seconds[:-1]), max(0, seconds[-1] - slot_s), 0
            more[SLOT] = more.sum()
            self.counts.add(more)

    def _join(self, name, paths, facts, instead_of=()):
        """Make a chunk part of the table, in one step."""
        self.claim.check()
        files = self.table.adopt(name, paths)
        self.state["chunks"] = [chunk for chunk in self.state["chunks"] if chunk not in instead_of]
        self.state["chunks"].append(dict(facts, files=files))
        self.table.write_json("table.json", self.state)
        for chunk in instead_of:
            for file in chunk["files"]:
                self.table.filesystem.rm(self.table.path(file))

    def _summarize(self, scored):
        """Write ``_scoring/summary.json``."""
        seconds = time.monotonic() - self.started
        classes, errors = dict.fromkeys(self.state["classes"], 0), {}
        for chunk in self.state["chunks"]:
            for class_id, count in chunk["classes"].items():
                classes[self.state["classes"][int(class_id)]] += count
            for kind, found in chunk["errors"].items():
                known = errors.setdefault(kind, {"tiles": 0, "examples": []})
                known["tiles"] += found["tiles"]
                known["examples"] = (known["examples"] + found["examples"])[:EXAMPLES]
        counts = self.counts.value
        result = {
            "model": self.bundle.checksum, "engine": self.engine, "tiles": sum(classes.values()) + sum(
                found["tiles"] for found in errors.values()), "scored_now": scored, "classes": classes,
            "errors": errors, "chunks": len(self.state["chunks"]), "chunk_tiles": self.chunk_tiles,
            "seconds": round(seconds, 2), "tiles_per_second": round(scored / seconds, 1), "slots": self.slots,
            "slot_seconds": {name: round(float(counts[i]), 2) for name, i in (
                ("start", START), ("read", READ), ("decode", DECODE), ("network", NETWORK), ("write", WRITE))}}
        result["slot_seconds"]["other"] = round(float(counts[SLOT] - counts[READ:SLOT].sum()), 2)
        self.table.write_json("table.json", self.state)
        self.table.write_json("summary.json", result)
        log.info("job ended table=%s tiles=%d scored_now=%d errors=%d seconds=%.1f", shown(self.table.uri),
                 result["tiles"], scored, sum(found["tiles"] for found in errors.values()), seconds)


def _name(part):
    """How a county and year are called in ``table.json``."""
    return "{} {}".format(part["county"], part["year"])


def _union(frames):
    """All rows of Spark DataFrames with the same columns."""
    return reduce(lambda one, other: one.union(other), frames)


def _crc(F):
    """The checksum of a picture as a column; -1 where there is none."""
    return F.coalesce(F.crc32("image"), F.lit(-1))


def _on_worker(shipped, engine, threads, counts, job):
    """The function that Spark runs on a worker: batches to its process, rows back, and what there is to count."""
    def run(batches):
        import pyarrow as pa
        from pyspark import SparkFiles
        process = scoring_process.kept(SparkFiles.get(shipped), engine, threads, job)
        names = scoring_process.TILES.names
        counted, clock = np.zeros(len(COUNTS)), time.perf_counter
        begun = last = clock()
        before = process.decode_s, process.network_s, process.start_s
        for batch in batches:
            counted[READ] += clock() - last
            rows = process.score(pa.RecordBatch.from_arrays([batch.column(name) for name in names],
                                                            schema=scoring_process.TILES))
            counted[TILES] += len(rows)
            counted[LEFT_OUT] += len(batch) - len(rows)
            counted[ERRORS] += len(rows) - rows.column("error_kind").null_count
            started = clock()
            yield rows
            last = clock()
            # Spark takes the rows here, and writes them in another thread while it reads on.
            counted[WRITE] += last - started
        counted[READ] += clock() - last
        spent = process.decode_s, process.network_s, process.start_s
        counted[[DECODE, NETWORK, START]] = np.subtract(spent, before)
        counted[SLOT] = clock() - begun
        counts.add(counted)
        session.ready_worker()

    return run

"""Parallel scoring: the work of an executor on a unit of tiles, and the Spark job around it.

A unit is one row group of the tile store. Its name is a hash of its pictures, the model and the engine. So a job that
was stopped continues with the units whose file is missing, and scores changed pictures again (``cluster.work``).
**Every tile ends as exactly one row, whatever happens in between.**
"""

import functools
import logging
import time
import uuid
from collections import Counter

import pyarrow as pa

from helpers import DamagedFile, InputError
from helpers.cluster import adapter, work
from helpers.cluster.progress import progress
from helpers.land.grid import TILE_PX
from helpers.model import bundle as bundles
from helpers.model import engines
from helpers.scoring import guard, table
from helpers.tiles import store
from helpers.uri import absolute, shown

# The most tiles and bytes that a worker reads at a time.
BATCH_TILES, BATCH_BYTES = 64, 16 << 20
# The most files that an error message names.
NAMED = 3
# If all tiles of a unit fail, and it has at least this many, the engine is at fault and not the tiles.
BROKEN_TILES = 16
STAGES = ("load", "read", "decode", "network", "write")

log = logging.getLogger(__name__)


def _rows(tile_ids, scored, model):
    n = len(scored.rows)
    class_id, probabilities, error_kind, error = zip(*scored.rows)
    return pa.table([pa.array(tile_ids, pa.string()), [model] * n, [scored.engine] * n, class_id,
                     pa.array(probabilities, pa.list_(pa.float32())), error_kind, error], schema=table.SCHEMA)


def units(uri: str, parts: list, model: str, engine: str):
    """The units of work in ``parts`` of a store (manifests of counties and years), read from the files' footers.

    Returns
    -------
    units : for each name ``uri`` and ``group`` (number of the row group), ``tiles``, ``batch_tiles``, ``year``.
    damaged : names of the files whose footer can't be read.
    """
    found, damaged = {}, []
    for part in parts:
        files, unreadable = store.files(uri, part)
        damaged += unreadable
        folder = store.partition_name(part)
        for file in files:
            for group, tiles in enumerate(file["rows"]):
                if not tiles:
                    continue
                # Files of other programs have no digest of pictures. Their name, size and time of change replace it.
                reads = file["pictures"][group] if file["pictures"] else [file["name"], file["changed"], group]
                name = work.name(folder, reads, model, engine)
                if name in found:
                    raise InputError(f"expected one tile of each name in the tile store {shown(uri)}, got the same "
                                     f"tiles twice in {folder}, in {file['name']} and another file. Remove one of "
                                     "these files.")
                mean = max(1, file["bytes"][group] // tiles)
                found[name] = {"uri": file["uri"], "group": group, "tiles": tiles, "year": part["year"],
                               "dictionary": file["dictionary"],
                               "batch_tiles": int(max(1, min(BATCH_TILES, BATCH_BYTES // mean)))}
    return found, damaged


def score_unit(unit: dict, shipped: str, model: str, engine: str, threads: int, job: str):
    """Score one of ``units`` on an executor: its rows (``table.SCHEMA``), facts for the footer, and seconds by stage.

    ``shipped`` is the name of the bundle under ``pyspark.SparkFiles``, ``model`` its checksum, and ``job`` a name that
    changes with each job.
    """
    from pyspark import SparkFiles
    network = guard.kept(SparkFiles.get(shipped), engine, threads, job)
    parts, seconds, begun = [], dict.fromkeys(STAGES[:-1], 0.0), time.perf_counter()
    options = {"buffer_size": BATCH_BYTES, "read_dictionary": ["image"] if unit["dictionary"] else None}
    with work.opened(unit["uri"], **options) as tiles:
        for batch in tiles.iter_batches(unit["batch_tiles"], [unit["group"]], ["tile_id", "image"]):
            ids, images = batch.column("tile_id"), _images(batch.column("image"))
            seconds["read"] += time.perf_counter() - begun
            # A folder of pictures, which has the year 0, may have pictures of any size.
            scored = network.score(images, TILE_PX if unit["year"] else None)
            parts.append(_rows(ids, scored, model))
            for stage, spent in scored.seconds.items():
                seconds[stage] += spent
            begun = time.perf_counter()
    rows = pa.concat_tables(parts)
    _check(rows, unit, engine)
    return rows, table.facts_of(rows), seconds


def _images(column):
    """Encoded pictures of a column. If many tiles have the same picture, it is in memory only once."""
    if not isinstance(column, pa.DictionaryArray):
        return column.to_pylist()
    pictures = column.dictionary.to_pylist()
    return [None if number is None else pictures[number] for number in column.indices.to_pylist()]


def _check(rows, unit, engine):
    """Raise an InputError if a tile is missing, unnamed or double, or if the engine has failed with all tiles."""
    ids, uri = rows["tile_id"], shown(unit["uri"])
    try:
        ids.validate(full=True)
    except pa.ArrowInvalid as error:
        raise InputError(f"expected tile ids in UTF-8 in {uri}, got others. Write this file again.") from error
    if ids.null_count:
        raise InputError(f"expected a tile_id in every row of {uri}, got rows without one. Write this file again.")
    if len(ids.unique()) != unit["tiles"]:
        double, _ = Counter(ids.to_pylist()).most_common(1)[0]
        raise InputError(f"expected one tile of each name in {uri}, got {double} twice. Write this file again.")
    kinds = set(rows["error_kind"].to_pylist())
    if len(rows) >= BROKEN_TILES and kinds <= {"engine", "timeout", "crash"}:
        raise InputError(f"expected scores from the engine {engine}, but it failed with all {len(rows)} tiles of a "
                         f"unit: {rows['error'][0].as_py()}")


def ship(spark, bundle) -> str:
    """Send a bundle to every node, once, and return its name under ``pyspark.SparkFiles``."""
    name = f"bundle-{bundle.checksum}"  # Spark refuses a second archive of the same name, so each model has its own.
    adapter.ship(spark, bundle.folder, [bundles.FACTS, *bundle.facts["files"]], name)
    return name


def score(spark, tiles_uri: str, bundle, predictions_uri: str, engine: str = "fastest", county=None, years=None,
          tasks=None, replace: bool = False) -> int:
    """Score in parallel the tiles of a store that have no row in a prediction table yet.

    If a job was stopped, the same call continues it. If the store has grown or changed, the job scores the new tiles
    and those whose picture has changed.

    Parameters
    ----------
    county, years : score only these; rows of others stay in the table.
    tasks : Spark tasks that share the units; the default is that of ``work.run``.
    replace : delete a table of another model or engine first. Without it, such a table is refused.

    Returns
    -------
    The number of rows of the chosen tiles; ``table.summary`` says how many of them were scored now.
    """
    started, tiles_uri, predictions_uri = time.monotonic(), absolute(tiles_uri), absolute(predictions_uri)
    if tasks is not None and not tasks >= 1:
        raise InputError(f"expected 1 task or more, got {tasks}. Leave it out, or give more.")
    stored = store.partitions(tiles_uri)
    chosen = _chosen(stored, tiles_uri, county, years)
    if engine == "fastest":  # An unfinished table keeps its engine, even if the job continues on another machine.
        engine = table.engine_of(predictions_uri, bundle.checksum) or fastest(spark, bundle)
    if engine not in engines.of(bundle):
        engines.load(bundle, engine)  # This raises the error that says why.
    table.begin(predictions_uri, bundle.checksum, engine, bundle.classes, replace)
    _kept(predictions_uri, tiles_uri, stored, chosen)
    wanted, damaged = units(tiles_uri, chosen, bundle.checksum, engine)
    tiles = sum(unit["tiles"] for unit in wanted.values())
    if not tiles and not damaged:
        raise InputError(f"expected tiles to score in {shown(tiles_uri)}, got none. Write the tiles again.")
    log.info("job begins table=%s model=%s engine=%s units=%d tiles=%d", shown(predictions_uri), bundle.checksum,
             engine, len(wanted), tiles)
    done = _run(spark, wanted, bundle, engine, predictions_uri, tasks)
    _raise_failed(done.failed, wanted, damaged, tiles_uri)
    kept = _kept(predictions_uri, tiles_uri, stored, chosen)  # Another job may have finished other counties meanwhile.
    counted = table.count(predictions_uri, {name: unit["tiles"] for name, unit in wanted.items()}, kept, bundle.classes)
    seconds = time.monotonic() - started
    table.finish(predictions_uri, dict(
        counted, model=bundle.checksum, engine=engine,
        engine_ms=_measured.get((adapter.application(spark), bundle.checksum), {}), units=sorted({*wanted, *kept}),
        scored_now=done.rows, seconds=round(seconds, 2), tiles_per_second=round(done.rows / seconds, 1),
        slots=adapter.slots(spark), slot_seconds={
            stage: round(done.seconds.get(stage, 0), 2) for stage in STAGES}), map(store.partition_name, chosen))
    log.info("job ended table=%s tiles=%d scored_now=%d seconds=%.1f", shown(predictions_uri), counted["tiles"],
             done.rows, seconds)
    return tiles


# Milliseconds of a tile in each measured engine, by application and model.
_measured = {}


def fastest(spark, bundle) -> str:
    """The fastest engine that a bundle allows, measured on one slot of the cluster."""
    if not set(engines.of(bundle)) & set(engines.JUDGED):
        return "onnxruntime"
    key = adapter.application(spark), bundle.checksum
    if key not in _measured:
        shipped, threads = ship(spark, bundle), adapter.threads(spark)

        def measure():
            from pyspark import SparkFiles
            return guard.seconds(SparkFiles.get(shipped), threads)

        took, = work.ask(spark, measure)
        _measured[key] = {name: round(1e3 * seconds, 2) for name, seconds in took.items()}
        log.info("engines measured model=%s ms=%s", bundle.checksum, _measured[key])
    return min(_measured[key], key=_measured[key].get, default="onnxruntime")


def _chosen(stored, uri, county, years):
    """The store's manifests of the chosen counties and years."""
    counties = [county] if isinstance(county, str) else county
    chosen = [part for part in stored if (counties is None or part["county"] in set(map(str, counties)))
              and (years is None or part["year"] in years)]
    if not chosen:
        raise InputError(f"expected tiles of county {county or 'any'}, years {years or 'any'} in {shown(uri)}, got "
                         f"{', '.join('{county} {year}'.format(**part) for part in stored)}. Prepare them in notebook "
                         "02_data_preparation.")
    return chosen


def _kept(predictions_uri, tiles_uri, stored, chosen):
    """Units of a finished table in counties and years that this job does not score."""
    before = table.manifest(predictions_uri) or {"units": []}
    lacking = {name.rpartition("/")[0] for name in before["units"]} - set(map(store.partition_name, stored))
    if lacking:
        raise InputError(f"expected a table of the tiles in {shown(tiles_uri)} at {shown(predictions_uri)}, got one "
                         f"that also has {min(lacking)}, which the store lacks. Choose another folder.")
    scored = set(map(store.partition_name, chosen))
    return {name for name in before["units"] if name.rpartition("/")[0] not in scored}


def _run(spark, wanted, bundle, engine, uri, tasks):
    there = work.names(uri) & set(wanted)
    left = sum(unit["tiles"] for name, unit in wanted.items() if name not in there)
    work_on = functools.partial(score_unit, shipped=ship(spark, bundle) if left else None, model=bundle.checksum,
                                engine=engine, threads=adapter.threads(spark), job=uuid.uuid4().hex)
    errors = {}

    def watch(names):
        for name, facts in work.facts(uri, names - there - set(errors)).items():
            errors[name] = sum(one["tiles"] for one in facts["errors"].values())
        show(sum(wanted[name]["tiles"] for name in errors), sum(errors.values()))

    with progress("scoring", left) as show:
        return work.run(spark, wanted, work_on, uri, watch, tasks)


def _raise_failed(failed, wanted, damaged, uri):
    """Report the units that could not be scored, and why. All others are done."""
    for error in failed.values():
        if not isinstance(error, DamagedFile):
            raise error
    damaged = sorted({*damaged, *("/".join(wanted[name]["uri"].rsplit("/", 3)[1:]) for name in failed)})
    if damaged:
        raise DamagedFile(f"expected the files of the tile store {shown(uri)} to be unchanged, got {len(damaged)} "
                          f"damaged: {', '.join(damaged[:NAMED])}{', …' if len(damaged) > NAMED else ''}. All other "
                          "tiles have their row. Write the damaged files again and run the same command.")

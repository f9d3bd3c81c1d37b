"""The prediction table: a folder of Parquet files that any reader opens as a partitioned table.

The files ``county=…/year=…/<unit>.parquet`` have one row for each tile. The first job writes ``_table.json``, which
names the table's model and engine. A job writes ``_manifest.json`` last, when every tile has its row. It lists the
table's units, and ``read`` reads only these.
"""

import json
import re
from collections import Counter

import pandas as pd
import pyarrow as pa

from helpers import InputError
from helpers.cluster import work
from helpers.files import NOT_JSON, create, filesystem, is_full, read_json, remove as remove_file, write_whole
from helpers.tiles.store import MANIFEST, TABLE
from helpers.uri import join, shown

SCHEMA = pa.schema([
    ("tile_id", pa.string()), ("model", pa.string()), ("engine", pa.string()), ("class_id", pa.int8()),
    ("probabilities", pa.list_(pa.float32())), ("error_kind", pa.string()), ("error", pa.string())])
KEYS = ["county", "year", "tile_id"]
COLUMNS = KEYS + SCHEMA.names[1:]
_UNIT = re.compile(r"county=[^/]+/year=\d+/[0-9a-f]{20}")
# The most examples that the summary shows for each kind of error.
EXAMPLES = 3
DELETE = "Delete it and run the same command: its tiles are scored again."


def begin(uri: str, model: str, engine: str, classes, replace: bool = False):
    """Begin a table of a model and engine in a folder, or continue the table that is already there."""
    found = _table(uri)
    if found is not None and (found["model"], found["engine"]) != (model, engine) and replace:
        remove(uri)
        found = None
    elif found is None:
        _check_folder(uri)
    if found is None:
        about = {"model": model, "engine": engine, "classes": list(classes)}
        try:
            return create(join(uri, TABLE), json.dumps(about, indent=1).encode())
        except FileExistsError:  # Another job has begun it meanwhile.
            found = _table(uri)
        except OSError as error:
            if is_full(error):
                raise
            raise InputError(f"expected a folder to write a prediction table to at {shown(uri)}, got: "
                             f"{error.strerror}. Choose another.") from error
    if (found["model"], found["engine"]) != (model, engine):
        raise InputError(f"expected a prediction table of model {model} and engine {engine}, or none, at {shown(uri)}, "
                         f"got one of model {found['model']} and engine {found['engine']}. Choose another folder, "
                         "or delete this table with replace=True (score_tiles.py: --replace).")


def engine_of(uri: str, model: str):
    """The engine of the table in a folder, if it belongs to this model; else None."""
    found = _table(uri)
    return found["engine"] if found is not None and found["model"] == model else None


def _table(uri):
    try:
        found = read_json(join(uri, TABLE))
        if found is None or {"model", "engine"} <= set(found):
            return found
    except (*NOT_JSON, TypeError):
        pass
    raise InputError(f"expected a prediction table at {shown(uri)}, got a {TABLE} of another program. Choose another "
                     "folder.")


def _check_folder(uri):
    """Refuse a file, and a folder with Parquet files or a manifest of another program."""
    system, path = filesystem(uri)
    system.invalidate_cache()
    came = None
    if system.isfile(path):
        came = "a file"
    elif any(name.endswith(".parquet") for name in system.find(path)):
        came = "Parquet files that no job of this program has written there"
    elif system.exists(join(path, MANIFEST)):
        came = f"a {MANIFEST} of another program"
    if came:
        raise InputError(f"expected the folder of a prediction table, or none, at {shown(uri)}, got {came}. Choose "
                         "another folder.")


def remove(uri: str):
    """Remove a table's own files, and nothing else: first the manifest, then the units, at last the table's name."""
    remove_file(join(uri, MANIFEST))
    work.keep_only(uri, ())
    remove_file(join(uri, TABLE))


def facts_of(rows: pa.Table) -> dict:
    """Facts about a unit's rows for its footer, from which ``count`` makes the summary."""
    rows = rows.drop_columns(["probabilities"]).to_pandas()
    failed = rows[rows["error_kind"].notna()]
    return {"classes": {str(int(class_id)): int(tiles) for class_id, tiles in rows["class_id"].value_counts().items()},
            "errors": {kind: {"tiles": len(part),
                              "examples": part[["tile_id", "error"]].head(EXAMPLES).to_dict("records")}
                       for kind, part in failed.groupby("error_kind")},
            "engines": sorted(set(rows["engine"][rows["error_kind"].isna()]))}


def count(uri: str, wanted: dict, kept, classes) -> dict:
    """Tiles of a table's units, by class and by kind of error, from their footers.

    ``wanted`` has the number of tiles of each unit, and ``kept`` names more units. An InputError reports missing rows,
    and rows of different engines.
    """
    found = work.facts(uri, {*wanted, *kept}, DELETE)
    for name, tiles in wanted.items():
        if found[name]["rows"] != tiles:
            raise InputError(f"expected {tiles} rows in {name}.parquet of the table {shown(uri)}, got "
                             f"{found[name]['rows']}. Delete this file and run the same command.")
    counts, errors, engines = Counter(), {}, set()
    for _, facts in sorted(found.items()):
        counts.update(facts["classes"])
        engines.update(facts["engines"])
        for kind, one in facts["errors"].items():
            known = errors.setdefault(kind, {"tiles": 0, "examples": []})
            known["tiles"] += one["tiles"]
            examples = sorted(known["examples"] + one["examples"], key=lambda example: example["tile_id"])
            known["examples"] = examples[:EXAMPLES]
    if len(engines) > 1:
        raise InputError(f"expected rows of one engine, got {' and '.join(sorted(engines))}. Let all workers have a "
                         "GPU, or none, or choose another folder.")
    return {"tiles": sum(facts["rows"] for facts in found.values()), "errors": dict(sorted(errors.items())),
            "classes": {name: counts[str(class_id)] for class_id, name in enumerate(classes)}}


def finish(uri: str, manifest: dict, folders):
    """Declare a table finished, and remove from some of its folders the units that are no longer part of it."""
    write_whole(join(uri, MANIFEST), json.dumps(manifest, indent=1).encode())
    work.keep_only(uri, manifest["units"], folders)


def manifest(uri: str) -> dict:
    """The manifest of the last finished job, or None."""
    try:
        found = read_json(join(uri, MANIFEST))
    except NOT_JSON:
        return None
    if found is None:
        return None
    units = found.get("units") if isinstance(found, dict) else None
    strange = [repr(name) for name in units if not _UNIT.fullmatch(str(name))] if isinstance(units, list) else ["none"]
    if strange:
        raise InputError(f"expected files of the table {shown(uri)} in its {MANIFEST}, got {strange[0]}. Delete "
                         f"{MANIFEST} and run the same command.")
    return found


def summary(uri: str) -> dict:
    """Facts about a finished table and its last job.

    ``tiles`` in the table, ``scored_now``, ``classes`` with their counts, ``errors`` by kind with their number and up
    to three examples, ``seconds``, ``tiles_per_second``, ``engine_ms``: milliseconds of a tile in each engine that was
    measured, and ``slot_seconds``: the seconds that the slots spent in each stage.
    """
    found = manifest(uri)
    if found is None:
        raise InputError(f"expected a finished prediction table at {shown(uri)}, got none. Run notebook "
                         "05_parallel_scoring.")
    return found


def files(uri: str) -> list:
    """``(county, year, URI)`` of each file of a finished table."""
    found = []
    for name in summary(uri)["units"]:
        county, year, _ = name.split("/")
        found.append((county[len("county="):], int(year[len("year="):]), join(uri, name + ".parquet")))
    return found


def read(uri: str, columns=None, classes=None) -> pd.DataFrame:
    """Read a finished prediction table on the driver, in order of county, year and ``tile_id``.

    ``classes`` are the names that the reader expects; a table of others is refused.
    """
    found = (_table(uri) or {}).get("classes", classes)
    if classes is not None and list(found) != list(classes):
        raise InputError(f"expected predictions of the classes {', '.join(classes)} in {shown(uri)}, got those of "
                         f"{', '.join(found)}. Score the tiles with a model of the expected classes.")
    wanted = list(columns or COLUMNS)
    inside, frames = [name for name in wanted if name in SCHEMA.names], []
    for county, year, file_uri in files(uri):
        with work.opened(file_uri, DELETE) as file:
            frames.append(file.read(columns=inside).to_pandas().assign(county=county, year=year))
    table = pd.concat(frames, ignore_index=True) if frames else pd.DataFrame(columns=COLUMNS)
    return table.sort_values([key for key in KEYS if key in wanted], ignore_index=True)[wanted]


def as_text(summary: dict) -> str:
    """The summary of a job as lines of text."""
    def counted(counts):
        return ", ".join(f"{name} {count:,}" for name, count in counts.items())

    errors = {kind: one["tiles"] for kind, one in summary["errors"].items()}
    lines = ["{scored_now:,} tiles scored in {seconds:.0f} s, {tiles_per_second:.0f} a second; {tiles:,} in the table."
             .format(**summary) if summary["scored_now"] else
             f"Nothing new: all {summary['tiles']:,} tiles already have a row.",
             "Classes: " + counted(summary["classes"]), "Errors: " + (counted(errors) or "none")]
    lines += [f"  {kind}, {_on_one_line(example['tile_id'])}: {example['error']}"
              for kind, one in summary["errors"].items() for example in one["examples"]]
    if summary.get("engine_ms"):
        lines.append(f"Engine: {summary['engine']}. Milliseconds for a tile, measured on one slot: " + ", ".join(
            f"{name} {ms:.1f}" for name, ms in sorted(summary["engine_ms"].items(), key=lambda one: one[1])))
    spent = {name: seconds for name, seconds in summary["slot_seconds"].items() if seconds > 0}
    if spent:
        lines.append("Share of the slots' time in each stage (load is loading the network): " + ", ".join(
            f"{name} {seconds / sum(spent.values()):.0%}" for name, seconds in spent.items()))
    return "\n".join(lines)


def _on_one_line(text):
    """A name unchanged, or escaped if it has line breaks or other control characters."""
    return text if text.isprintable() else ascii(text)

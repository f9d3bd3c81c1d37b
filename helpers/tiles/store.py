"""The tile store: tiles in and out of Parquet.

A store is a Parquet dataset on any URI of ``storage``, one folder for each ``county`` and ``year``. A folder is
finished when it holds ``_manifest.json``, which is written last; what lies there without one is ignored and
written anew.
"""

import json
from concurrent.futures import ThreadPoolExecutor

import pandas as pd
import pyarrow as pa
import pyarrow.dataset as ds
import pyarrow.parquet as pq

from helpers import InputError, files as storage
from helpers.uri import join, shown
from helpers.land.classes import CLASS_NAMES
from helpers.tiles.pictures import CODEC

# Tiles that a file holds as one piece, some 50 to 100: what a task of a scoring job takes is a number of whole pieces.
ROW_GROUP_BYTES, ROW_GROUP_TILES = 4 << 20, 256
# A label is trusted for training when this share of the tile's NLCD pixels carries it.
PURE = 0.9
SCHEMA = pa.schema([
    ("tile_id", pa.string()), ("row", pa.int32()), ("col", pa.int32()),
    ("scene_id", pa.string()), ("acquired", pa.string()), ("image", pa.binary()),
    ("label", pa.int8()), ("group", pa.int8()), ("purity", pa.float32()), ("nine_point", pa.int8()),
    ("split", pa.string()),
])
PARTITIONS = pa.schema([("county", pa.string()), ("year", pa.int32())])
MANIFEST = "_manifest.json"


def partition_folder(uri, county, year):
    """Where the tiles of a county and year lie in a store."""
    return "{}/county={}/year={}".format(str(uri).rstrip("/"), county, year)


def manifest(uri, county, year, required=()):
    """What is known of a finished county and year.

    Parameters
    ----------
    uri : str
        The store.
    county : str
    year : int
    required : list of str
        Keys without which the caller can't go on.

    Returns
    -------
    dict or None
        JSON values; None where it isn't finished and nothing is required.

    Raises
    ------
    InputError
        If something is required and isn't there.
    """
    facts = _manifest(uri, county, year)
    missing = [key for key in required if key not in (facts or {})]
    if missing:
        raise InputError("expected {} in {}/{}, got {}. {}.".format(
            ", ".join(required), shown(partition_folder(uri, county, year)), MANIFEST,
            "no such file" if facts is None else "none of " + ", ".join(missing),
            "Prepare this county and year in notebook 02_data_preparation" if facts is None else "Add them"))
    return facts


def _manifest(uri, county, year):
    path = partition_folder(uri, county, year) + "/" + MANIFEST
    filesystem, path = storage.filesystem(path)
    return _read_json(filesystem, path) if filesystem.exists(path) else None


def _read_json(filesystem, path):
    """A manifest.

    Raises
    ------
    InputError
        If it isn't whole, or lacks what each must have.
    """
    try:
        facts = json.loads(filesystem.cat_file(path).decode())
        if all(isinstance(facts[name], kind) for name, kind in (("county", str), ("year", int), ("tiles", int))):
            return facts
        came = "one with other kinds of values"
    except KeyError as error:
        came = "one without {}".format(error)
    except (ValueError, TypeError):
        came = "one that is cut off"
    raise InputError("expected a manifest with county, year and tiles at {}, got {}. Write the tiles of this county "
                     "and year again.".format(shown(path), came))


def write_manifest(uri, county, year, **facts):
    """Declare a county and year finished.

    Parameters
    ----------
    uri : str
        The store.
    county : str
    year : int
    **facts
        JSON values to keep: at least ``tiles``, the number of rows written.
    """
    facts = dict(facts, county=str(county), year=int(year))
    facts.setdefault("codec", CODEC)
    facts.setdefault("classes", list(CLASS_NAMES))
    filesystem, path = storage.filesystem(partition_folder(uri, county, year) + "/" + MANIFEST)
    filesystem.pipe_file(path, json.dumps(facts, indent=1, sort_keys=True).encode())


def remove_manifest(uri, county, year):
    """Declare a county and year unfinished, before its tiles are written anew."""
    filesystem, path = storage.filesystem(partition_folder(uri, county, year) + "/" + MANIFEST)
    if filesystem.exists(path):
        filesystem.rm(path)


def keep_only(uri, wanted):
    """Declare every county and year unfinished that isn't wanted: what an earlier run has left is no part of this one.

    Parameters
    ----------
    uri : str
        The store; it need not be there yet.
    wanted : list of tuple
        ``(county, year)``.
    """
    wanted = {(str(county), int(year)) for county, year in wanted}
    for part in _manifests(uri):
        if (part["county"], part["year"]) not in wanted:
            remove_manifest(uri, part["county"], part["year"])


def _manifests(uri):
    """Those of all finished counties and years, in order."""
    filesystem, path = storage.filesystem(str(uri))
    names = sorted(filesystem.glob(path.rstrip("/") + "/county=*/year=*/" + MANIFEST))
    return [_read_json(filesystem, name) for name in names]


def partitions(uri):
    """The finished counties and years of a store.

    Returns
    -------
    list of dict
        Their manifests, in order of county and year.

    Raises
    ------
    InputError
        If there is no store, or nothing in it is finished.
    """
    found = _manifests(uri)
    if not found:
        raise InputError("expected a tile store at {}, got no finished county and year there. Run notebook "
                         "02_data_preparation, or give the URI of a store of your own.".format(shown(uri)))
    return found


def size(uri, parts=None):
    """Number of tiles of a store, and bytes of their files.

    Parameters
    ----------
    uri : str
    parts : list of dict, optional
        Manifests of the counties and years to count; all by default.

    Returns
    -------
    tiles, n_bytes : int
    """
    parts = partitions(uri) if parts is None else parts
    filesystem, _ = storage.filesystem(str(uri))
    folders = [storage.filesystem(partition_folder(uri, part["county"], part["year"]))[1] for part in parts]
    return sum(part["tiles"] for part in parts), sum(map(filesystem.du, folders))


def row_groups(uri, part):
    """What the files of a county and year say of themselves: nothing but their ends is read.

    Parameters
    ----------
    uri : str
    part : dict
        Its manifest.

    Returns
    -------
    dict
        For each file's name, ``(rows, bytes)`` of its row groups, bytes as Java holds them; None of a file that is
        damaged.
    """
    filesystem, folder = storage.filesystem(partition_folder(uri, part["county"], part["year"]))
    filesystem.invalidate_cache()
    paths = sorted(path for path in filesystem.ls(folder, detail=False) if path.endswith(".parquet"))

    def look(path):
        try:
            with filesystem.open(path, "rb") as file:
                facts = pq.ParquetFile(file).metadata
                groups = [facts.row_group(i) for i in range(facts.num_row_groups)]
                return [(group.num_rows, group.total_byte_size) for group in groups]
        except Exception as error:
            if not storage.is_damage(error):
                raise
            return None

    with ThreadPoolExecutor(16) as threads:  # Over a network a file's end is a wait and nothing else.
        return {path.rsplit("/", 1)[-1]: groups for path, groups in zip(paths, threads.map(look, paths))}


def damaged(uri, part, names):
    """Those of some files of a county and year that can't be read to their end.

    Returns
    -------
    list of str
    """
    folder = partition_folder(uri, part["county"], part["year"])
    found = set(storage.damaged([join(folder, name) for name in names], ["tile_id", "image"]))
    return [name for name in names if join(folder, name) in found]


def classes(uri):
    """Names of the classes that the labels of a store stand for, in order of ``class_id``."""
    return tuple(partitions(uri)[0]["classes"])


def read(uri, county=None, year=None, split=None, columns=None, row=None):
    """Read tiles on the driver. Spark reads the same folders by itself.

    Parameters
    ----------
    uri : str
        The store.
    county, year, split : optional
        Keep only these.
    columns : list of str, optional
        Columns to read; all by default.
    row : int, optional
        Only the tiles of this row of the grid.

    Returns
    -------
    pandas.DataFrame
        In order of county, year and ``tile_id``; ``county`` and ``year`` are columns too.

    Raises
    ------
    InputError
        If the store lacks what was asked for; the message lists what it has.
    """
    chosen = [m for m in partitions(uri)
              if (county is None or m["county"] == str(county)) and (year is None or m["year"] == int(year))]
    frames = []
    filesystem, _ = storage.filesystem(str(uri))
    keys = ["tile_id"] + (["split"] if split is not None else [])
    wanted = None if columns is None else list(dict.fromkeys(keys + [c for c in columns if c not in PARTITIONS.names]))
    condition = None if split is None else ds.field("split") == split
    if row is not None:
        condition = ds.field("row") == row if condition is None else condition & (ds.field("row") == row)
    for part in chosen:
        _, folder = storage.filesystem(partition_folder(uri, part["county"], part["year"]))
        table = ds.dataset(folder, schema=SCHEMA, format="parquet", filesystem=filesystem).to_table(
            columns=wanted, filter=condition)
        frames.append(table.to_pandas(integer_object_nulls=False)
                      .assign(county=part["county"], year=part["year"]).sort_values("tile_id"))
    frames = [frame for frame in frames if len(frame)]
    if not frames:
        asked = ", ".join("{} {}".format(k, v) for k, v in
                          (("county", county), ("year", year), ("split", split), ("row", row)) if v is not None)
        raise InputError("expected tiles of {} in {}, got a store of {}. Prepare them in notebook "
                         "02_data_preparation.".format(asked or "any county", shown(uri), ", ".join(
                             "{county} {year}".format(**m) for m in partitions(uri))))
    frame = pd.concat(frames, ignore_index=True)
    return frame if columns is None else frame[list(columns)]


def pure(frame, classes=CLASS_NAMES):
    """The rows of a store that may train or validate a model: labelled, and pure.

    Parameters
    ----------
    frame : pandas.DataFrame
        ``label`` and ``purity``.
    classes : sequence of str
        Their names.

    Returns
    -------
    pandas.DataFrame
        Its ``label`` as int.

    Raises
    ------
    InputError
        If a class has none.
    """
    chosen = frame[frame["label"].notna() & (frame["purity"] >= PURE)]
    empty = [name for class_id, name in enumerate(classes) if not (chosen["label"] == class_id).any()]
    if empty:
        raise InputError("expected pure tiles of every class, got none of {} among {} tiles. Add a county, or "
                         "pictures, with some.".format(", ".join(empty), len(frame)))
    return chosen.astype({"label": int})


def balanced(frame, seed, per_class=None):
    """Draw the same number of rows from each class.

    Parameters
    ----------
    frame : pandas.DataFrame
        With ``label``.
    seed : int
    per_class : int, optional
        Rows of each class; by default as many as the rarest class has. A class that has fewer gives all of them, and
        some again.

    Returns
    -------
    pandas.DataFrame
        In order of the original index.
    """
    size = int(frame["label"].value_counts().min()) if per_class is None else per_class
    drawn = []
    for _, part in frame.groupby("label", sort=True):
        whole, rest = divmod(size, len(part))
        drawn += [part] * whole + [part.sample(rest, random_state=seed)]
    return pd.concat(drawn).sort_index(kind="stable")

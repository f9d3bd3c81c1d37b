"""The tile store: tiles in Parquet files, a folder for each county and year, on any file system.

A folder is finished when it holds ``_manifest.json``, which is written last. A manifest that lists ``files`` says that
these files, and no others, belong to the county and year; without that list all Parquet files of the folder do.
"""

import json
from concurrent.futures import ThreadPoolExecutor

import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.dataset as ds
import pyarrow.parquet as pq

from helpers import DamagedFile, InputError
from helpers.cluster import work
from helpers.files import changed, filesystem, remove, write_json
from helpers.land.classes import CLASS_NAMES
from helpers.tiles.pictures import CODEC, digest
from helpers.uri import join, shown

# A label is trusted for training when this share of the tile's NLCD pixels carries it.
PURE = 0.9
SCHEMA = pa.schema([
    ("tile_id", pa.string()), ("row", pa.int32()), ("col", pa.int32()),
    ("scene_id", pa.string()), ("acquired", pa.string()), ("image", pa.binary()),
    ("label", pa.int8()), ("group", pa.int8()), ("purity", pa.float32()), ("class_2017", pa.int8()),
    ("split", pa.string()),
])
MANIFEST = "_manifest.json"
# A county makes at least so many files of at most so many tiles; but none is worth a task of its own for fewer tiles.
_FILES, _MOST_TILES, _FEWEST_TILES = 16, 1024, 32
# Footers are read side by side: over a network, each is a wait and nothing else.
_THREADS = 16
# No UTF-8 text comes after it.
_LAST = b"\xff"


def partition_folder(uri: str, county: str, year: int) -> str:
    """Where the tiles of a county and year lie in a store."""
    return join(uri, f"county={county}", f"year={year}")


def unit_tiles(tiles: int) -> int:
    """Tiles of a file, which is a job's unit of work: also a small county's units share evenly among many cores."""
    return max(_FEWEST_TILES, min(_MOST_TILES, tiles // _FILES))


def facts_of(table: pa.Table, group_rows: int) -> dict:
    """For the footer of a file of tiles: a digest of each row group's pictures, after which scoring names its units."""
    groups = [table.slice(start, group_rows) for start in range(0, len(table), group_rows)]
    return {"group_rows": group_rows, "pictures": [
        digest(group["tile_id"].to_pylist(), group["image"].to_pylist()) for group in groups]}


def manifest(uri: str, county: str, year: int, required=()) -> dict:
    """What is known of a finished county and year; None if it isn't finished and no key is ``required``."""
    folder = partition_folder(uri, county, year)
    system, path = filesystem(join(folder, MANIFEST))
    facts = _read(system, path) if system.exists(path) else None
    missing = [key for key in required if key not in (facts or {})]
    if missing:
        raise InputError(f"expected {', '.join(required)} in {shown(folder)}/{MANIFEST}, got " + (
            "no such file. Prepare this county and year in notebook 02_data_preparation." if facts is None else
            f"none of {', '.join(missing)}. Add them."))
    return facts


def _read(system, path):
    """A manifest. An InputError tells of one that isn't whole, or lacks what each must have."""
    try:
        facts = json.loads(system.cat_file(path).decode())
        given = [facts[name] for name in ("county", "year", "tiles", "classes")]
        folders = [name.partition("=")[2] for name in path.rsplit("/", 3)[1:3]]
        names = [given[3], facts.get("files", [])]
        if ([given[0], str(given[1]), type(given[2])] == [*folders, int]
                and all(isinstance(of, list) and all(isinstance(name, str) for name in of) for of in names)
                and not any("/" in name for name in names[1])):
            return facts
        came = "one with other kinds of values"
    except KeyError as error:
        came = f"one without {error}"
    except (ValueError, TypeError):
        came = "one that is cut off"
    raise InputError(f"expected a manifest with county, year and tiles at {shown(path)}, got {came}. Write the tiles "
                     "of this county and year again.")


def write_manifest(uri: str, county: str, year: int, **facts):
    """Declare a county and year finished, with JSON facts about it: at least ``tiles``, the number of rows written."""
    write_json(join(partition_folder(uri, county, year), MANIFEST),
               dict({"codec": CODEC, "classes": list(CLASS_NAMES)}, **facts, county=str(county), year=int(year)))


def remove_manifest(uri: str, county: str, year: int):
    """Declare a county and year unfinished, before its tiles are written again."""
    system, path = filesystem(join(partition_folder(uri, county, year), MANIFEST))
    if system.exists(path):
        remove(system, path)


def keep_only(uri: str, wanted):
    """Declare every county and year unfinished but ``(county, year)`` of ``wanted``: what an earlier run has left."""
    wanted = {(str(county), int(year)) for county, year in wanted}
    for part in _manifests(uri):
        if (part["county"], part["year"]) not in wanted:
            remove_manifest(uri, part["county"], part["year"])


def _manifests(uri):
    """Those of all finished counties and years, in order."""
    system, path = filesystem(str(uri))
    names = (join(year, MANIFEST) for county in _folders(system, path, "county=")
             for year in _folders(system, county, "year="))
    return [_read(system, name) for name in names if system.exists(name)]


def _folders(system, path, key):
    """Folders in a folder whose names begin with a key, in order. A glob would take brackets in ``path`` for its own."""
    try:
        found = [info["name"].rstrip("/") for info in system.ls(path, detail=True) if info["type"] == "directory"]
    except (FileNotFoundError, NotADirectoryError):
        return []
    return sorted(name for name in found if name.rpartition("/")[2].startswith(key))


def partitions(uri: str) -> list:
    """Manifests of the finished counties and years of a store, in order; an InputError if there are none."""
    found = _manifests(uri)
    if not found:
        raise InputError(f"expected a tile store at {shown(uri)}, got no finished county and year there. Run notebook "
                         "02_data_preparation, or give the URI of a store of your own.")
    return found


def classes(uri: str) -> tuple:
    """Names of the classes that the labels of a store stand for, in order of ``class_id``."""
    return tuple(partitions(uri)[0]["classes"])


def _listed(uri, part):
    """The files of a county and year by name, as ``ls(detail=True)`` tells of them; None of one that is gone."""
    system, folder = filesystem(partition_folder(uri, part["county"], part["year"]))
    system.invalidate_cache()
    there = {info["name"].rsplit("/", 1)[-1]: info for info in system.ls(folder, detail=True)}
    names = part["files"] if "files" in part else [
        name for name in there if name.endswith(".parquet") and name[0] not in "._"]
    return {name: there.get(name) for name in sorted(names)}


def files(uri: str, part: dict) -> tuple:
    """The files of a county and year (its manifest), checked for what scoring needs; from their footers.

    Returns
    -------
    files : list of dict
        By name: ``uri``, ``name``; ``rows`` and ``bytes`` of each row group; ``pictures``, their digests in a file
        that this package has written, else None; ``changed``, which changes with the file; ``dictionary``, whether
        it may hold a picture once for many tiles, so that ``bytes`` says little.
    damaged : list of str
        Folder and name of the files whose footer can't be read.
    """
    folder = partition_folder(uri, part["county"], part["year"])
    listed = _listed(uri, part)

    def look(name):
        try:
            return _look(join(folder, name), listed[name])
        except DamagedFile:
            return None

    with ThreadPoolExecutor(_THREADS) as threads:
        looks = dict(zip(listed, threads.map(look, listed)))
    found = [one for one in looks.values() if one]
    damaged = [f"county={part['county']}/year={part['year']}/{name}" for name in looks if not looks[name]]
    tiles = sum(sum(one["rows"]) for one in found)
    if not damaged and tiles != part["tiles"]:
        raise InputError(f"expected {part['tiles']:,} tiles of county {part['county']}, year {part['year']} in the "
                         f"tile store {shown(uri)}, as its {MANIFEST} says, got {tiles:,}. Write its tiles again.")
    ranges = [(*ids, one["uri"], group) for one in found for group, ids in enumerate(one.pop("ranges"))
              if not ("files" in part and one["pictures"])]  # Preparation names no tile twice.
    double = _double(ranges)
    if double:
        raise InputError(f"expected one tile of each name in the store {shown(uri)}, got {double} twice in county "
                         f"{part['county']}, year {part['year']}. Write its tiles again.")
    return found, damaged


def _look(uri, info):
    """What one file says of itself; ``ranges``: first and last tile id of each row group."""
    footer = work.footer(uri)
    schema = [footer.schema.column(i) for i in range(len(footer.schema))]
    kinds = {column.path: f"{column.physical_type} {column.logical_type.type}" for column in schema}
    if (kinds.get("tile_id"), kinds.get("image")) != ("BYTE_ARRAY STRING", "BYTE_ARRAY NONE"):
        raise InputError(f"expected columns tile_id (string) and image (binary) in {shown(uri)}, got "
                         f"{', '.join(f'{name} ({kind})' for name, kind in kinds.items())}. Write its tiles again with "
                         "the columns of helpers.tiles.store.SCHEMA.")
    groups = [footer.row_group(i) for i in range(footer.num_row_groups)]
    pictures = (work.facts_in(footer) or {}).get("pictures") or []
    statistics = [group.column(list(kinds).index("tile_id")).statistics for group in groups]
    if any(one is not None and one.null_count for one in statistics):
        raise InputError(f"expected a tile_id in every row of {shown(uri)}, got rows without one. Write its tiles "
                         "again.")
    encodings = {encoding for group in groups for encoding in group.column(list(kinds).index("image")).encodings}
    return {"uri": uri, "name": uri.rsplit("/", 1)[-1], "rows": [group.num_rows for group in groups],
            "bytes": [group.total_byte_size for group in groups], "changed": changed(info),
            "pictures": pictures if len(pictures) == len(groups) else None,
            "dictionary": any("DICTIONARY" in encoding for encoding in encodings),
            "ranges": [(one.min_raw, one.max_raw) if one is not None and one.has_min_max else (b"", _LAST)
                       for one in statistics]}


def _double(ranges):
    """A tile id that is there twice, of ``(first, last, uri, row group)``; None if there is none.

    Only row groups whose ranges overlap are read: so one that names a tile twice itself is left to whoever reads it.
    """
    to_read, last = {}, None
    for first_id, last_id, uri, group in sorted(ranges):
        if last and first_id <= last[0]:
            to_read.setdefault(last[1], set()).add(last[2])
            to_read.setdefault(uri, set()).add(group)
        last = max(last or (b"",), (last_id, uri, group))
    if not to_read:
        return None
    with ThreadPoolExecutor(_THREADS) as threads:
        ids = pa.chunked_array([chunk for found in threads.map(_ids, to_read.items()) for chunk in found], pa.string())
    # Sorted, five million ids take 0.3 GB; a hash table would take 1 GB.
    ids = ids.combine_chunks().take(pc.sort_indices(ids))
    at = pc.index(pc.equal(ids.slice(1), ids.slice(0, max(0, len(ids) - 1))), True).as_py()
    return None if at < 0 else ids[at].as_py()


def _ids(uri_and_groups):
    """Tile ids in some row groups; none of a file that is damaged: whoever scores it tells of that."""
    uri, groups = uri_and_groups
    system, path = filesystem(uri)
    try:
        with work.damage_named(uri), system.open(path, "rb") as file:
            return pq.ParquetFile(file).read_row_groups(sorted(groups), ["tile_id"])["tile_id"].cast(pa.string()).chunks
    except DamagedFile:
        return []


def read(uri: str, county=None, year=None, split=None, columns=None, row=None) -> pd.DataFrame:
    """Read tiles on the driver: those of a county, a year, a split or a row of the grid, and some of their columns.

    Returns
    -------
    pandas.DataFrame
        In order of county, year and ``tile_id``; ``county`` and ``year`` are columns too.
    """
    stored, frames, condition = partitions(uri), [], None
    wanted = None if columns is None else ["tile_id", *(set(columns) - {"tile_id", "county", "year"})]
    for name, value in (("split", split), ("row", row)):
        if value is not None:
            condition = ds.field(name) == value if condition is None else condition & (ds.field(name) == value)
    for part in stored:
        if county in (None, part["county"]) and (year is None or year == part["year"]):
            system, folder = filesystem(partition_folder(uri, part["county"], part["year"]))
            files = ds.dataset([join(folder, name) for name in _listed(uri, part)], SCHEMA, "parquet", system)
            frame = files.to_table(columns=wanted, filter=condition).to_pandas()
            frames.append(frame.assign(county=part["county"], year=part["year"]).sort_values("tile_id"))
    frames = [frame for frame in frames if len(frame)]
    if not frames:
        asked = ", ".join(f"{name} {value}" for name, value in (
            ("county", county), ("year", year), ("split", split), ("row", row)) if value is not None)
        raise InputError(f"expected tiles of {asked or 'any county'} in {shown(uri)}, got a store of "
                         f"{', '.join('{county} {year}'.format(**part) for part in stored)}. Prepare them in notebook "
                         "02_data_preparation.")
    frame = pd.concat(frames, ignore_index=True)
    return frame if columns is None else frame[list(columns)]


def batches(uri: str, tiles: pd.DataFrame, size: int = 32):
    """Yield the pictures of some tiles (``county``, ``year``, ``tile_id``), a few at a time, as the files hold them.

    Each batch is the rows of ``tiles``, as numbers from 0, and a frame of their ``tile_id`` and ``image``.
    """
    stored = {(part["county"], part["year"]): part for part in partitions(uri)}
    wanted = tiles[["county", "year", "tile_id"]].assign(number=range(len(tiles)))
    for key, part in wanted.groupby(["county", "year"], sort=False):
        ids = pa.array(part["tile_id"].unique(), pa.string())
        folder = partition_folder(uri, *key)
        for name in _listed(uri, stored[key]) if key in stored else ():
            system, path = filesystem(join(folder, name))
            with work.damage_named(join(folder, name)), system.open(path, "rb") as opened:
                file = pq.ParquetFile(opened)
                groups = [group for group in range(file.num_row_groups) if pc.any(pc.is_in(
                    file.read_row_group(group, ["tile_id"])["tile_id"].cast(pa.string()), value_set=ids)).as_py()]
                for batch in file.iter_batches(size, groups, ["tile_id", "image"]) if groups else ():
                    found = part.merge(batch.to_pandas(), on="tile_id")
                    if len(found):
                        yield found["number"].to_numpy(), found[["tile_id", "image"]]


def pure(frame: pd.DataFrame, classes=CLASS_NAMES) -> pd.DataFrame:
    """The rows of a store that may train or validate a model: labelled, and pure. Each class must have some."""
    chosen = frame[frame["label"].notna() & (frame["purity"] >= PURE)]
    empty = [name for class_id, name in enumerate(classes) if not (chosen["label"] == class_id).any()]
    if empty:
        raise InputError(f"expected pure tiles of every class, got none of {', '.join(empty)} among {len(frame)} "
                         "tiles. Add a county, or pictures, with some.")
    return chosen.astype({"label": int})


def balanced(frame: pd.DataFrame, seed: int, per_class: int = None) -> pd.DataFrame:
    """Draw the same number of rows from each ``label``, in order of the index: by default as many as the rarest has.

    A class that has fewer than ``per_class`` gives all of them, and some again.
    """
    size = int(frame["label"].value_counts().min()) if per_class is None else per_class
    drawn = []
    for _, part in frame.groupby("label", sort=True):
        whole, rest = divmod(size, len(part))
        drawn += [part] * whole + [part.sample(rest, random_state=seed)]
    return pd.concat(drawn).sort_index(kind="stable")

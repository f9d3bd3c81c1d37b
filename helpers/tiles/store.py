"""The tile store: tiles in Parquet files, a folder for each county and year, on any file system.

A folder is finished when it holds ``_manifest.json``, which is written last. If the manifest lists ``files``, only they
belong to the county and year. Without the list, all Parquet files of the folder do.
"""

import re

import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.dataset as ds

from helpers import DamagedFile, InputError
from helpers.cluster import work
from helpers.files import NOT_JSON, changed, filesystem, read_json, remove, write_json
from helpers.land.classes import CLASS_NAMES
from helpers.tiles.pictures import CODEC, digest
from helpers.uri import join, shown

# Training trusts a label when this share of the tile's NLCD pixels carries it.
PURE = 0.9
SCHEMA = pa.schema([
    ("tile_id", pa.string()), ("row", pa.int32()), ("col", pa.int32()),
    ("scene_id", pa.string()), ("acquired", pa.string()), ("image", pa.binary()),
    ("label", pa.int8()), ("group", pa.int8()), ("purity", pa.float32()), ("class_2017", pa.int8()),
    ("split", pa.string()),
])
MANIFEST = "_manifest.json"
# The first file of a prediction table, which ``scoring.table`` writes.
TABLE = "_table.json"
_MANIFEST_NAME = re.compile(rf"county=[^/]+/year=[^/]+/{re.escape(MANIFEST)}")
# A county gets about 16 files or more, each of up to 1,024 tiles. A small county gets fewer, each of up to 32 tiles.
_FILES, _MOST_TILES, _FEWEST_TILES = 16, 1024, 32
# No UTF-8 text sorts after this.
_LAST = b"\xff"


def partition_name(part: dict) -> str:
    """The folder of a county and year, given by their manifest, in a tile store or a prediction table."""
    return f"county={part['county']}/year={part['year']}"


def partition_folder(uri: str, county: str, year: int) -> str:
    """The folder of a store that holds the tiles of a county and year."""
    return join(uri, partition_name({"county": county, "year": year}))


def unit_tiles(tiles: int) -> int:
    """Tiles in each file of a county. A file is a unit of work, and a small county also has enough for many cores."""
    return max(_FEWEST_TILES, min(_MOST_TILES, tiles // _FILES))


def facts_of(table: pa.Table, group_rows: int) -> dict:
    """Facts for a file's footer: a digest of each row group's pictures. Scoring names its units after these digests."""
    groups = [table.slice(start, group_rows) for start in range(0, len(table), group_rows)]
    return {"group_rows": group_rows, "pictures": [
        digest(group["tile_id"].to_pylist(), group["image"].to_pylist()) for group in groups]}


def manifest(uri: str, county: str, year: int, required=()) -> dict:
    """The manifest of a county and year. If they aren't finished, None, or an error if any key is ``required``."""
    folder = partition_folder(uri, county, year)
    facts = _read(join(folder, MANIFEST))
    missing = [key for key in required if key not in (facts or {})]
    if missing:
        raise InputError(f"expected {', '.join(required)} in {shown(folder)}/{MANIFEST}, got " + (
            "no such file. Prepare this county and year in notebook 02_data_preparation." if facts is None else
            f"none of {', '.join(missing)}. Add them."))
    return facts


def _read(uri):
    """The manifest at a URI, None if there is none. An InputError reports one that is cut off or lacks a fact."""
    try:
        facts = read_json(uri)
        if facts is None:
            return None
        county, year, tiles, names = (facts[name] for name in ("county", "year", "tiles", "classes"))
        files = facts.get("files", [])
        if ([f"county={county}", f"year={year}"] == uri.split("/")[-3:-1]
                and [type(value) for value in (county, year, tiles, names, files)] == [str, int, int, list, list]
                and all(isinstance(name, str) for name in names + files) and "/" not in "".join(files)):
            return facts
        came = "one with other kinds of values"
    except InputError:  # The storage can't be read.
        raise
    except KeyError as error:
        came = f"one without {error}"
    except (*NOT_JSON, ValueError, TypeError):
        came = "one that is cut off"
    raise InputError(f"expected a manifest with county, year, tiles and classes at {shown(uri)}, got {came}. "
                     "Write the tiles of this county and year again.")


def write_manifest(uri: str, county: str, year: int, **facts):
    """Declare a county and year finished. ``facts`` are JSON values, at least ``tiles``: the number of rows written."""
    write_json(join(partition_folder(uri, county, year), MANIFEST),
               dict({"codec": CODEC, "classes": list(CLASS_NAMES)}, **facts, county=str(county), year=int(year)))


def remove_manifest(uri: str, county: str, year: int):
    """Declare a county and year unfinished, before a job writes their tiles again."""
    remove(join(partition_folder(uri, county, year), MANIFEST))


def check_folder(uri: str):
    """Refuse to write tiles into the folder of a prediction table: its files have the same names as a store's."""
    system, path = filesystem(join(str(uri), TABLE))
    if system.exists(path):
        raise InputError(f"expected the folder of a tile store, or none, at {shown(uri)}, got that of a prediction "
                         "table. Choose another folder.")


def keep_only(uri: str, wanted):
    """Declare unfinished what an earlier run has left: every county and year except the ``(county, year)`` wanted."""
    wanted = {(str(county), int(year)) for county, year in wanted}
    for part in _manifests(uri):
        if (part["county"], part["year"]) not in wanted:
            remove_manifest(uri, part["county"], part["year"])


def _manifests(uri):
    """The manifests of all finished counties and years, in order."""
    system, path = filesystem(str(uri))
    system.invalidate_cache()
    start = len(path.rstrip("/")) + 1
    names = filter(_MANIFEST_NAME.fullmatch, (name[start:] for name in system.find(path, maxdepth=3)))
    return [_read(join(uri, *parts)) for parts in sorted(name.split("/") for name in names)]


def partitions(uri: str) -> list:
    """The manifests of a store's finished counties and years, in order. An InputError reports a store without any."""
    found = _manifests(uri)
    if not found:
        raise InputError(f"expected a tile store at {shown(uri)}, got no finished county and year there. Run notebook "
                         "02_data_preparation, or give the URI of a store of your own.")
    return found


def classes(uri: str) -> tuple:
    """Names of a store's classes, in order of ``class_id``."""
    return tuple(partitions(uri)[0]["classes"])


def _listed(uri, part):
    """The files of a county and year by name, each as ``ls(detail=True)`` describes it; None for one that is gone."""
    system, folder = filesystem(partition_folder(uri, part["county"], part["year"]))
    system.invalidate_cache()
    # Spark and Dask write folders whose names end in .parquet.
    there = {info["name"].rsplit("/", 1)[-1]: info for info in system.ls(folder, detail=True)
             if info["type"] != "directory"}
    names = part["files"] if "files" in part else [
        name for name in there if name.endswith(".parquet") and name[0] not in "._"]
    return {name: there.get(name) for name in sorted(names)}


def files(uri: str, part: dict) -> tuple:
    """The files of a county and year (its manifest), checked for scoring from their footers.

    Returns
    -------
    files : list of dict
        ``uri``, ``name``; ``rows`` and ``bytes`` of each row group; ``pictures``, the digests of a file that this
        package has written, else None; ``changed``, which changes with the file; ``dictionary``, whether the file may
        hold a picture once for many tiles, so that ``bytes`` says little.
    damaged : list of str
        Folder and name of each file whose footer can't be read.
    """
    folder = partition_folder(uri, part["county"], part["year"])
    listed = _listed(uri, part)

    def look(name):
        try:
            return listed[name] and _look(join(folder, name), listed[name])
        except DamagedFile:
            return None

    looks = dict(zip(listed, work.in_threads(look, listed)))
    found = [one for one in looks.values() if one]
    damaged = [join(partition_name(part), name) for name in looks if not looks[name]]
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
    """The facts in one file's footer; ``ranges`` holds the first and last tile id of each row group."""
    footer = work.footer(uri)
    schema = [footer.schema.column(i) for i in range(len(footer.schema))]
    kinds = {column.path: f"{column.physical_type} {column.logical_type.type}" for column in schema}
    if (kinds.get("tile_id"), kinds.get("image")) != ("BYTE_ARRAY STRING", "BYTE_ARRAY NONE"):
        raise InputError(f"expected columns tile_id (string) and image (binary) in {shown(uri)}, got "
                         f"{', '.join(f'{name} ({kind})' for name, kind in kinds.items())}. Write its tiles again with "
                         "the columns of helpers.tiles.store.SCHEMA.")
    groups = [footer.row_group(i) for i in range(footer.num_row_groups)]
    ids, images = ([group.column(list(kinds).index(name)) for group in groups] for name in ("tile_id", "image"))
    statistics = [column.statistics for column in ids]
    if any(one is not None and one.null_count for one in statistics):
        raise InputError(f"expected a tile_id in every row of {shown(uri)}, got rows without one. Write its tiles "
                         "again.")
    pictures = (work.facts_in(footer) or {}).get("pictures") or []
    return {"uri": uri, "name": uri.rsplit("/", 1)[-1], "rows": [group.num_rows for group in groups],
            "bytes": [group.total_byte_size for group in groups], "changed": changed(info),
            "pictures": pictures if len(pictures) == len(groups) else None,
            "dictionary": any("DICTIONARY" in encoding for column in images for encoding in column.encodings),
            "ranges": [(one.min_raw, one.max_raw) if one is not None and one.has_min_max else (b"", _LAST)
                       for one in statistics]}


def _double(ranges):
    """A tile id that two rows share, found from ``(first, last, uri, row group)``; None if there is none.

    It reads only row groups whose ranges overlap. So a single row group that names a tile twice passes here.
    """
    to_read, last = {}, None
    for first_id, last_id, uri, group in sorted(ranges):
        if last and first_id <= last[0]:
            to_read.setdefault(last[1], set()).add(last[2])
            to_read.setdefault(uri, set()).add(group)
        last = max(last or (b"",), (last_id, uri, group))
    if not to_read:
        return None
    found = work.in_threads(_ids, to_read.items())
    ids = pa.chunked_array([chunk for chunks in found for chunk in chunks], pa.string())
    # Sorted, five million ids take 0.3 GB; a hash table would take 1 GB.
    ids = ids.combine_chunks().take(pc.sort_indices(ids))
    at = pc.index(pc.equal(ids.slice(1), ids.slice(0, max(0, len(ids) - 1))), True).as_py()
    return None if at < 0 else ids[at].as_py()


def _ids(uri_and_groups):
    """Tile ids in some row groups of a file. A damaged file has none: scoring reports it."""
    uri, groups = uri_and_groups
    try:
        with work.opened(uri) as file:
            return file.read_row_groups(sorted(groups), ["tile_id"])["tile_id"].cast(pa.string()).chunks
    except DamagedFile:
        return []


def read(uri: str, county=None, year=None, split=None, columns=None, row=None) -> pd.DataFrame:
    """Tiles of a county, a year, a split or a row of the grid, in order of ``county``, ``year`` and ``tile_id``.

    The driver reads them, all columns or some; ``county`` and ``year`` are columns too.
    """
    stored, frames, condition = partitions(uri), [], ds.scalar(True)
    wanted = None if columns is None else ["tile_id", *(set(columns) - {"tile_id", "county", "year"})]
    if wanted and not set(wanted) <= set(SCHEMA.names):
        raise InputError(f"expected columns of {', '.join(SCHEMA.names)}, got {', '.join(columns)}. Choose from these.")
    asked = {name: value for name, value in zip(("county", "year", "split", "row"), (county, year, split, row))
             if value is not None}
    for name in {"split", "row"} & set(asked):
        condition &= ds.field(name) == asked[name]
    for part in stored:
        if county in (None, part["county"]) and year in (None, part["year"]):
            folder = partition_folder(uri, part["county"], part["year"])
            system, path = filesystem(folder)
            with work.damage_told(shown(folder)):
                files = ds.dataset([join(path, name) for name in _listed(uri, part)], SCHEMA, "parquet", system)
                frame = files.to_table(columns=wanted, filter=condition).to_pandas()
            frames.append(frame.assign(county=part["county"], year=part["year"]).sort_values("tile_id"))
    frames = [frame for frame in frames if len(frame)]
    if not frames:
        names = ", ".join(f"{name} {value}" for name, value in asked.items())
        raise InputError(f"expected tiles of {names or 'any county'} in {shown(uri)}, got a store of "
                         f"{', '.join('{county} {year}'.format(**part) for part in stored)}. Prepare them in notebook "
                         "02_data_preparation.")
    frame = pd.concat(frames, ignore_index=True)
    return frame if columns is None else frame[list(columns)]


def batches(uri: str, tiles: pd.DataFrame, size: int = 32):
    """Yield the encoded pictures of some tiles (``county``, ``year``, ``tile_id``), a few at a time.

    Each batch has the numbers of its rows in ``tiles``, from 0, and a frame of their ``tile_id`` and ``image``.
    """
    stored = {(part["county"], part["year"]): part for part in partitions(uri)}
    wanted = tiles[["county", "year", "tile_id"]].assign(number=range(len(tiles)))
    for key, part in wanted.groupby(["county", "year"], sort=False):
        ids = pa.array(part["tile_id"].unique(), pa.string())
        folder = partition_folder(uri, *key)
        for name in _listed(uri, stored[key]) if key in stored else ():
            with work.opened(join(folder, name)) as file:
                groups = [group for group in range(file.num_row_groups) if pc.any(pc.is_in(
                    file.read_row_group(group, ["tile_id"])["tile_id"].cast(pa.string()), value_set=ids)).as_py()]
                for batch in file.iter_batches(size, groups, ["tile_id", "image"]) if groups else ():
                    found = part.merge(batch.to_pandas(), on="tile_id")
                    if len(found):
                        yield found["number"].to_numpy(), found[["tile_id", "image"]]


def pure(frame: pd.DataFrame, classes=CLASS_NAMES) -> pd.DataFrame:
    """The tiles that may train or validate a model: those with a label and a high purity. Each class must have some."""
    chosen = frame[frame["label"].notna() & (frame["purity"] >= PURE)]
    empty = [name for class_id, name in enumerate(classes) if not (chosen["label"] == class_id).any()]
    if empty:
        raise InputError(f"expected pure tiles of every class, got none of {', '.join(empty)} among {len(frame)} "
                         "tiles. Add a county, or pictures, with some.")
    return chosen.astype({"label": int})


def balanced(frame: pd.DataFrame, seed: int, per_class: int = None) -> pd.DataFrame:
    """Draw ``per_class`` rows of each ``label``, in order of the index; by default, as many as the rarest label has.

    A class with fewer rows gives all of them, some more than once.
    """
    size = int(frame["label"].value_counts().min()) if per_class is None else per_class
    drawn = []
    for _, part in frame.groupby("label", sort=True):
        whole, rest = divmod(size, len(part))
        drawn += [part] * whole + [part.sample(rest, random_state=seed)]
    return pd.concat(drawn).sort_index(kind="stable")

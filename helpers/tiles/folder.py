"""folder."""

from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from helpers import InputError, files as storage
from helpers.land.classes import CLASS_NAMES, group_of_class
from helpers.tiles.pictures import MAX_BYTES
from helpers.tiles.store import (
    ROW_GROUP_BYTES, ROW_GROUP_TILES, SCHEMA, keep_only, partition_folder, write_manifest)

IMAGE_SUFFIXES = (".png", ".jpg", ".jpeg")


def write_images(folder, uri, held_out="", seed=0, held_out_share=0.2):
    """Make a tile store of a plain folder of pictures, ``<class>/<name>.png`` or ``.jpg``.

    The folder's name is the county, the path below it the ``tile_id``, and the year 0. Pictures are kept as
    they are; they are resized when read.

    Parameters
    ----------
    folder : str
        Labelled pictures, one sub-folder for each class; or pictures without sub-folders, which stay unlabelled.
    uri : str
        The store to write.
    held_out : str, optional
        A second folder, to validate on; without it a share of each class is drawn from the first.
    seed : int
        Seed of that draw.
    held_out_share : float
        That share.

    Returns
    -------
    tuple of str
        Names of the classes, in order of ``class_id``; empty for unlabelled pictures.

    Raises
    ------
    InputError
        If a folder isn't there, holds no picture, or the two have different classes.
    """
    names, frame = _list_images(folder)
    frame["split"] = "map"
    if names:
        rng = np.random.RandomState(seed)
        frame["split"] = "train"
        if held_out:
            held_names, held = _list_images(held_out)
            if held_names != names:
                raise InputError("expected the classes {} in {}, got {}. Give both folders the same "
                                 "sub-folders.".format(", ".join(names), held_out, ", ".join(held_names) or "none"))
            if held["county"].iloc[0] == frame["county"].iloc[0]:
                held["county"] += "_held_out"
            frame = pd.concat([frame, held.assign(split="validation")], ignore_index=True)
        else:
            for _, part in frame.groupby("label", sort=True):
                size = int(round(held_out_share * len(part)))
                frame.loc[rng.choice(part.index, size, replace=False), "split"] = "validation"
        for split in ("train", "validation"):
            empty = [n for i, n in enumerate(names) if not ((frame.label == i) & (frame.split == split)).any()]
            if empty:
                raise InputError("expected at least five pictures of every class in {}, got too few of {}. "
                                 "Add pictures.".format(folder, ", ".join(empty)))
    keep_only(uri, [])
    for county, part in frame.groupby("county", sort=True):
        # One row group at a time, so that a folder of any size passes through a bounded memory.
        folder_uri = partition_folder(uri, county, 0)
        filesystem, path = storage.filesystem(folder_uri)
        for left in filesystem.glob(path + "/*.parquet"):
            filesystem.rm(left)
        with storage.writing(folder_uri + "/part-0.parquet") as file:
            # Pictures are not compressed again, nor looked up: Java would hold them twice more.
            writer = pq.ParquetWriter(file, SCHEMA, use_dictionary=[name for name in SCHEMA.names if name != "image"],
                                      compression={name: "none" if name == "image" else "snappy"
                                                   for name in SCHEMA.names})
            start = 0
            while start < len(part):
                images = _next_images(part["path"].iloc[start:start + ROW_GROUP_TILES])
                chunk = part.iloc[start:start + len(images)]
                start += len(images)
                label = chunk["label"].where(chunk["label"] >= 0).astype("Int8")
                is_land_cover = tuple(names) == CLASS_NAMES
                rows = chunk.assign(
                    row=0, col=0, scene_id=chunk["tile_id"], acquired="", nine_point=label, label=label,
                    group=group_of_class(chunk["label"]) if is_land_cover else None,
                    purity=label.notna().astype("float32"), image=images)
                writer.write_table(pa.Table.from_pandas(rows[SCHEMA.names], SCHEMA, preserve_index=False))
            writer.close()
        write_manifest(uri, county, 0, tiles=len(part), classes=list(names), source=str(county), codec="as given")
    return names


def _next_images(paths):
    """Contents of the first of some files: as many as a row group takes."""
    images, n_bytes = [], 0
    for path in paths:
        images.append(_bytes(path))
        n_bytes += len(images[-1] or b"")
        if n_bytes >= ROW_GROUP_BYTES:
            break
    return images


def _bytes(path):
    """A file's content, of one that is too large only as much as tells it; None where it vanished after it was listed.

    Raises
    ------
    InputError
        If it is there and can't be read.
    """
    try:
        with open(path, "rb") as file:
            return file.read(MAX_BYTES + 1)
    except FileNotFoundError:
        return None
    except OSError as error:
        raise InputError("expected a picture that can be read at {!r}, got: {}. Mend that and write the store again."
                         .format(path, error.strerror))


def _list_images(folder):
    """Class names of a folder of pictures, and a frame of ``county, tile_id, path, label``."""
    folder = Path(folder)
    if not folder.is_dir():
        raise InputError("expected a folder of pictures at {}, got no such folder. Check the path.".format(folder))
    inside = folder.resolve()
    # A link that leads out of the folder is none of its pictures.
    paths = sorted(p for p in folder.rglob("*") if p.suffix.lower() in IMAGE_SUFFIXES and p.is_file()
                   and inside in p.resolve().parents)
    if not paths:
        raise InputError("expected pictures ({}) in {}, got none. Put them into one sub-folder for each "
                         "class.".format(", ".join(IMAGE_SUFFIXES), folder))
    for path in paths:
        try:
            str(path).encode()
        except UnicodeEncodeError:
            raise InputError("expected file names in UTF-8 in {}, got {}. Rename it.".format(
                folder, ascii(str(path.relative_to(folder)))))
    tops = [p.relative_to(folder).parts[0] if p.parent != folder else None for p in paths]
    names = sorted(set(top for top in tops if top is not None))
    if names and None in tops:
        raise InputError("expected every picture of {} in a sub-folder named after its class, got {} beside "
                         "them. Move it.".format(folder, paths[tops.index(None)].name))
    # The six classes keep their own order, so that land cover pictures mean what land cover tiles mean.
    if set(names) == set(CLASS_NAMES):
        names = list(CLASS_NAMES)
    index = {name: i for i, name in enumerate(names)}
    return tuple(names), pd.DataFrame({
        "county": folder.resolve().name, "tile_id": [p.relative_to(folder).as_posix() for p in paths],
        "path": [str(p) for p in paths], "label": [index.get(top, -1) for top in tops]})

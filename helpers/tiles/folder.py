"""A plain folder of pictures as a tile store."""

import hashlib
import os
import unicodedata
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa

from helpers import InputError
from helpers.cluster import work
from helpers.land.classes import CLASS_NAMES, group_of_class
from helpers.land.listing import LEFT, files_in, told
from helpers.runs import check_seed
from helpers.tiles import real_land
from helpers.tiles.pictures import MAX_BYTES, fault
from helpers.tiles.store import (SCHEMA, check_folder, facts_of, keep_only, partition_folder, unit_tiles,
                                 write_manifest)
from helpers.uri import absolute

IMAGE_SUFFIXES = (".png", ".jpg", ".jpeg", ".webp", ".tif", ".tiff", ".gif", ".bmp")
# Sub-folders with these names are splits, not classes.
SPLITS = {"train", "training", "val", "valid", "validation", "test", "testing"}
# A store keeps a label in one byte.
MOST_CLASSES = 127
# Bytes of pictures in a file of the store: they are all in memory at once.
FILE_BYTES = 64 << 20
# The share of each class that is held out if there is no second folder.
HELD_OUT = 0.2


def write_images(folder: str, uri: str, held_out: str = "", seed: int = 0) -> tuple:
    """Write a folder of pictures, ``<class>/<name>.png`` or ``.jpg``, as a tile store.

    The folder's name becomes the county, the path below it the ``tile_id``, and the year is 0. The store keeps the
    pictures as they are.

    Parameters
    ----------
    folder : one sub-folder of pictures for each class; or pictures without sub-folders, which stay unlabelled; or
        ``"photographs"``, those of ``notebooks/real_land``.
    held_out : a second folder, to validate on. Without it, ``seed`` draws a fifth of each class.

    Returns
    -------
    Names of the classes, in order of ``class_id``; empty for unlabelled pictures.
    """
    check_seed(seed)
    uri = absolute(uri)
    check_folder(uri)
    if folder == real_land.NAME:
        folder, held_out = real_land.PHOTOGRAPHS, held_out or real_land.HELD_OUT
    names, frame = _list_images(folder)
    frame["split"] = "map"
    if names:
        frame = _split(frame, names, folder, held_out, seed)
    keep_only(uri, [])
    for county, part in frame.groupby("county", sort=True):
        county_uri = partition_folder(uri, county, 0)
        # A picture may have vanished since it was listed.
        sizes = part["path"].map(lambda path: min(os.path.getsize(path), MAX_BYTES) if os.path.exists(path) else 0)
        file_numbers = [np.arange(len(part)) // unit_tiles(len(part)), sizes.cumsum() // FILE_BYTES]
        written = [_write(rows, names, county_uri) for _, rows in part.groupby(file_numbers)]
        write_manifest(uri, county, 0, tiles=len(part), files=sorted(name + ".parquet" for name in written),
                       classes=list(names), source=county, codec="as given")
        work.keep_only(county_uri, written)
    return names


def _split(frame, names, folder, held_out, seed):
    """Labelled pictures, each to train or to validate on."""
    if len(names) < 2 or len(names) > MOST_CLASSES:
        raise InputError(f"expected 2 to {MOST_CLASSES} classes in {folder}, got {len(names)} sub-folder(s). Give a "
                         "folder with one sub-folder for each class.")
    frame = _checked(frame, folder).assign(split="train")
    if held_out:
        held_names, held = _list_images(held_out)
        if held_names != names:
            raise InputError(f"expected the classes {', '.join(names)} in {held_out}, got "
                             f"{', '.join(held_names) or 'none'}. Give both folders the same sub-folders.")
        if held["county"].iloc[0] == frame["county"].iloc[0]:
            held["county"] += "_held_out"
        held = _checked(held, held_out).assign(split="validation")
        same = frame.merge(held[held["label"] >= 0], on="content")
        if len(same):
            raise InputError(f"expected pictures to validate on that are not trained on, got {same['path_x'][0]} and "
                             f"{same['path_y'][0]} of the same content. Take one out.")
        frame = pd.concat([frame, held], ignore_index=True)
    else:
        rng = np.random.RandomState(seed)
        for _, part in frame[frame["label"] >= 0].groupby("label", sort=True):
            size = int(round(HELD_OUT * len(part)))
            frame.loc[rng.choice(part.index, size, replace=False), "split"] = "validation"
        # Copies of a picture stay together: a network must not be judged by pictures that it has trained on.
        frame["split"] = frame.groupby("content")["split"].transform("first")
    for split in ("train", "validation"):
        empty = [name for i, name in enumerate(names) if not ((frame.label == i) & (frame.split == split)).any()]
        if empty:
            raise InputError(f"expected at least five pictures of every class in {folder}, got too few of "
                             f"{', '.join(empty)}. Add pictures.")
    return frame


def _checked(frame, folder):
    """The frame with a digest of each picture's ``content``, and without the label of pictures that can't be decoded.

    Those keep a row, but nobody trains on them.
    """
    digests, faults = [], {}
    for i, path in frame["path"].items():
        content = _content(path)
        digests.append(hashlib.sha256(content or b"").hexdigest())
        reason = fault(content)
        if reason:
            faults[i] = f"{frame.loc[i, 'tile_id']} ({reason})"
    if faults:
        print(f"{len(faults)} picture(s) of {folder} can't be used to train or validate: "
              f"{'; '.join(list(faults.values())[:5])}{'; …' if len(faults) > 5 else '.'}")
    return frame.assign(content=digests, label=frame["label"].mask(frame.index.isin(list(faults)), -1))


def _write(rows, names, uri):
    """Write one file of the store, and return its name as a unit."""
    label = rows["label"].where(rows["label"] >= 0).astype("Int8")
    tiles = rows.assign(
        row=0, col=0, scene_id=rows["tile_id"], acquired="", image=rows["path"].map(_content), label=label,
        class_2017=label, purity=label.notna().astype("float32"),
        group=group_of_class(rows["label"]) if names == CLASS_NAMES else None)
    table = pa.Table.from_pandas(tiles[SCHEMA.names], SCHEMA, preserve_index=False)
    facts = facts_of(table, len(table))
    name = work.name("", facts, rows["label"].tolist(), rows["split"].tolist(), names)
    work.write(table, facts, uri, name)
    return name


def _content(path):
    """A file's content, cut off where it is too large; None if the file has vanished since it was listed."""
    try:
        with open(path, "rb") as file:
            return file.read(MAX_BYTES + 1)
    except FileNotFoundError:
        return None
    except OSError as error:
        raise InputError(f"expected a picture that can be read at {path!r}, got: {error.strerror}. Fix that and write "
                         "the store again.")


def _list_paths(folder):
    """The pictures below a folder; a sentence names what is skipped."""
    if not folder.is_dir():
        raise InputError(f"expected a folder of pictures at {folder}, got no such folder. Check the path.")
    found, skipped = files_in(folder, IMAGE_SUFFIXES, deep=True)
    # A link may lead out of the folder: the file there is not one of its pictures.
    paths = [path for path in found if folder.resolve() in path.resolve().parents]
    skipped = told(sorted({*skipped, *found} - set(paths)), folder)
    if not paths:
        raise InputError(f"expected pictures ({', '.join(IMAGE_SUFFIXES)}) in {folder}, got none. Put them into one "
                         f"sub-folder for each class. {skipped}".strip())
    if skipped:
        print(skipped)
    for path in paths:
        absolute(path)  # This refuses a name that is not in UTF-8.
    return paths


def _list_images(folder):
    """Class names of a folder of pictures, and a frame of ``county, tile_id, path, label``."""
    folder = Path(absolute(folder))
    paths = _list_paths(folder)
    # macOS writes an accent as a character of its own. NFC gives a class the same name everywhere.
    tops = [unicodedata.normalize("NFC", p.relative_to(folder).parts[0]) if p.parent != folder else None for p in paths]
    names = sorted(set(tops) - {None})
    if names and None in tops:
        raise InputError(f"expected every picture of {folder} in a sub-folder named after its class, got "
                         f"{paths[tops.index(None)].name} beside them. Move it.")
    empty = sorted({unicodedata.normalize("NFC", path.name) for path in folder.iterdir() if path.is_dir()
                    and not path.is_symlink() and not LEFT.fullmatch(path.name)} - set(names)) if names else []
    if empty:
        raise InputError(f"expected pictures in every sub-folder of {folder}, got none in {', '.join(empty)}. Add "
                         "pictures of this class, or remove the sub-folder.")
    splits = [name for name in names if name.lower() in SPLITS]
    if len(splits) > 1 or splits and splits == names:
        raise InputError(f"expected one sub-folder for each class in {folder}, got {', '.join(splits)}. Give the "
                         "folder to train on as --images and the one to validate on as --held-out-images.")
    # The six classes of land cover keep their own order, so that pictures and tiles have the same ``class_id``.
    if set(names) == set(CLASS_NAMES):
        names = CLASS_NAMES
    index = {name: i for i, name in enumerate(names)}
    return tuple(names), pd.DataFrame({
        "county": folder.resolve().name, "tile_id": [p.relative_to(folder).as_posix() for p in paths],
        "path": [str(p) for p in paths], "label": [index.get(top, -1) for top in tops]})

"""A plain folder of pictures as a tile store."""

import os
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa

from helpers import InputError
from helpers.cluster import work
from helpers.files import sha256
from helpers.land.classes import CLASS_NAMES, group_of_class
from helpers.land.listing import files_in, told
from helpers.runs import check_seed
from helpers.tiles import real_land
from helpers.tiles.pictures import MAX_BYTES
from helpers.tiles.store import SCHEMA, facts_of, keep_only, partition_folder, unit_tiles, write_manifest

IMAGE_SUFFIXES = (".png", ".jpg", ".jpeg", ".webp", ".tif", ".tiff", ".gif", ".bmp")
# Names of sub-folders that are no classes.
SPLITS = {"train", "training", "val", "valid", "validation", "test", "testing"}
# A store keeps labels in one byte.
MOST_CLASSES = 127
# All pictures of a file are in memory at once.
FILE_BYTES = 64 << 20


def write_images(folder: str, uri: str, held_out: str = "", seed: int = 0, held_out_share: float = 0.2) -> tuple:
    """Make a tile store of a plain folder of pictures, ``<class>/<name>.png`` or ``.jpg``.

    The folder's name is the county, the path below it the ``tile_id``, and the year 0. Pictures are kept as they are;
    they are resized when read.

    Parameters
    ----------
    folder : str
        Labelled pictures, one sub-folder for each class; or pictures without sub-folders, which stay unlabelled; or
        ``"photographs"``: those of ``notebooks/real_land``, which bring a folder to validate on.
    uri : str
        The store to write.
    held_out : str, optional
        A second folder, to validate on; without it ``seed`` draws ``held_out_share`` of each class from the first.

    Returns
    -------
    tuple of str
        Names of the classes, in order of ``class_id``; empty for unlabelled pictures.
    """
    check_seed(seed)
    if folder == real_land.NAME:
        folder, held_out = real_land.PHOTOGRAPHS, held_out or real_land.HELD_OUT
    names, frame = _list_images(folder)
    frame["split"] = "map"
    if names:
        frame = _split(frame, names, folder, held_out, seed, held_out_share)
    keep_only(uri, [])
    for county, part in frame.groupby("county", sort=True):
        county_uri, written, done = partition_folder(uri, county, 0), [], 0
        while done < len(part):
            images = _next_images(part["path"].iloc[done:done + unit_tiles(len(part))])
            written.append(_write(part.iloc[done:done + len(images)], images, names, county_uri))
            done += len(images)
        write_manifest(uri, county, 0, tiles=len(part), files=sorted(name + ".parquet" for name in written),
                       classes=list(names), source=county, codec="as given")
        work.keep_only(county_uri, written)
    return names


def _split(frame, names, folder, held_out, seed, held_out_share):
    """Labelled pictures to train on, and others to validate on."""
    frame["split"] = "train"
    if len(names) < 2 or len(names) > MOST_CLASSES:
        raise InputError(f"expected 2 to {MOST_CLASSES} classes in {folder}, got {len(names)} sub-folder(s). Give a "
                         "folder with one sub-folder for each class.")
    if held_out:
        held_names, held = _list_images(held_out)
        if held_names != names:
            raise InputError(f"expected the classes {', '.join(names)} in {held_out}, got "
                             f"{', '.join(held_names) or 'none'}. Give both folders the same sub-folders.")
        if held["county"].iloc[0] == frame["county"].iloc[0]:
            held["county"] += "_held_out"
        frame = pd.concat([frame, held.assign(split="validation")], ignore_index=True)
        contents = _contents(frame["path"])
        for _, same in frame.groupby(contents):
            if same["split"].nunique() > 1:
                first, second = same.drop_duplicates("split")["path"]
                raise InputError(f"expected pictures to validate on that are not trained on, got {first} and {second} "
                                 "of the same content. Take one out.")
    else:
        rng = np.random.RandomState(seed)
        for _, part in frame.groupby("label", sort=True):
            size = int(round(held_out_share * len(part)))
            frame.loc[rng.choice(part.index, size, replace=False), "split"] = "validation"
        # Copies of a picture stay together, or the network would be judged by what it was trained on.
        frame["split"] = frame.groupby(_contents(frame["path"]))["split"].transform("first")
    for split in ("train", "validation"):
        empty = [name for i, name in enumerate(names) if not ((frame.label == i) & (frame.split == split)).any()]
        if empty:
            raise InputError(f"expected at least five pictures of every class in {folder}, got too few of "
                             f"{', '.join(empty)}. Add pictures.")
    return frame


def _contents(paths):
    """For each file what only files of the same content share: only those of the same size are read."""
    sizes = paths.map(lambda path: os.path.getsize(path) if os.path.isfile(path) else -1)
    alike = (sizes > 0) & sizes.duplicated(keep=False)
    return paths.where(~alike, paths.map(dict(zip(paths[alike], map(sha256, paths[alike])))))


def _write(rows, images, names, uri):
    """Write one file of pictures; its name as a unit."""
    label = rows["label"].where(rows["label"] >= 0).astype("Int8")
    tiles = rows.assign(
        row=0, col=0, scene_id=rows["tile_id"], acquired="", label=label, class_2017=label, image=images,
        group=group_of_class(rows["label"]) if names == CLASS_NAMES else None, purity=label.notna().astype("float32"))
    table = pa.Table.from_pandas(tiles[SCHEMA.names], SCHEMA, preserve_index=False)
    facts = facts_of(table, len(table))
    name = work.name("", facts, rows["label"].tolist(), rows["split"].tolist(), names)
    work.write(table, facts, uri, name)
    return name


def _next_images(paths):
    """Contents of the first of some files: as many as a file of the store takes."""
    images, n_bytes = [], 0
    for path in paths:
        images.append(_content(path))
        n_bytes += len(images[-1] or b"")
        if n_bytes >= FILE_BYTES:
            break
    return images


def _content(path):
    """A file's content, only the beginning of one that is too large; None if it is gone since it was listed."""
    try:
        with open(path, "rb") as file:
            return file.read(MAX_BYTES + 1)
    except FileNotFoundError:
        return None
    except OSError as error:
        raise InputError(f"expected a picture that can be read at {path!r}, got: {error.strerror}. Fix that and write "
                         "the store again.")


def _list_images(folder):
    """Class names of a folder of pictures, and a frame of ``county, tile_id, path, label``."""
    folder = Path(folder)
    if not folder.is_dir():
        raise InputError(f"expected a folder of pictures at {folder}, got no such folder. Check the path.")
    inside = folder.resolve()
    found, skipped = files_in(folder, IMAGE_SUFFIXES, deep=True)
    # A link that leads out of the folder is none of its pictures.
    paths = [p for p in found if inside in p.resolve().parents]
    skipped = sorted(skipped + list(set(found) - set(paths)))
    if not paths:
        raise InputError(f"expected pictures ({', '.join(IMAGE_SUFFIXES)}) in {folder}, got none. Put them into one "
                         f"sub-folder for each class. {told(skipped, folder)}".strip())
    if skipped:
        print(told(skipped, folder))
    for path in paths:
        try:
            str(path).encode()
        except UnicodeEncodeError:
            raise InputError(f"expected file names in UTF-8 in {folder}, got {ascii(str(path.relative_to(folder)))}. "
                             "Rename it.")
    tops = [p.relative_to(folder).parts[0] if p.parent != folder else None for p in paths]
    names = sorted(set(tops) - {None})
    if names and None in tops:
        raise InputError(f"expected every picture of {folder} in a sub-folder named after its class, got "
                         f"{paths[tops.index(None)].name} beside them. Move it.")
    splits = [name for name in names if name.lower() in SPLITS]
    if len(splits) > 1 or splits and splits == names:
        raise InputError(f"expected one sub-folder for each class in {folder}, got {', '.join(splits)}. Give the "
                         "folder to train on as --images and the one to validate on as --held-out-images.")
    # The six classes keep their own order, so that land cover pictures mean what land cover tiles mean.
    if set(names) == set(CLASS_NAMES):
        names = CLASS_NAMES
    index = {name: i for i, name in enumerate(names)}
    return tuple(names), pd.DataFrame({
        "county": folder.resolve().name, "tile_id": [p.relative_to(folder).as_posix() for p in paths],
        "path": [str(p) for p in paths], "label": [index.get(top, -1) for top in tops]})

import errno
import os
import shutil
import unicodedata

import numpy as np
import pytest
from PIL import Image

import tiny
from helpers import InputError
from helpers.model import bundle
from helpers.scoring import table
from helpers.tiles import folder as folders, pictures, store
from helpers.tiles.folder import write_images


def test_pictures_become_a_store_split_by_seed(folder, tmp_path):
    uri = str(tmp_path / "store")
    assert write_images(folder, uri, seed=1) == ("city", "sea")
    frame = store.read(uri)
    assert frame.groupby(["label", "split"]).size().to_dict() == {
        (0, "train"): 8, (0, "validation"): 2, (1, "train"): 8, (1, "validation"): 2}
    assert set(frame["county"]) == {"photos"} and "city/0.png" in set(frame["tile_id"])
    row = frame.set_index("tile_id").loc["city/0.png"]
    assert row["image"] == (folder / "city" / "0.png").read_bytes()
    held = set(frame.loc[frame.split == "validation", "tile_id"])
    write_images(folder, uri, seed=1)
    assert held == set(store.read(uri, split="validation")["tile_id"])
    write_images(folder, uri, seed=2)
    assert held != set(store.read(uri, split="validation")["tile_id"])


def test_files_are_those_of_the_pictures_and_others_stay(folder, tmp_path):
    uri = str(tmp_path / "store")
    write_images(folder, uri)
    inside = tmp_path / "store" / "county=photos" / "year=0"
    before = {path.name for path in inside.glob("*.parquet")}
    mine = inside / "mine.parquet"
    mine.write_bytes(b"of somebody else")
    write_images(folder, uri)
    assert {path.name for path in inside.glob("*.parquet")} == before | {mine.name}
    shutil.copy(folder / "sea" / "1.jpg", folder / "sea" / "3.jpg")
    write_images(folder, uri)
    after = {path.name for path in inside.glob("*.parquet")} - {mine.name}
    assert len(after) == len(before) == 1 and not after & before
    files, _ = store.files(uri, store.partitions(uri)[0])
    assert [one["name"] for one in files] == list(after) and mine.exists()


def test_a_picture_that_vanished_after_it_was_listed_is_a_row_without_bytes(folder, tmp_path, monkeypatch):
    listed = folders._list_images

    def and_then_one_goes(*args):
        found = listed(*args)
        (folder / "sea" / "3.jpg").unlink()
        return found

    monkeypatch.setattr(folders, "_list_images", and_then_one_goes)
    write_images(folder, str(tmp_path / "store"))
    frame = store.read(tmp_path / "store")
    assert frame["tile_id"][frame["image"].isna()].tolist() == ["sea/3.jpg"] and len(frame) == 20


def test_a_file_has_one_row_group_of_bounded_tiles_and_bytes(tmp_path, monkeypatch):
    """And of a picture that is too large only as much as tells it."""
    monkeypatch.setattr(folders, "FILE_BYTES", 4 << 20)
    (tmp_path / "pile").mkdir()
    for i in range(600):
        (tmp_path / "pile" / f"{i:03d}.png").write_bytes(bytes(1 << 20) if 300 <= i < 310 else b"small %d" % i)
    with open(tmp_path / "pile" / "599.png", "wb") as file:
        file.truncate(3 << 30)
    write_images(tmp_path / "pile", str(tmp_path / "store"))
    part, = store.partitions(tmp_path / "store")
    files, damaged = store.files(str(tmp_path / "store"), part)
    assert not damaged and all(len(one["rows"]) == 1 for one in files)
    rows = sorted(one["rows"][0] for one in files)
    assert sum(rows) == 600 and rows[-1] == 37 and len(rows) >= 16
    assert sorted(one["bytes"][0] for one in files)[-1] < 18 << 20
    image = store.read(tmp_path / "store")["image"].iloc[-1]
    assert len(image) == pictures.MAX_BYTES + 1
    with pytest.raises(pictures.BadPicture, match="expected a picture of at most 16 MB, got a larger one"):
        pictures.decode(image)


def test_a_second_folder_is_held_out_whole(folder, tmp_path):
    other = tmp_path / "other" / "photos"
    other.mkdir(parents=True)
    for name in ("city", "sea"):
        (other / name).mkdir()
        (folder / name / "9.jpg").rename(other / name / "new.jpg")
    write_images(folder, str(tmp_path / "store"), held_out=other)
    frame = store.read(tmp_path / "store")
    assert set(frame[frame.split == "validation"].county) == {"photos_held_out"}
    assert (frame.split == "validation").sum() == 2 and (frame.split == "train").sum() == 18
    # macOS takes accents apart: the class is the same.
    (folder / "city").rename(folder / unicodedata.normalize("NFC", "cité"))
    (other / "city").rename(other / unicodedata.normalize("NFD", "cité"))
    assert write_images(folder, str(tmp_path / "store"), held_out=other) == (unicodedata.normalize("NFC", "cité"), "sea")
    (other / "sea").rename(other / "lake")
    with pytest.raises(InputError, match="expected the classes cité, sea in .*, got cité, lake"):
        write_images(folder, str(tmp_path / "store"), held_out=other)


def test_a_link_that_leads_out_of_the_folder_is_no_picture(folder, tmp_path, capsys):
    (tmp_path / "private.key").write_bytes(b"mine")
    (folder / "sea" / "key.png").symlink_to(tmp_path / "private.key")
    (folder / "sea" / "same.png").symlink_to(folder / "sea" / "0.png")
    write_images(folder, str(tmp_path / "store"))
    names = set(store.read(tmp_path / "store")["tile_id"])
    assert "sea/key.png" not in names and "sea/same.png" in names
    (folder / "land").symlink_to(folder / "city")
    assert write_images(folder, str(tmp_path / "store")) == ("city", "sea")
    assert capsys.readouterr().out.endswith(f"2 file(s) or folder(s) of {folder} are skipped: 'land', 'sea/key.png'.\n")


def test_a_file_name_that_is_no_text(folder, tmp_path):
    os.rename(bytes(folder) + b"/sea/0.png", bytes(folder) + b"/sea/Stra\xdfe.png")
    with pytest.raises(InputError, match=r"expected a path in UTF-8, got '.*/sea/Stra\\udcdfe.png'. Rename it."):
        write_images(folder, str(tmp_path / "store"))


def test_only_a_file_that_is_gone_is_missing(folder, monkeypatch):
    """One that the disk can't read is no picture that isn't there."""
    def fails(path, mode):
        raise OSError(errno.EIO, os.strerror(errno.EIO))
    monkeypatch.setattr("builtins.open", fails)
    with pytest.raises(InputError, match="expected a picture that can be read at .*, got: Input/output error."):
        folders._content(str(folder / "sea" / "0.png"))


def test_unlabelled_pictures_have_no_label(folder, tmp_path):
    write_images(folder / "sea", str(tmp_path / "store"))
    frame = store.read(tmp_path / "store")
    assert frame["label"].isna().all() and set(frame["split"]) == {"map"} and len(frame) == 10


def test_folders_that_cannot_be_used(folder, tmp_path):
    with pytest.raises(InputError, match="no such folder"):
        write_images(tmp_path / "nowhere", str(tmp_path / "store"))
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError, match="got none"):
        write_images(tmp_path / "empty", str(tmp_path / "store"))
    (folder / "stray.png").write_bytes((folder / "sea" / "0.png").read_bytes())
    with pytest.raises(InputError, match=r"stray\.png beside"):
        write_images(folder, str(tmp_path / "store"))


@pytest.mark.parametrize("seed", [-1, 2 ** 32, 1.5, "1"])
def test_a_seed_that_is_none(folder, tmp_path, seed):
    with pytest.raises(InputError, match=f"expected a seed that is a whole number of 0 to 4294967295, got {seed!r}"):
        write_images(folder, str(tmp_path / "store"), seed=seed)


def test_a_store_that_cannot_be_written(folder, tmp_path):
    long = folder.rename(tmp_path / ("n" * 250))
    for store_folder, words in (("/proc/nowhere", "No such file"), (__file__, "Not a directory"),
                                (tmp_path / "store", "File name too long")):
        with pytest.raises(InputError, match=f"expected a place to write .*, got: {words}"):
            write_images(long, str(store_folder))


def test_what_an_earlier_folder_has_left_is_no_part_of_the_store(folder, tmp_path):
    uri, other = str(tmp_path / "store"), tmp_path / "others"
    write_images(folder, uri)
    (folder / "city").rename(other)
    write_images(other, uri)
    assert set(store.read(uri)["county"]) == {"others"}
    store.keep_only(uri, [("others", 0), ("99001", 2010)])
    assert len(store.partitions(uri)) == 1
    store.keep_only(uri, [("others", 2010)])
    with pytest.raises(InputError, match="no finished county and year"):
        store.partitions(uri)


def stored(folder, tmp_path, **more):
    write_images(folder, str(tmp_path / "store"), **more)
    return store.read(tmp_path / "store")


def test_what_systems_and_notebooks_leave_is_no_picture(folder, tmp_path, capsys):
    for name in (".ipynb_checkpoints/0-checkpoint.png", "sea/.ipynb_checkpoints/0-checkpoint.png", "sea/._0.png",
                 "__MACOSX/sea/._0.png", "sea/Thumbs.db", "sea/notes.txt", ".git/x.png"):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(folder / "sea" / "0.png", folder / name)
    (folder / "sea" / "gone.png").symlink_to("../.git/annex/gone")
    assert len(stored(folder, tmp_path)) == 20
    assert capsys.readouterr().out.startswith(f"8 file(s) or folder(s) of {folder} are skipped: '.git', ")


@pytest.mark.parametrize("ending", ["TIF", "Webp", "gif", "JPEG", "bmp"])
def test_pictures_of_other_kinds_and_endings(folder, tmp_path, ending):
    with Image.open(folder / "sea" / "0.png") as picture:
        picture.save(folder / "sea" / f"new.{ending}")
    frame = stored(folder, tmp_path).set_index("tile_id")
    assert pictures.decode(frame.loc[f"sea/new.{ending}", "image"]).shape == (30, 40, 3)


@pytest.mark.parametrize("names", [("train", "val"), ("Train", "test"), ("training", "validation")])
def test_a_folder_with_its_own_splits_is_refused(folder, tmp_path, names):
    for name in names:
        shutil.copytree(folder, tmp_path / "split" / name)
    with pytest.raises(InputError, match=f"got {', '.join(sorted(names))}. Give .*--held-out-images."):
        write_images(tmp_path / "split", str(tmp_path / "store"))
    shutil.copytree(folder / "sea", folder / "train")  # What runs on rails is a class.
    assert write_images(folder, str(tmp_path / "store")) == ("city", "sea", "train")


@pytest.mark.parametrize("content", [None, "1.heic"])
def test_a_class_without_a_picture_is_refused(folder, tmp_path, content):
    """Without it all class ids would be others, and nobody would notice."""
    (folder / "lake").mkdir()
    if content:
        (folder / "lake" / content).touch()
    with pytest.raises(InputError, match="expected pictures in every sub-folder of .*, got none in lake. Add pictures"):
        write_images(folder, str(tmp_path / "store"))
    (folder / "lake").rename(folder / ".lake")
    assert write_images(folder, str(tmp_path / "store")) == ("city", "sea")


def test_paths_below_home_and_below_the_working_folder(folder, tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    write_images("~/photos", "~/store")
    write_images("photos", "other store")
    assert len(store.read(tmp_path / "store")) == len(store.read(tmp_path / "other store")) == 20
    assert bundle.load(tiny.model(tmp_path / "model").folder).checksum == bundle.load("~/model").checksum
    for odd, words in (("", "a path or URI, got an empty text"), ("/tmp/\udcff", r"a path in UTF-8, got '/tmp/\\udcff'")):
        with pytest.raises(InputError, match=f"expected {words}"):
            write_images(folder, odd)


def test_too_few_and_too_many_classes_are_refused(folder, tmp_path):
    shutil.rmtree(folder / "sea")
    with pytest.raises(InputError, match="expected 2 to 127 classes in .*, got 1 sub-folder"):
        write_images(folder, str(tmp_path / "store"))
    for i in range(127):
        shutil.copytree(folder / "city", folder / f"c{i}")
    with pytest.raises(InputError, match="expected 2 to 127 classes in .*, got 128 sub-folder"):
        write_images(folder, str(tmp_path / "store"))


def test_copies_of_a_picture_are_never_on_both_sides(folder, tmp_path):
    for name in ("city", "sea"):
        for i in range(10):
            suffix = "jpg" if i % 2 else "png"
            shutil.copy(folder / name / f"{i}.{suffix}", folder / name / f"copy_of_{i}.{suffix}")
    frame = stored(folder, tmp_path)
    assert len(frame) == 40 and (frame.groupby("image")["split"].nunique() == 1).all()
    other = tmp_path / "other"
    for name in ("city", "sea"):
        (other / name).mkdir(parents=True)
        (other / name / "1.jpg").write_bytes((folder / name / "0.png").read_bytes() + b" " * (name == "city"))
    with pytest.raises(InputError, match=r"got \S+sea/\S*0.png and \S+other/sea/1.jpg of the same content"):
        write_images(folder, str(tmp_path / "store"), held_out=other)


@pytest.mark.parametrize("orientation", range(1, 9))
def test_a_picture_stands_as_its_camera_was_held(tmp_path, orientation):
    upright = np.zeros((20, 30, 3), np.uint8)
    upright[:10, :10] = 250
    # What a camera stores: the picture turned the other way.
    turned = {1: upright, 2: upright[:, ::-1], 3: upright[::-1, ::-1], 4: upright[::-1], 5: upright.swapaxes(0, 1),
              6: np.rot90(upright), 7: upright[::-1, ::-1].swapaxes(0, 1), 8: np.rot90(upright, -1)}
    exif = Image.Exif()
    exif[0x0112] = orientation
    Image.fromarray(np.ascontiguousarray(turned[orientation])).save(tmp_path / "p.png", exif=exif)
    assert (pictures.decode((tmp_path / "p.png").read_bytes()) == upright).all()


def test_pictures_that_cannot_be_decoded_are_named_and_not_trained_on(folder, tmp_path, capsys):
    first, second = sorted(folder.rglob("*.png"))[:2]
    first.write_bytes(first.read_bytes()[:40])
    Image.new("L", (5472, 3648)).save(second)  # what a camera with twenty megapixels writes
    write_images(str(folder), str(tmp_path / "store"))
    said = capsys.readouterr().out
    assert "2 picture(s)" in said and first.name in said and second.name in said and "at most" in said
    tiles = store.read(str(tmp_path / "store")).set_index("tile_id")
    bad = [path.relative_to(folder).as_posix() for path in (first, second)]
    assert tiles.loc[bad, "label"].isna().all() and tiles.drop(bad)["label"].notna().all()
    assert (tiles.loc[bad, "purity"] == 0).all() and len(tiles) == 20


def test_a_prediction_table_is_not_taken_for_a_store(folder, tmp_path):
    table.begin(str(tmp_path / "table"), "0" * 16, "onnxruntime", ["city", "sea"])
    before = sorted((tmp_path / "table").iterdir())
    with pytest.raises(InputError, match="got that of a prediction table. Choose another folder"):
        write_images(str(folder), str(tmp_path / "table"))
    assert sorted((tmp_path / "table").iterdir()) == before

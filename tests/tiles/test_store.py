import errno
import io
import os

import numpy as np
import pytest
from PIL import Image

from helpers import InputError
from helpers.tiles import pictures, store as tilestore
from helpers.tiles.folder import _bytes, _list_images, write_images
from helpers.tiles.pictures import decode_all, encode


def picture(rng, size=(40, 30), mode="RGB", suffix="png"):
    array = rng.integers(0, 255, (size[1], size[0], len(mode)), dtype=np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(array.squeeze(), mode=None).save(buffer, "jpeg" if suffix == "jpg" else suffix)
    return buffer.getvalue()


@pytest.fixture
def folder(tmp_path):
    rng = np.random.default_rng(0)
    for name in ("city", "sea"):
        (tmp_path / "photos" / name).mkdir(parents=True)
        for i in range(10):
            suffix = "jpg" if i % 2 else "png"
            (tmp_path / "photos" / name / f"{i}.{suffix}").write_bytes(picture(rng, suffix=suffix))
    return tmp_path / "photos"


def test_a_tile_survives_encoding():
    tile = np.random.default_rng(0).integers(0, 255, (224, 224, 3), dtype=np.uint8)
    assert (tilestore.decode(encode(tile)) == tile).all()


def test_decoding_converts_and_resizes():
    rng = np.random.default_rng(0)
    assert tilestore.decode(picture(rng, mode="L"), (224, 224)).shape == (224, 224, 3)
    assert tilestore.decode(picture(rng, mode="RGBA")).shape == (30, 40, 3)
    with pytest.raises(InputError, match="expected a whole picture .* got 13 bytes that can't be read"):
        tilestore.decode(b"not a picture")


def test_pictures_become_a_store_split_by_seed(folder, tmp_path):
    store = str(tmp_path / "store")
    assert write_images(folder, store, seed=1) == ("city", "sea")
    frame = tilestore.read(store)
    assert frame.groupby(["label", "split"]).size().to_dict() == {
        (0, "train"): 8, (0, "validation"): 2, (1, "train"): 8, (1, "validation"): 2}
    assert set(frame["county"]) == {"photos"} and "city/0.png" in set(frame["tile_id"])
    row = frame.set_index("tile_id").loc["city/0.png"]
    assert row["image"] == (folder / "city" / "0.png").read_bytes()
    held = set(frame.loc[frame.split == "validation", "tile_id"])
    write_images(folder, store, seed=1)
    assert held == set(tilestore.read(store, split="validation")["tile_id"])
    write_images(folder, store, seed=2)
    assert held != set(tilestore.read(store, split="validation")["tile_id"])


def test_a_picture_that_vanished_after_it_was_listed_is_a_row_without_bytes(folder, tmp_path, monkeypatch):
    listed = _list_images

    def and_then_one_goes(*args):
        found = listed(*args)
        (folder / "sea" / "3.jpg").unlink()
        return found

    monkeypatch.setattr(tilestore, "_list_images", and_then_one_goes)
    write_images(folder, str(tmp_path / "store"))
    frame = tilestore.read(tmp_path / "store")
    assert frame["tile_id"][frame["image"].isna()].tolist() == ["sea/3.jpg"] and len(frame) == 20


def test_a_file_holds_its_pictures_in_pieces_of_some_megabytes(tmp_path):
    """And of a picture that is too large only as much as tells it."""
    (tmp_path / "place").mkdir()
    for i in range(600):
        (tmp_path / "place" / f"{i:03d}.png").write_bytes(bytes(1 << 20) if 300 <= i < 310 else b"small")
    with open(tmp_path / "place" / "599.png", "wb") as file:
        file.truncate(3 << 30)
    write_images(tmp_path / "place", str(tmp_path / "store"))
    part, = tilestore.partitions(tmp_path / "store")
    (name, groups), = tilestore.row_groups(tmp_path / "store", part).items()
    assert [rows for rows, _ in groups] == [256, 48, 4, 256, 36]
    image = tilestore.read(tmp_path / "store")["image"].iloc[-1]
    assert len(image) == pictures.MAX_BYTES + 1
    with pytest.raises(pictures.BadPicture, match="expected a picture of at most 16 MB, got a larger one"):
        pictures.decode(image)
    assert tilestore.damaged(tmp_path / "store", part, [name]) == []


def test_a_second_folder_is_held_out_whole(folder, tmp_path):
    other = tmp_path / "other" / "photos"
    other.mkdir(parents=True)
    for name in ("city", "sea"):
        (folder / name).joinpath("9.jpg").unlink()
        (other / name).mkdir()
        (other / name / "new.png").write_bytes(picture(np.random.default_rng(3)))
    write_images(folder, str(tmp_path / "store"), held_out=other)
    frame = tilestore.read(tmp_path / "store")
    assert set(frame[frame.split == "validation"].county) == {"photos_held_out"}
    assert (frame.split == "validation").sum() == 2 and (frame.split == "train").sum() == 18
    (other / "sea").rename(other / "lake")
    with pytest.raises(InputError, match="expected the classes city, sea in .*, got city, lake"):
        write_images(folder, str(tmp_path / "store"), held_out=other)


def test_a_link_that_leads_out_of_the_folder_is_no_picture(folder, tmp_path):
    (tmp_path / "private.key").write_bytes(b"mine")
    (folder / "sea" / "key.png").symlink_to(tmp_path / "private.key")
    (folder / "sea" / "same.png").symlink_to(folder / "sea" / "0.png")
    write_images(folder, str(tmp_path / "store"))
    names = set(tilestore.read(tmp_path / "store")["tile_id"])
    assert "sea/key.png" not in names and "sea/same.png" in names


def test_a_file_name_that_is_no_text(folder, tmp_path):
    os.rename(bytes(folder) + b"/sea/0.png", bytes(folder) + b"/sea/Stra\xdfe.png")
    with pytest.raises(InputError, match=r"expected file names in UTF-8 in .*, got 'sea/Stra\\udcdfe.png'. Rename it."):
        write_images(folder, str(tmp_path / "store"))


def test_only_a_file_that_is_gone_is_missing(folder, tmp_path, monkeypatch):
    """One that the disk can't read is no picture that isn't there."""
    def fails(path, mode):
        raise OSError(errno.EIO, os.strerror(errno.EIO))
    monkeypatch.setattr("builtins.open", fails)
    with pytest.raises(InputError, match="expected a picture that can be read at .*, got: Input/output error."):
        _bytes(str(folder / "sea" / "0.png"))


@pytest.mark.parametrize("call", [
    lambda uri: tilestore.partitions(uri), lambda uri: tilestore.manifest(uri, "a", 1, ["crs"])])
def test_a_store_is_named_without_its_secret(call):
    with pytest.raises(InputError) as told:
        call("memory://a/tiles?sig=SECRET")
    assert "SECRET" not in str(told.value) and "memory://a/tiles" in str(told.value)


def test_unlabelled_pictures_have_no_label(folder, tmp_path):
    write_images(folder / "sea", str(tmp_path / "store"))
    frame = tilestore.read(tmp_path / "store")
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


def test_reading_what_is_not_there(folder, tmp_path):
    with pytest.raises(InputError, match="no finished county and year"):
        tilestore.read(tmp_path / "nothing")
    write_images(folder, str(tmp_path / "store"))
    with pytest.raises(InputError, match=r"tiles of year 2010 in .*photos 0"):
        tilestore.read(tmp_path / "store", year=2010)


def test_what_an_earlier_folder_has_left_is_no_part_of_the_store(folder, tmp_path):
    store = str(tmp_path / "store")
    write_images(folder, store)
    other = tmp_path / "others"
    (folder / "city").rename(other)
    write_images(other, store)
    assert set(tilestore.read(store)["county"]) == {"others"}
    tilestore.keep_only(store, [("others", 0), ("99001", 2010)])
    assert len(tilestore.partitions(store)) == 1
    tilestore.keep_only(store, [("others", 2010)])
    with pytest.raises(InputError, match="no finished county and year"):
        tilestore.partitions(store)


def test_a_manifest_that_lacks_what_is_needed(folder, tmp_path):
    store = str(tmp_path / "store")
    assert tilestore.manifest(store, "photos", 0) is None
    with pytest.raises(InputError, match="expected crs in .*year=0/_manifest.json, got no such file. Prepare"):
        tilestore.manifest(store, "photos", 0, required=["crs"])
    write_images(folder, store)
    with pytest.raises(InputError, match="expected tiles, crs in .*, got none of crs. Add them"):
        tilestore.manifest(store, "photos", 0, required=["tiles", "crs"])


def test_a_picture_that_cannot_be_read_is_named(folder, tmp_path):
    (folder / "sea" / "3.jpg").write_bytes((folder / "sea" / "3.jpg").read_bytes()[:200])
    write_images(folder, str(tmp_path / "store"))
    frame = tilestore.read(tmp_path / "store")
    with pytest.raises(InputError, match=r"^expected pictures that can be read, got sea/3.jpg \(.*\. Mend it or take"):
        decode_all(frame, (224, 224))
    assert decode_all(frame.drop(frame.index[frame["tile_id"] == "sea/3.jpg"])).shape == (19, 30, 40, 3)
    with pytest.raises(InputError, match="expected tiles to decode, got none"):
        decode_all(frame.head(0))


def test_training_draws_the_same_number_of_pure_tiles_of_each_class(folder, tmp_path):
    write_images(folder, str(tmp_path / "store"))
    frame = tilestore.read(tmp_path / "store", split="train")
    frame.loc[frame.index[:3], "purity"] = 0.89
    drawn = tilestore.balanced(tilestore.pure(frame, ("city", "sea")), seed=0)
    assert drawn["label"].value_counts().to_dict() == {0: 5, 1: 5}
    assert (drawn["purity"] >= tilestore.PURE).all()
    drawn = tilestore.balanced(tilestore.pure(frame, ("city", "sea")), seed=0, per_class=7)
    assert drawn["label"].value_counts().to_dict() == {0: 7, 1: 7}
    # The rarer class gives all its five, two of them twice; the other one none twice.
    assert drawn.groupby("label")["tile_id"].value_counts().groupby("label").apply(sorted).to_dict() == {
        0: [1, 1, 1, 2, 2], 1: [1] * 7}
    with pytest.raises(InputError, match="got none of forest"):
        tilestore.pure(frame, ("city", "sea", "forest"))

"""Bad pictures: which are converted, and which are refused with a reason."""

import io
import time

import numpy as np
import pandas as pd
import psutil
import pytest
from PIL import Image

from helpers import InputError
from helpers.tiles import pictures
from helpers.tiles.folder import write_images
from helpers.tiles.pictures import decode_all, encode
from helpers.tiles.store import read
from odd_pictures import CONVERTED, ERRORS, PNG, PX, bomb


@pytest.mark.parametrize("name", CONVERTED)
def test_pictures_that_are_converted(name):
    image, expected = CONVERTED[name]
    pixels = pictures.decode(image)
    assert pixels.shape == (36, 40, 3) and pixels.dtype == np.uint8
    # JPEG loses a little.
    assert np.abs(pixels.astype(int) - np.asarray(expected.convert("RGB"))).mean() < (8 if "JPEG" in name else 4
                                                                                      if name == "YCbCr" else 0.51)


@pytest.mark.parametrize("name", ERRORS)
def test_pictures_that_become_rows_with_a_reason(name):
    image, kind = ERRORS[name]
    with pytest.raises(pictures.BadPicture) as error:
        pictures.decode(image, (PX, PX))
    sentence = str(error.value)
    assert error.value.kind == kind
    assert sentence.startswith("expected ") and ", got " in sentence and sentence.endswith(".") and "\n" not in sentence
    assert "0x" not in sentence, "an address differs from run to run"


def test_pictures_that_can_be_decoded_are_told_from_others():
    images = [next(iter(CONVERTED.values()))[0], next(iter(ERRORS.values()))[0], PNG]
    tiles = pd.DataFrame({"tile_id": list("abc"), "image": images})
    assert pictures.readable(tiles)["tile_id"].tolist() == ["a", "c"]


def test_a_tile_of_a_grid_has_the_grids_size():
    with pytest.raises(pictures.BadPicture) as error:
        pictures.decode(PNG, (PX, PX), tile_px=224)
    assert error.value.kind == "wrong_size"
    assert str(error.value) == "expected a tile of 224 × 224 px, got 36 × 40. Cut it again on the grid."


def test_a_bomb_is_told_by_its_header():
    """What it would have taken: 2.7 GB."""
    image = bomb(30000, 30000)
    before = psutil.Process().memory_info().rss
    with pytest.raises(pictures.BadPicture):
        pictures.decode(image)
    assert psutil.Process().memory_info().rss - before < 50e6


def test_a_tile_survives_encoding():
    tile = np.random.default_rng(0).integers(0, 255, (224, 224, 3), dtype=np.uint8)
    assert (pictures.decode(encode(tile)) == tile).all()
    assert pictures.decode(encode(tile), (32, 64)).shape == (32, 64, 3)


def test_a_digest_is_of_names_and_bytes():
    """And a picture that is missing is not an empty one."""
    digests = {pictures.digest(*tiles) for tiles in (
        (["a", "b"], [b"1", b"2"]), (["a", "b"], [b"12", b""]), (["b", "a"], [b"1", b"2"]), (["a"], [b"1"]),
        (["a", "b"], [b"1", None]), (["a", "b"], [b"1", b""]))}
    assert len(digests) == 6


def test_a_picture_that_cannot_be_read_is_named(folder, tmp_path):
    (folder / "sea" / "3.jpg").write_bytes((folder / "sea" / "3.jpg").read_bytes()[:200])
    write_images(folder, str(tmp_path / "store"))
    frame = read(tmp_path / "store")
    with pytest.raises(InputError, match=r"^expected pictures that can be read, got sea/3.jpg, which can't: .* Or take the tile out"):
        decode_all(frame, (224, 224))
    assert decode_all(frame.drop(frame.index[frame["tile_id"] == "sea/3.jpg"])).shape == (19, 30, 40, 3)
    with pytest.raises(InputError, match="expected tiles to decode, got none"):
        decode_all(frame.head(0))


def test_a_picture_that_takes_minutes_to_read_is_refused_at_once():
    """A progressive JPEG may draw its picture thousands of times, and a PPM of text be mostly comment."""
    buffer = io.BytesIO()
    Image.new("RGB", (4096, 4096)).save(buffer, "JPEG", progressive=True, quality=1)
    whole = buffer.getvalue()
    scan = whole[whole.rindex(b"\xff\xda"):-2]
    started = time.monotonic()
    for image, kind in ((whole[:-2] + scan * 2000 + b"\xff\xd9", "too_large"),
                        (b"P1 4096 4096\n" + b"#\n" * 50_000, "unreadable")):
        with pytest.raises(pictures.BadPicture) as bad:
            pictures.decode(image)
        assert bad.value.kind == kind
    assert time.monotonic() - started < 5

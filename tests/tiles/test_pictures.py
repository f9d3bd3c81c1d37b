"""Bad pictures: which are converted, and which are refused with a reason."""

import numpy as np
import psutil
import pytest

from helpers.tiles import pictures
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

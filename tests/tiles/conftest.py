"""A folder of 20 labelled pictures."""

import io

import numpy as np
import pytest
from PIL import Image


def picture(rng, suffix="png"):
    buffer = io.BytesIO()
    Image.fromarray(rng.integers(0, 255, (30, 40, 3), dtype=np.uint8)).save(buffer, "jpeg" if suffix == "jpg" else suffix)
    return buffer.getvalue()


@pytest.fixture
def folder(tmp_path):
    rng = np.random.default_rng(0)
    for name in ("city", "sea"):
        (tmp_path / "photos" / name).mkdir(parents=True)
        for i in range(10):
            suffix = "jpg" if i % 2 else "png"
            (tmp_path / "photos" / name / f"{i}.{suffix}").write_bytes(picture(rng, suffix))
    return tmp_path / "photos"

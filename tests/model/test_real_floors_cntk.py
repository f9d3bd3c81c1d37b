"""What SqueezeNet's features tell of real pictures, computed by CNTK; nothing is tuned on these."""

import numpy as np
import pytest

from networks import needs_cntk, python36
from real_pictures import aerial, linear_accuracy, uc_merced


@needs_cntk
@pytest.mark.parametrize("pictures, classes, floor", [(aerial, 6, 0.95), (uc_merced, 21, 0.84)])
def test_a_linear_head_on_squeezenet_tells_real_pictures_apart(pictures, classes, floor, real_data, tmp_path):
    tiles, labels, fold = pictures(real_data, 227)
    assert len(set(labels)) == classes and len(labels) > 700
    np.save(tmp_path / "pictures.npy", tiles)
    features = python36("layers", name="squeezenet", pictures=str(tmp_path / "pictures.npy"))["features"]
    accuracy = linear_accuracy(np.array(features), labels, fold)
    print(f"SqueezeNet in CNTK, {pictures.__name__}: {accuracy:.3f}")
    assert accuracy >= floor

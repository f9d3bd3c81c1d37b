import numpy as np
import pytest

from helpers import InputError
from helpers.land import classes as landcover


def test_every_code_has_the_class_and_group_of_the_design():
    classes = {"Barren": [31], "Forest": [41, 42, 43, 90], "Shrub": [51, 52], "Cultivated": [81, 82],
               "Herbaceous": [71, 72, 73, 74, 95], "Developed": [21, 22, 23, 24]}
    for class_id, (name, codes) in enumerate(classes.items()):
        assert landcover.CLASS_NAMES[class_id] == name
        assert (landcover.class_of_code(codes) == class_id).all()
    others = sorted(set(range(256)) - set(sum(classes.values(), [])))
    assert (landcover.class_of_code(others) == landcover.NO_CLASS).all()
    groups = [landcover.GROUPS[g].name for g in landcover.group_of_code([21, 82, 11, 12, 41, 52, 71, 31])]
    assert groups == ["Developed", "Cultivated"] + ["Undeveloped"] * 6
    assert landcover.group_of_code(landcover.NODATA_CODE) == landcover.NO_CLASS
    assert set(landcover.NLCD_LEGEND) == set(sum(classes.values(), [11, 12]))


def counts(**pixels):
    row = np.zeros((1, 256), dtype=np.int32)
    for code, n in pixels.items():
        row[0, int(code[1:])] = n
    return row


@pytest.mark.parametrize("pixels, expected", [
    (dict(n41=20, n42=15, n21=21), ("Forest", "Undeveloped", 35 / 56)),   # a class gathers its codes
    (dict(n11=30, n21=26), (None, "Undeveloped", 0)),                      # water outnumbers every class
    (dict(n11=20, n41=10, n21=26), ("Developed", "Undeveloped", 26 / 56)),  # class and group part ways
    (dict(n31=28, n41=28), ("Barren", "Undeveloped", 0.5)),                # a tie: the lower class_id
    (dict(), (None, None, 0)),                                             # no NLCD pixel at all
])
def test_plurality_label_group_and_purity(pixels, expected):
    label, group, purity = (v[0] for v in landcover.label_tiles(counts(**pixels)))
    name = None if label == landcover.NO_CLASS else landcover.CLASS_NAMES[label]
    group_name = None if group == landcover.NO_CLASS else landcover.GROUPS[group].name
    assert (name, group_name) == expected[:2]
    assert purity == pytest.approx(expected[2])


def test_nine_points_must_all_carry_one_class():
    codes = np.array([[41, 42, 43, 90, 41, 41, 41, 41, 41], [41] * 8 + [21], [11] * 9, [82] * 9])
    assert landcover.nine_point_class(codes).tolist() == [1, -1, -1, 3]


def test_unknown_codes_are_named():
    with pytest.raises(InputError, match=r"got 7, 99\. Use"):
        landcover.check_codes(np.array([41, 99, 7]), "labels.tif")

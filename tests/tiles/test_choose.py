import numpy as np
import pandas as pd
import pytest

import scenes
from helpers import InputError
from helpers.land import catalog
from helpers.tiles import store
from helpers.tiles.choose import check_classes, check_split, draw_blocks, in_blocks


def labelled_county(side=48, seed=0):
    """A labelled county of tiles: forest, a town in one corner, pure barren in a single block, shrub here and there."""
    row, col = map(np.ravel, np.indices((side, side)))
    label = np.where((row < 16) & (col < 16), 5, 1)
    label[(row // 8 == 4) & (col // 8 == 4)] = 0
    rng = np.random.default_rng(seed)
    label[rng.choice(len(label), 60, replace=False)] = 2
    purity = np.where(rng.random(len(label)) < 0.7, 1.0, 0.6)
    return pd.DataFrame({"row": row + 8 * 1000, "col": col + 8 * 500, "label": pd.array(label, "Int8"),
                         "purity": purity})


def test_blocks_are_compact_whole_balanced_and_the_same_every_time():
    labelled = labelled_county()
    blocks = draw_blocks(labelled, 20, seed=1)
    assert blocks == draw_blocks(labelled.sample(frac=1, random_state=5), 20, seed=1)
    assert blocks != draw_blocks(labelled, 20, seed=2)
    chosen = in_blocks(labelled, blocks)
    assert len(chosen) == 64 * len(blocks) and (chosen["purity"] < store.PURE).any()
    pure = chosen[chosen["purity"] >= store.PURE]["label"].value_counts()
    whole = labelled[labelled["purity"] >= store.PURE]["label"].value_counts()
    assert all(pure[c] >= min(20, whole[c]) for c in (0, 1, 5))
    assert len(blocks) <= 12 and (1004, 504) in blocks
    # A neighbour of nearly every tile is there too: newly developed land is judged by its surroundings.
    have = set(zip(chosen["row"], chosen["col"]))
    assert np.mean([(r, c + 1) in have for r, c in have]) >= 0.85


def test_a_class_without_pure_tiles_is_told_from_the_labels_alone(tmp_path, monkeypatch):
    source = catalog.Catalog(scenes.write_county(tmp_path))
    monkeypatch.setattr(source, "scenes", None)  # no scene is asked for
    jobs = [("99001", 2010, "validation")]
    with pytest.raises(InputError, match=r"in the validation counties \(99001\), got none of Barren, Shrub, "
                       "Cultivated, Herbaceous"):
        check_classes({"validation": source}, jobs, 5)
    # A network that is brought needs none of them.
    table = check_classes({"validation": source}, jobs, 5, retrain=False)
    assert (table[["Barren", "Shrub"]] == 0).all(axis=None) and table["Forest"].item() > 0


def test_a_county_is_for_one_purpose():
    jobs = [("99001", 2010, "train"), ("99001", 2016, "train"), ("99005", 2010, "validation"), ("99007", 2010, "map")]
    check_split(jobs)
    with pytest.raises(InputError, match="got 99005 for validation and map. Choose another county"):
        check_split(jobs + [("99005", 2016, "map")])

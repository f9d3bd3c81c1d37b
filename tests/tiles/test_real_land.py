"""The photographs and places that the repository holds."""

import re

import numpy as np
import pandas as pd
import pytest
from PIL import Image

import run_tutorial as script
from helpers.land.classes import CLASS_NAMES
from helpers.tiles import real_land, store
from helpers.tiles.folder import write_images

TABLE = pd.read_csv(real_land.FOLDER / "table.csv")
PHOTOGRAPHS = TABLE[TABLE["class"].notna()]


def test_the_table_lists_every_picture_with_its_source():
    found = {p.relative_to(real_land.FOLDER).as_posix() for p in real_land.FOLDER.rglob("*.webp")}
    assert found == set(TABLE["file"]) and TABLE["file"].is_unique
    assert TABLE[["source", "licence"]].notna().all(axis=None)
    assert sum(p.stat().st_size for p in real_land.FOLDER.rglob("*") if p.is_file()) <= 8e6


def test_photographs_lie_in_the_folder_of_their_class_and_split():
    for row in PHOTOGRAPHS.itertuples():
        folder = "photographs" if row.split == "train" else "photographs_held_out"
        assert row.file.startswith(f"{folder}/{row[TABLE.columns.get_loc('class') + 1]}/")
        assert int(re.search(r"\d+$", row.source)[0]) % 2 == 0  # Odd numbers of UC Merced are kept for other tests.
    assert set(PHOTOGRAPHS["class"]) == set(CLASS_NAMES)
    share = (PHOTOGRAPHS["split"] == "validation").mean()
    assert 0.25 <= share <= 0.4, share


def test_no_picture_of_one_split_is_nearly_one_of_the_other():
    """By the measure that keeps folds of real pictures apart: 16 × 16 grey values in any of the eight turns."""
    grey = np.array([np.asarray(Image.open(real_land.FOLDER / name).convert("L").resize((16, 16), Image.BOX), float)
                     for name in PHOTOGRAPHS["file"]])
    turns = np.array([np.rot90(m, k, axes=(1, 2)) for m in (grey, grey[:, :, ::-1]) for k in range(4)])
    turns = turns.reshape(8, len(grey), -1)
    turns = turns - turns.mean(axis=-1, keepdims=True)
    turns /= np.linalg.norm(turns, axis=-1, keepdims=True)
    alike = np.einsum("id,tjd->tij", turns[0], turns).max(axis=0)
    held, source = (PHOTOGRAPHS["split"] == "validation").to_numpy(), PHOTOGRAPHS["source"].str[:-2].to_numpy()
    across = (held[:, None] & ~held) & (source[:, None] == source) & (PHOTOGRAPHS["class"] != "Barren").to_numpy()
    assert alike[across].max() < 0.9
    # Beaches are one bright band and one dark band, so that all are alike: of them numbers side by side stay together.
    numbers = {split: set(part.loc[part["class"] == "Barren", "source"].str[-2:].astype(int))
               for split, part in PHOTOGRAPHS.groupby("split")}
    assert not {(a, b) for a in numbers["train"] for b in numbers["validation"] if abs(a - b) == 2} - {
        (14, 16), (26, 24), (54, 56), (80, 78)}  # where the scene changes


def test_places_are_the_same_ground_in_every_year():
    places, pictures = real_land.places()
    assert places["kind"].value_counts().to_dict() == {"random": 12, "newly_developed": 5, "changed_otherwise": 5}
    assert pictures.shape == (3, 22, 256, 256, 3)
    grounds = TABLE[TABLE["place"].notna()].groupby("place")[["crs", "left", "bottom", "right", "top"]].nunique()
    assert (grounds == 1).all(axis=None)
    width = places["right"] - places["left"]
    assert (width - 153.6).abs().max() < 0.2


def test_pictures_are_those_of_the_sources(real_data):
    """WebP loses a little, and nothing else was done to them."""
    import rasterio
    for row in TABLE.iloc[::17].itertuples():
        ours = np.asarray(Image.open(real_land.FOLDER / row.file).convert("RGB")).astype(float)
        if row.place != row.place:
            name = row.source.split()[-1]
            theirs = np.asarray(Image.open(real_data / "ucm" / name[:-2] / f"{name}.jpg").convert("RGB"))
        else:
            with rasterio.open(real_data / "naip" / "pairs" / row.kind / row.source.split()[-1]) as file:
                theirs = np.moveaxis(file.read((1, 2, 3)), 0, -1)
        assert ours.shape == theirs.shape and np.sqrt(((ours - theirs) ** 2).mean()) < 8, row.file


def test_photographs_is_a_name_for_both_folders(tmp_path):
    """Notebooks 03, 04 and 05 hand the name on to ``write_images``."""
    assert write_images("photographs", str(tmp_path / "store")) == CLASS_NAMES
    table = store.read(str(tmp_path / "store"))
    assert table["split"].value_counts().to_dict() == PHOTOGRAPHS["split"].value_counts().to_dict()
    assert set(table["county"]) == {"photographs", "photographs_held_out"}


def test_photographs_on_the_command_line(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert script.options(["--images", "photographs"]) == {"images": "photographs", "run_name": "photographs"}
    (tmp_path / "photographs").mkdir()
    assert script.options(["--images", "./photographs"]) == {
        "images": str(tmp_path / "photographs"), "run_name": "pictures"}


@pytest.mark.parametrize("number", ["03", "04", "05"])
def test_every_notebook_that_takes_pictures_hands_the_name_on(number):
    step = script.Step(next((script.REPOSITORY / "notebooks").glob(f"{number}_*.ipynb")), script.Run("one"),
                       {"images": "photographs"})
    assert step.parameters == {"images": "photographs"}
    assert any("write_images(images, store, held_out_images, seed)" in code for code in step.code)

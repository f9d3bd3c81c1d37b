import json
import shutil

import numpy as np
import pytest
import shapely

import scenes
from helpers import InputError
from helpers.land import catalog, grid, sources
from helpers.land.scenes import cut_tiles

COUNTY, YEAR = "99001", 2010


def test_a_folder_of_geotiffs_is_a_catalogue(sample, tmp_path, monkeypatch):
    folder = tmp_path / "mine"
    folder.mkdir()
    for scene in sample.scenes(COUNTY, YEAR):
        (folder / f"{scene.scene_id}.tif").symlink_to(scene.href)
    (folder / "nlcd_2011.tif").symlink_to(sample.labels(COUNTY, YEAR).href)
    boundary = tmp_path / "my_place.geojson"
    boundary.write_text(json.dumps(shapely.geometry.mapping(sample.county(COUNTY).boundary)))
    monkeypatch.setenv("TUTORIAL_COUNTIES", str(boundary))
    source = catalog.open(str(folder))
    tiles, crs = grid.county_tiles(source.county("my_place").boundary)
    assert source.labels("my_place", YEAR).year == 2011
    scenes = source.scenes("my_place", YEAR)
    assert [s.scene_id for s in scenes] == [s.scene_id for s in sample.scenes(COUNTY, YEAR)]
    ours, theirs = (cut_tiles(tiles.head(4), found, crs) for found in (scenes, sample.scenes(COUNTY, YEAR)))
    assert ours[1] == theirs[1] and all(np.array_equal(a, b) for a, b in zip(ours[0], theirs[0]))
    for name in ("scene", "scene_20180230", "scene_20181345", "scene_20180700"):
        (folder / f"{name}.tif").symlink_to(sample.scenes(COUNTY, YEAR)[0].href)
        with pytest.raises(InputError, match=f"YYYYMMDD in the name of the scene {name}.tif, got no date. Rename it"):
            source.scenes("my_place", YEAR)
        (folder / f"{name}.tif").unlink()
    assert sources.date_in("m_20180230_ne_19_060_20180714_20190203").isoformat() == "2018-07-14"


def test_training_counties_are_twelve_and_split_by_county():
    assert len(catalog.TRAINING) == 12 and all(len(code) == 5 for code in catalog.TRAINING)
    assert np.unique([code[:2] for code in catalog.TRAINING]).size == 12
    assert set(catalog.VALIDATION) < set(catalog.TRAINING) and len(catalog.VALIDATION) == 2


def test_a_missing_sample_names_the_command_that_draws_it(tmp_path):
    with pytest.raises(InputError, match=r"^expected the sample counties of seed 3 in .*sample-3, got none\. Draw them "
                                         r"first, in two or three minutes: .venv/bin/python setup_scripts/sample --seed 3$"):
        catalog.open("sample", seed=3)
    # A drawing that was interrupted is none.
    (tmp_path / "home" / "data" / "sample-3").mkdir(parents=True)
    (tmp_path / "home" / "data" / "sample-3" / "catalog.json").write_text("{}")
    with pytest.raises(InputError, match="python setup_scripts/sample --seed 3$"):
        catalog.open("sample", seed=3)


@pytest.fixture(scope="module")
def county(tmp_path_factory):
    return scenes.write_county(tmp_path_factory.mktemp("county"))


def test_a_county_outside_the_scenes(county, tmp_path):
    text = json.loads((county / "counties.geojson").read_text())
    for ring in text["features"][0]["geometry"]["coordinates"]:
        for point in ring:
            point[0] += 2
    moved = tmp_path / "moved"
    shutil.copytree(county, moved)
    (moved / "counties.geojson").write_text(json.dumps(text))
    with pytest.raises(InputError, match="Choose a county that the scenes cover"):
        catalog.Catalog(moved).scenes("99001", 2010)


@pytest.mark.parametrize("ask, words", [
    (lambda c: c.county("12345"), r"got '12345'\. Choose one of Test, ZZ \(99001\)\.$"),
    (lambda c: c.scenes("99001", 1999), r"scenes from 2010 \(covering only 86% of the county\) only"),
])
def test_what_the_catalogue_does_not_have(county, ask, words):
    with pytest.raises(InputError, match=words):
        ask(catalog.Catalog(county))


def test_a_folder_that_is_no_catalogue(tmp_path):
    with pytest.raises(InputError, match="without catalog.json"):
        catalog.Catalog(tmp_path)
    (tmp_path / "catalog.json").write_text("{")
    (tmp_path / "counties.geojson").write_text("{}")
    with pytest.raises(InputError, match="Check its JSON files"):
        catalog.Catalog(tmp_path)


@pytest.fixture
def mine(county, tmp_path, monkeypatch):
    """A folder with two scenes, which lie side by side."""
    monkeypatch.setenv("TUTORIAL_COUNTIES", str(county / "counties.geojson"))
    (tmp_path / "mine").mkdir()
    for i, name in enumerate(("w_20180714.tif", "e_20180714.TIF")):
        scenes.write_scene(tmp_path / "mine" / name, scenes.LEFT - 36 + 648 * i, scenes.TOP + 48, 648, 1500)
    return tmp_path / "mine"


def test_a_folder_has_scenes_whatever_lies_beside_them(mine, capsys):
    inside = list(mine.iterdir())
    for name in (".hidden_20180714.tif", "._w_20180714.tif", "Thumbs.db", "w_20180714.tif.aux.xml",
                 "w_20180714.tif.ovr", "w_20180714.tif.msk", "w_20180714.tfw", "notes.txt"):
        (mine / name).write_bytes(b"\0\5\26\7")
    (mine / "gone_20180714.tif").symlink_to("../annex/object")
    (mine / "w_20180714.tif.aux.xml").write_text("<PAMDataset/>")
    for name in ("w_20180714.tif.ovr", "w_20180714.tif.msk"):
        (mine / name).unlink()
    (mine / "__MACOSX").mkdir()
    source = catalog.open(str(mine))
    assert {scene.href for scene in source.scenes("99001", 2018)} == set(map(str, inside))
    assert source.covered("99001") == {2018: 1.0}
    tiles, crs = grid.county_tiles(scenes.county_boundary())
    assert sum(image is not None for image in cut_tiles(tiles, source.scenes("99001", 2018), crs)[0]) >= 24
    assert capsys.readouterr().out.startswith("8 file(s) or folder(s) of ")


def test_scenes_whose_names_differ_in_their_ending_have_ids_of_their_own(mine):
    shutil.copy(mine / "w_20180714.tif", mine / "w_20180714.tiff")
    assert [scene.scene_id for scene in catalog.open(str(mine)).scenes("99001", 2018)] == [
        "e_20180714", "w_20180714 (1)", "w_20180714 (2)"]


@pytest.mark.parametrize("names", [
    ("NLCD_2016_Impervious_L48.tiff", "NLCD_2016_Land_Cover_L48.tiff", "NLCD_2016_Tree_Canopy_L48.tiff"),
    ("Annual_NLCD_FctImp_2018.tif", "Annual_NLCD_LndCov_2018.TIF", "Annual_NLCD_LndChg_2018.tif"),
    ("a_nlcd_2016.tif", "b_nlcd_2016.tif", "c_nlcd_2016.tif")])
def test_of_several_nlcd_products_land_cover_is_taken(mine, names):
    for name, value in zip(names, (0, 41, 80)):
        scenes.write_labels(mine / name, lambda x, y: np.full(x.shape, value))
    assert catalog.open(str(mine)).labels("99001", 2018).href == str(mine / names[1])
    (mine / names[1]).unlink()
    if "a_" not in names[0]:
        with pytest.raises(InputError, match="expected an NLCD land cover raster.*got only other products"):
            catalog.open(str(mine)).labels("99001", 2018)

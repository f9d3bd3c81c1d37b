import pytest
import shapely

import scenes
from helpers import InputError
from helpers.land import catalog
from helpers.tiles.forecast import as_text, forecast


@pytest.fixture
def source(tmp_path):
    return catalog.Catalog(scenes.write_county(tmp_path))


def test_the_forecast_of_a_county(source):
    found = forecast({"map": source, "train": source}, [("99001", 2010, "map"), ("99001", 2010, "train")], 2,
                     per_class=1)
    assert found["tiles"][0] == 30 > found["tiles"][1] and found["download_mb"].tolist() == [0, 0]
    assert (found["label_year"] == 2011).all() and (found["minutes"] >= 0).all()
    assert found["covered"].between(0.7, 0.9).all()  # the last column has no scene
    with pytest.raises(InputError, match="'keep' or 'exclude'"):
        forecast({"map": source}, [("99001", 2010, "map")], 2, leaf_off="drop")


def test_scenes_with_bare_trees_are_printed_by_name(source, monkeypatch):
    real = source._scenes
    monkeypatch.setattr(source, "_scenes", lambda county: [
        scene._replace(acquired="2010-11-20") if scene.scene_id == "west" else scene for scene in real(county)])
    jobs = [("99001", 2010, "map")]
    lines = as_text({"map": source}, jobs, forecast({"map": source}, jobs, 2))
    named = [line for line in lines if line.startswith("Scene ")]
    assert len(named) == 1 and "west, taken on 2010-11-20, shows" in named[0] and "%" in named[0]
    assert any(line.startswith("In all 30 tiles, 0 MB to download, 2 MB on the disk") for line in lines)


def test_scenes_that_cover_half_of_the_county(source, monkeypatch):
    left, bottom, right, top = source.county("99001").boundary.bounds
    half = source.scenes("99001", 2010)[0]._replace(footprint=shapely.box(left, bottom, (left + right) / 2, top))
    monkeypatch.setattr(source, "_scenes", lambda county: [half])
    jobs = [("99001", 2010, "map")]
    lines = as_text({"map": source}, jobs, forecast({"map": source}, jobs, 2))
    assert any("scenes of 2010 cover only 50% of county 99001" in line for line in lines)

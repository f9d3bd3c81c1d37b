import json
import shutil

import pytest
import shapely

import scenes
from helpers import InputError
from helpers.land import catalog


@pytest.fixture(scope="module")
def county(tmp_path_factory):
    return scenes.write_county(tmp_path_factory.mktemp("county"))


def test_a_year_counts_where_its_scenes_cover_the_county(county, monkeypatch):
    """The border scenes of a neighbouring state's flight touch the county too."""
    source = catalog.Catalog(county)
    one = source.scenes("99001", 2010)[0]
    whole = source.county("99001").boundary.buffer(0.001)
    left, bottom, right, top = whole.bounds
    strip = shapely.box(left, bottom, left + (right - left) / 10, top)
    scenes_of = {2011: strip, 2014: whole, 2016: strip}
    monkeypatch.setattr(source, "_scenes", lambda _: [
        one._replace(year=year, footprint=shape) for year, shape in scenes_of.items()])
    assert source.covered("99001")[2014] == 1 and source.covered("99001")[2011] < 0.2
    assert source.nearest_year("99001", 2011) == source.nearest_year("99001", 2016) == 2014
    with pytest.raises(InputError, match=r"got scenes from 2011 \(of \d+% of it\), 2014, 2016 \(of \d+% of it\) only"):
        source.scenes("99001", 2012)
    scenes_of[2014] = shapely.box(left, bottom, (left + right) / 2, top)
    assert source.nearest_year("99001", 2016) == 2014  # the best there is


def test_a_county_outside_the_scenes(county, tmp_path):
    text = json.loads((county / "counties.geojson").read_text())
    for ring in text["features"][0]["geometry"]["coordinates"]:
        for point in ring:
            point[0] += 2
    moved = tmp_path / "moved"
    shutil.copytree(county, moved)
    (moved / "counties.geojson").write_text(json.dumps(text))
    with pytest.raises(InputError, match="Choose a county inside the scenes"):
        catalog.Catalog(moved).scenes("99001", 2010)


@pytest.mark.parametrize("ask, words", [
    (lambda c: c.county("12345"), r"got '12345'\. Choose one that it has: 99001 \(Test\)"),
    (lambda c: c.scenes("99001", 1999), r"scenes from 2010 \(of 86% of it\) only"),
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

"""Any county's scenes, labels and boundary from a STAC API, files and the Census's file."""

import json

import pytest
import shapely

import servers
from helpers import InputError
from helpers.land import catalog, downloads, online as online_module

COUNTY, YEAR = "99001", 2010


def test_the_same_scenes_and_boundary_as_in_the_sample(online, sample):
    assert shapely.equals(online.county(COUNTY).boundary, sample.county(COUNTY).boundary)
    name = f"{sample.county(COUNTY).name}, ZZ"
    assert online.county(name).fips == online.county(name.lower()).fips == COUNTY
    ours, theirs = online.scenes(COUNTY, YEAR), sample.scenes(COUNTY, YEAR)
    assert [scene[0] for scene in ours] == [scene[0] for scene in theirs]
    assert [scene.acquired for scene in ours] == [scene.acquired for scene in theirs]
    assert online.nearest_year(COUNTY, 1999) == YEAR
    with pytest.raises(InputError, match="got scenes from 2010, 2016 only"):
        online.scenes(COUNTY, 1999)
    with pytest.raises(InputError, match="FIPS code of five digits.*got 'Nowhere, ZZ'"):
        online.county("Nowhere, ZZ")


def test_what_a_file_of_ones_own_lacks_the_census_has(sample, files, tmp_path, monkeypatch):
    own = tmp_path / "my_place.geojson"
    own.write_text(json.dumps(shapely.geometry.mapping(sample.county(COUNTY).boundary)))
    monkeypatch.setenv("TUTORIAL_COUNTIES", str(own))
    monkeypatch.setitem(downloads.ADDRESSES, "TUTORIAL_COUNTIES", f"{files.url}/counties.geojson")
    source = catalog.open("naip")
    assert source.county("my_place").fips == "my_place" and not files.asked
    assert shapely.equals(source.county("99003").boundary, sample.county("99003").boundary) and len(files.asked) == 1
    with pytest.raises(InputError, match="FIPS code of five digits.*got '12345'"):
        source.county("12345")
    with pytest.raises(InputError, match="got 'Middlesex, MA'. Choose one of my_place"):
        source.county("Middlesex, MA")
    monkeypatch.setitem(downloads.ADDRESSES, "TUTORIAL_COUNTIES", f"{files.url}/gone.geojson")
    with pytest.raises(InputError, match="county 99005 in my_place.geojson, got none there.*status 404") as error:
        source.county("99005")
    assert "\n" not in str(error.value)


def test_a_name_that_two_counties_have_is_asked_for_by_code(tmp_path, monkeypatch):
    square = shapely.geometry.mapping(shapely.box(-90.5, 38.5, -90.4, 38.6))
    features = [{"type": "Feature", "properties": {"GEOID": code, "NAME": "St. Louis", "STUSPS": state},
                 "geometry": square}
                for code, state in (("29189", "MO"), ("29510", "MO"), ("27137", "MN"))]
    (tmp_path / "counties.geojson").write_text(json.dumps({"type": "FeatureCollection", "features": features}))
    monkeypatch.setenv("TUTORIAL_COUNTIES", str(tmp_path / "counties.geojson"))
    with pytest.raises(InputError, match=r"Choose one of St. Louis, MO \(29189\), St. Louis, MO \(29510\)\.$"):
        catalog.open("naip").county("St. Louis, MO")
    assert catalog.open("naip").county("St. Louis, MN").fips == "27137"


@pytest.mark.parametrize("faults", [[servers.busy(503)], [servers.busy(429)], "moved"])
def test_a_stac_server_in_trouble_is_asked_again_and_its_answer_kept(online, sample, tmp_path, monkeypatch, faults):
    with servers.Proxy(downloads.address("TUTORIAL_SCENES")) as proxy:
        monkeypatch.setenv("TUTORIAL_SCENES", proxy.url)
        proxy.faults[:] = [servers.moved_to("/?again=1", 307)] if faults == "moved" else faults
        expected = [scene.scene_id for scene in sample.scenes(COUNTY, YEAR)]
        assert [scene.scene_id for scene in catalog.open("naip").scenes(COUNTY, YEAR)] == expected and not proxy.faults
        asked = len(proxy.asked)
        # In another process too: what a search found is kept, and serves on where the server is gone.
        assert [scene.scene_id for scene in catalog.open("naip").scenes(COUNTY, YEAR)] == expected
        assert len(proxy.asked) == asked
        monkeypatch.setattr(online_module, "KEPT_S", 0)
        proxy.faults[:] = [servers.busy(503, "0")] * 50
        assert [scene.scene_id for scene in catalog.open("naip").scenes(COUNTY, YEAR)] == expected
        assert len(proxy.asked) > asked


def test_a_slow_stac_server_is_given_up_in_one_sentence(online, monkeypatch):
    with servers.Proxy(downloads.address("TUTORIAL_SCENES")) as proxy:
        monkeypatch.setenv("TUTORIAL_SCENES", proxy.url)
        monkeypatch.setattr(downloads, "BLOCK_S", 0.2)
        monkeypatch.setattr(downloads, "TRIES", 1)
        proxy.faults[:] = [servers.silent(0.6)] * 9
        with pytest.raises(InputError, match="expected NAIP scenes from 127.0.0.1:.*catalog='sample'") as error:
            catalog.open("naip").scenes(COUNTY, YEAR)
        assert "\n" not in str(error.value)


def test_another_collection_of_another_api(sample, files, tmp_path, monkeypatch):
    """Without naip:year the item's date tells the year."""
    item = next(sample._root.get_child("naip").get_items(recursive=True)).to_dict(
        include_self_link=False, transform_hrefs=False)
    item["assets"], item["links"], item["collection"] = {"rgb": item["assets"]["image"]}, [], "ortho"
    item["assets"]["rgb"]["href"] = f"{files.url}/one.tif"
    item["properties"].pop("naip:year")
    monkeypatch.setenv("TUTORIAL_COUNTIES", str(sample.folder / "counties.geojson"))
    with servers.stac([item], tmp_path) as url:
        monkeypatch.setenv("TUTORIAL_SCENES", f"{url}?collection=ortho&asset=rgb")
        source = catalog.open("naip")
        scene, = source.scenes(COUNTY, int(item["properties"]["datetime"][:4]))
        assert scene.href == f"{files.url}/one.tif"


def test_labels_of_another_county_are_refused(sample, monkeypatch):
    monkeypatch.setenv("TUTORIAL_COUNTIES", str(sample.folder / "counties.geojson"))
    monkeypatch.setenv("TUTORIAL_LABELS", sample.labels("99007", YEAR).href)
    with pytest.raises(InputError, match="NLCD raster over county 99001 .*, got 1 elsewhere"):
        catalog.open("naip").labels(COUNTY, YEAR)

"""The sample counties on the disk and behind servers, as the catalogue of the whole country; a county of one's own."""

import geopandas
import pystac
import pytest

import scenes as drawn
import servers
from helpers.land import catalog, downloads

COUNTY, YEAR = "99001", 2010


@pytest.fixture(autouse=True)
def own_home(tmp_path, monkeypatch):
    monkeypatch.setenv("TUTORIAL_HOME", str(tmp_path / "home"))
    monkeypatch.setattr(downloads, "BACKOFF_S", 0.02)
    monkeypatch.setattr(downloads, "_tokens", {})


@pytest.fixture
def own_county(tmp_path, monkeypatch):
    """Write a boundary file of one county, and set it."""
    monkeypatch.setitem(downloads.ADDRESSES, "TUTORIAL_COUNTIES", f"http://127.0.0.1:{servers.free_port()}/c.zip")
    monkeypatch.setattr(downloads, "TRIES", 1)

    def write(name="own.geojson", geometry=drawn.county_boundary(), **columns):
        path = tmp_path / name
        geopandas.GeoDataFrame({key: [value] for key, value in columns.items()}, geometry=[geometry],
                               crs=4326).to_file(path)
        monkeypatch.setenv("TUTORIAL_COUNTIES", str(path))
        return path
    return write


@pytest.fixture
def sample(sample_world):
    return sample_world


@pytest.fixture
def files(sample):
    with servers.Files(sample.folder) as files:
        yield files


@pytest.fixture
def online(sample, files, tmp_path, monkeypatch):
    items = []
    for item in sample._root.get_child("naip").get_items(recursive=True):
        found = item.to_dict(include_self_link=False, transform_hrefs=False)
        relative = pystac.utils.make_absolute_href(item.assets["image"].href, item.get_self_href())
        found["assets"]["image"]["href"] = f"{files.url}/{relative.split(str(sample.folder))[1].lstrip('/')}"
        found["links"], found["collection"] = [], "naip"
        items.append(found)
    monkeypatch.setenv("TUTORIAL_COUNTIES", f"{files.url}/counties.geojson")
    monkeypatch.setenv("TUTORIAL_SIGNING", "")
    with servers.stac(items, tmp_path) as url:
        monkeypatch.setenv("TUTORIAL_SCENES", url)
        with servers.wcs({YEAR: sample.labels(COUNTY, YEAR).href}, tmp_path) as (address, asked):
            # Formats have other names at each server.
            monkeypatch.setenv("TUTORIAL_LABELS", f"{address}?version=1.0.0&coverage=nlcd_{{year}}&format=GTiff")
            source = catalog.open("naip")
            source.asked = asked
            yield source

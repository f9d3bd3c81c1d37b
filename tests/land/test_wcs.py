"""NLCD from a real WCS: asked for in its words, checked, joined and kept."""

from pathlib import Path
from urllib.parse import parse_qsl, urlsplit

import numpy as np
import pandas as pd
import pytest
import rasterio

import servers
from helpers import InputError
from helpers.land import catalog, downloads, grid, wcs
from helpers.land.labels import label
from helpers.land.sources import Labels
from helpers.land.wcs import check_labels, join_labels

COUNTY, YEAR = "99001", 2010


def test_labels_of_a_wcs_count_as_those_of_the_file(online, sample):
    tiles, crs = grid.county_tiles(online.county(COUNTY).boundary)
    labels = online.labels(COUNTY, YEAR)
    assert "version=1.0.0" in online.asked[-1].lower() and labels.year == YEAR
    with rasterio.open(labels.href) as got:
        assert got.crs == rasterio.CRS.from_epsg(5070) and got.res == (30, 30)
        assert got.bounds.left % 30 == got.bounds.top % 30 == 15
    ours = label(tiles, labels, crs)
    theirs = label(tiles, sample.labels(COUNTY, YEAR), crs)
    pd.testing.assert_frame_equal(ours, theirs)
    asked = len(online.asked)
    assert online.labels(COUNTY, YEAR) == labels and len(online.asked) == asked


def test_the_default_address_asks_what_the_live_server_answers(sample, files, monkeypatch):
    """Word by word, from the untouched address; only the host is another."""
    default = downloads.ADDRESSES["TUTORIAL_LABELS"]
    host = "https://dmsdata.cr.usgs.gov"
    assert default.startswith(host)
    monkeypatch.setenv("TUTORIAL_COUNTIES", str(sample.folder / "counties.geojson"))
    monkeypatch.setenv("TUTORIAL_LABELS", default.replace(host, files.url))
    with pytest.raises(InputError, match="status 404"):
        catalog.open("naip").labels(COUNTY, 2018)
    path, _, query = files.asked[-1].partition("?")
    assert path == "/geoserver/mrlc_Land-Cover-Native_conus_year_data/wcs"
    asked = dict(parse_qsl(query))
    left, bottom, right, top = map(int, asked.pop("bbox").split(","))
    assert asked == {
        "service": "WCS", "version": "1.0.0", "request": "GetCoverage", "crs": "EPSG:5070", "resx": "30", "resy": "30",
        "coverage": "mrlc_Land-Cover-Native_conus_year_data:Land-Cover-Native_conus_year_data", "format": "GeoTIFF",
        "time": "2018-01-01T00:00:00.000Z"}
    county = grid.project(sample.county(COUNTY).boundary, "EPSG:5070").bounds
    assert {left % 30, bottom % 30, right % 30, top % 30} == {15}
    assert 500 <= county[0] - left < 530 and 500 <= county[1] - bottom < 530
    assert 500 <= right - county[2] < 530 and 500 <= top - county[3] < 530


def test_a_coverage_with_a_time_answers_for_each_year(sample, tmp_path, monkeypatch):
    default = downloads.ADDRESSES["TUTORIAL_LABELS"]
    rasters_of = {year: sample.labels(COUNTY, year).href for year in (2011, 2016)}
    monkeypatch.setenv("TUTORIAL_COUNTIES", str(sample.folder / "counties.geojson"))
    with servers.wcs(rasters_of, tmp_path, timed=dict(parse_qsl(urlsplit(default).query))["coverage"]) as (url, asked):
        monkeypatch.setenv("TUTORIAL_LABELS", f"{url}?{urlsplit(default).query}")
        source = catalog.open("naip")
        tiles, crs = grid.county_tiles(source.county(COUNTY).boundary)
        for year, href in rasters_of.items():
            ours = label(tiles, source.labels(COUNTY, year), crs)
            pd.testing.assert_frame_equal(ours, label(tiles, Labels(href, year), crs))
        assert len(asked) == 2
        with pytest.raises(InputError, match="NullPointerException"):
            source.labels(COUNTY, 2013)


def test_a_large_county_is_asked_for_in_windows_and_joined(online, sample, monkeypatch):
    monkeypatch.setattr(wcs, "WINDOW_PX", 90)
    tiles, crs = grid.county_tiles(online.county(COUNTY).boundary)
    ours = label(tiles, online.labels(COUNTY, YEAR), crs)
    pd.testing.assert_frame_equal(ours, label(tiles, sample.labels(COUNTY, YEAR), crs))
    assert len(online.asked) >= 9
    asked = len(online.asked)
    online.labels(COUNTY, YEAR)
    assert len(online.asked) == asked


def label_content(bounds, crs="EPSG:5070", code=41):
    """A label raster of one code, as a server sends it."""
    left, bottom, right, top = bounds
    shape = int((top - bottom) / 30), int((right - left) / 30)
    with rasterio.MemoryFile() as memory:
        with memory.open(driver="GTiff", width=shape[1], height=shape[0], count=1, dtype="uint8", crs=crs,
                         transform=rasterio.transform.from_origin(left, top, 30, 30)) as file:
            file.write(np.full(shape, code, np.uint8), 1)
        return bytes(memory.getbuffer())


@pytest.mark.parametrize("query, said", [
    ("version=2.0.1&coverage=nlcd&key=secret", "coverage, key, version=2.0.1"), ("coverage=a", "coverage"),
    ("", "neither")])
def test_an_address_says_version_and_coverage(sample, query, said):
    with pytest.raises(InputError, match=f"version=1.0.0 and coverage=NAME in TUTORIAL_LABELS, got {said}. Give both"):
        wcs.coverage(f"http://127.0.0.1/wcs?{query}", sample.county(COUNTY).boundary, YEAR)


BOUNDS = (1950015, 2300415, 1953015, 2303415)


@pytest.mark.parametrize("content, said", [
    (label_content(np.add(BOUNDS, (0, 15, 0, 15))), "got 30 m within"),
    (label_content(np.add(BOUNDS, (0, 0, -300, 0))), "got 30 m within"),
    (label_content(BOUNDS, "EPSG:32619"), "in EPSG:5070, got 'EPSG:32619'"),
    (label_content(BOUNDS, code=77), "got 77"),
])
def test_labels_of_other_bounds_grid_or_kind_are_turned_away(content, said):
    with pytest.raises(InputError, match=said):
        check_labels(content, "NLCD of 2018", BOUNDS)


def test_a_crs_that_has_only_a_name_is_taken_for_what_was_asked(tmp_path):
    """As GDAL reads a projection that a server wrote in its own words."""
    content = label_content(np.add(BOUNDS, 0.04), 'LOCAL_CS["NAD83 / Conus Albers",UNIT["metre",1]]')
    check_labels(content, "NLCD of 2018", BOUNDS)
    (tmp_path / "local.tif").write_bytes(content)
    with rasterio.MemoryFile(join_labels([tmp_path / "local.tif"])) as memory, memory.open() as joined:
        assert joined.crs.to_epsg() == 5070 and tuple(joined.bounds) == BOUNDS and (joined.read(1) == 41).all()


@pytest.mark.parametrize("fault, said", [
    (lambda request: servers.reply(request, 200, b'<?xml version="1.0"?><ServiceExceptionReport><ServiceException>'
                                   b'no such year</ServiceException></ServiceExceptionReport>'), "no such year"),
    (lambda request: servers.reply(request, 200, b"<html><body>We are moving</body></html>"), "We are moving"),
    (lambda request: servers.reply(request, 502, b"bad gateway"), "status 502"),
    ("cut", "ends too early")])
def test_labels_that_are_none_end_in_one_sentence_and_are_not_kept(files, sample, tmp_path, monkeypatch, fault, said):
    monkeypatch.setenv("TUTORIAL_COUNTIES", str(sample.folder / "counties.geojson"))
    monkeypatch.setenv("TUTORIAL_LABELS", f"{files.url}/wcs?version=1.0.0&coverage=nlcd")
    if fault == "cut":
        whole = Path(sample.labels(COUNTY, YEAR).href).read_bytes()

        def fault(request):
            return servers.reply(request, 200, whole[:len(whole) // 2])
    files.faults[:] = [fault] * 20
    with pytest.raises(InputError, match=said) as error:
        catalog.open("naip").labels(COUNTY, YEAR)
    assert "\n" not in str(error.value)
    assert not list((tmp_path / "home").rglob("*.tif"))

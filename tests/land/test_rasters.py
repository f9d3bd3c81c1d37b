"""Rasters from a real server: what fails is read again, with another token where one is wanted."""

import datetime
import json
import time
import traceback
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import rasterio
from rasterio.enums import Resampling

import scenes as drawn
import servers
from helpers import InputError
from helpers.land import downloads, grid
from helpers.land.rasters import footprint, open_raster
from helpers.land.scenes import cut_tiles, open_scene, open_scenes
from helpers.land.sources import Scene

COUNTY, YEAR = "99001", 2010


def behind(files, sample):
    """The scenes of the county behind a server."""
    return [scene._replace(href=f"{files.url}/{scene.href.split(str(sample.folder))[1].lstrip('/')}")
            for scene in sample.scenes(COUNTY, YEAR)]


def same(ours, theirs):
    """Whether two results of ``cut_tiles`` show the same, and something."""
    pairs = list(zip(ours[0], theirs[0]))
    return ours[1] == theirs[1] and any(ours[1]) and all(np.array_equal(a, b) for a, b in pairs if a is not None)


def test_tokens_are_asked_for_when_read_and_anew_when_they_end(sample, tmp_path, monkeypatch):
    issued = {}

    class Tokens(servers.Files):
        def answer(self, request):
            self.asked.append(request.path)
            name, ends = f"t{len(issued)}", time.time() + 3
            issued[name] = ends
            when = datetime.datetime.fromtimestamp(ends, datetime.timezone.utc)
            servers.reply(request, 200, json.dumps(
                {"token": f"sig={name}", "msft:expiry": when.isoformat().replace("+00:00", "Z")}).encode())

    def valid(signature):
        return issued.get(signature, 0) > time.time()

    tiles, crs = grid.county_tiles(sample.county(COUNTY).boundary)
    with servers.Files(sample.folder, token=valid) as files, Tokens(tmp_path) as tokens:
        monkeypatch.setenv("TUTORIAL_SIGNING", tokens.url + "/token")
        scenes = behind(files, sample)
        with open_scenes(crs) as read:
            for start in (0, 100, 200, 300):
                batch = tiles.iloc[start:start + 3]
                assert same(cut_tiles(batch, scenes, crs, read), cut_tiles(batch, sample.scenes(COUNTY, YEAR), crs))
                time.sleep(1.2)
        assert 2 <= len(tokens.asked) <= 4
        # Who has no token is turned away, in one sentence that shows no token.
        monkeypatch.setenv("TUTORIAL_SIGNING", "")
        with pytest.raises(InputError, match="expected a scene at") as error:
            cut_tiles(tiles.head(3), scenes, crs)
        assert "sig=" not in str(error.value)


@pytest.fixture
def remote(sample, files):
    """Five tiles, their scenes behind the server, and what should come out."""
    tiles, crs = grid.county_tiles(sample.county(COUNTY).boundary)
    return tiles.head(5), behind(files, sample), crs, cut_tiles(tiles.head(5), sample.scenes(COUNTY, YEAR), crs)


def in_the_middle(files, fault, times):
    """A fault behind what is read when a scene is opened, so many times."""
    left = [times]

    def check(request):
        files.faults.append(check)  # the server takes each out as it answers
        first = int((request.headers.get("Range") or "bytes=0-").split("=")[1].split("-")[0])
        if first < 1 << 17 or not left[0]:
            files.faults.remove(check)
            return False
        left[0] -= 1
        return fault(request)
    files.faults[:] = [check]
    return left


@pytest.mark.parametrize("fault", [servers.busy(503), servers.busy(429), servers.cut_off,
                                   lambda request: servers.reply(request, 403, b"expired")])
def test_what_fails_in_the_middle_is_read_again(remote, files, fault):
    tiles, scenes, crs, expected = remote
    left = in_the_middle(files, fault, 6)
    cut = cut_tiles(tiles, scenes, crs)
    assert same(cut, expected) and left[0] == 0
    # Of all scenes around only those were opened that tiles came from.
    used = {scene_id for scene_id in cut[1] if scene_id}
    assert {Path(path).stem for path in files.asked} == used and len(scenes) > len(used)


def test_a_busy_server_of_scenes_is_left_alone_for_as_long_as_it_wants(remote, files):
    """GDAL's own tries don't heed Retry-After; ours do."""
    tiles, scenes, crs, expected = remote
    until, early = time.monotonic() + 4, []

    def busy(request):
        if time.monotonic() >= until:
            return False
        files.faults.append(busy)
        early.append(request.path)
        return servers.reply(request, 503, b"", {"Retry-After": "3"})
    files.faults[:] = [busy]
    assert same(cut_tiles(tiles, scenes, crs), expected)
    assert 3 <= len(early) <= 8, early


@pytest.mark.parametrize("infrared_as_alpha", [False, True])
def test_what_never_mends_ends_in_one_sentence_without_a_token(tmp_path, monkeypatch, caplog, infrared_as_alpha):
    monkeypatch.setattr(downloads, "TRIES", 2)
    path = drawn.write_cog(tmp_path / "one.tif", drawn.LEFT - 90, drawn.TOP + 70, 600, 600, 0.6,
                           infrared_as_alpha=infrared_as_alpha)
    tiles = pd.DataFrame({"row": [drawn.ROW], "col": [drawn.COL]})
    with servers.Files(tmp_path) as files, servers.Files(tmp_path) as tokens:
        monkeypatch.setenv("TUTORIAL_SIGNING", tokens.url + "/token")
        tokens.faults[:] = [lambda request: servers.reply(request, 200, json.dumps(
            {"token": "st=1&sig=secret", "msft:expiry": "2099-01-01T00:00:00Z"}).encode())] * 9
        scene = Scene("one", files.url + "/one.tif", "2018-07-01", 2018, footprint(path))
        # The header, which is asked for anew each time it is opened, comes; no picture does.
        size = Path(path).stat().st_size

        def cut(request):
            files.faults.append(cut)
            first = int((request.headers.get("Range") or "bytes=0-").split("=")[1].split("-")[0])
            if first >= min(16384, size // 4) or "Range" not in request.headers:
                return servers.cut_off(request)
            files.faults.remove(cut)
            files.faults.append(cut)
            return False
        files.faults[:] = [cut]
        with pytest.raises(InputError, match=r"at http://127.0.0.1:\d+/one.tif, got .*Try again later") as error:
            cut_tiles(tiles, [scene], drawn.CRS)
        assert "\n" not in str(error.value) and len(str(error.value)) < 500 and "VRT" not in str(error.value)
        shown = "".join(traceback.format_exception(error.value))
        assert "sig" not in shown and "secret" not in shown and "sig" not in caplog.text
        assert any("sig=secret" in path for path in files.asked)


def test_a_file_of_a_server_that_is_no_raster_ends_in_one_sentence(tmp_path, monkeypatch):
    monkeypatch.setattr(downloads, "TRIES", 2)
    (tmp_path / "one.tif").write_bytes(b"no raster" * 9999)
    with servers.Files(tmp_path) as files:
        with pytest.raises(InputError, match=r"expected a scene at .*/one.tif, got a file that can't be read") as error:
            open_raster(f"{files.url}/one.tif", "scene")
        assert "\n" not in str(error.value)


def test_overviews_in_a_file_beside_are_read_too(tmp_path):
    path = drawn.write_scene(tmp_path / "fine.tif", drawn.LEFT, drawn.TOP, 300, 300, resolution=0.5)
    with rasterio.Env(TIFF_USE_OVR=True), rasterio.open(path, "r+") as raster:
        raster.build_overviews([2], Resampling.average)
    assert (tmp_path / "fine.tif.ovr").is_file()
    with open_scenes(drawn.CRS) as read, open_scene(path, drawn.CRS) as alone:
        pixels = read(Scene("fine", path, "2018-07-01", 2018, None), lambda dataset: dataset.read())
        assert pixels.shape[1:] == (300, 300) and np.array_equal(pixels, alone.read())

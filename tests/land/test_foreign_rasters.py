"""Rasters as GDAL means them: masks, colours, positions; and those that would read other files."""

import os
import subprocess
import sys

import numpy as np
import pandas as pd
import pytest
import rasterio
import shapely
from rasterio.enums import ColorInterp
from rasterio.transform import Affine, from_origin

import scenes as drawn
import servers
from helpers import InputError
from helpers.land import downloads, grid, rasters
from helpers.land.labels import label_counts, read_labels
from helpers.land.scenes import cut_tiles, open_scene
from helpers.land.sources import Scene

LEFT, TOP = drawn.LEFT, drawn.TOP
TILES = pd.DataFrame({"row": [drawn.ROW, drawn.ROW - 1], "col": [drawn.COL, drawn.COL + 1]})
GROUND = drawn.ground(*np.meshgrid(LEFT + 0.5 + np.arange(448), TOP - 0.5 - np.arange(448))).transpose(2, 0, 1)


def write(path, pixels, to_map=from_origin(LEFT, TOP, 1, 1), crs=drawn.CRS, mask=None, beside=False, **more):
    with rasterio.Env(GDAL_TIFF_INTERNAL_MASK=not beside), rasterio.open(
            path, "w", driver="GTiff", width=pixels.shape[2], height=pixels.shape[1], count=len(pixels),
            dtype=pixels.dtype, crs=crs, transform=to_map, **more) as file:
        file.write(pixels)
        if mask is not None:
            file.write_mask(mask)
    return str(path)


def cut(path):
    return cut_tiles(TILES, [Scene("one", path, "2018-07-01", 2018, rasters.footprint(path))], drawn.CRS)[0]


@pytest.mark.parametrize("beside", [False, True])
@pytest.mark.parametrize("off, nodata", [(0, None), (0.5, None), (0, 7), (0.5, 7)])
def test_what_a_mask_hides_is_blank(tmp_path, off, nodata, beside):
    mask = np.full((448, 448), 255, np.uint8)
    mask[:224, :224] = 0
    path = write(tmp_path / "masked.tif", GROUND, from_origin(LEFT - off, TOP + off, 1, 1), mask=mask, beside=beside,
                 nodata=nodata)
    images = cut(path)
    assert images[0] is None and images[1] is not None


@pytest.mark.parametrize("beside", [False, True])
@pytest.mark.parametrize("first", ["mask", "overviews"])
def test_a_mask_hides_where_an_overview_would_serve(tmp_path, first, beside):
    """Overviews that were made before the mask know nothing of it."""
    mask = np.full((896, 896), 255, np.uint8)
    mask[:448, :448] = 0
    path = write(tmp_path / "fine.tif", GROUND.repeat(2, axis=1).repeat(2, axis=2), from_origin(LEFT, TOP, 0.5, 0.5),
                 mask=mask if first == "mask" else None, beside=beside)
    with rasterio.Env(TIFF_USE_OVR=beside, GDAL_TIFF_INTERNAL_MASK=not beside):
        with rasterio.open(path, "r+") as file:
            file.build_overviews([2, 4])
        if first == "overviews":
            with rasterio.open(path, "r+") as file:
                file.write_mask(mask)
    assert [image is None for image in cut(path)] == [True, False]


def test_an_alpha_band_and_nodata_in_every_band_hide(tmp_path):
    alpha = np.full((1, 448, 448), 255, np.uint8)
    alpha[:, :224, :224] = 0
    path = write(tmp_path / "alpha.tif", np.concatenate([GROUND, alpha]), photometric="RGB", alpha="YES")
    assert [image is None for image in cut(path)] == [True, False]
    white = GROUND.copy()
    white[:, :224, :224] = 255
    path = write(tmp_path / "white.tif", white, nodata=255)
    assert [image is None for image in cut(path)] == [True, False]


@pytest.mark.parametrize("off", [0, 0.5])
@pytest.mark.parametrize("how", ["declared", "described"])
def test_bands_are_those_that_the_file_declares(tmp_path, how, off):
    pixels, to_map = np.concatenate([GROUND[::-1], GROUND[:1] // 2 + 9]), from_origin(LEFT - off, TOP + off, 1, 1)
    path = write(tmp_path / "bgr.tif", pixels, to_map, photometric="MINISBLACK")
    with rasterio.open(path, "r+") as file:
        if how == "declared":
            file.colorinterp = [ColorInterp.blue, ColorInterp.green, ColorInterp.red, ColorInterp.undefined]
        else:
            file.descriptions = ("Blue", "Green", "Red", "NIR")
    image = cut(path)[1 if off else 0].astype(int)  # Of a scene half a metre off, the first tile's edge is missing.
    expected = cut(write(tmp_path / "rgb.tif", GROUND, to_map))[1 if off else 0]
    assert (image == expected).all() and np.abs(image - image[..., ::-1]).max() > 9


@pytest.mark.parametrize("declared", [("undefined", "red", "green"), ("hue", "saturation", "lightness")])
def test_bands_of_other_colours_are_refused(tmp_path, declared):
    path = write(tmp_path / "other.tif", GROUND, photometric="MINISBLACK")
    with rasterio.open(path, "r+") as file:
        file.colorinterp = [ColorInterp[name] for name in declared]
    with pytest.raises(InputError, match=f"expected bands of red, green and blue, got {', '.join(declared)} in "):
        cut(path)


@pytest.mark.parametrize("kind", ["south-up", "mirrored", "turned", "point"])
def test_tiles_lie_right_whatever_way_the_rows_run(tmp_path, kind):
    north_up = from_origin(LEFT - 60, TOP + 60, 1, 1)
    to_map = {"south-up": north_up * Affine(1, 0, 0, 0, -1, 600), "mirrored": north_up * Affine(-1, 0, 600, 0, 1, 0),
              "turned": Affine.translation(LEFT - 300, TOP + 300) * Affine.rotation(20) * Affine.scale(1, -1),
              "point": north_up}[kind]
    size = 1100 if kind == "turned" else 600
    middle = np.stack(np.meshgrid(np.arange(size), np.arange(size))) + 0.5
    pixels = drawn.ground(*(to_map * middle)).transpose(2, 0, 1)
    path = write(tmp_path / "other.tif", pixels, to_map)
    if kind == "point":
        with rasterio.open(path, "r+") as file:
            file.update_tags(AREA_OR_POINT="Point")
    for image, row, col in zip(cut(path), TILES["row"], TILES["col"]):
        top, left = (drawn.ROW - row) * 224, (col - drawn.COL) * 224
        expected = GROUND[:, top:top + 224, left:left + 224].transpose(1, 2, 0).astype(int)
        difference = np.abs(image - expected)
        assert np.median(difference) <= 1 and (difference > 5).mean() < 0.05


@pytest.mark.parametrize("more, words", [
    (dict(to_map=Affine.identity()), "without a position"), (dict(crs=None), "without a CRS"),
    (dict(to_map=from_origin(1e9, 1e9, 1, 1)), "on the Earth")])
def test_a_raster_without_a_place_is_refused(tmp_path, more, words):
    with pytest.warns(rasterio.errors.NotGeoreferencedWarning) if "position" in words else pytest.MonkeyPatch.context():
        path = write(tmp_path / "nowhere.tif", GROUND, **more)
    with pytest.raises(InputError, match=words):
        rasters.footprint(path)


def test_a_proj_of_another_program_is_named(tmp_path, monkeypatch):
    path = write(tmp_path / "here.tif", GROUND)
    done = subprocess.run([sys.executable, "-c", f"from helpers.land import rasters; rasters.footprint({path!r})"],
                          env=dict(os.environ, PROJ_LIB="/nowhere", PYTHONPATH=os.pathsep.join(sys.path)),
                          capture_output=True, text=True)
    assert done.stderr.splitlines()[-1].endswith("Cannot find proj.db. Unset PROJ_LIB and PROJ_DATA."), done.stderr
    place = drawn.county_boundary()
    monkeypatch.setenv("PROJ_NETWORK", "ON")
    monkeypatch.setattr(grid, "project", lambda *_: shapely.box(0, 0, np.inf, np.inf))
    with pytest.raises(InputError, match="a position in EPSG:26919, got none. .* or unset PROJ_NETWORK.$"):
        grid.county_tiles(place)


def codes(**more):
    """Codes of the ground around the tiles, 41 in the west and 82 in the east, and their place."""
    left, bottom, right, top = rasters.project(
        rasters.shapely.box(LEFT - 90, TOP - 600, LEFT + 600, TOP + 90), "EPSG:5070", source=drawn.CRS).bounds
    width, height = int(right - left) // 30, int(top - bottom) // 30
    found = np.full((1, height, width), 41)
    found[:, :, width // 2:] = 82
    return found, from_origin(left, top, 30, 30)


def counted(path):
    return label_counts(path, TILES, drawn.CRS)[0]


@pytest.mark.parametrize("dtype, nodata, hole", [
    ("float32", np.nan, np.nan), ("float64", None, np.nan), ("int16", -9999, -9999), ("int8", -6, -6),
    ("int8", None, None), ("uint16", 65535, 65535), ("uint8", None, "mask"), ("uint8", None, "msk")])
def test_labels_of_any_type_and_nodata(tmp_path, dtype, nodata, hole):
    found, to_map = codes()
    expected = counted(write(tmp_path / "plain.tif", found.astype("uint8"), to_map, "EPSG:5070"))
    typed, middle, mask = found.astype(dtype), found.shape[2] // 2, None
    if hole in ("mask", "msk"):
        mask = np.where(found[0] == 82, 0, 255).astype(np.uint8)
    elif hole is not None:
        typed[:, :, middle:] = hole
    path = write(tmp_path / "typed.tif", typed, to_map, "EPSG:5070", nodata=nodata, mask=mask, beside=hole == "msk")
    if hole is not None:
        assert expected[:, 82].any()
        expected[:, 82] = 0
    assert (counted(path) == expected).all()
    shown, _ = read_labels(path, (LEFT, TOP - 448, LEFT + 448, TOP), drawn.CRS)
    assert set(np.unique(shown)) <= {41, 82, 250} and (82 in shown) == (hole is None)


@pytest.mark.parametrize("turn", [Affine(1, 0, 0, 0, -1, 1), Affine(0, 1, 0, 1, 0, 0)])
def test_labels_count_the_same_whatever_way_their_rows_run(tmp_path, turn):
    found, to_map = codes()
    expected = counted(write(tmp_path / "plain.tif", found.astype("uint8"), to_map, "EPSG:5070"))
    if turn.a:
        other, to_map = found[:, ::-1], to_map * Affine(1, 0, 0, 0, -1, found.shape[1])
    else:
        other, to_map = found.transpose(0, 2, 1), to_map * turn
    path = write(tmp_path / "turned.tif", other.astype("uint8"), to_map, "EPSG:5070")
    assert (counted(path) == expected).all() and expected.sum() > 90


def test_a_stack_of_labels_is_refused(tmp_path):
    found, to_map = codes()
    path = write(tmp_path / "stack.tif", np.repeat(found.astype("uint8"), 5, axis=0), to_map, "EPSG:5070")
    with pytest.raises(InputError, match="of one band, got 5"):
        counted(path)


def test_only_a_geotiff_in_one_file_is_read(tmp_path, monkeypatch):
    """Neither a description of a raster that reads another file, nor a GeoTIFF that names one for its overviews."""
    monkeypatch.setattr(downloads, "TRIES", 1)
    (tmp_path / "served").mkdir()
    secret = write(tmp_path / "secret.tif", GROUND)
    vrt = tmp_path / "served" / "vrt.tif"
    rasterio.shutil.copy(secret, vrt, driver="VRT")
    text = vrt.read_text().replace('relativeToVRT="1">../secret.tif', f'relativeToVRT="0">{secret}')
    vrt.write_text(text)
    assert secret in text
    with rasterio.open(write(tmp_path / "served" / "names.tif", GROUND), "r+") as file:
        file.update_tags(ns="OVERVIEWS", OVERVIEW_FILE=secret)
    with servers.Files(tmp_path / "served") as files:
        for href in (f"{files.url}/vrt.tif", f"{files.url}/names.tif", text, str(vrt), f"/vsizip/{secret}",
                     "ftp://127.0.0.1/one.tif?sig=secret", f"GTIFF_DIR:1:{secret}"):
            with pytest.raises(InputError) as error, open_scene(href, drawn.CRS):
                pass
            assert "sig=" not in str(error.value)
    with open_scene(f"file://{secret}", drawn.CRS) as scene:
        assert scene.shape == (448, 448)


@pytest.mark.parametrize("kind", ["grey", "codes", "stack", "elsewhere", "cut off"])
def test_no_sentence_shows_a_signature(tmp_path, kind):
    path, (found, to_map) = tmp_path / "one.tif", codes()
    found = found.astype("uint8")
    if kind in ("grey", "cut off"):
        write(path, GROUND[:1] if kind == "grey" else GROUND)
    else:
        write(path, {"codes": np.full_like(found, 7), "stack": found.repeat(3, 0), "elsewhere": found}[kind],
              to_map * Affine.translation(4000 * (kind == "elsewhere"), 0), "EPSG:5070")
    if kind == "cut off":
        path.write_bytes(path.read_bytes()[:200_000])
    with servers.Files(tmp_path) as files:
        href = f"{files.url}/one.tif?sig=SECRET"
        with pytest.raises(InputError, match=f"{files.url}/one.tif") as error:
            cut(href) if kind in ("grey", "cut off") else counted(href)
    assert "SECRET" not in str(error.value) and "\n" not in str(error.value)


def test_a_block_that_would_fill_the_memory_is_refused(tmp_path):
    path = tmp_path / "bomb.tif"
    with rasterio.open(path, "w", driver="GTiff", width=20000, height=20000, count=3, dtype="uint8", crs=drawn.CRS,
                       transform=from_origin(LEFT, TOP, 1, 1), tiled=True,
                       blockxsize=20000, blockysize=20000, SPARSE_OK=True):
        pass
    with pytest.raises(InputError, match="in blocks of at most 1024 MB"):
        rasters.footprint(str(path))

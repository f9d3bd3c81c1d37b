import numpy as np
import pytest
import rasterio
from rasterio.enums import Resampling
from rasterio.warp import reproject

import scenes
from helpers import InputError
from helpers.land import grid, scenes as cutting
from helpers.land.rasters import footprint
from helpers.land.sources import Scene

TILES = grid.county_tiles(scenes.county_boundary())[0]


def scene(path):
    return Scene(path.stem, str(path), "2010-07-01", 2010, outline(path))


def outline(path):
    """Of a scene, or where none can be read the county's."""
    try:
        return footprint(str(path))
    except InputError:
        return scenes.county_boundary().buffer(0.01)


def truth(row, col):
    """The ground of a tile at 1 m."""
    pixel_row, pixel_col = np.indices((224, 224))
    return scenes.ground(*scenes.pixel_to_map(row, col, pixel_row, pixel_col))


@pytest.fixture
def whole(tmp_path):
    """One scene of the whole county at 1 m."""
    scenes.write_scene(tmp_path / "whole.tif", scenes.LEFT - 37, scenes.TOP + 51, 1300, 1500)
    return scene(tmp_path / "whole.tif")


def test_tiles_of_a_1_m_scene_are_its_pixels(whole):
    images, scene_ids = cutting.cut_tiles(TILES, [whole], scenes.CRS)
    assert set(scene_ids) == {"whole"}
    for tile, image in zip(TILES.itertuples(), images):
        assert (image == truth(tile.row, tile.col)).all()


def test_neighbours_are_read_together_and_nothing_between_others(whole, monkeypatch):
    """Two tiles with a third between them that nobody wants: its pixels aren't read."""
    widths, read = [], cutting._read_strip

    def noted(dataset, window):
        widths.append(window.width // grid.TILE_PX)
        return read(dataset, window)

    monkeypatch.setattr(cutting, "_read_strip", noted)
    three = TILES[TILES["row"] == TILES["row"].mode()[0]].sort_values("col").head(3)
    for tiles, expected in ((three, [3]), (three.iloc[[0, 2]], [1, 1])):
        widths.clear()
        images, _ = cutting.cut_tiles(tiles, [whole], scenes.CRS)
        assert all(image is not None for image in images) and widths == expected


@pytest.mark.parametrize("resolution", [0.6, 0.3, 2.0])
def test_tiles_of_another_resolution_show_the_same_ground(tmp_path, resolution):
    scenes.write_scene(tmp_path / "fine.tif", scenes.LEFT - 36, scenes.TOP + 48, 1296, 1500, resolution)
    images, _ = cutting.cut_tiles(TILES, [scene(tmp_path / "fine.tif")], scenes.CRS)
    for tile, image in zip(TILES.itertuples(), images):
        difference = np.abs(image.astype(int) - truth(tile.row, tile.col))
        # The ground wraps around where it reaches its brightest; a pixel that straddles the seam mixes both sides.
        assert np.median(difference) <= 1 and (difference > 4).mean() < 0.05


def test_a_scene_in_another_crs_is_warped_as_gdal_warps_it(tmp_path, whole):
    with rasterio.open(whole.href) as source:
        pixels, profile = source.read(), source.profile
        left, bottom, right, top = rasterio.warp.transform_bounds(source.crs, "EPSG:3857", *source.bounds)
        to_map = rasterio.transform.from_origin(left, top, 1.2, 1.2)
        profile.update(crs="EPSG:3857", transform=to_map, width=int((right - left) / 1.2),
                       height=int((top - bottom) / 1.2))
        warped = np.zeros((4, profile["height"], profile["width"]), np.uint8)
        reproject(pixels, warped, src_transform=source.transform, src_crs=source.crs, dst_transform=to_map,
                  dst_crs="EPSG:3857", src_nodata=0, resampling=Resampling.bilinear)
    with rasterio.open(tmp_path / "mercator.tif", "w", **profile) as file:
        file.write(warped)
    inner = TILES[(TILES.col > scenes.COL) & (TILES.row < scenes.ROW)]
    images, _ = cutting.cut_tiles(inner, [scene(tmp_path / "mercator.tif")], scenes.CRS)
    for tile, image in zip(inner.itertuples(), images):
        assert np.median(np.abs(image.astype(int) - truth(tile.row, tile.col))) <= 2


def test_overlapping_scenes_the_nearest_centre_that_shows_the_whole_tile(tmp_path):
    scenes.write_scene(tmp_path / "west.tif", scenes.LEFT - 500, scenes.TOP + 100, 1200, 1600)
    scenes.write_scene(tmp_path / "east.tif", scenes.LEFT + 200, scenes.TOP + 100, 700, 1600, blank_m=260)
    both = [scene(tmp_path / "west.tif"), scene(tmp_path / "east.tif")]
    images, scene_ids = cutting.cut_tiles(TILES, both, scenes.CRS)
    again = cutting.cut_tiles(TILES.iloc[::-1], both[::-1], scenes.CRS)[1][::-1]
    assert scene_ids == again
    for tile, image, scene_id in zip(TILES.itertuples(), images, scene_ids):
        x = (tile.col - scenes.COL) * 224
        in_west, in_east = x + 224 <= 700, x >= 460 and x + 224 <= 900
        near_west = abs(x + 112 - 100) < abs(x + 112 - 550)
        expected = "west" if in_west and (near_west or not in_east) else "east" if in_east else None
        assert scene_id == expected
        assert image is None or (image == truth(tile.row, tile.col)).all()
        # The third column lies nearer to the east scene, whose nodata edge cuts it.
        assert scene_id == "west" or tile.col != scenes.COL + 2
    assert set(scene_ids) == {"west", "east", None}


@pytest.mark.parametrize("kind", ["declared", "undeclared", "alpha"])
def test_one_rule_for_what_shows_nothing(tmp_path, whole, kind):
    """A tile is dropped if more than a hundredth of it is blank, however a scene says so."""
    with rasterio.open(whole.href) as file:
        pixels, profile = file.read(), file.profile
    profile.pop("nodata")
    if kind == "declared":
        profile["nodata"] = 0
    if kind == "alpha":
        pixels[3] = 255
        profile.update(photometric="RGB", alpha="YES")
    west = 37
    for tile_row, width in ((0, 2), (1, 3), (2, 224)):  # 2 of 224 columns are 0.9%, 3 are 1.3%
        top = 51 + tile_row * 224
        pixels[:, top:top + 224, west:west + width] = 0
    with rasterio.open(tmp_path / f"{kind}.tif", "w", **profile) as file:
        file.write(pixels)
    images, _ = cutting.cut_tiles(TILES, [scene(tmp_path / f"{kind}.tif")], scenes.CRS)
    dropped = {(tile.row, tile.col) for tile, image in zip(TILES.itertuples(), images) if image is None}
    assert dropped == {(scenes.ROW - 1, scenes.COL), (scenes.ROW - 2, scenes.COL)}


@pytest.mark.parametrize("resolution, level", [(0.6, None), (0.5, 0), (0.3, 0), (0.25, 1)])
def test_an_overview_serves_where_it_is_fine_enough(tmp_path, resolution, level):
    """What comes out is what averaging the scene's own pixels gives, within rounding."""
    path = scenes.write_cog(tmp_path / "fine.tif", scenes.LEFT - 36, scenes.TOP + 48, 800, 700, resolution)
    with rasterio.open(path) as raster:
        assert cutting.overview_level(resolution, raster.overviews(1)) == level
        expected = np.zeros((3, 448, 448), np.uint8)
        reproject(raster.read((1, 2, 3)), expected, src_transform=raster.transform, src_crs=raster.crs,
                  dst_transform=rasterio.transform.from_origin(scenes.LEFT, scenes.TOP, 1, 1), dst_crs=raster.crs,
                  resampling=Resampling.average)
    four = TILES[(TILES.col < scenes.COL + 2) & (TILES.row > scenes.ROW - 2)]
    images, _ = cutting.cut_tiles(four, [scene(tmp_path / "fine.tif")], scenes.CRS)
    ours = np.zeros_like(expected)
    for tile, image in zip(four.itertuples(), images):
        top, left = (scenes.ROW - tile.row) * 224, (tile.col - scenes.COL) * 224
        ours[:, top:top + 224, left:left + 224] = image.transpose(2, 0, 1)
    difference = np.abs(ours.astype(int) - expected)
    # At 0.3 m an overview's pixels of 0.6 m straddle those of 1 m otherwise than the scene's own.
    allowed = 1 if level is None or resolution in (0.5, 0.25) else 4
    assert difference.mean() < (0.6 if allowed == 1 else 2) and np.quantile(difference, 0.99) <= allowed + 1, (
        difference.mean(), np.quantile(difference, [0.9, 0.99, 1]))


def test_near_infrared_for_alpha_is_told_from_a_few_blocks(tmp_path, monkeypatch):
    path = scenes.write_cog(tmp_path / "plain.tif", scenes.LEFT - 36, scenes.TOP + 48, 2400, 2400, overviews=False,
                            infrared_as_alpha=True)
    with rasterio.open(path) as file:
        assert not file.overviews(1) and file.colorinterp[3].name == "alpha"
        read, blocks = file.read, []

        class Counting:
            def __getattr__(self, name):
                return getattr(file, name)

            def read(self, band, window):
                blocks.append(window)
                return read(band, window=window)
        assert not cutting._is_alpha(Counting())
        assert sum(w.width * w.height for w in blocks) <= 3 * 512 ** 2


def test_a_dark_pixel_is_not_nodata(tmp_path, whole):
    with rasterio.open(whole.href, "r+") as file:
        pixels = file.read()
        pixels[:3, 300:320, 300:320] = 0  # black water, near infrared above 0
        file.write(pixels)
    images, _ = cutting.cut_tiles(TILES, [whole], scenes.CRS)
    assert all(image is not None for image in images)


@pytest.mark.parametrize("change, words", [
    (dict(bands=2), "at least 3 bands of uint8"),
    (dict(crs=None), "without a CRS"),
])
def test_scenes_that_cannot_be_used(tmp_path, change, words):
    scenes.write_scene(tmp_path / "bad.tif", scenes.LEFT, scenes.TOP, 500, 500, **change)
    with pytest.raises(InputError, match=words):
        cutting.cut_tiles(TILES, [scene(tmp_path / "bad.tif")], scenes.CRS)


def test_a_scene_of_16_bit_is_refused(tmp_path, whole):
    with rasterio.open(whole.href) as source:
        profile = dict(source.profile, dtype="uint16")
        with rasterio.open(tmp_path / "deep.tif", "w", **profile) as file:
            file.write(source.read().astype("uint16"))
    with pytest.raises(InputError, match="of uint16"):
        cutting.cut_tiles(TILES, [scene(tmp_path / "deep.tif")], scenes.CRS)


def test_a_missing_and_a_cut_off_scene_are_named(tmp_path, whole):
    with pytest.raises(InputError, match="no such file"):
        cutting.cut_tiles(TILES, [scene(tmp_path / "gone.tif")], scenes.CRS)
    path = tmp_path / "whole.tif"
    path.write_bytes(path.read_bytes()[:len(path.read_bytes()) // 2])
    with pytest.raises(InputError, match="ends too early|broken file"):
        cutting.cut_tiles(TILES, [whole], scenes.CRS)


@pytest.mark.parametrize("resolution, pixel_m", [(1.0, 10), (0.6, 25)])
def test_an_overview_shows_the_scene_where_it_is(tmp_path, resolution, pixel_m):
    path = scenes.write_scene(tmp_path / "scene.tif", scenes.LEFT, scenes.TOP, 900, 600, resolution, blank_m=150)
    rgb, (left, bottom, right, top) = cutting.read_overview(path, scenes.CRS, pixel_m)
    assert (left, bottom, right, top) == pytest.approx((scenes.LEFT, scenes.TOP - 600, scenes.LEFT + 900, scenes.TOP))
    assert rgb.shape == (600 / pixel_m, 900 / pixel_m, 3) and rgb.dtype == np.uint8
    assert not rgb[:, :int(150 / pixel_m) - 1].any() and rgb[:, int(150 / pixel_m) + 1:].any(axis=-1).all()
    i, j = 9, 20
    y, x = np.mgrid[0:pixel_m, 0:pixel_m] + 0.5
    expected = scenes.ground(left + j * pixel_m + x, top - i * pixel_m - y).mean(axis=(0, 1))
    assert np.abs(rgb[i, j] - expected).max() < 3

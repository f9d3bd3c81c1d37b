"""Real NLCD and NAIP files, of other projections and resolutions than the sample's, against rasterio's and GDAL's
own.
"""

import shutil

import numpy as np
import pandas as pd
import pytest
import rasterio
import shapely
from rasterio.enums import Resampling
from rasterio.vrt import WarpedVRT
from rasterio.warp import reproject, transform, transform_bounds

from helpers import InputError
from helpers.land import catalog, classes as landcover, grid, scenes as rasters
from helpers.land.labels import label_counts
from helpers.land.online import label_files
from helpers.land.rasters import footprint, split_crs
from helpers.land.sources import County, Scene

# Albers and UTM, on NAD83, WGS 84 and an unnamed datum, in pixels of 30 and 31.5 m; the first one's CRS is stated.
NLCD = ("nlcd_2016_frederick_md.tif#crs=EPSG:5070", "augusta_nlcd_2011.tif", "rhode_island_nlcd.tif",
        "nlcd_2011_zion_ut.tif", "nlcd_durham_nc.tif", "nlcd_2024_cheyenne_wy.tif", "nlcd_connecticut_valley.tif")
NAIP = ("m_3211605_ne_11_060_20200415.tif", "m_4208701_ne_16_060_20200902.tif", "m_4709963_se_14_1_20150926.tif",
        "naip_berkeley_3857_1.19m.tif")
# On the border of UTM zones 17 and 18: a county in one zone takes its pictures from scenes of the other too.
BORDER = {"m_3607824_se_17_1_20160620_subset.tif": "EPSG:26918", "m_3607717_sw_18_1_20160620_subset.tif": "EPSG:26917"}


def tiles_inside(path, margin_m=0.0, most=400):
    """Tiles of the UTM grid that lie in a raster, some of them where there are many, and their CRS."""
    with rasterio.open(path) as raster:
        left, bottom, right, top = transform_bounds(raster.crs, "EPSG:4326", *raster.bounds)
        middle = (left + right) / 2, (bottom + top) / 2
        crs = grid.utm_crs(*middle)
        inside = grid.project(shapely.segmentize(shapely.box(*raster.bounds), 2000), crs, source=raster.crs)
    inside = inside.buffer(-margin_m)
    x0, y0, x1, y1 = inside.bounds
    m = grid.TILE_M
    rows, cols = np.meshgrid(np.arange(y0 // m, y1 // m + 1), np.arange(x0 // m, x1 // m + 1), indexing="ij")
    frame = pd.DataFrame({"row": rows.ravel().astype(int), "col": cols.ravel().astype(int)})
    whole = [inside.contains(shapely.box(*grid.tile_bounds(r, c))) for r, c in zip(frame["row"], frame["col"])]
    frame = frame[whole]
    if len(frame) > most:
        # A run of neighbours, so that one window of the raster holds them.
        frame = frame.iloc[len(frame) // 2:len(frame) // 2 + most]
    return frame.reset_index(drop=True), crs


@pytest.mark.parametrize("name", NLCD)
def test_labels_are_what_an_independent_count_says(real_data, tmp_path, name):
    """Pixel by pixel: a pixel belongs to the tile in which its centre lies."""
    path, stated = split_crs(real_data / "geo" / "nlcd" / name)
    if stated:
        shutil.copy(path, tmp_path / "stated.tif")
        with rasterio.open(tmp_path / "stated.tif", "r+") as raster:
            raster.crs = stated
    true = tmp_path / "stated.tif" if stated else path
    tiles, crs = tiles_inside(true, most=300)
    assert len(tiles) >= 200
    counts, _ = label_counts(str(real_data / "geo" / "nlcd" / name), tiles, crs)
    with rasterio.open(true) as raster:
        codes = raster.read(1)
        rows, cols = np.indices(codes.shape)
        mx, my = raster.transform * np.stack([cols.ravel() + 0.5, rows.ravel() + 0.5])
        x, y = map(np.asarray, transform(raster.crs, crs, mx, my))
    row, col = np.floor(y / grid.TILE_M).astype(int), np.floor(x / grid.TILE_M).astype(int)
    pixels = pd.DataFrame({"row": row, "col": col, "code": codes.ravel()})
    pixels = pixels[~pixels["code"].isin([0, 250, 255])]
    expected = pixels.merge(tiles.assign(tile=np.arange(len(tiles)))).groupby(["tile", "code"]).size()
    ours = {(tile, code): counts[tile, code] for tile, code in zip(*np.nonzero(counts))}
    assert ours == expected.to_dict()
    class_id, group, purity = landcover.label_tiles(counts)
    # Zion is rock, woods and shrubs, with nothing built or sown.
    assert len(set(class_id[class_id >= 0])) >= 3 and purity.min() < purity.max() <= 1


def test_a_raster_whose_coordinates_contradict_its_crs(real_data, tmp_path, monkeypatch):
    """The file says Albers with origin 0, 0, which puts Maryland into Africa; its coordinates are EPSG:5070's."""
    path = real_data / "geo" / "nlcd" / "nlcd_2016_frederick_md.tif"
    county = County("24021", "Frederick", shapely.box(-77.47, 39.36, -77.36, 39.47))
    with pytest.raises(InputError, match="Choose the raster of this county. If this is it, the CRS in the file may be "
                       "wrong: give the correct one behind its name, TUTORIAL_LABELS=FILE#crs=EPSG:5070."):
        label_files(str(path), county)
    found, = label_files(f"{path}#crs=EPSG:5070", county)
    assert found == (f"{path}#crs=EPSG:5070", 2016, "")
    tiles, crs = grid.county_tiles(county.boundary)
    with pytest.raises(InputError, match="over the county, got .*the CRS in the file may be wrong"):
        label_counts(str(path), tiles, crs)
    counts, nine = label_counts(found.href, tiles, crs)
    # 224 m square hold 55.8 pixels; Frederick is a town among fields.
    assert 48 <= counts.sum(axis=1).min() and counts.sum(axis=1).max() <= 64 and (nine > 0).all()
    built, fields = counts[:, 21:25].sum() / counts.sum(), counts[:, 81:83].sum() / counts.sum()
    assert built > 0.2 and fields > 0.2
    with pytest.raises(InputError, match="expected a CRS such as EPSG:5070 behind #crs= of .*, got 'EPSG:0'"):
        label_files(f"{path}#crs=EPSG:0", county)


def test_grouped_classes_are_not_taken_for_codes(real_data):
    """Of 1 to 8 none but 11 and 12 could be an NLCD code."""
    path = real_data / "geo" / "nlcd" / "geocompy_nlcd.tif"
    tiles, crs = tiles_inside(path, most=300)
    with pytest.raises(InputError, match="expected NLCD land cover codes .*, got 2, 3, 4, 5, 6"):
        label_counts(str(path), tiles, crs)


@pytest.mark.parametrize("name", [*NAIP, *BORDER])
def test_tiles_are_what_gdals_warp_makes(real_data, name):
    """Two of the clips are smaller than a tile, so windows lie on whole metres, wherever the clip does."""
    path = str(real_data / ("naip/va" if name in BORDER else "geo/naip") / name)
    outline = footprint(path)
    crs = BORDER.get(name) or grid.utm_crs(outline.centroid.x, outline.centroid.y)
    with rasterio.open(path) as raster:
        left, bottom, right, top = transform_bounds(raster.crs, crs, *raster.bounds)
        finer = (right - left) / raster.width < 1
        colours = raster.read((1, 2, 3))  # an array, in which no band is taken for a mask
        assert name not in BORDER or raster.crs != crs
        left, top = np.ceil(left) + 20, np.floor(top) - 20
        width, height = min(224, int(right - left) - 20), min(224, int(top - bottom) - 20)
        expected = np.zeros((3, height, width), np.uint8)
        reproject(colours, expected, src_transform=raster.transform, src_crs=raster.crs, dst_crs=crs,
                  dst_transform=rasterio.transform.from_origin(left, top, 1, 1),
                  resampling=Resampling.average if finer else Resampling.bilinear)
    with rasters.open_scene(path, crs) as scene:
        window = rasterio.windows.Window(col_off=round(left - scene.bounds.left), row_off=round(scene.bounds.top - top),
                                         width=width, height=height)
        pixels, valid = rasters._read_strip(scene, window)
    difference = np.abs(pixels.astype(int) - expected)
    # Where zones differ pixels are turned by a degree or two, and GDAL finds their places to an eighth of a pixel.
    most = np.quantile(difference, 0.95) if name in BORDER else difference.max()
    assert valid.all() and pixels.std() > 3 and most <= 1, (difference.max(), (difference > 1).mean())


def test_near_infrared_that_calls_itself_alpha_hides_nothing(real_data, tmp_path):
    """Native NAIP files declare their near infrared as alpha; over water it is 0, and the water is there all the
    same.
    """
    with rasterio.open(real_data / "geo" / "naip" / "m_4208701_ne_16_060_20200902.tif") as raster:
        assert raster.colorinterp[3].name == "alpha"
        pixels, profile = raster.read(), raster.profile
    pixels[3, :20] = 0
    with rasterio.open(tmp_path / "water.tif", "w", **dict(profile, photometric="RGB", alpha="YES")) as file:
        file.write(pixels)
    with rasters.open_scene(str(tmp_path / "water.tif"), profile["crs"].to_string()) as scene:
        rgb, valid = rasters._read_strip(scene, rasterio.windows.Window(col_off=4, row_off=4, width=60, height=60))
    assert valid.all() and rgb.min() > 0


def test_a_boundary_of_ones_own(real_data, monkeypatch):
    """A file with one county, without a code, and with a ring that isn't closed."""
    monkeypatch.setenv("TUTORIAL_COUNTIES", str(real_data / "geo" / "middlesex_ma" / "Middlesex.geo.json"))
    place = catalog.open("naip").county("Middlesex")
    tiles, crs = grid.county_tiles(place.boundary)
    # The Census Bureau gives Middlesex County 2,195 km², water included.
    assert crs == "EPSG:26919" and len(tiles) * 0.224 ** 2 == pytest.approx(2195, rel=0.05)


def test_a_clip_of_real_imagery_is_cut_and_labelled(real_data, tmp_path, monkeypatch):
    """Berkeley, 1.19 map units of web Mercator, is large enough for whole tiles."""
    path = real_data / "geo" / "naip" / "naip_berkeley_3857_1.19m.tif"
    tiles, crs = tiles_inside(path, margin_m=5)
    assert len(tiles) >= 6
    scenes = [Scene("berkeley", str(path), "2018-07-01", 2018, footprint(str(path)))]
    images, ids = rasters.cut_tiles(tiles, scenes, crs)
    assert set(ids) == {"berkeley"}
    with rasterio.open(path) as raster, WarpedVRT(raster, crs=crs, resampling=Resampling.average) as warped:
        for image, row, col in zip(images, tiles["row"], tiles["col"]):
            assert image.shape == (224, 224, 3)
            left, bottom, right, top = grid.tile_bounds(row, col)
            mean = warped.read((1, 2, 3), window=warped.window(left, bottom, right, top)).mean(axis=(1, 2))
            # Another grid of pixels sees the same ground.
            assert np.abs(image.mean(axis=(0, 1)) - mean).max() < 2


# Around Narragansett Bay, from the state's map: water, the towns' middles, and woods.
WATER = {"West Passage": (-71.40, 41.55), "bay north of Prudence Island": (-71.345, 41.70),
         "Rhode Island Sound": (-71.40, 41.40), "Block Island Sound": (-71.55, 41.35),
         "Mount Hope Bay": (-71.22, 41.68)}
LAND = {"Providence": (-71.412, 41.824), "Pawtucket": (-71.383, 41.878), "Newport": (-71.3128, 41.490),
        "Exeter's woods": (-71.70, 41.58), "Foster's woods": (-71.75, 41.80)}


def test_the_grid_lies_on_rhode_islands_coast(real_data):
    """Water where the bay and the ocean are, towns and woods where they are; a tile aside would tell along the
    shore.
    """
    path = real_data / "geo" / "nlcd" / "rhode_island_nlcd.tif"
    crs = grid.utm_crs(-71.4, 41.6)
    places = {**WATER, **LAND}
    x, y = map(np.array, transform("EPSG:4326", crs, *zip(*places.values())))
    row, col = grid.tile_of(x, y)
    counts, _ = label_counts(str(path), pd.DataFrame({"row": row, "col": col}), crs)
    share = dict(zip(places, counts[:, 11] / counts.sum(axis=1)))
    built = dict(zip(places, counts[:, 21:25].sum(axis=1) / counts.sum(axis=1)))
    wooded = dict(zip(places, counts[:, [41, 42, 43, 90]].sum(axis=1) / counts.sum(axis=1)))
    assert all(share[name] > 0.9 for name in WATER), share
    assert all(share[name] < 0.1 for name in LAND), share
    assert all(built[name] > 0.8 for name in ("Providence", "Pawtucket", "Newport")), built
    assert all(wooded[name] > 0.5 for name in ("Exeter's woods", "Foster's woods")), wooded
    # Point Judith, where the lighthouse stands: a tile to the south is the ocean.
    line = pd.DataFrame({"row": np.arange(-6, 7), "col": 0})
    x, y = map(np.array, transform("EPSG:4326", crs, [-71.4814], [41.3610]))
    row, col = grid.tile_of(x, y)
    counts, _ = label_counts(str(path), line + [int(row[0]), int(col[0])], crs)
    water = counts[:, 11] / counts.sum(axis=1)
    assert (water[:6] > 0.9).all() and (water[6:8] < 0.5).all(), water.round(2)

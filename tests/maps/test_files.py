import geopandas
import numpy as np
import pandas as pd
import pytest
import rasterio
from rasterio.warp import transform

import scenes
from helpers.land import classes as landcover, grid, scenes as rasters
from helpers.land.labels import read_labels
from helpers.maps.files import write_map, write_tiles
from helpers.land.grid import to_grid

TILES = grid.county_tiles(scenes.county_boundary())[0]
CLASS_IDS = np.arange(len(TILES)) % 6
LEGEND = {c.class_id: (c.name, c.colour) for c in landcover.CLASSES}


@pytest.fixture
def class_map(tmp_path):
    values = pd.Series(CLASS_IDS).astype("Int8")
    values[5] = pd.NA
    path = tmp_path / "maps" / "classes.tif"
    write_map(path, to_grid(TILES["row"], TILES["col"], values), scenes.CRS, LEGEND, tags={"YEAR": "2016"},
                      description="land cover")
    return path


def test_a_map_has_each_class_where_its_tile_lies(class_map):
    with rasterio.open(class_map) as file:
        assert file.crs.to_epsg() == 26919 and file.res == (224, 224)
        assert file.transform.c % 224 == 0 and file.transform.f % 224 == 0
        x, y = (TILES["col"] + 0.5) * 224, (TILES["row"] + 0.5) * 224
        sampled = np.array([value[0] for value in file.sample(zip(x, y))])
        assert sampled[5] == file.nodata == 255
        assert (np.delete(sampled, 5) == np.delete(CLASS_IDS, 5)).all()
        # From the tile's centre by way of longitude and latitude, as another program would ask.
        longitude, latitude = transform(scenes.CRS, "EPSG:4326", [x[7]], [y[7]])
        back = transform("EPSG:4326", file.crs, longitude, latitude)
        assert next(file.sample(zip(*back)))[0] == CLASS_IDS[7]


def test_a_map_carries_colours_names_and_tags(class_map):
    with rasterio.open(class_map) as file:
        colours = file.colormap(1)
        assert file.colorinterp[0] == rasterio.enums.ColorInterp.palette
        for c in landcover.CLASSES:
            assert "#%02x%02x%02x" % colours[c.class_id][:3] == c.colour
            assert file.tags()[f"VALUE_{c.class_id}"] == c.name
        assert file.tags()["YEAR"] == "2016"
        assert file.tags(ns="IMAGE_STRUCTURE")["LAYOUT"] == "COG"


def test_gdal_names_the_categories(class_map, tmp_path):
    """What GDAL knows of a file it writes into a VRT."""
    rasterio.shutil.copy(str(class_map), str(tmp_path / "seen.vrt"), driver="VRT")
    seen = (tmp_path / "seen.vrt").read_text()
    named = [seen.index(f"<Category>{c.name}</Category>") for c in landcover.CLASSES]
    assert named == sorted(named) and "<Description>land cover</Description>" in seen


def test_overviews_of_a_large_map_hold_classes_not_averages(tmp_path):
    # Forest and Cultivated in turn: between their colours lie those of other classes.
    values = np.full((900, 700), 1, dtype=np.uint8)
    values[::2] = 3
    path = tmp_path / "large.tif"
    write_map(path, to_grid([0], [0], [0])._replace(values=values, top_row=21000), scenes.CRS, LEGEND)
    with rasterio.open(path) as file:
        assert file.overviews(1) == [2]
        assert set(np.unique(file.read(1, out_shape=(450, 350)))) <= {1, 3}


def test_an_interrupted_map_leaves_the_old_one(class_map, monkeypatch):
    before = class_map.read_bytes()

    def breaks_off(source, path, **options):
        with open(path, "wb") as file:
            file.write(before[:100])
        raise OSError("No space left on device")
    monkeypatch.setattr(rasterio.shutil, "copy", breaks_off)
    with pytest.raises(OSError):
        write_map(class_map, to_grid([0], [0], [0]), scenes.CRS, LEGEND)
    assert class_map.read_bytes() == before
    assert sorted(p.name for p in class_map.parent.iterdir()) == [class_map.name, class_map.name + ".aux.xml"]


def test_tiles_come_back_from_geoparquet_with_all_columns(tmp_path):
    frame = TILES.assign(class_id=pd.array(CLASS_IDS, dtype="Int8"), county="99001", year=2016,
                         probabilities=[np.full(6, i / 100, dtype=np.float32) for i in range(len(TILES))])
    frame.loc[3, "class_id"] = pd.NA
    frame.at[3, "probabilities"] = None
    path = tmp_path / "tiles.parquet"
    write_tiles(path, frame, scenes.CRS)
    back = geopandas.read_parquet(path)
    assert list(back.columns) == list(frame.columns) + ["geometry"] and back.crs.to_epsg() == 26919
    assert back["tile_id"].tolist() == frame["tile_id"].tolist()
    assert back["class_id"].isna().tolist() == frame["class_id"].isna().tolist()
    assert np.allclose(back.loc[9, "probabilities"], 0.09) and back.loc[3, "probabilities"] is None
    assert (back.geometry.area == 224 ** 2).all()
    assert (back.geometry.bounds.to_numpy() % 224 == 0).all()
    assert back.union_all().area == len(TILES) * 224 ** 2
    row, col = grid.tile_of(back.geometry.centroid.x.to_numpy(), back.geometry.centroid.y.to_numpy())
    assert (row == frame["row"]).all() and (col == frame["col"]).all()


@pytest.mark.parametrize("resolution, pixel_m", [(1.0, 10), (0.6, 25)])
def test_an_overview_shows_the_scene_where_it_is(tmp_path, resolution, pixel_m):
    path = scenes.write_scene(tmp_path / "scene.tif", scenes.LEFT, scenes.TOP, 900, 600, resolution, blank_m=150)
    rgb, (left, bottom, right, top) = rasters.read_overview(path, scenes.CRS, pixel_m)
    assert (left, bottom, right, top) == pytest.approx((scenes.LEFT, scenes.TOP - 600, scenes.LEFT + 900, scenes.TOP))
    assert rgb.shape == (600 / pixel_m, 900 / pixel_m, 3) and rgb.dtype == np.uint8
    assert not rgb[:, :int(150 / pixel_m) - 1].any() and rgb[:, int(150 / pixel_m) + 1:].any(axis=-1).all()
    i, j = 9, 20
    y, x = np.mgrid[0:pixel_m, 0:pixel_m] + 0.5
    expected = scenes.ground(left + j * pixel_m + x, top - i * pixel_m - y).mean(axis=(0, 1))
    assert np.abs(rgb[i, j] - expected).max() < 3


def test_label_pixels_lie_where_the_raster_says(tmp_path):
    def codes_of(x, y):
        return np.where((x - scenes.LEFT) // 100 % 2 == 0, 41, 82)
    path = scenes.write_labels(tmp_path / "labels.tif", codes_of)
    bounds = grid.tile_bounds(scenes.ROW - 2, scenes.COL + 2)
    codes, corners = read_labels(path, bounds, scenes.CRS)
    assert corners.shape == codes.shape + (4, 2)
    centre = corners.mean(axis=2)
    assert (codes_of(centre[..., 0], centre[..., 1]) == codes).all()
    # Together the pixels cover the tile, each 30 m wide, within the distortion between the two projections.
    assert (corners.reshape(-1, 2).min(axis=0) <= bounds[:2]).all()
    assert (corners.reshape(-1, 2).max(axis=0) >= bounds[2:]).all()
    assert np.hypot(*(corners[:, :, 1] - corners[:, :, 0]).T) == pytest.approx(30, rel=0.01)
    # Beyond the raster there is nothing.
    far = read_labels(path, (bounds[0] + 9000, bounds[1], bounds[2] + 9000, bounds[3]), scenes.CRS)[0]
    assert (far == landcover.NODATA_CODE).all()

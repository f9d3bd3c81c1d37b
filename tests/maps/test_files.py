"""Maps in files: made-up ones as other programs read them, and those of the default run."""

import geopandas
import numpy as np
import pandas as pd
import pytest
import rasterio
import rasterio.shutil
import shapely
from rasterio.warp import transform

import scenes
from helpers.land import classes as landcover, grid
from helpers.land.grid import to_grid
from helpers.maps.files import write_map, write_raster_style, write_style, write_tiles
from helpers.maps.new_development import CHANCE
from helpers.model import evaluation
from helpers.tiles import store as tilestore
from helpers.tiles.pictures import decode_all

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
    """GDAL writes all that it knows of a file into a VRT."""
    rasterio.shutil.copy(str(class_map), str(tmp_path / "seen.vrt"), driver="VRT")
    seen = (tmp_path / "seen.vrt").read_text()
    named = [seen.index(f"<Category>{c.name}</Category>") for c in landcover.CLASSES]
    assert named == sorted(named) and "<Description>land cover</Description>" in seen


def test_overviews_of_a_large_map_hold_classes_not_averages(tmp_path):
    # Forest and Cultivated in turn: between their colours lie those of other classes.
    values = np.full((900, 700), 1, dtype=np.uint8)
    values[::2] = 3
    path = tmp_path / "large.tif"
    write_map(path, to_grid([0], [0], [0])._replace(values=values, top_row=21000), scenes.CRS, LEGEND, {}, "classes")
    with rasterio.open(path) as file:
        assert file.overviews(1) == [2]
        assert set(np.unique(file.read(1, out_shape=(450, 350)))) <= {1, 3}


def test_an_interrupted_map_leaves_the_old_one(class_map, monkeypatch):
    before = class_map.read_bytes()

    def breaks_off(path, *mode, **options):
        path.write_bytes(before[:100])
        raise OSError("No space left on device")
    monkeypatch.setattr(rasterio, "open", breaks_off)
    with pytest.raises(OSError):
        write_map(class_map, to_grid([0], [0], [0]), scenes.CRS, LEGEND, {}, "classes")
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


def test_styles_name_what_they_colour(tmp_path):
    write_raster_style(tmp_path / "class.qml", {c.class_id: (c.name, c.colour) for c in landcover.CLASSES})
    text = (tmp_path / "class.qml").read_text()
    for c in landcover.CLASSES:
        assert f'value="{c.class_id}" color="{c.colour}" label="{c.name}"' in text
    write_style(tmp_path / "rule.qml", "score", calibrated=False)
    assert "no probability" in (tmp_path / "rule.qml").read_text() and "%" not in (tmp_path / "rule.qml").read_text()


# ---- the default run

def test_files_read_back_and_lie_on_the_scenes(run):
    tiles = geopandas.read_parquet(run.maps / "99007_tiles.parquet")
    facts = tilestore.manifest(run.tiles, "99007", 2016)
    assert tiles.crs.to_string() == facts["crs"] and len(tiles) == facts["tiles"]
    assert {"score", "score_is", "reason", "group_2010", "class_id_2016", "uncertainty_2016",
            "probabilities_2010"} <= set(tiles.columns)
    style = (run.maps / "99007_tiles.qml").read_text()
    assert 'attr="score"' in style and style.count("<range ") == style.count("<symbol ") == 5
    x, y = tiles.geometry.centroid.x, tiles.geometry.centroid.y
    for name, column in (("change_score", 100 * tiles["score"]), ("class_2016", tiles["class_id_2016"]),
                         ("developed_2016", 100 * np.stack(tiles["probabilities_2016"])[:, 5])):
        with rasterio.open(run.maps / f"99007_{name}.tif") as file:
            values = np.array([v[0] for v in file.sample(zip(x, y))])
            assert np.abs(values - column.astype(float)).max() <= 0.51 and file.crs.to_string() == facts["crs"]
            assert file.tags()["COUNTY"] == "99007" and file.tags(ns="IMAGE_STRUCTURE")["LAYOUT"] == "COG"
            assert file.colormap(1)[0] != file.colormap(1)[4] and file.descriptions[0]
            with rasterio.open(facts["scenes"][0]) as scene:
                assert scene.crs == file.crs
                # The picture in the store is what the scene shows at the square of the GeoParquet file.
                inside = tiles[tiles.within(shapely.box(*scene.bounds))]
                one = inside.iloc[len(inside) // 2]
                window = scene.window(*one.geometry.bounds)
                seen = scene.read((1, 2, 3), window=window, out_shape=(3, 224, 224)).transpose(1, 2, 0)
    stored = tilestore.read(run.tiles, "99007", 2016, columns=["tile_id", "image"]).set_index("tile_id")
    picture = decode_all(stored.loc[[one["tile_id"]]].reset_index())[0]
    assert shift(seen, picture) == (0, 0)
    # The test notices a picture that was cut two pixels beside its place.
    for moved in ((2, 0), (0, 2), (-2, -2)):
        assert shift(np.roll(seen, moved, axis=(0, 1)), picture) == moved


def shift(a, b, most=4):
    """By how many pixels, down and right, a picture is like another."""
    def alike(down, right):
        one = np.roll(a, (-down, -right), axis=(0, 1))[most:-most, most:-most]
        return np.corrcoef(one.ravel(), b[most:-most, most:-most].ravel())[0, 1]
    return max(((down, right) for down in range(-most, most + 1) for right in range(-most, most + 1)),
               key=lambda by: alike(*by))


def test_the_score_map_says_what_it_is(run):
    with rasterio.open(run.maps / "99007_change_score.tif") as file:
        assert file.tags()["YEARS"] == "2010 2016" and file.tags()["SCORE"] == CHANCE
        assert file.descriptions[0] == CHANCE + ", 2010 to 2016" and file.tags()["VALUE_40"] == "40%"
        assert "not real land" in file.tags()["SOURCE"] and "NAIP" not in file.tags()["SOURCE"]
    assert 'label="Barren"' in (run.maps / "99007_class_2016.qml").read_text()


def test_calibration_of_the_map_is_what_the_table_gives(run):
    tiles = geopandas.read_parquet(run.maps / "99007_tiles.parquet")
    p = np.stack(tiles["probabilities_2016"])
    assert np.allclose(p.sum(axis=1), 1, atol=1e-6)
    assert np.allclose(evaluation.uncertainty(p), tiles["uncertainty_2016"], atol=1e-6)
    assert (p.argmax(axis=1) == tiles["class_id_2016"]).all()

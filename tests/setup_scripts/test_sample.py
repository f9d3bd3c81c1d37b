"""The sample counties: what a user of NAIP and NLCD really gets, and hard enough to need a network."""

import csv
import functools
import json
import os
from collections import namedtuple

import numpy as np
import pandas as pd
import pystac
import pytest
import rasterio
import shapely

from helpers.land import grid
from helpers.land.classes import DEVELOPED, NLCD_LEGEND, class_of_code, label_tiles, nine_point_class
from helpers.land.labels import label_counts
from helpers.land.scenes import cut_tiles
from sample import counties, labels, landscape, scenes, units
from sample.counties import COUNTIES
from sample.painting import Ground

TINY = "99009"


@pytest.fixture(scope="module")
def world(sample_world):
    return sample_world.folder


@pytest.fixture(scope="module")
def labelled(sample_world):
    """For a county and year: its tiles with label, purity and the 2017 rule's class."""
    known = {}

    def of(county, year):
        if (county, year) not in known:
            tiles, crs = grid.county_tiles(sample_world.county(county).boundary)
            counts, nine = label_counts(sample_world.labels(county, year).href, tiles, crs)
            label, group, purity = label_tiles(counts)
            known[county, year] = tiles.assign(label=label, group=group, purity=purity,
                                               nine=nine_point_class(nine)), crs
        return known[county, year]
    return of


def pure(tiles):
    return tiles[(tiles["purity"] >= 0.9) & (tiles["nine"] == tiles["label"])]


# ---- files

def test_size_and_completeness(world):
    complete = json.loads((world / "complete.json").read_text())
    size = sum(path.stat().st_size for path in world.rglob("*") if path.is_file())
    assert complete["seed"] == 0 and complete["counties"] == sorted(COUNTIES)
    assert size <= 800e6
    assert len(list(world.rglob("*.tif"))) > 50


def scene_paths(world, county, year):
    return sorted((world / "scenes").glob(f"m_{county}*_{year}????.tif"))


@pytest.mark.parametrize("county", sorted(COUNTIES))
def test_scenes_are_cloud_optimized_rgbn_in_the_countys_zone(world, county):
    for year, resolution in COUNTIES[county].resolution.items():
        paths = scene_paths(world, county, year)
        assert len(paths) >= 4
        for path in paths:
            with rasterio.open(path) as scene:
                assert scene.tags(ns="IMAGE_STRUCTURE")["LAYOUT"] == "COG"
                assert scene.count == 4 and set(scene.dtypes) == {"uint8"} and scene.nodata == 0
                assert scene.crs.to_epsg() == 26900 + COUNTIES[county].zone
                assert scene.res == (resolution, resolution)
                assert scene.block_shapes[0] == (512, 512) and scene.overviews(1) == [4, 16]


def test_counties_lie_in_different_zones_and_one_is_finer():
    assert len({county.zone for county in COUNTIES.values()}) == len(COUNTIES)
    assert [g for g, county in COUNTIES.items() if 0.6 in county.resolution.values()] == [TINY]


def test_scenes_have_nodata_wedges_and_no_hole(world):
    for path in scene_paths(world, TINY, 2010):
        with rasterio.open(path) as scene:
            valid = scene.read().any(axis=0)
        assert 0.002 < 1 - valid.mean() < 0.2
        # The footprint is one piece, turned a little: each row is empty, or filled from one column to another.
        starts = valid.argmax(axis=1)
        ends = valid.shape[1] - valid[:, ::-1].argmax(axis=1)
        filled = valid.any(axis=1)
        assert (valid.sum(axis=1)[filled] == (ends - starts)[filled]).all()
        assert not (valid[0].all() or valid[-1].all() or valid[:, 0].all() or valid[:, -1].all())


def test_labels_are_nlcd(world):
    legend = {code: tuple(bytes.fromhex(colour[1:])) + (255,)
              for code, (_, colour) in NLCD_LEGEND.items()}
    for county in COUNTIES:
        for year in (2011, 2016):
            with rasterio.open(world / "labels" / f"nlcd_{year}_{county}.tif") as raster:
                assert raster.crs.to_epsg() == 5070 and raster.res == (30, 30) and raster.nodata == 250
                assert (raster.transform.c - 15) % 30 == 0 and (raster.transform.f - 15) % 30 == 0
                table = raster.colormap(1)
                assert {code: table[code] for code in legend} == legend
                codes = set(np.unique(raster.read(1))) - {250}
                assert codes <= set(NLCD_LEGEND) and len(codes) >= 10


def test_a_label_without_errors_is_the_majority_of_its_ground():
    """An independent count of some pixels of 30 m, turned against the ground as NLCD's are."""
    codes = Ground(units.landscape(0, TINY), 2010).codes(labels.CODE_M)
    turn = np.deg2rad(7)
    u, v = np.meshgrid(np.arange(40) * 30.0, np.arange(40) * 30.0)
    x, y = 400 + u * np.cos(turn) - v * np.sin(turn), 300 + u * np.sin(turn) + v * np.cos(turn)
    found = labels.majority(codes, x, y)
    for row, column in np.random.default_rng(0).integers(0, 39, (60, 2)):
        a, b = np.meshgrid((np.arange(30) + 0.5) / 30, (np.arange(30) + 0.5) / 30)
        at = [corner[row, column] + a * (corner[row, column + 1] - corner[row, column])
              + b * (corner[row + 1, column] - corner[row, column]) for corner in (x, y)]
        counts = np.bincount(codes[(at[1] // 2).astype(int), (at[0] // 2).astype(int)].ravel(), minlength=256)
        assert counts[found[row, column]] >= 0.97 * counts.max()


def test_labels_are_wrong_as_often_as_nlcds_and_mostly_in_the_same_places():
    """Level I agreement of NLCD with interpreters: 88% for 2011, 83 to 90% for 2016 (Wickham and others)."""
    county = COUNTIES[TINY]
    scape = units.landscape(0, TINY)
    x, y = np.meshgrid(np.arange(0, scape.width, 30), np.arange(0, scape.height, 30))
    wrong = {}
    for year, label_year in counties.LABEL_YEARS.items():
        true = labels.majority(Ground(scape, year).codes(labels.CODE_M), x, y)
        said = labels.mistaken(true, 0, county, label_year)
        wrong[year] = class_of_code(said) != class_of_code(true)
        assert 0.08 < wrong[year].mean() < 0.17
    both = (wrong[2010] & wrong[2016]).mean()
    assert 0.5 < both / wrong[2016].mean() < 0.95


def test_boundaries_are_not_rectangles(sample_world):
    for county in COUNTIES:
        boundary = grid.project(sample_world.county(county).boundary,
                                f"EPSG:{26900 + COUNTIES[county].zone}")
        assert boundary.is_valid and boundary.geom_type == "Polygon"
        assert boundary.area < 0.97 * boundary.minimum_rotated_rectangle.area
        assert len(boundary.exterior.coords) > 60


def test_catalogue_is_valid_and_says_what_the_files_say(world):
    root = pystac.Catalog.from_file(str(world / "catalog.json"))
    items = list(root.get_items(recursive=True))
    assert {c.id for c in root.get_children()} == {"naip", "nlcd"}
    for item in items:
        asset = item.assets["image" if item.collection_id == "naip" else "landcover"]
        assert not os.path.isabs(asset.href)
        with rasterio.open(asset.get_absolute_href()) as raster:
            properties = item.properties
            assert properties["proj:code"] == f"EPSG:{raster.crs.to_epsg()}"
            assert properties["proj:shape"] == list(raster.shape)
            assert np.allclose(properties["proj:transform"], list(raster.transform)[:6])
            assert np.allclose(properties["proj:bbox"], raster.bounds)
            if item.collection_id == "naip":
                assert properties["gsd"] == raster.res[0]
                assert properties["naip:year"] == str(item.datetime.year) and properties["naip:state"]
                assert len(asset.extra_fields["eo:bands"]) == 4
            else:
                assert properties["nlcd:year"] in (2011, 2016)
    links = [link for thing in [root, *root.get_children(), *items] for link in thing.links]
    assert all(os.path.exists(link.get_absolute_href()) for link in links)


# ---- ground

@functools.lru_cache(maxsize=2)
def painted(year):
    return Ground(units.landscape(0, TINY), year, units.swatches(0))


def ground(year, bounds, scene_id):
    """The ground of the tiny county at 1 m as a scene's camera sees it, (height, width, 4)."""
    left, bottom, right, top = bounds
    pixels = scenes.view(painted(year), left, top, right - left, top - bottom)
    number = int(scene_id.split("_")[1][-2:])
    return scenes.exposed(pixels, 0, COUNTIES[TINY], year, number, left, top).transpose(1, 2, 0)


def test_overlapping_scenes_show_the_same_ground(world):
    first, second = scene_paths(world, TINY, 2010)[:2]
    with rasterio.open(first) as a, rasterio.open(second) as b:
        left, right = max(a.bounds.left, b.bounds.left), min(a.bounds.right, b.bounds.right)
        top = min(a.bounds.top, b.bounds.top)
        assert 224 < right - left < 500
        bounds = (int(left), int(top) - 1500, int(right), int(top) - 1200)
        for scene, path in ((a, first), (b, second)):
            seen = scene.read(window=scene.window(*bounds)).transpose(1, 2, 0)
            valid = seen.any(axis=2)
            assert valid.mean() > 0.8
            assert (seen[valid] == ground(2010, bounds, path.stem)[valid]).all()


def test_tile_of_a_fine_scene_is_the_ground_at_one_metre(world):
    crs = f"EPSG:{26900 + COUNTIES[TINY].zone}"
    path = scene_paths(world, TINY, 2016)[0]
    Scene = namedtuple("Scene", "scene_id href footprint")
    with rasterio.open(path) as scene:
        x, y = (scene.bounds.left + scene.bounds.right) / 2, (scene.bounds.bottom + scene.bounds.top) / 2
        footprint = grid.project(shapely.box(*scene.bounds), "EPSG:4326", source=crs)
    row, column = grid.tile_of(x, y)
    tiles = pd.DataFrame({"row": [row, row + 1, row + 2], "col": [column] * 3})
    images, _ = cut_tiles(tiles, [Scene(path.stem, str(path), footprint)], crs)
    for image, r in zip(images, tiles["row"]):
        truth = ground(2016, tuple(map(int, grid.tile_bounds(r, column))), path.stem)[..., :3]
        difference = np.abs(image.astype(int) - truth)
        shifted = np.abs(image[:, 1:].astype(int) - truth[:, :-1])
        assert difference.mean() < 4
        assert np.corrcoef(image.ravel(), truth.ravel())[0, 1] > 0.97
        # Half a pixel out of place would show.
        assert shifted.mean() > 1.5 * difference.mean()


# ---- what the tutorial needs of it

def test_each_class_has_its_pure_tiles(labelled):
    """Enough to train on in both counties and years together, and to be judged on, although labels err."""
    train = sum(np.bincount(pure(labelled(county, year)[0])["label"], minlength=6)
                for county in ("99001", "99003") for year in (2010, 2016))
    assert train.min() >= 60, train
    validation = np.bincount(pure(labelled("99005", 2010)[0])["label"], minlength=6)
    assert validation.min() >= 15, validation


def test_covers_pass_into_each_other():
    """Where woods border on scrub, trees thin out: classes differ much in their middles, little at their borders."""
    scape = units.landscape(0, TINY)
    trees, nature = scape.covers[2010][0].astype(int), scape.low_nature[2010]
    assert trees[nature == landscape.FOREST].mean() > trees[nature == landscape.SHRUB].mean() + 80
    border = (nature[:, 1:] == landscape.FOREST) & (nature[:, :-1] == landscape.SHRUB)
    assert border.sum() > 50
    assert np.abs(trees[:, 1:] - trees[:, :-1])[border].mean() < 15


def test_a_building_site_is_not_developed():
    scape = units.landscape(0, "99001")
    sites = scape.cells["kind"][2016] == landscape.SITE
    codes = Ground(scape, 2016).codes(labels.CODE_M)[2::4, 2::4][:scape.shape[0], :scape.shape[1]]
    found = codes[sites[scape.low_cell]]
    assert sites.sum() >= 5 and (found == 31).mean() > 0.75
    before = scape.cells["kind"][2010][np.concatenate(scape.subdivisions)]
    assert 0 < (before == landscape.SITE).mean() < 1


def test_mapped_county_is_large_and_the_tiny_one_small(labelled):
    assert len(labelled("99007", 2016)[0]) >= 1200
    assert 140 <= len(labelled(TINY, 2016)[0]) <= 240


def test_every_tile_of_a_county_is_wholly_in_a_scene(sample_world):
    """By footprints alone, which is quick: the square of each tile lies in one of them."""
    for county in COUNTIES:
        tiles, crs = grid.county_tiles(sample_world.county(county).boundary)
        for year in COUNTIES[county].resolution:
            footprints = [grid.project(scene.footprint, crs).buffer(-1) for scene in sample_world.scenes(county, year)]
            squares = grid.tile_polygons(tiles, crs).geometry.values
            seen = np.any([shapely.contains(footprint, squares) for footprint in footprints], axis=0)
            assert seen.all(), (county, year, (~seen).sum())


def new_tiles(world, county):
    with open(world / "truth" / f"{county}_new_tiles.csv") as file:
        return [(int(r["row"]), int(r["col"]), float(r["share"]), r["kind"]) for r in csv.DictReader(file)]


def test_new_development_is_enough_and_written_out(world):
    large = [tile for tile in new_tiles(world, "99007") if tile[2] >= 0.1]
    kinds = [kind for *_, kind in large]
    assert len(large) >= 80 and kinds.count("single") >= 40 and kinds.count("subdivision") >= 20
    for county in ("99001", "99003"):
        assert sum(share >= 0.1 for _, _, share, _ in new_tiles(world, county)) >= 45


def test_new_tiles_agree_with_the_polygons(world, sample_world):
    crs = f"EPSG:{26900 + COUNTIES['99007'].zone}"
    features = json.loads((world / "truth" / "99007_developments.geojson").read_text())["features"]
    new = shapely.union_all([grid.project(shapely.geometry.shape(f["geometry"]), crs) for f in features])
    tiles = new_tiles(world, "99007")
    shares = [new.intersection(shapely.box(*grid.tile_bounds(row, column))).area / grid.TILE_M ** 2
              for row, column, _, _ in tiles]
    assert np.abs(np.array(shares) - [share for _, _, share, _ in tiles]).max() < 0.04


def test_new_development_shows_in_the_labels(labelled, world):
    """NLCD gains developed pixels where the truth says so."""
    before, after = (labelled("99007", year)[0].set_index(["row", "col"]) for year in (2010, 2016))
    built = [tile[:2] for tile in new_tiles(world, "99007") if tile[2] > 0.6]
    assert len(built) >= 15
    assert (before.loc[built, "group"] != DEVELOPED).mean() > 0.9
    assert (after.loc[built, "group"] == DEVELOPED).mean() > 0.9


def test_colour_alone_is_not_enough(sample_world, labelled):
    """Logistic regression on channel means and deviations, trained on balanced pure tiles."""
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    def features(county, count):
        tiles, crs = labelled(county, 2010)
        tiles = pure(tiles).groupby("label").head(count)
        images, _ = cut_tiles(tiles, sample_world.scenes(county, 2010), crs)
        images = np.array(images, dtype=np.float32)
        colours = np.concatenate([images.mean(axis=(1, 2)), images.std(axis=(1, 2))], axis=1)
        return colours, tiles["label"].to_numpy()
    train = [features(county, 60) for county in ("99001", "99003")]
    x, y = features("99005", 45)
    model = make_pipeline(StandardScaler(), LogisticRegression(max_iter=2000))
    model.fit(np.concatenate([f for f, _ in train]), np.concatenate([t for _, t in train]))
    assert np.bincount(y).tolist() == [45] * 6
    assert model.score(x, y) <= 0.65


def test_another_seed_is_another_world():
    assert (units.landscape(1, TINY).nature[2010] != units.landscape(0, TINY).nature[2010]).mean() > 0.5

"""Whatever comes through the doors of ``land`` and ``tiles.folder``: the right answer, or one sentence."""

import functools
import json
import tempfile
import warnings
from pathlib import Path

import hypothesis
import numpy as np
import pandas as pd
import pystac
import rasterio
import shapely
from hypothesis import strategies as st
from rasterio.transform import Affine

import scenes as drawn
import fuzzing
from fuzzing import many
from helpers.land import boundaries, grid, rasters
from helpers.land.labels import label_counts
from helpers.land.scenes import cut_tiles
from helpers.land.sources import Scene, scene_of
from helpers.tiles import store
from helpers.tiles.folder import IMAGE_SUFFIXES, write_images

# A list of skipped files may end a sentence, and be cut off.
attempt = functools.partial(fuzzing.attempt, ends=".…")
NAMES = st.one_of(st.sampled_from(["a", "b", "train", "val", ".ipynb_checkpoints", "__MACOSX", "._a", "Thumbs.db", "ä",
                                   "a b", "#", "%20", "[x]"]), st.text("aB1. _-#%[]{}é", min_size=1,
                                                                             max_size=5)).filter(
                                       lambda name: name not in (".", "..") and "/" not in name)
ENDINGS = st.sampled_from([".png", ".PNG", ".jpg", ".tif", ".TIFF", ".txt", ".aux.xml", ".ovr", "", ".gif", ".WebP"])
TREES = st.lists(st.tuples(st.lists(NAMES, max_size=2), NAMES, ENDINGS, st.sampled_from(["file", "link", "dangling"]),
                           st.integers(0, 5)), max_size=25)


@many
@hypothesis.given(TREES)
def test_any_tree_of_pictures(tree):
    with tempfile.TemporaryDirectory() as base:
        root = Path(base) / "root"
        root.mkdir()
        (Path(base) / "outside.png").write_bytes(b"mine")
        for folders, name, ending, kind, content in tree:
            path = root.joinpath(*folders, name + ending)
            try:
                path.parent.mkdir(parents=True, exist_ok=True)
                if path.is_symlink() or path.exists():
                    continue
                if kind == "file":
                    path.write_bytes(b"%d" % content)
                else:
                    path.symlink_to(Path(base) / "outside.png" if kind == "link" else "nowhere")
            except OSError:
                continue
        if attempt(lambda: write_images(str(root), f"{base}/store")) is None:
            return
        frame = store.read(f"{base}/store")
        expected = {p.relative_to(root).as_posix() for p in root.rglob("*") if p.is_file() and not p.is_symlink()
                    and p.suffix.lower() in IMAGE_SUFFIXES and not any(
                        part.startswith(".") or part in ("__MACOSX", "Thumbs.db")
                        for part in p.relative_to(root).parts)}
        assert set(frame["tile_id"]) == expected and frame["tile_id"].is_unique
        assert b"mine" not in set(frame["image"])
        if frame["label"].notna().any():
            assert (frame.groupby("image")["split"].nunique() == 1).all()


NUMBERS = st.one_of(st.floats(-180, 180), st.floats(-71.5, -70.5), st.sampled_from([float("nan"), 1e300, None, "x"]))
RINGS = st.lists(st.lists(NUMBERS, min_size=1, max_size=3), max_size=6)
SHAPES = st.one_of(
    st.none(), st.just({}), st.just(shapely.geometry.mapping(drawn.county_boundary())),
    st.builds(lambda rings: {"type": "Polygon", "coordinates": rings}, st.lists(RINGS, max_size=2)),
    st.builds(lambda rings: {"type": "MultiPolygon", "coordinates": [rings]}, st.lists(RINGS, max_size=2)),
    st.builds(lambda point: {"type": "Point", "coordinates": point}, st.lists(NUMBERS, max_size=3)),
    st.builds(lambda kind: {"type": kind}, st.sampled_from(["Polygon", "Nothing", "GeometryCollection"])),
    st.permutations(list(shapely.box(-71, 42, -70.9, 42.1).exterior.coords)[:4]).map(
        lambda corners: {"type": "Polygon", "coordinates": [[*corners, corners[0]]]}))
VALUES = st.one_of(st.none(), st.integers(-1, 99999), st.floats(), st.text(max_size=6), st.sampled_from(
    ["25017", 25017, 25017.0, "6065", "M", True, [], {}]))


@many
@hypothesis.given(st.lists(st.tuples(st.dictionaries(st.sampled_from(["GEOID", "NAME", "STUSPS", "NAMELSAD"]), VALUES),
                                     SHAPES), max_size=3), st.sampled_from(["25017", "M", "06065", "M, MA", "", "own"]))
def test_any_file_of_boundaries(features, asked):
    with tempfile.TemporaryDirectory() as folder, warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)
        path = Path(folder) / "own.geojson"
        path.write_text(json.dumps({"type": "FeatureCollection", "features": [
            {"type": "Feature", "properties": properties, "geometry": shape} for properties, shape in features]}))

        def county():
            return boundaries.county_of(boundaries.read(str(path)), asked, "own.geojson")
        place = attempt(county)
        if place is not None:
            assert place.boundary.is_valid and place.boundary.area > 0 and isinstance(place.name, str)
            found = attempt(lambda: grid.county_tiles(place.boundary))
            if found is not None:
                square = shapely.area(grid.project(place.boundary, found[1]))
                assert abs(len(found[0]) * 224 ** 2 - square) <= max(0.2 * square, 4 * 224 * grid.project(
                    place.boundary, found[1]).length)


@many
@hypothesis.given(SHAPES, VALUES, st.one_of(VALUES, st.just("2018-07-01T00:00:00Z")))
def test_any_stac_item(shape, year, date):
    item = {"type": "Feature", "stac_version": "1.0.0", "id": "one", "links": [], "assets": {}, "geometry": shape,
            "properties": {"datetime": "2018-07-01T00:00:00Z", "naip:year": year, "start_datetime": date}}
    try:
        item = pystac.Item.from_dict(item)
    except Exception:  # What pystac refuses, catalogues refuse in a sentence of their own.
        hypothesis.reject()
    scene = attempt(lambda: scene_of(item, "x.tif"))
    if scene is not None:
        assert scene.footprint.is_valid and np.isfinite(scene.footprint.bounds).all() and isinstance(scene.year, int)
        scene.footprint.intersection(drawn.county_boundary())


TRANSFORMS = st.builds(
    lambda dx, dy, angle, sx, sy: (Affine.translation(drawn.LEFT + dx, drawn.TOP + dy) * Affine.rotation(angle)
                                   * Affine.scale(sx, sy)),
    st.sampled_from([0, -3, 0.5, -40]), st.sampled_from([0, 5, 40.25]), st.sampled_from([0, 0, 0, 3, 90, 180]),
    st.sampled_from([1, 1, -1, 0.5, 2]), st.sampled_from([-1, -1, 1, -0.5, -2]))
ONE = pd.DataFrame({"row": [drawn.ROW], "col": [drawn.COL]})


def write(path, pixels, to_map, crs, mask, beside, nodata, order=None):
    with rasterio.Env(GDAL_TIFF_INTERNAL_MASK=not beside), rasterio.open(
            path, "w", driver="GTiff", height=pixels.shape[1], width=pixels.shape[2], count=len(pixels), crs=crs,
            dtype=pixels.dtype, transform=to_map, nodata=nodata, photometric="MINISBLACK") as file:
        file.write(pixels)
        if mask is not None:
            file.write_mask(mask)
    if order is not None:
        with rasterio.open(path, "r+") as file:
            file.colorinterp = order
    return str(path)


@many
@hypothesis.given(TRANSFORMS, st.sampled_from([None, 0, 255, 7]), st.booleans(),
                  st.sampled_from([None, 0.0, 0.005, 0.5]), st.permutations([0, 1, 2, 3]), st.integers(0, 99))
def test_any_scene_shows_what_rasterio_reads(to_map, nodata, beside, hidden, order, seed):
    """A tile's pixels are those of the scene at the same place, and it is blank where the scene's mask is."""
    rng = np.random.default_rng(seed)
    colours = rng.integers(1, 250, 4)
    pixels = np.broadcast_to(colours[list(order)][:, None, None], (4, 330, 330)).astype(np.uint8).copy()
    mask = None
    if hidden is not None:
        mask = np.where(np.arange(330)[:, None] + np.zeros(330) < hidden * 330, 0, 255).astype(np.uint8)
    names = [rasterio.enums.ColorInterp[("red", "green", "blue", "undefined")[i]] for i in order]
    with tempfile.TemporaryDirectory() as folder:
        path = write(Path(folder) / "s.tif", pixels, to_map, drawn.CRS, mask, beside, nodata, names)
        with rasterio.open(path) as file:
            valid = file.dataset_mask() > 0
        scene = Scene("s", path, "2018-07-01", 2018, rasters.footprint(path))
        cut = attempt(lambda: cut_tiles(ONE, [scene], drawn.CRS))
        x, y = drawn.pixel_to_map(drawn.ROW, drawn.COL, *np.indices((224, 224)))
        col, row = np.floor(~to_map * np.array([x.ravel(), y.ravel()])).astype(int)
        inside = (row >= 0) & (row < 330) & (col >= 0) & (col < 330)
        seen = np.zeros(len(row), bool)
        seen[inside] = valid[row[inside], col[inside]]
        share = (~seen).mean()
        if share < 0.002:
            assert cut[0][0] is not None
        elif share > 0.03:
            assert cut[0][0] is None
        if cut[0][0] is not None:
            off = np.abs(cut[0][0].astype(int) - colours[:3]).max(axis=2)
            assert (off > 1).mean() <= 0.03


@many
@hypothesis.given(st.sampled_from(["uint8", "int8", "int16", "uint16", "float32", "float64"]), st.sampled_from(
    [None, 0, 41, -6, np.nan]), st.booleans(), st.booleans(), st.sampled_from([0, 90, 180, 7]), st.booleans(),
    st.integers(0, 99))
def test_any_raster_of_labels_counts_what_rasterio_reads(dtype, nodata, masked, beside, angle, south_up, seed):
    rng = np.random.default_rng(seed)
    codes = rng.choice([11, 41, 82, 95, 22, 0], (1, 40, 40)).astype(dtype)
    if nodata is not None and nodata != nodata and not dtype.startswith("float") or nodata == -6 and dtype[0] == "u":
        nodata = None
    if nodata is not None:
        codes[0, :5, :9] = nodata
    mask = np.where(rng.random((40, 40)) < 0.3, 0, 255).astype(np.uint8) if masked else None
    x, y = drawn.LEFT + 112, drawn.TOP - 112
    to_map = Affine.translation(x, y) * Affine.rotation(angle) * Affine.scale(30, 30 if south_up else -30) * (
        Affine.translation(-20, -20))
    with tempfile.TemporaryDirectory() as folder:
        path = write(Path(folder) / "l.tif", codes, to_map, drawn.CRS, mask, beside, nodata)
        with rasterio.open(path) as file:
            read, valid = file.read(1), file.read_masks(1) > 0
        counts = attempt(lambda: label_counts(path, ONE, drawn.CRS)[0])
    rows, cols = np.indices((40, 40))
    px, py = to_map * np.stack([cols.ravel() + 0.5, rows.ravel() + 0.5])
    row, col = np.floor(py / 224), np.floor(px / 224)
    here = (row == drawn.ROW) & (col == drawn.COL) & valid.ravel() & ~np.isnan(read.ravel()) & (read.ravel() != 0)
    expected = np.bincount(read.ravel()[here].astype(int), minlength=256)
    assert (counts[0] == expected).all()

"""The review page: one HTML file with a county's pictures, maps and candidates, for a browser without a network.

``page.html``, ``page.css`` and ``page.js`` are ours; ``ol.js`` is OpenLayers 10.6.1 as its npm package ``ol`` ships it
(``dist/ol.js`` without its last line, which names a file of debugging; licence beside it). All of them end inside the
page. A county's pictures do too as long as the file stays small; those of a large one lie in a folder beside it, and
the page loads what is looked at.
"""

import base64
import html
import io
import json
import shutil
from pathlib import Path

import numpy as np

from helpers import InputError
from helpers.files import whole_file
from helpers.model import evaluation
from helpers.tiles import store as tilestore
from helpers.figures.maps import SCORE_RAMP, UNCERTAINTY_RAMP
from helpers.land.classes import CLASSES, GROUPS, NO_CLASS
from helpers.land.grid import TILE_M
from helpers.maps.new_development import CANDIDATE, CHANCE, RANKED
from helpers.tiles.pictures import decode_all

FOLDER = Path(__file__).parent
# Counties of up to so many tiles have their pictures inside the page, at 1.4 m; larger ones beside it, at 1 m.
TILES_INSIDE = 2500
INSIDE_PX, BESIDE_PX = 160, 224
QUALITY = 45
# What is scored at least so high is on the list to look at, the likeliest first, and so many at most: below the
# candidates some that are less likely than not, for who wants to miss nothing.
LISTED, LONGEST_LIST = 0.1, 3000
# Patterns that say the same as the colours: of map groups, and of classes by name.
_GROUP_MARKS = {0: "lines", 1: "dot", 2: ""}
_CLASS_MARKS = {"Developed": "lines", "Cultivated": "dot", "Forest": "", "Shrub": "bar", "Herbaceous": "post",
                "Barren": "cross"}


def write(path, store, county, years, tiles, scores, crs, boundary, label_year, title, source, run_name="sample",
          calibrated=True):
    """Write the review page of a county.

    Parameters
    ----------
    path : str or pathlib.Path
        The HTML file; pictures of a large county go to a folder of its name beside it.
    store : str
        Tile store, for the pictures.
    county : str
    years : tuple of int
        The earlier first.
    tiles : pandas.DataFrame
        ``tile_id``, ``row``, ``col``, ``group`` (of the first labels), ``class_before``, ``class_after``,
        ``probabilities_before``, ``probabilities_after`` (arrays over the classes, or None).
    scores : pandas.DataFrame
        From ``development.Scorer.score``.
    crs : str
    boundary : shapely geometry
        In ``crs``.
    label_year : int
        Of ``group``.
    title, source : str
        What the page says above the map, and where its pictures and labels come from.
    run_name : str
        Tells the marks of one run from those of another.
    calibrated : bool
        False where scores come from ``development.by_rule``: the page then says that they only rank, and shows none.

    Returns
    -------
    pathlib.Path
        The page.

    Raises
    ------
    InputError
        If the tiles and the scores are not the same ones.
    """
    path = Path(path)
    if set(tiles["tile_id"]) != set(scores["tile_id"]) or not len(tiles):
        raise InputError("expected a score for each tile, got {} tiles and {} scores. Score the tiles that are "
                         "shown.".format(len(tiles), len(scores)))
    tiles = tiles.sort_values(["row", "col"], ascending=[False, True]).reset_index(drop=True)
    inside = len(tiles) <= TILES_INSIDE
    beside = path.with_suffix("").name + "_pictures"
    shutil.rmtree(path.with_name(beside), ignore_errors=True)
    top, left = int(tiles["row"].max()), int(tiles["col"].min())
    height, width = top - int(tiles["row"].min()) + 1, int(tiles["col"].max()) - left + 1
    levels = 1 + int(np.ceil(np.log2(max(height, width))))
    names = {}
    for year in years:
        keep = names[str(year)] = {}

        def place(z, x, y, image, year=year, keep=keep):
            if inside:
                keep["{}-{}-{}".format(z, x, y)] = base64.b64encode(image).decode()
                return
            file = path.with_name(beside) / str(year) / str(z) / "{}-{}.webp".format(x, y)
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_bytes(image)
        _pyramid(store, county, year, top, left, height, width, levels, INSIDE_PX if inside else BESIDE_PX, place)
    data = _data(tiles, scores, boundary)
    data.update(county=county, years=list(years), label_year=int(label_year), crs=crs, least=LISTED,
                candidate=CANDIDATE, calibrated=bool(calibrated), meaning=CHANCE if calibrated else RANKED,
                tile_m=int(TILE_M), run="{} {}".format(run_name, county),
                grid={"top_row": top, "left_col": left, "height": height, "width": width},
                pictures={"inside": inside, "levels": levels, "px": INSIDE_PX if inside else BESIDE_PX,
                          "folder": beside, "names": names if inside else {}},
                about="{:,} tiles of 224 m · {:,} candidates{} · pictures of {} and {}".format(
                    len(tiles), int((scores["score"] >= CANDIDATE).sum()), "" if calibrated else " " + RANKED, *years))
    page = (FOLDER / "page.html").read_text(encoding="utf-8")
    parts = {"title": html.escape(title), "source": html.escape(source),
             "style": (FOLDER / "page.css").read_text(encoding="utf-8"),
             # A script's text ends at the first </, wherever that stands.
             "data": json.dumps(data, separators=(",", ":")).replace("</", "<\\/"),
             "library": (FOLDER / "ol.js").read_text(encoding="utf-8"),
             "script": (FOLDER / "page.js").read_text(encoding="utf-8")}
    pieces = page.split("{{")
    whole = pieces[0] + "".join(parts[piece.split("}}", 1)[0]] + piece.split("}}", 1)[1] for piece in pieces[1:])
    with whole_file(path) as part:
        part.write_text(whole, encoding="utf-8")
    return path


def _data(tiles, scores, boundary):
    """What the page knows of each tile, as short as JSON allows."""
    scores = scores.set_index("tile_id")
    score = scores["score"].reindex(tiles["tile_id"]).to_numpy()

    def whole(values):
        return [NO_CLASS if np.isnan(v) else int(v) for v in np.asarray(values.astype("float64"))]

    def thousandths(values):
        return [NO_CLASS if np.isnan(v) else int(round(1000 * v)) for v in values]

    def stacked(column):
        return evaluation.stacked(tiles[[column]].rename(columns={column: "probabilities"}))

    def packed(column):
        return base64.b64encode(np.rint(255 * np.nan_to_num(stacked(column))).astype(np.uint8).tobytes()).decode()
    unsure = evaluation.uncertainty(stacked("probabilities_after"))
    order = sorted(np.flatnonzero(score >= LISTED), key=lambda i: (-score[i], tiles["tile_id"][i]))[:LONGEST_LIST]
    candidates = int((score[order] >= CANDIDATE).sum()) if order else 0
    reasons, areas = (scores[c].reindex(tiles["tile_id"]).tolist() for c in ("reason", "new_m2"))
    rings = [boundary] if boundary.geom_type == "Polygon" else list(boundary.geoms)
    hexes = {"score": SCORE_RAMP, "uncertainty": UNCERTAINTY_RAMP}
    return {
        "prefix": tiles["tile_id"][0].rsplit("-", 2)[0] + "-",
        "boundary": [np.round(ring.exterior.coords, 1).tolist() for ring in rings],
        "classes": [{"name": c.name, "colour": c.colour, "mark": _CLASS_MARKS[c.name]} for c in CLASSES],
        "groups": [{"name": g.name, "colour": g.colour, "mark": _GROUP_MARKS[g.group_id]} for g in GROUPS],
        "ramps": {name: [list(bytes.fromhex(h[1:])) for h in ramp] for name, ramp in hexes.items()},
        "tiles": {"row": tiles["row"].tolist(), "col": tiles["col"].tolist(),
                  "group_label": whole(tiles["group"]), "class_before": whole(tiles["class_before"]),
                  "class_after": whole(tiles["class_after"]), "score": thousandths(score),
                  "uncertainty": thousandths(unsure),
                  "probabilities": [packed("probabilities_before"), packed("probabilities_after")]},
        "candidates": candidates,
        "listed": [{"tile": int(i), "score": round(float(score[i]), 3), "reason": reasons[i],
                    "kind": "{:.1f} ha".format(areas[i] / 1e4)} for i in order],
    }


def _pyramid(store, county, year, top, left, height, width, levels, px, place):
    """Encode a year's pictures at every level, a row of tiles at a time; ``place`` takes ``(z, x, y, bytes)``.

    The finest level has a picture for each tile; in each coarser one a picture shows four of the one below.
    """
    rows = [{} for _ in range(levels)]

    def put(z, y, pictures):
        """Take a finished row of pictures of level z: encode it, and halve it into the row of the level above."""
        for x, picture in pictures.items():
            place(z, x, y, _webp(picture))
            if z:
                # The last of four channels is 0 where there is no tile, so that nothing is drawn there.
                whole = rows[z - 1].setdefault(x // 2, np.zeros((2 * px, 2 * px, 4), dtype=np.uint8))
                whole[y % 2 * px:(y % 2 + 1) * px, x % 2 * px:(x % 2 + 1) * px] = picture
        if z and (y % 2 or y == -(-height // 2 ** (levels - 1 - z)) - 1):
            above, rows[z - 1] = rows[z - 1], {}
            put(z - 1, y // 2, {x: _halved(picture) for x, picture in above.items()})
    for y in range(height):
        pictures = {}
        try:
            found = tilestore.read(store, county, year, columns=["tile_id", "col", "image"], row=top - y)
        except InputError:
            found = None  # No tile of the county in this row.
        if found is not None:
            for col, picture in zip(found["col"], decode_all(found, (px, px))):
                if 0 <= col - left < width:
                    pictures[int(col) - left] = np.concatenate([picture, np.full((px, px, 1), 255, np.uint8)], axis=2)
        put(levels - 1, y, pictures)


def _halved(picture):
    """Half as high and wide; what is not there has no part in a colour."""
    h, w, _ = picture.shape
    four = picture.reshape(h // 2, 2, w // 2, 2, 4).transpose(0, 2, 1, 3, 4).reshape(h // 2, w // 2, 4, 4).astype(float)
    there = four[..., 3:].sum(axis=2)
    colour = (four[..., :3] * four[..., 3:]).sum(axis=2) / np.maximum(there, 1)
    return np.concatenate([colour, there / 4], axis=2).round().astype(np.uint8)


def _webp(picture):
    from PIL import Image
    buffer = io.BytesIO()
    picture = picture[..., :3] if (picture[..., 3:] == 255).all() else picture
    Image.fromarray(np.ascontiguousarray(picture)).save(buffer, "webp", quality=QUALITY, method=2)
    return buffer.getvalue()


def pictures_of(page):
    """The folder of pictures that must travel with a page, and its size in bytes; None and 0 where all is inside it."""
    folder = Path(page).with_suffix("").with_name(Path(page).with_suffix("").name + "_pictures")
    if not folder.is_dir():
        return None, 0
    return folder, sum(file.stat().st_size for file in folder.rglob("*") if file.is_file())


def source_line(before, after, drawn=False):
    """Where a map's pictures and labels come from, its years and its datum, in a line.

    Parameters
    ----------
    before, after : dict
        Manifests of a county's two years, from ``tilestore.manifest``.
    drawn : bool
        Are they the sample's?

    Returns
    -------
    str
    """
    zone = str(before["crs"]).split(":")[-1]
    datum = str(before["crs"])
    if zone.startswith("269"):
        datum += " (NAD83 / UTM zone {}N)".format(int(zone) - 26900)
    years = "pictures of {} and {}, labels of {} and {}".format(before["year"], after["year"], before["label_year"],
                                                              after["label_year"])
    if drawn:
        return "Drawn for this tutorial, not real land: {}. {}.".format(years, datum)
    scenes = [str(scene) for manifest in (before, after) for scene in manifest.get("scenes", [])]
    whose = "NAIP (USDA)" if scenes and all("://" in scene and "naip" in scene for scene in scenes) else "own scenes"
    names = sorted({str(m.get("label_source", "labels")).split("?")[0].rsplit("/", 1)[-1] for m in (before, after)})
    return "{}: {} ({}). {}.".format(whose[0].upper() + whose[1:], years, ", ".join(names), datum)

"""The review page: one HTML file with a county's pictures, maps and candidates, for a browser without a network.

The file holds ``page.html``, ``page.css``, ``page.js`` and OpenLayers 10.6.1, ``ol.js`` (``dist/ol.js`` of the npm
package ``ol`` without its last line, which names a file for debugging; licence beside it). It also holds the pictures
of a small county. Those of a large county lie in a folder beside it, and the page loads the ones in sight.
"""

import base64
import hashlib
import html
import json
import re
from pathlib import Path

import numpy as np
import pandas as pd
import shapely

from helpers import InputError
from helpers.files import write_whole
from helpers.land.classes import CLASSES, GROUPS, NO_CLASS, SCORE_RAMP, UNCERTAINTY_RAMP
from helpers.land.grid import TILE_M, project
from helpers.maps.new_development import CANDIDATE, CHANCE, RANKED
from helpers.maps.page.pictures import picture_folder, write_pictures
from helpers.model import evaluation

FOLDER = Path(__file__).parent
# The lowest score on the list, and the most tiles on it. Below the candidates come less likely tiles, for readers who
# want to miss nothing.
LISTED, LONGEST_LIST = 0.1, 3000
# Patterns of map groups and classes, for readers who do not see their colours.
_MARKS = {"Developed": "lines", "Cultivated": "dot", "Shrub": "bar", "Herbaceous": "post", "Barren": "cross"}


def write(path: Path, store: str, county: str, years: tuple[int, int], tiles: pd.DataFrame, scores: pd.DataFrame,
          crs: str, boundary, label_year: int, title: str, source: str, run_name: str = "sample",
          calibrated: bool = True) -> Path:
    """Write the review page of a county, and return its path.

    ``tiles`` have ``tile_id``, ``row``, ``col``, ``group`` (by the labels of ``label_year``), ``class_before``,
    ``class_after``, ``probabilities_before`` and ``probabilities_after``. The ``scores`` of the same tiles come from
    ``new_development.Scorer.score`` or, if not ``calibrated``, from ``by_rule``. The browser keeps the reader's marks
    under ``run_name`` and county.
    """
    path = Path(path)
    if set(tiles["tile_id"]) != set(scores["tile_id"]) or not len(tiles):
        raise InputError(f"expected a score for each tile, got {len(tiles)} tiles and {len(scores)} scores. Score the "
                         "tiles of the page.")
    tiles = tiles.merge(scores[["tile_id", "score", "reason", "new_m2"]], on="tile_id").sort_values(
        ["row", "col"], ascending=[False, True], ignore_index=True)
    candidates = int((scores["score"] >= CANDIDATE).sum())
    data = dict(
        _data(tiles, boundary), centres=_centres(tiles, crs),
        **write_pictures(path, store, county, years, tiles), county=county, years=list(years),
        label_year=int(label_year), crs=str(crs)[:40], least=LISTED, candidate=CANDIDATE, calibrated=bool(calibrated),
        meaning=CHANCE if calibrated else RANKED, tile_m=int(TILE_M), run=f"{run_name} {county}")
    about = (f"{len(tiles):,} tiles of 224 m · {candidates:,} candidates{'' if calibrated else ' ' + RANKED} · "
             f"pictures of {years[0]} and {years[1]}")
    page, style, library, script = ((FOLDER / name).read_text(encoding="utf-8")
                                    for name in ("page.html", "page.css", "ol.js", "page.js"))
    texts = {"title": title, "source": source, "about": about, "before": str(years[0]), "after": str(years[1])}
    fields = {**{name: html.escape(text) for name, text in texts.items()}, "style": style, "library": library,
              "script": script, "style_hash": _hash(style), "script_hashes": f"{_hash(library)} {_hash(script)}",
              # No "<" in the data: </script would end the script element, and <!--<script would hide its end.
              "data": json.dumps(data, separators=(",", ":"), allow_nan=False).replace("<", "\\u003c")}
    write_whole(path, re.sub(r"{{(\w+)}}", lambda field: fields[field[1]], page).encode())
    return path


def _hash(text):
    """The hash of an inline script or style for the content security policy: a browser runs no other text."""
    return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"


def _centres(tiles, crs):
    """Latitudes and longitudes of the tiles' centres, in degrees to about a metre."""
    points = shapely.MultiPoint(TILE_M * (tiles[["col", "row"]].to_numpy() + 0.5))
    centres = shapely.get_coordinates(project(points, "EPSG:4326", source=crs))
    return centres[:, ::-1].T.round(5).tolist()


def _data(tiles, boundary):
    """The page's data on each tile, as whole numbers, and its list."""
    before, after = (evaluation.stacked(tiles[[column]].set_axis(["probabilities"], axis=1))
                     for column in ("probabilities_before", "probabilities_after"))

    def whole(values, times=1):
        return np.nan_to_num(np.rint(times * np.asarray(values, "float64")), nan=NO_CLASS).astype(int).tolist()
    listed = tiles.sort_values(["score", "tile_id"], ascending=[False, True])
    listed = listed[listed["score"] >= LISTED].head(LONGEST_LIST)
    return {
        "boundary": [np.round(part.exterior.coords, 1).tolist() for part in shapely.get_parts(boundary)],
        "classes": [{"name": c.name, "colour": c.colour, "mark": _MARKS.get(c.name, "")} for c in CLASSES],
        "groups": [{"name": g.name, "colour": g.colour, "mark": _MARKS.get(g.name, "")} for g in GROUPS],
        "ramps": {name: [list(bytes.fromhex(colour[1:])) for colour in ramp]
                  for name, ramp in (("score", SCORE_RAMP), ("uncertainty", UNCERTAINTY_RAMP))},
        "tiles": {"id": tiles["tile_id"].tolist(), "row": tiles["row"].tolist(), "col": tiles["col"].tolist(),
                  "group_label": whole(tiles["group"]),
                  "class_before": whole(tiles["class_before"]), "class_after": whole(tiles["class_after"]),
                  "score": whole(tiles["score"], 1000), "uncertainty": whole(evaluation.uncertainty(after), 1000),
                  "probabilities": [whole(before, 1000), whole(after, 1000)]},
        "candidates": int((listed["score"] >= CANDIDATE).sum()),
        "listed": [{"tile": int(one.Index), "score": round(float(one.score), 3), "reason": one.reason,
                    "kind": f"{one.new_m2 / 1e4:.1f} ha"} for one in listed.itertuples()],
    }


def pictures_of(page: Path) -> tuple[Path | None, int]:
    """The folder of pictures that belongs to a page, and its size in bytes; None and 0 if the page holds them all."""
    folder = picture_folder(Path(page))
    if not folder.is_dir():
        return None, 0
    return folder, sum(file.stat().st_size for file in folder.rglob("*") if file.is_file())


def source_line(before: dict, after: dict, drawn: bool = False) -> str:
    """The sources of a map's pictures and labels, from two manifests; the sample's are ``drawn``."""
    datum = str(before["crs"])
    if datum.startswith("EPSG:269"):
        datum += f" (NAD83 / UTM zone {int(datum[-2:])}N)"
    years = (f"pictures of {before['year']} and {after['year']}, labels of {before['label_year']} and "
             f"{after['label_year']}")
    if drawn:
        return f"Drawn for this tutorial, not real land: {years}. {datum}."
    scenes = [str(scene) for manifest in (before, after) for scene in manifest.get("scenes", [])]
    whose = "NAIP (USDA)" if scenes and all("://" in scene and "naip" in scene for scene in scenes) else "Own scenes"
    names = sorted({str(m.get("label_source", "labels")).split("?")[0].rsplit("/", 1)[-1] for m in (before, after)})
    return f"{whose}: {years} ({', '.join(names)}). {datum}."

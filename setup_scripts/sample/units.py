"""The units of a drawing: the imagery of a county in a year, or the labels and truth of a county.

A unit writes its files whole, and its JSON facts last, under a name that hashes what the unit is drawn from. What is
done is what is there: two drawings at once write the same files with the same content.
"""

import functools
import multiprocessing
import os
import threading
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path

from helpers import InputError
from helpers.cluster import work
from helpers.files import read_json, write_json
from sample import labels, scenes, truth
from sample.counties import COUNTIES, LABEL_YEARS
from sample.landscape import Landscape
from sample.painting import Ground
from sample.textures import Swatches

VERSION = 3  # raise it when the same seed no longer gives the same files


def tiles(unit) -> float:
    """Tiles of a unit's imagery, counted as of 1 m."""
    county = COUNTIES[unit[0]]
    return county.rows * county.columns / county.resolution[unit[1]] ** 2 if unit[1] in county.resolution else 0


# All units as ``(county, year or "labels")``, the longest first.
UNITS = sorted(((county, year) for county in COUNTIES for year in COUNTIES[county].resolution), key=tiles, reverse=True)
UNITS += [(county, "labels") for county in COUNTIES]


def facts_name(seed: int, unit) -> str:
    return work.name("units", VERSION, seed, *unit) + ".json"


def files_of(seed: int, unit) -> list:
    """The files that a unit writes before its facts, by their paths in the folder."""
    county, what = unit
    if what == "labels":
        return [f"labels/nlcd_{year}_{county}.tif" for year in LABEL_YEARS.values()] + [
            f"truth/{county}_{name}" for name in ("developments.geojson", "new_tiles.csv")]
    return [f"scenes/{name}.tif" for name in scenes.scene_ids(seed, COUNTIES[county], what)]


def facts(folder: Path, seed: int, unit):
    """The facts of a finished unit; None for a unit that lacks facts or files."""
    try:
        found = read_json(folder / facts_name(seed, unit))
        return found if found and all((folder / file).stat().st_size == size
                                      for file, size in found["files"].items()) else None
    except (OSError, ValueError):
        return None


def run(folder: Path, seed: int, units: list, workers: int):
    """Draw units in this process or side by side, and yield each when it is done."""
    if workers < 2 or len(units) < 2:
        for unit in units:
            do(folder, seed, unit)
            yield unit
        return
    # A fresh interpreter for each worker: forking would copy the threads of Spark or TensorFlow.
    pool = ProcessPoolExecutor(min(workers, len(units)), multiprocessing.get_context("spawn"), _end_with_parent)
    try:
        futures = {pool.submit(do, folder, seed, unit): unit for unit in units}
        for future in as_completed(futures):
            future.result()
            yield futures[future]
    except BrokenProcessPool as error:
        raise InputError(f"expected about {workers} GB of memory to draw the sample with {workers} workers, got a "
                         "worker that the system ended. Free some memory, or use workers=1.") from error
    finally:
        pool.shutdown(cancel_futures=True)


def _end_with_parent():
    """Let a worker end when somebody kills the process that started it."""
    def watch():
        multiprocessing.parent_process().join()
        os._exit(1)
    threading.Thread(target=watch, daemon=True).start()


def do(folder: Path, seed: int, unit):
    """Draw one unit."""
    county, what = unit
    scape, extra = landscape(seed, county), {}
    if what == "labels":
        codes = {year: Ground(scape, year).codes(labels.CODE_M) for year in LABEL_YEARS}
        items = [labels.draw_labels(folder, codes[year], scape.county, label_year, seed)
                 for year, label_year in LABEL_YEARS.items()]
        truth.draw_truth(folder, scape, codes[2010], codes[2016])
        extra = {"boundary": truth.boundary(scape), "name": scape.county.name}
    else:
        ground = Ground(scape, what, swatches(seed))
        named = zip(scenes.scene_ids(seed, scape.county, what), scenes.footprints(scape.county))
        items = [scenes.draw_scene(folder, seed, ground, number, name, footprint)
                 for number, (name, footprint) in enumerate(named, 1)]
    sizes = {file: (folder / file).stat().st_size for file in files_of(seed, unit)}
    write_json(folder / facts_name(seed, unit), dict(extra, county=county, items=items, files=sizes))


swatches = functools.lru_cache(maxsize=1)(Swatches)


@functools.lru_cache(maxsize=2)
def landscape(seed: int, county: str) -> Landscape:
    return Landscape(seed, COUNTIES[county])

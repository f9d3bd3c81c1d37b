"""The sample counties: a small world of scenes, labels and truth, drawn from a seed.

    counties    the five counties: where they lie, size, years
    textures    how land looks from the air: swatches and palettes
    lattice     columns and rows of cells, for fields and blocks
    landscape   the true cover of each county, in 2010 and in 2016
    looks       how each region of a county looks in a year
    objects     houses, roads and trees
    painting    a county in a year, painted at 1 m
    scenes      sensors, weather, scenes
    labels      label rasters, wrong as often as NLCD's are
    truth       newly developed land, which labels may miss
    units       units of drawing, side by side, and those that are done
    catalogue   the static STAC catalogue
"""

import shutil
from pathlib import Path

from helpers import InputError
from helpers.files import free_bytes, read_json, remove_parts, room, write_json
from sample import catalogue, units

_BYTES_A_TILE = 140e3  # disk that a tile of a county takes in one year at 1 m, with the land around it


def draw(folder, seed: int = 0, workers: int = 2, progress=lambda line: None) -> Path:
    """Draw the sample world into a folder, or go on with a drawing that was interrupted.

    The folder gets a static STAC catalogue (``catalog.json``), ``counties.geojson``, ``scenes/``, ``labels/`` and
    ``truth/``; ``complete.json`` comes last. It holds one world: another seed replaces it. The same seed gives the same
    bytes, whatever the number of ``workers``, which take 1 GB of memory each. ``progress`` gets a line of text for each
    unit.
    """
    folder, seed = Path(folder), int(seed)
    try:
        with room(f"the sample counties in {folder}"):
            if not _is_finished(folder, seed):
                _draw(folder, seed, workers, progress)
    except OSError as error:
        raise InputError(f"expected a folder to draw the sample counties in, got {folder} which can't be written "
                         f"({error.strerror or error}). Give another folder, or set TUTORIAL_HOME.") from error
    if not _is_finished(folder, seed):
        raise InputError(f"expected the files in {folder} to stay as they were drawn, got some removed or replaced. "
                         "Draw each seed in a folder of its own.")
    return folder


def _state(seed):
    """The content of ``complete.json``."""
    return {"version": units.VERSION, "seed": seed, "counties": sorted({county for county, _ in units.UNITS})}


def _is_finished(folder, seed):
    try:
        complete = read_json(folder / "complete.json")
    except (OSError, ValueError):
        return False
    return complete == _state(seed) and all(units.facts(folder, seed, unit) for unit in units.UNITS)


def _draw(folder, seed, workers, progress):
    """Draw what is missing."""
    folder.mkdir(parents=True, exist_ok=True)
    _forget_others(folder, seed)
    missing = [unit for unit in units.UNITS if units.facts(folder, seed, unit) is None]
    if missing:
        (folder / "complete.json").unlink(missing_ok=True)
    _check_disk(folder, missing)
    for number, (county, what) in enumerate(units.run(folder, seed, missing, workers), 1):
        progress(f"drew {county} {what} ({number} of {len(missing)})")
    done = [units.facts(folder, seed, unit) for unit in units.UNITS]
    if all(done):
        catalogue.write(folder, done)
        write_json(folder / "complete.json", _state(seed))
    _remove_leftovers(folder, seed)


def _forget_others(folder, seed):
    """Before a file changes, remove the facts of another world's units, and its ``complete.json``."""
    own = {units.facts_name(seed, unit) for unit in units.UNITS}
    for path in (folder / "units").glob("*.json"):
        if f"units/{path.name}" not in own:
            (folder / "complete.json").unlink(missing_ok=True)
            path.unlink(missing_ok=True)


def _remove_leftovers(folder, seed):
    """Remove files of another world, and unfinished files ``.<name>.<hash>.part`` of killed drawings."""
    own = {Path(file).stem for unit in units.UNITS for file in units.files_of(seed, unit)} | {"collection"}
    for name in ("scenes", "labels", "truth", "naip", "nlcd"):
        for path in (folder / name).glob("[!.]*"):
            if path.stem not in own and path.is_dir():
                shutil.rmtree(path, ignore_errors=True)
            elif path.stem not in own:
                path.unlink(missing_ok=True)
    for inside in {path.parent for path in folder.rglob("*.part")}:
        remove_parts(str(inside))


def _check_disk(folder, missing):
    """Refuse to begin if the disk is too small for the world."""
    needed, free = sum(map(units.tiles, missing)) * _BYTES_A_TILE, free_bytes(folder)
    if free < needed:
        raise InputError(f"expected {needed / 1e6:,.0f} MB of free disk for the sample counties in {folder}, got "
                         f"{free / 1e6:,.0f} MB. Free some space, or set TUTORIAL_HOME to another disk.")

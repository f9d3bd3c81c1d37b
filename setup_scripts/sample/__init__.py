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
from helpers.files import is_full, read_json, write_json
from sample import catalogue, units
from sample.counties import COUNTIES

_BYTES_A_TILE = 140e3  # disk that a tile of a county takes in one year at 1 m, with the land around it


def draw(folder, seed: int = 0, counties=None, workers: int = 2, progress=lambda line: None) -> Path:
    """Draw the sample world into a folder, or go on with a drawing that was interrupted.

    The folder gets a static STAC catalogue (``catalog.json``), ``counties.geojson``, ``scenes/``, ``labels/`` and
    ``truth/``; ``complete.json`` comes last. It holds one world: another seed replaces it. The same seed gives the same
    bytes, whatever the number of ``workers``, which take 1 GB of memory each. ``counties`` are FIPS codes, all by
    default; ``progress`` gets a line of text for each unit.
    """
    folder, seed = Path(folder), int(seed)
    wanted = sorted(COUNTIES if counties is None else map(str, counties))
    unknown = [county for county in wanted if county not in COUNTIES]
    if unknown or not wanted:
        raise InputError(f"expected sample counties among {', '.join(COUNTIES)}, got "
                         f"{', '.join(unknown) or 'none'}. Name one of these.")
    try:
        if not _is_finished(folder, seed, wanted):
            _draw(folder, seed, wanted, workers, progress)
    except OSError as error:
        if is_full(error):
            raise InputError(f"expected room on the disk for the sample counties in {folder}, got a full one. "
                             "Free some space and run the same command again: it goes on where it stopped.") from error
        raise InputError(f"expected a folder to draw the sample counties in, got {folder} which can't be written "
                         f"({error.strerror or error}). Give another folder, or set TUTORIAL_HOME.") from error
    if not _is_finished(folder, seed, wanted):
        raise InputError(f"expected the files in {folder} to stay as they were drawn, got some removed or replaced. "
                         "Draw each seed in a folder of its own.")
    return folder


def _state(seed, counties):
    """The content of ``complete.json`` when some counties are finished."""
    return {"version": units.VERSION, "seed": seed, "counties": sorted(counties)}


def _complete(folder):
    try:
        return read_json(folder / "complete.json")
    except (OSError, ValueError):
        return None


def _is_finished(folder, seed, wanted):
    there = units.there(folder, seed)
    return set(wanted) <= set(there) and _complete(folder) == _state(seed, there)


def _draw(folder, seed, wanted, workers, progress):
    """Draw what is missing of some counties."""
    folder.mkdir(parents=True, exist_ok=True)
    _forget_others(folder, seed)
    missing = [unit for unit in units.units_of(wanted) if units.facts(folder, seed, unit) is None]
    _check_disk(folder, missing)
    for number, (county, what) in enumerate(units.run(folder, seed, missing, workers), 1):
        progress(f"drew {county} {what} ({number} of {len(missing)})")
    # Another drawing may add a county while this one writes the catalogue.
    while _complete(folder) != _state(seed, there := units.there(folder, seed)):
        catalogue.write(folder, [facts for county in there.values() for facts in county])
        write_json(folder / "complete.json", _state(seed, there))
    _remove_unfinished(folder)


def _forget_others(folder, seed):
    """Before a file changes, remove a ``complete.json`` that no longer holds, and the files of another world."""
    complete = _complete(folder)
    if complete is not None and complete != _state(seed, units.there(folder, seed)):
        (folder / "complete.json").unlink(missing_ok=True)
    own = {units.facts_name(seed, unit) for unit in units.units_of(COUNTIES)}
    if any(f"units/{path.name}" not in own for path in (folder / "units").glob("*.json")):
        for name in ("scenes", "labels", "truth", "naip", "nlcd", "units"):
            shutil.rmtree(folder / name, ignore_errors=True)


def _remove_unfinished(folder):
    """Remove the unfinished files ``.<name>.<hash>.part`` of killed drawings whose whole file is there by now."""
    for part in folder.rglob(".*.*.part"):
        # While another drawing is at work on a file, the whole file is not there yet.
        if part.with_name(part.name[1:].rsplit(".", 2)[0]).exists():
            part.unlink(missing_ok=True)


def _check_disk(folder, missing):
    """Refuse to begin if the disk is too small for the world."""
    needed = sum(map(units.tiles, missing)) * _BYTES_A_TILE
    free = shutil.disk_usage(folder).free
    if free < needed:
        raise InputError(f"expected {needed / 1e6:,.0f} MB of free disk for the sample counties in {folder}, got "
                         f"{free / 1e6:,.0f} MB. Free some space, or set TUTORIAL_HOME to another disk.")

"""The sample counties: a small world of scenes, labels and truth, drawn from a seed.

    counties    the five counties: place, size, years
    textures    how land looks from the air: swatches and palettes
    landscape   what covers each place, in 2010 and in 2016
    painting    a county in a year, painted at 1 m
    scenes      sensors, scenes, label rasters, truth
    catalogue   the static STAC catalogue
"""

import errno
import fcntl
import functools
import json
import multiprocessing
import shutil
import sys
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path

from helpers import InputError
from helpers.files import sha256, write_json
from sample.counties import COUNTIES, LABEL_YEARS

VERSION = 1            # raise it when the same seed no longer gives the same files
LOCK = ".lock"         # file in the folder that whoever draws holds
_BYTES_A_TILE = 140e3  # disk that a tile of a county takes in one year at 1 m, with what lies around it


def draw(folder, seed=0, counties=None, workers=2, progress=None):
    """Draw the sample world into a folder, or go on with a drawing that was interrupted.

    Parameters
    ----------
    folder : str or pathlib.Path
        Gets a static STAC catalogue (``catalog.json``), ``counties.geojson``, ``scenes/``, ``labels/`` and
        ``truth/``; when all is there, ``complete.json``.
    seed : int
        Of the world: the same seed gives the same bytes, whatever the number of workers.
    counties : list of str, optional
        FIPS codes to draw; all of ``COUNTIES`` by default.
    workers : int
        Processes that draw side by side, 1 GB of memory each.
    progress : callable, optional
        Called with one line of text for each step.

    Returns
    -------
    pathlib.Path
        The folder.

    Raises
    ------
    InputError
        If a county is unknown, or the folder can't be written or hasn't the room.
    """
    folder = Path(folder)
    wanted = sorted(COUNTIES) if counties is None else sorted(map(str, counties))
    unknown = [c for c in wanted if c not in COUNTIES]
    if unknown or not wanted:
        raise InputError(f"expected sample counties among {', '.join(COUNTIES)}, got "
                         f"{', '.join(unknown) or 'none'}. Name one of these.")
    tell, about = progress or (lambda line: None), {"version": VERSION, "seed": int(seed)}
    if _is_finished(folder, about, wanted):
        return folder
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with open(folder / LOCK, "w") as lock:
            _wait_for(lock, tell)
            if not _is_finished(folder, about, wanted):
                _draw(folder, about, wanted, workers, tell)
    except OSError as error:
        raise _sentence(error, folder) from error
    return folder


def _wait_for(lock, tell):
    """Take the lock, when another process that draws here is done; when that dies, its lock goes with it."""
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        tell("Another process draws the sample here: waiting for it.")
        fcntl.flock(lock, fcntl.LOCK_EX)
    except OSError as error:
        # A file system without locks: nobody else is waited for.
        if error.errno not in (errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP):
            raise


def _finished(folder, about):
    """What a finished drawing of this world says of itself; None where there is none."""
    found = _read(folder / "complete.json")
    return found if found and {k: found.get(k) for k in about} == about else None


def _is_finished(folder, about, wanted):
    found = _finished(folder, about)
    return bool(found) and set(wanted) <= set(found["counties"]) and _all_there(folder, found["files"])


def _draw(folder, about, wanted, workers, tell):
    """Draw what is missing of some counties, and of those that were finished."""
    wanted = sorted(set(wanted) | set((_finished(folder, about) or {"counties": ()})["counties"]))
    (folder / "parts").mkdir(exist_ok=True)
    (folder / "complete.json").unlink(missing_ok=True)
    if _read(folder / "parts" / "about.json") != about:
        # Another world, or another version of this one: nothing of it is kept.
        for name in ("scenes", "labels", "truth", "parts", "naip", "nlcd"):
            shutil.rmtree(folder / name, ignore_errors=True)
    for name in ("scenes", "labels", "truth"):
        (folder / name).mkdir(exist_ok=True)
    write_json(folder / "parts" / "about.json", about)
    jobs = [job for job in _jobs(wanted) if not _part_is_whole(folder, job)]
    _check_disk(folder, jobs)
    _run(folder, about["seed"], jobs, workers, tell)
    for unfinished in folder.rglob(".*.part"):
        unfinished.unlink()
    from sample import catalogue
    parts = [_read(_part_path(folder, job)) for job in _jobs(wanted)]
    catalogue.write(folder, parts)
    files = {path.relative_to(folder).as_posix(): [path.stat().st_size, sha256(path)]
             for path in sorted(folder.rglob("*"))
             if path.is_file() and path.parent.name != "parts" and path.name != LOCK}
    write_json(folder / "complete.json", dict(about, counties=wanted, files=files))


def ground(seed, county, year, bounds, scene_id=None):
    """The ground of a place at 1 m, as a scene's camera would see it.

    Parameters
    ----------
    seed : int
    county : str
        FIPS code.
    year : int
    bounds : tuple of int
        ``(left, bottom, right, top)``, whole metres of the county's CRS.
    scene_id : str, optional
        The scene whose colours to give; without it, those of the bare ground.

    Returns
    -------
    numpy.ndarray
        Shape (top - bottom, right - left, 4), uint8: red, green, blue, near infrared.
    """
    import numpy as np
    from sample import scenes
    left, bottom, right, top = bounds
    pixels = scenes.view(_ground(seed, county, year), left, top, int(right - left), int(top - bottom))
    if scene_id is None:
        return pixels
    number = int(scene_id.split("_")[1][-2:])
    table = scenes.sensor(seed, COUNTIES[county], year, number)
    return np.stack([table[b][pixels[..., b]] for b in range(4)], axis=-1)


# ---- jobs: the imagery of a county in a year, or the labels and truth of a county

def _jobs(wanted):
    """All jobs of some counties, the longest first."""
    jobs = [(geoid, year) for geoid in wanted for year in COUNTIES[geoid].resolution]
    jobs.sort(key=lambda job: -_tiles(job))
    return jobs + [(geoid, "labels") for geoid in wanted]


def _tiles(job):
    """Tiles of a job's frame, counted as of 1 m."""
    county = COUNTIES[job[0]]
    if job[1] == "labels":
        return 0
    return county.rows * county.columns / county.resolution[job[1]] ** 2


def _part_path(folder, job):
    return folder / "parts" / f"{job[0]}-{job[1]}.json"


def _part_is_whole(folder, job):
    """Is a job's work there? Its part is written after its files."""
    part = _read(_part_path(folder, job))
    return part is not None and all((folder / item["path"]).is_file() for item in part["items"])


def _run(folder, seed, jobs, workers, tell):
    """Do jobs, in this process or side by side."""
    if workers < 2 or len(jobs) < 2:
        for i, job in enumerate(jobs):
            _do(str(folder), seed, job)
            tell(f"drew {job[0]} {job[1]} ({i + 1} of {len(jobs)})")
        return
    # A fresh interpreter for each worker: forking would copy the threads of Spark or TensorFlow. It must not run
    # the caller's script again, so the script is hidden while workers start.
    main = sys.modules["__main__"]
    hidden = {name: main.__dict__.pop(name) for name in ("__file__", "__spec__") if name in main.__dict__}
    main.__spec__ = None
    pool = ProcessPoolExecutor(min(workers, len(jobs)), multiprocessing.get_context("spawn"))
    try:
        futures = {pool.submit(_do, str(folder), seed, job): job for job in jobs}
        main.__dict__.update(hidden)
        for i, future in enumerate(as_completed(futures)):
            future.result()
            tell("drew {} {} ({} of {})".format(*futures[future], i + 1, len(jobs)))
    except BrokenProcessPool as error:
        raise InputError(f"expected about {workers} GB of memory to draw the sample with {workers} workers, got a "
                         "worker that was ended. Free some memory, or use workers=1.") from error
    finally:
        main.__dict__.update(hidden)
        pool.shutdown(cancel_futures=True)


def _do(folder, seed, job):
    """One job; its part is written last."""
    from sample import scenes
    from sample.painting import Ground
    folder = Path(folder)
    geoid, what = job
    scape = _landscape(seed, geoid)
    if what == "labels":
        codes = {year: Ground(scape, year).codes(0, 0, int(scape.width), int(scape.height), scenes.CODE_M)
                 for year in LABEL_YEARS}
        items = [scenes.draw_labels(folder, codes[year], scape.county, label_year)
                 for year, label_year in LABEL_YEARS.items()]
        scenes.draw_truth(folder, scape, codes[2010], codes[2016])
        import shapely
        extra = {"boundary": shapely.geometry.mapping(scenes.boundary(scape)), "name": scape.county.name}
    else:
        ground = Ground(scape, what, _swatches(seed))
        items = [scenes.draw_scene(folder, seed, ground, number, footprint)
                 for number, footprint in enumerate(scenes.footprints(scape.county), 1)]
        extra = {}
    write_json(_part_path(folder, job), dict(extra, items=items, county=geoid))


@functools.lru_cache(maxsize=1)
def _swatches(seed):
    from sample.textures import Swatches
    return Swatches(seed)


@functools.lru_cache(maxsize=2)
def _landscape(seed, geoid):
    from sample.landscape import Landscape
    return Landscape(seed, COUNTIES[geoid])


@functools.lru_cache(maxsize=2)
def _ground(seed, geoid, year):
    from sample.painting import Ground
    return Ground(_landscape(seed, geoid), year, _swatches(seed))


# ---- files

def _read(path):
    """A JSON file, or None where there is none that can be read."""
    try:
        return json.loads(path.read_text())
    except (OSError, ValueError):
        return None


def _all_there(folder, files):
    return all((folder / name).is_file() and (folder / name).stat().st_size == size
               for name, (size, _) in files.items())


def _check_disk(folder, jobs):
    """Refuse to begin where the disk plainly can't hold the world."""
    needed = sum(map(_tiles, jobs)) * _BYTES_A_TILE
    free = shutil.disk_usage(folder).free
    if free < needed:
        raise InputError(f"expected {needed / 1e6:,.0f} MB of free disk for the sample counties in {folder}, got "
                         f"{free / 1e6:,.0f} MB. Free some space, or set TUTORIAL_HOME to another disk.")


def _sentence(error, folder):
    """The InputError that tells of a file that couldn't be written."""
    if error.errno == errno.ENOSPC:
        return InputError(f"expected room on the disk for the sample counties in {folder}, got a full one. "
                          "Free some space and run the same command again: it goes on where it stopped.")
    return InputError(f"expected a folder to draw the sample counties in, got {folder} which can't be written "
                      f"({error.strerror or error}). Give another folder, or set TUTORIAL_HOME.")

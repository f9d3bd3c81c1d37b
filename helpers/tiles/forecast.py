"""forecast."""

import numpy as np
import pandas as pd

from helpers.land import downloads, grid, scenes as rasters, sources as to_sources
from helpers.land.sources import COVERED
from helpers.tiles.choose import first_years
from helpers.tiles.prepare import BYTES_A_SECOND, BYTES_A_TILE, TILES_A_SECOND, _sources

def plan(sources, jobs, slots, leaf_off="keep", per_class=None, seed=0):
    """What preparing counties will take, before it begins.

    Parameters
    ----------
    sources : dict of str to catalogue
        For each split, where it comes from.
    jobs : list of tuple
        ``(county, year, split)``.
    slots : int
        Tasks at a time.
    leaf_off, per_class, seed
        As in ``prepare``.

    Returns
    -------
    pandas.DataFrame
        For each job ``covered``, the share of the county that the year's scenes cover; ``tiles``, at most; ``scenes``;
        ``leaf_off``, the share of the county that scenes without leaves show; ``label_year``; ``download_mb``,
        ``disk_mb`` and ``minutes``, estimated from the header of one scene each.
    """
    rows, first = [], first_years(jobs)
    for county, year, split in jobs:
        found = _sources(sources[split], county, year, split, leaf_off, per_class, seed, first[county])
        download = _download_bytes(found)
        seconds = len(found.tiles) / TILES_A_SECOND / slots + download / BYTES_A_SECOND / slots
        rows.append({"county": found.place.fips, "year": year, "split": split, "label_year": found.labels.year,
                     "covered": sources[split].covered(county)[year], "scenes": len(found.scenes),
                     "leaf_off": min(1.0, sum(found.bare.values())), "tiles": len(found.tiles),
                     "download_mb": round(download / 1e6, 1), "disk_mb": round(len(found.tiles) * BYTES_A_TILE / 1e6),
                     "minutes": round(seconds / 60, 1)})
    return pd.DataFrame(rows)


def _download_bytes(found):
    """Bytes of the blocks that hold the tiles, taking all scenes for as the one is that most tiles come from."""
    remote = [scene for scene in found.scenes if downloads.is_remote(scene.href)]
    if not remote:
        return 0.0
    outlines = np.array([grid.project(scene.footprint, found.crs) for scene in found.scenes])
    choice = rasters.scene_order(found.tiles, outlines)[0]
    used = np.bincount(choice[choice >= 0], minlength=len(found.scenes))
    pixel_m, (height, width), block_bytes = rasters.block_facts(found.scenes[int(used.argmax())].href, found.crs)
    blocks = 0
    for number in np.flatnonzero(used):
        left, _, _, top = outlines[number].bounds
        tiles = found.tiles[choice == number]
        x, y = tiles["col"].to_numpy() * grid.TILE_M - left, top - (tiles["row"].to_numpy() + 1) * grid.TILE_M
        touched = set()
        for i in range(len(tiles)):
            down, across = ([int((start + m) // (size * pixel_m)) for m in (0, grid.TILE_M)]
                            for start, size in ((y[i], height), (x[i], width)))
            touched.update((r, c) for r in range(down[0], down[1] + 1) for c in range(across[0], across[1] + 1))
        blocks += len(touched)
    return blocks * block_bytes


def plan_in_words(sources, jobs, table):
    """A plan as lines to print: the table, its sums, and each scene of the mapped county without leaves.

    Parameters
    ----------
    sources, jobs
        As in ``plan``.
    table : pandas.DataFrame
        From ``plan``.

    Returns
    -------
    list of str
    """
    lines = table.to_string(index=False).splitlines()
    lines.append(f"In all {table['tiles'].sum():,} tiles, {table['download_mb'].sum():,.0f} MB to download, "
                 f"{table['disk_mb'].sum():,} MB on the disk, about {table['minutes'].sum():.0f} minutes.")
    for county, year, split in jobs:
        if split == "map":
            scenes = sources[split].scenes(county, year)
            bare = to_sources.leaf_off(scenes, sources[split].county(county).boundary)
            lines += [f"Scene {scene.scene_id}, taken on {scene.acquired}, shows {bare[scene.scene_id]:.1%} of the "
                      "county, perhaps with bare trees." for scene in scenes if scene.scene_id in bare]
            share = sources[split].covered(county)[year]
            if share < COVERED:
                lines.append(f"The scenes of {year} cover only {share:.0%} of county {county}.")
    return lines

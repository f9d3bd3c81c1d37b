"""A forecast, before preparation begins: its tiles, download, disk and time."""

import numpy as np
import pandas as pd
import shapely

from helpers.land import downloads, grid
from helpers.land.scenes import block_facts, outlines, scene_order
from helpers.land.sources import COVERED, leaf_off as leaf_off_scenes
from helpers.tiles.choose import first_years
from helpers.tiles.prepare import sources_of

# Tiles a second on a core, as the benchmark measures them; bytes a second of a connection; bytes of a stored tile.
TILES_A_SECOND, BYTES_A_SECOND, BYTES_A_TILE = 150, 5e6, 80e3


def forecast(sources: dict, jobs: list, slots: int, leaf_off: str = "keep", per_class: int = None,
             seed: int = 0) -> pd.DataFrame:
    """A row for each of the jobs ``(county, year, split)``: what it prepares, and about how long it takes on ``slots``.

    ``sources`` has a catalogue for each split. ``covered`` is the share of the county that the year's scenes cover, and
    ``leaf_off`` the share that scenes without leaves show. ``tiles`` is an upper limit. The header of one scene is
    enough to estimate ``download_mb``, ``disk_mb`` and ``minutes``.
    """
    rows, first = [], first_years(jobs)
    for county, year, split in jobs:
        found = sources_of(sources[split], county, year, split, leaf_off, per_class, seed, first[county])
        download, tiles = download_bytes(found.tiles, found.scenes, found.crs), len(found.tiles)
        seconds = (tiles / TILES_A_SECOND + download / BYTES_A_SECOND) / slots
        rows.append({"county": found.county.fips, "year": year, "split": split, "label_year": found.labels.year,
                     "covered": sources[split].covered(county)[year], "scenes": len(found.scenes),
                     "leaf_off": min(1.0, sum(found.facts["leaf_off"].values())), "tiles": tiles,
                     "download_mb": round(download / 1e6, 1), "disk_mb": round(tiles * BYTES_A_TILE / 1e6),
                     "minutes": round(seconds / 60, 1)})
    return pd.DataFrame(rows)


def download_bytes(tiles: pd.DataFrame, scenes: list, crs: str) -> float:
    """Bytes of the blocks that hold the tiles, as if all scenes were like the one that most tiles come from."""
    if not any(downloads.is_remote(scene.href) for scene in scenes):
        return 0.0
    choice = scene_order(tiles, scenes, crs)[0]
    used = choice >= 0
    height_m, width_m, block_bytes = block_facts(scenes[np.bincount(choice[used], minlength=1).argmax()].href, crs)
    bounds, touched = shapely.bounds(outlines(scenes, crs)), set()
    for number, row, col in zip(choice[used], tiles["row"][used], tiles["col"][used]):
        left, _, _, top = bounds[number]
        x, y = col * grid.TILE_M - left, top - (row + 1) * grid.TILE_M
        touched.update((number, down, across)
                       for down in range(int(y // height_m), int((y + grid.TILE_M) // height_m) + 1)
                       for across in range(int(x // width_m), int((x + grid.TILE_M) // width_m) + 1))
    return len(touched) * block_bytes


def as_text(sources: dict, jobs: list, table: pd.DataFrame) -> list:
    """A forecast as lines to print: the table, its sums, and the mapped county's scenes that may show bare trees."""
    lines = table.to_string(index=False).splitlines()
    minutes = max(1, round(table["minutes"].sum()))
    lines.append(f"In all {table['tiles'].sum():,} tiles, {table['download_mb'].sum():,.0f} MB to download, "
                 f"{table['disk_mb'].sum():,} MB on the disk, about {minutes} minute{'s' * (minutes > 1)}.")
    for (county, year, split), share in zip(jobs, table["covered"]):
        if split == "map":
            scenes = sources[split].scenes(county, year)
            bare = leaf_off_scenes(scenes, sources[split].county(county).boundary)
            lines += [f"Scene {scene.scene_id}, taken on {scene.acquired}, shows {bare[scene.scene_id]:.1%} of the "
                      "county, perhaps with bare trees." for scene in scenes if scene.scene_id in bare]
            if share < COVERED:
                lines.append(f"The scenes of {year} cover only {share:.0%} of county {county}.")
    return lines

"""A county's pictures for its page: a pyramid of tiles whose finest level has a picture for each tile."""

import base64
import io
import re
from pathlib import Path

import numpy as np
import pandas as pd
from PIL import Image

from helpers.files import write_whole
from helpers.tiles import store as tilestore
from helpers.tiles.pictures import decode_all

# The most tiles of a county whose pictures are inside the page, at 1.4 m. Other counties' lie beside it, at 1 m.
TILES_INSIDE = 2500
INSIDE_PX, BESIDE_PX = 160, 224
QUALITY = 45


def picture_folder(page: Path) -> Path:
    """The folder of a large county's pictures, beside its page."""
    return page.with_name(f"{page.stem}_pictures")


def write_pictures(page: Path, store: str, county: str, years: tuple[int, int], tiles: pd.DataFrame) -> dict:
    """Encode a county's pictures, and return the page's data on them, ``grid`` and ``pictures``."""
    top, left = int(tiles["row"].max()), int(tiles["col"].min())
    height, width = top - int(tiles["row"].min()) + 1, int(tiles["col"].max()) - left + 1
    grid = {"top_row": top, "left_col": left, "height": height, "width": width}
    levels = 1 + int(np.ceil(np.log2(max(height, width))))
    inside, folder = len(tiles) <= TILES_INSIDE, picture_folder(page)
    px = INSIDE_PX if inside else BESIDE_PX
    _clear(folder)
    names = {str(year): {} for year in years} if inside else {}
    for year in years:
        for z, x, y, image in _pyramid(store, county, year, set(tiles["row"]), grid, levels, px):
            if inside:
                names[str(year)][f"{z}-{x}-{y}"] = base64.b64encode(image).decode()
            else:
                write_whole(folder / str(year) / str(z) / f"{x}-{y}.webp", image)
    return {"grid": grid, "pictures": {"inside": inside, "levels": levels, "px": px, "folder": folder.name,
                                       "names": names}}


def _clear(folder):
    """Remove the pictures of an earlier page and no other file."""
    for file in list(folder.glob("*/*/*.webp")):
        if re.fullmatch(r"\d+/\d+/\d+-\d+\.webp", file.relative_to(folder).as_posix()):
            file.unlink()
    for emptied in [*folder.glob("*/*"), *folder.glob("*"), folder]:
        if emptied.is_dir() and not any(emptied.iterdir()):
            emptied.rmdir()


def _pyramid(store, county, year, rows, grid, levels, px):
    """Yield a year's pictures of each level as ``(z, x, y, bytes)``. A picture shows four of the next finer level."""
    begun = [{} for _ in range(levels)]  # the pictures of a row of each level
    for y in range(grid["height"]):
        row = grid["top_row"] - y
        if row in rows:
            found = tilestore.read(store, county, year, columns=["tile_id", "col", "image"], row=row)
            for x, picture in zip(found["col"] - grid["left_col"], decode_all(found, (px, px))):
                if 0 <= x < grid["width"]:
                    begun[-1][int(x)] = Image.fromarray(picture).convert("RGBA")
        for z in range(levels - 1, -1, -1):
            side = 2 ** (levels - 1 - z)  # of a picture, in tiles
            if (y + 1) % side and y + 1 < grid["height"]:
                break  # More of this row, and of those of all coarser levels, is to come.
            for x, picture in begun[z].items():
                picture = picture.reduce(picture.width // px)
                yield z, x, y // side, _webp(picture)
                if z:
                    # A new picture is transparent: nothing is drawn where there is no tile.
                    four = begun[z - 1].setdefault(x // 2, Image.new("RGBA", (2 * px, 2 * px)))
                    four.paste(picture, (x % 2 * px, y // side % 2 * px))
            begun[z].clear()


def _webp(picture):
    buffer = io.BytesIO()
    picture.save(buffer, "webp", quality=QUALITY, method=2)
    return buffer.getvalue()

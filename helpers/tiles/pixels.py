"""Decoded tiles in a file, for more of them than memory holds."""

import tempfile
import weakref

import numpy as np
import pandas as pd

from helpers import InputError
from helpers.files import making, room
from helpers.runs import home
from helpers.tiles import store
from helpers.tiles.pictures import decode_all


class Pixels:
    """Tiles (N, height, width, 3), uint8 RGB, in a temporary file without a name; indexing reads the wanted rows."""

    def __init__(self, file, shape: tuple):
        self._file, self.shape, self.ndim, self.dtype = file, shape, len(shape), np.dtype(np.uint8)
        weakref.finalize(self, file.close)

    def __len__(self):
        return self.shape[0]

    def __getitem__(self, rows):
        # Mapped again each time: in an open map, all that was ever read counts as this process's memory.
        return np.array(np.memmap(self._file, np.uint8, "r", shape=self.shape)[rows])


def read(uri: str, tiles: pd.DataFrame, size: tuple) -> Pixels:
    """The pixels of some tiles (``county``, ``year``, ``tile_id``) of a store, resized to ``size`` (height, width)."""
    folder, done = home() / "data", 0
    with making(folder):
        folder.mkdir(parents=True, exist_ok=True)
        file = tempfile.TemporaryFile(dir=str(folder))
    pixels = Pixels(file, (len(tiles), *size, 3))
    with room(f"{np.prod(pixels.shape) / 1e9:.1f} GB of decoded tiles in {folder}",
              "Free some space, or take fewer tiles."):
        for rows, batch in store.batches(uri, tiles):
            for row, tile in zip(rows, decode_all(batch, size)):
                file.seek(row * tile.nbytes)
                file.write(tile.tobytes())
            done += len(rows)
        file.flush()
    if done != len(tiles):
        raise InputError(f"expected the pictures of {len(tiles)} tiles in the store {uri}, got {done}. Read the table "
                         "of tiles again.")
    return pixels

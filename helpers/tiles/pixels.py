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

    def __init__(self, n: int, size: tuple):
        folder = home() / "data"
        self.shape, self.ndim, self.dtype = (n,) + tuple(size) + (3,), 4, np.dtype(np.uint8)
        with making(folder):
            folder.mkdir(parents=True, exist_ok=True)
            self._file = tempfile.TemporaryFile(dir=str(folder))
        weakref.finalize(self, self._file.close)

    def __len__(self):
        return self.shape[0]

    def __getitem__(self, rows):
        # Mapped again each time: in an open map, all that was ever read counts as this process's memory.
        return np.array(np.memmap(self._file, np.uint8, "r", shape=self.shape)[rows])

    def write(self, row: int, tile: np.ndarray):
        """Put one tile into its row."""
        self._file.seek(row * tile.nbytes)
        with room(f"{np.prod(self.shape) / 1e9:.1f} GB of decoded tiles in {home()}/data",
                  "Free some space, or take fewer tiles."):
            self._file.write(tile.tobytes())
            self._file.flush()


def read(uri: str, tiles: pd.DataFrame, size: tuple) -> Pixels:
    """The pixels of some tiles (``county``, ``year``, ``tile_id``) of a store, resized to ``size`` (height, width)."""
    pixels, done = Pixels(len(tiles), size), 0
    for rows, batch in store.batches(uri, tiles):
        for row, tile in zip(rows, decode_all(batch, size)):
            pixels.write(row, tile)
        done += len(rows)
    if done != len(tiles):
        raise InputError(f"expected the pictures of {len(tiles)} tiles in the store {uri}, got {done}. Read the table "
                         "of tiles again.")
    return pixels

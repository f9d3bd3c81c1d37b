"""The drawn pictures on disk: shards of a few classes each, whole or not there."""

import multiprocessing
import os
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import numpy as np

from helpers.pretraining import pictures, statistics

CLASSES = 480
PICTURES = 50
CROPS = 4
CLASSES_PER_SHARD = 10


def _save(path, array):
    part = path.with_name("{}.{}.part.npy".format(path.stem, os.getpid()))
    np.save(part, array)
    os.replace(part, path)


def _draw_shard(folder, shard, classes, n_pictures, n_crops, seed, drawn_px, stored_px):
    drawn = []
    for class_id in classes:
        for number in range(n_pictures):
            picture = pictures.draw(class_id, number, seed, drawn_px)
            rng = np.random.default_rng([seed, class_id, number, 1])
            drawn += [pictures.crop(picture, rng, stored_px) for _ in range(n_crops)]
    drawn = np.stack(drawn)
    found = np.concatenate([statistics.compute(drawn[i:i + 100]) for i in range(0, len(drawn), 100)])
    _save(folder / "statistics_{:03d}.npy".format(shard), found)
    _save(folder / "labels_{:03d}.npy".format(shard), np.repeat(classes, n_pictures * n_crops).astype(np.int32))
    # Last, because a shard counts as drawn when this file is there.
    _save(folder / "pictures_{:03d}.npy".format(shard), drawn)


class Dataset:
    """Pictures of formula classes, drawn into a folder where they are not there yet.

    Parameters
    ----------
    folder : str or pathlib.Path
    classes : int
    n_pictures : int
        Of each class.
    n_crops : int
        Of each picture.
    seed : int
    drawn_px, stored_px : int
        Height and width of the pictures as drawn, and of the crops as stored.
    workers : int
        Processes that draw.
    progress : callable
        Called with one line of text for each shard drawn.

    Attributes
    ----------
    labels : numpy.ndarray
        Shape (N,), int32.
    statistics : numpy.ndarray
        Shape (N, n_statistics), float32, each with mean 0 and deviation 1.
    """

    def __init__(self, folder, classes=CLASSES, n_pictures=PICTURES, n_crops=CROPS, seed=0,
                 drawn_px=pictures.DRAWN_PX, stored_px=pictures.STORED_PX, workers=2, progress=print):
        # What is drawn is named in the folder, so that another choice never takes it for its own.
        folder = Path(folder) / "pictures-{}x{}x{}-{}px-seed{}".format(
            classes, n_pictures, n_crops, stored_px, seed)
        folder.mkdir(parents=True, exist_ok=True)
        shards = -(-classes // CLASSES_PER_SHARD)
        missing = [s for s in range(shards) if not (folder / "pictures_{:03d}.npy".format(s)).exists()]
        if missing:
            # Forking is not safe once TensorFlow has started its threads.
            with ProcessPoolExecutor(workers, multiprocessing.get_context("spawn")) as pool:
                jobs = [pool.submit(_draw_shard, folder, s, np.arange(s, classes, shards), n_pictures, n_crops, seed,
                                    drawn_px, stored_px)
                        for s in missing]
                for done, job in enumerate(jobs, shards - len(missing) + 1):
                    job.result()
                    progress("drew {} of {} shards of pictures".format(done, shards))

        def read(kind, mode=None):
            return [np.load(folder / "{}_{:03d}.npy".format(kind, s), mmap_mode=mode) for s in range(shards)]

        self._pictures = read("pictures", "r")
        self._starts = np.cumsum([0] + [len(shard) for shard in self._pictures])
        self.labels = np.concatenate(read("labels"))
        found = np.concatenate(read("statistics"))
        # A bin that is nearly always empty would otherwise count hundredfold where it is not.
        self.statistics = np.clip((found - found.mean(axis=0)) / (found.std(axis=0) + 1e-3), -5, 5)

    def __len__(self):
        return len(self.labels)

    def pictures(self, indices):
        """Stored pictures, uint8 (n, 96, 96, 3)."""
        shard = np.searchsorted(self._starts, indices, side="right") - 1
        return np.stack([self._pictures[s][i - self._starts[s]] for s, i in zip(shard, indices)])

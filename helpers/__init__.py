"""The library behind the notebooks: land cover from aerial pictures, scored in parallel on Spark.

One folder for each topic, with the notebooks that use it first. A folder imports only from those above it::

    (top)       runs, files and file systems, credentials, errors
    cluster/    01: the Spark session, its preflight and progress; a job as a list of units of work
    land/       02: classes, grid, scenes, labels, and where they come from
    tiles/      02: the tile store, pictures, preparation
    model/      03, 04: backbones, retraining, the model bundle, engines, evaluation
    scoring/    05: a prediction for each tile
    maps/       06: maps, change, newly developed land, the review page
    figures/    all: figures

Importing any of them does nothing: no download, no session, no seed.
"""


class InputError(ValueError):
    """The user can fix this: one sentence with what was wanted, what came, and what to do."""


class DamagedFile(InputError):
    """A file is gone, or it is not what was written."""

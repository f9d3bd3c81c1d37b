"""The library behind the notebooks: land cover from aerial pictures, scored in parallel on Spark.

Modules import only those listed above them, so each can be read on its own::

    runs        where a run keeps its files and metrics
    landcover   the class table: NLCD codes, six classes, three map groups, colours
    grid        county boundary -> tiles; pure geometry
    sample/     the embedded sample counties
    catalog     where scenes, labels and boundaries come from
    rasters     the only module that opens a raster
    tilestore   tiles in and out of Parquet; the only module that decodes a tile
    preparation from scenes and labels to a tile store, on Spark
    backbones   pretrained networks; weights/ holds the embedded ones, pretraining/ their recipe
    retraining_tensorflow   transfer learning: a new head, then fine-tuning
    cntk_process            what CNTK's own process runs
    engines     ways to score a batch
    bundle      save, load, export; refuses a bad export
    retraining_cntk         transfer learning in CNTK, in its own Python
    session     Spark session, preflight, progress
    scoring     what an executor runs, and the job around it
    evaluation  accuracy, confusion, baselines
    change      smoothing, newly developed candidates
    figures     data and ``ax`` in, ``ax`` out
    seeing      what the layers of a network see

Importing any of them does nothing: no download, no session, no seed.
"""


class InputError(ValueError):
    """Something the user gave can't be used: one sentence with what was wanted, what came, what to do."""

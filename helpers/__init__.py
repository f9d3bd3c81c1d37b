"""The library behind the notebooks: land cover from aerial pictures, scored in parallel on Spark.

Modules import only those listed above them, so each can be read on its own::

    storage     URIs to file systems: this machine's disk, Azure storage
    runs        where a run keeps its files and metrics
    downloads   files from the network: retried, whole, checked
    landcover   the class table: NLCD codes, six classes, three map groups, colours
    grid        county boundary -> tiles; pure geometry
    sample/     the embedded sample counties
    rasters     the only module that opens a raster
    catalog     where scenes, labels and boundaries come from
    pictures    a picture's bytes -> pixels, or the reason why not
    tilestore   tiles in and out of Parquet
    session     Spark session, preflight, progress
    preparation from scenes and labels to a tile store, on Spark
    backbones   pretrained networks; weights/ holds the embedded ones, pretraining/ their recipe
    retraining_tensorflow   transfer learning: a new head, then fine-tuning
    cntk_process            what CNTK's own process runs
    engines     ways to score a batch
    bundle      save, load, export; refuses a bad export
    retraining_cntk         transfer learning in CNTK, in its own Python
    planning    tasks, batches, memory and cost of a job before it runs
    local_cluster           a Spark cluster on this machine
    predictions the prediction table on disk, and the claim of the job that writes it
    scoring_process         guards an executor's scoring against what hangs
    scoring     what an executor runs, and the job around it
    evaluation  accuracy, confusion, baselines
    change      smoothing, the candidates of the 2017 rule
    development newly developed places: a calibrated score for each tile, and its reason
    figures     data and ``ax`` in, ``ax`` out
    report/     the HTML page to review a county's candidates
    seeing      what the layers of a network see

Importing any of them does nothing: no download, no session, no seed.
"""


class InputError(ValueError):
    """Something the user gave can't be used: one sentence with what was wanted, what came, what to do."""

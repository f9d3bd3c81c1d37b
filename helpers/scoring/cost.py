"""Before a job runs: how it is cut into tasks and batches, the memory it will take, and what it would cost elsewhere.

Pure arithmetic: no session, no file but the network's own.
"""

from collections import namedtuple

from helpers import InputError
from helpers.model import engines
from helpers.cluster.session import BATCH_ROWS

# Tiles of a chunk for each slot, half a minute to some minutes of work: a scoring job's chunks join its table one after
# another, and a driver's death costs one at most. A chunk more takes about a second, for planning it and reading it
# back.
CHUNK_TILES = 4096
# Of a chunk: few enough that starting tasks costs nothing, and enough that no core waits long for the last one.
TASKS_A_SLOT = 16
# Encoded pictures that travel to Python at once. Spark 3 counts the rows of an Arrow batch and not their bytes, so
# large pictures travel in fewer rows.
BATCH_BYTES = 16 << 20
# A Python worker that has imported what scores, before it loads a network; measured with ONNX Runtime.
WORKER_MB = 200
MB = 1e6
Plan = namedtuple("Plan", "tiles slots tasks batch_rows pictures_mb network_mb worker_mb settings")
Plan.__doc__ = """A scoring job before it runs.

Attributes
----------
tiles, slots, tasks : int
batch_rows : int
    Tiles that a worker holds at once.
pictures_mb, network_mb, worker_mb : float
    Memory of those tiles, encoded and decoded; of the network with what it computes for a batch; of the whole worker.
settings : dict
    Spark's settings for the job.
"""
Machine = namedtuple("Machine", "name cores price bandwidth")
Machine.__doc__ = """A size of machine: physical cores, dollars an hour, and bytes a second of its network."""
# Azure's general-purpose sizes. Two of their vCPUs are one core. Prices are list prices for Linux in East US, pay as
# you go, in 2024, without HDInsight's surcharge: look yours up. Networks: learn.microsoft.com, "Dsv5 size series".
MACHINES = (Machine("Standard_D8s_v5", 4, 0.384, 12.5e9 / 8), Machine("Standard_D16s_v5", 8, 0.768, 12.5e9 / 8),
            Machine("Standard_D32s_v5", 16, 1.536, 16e9 / 8))
# What one Azure storage account gives out by default in most regions: 50 Gbit/s.
STORAGE = 50e9 / 8
# Tiles of 224 m: Middlesex County MA, the county of 2017; Massachusetts, 27,336 km²; the conterminous US.
PLACES = {"Middlesex County": 65_563, "Massachusetts": 545_000, "conterminous US": 161_000_000}


def plan(tiles, n_bytes, slots, bundle, engine="fastest", chunk_tiles=None, row_bytes=0):
    """Cut a scoring job into tasks and batches.

    Parameters
    ----------
    tiles : int
    n_bytes : int
        Of their files.
    slots : int
        Tasks that run at a time.
    bundle : helpers.model.bundle.Bundle
    engine : str
        As in ``engines.load``.
    chunk_tiles : int, optional
        That are scored before the next begin; by default ``CHUNK_TILES`` a slot.
    row_bytes : int, optional
        Of the largest pictures, as ``tilestore.heaviest`` finds them; by default they are all alike.

    Returns
    -------
    Plan
    """
    chunk_bytes = n_bytes * min(1, (chunk_tiles or CHUNK_TILES * slots) / max(1, tiles))
    tile_bytes = max(1, n_bytes // max(1, tiles))
    row_bytes = max(row_bytes, tile_bytes)
    rows = int(max(1, min(BATCH_ROWS, BATCH_BYTES // row_bytes)))
    task_bytes = max(tile_bytes * BATCH_ROWS, int(-(-chunk_bytes // (slots * TASKS_A_SLOT))))
    # A batch is there three times, as it came, as rows and as pixels, and the pixels once more in one array.
    pictures = rows * (2 * row_bytes + 2 * 3 * bundle.input_px[0] * bundle.input_px[1])
    network = engines.network_bytes(bundle, engine, rows)
    return Plan(tiles, slots, max(1, -(-n_bytes // task_bytes)), rows, pictures / MB, network / MB,
                WORKER_MB + (pictures + network) / MB,
                {"spark.sql.files.maxPartitionBytes": str(task_bytes),
                 # A file's opening counts as this much reading, and by default as 4 MB: more than a small task.
                 "spark.sql.files.openCostInBytes": str(tile_bytes),
                 "spark.sql.execution.arrow.maxRecordsPerBatch": str(rows),
                 # What Java reads at a time: by default 4,096 rows, whatever they hold.
                 "spark.sql.parquet.columnarReaderBatchSize": str(rows)})


def in_words(plan):
    """A plan as one sentence."""
    return ("{tiles:,} tiles in about {tasks} task(s) on {slots} slot(s); each worker holds {batch_rows} tiles at a "
            "time ({pictures_mb:.0f} MB) and the network ({network_mb:.0f} MB), {worker_mb:.0f} MB in all.".format(
                **plan._asdict()))


def capacity(tiles, tiles_per_second, machine, machines=1, efficiency=0.95, start_s=300, tile_bytes=72e3,
             storage=STORAGE):
    """Hours and cost of scoring tiles on a number of machines of one size.

    Parameters
    ----------
    tiles : int
    tiles_per_second : float
        Of one core, measured, with reading and decoding; a core of the machine is taken to be as fast.
    machine : Machine
    machines : int
    efficiency : float
        Share of that speed that is left when all cores work at once.
    start_s : float
        Until the cluster is there and the session warm; it is paid for too.
    tile_bytes : float
        Of an encoded tile; by default what one of NAIP takes.
    storage : float
        Bytes a second that the store gives to all machines together.

    Returns
    -------
    dict
        ``hours``, ``cost``, and ``bound_by``: ``"cores"`` or ``"reading"``, whichever takes longer.

    Raises
    ------
    InputError
        If a number that it divides by is not above 0.
    """
    for name, value in (("tiles_per_second", tiles_per_second), ("machines", machines), ("efficiency", efficiency),
                        ("storage", storage)):
        if not value > 0:
            raise InputError("expected {} above 0, got {}. Measure it, or take the default.".format(name, value))
    computing_s = tiles / (tiles_per_second * machine.cores * machines * efficiency)
    reading_s = tiles * tile_bytes / min(storage, machine.bandwidth * machines)
    hours = (start_s + max(computing_s, reading_s)) / 3600
    return {"hours": hours, "cost": hours * machines * machine.price,
            "bound_by": "cores" if computing_s >= reading_s else "reading"}

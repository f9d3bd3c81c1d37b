"""Forecasts of a scoring job's time on more cores, and of its cost in Azure."""

from collections import namedtuple
from typing import Sequence

import numpy as np

from helpers import InputError

Machine = namedtuple("Machine", "name cores price bandwidth")
Machine.__doc__ = """A size of machine: physical cores, dollars an hour, and bytes per second of its network."""
# Azure's general-purpose sizes. Two of their vCPUs are one core. Prices are list prices for Linux in East US, pay as
# you go, in 2024, without HDInsight's surcharge: look yours up. Networks: learn.microsoft.com, "Dsv5 size series".
MACHINES = (Machine("Standard_D8s_v5", 4, 0.384, 12.5e9 / 8), Machine("Standard_D16s_v5", 8, 0.768, 12.5e9 / 8),
            Machine("Standard_D32s_v5", 16, 1.536, 16e9 / 8))
# The default egress limit of one Azure storage account in most regions: 50 Gbit/s.
STORAGE = 50e9 / 8
# The share of its speed that a core keeps when all cores work at once, for a speed that was measured on one core.
EFFICIENCY = 0.95
# The seconds until a cluster is ready, which are paid for too, and the bytes of an encoded tile of NAIP.
START_S, TILE_BYTES = 300, 72e3
# Tiles of 224 m in Middlesex County MA (the county of 2017), Massachusetts (27,336 km²) and the conterminous US.
REGIONS = {"Middlesex County": 65_563, "Massachusetts": 545_000, "conterminous US": 161_000_000}
# Seconds to score 11,760 tiles on a number of nodes, read off the chart "Scoring time vs. number of worker nodes" of
# github.com/Azure/Embarrassingly-Parallel-Image-Classification (2017), to about 2%.
NODES_2017 = (10, 15, 20, 25, 30, 35, 40, 45, 50)
TIMES_2017 = {"CNTK": (NODES_2017, (248, 167, 118, 95, 85, 76, 65, 57, 49)),
              "TensorFlow": (NODES_2017, (212, 158, 124, 98, 88, 81, 77, 67, 66))}


def fitted(workers: Sequence[int], seconds: Sequence[float]) -> tuple:
    """Fit the capacity model to some runs: ``(start_s, shared_s)``. A run takes start_s + shared_s / workers seconds.

    More workers don't shorten ``start_s``. The fit makes relative errors small, and both numbers are 0 or more. If all
    runs have the same number of workers, the fit can't separate the two, and ``start_s`` is 0.
    """
    from scipy.optimize import nnls
    workers, seconds = np.asarray(workers, dtype=float), np.asarray(seconds, dtype=float)
    terms = np.stack([np.ones(len(workers)), 1 / workers], axis=1) / seconds[:, None]
    if len(set(workers)) == 1:
        terms[:, 0] = 0
    start_s, shared_s = nnls(terms, np.ones(len(workers)))[0]
    return float(start_s), float(shared_s)


def minibatches_as_text(gains: dict, size: int) -> str:
    """Sentences about minibatches. ``gains``: for each engine, its speed divided by the speed of one tile at a time."""
    text = f"Speed with {size} tiles in one call, divided by the speed with one tile: " + ", ".join(
        f"{name} {gain:.1f}" for name, gain in gains.items()) + "."
    if max(gains.values()) >= 1.1:
        text += " A higher speed comes from fewer calls: each call takes some extra time."
    if min(gains.values()) < 0.95:
        text += (f" A lower speed has a likely cause: the intermediate results of {size} tiles do not fit in the "
                 "processor's cache, a small fast memory. Fetching them from main memory costs more time than "
                 "fewer calls save.")
    return text


def fit_as_text(workers: Sequence[int], start_s: float, shared_s: float) -> str:
    """Sentences about a fit, and about its limits."""
    fewest, most = min(workers), max(workers)
    if fewest == most:
        return f"All jobs here ran on {most} core{'s' * (most > 1)}, so start and work cannot be told apart."
    text = f"Here the model finds a start of {start_s:.1f} s and {shared_s:.1f} s of work."
    if (start_s + shared_s / fewest) / (start_s + shared_s / most) < 1.2:
        text += (" More cores gained little. Perhaps other programs kept them busy: run this section again when the "
                 "machine is quiet.")
    return text


def forecast_as_text(foretold_s: float, measured_s: float = None) -> str:
    """Sentences that compare a forecast with the measured time, if there is one."""
    if measured_s is None:
        return (f"The forecast is {foretold_s:.0f} s. An earlier run has already scored some tiles, so there is no "
                "measured time to compare.")
    off = foretold_s / measured_s - 1
    if abs(off) <= 0.1:
        return f"The forecast of {foretold_s:.0f} s is within 10% of the measured {measured_s:.0f} s."
    return (f"The forecast of {foretold_s:.0f} s is {abs(off):.0%} too {'low' if off < 0 else 'high'}: the job took "
            f"{measured_s:.0f} s. A forecast from a few short jobs cannot know how large the other pictures are, when "
            "other programs use the cores, or how long the cores wait for a job's last tasks.")


def assumptions_as_text() -> str:
    """The assumptions of ``capacity`` with its default numbers."""
    return ("The table assumes that each core in Azure scores as fast as a core did in the measured job, and that two "
            "of Azure's vCPUs (virtual processors) are one core. "
            f"A cluster of bare machines needs {START_S / 60:.0f} minutes to start; HDInsight needs longer. A tile of "
            f"real land has about {TILE_BYTES / 1e3:.0f} kB. The machines read as fast as their networks, or as one "
            f"storage account with {STORAGE * 8 / 1e9:.0f} Gbit/s, whichever is slower. The tiles are cut already. "
            "Prices are list prices of 2024 for bare machines, without the surcharge of a service such as HDInsight.")


def capacity(tiles: int, tiles_per_second: float, machine: Machine, machines: int = 1,
             efficiency: float = 1, start_s: float = START_S, tile_bytes: float = TILE_BYTES,
             storage: float = STORAGE) -> dict:
    """Hours and cost of scoring tiles on a number of machines of one size.

    Parameters
    ----------
    tiles_per_second : of one core, with reading and decoding, measured while all cores work.
    efficiency : ``EFFICIENCY`` if the speed was measured while one core worked.
    storage : bytes per second that the store gives to all machines together.

    Returns
    -------
    ``hours``, ``cost``, and ``bound_by``: ``"cores"`` or ``"reading"``, whichever takes longer.
    """
    for name, value in (("tiles_per_second", tiles_per_second), ("machines", machines), ("efficiency", efficiency),
                        ("storage", storage)):
        if not value > 0:
            raise InputError(f"expected {name} above 0, got {value}. Measure it, or give a larger number.")
    computing_s = tiles / (tiles_per_second * machine.cores * machines * efficiency)
    reading_s = tiles * tile_bytes / min(storage, machine.bandwidth * machines)
    hours = (start_s + max(computing_s, reading_s)) / 3600
    return {"hours": hours, "cost": hours * machines * machine.price,
            "bound_by": "cores" if computing_s >= reading_s else "reading"}

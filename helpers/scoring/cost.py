"""How long a scoring job takes on more cores, and what it would cost elsewhere."""

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
# The share of a core's speed that is left when all cores work at once; the seconds until a cluster is ready, which are
# paid for too; and the bytes of an encoded tile of NAIP.
EFFICIENCY, START_S, TILE_BYTES = 0.95, 300, 72e3
# Tiles of 224 m: Middlesex County MA, the county of 2017; Massachusetts, 27,336 km²; the conterminous US.
REGIONS = {"Middlesex County": 65_563, "Massachusetts": 545_000, "conterminous US": 161_000_000}
# Seconds to score 11,760 tiles on a number of nodes, read off the chart "Scoring time vs. number of worker nodes" of
# github.com/Azure/Embarrassingly-Parallel-Image-Classification (2017), to about 2 %.
NODES_2017 = (10, 15, 20, 25, 30, 35, 40, 45, 50)
TIMES_2017 = {"CNTK": (NODES_2017, (248, 167, 118, 95, 85, 76, 65, 57, 49)),
              "TensorFlow": (NODES_2017, (212, 158, 124, 98, 88, 81, 77, 67, 66))}


def fitted(workers: Sequence[int], seconds: Sequence[float]) -> tuple:
    """The capacity model of some runs: ``(start_s, shared_s)``, so that a run takes start_s + shared_s / workers.

    ``start_s`` is the time that more workers don't shorten. The fit makes relative errors small, and both parts are 0
    or more. Runs on one number of workers can't tell the two parts apart: there ``start_s`` is 0.
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
    text = f"With {size} at a time instead of one, the speed is " + ", ".join(
        f"{gain:.1f} × as high in {name}" for name, gain in gains.items()) + "."
    if max(gains.values()) >= 1.1:
        text += " Where it is higher, the costs of a call are paid less often."
    if min(gains.values()) < 0.95:
        text += (f" Where it is lower, a likely cause is the processor's cache: the intermediate results of {size} tiles "
                 "do not fit in it, and fetching them from memory costs more than the calls that were saved.")
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
    """How a forecast compares with the measured time, if there is one, and the usual cause of such a difference."""
    if measured_s is None:
        return (f"The forecast is {foretold_s:.0f} s. An earlier run has already scored some tiles, so there is no "
                "measured time to compare.")
    off = foretold_s / measured_s - 1
    if abs(off) <= 0.1:
        return f"The forecast of {foretold_s:.0f} s is within 10 % of the measured {measured_s:.0f} s."
    cause = ("Possible causes: every worker also loaded the network, other counties have larger pictures, or other "
             "programs used the cores. The runs of section 5 were short, and the best of them may flatter."
             if off < 0 else "A possible cause: in a short job, slots wait for the last tasks. A long job hides that.")
    return (f"The forecast of {foretold_s:.0f} s is {abs(off):.0%} too {'low' if off < 0 else 'high'}: the job took "
            f"{measured_s:.0f} s. {cause}")


def assumptions_as_text() -> str:
    """What ``capacity`` assumes by default."""
    return (f"The table assumes that a core there is as fast as one here, and that two vCPUs are one core. All cores "
            f"together keep {EFFICIENCY:.0%} of their speed. The cluster needs {START_S / 60:.0f} minutes to start. A "
            f"tile takes {TILE_BYTES / 1e3:.0f} kB. The machines read as fast as their networks, or as one storage "
            f"account with {STORAGE * 8 / 1e9:.0f} Gbit/s, whichever is slower. The tiles are cut already. Prices are "
            "list prices of 2024 without a service's surcharge.")


def capacity(tiles: int, tiles_per_second: float, machine: Machine, machines: int = 1,
             efficiency: float = EFFICIENCY, start_s: float = START_S, tile_bytes: float = TILE_BYTES,
             storage: float = STORAGE) -> dict:
    """Hours and cost of scoring tiles on a number of machines of one size.

    Parameters
    ----------
    tiles_per_second : float
        Measured on one core, with reading and decoding.
    storage : float
        Bytes per second that the store gives to all machines together.

    Returns
    -------
    dict
        ``hours``, ``cost``, and ``bound_by``: ``"cores"`` or ``"reading"``, whichever takes longer.

    Raises
    ------
    InputError
        If a speed, a number of machines or a share is 0 or less.
    """
    for name, value in (("tiles_per_second", tiles_per_second), ("machines", machines), ("efficiency", efficiency),
                        ("storage", storage)):
        if not value > 0:
            raise InputError(f"expected {name} above 0, got {value}. Measure it, or take the default.")
    computing_s = tiles / (tiles_per_second * machine.cores * machines * efficiency)
    reading_s = tiles * tile_bytes / min(storage, machine.bandwidth * machines)
    hours = (start_s + max(computing_s, reading_s)) / 3600
    return {"hours": hours, "cost": hours * machines * machine.price,
            "bound_by": "cores" if computing_s >= reading_s else "reading"}

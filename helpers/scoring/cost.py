"""What a scoring job would take elsewhere: hours and dollars, from tiles per second on one core."""

from collections import namedtuple

from helpers import InputError

Machine = namedtuple("Machine", "name cores price bandwidth")
Machine.__doc__ = """A size of machine: physical cores, dollars an hour, and bytes per second of its network."""
# Azure's general-purpose sizes. Two of their vCPUs are one core. Prices are list prices for Linux in East US, pay as
# you go, in 2024, without HDInsight's surcharge: look yours up. Networks: learn.microsoft.com, "Dsv5 size series".
MACHINES = (Machine("Standard_D8s_v5", 4, 0.384, 12.5e9 / 8), Machine("Standard_D16s_v5", 8, 0.768, 12.5e9 / 8),
            Machine("Standard_D32s_v5", 16, 1.536, 16e9 / 8))
# What one Azure storage account gives out by default in most regions: 50 Gbit/s.
STORAGE = 50e9 / 8
# Tiles of 224 m: Middlesex County MA, the county of 2017; Massachusetts, 27,336 km²; the conterminous US.
REGIONS = {"Middlesex County": 65_563, "Massachusetts": 545_000, "conterminous US": 161_000_000}


def capacity(tiles: int, tiles_per_second: float, machine: Machine, machines: int = 1, efficiency: float = 0.95,
             start_s: float = 300, tile_bytes: float = 72e3, storage: float = STORAGE) -> dict:
    """Hours and cost of scoring tiles on a number of machines of one size.

    Parameters
    ----------
    tiles_per_second : float
        Of one core, measured, with reading and decoding; a core of the machine is taken to be as fast.
    efficiency : float
        Share of that speed that is left when all cores work at once.
    start_s : float
        Until the cluster is there and the session warm; it is paid for too.
    tile_bytes : float
        Of an encoded tile; by default what one of NAIP takes.
    storage : float
        Bytes per second that the store gives to all machines together.

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
            raise InputError(f"expected {name} above 0, got {value}. Measure it, or take the default.")
    computing_s = tiles / (tiles_per_second * machine.cores * machines * efficiency)
    reading_s = tiles * tile_bytes / min(storage, machine.bandwidth * machines)
    hours = (start_s + max(computing_s, reading_s)) / 3600
    return {"hours": hours, "cost": hours * machines * machine.price,
            "bound_by": "cores" if computing_s >= reading_s else "reading"}

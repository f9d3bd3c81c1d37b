import pytest

from helpers import InputError
from helpers.scoring import cost


def test_hours_and_cost_by_hand():
    machine = cost.Machine("big", cores=4, price=2.0, bandwidth=1e9)
    # 3600 s of computing on 10 machines of 4 cores at half their speed; and an hour to start.
    found = cost.capacity(3600 * 5 * 40, 10, machine, machines=10, efficiency=0.5, start_s=3600)
    assert found == {"hours": 2.0, "cost": 40.0, "bound_by": "cores"}
    # One tile a byte a second: reading takes longer.
    slow = cost.capacity(7200, 1e6, machine, start_s=0, tile_bytes=1, storage=1)
    assert slow["hours"] == 2.0 and slow["bound_by"] == "reading"
    with pytest.raises(InputError, match="expected tiles_per_second above 0, got 0"):
        cost.capacity(1, 0, machine)

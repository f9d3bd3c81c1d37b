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


def test_a_fit_finds_start_and_shared_work_again():
    assert cost.fitted([1, 2, 4, 8], [10 + 80 / n for n in (1, 2, 4, 8)]) == pytest.approx((10, 80))
    assert cost.fitted([2, 2], [50, 50]) == pytest.approx((0, 100))
    # Faster than perfect sharing: no start is below 0.
    assert cost.fitted([1, 2], [100, 40])[0] == 0


def test_the_fit_of_2017_stays_near_its_chart():
    for nodes, seconds in cost.TIMES_2017.values():
        start_s, shared_s = cost.fitted(nodes, seconds)
        assert all(start_s + shared_s / n == pytest.approx(s, rel=0.1) for n, s in zip(nodes, seconds))


def test_minibatches_gain_or_lose_in_their_own_words():
    gain, loss, same = (cost.minibatches_as_text({"a": of_a, "b": 1.0}, 32) for of_a in (1.5, 0.6, 1.0))
    assert "one tile: a 1.5, b 1.0." in gain and "A higher speed" in gain and "cache" not in gain
    assert "one tile: a 0.6, b 1.0." in loss and "cache" in loss and "A higher speed" not in loss
    assert "cache" not in same and "A higher speed" not in same


@pytest.mark.parametrize("workers, line, words, quiet", [
    ([1, 2], (2, 10), "a start of 2.0 s and 10.0 s of work", True), ([1, 2], (50, 5), "gained little", False),
    ([1, 1], (0, 40), "ran on 1 core, so", True), ([4], (0, 40), "ran on 4 cores, so", True)])
def test_a_fit_tells_what_it_has_found(workers, line, words, quiet):
    text = cost.fit_as_text(workers, *line)
    assert words in text and ("busy" in text) != quiet


@pytest.mark.parametrize("foretold, words", [(20, "50% too low"), (44, "10% too high"), (43.9, "within 10%"),
                                             (60, "50% too high")])
def test_a_forecast_tells_its_direction(foretold, words):
    measured = 39.9 if foretold == 44 else 40
    text = cost.forecast_as_text(foretold, measured)
    assert words in text and f"{measured:.0f} s" in text
    assert ("cannot know" in text) == ("too" in words)


def test_a_forecast_without_a_measured_time_says_so():
    assert cost.forecast_as_text(30) == ("The forecast is 30 s. An earlier run has already scored some tiles, so there "
                                         "is no measured time to compare.")


def test_the_assumptions_are_the_defaults():
    defaults = cost.capacity.__defaults__
    assert (1, 1, cost.START_S, cost.TILE_BYTES, cost.STORAGE) == defaults  # A speed with all cores busy loses no more.
    text = cost.assumptions_as_text()
    assert "a core did in the measured job" in text and "5 minutes" in text and "72 kB" in text and "50 Gbit/s" in text

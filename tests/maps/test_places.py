import numpy as np
import pytest

from helpers.maps import places

DEVELOPED = places.DEVELOPED_CLASS


def by_year(*shares):
    """Probabilities (years, 1 place, windows, classes) whose share of Developed is given by year and window."""
    found = np.zeros((len(shares), 1, len(shares[0]), 6))
    found[..., DEVELOPED] = np.array(shares)[:, None]
    found[..., 0] = 1 - found[..., DEVELOPED]
    return found


def test_windows_lie_on_the_picture():
    picture = np.arange(256 * 256 * 3, dtype=np.int64).reshape(1, 256, 256, 3)
    seen = places.windows(picture)
    assert seen.shape == (1, 9, 128, 128, 3)
    assert (seen[0, 0] == picture[0, :128, :128]).all() and (seen[0, 1] == picture[0, :128, 64:192]).all()
    assert (seen[0, 3] == picture[0, 64:192, :128]).all() and (seen[0, 8] == picture[0, 128:, 128:]).all()


class Corner:
    """An engine that sees how bright the upper left corner is."""

    asked = 0

    def score(self, tiles):
        assert tiles.dtype == np.uint8 and tiles.flags.c_contiguous
        self.asked += len(tiles)
        found = np.zeros((len(tiles), 6), np.float32)
        found[:, DEVELOPED] = tiles[:, 0, 0, 0] / 255
        return found


def test_eight_turns_are_averaged():
    """Each of the four corners comes to the upper left twice."""
    pictures = np.zeros((1, 256, 256, 3), np.uint8)
    pictures[0, :8, :8] = 255
    engine = Corner()
    found = places.probabilities(engine, pictures, (224, 224))
    assert found.shape == (1, 9, 6) and engine.asked == 9 * 8
    assert found[0, :, DEVELOPED] == pytest.approx([0.25] + [0] * 8)


def test_new_land_is_what_looks_developed_since_the_change():
    score = {name: places.newly_developed(by_year(*shares)).item() for name, shares in {
        "early": ([0.1, 0.1], [0.9, 0.9], [0.9, 0.9]), "late": ([0.1, 0.1], [0.1, 0.1], [0.9, 0.9]),
        "half": ([0.1, 0.9], [0.9, 0.9], [0.9, 0.9]), "site": ([0.9, 0.9], [0.999, 0.999], [0.999, 0.999]),
        "always": ([0.9, 0.9],) * 3, "never": ([0.1, 0.1],) * 3, "once": ([0.1, 0.1], [0.9, 0.9], [0.1, 0.1]),
        "hidden once": ([0.9, 0.9], [0.1, 0.1], [0.9, 0.9]), "gone": ([0.9, 0.9], [0.9, 0.9], [0.1, 0.1])}.items()}
    whole = 2 * np.log(9)
    assert score["early"] == score["late"] == pytest.approx(whole) and score["half"] == pytest.approx(whole / 2)
    assert score["site"] == pytest.approx(np.log(999 / 9))  # Nine in ten before, and yet more after.
    assert score["always"] == score["never"] == pytest.approx(0) and score["gone"] < 0
    # One year that differs from both others counts by half.
    assert max(score["once"], score["hidden once"]) <= whole / 2 + 1e-9


def test_the_rule_of_2017_asks_for_the_likeliest_class_alone():
    assert places.rule_2017(by_year([0.4, 0.4], [0.9, 0.9], [0.6, 0.6])).item()
    assert not places.rule_2017(by_year([0.6, 0.6], [0.9, 0.9], [0.9, 0.9])).item()
    assert not places.rule_2017(by_year([0.1, 0.1], [0.9, 0.9], [0.4, 0.4])).item()


def test_a_ranking_is_measured_by_the_ranks_of_the_true():
    scores, true = np.array([0.9, 0.1, 0.8, 0.3]), np.array([True, False, False, True])
    found = places.measured(scores, np.array([True, True, False, False]), true)
    assert found == {"ranks": [1, 3], "mean_rank": 2.0, "best_rank": 1.5, "average_precision": pytest.approx(5 / 6),
                     "rule_hits": 1, "rule_false": 1}

"""Sentences about a run's numbers: each is true, whichever way the numbers point."""

import numpy as np
import pandas as pd
import pytest

from helpers.land.classes import NO_CLASS
from helpers.maps import findings


@pytest.mark.parametrize("facts, words", [
    ({"name": "Dogwood", "county": "99007"}, "Dogwood County"), ({"county": "99007"}, "County 99007"),
    ({"name": "Orleans", "county": "22071"}, "Orleans"), ({"name": "Alexandria", "county": "51510"}, "Alexandria"),
    ({"name": "my_place", "county": "my_place"}, "my_place")])
def test_a_county_has_its_name_where_it_is_known(facts, words):
    assert findings.county_as_text(facts) == words


def test_smoothing_raises_lowers_or_leaves_the_agreement():
    text = findings.smoothing_as_text({2010: 0.95, 2014: 0.9, 2016: 0.9}, {2010: 0.97, 2014: 0.9001, 2016: 0.85})
    assert text == ("In 2010, smoothing raises the agreement with the labels from 95.0% to 97.0%. In 2014, smoothing leaves "
                    "the agreement with the labels at 90.0%. In 2016, smoothing lowers the agreement with the labels from "
                    "90.0% to 85.0%.")


@pytest.mark.parametrize("temperature, before, after, words", [
    (1.5, 0.05, 0.02, ("less sure", "falls from 5.0% to 2.0%", "more reliable")),
    (0.8, 0.02, 0.05, ("more sure", "rises from 2.0% to 5.0%", "needed no correction")),
    (1.0, 0.02, 0.02, ("nearly as they are", "stays at 2.0%"))])
def test_a_temperature_is_judged_by_the_error_that_it_leaves(temperature, before, after, words):
    text = findings.temperature_as_text(temperature, before, after)
    assert all(word in text for word in words), text


@pytest.mark.parametrize("true, words", [(50, "difference of this size can be chance"), (80, "too low"), (20, "too high")])
def test_scores_in_the_middle_are_compared_with_what_came_true(true, words):
    scores = np.r_[np.full(100, 0.5), np.zeros(900)]
    outcomes = np.r_[np.arange(100) < true, np.zeros(900)]
    text = findings.reliability_as_text("Score", scores, outcomes)
    assert words in text and "100 of 1,000 tiles" in text and f"share of these tiles that is correct is {true}%" in text
    assert "too few" in findings.reliability_as_text("Score", scores[95:], outcomes[95:])


def test_the_commonest_error_is_named():
    labels, predicted = pd.Series([2] * 8 + [1] * 2), pd.Series([2] * 4 + [0] * 3 + [1] + [1, 2])
    assert findings.errors_as_text(labels, predicted) == (
        "5 of 10 tiles get another group than that of their label. The most frequent error, with 3 tiles: the label is "
        "Undeveloped, and the model says Developed.")
    assert findings.errors_as_text(labels, labels) == "All 10 tiles have the group of their label."
    # A tile that could not be scored has no group, which is no error of the model.
    assert findings.errors_as_text(labels, labels.where(labels > 1, NO_CLASS)) == (
        "All 8 tiles have the group of their label.")


def test_neighbours_and_pictures_count_for_or_against():
    first, second = findings.signs_as_text(0.2, -0.2).split("Pictures")
    assert "**for**" in first and "**against**" not in first and "**against**" in second and "**for**" not in second
    first, second = findings.signs_as_text(-0.2, 0.2).split("Pictures")
    assert "**against**" in first and "**for**" in second


def test_the_score_stands_beside_the_rule_whichever_is_better():
    figures = {"recall": 0.9, "precision": 0.8, "baseline_recall": 0.3, "baseline_precision": np.nan,
               "area_error": -0.1, "baseline_area_error": 0.05}
    by_size = pd.DataFrame({"tiles": [20, 0, 5], "recall": [0.95, np.nan, 0.6], "baseline_recall": [0.1, np.nan, 0.7]},
                           index=["single", "small", "large"])
    text = findings.performance_as_text(figures, by_size)
    assert "The rule finds 30%" in text and "none of its candidates" in text and "*large*: it finds 60%" in text
    assert "-10.0% by the score and of +5.0% by the rule, so the rule's total is nearer" in text
    assert "the score's total is nearer" in findings.performance_as_text(dict(figures, area_error=0.01), by_size)

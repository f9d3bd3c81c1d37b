"""A check tells an empty cell, a wrong answer and a right one apart."""

import pytest

from helpers.exercises import check

CLAIMS = {"two numbers": lambda found: len(found) == 2, "a sum of 3": lambda found: sum(found) == 3}


@pytest.mark.parametrize("answer, words", [
    (None, "Nothing to check yet"), ([1, 2], "Right: two numbers; a sum of 3."),
    ([1, 1], "Not yet. Expected a sum of 3, got something else."), ([3], "Not yet. Expected two numbers"),
    (5, "Not yet. Expected two numbers, got TypeError")])
def test_an_answer_is_told_from_others(answer, words, capsys):
    check(answer, CLAIMS)
    assert capsys.readouterr().out.startswith(words)

"""What the property tests share: how many examples they try, and what an attempt may end in.

    FUZZ_EXAMPLES=5000 setup_scripts/run_tests.sh tests/land/test_fuzz.py tests/scoring/test_any_facts.py

A run of more than 500 examples a test keeps its counts in ``fuzz.json``.
"""

import functools
import os
import time
from collections import Counter
from pathlib import Path

import hypothesis

from helpers import InputError
from helpers.files import read_json, write_json

RESULTS = Path(__file__).with_name("fuzz.json")
# ``FUZZ_EXAMPLES`` sets how many examples each test tries.
EXAMPLES = int(os.environ.get("FUZZ_EXAMPLES", 500))
_SETTINGS = hypothesis.settings(max_examples=EXAMPLES, deadline=None, database=None, derandomize=EXAMPLES <= 500,
                                suppress_health_check=list(hypothesis.HealthCheck))
# Examples of the running test, and refusals in one sentence.
_counts = Counter()


def many(test):
    """Run a property test on ``EXAMPLES`` examples. A long run that finds no fault notes how many it has tried."""
    inner = test.hypothesis.inner_test

    @functools.wraps(inner)
    def counted(*args, **kwargs):
        _counts["examples"] += 1
        return inner(*args, **kwargs)
    test.hypothesis.inner_test = counted

    @functools.wraps(test)
    def whole(*args, **kwargs):
        _counts.clear()
        started = time.monotonic()
        _SETTINGS(test)(*args, **kwargs)
        if EXAMPLES > 500:
            found = dict(_counts, seconds=round(time.monotonic() - started))
            write_json(RESULTS, dict(read_json(RESULTS) or {}, **{test.__name__: found}))
    return whole


def attempt(act, ends: str = "."):
    """What ``act`` returns; None where it refuses in one sentence, with such an end. Any other error fails the test."""
    try:
        return act()
    except InputError as error:
        _counts["refusals"] += 1
        text = str(error)
        assert text.startswith("expected ") and " got" in text and text[-1] in ends, text
        assert "\n" not in text and "Traceback" not in text, text
        return None

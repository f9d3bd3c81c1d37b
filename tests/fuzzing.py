"""What the property tests share: how many examples they try, and what an attempt may end in."""

import os

import hypothesis

from helpers import InputError

# ``FUZZ_EXAMPLES`` sets how many examples each test tries.
EXAMPLES = int(os.environ.get("FUZZ_EXAMPLES", 500))
many = hypothesis.settings(max_examples=EXAMPLES, deadline=None, database=None, derandomize=EXAMPLES <= 500,
                           suppress_health_check=list(hypothesis.HealthCheck))


def attempt(act, ends: str = "."):
    """What ``act`` returns; None where it refuses in one sentence, with such an end. Any other error fails the test."""
    try:
        return act()
    except InputError as error:
        text = str(error)
        assert text.startswith("expected ") and " got" in text and text[-1] in ends, text
        assert "\n" not in text and "Traceback" not in text, text
        return None

"""URIs as text."""

import pytest

from helpers import InputError
from helpers.uri import absolute


def test_an_account_that_is_unknown_here():
    with pytest.raises(InputError, match="expected a path that begins with the name of an account here, got ~nobody-"):
        absolute("~nobody-of-this-name/x")

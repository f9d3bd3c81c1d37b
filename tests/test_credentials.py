"""Credentials for storage: read from the environment or a file, and the same on the workers."""

import pytest

from helpers import InputError, files as storage
from helpers.credentials import TOKEN_FILE, VARIABLES, credentials, use

pytestmark = pytest.mark.usefixtures("nobody")


def test_the_token_of_a_file(monkeypatch, tmp_path):
    """Read anew each time; for the workers it travels like any other; what is set in the environment goes before it."""
    file = tmp_path / "token"
    monkeypatch.setenv(TOKEN_FILE, str(file))
    with pytest.raises(InputError, match="expected a token for the storage in .*/token, got none .*storage_token.sh"):
        storage.filesystem("abfss://tiles@account.dfs.core.windows.net/a")
    assert credentials() == {}
    file.touch(0o640)
    file.chmod(0o640)
    file.write_text("?sv=1&sig=hidden\n")
    with pytest.raises(InputError, match=r"readable by its owner alone \(mode 600\), got 640") as told:
        storage.filesystem("abfss://tiles@account.dfs.core.windows.net/a")
    assert "hidden" not in str(told.value) and credentials() == {}
    file.chmod(0o600)
    system, _ = storage.filesystem("abfss://tiles@account.dfs.core.windows.net/a")
    assert "sig=hidden" in system.service_client.url
    assert credentials() == {"AZURE_STORAGE_SAS_TOKEN": "sv=1&sig=hidden"}
    file.write_text("sv=1&sig=newer")
    assert "sig=newer" in storage.filesystem("abfss://tiles@account.dfs.core.windows.net/a")[0].service_client.url
    monkeypatch.setenv("AZURE_STORAGE_SAS_TOKEN", "sv=1&sig=own")
    assert credentials() == {"AZURE_STORAGE_SAS_TOKEN": "sv=1&sig=own"}


@pytest.mark.parametrize("name", VARIABLES)
def test_workers_get_what_the_driver_has(monkeypatch, name):
    monkeypatch.setenv(name, "of-the-driver")
    known = credentials()
    monkeypatch.setenv(name, "of-the-worker")
    use(known)
    assert credentials() == known == {name: "of-the-driver"}


def test_a_session_token_of_other_keys_is_not_kept(monkeypatch):
    monkeypatch.setenv("AWS_SESSION_TOKEN", "of-the-worker")
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "of-the-worker")
    use({"AWS_ACCESS_KEY_ID": "of-the-driver"})
    assert credentials() == {"AWS_ACCESS_KEY_ID": "of-the-driver"}

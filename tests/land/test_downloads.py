"""Downloads from a real server that is busy, slow, moved, cut off or gone."""

import json

import pytest

import servers
from helpers import InputError
from helpers.land import downloads


@pytest.fixture
def server(tmp_path):
    (tmp_path / "served").mkdir()
    (tmp_path / "served" / "file.bin").write_bytes(bytes(range(256)) * 100)
    with servers.Files(tmp_path / "served") as server:
        yield server


@pytest.mark.parametrize("faults", [
    [servers.busy(503), servers.busy(429)], [servers.busy(502), servers.cut_off], [servers.cut_off, servers.cut_off]])
def test_a_server_in_trouble_is_asked_again(server, faults):
    server.faults[:] = faults
    assert len(downloads.get(server.url + "/file.bin", "a file")) == 25600
    assert len(server.asked) == len(faults) + 1


def test_a_redirect_is_followed(server):
    server.faults.append(servers.moved_to("/file.bin"))
    assert len(downloads.get(server.url + "/elsewhere", "a file")) == 25600


@pytest.mark.parametrize("faults, came, advice", [
    ([servers.busy(503, "0")] * 20, "status 503", "Try again later"),
    ([servers.cut_off] * 20, "an answer that ends too early", "Try again later"),
    ([lambda request: servers.reply(request, 206, b"a part")], "status 206", "Try again later"),
    ([], "status 404", "Check the address")])
def test_what_does_not_mend_ends_in_one_sentence_without_the_query(server, faults, came, advice):
    server.faults[:] = faults
    with pytest.raises(InputError, match=f"expected a file from 127.0.0.1:.*, got {came}.*{advice}") as error:
        downloads.get(server.url + "/nothing?sig=secret", "a file")
    assert "secret" not in str(error.value) and "\n" not in str(error.value)
    assert len(server.asked) <= downloads.TRIES + 1


def test_a_slow_server_is_given_up(server, monkeypatch):
    monkeypatch.setattr(downloads, "BLOCK_S", 0.3)
    monkeypatch.setattr(downloads, "TRIES", 1)
    server.faults[:] = [servers.silent(1)] * 8
    with pytest.raises(InputError, match="got no (whole )?answer"):
        downloads.get(server.url + "/file.bin", "a file")


def test_without_a_network_the_sample_is_named():
    with pytest.raises(InputError, match="got no answer .ConnectionError.*catalog='sample'"):
        downloads.get(f"http://127.0.0.1:{servers.free_port()}/", "a file")


def test_a_file_is_kept_checked_and_never_half_used(server, tmp_path):
    url = server.url + "/file.bin"
    path = downloads.fetch(url, "a file", ".bin", {"token": "secret"})
    assert path.read_bytes() == bytes(range(256)) * 100
    assert downloads.fetch(url, "a file", ".bin", {"token": "secret"}) == path and len(server.asked) == 1
    kept = sorted((tmp_path / "home" / "data" / "downloads").iterdir())
    assert len(kept) == 2 and not any("secret" in p.read_text(errors="replace") for p in kept if p.suffix == ".json")
    facts = json.loads(next(p for p in kept if p.suffix == ".json").read_text())
    assert facts["from"] == url and facts["bytes"] == 25600
    # Damaged behind our back: downloaded again.
    path.write_bytes(b"half")
    assert (downloads.fetch(url, "a file", ".bin", {"token": "secret"}).stat().st_size == 25600
            and len(server.asked) == 2)


def test_what_is_not_what_was_wanted_is_not_kept(server, tmp_path):
    def check(content):
        raise InputError("no")
    with pytest.raises(InputError, match="^no$"):
        downloads.fetch(server.url + "/file.bin", "a file", ".bin", check=check)
    assert not (tmp_path / "home").exists()


@pytest.mark.parametrize("fault", [servers.busy(503), servers.busy(429), servers.moved_to("/again?x=1")])
def test_a_token_is_asked_for_again(tmp_path, monkeypatch, fault):
    with servers.Files(tmp_path) as tokens:
        answer = lambda request: servers.reply(request, 200, json.dumps(
            {"token": "sig=t", "msft:expiry": "2099-01-01T00:00:00Z"}).encode())
        monkeypatch.setenv("TUTORIAL_SIGNING", tokens.url + "/token")
        tokens.faults[:] = [fault, answer]
        assert downloads.signed("http://host/one.tif") == "http://host/one.tif?sig=t" and len(tokens.asked) == 2
        downloads._tokens.clear()
        monkeypatch.setattr(downloads, "BLOCK_S", 0.2)
        monkeypatch.setattr(downloads, "TRIES", 1)
        tokens.faults[:] = [servers.silent(0.6)] * 9
        with pytest.raises(InputError, match="expected a token to read scenes with from .*, got no"):
            downloads.signed("http://host/one.tif")

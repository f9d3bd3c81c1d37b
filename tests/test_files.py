"""URIs to file systems, without a network."""

import errno
import os
import sys
import traceback
from pathlib import Path

import pytest

from helpers import InputError, files as storage
from helpers.model import bundle
from helpers.tiles import store
from helpers.uri import shown
from servers import winners

pytestmark = pytest.mark.usefixtures("nobody")

NAMES = ["model.onnx", "model.json"]


@pytest.mark.parametrize("uri", ["{}", "file:{}", "file://{}"])
def test_a_plain_path_and_a_file_uri_are_this_disk(tmp_path, uri):
    storage.write_whole(uri.format(tmp_path / "a" / "note"), b"content")
    assert (tmp_path / "a" / "note").read_bytes() == b"content"
    system, path = storage.filesystem(uri.format(tmp_path / "a" / "note"))
    assert system.cat_file(path) == b"content"


@pytest.mark.parametrize("name, words", [
    ("/proc/nowhere/x", "No such file or directory"), ("file/x", "(File exists|Not a directory)"),
    ("file/below/x", "Not a directory"),
    (f"{'long' * 99}/x", "File name too long"), ("long" * 99, "File name too long")])
@pytest.mark.parametrize("make", [storage.whole_file, lambda path: storage.whole_folder(path, NAMES)])
def test_where_nothing_can_be_made_there_is_one_sentence(tmp_path, make, name, words):
    (tmp_path / "file").touch()
    with pytest.raises(InputError, match=f"^expected a place to write .*, got: {words}. Choose another, "):
        with make(tmp_path / name):
            pytest.fail("nothing is to be written")
    assert [path.name for path in tmp_path.rglob("*")] == ["file"]


def test_a_folder_is_written_again_and_other_files_in_it_stay(tmp_path):
    for content in ("first", "second"):
        with storage.whole_folder(tmp_path / "model", NAMES) as part:
            (part / "model.json").write_text(content)
            if content == "first":
                (part / "model.onnx").write_text(content)
        (tmp_path / "model" / "figures").mkdir(exist_ok=True)
        (tmp_path / "model" / "notes.txt").write_text("mine")
    assert (tmp_path / "model" / "model.json").read_text() == "second"
    assert sorted(path.name for path in (tmp_path / "model").iterdir()) == ["figures", "model.json", "notes.txt"]
    assert (tmp_path / "model" / "notes.txt").read_text() == "mine"
    with pytest.raises(RuntimeError), storage.whole_folder(tmp_path / "model", NAMES) as part:
        (part / "model.json").write_text("third")
        raise RuntimeError
    assert (tmp_path / "model" / "model.json").read_text() == "second"
    assert [path.name for path in tmp_path.iterdir()] == ["model"]


def test_a_folder_of_other_files_is_not_replaced(tmp_path):
    (tmp_path / "thesis").mkdir()
    (tmp_path / "thesis" / "chapter.txt").write_text("mine")
    with pytest.raises(InputError, match="expected an earlier folder of the same files at .*, got one with chapter.txt"):
        with storage.whole_folder(tmp_path / "thesis", NAMES) as part:
            (part / "model.json").write_text("third")
    assert [path.name for path in (tmp_path / "thesis").iterdir()] == ["chapter.txt"]
    assert [path.name for path in tmp_path.iterdir()] == ["thesis"]


def test_a_folder_that_can_only_be_read(tmp_path, monkeypatch):
    def refuse(*_, **__):
        raise OSError(errno.EROFS, os.strerror(errno.EROFS))
    monkeypatch.setattr(Path, "touch", refuse)
    with pytest.raises(InputError, match="got: Read-only file system. Choose another"):
        storage.write_whole(str(tmp_path / "x"), b"content")


def test_a_file_that_another_job_has_removed_and_one_that_nobody_may(tmp_path, monkeypatch):
    path = tmp_path / "x"
    path.touch()
    disk, _ = storage.filesystem(path)
    storage.remove(path)
    storage.remove(path)
    path.touch()
    monkeypatch.setattr(type(disk), "rm_file", lambda *_: os.remove(tmp_path / "gone already"))
    storage.remove(path)

    def refuse(*_):
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))
    monkeypatch.setattr(type(disk), "rm_file", refuse)
    with pytest.raises(InputError, match="expected a place to write .*/x, got: Permission denied"):
        storage.remove(path)


def test_the_room_of_a_folder_that_is_not_there_yet(tmp_path):
    assert storage.free_bytes(tmp_path / "a" / "b") == pytest.approx(storage.free_bytes(tmp_path), rel=0.1)
    assert storage.free_bytes("/proc/nowhere/x") == 0


@pytest.mark.parametrize("uri, sentence", [
    ("adl://store.azuredatalakestore.net/x?sig=hidden", "(ADLS) Gen1 has been retired"),
    ("abfs:///path", "expected abfss://container@account.dfs.core.windows.net/path, got abfs:///path"),
    ("abfs://container/path",
     "expected the storage account of abfs://container/path, got none. Write abfss://container@"),
    ("abfss://c@a.dfs.core.windows.net/x?sig=hidden", "a token belongs in AZURE_STORAGE_SAS_TOKEN"),
    ("s3:///path", "expected s3://bucket/path, got s3:///path. Name a bucket"),
    ("s3://key:hidden@bucket/path", "expected s3://bucket/path, got keys before it. Set AWS_ACCESS_KEY_ID"),
    ("s3://key:hid/hidden@bucket/path", "expected s3://bucket/path, got keys before it"),
    ("nonsense://x", "expected a path, or a file:, abfss:, s3: or hdfs: URI, got nonsense://x"),
])
def test_what_cannot_be_used_is_one_sentence(uri, sentence):
    with pytest.raises(InputError) as told:
        storage.filesystem(uri)
    assert sentence in str(told.value) and "hidden" not in str(told.value) and "\n" not in str(told.value)


def test_a_connection_string_that_is_none_is_not_shown(monkeypatch):
    monkeypatch.setenv("AZURE_STORAGE_CONNECTION_STRING", "AccountKey=hidden")
    with pytest.raises(InputError, match="expected a connection string or token that Azure's library can read") as told:
        storage.filesystem("abfs://container/path")
    assert "hidden" not in str(told.value)


def test_the_account_of_the_uri_and_the_token_of_the_environment(monkeypatch):
    monkeypatch.setenv("AZURE_STORAGE_SAS_TOKEN", "sv=1&sig=hidden")
    system, path = storage.filesystem("abfss://tiles@account.dfs.core.windows.net/a/b/")
    assert path == "tiles/a/b" and system.service_client.primary_hostname == "account.blob.core.windows.net"
    assert "sig=hidden" in system.service_client.url and "hidden" not in shown(system.service_client.url)


def test_without_adlfs_there_is_one_sentence(monkeypatch):
    monkeypatch.delitem(sys.modules, "helpers.azure_filesystem", raising=False)
    monkeypatch.setitem(sys.modules, "adlfs", None)
    monkeypatch.setenv("AZURE_STORAGE_SAS_TOKEN", "sv=1&sig=hidden")
    with pytest.raises(InputError, match="expected the package adlfs, which reads abfs://tiles@account/a, got "
                                         "none") as told:
        storage.filesystem("abfs://tiles@account/a")
    assert "\n" not in str(told.value)


@pytest.mark.parametrize("scheme", ["s3", "s3a"])
def test_without_s3fs_there_is_one_sentence(monkeypatch, scheme):
    monkeypatch.delitem(sys.modules, "helpers.s3_filesystem", raising=False)
    monkeypatch.setitem(sys.modules, "s3fs", None)
    with pytest.raises(InputError, match=f"expected the package s3fs, which reads {scheme}://bucket/a, got none .*"
                                         "pip install s3fs") as told:
        storage.filesystem(f"{scheme}://bucket/a")
    assert "\n" not in str(told.value)


def test_without_hdfs_native_there_is_one_sentence(monkeypatch):
    monkeypatch.delitem(sys.modules, "helpers.hdfs_filesystem", raising=False)
    monkeypatch.setitem(sys.modules, "hdfs_native.fsspec", None)  # Another test may have imported it.
    with pytest.raises(InputError, match="expected the package hdfs-native, which reads hdfs://name-node:8020/a, got"):
        storage.filesystem("hdfs://name-node:8020/a")


def test_without_any_of_them_the_identity_of_the_machine(monkeypatch):
    from azure.identity.aio import DefaultAzureCredential
    system, _ = storage.filesystem("abfss://tiles@account.dfs.core.windows.net/a")
    assert isinstance(system.credential, DefaultAzureCredential)
    assert system.service_client.credential is system.credential


@pytest.mark.parametrize("scheme", ["http", "https"])
def test_a_web_address_is_refused_without_its_signature(scheme):
    secret = "SECRET" + "SIG"  # A traceback shows this line, too.
    for act in (bundle.load, store.partitions):
        with pytest.raises(InputError, match=f"got {scheme}://127.0.0.1:1/x, whose server") as error:
            act(f"{scheme}://127.0.0.1:1/x?sv=1&sig={secret}")
        assert secret not in "".join(traceback.format_exception(error.value))


def test_a_write_that_fails_leaves_the_old_file_and_nothing_beside_it(monkeypatch):
    """On a file system that renames, but is neither a disk nor HDFS."""
    uri = "memory://kept/note"
    storage.write_whole(uri, b"old")
    system, path = storage.filesystem(uri)

    def half(self, path, content, **named):
        with self.open(path, "wb") as file:
            file.write(content[:1])
        raise OSError("the connection was cut")

    monkeypatch.setattr(type(system), "pipe_file", half)
    with pytest.raises(OSError, match="cut"):
        storage.write_whole(uri, b"new")
    assert system.cat_file(path) == b"old" and system.find("/kept") == [path]
    monkeypatch.undo()
    storage.write_whole(uri, b"new")
    assert system.cat_file(path) == b"new" and system.find("/kept") == [path]


def test_of_many_that_create_a_file_one_succeeds(tmp_path):
    path = tmp_path / "folder" / "table.json"
    (winner,) = winners(lambda number: storage.create(path, str(number).encode()))
    assert path.read_bytes() == str(winner).encode() and os.listdir(path.parent) == ["table.json"]


def test_a_file_is_created_once_on_a_drive_without_links(tmp_path, monkeypatch):
    def refuse(*_):
        raise OSError(errno.EPERM, "Operation not permitted")

    monkeypatch.setattr(os, "link", refuse)
    storage.create(tmp_path / "table.json", b"mine")
    with pytest.raises(FileExistsError):
        storage.create(tmp_path / "table.json", b"another's")
    assert (tmp_path / "table.json").read_bytes() == b"mine" and os.listdir(tmp_path) == ["table.json"]

"""URIs to file systems, without a network."""

import errno
import os
import subprocess
import sys
import traceback
from pathlib import Path

import pytest

from helpers import InputError, files as storage
from helpers.credentials import TOKEN_FILE, VARIABLES, credentials, use
from helpers.model import bundle
from helpers.tiles import store
from helpers.uri import absolute, shown

NAMES = ["model.onnx", "model.json"]


@pytest.fixture(autouse=True)
def nobody(monkeypatch):
    for name in VARIABLES + (TOKEN_FILE,):
        monkeypatch.delenv(name, raising=False)


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
    monkeypatch.setitem(sys.modules, "hdfs_native", None)
    with pytest.raises(InputError, match="expected the package hdfs-native, which reads hdfs://name-node:8020/a, got"):
        storage.filesystem("hdfs://name-node:8020/a")


def test_without_any_of_them_the_identity_of_the_machine(monkeypatch):
    from azure.identity.aio import DefaultAzureCredential
    system, _ = storage.filesystem("abfss://tiles@account.dfs.core.windows.net/a")
    assert isinstance(system.credential, DefaultAzureCredential)
    assert system.service_client.credential is system.credential


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


@pytest.mark.parametrize("uri, path", [
    ("hdfs://NameService1/runs/trip #2?/_manifest.json", "/runs/trip #2?/_manifest.json"), ("hdfs://nn:8020", "/"),
    ("hdfs://nn//user/ada/x.json", "/user/ada/x.json"), ("/user/ada/trip #2", "/user/ada/trip #2")])
def test_a_path_in_hdfs_is_the_one_of_the_uri(uri, path):
    from helpers.hdfs_filesystem import Hdfs
    assert Hdfs._strip_protocol(uri) == path == Hdfs._strip_protocol(path)


def test_an_account_a_fork_and_a_port_that_is_no_number(monkeypatch):
    from helpers.hdfs_filesystem import open_uri
    open_uri("hdfs://nn:8020/a")
    assert subprocess.run(["true"], preexec_fn=lambda: None).returncode == 0  # as Spark starts Java
    first = open_uri("hdfs://nn:8020/a")[0]
    assert open_uri("hdfs://nn:8020/b")[0] is first
    monkeypatch.setenv("HADOOP_USER_NAME", "ada")
    assert open_uri("hdfs://nn:8020/a")[0] is not first
    with pytest.raises(InputError, match="expected hdfs://name-node:port/path, got hdfs://nn:port/a"):
        open_uri("hdfs://nn:port/a")


def test_an_account_that_is_unknown_here():
    with pytest.raises(InputError, match="expected a path that begins with the name of an account here, got ~nobody-"):
        storage.filesystem(absolute("~nobody-of-this-name/x"))

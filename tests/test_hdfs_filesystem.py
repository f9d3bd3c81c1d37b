"""Hadoop's file system, without a name node: paths of URIs, and one client for each account and process."""

import subprocess

import pytest

from helpers import InputError

pytestmark = pytest.mark.usefixtures("nobody")


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

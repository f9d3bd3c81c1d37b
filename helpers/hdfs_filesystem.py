"""hdfs-native's file system with one sentence for an error; imported with the first ``hdfs:`` URI."""

import functools
import os
from urllib.parse import urlsplit

from hdfs_native.fsspec import HdfsFileSystem

from helpers import InputError
from helpers.uri import shown

# After these tries, in half a minute, a name node counts as gone. The package's default takes six minutes.
_PATIENCE = {"dfs.client.failover.max.attempts": "5"}


class Hdfs(HdfsFileSystem):
    """This class reports a name node that does not answer. fsspec would show an empty folder."""

    # fsspec drops its clients in a forked process, for example when PySpark starts Java. Dropping a client would wait
    # for ever for threads that the forked process lacks.
    cachable = False

    @classmethod
    def _strip_protocol(cls, path: str) -> str:
        """The path of a URI, or a path as it is: its names may have a hash sign or a question mark."""
        return "/" + path.partition("://")[2].partition("/")[2].lstrip("/") if "://" in path else path or "/"


def _told(method):
    @functools.wraps(method)
    def call(self, *arguments, **named):
        try:
            return method(self, *arguments, **named)
        except (OSError, RuntimeError) as error:
            if type(error) not in (OSError, RuntimeError):  # Such as a FileNotFoundError.
                raise
            # Keep the sentence of Java's error, without the class before it and the stack after it.
            reason = str(error).split("\\n")[0].rpartition('", "')[2].rstrip('")').replace('\\"', '"')
            raise InputError(
                f"expected an answer from the name node of hdfs://{self.host or ''}, got: {reason}. Start it, correct "
                "the URI (hdfs://name-node:port/path), or let your account (HADOOP_USER_NAME) read and write there."
            ) from None
    return call


for _name in ("info", "ls", "mkdir", "mv", "rm", "_open"):
    setattr(Hdfs, _name, _told(getattr(HdfsFileSystem, _name)))


@functools.lru_cache(maxsize=None)
def _client(server, account, process):
    """One client for each account and process: a forked process can't use its parent's."""
    return Hdfs(server or None, **_PATIENCE)


def open_uri(uri: str):
    """The file system of a URI, and the path in it."""
    try:
        address, account = urlsplit(uri), os.environ.get("HADOOP_USER_NAME", "")
        address.port  # It must be a number. The name stays as it is written, because HDFS's own names have capitals.
        return _client(address.netloc, account, os.getpid()), Hdfs._strip_protocol(uri)
    except (RuntimeError, ValueError) as error:  # Without a host in the URI, Hadoop's settings must name one.
        raise InputError(f"expected hdfs://name-node:port/path, got {shown(uri)} ({error}). Name the name node.")

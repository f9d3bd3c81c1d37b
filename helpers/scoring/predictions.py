"""The prediction table on disk: what belongs to it, and which job may write to it.

A table is a folder of Parquet files on any URI of ``storage``. It grows by chunks. A chunk's files are whole before
they get their place in the folder, and belong to the table from the moment when ``_scoring/table.json`` names them, a
file that is always replaced as a whole. What the folder holds beyond that is left by a job that died, and removed
by the next. ``_SUCCESS`` stands there while every tile asked for has its row.

One job writes at a time: it holds ``_scoring/claim.json`` and renews it. A claim that nobody has renewed for
``CLAIM_S``, or whose process is gone from this machine, has expired. A local disk, and Azure, let one of two jobs make
that file and not the other. Elsewhere, and on a local disk for a claim that has expired, both may write theirs at the
same moment: the one that wrote first finds the other's name when it looks again, ``SETTLE_S`` later and before each
chunk that it adds, and stops. Whoever stands still between that look and the step after it for longer than ``CLAIM_S``
could still add a chunk beside another job. Not so on Azure: there the claim and ``table.json`` are only replaced while
they are as this job left them (their ETag). Clocks of different machines may differ by less than ``CLAIM_S``.
"""

import contextlib
import json
import logging
import os
import socket
import threading
import time
import uuid
from pathlib import Path

import psutil
import pyarrow as pa
import pyarrow.dataset as ds

from helpers import InputError, files as storage
from helpers.files import whole_file
from helpers.uri import is_azure, join, shown

# A driver that stands still for as long as this, and only then, may find its table taken by another.
CLAIM_S = 60
# What two jobs that start at the same moment need to see each other's claim.
SETTLE_S = 0.5
# The holder of a claim that was gone when looked for.
UNKNOWN = {"host": "unknown", "process": "unknown"}
log = logging.getLogger(__name__)


class Table:
    """A prediction table.

    Parameters
    ----------
    uri : str
    """

    def __init__(self, uri):
        self.uri = str(uri).rstrip("/")
        self.filesystem, path = storage.filesystem(self.uri)
        self._path = path.rstrip("/")
        if self.filesystem.isfile(self._path):
            raise InputError("expected the folder of a prediction table at {}, got a file. Choose another name.".format(
                shown(self.uri)))
        self._local = "file" in self.filesystem.protocol
        # On Azure: what a file was when this job last saw it. Nobody else's is replaced.
        self._etags = {} if is_azure(self.uri) else None

    def path(self, *names):
        """A path in the table's folder, as its file system takes it."""
        return "/".join((self._path,) + names)

    def read_json(self, name):
        """The content of ``_scoring/<name>``; None where there is none, or not yet a whole one."""
        path = self.path("_scoring", name)
        try:
            if self._etags is None:
                return json.loads(self.filesystem.cat_file(path).decode())
            content, self._etags[name] = self.filesystem.read_with_etag(path)
            return json.loads(content.decode())
        except (FileNotFoundError, NotADirectoryError):
            if self._etags is not None:
                self._etags[name] = None
            return None
        except ValueError as error:
            if isinstance(error, InputError):
                raise
            return None

    def write_json(self, name, value):
        """Replace ``_scoring/<name>``: a reader sees the old one or the new one.

        Raises
        ------
        InputError
            On Azure, if another job has written it since this one read or wrote it.
        """
        content = json.dumps(value, indent=1).encode()
        path = self.path("_scoring", name)
        if self._etags is not None and name in self._etags:
            try:
                self._etags[name] = self.filesystem.replace(path, content, self._etags[name])
            except FileExistsError:
                raise InputError("expected to be the only job that writes the prediction table {}, got another that "
                                 "has written its {}. Wait for it, or choose another folder.".format(
                                     shown(self.uri), name))
        elif self._local:
            with whole_file(path) as part:
                part.write_bytes(content)
        else:
            self.filesystem.pipe_file(path, content)

    def create_json(self, name, value):
        """Write ``_scoring/<name>`` where there is none, in one step.

        Returns
        -------
        bool
            False where the file system has no such step; nothing is written then. A local disk has one, and Azure.

        Raises
        ------
        FileExistsError
        """
        if self._etags is not None:
            content = json.dumps(value, indent=1).encode()
            self._etags[name] = self.filesystem.replace(self.path("_scoring", name), content, None)
            return True
        if not self._local:
            return False
        path = Path(self.path("_scoring", name))
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
        except (FileExistsError, NotADirectoryError, PermissionError) as error:
            raise InputError("expected a folder to write a prediction table to at {}, got: {}. Choose another.".format(
                shown(self.uri), error.strerror)) from error
        part = path.with_name(".{}.part".format(uuid.uuid4().hex))
        part.write_text(json.dumps(value, indent=1))
        try:
            # Of all that give a whole file its name, only this fails where the name is taken.
            os.link(str(part), str(path))
        except FileExistsError:
            raise
        except OSError:
            return False
        else:
            return True
        finally:
            part.unlink()

    def state(self):
        """What the table consists of: ``model``, ``engine``, ``classes``, ``chunks``; None where there is none."""
        return self.read_json("table.json")

    def is_finished(self):
        return self.filesystem.exists(self.path("_SUCCESS"))

    def files(self):
        """Names of the Parquet files in the folder, whether they belong to the table or not."""
        self.filesystem.invalidate_cache()
        try:
            names = [path.rsplit("/", 1)[-1] for path in self.filesystem.ls(self._path, detail=False)]
        except FileNotFoundError:
            return []
        return sorted(name for name in names if name.endswith(".parquet") and name[0] not in "._")

    def rows(self, files, columns=None):
        """Read files of the table on the driver.

        Returns
        -------
        pandas.DataFrame

        Raises
        ------
        InputError
            If one of them is gone or damaged.
        """
        paths = [self.path(name) for name in files]
        try:
            return ds.dataset(paths, format="parquet", filesystem=self.filesystem).to_table(columns=columns).to_pandas()
        except (OSError, pa.ArrowException):
            self.check(files)
            raise

    def check(self, files):
        """Read some of its files to their end.

        Raises
        ------
        InputError
            If one of them is gone or damaged.
        """
        found = storage.damaged([join(self.uri, name) for name in files])
        if found:
            raise InputError("expected every file of the prediction table {} as it was written, got {} gone or "
                             "damaged. Put it back from a copy, or delete the table and score its tiles again.".format(
                                 shown(self.uri), ", ".join(uri.rsplit("/", 1)[1] for uri in found)))

    def unfinish(self):
        """Take ``_SUCCESS`` away, before the table changes."""
        if self.is_finished():
            self.filesystem.rm(self.path("_SUCCESS"))

    def finish(self):
        """Declare the table finished."""
        self.filesystem.pipe_file(self.path("_SUCCESS"), b"")

    def remove_leftovers(self):
        """Remove what jobs that died have left: unfinished chunks, and files that never joined the table."""
        state = self.state()
        named = {name for chunk in state["chunks"] for name in chunk["files"]} if state else set()
        for name in set(self.files()) - named:
            self.filesystem.rm(self.path(name))
        if self.filesystem.exists(self.path("_scoring")):
            self.filesystem.invalidate_cache()
            for path in self.filesystem.ls(self.path("_scoring"), detail=False):
                if path.rstrip("/").rsplit("/", 1)[-1].startswith("chunk-"):
                    self.filesystem.rm(path, recursive=True)

    def remove(self):
        """Remove all of the table but its claim."""
        self.unfinish()
        with contextlib.suppress(FileNotFoundError):
            self.filesystem.rm(self.path("_scoring", "table.json"))
        if self._etags is not None:
            self._etags["table.json"] = None
        self.remove_leftovers()

    def write(self, frame, name):
        """Let Spark write a chunk: to ``_scoring/<name>``, or on Azure, where a file is there at once, in its place.

        Returns
        -------
        list of str
            Paths of its files.
        """
        if self._etags is not None:
            return [self.path(file) for file in storage.write_parquet(frame, self.uri, name)]
        frame.write.parquet("{}/_scoring/{}".format(self.uri, name))
        return self.filesystem.glob(self.path("_scoring", name, "*.parquet"))

    def adopt(self, name, paths):
        """Give the files that ``write`` has written their place in the folder.

        Returns
        -------
        list of str
            Their new names.
        """
        if self._etags is not None:
            taken = [path.rsplit("/", 1)[-1] for path in paths]
            for file in self.files():  # A task that was tried again may have written twice.
                if file.startswith(name) and file not in taken:
                    self.filesystem.rm(self.path(file))
            return taken
        self.filesystem.invalidate_cache()
        taken = []
        for path in sorted(self.filesystem.ls(self.path("_scoring", name), detail=False)):
            if path.endswith(".parquet"):
                taken.append("{}-{:05d}.parquet".format(name, len(taken)))
                self.filesystem.mv(path, self.path(taken[-1]))
        self.filesystem.rm(self.path("_scoring", name), recursive=True)
        return taken


def _process_space():
    """Which process numbers are meant: containers on one machine may have its name, and each its own numbers."""
    try:
        return os.readlink("/proc/self/ns/pid")
    except OSError:
        return ""


class Claim:
    """The right to write to a table, held inside a ``with`` block and renewed by a thread.

    Parameters
    ----------
    table : Table

    Raises
    ------
    InputError
        If another job that is alive holds it.
    """

    def __init__(self, table):
        self._table = table
        self._me = {"owner": uuid.uuid4().hex, "host": socket.gethostname(), "space": _process_space(),
                    "process": os.getpid(), "started": psutil.Process().create_time()}
        self._ended = threading.Event()
        self._lost = None

    def __enter__(self):
        other = self._holding()
        if other and not self._has_expired(other):
            raise self._taken(other)
        if other:
            log.info("claim expired host=%s process=%s", other["host"], other["process"])
        try:
            made = not other and self._table.create_json("claim.json", self._content())
        except FileExistsError:
            raise self._taken(self._holding() or UNKNOWN)
        if not made:
            self._write()
            time.sleep(SETTLE_S)
            self.check()
        self._thread = threading.Thread(target=self._renew, daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *error):
        self._ended.set()
        self._thread.join()
        if self._holder() == self._me["owner"]:
            self._table.filesystem.rm(self._table.path("_scoring", "claim.json"))

    def check(self):
        """Raise unless the claim is still this job's."""
        if self._holder() != self._me["owner"]:
            raise self._taken(self._holding() or UNKNOWN)

    def _content(self):
        return dict(self._me, renewed=time.time())

    def _write(self):
        self._table.write_json("claim.json", self._content())

    def _holding(self):
        claim = self._table.read_json("claim.json")
        if claim is not None and not (
                isinstance(claim, dict) and {"owner", "host", "process", "started", "renewed"} <= set(claim)):
            raise InputError("expected a claim of this program in {}, got another file. Choose another folder, or "
                             "delete that one.".format(shown(self._table.uri + "/_scoring/claim.json")))
        return claim

    def _holder(self):
        claim = self._holding()
        return claim and claim["owner"]

    def _renew(self):
        while not self._ended.wait(CLAIM_S / 6):
            try:
                if self._holder() != self._me["owner"]:
                    return
                self._write()
            except Exception as error:  # A full disk or a network that is away for a moment: the next time may do.
                log.warning("claim not renewed error=%r", shown(error))

    def _has_expired(self, claim):
        if (claim["host"], claim.get("space")) == (self._me["host"], self._me["space"]):
            # A process number is used again: the time when it started tells them apart.
            try:
                return abs(psutil.Process(claim["process"]).create_time() - claim["started"]) > 2
            except psutil.NoSuchProcess:
                return True
        return time.time() - claim["renewed"] > CLAIM_S

    def _taken(self, claim):
        return InputError("expected to be the only job that writes the prediction table {}, got another at work "
                          "(host {}, process {}). Wait for it, or choose another folder.".format(
                              shown(self._table.uri), claim["host"], claim["process"]))

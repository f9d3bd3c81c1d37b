"""Files and folders that are there as a whole or not at all, on any file system.

A plain path or ``file:`` is this machine's disk. ``abfs:`` and ``abfss:`` are Azure storage (``azure``), ``s3:`` and
``s3a:`` are S3 (``s3``). fsspec finds every other scheme.
"""

import contextlib
import errno
import hashlib
import json
import os
import shutil
import uuid
from pathlib import Path

import fsspec
from fsspec.asyn import AsyncFileSystem

from helpers import InputError, azure, s3
from helpers.uri import is_azure, shown

# What file systems call the time of a change, or a tag that changes with the content.
_CHANGED = ("mtime", "last_modified", "LastModified", "etag", "ETag", "modificationTime")

# What a system says of a place where nothing can be made.
_NOWHERE = (errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOENT, errno.ENOTDIR, errno.EEXIST, errno.ENAMETOOLONG)

NOT_JSON = json.JSONDecodeError, UnicodeDecodeError


class DiskFull(InputError):
    """A disk has no room left."""

    kind = "full"


def filesystem(uri: str):
    """The fsspec file system of a URI or path, and the path in it.

    Raises
    ------
    InputError
        If no file system knows the URI, or credentials or the package for it are missing.
    """
    uri = str(uri)
    if uri.startswith("adl://"):
        raise InputError(f"expected abfss://container@account.dfs.core.windows.net/path, got {shown(uri)}. Azure Data "
                         "Lake Gen1 was retired in 2024: bring what was there to Gen2.")
    if is_azure(uri):
        return azure.azure_filesystem(uri)
    if uri.startswith(("s3://", "s3a://")):
        return s3.s3_filesystem(uri)
    if uri.startswith(("http://", "https://")):
        # Its errors would show a signed address whole.
        raise InputError(f"expected a path, file:, abfss: or s3: URI, got {shown(uri)}, whose server lists no folders. "
                         "Copy it to one of these.")
    if "://" not in uri or uri.startswith("file://"):
        # fsspec takes "::" in a name for a chain of URLs.
        disk = fsspec.filesystem("file")
        return disk, disk._strip_protocol(uri)
    try:
        return fsspec.core.url_to_fs(uri)
    except (ValueError, ImportError) as error:
        raise InputError(f"expected a path, file:, abfss: or s3: URI, got {shown(uri)} ({error}). Copy it to one of "
                         "these.")


def credentials() -> dict:
    """The environment's variables with credentials: they travel to the workers inside the function that Spark runs,
    never as a setting or argument, which others could see."""
    return dict(azure.credentials(), **{name: os.environ[name] for name in s3.CREDENTIALS if os.environ.get(name)})


def use(known: dict):
    """Put ``credentials`` of the driver into this worker's environment."""
    if "AWS_ACCESS_KEY_ID" in known:  # A token of this worker, or of an earlier job, belongs to other keys.
        os.environ.pop("AWS_SESSION_TOKEN", None)
    os.environ.update(known)


def is_local(system) -> bool:
    return "file" in ([system.protocol] if isinstance(system.protocol, str) else system.protocol)


def write_whole(uri: str, content: bytes):
    """Write a file: a reader sees the old one or the whole new one."""
    system, path = filesystem(uri)
    if is_local(system):
        with whole_file(path) as part:
            part.write_bytes(content)
    elif isinstance(system, AsyncFileSystem):
        system.pipe_file(path, content)  # An object store shows an object when all of it is there.
    else:
        folder, _, name = path.rpartition("/")
        part = f"{folder}/.{name}.{uuid.uuid4().hex[:8]}.part"
        system.makedirs(folder, exist_ok=True)
        system.pipe_file(part, content)
        if system.exists(path):
            system.rm_file(path)
        system.mv(part, path)


def create(uri: str, content: bytes):
    """Write a file where there is none, in one step where the file system has such a step (a disk, Azure).

    Raises
    ------
    FileExistsError
    """
    system, path = filesystem(uri)
    if is_azure(uri):
        system.create(path, content)
    elif is_local(system):
        path = Path(path)
        path.parent.mkdir(parents=True, exist_ok=True)
        part = path.with_name(f".{uuid.uuid4().hex}.part")
        try:
            part.write_bytes(content)
            # Of all that give a whole file its name, only this fails where the name is taken.
            os.link(str(part), str(path))
        finally:
            part.unlink()
    elif system.exists(path):
        raise FileExistsError(path)
    else:
        write_whole(uri, content)


def read_json(uri: str):
    """The content of a JSON file; None where there is no file. Raises one of ``NOT_JSON`` if it is something else."""
    system, path = filesystem(uri)
    try:
        return json.loads(system.cat_file(path).decode())
    except (FileNotFoundError, NotADirectoryError):
        return None


def write_json(path, value):
    """Write JSON so that a reader sees the old file or the whole new one; ``path`` may be a URI."""
    write_whole(str(path), (json.dumps(value, indent=1, sort_keys=True) + "\n").encode())


def changed(info: dict) -> list:
    """Size and time of change (or ETag) of a file that ``ls(detail=True)`` lists: they change with its content."""
    return [info["size"]] + [str(info[key]) for key in _CHANGED if info.get(key) is not None]


@contextlib.contextmanager
def making(path):
    """Say in one sentence why a local file can't be made or removed: its folder is read-only, or it is a file."""
    try:
        yield
    except OSError as error:
        if error.errno not in _NOWHERE:
            raise
        raise InputError(f"expected a place to write {path}, got: {error.strerror}. Choose another, or let this user "
                         "write there.") from error


@contextlib.contextmanager
def whole_file(path):
    """A name beside a local ``path`` to write to; the file takes its own name when all of it is there."""
    path = Path(path)
    # Threads and processes may write the same file at once.
    part = path.with_name(f".{path.name}.{uuid.uuid4().hex[:8]}.part")
    with making(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        part.touch()
    try:
        yield part
        try:
            os.replace(str(part), str(path))
        except FileNotFoundError:
            # Another job has written the same file, and removed what it took for the rest of a killed one.
            if not path.exists():
                raise
    finally:
        with contextlib.suppress(FileNotFoundError):
            part.unlink()


@contextlib.contextmanager
def whole_folder(folder):
    """A new folder that takes the place of a local ``folder`` when everything in it has been written.

    An earlier folder there is replaced, but not one that has no file of the same name: it holds somebody's other files.
    """
    folder = Path(folder)
    part = folder.with_name(f".{folder.name}.{uuid.uuid4().hex[:8]}.part")
    with making(folder):
        part.mkdir(parents=True)
    try:
        yield part
        there = {path.name for path in folder.iterdir()} if folder.is_dir() else set()
        if there and not there & {path.name for path in part.iterdir()}:
            raise InputError(f"expected an earlier folder of the same files at {folder}, or none, got one with "
                             f"{', '.join(sorted(there)[:3])}. Choose another.")
        if folder.exists():
            shutil.rmtree(str(folder))
        part.rename(folder)
    finally:
        shutil.rmtree(str(part), ignore_errors=True)


def sha256(path) -> str:
    """SHA-256 of a local file, in hexadecimal."""
    digest = hashlib.sha256()
    with open(str(path), "rb") as file:
        for block in iter(lambda: file.read(1 << 20), b""):
            digest.update(block)
    return digest.hexdigest()


def remove(system, path: str):
    """Remove a file of a file system. Another job may have done it before."""
    with making(path), contextlib.suppress(FileNotFoundError):
        # rm would take brackets and stars in a name for a pattern.
        system.rm_file(path)


def free_bytes(folder) -> int:
    """Free bytes of the disk on which a local folder lies, or will lie."""
    folder = Path(folder)
    while not os.path.exists(str(folder)):
        folder = folder.parent
    return shutil.disk_usage(str(folder)).free


def is_damage(error: Exception) -> bool:
    """Whether a file is gone, or can't be read by Arrow, whose own OSError has no number, or by the disk."""
    import pyarrow as pa
    return not isinstance(error, MemoryError) and (
        isinstance(error, (FileNotFoundError, pa.ArrowException))
        or type(error) is OSError and error.errno in (None, errno.EIO))


def is_full(error: Exception) -> bool:
    """Whether a disk, or a share of it, has no room left."""
    return isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT)

"""Files and folders on any file system, written so that a half-written one never looks finished.

A plain path or ``file:`` is this machine's disk, ``abfs:`` and ``abfss:`` are Azure storage, ``s3:`` and ``s3a:`` are
S3, ``hdfs:`` is Hadoop's. fsspec finds every other scheme.
"""

import contextlib
import errno
import hashlib
import importlib
import json
import os
import re
import shutil
import uuid
from pathlib import Path, PurePosixPath

import fsspec
from fsspec.asyn import AsyncFileSystem
from fsspec.implementations.local import LocalFileSystem

from helpers import InputError
from helpers.uri import shown

# For each scheme, our module that opens its URIs, imported with the first of them, and the package that it needs.
_PACKAGES = {"abfs": ("helpers.azure_filesystem", "adlfs"), "abfss": ("helpers.azure_filesystem", "adlfs"),
             "s3": ("helpers.s3_filesystem", "s3fs"), "s3a": ("helpers.s3_filesystem", "s3fs"),
             "hdfs": ("helpers.hdfs_filesystem", "hdfs-native")}
# Names that file systems have for the time of a change, or for a tag that changes with the content.
_CHANGED = ("mtime", "last_modified", "LastModified", "etag", "ETag", "modificationTime", "modification_time")
# Error numbers that mean: nothing can be written in this place.
_NOWHERE = (errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOENT, errno.ENOTDIR, errno.EEXIST, errno.ENAMETOOLONG)
NOT_JSON = json.JSONDecodeError, UnicodeDecodeError, RecursionError


def filesystem(uri: str):
    """The fsspec file system of a URI or path, and the path in it; a missing package or key is an InputError."""
    uri = str(uri)
    module, package = _PACKAGES.get(uri.partition("://")[0], (None, None))
    if module:
        try:
            return importlib.import_module(module).open_uri(uri)
        except ImportError as error:
            raise InputError(f"expected the package {package}, which reads {shown(uri)}, got none ({error}). Install "
                             f"it on the driver and the workers: pip install {package}, in the version of "
                             "requirements.txt.")
    if uri.startswith(("http://", "https://")):
        # fsspec's own errors would show a signature in the address.
        raise InputError(f"expected a path, or a file:, abfss:, s3: or hdfs: URI, got {shown(uri)}, whose server lists "
                         "no folders. Copy it to one of these.")
    if "://" not in uri or uri.startswith("file://"):
        # url_to_fs would take "::" in a name for a chain of URLs.
        disk = fsspec.filesystem("file")
        return disk, disk._strip_protocol(uri)
    try:
        return fsspec.core.url_to_fs(uri)
    except (ValueError, ImportError, AttributeError) as error:  # The last one is adlfs's about ``adl:``.
        raise InputError(f"expected a path, or a file:, abfss:, s3: or hdfs: URI, got {shown(uri)} ({error}). Copy it "
                         "to one of these.")


def _part_of(path):
    """A name beside a path for what is not whole yet. Threads and processes may write the same file at once."""
    return path.with_name(f".{path.name}.{uuid.uuid4().hex[:8]}.part")


def remove_parts(folder: str, names: str = ".+"):
    """Remove what killed writers have left half-written in a folder, beside files that are whole by now.

    ``names`` is a pattern of files that every writer gives the same content: another writer's part may go too.
    """
    system, path = filesystem(folder)
    for file in system.find(path, maxdepth=1):
        left = re.fullmatch(rf"\.({names})\.[0-9a-f]{{8}}\.part", file.rpartition("/")[2])
        if left and system.exists(f"{path}/{left[1]}"):
            remove(f"{folder}/{left[0]}")


def write_whole(uri: str, content: bytes):
    """Write a file: a reader sees the old one or the whole new one."""
    system, path = filesystem(uri)
    if isinstance(system, LocalFileSystem):
        with whole_file(path) as part:
            part.write_bytes(content)
    elif isinstance(system, AsyncFileSystem):
        system.pipe_file(path, content)  # An object store shows only whole objects.
    else:
        _rename_into(system, path, content, replace=True)


def _rename_into(system, path, content, replace):
    part = str(_part_of(PurePosixPath(path)))
    system.makedirs(path.rpartition("/")[0], exist_ok=True)
    try:
        system.pipe_file(part, content)
        if system.protocol == "hdfs":
            system.mv(part, path, overwrite=replace)
        else:  # WebHDFS renames to free names only. The old file stays until the new one is whole.
            if system.exists(path):
                system.rm_file(path)
            system.mv(part, path)
    except BaseException:
        with contextlib.suppress(Exception):  # The first error says what is wrong.
            system.rm_file(part)
        raise


def create(uri: str, content: bytes):
    """Write a file where there is none, else raise a FileExistsError.

    This is one step, except on WebHDFS, on drives without links, and on object stores without conditional writes.
    """
    system, path = filesystem(uri)
    if isinstance(system, LocalFileSystem):
        _create_here(Path(path), content)
    elif system.protocol == "hdfs":
        _rename_into(system, path, content, replace=False)
    elif system.exists(path):  # Also on object stores, because some ignore the mode.
        raise FileExistsError(path)
    elif isinstance(system, AsyncFileSystem):
        system.pipe_file(path, content, mode="create")
    else:
        write_whole(uri, content)


def _create_here(path, content):
    path.parent.mkdir(parents=True, exist_ok=True)
    part = _part_of(path)
    try:
        part.write_bytes(content)
        # A rename would replace another file; a link fails where the name is taken.
        os.link(str(part), str(path))
    except OSError as error:
        if error.errno not in (errno.EPERM, errno.ENOTSUP, errno.ENOSYS, errno.EMLINK):
            raise
        open(str(path), "xb").close()  # Some mounted drives have no links.
        os.replace(str(part), str(path))
    finally:
        with contextlib.suppress(FileNotFoundError):
            part.unlink()


def read_json(uri: str):
    """The content of a JSON file, None without a file; a file of another kind raises one of ``NOT_JSON``."""
    system, path = filesystem(uri)
    try:
        return json.loads(system.cat_file(path).decode())
    except (FileNotFoundError, NotADirectoryError):
        return None


def write_json(path, value):
    """Write JSON as ``write_whole`` does; ``path`` may be a URI."""
    write_whole(str(path), (json.dumps(value, indent=1, sort_keys=True) + "\n").encode())


def changed(info: dict) -> list:
    """Size and time of change (or ETag) of a file, which change with its content, from ``ls(detail=True)``."""
    return [info["size"]] + [str(info[key]) for key in _CHANGED if info.get(key) is not None]


@contextlib.contextmanager
def making(path):
    """Say in one sentence why a local file can't be made or removed, for example in a read-only folder."""
    try:
        yield
    except OSError as error:
        if error.errno not in _NOWHERE:
            raise
        raise InputError(f"expected a place to write {path}, got: {error.strerror}. Choose another, or let this user "
                         "write there.") from error


@contextlib.contextmanager
def whole_file(path):
    """Yield a temporary name beside a local ``path``. At the end, the file gets the name ``path``."""
    path = Path(path)
    part = _part_of(path)
    with making(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        part.touch()
    try:
        yield part
        try:
            os.replace(str(part), str(path))
        except FileNotFoundError:
            # Another job has written the same file, and removed this part: it looked like a leftover of a killed job.
            if not path.exists():
                raise
    finally:
        with contextlib.suppress(FileNotFoundError):
            part.unlink()


@contextlib.contextmanager
def whole_folder(folder, names: list):
    """A new folder, whose files move to a local ``folder`` when everything in it has been written.

    ``names`` lists the files that may be written. Files of these names in an earlier folder are removed, the last name
    first, and the new ones are moved there, the last name last: with that file the folder is complete. Other files
    stay. A folder that has only other files is refused.
    """
    folder = Path(folder)
    part = _part_of(folder)
    with making(folder):
        part.mkdir(parents=True)
    try:
        yield part
        there = {path.name for path in folder.iterdir()} if folder.is_dir() else set()
        if there and not there & set(names):
            raise InputError(f"expected an earlier folder of the same files at {folder}, or none, got one with "
                             f"{', '.join(sorted(there)[:3])}. Choose another.")
        with making(folder):
            folder.mkdir(exist_ok=True)
            for name in filter(there.__contains__, reversed(names)):
                (folder / name).unlink()
            for name in filter(os.listdir(str(part)).__contains__, names):
                (part / name).rename(folder / name)
    finally:
        shutil.rmtree(str(part), ignore_errors=True)


def sha256(path) -> str:
    """SHA-256 of a local file, in hexadecimal."""
    digest = hashlib.sha256()
    with open(str(path), "rb") as file:
        for block in iter(lambda: file.read(1 << 20), b""):
            digest.update(block)
    return digest.hexdigest()


def remove(uri: str):
    """Remove a file, if it exists."""
    system, path = filesystem(uri)
    with making(path), contextlib.suppress(FileNotFoundError):  # Another job may remove it at the same time.
        if system.exists(path):
            # fsspec's rm would take brackets and stars in a name for a pattern.
            system.rm_file(path)


def free_bytes(folder) -> int:
    """Free bytes on the disk of a local folder, which need not exist yet."""
    folder = Path(folder)
    while not os.path.exists(str(folder)):
        folder = folder.parent
    return shutil.disk_usage(str(folder)).free


@contextlib.contextmanager
def room(where: str, advice: str = "Free some space and run the same command again."):
    """Turn the error of a full disk into an InputError."""
    try:
        yield
    except OSError as error:
        if not is_full(error):
            raise
        raise InputError(f"expected room on the disk for {where}, got a full one (no space left on device). {advice}"
                         ) from error


def is_full(error: Exception) -> bool:
    """Whether a disk is full, or a user's share of it."""
    return isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT)

"""URIs as text."""

import re
from pathlib import Path
from urllib.parse import urlsplit

from helpers import InputError


def absolute(uri) -> str:
    """A plain path as a path from the root, because workers have other working folders; any other URI as it is."""
    uri = str(uri)
    if not uri:
        raise InputError("expected a path or URI, got an empty text. Name a folder.")
    try:
        uri.encode()
    except UnicodeEncodeError:
        raise InputError(f"expected a path in UTF-8, got {ascii(uri)}. Rename it.")
    try:
        return uri if "://" in uri or uri.startswith("file:") else str(Path(uri).expanduser().absolute())
    except RuntimeError as error:
        raise InputError(f"expected a path that begins with the name of an account here, got {uri} ({error}). Write ./ "
                         "before it if it is the name of a folder.")


def shown(uri: str) -> str:
    """A URI without its possible secrets: user, password, and all behind a question mark or hash sign."""
    scheme, mark, rest = str(uri).partition("://")
    if not mark:
        return str(uri)
    host = re.split("[/?#]", rest)[0]
    # A password may hold a slash or a question mark. On Azure the name before an @ is a container.
    if "@" not in host and ":" in host and not re.search(r":\d*$", host):
        rest = rest.rpartition("@")[2]
    elif "@" in host and not (scheme in ("abfs", "abfss") and ":" not in host):
        rest = rest[host.rindex("@") + 1:]
    return scheme + mark + re.split("[?#]", rest)[0]


def host(address: str) -> str:
    """The server of an address with its port, without user and password."""
    return urlsplit(address).netloc.rpartition("@")[2]


def join(uri: str, *names: str) -> str:
    """A URI, or plain path, with names below it."""
    return "/".join((str(uri).rstrip("/"),) + names)

"""uri."""

import re

def shown(uri):
    """A URI without what may be secret in it: user, password, and what follows a question mark or hash sign."""
    scheme, mark, rest = str(uri).partition("://")
    if not mark:
        return str(uri).split("?")[0]
    host = re.split("[/?#]", rest)[0]
    # A password may hold a slash or a question mark; what stands before an @ on Azure is a container.
    if "@" not in host and ":" in host and not re.search(r":\d*$", host):
        rest = rest.rpartition("@")[2]
    elif "@" in host and not (is_azure(uri) and ":" not in host):
        rest = rest[host.rindex("@") + 1:]
    rest = re.split("[?#]", rest)[0]
    return scheme + mark + rest


def is_azure(uri):
    """Whether a URI leads to Azure storage."""
    return str(uri).startswith(("abfs://", "abfss://"))


def join(uri, *names):
    """A URI, or plain path, with names below it, as text."""
    return "/".join((str(uri).rstrip("/"),) + names)

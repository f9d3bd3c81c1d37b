"""Files from the network: asked for again while a server is busy, kept whole or not at all, checked when used again.

``ADDRESSES`` lists the services. A setting of the environment takes the place of each, so that mirrors, and servers of
one's own, are asked in the same way.
"""

import datetime
import hashlib
import json
import os
import threading
import time
from concurrent.futures import Future
from pathlib import Path
from typing import Callable
from urllib.parse import urlsplit

from helpers import InputError
from helpers.files import read_json, sha256, write_json, write_whole
from helpers.runs import home
from helpers.uri import host, shown

ADDRESSES = {
    # County boundaries of the Census, 1 : 500,000.
    "TUTORIAL_COUNTIES": "https://www2.census.gov/geo/tiger/GENZ2023/shp/cb_2023_us_county_500k.zip",
    # A STAC API; ?collection=…&asset=… where its pictures aren't called ``naip`` and ``image``.
    "TUTORIAL_SCENES": "https://planetarycomputer.microsoft.com/api/stac/v1",
    # Hands out a token to read the scenes with; empty: none is needed.
    "TUTORIAL_SIGNING": "https://planetarycomputer.microsoft.com/api/sas/v1/token/naip",
    # A WCS 1.0.0 with Annual NLCD, its version and coverage in the query; or a raster, or a folder of them, on this
    # machine. A coverage may have {year} in its name; any other is asked for a time.
    "TUTORIAL_LABELS": "https://dmsdata.cr.usgs.gov/geoserver/mrlc_Land-Cover-Native_conus_year_data/wcs?version=1.0.0"
                       "&coverage=mrlc_Land-Cover-Native_conus_year_data:Land-Cover-Native_conus_year_data",
}
# Where tokens are needed, if nothing else is set.
SIGNED_HOSTS = ".blob.core.windows.net"
BUSY = (429, 500, 502, 503, 504)
TRIES = 5
# To connect; between two blocks of an answer; for all of it; and the longest that a server may ask us to wait.
CONNECT_S, BLOCK_S, WHOLE_S, WAIT_S = 10, 30, 600, 120
# The most bytes of an answer, unpacked: all county boundaries of the Census have 80 MB.
MOST_BYTES = 256 << 20
# Half the wait before the second try; each wait is twice the one before.
BACKOFF_S = 0.3
# Until a server that has to compute its answer begins with it.
COMPUTE_S = 300
OFFLINE = "Try again later, what is finished is kept; or use the sample, catalog='sample', which needs no network."
# Tokens of this process, with the time until which they are used.
_tokens = {}


class CutOff(InputError):
    """Only a part of the answer came: the next try may bring all of it."""

    kind = "cut off"


class Refused(InputError):
    """The server turns this token away: another one may do."""

    kind = "refused"


def address(name: str) -> str:
    """The address of a service: the environment's, else the one in ``ADDRESSES``."""
    return os.environ.get(name, ADDRESSES[name])


def is_remote(href) -> bool:
    return str(href).startswith(("http://", "https://"))


def retries(reads: int = TRIES):
    """How often, and how patiently, a busy server is asked again; for ``requests`` and what is built on it."""
    from urllib3.util import Retry
    return Retry(total=TRIES, read=reads, backoff_factor=BACKOFF_S, status_forcelist=BUSY, allowed_methods=None,
                 raise_on_status=False, respect_retry_after_header=True, retry_after_max=WAIT_S)


def again(act: Callable, passing: type):
    """What ``act`` returns; it gets the number of the try, and another one after each error of the kind ``passing``."""
    for attempt in range(TRIES):
        if attempt:
            time.sleep(BACKOFF_S * 2 ** attempt)
        try:
            return act(attempt)
        except passing:
            if attempt == TRIES - 1:
                raise


def _within(seconds, act):
    """What ``act`` returns. Where it takes longer, its thread is left alone: a server that sends a header byte by byte
    passes every other limit.
    """
    future = Future()

    def run():
        try:
            future.set_result(act())
        except Exception as error:  # The thread that waits raises it.
            future.set_exception(error)
    threading.Thread(target=run, daemon=True).start()
    return future.result(seconds)


def _ask(url, what, params=None, block_s=None, first_byte=False):
    """The content of an answer; with ``first_byte`` nothing, where there is one."""
    import requests
    block_s = BLOCK_S if block_s is None else block_s
    whole_s, kind = max(WHOLE_S, 2 * block_s), InputError
    try:
        status, content, reason = _within(whole_s, lambda: _answer(url, params, block_s, first_byte, whole_s))
        if content is not None:
            return content
        came, kind = f"status {status} {reason}", Refused if status in (401, 403) else InputError
    except (requests.exceptions.Timeout, TimeoutError):
        came = f"no whole answer within {block_s} s a block and {whole_s} s in all"
    except requests.exceptions.ChunkedEncodingError:
        came, kind = "an answer that breaks off", CutOff
    except OverflowError:
        came = f"more than {MOST_BYTES >> 20} MB"
    except (requests.exceptions.RequestException, ValueError) as error:
        came = f"no answer ({type(error).__name__})"
    # Without the query, which may hold a secret, and without requests' error, which shows it.
    where = f"at {shown(url)}" if first_byte else f"from {host(url)}"
    raise kind(f"expected {what} {where}, got {came}. {OFFLINE}") from None


def _answer(url, params, block_s, first_byte, whole_s):
    """Status, content and reason of an answer; None for the content where there is none to use."""
    import requests
    from requests.adapters import HTTPAdapter
    started, blocks, size = time.monotonic(), [], 0
    with requests.Session() as session:
        for scheme in ("http://", "https://"):
            # If it takes minutes, twice is enough.
            session.mount(scheme, HTTPAdapter(max_retries=retries(TRIES if block_s <= BLOCK_S else 1)))
        with session.get(url, params=params, headers={"Range": "bytes=0-0"} if first_byte else None,
                         timeout=(CONNECT_S, block_s), stream=True) as answer:
            if first_byte and answer.status_code in (200, 206):
                return answer.status_code, b"", answer.reason
            if answer.status_code != 200:
                return answer.status_code, None, answer.reason
            for block in answer.iter_content(1 << 16):
                blocks.append(block)
                size += len(block)
                if size > MOST_BYTES:
                    raise OverflowError
                if time.monotonic() - started > whole_s:
                    raise requests.exceptions.Timeout
            return 200, b"".join(blocks), answer.reason


def get(url: str, what: str, params=None, block_s: float = None) -> bytes:
    """What a server answers to a query; errors call it ``what``.

    ``block_s`` is how long to wait for the first block, and for each after it; by default ``BLOCK_S``.
    """
    return again(lambda _: _ask(url, what, params, block_s), CutOff)


def ready(href: str, what: str):
    """Wait until a server gives out a file, for as long as it asks us to wait (GDAL's own retries don't heed that)."""
    try:
        _ask(signed(href)[0], what, first_byte=True)
    except Refused:
        _ask(signed(href, anew=True)[0], what, first_byte=True)


def fetch(url: str, what: str, suffix: str, params=None, check: Callable = None, block_s: float = None) -> Path:
    """A file of a server, kept by ``keep``; ``check`` gets its content and raises an InputError if it is another."""
    def download():
        content = get(url, what, params, block_s)
        if check is not None:
            check(content)
        return content
    return keep([url, params], what, suffix, download, url)


def keep(asked, what: str, suffix: str, make: Callable, source: str, most_s: float = float("inf")) -> Path:
    """A file made of a server's answer, kept in ``data/downloads`` under the checksum of its content.

    ``asked`` is a JSON value that tells it from others, ``make`` gives the content or raises an InputError, ``source``
    is the server's address. A file older than ``most_s`` is made again; if that fails, the old one serves.
    """
    folder, now = home() / "data" / "downloads", datetime.datetime.now(datetime.timezone.utc)
    entry = folder / (hashlib.sha256(json.dumps(asked).encode()).hexdigest()[:16] + ".json")
    facts = read_json(entry)
    known = folder / facts["file"] if facts else None
    if known and not (known.exists() and sha256(known) == facts["sha256"]):
        known = None
    if known and (now - datetime.datetime.fromisoformat(facts["when"])).total_seconds() < most_s:
        return known
    try:
        content = make()
    except InputError:
        if known is None:
            raise
        return known
    digest = hashlib.sha256(content).hexdigest()
    path = folder / (digest[:16] + suffix)
    write_whole(path, content)
    # Written last: an interrupted download leaves nothing that is known.
    write_json(entry, {"file": path.name, "sha256": digest, "bytes": len(content), "what": what, "from": shown(source),
                       "when": datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds")})
    return path


def signed(href: str, anew: bool = False) -> tuple[str, float]:
    """An address with a token to read it with, where one is needed, and the ``time.time()`` after which to ask again.

    That is four fifths of the token's life, infinite without one. ``anew`` asks for another token: this was refused.
    """
    service = address("TUTORIAL_SIGNING")
    if not is_remote(href) or not service or "TUTORIAL_SIGNING" not in os.environ and not (
            urlsplit(href).hostname or "").endswith(SIGNED_HOSTS):
        return href, float("inf")
    token, until = _tokens.get(service, (None, 0.0))
    if anew or time.time() >= until:
        what = "a token to read scenes with"
        content = get(service, what)
        try:
            answer = json.loads(content)
            token = answer["token"]
            expires = datetime.datetime.fromisoformat(answer["msft:expiry"].replace("Z", "+00:00")).timestamp()
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise InputError(f"expected {what} from {urlsplit(service).hostname}, got an answer without "
                             f"({type(error).__name__}). {OFFLINE}") from None
        until = time.time() + 0.8 * (expires - time.time())
        _tokens[service] = token, until
    return f"{href}{'&' if '?' in href else '?'}{token}", until

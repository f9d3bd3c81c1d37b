"""Files from the network: asked for again while a server is busy, kept whole or not at all, checked when used again.

``ADDRESSES`` lists the services. A variable of the environment replaces each by a mirror or by a server of one's own.
"""

import datetime
import hashlib
import json
import os
import time
from concurrent.futures import TimeoutError
from pathlib import Path
from typing import Callable
from urllib.parse import urlsplit

from helpers import InputError
from helpers.files import NOT_JSON, read_json, sha256, write_json, write_whole
from helpers.runs import home
from helpers.uri import host, shown

ADDRESSES = {
    # County boundaries of the Census, 1 : 500,000.
    "TUTORIAL_COUNTIES": "https://www2.census.gov/geo/tiger/GENZ2023/shp/cb_2023_us_county_500k.zip",
    # A STAC API; ?collection=…&asset=… where its pictures aren't called ``naip`` and ``image``.
    "TUTORIAL_SCENES": "https://planetarycomputer.microsoft.com/api/stac/v1",
    # Issues a token to read the scenes with; empty if they need none.
    "TUTORIAL_SIGNING": "https://planetarycomputer.microsoft.com/api/sas/v1/token/naip",
    # A WCS 1.0.0 with Annual NLCD: the query has version and coverage, with {year} in its name unless it has a time.
    # A raster of this machine, or a folder of rasters, serves too.
    "TUTORIAL_LABELS": "https://dmsdata.cr.usgs.gov/geoserver/mrlc_Land-Cover-Native_conus_year_data/wcs?version=1.0.0"
                       "&coverage=mrlc_Land-Cover-Native_conus_year_data:Land-Cover-Native_conus_year_data",
}
# Servers that want a token if TUTORIAL_SIGNING isn't set.
SIGNED_HOSTS = ".blob.core.windows.net"
BUSY = (429, 500, 502, 503, 504)
TRIES = 5
# Limits: to connect, between two blocks of an answer, for the whole answer, and for a server's Retry-After.
CONNECT_S, BLOCK_S, WHOLE_S, WAIT_S = 10, 30, 600, 120
# Most unpacked bytes of an answer: all county boundaries of the Census have 80 MB.
MOST_BYTES = 256 << 20
# Before try n + 1, ``again`` waits BACKOFF_S * 2 ** n seconds.
BACKOFF_S = 0.3
# A server that computes its answer may take so long to begin.
COMPUTE_S = 300
OFFLINE = "Try again later: finished work is kept. Or use the sample, catalog='sample', which needs no network."
CORRECT = "Check the address, if you have set TUTORIAL_SCENES, TUTORIAL_LABELS or TUTORIAL_COUNTIES. Or use a file."
# The token of each service. It serves until a server refuses it.
_tokens = {}


class Refused(InputError):
    """The server refuses this token: another token may serve."""


def address(name: str) -> str:
    """The address of a service, from the environment or else from ``ADDRESSES``."""
    return os.environ.get(name, ADDRESSES[name])


def is_remote(href) -> bool:
    return str(href).startswith(("http://", "https://"))


def again(act: Callable, passing):
    """The result of ``act(number of the try)``, which is tried again after errors of the kind ``passing``."""
    for attempt in range(TRIES):
        if attempt:
            time.sleep(BACKOFF_S * 2 ** attempt)
        try:
            return act(attempt)
        except passing:
            if attempt == TRIES - 1:
                raise


def get(url: str, what: str, params=None, block_s: float = None, first_byte: bool = False) -> bytes:
    """A server's answer, called ``what`` in errors; each block may take ``block_s``, by default ``BLOCK_S``.

    With ``first_byte`` the content stays unread: no error means that the server gives it out.
    """
    import requests
    from pebble import concurrent
    block_s = block_s or BLOCK_S
    whole_s, kind, advice = max(WHOLE_S, 2 * block_s), InputError, OFFLINE
    # A thread of its own, since a server that sends its answer byte by byte passes every other limit.
    answer = concurrent.thread(_answer)
    try:
        # Where only a part of the answer came, the next try may bring all of it.
        return again(lambda _: answer(url, params, block_s, whole_s, first_byte).result(whole_s),
                     requests.exceptions.ChunkedEncodingError)
    except requests.exceptions.HTTPError as error:
        came = f"status {error.response.status_code} {error.response.reason}"
        kind = Refused if error.response.status_code in (401, 403) else InputError
        if error.response.status_code == 404:
            advice = CORRECT
    except (requests.exceptions.Timeout, TimeoutError):
        came = f"no complete answer (limits: {block_s} s for a block, {whole_s} s in all)"
    except requests.exceptions.ChunkedEncodingError:
        came = "an answer that ends too early"
    except OverflowError:
        came, advice = f"more than {MOST_BYTES >> 20} MB", CORRECT
    except (requests.exceptions.RequestException, ValueError) as error:
        came = f"no answer ({type(error).__name__})"
    # Neither the query, which may hold a secret, nor requests' own error, which shows the query.
    where = f"at {shown(url)}" if first_byte else f"from {host(url)}"
    raise kind(f"expected {what} {where}, got {came}. {advice}") from None


def _answer(url, params, block_s, whole_s, first_byte):
    import requests
    from urllib3.util import Retry
    # Of answers that take minutes, two are enough.
    patience = Retry(total=TRIES, read=TRIES if block_s <= BLOCK_S else 1, backoff_factor=BACKOFF_S,
                     status_forcelist=BUSY, allowed_methods=None, raise_on_status=False, retry_after_max=WAIT_S)
    content, until = bytearray(), time.monotonic() + whole_s
    with requests.Session() as session:
        for scheme in ("http://", "https://"):
            session.mount(scheme, requests.adapters.HTTPAdapter(max_retries=patience))
        with session.get(url, params=params, headers={"Range": "bytes=0-0"} if first_byte else None,
                         timeout=(CONNECT_S, block_s), stream=True) as answer:
            if answer.status_code != 200 and not (first_byte and answer.status_code == 206):
                raise requests.exceptions.HTTPError(response=answer)
            for block in () if first_byte else answer.iter_content(1 << 16):
                content += block
                if len(content) > MOST_BYTES:
                    raise OverflowError
                if time.monotonic() > until:
                    raise requests.exceptions.Timeout
    return bytes(content)


def ready(href: str, what: str):
    """Wait until a server gives out a file, for as long as it asks for: GDAL's own tries ignore its Retry-After."""
    try:
        get(signed(href), what, first_byte=True)
    except Refused:
        _tokens.clear()
        get(signed(href), what, first_byte=True)


def fetch(url: str, what: str, suffix: str, params=None, check: Callable = None, block_s: float = None) -> Path:
    """A file of a server, kept by ``keep``; ``check`` raises an InputError if the content isn't the one wanted."""
    def download():
        content = get(url, what, params, block_s)
        if check:
            check(content)
        return content
    return keep([url, params], what, suffix, download, url)


def keep(asked, what: str, suffix: str, make: Callable, source: str, most_s: float = float("inf")) -> Path:
    """A file kept in ``data/downloads`` under its checksum.

    ``make`` makes the content from an answer of the server ``source``. The JSON value ``asked`` identifies the request.
    A file older than ``most_s`` is made again; if ``make`` raises an InputError, the old file serves.
    """
    folder = home() / "data" / "downloads"
    entry = folder / (hashlib.sha256(json.dumps(asked).encode()).hexdigest()[:16] + ".json")
    facts = read_json(entry)
    known = facts and folder / facts["file"]
    if known and not (known.exists() and sha256(known) == facts["sha256"]):
        known = None
    if known and time.time() - entry.stat().st_mtime < most_s:
        return known
    try:
        content = make()
    except InputError:
        if known:
            return known
        raise
    digest = hashlib.sha256(content).hexdigest()
    path = folder / (digest[:16] + suffix)
    write_whole(path, content)
    # The entry comes last, so that an interrupted download is unknown.
    write_json(entry, {"file": path.name, "sha256": digest, "bytes": len(content), "what": what, "from": shown(source),
                       "when": datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds")})
    return path


def signed(href: str) -> str:
    """An address with a token, where one is needed."""
    service = address("TUTORIAL_SIGNING")
    if not is_remote(href) or not service or "TUTORIAL_SIGNING" not in os.environ and not (
            urlsplit(href).hostname or "").endswith(SIGNED_HOSTS):
        return href
    if service not in _tokens:
        what = "a token to read scenes with"
        content = get(service, what)
        try:
            _tokens[service] = json.loads(content)["token"]
        except (*NOT_JSON, KeyError, TypeError) as error:
            raise InputError(f"expected {what} from {urlsplit(service).hostname}, got an answer without one "
                             f"({type(error).__name__}). {OFFLINE}") from None
    return f"{href}{'&' if '?' in href else '?'}{_tokens[service]}"

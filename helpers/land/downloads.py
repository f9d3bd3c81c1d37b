"""Files from the network: asked for again while a server is busy, kept whole or not at all, checked when used again.

What is asked of whom stands in ``ADDRESSES``. A setting of the environment takes the place of each, so that mirrors,
and servers of one's own, are asked in the same way.
"""

import contextlib
import datetime
import hashlib
import json
import os
import time
from urllib.parse import urlsplit

from helpers import InputError
from helpers.files import sha256, whole_file, write_json
from helpers.runs import home

ADDRESSES = {
    # County boundaries of the Census, 1 : 500,000.
    "TUTORIAL_COUNTIES": "https://www2.census.gov/geo/tiger/GENZ2023/shp/cb_2023_us_county_500k.zip",
    # A STAC API; ?collection=…&asset=… where its pictures aren't called ``naip`` and ``image``.
    "TUTORIAL_SCENES": "https://planetarycomputer.microsoft.com/api/stac/v1",
    # Hands out a token to read the scenes with; empty: none is needed.
    "TUTORIAL_SIGNING": "https://planetarycomputer.microsoft.com/api/sas/v1/token/naip",
    # A WCS with Annual NLCD, with version and coverage; or a raster, or a folder of them, on this machine. A coverage
    # may have {year} in its name; any other is asked for a time. This server answers 1.0.0, and 2.0.1 with an error.
    "TUTORIAL_LABELS": "https://dmsdata.cr.usgs.gov/geoserver/mrlc_Land-Cover-Native_conus_year_data/wcs?version=1.0.0"
                       "&coverage=mrlc_Land-Cover-Native_conus_year_data:Land-Cover-Native_conus_year_data",
}
# Where tokens are needed, if nothing else is set.
SIGNED_HOSTS = ".blob.core.windows.net"
BUSY = (429, 500, 502, 503, 504)
TRIES = 5
# To connect; between two pieces of an answer; for all of it; and the longest that a server may ask us to wait.
CONNECT_S, PIECE_S, WHOLE_S, WAIT_S = 10, 30, 600, 120
# Before it is asked again for the second time; from then on twice as long each time.
BACKOFF_S = 0.3
# Until a server that has to compute its answer begins with it.
COMPUTE_S = 300
OFFLINE = "Try again later, what is finished is kept; or use the sample, catalog='sample', which needs no network."
# Tokens of this process, with the time until which they are used.
_tokens = {}


def address(name):
    """The address of a service: the environment's, else the one in ``ADDRESSES``."""
    value = os.environ.get(name)
    return ADDRESSES[name] if value is None else value


def is_remote(href):
    """Is this asked of a server?"""
    return str(href).startswith(("http://", "https://"))


def retries(reads=TRIES):
    """How often, and how patiently, a busy server is asked again; for ``requests`` and what is built on it."""
    from urllib3.util import Retry
    return Retry(total=TRIES, read=reads, backoff_factor=BACKOFF_S, status_forcelist=BUSY, allowed_methods=None,
                 raise_on_status=False, respect_retry_after_header=True, retry_after_max=WAIT_S)


@contextlib.contextmanager
def _session(reads=TRIES):
    import requests
    from requests.adapters import HTTPAdapter
    with requests.Session() as session:
        for scheme in ("http://", "https://"):
            session.mount(scheme, HTTPAdapter(max_retries=retries(reads)))
        yield session


def get(url, what, params=None, piece_s=None):
    """What a server answers.

    Parameters
    ----------
    url : str
    what : str
        How it is called in an error.
    params : dict or list of tuple, optional
        The query.
    piece_s : float, optional
        How long to wait for the first piece, and for each after it; by default ``PIECE_S``.

    Returns
    -------
    bytes

    Raises
    ------
    InputError
        If there is no whole answer after ``TRIES`` tries; without the query, which may hold a secret.
    """
    import requests
    host, came = urlsplit(url).netloc, None
    piece_s = PIECE_S if piece_s is None else piece_s
    whole_s = max(WHOLE_S, 2 * piece_s)
    # Who waits for minutes asks twice, not five times more.
    with _session(TRIES if piece_s <= PIECE_S else 1) as session:
        for attempt in range(TRIES):
            if attempt:
                time.sleep(BACKOFF_S * 2 ** attempt)
            started = time.monotonic()
            try:
                with session.get(url, params=params, timeout=(CONNECT_S, piece_s), stream=True) as response:
                    if response.status_code != 200:
                        came = f"status {response.status_code} {response.reason}"
                        break
                    pieces = []
                    for piece in response.iter_content(1 << 16):
                        pieces.append(piece)
                        if time.monotonic() - started > whole_s:
                            raise requests.exceptions.Timeout
                    return b"".join(pieces)
            except requests.exceptions.Timeout:
                came = f"no whole answer within {piece_s} s a piece and {whole_s} s in all"
                break
            except requests.exceptions.ChunkedEncodingError:
                came = "an answer that breaks off"
            except requests.exceptions.RequestException as error:
                came = f"no answer ({type(error).__name__})"
                break
    raise InputError(f"expected {what} from {host}, got {came}. {OFFLINE}")


def ready(href, what):
    """Wait until a server gives out a file, for as long as it asks us to wait (GDAL's own retries don't heed that).

    Parameters
    ----------
    href : str
        Without a token.
    what : str
        How it is called in an error.

    Raises
    ------
    InputError
        If it doesn't, with a fresh token either.
    """
    import requests
    parts, came = urlsplit(href), None
    with _session() as session:
        for anew in (False, True):
            try:
                with session.get(signed(href, anew)[0], headers={"Range": "bytes=0-0"}, timeout=(CONNECT_S, PIECE_S),
                                 stream=True) as response:
                    if response.status_code in (200, 206):
                        return
                    came = f"status {response.status_code} {response.reason}"
                    if response.status_code not in (401, 403):
                        break
            except requests.exceptions.RequestException as error:
                came = f"no answer ({type(error).__name__})"
                break
    raise InputError(f"expected {what} at {parts.scheme}://{parts.netloc}{parts.path}, got {came}. {OFFLINE}")


def fetch(url, what, suffix, params=None, check=None, piece_s=None):
    """A file of a server, kept in ``data/downloads`` under the checksum of its content.

    Parameters
    ----------
    url, what, params, piece_s
        As in ``get``.
    suffix : str
        What the name of the file ends with.
    check : callable, optional
        Gets the content, and raises an ``InputError`` if it isn't what was wanted.

    Returns
    -------
    pathlib.Path
        The file: whole, checked, and as it was downloaded.

    Raises
    ------
    InputError
    """
    def download():
        content = get(url, what, params, piece_s)
        if check is not None:
            check(content)
        return content
    return keep([url, list(params.items()) if isinstance(params, dict) else params], what, suffix, download, url)


def keep(asked, what, suffix, make, source, most_s=float("inf")):
    """What was made of a server's answer, kept in ``data/downloads`` under the checksum of its content.

    Parameters
    ----------
    asked : JSON value
        What tells it from others.
    what, suffix : str
        As in ``fetch``.
    make : callable
        Gives the content, bytes, or raises an ``InputError``.
    source : str
        The server's address.
    most_s : float
        Age after which it is made anew; where that fails, the old one serves.

    Returns
    -------
    pathlib.Path

    Raises
    ------
    InputError
    """
    folder = home() / "data" / "downloads"
    entry = folder / (hashlib.sha256(json.dumps(asked).encode()).hexdigest()[:16] + ".json")
    known = None
    if entry.exists():
        facts = json.loads(entry.read_text())
        path = folder / facts["file"]
        if path.exists() and sha256(path) == facts["sha256"]:
            known = path
            when = datetime.datetime.fromisoformat(facts["when"])
            if (datetime.datetime.now(datetime.timezone.utc) - when).total_seconds() < most_s:
                return path
    try:
        content = make()
    except InputError:
        if known is None:
            raise
        return known
    digest = hashlib.sha256(content).hexdigest()
    path = folder / (digest[:16] + suffix)
    with whole_file(path) as part:
        part.write_bytes(content)
    # Written last: what an interrupted download leaves is not known.
    parts = urlsplit(source)
    write_json(entry, {"file": path.name, "sha256": digest, "bytes": len(content), "what": what,
                       "from": f"{parts.scheme}://{parts.netloc}{parts.path}",
                       "when": datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds")})
    return path


def signed(href, anew=False):
    """An address with a token to read it with, where one is needed.

    Parameters
    ----------
    href : str
    anew : bool
        Ask for a token even where one is known: it was refused.

    Returns
    -------
    href : str
    until : float
        ``time.time()`` after which to ask again: four fifths of the token's life. Infinite without one.

    Raises
    ------
    InputError
        If there is no token to be had.
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
            raise InputError(f"expected {what} from {urlsplit(service).netloc}, got an answer without "
                             f"({type(error).__name__}). {OFFLINE}") from None
        until = time.time() + 0.8 * (expires - time.time())
        _tokens[service] = token, until
    return f"{href}{'&' if '?' in href else '?'}{token}", until

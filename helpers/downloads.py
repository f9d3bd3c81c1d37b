"""Files from the network: asked for again while a server is busy, kept whole or not at all, checked when used again.

What is asked of whom stands in ``ADDRESSES``. A setting of the environment takes the place of each, so that mirrors, and
servers of one's own, are asked in the same way.
"""

import datetime
import hashlib
import json
import os
import time
from urllib.parse import urlsplit

from helpers import InputError
from helpers.runs import home, sha256, whole_file, write_json

ADDRESSES = {
    # County boundaries of the Census, 1 : 500,000.
    "TUTORIAL_COUNTIES": "https://www2.census.gov/geo/tiger/GENZ2023/shp/cb_2023_us_county_500k.zip",
    # A STAC API with a collection ``naip``.
    "TUTORIAL_SCENES": "https://planetarycomputer.microsoft.com/api/stac/v1",
    # Hands out a token to read the scenes with; empty: none is needed.
    "TUTORIAL_SIGNING": "https://planetarycomputer.microsoft.com/api/sas/v1/token/naip",
    # A WCS with Annual NLCD, with version and coverage; or a raster, or a folder of them, on this machine. A coverage may
    # have {year} in its name, as MRLC's own have.
    "TUTORIAL_LABELS": "https://dmsdata.cr.usgs.gov/geoserver/mrlc_Land-Cover-Native_conus_year_data/wcs?version=2.0.1"
                       "&coverage=mrlc_Land-Cover-Native_conus_year_data__Land-Cover-Native_conus_year_data",
}
# Where tokens are needed, if nothing else is set.
SIGNED_HOSTS = ".blob.core.windows.net"

BUSY = (429, 500, 502, 503, 504)
TRIES = 5
# To connect; between two pieces of an answer; for all of it; and the longest that a server may ask us to wait.
CONNECT_S, PIECE_S, WHOLE_S, WAIT_S = 10, 30, 600, 120
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


def retries():
    """How often, and how patiently, a busy server is asked again; for ``requests`` and what is built on it."""
    from urllib3.util import Retry
    return Retry(total=TRIES, backoff_factor=0.3, status_forcelist=BUSY, allowed_methods=None, raise_on_status=False,
                 respect_retry_after_header=True, retry_after_max=WAIT_S)


def get(url, what, params=None):
    """What a server answers.

    Parameters
    ----------
    url : str
    what : str
        How it is called in an error.
    params : dict or list of tuple, optional
        The query.

    Returns
    -------
    bytes

    Raises
    ------
    InputError
        If there is no whole answer after ``TRIES`` tries; without the query, which may hold a secret.
    """
    import requests
    from requests.adapters import HTTPAdapter
    host, came = urlsplit(url).netloc, None
    with requests.Session() as session:
        for scheme in ("http://", "https://"):
            session.mount(scheme, HTTPAdapter(max_retries=retries()))
        for attempt in range(TRIES):
            if attempt:
                time.sleep(0.3 * 2 ** attempt)
            started = time.monotonic()
            try:
                with session.get(url, params=params, timeout=(CONNECT_S, PIECE_S), stream=True) as response:
                    if response.status_code != 200:
                        came = f"status {response.status_code} {response.reason}"
                        break
                    pieces = []
                    for piece in response.iter_content(1 << 16):
                        pieces.append(piece)
                        if time.monotonic() - started > WHOLE_S:
                            raise requests.exceptions.Timeout
                    return b"".join(pieces)
            except requests.exceptions.Timeout:
                came = f"no whole answer within {PIECE_S} s a piece and {WHOLE_S} s in all"
                break
            except requests.exceptions.ChunkedEncodingError:
                came = "an answer that breaks off"
            except requests.exceptions.RequestException as error:
                came = f"no answer ({type(error).__name__})"
                break
    raise InputError(f"expected {what} from {host}, got {came}. {OFFLINE}")


def fetch(url, what, suffix, params=None, check=None):
    """A file of a server, kept in ``data/downloads`` under the checksum of its content.

    Parameters
    ----------
    url, what, params
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
    folder = home() / "data" / "downloads"
    asked = json.dumps([url, list(params.items()) if isinstance(params, dict) else params])
    entry = folder / (hashlib.sha256(asked.encode()).hexdigest()[:16] + ".json")
    if entry.exists():
        known = json.loads(entry.read_text())
        path = folder / known["file"]
        if path.exists() and sha256(path) == known["sha256"]:
            return path
    content = get(url, what, params)
    if check is not None:
        check(content)
    digest = hashlib.sha256(content).hexdigest()
    path = folder / (digest[:16] + suffix)
    with whole_file(path) as part:
        part.write_bytes(content)
    # Written last: what an interrupted download leaves is not known.
    parts = urlsplit(url)
    write_json(entry, {"file": path.name, "sha256": digest, "bytes": len(content), "what": what,
                       "from": f"{parts.scheme}://{parts.netloc}{parts.path}",
                       "when": datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds")})
    return path


def signed(href):
    """An address with a token to read it with, where one is needed.

    Parameters
    ----------
    href : str

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
    if time.time() >= until:
        what = "a token to read scenes with"
        content = get(service, what)
        try:
            answer = json.loads(content)
            token = answer["token"]
            expires = datetime.datetime.fromisoformat(answer["msft:expiry"].replace("Z", "+00:00")).timestamp()
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise InputError(f"expected {what} from {urlsplit(service).netloc}, got an answer without "
                             f"({type(error).__name__}). {OFFLINE}") from error
        until = time.time() + 0.8 * (expires - time.time())
        _tokens[service] = token, until
    return f"{href}{'&' if '?' in href else '?'}{token}", until

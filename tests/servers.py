"""Real servers on this machine, for the tests: files with range requests and planted faults, STAC, WCS."""

import contextlib
import os
import re
import shutil
import socket
import subprocess
import threading
import time
import urllib.request
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import parse_qs, parse_qsl, urlencode, urlsplit

import numpy as np
import pytest


class Server(ThreadingHTTPServer):
    daemon_threads = True

    def handle_error(self, request, client_address):
        """Who asked may have given up."""


class Files:
    """A folder behind HTTP, as a cloud's storage serves it.

    Attributes
    ----------
    faults : list of callable
        Each gets the request's handler; the first that returns True has answered in the server's place, and is used up.
    bytes_sent : int
        Of files, since the start.
    asked : list of str
        Paths with queries.
    """

    def __init__(self, folder, token=None):
        self.folder, self.token = Path(folder), token
        self.faults, self.asked, self.bytes_sent = [], [], 0
        outer = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_GET(self):
                outer.answer(self)

            do_HEAD = do_POST = do_GET

            def log_message(self, *arguments):
                pass

        self._server = Server(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._server.server_port}"

    def __enter__(self):
        threading.Thread(target=self._server.serve_forever, daemon=True).start()
        return self

    def __exit__(self, *_):
        self._server.shutdown()
        self._server.server_close()

    def answer(self, request):
        self.asked.append(request.path)
        for fault in list(self.faults):
            if fault(request):
                self.faults.remove(fault)
                return
        parts = urlsplit(request.path)
        path = self.folder / parts.path.lstrip("/")
        if self.token is not None and not self.token(parse_qs(parts.query).get("sig", [""])[0]):
            return reply(request, 403, b"not signed")
        if not path.is_file():
            return reply(request, 404, b"no such file")
        content, size = path.read_bytes(), path.stat().st_size
        wanted = re.fullmatch(r"bytes=(\d+)-(\d*)", request.headers.get("Range") or "")
        if not wanted:
            piece, status, headers = content, 200, {}
        else:
            first, last = int(wanted[1]), min(int(wanted[2] or size - 1), size - 1)
            if first >= size:
                return reply(request, 416, b"", {"Content-Range": f"bytes */{size}"})
            piece, status = content[first:last + 1], 206
            headers = {"Content-Range": f"bytes {first}-{last}/{size}"}
        if request.command == "GET":
            self.bytes_sent += len(piece)
        reply(request, status, piece, dict(headers, **{"Accept-Ranges": "bytes"}))


def reply(request, status, content=b"", headers=()):
    request.send_response(status)
    for name, value in dict(headers).items():
        request.send_header(name, value)
    request.send_header("Content-Length", str(len(content)))
    request.end_headers()
    if request.command != "HEAD":
        request.wfile.write(content)
    return True


def busy(status=503, after="1"):
    """Too busy; come back in so many seconds."""
    return lambda request: reply(request, status, b"", {"Retry-After": after})


def cut_off(request):
    """Half of an answer."""
    request.send_response(200)
    request.send_header("Content-Length", "1000")
    request.end_headers()
    request.wfile.write(b"x" * 500)
    request.wfile.flush()
    request.close_connection = True
    request.connection.shutdown(socket.SHUT_RDWR)
    return True


def moved_to(url, status=302):
    return lambda request: reply(request, status, b"", {"Location": url})


class Proxy(Files):
    """Another server behind this one, for its faults; its answers' links lead back here."""

    def __init__(self, behind):
        super().__init__(".")
        self.behind = behind

    def answer(self, request):
        self.asked.append(request.path)
        for fault in list(self.faults):
            if fault(request):
                self.faults.remove(fault)
                return
        body = request.rfile.read(int(request.headers.get("Content-Length") or 0))
        passed = urllib.request.Request(self.behind + request.path, data=body or None, method=request.command, headers={
            "Content-Type": request.headers.get("Content-Type") or "application/json"})
        with urllib.request.urlopen(passed, timeout=30) as answer:
            content = answer.read().replace(self.behind.encode(), self.url.encode())
            reply(request, answer.status, content, {"Content-Type": answer.headers["Content-Type"]})


def silent(seconds):
    def wait(request):
        time.sleep(seconds)
        return reply(request, 200, b"late")
    return wait


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def wait_until(true, process: subprocess.Popen = None, timeout_s: float = 300, otherwise: str = "it takes too long"):
    """Wait until something is true. Fail after some seconds, or when the process that makes it true has ended."""
    deadline = time.monotonic() + timeout_s
    while not true():
        assert time.monotonic() < deadline and (process is None or process.poll() is None), otherwise
        time.sleep(0.05)


def wait_for(port: int, process: subprocess.Popen, name: str):
    """Wait until the server that a process is listens at its port."""
    def listens():
        with socket.socket() as probe:
            return probe.connect_ex(("127.0.0.1", port)) == 0

    wait_until(listens, process, 60, f"{name} doesn't start")


@contextlib.contextmanager
def stac(items, folder):
    """``rustac serve`` over STAC items; yields its address."""
    import json
    port = free_port()
    path = Path(folder) / "items.json"
    path.write_text(json.dumps({"type": "FeatureCollection", "features": items}))
    command = shutil.which("rustac", path=os.pathsep.join([str(Path(os.sys.executable).parent), os.environ["PATH"]]))
    if command is None:
        pytest.skip("no rustac here: pip install -r requirements.txt")
    with open(Path(folder) / "rustac.log", "w") as log:
        server = subprocess.Popen([command, "serve", str(path), "--addr", f"127.0.0.1:{port}"], stdout=log, stderr=log)
        try:
            wait_for(port, server, "rustac")
            yield f"http://127.0.0.1:{port}"
        finally:
            server.terminate()
            server.wait(10)


MAPFILE = """
MAP
  NAME "landcover"
  EXTENT {extent}
  SIZE 100 100
  MAXSIZE 8192
  PROJECTION "init=epsg:5070" END
  OUTPUTFORMAT NAME "GTiff" DRIVER "GDAL/GTiff" MIMETYPE "image/tiff" IMAGEMODE BYTE EXTENSION "tif" END
  WEB METADATA "ows_title" "labels" "ows_onlineresource" "{url}" "ows_srs" "EPSG:5070" "ows_enable_request" "*" END END
{layers}
END
"""
LAYER = """
  LAYER
    NAME "{name}"
    TYPE RASTER
    STATUS ON
    DATA "{raster}"
    PROJECTION "init=epsg:5070" END
    METADATA
      "wcs_label" "nlcd" "wcs_rangeset_name" "codes" "wcs_rangeset_label" "codes" "wcs_srs" "EPSG:5070"
      "wcs_formats" "GTiff" "wcs_nativeformat" "GTiff" "wcs_extent" "{extent}" "wcs_resolution" "30 30"
      "wcs_bandcount" "1"
    END
  END
"""


@contextlib.contextmanager
def wcs(years, folder, timed=None):
    """MapServer over label rasters; yields its address and what it was asked.

    Parameters
    ----------
    years : dict of int to str
        Rasters; each is a coverage ``nlcd_<year>``.
    folder : pathlib.Path
        For its files.
    timed : str, optional
        The name of a coverage with a time, as MRLC's GeoServer has one: this server turns a request for it and a time
        into one for the year's coverage, and GeoServer's name of the format into MapServer's. Without a time, or for a
        year that it lacks, it answers as GeoServer does, an exception with status 200.
    """
    import rasterio
    program = shutil.which("mapserv", path=os.environ["PATH"] + os.pathsep + "/usr/lib/cgi-bin")
    if program is None:
        pytest.skip("no MapServer on this machine: install it (on Debian: apt-get install cgi-mapserver)")
    layers = []
    for year, raster in years.items():
        # The live coverage is the whole country: with an edge around it, a county's rectangle lies inside here too.
        with rasterio.open(raster) as opened:
            edge, path = 60, Path(folder) / f"wcs_{year}.tif"
            profile = dict(opened.profile, width=opened.width + 2 * edge, height=opened.height + 2 * edge, tiled=False,
                           transform=opened.transform * rasterio.Affine.translation(-edge, -edge))
            with rasterio.open(path, "w", **profile) as wider:
                wider.write(np.pad(opened.read(1), edge, constant_values=250), 1)
                extent = " ".join(map(str, wider.bounds))
        layers.append(LAYER.format(name=f"nlcd_{year}", raster=path, extent=extent))
    mapfile, config = Path(folder) / "labels.map", Path(folder) / "mapserver.conf"
    config.write_text('CONFIG ENV MS_MAP_PATTERN "." END END')

    def at_its_time(query):
        asked = dict(parse_qsl(query))
        if timed is None or asked.get("coverage") != timed:
            return query
        time = re.fullmatch(r"(\d{4})-01-01T00:00:00\.000Z", asked.pop("time", ""))
        if not time or int(time[1]) not in years or asked["version"] != "1.0.0" or asked["format"] != "GeoTIFF":
            return None
        return urlencode(dict(asked, coverage=f"nlcd_{time[1]}", format="GTiff"))

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self):
            self.server.asked.append(urlsplit(self.path).query)
            query = at_its_time(urlsplit(self.path).query)
            if query is None:
                return reply(self, 200, b"<ServiceExceptionReport><ServiceException>java.lang.NullPointerException"
                             b"</ServiceException></ServiceExceptionReport>", {"Content-Type": "text/xml"})
            done = subprocess.run([program], capture_output=True, timeout=60, env={
                "QUERY_STRING": f"map={mapfile}&{query}", "REQUEST_METHOD": "GET",
                "MAPSERVER_CONFIG_FILE": str(config)})
            head, _, body = done.stdout.partition(b"\r\n\r\n")
            kind = re.search(rb"(?i)content-type: *([^\r\n]+)", head)
            reply(self, 200, body, {"Content-Type": kind[1].decode() if kind else "text/plain"})

        def log_message(self, *arguments):
            pass

    server = Server(("127.0.0.1", 0), Handler)
    server.asked = []
    url = f"http://127.0.0.1:{server.server_port}"
    mapfile.write_text(MAPFILE.format(extent=extent, url=f"{url}/wcs", layers="".join(layers)))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"{url}/wcs", server.asked
    finally:
        server.shutdown()
        server.server_close()


def winners(create, tries=8):
    """Numbers of the threads that create a file, of some that try it at the same moment."""
    begin, found = threading.Barrier(tries), []

    def try_it(number):
        begin.wait()
        with contextlib.suppress(FileExistsError):
            create(number)
            found.append(number)

    threads = [threading.Thread(target=try_it, args=(number,)) for number in range(tries)]
    [thread.start() for thread in threads]
    [thread.join() for thread in threads]
    return found

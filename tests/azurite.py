"""Azure storage on this machine: Azurite, and a proxy in front of it that a test can let fail."""

import http.client
import http.server
import shutil
import subprocess
import threading
import time
from datetime import datetime, timedelta, timezone
from pathlib import Path

import pytest

from servers import free_port, wait_for

# The last release for Node 20. It goes to an ignored folder and is kept there between runs.
VERSION = "3.35.0"
FOLDER = Path(__file__).resolve().parents[1] / ".venv-azurite"
# Azurite's account and key, the same on every machine: learn.microsoft.com, "Use the Azurite emulator".
ACCOUNT = "devstoreaccount1"
KEY = "Eby8vdM02xNOcqFlqUwJPLlmEtlCDXJ1OUzFT50uSRZ6IFsuFq2UVErCz4I6tq/K1SZFPTOtr/KBHBeksoGMGw=="


def install():
    """The program; installed once."""
    program = FOLDER / "node_modules" / ".bin" / "azurite-blob"
    if not program.exists():
        if not shutil.which("npm"):
            pytest.skip("no npm here to install Azurite with: install Node.js 20 or newer")
        FOLDER.mkdir(exist_ok=True)
        subprocess.run(["npm", "install", "--silent", "--no-audit", "--no-fund", "--prefix", str(FOLDER),
                        f"azurite@{VERSION}"], check=True, timeout=300, stdout=subprocess.DEVNULL)
    return program


class Azurite:
    """Azurite as a process, behind ``Proxy``.

    Attributes
    ----------
    proxy : Proxy
    connection_string : str
    """

    def __init__(self, folder):
        port = free_port()
        self._log = open(folder / "azurite.log", "w")
        self._process = subprocess.Popen(
            [str(install()), "--blobHost", "127.0.0.1", "--blobPort", str(port), "--location", str(folder), "--silent",
             "--skipApiVersionCheck", "--disableTelemetry"], stdout=self._log, stderr=subprocess.STDOUT)
        wait_for(port, self._process, "Azurite")
        self.proxy = Proxy(port)
        self.connection_string = f"{self._endpoint()}AccountName={ACCOUNT};AccountKey={KEY};"

    @property
    def endpoint(self):
        return f"http://127.0.0.1:{self.proxy.port}/{ACCOUNT}"

    def _endpoint(self):
        return f"DefaultEndpointsProtocol=http;BlobEndpoint={self.endpoint};"

    def token(self, container, minutes):
        """A SAS token for a container that ends so many minutes from now."""
        from azure.storage.blob import generate_container_sas
        ends = datetime.now(timezone.utc) + timedelta(minutes=minutes)
        return generate_container_sas(ACCOUNT, container, account_key=KEY, permission="racwdl", expiry=ends,
                                      start=ends - timedelta(days=1))

    def with_token(self, container, minutes):
        """A connection string with such a token."""
        return f"{self._endpoint()}SharedAccessSignature={self.token(container, minutes)}"

    def container(self, name):
        from azure.storage.blob import BlobServiceClient
        with BlobServiceClient.from_connection_string(self.connection_string) as client:
            client.create_container(name)

    def close(self):
        self.proxy.close()
        self._process.terminate()
        self._process.wait(20)
        self._log.close()


class Proxy:
    """Hands requests on, unless ``fault`` says otherwise.

    Attributes
    ----------
    fault : callable or None
        Given method and path; returns None, ``"busy"`` (503, come back in a second), ``"cut"`` (half of the answer's
        body, then the end), ``"drop"`` (neither done nor answered), ``"lost"`` (done, but not answered).
    faults : list of str
        Those it made, in order.
    requests : list of tuple
        Method, path and moment of each.
    """

    def __init__(self, port):
        self.fault, self.faults, self.requests = None, [], []
        proxy, lock = self, threading.Lock()

        class Handler(http.server.BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def log_message(self, *args):
                pass

            def handle_any(self):
                body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
                with lock:
                    proxy.requests.append((self.command, self.path, time.monotonic()))
                    fault = proxy.fault and proxy.fault(self.command, self.path)
                    if fault:
                        proxy.faults.append(fault)
                if fault == "drop":
                    self.close_connection = True
                    return
                if fault == "busy":
                    self.send_response(503)
                    self.send_header("Retry-After", "1")
                    self.send_header("x-ms-error-code", "ServerBusy")
                    self.send_header("Content-Length", "0")
                    self.end_headers()
                    return
                inner = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
                inner.request(self.command, self.path, body, dict(self.headers))
                answer = inner.getresponse()
                content = answer.read()
                if fault == "lost":
                    self.close_connection = True
                    return
                self.send_response_only(answer.status, answer.reason)
                for name, value in answer.getheaders():
                    if name.lower() not in ("transfer-encoding", "connection", "content-length"):
                        self.send_header(name, value)
                length = answer.getheader("Content-Length") if self.command == "HEAD" else str(len(content))
                self.send_header("Content-Length", length or "0")
                self.end_headers()
                if self.command != "HEAD":
                    self.wfile.write(content[:len(content) // 2] if fault == "cut" else content)
                if fault == "cut":
                    self.close_connection = True
                inner.close()

            do_GET = do_PUT = do_HEAD = do_DELETE = do_POST = handle_any

        class Server(http.server.ThreadingHTTPServer):
            daemon_threads = True

            def handle_error(self, request, client_address):
                pass  # A client that has gone away.

        self._server = Server(("127.0.0.1", 0), Handler)
        self.port = self._server.server_address[1]
        self._thread = threading.Thread(target=self._server.serve_forever, daemon=True)
        self._thread.start()

    def close(self):
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()

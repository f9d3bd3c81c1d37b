"""The Python beside Livy's driver: it executes one cell after another, and ``spark`` is there.

A line that it reads is a cell in base64; a line that it writes is what the cell has put out, as Livy's JSON.
"""

import ast
import base64
import contextlib
import io
import json
import os
import sys
import traceback

from pyspark import SparkConf, SparkContext
from pyspark.java_gateway import launch_gateway
from pyspark.sql import SparkSession


def session():
    """The driver's session, through a gateway that pins no Python thread to a Java thread, as in Livy."""
    os.environ["PYSPARK_PIN_THREAD"] = "false"
    gateway = launch_gateway()
    del os.environ["PYSPARK_PIN_THREAD"]
    java = gateway.entry_point
    context = SparkContext(gateway=gateway, jsc=java, conf=SparkConf(_jvm=gateway.jvm, _jconf=java.getConf()))
    return SparkSession(context)


def run(source, namespace):
    """As Livy's own shell: all but the last statement are executed, the last is shown."""
    *first, last = ast.parse(source, "<stdin>").body or [ast.Pass(lineno=1, col_offset=0)]
    exec(compile(ast.Module(first, []), "<stdin>", "exec"), namespace)
    exec(compile(ast.Interactive([last]), "<stdin>", "single"), namespace)


def output(source, namespace):
    said, complained = io.StringIO(), io.StringIO()
    try:
        with contextlib.redirect_stdout(said), contextlib.redirect_stderr(complained):
            run(source, namespace)
    except BaseException as error:  # SystemExit too: the session goes on.
        return {"status": "error", "ename": type(error).__name__, "evalue": str(error),
                "traceback": traceback.format_exc().splitlines(True)}
    return {"status": "ok", "data": {"text/plain": (said.getvalue() + complained.getvalue()).rstrip()}}


def main():
    spark = session()
    namespace = {"__name__": "__main__", "spark": spark, "sc": spark.sparkContext}
    for number, line in enumerate(sys.stdin):
        answer = output(base64.b64decode(line).decode(), namespace)
        print(json.dumps(dict(answer, execution_count=number)), flush=True)


main()

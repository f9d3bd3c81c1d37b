"""Executes a notebook's code cells the way Livy's interpreter does: statement by statement, ``spark`` already defined.

    python livy.py NOTEBOOK MASTER PARAMETERS

PARAMETERS is JSON; it replaces values of the cell tagged ``parameters``.
"""

import ast
import json
import os
import sys

from pyspark.sql import SparkSession

os.environ["MPLBACKEND"] = "Agg"


def run(source, name, namespace):
    """As Livy's fake shell: all but the last statement are executed, the last is shown."""
    *first, last = ast.parse(source).body
    exec(compile(ast.Module(first, []), name, "exec"), namespace)
    exec(compile(ast.Interactive([last]), name, "single"), namespace)


def main(path, master, parameters):
    spark = SparkSession.builder.master(master).appName("livy").getOrCreate()
    namespace = {"__name__": "__main__", "spark": spark, "sc": spark.sparkContext}
    with open(path, encoding="utf-8") as file:
        cells = [cell for cell in json.load(file)["cells"] if cell["cell_type"] == "code"]
    for number, cell in enumerate(cells):
        run("".join(cell["source"]), f"cell {number}", namespace)
        if "parameters" in cell["metadata"].get("tags", []):
            namespace.update(json.loads(parameters))
    # Livy's session is the user's; the notebook has not ended it.
    print("still there:", spark.range(3).count(), flush=True)
    spark.stop()


main(*sys.argv[1:])

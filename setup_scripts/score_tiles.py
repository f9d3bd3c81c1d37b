"""Score a tile store into a prediction table; run it again after whatever stopped it, and it goes on.

    .venv/bin/python setup_scripts/score_tiles.py runs/sample/tiles runs/sample/models/tensorflow table
"""

import argparse
import logging
import signal
import sys

from helpers import InputError
from helpers.cluster import session
from helpers.model import bundle
from helpers.scoring import score as scoring
from helpers.cluster.progress import progress
from helpers.scoring.table import summary, tell


def main(arguments):
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("tiles", help="URI of the tile store")
    parser.add_argument("model", help="URI of the model bundle")
    parser.add_argument("table", help="URI of the prediction table")
    parser.add_argument("--engine", default="fastest", help="fastest (default), or the name of an engine")
    parser.add_argument("--master", default="local[*]", help="Spark master (default: local[*])")
    parser.add_argument("--chunk-tiles", type=int, metavar="N", help="tiles that join the table together")
    parser.add_argument("--replace", action="store_true",
                        help="delete a table of another model, engine or store first")
    parser.add_argument("--log", metavar="FILE", help="write a line for each event to this file")
    chosen = parser.parse_args(arguments)
    # Py4J tells the root of all loggers, by pages, of a job that was stopped by hand; what it meets is raised too.
    logging.basicConfig(handlers=[logging.NullHandler()])
    if chosen.log:
        handler = logging.FileHandler(chosen.log)
        handler.setFormatter(logging.Formatter("%(asctime)s %(name)s %(message)s"))
        logging.getLogger("helpers").addHandler(handler)
        logging.getLogger("helpers").setLevel(logging.INFO)
    model = bundle.load(chosen.model)
    spark = session.start(chosen.master, "scoring")
    # Spark's own answer to Ctrl-C asks Java something in the middle of another question.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        with progress(spark, "scoring"):
            scoring.score(spark, chosen.tiles, model, chosen.table, chosen.engine, chunk_tiles=chosen.chunk_tiles,
                          replace=chosen.replace)
    finally:
        session.stop(spark)
    print(tell(summary(chosen.table)))


if __name__ == "__main__":
    try:
        main(sys.argv[1:])
    except InputError as error:
        print(error, file=sys.stderr)
        sys.exit(2)
    except KeyboardInterrupt:
        print("Stopped. Run the same command again, and it goes on where it was.", file=sys.stderr)
        sys.exit(130)

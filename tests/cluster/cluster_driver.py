"""A driver for the tests of the cluster: scores what it is told to on standard input, slowly, until that closes.

Each line is the arguments of ``scoring.score`` as JSON, each answer a line. Its workers write the names of the
tiles that they score into a folder, so that the tests can count them.
"""

import json
import logging
import sys

from helpers import InputError
from helpers.cluster import session
from helpers.model import bundle
from helpers.scoring import score as scoring
from helpers.cluster.progress import progress
from helpers.scoring.table import summary

SLOW = """
import os, time
from helpers import scoring, scoring_process
score_batch = scoring.score_batch
def slow(batch, *rest):
    time.sleep({pause})
    done = score_batch(batch, *rest)
    with open(os.path.join({folder!r}, str(os.getpid())), "a") as file:
        file.write("".join(tile_id + "\\n" for tile_id in batch["tile_id"]))
    return done
scoring_process.serve(slow)
"""


def slowed(on_worker, program):
    def slow(*arguments):
        run = on_worker(*arguments)

        def on_this_worker(batches):
            from helpers.scoring import guard as scoring_process
            before, scoring_process.PROGRAM = scoring_process.PROGRAM, program
            try:
                yield from run(batches)
            finally:
                scoring_process.PROGRAM = before
        return on_this_worker
    return slow


def main(master, folder, pause, batch_rows):
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(name)s %(message)s")
    logging.getLogger("py4j").setLevel(logging.WARNING)
    scoring._on_worker = slowed(scoring._on_worker, SLOW.format(folder=folder, pause=float(pause)))
    spark = session.start(master, "tests", settings={"spark.sql.execution.arrow.maxRecordsPerBatch": batch_rows})
    print(json.dumps({"slots": spark.sparkContext.defaultParallelism}), flush=True)
    for line in sys.stdin:
        asked = json.loads(line)
        try:
            with progress(spark, "scoring"):
                rows = scoring.score(spark, asked.pop("tiles"), bundle.load(asked.pop("model")), **asked)
            answer = {"rows": rows, "summary": summary(asked["predictions_uri"])}
        except InputError as error:
            answer = {"refused": str(error)}
        print(json.dumps(answer), flush=True)
    session.stop(spark)


if __name__ == "__main__":
    main(*sys.argv[1:])

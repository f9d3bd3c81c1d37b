"""A driver for the tests of the cluster: scores what it is told to on standard input, slowly, until that closes.

Each line is the arguments of ``score`` as JSON, each answer a line. Its workers write checksums of the pictures that
they score into a folder, so that the tests can count them.
"""

import json
import logging
import os
import sys

sys.path.append(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))

import faulty  # noqa: E402
from helpers import InputError  # noqa: E402
from helpers.cluster import adapter, session  # noqa: E402
from helpers.model import bundle  # noqa: E402
from helpers.scoring import guard, score as scoring  # noqa: E402
from helpers.scoring.table import summary  # noqa: E402


def main(master, folder, pause_s):
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(name)s %(message)s")
    logging.getLogger("py4j").setLevel(logging.WARNING)
    scoring.score_unit = faulty.on_workers(scoring.score_unit, FAULTY={"folder": folder, "pause_s": float(pause_s)})
    spark = session.start(master, "tests")
    print(json.dumps({"slots": adapter.slots(spark)}), flush=True)
    for line in sys.stdin:
        asked = json.loads(line)
        try:
            rows = scoring.score(spark, asked.pop("tiles"), bundle.load(asked.pop("model")), **asked)
            answer = {"rows": rows, "summary": summary(asked["predictions_uri"])}
        except InputError as error:
            answer = {"refused": str(error)}
        print(json.dumps(answer), flush=True)
    session.stop(spark)


if __name__ == "__main__":
    assert guard.CALL_TILES < 60, "the tests count on calls that are smaller than units"
    main(*sys.argv[1:])

"""Toy units of work: each is a number and writes as many rows. As a program, a driver of its own that does them.

    python toy.py MASTER FOLDER PAUSE_S [COUNT SWELLS]

FOLDER gets the log of what was done, and the files. The unit SWELLS of COUNT takes 4 GB of memory the first time.
"""

import json
import sys
from collections import Counter
from pathlib import Path

from helpers.cluster import session
from helpers.cluster.work import name, run

FOLDERS = ["county=25017/year=2010", "county=25017/year=2012"]


def units(count):
    return {name(FOLDERS[number % 2], number): number for number in range(1, count + 1)}


def files(folder):
    """Everything in a folder and its folders: content by name."""
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def work(log=None, pause_s=0, fails=(), dies=None, swells=None):
    """What does a unit: it notes so in a folder; some units fail with an error, and the first time one kills its worker
    or takes memory until somebody else does."""
    fails, log = dict(fails), log and str(log)

    def do(number):
        import os
        import signal
        import time
        import pyarrow as pa
        if log:
            os.makedirs(log, exist_ok=True)
            tries = sum(line.startswith(f"{number}-") for line in os.listdir(log))
            open(os.path.join(log, f"{number}-{tries}-{os.getpid()}"), "x").close()
            if number == dies and not tries:
                os.kill(os.getpid(), signal.SIGKILL)
            if number == swells and not tries:
                swollen = b"x" * (4 << 30)
                time.sleep(600 if swollen else 0)
        if number in fails:
            raise fails[number](f"expected another unit, got {number}.")
        time.sleep(pause_s)
        return pa.table({"tile_id": [f"{number}-{row}" for row in range(number)]}), {"unit": number}, {"toy": 0.5}

    return do


def log(folder):
    """How often each unit was begun."""
    return Counter(int(path.name.split("-")[0]) for path in Path(folder).iterdir())


def main(master, folder, pause_s, count=6, swells=0):
    spark = session.start(master, "toy")
    done = run(spark, units(int(count)), work(Path(folder, "log"), float(pause_s), swells=int(swells)),
               str(Path(folder, "out")))
    print(json.dumps({"rows": done.rows, "failed": list(done.failed)}), flush=True)
    session.stop(spark)


if __name__ == "__main__":
    main(*sys.argv[1:])

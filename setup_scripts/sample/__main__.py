"""Draw the sample counties into data/: python setup_scripts/sample [--seed N]. What is drawn already is kept."""

import argparse
import sys
from pathlib import Path

# Python puts the folder that it runs on its path, not the one around it.
sys.path[0] = str(Path(__file__).resolve().parents[1])

from helpers import InputError  # noqa: E402
from helpers.runs import home  # noqa: E402
import sample  # noqa: E402
from tutorial_options import seed as checked_seed  # noqa: E402

if __name__ == "__main__":
    parser = argparse.ArgumentParser(prog="setup_scripts/sample", description=__doc__)
    parser.add_argument("--seed", type=checked_seed, default=0)
    seed = parser.parse_args().seed
    try:
        print(sample.draw(home() / "data" / f"sample-{seed}", seed, progress=lambda line: print(line, flush=True)))
    except InputError as error:
        sys.exit(str(error))

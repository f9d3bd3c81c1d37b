"""``python -m helpers.pretraining resnet_small --folder data/pretraining``: see ``helpers/model/weights/README.md``."""

import argparse
import sys
import time

from helpers import InputError
from helpers.files import sha256
from helpers.pretraining import training

def main():
    parser = argparse.ArgumentParser(
        prog="python -m helpers.pretraining",
        description="Make the embedded weights again. Interrupted, it goes on where it stopped when run again.")
    parser.add_argument("name", help="resnet_small or alexnet_small")
    parser.add_argument("--folder", default="data/pretraining", help="for pictures, state and result (3 GB)")
    parser.add_argument("--passes", type=float, help="how often each picture is seen")
    parser.add_argument("--workers", type=int, default=2, help="processes that draw")
    parser.add_argument("--threads", type=int, default=2, help="cores that train")
    parser.add_argument("--small", action="store_true", help="a rehearsal in a minute, on 20 classes")
    options = parser.parse_args()

    def progress(line):
        print(time.strftime("%H:%M:%S"), line, flush=True)

    import tensorflow as tf
    tf.config.threading.set_intra_op_parallelism_threads(options.threads)
    tf.config.threading.set_inter_op_parallelism_threads(1)
    try:
        path = training.pretrain(options.name, options.folder, options.passes, options.small, options.workers,
                                 progress=progress)
    except InputError as error:
        sys.exit(str(error))
    progress("wrote {}; to embed it, copy it to helpers/model/weights and put this line in SHA256SUMS there:".format(path))
    print(sha256(path) + "  " + path.name)


if __name__ == "__main__":
    main()

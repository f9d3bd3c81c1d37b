"""CNTK's side of the engine ``cntk``: a program that reads batches of tiles from a pipe and answers with probabilities.

CNTK 2.7 needs Python 3.6, and Spark's workers run a newer one. So each worker keeps a process of this program, started
as ``python3.6 -c <this file's text> model.model threads descriptor``: it needs no other file, and only NumPy and CNTK.

The descriptor is one end of a ``multiprocessing.Pipe``. First the program sends the network's height and width, int64.
Then it answers each message, the bytes of a batch of tiles, with the bytes of their probabilities, float32. When the
pipe closes, it ends.
"""

import contextlib
import ctypes
import os
import sys
import warnings
from multiprocessing.connection import Connection

import numpy as np

# Tiles that pass through the network at once: more would take more memory, and no less time.
BATCH = 8


@contextlib.contextmanager
def silent(descriptor: int):
    """Silence standard output (1) or standard error (2), of C++ code too."""
    kept, nowhere = os.dup(descriptor), os.open(os.devnull, os.O_WRONLY)
    try:
        os.dup2(nowhere, descriptor)
        yield
    finally:
        ctypes.CDLL(None).fflush(None)
        os.dup2(kept, descriptor)
        os.close(kept)
        os.close(nowhere)


def start_cntk(threads: int = None):
    """Import CNTK for the CPU without its start-up messages; the first call in a process sets the threads.

    The default is half of the cores: CNTK's threads wait in loops, and crawl where other programs want the same cores.
    """
    if "cntk" in sys.modules:
        return sys.modules["cntk"]
    threads = threads or max(1, len(os.sched_getaffinity(0)) // 2)
    os.environ["OMP_NUM_THREADS"] = os.environ["MKL_NUM_THREADS"] = str(threads)
    # On processors that aren't Intel's, MKL 2018 runs its slowest code. This asks for AVX2, six times as fast.
    with open("/proc/cpuinfo") as file:
        if " avx2" in file.read():
            os.environ.setdefault("MKL_DEBUG_CPU_TYPE", "5")
    sys.stdout.flush()
    with silent(1), warnings.catch_warnings():  # CNTK's C++ part prints the device it chose.
        warnings.simplefilter("ignore")  # CNTK doesn't know this Linux, and misses a graphics card.
        try:
            import cntk
        except ImportError as error:
            raise ImportError(f"expected CNTK 2.7 and its library path, got: {error}. Run "
                              "setup_scripts/install_cntk.sh, and choose the kernel CNTK 2.7.")
        cntk.device.try_set_default_device(cntk.device.cpu())
        cntk.device.use_default_device()
        cntk.cntk_py.set_max_num_cputhreads(threads)
        cntk.logging.set_trace_level(cntk.logging.TraceLevel.Error)
    return cntk


def load_network(cntk, path: str):
    """Load a ``cntk.Function`` from a file, or raise a ValueError if the file holds user-defined code."""
    refused = []

    def refuse(self, inputs, name, dictionary):
        refused.append(name)
        raise ValueError

    # CNTK would rebuild a user-defined function by executing names that stand in the file.
    cntk.internal._UDFDeserializeCallbackWrapper.__call__ = refuse
    try:
        return cntk.Function.load(path)
    except RuntimeError:  # CNTK's C++ part replaces the ValueError by this.
        if not refused:
            raise
        raise ValueError("expected a network of CNTK's own operations, got one with a user-defined function, "
                         f"{str(refused[0])!r}, which may be any code. Save the network without it.") from None


def compute(function, tiles: np.ndarray) -> np.ndarray:
    """Outputs, float32 (N, …), of a CNTK function on uint8 (N, height, width, 3) tiles, in batches."""
    return np.concatenate([np.asarray(evaluate(function, tiles[start:start + BATCH]))
                           for start in range(0, len(tiles), BATCH)])


def evaluate(function, tiles: np.ndarray):
    """The output of a CNTK function on a few uint8 tiles, or if it has several outputs, a dictionary of them."""
    channels_first = np.ascontiguousarray(tiles.transpose(0, 3, 1, 2), dtype=np.float32)
    return function.eval({function.arguments[0]: channels_first})


def main(path, threads, descriptor):
    """Serve the network in a file of CNTK until the pipe closes."""
    pipe = Connection(descriptor)
    cntk = start_cntk(threads)
    network = load_network(cntk, path)  # It must live as long as its parts.
    probabilities = cntk.combine([network.find_by_name("probabilities").outputs[0]])
    input_px = probabilities.arguments[0].shape[1:]
    pipe.send_bytes(np.array(input_px, np.int64).tobytes())
    with contextlib.suppress(EOFError):
        while True:
            tiles = np.frombuffer(pipe.recv_bytes(), np.uint8).reshape((-1,) + input_px + (3,))
            pipe.send_bytes(compute(probabilities, tiles).tobytes())


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]))

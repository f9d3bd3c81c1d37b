"""CNTK's side of the engine ``cntk``: a program that scores batches of tiles, read from one pipe, for another.

CNTK 2.7 wants Python 3.6, Spark's workers run another. So each worker keeps one process of this program, run as
``python3.6 -c <this file's text> model.model threads``: it needs no other file, and nothing but NumPy and CNTK.

A message is its length, eight bytes, then an array as ``numpy.save`` writes it. The first is the network's ``(height,
width)``; then each batch of tiles is answered by its probabilities. When the pipe closes, the program ends.
"""

import contextlib
import ctypes
import io
import os
import struct
import sys
import warnings

import numpy as np

# Tiles that pass through the network at once: more takes memory, not less time.
BATCH = 8


def write_array(pipe, array):
    """Send an array through a pipe."""
    buffer = io.BytesIO()
    np.save(buffer, array, allow_pickle=False)
    pipe.write(struct.pack("<Q", buffer.tell()) + buffer.getvalue())
    pipe.flush()


def read_array(pipe):
    """The next array from a pipe; None when its other end has closed, even in the middle of an array."""
    header = pipe.read(8)
    if len(header) < 8:
        return None
    size = struct.unpack("<Q", header)[0]
    content = pipe.read(size)
    # Pickled objects, which could run code, are refused.
    return np.load(io.BytesIO(content), allow_pickle=False) if len(content) == size else None


@contextlib.contextmanager
def silent(descriptor: int):
    """Nothing reaches standard output (1) or standard error (2), not even from C++."""
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
    """Import CNTK without its start-up messages, for the CPU; only the first call in a process can set the threads.

    By default it gets half of the cores: its threads wait for each other by running in circles, and crawl where other
    programs want the same cores.
    """
    if "cntk" in sys.modules:
        return sys.modules["cntk"]
    threads = threads or max(1, len(os.sched_getaffinity(0)) // 2)
    os.environ["OMP_NUM_THREADS"] = os.environ["MKL_NUM_THREADS"] = str(threads)
    # MKL 2018 takes its slowest code on processors that aren't Intel's. This asks for AVX2, six times as fast.
    with open("/proc/cpuinfo") as file:
        if " avx2" in file.read():
            os.environ.setdefault("MKL_DEBUG_CPU_TYPE", "5")
    sys.stdout.flush()
    with silent(1), warnings.catch_warnings():  # CNTK's C++ part prints the device it chose.
        warnings.simplefilter("ignore")  # of the Linux that it doesn't know, and of missing graphics cards
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
    """Load a ``cntk.Function`` from a file; one that holds code of someone's own is refused by a ValueError."""
    refused = []

    def refuse(self, inputs, name, dictionary):
        refused.append(name)
        raise ValueError

    # CNTK rebuilds such a function by executing names that stand in the file.
    cntk.internal._UDFDeserializeCallbackWrapper.__call__ = refuse
    try:
        return cntk.Function.load(path)
    except RuntimeError:  # CNTK's C++ part forgets what was raised below it.
        if not refused:
            raise
        raise ValueError("expected a network of CNTK's own operations, got one with a function of someone's own, "
                         f"{str(refused[0])!r}, which may be any code. Save the network without it.") from None


def compute(function, tiles: np.ndarray) -> np.ndarray:
    """Outputs, float32 (N, …), of a CNTK function on uint8 (N, height, width, 3) tiles, in batches."""
    outputs = []
    for start in range(0, len(tiles), BATCH):
        # CNTK wants channels first.
        batch = np.ascontiguousarray(tiles[start:start + BATCH].transpose(0, 3, 1, 2), dtype=np.float32)
        outputs.append(np.asarray(function.eval({function.arguments[0]: batch})))
    return np.concatenate(outputs)


def main(path, threads):
    """Serve the network in a file of CNTK until the pipe closes."""
    # What CNTK prints must not run into the answers: they keep the pipe, it gets standard error.
    answers = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)
    cntk = start_cntk(threads)
    network = load_network(cntk, path)  # kept: its parts don't live without it
    probabilities = cntk.combine([network.find_by_name("probabilities").outputs[0]])
    write_array(answers, np.array(probabilities.arguments[0].shape[1:]))
    while True:
        tiles = read_array(sys.stdin.buffer)
        if tiles is None:
            return
        write_array(answers, compute(probabilities, tiles))


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]))

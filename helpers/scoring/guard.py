"""Scoring in a process of its own, so that a picture or network that hangs or crashes takes only itself along.

A Spark worker can't interrupt a decoder or a network that never returns, and dies with one that crashes; its task
would be tried again, and die again. So each worker keeps one process that reads pictures and scores them, feeds it
batches through a pipe, and ends it when it has been at one thing for too long or has ended by itself. A new one
then does the batch without what it stopped at. What stops two of them is given up, alone, as a row with its
reason.

A batch goes out, and its rows come back, as an Arrow record batch behind its length; nothing is pickled. Where the
process is, it writes into a few bytes of shared memory.
"""

import contextlib
import ctypes
import mmap
import os
import select
import signal
import struct
import subprocess
import sys
import tempfile
import time
import traceback
import weakref

import pyarrow as pa

from helpers import InputError

# Seconds at one thing before it counts as hanging, many times what a slow machine needs: one picture takes
# milliseconds, a batch of 64 through a large network some tens of seconds, TensorFlow's import ten.
PICTURE_S = 30
NETWORK_S = 300
START_S = 300
# A network that has hung or crashed this often with no score in between is broken: at 300 s each a night is soon over.
IN_VAIN = 4
# How often the parent looks where the process is.
LOOK_S = 0.2
# Of what a process that ended wrote to standard error.
LAST_LINES = 20
TILES = pa.schema([("tile_id", pa.string()), ("image", pa.binary()), ("county", pa.string()), ("year", pa.int32()),
                   ("image_crc", pa.int64())])
ROWS = pa.schema([("tile_id", pa.string()), ("county", pa.string()), ("year", pa.int32()), ("model", pa.string()),
                  ("engine", pa.string()), ("class_id", pa.int8()), ("probabilities", pa.list_(pa.float32())),
                  ("error_kind", pa.string()), ("error", pa.string()), ("image_crc", pa.int64())])
# What the process is at: the number of a picture in its batch, or one of these.
STARTING, NETWORK = -1, -2
# How an answer begins: its length; rows, or the text of a user's mistake; seconds spent on decoding and in the
# network.
_HEADER = struct.Struct("<Qcdd")
PROGRAM = "from helpers.scoring import guard, score; guard.serve(score.score_batch)"
_kept = {}


class _Stopped(Exception):
    """The process hung or ended.

    Attributes
    ----------
    position : int
        What it was at.
    kind : str
        ``error_kind`` of the row that is to blame.
    """

    def __init__(self, position, kind, sentence):
        super().__init__(sentence)
        self.position, self.kind = position, kind


class Process:
    """A process that scores batches of one bundle; started with the first batch, and again whenever it had to end.

    Parameters
    ----------
    folder : str or pathlib.Path
        The model bundle on this machine.
    engine : str
        As in ``engines.load``.
    threads : int
        Cores that it may use.
    picture_s, network_s : float
        Seconds after which a picture, or a batch in the network, is given up.
    program : str, optional
        What it runs instead of ``PROGRAM``; tests bring one that hangs.

    Attributes
    ----------
    pid : int or None
    decode_s, network_s, start_s : float
        Seconds that it has spent on decoding, in the network, and on starting.
    gave_up : str or None
        The sentence for a network that is broken. From then on batches come back without rows.
    """

    def __init__(self, folder, engine="onnxruntime", threads=1, picture_s=PICTURE_S, network_s=NETWORK_S,
                 program=None):
        self._arguments = [program or PROGRAM, str(folder), engine, str(threads)]
        self._limits = {STARTING: START_S, NETWORK: network_s}
        self._picture_s = picture_s
        self._process = None
        self.decode_s = self.network_s = self.start_s = 0.0
        # What the rows call it: ONNX Runtime's name tells whether it found a GPU.
        self._engine = engine
        self.job = None
        self.begin()

    @property
    def pid(self):
        return None if self._process is None else self._process.pid

    def begin(self):
        """Trust the network again: another job begins."""
        self.gave_up, self._in_vain = None, 0

    def score(self, batch):
        """Rows of the prediction table for a batch of tiles.

        Parameters
        ----------
        batch : pyarrow.RecordBatch
            Columns of ``TILES``.

        Returns
        -------
        pyarrow.RecordBatch
            Columns of ``ROWS``, one row for each tile, in the same order; none of tiles after the network was given up.

        Raises
        ------
        InputError
            If the bundle or the engine can't be used.
        RuntimeError
            If the process can't be started.
        """
        rows = pa.Table.from_batches(self._rows(batch), ROWS).combine_chunks().to_batches()
        return rows[0] if rows else pa.RecordBatch.from_pylist([], ROWS)

    def close(self):
        """End the process; the next batch starts another."""
        if self._process is not None:
            self._end()
            self._process = None

    def _rows(self, batch, suspect=False):
        """Rows of a batch in order, in pieces. A suspect is a tile alone that has stopped a process before."""
        if self.gave_up:
            return []
        try:
            return [self._exchange(batch)]
        except _Stopped as stopped:
            self.close()
            if stopped.position == NETWORK:
                self._in_vain += 1
                if self._in_vain >= IN_VAIN:
                    self.gave_up = str(stopped)
            if stopped.position == STARTING:
                if suspect:
                    raise RuntimeError(str(stopped))
                return self._rows(batch, suspect=True)
            if len(batch) == 1 and suspect:
                return [self._given_up(batch, stopped)]
            if stopped.position == NETWORK or len(batch) == 1:
                # Whichever of them it was: each alone.
                return [row for i in range(len(batch)) for row in self._rows(batch.slice(i, 1), suspect=True)]
            i = stopped.position
            pieces = ((batch.slice(0, i), False), (batch.slice(i, 1), True), (batch.slice(i + 1), False))
            return [row for piece, suspect in pieces if len(piece) for row in self._rows(piece, suspect)]

    def _given_up(self, batch, stopped):
        """The row of a tile that has stopped two processes."""
        from helpers.model import bundle
        tile = batch.to_pylist()[0]
        return pa.RecordBatch.from_pylist([dict(
            {name: tile[name] for name in ("tile_id", "county", "year", "image_crc")}, error_kind=stopped.kind,
            error=str(stopped), model=bundle.Bundle(self._arguments[1]).checksum, engine=self._engine)], ROWS)

    def _start(self):
        with tempfile.TemporaryFile() as shared:
            shared.truncate(8)
            self._position = mmap.mmap(shared.fileno(), 8)
            self._position[:] = struct.pack("<q", STARTING)
            errors = tempfile.TemporaryFile()
            process = subprocess.Popen(
                [sys.executable, "-c"] + self._arguments + [str(shared.fileno()), str(os.getpid())],
                stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=errors, pass_fds=[shared.fileno()],
                # Where this package lies in an archive, only this process's own path leads there.
                env=dict(os.environ, PYTHONPATH=os.pathsep.join(path for path in sys.path if path)))
        os.set_blocking(process.stdin.fileno(), False)
        os.set_blocking(process.stdout.fileno(), False)
        self._process, self._errors = process, errors
        self._end = weakref.finalize(self, _end, process, errors, self._position)

    def _exchange(self, batch):
        """Send a batch and wait for its rows, as long as the process gets on."""
        if self._process is None:
            self._start()
        content = batch.serialize()
        waiting = memoryview(struct.pack("<Q", content.size) + content.to_pybytes())
        received, wanted = bytearray(), _HEADER.size
        inward, outward = self._process.stdin.fileno(), self._process.stdout.fileno()
        poll = select.poll()
        poll.register(outward, select.POLLIN)
        poll.register(inward, select.POLLOUT)
        moved, before = time.monotonic(), None
        last = moved
        while len(received) < wanted:
            for descriptor, event in poll.poll(1000 * LOOK_S):
                try:
                    if descriptor == inward:
                        waiting = waiting[os.write(inward, waiting[:1 << 20]):]
                        if not waiting:
                            poll.unregister(inward)
                    else:
                        piece = os.read(outward, 1 << 20)
                        if not piece:
                            raise BrokenPipeError
                        received += piece
                except BrokenPipeError:
                    raise self._ended()
            if wanted == _HEADER.size <= len(received):
                wanted += _HEADER.unpack_from(received)[0]
            position = struct.unpack("<q", self._position)[0], len(received), len(waiting)
            if position != before:
                moved, before = time.monotonic(), position
            if position[0] == STARTING:
                self.start_s += time.monotonic() - last
            last = time.monotonic()
            limit = self._limits.get(position[0], self._picture_s)
            if time.monotonic() - moved > limit:
                raise self._hangs(position[0], limit)
        _, kind, decode_s, network_s = _HEADER.unpack_from(received)
        content = bytes(received[_HEADER.size:])
        if kind == b"!":
            self.close()
            raise InputError(content.decode())
        self.decode_s += decode_s
        self.network_s += network_s
        rows = pa.ipc.read_record_batch(pa.py_buffer(content), ROWS)
        if len(rows):
            self._engine = rows.column("engine")[0].as_py()
        if rows.column("class_id").null_count < len(rows):
            self._in_vain = 0
        return rows

    def _hangs(self, position, limit):
        where = {STARTING: "the model to load", NETWORK: "the network to score the tile"}.get(
            position, "the picture to be read")
        return _Stopped(position, "timeout", "expected {} within {:g} s, got no answer. Look at the picture, or "
                                             "leave it out.".format(where, limit))

    def _ended(self):
        position = struct.unpack("<q", self._position)[0]
        process, errors = self._process, self._errors
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(5)  # The pipe closes a moment before the process has ended.
        _end(process)
        errors.seek(0)
        said = errors.read().decode("utf-8", "replace").splitlines()[-LAST_LINES:]
        if position == STARTING:
            return _Stopped(position, "engine", "\n".join(
                ["the process that scores ended with status {}:".format(process.returncode)] + said))
        return _Stopped(position, "engine" if position == NETWORK else "unreadable",
                        "expected {}, got a process that ended with status {}, twice{}. Look at the picture, or "
                        "leave it out.".format("a score" if position == NETWORK else "a picture that can be read",
                                         process.returncode, ": " + said[-1][:200] if said else ""))


def _end(process, *files):
    """End a process and close its pipes, and files."""
    process.kill()
    process.wait()
    for file in (process.stdin, process.stdout) + files:
        try:
            file.close()
        except OSError:
            pass


def kept(folder, engine="onnxruntime", threads=1, job=None):
    """The process of this Python worker: kept for its next task, ended when another bundle or engine is asked for.

    What it has learnt of the network holds for one ``job``.

    Returns
    -------
    Process
    """
    key = (str(folder), engine, threads)
    if key not in _kept:
        while _kept:
            _kept.popitem()[1].close()
        _kept[key] = Process(*key)
    if _kept[key].job != job:
        _kept[key].begin()
        _kept[key].job = job
    return _kept[key]


def serve(score_batch):
    """What the process runs: batches in on standard input, rows out on standard output, until that closes.

    Parameters
    ----------
    score_batch : callable
        ``scoring.score_batch``, which can't be imported here: it uses this module.
    """
    folder, engine, threads, shared, parent = sys.argv[1:]
    _die_with(int(parent))
    position = mmap.mmap(int(shared), 8)
    os.close(int(shared))

    def report(number):
        position[:] = struct.pack("<q", number)

    # What a library prints must not run into the answers: they keep the pipe, it gets standard error.
    answers = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)

    def answer(kind, content, decode_s=0.0, network_s=0.0):
        answers.write(_HEADER.pack(len(content), kind, decode_s, network_s))
        answers.write(content)
        answers.flush()

    try:
        from helpers.model import bundle
        from helpers.model import engines
        model = bundle.Bundle(folder)  # which the driver has loaded, and sent
        network = engines.load(model, engine, int(threads))
        while True:
            header = sys.stdin.buffer.read(8)
            if len(header) < 8:
                return
            content = sys.stdin.buffer.read(struct.unpack("<Q", header)[0])
            batch = pa.ipc.read_record_batch(pa.py_buffer(content), TILES).to_pandas()
            # Threads of pyarrow would want the cores of other slots.
            rows, decode_s, network_s = score_batch(batch, model, network, report)
            rows = pa.RecordBatch.from_pandas(rows, ROWS, preserve_index=False)
            answer(b"+", rows.serialize().to_pybytes(), decode_s, network_s)
    except InputError as error:
        answer(b"!", str(error).encode())
    except Exception:
        # A bug: whole, on standard error, from where the parent takes it.
        report(STARTING)
        traceback.print_exc()
        sys.exit(1)


def _die_with(parent):
    """Let Linux end this process when its parent is killed; elsewhere it ends when it next reads the pipe."""
    if sys.platform == "linux":
        ctypes.CDLL(None, use_errno=True).prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG
        if os.getppid() != parent:
            os.kill(os.getpid(), signal.SIGKILL)

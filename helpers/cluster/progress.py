"""progress."""

import contextlib
import contextvars
import sys
import threading
import time
import uuid

@contextlib.contextmanager
def progress(spark, label="Spark"):
    """Show a progress bar for the Spark jobs started inside a ``with`` block.

    In a notebook the bar is one line of text that renews itself, so that the saved notebook shows how it ended; in
    a terminal it is tqdm's; into a file or pipe only its end is written.

    Parameters
    ----------
    spark : pyspark.sql.SparkSession
    label : str
        Stands before the bar.
    """
    context = spark.sparkContext
    group = f"{label}-{uuid.uuid4().hex[:8]}"
    context.setJobGroup(group, label)
    bar = _bar(label)
    finished = threading.Event()

    report_tiles(None)

    def show():
        bar.show(*(_tiles() if _tiles is not None else _tasks(context, group)))

    def follow():
        while not finished.wait(0.5):
            show()

    # The thread takes this cell's context along, or Jupyter would not know whose output the bar is.
    thread = threading.Thread(target=contextvars.copy_context().run, args=(follow,), daemon=True)
    thread.start()
    try:
        yield
    finally:
        finished.set()
        thread.join()
        for name in ("spark.jobGroup.id", "spark.job.description", "spark.job.interruptOnCancel"):
            context.setLocalProperty(name, None)
        with contextlib.suppress(Exception):  # A session that died has no tasks to count; its own error is on the way.
            show()
        report_tiles(None)
        bar.close()


# What the job that runs counts; None where its tasks are all there is to count.
_tiles = None


def report_tiles(count):
    """Let the progress bar count tiles instead of tasks.

    Parameters
    ----------
    count : callable or None
        Returns tiles done, tiles to do, and error rows among them.
    """
    global _tiles
    _tiles = count


def _tasks(context, group):
    """Tasks done and known of a job group; the number known grows as Spark plans further stages."""
    tracker = context.statusTracker()
    jobs = [tracker.getJobInfo(job) for job in tracker.getJobIdsForGroup(group)]
    stages = [tracker.getStageInfo(stage) for job in jobs if job for stage in job.stageIds]
    # A stage whose result was there already is skipped: it has a number of tasks, and none will ever run.
    stages = [stage for stage in stages if stage and (stage.numCompletedTasks or stage.numActiveTasks
                                                      or stage.numFailedTasks)]
    return sum(s.numCompletedTasks for s in stages), sum(s.numTasks for s in stages)


def _bar(label):
    """A bar that suits the place where it is shown."""
    with contextlib.suppress(ImportError):
        from IPython import get_ipython
        shell = get_ipython()
        if shell is not None and getattr(shell, "kernel", None) is not None:
            return _NotebookBar(label)
    return _TerminalBar(label)


class _NotebookBar:
    """One line of plain text under a notebook's cell: tqdm's widget would be lost when the notebook is saved."""

    def __init__(self, label):
        from IPython.display import display
        from tqdm import tqdm
        self._label, self._meter = label, tqdm(total=0, disable=True)
        self._start = time.monotonic()
        self._handle = display({"text/plain": f"{label}: starting"}, raw=True, display_id=True)

    def show(self, done, total, errors=None):
        if total or errors is not None:
            line = self._meter.format_meter(
                done, total, time.monotonic() - self._start, ncols=90, prefix=self._label,
                unit="task" if errors is None else " tiles", postfix=None if errors is None else f"errors: {errors}")
            self._handle.update({"text/plain": line if total else f"{self._label}: nothing new"}, raw=True)

    def close(self):
        pass


class _TerminalBar:
    """tqdm's bar on a terminal; elsewhere one line at the end."""

    def __init__(self, label):
        from tqdm import tqdm
        self._label, self._start, self._last = label, time.monotonic(), (0, 0, None)
        self._bar = tqdm(total=0, desc=label, unit="task", leave=True, disable=None)

    def show(self, done, total, errors=None):
        self._last = done, total, errors
        self._bar.total, self._bar.n = total, done
        if errors is not None:
            self._bar.unit = " tiles"
            self._bar.set_postfix_str(f"errors: {errors}", refresh=False)
        self._bar.refresh()

    def close(self):
        self._bar.close()
        done, total, errors = self._last
        seconds = time.monotonic() - self._start
        if self._bar.disable and errors is None and total:
            print(f"{self._label}: {done} of {total} tasks, {seconds:.1f} s", file=sys.stderr)
        elif self._bar.disable and errors is not None:
            print(f"{self._label}: {done} of {total} tiles, {done / seconds:.1f} tiles/s, {errors} errors, "
                  f"{seconds:.1f} s" if total else f"{self._label}: nothing new", file=sys.stderr)

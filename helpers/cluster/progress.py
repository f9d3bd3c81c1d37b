"""A bar that shows the progress of a job."""

import contextlib
import shutil
import sys
import time


@contextlib.contextmanager
def progress(label: str, total: int):
    """Show a progress bar of tiles inside a ``with`` block, which gets a function ``show(done, errors=None)`` for it.

    In a notebook or terminal the bar is one line of text, so a saved notebook keeps its last state. In a file or pipe
    only the last state is written.
    """
    from tqdm import tqdm
    start, last, line = time.monotonic(), (0, None), None
    ipython = sys.modules.get("IPython")
    if ipython and getattr(ipython.get_ipython(), "kernel", None) is not None:
        # A saved notebook would lose tqdm's widget.
        first = f"{label}: {'starting' if total else 'nothing new'}"
        line = ipython.display.display({"text/plain": first}, raw=True, display_id=True)
    in_terminal = line is None and sys.stderr.isatty()

    def show(done, errors=None):
        nonlocal last
        last = done, errors
        if total and (line or in_terminal):
            text = tqdm.format_meter(
                done, total, time.monotonic() - start, prefix=label, unit=" tiles",
                ncols=90 if line else shutil.get_terminal_size().columns - 1,
                postfix=None if errors is None else f"errors: {errors}")
            if line:
                line.update({"text/plain": text}, raw=True)
            else:
                print(f"\r{text}", end="", file=sys.stderr, flush=True)

    try:
        yield show
    finally:
        (done, errors), seconds = last, time.monotonic() - start
        rate = "" if errors is None else f", {done / seconds:.1f} tiles/s, {errors} errors"
        if in_terminal and total:
            print(file=sys.stderr)
        elif line is None:
            print(f"{label}: {done} of {total} tiles{rate}, {seconds:.1f} s" if total else f"{label}: nothing new",
                  file=sys.stderr)

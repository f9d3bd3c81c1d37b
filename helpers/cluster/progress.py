"""A bar that shows the progress of a job."""

import contextlib
import shutil
import sys
import time


@contextlib.contextmanager
def progress(label: str, total: int, unit: str = "tiles"):
    """Show a progress bar inside a ``with`` block. The block gets a function ``show(done, errors=None)`` to update it.

    In a notebook or terminal the bar is one line of text, so a saved notebook keeps its last state. In a file or pipe
    only the last state is written. ``unit`` is the plural noun after the number.
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
                done, total, time.monotonic() - start, prefix=label, unit=f" {unit}",
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
        rate = "" if errors is None else f", {done / seconds:.1f} {unit}/s, {errors} errors"
        if in_terminal and total:
            print(file=sys.stderr)
        elif line is None:
            print(f"{label}: {done} of {total} {unit}{rate}, {seconds:.1f} s" if total else f"{label}: nothing new",
                  file=sys.stderr)

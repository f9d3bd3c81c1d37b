"""Execute the notebooks in order and keep those that are done. ``run_tutorial.sh`` calls it."""

import ast
import fcntl
import hashlib
import json
import os
import re
import shlex
import signal
import sys
import time
from pathlib import Path

import helpers
from helpers import InputError
from helpers.files import is_full, room, write_json
from helpers.runs import Run, home
from helpers.uri import absolute
from tutorial_options import PER_CLASS, PHOTOGRAPHS, STEPS, parse

REPOSITORY = Path(__file__).resolve().parents[1]

# For each parameter that replaces steps: these steps, and the reason to skip them.
NOTHING_TO_DO = {
    "images": {"prepare": "the pictures of --images are cut and labelled already",
               "map": "the pictures of --images have no place on a map"},
    "tiles_uri": {"prepare": "--tiles gives the tiles"},
    "model_uri": dict.fromkeys(("retrain", "retrain_cntk"), "--model gives the network"),
}

LINE_S = 20  # seconds between two lines about a notebook's progress

# Pure tiles of each class to download from each county outside the sample.
TRAIN_TILES = 50


def options(arguments):
    """The command line as a dict. A county outside the sample gets counties to train on and a run's name."""
    chosen = parse(arguments)
    county, has_tiles = chosen.get("county"), "tiles_uri" in chosen or "images" in chosen
    if county and not county.startswith("99") and not has_tiles:
        chosen.setdefault("catalog", "naip")
    name = chosen.get("catalog", "sample")
    if name not in ("sample", "naip"):
        name = chosen["catalog"] = str(Path(name).expanduser().resolve())
    if "images" in chosen:
        chosen.setdefault("run_name", PHOTOGRAPHS if chosen["images"] == PHOTOGRAPHS else "pictures")
    if name == "sample" or has_tiles:
        return chosen
    if not county or "years" not in chosen:
        raise InputError(f"expected --county and --years beside --catalog {name}, got one of them or none. Name the "
                         "county, and two years in which it was flown.")
    from helpers.land import catalog
    chosen["county"] = catalog.open(name).county(county).fips
    if "train_counties" not in chosen:
        validation = next(code for code in catalog.VALIDATION if code != chosen["county"])
        chosen.update(validation_county=validation, train_counties=[
            code for code in catalog.TRAINING if code not in (chosen["county"], validation)])
        # A user's own folder seldom holds twelve counties.
        chosen["train_catalog"] = "naip"
    chosen.update(train_years=chosen["years"], validation_years=chosen["years"][-1:], train_tiles=TRAIN_TILES)
    chosen.setdefault("per_class", PER_CLASS)
    # A boundary file's name stands for its county.
    chosen.setdefault("run_name", "county-" + re.sub(r"[^A-Za-z0-9._-]+", "-", chosen["county"]))
    return chosen


class Step:
    """One notebook of a run. It gets the chosen parameters that its parameters cell names."""

    def __init__(self, path: Path, run: Run, chosen: dict):
        self.path, self.run = path, run
        self.number = path.name[:2]
        self.name, self.reads, self.writes = STEPS[self.number]
        # Read as JSON: nbformat and papermill take seconds to import, and a finished step needs neither.
        notebook = json.loads(path.read_text())
        cells = [cell for cell in notebook["cells"] if cell["cell_type"] == "code"]
        self.code = ["".join(cell["source"]) for cell in cells]
        self.kernel = notebook["metadata"].get("kernelspec", {}).get("name", "python3")
        self.takes = {target.id for source, cell in zip(self.code, cells)
                      if "parameters" in cell["metadata"].get("tags", [])
                      for statement in ast.parse(source).body for target in statement.targets}
        self.parameters = {name: value for name, value in chosen.items() if name in self.takes}
        self.executed = run.folder / "notebooks" / path.name

    def fingerprint(self, before, library):
        """A digest of the notebook's code, its parameters, the helpers, and the step before."""
        given = {name: [value, contents(value)] for name, value in self.parameters.items()}
        if "catalog" in self.takes:
            from helpers.land.downloads import ADDRESSES
            given.update({name: [os.environ.get(name), contents(os.environ.get(name))] for name in ADDRESSES})
        return digest(json.dumps([self.code, given, library, before], sort_keys=True).encode())

    def outputs(self):
        """Paths inside the run's folder that the step has written."""
        found = [self.run.folder / name for name in self.writes if has_content(self.run.folder / name)]
        return [str(p.relative_to(self.run.folder)) for p in found + [self.executed]]

    def is_done(self, record, fingerprint):
        return record.get("fingerprint") == fingerprint and all(
            (self.run.folder / path).exists() for path in record["outputs"])

    def say(self, text):
        print(f"{self.path.stem:<28}{text}", flush=True)


def digest(data):
    return hashlib.sha256(data).hexdigest()[:16]


def contents(value):
    """A digest of the file or folder that a parameter names, from sizes and times; None for other values."""
    if not isinstance(value, str) or not os.path.isabs(value):
        return None
    value = value.partition("#")[0]  # Options for reading the file follow.
    files = [value] if os.path.isfile(value) else sorted(
        os.path.join(folder, name) for folder, _, names in os.walk(value) for name in names)
    # A link may lead nowhere.
    states = [(f, os.stat(f).st_size, os.stat(f).st_mtime_ns) for f in files if os.path.exists(f)]
    return digest(json.dumps(states).encode())


def library_files():
    """The files of the helpers, the sample and the real land, which the notebooks' results depend on."""
    return {str(path.relative_to(folder)): path.read_bytes()
            for folder in (Path(helpers.__file__).parent, REPOSITORY / "setup_scripts" / "sample",
                           REPOSITORY / "notebooks" / "real_land")
            for path in sorted(folder.rglob("*")) if path.is_file() and "__pycache__" not in path.parts}


def has_content(path):
    return path.is_file() or path.is_dir() and any(path.iterdir())


def reason_to_skip(step, chosen):
    """The reason to skip a notebook, or None."""
    if step.number < chosen.get("first", "00"):
        return f"the run begins at the step {STEPS[chosen['first']][0]}"
    from jupyter_client.kernelspec import KernelSpecManager
    if not brought(step.name, chosen) and step.kernel not in KernelSpecManager().find_kernel_specs():
        return f"there is no Jupyter kernel {step.kernel!r} here"
    return brought(step.name, chosen)


def brought(name, chosen):
    """The reason why an option replaces a step, or None."""
    return next((reasons[name] for parameter, reasons in NOTHING_TO_DO.items()
                 if parameter in chosen and name in reasons), None)


def kernels_write_to(path):
    """Send the standard error of kernels, and of the programs that they start, to a file."""
    terminal = os.dup(2)
    with open(path, "a") as file:
        os.dup2(file.fileno(), 2)
    # Children inherit descriptor 2, so this process writes to the terminal through another one.
    sys.stderr = os.fdopen(terminal, "w", buffering=1, errors="backslashreplace")


def whole_paths():
    """Make paths in the environment absolute: the notebooks run in another folder."""
    from helpers.land.downloads import ADDRESSES
    for name in ("TUTORIAL_HOME", "TUTORIAL_STORAGE", *ADDRESSES):
        if os.environ.get(name):
            os.environ[name] = absolute(os.environ[name])


def announce(chosen):
    """Print a forecast for a real county before its preparation begins: while a notebook runs, nothing shows."""
    from helpers.land import catalog
    from helpers.tiles.choose import check_classes, jobs_of
    from helpers.tiles.forecast import as_text, forecast
    print("Looking up scenes and labels, to forecast download and time:", flush=True)
    source = catalog.open(chosen["catalog"])
    training = catalog.open(chosen["train_catalog"]) if "train_catalog" in chosen else source
    sources = {"map": source, "train": training, "validation": training}
    jobs = jobs_of(sources, *(chosen[name] for name in (
        "county", "years", "train_counties", "train_years", "validation_county", "validation_years")))
    drawn = chosen["train_tiles"], chosen.get("seed", 0)
    if "model_uri" not in chosen:
        check_classes(sources, jobs, *drawn)
    # The name of another master doesn't tell its slots, so the forecast assumes one for each core of this machine.
    named = re.fullmatch(r"local\[(\d+)\]", chosen.get("master", ""))
    slots = int(named[1]) if named else os.cpu_count()
    table = forecast(sources, jobs, slots, chosen.get("leaf_off", "keep"), *drawn)
    print(*as_text(sources, jobs, table), sep="\n")
    if "model_uri" in chosen:
        print("The run also prepares the training counties, because the score of newly developed land is fitted on "
              "their pictures of two years.")
    print(flush=True)


def prepare_for(step, chosen):
    """Before notebook 02, print the forecast for a real county, and draw the sample counties if they are needed."""
    if "train_years" in chosen:
        announce(chosen)
    if "catalog" in step.takes and "sample" in (chosen.get("catalog", "sample"), chosen.get("train_catalog")):
        import sample
        seed = chosen.get("seed", 0)
        sample.draw(home() / "data" / f"sample-{seed}", seed, progress=lambda line: print(line, flush=True))


class Lines:
    """A file for a progress bar where there is no terminal: each state is a line of its own."""

    def write(self, text):
        if text.strip():
            print(text.strip(), flush=True)

    def flush(self):
        """Do nothing: every line is printed at once."""


def execute(step):
    """Execute a notebook; the run keeps the result only if every cell passes."""
    import papermill
    from papermill.exceptions import PapermillExecutionError
    from traitlets.config import Config

    step.executed.parent.mkdir(parents=True, exist_ok=True)
    part, failed = step.executed.with_suffix(".part.ipynb"), step.executed.with_suffix(".failed.ipynb")
    step.executed.unlink(missing_ok=True)
    bar = {} if sys.stderr.isatty() else {"file": Lines(), "mininterval": LINE_S, "bar_format": (
        f"{step.path.stem:<28}{{n_fmt}}/{{total_fmt}} cells, {{elapsed}}")}
    start = time.monotonic()
    try:
        notebook = papermill.execute_notebook(
            str(step.path), str(part), parameters=step.parameters, cwd=str(step.path.parent),
            # Without it, a kernel warns that other users of this machine could read along.
            config=Config(KernelManager={"transport_encryption": "auto"}),
            progress_bar=dict(bar, desc=step.path.stem, leave=False))
    except PapermillExecutionError as error:
        os.replace(part, failed)
        sys.exit(f"{failure(error, step)}. The cells up to the error are in {shorten(failed)}.")
    os.replace(part, step.executed)
    failed.unlink(missing_ok=True)
    step.say(f"{len(notebook.cells)}/{len(notebook.cells)} cells {time.monotonic() - start:6.0f} s")


def failure(error, step):
    """The sentence of an error that the user can fix, or the traceback of any other error."""
    if "No space left on device" in error.evalue:
        return ("expected room on the disk for the run, got a full one (no space left on device). Free some space and "
                f"run the same command again.\n{step.path.stem} stopped there")
    if error.ename in input_errors():
        return f"{error.evalue}\n{step.path.stem} stopped there"
    traceback = "\n".join(error.traceback)
    if not sys.stderr.isatty():  # Colours are for terminals.
        traceback = re.sub(r"\x1b\[[0-9;]*m", "", traceback)
    return f"{traceback}\n{step.path.stem} failed"


def input_errors():
    """Names of InputError and its subclasses: a kernel tells only the name of an error's class."""
    text = b"\n".join(content for name, content in library_files().items() if name.endswith(".py")).decode()
    return {"InputError", *re.findall(r"^class (\w+)\((?:InputError|DamagedFile)\):", text, re.MULTILINE)}


def check_needs(step, chosen, run):
    """Refuse to begin a run in the middle if its first step lacks a folder that it reads."""
    for folder in step.reads:
        maker = next(name for name, _, writes in STEPS.values() if folder in writes)
        if not brought(maker, chosen) and not has_content(run.folder / folder):
            option = {"tiles": " or bring them with --tiles", "models": " or bring one with --model"}.get(folder, "")
            raise InputError(f"expected {folder} for the step {step.name} in {shorten(run.folder / folder)}, got "
                             f"none. Begin with --from {maker}{option}.")


def shorten(path):
    """A path, or its relative path if that is shorter; a URI as it is."""
    return str(path) if "://" in str(path) else min(str(path), os.path.relpath(path), key=len)


def main(arguments):
    whole_paths()
    chosen = options(arguments)
    run = Run(chosen.get("run_name", "sample"))
    notebooks = sorted(p for p in (REPOSITORY / "notebooks").glob("[0-9][0-9]_*.ipynb") if p.name[:2] in STEPS)
    steps = [Step(path, run, chosen) for path in notebooks]
    unused = set(chosen) - {"first"} - set().union(*(step.takes for step in steps))
    if unused:
        raise InputError(f"expected parameters that a notebook has, got {', '.join(sorted(unused))}. Add them to the "
                         "parameters cell of the notebooks that need them.")
    try:
        run.folder.mkdir(parents=True, exist_ok=True)
        lock = open(run.folder / ".lock", "w")
    except OSError as error:
        if is_full(error):
            raise
        raise InputError(f"expected a folder for the run at {shorten(run.folder)}, got: {error.strerror}. Set "
                         "TUTORIAL_HOME to a folder that can be written.") from error
    with lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            raise InputError(f"expected to be alone in {shorten(run.folder)}, got another run at work there. Wait for "
                             "it, or give this one a --run-name of its own.")
        kernels_write_to(run.folder / "kernels.log")
        execute_all(steps, chosen, run)
    print_results(run, chosen)


def execute_all(steps, chosen, run):
    """Execute the steps that are not done, and record them."""
    path = run.folder / "steps.json"
    records = json.loads(path.read_text()) if path.exists() else {}
    library, before, checked = digest(b"".join(n.encode() + c for n, c in library_files().items())), None, False
    for step in steps:
        reason = reason_to_skip(step, chosen)
        if reason:
            step.say(f"skipped: {reason}")
            continue
        fingerprint = step.fingerprint(before, library)
        if step.writes:
            before = fingerprint
        if "first" not in chosen and step.is_done(records.get(step.path.stem, {}), fingerprint):
            step.say("done before")
            continue
        if not checked:
            check_needs(step, chosen, run)
        # All later steps depend on the files that this step will write; only the first notebook writes none.
        stale = [s.path.stem for s in steps if s.path >= step.path] if step.writes else [step.path.stem]
        records = {stem: record for stem, record in records.items() if stem not in stale}
        write_json(path, records)
        if step.name == "prepare":
            prepare_for(step, chosen)
        execute(step)
        records[step.path.stem] = {"fingerprint": fingerprint, "outputs": step.outputs()}
        write_json(path, records)
        checked = checked or bool(step.writes)


def print_results(run, chosen):
    """Print where the results are."""
    metrics = run.metrics()
    print("\nResults:")
    for what, path in (("executed notebooks", run.folder / "notebooks"), ("map figure", run.figures / "map.png"),
                       ("prediction table", run.predictions), ("measurements", run.metrics_path)):
        if Path(path).exists():  # A URI below TUTORIAL_STORAGE is no path.
            print(f"  {what:<20}{shorten(path)}")
    for framework in ("tensorflow", "cntk"):
        figures = metrics.get(framework, {})
        if "accuracy" in figures:
            print(f"  {framework + ' accuracy':<20}{figures['accuracy']:.1%} of the tiles or pictures held out")
    print(f"\nTo read on, notebook by notebook:\n  {shorten(Path(sys.executable).with_name('jupyter'))} lab "
          f"{shorten(REPOSITORY / 'notebooks')}")
    if Path(run.predictions).exists():
        store = run.folder / "pictures" if "images" in chosen else chosen.get("tiles_uri", run.tiles)
        model = chosen.get("model_uri", run.models / "tensorflow")
        script, csv = REPOSITORY / "setup_scripts" / "score_tiles.py", run.folder / "predictions.csv"
        command = shlex.join(map(shorten, (sys.executable, script, store, model, run.predictions, "--csv", csv)))
        print(f"\nTo have the predictions as a spreadsheet:\n  {command}")
    page = metrics.get("map", {}).get("page")
    if page and (run.maps / page).exists():
        print(f"\nTo review the candidates, open this page in a browser:\n  {shorten(run.maps / page)}")


def interrupt(signum, frame):
    """End the kernel, which ends its Java and its workers; then end this process."""
    import psutil
    for kernel in psutil.Process().children():
        kernel.kill()
    raise KeyboardInterrupt


if __name__ == "__main__":
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, interrupt)
    try:
        with room("the run"):
            main(sys.argv[1:])
    except InputError as error:
        print(error, file=sys.stderr)
        sys.exit(2)
    except KeyboardInterrupt:
        print("\nStopped. Run the same command again to go on.", file=sys.stderr)
        sys.exit(130)

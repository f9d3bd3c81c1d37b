"""Execute the notebooks in order, each once: what is done already is kept. Called by run_tutorial.sh."""

import argparse
import ast
import errno
import fcntl
import hashlib
import json
import os
import re
import signal
import sys
import time
from pathlib import Path

from helpers import InputError
from helpers.files import write_json
from helpers.runs import Run, home

REPOSITORY = Path(__file__).resolve().parents[1]

# The notebooks' numbers, the steps' names, what each reads and writes in the folder of a run.
STEPS = {
    "01": ("start", [], []),
    "02": ("prepare", [], ["tiles"]),
    "03": ("retrain", ["tiles"], ["models"]),
    "04": ("retrain_cntk", ["tiles"], ["models"]),
    "05": ("score", ["tiles", "models"], ["predictions"]),
    "06": ("map", ["predictions"], ["maps", "figures"]),
}

# What has nothing to do when --images brings pictures.
WITHOUT_COUNTIES = {"prepare": "the pictures of --images are cut and labelled already",
                    "map": "the pictures of --images have no place on a map"}

DISK_IS_FULL = ("expected room on the disk for the run, got a full one (no space left on device). Free some space and "
                "run the same command again.")

# The folders of a run that an option brings from elsewhere.
BROUGHT_BY = {"tiles_uri": ["tiles"], "images": ["tiles"], "model_uri": ["models"]}


class Parser(argparse.ArgumentParser):
    def error(self, message):
        wanted = "" if "expected" in message else "expected options that it has, with values that fit; "
        raise InputError(f"{self.prog}: {wanted}{message}. Run it with --help to see its options.")


def options(arguments):
    """The command line as a dict of notebook parameters, the run's name, and the step to begin with."""
    parser = Parser(prog="run_tutorial.sh", allow_abbrev=False, description="Executes the notebooks in order. "
                    "Run again, it keeps what is done. Options not given keep the notebooks' own values.")
    add = parser.add_argument
    add("--county", metavar="COUNTY", help="county to map: 99007 of the sample, 25017, or 'Middlesex, MA'")
    add("--catalog", metavar="NAME", help="sample, naip (any US county; the default where --county is one), or a "
        "folder with a static STAC catalogue or GeoTIFFs")
    add("--train-counties", type=codes, metavar="CODE,CODE", help="counties to train on, of that catalogue, in place "
        "of those of notebooks/README.md")
    add("--validation-county", metavar="CODE", help="county to validate on; never trained on")
    add("--leaf-off", choices=["keep", "exclude"], help="scenes from November to March: keep (the default) or exclude")
    add("--years", type=years, metavar="YYYY,YYYY", help="the two years of imagery to compare")
    add("--backbone", type=backbone, metavar="NAME",
        help="resnet_small (embedded), resnet50 (ImageNet), or a .keras file")
    add("--cntk-backbone", metavar="NAME",
        help="alexnet_small (embedded), alexnet (ImageNet), or the path of an ONNX file with #layer=<name> behind it")
    add("--master", type=master, help="Spark master: local[*], local[2], spark://host:7077, yarn")
    add("--run-name", metavar="NAME", help="folder under runs/ for everything that is made (default: sample)")
    add("--from", dest="first", type=step, metavar="STEP",
        help=f"begin at this step and do it and all after it anew: {', '.join(s[0] for s in STEPS.values())}")
    add("--tiles", dest="tiles_uri", type=location, metavar="URI", help="a tile store of your own; skips prepare")
    add("--model", dest="model_uri", type=location, metavar="URI", help="a model bundle of your own; skips retraining")
    add("--images", type=location, metavar="FOLDER", help="<class>/<name>.png pictures instead of counties")
    add("--held-out-images", type=location, metavar="FOLDER", help="pictures to validate on, laid out the same")
    add("--seed", type=int, metavar="N", help="seed of every sampler, shuffle and initialiser (default: 0)")
    chosen = {name: value for name, value in vars(parser.parse_args(arguments)).items() if value is not None}
    if "held_out_images" in chosen and "images" not in chosen:
        raise InputError("expected --images beside --held-out-images, got none. Name the folder to train on too.")
    if "images" in chosen and "tiles_uri" in chosen:
        raise InputError("expected either --images or --tiles, got both. Leave one out.")
    if ("train_counties" in chosen) != ("validation_county" in chosen):
        raise InputError("expected --train-counties and --validation-county together, got one of them. Name the other "
                         "too.")
    return real_county(chosen)


# Pure tiles of each class and county to train on, where whole counties would have to be downloaded; and those of each
# class that a network is trained on, of all counties: changed copies of 3,000 tiles take some 2 GB of memory.
TRAIN_TILES, PER_CLASS = 50, 500


def real_county(chosen):
    """The choices, with what a county outside the sample needs: where to train and validate, and a run's name."""
    county = chosen.get("county")
    if county and not county.startswith("99") and "tiles_uri" not in chosen and "images" not in chosen:
        chosen.setdefault("catalog", "naip")
    name = chosen.get("catalog", "sample")
    if name not in ("sample", "naip"):
        name = chosen["catalog"] = str(Path(name).expanduser().resolve())
    if name == "sample" or "tiles_uri" in chosen or "images" in chosen:
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
        # A folder of one's own seldom has twelve counties.
        chosen["train_catalog"] = "naip"
    chosen.update(train_years=chosen["years"], validation_years=chosen["years"][-1:], train_tiles=TRAIN_TILES,
                  per_class=PER_CLASS)
    chosen.setdefault("run_name", f"county-{chosen['county']}")
    return chosen


# What argparse says of a wrong value ends with the text of these errors.
def years(text):
    if not re.fullmatch(r"\d{4},\d{4}", text) or not text[:4] < text[5:]:
        raise argparse.ArgumentTypeError(f"expected two years, the earlier first, such as 2010,2016, got {text!r}")
    return [int(year) for year in text.split(",")]


def codes(text):
    return [code.strip() for code in text.split(",") if code.strip()]


def step(text):
    for number, (name, _, _) in STEPS.items():
        if text == name or text.split("_")[0] in (number, number.lstrip("0")):
            return number
    raise argparse.ArgumentTypeError(f"expected one of {', '.join(s[0] for s in STEPS.values())}, got {text!r}")


def master(text):
    from helpers.cluster import session
    try:
        return session.check_master(text)
    except InputError as error:
        raise argparse.ArgumentTypeError(str(error).rstrip("."))


def backbone(text):
    """A backbone's name, or the absolute path of its file with what follows the ``#``."""
    from helpers.model import backbones
    if text == "resnet50":  # Finding it would download it: notebook 03 does that.
        return text
    try:
        backbones.get(text)
    except InputError as error:
        raise argparse.ArgumentTypeError(str(error).rstrip("."))
    path, mark, rest = text.partition("#")
    return text if text in backbones.EMBEDDED else str(Path(path).expanduser().resolve()) + mark + rest


def location(text):
    """A URI as it is; a path of this machine absolute, for the notebooks run in a folder of their own."""
    if "://" in text:
        return text
    if not Path(text).expanduser().exists():
        raise argparse.ArgumentTypeError(f"expected a folder or file that exists, got {text!r}")
    return str(Path(text).expanduser().resolve())


class Step:
    """One notebook of a run.

    Parameters
    ----------
    path : pathlib.Path
        The notebook.
    run : helpers.runs.Run
    chosen : dict
        Every parameter chosen; the notebook gets those that its parameters cell has.
    """

    def __init__(self, path, run, chosen):
        self.path, self.run = path, run
        self.number = path.name[:2]
        self.name, self.reads, self.writes = STEPS[self.number]
        # Read as JSON: nbformat and papermill take seconds to import, and a step that is done needs neither.
        notebook = json.loads(path.read_text())
        cells = [cell for cell in notebook["cells"] if cell["cell_type"] == "code"]
        self.code = ["".join(cell["source"]) for cell in cells]
        self.kernel = notebook["metadata"].get("kernelspec", {}).get("name", "python3")
        self.takes = {target.id for source, cell in zip(self.code, cells)
                      if "parameters" in cell["metadata"].get("tags", [])
                      for statement in ast.parse(source).body for target in statement.targets}
        self.parameters = {name: value for name, value in chosen.items() if name in self.takes}
        self.executed = run.folder / "notebooks" / path.name

    def fingerprint(self, before, helpers):
        """Changes with the notebook's code, what it is given, the helpers, and the step before."""
        given = {name: [value, contents(value)] for name, value in self.parameters.items()}
        if "catalog" in self.takes:
            from helpers.land.downloads import ADDRESSES
            given.update({name: [os.environ.get(name), contents(os.environ.get(name))] for name in ADDRESSES})
        return digest(json.dumps([self.code, given, helpers, before], sort_keys=True).encode())

    def outputs(self):
        """What the step has written, as paths inside the run's folder."""
        found = [self.run.folder / name for name in self.writes if has_content(self.run.folder / name)]
        return [str(p.relative_to(self.run.folder)) for p in found + [self.executed]]

    def is_done(self, record, fingerprint):
        return record.get("fingerprint") == fingerprint and all(
            (self.run.folder / path).exists() for path in record["outputs"])


def digest(data):
    return hashlib.sha256(data).hexdigest()[:16]


def contents(value):
    """Names, sizes and times of the files in a local folder that a parameter names; None for other values."""
    if not isinstance(value, str) or not os.path.isabs(value):
        return None
    files = [value] if os.path.isfile(value) else sorted(
        os.path.join(folder, name) for folder, _, names in os.walk(value) for name in names)
    return digest(json.dumps([(f, os.stat(f).st_size, os.stat(f).st_mtime_ns) for f in files]).encode())


def helpers_fingerprint():
    import helpers
    folder = Path(helpers.__file__).parent
    files = [p for p in sorted(folder.rglob("*")) if p.is_file() and "__pycache__" not in p.parts]
    return digest(b"".join(str(p.relative_to(folder)).encode() + p.read_bytes() for p in files))


def has_content(path):
    return path.is_file() or path.is_dir() and any(path.iterdir())


def reason_to_skip(step, chosen):
    """Why a notebook is not executed, or None."""
    if step.number < chosen.get("first", "00"):
        return f"begun at {STEPS[chosen['first']][0]}"
    if "images" in chosen and step.name in WITHOUT_COUNTIES:
        return WITHOUT_COUNTIES[step.name]
    for option, parameter in (("--tiles", "tiles_uri"), ("--model", "model_uri")):
        if parameter in chosen and step.writes and step.writes == BROUGHT_BY[parameter]:
            return f"{option} brings what it makes"
    from jupyter_client.kernelspec import KernelSpecManager, NoSuchKernel
    try:
        KernelSpecManager().get_kernel_spec(step.kernel)
    except NoSuchKernel:
        return f"there is no Jupyter kernel {step.kernel!r} here"
    return None


def kernels_write_to(path):
    """Give kernels, and the programs they start, a file for their last words; this process keeps the terminal."""
    terminal = os.dup(2)
    with open(path, "a") as file:
        os.dup2(file.fileno(), 2)
    # What is inherited is the number 2, so this process writes by another.
    sys.stderr = os.fdopen(terminal, "w", buffering=1)


def whole_paths():
    """Files in the settings of addresses by their absolute paths: the notebooks run in a folder of their own."""
    from helpers.land.downloads import ADDRESSES, is_remote
    for name in ADDRESSES:
        value = os.environ.get(name)
        if value and not is_remote(value):
            os.environ[name] = str(Path(value).expanduser().resolve())


def slots(master):
    """Tasks at a time, as far as a master's name says: of another machine's, as many as this one has cores."""
    named = re.fullmatch(r"local\[(\d+)\]", master or "")
    return int(named[1]) if named else os.cpu_count()


def announce(chosen):
    """Print what preparing a real county will take before it begins: while a notebook runs, nothing shows."""
    from helpers.land import catalog
    from helpers.tiles.choose import check_classes, jobs_of
    from helpers.tiles.forecast import as_text, forecast
    print("Asking for scenes and labels, to see what it will take:", flush=True)
    source = catalog.open(chosen["catalog"])
    teaching = catalog.open(chosen["train_catalog"]) if "train_catalog" in chosen else source
    sources = {"map": source, "train": teaching, "validation": teaching}
    jobs = jobs_of(sources, *(chosen[name] for name in (
        "county", "years", "train_counties", "train_years", "validation_county", "validation_years")))
    drawn = chosen["train_tiles"], chosen.get("seed", 0)
    check_classes(sources, jobs, *drawn)
    table = forecast(sources, jobs, slots(chosen.get("master")), chosen.get("leaf_off", "keep"), *drawn)
    print(*as_text(sources, jobs, table), sep="\n")
    if "model_uri" in chosen:
        print("The counties to train on are prepared for the score of what is newly developed, which learns from their "
              "two years.")
    print(flush=True)


def draw_sample(seed):
    """Draw the sample counties, if they aren't there."""
    import sample
    sample.draw(home() / "data" / f"sample-{seed}", seed, progress=lambda line: print(line, flush=True))


def execute(step):
    """Execute a notebook; its result takes its place in the run only when every cell has passed."""
    import papermill
    from papermill.exceptions import PapermillExecutionError
    from traitlets.config import Config

    step.executed.parent.mkdir(parents=True, exist_ok=True)
    part = step.executed.with_suffix(".part.ipynb")
    step.executed.unlink(missing_ok=True)
    shown = sys.stderr.isatty()
    if not shown:
        print(f"{step.path.stem:<28}", end="", flush=True)
    start = time.monotonic()
    try:
        notebook = papermill.execute_notebook(
            str(step.path), str(part), parameters=step.parameters, cwd=str(step.path.parent),
            # Otherwise a kernel warns that others on this machine could read along.
            config=Config(KernelManager={"transport_encryption": "auto"}),
            progress_bar={"desc": step.path.stem, "leave": False, "disable": not shown})
    except PapermillExecutionError as error:
        failed = step.executed.with_suffix(".failed.ipynb")
        os.replace(part, failed)
        if not shown:
            print("failed")
        if "No space left on device" in error.evalue:
            error.ename, error.evalue = "InputError", DISK_IS_FULL
        if error.ename == "InputError":
            sys.exit(f"{error.evalue}\n{step.path.stem} stopped there; as far as it came it is in {shorten(failed)}.")
        traceback = "\n".join(error.traceback)
        if not shown:  # Colours are for terminals.
            traceback = re.sub(r"\x1b\[[0-9;]*m", "", traceback)
        sys.exit(f"{traceback}\n{step.path.stem} failed; as far as it came it is in {shorten(failed)}.")
    os.replace(part, step.executed)
    step.executed.with_suffix(".failed.ipynb").unlink(missing_ok=True)
    cells = len(notebook.cells)
    print(f"{step.path.stem if shown else '':<{28 if shown else 0}}{cells}/{cells} cells "
          f"{time.monotonic() - start:6.0f} s", flush=True)


def check_needs(step, chosen, run):
    """Stop where a run begins in the middle and what its first step reads isn't there."""
    brought = [folder for parameter, folders in BROUGHT_BY.items() if parameter in chosen for folder in folders]
    for folder in step.reads:
        if folder not in brought and not has_content(run.folder / folder):
            makers = [number for number, (_, _, writes) in STEPS.items() if folder in writes]
            option = {"tiles": " or bring them with --tiles", "models": " or bring one with --model"}.get(folder, "")
            raise InputError(f"expected {folder} for the step {step.name} in {shorten(run.folder / folder)}, got "
                             f"none. Begin with --from {STEPS[makers[0]][0]}{option}.")


def shorten(path):
    """A path as seen from the current folder, where that is shorter."""
    return min(str(path), os.path.relpath(path), key=len)


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

    run.folder.mkdir(parents=True, exist_ok=True)
    lock = open(run.folder / ".lock", "w")
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        raise InputError(f"expected to be alone in {shorten(run.folder)}, got another run at work there. Wait for "
                         "it, or give this one a --run-name of its own.")

    kernels_write_to(run.folder / "kernels.log")
    records_path = run.folder / "steps.json"
    records = json.loads(records_path.read_text()) if records_path.exists() else {}
    helpers, before, checked = helpers_fingerprint(), None, False
    for step in steps:
        reason = reason_to_skip(step, chosen)
        if reason:
            print(f"{step.path.stem:<28}skipped: {reason}", flush=True)
            continue
        fingerprint = step.fingerprint(before, helpers)
        if step.writes:
            before = fingerprint
        if "first" not in chosen and step.is_done(records.get(step.path.stem, {}), fingerprint):
            print(f"{step.path.stem:<28}done before", flush=True)
            continue
        if not checked:
            check_needs(step, chosen, run)
        # Whatever follows reads what this step is about to write; the first notebook writes nothing.
        stale = [s for s in steps if s.path >= step.path] if step.writes else [step]
        records = {stem: r for stem, r in records.items() if stem not in [s.path.stem for s in stale]}
        write_json(records_path, records)
        if step.name == "prepare":
            if "train_years" in chosen:
                announce(chosen)
            if "sample" in (chosen.get("catalog", "sample"), chosen.get("train_catalog")):
                draw_sample(chosen.get("seed", 0))
        execute(step)
        records[step.path.stem] = {"fingerprint": fingerprint, "outputs": step.outputs()}
        write_json(records_path, records)
        checked = checked or bool(step.writes)
    print_results(run)


def print_results(run):
    """Say where everything is."""
    figure = run.figures / "map.png"
    print("\nHere it is:")
    for what, path in (("executed notebooks", run.folder / "notebooks"), ("map figure", figure),
                       ("prediction table", run.predictions), ("figures measured", run.metrics_path)):
        if path.exists():
            print(f"  {what:<20}{shorten(path)}")
    page = run.metrics().get("map", {}).get("page")
    jupyter = Path(sys.executable).with_name("jupyter")
    print(f"\nTo read on, notebook by notebook:\n  {shorten(jupyter)} lab {shorten(REPOSITORY / 'notebooks')}")
    if page and (run.maps / page).exists():
        print(f"\nTo review what is new, candidate by candidate, open in a browser:\n  {shorten(run.maps / page)}")


def interrupt(signum, frame):
    """End the kernel, which ends its Java and its workers, and then this process."""
    import psutil
    for kernel in psutil.Process().children():
        kernel.kill()
    raise KeyboardInterrupt


if __name__ == "__main__":
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, interrupt)
    try:
        main(sys.argv[1:])
    except InputError as error:
        print(error, file=sys.stderr)
        sys.exit(2)
    except OSError as error:
        if error.errno != errno.ENOSPC:
            raise
        print(DISK_IS_FULL, file=sys.stderr)
        sys.exit(2)
    except KeyboardInterrupt:
        print("\nStopped. Run the same command again to go on.", file=sys.stderr)
        sys.exit(130)

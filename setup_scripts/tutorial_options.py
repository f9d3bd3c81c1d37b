"""The command line of run_tutorial.sh. As a program, this only checks it, before anything is installed."""

import argparse
import difflib
import importlib
import re
import sys
from functools import partial
from pathlib import Path

sys.path.append(str(Path(__file__).resolve().parents[1]))

from helpers import InputError  # noqa: E402
from helpers.uri import shown  # noqa: E402

# By notebook: the step's name, and the folders of a run that it reads and writes.
STEPS = {
    "01": ("start", [], []),
    "02": ("prepare", [], ["tiles"]),
    "03": ("retrain", ["tiles"], ["models"]),
    "04": ("retrain_cntk", ["tiles"], ["models"]),
    "05": ("score", ["tiles", "models"], ["predictions"]),
    "06": ("map", ["predictions"], ["maps", "figures"]),
}

PHOTOGRAPHS = "photographs"
# Pure tiles of each class that a network is trained on, where whole counties would have to be downloaded.
PER_CLASS = 500
# Options that say where tiles lie.
PLACES = {"tiles_uri": "--tiles", "county": "--county", "years": "--years", "catalog": "--catalog",
          "train_counties": "--train-counties", "validation_county": "--validation-county", "leaf_off": "--leaf-off"}


class Parser(argparse.ArgumentParser):
    def error(self, message):
        mistyped = re.findall(r"unrecognized arguments: (--[\w-]+)", message)
        near = difflib.get_close_matches(mistyped[0], self._option_string_actions, 1) if mistyped else []
        message += f" (did you mean {near[0]}?)" if near else ""
        wanted = "" if "expected" in message else "expected options of this command with valid values, got: "
        raise InputError(f"{self.prog}: {wanted}{message}. Run it with --help to see its options.")


def parse(arguments: list) -> dict:
    """The command line as a dict: notebook parameters, and ``first``, the number of the step to begin with."""
    parser = Parser(prog="run_tutorial.sh", allow_abbrev=False, description="Executes the notebooks in order. "
                    "If you run it again, it keeps the finished steps. Options not given keep the notebooks' own "
                    "values.")
    add = parser.add_argument
    add("--county", metavar="COUNTY", help="county to map: 99007 of the sample, 25017, or 'Middlesex, MA'")
    add("--catalog", metavar="NAME", help="sample, naip (any US county; the default for a county outside the sample), "
        "or a folder with a static STAC catalogue or GeoTIFFs")
    add("--train-counties", type=lambda text: [code.strip() for code in text.split(",") if code.strip()],
        metavar="CODE,CODE", help="counties of --catalog to train on, in place of the twelve of notebooks/README.md")
    add("--validation-county", metavar="CODE", help="county to validate on; never trained on")
    add("--leaf-off", choices=["keep", "exclude"], help="scenes from November to March: keep (the default) or exclude")
    add("--years", type=years, metavar="YYYY,YYYY", help="the two years of imagery to compare")
    add("--backbone", type=backbone, metavar="NAME",
        help="mobilenet (embedded), resnet50 (downloaded), or the path of a .keras file, with #layer=<name> or "
        "#preprocessing=<none|tf|caffe|torch> behind it")
    add("--cntk-backbone", metavar="NAME",
        help="squeezenet (embedded), alexnet (as in 2017, downloaded once), or the path of a classifier's ONNX file")
    add("--master", type=partial(checked, "helpers.cluster.session", "check_master"),
        help="Spark master: local[*], local[2], spark://host:7077, yarn")
    add("--run-name", type=partial(checked, "helpers.runs", "check_name"), metavar="NAME",
        help="folder under runs/ for everything that is made (default: sample; county-<code> for a county outside the "
        "sample, pictures for --images FOLDER, and photographs for --images photographs)")
    add("--from", dest="first", type=step, metavar="STEP",
        help=f"begin at this step, and run it and all later steps again: {', '.join(s[0] for s in STEPS.values())}")
    add("--tiles", dest="tiles_uri", type=location, metavar="URI", help="a tile store of your own; skips prepare")
    add("--model", dest="model_uri", type=location, metavar="URI", help="a model bundle of your own; skips retraining")
    add("--images", type=images, metavar="FOLDER", help="a folder of pictures instead of counties, with a sub-folder "
        "for each class; photographs: the real ones of notebooks/real_land")
    add("--held-out-images", type=location, metavar="FOLDER", help="pictures to validate on, laid out the same")
    add("--per-class", type=int, metavar="N", help="pictures or tiles of each class to train on, at most (default: "
        f"120, and 80 in CNTK; {PER_CLASS} for a county outside the sample). 3,000 tiles of all classes together take "
        "about 2 GB of memory")
    add("--seed", type=seed, metavar="N", help="seed of every sampler, shuffle and initialiser (default: 0)")
    chosen = {name: value for name, value in vars(parser.parse_args(arguments)).items() if value is not None}
    if "held_out_images" in chosen and "images" not in chosen:
        raise InputError("expected --images beside --held-out-images, got none. Name the folder to train on too.")
    places = [option for name, option in PLACES.items() if name in chosen]
    if "images" in chosen and places:
        raise InputError(f"expected either --images or a place, got --images and {places[0]}. Leave one out: pictures "
                         "have no place on a map.")
    if chosen.get("per_class", 1) < 1:
        raise InputError(f"expected --per-class of 1 or more, got {chosen['per_class']}. Choose another number.")
    if ("train_counties" in chosen) != ("validation_county" in chosen):
        raise InputError("expected --train-counties and --validation-county together, got one of them. Name the other "
                         "too.")
    return chosen


# argparse ends its sentence about a wrong value with the text of these errors.
def years(text):
    if not re.fullmatch(r"\d{4},\d{4}", text) or not text[:4] < text[5:]:
        raise argparse.ArgumentTypeError(f"expected two years, the earlier first, such as 2010,2016, got {text!r}")
    return [int(year) for year in text.split(",")]


def step(text):
    for number, (name, _, _) in STEPS.items():
        if text == name or text.split("_")[0] in (number, number.lstrip("0")):
            return number
    raise argparse.ArgumentTypeError(f"expected one of {', '.join(s[0] for s in STEPS.values())}, got {text!r}")


def seed(text):
    """A seed that NumPy takes."""
    if not re.fullmatch(r"\d{1,10}", text) or int(text) >= 2 ** 32:
        raise argparse.ArgumentTypeError(f"expected a whole number of 0 to {2 ** 32 - 1}, got {text!r}")
    return int(text)


def checked(module, function, text):
    """Have a helper check a value. Before the set-up the helper can't be imported, and the value passes unchecked."""
    try:
        check = getattr(importlib.import_module(module), function)
    except ImportError:
        return text
    try:
        return check(text)
    except InputError as error:
        raise argparse.ArgumentTypeError(str(error).rstrip("."))


def backbone(text):
    """A backbone's name, or the absolute path of its file with the options after the ``#``."""
    if text == "resnet50":  # The check would download it; notebook 03 does that.
        return text
    checked("helpers.model.backbones", "get", text)
    path, mark, rest = text.partition("#")
    return text if text == "mobilenet" else str(Path(path).expanduser().resolve()) + mark + rest


def images(text):
    """A folder of pictures; the word ``photographs`` stands for those of the repository."""
    if text != PHOTOGRAPHS:
        return location(text)
    if Path(text).exists():
        raise argparse.ArgumentTypeError(f"expected one meaning of {text}, got a folder of this name beside the "
                                         f"photographs of this repository. Write ./{text} for the folder, or run the "
                                         "command elsewhere")
    return text


def location(text):
    """A URI as it is, or the absolute path of a local file or folder: the notebooks run in another folder."""
    if "://" in text and shown(text) != text:
        raise argparse.ArgumentTypeError(
            "expected an address without a password or signature, because a run's notebooks keep their parameters, "
            f"got one for {shown(text)}. Put the key into the environment, or download the folder")
    if "://" in text:
        return text
    if not Path(text).expanduser().exists():
        raise argparse.ArgumentTypeError(f"expected a folder or file that exists, got {text!r}")
    return str(Path(text).expanduser().resolve())


if __name__ == "__main__":
    try:
        parse(sys.argv[1:])
    except InputError as refused:
        print(refused, file=sys.stderr)
        sys.exit(2)

"""Score a tile store into a prediction table. If a job was stopped, the same command continues it.

    .venv/bin/python setup_scripts/score_tiles.py runs/sample/tiles runs/sample/models/tensorflow table
"""

import argparse
import logging
import signal
import sys
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv

from helpers import InputError
from helpers.cluster import session, work
from helpers.files import room, whole_file
from helpers.model import bundle
from helpers.scoring import table
from helpers.scoring.score import score


def main(arguments):
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("tiles", help="URI of the tile store")
    parser.add_argument("model", help="URI of the model bundle")
    parser.add_argument("table", help="URI of the prediction table")
    parser.add_argument("--engine", default="fastest", help="fastest (default), or the name of an engine")
    parser.add_argument("--master", default="local[*]", help="Spark master (default: local[*])")
    parser.add_argument("--replace", action="store_true", help="delete a table of another model or engine first")
    parser.add_argument("--csv", metavar="FILE", type=csv_path,
                        help="write the finished table to this file too, for a spreadsheet")
    parser.add_argument("--log", metavar="FILE", help="write a line for each event to this file")
    chosen = parser.parse_args(arguments)
    # When a user stops a job, Py4J logs pages to the root logger, though it raises the same errors.
    logging.basicConfig(handlers=[logging.NullHandler()])
    if chosen.log:
        try:
            handler = logging.FileHandler(chosen.log)
        except OSError as error:
            raise InputError(f"expected a file that can be written for --log, got {chosen.log} ({error.strerror}). "
                             "Name another.") from error
        handler.setFormatter(logging.Formatter("%(asctime)s %(name)s %(message)s"))
        logging.getLogger("helpers").addHandler(handler)
        logging.getLogger("helpers").setLevel(logging.INFO)
    model = bundle.load(chosen.model)
    spark = session.start(chosen.master, "scoring")
    # Spark's own handler of Ctrl-C would call Java in the middle of another call.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        score(spark, chosen.tiles, model, chosen.table, chosen.engine, replace=chosen.replace)
    finally:
        session.stop(spark)
    print(table.as_text(table.summary(chosen.table)))
    if chosen.csv:
        write_csv(chosen.table, model.classes, chosen.csv)
        print(f"For a spreadsheet: {chosen.csv}")


def csv_path(text: str) -> Path:
    path = Path(text)
    if "://" in text or path.is_dir():
        raise argparse.ArgumentTypeError(f"expected a file on this machine, got {text}. Name one that ends in .csv")
    return path


def write_csv(uri: str, classes: list, path: Path):
    """Write a finished prediction table as CSV, whole or not at all."""
    schema = _csv_rows(pa.RecordBatch.from_pylist([], table.SCHEMA), "", 0, classes).schema
    header = '"' + '","'.join(name.replace('"', '""') for name in schema.names) + '"\n'
    with room(str(path), "Free some space and run the same command again: the table is finished."):
        with whole_file(path) as part, open(part, "wb") as file:
            file.write(header.encode("utf-8-sig"))  # Excel reads UTF-8 only after a mark.
            with pa.csv.CSVWriter(file, schema, write_options=pa.csv.WriteOptions(include_header=False)) as writer:
                for county, year, name in table.files(uri):
                    for rows in _batches(name):
                        writer.write_batch(_csv_rows(rows, county, year, classes))


def _batches(uri):
    with work.opened(uri, table.DELETE) as file:
        yield from file.iter_batches()


def _csv_rows(rows, county, year, classes):
    """A batch of the table as rows of the CSV file."""
    return pa.RecordBatch.from_pydict({
        "tile_id": _harmless(rows["tile_id"]),
        "county": _harmless(pa.repeat(county, len(rows))),
        "year": pa.repeat(pa.scalar(year, pa.int32()), len(rows)),
        "class": _harmless(pa.array(classes, pa.string()).take(rows["class_id"])),
        **{f"probability {name}": pc.list_element(rows["probabilities"], number)
           for number, name in enumerate(classes)},
        "error_kind": _harmless(rows["error_kind"]), "error": _harmless(rows["error"])})


def _harmless(texts):
    """Put an apostrophe before each text that a spreadsheet would read as a formula."""
    risky = pc.match_substring_regex(texts, r"^\s*[=+\-@\t\r\n]")
    return pc.if_else(risky, pc.binary_join_element_wise("'", texts, ""), texts)


if __name__ == "__main__":
    sys.stdout.reconfigure(errors="backslashreplace")  # A container's output may be ASCII.
    try:
        main(sys.argv[1:])
    except InputError as error:
        print(error, file=sys.stderr)
        sys.exit(2)
    except KeyboardInterrupt:
        # The sentence begins on a new line, because Java may be in the middle of one.
        print("\nStopped. Run the same command again, and it goes on where it was.", file=sys.stderr)
        sys.exit(130)

"""Score a tile store into a prediction table; run it again after whatever stopped it, and it goes on.

    .venv/bin/python setup_scripts/score_tiles.py runs/sample/tiles runs/sample/models/tensorflow table
"""

import argparse
import logging
import signal
import sys
from pathlib import Path

from helpers import InputError
from helpers.cluster import session, work
from helpers.files import DiskFull, filesystem, is_full, whole_file
from helpers.model import bundle
from helpers.scoring import table
from helpers.scoring.score import score

# What stands before each row's probabilities in a CSV file, and what follows them.
_BEFORE, _AFTER = ["tile_id", "county", "year", "class"], ["error_kind", "error"]


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
    # Py4J tells the root of all loggers, by pages, of a job that was stopped by hand; what it meets is raised too.
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
    # Spark's own answer to Ctrl-C asks Java something in the middle of another question.
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
    """Write a finished prediction table as CSV, file by file, whole or not at all.

    A row holds the tile's id, county, year, class, one probability for each class, and its error.
    """
    import pyarrow as pa
    import pyarrow.csv
    schema = pa.schema([(name, pa.int32() if name == "year" else pa.string()) for name in _BEFORE]
                       + [(f"probability {name}", pa.float32()) for name in classes]
                       + [(name, pa.string()) for name in _AFTER])
    header = ",".join('"{}"'.format(name.replace('"', '""')) for name in schema.names) + "\n"
    try:
        with whole_file(path) as part, open(part, "wb") as file:
            file.write(header.encode("utf-8-sig"))  # Excel takes a text for UTF-8 only if a mark says so.
            with pa.csv.CSVWriter(file, schema, write_options=pa.csv.WriteOptions(include_header=False)) as writer:
                for county, year, name in table.files(uri):
                    for rows in _batches(name):
                        writer.write_batch(_csv_rows(rows, county, year, classes, schema))
    except OSError as error:
        if not is_full(error):
            raise
        raise DiskFull(f"expected room on the disk for {path}, got a full one (no space left on device). Free some "
                       "space and run the same command again: the table is finished.") from error


def _batches(uri):
    import pyarrow.parquet as pq
    system, path = filesystem(uri)
    with work.damage_named(uri, table.DELETE), system.open(path, "rb") as file:
        yield from pq.ParquetFile(file).iter_batches()


def _csv_rows(rows, county, year, classes, schema):
    """A batch of the table as rows of the CSV file."""
    import pyarrow as pa
    import pyarrow.compute as pc
    columns = {name: rows.column(name) for name in ["tile_id", *_AFTER]}
    columns["county"] = pa.repeat(county, len(rows))
    columns["class"] = pa.array(classes, pa.string()).take(rows.column("class_id"))
    columns = {name: _harmless(column) for name, column in columns.items()}
    columns["year"] = pa.repeat(pa.scalar(year, pa.int32()), len(rows))
    for number, name in enumerate(classes):
        columns[f"probability {name}"] = pc.list_element(rows.column("probabilities"), number)
    return pa.record_batch([columns[name] for name in schema.names], schema=schema)


def _harmless(texts):
    """Texts that no spreadsheet takes for a formula: an apostrophe stands before those that could be one."""
    import pyarrow.compute as pc
    risky = pc.match_substring_regex(texts, r"^\s*[=+\-@\t\r\n]")
    return pc.if_else(risky, pc.binary_join_element_wise("'", texts, ""), texts)


if __name__ == "__main__":
    try:
        main(sys.argv[1:])
    except InputError as error:
        print(error, file=sys.stderr)
        sys.exit(2)
    except KeyboardInterrupt:
        # On a line of its own: Java may be in the middle of one.
        print("\nStopped. Run the same command again, and it goes on where it was.", file=sys.stderr)
        sys.exit(130)

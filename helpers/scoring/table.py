"""table."""

from helpers import InputError
from helpers.scoring import predictions
from helpers.uri import shown

# The prediction table, one row for each tile.
PREDICTION_TYPE = ("tile_id string, county string, year int, model string, engine string, class_id byte, "
                   "probabilities array<float>, error_kind string, error string")
COLUMNS = [column.split()[0] for column in PREDICTION_TYPE.split(", ")]
KEYS = ["county", "year", "tile_id"]
EXAMPLES = 3


def _examples(rows):
    """The first rows with an error, to be shown."""
    return rows[["tile_id", "error"]].head(EXAMPLES).to_dict("records")


def _on_one_line(text):
    """A name as it is, or escaped where it has line ends and the like."""
    return text if text.isprintable() else ascii(text)


def summary(predictions_uri):
    """What the last job did, and what the table holds.

    Parameters
    ----------
    predictions_uri : str

    Returns
    -------
    dict
        ``tiles`` in the table, ``scored_now``, ``classes`` with their counts, ``errors`` by kind with their number
        and three examples, ``seconds``, ``tiles_per_second``, and ``slot_seconds``: where the time of the slots
        went.

    Raises
    ------
    InputError
        If no job has finished there.
    """
    found = predictions.Table(predictions_uri).read_json("summary.json")
    if found is None:
        raise InputError("expected a prediction table at {}, got none. Run notebook 05_parallel_scoring.".format(
            shown(predictions_uri)))
    return found


def tell(found):
    """The summary of a job as lines of text.

    Parameters
    ----------
    found : dict
        Of ``summary``.

    Returns
    -------
    str
    """
    errors = {kind: one["tiles"] for kind, one in found["errors"].items()}

    def counted(counts):
        return ", ".join("{} {:,}".format(name, count) for name, count in counts.items())

    lines = [("{scored_now:,} tiles scored in {seconds:.0f} s, {tiles_per_second:.0f} a second; {tiles:,} in the table."
              if found["scored_now"] else "Nothing new: all {tiles:,} tiles have their row.").format(**found),
             "Classes: " + counted(found["classes"]), "Errors: " + (counted(errors) or "none")]
    lines += ["  {}, {}: {error}".format(kind, _on_one_line(example["tile_id"]), **example)
              for kind, one in found["errors"].items() for example in one["examples"]]
    spent = {name: seconds for name, seconds in found["slot_seconds"].items() if seconds > 0}
    if spent:
        lines.append("Time of the slots: " + ", ".join("{} {:.0%}".format(
            name, seconds / sum(spent.values())) for name, seconds in spent.items()))
    return "\n".join(lines)


def read(predictions_uri, columns=None):
    """Read a prediction table on the driver.

    Parameters
    ----------
    predictions_uri : str
    columns : list of str, optional

    Returns
    -------
    pandas.DataFrame

    Raises
    ------
    InputError
        If there is no table, or its job has not finished.
    """
    table = predictions.Table(predictions_uri)
    if not table.is_finished():
        raise InputError("expected a finished prediction table at {}, got none. Run notebook "
                         "05_parallel_scoring.".format(shown(predictions_uri)))
    state = table.state()
    files = [name for chunk in state["chunks"] for name in chunk["files"]] if state else table.files()
    rows = table.rows(files, columns or COLUMNS)
    return rows.sort_values([c for c in KEYS if c in rows], ignore_index=True)

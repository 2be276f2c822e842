"""The table of a run, records.csv: a row per photo and answer, or per photo that failed."""

import csv
from collections.abc import Iterator, Mapping, Set
from contextlib import suppress
from pathlib import Path
from typing import Any, TextIO

from attnvis.files import check_regular, open_new, part_name
from attnvis.methods.answer import Answer
from attnvis.metrics.diagnostics import DESCRIPTIONS
from attnvis.types import ClassScore

__all__ = ["COLUMNS", "answer_columns", "as_written", "open_records", "read_numbers", "read_records"]

CLASS = ("class_index", "class_probability", "class_logit", "class_rank")  # of the class that was asked for
NUMBERS = (
    *("index", "height", "width", "patches", "rows", "columns", "probability"),
    *CLASS,
    "sign_margin",
    *DESCRIPTIONS,
)
COLUMNS = (
    *("index", "photo", "path", "digest", "height", "width", "status", "reason", "photo_note"),
    *("query", "label", "layer", "weights", "scaling", "normalise"),
    *("patches", "rows", "columns", "placement", "predicted", "probability"),
    *CLASS,
    "sign_margin",
    *DESCRIPTIONS,
    *("map", "overlay", "panel"),
)


def answer_columns(answer: Answer) -> dict[str, Any]:
    """What a row says of one answer."""
    rows, columns = answer.placement.grid
    row: dict[str, Any] = {
        "query": answer.query,
        "label": answer.label,
        "layer": answer.layer,
        "patches": answer.patches,
        "rows": rows,
        "columns": columns,
        "placement": answer.placement.source,
    }
    if answer.predicted:
        row["predicted"], row["probability"] = answer.predicted[0]
    if answer.class_score:
        row |= class_columns(answer.class_score)
    if answer.sign_margin is not None:
        row["sign_margin"] = answer.sign_margin
    return answer.diagnostics | row


def class_columns(score: ClassScore) -> dict[str, int | float]:
    """How likely the class is that was asked for."""
    return dict(zip(CLASS, (score.index, score.probability, score.logit, score.rank), strict=True))


def open_records(path: Path, after: Set[int] = frozenset()) -> tuple[TextIO, csv.DictWriter]:
    """The table for new rows, behind the old ones of the photos `after`.

    A file name that is no Unicode is written with backslashes:
    one odd photo must not make the table unreadable.
    """
    rows = [row for row in read_records(path) if int(row["index"]) in after] if after else []
    part = part_name(path)
    try:
        file = open_new(part, "w", newline="", encoding="utf-8", errors="backslashreplace", buffering=1 << 20)
        table = csv.DictWriter(file, COLUMNS, restval="", extrasaction="ignore")
        table.writeheader()
        table.writerows(rows)
        file.flush()
        part.replace(path)  # a run that is killed right here has not lost what it had
    except OSError as error:
        raise OSError(error.errno, error.strerror, str(path)) from None
    finally:
        part.unlink(missing_ok=True)
    return file, table


def read_records(path: Path) -> Iterator[dict[str, str]]:
    """The rows of a table, but for those that are not whole: cut off by a full disk, or damaged.

    Raises FileNotFoundError, and ValueError for what is no file.
    """
    check_regular(path)
    with path.open(newline="", encoding="utf-8", errors="replace") as file, suppress(csv.Error):
        for row in csv.DictReader(file):
            if is_row(row):
                yield dict.fromkeys(COLUMNS, "") | row


def is_row(row: Mapping[str | None, Any]) -> bool:
    """Whether it has a photo, a value for every column, and numbers where numbers belong."""
    if None in row or None in row.values() or not {"index", "photo", "path", "status"} <= row.keys():
        return False
    if not (row["index"].isascii() and row["index"].isdecimal() and len(row["index"]) < 10):
        return False
    try:
        for name in NUMBERS:
            float(row.get(name) or 0)
    except ValueError:
        return False
    return True


def as_written(text: str) -> str:
    """What a table holds of a name; one that is no Unicode has backslashes there."""
    return text.encode("utf-8", "backslashreplace").decode()


def read_numbers(path: Path) -> Iterator[dict[str, Any]]:
    """The rows with their numbers as numbers.  Raises as `read_records` does."""
    for row in read_records(path):
        yield row | {name: float(row[name]) for name in NUMBERS if row.get(name)}

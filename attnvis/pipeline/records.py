"""The table of a run, records.csv: a row per photo and answer, or per photo that failed."""

import csv
from collections.abc import Iterator, Set
from pathlib import Path
from typing import Any, TextIO

from attnvis.methods.answer import Answer
from attnvis.metrics.diagnostics import DESCRIPTIONS
from attnvis.types import ClassScore

__all__ = ["COLUMNS", "answer_columns", "open_records", "read_numbers", "read_records"]

CLASS = ("class_index", "class_probability", "class_logit", "class_rank")  # of the class that was asked for
NUMBERS = (
    *("index", "height", "width", "patches", "rows", "columns", "probability"),
    *CLASS,
    "sign_margin",
    *DESCRIPTIONS,
)
COLUMNS = (
    *("index", "photo", "path", "digest", "height", "width", "status", "reason"),
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

    A file name that is no Unicode is written with backslashes: one odd photo must not make the table unreadable.
    """
    rows = [row for row in read_records(path) if int(row["index"]) in after] if after else []
    part = path.with_suffix(".part")
    file = part.open("w", newline="", encoding="utf-8", errors="backslashreplace", buffering=1 << 20)
    table = csv.DictWriter(file, COLUMNS, restval="")
    table.writeheader()
    table.writerows(rows)
    file.flush()
    part.replace(path)  # a run that is killed right here has not lost what it had
    return file, table


def read_records(path: Path) -> Iterator[dict[str, str]]:
    """The rows of a table, but for a last line that a full disk cut off."""
    with path.open(newline="", encoding="utf-8") as file:
        for row in csv.DictReader(file):
            if all(value is not None for value in row.values()) and row["index"].isdigit():
                yield row


def read_numbers(path: Path) -> Iterator[dict[str, Any]]:
    """The rows with their numbers as numbers."""
    with path.open(newline="", encoding="utf-8") as file:
        for row in csv.DictReader(file):
            yield row | {name: float(row[name]) for name in NUMBERS if row[name]}

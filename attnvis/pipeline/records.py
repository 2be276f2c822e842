"""The table of a run, records.csv: a row per photo and answer, or per photo that failed."""

import csv
import os
import re
from collections.abc import Iterable, Iterator, Mapping, Set
from contextlib import suppress
from pathlib import Path
from typing import Any, TextIO

from attnvis.files import check_regular, file_digest, naming, open_new, part_name, whole_file
from attnvis.json_files import json_digest
from attnvis.methods.answer import Answer, Attended
from attnvis.metrics.diagnostics import DESCRIPTIONS
from attnvis.types import ClassScore

__all__ = [
    "COLUMNS",
    "SafeWriter",
    "answer_columns",
    "as_read",
    "as_written",
    "open_records",
    "read_numbers",
    "read_records",
    "row_seal",
    "rows_by_photo",
    "says_what_was_written",
    "sort_records",
]

CLASS = ("class_index", "class_probability", "class_logit", "class_rank")  # of the class that was asked for
STABILITY = ("worst_correlation", "spread")  # of the maps of the changed photos
ATTENDED = (  # of the class that is watched, and what is the likeliest
    *("whole_logit", "whole_margin"),
    *("attended_probability", "attended_logit", "attended_margin"),
    *("complement_probability", "complement_logit", "complement_margin"),
    *("latent_insertion", "latent_deletion"),
)
ATTENDED_CLASSES = ("watched_class", "attended_class", "complement_class")
LATER = (
    *("p_value", "beyond_chance", *STABILITY, "keys", "heads", "head_agreement", "remark"),
    *ATTENDED_CLASSES,
    *ATTENDED,
)  # columns that rows of earlier versions have not
FILES = ("map", "overlay", "panel")
PHOTOS, HEATMAPS = "thumbnails/photos", "thumbnails/heatmaps"  # what a page shows instead of an overlay
OVERLAYS = "thumbnails/overlays"  # what stands on its cards
NUMBERS = (
    *("index", "height", "width", "patches", "rows", "columns", "probability"),
    *CLASS,
    "sign_margin",
    "p_value",
    "beyond_chance",
    *STABILITY,
    "head_agreement",
    *ATTENDED,
    *DESCRIPTIONS,
)
EVERY = ("height", "width", "patches", "rows", "columns", "perplexity", "max_times_uniform")
COLUMNS = (
    *("index", "photo", "path", "digest", "height", "width", "status", "reason", "photo_note"),
    *("query", "label", "layer", "weights", "scaling", "normalise", "keys", "heads", "remark"),
    *("patches", "rows", "columns", "placement", "predicted", "probability"),
    *CLASS,
    "sign_margin",
    "p_value",
    "beyond_chance",
    *STABILITY,
    "head_agreement",
    *ATTENDED_CLASSES,
    *ATTENDED,
    *DESCRIPTIONS,
    *FILES,
    "seal",
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
    if answer.p_value is not None:
        row["p_value"] = answer.p_value
    if answer.patches_beyond_chance is not None:
        row["beyond_chance"] = answer.patches_beyond_chance
    if answer.head_agreement is not None:
        row["head_agreement"] = answer.head_agreement
    if answer.remarks:
        row["remark"] = "; ".join(answer.remarks)
    if answer.stability is not None:
        row |= dict(zip(STABILITY, (answer.stability.worst, answer.stability.spread), strict=True))
    if answer.attended is not None:
        row |= attended_columns(answer.attended)
    return answer.diagnostics | row


def attended_columns(attended: Attended) -> dict[str, float | str]:
    """What the classifier says of the context and its complement; NaN and "" where that is not known."""
    means = {"whole": attended.whole, "attended": attended.inside, "complement": attended.outside}
    numbers = {
        f"{name}_{number}": getattr(pooled, number)
        for name, pooled in means.items()
        for number in ("probability", "logit", "margin")
    }
    names = (attended.name, attended.inside.name, attended.outside.name)
    areas = {"latent_insertion": attended.insertion.area, "latent_deletion": attended.deletion.area}
    return dict(zip(ATTENDED_CLASSES, names, strict=True)) | {
        name: value for name, value in (numbers | areas).items() if name in ATTENDED
    }


def class_columns(score: ClassScore) -> dict[str, int | float]:
    """How likely the class is that was asked for."""
    return dict(zip(CLASS, (score.index, score.probability, score.logit, score.rank), strict=True))


def open_records(path: Path, after: Set[int] = frozenset()) -> tuple[TextIO, csv.DictWriter]:
    """The table for new rows, behind the old ones of the photos `after`.

    A text that a spreadsheet would run as a formula has an apostrophe before it (`as_cell`).
    A file name that is no Unicode is written with backslashes:
    one odd photo must not make the table unreadable.
    """
    rows = [row for row in read_records(path) if int(row["index"]) in after] if after else []
    part = part_name(path)
    options = {"newline": "", "encoding": "utf-8", "errors": "backslashreplace", "buffering": 1 << 20}
    try:
        with naming(path):
            file = open_new(part, "w", **options)
            table = new_table(file)
            table.writerows(rows)
            file.flush()
            part.replace(path)  # a run that is killed right here has not lost what it had
    finally:
        part.unlink(missing_ok=True)
    return file, table


def new_table(file: TextIO) -> csv.DictWriter:
    table = SafeWriter(file, COLUMNS, restval="", extrasaction="ignore")
    table.writeheader()
    return table


FORMULA = ("=", "+", "-", "@", "\t", "\r", "\n", "＝", "＋", "－", "＠")  # how a spreadsheet knows a formula


class SafeWriter(csv.DictWriter):
    """Writes rows whose texts no spreadsheet takes for formulas."""

    def writerow(self, row: Mapping[str, Any]) -> Any:
        return super().writerow({name: as_cell(name, value) for name, value in row.items()})

    def writerows(self, rows: Iterable[Mapping[str, Any]]) -> None:
        for row in rows:
            self.writerow(row)


def as_cell(name: str, value: Any) -> Any:
    """What a column's cell holds of a value: =1+1.jpg -> '=1+1.jpg, and numbers as they are.

    A text that is read back from a cell is the same (`from_cell`): one that begins like a cell that was made
    safe gets its apostrophe too.
    """
    return f"'{value}" if name not in NUMBERS and isinstance(value, str) and is_formula(value) else value


def from_cell(name: str, text: str) -> str:
    """The text that a cell holds."""
    return text[1:] if name not in NUMBERS and text.startswith("'") and is_formula(text) else text


def is_formula(text: str) -> bool:
    """Whether a spreadsheet would run it, or would but for apostrophes before it; a number is none."""
    bare = text.lstrip("'")
    if not bare.startswith(FORMULA):
        return False
    return not (bare == text and re.fullmatch(r"[+-]?[0-9]+(\.[0-9]*)?(e[+-]?[0-9]+)?", text, re.IGNORECASE))


def read_records(path: Path) -> Iterator[dict[str, str]]:
    """The rows of a table, but for those that are not whole: cut off by a full disk, or damaged.

    Raises FileNotFoundError, and ValueError for what is no file.
    """
    check_regular(path)
    with path.open(newline="", encoding="utf-8", errors="replace") as file, suppress(csv.Error):
        for row in csv.DictReader(file):
            if is_row(row):
                yield dict.fromkeys(COLUMNS, "") | {name: from_cell(name, text) for name, text in row.items()}


def rows_by_photo(path: Path, count: int | None = None) -> dict[int, list[dict[str, str]]]:
    """The rows of a table under their photo's index, of the first so many photos; None: of all.

    Raises as `read_records` does.
    """
    rows: dict[int, list[dict[str, str]]] = {}
    for row in read_records(path):
        index = int(row["index"])
        if count is None or index < count:
            rows.setdefault(index, []).append(row)
    return rows


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
    return row["status"] != "done" or has_its_numbers(row)


def has_its_numbers(row: Mapping[str | None, Any]) -> bool:
    """Whether a photo that is done has the numbers that every page shows, and a class its own."""
    classes = [bool(row.get(name)) for name in CLASS]
    predicted = [bool(row.get(name)) for name in ("predicted", "probability")]
    return all(row.get(name) for name in EVERY) and len(set(classes)) == 1 and len(set(predicted)) == 1


def row_seal(folder: Path, row: Mapping[str, Any], digests: Mapping[str, str] | None = None) -> str:
    """A digest of what a row says and of its files: no changed bit of either is passed over.

    `digests` are those of files that have just been written, by their names in the folder; others are read.
    """
    known = digests or {}
    names = [str(row[column]) for column in FILES if row.get(column)]
    views = view_names(row, Path(str(row.get("map") or "")).stem).values()
    names += [name for name in views if os.path.lexists(folder / name)]
    of_files = [known[name] if name in known else file_digest(folder / name) for name in names]
    return f"{text_seal(row)}.{json_digest(of_files)}"


def view_names(row: Mapping[str, Any], stem: str = "") -> dict[str, str]:
    """The small pictures of a row that a page may show: photo, heatmap, thumbnail -> where each would lie."""
    names = {"photo": f"{PHOTOS}/{stem}.jpg"} if stem else {}
    if row.get("overlay"):
        name = Path(str(row["overlay"])).stem
        names |= {"heatmap": f"{HEATMAPS}/{name}.jpg", "thumbnail": f"{OVERLAYS}/{name}.jpg"}
    return names


def text_seal(row: Mapping[str, Any]) -> str:
    names = [
        name for name in COLUMNS if name != "seal" and (name not in LATER or row.get(name) not in (None, ""))
    ]
    texts = ["" if row.get(name) is None else str(row[name]) for name in names]
    return json_digest(list(map(as_written, texts)))


def says_what_was_written(row: Mapping[str, str]) -> bool:
    """Whether no text of a row was changed, whatever became of its files; rows of earlier versions tell
    nothing.
    """
    return row["seal"] == "" or row["seal"].partition(".")[0] == text_seal(row)


def sort_records(path: Path) -> None:
    """The rows in the order of the photos, as a run that was never stopped leaves them."""
    rows = list(read_records(path))
    ordered = sorted(rows, key=lambda row: int(row["index"]))
    if ordered == rows:
        return
    with whole_file(path) as part, part.open("w", newline="", encoding="utf-8") as file:
        new_table(file).writerows(ordered)


def as_written(text: str) -> str:
    """What a table holds of a name; one that is no Unicode has backslashes there."""
    return text.encode("utf-8", "backslashreplace").decode()


def as_read(row: Mapping[str, Any]) -> dict[str, Any]:
    """A row that is written as `read_numbers` gives it back."""
    texts = {name: "" if row.get(name) is None else as_written(str(row[name])) for name in COLUMNS}
    return texts | {name: float(texts[name]) for name in NUMBERS if texts[name]}


def read_numbers(path: Path) -> Iterator[dict[str, Any]]:
    """The rows with their numbers as numbers.  Raises as `read_records` does."""
    for row in read_records(path):
        yield row | {name: float(row[name]) for name in NUMBERS if row.get(name)}

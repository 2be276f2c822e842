"""Tables in, photos out: rows that hold pictures, and csv, tsv or parquet that name files or addresses."""

import csv
import io
import os
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from attnvis.data import stores
from attnvis.data.lists import MARKS
from attnvis.data.parquet import column_names, open_table, picture_column
from attnvis.data.sources import APART, Broken, TableRow, labelled, open_container
from attnvis.errors import in_one_line
from attnvis.types import PhotoError, Source

__all__ = ["photos_in_table"]

PLACES = (  # names of the column that says where a photo lies, the first that there is
    *("image", "path", "file", "url", "file_name", "filename", "image_path", "image_url"),
)
IDS = ("id", "image_id", "key")
ROWS_AT_ONCE = 4096

SourceOf = Callable[[str], Source]


def photos_in_table(table: str, source_of: SourceOf) -> Iterator[Source]:
    """The photos in the order of the rows; what cannot be read of the table gives a Broken.

    `source_of` knows what a path or an address stands for.
    """
    is_parquet = table.lower().endswith(".parquet")
    count = 0
    try:
        for photo in parquet_photos(table, source_of) if is_parquet else csv_photos(table, source_of):
            count += 1
            yield photo
    except PhotoError as error:
        yield Broken(table, str(error))
        return
    except (csv.Error, UnicodeError) as error:
        yield Broken(table, f"{table} cannot be read behind row {count} ({error}); save it as UTF-8")
        return
    if not count:
        yield Broken(table, f"{table} has no rows")


def parquet_photos(table: str, source_of: SourceOf) -> Iterator[Source]:
    """Raises PhotoError for what is no parquet, or has no column that could be meant."""
    from pyarrow import ArrowException

    parquet, file = open_table(table)
    with file:
        schema = parquet.schema_arrow
        if picture_column(table, schema) is not None:
            for number in range(parquet.metadata.num_rows):
                yield TableRow(table, number)
            return
        place, label = place_and_label(schema.names, table, column_names(schema))
        names = [place, label] if label else [place]
        number = 0
        try:
            for batch in parquet.iter_batches(ROWS_AT_ONCE, columns=names, use_threads=False):
                for row in batch.to_pylist():
                    yield named_photo(table, number, row[place], row.get(label, ""), source_of)
                    number += 1
        except (ArrowException, OSError) as error:
            reason = in_one_line(error, most=150)
            raise PhotoError(f"{table} cannot be read behind row {number} ({reason})") from None


def csv_photos(table: str, source_of: SourceOf) -> Iterator[Source]:
    """Raises PhotoError for a table without a column that could be meant; UnicodeError, csv.Error."""
    with open_container(table) as file:
        start = file.read(4)
        file.seek(0)
        encoding = next((name for mark, name in MARKS if start.startswith(mark)), "utf-8")
        text = io.TextIOWrapper(file, encoding, newline="")
        header = text.readline().lstrip("\ufeff")
        delimiter = delimiter_of(table, header)
        columns = [column.strip() for column in next(csv.reader([header], delimiter=delimiter), [])]
        place, label = place_and_label(columns, table, ", ".join(columns[:12]) or "none")
        at, at_label = columns.index(place), columns.index(label) if label else len(columns)
        rows = filter(None, csv.reader(text, delimiter=delimiter))  # empty lines are none
        for number, row in enumerate(rows):
            cells = [*row, *[""] * (len(columns) + 1 - len(row))]
            yield named_photo(table, number, cells[at], cells[at_label], source_of)


def delimiter_of(table: str, header: str) -> str:
    """What stands between the columns of a csv: a comma, a semicolon or a tab."""
    if table.lower().endswith(".tsv"):
        return "\t"
    return max(",;\t", key=header.count)


def place_and_label(columns: Sequence[str], table: str, described: str) -> tuple[str, str]:
    """The columns with the place and the id of each photo, "" where no column has ids.

    Raises PhotoError where nothing says where photos lie; `described`: the columns, for the sentence.
    """
    by_folded = {column.casefold(): column for column in reversed(columns)}
    place = next((by_folded[name] for name in PLACES if name in by_folded), None)
    if place is None:
        raise PhotoError(
            f"{table} has no column of pictures and none called {', '.join(PLACES[:4])}; "
            f"its columns: {described}"
        )
    return place, next((by_folded[name] for name in IDS if name in by_folded), "")


def named_photo(table: str, number: int, place: object, label: object, source_of: SourceOf) -> Source:
    """The photo that a row names, relative to the table."""
    row = f"{table}{APART}{number}"
    if place is None or not str(place).strip():
        return Broken(row, f"{row} names no photo: the cell is empty")
    try:
        source = source_of(beside(table, str(place).strip()))
    except PhotoError as error:
        return Broken(row, f"{row}: {error}")
    return labelled(source, "" if label is None else str(label).strip())


def beside(table: str, place: str) -> str:
    """A path or an address, relative to the folder of the table.  Raises PhotoError."""
    if stores.check_address(place):
        return place
    if stores.ADDRESS.match(table):
        if place.startswith(("/", "~")):
            raise PhotoError(f"{place} is no address; write it relative to the table")
        return f"{table.rpartition('/')[0]}/{place}"
    return str(Path(table).parent / os.path.expanduser(place))

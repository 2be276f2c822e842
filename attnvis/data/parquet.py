"""Parquet files in, the pictures in their rows out, one after another: Hugging Face's {bytes, path}."""

import threading
from collections import OrderedDict
from collections.abc import Iterator
from dataclasses import dataclass, field
from io import BufferedReader
from pathlib import Path, PurePath
from typing import TYPE_CHECKING, Any

from attnvis.data.sources import APART, container_file, read_source, stamp_of
from attnvis.data.stores import ADDRESS
from attnvis.errors import in_one_line
from attnvis.types import PhotoError

if TYPE_CHECKING:
    import pyarrow as pa
    from pyarrow.parquet import ParquetFile

__all__ = ["column_names", "open_table", "picture_column", "read_row"]

USUAL = ("image", "img", "photo", "picture")  # names of the column where several hold pictures
MOST_BYTES_AT_ONCE = 1 << 24  # of the pictures that are decoded together
MOST_ROWS_AT_ONCE = 256
MOST_KEPT = 4  # of these
MOST_OPEN = 2  # tables


def open_table(table: str) -> "tuple[ParquetFile, BufferedReader]":
    """Raises PhotoError for what is no parquet."""
    from pyarrow import ArrowException
    from pyarrow.parquet import ParquetFile

    file = container_file(table)
    try:
        return ParquetFile(file, buffer_size=1 << 20, pre_buffer=False), file
    except (ArrowException, OSError) as error:
        file.close()
        reason = in_one_line(error, most=150)
        raise PhotoError(f"{table} is no parquet, or cut off ({reason}); copy or download it again") from None


def column_names(schema: "pa.Schema") -> str:
    """For a sentence: label (int64), text (string)"""
    names = [f"{entry.name} ({str(entry.type)[:60]})" for entry in schema]
    return ", ".join(names[:12]) + (", ..." if len(names) > 12 else "") or "none"


def picture_column(table: str, schema: "pa.Schema") -> str | None:
    """The column that holds pictures: structs with `bytes`, or bytes themselves; None where there is none.

    Raises PhotoError where several could be meant.
    """
    names = [entry.name for entry in schema if holds_pictures(entry.type)]
    if len(names) < 2:
        return names[0] if names else None
    for usual in USUAL:
        if usual in names:
            return usual
    raise PhotoError(
        f"{table} has several columns of pictures ({', '.join(names)}) and none is called image; "
        "write the one that is meant into a table of its own"
    )


def holds_pictures(kind: "pa.DataType") -> bool:
    from pyarrow import types

    if types.is_struct(kind):
        index = kind.get_field_index("bytes")
        return index >= 0 and is_bytes(kind.field(index).type)
    return is_bytes(kind)


def is_bytes(kind: "pa.DataType") -> bool:
    from pyarrow import types

    return types.is_binary(kind) or types.is_large_binary(kind)


def read_row(table: str, number: int, most: int) -> bytes:
    """The picture in a row.  Raises PhotoError where there is none."""
    return picture_in(TABLES.cell(table, number), table, number=number, most=most)


def picture_in(cell: Any, table: str, number: int, most: int) -> bytes:
    """The bytes in a cell: its own, or those of the file beside the table that it names."""
    place = f"{table}{APART}{number}"
    content = cell.get("bytes") if isinstance(cell, dict) else cell
    path = cell.get("path") if isinstance(cell, dict) else None
    if content is None and path:
        if ADDRESS.match(table) or ADDRESS.match(str(path)):
            raise PhotoError(f"{place} has no bytes but the name {path}; put the bytes into the table")
        beside = PurePath(str(path))
        if beside.is_absolute() or ".." in beside.parts:
            raise PhotoError(f"{place} has no bytes but the name {path}, which is not beside the table")
        return read_source(Path(table).parent / beside, most)
    if content is None:
        raise PhotoError(f"{place} has no picture: it is null")
    if len(content) > most:
        raise PhotoError(
            f"{place} has {len(content):,} bytes, which is more than any photo's {most:,}; "
            "see whether it is one"
        )
    return bytes(content)


@dataclass
class Reader:
    """One table, read on and on; to go back means to begin the row group again."""

    table: str
    stamp: tuple[int, ...]
    lock: threading.Lock = field(default_factory=threading.Lock)
    kept: "OrderedDict[int, pa.ChunkedArray]" = field(default_factory=OrderedDict)  # by their first row

    def __post_init__(self) -> None:
        """Raises PhotoError."""
        self.parquet, self.file = open_table(self.table)
        schema = self.parquet.schema_arrow
        column = picture_column(self.table, schema)
        if column is None:
            raise PhotoError(f"{self.table} has no column of pictures; its columns: {column_names(schema)}")
        self.column = column
        self.batches: Iterator[pa.Array] = iter(())
        self.upcoming = -1  # the row that the next batch begins with; -1: there is none

    def cell(self, number: int) -> Any:
        """Raises PhotoError."""
        from pyarrow import ArrowException

        with self.lock:
            for first, cells in self.kept.items():
                if first <= number < first + len(cells):
                    return cells[number - first].as_py()
            try:
                return self.read_to(number)
            except (ArrowException, OSError, EOFError) as error:
                self.upcoming = -1
                reason = in_one_line(error, most=200)
                raise PhotoError(
                    f"{self.table}{APART}{number} cannot be read ({reason}); copy or download the table again"
                ) from None

    def read_to(self, number: int) -> Any:
        group, start, stop = self.group_of(number)
        if not (start <= self.upcoming <= number):
            self.batches, self.upcoming = self.open_group(group), start
        for batch in self.batches:
            cells, first = batch, self.upcoming
            self.upcoming += len(cells)
            if self.upcoming >= stop:
                self.upcoming = -1
            if number < first + len(cells):
                self.kept[first] = cells
                while len(self.kept) > MOST_KEPT:
                    self.kept.popitem(last=False)
                return cells[number - first].as_py()
        raise EOFError(f"row group {group} ends before it")

    def group_of(self, number: int) -> tuple[int, int, int]:
        """The row group of a row, its first row and that behind its last."""
        start = 0
        for group in range(self.parquet.metadata.num_row_groups):
            stop = start + self.parquet.metadata.row_group(group).num_rows
            if number < stop:
                return group, start, stop
            start = stop
        raise PhotoError(f"{self.table} has no row {number}; it has {start}, and the first is 0")

    def open_group(self, group: int) -> "Iterator[pa.Array]":
        """The cells of a row group, a few at a time."""
        about = self.parquet.metadata.row_group(group)
        columns = (about.column(index) for index in range(about.num_columns))
        size = sum(
            column.total_uncompressed_size
            for column in columns
            if column.path_in_schema.split(".")[0] == self.column
        )
        rows = MOST_BYTES_AT_ONCE * max(about.num_rows, 1) // max(size, 1)
        rows = max(1, min(rows, MOST_ROWS_AT_ONCE))
        for batch in self.parquet.iter_batches(
            batch_size=rows, row_groups=[group], columns=[self.column], use_threads=False
        ):
            yield batch.column(0)


class Tables:
    """The tables that were read last."""

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.readers: OrderedDict[str, Reader] = OrderedDict()

    def cell(self, table: str, number: int) -> Any:
        return self.reader(table).cell(number)

    def reader(self, table: str) -> Reader:
        """Raises PhotoError."""
        stamp = stamp_of(table)
        with self.lock:
            reader = self.readers.pop(table, None)
            if reader is None or reader.stamp != stamp:
                reader = Reader(table, stamp)
            self.readers[table] = reader
            while len(self.readers) > MOST_OPEN:
                self.readers.popitem(last=False)
            return reader


TABLES = Tables()

"""Where a photo comes from that is no file of its own; each gives its bytes, and an id that leads back.

Beside a Path, and wherever one may stand: `str` is the id (shard.tar::0001.jpg, table.parquet::17,
s3://bucket/key), `name` is for pages, `stem` for the names of output files.  They are values: frozen, small,
and the same in every process.
"""

import hashlib
import io
import os
import threading
from collections import OrderedDict
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import cast

from attnvis.data import stores
from attnvis.data.reading import MOST_BYTES, read_named
from attnvis.files import file_digest, open_regular
from attnvis.types import PhotoError, Source

__all__ = [
    "APART",
    "SOURCES",
    "Broken",
    "Labelled",
    "Member",
    "Stored",
    "TableRow",
    "digest_of",
    "key_of",
    "labelled",
    "open_container",
    "read_source",
    "stamp_of",
]

APART = "::"  # between an archive or a table and what is in it
MOST_CONTAINER = 1 << 50  # bytes of an archive or a table
MOST_OPEN = 4  # archives that a thread holds open


@dataclass(frozen=True, slots=True)
class Stored:
    """A photo at an address."""

    address: str

    def __str__(self) -> str:
        return self.address

    @property
    def name(self) -> str:
        return PurePosixPath(self.address.partition("?")[0]).name

    @property
    def stem(self) -> str:
        return PurePosixPath(self.name).stem

    def read(self, most: int) -> bytes:
        return stores.read_address(self.address, most)


@dataclass(frozen=True, slots=True)
class Member:
    """A picture in a tar, which is a file or lies at an address."""

    archive: str
    inside: str  # its name in there: text, never a place on this disk
    offset: int  # of its first byte in the archive
    size: int
    copy: int = 1  # 2 for the second of this name

    def __str__(self) -> str:
        return f"{self.archive}{APART}{self.inside}" + (f"{APART}{self.copy}" if self.copy > 1 else "")

    @property
    def name(self) -> str:
        return f"{PurePosixPath(self.archive).name}{APART}{self.inside}"

    @property
    def stem(self) -> str:
        return PurePosixPath(self.inside).stem

    def read(self, most: int) -> bytes:
        if self.size > most:
            raise PhotoError(
                f"{self} has {self.size:,} bytes, which is more than any photo's {most:,}; "
                "see whether it is one"
            )
        content = read_part(self.archive, self.offset, self.size)
        if len(content) != self.size:
            raise PhotoError(
                f"{self} is cut off with its archive, after {len(content):,} of {self.size:,} bytes; "
                "copy or download the archive again"
            )
        return content


@dataclass(frozen=True, slots=True)
class TableRow:
    """A picture in a parquet file, by the number of its row, from 0."""

    table: str
    number: int

    def __str__(self) -> str:
        return f"{self.table}{APART}{self.number}"

    @property
    def name(self) -> str:
        return f"{PurePosixPath(self.table).name}{APART}{self.number}"

    @property
    def stem(self) -> str:
        return f"{PurePosixPath(self.table).stem}-{self.number}"

    def read(self, most: int) -> bytes:
        from attnvis.data.parquet import read_row

        return read_row(self.table, self.number, most)


@dataclass(frozen=True, slots=True)
class Labelled:
    """A photo that a table of paths gives an id of its own; pages and files are named after that."""

    source: Source
    label: str

    def __str__(self) -> str:
        return str(self.source)

    @property
    def name(self) -> str:
        return self.label

    @property
    def stem(self) -> str:
        return self.label

    def read(self, most: int) -> bytes:
        return read_source(self.source, most)


@dataclass(frozen=True, slots=True)
class Broken:
    """What should have held photos and does not: it fails alone, with its reason."""

    place: str
    reason: str

    def __str__(self) -> str:
        return self.place

    @property
    def name(self) -> str:
        return PurePosixPath(self.place).name

    @property
    def stem(self) -> str:
        return PurePosixPath(self.place).stem

    def read(self, most: int) -> bytes:
        raise PhotoError(self.reason)


def labelled(source: Source, label: str) -> Source:
    """A photo under the id that its table gives it; as it is where there is no id, or no photo."""
    return Labelled(source, label) if label and not isinstance(source, Broken) else source


SOURCES = Stored | Member | TableRow | Labelled | Broken


def read_source(source: Source, most: int = MOST_BYTES) -> bytes:
    """The bytes of a photo, at most so many.  Raises PhotoError, nothing else."""
    if isinstance(source, Path):
        return read_named(source, most)
    return cast(Stored, source).read(most)


def digest_of(source: Source) -> str:
    """sha256 of a photo's bytes; "" where they cannot be read."""
    if isinstance(source, Path):
        return file_digest(source)
    try:
        return hashlib.sha256(read_source(source)).hexdigest()
    except PhotoError:
        return ""


def key_of(source: Source) -> str:
    """The same for every way to write the same file."""
    return os.path.abspath(source) if isinstance(source, Path) else str(source)


# ------------------------------------------------------------------------------------------------ containers


def container_file(container: str) -> io.BufferedReader:
    """An archive or a table, open to be read anywhere.  Raises PhotoError."""
    if stores.check_address(container):
        return io.BufferedReader(stores.StoredFile(container), buffer_size=1 << 16)
    try:
        with open_regular(Path(container), most=MOST_CONTAINER) as file:
            return open(os.dup(file.fileno()), "rb")
    except FileNotFoundError:
        raise PhotoError(f"no such file: {container}") from None
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        raise PhotoError(f"{container} cannot be read ({reason}); check the name and the disk") from None


@contextmanager
def open_container(container: str) -> Iterator[io.BufferedReader]:
    """`container_file`, closed behind the block."""
    with container_file(container) as file:
        yield file


class OpenFiles(threading.local):
    """The archives that a thread read last."""

    def __init__(self) -> None:
        self.files: OrderedDict[str, io.BufferedReader] = OrderedDict()


OPEN = OpenFiles()


def read_part(container: str, offset: int, size: int) -> bytes:
    """Some bytes of an archive, by a handle that the thread keeps; fewer where it ends.

    Raises PhotoError.
    """
    file = OPEN.files.pop(container, None)
    if file is None or is_replaced(container, file):
        file = container_file(container)
    try:
        file.seek(offset)
        content = file.read(size)
    except OSError as error:
        file.close()
        raise PhotoError(f"{container} cannot be read ({error.strerror or error}); check the disk") from None
    OPEN.files[container] = file
    while len(OPEN.files) > MOST_OPEN:
        OPEN.files.popitem(last=False)[1].close()
    return content


def is_replaced(container: str, file: io.BufferedReader) -> bool:
    """Whether an open file is no longer the one of that name; a store is not asked."""
    if isinstance(file.raw, stores.StoredFile):
        return False
    return stamp_of(container) != stamp_of(file.fileno())


def stamp_of(container: str | int) -> tuple[int, ...]:
    """Of a file, by its name or as it was opened: another one when it is replaced.  () of what is none."""
    try:
        status = os.stat(container)
    except OSError:
        return ()
    return status.st_ino, status.st_mtime_ns, status.st_size

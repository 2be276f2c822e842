"""What a person names in, ranges of photos out: the parts of a run over more photos than memory holds.

A range is small, frozen and the same in every process.  It says where its photos lie and never what is in
them: no picture is opened to make one.
"""

from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import groupby, islice
from pathlib import Path

from attnvis.data.paths import Search, Unopened, photos_of, source_of
from attnvis.data.sources import Broken, Labelled, TableRow, labelled
from attnvis.data.stores import ADDRESS
from attnvis.data.tars import members
from attnvis.types import Source

__all__ = ["Range", "ranges"]


@dataclass(frozen=True, slots=True)
class Range:
    """Photos that lie one after another.

    container     the archive or the table that holds them; "": they are named one by one
    start, stop   the first of its pictures, counted from 0, and that behind the last; None: to its end
    ids           of the photos that are named one by one
    labels        the names that a table of paths gave these; () where it gave none
    reasons       why these cannot be read, where that is known already; () where they can
    """

    container: str = ""
    start: int = 0
    stop: int | None = 0
    ids: tuple[str, ...] = ()
    labels: tuple[str, ...] = ()
    reasons: tuple[str, ...] = ()

    @property
    def count(self) -> int | None:
        """How many photos; None: nobody knows before the archive is opened."""
        return None if self.stop is None else self.stop - self.start

    def photos(self) -> Iterator[Source]:
        """In their order; one that is gone fails alone, when it is read."""
        if not self.container:
            yield from map(named_photo, self.ids, self.labels or none_of(self), self.reasons or none_of(self))
        elif self.container.lower().endswith(".parquet"):
            yield from (TableRow(self.container, number) for number in range(self.start, self.stop or 0))
        else:
            yield from islice(members(self.container, Counter()), self.start, self.stop)


def none_of(part: Range) -> tuple[str, ...]:
    return ("",) * len(part.ids)


def named_photo(id: str, label: str, reason: str) -> Source:
    """The photo with an id, as its table called it."""
    return labelled(Broken(id, reason) if reason else source_of(id), label)


def ranges(
    words: Iterable[str | Path], size: int, passed_over: Counter[str] | None = None
) -> Iterator[Range]:
    """The photos that some words mean, in ranges of at most so many, in the order of `paths.expand`.

    A range never crosses from one archive or table to the next.  Of a tar on this disk the headers are read,
    of a parquet file its end; a tar in a store is one range, and stays closed.  `passed_over` gains, by kind,
    what lies beside the photos, once all ranges are made; what two words mean counts twice.

    Raises ValueError for a size below 1, PhotoError as `paths.photos_of` does.
    """
    if size < 1:
        raise ValueError(f"a range of {size} holds no photo; give 1 or more")
    search = Search(is_only_folder=True, opens_archives=False)
    photos = (photo for word in words for photo in photos_of(word, search))
    for container, group in groupby(photos, container_of):
        if not container:
            while part := list(islice(group, size)):
                yield range_of_named(part)
        elif container.lower().endswith(".parquet"):
            for start, stop in consecutive(photo.number for photo in group if isinstance(photo, TableRow)):
                yield from split(container, start, stop, size)
        else:
            for _ in group:
                yield from archive_ranges(container, size, search.inside)
    if passed_over is not None:
        passed_over.update(search.kinds())


def container_of(photo: Source) -> str:
    """The archive or the table of pictures that a photo lies in; "" for one that has a name of its own."""
    if isinstance(photo, TableRow):
        return photo.table
    return photo.archive if isinstance(photo, Unopened) else ""


def archive_ranges(archive: str, size: int, passed_over: Counter[str]) -> Iterator[Range]:
    if ADDRESS.match(archive):
        yield Range(archive, stop=None)
    else:
        count = sum(1 for _ in members(archive, passed_over))
        yield from split(archive, 0, stop=count, size=size)


def split(container: str, start: int, stop: int, size: int) -> Iterator[Range]:
    for first in range(start, stop, size):
        yield Range(container, first, min(first + size, stop))


def consecutive(numbers: Iterable[int]) -> Iterator[tuple[int, int]]:
    """4, 5, 6, 0, 1 -> (4, 7), (0, 2)"""
    start = stop = -1
    for number in numbers:
        if number != stop and stop >= 0:
            yield start, stop
        if number != stop:
            start = number
        stop = number + 1
    if stop >= 0:
        yield start, stop


def range_of_named(photos: list[Source]) -> Range:
    """One by one, by their ids."""
    labels = tuple(photo.label if isinstance(photo, Labelled) else "" for photo in photos)
    reasons = tuple(photo.reason if isinstance(photo, Broken) else "" for photo in photos)
    return Range(
        stop=len(photos),
        ids=tuple(map(str, photos)),
        labels=labels if any(labels) else (),
        reasons=reasons if any(reasons) else (),
    )

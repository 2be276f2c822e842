"""Ranges of photos in, shards.parquet out: which shard has which, written before the first of them is opened.

A row a shard.  Ranges stream through: at any time a few shards' are in memory.
"""

import os
from bisect import bisect_left
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass
from itertools import chain
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from attnvis.data.ranges import Range, ranges
from attnvis.json_files import json_digest
from attnvis.pipeline.shards.durable import durable

__all__ = [
    "NAME",
    "Shard",
    "ShardPlan",
    "places_of",
    "require_named_addresses",
    "sample_places",
    "write_plan",
]

NAME = "shards.parquet"
TOGETHER = 8  # shards of a row group: what is read to know one of them
SAMPLE = 100  # photos that are drawn and shown, spread evenly over all
RESERVED = 1_000_000  # places of an archive whose photos nobody has counted
PLAN = pa.schema(
    [
        pa.field("shard", pa.int64()),
        pa.field("first", pa.int64()),  # place of its first photo among all
        pa.field("photos", pa.int64()),  # null: in an archive that was not opened
        pa.field("container", pa.binary()),  # the archive or the table that holds them; a name may be no text
        pa.field("start", pa.int64()),  # the first and the one behind the last in there
        pa.field("stop", pa.int64()),
        pa.field("ids", pa.list_(pa.binary())),  # or the photos one by one
        pa.field("labels", pa.list_(pa.binary())),
        pa.field("reasons", pa.list_(pa.binary())),
        pa.field("digest", pa.string()),  # of the settings and of the photos' names
    ]
)
TEXTS = ("ids", "labels", "reasons")
KNOWN = ("shard", "first", "photos", "digest")  # columns that say little of each shard


@dataclass(frozen=True)
class Shard:
    """Some of the photos, in order.

    first    the place of its first photo among all
    photos   how many; None: of an archive in a store, which is opened by who does the shard
    digest   of their names, and of what is asked of them
    range    which they are; None: not read
    """

    number: int
    first: int
    photos: int | None
    digest: str
    range: Range | None = None

    @property
    def stem(self) -> str:
        """Where its files go below a folder of the run: 003/00003141."""
        return f"{self.number // 1000:03d}/{self.number:08d}"

    @property
    def end(self) -> int:
        """The place behind its last photo."""
        return self.first + (RESERVED if self.photos is None else self.photos)


def write_plan(folder: Path, ranges: Iterable[Range], settings: str) -> None:
    """A shard a range; settings: the digest of what is asked of all.  Raises OSError."""
    schema = PLAN.with_metadata({"settings": settings})
    with durable(folder / NAME) as part, pq.ParquetWriter(part, schema, compression="zstd") as writer:
        rows: list[dict[str, Any]] = []
        for row in shard_rows(ranges, settings):
            rows.append(row)
            if len(rows) == TOGETHER:
                writer.write_table(pa.Table.from_pylist(rows, schema))
                rows.clear()
        if rows:
            writer.write_table(pa.Table.from_pylist(rows, schema))


def shard_rows(ranges: Iterable[Range], settings: str) -> Iterator[dict[str, Any]]:
    first = 0
    for number, photos in enumerate(ranges):
        values = asdict(photos)
        digest = json_digest([settings, first, list(values.values())])
        row = {"shard": number, "first": first, "photos": photos.count, "digest": digest}
        texts = {name: list(map(os.fsencode, values[name])) for name in TEXTS}
        yield row | values | texts | {"container": os.fsencode(photos.container)}
        first += RESERVED if photos.count is None else photos.count


class ShardPlan:
    """A folder's shards.parquet.

    Raises FileNotFoundError where there is none, ValueError for one that is damaged.
    """

    def __init__(self, folder: Path) -> None:
        self.path = folder / NAME
        try:
            self.file = pq.ParquetFile(self.path)
            if not self.file.schema_arrow.equals(PLAN):
                raise ValueError
            self.settings = self.file.schema_arrow.metadata[b"settings"].decode()
        except FileNotFoundError:
            raise
        except (OSError, ValueError, KeyError, TypeError, pa.ArrowException):
            raise ValueError(
                f"{self.path} is damaged or no plan of attnvis'; run again in another folder"
            ) from None

    def __len__(self) -> int:
        return self.file.metadata.num_rows

    @property
    def photos(self) -> int:
        """Of all shards, but for those in archives that were not opened."""
        return sum(shard.photos or 0 for shard in self)

    @property
    def span(self) -> int:
        """The place behind the last photo of all."""
        return 0 if not len(self) else self.shard(len(self) - 1).end

    def __iter__(self) -> Iterator[Shard]:
        """Every shard, without the names of its photos."""
        for batch in self.file.iter_batches(4096, columns=list(KNOWN)):
            for row in batch.to_pylist():
                yield Shard(row["shard"], row["first"], row["photos"], row["digest"])

    def shard(self, number: int) -> Shard:
        """One shard with its photos.  Raises IndexError where there are fewer."""
        group, place = divmod(number, TOGETHER)
        if not 0 <= number < len(self):
            raise IndexError(f"{self.path} has no shard {number}")
        (row,) = self.file.read_row_group(group).slice(place, 1).to_pylist()
        photos = Range(
            os.fsdecode(row["container"]),
            row["start"],
            stop=row["stop"],
            **{name: tuple(map(os.fsdecode, row[name])) for name in TEXTS},
        )
        return Shard(row["shard"], row["first"], row["photos"], row["digest"], photos)

    def addresses(self) -> Iterator[str]:
        """What is named in a store or on a server, in order: photos, archives and tables."""
        last = ""
        for batch in self.file.iter_batches(256, columns=["container", "ids"]):
            columns = (batch.column("container"), batch.column("ids").flatten())
            if not any(pc.any(pc.match_substring(names, "://")).as_py() for names in columns):
                continue
            for row in batch.to_pylist():
                for name in map(os.fsdecode, filter(None, (row["container"], *(row["ids"] or ())))):
                    if "://" in name and name != last:  # of a table in several shards once
                        yield name
                        last = name


def require_named_addresses(plan: ShardPlan, words: Iterable[str]) -> None:
    """A folder may be a stranger's: it chooses no address.

    words: what was typed for the photos.  Raises ValueError where the plan has an address that these do not
    name, in their order.
    """
    planned = plan.addresses()
    first = next(planned, None)
    if first is None:
        return
    named = (name for part in ranges(words, size=1000) for name in (part.container, *part.ids))
    for address in chain([first], planned):
        if address not in named:  # it looks on from where the one before was
            raise ValueError(
                f"{plan.path} names {address}, which is not among the photos that were typed, or no longer; "
                "run again in another folder"
            )


def sample_places(total: int) -> list[int]:
    """The places of the SAMPLE photos that are drawn and shown: spread evenly over all `total`."""
    return list(range(total)) if total <= SAMPLE else [turn * total // SAMPLE for turn in range(SAMPLE)]


def places_of(shard: Shard, span: int, shards: int) -> list[int]:
    """The places of the sample in one shard of a plan; of an archive that was not opened, its first photo
    or none.
    """
    if shard.photos is None:
        return [shard.first] if shard.number in sample_places(shards) else []
    places = sample_places(span)
    return places[bisect_left(places, shard.first) : bisect_left(places, shard.end)]

"""Photos in, shards.parquet out: which shard has which photos, written before the first of them is looked at.

A row a shard.  Photos stream through: at any time a few shards' are in memory.
"""

import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from attnvis.json_files import json_digest
from attnvis.pipeline.shards.durable import durable

__all__ = ["NAME", "PLAN", "Shard", "ShardPlan", "is_sampled", "sample_places", "write_plan"]

NAME = "shards.parquet"
TOGETHER = 8  # shards of a row group: what is read to know one of them
SAMPLE = 100  # photos that are drawn and shown, spread evenly over all
PLAN = pa.schema(
    [
        pa.field("shard", pa.int64()),
        pa.field("first", pa.int64()),  # place of its first photo among all
        pa.field("photos", pa.int64()),
        pa.field("ids", pa.list_(pa.binary())),  # the photos, in order; a file's name may be no text
        pa.field("digest", pa.string()),  # of the settings and of the photos' names
    ]
)


@dataclass(frozen=True)
class Shard:
    """Some of the photos, in order; `digest`: of their names and of what is asked of them."""

    number: int
    first: int
    photos: int
    digest: str
    ids: tuple[str, ...] = ()

    @property
    def stem(self) -> str:
        """Where its files go below a folder of the run: 003/00003141."""
        return f"{self.number // 1000:03d}/{self.number:08d}"


def write_plan(folder: Path, ids: Iterable[str], size: int, settings: str) -> None:
    """The shards of photos, `size` of them in each; settings: the digest of what is asked of all.

    Raises OSError, and ValueError for a size of nothing.
    """
    if size < 1:
        raise ValueError(f"shards.size={size} holds no photo; give 1 or more")
    schema = PLAN.with_metadata({"settings": settings})
    with durable(folder / NAME) as part, pq.ParquetWriter(part, schema, compression="zstd") as writer:
        rows: list[dict[str, Any]] = []
        for row in shard_rows(ids, size, settings):
            rows.append(row)
            if len(rows) == TOGETHER:
                writer.write_table(pa.Table.from_pylist(rows, schema))
                rows.clear()
        if rows:
            writer.write_table(pa.Table.from_pylist(rows, schema))


def shard_rows(ids: Iterable[str], size: int, settings: str) -> Iterator[dict[str, Any]]:
    iterator, first, number = iter(ids), 0, 0
    while names := list(islice(iterator, size)):
        row = {"shard": number, "first": first, "photos": len(names)}
        yield row | {"ids": list(map(os.fsencode, names)), "digest": json_digest([settings, first, names])}
        first, number = first + len(names), number + 1


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
        """Of all shards."""
        if not len(self):
            return 0
        last = self.file.read_row_group(self.file.num_row_groups - 1, columns=["first", "photos"])
        return last["first"][-1].as_py() + last["photos"][-1].as_py()

    def __iter__(self) -> Iterator[Shard]:
        """Every shard, without the names of its photos."""
        for batch in self.file.iter_batches(4096, columns=["shard", "first", "photos", "digest"]):
            for row in batch.to_pylist():
                yield Shard(row["shard"], row["first"], row["photos"], row["digest"])

    def shard(self, number: int) -> Shard:
        """One shard with its photos.  Raises IndexError where there are fewer."""
        group, place = divmod(number, TOGETHER)
        if not 0 <= number < len(self):
            raise IndexError(f"{self.path} has no shard {number}")
        (row,) = self.file.read_row_group(group).slice(place, 1).to_pylist()
        return Shard(
            row["shard"], row["first"], row["photos"], row["digest"], tuple(map(os.fsdecode, row["ids"]))
        )


def sample_places(total: int) -> list[int]:
    """The places of the SAMPLE photos that are drawn and shown: spread evenly over all `total`."""
    return list(range(total)) if total <= SAMPLE else [turn * total // SAMPLE for turn in range(SAMPLE)]


def is_sampled(index: int, total: int) -> bool:
    """Whether a photo is at one of the `sample_places`."""
    turn = -(-index * SAMPLE // total)  # the first whose place is not before it
    return total <= SAMPLE or (turn < SAMPLE and turn * total // SAMPLE == index)

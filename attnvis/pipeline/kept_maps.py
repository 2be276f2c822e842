"""The folder of a finished run in, photo by photo the maps that it kept out: of a plain run, or of one in
shards.

No network and no photo is opened: a map knows the size of its photo, and where its cells lie.
"""

import json
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from operator import itemgetter
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import torch
from jaxtyping import Float
from torch import Tensor

from attnvis.errors import in_one_line
from attnvis.files import is_whole
from attnvis.methods.answer import Answer
from attnvis.pipeline.maps import checked_placement
from attnvis.pipeline.redrawing import SourceRun, read_answers, unrecorded
from attnvis.pipeline.shards.part import is_done
from attnvis.pipeline.shards.plan import NAME as SHARDS
from attnvis.pipeline.shards.plan import ShardPlan
from attnvis.types import Placement

__all__ = ["KeptMap", "KeptPhoto", "KeptRun"]

ROWS = 200  # maps of a shard that are in memory together


@dataclass(frozen=True, eq=False)
class KeptMap:
    """One answer's weights, and where their cells lie on the photo; in shards they were kept in float16."""

    name: str  # its question as it is typed: class:tabby, and the layer where there are several
    weights: Float[Tensor, " N"]
    placement: Placement
    label: str = ""  # what that is on this photo, as pages and panels have it: tabby


@dataclass(frozen=True, eq=False)
class KeptPhoto:
    """What a run kept of one photo; `failure`: why it kept nothing."""

    path: str  # as the records have it
    maps: tuple[KeptMap, ...] = ()
    failure: str = ""


@dataclass(frozen=True, eq=False)
class KeptRun:
    """A run that is over, its photos read when their turn comes.

    photos    every photo's path in the order of the run, of those that failed too
    lacking   in words: what of the run was not done; "": nothing
    """

    folder: Path
    photos: tuple[str, ...]
    lacking: str
    plain: SourceRun | None  # None: in shards

    @classmethod
    def read(cls, folder: Path) -> "KeptRun":
        """Raises ValueError for a folder that is damaged, is no run's, or kept no maps."""
        if (folder / "records.csv").is_file():
            source = SourceRun.read(folder)
            left = len(unrecorded(source))
            paths = tuple(rows[0]["path"] for rows in source.photos)
            return cls(folder, paths, lacking=in_words(left, "photo", folder), plain=source)
        if (folder / SHARDS).is_file():
            return read_shards(folder)
        raise ValueError(f"{folder} is not the folder of a run: {advice(folder)}")

    def __len__(self) -> int:
        return len(self.photos)

    def __iter__(self) -> Iterator[KeptPhoto]:
        """Every photo; one whose maps are damaged or gone has that as its failure."""
        return of_shards(self.folder) if self.plain is None else of_plain_run(self.plain)


def in_words(count: int, noun: str, folder: Path) -> str:
    """3 photos of ... were not done; go on with ...; "" for none."""
    if not count:
        return ""
    subject = f"1 {noun} was" if count == 1 else f"{count} {noun}s were"
    return f"{subject} not done; attnvis run --resume {folder} does the rest"


def advice(folder: Path) -> str:
    """What to give instead of a folder that holds no run."""
    inner = sorted(folder.glob("*/records.csv"))
    if inner:
        return f"it holds several; give one, such as {inner[0].parent}"
    return "it has neither records.csv nor shards.parquet; give one such as outputs/run/<date>/<time>"


def numbered(names: Iterable[tuple[str, str]], layers: int) -> list[str]:
    """What tells the maps of one photo apart, of (query, layer): the query, its number among those that are
    called the same, and the layer where there are several.
    """
    names = list(names)
    total, counts = Counter(names), Counter[tuple[str, str]]()
    texts = []
    for query, layer in names:
        counts[query, layer] += 1
        number = f" #{counts[query, layer]}" if total[query, layer] > 1 else ""
        texts.append(query + number + (f", {layer}" if layers > 1 else ""))
    return texts


def of_plain_run(source: SourceRun) -> Iterator[KeptPhoto]:
    for index, rows in enumerate(source.photos):
        path, kept = rows[0]["path"], source.map(index)
        if rows[0]["status"] != "done" or not rows[0]["map"]:
            yield KeptPhoto(path, failure=rows[0]["reason"] or f"{path} has no maps")
            continue
        try:
            if not is_whole(source.folder, rows[0]["map"]):
                raise ValueError(f"{kept} is gone, empty or no file; run again to make it")
            yield KeptPhoto(path, of_answers(read_answers(kept, rows)))
        except (FileNotFoundError, ValueError) as error:
            yield KeptPhoto(path, failure=in_one_line(error))


def of_answers(answers: Sequence[Answer]) -> tuple[KeptMap, ...]:
    layers = len({answer.layer for answer in answers})
    names = numbered([(answer.query, answer.layer) for answer in answers], layers)
    return tuple(
        KeptMap(name, answer.weights, answer.placement, answer.label)
        for name, answer in zip(names, answers, strict=True)
    )


# ------------------------------------------------------------------------------------------------- in shards


def read_shards(folder: Path) -> KeptRun:
    """Raises ValueError where nothing is done, where records are damaged, and where there are no maps."""
    plan = ShardPlan(folder)
    done = [shard.stem for shard in plan if is_done(folder, shard)]
    rows = [row for stem in done for row in records_of(folder, stem)]
    if not any(row["map"] for row in rows):
        why = "kept no maps; run again with maps=true" if rows else "has no shard that is done"
        raise ValueError(f"{folder} {why}")
    paths = tuple(dict.fromkeys(row["path"] for row in rows))
    return KeptRun(folder, paths, in_words(len(plan) - len(done), "shard", folder), plain=None)


def records_of(folder: Path, stem: str) -> list[dict[str, Any]]:
    """What a shard's records say of whose maps lie where.  Raises ValueError for a damaged file."""
    path = folder / "records" / f"{stem}.parquet"
    try:
        columns = ["index", "path", "status", "reason", "map"]
        return pq.read_table(path, columns=columns).to_pylist()
    except (OSError, ValueError, KeyError, pa.ArrowException) as error:
        raise ValueError(f"{path} is damaged ({in_one_line(error)}); run again to make it") from None


def of_shards(folder: Path) -> Iterator[KeptPhoto]:
    for shard in ShardPlan(folder):
        if is_done(folder, shard):
            yield from of_shard(folder, shard.stem)


def of_shard(folder: Path, stem: str) -> Iterator[KeptPhoto]:
    """The photos of one shard, those without maps first."""
    paths: dict[int, str] = {}
    for row in records_of(folder, stem):
        if row["status"] != "done" or not row["map"]:
            yield KeptPhoto(row["path"], failure=row["reason"] or f"{row['path']} has no maps")
        else:
            paths[row["index"]] = row["path"]
    file = folder / "maps" / f"{stem}.parquet"
    for index, rows in groupby(map_rows(file), key=itemgetter("index")):
        if index in paths:
            yield half_photo(paths[index], list(rows))
        else:
            yield KeptPhoto(
                str(file),
                failure=f"{file} has maps of photo {index}, of which no record says that it is done",
            )


def map_rows(path: Path) -> Iterator[dict[str, Any]]:
    """The rows of a shard's maps, in the order of its photos."""
    columns = ["index", "query", "label", "layer", "rows", "columns", "weights", "placement"]
    with pq.ParquetFile(path) as file:
        for batch in file.iter_batches(batch_size=ROWS, columns=columns):
            yield from batch.to_pylist()


def half_photo(path: str, rows: Sequence[Mapping[str, Any]]) -> KeptPhoto:
    """One photo's maps from their rows."""
    layers = len({row["layer"] for row in rows})
    names = numbered([(row["query"], row["layer"]) for row in rows], layers)
    try:
        maps = tuple(half_map(name, row) for name, row in zip(names, rows, strict=True))
    except (ValueError, TypeError, LookupError) as error:
        return KeptPhoto(path, failure=f"{path}: its maps are damaged ({in_one_line(error)})")
    return KeptPhoto(path, maps)


def half_map(name: str, row: Mapping[str, Any]) -> KeptMap:
    """Raises ValueError, TypeError or LookupError for numbers that are none, or lie nowhere."""
    weights = torch.tensor([float(weight) for weight in row["weights"]])
    if not weights.isfinite().all():
        raise ValueError("its weights are not finite")
    placement = checked_placement(json.loads(row["placement"]), cells=len(weights))
    return KeptMap(name, weights, placement, str(row["label"]))

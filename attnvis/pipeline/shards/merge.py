"""The parts of all shards in, a page of a sample, the totals and one W&B run out.

One shard at a time is in memory.  The records stay where they are: records/ is one parquet dataset.
"""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from attnvis.json_files import write_json
from attnvis.pipeline.drawing import noun_of
from attnvis.pipeline.photo_tracking import Means, PhotoTracker, by_photo, keyed
from attnvis.pipeline.plan import RunPlan
from attnvis.pipeline.records import NUMBERS
from attnvis.pipeline.run_page import RunPage
from attnvis.pipeline.shards.part import NO_NAME, receipt_of, without_name
from attnvis.pipeline.shards.plan import NAME, Shard, ShardPlan, places_of
from attnvis.pipeline.tracking import MOST_PICTURES
from attnvis.render import overlays, panels

__all__ = [
    "ShardTracker",
    "Totals",
    "add_up",
    "merge_parts",
    "named_failures",
    "sample_rows",
    "write_sample_page",
    "write_totals",
]

MOST_FAILURES = 200  # that the page names
TOTALS = "totals.json"


@dataclass
class Totals:
    """Of all parts."""

    photos: int = 0  # of the parts
    shards: int = 0
    parts: int = 0
    rows: int = 0
    failures: Counter[str] = field(default_factory=Counter)  # kind -> photos
    notes: Counter[str] = field(default_factory=Counter)
    means: Means = field(default_factory=Means)
    cpu_seconds: float = 0.0

    @property
    def done(self) -> int:
        return self.means.done

    @property
    def failed(self) -> int:
        return self.means.failed


def add_up(folder: Path, plan: ShardPlan) -> Totals:
    """What the receipts say, in the order of the shards: the same sums whoever did them, and when."""
    totals = Totals(shards=len(plan))
    for shard in plan:
        receipt = receipt_of(folder, shard)
        if receipt is None or receipt.digest != shard.digest:
            continue
        totals.parts += 1
        totals.rows += receipt.rows
        totals.photos += receipt.photos
        totals.failures.update(receipt.failures)
        totals.notes.update(receipt.notes)
        totals.cpu_seconds += receipt.cpu_seconds
        totals.means.done += receipt.done
        totals.means.failed += receipt.failed
        for name, (total, count) in receipt.sums.items():
            before, counted = totals.means.sums.get(name, (0.0, 0))
            totals.means.sums[name] = (before + total, counted + int(count))
    return totals


def named_failures(kinds: Mapping[str, int], sample: Sequence[Mapping[str, Any]]) -> dict[str, int]:
    """Why photos failed -> how many: each by its own reason, where the sample has all of them; else the first
    of every kind, and how many more are like it.

    kinds: of failure, how many photos each; sample: rows of photos
    """
    failed = [row for row in sample if row["status"] != "done"]
    if len(failed) == sum(kinds.values()):
        return dict(Counter(str(row["reason"]) for row in failed))
    first: dict[str, str] = {}
    for row in failed:
        first.setdefault(without_name(row["reason"], row["path"], row["photo"]), row["reason"])
    reasons: dict[str, int] = {}
    for kind, count in Counter(kinds).most_common():
        reason = first.get(kind, kind.replace(NO_NAME, "..."))
        reasons[f"{reason}; {count - 1:,} more like it" if count > 1 else reason] = 1
    return reasons


def write_totals(folder: Path, totals: Totals) -> None:
    """totals.json: photos, failures by kind, means.  Raises OSError."""
    about = {
        "photos": totals.photos,
        "done": totals.done,
        "failed": totals.failed,
        "shards": totals.shards,
        "parts": totals.parts,
        "rows": totals.rows,
        "failures": dict(totals.failures.most_common()),
        "photo notes": dict(totals.notes.most_common()),
        "means": totals.means.values(),
    }
    write_json(folder, TOTALS, about)


def sample_rows(folder: Path, plan: ShardPlan) -> Iterator[dict[str, Any]]:
    """The rows of the sample and of the first photos that failed, in order, of the parts that there are."""
    span, shards, failures = plan.span, len(plan), 0
    for shard in plan:
        sampled = places_of(shard, span, shards)
        receipt = receipt_of(folder, shard) if sampled or failures < MOST_FAILURES else None
        if receipt is None or receipt.digest != shard.digest:
            continue
        if not sampled and not (receipt.failed and failures < MOST_FAILURES):
            continue
        for row in rows_of(folder, shard, sampled):
            failures += row["status"] != "done"
            if row["status"] == "done" or failures <= MOST_FAILURES:
                yield row


def rows_of(folder: Path, shard: Shard, sampled: Sequence[int]) -> Iterator[dict[str, Any]]:
    """Of one part the rows of these photos, and of all that failed, as `records.read_numbers` gives rows."""
    table = pq.read_table(folder / f"records/{shard.stem}.parquet", page_checksum_verification=True)
    failed = pc.not_equal(table["status"], "done")
    shown = pc.or_(failed, pc.is_in(table["index"], pa.array(sampled, pa.int64())))
    for row in table.filter(shown).to_pylist():
        numbers = {name: float(row[name]) for name in NUMBERS if row[name] is not None}
        yield {name: "" if value is None else value for name, value in row.items()} | numbers


def write_sample_page(folder: Path, run: RunPlan, totals: Totals, rows: Sequence[Mapping[str, Any]]) -> Path:
    """index.html of the sample, with the totals above; gives its path.  Raises OSError."""
    shown = len({row["index"] for row in rows if row["status"] == "done"})
    facts = {
        "photos": f"{totals.done:,} done, {totals.failed:,} failed",
        "shards": f"{totals.parts:,} of {totals.shards:,}",
        "shown": f"{shown:,} photos, evenly spread; records/ is one parquet dataset of all",
    }
    if totals.failures:
        facts["failures"] = "; ".join(f"{count:,} {kind}" for kind, count in totals.failures.most_common(5))
    of_how_many = f": {shown:,} of {totals.done:,} photos" if shown < totals.done else ""
    with RunPage(folder) as page:
        for row in rows:
            page.add(row)
        return page.write(
            f"attnvis {run.name}{of_how_many}",
            facts=facts | run.provenance.entries(),
            warnings=run.warnings,
            colour_bar=overlays.encode(panels.colour_bar(run.style, noun=noun_of(run.scaling)), "png"),
            scale=run.style.scale,
        )


class ShardTracker(PhotoTracker):
    """A run in shards at W&B: how far it is, then means, and maps, a table and a page of the sample."""

    totals_of: Totals | None = None
    sample: Sequence[Mapping[str, Any]] = ()

    def log_totals(self) -> None:
        """What is known once the parts have been added up; before that, nothing."""
        if self.totals_of is None:
            return
        maps: dict[str, dict[int, Mapping[str, Any]]] = {}
        table: list[Mapping[str, Any]] = []
        places = list(dict.fromkeys(int(row["index"]) for row in self.sample))
        for index, rows in by_photo(self.sample):
            for key, row in keyed(rows):
                table.append(row)
                if key and places.index(index) < min(self.settings.pictures, MOST_PICTURES):
                    maps.setdefault(key, {})[places.index(index)] = row
        self.summarise(self.totals_of.means.values())
        for key, of_key in maps.items():
            tiles = [self.tile(of_key.get(place), None) for place in range(max(of_key) + 1)]
            self.log_list(f"{key}/maps", tiles)
        self.log_table("photos", self.columns(table), total=len(table))
        self.log_page("page", self.folder / "index.html")
        self.log_files("run", [self.folder / "run.json", self.folder / TOTALS, self.folder / NAME])


def merge_parts(folder: Path, plan: ShardPlan, run: RunPlan, tracker: ShardTracker) -> Totals:
    """totals.json and index.html, of the parts that there are; W&B is told at the end.  Raises OSError."""
    totals = add_up(folder, plan)
    write_totals(folder, totals)
    tracker.totals_of, tracker.sample = totals, list(sample_rows(folder, plan))
    write_sample_page(folder, run, totals, tracker.sample)
    return totals

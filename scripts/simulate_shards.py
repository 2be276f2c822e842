"""Empty rows through all of a run in shards but the photos: plan, resume, status, merge; seconds and MB.

    python scripts/simulate_shards.py 10_000_000 --size 1000

Each line is one stage: its seconds of CPU and by the clock, and the most memory that the process had so far.
"""

import argparse
import resource
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import torch

from attnvis.attention.normalise import softmax
from attnvis.attention.query import mean
from attnvis.attention.scaling import inv_sqrt_d
from attnvis.backbone import efficientnet_lite
from attnvis.data.ranges import Range
from attnvis.files import file_digest
from attnvis.methods.attention import AttentionMethod
from attnvis.pipeline.plan import RunPlan
from attnvis.pipeline.shards.columns import RECORDS
from attnvis.pipeline.shards.merge import add_up, sample_rows, write_sample_page, write_totals
from attnvis.pipeline.shards.part import PartWriter, Receipt, ShardTask, is_done, write_receipt
from attnvis.pipeline.shards.plan import Shard, ShardPlan, write_plan
from attnvis.pipeline.shards.progress import Board
from attnvis.pipeline.streaming import stream
from attnvis.render.overlays import Style
from attnvis.types import Provenance


def main() -> None:
    """Prints the table of one run."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("photos", type=int)
    parser.add_argument("--size", type=int, default=1000, help="photos of a shard")
    parser.add_argument("--photo", type=Path, help="only what a part costs: a thousand times its answers")
    arguments = parser.parse_args()
    if arguments.photo:
        time_part(arguments.photo)
        return
    with tempfile.TemporaryDirectory(prefix="attnvis-shards-") as place:
        simulate(Path(place), arguments.photos, arguments.size)


def simulate(folder: Path, photos: int, size: int) -> None:
    """Every stage, in a folder of its own."""
    print(f"{photos:,} photos in shards of {size:,}\n\n| stage | core-s | s | peak MB |\n|---|---|---|---|")
    timed("plan: names in, shards.parquet out", lambda: write_plan(folder, named(photos, size), "settings"))
    plan = ShardPlan(folder)
    timed("parts of empty rows (no product's work)", lambda: write_parts(folder, plan))
    timed("resume: which shards have a whole part", lambda: require(all(is_done(folder, s) for s in plan)))
    timed("status: read from the files", lambda: require(Board(folder).read().shards_done == len(plan)))
    timed("merge: totals, the page of a sample", lambda: merge(folder, plan))
    files = [path for path in folder.rglob("*") if path.is_file()]
    size_of = {kind: sum(path.stat().st_size for path in folder.glob(kind)) / 1e6 for kind in KINDS}
    print(f"\n{len(files):,} files: " + ", ".join(f"{kind} {mb:,.1f} MB" for kind, mb in size_of.items()))


def time_part(photo: Path, count: int = 1000) -> None:
    """What becomes of a photo after its attention: rows, float16 maps, parquet, digests; nothing is drawn."""
    torch.set_num_threads(1)
    backbone = efficientnet_lite(precision="fp32", engine="eager")
    method = AttentionMethod(backbone, mean, inv_sqrt_d, softmax)
    (outcome,) = stream([photo], method, backbone.preprocessing)
    for number in range(3):
        with tempfile.TemporaryDirectory(prefix="attnvis-shards-") as place:
            task = ShardTask(Path(place), 10**9, 10**6, Style(), Provenance())
            cpu = time.process_time()
            with PartWriter(task, Shard(number, 1, count, "digest")) as part:
                for index in range(count):
                    turn = replace(outcome, index=index)
                    part.record(replace(turn, made=part.render(turn)))
                part.finish()
            print(f"{1000 * (time.process_time() - cpu) / count:.2f} core-ms a photo")


KINDS = ("shards.parquet", "records/*/*", "parts/*/*.json", "index.html")


def named(count: int, size: int) -> Iterator[Range]:
    """Photos that are named one by one, which is what takes the most room."""
    for first in range(0, count, size):
        numbers = range(first, min(first + size, count))
        ids = tuple(f"/data/photos/{number // 1000:07d}/photo-{number:010d}.jpg" for number in numbers)
        yield Range(stop=len(ids), ids=ids)


def write_parts(folder: Path, plan: ShardPlan) -> None:
    """Records of photos of which nothing is known but that they are done, and the receipts."""
    for shard in plan:
        name = f"records/{shard.stem}.parquet"
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        pq.write_table(empty_rows(shard), folder / name, compression="zstd")
        files = {name: file_digest(folder / name)}
        count = shard.photos or 0
        receipt = Receipt(shard.digest, shard.number, photos=count, done=count, files=files)
        write_receipt(folder, shard, receipt)


def empty_rows(shard: Shard) -> pa.Table:
    columns = {field.name: pa.nulls(shard.photos or 0, field.type) for field in RECORDS}
    columns["index"] = pa.array(range(shard.first, shard.end), pa.int64())
    columns["status"] = pa.array(["done"] * (shard.photos or 0))
    return pa.table(columns, schema=RECORDS)


def merge(folder: Path, plan: ShardPlan) -> None:
    run = RunPlan((), Style(), Provenance())
    totals = add_up(folder, plan)
    write_totals(folder, totals)
    write_sample_page(folder, run, totals, list(sample_rows(folder, plan)))
    require(totals.done == plan.photos)


def require(holds: bool) -> None:
    if not holds:
        raise SystemExit("the simulation lost shards")


def timed(stage: str, work: Callable[[], Any]) -> None:
    wall, cpu = time.perf_counter(), time.process_time()
    work()
    wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print(f"| {stage} | {cpu:,.1f} | {wall:,.1f} | {peak:,.0f} |", flush=True)


if __name__ == "__main__":
    main()

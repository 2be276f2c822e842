"""A sweep's folder in, one table of all its jobs out; and what a job's folder is called and holds."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from safetensors import SafetensorError

from attnvis.errors import in_one_line
from attnvis.experiments.sweep.curves import KEPT, read_curves
from attnvis.experiments.sweep.record import JobRecord
from attnvis.experiments.sweep.shapes import SHAPES
from attnvis.files import check_regular, file_digest, is_whole, read_bytes
from attnvis.json_files import read_json
from attnvis.metrics.diagnostics import DESCRIPTIONS
from attnvis.pipeline.records import as_written
from attnvis.pipeline.resume import PlannedPhoto, album_digest, photos_of

__all__ = [
    "AXES",
    "Part",
    "Sweep",
    "finished",
    "images_key",
    "read_plan",
    "read_record",
    "read_sweep",
    "setting_name",
]

MOST = 1 << 28  # bytes of a job.json

AXES = (  # what differs between jobs; within a job: query, scaling, normalise
    "backbone",
    "weights",
    "layer",
    "fit",
    "size",
    "seed",
    "keys",
    "heads",
    "fuse",
)
TEXTS = ("photo", "path", "digest", "query", "label", "scaling", "normalise")
COUNTS = ("index", "patches", "rows", "columns", "dim")
CHECKS = ("p_value", "worst_correlation", "spread")  # where they were asked for
SCHEMA = pa.schema(
    [(name, pa.string()) for name in (*AXES, *TEXTS)]
    + [(name, pa.int32()) for name in COUNTS]
    + [(name, pa.float64()) for name in (*DESCRIPTIONS, *SHAPES, *CHECKS)]
)


def setting_name(scaling: str, normalise: str) -> str:
    """temperature:2, or temperature:2 sparsemax: the usual normaliser goes without saying."""
    return scaling if normalise == "softmax" else f"{scaling} {normalise}"


@dataclass(frozen=True, eq=False)
class Part:
    """One job of a sweep and what became of it."""

    folder: Path
    number: int
    overrides: str  # that make it this job
    record: JobRecord  # where it left none: why it is missing

    @property
    def status(self) -> str:
        """done | failed | missing."""
        return self.record.status

    @property
    def reason(self) -> str:
        return self.record.reason

    @property
    def study(self) -> str:
        return self.record.asked.get("study", "")

    def curves(self) -> dict[str, dict[str, np.ndarray]]:
        """query -> ranks [S, R], gaps [S+1, bins], perplexity and gradient [P, T], tau [P, shares]."""
        return read_curves(self.folder / "curves.safetensors", self.record.queries)


@dataclass(frozen=True, eq=False)
class Sweep:
    """What all jobs of a sweep left, or why they did not."""

    folder: Path
    command: str
    parts: list[Part]
    table: pa.Table  # the rows of all jobs that are done

    @property
    def done(self) -> list[Part]:
        return [part for part in self.parts if part.status == "done"]

    @property
    def missing(self) -> list[Part]:
        return [part for part in self.parts if part.status != "done"]


def finished(folder: Path, asked: Mapping[str, Any], photos: Sequence[PlannedPhoto] = ()) -> bool:
    """Whether this very job was done here before, on these photos, and all of its files are whole."""
    record = read_record(folder)
    now = json.loads(json.dumps(asked))
    if "photos" not in record.asked:  # a record of an earlier version: its rows say which they were
        now.pop("photos", None)
    if record.status != "done" or record.asked != now:
        return False
    # what of these a page can do without, a sweep cannot
    tiles = all(
        is_whole(folder, tile.file) and not (folder / tile.file).is_symlink() for tile in record.tiles
    )
    whole = all(file_digest(folder / name) == digest for name, digest in record.files.items())
    return tiles and whole and not trouble(folder, record, photos)


def trouble(folder: Path, record: JobRecord, photos: Sequence[PlannedPhoto] = ()) -> str:
    """Why the files of a job that is done are not what it left, on these photos; "" where they are."""
    if photos and record.asked.get("photos", album_digest(photos)) != album_digest(photos):
        return "it was measured on other photos"
    if record.asked.get("study") == "recognition":
        return "" if is_whole(folder, "index.html") else "its index.html is gone or empty"
    try:
        table = read_rows(folder, record)
        record_curves(folder, record)
    except (OSError, ValueError) as error:
        return in_one_line(error)
    return trouble_with_photos(table, record, photos)


def trouble_with_photos(table: pa.Table, record: JobRecord, photos: Sequence[PlannedPhoto]) -> str:
    """Whether every photo is in the rows, or failed, and none but these."""
    if not photos:
        return ""
    measured = dict(zip(table["path"].to_pylist(), table["digest"].to_pylist(), strict=True))
    planned = {as_written(photo.path): photo.digest for photo in photos}
    others = [path for path, digest in measured.items() if planned.get(path) != digest]
    failed = {as_written(failure.path) for failure in record.failures}
    lacking = [path for path in planned if path not in measured and path not in failed]
    if others or lacking:
        return f"it was measured on other photos ({', '.join([*others, *lacking][:5])})"
    return ""


def read_rows(folder: Path, record: JobRecord) -> pa.Table:
    """The table of a job.  Raises ValueError for one that is damaged, or is not that of this record."""
    path = folder / "rows.parquet"
    rows = record.done * len(record.queries) * len(record.settings)
    try:
        check_regular(path)
        require_written(folder, record, path.name)
        file = pq.ParquetFile(path)
        if file.metadata.num_rows != rows:  # before they are unfolded
            raise ValueError(f"{file.metadata.num_rows} rows of {rows}")
        table = file.read()
    except (OSError, ValueError, pa.ArrowException) as error:
        raise ValueError(f"its rows.parquet is damaged or gone ({in_one_line(error, most=80)})") from None
    types = dict(zip(SCHEMA.names, SCHEMA.types, strict=True))
    foreign = [entry.name for entry in table.schema if types.get(entry.name) != entry.type]
    if foreign:  # an earlier version's columns may be fewer
        raise ValueError(f"its rows.parquet has other columns: {', '.join(foreign[:3])}")
    return table


def require_written(folder: Path, record: JobRecord, name: str) -> None:
    """Raises ValueError for a file that is not as the job left it; earlier versions kept no digests."""
    if name in record.files and file_digest(folder / name) != record.files[name]:
        raise ValueError(f"its {name} is not what was written")


def record_curves(folder: Path, record: JobRecord) -> dict[str, dict[str, np.ndarray]]:
    """The curves of a job.  Raises ValueError for those that are damaged, or not those of this record."""
    path = folder / "curves.safetensors"
    try:
        check_regular(path)
        curves = read_curves(path, record.queries)
    except (OSError, ValueError, KeyError, SafetensorError) as error:
        raise ValueError(f"its curves.safetensors is damaged or gone ({str(error)[:80]})") from None
    require_written(folder, record, path.name)
    for values in curves.values():
        kept, settings = min(record.done, KEPT), len(record.settings)
        shapes = (values["ranks"].shape[:1], values["gaps"].shape[:1], values["perplexity"].shape[:1])
        if shapes != ((settings,), (settings + 1,), (kept,)) or values["tau"].shape != (
            kept,
            len(record.sharpness),
        ):
            raise ValueError("its curves.safetensors is that of another job")
    return curves


def read_record(folder: Path) -> JobRecord:
    """What a job left in its folder; a job that left nothing, or half of it, is missing."""
    try:
        return JobRecord.from_json(read_bytes(folder / "job.json", most=MOST).decode())
    except FileNotFoundError:
        begun = (folder / ".rows.part").exists()
        killed = "it was started and never ended: killed, out of memory, or out of room"
        return JobRecord("missing", killed if begun else "it was never started, or could not write")
    except (OSError, ValueError, RecursionError):
        return JobRecord("missing", "its job.json is damaged")


def read_plan(folder: Path) -> dict[str, Any]:
    """What plan.json says of a sweep: command, jobs, many, and photos: images -> PlannedPhoto of each.

    Raises ValueError where there is none, or a damaged one.
    """
    try:
        plan = read_json(folder / "plan.json")
    except FileNotFoundError:
        raise ValueError(
            f"{folder} is not the folder of a sweep: it has no plan.json; "
            "give one such as outputs/sweep/<date>/<time>"
        ) from None
    except (OSError, ValueError):
        raise ValueError(
            f"{folder / 'plan.json'} is damaged; run the sweep again in another folder"
        ) from None
    try:
        photos = {str(images): photos_of(of_them) for images, of_them in plan.get("photos", {}).items()}
        jobs = [str(job) for job in plan["jobs"]]
        return {
            "command": str(plan["command"]),
            "jobs": jobs,
            "many": bool(plan["many"]),
            "logger": dict(plan.get("logger") or {"mode": "disabled"}),
            "photos": photos,
        }
    except (KeyError, TypeError, ValueError, AttributeError):
        raise ValueError(f"{folder / 'plan.json'} is damaged, or not the plan of a sweep") from None


def images_key(images: Any) -> str:
    """Under which plan.json has the photos that this setting names."""
    return json.dumps(images)


def read_sweep(folder: Path) -> Sweep:
    """A sweep's folder: plan.json says what was asked, the jobs' folders what there is.

    A job whose files are damaged, or that was measured on other photos than the plan's, is missing.
    Raises ValueError where there is no plan.json, or a damaged one.
    """
    plan = read_plan(folder)
    parts, tables = [], []
    for number, overrides in enumerate(plan["jobs"]):
        job = folder / str(number) if plan["many"] else folder
        record = read_record(job)
        photos = plan["photos"].get(images_key(record.asked.get("images")), ())
        if record.status == "done" and (reason := trouble(job, record, photos)):
            record = JobRecord("missing", reason)
        parts.append(Part(job, number, overrides, record))
        if record.status == "done" and parts[-1].study != "recognition":
            tables.append(read_rows(job, record))
    # a job that an earlier version measured may lack columns
    table = pa.concat_tables([SCHEMA.empty_table(), *tables], promote_options="default")
    return Sweep(folder, plan["command"], parts, table)

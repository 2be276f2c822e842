"""A sweep's folder in, one table of all its jobs out; and what a job's folder is called and holds."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from attnvis.experiments.sweep.curves import read_curves
from attnvis.experiments.sweep.record import JobRecord
from attnvis.experiments.sweep.shapes import SHAPES
from attnvis.metrics.diagnostics import DESCRIPTIONS

__all__ = ["AXES", "Part", "Sweep", "finished", "read_record", "read_sweep", "setting_name"]

AXES = (  # what differs between jobs; within a job: query, scaling, normalise
    "backbone",
    "weights",
    "layer",
    "fit",
    "size",
    "seed",
)
TEXTS = ("photo", "path", "digest", "query", "label", "scaling", "normalise")
COUNTS = ("index", "patches", "rows", "columns", "dim")
SCHEMA = pa.schema(
    [(name, pa.string()) for name in (*AXES, *TEXTS)]
    + [(name, pa.int32()) for name in COUNTS]
    + [(name, pa.float64()) for name in (*DESCRIPTIONS, *SHAPES)]
)


def setting_name(scaling: str, normalise: str) -> str:
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


def finished(folder: Path, asked: Mapping[str, Any]) -> bool:
    """Whether this very job was done here before."""
    record = read_record(folder)
    return record.status == "done" and record.asked == json.loads(json.dumps(asked))


def read_record(folder: Path) -> JobRecord:
    """What a job left in its folder; a job that left nothing, or half of it, is missing."""
    try:
        return JobRecord.from_json((folder / "job.json").read_text(encoding="utf-8"))
    except (FileNotFoundError, ValueError):
        begun = (folder / ".rows.part").exists()
        killed = "it was started and never ended: killed, or out of memory"
        return JobRecord("missing", killed if begun else "it was never started")


def read_sweep(folder: Path) -> Sweep:
    """A sweep's folder: plan.json says what was asked, the jobs' folders what there is.

    Raises ValueError where there is no plan.json.
    """
    try:
        plan = json.loads((folder / "plan.json").read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ValueError(
            f"{folder} is not the folder of a sweep: it has no plan.json; "
            "give one such as outputs/sweep/<date>/<time>"
        ) from None
    parts = []
    for number, overrides in enumerate(plan["jobs"]):
        job = folder / str(number) if plan["many"] else folder
        parts.append(Part(job, number, overrides, read_record(job)))
    tables = [
        pq.read_table(part.folder / "rows.parquet")
        for part in parts
        if part.status == "done" and part.study != "recognition"
    ]
    # a job that an earlier version measured may lack columns
    table = pa.concat_tables(tables, promote_options="default") if tables else SCHEMA.empty_table()
    return Sweep(folder, plan["command"], parts, table)

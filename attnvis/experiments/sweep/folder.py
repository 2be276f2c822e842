"""A sweep's folder in, one table of all its jobs out; and what a job's folder is called and holds."""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from safetensors.numpy import load_file

from attnvis.metrics.diagnostics import DESCRIPTIONS

__all__ = ["AXES", "Part", "Sweep", "finished", "read_sweep", "setting_name"]

AXES = (
    "backbone",
    "weights",
    "layer",
    "fit",
    "size",
    "seed",
)  # what differs between jobs; within a job: query, scaling, normalise
TEXTS = ("photo", "path", "digest", "query", "label", "scaling", "normalise")
COUNTS = ("index", "patches", "rows", "columns", "dim")
SCHEMA = pa.schema(
    [(name, pa.string()) for name in (*AXES, *TEXTS)]
    + [(name, pa.int32()) for name in COUNTS]
    + [(name, pa.float64()) for name in DESCRIPTIONS]
)


def setting_name(scaling: str, normalise: str) -> str:
    return scaling if normalise == "softmax" else f"{scaling} {normalise}"


@dataclass(frozen=True, eq=False)
class Part:
    """One job of a sweep, as it was found."""

    folder: Path
    number: int
    asked: str  # the overrides that make it this job
    status: str  # done | failed | missing
    reason: str = ""
    told: dict[str, Any] = field(default_factory=dict)  # job.json

    @property
    def study(self) -> str:
        return self.told.get("asked", {}).get("study", "")

    def curves(self) -> dict[str, dict[str, np.ndarray]]:
        """query -> ranks [S, R], gaps [S+1, bins], perplexity and gradient [P, T], tau [P, shares]."""
        arrays = load_file(self.folder / "curves.safetensors")
        names = ("ranks", "gaps", "perplexity", "gradient", "tau")
        return {
            query: {name: arrays[f"{number}/{name}"] for name in names}
            for number, query in enumerate(self.told["queries"])
        }


@dataclass(frozen=True, eq=False)
class Sweep:
    folder: Path
    command: str
    parts: list[Part]
    table: pa.Table  # the rows of all jobs that are done

    @property
    def missing(self) -> list[Part]:
        return [part for part in self.parts if part.status != "done"]


def finished(folder: Path, asked: Mapping[str, Any]) -> bool:
    """Whether this very job was done here before."""
    try:
        told = json.loads((folder / "job.json").read_text(encoding="utf-8"))
    except (FileNotFoundError, ValueError):
        return False
    return told["status"] == "done" and told["asked"] == json.loads(json.dumps(asked))


def read_sweep(folder: Path) -> Sweep:
    """A sweep's folder: plan.json says what was asked, the jobs' folders what there is."""
    try:
        plan = json.loads((folder / "plan.json").read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ValueError(
            f"{folder} is not the folder of a sweep: it has no plan.json; give one such as outputs/sweep/<date>/<time>"
        ) from None
    parts = []
    for number, asked in enumerate(plan["jobs"]):
        job = folder / str(number) if plan["many"] else folder
        try:
            told = json.loads((job / "job.json").read_text(encoding="utf-8"))
        except (FileNotFoundError, ValueError):
            reason = (
                "it was started and never ended: killed, or out of memory"
                if (job / ".rows.part").exists()
                else "it was never started"
            )
            parts.append(Part(job, number, asked, "missing", reason))
            continue
        parts.append(Part(job, number, asked, told["status"], told["reason"], told))
    tables = [
        pq.read_table(part.folder / "rows.parquet")
        for part in parts
        if part.status == "done" and part.study != "recognition"
    ]
    return Sweep(folder, plan["command"], parts, pa.concat_tables(tables) if tables else SCHEMA.empty_table())

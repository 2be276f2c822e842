"""A sweep's folder in, what W&B is sent of it out: of a job its means, contact sheets and files; of all jobs
their settings, medians, figures, table and page.
"""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from attnvis.experiments.sweep.folder import AXES, Part, Sweep, read_rows, setting_name
from attnvis.experiments.sweep.record import JobRecord
from attnvis.experiments.sweep.sheets import sheet_names
from attnvis.pipeline.tracking import Tracker

__all__ = ["of_a_job", "send_job", "send_recognition", "send_sweep", "shared_settings"]

Logger = Mapping[str, Any]

NUMBERS = (
    "perplexity",
    "perplexity_share",
    "max_times_uniform",
    "sigma_eff",
    "gradient_norm",
    "js_inv_sqrt_d",
)
MEDIANS = ("perplexity", "patches", "sigma_eff", "max_times_uniform", "gradient_norm", "js_inv_sqrt_d")


def of_a_job(plan: Logger, typed: Logger, number: int) -> dict[str, Any]:
    """The logger's settings of one of several jobs: the sweep's, but for what was typed for this job."""
    own = {key: value for key, value in typed.items() if value not in (None, "", [])}
    settings = {**plan, **own}
    for key in ("id", "name"):  # else all jobs would be one run, or called the same
        if settings.get(key):
            settings[key] = f"{settings[key][:120]}-{number}"
    return settings


def send_job(tracker: Tracker, folder: Path, record: JobRecord) -> None:
    """Of a job that is done: the means over its photos, its contact sheets, its rows."""
    table = read_rows(folder, record)
    tracker.log_numbers({"photos": record.done, "failed": len(record.failures), **means(table)})
    tracker.log_places("sheet", dict(sheets(folder, table)))
    tracker.log_files("sweep-job", [folder / "rows.parquet", folder / "sheets"])


def send_recognition(tracker: Tracker, folder: Path) -> None:
    """Of a job that measured accuracy: its page and its table."""
    tracker.log_page("page", folder / "index.html")
    tracker.log_files("recognition", [folder / "recognition.parquet", folder / "index.html"])


def send_sweep(tracker: Tracker, results: Sweep) -> None:
    """Of all jobs: medians, figures, the table, the pages; of a single one what that would send itself."""
    folder = results.folder
    if results.done and results.done[0].folder == folder:
        send_job(tracker, folder, results.done[0].record)
    else:
        tracker.log_numbers({"jobs": len(results.done), "missing": len(results.missing)})
    tracker.log_pictures(sorted((folder / "figures").glob("*.png")))
    tracker.log_table("medians", medians(results.table))
    tracker.log_page("page", folder / "index.html")
    tracker.log_page("note", folder / "note.html")
    tracker.log_files("sweep", [folder / "sweep.parquet", folder / "figures", folder / "index.html"])


def shared_settings(results: Sweep) -> dict[str, Any]:
    """What W&B is told of the sweep: the settings of all jobs; where these differ, the list of theirs."""
    together: dict[str, list[Any]] = {}
    for part in results.done:
        for key, value in settings_of(part).items():
            values = together.setdefault(key, [])
            if value not in values:
                values.append(value)
    settings = {key: values[0] if len(values) == 1 else values for key, values in together.items()}
    return {"command": results.command, "jobs": [part.overrides for part in results.parts], **settings}


def settings_of(part: Part) -> dict[str, Any]:
    settings = {key: value for key, value in part.record.asked.items() if key not in ("photos", "inputs")}
    return {**settings, **part.record.axes}


def means(table: pa.Table) -> dict[str, float]:
    """Over photos, of every query and setting: what each photo has; NaN where none has it."""
    share = pc.divide(table["perplexity"], pc.cast(table["patches"], pa.float64()))
    table = table.append_column("perplexity_share", share)
    for name in NUMBERS:
        place, column = table.column_names.index(name), table[name]
        table = table.set_column(place, name, pc.if_else(pc.is_nan(column), None, column))
    groups = table.group_by(["query", "scaling", "normalise"], use_threads=False)
    rows = groups.aggregate([(name, "mean") for name in NUMBERS]).to_pylist()
    return {
        f"{row['query']}/{setting_name(row['scaling'], row['normalise'])}/{name}": as_number(
            row[f"{name}_mean"]
        )
        for row in rows
        for name in NUMBERS
    }


def as_number(value: float | None) -> float:
    return float("nan") if value is None else value


def medians(table: pa.Table) -> dict[str, list[Any]]:
    """Over photos, of every job, query and setting: the columns of a table."""
    groups = table.group_by([*AXES, "query", "scaling", "normalise"], use_threads=False)
    columns = [(name, "approximate_median") for name in MEDIANS]
    return groups.aggregate([*columns, ("saturated", "mean"), ("dead", "mean")]).to_pydict()


def sheets(folder: Path, table: pa.Table) -> Iterator[tuple[int, tuple[Path, str]]]:
    """The contact sheets that were drawn: the photo's place in the list, file and name."""
    photos = dict(zip(table["index"].to_pylist(), table["photo"].to_pylist(), strict=True))
    places = sorted(photos)
    for place, name in zip(places, sheet_names(photos[place] for place in places), strict=True):
        path = folder / "sheets" / name
        if path.is_file():
            yield place, (path, photos[place])

"""Outcomes in, a run's folder out - records, maps, pictures, page - and then the same to W&B.  Files come first: a dead network costs nothing.

<folder>/.hydra/        the resolved config       maps/      scores, logits, weights, placement: enough to draw again
         run.json       versions, digest, seed    overlays/  the bare pictures          panels/  the pictures for people
         records.csv    a row per photo and query index.html all of it
"""

import contextlib
import csv
import json
import os
import re
import shlex
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from importlib.metadata import version
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np

from attnvis import render, report
from attnvis.diagnostics import DESCRIPTIONS
from attnvis.method import Answer
from attnvis.photo import full_pixels, load
from attnvis.stream import Outcome
from attnvis.values import Box, Photo, Placement

__all__ = ["Folder", "draw", "read_maps", "redraw", "write_maps"]

PACKAGES = ("attnvis", "torch", "torchvision", "hydra-core", "opencv-python", "wandb", "numpy")
COLUMNS = (
    "index", "photo", "path", "digest", "height", "width", "status", "reason", "query", "label", "scaling", "normalise", "patches", "rows", "columns",
    "predicted", "probability", *DESCRIPTIONS, "map", "overlay", "panel",
)  # fmt: skip


class Folder:
    """A run's folder, open for outcomes; leave the `with` block to have the page written and W&B told."""

    def __init__(
        self,
        path: Path,
        style: render.Style,
        facts: Mapping[str, str],
        config: Mapping[str, Any],
        warnings: Sequence[str] = (),
        logger: Mapping[str, Any] | None = None,
        keep_maps: bool = True,
    ) -> None:
        self.path, self.style, self.keep_maps, self.warnings = path, style, keep_maps, tuple(warnings)
        self.facts = dict(facts) | {"command": shlex.join([Path(sys.argv[0]).name, *sys.argv[1:]])}
        self.scaling, self.normalise = (short(config.get(group, {})) for group in ("scaling", "normalise"))
        self.done = self.failed = 0
        self.reasons: dict[str, int] = {}
        self.names: set[str] = set()
        path.mkdir(parents=True, exist_ok=True)
        versions = {package: version(package) for package in PACKAGES} | {"python": sys.version.split()[0]}
        self.write(
            "run.json", json.dumps({**self.facts, "versions": versions, "warnings": self.warnings, "config": config}, indent=1).encode()
        )
        self.rows = (path / "records.csv").open("w", newline="", encoding="utf-8")
        self.table = csv.DictWriter(self.rows, COLUMNS, restval="")
        self.table.writeheader()
        self.tracker = Tracker(path, logger or {"mode": "disabled"}, {**self.facts, "versions": versions, **config})

    def __enter__(self) -> "Folder":
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.rows.close()
        with contextlib.suppress(OSError) if kind else contextlib.nullcontext():  # a full disk has been reported already
            page(self.path, self.style, self.facts, self.warnings)
        self.tracker.finish(self.path, crashed=kind is not None)

    def add(self, outcome: Outcome) -> None:
        """Everything about one photo: to files, then to W&B."""
        row: dict[str, Any] = {"index": outcome.index, "photo": outcome.path.name, "path": str(outcome.path), "status": "failed"}
        if outcome.photo is None or outcome.error:
            self.failed += 1
            self.reasons[outcome.error] = self.reasons.get(outcome.error, 0) + 1
            self.record(row | {"reason": outcome.error})
            return
        photo = outcome.photo
        stem = unique(slug(Path(photo.name).stem), self.names)
        height, width = photo.size
        row |= {"photo": photo.name, "digest": photo.digest, "height": height, "width": width, "status": "done"}
        row |= {"scaling": self.scaling, "normalise": self.normalise}
        if outcome.predicted:
            row |= {"predicted": outcome.predicted[0][0], "probability": outcome.predicted[0][1]}
        if self.keep_maps:
            row["map"] = f"maps/{stem}.safetensors"
            self.write(row["map"], write_maps(photo, outcome.answers))
        lines = [("predicted", ", ".join(f"{name} {chance:.0%}" for name, chance in outcome.predicted[:3]))] if outcome.predicted else []
        lines += [("scaling", self.scaling), ("backbone", f"{self.facts['backbone']}, layer {self.facts['layer']}")]
        pictures = draw(self.path, stem, photo, outcome.answers, self.style, lines, self.warnings)
        for answer, drawn in zip(outcome.answers, pictures, strict=True):
            numbers = row | drawn | answer.diagnostics | {"query": answer.query, "label": answer.label, "patches": answer.patches}
            numbers["rows"], numbers["columns"] = answer.placement.grid
            self.record(numbers)
            self.tracker.log(numbers, answer, self.path)
        self.done += 1

    def record(self, row: Mapping[str, Any]) -> None:
        self.table.writerow(row)
        self.rows.flush()  # what is done stays done, whatever comes

    def write(self, name: str, content: bytes) -> None:
        write_bytes(self.path / name, content)


# ---------------------------------------------------------------------------------------------------------------- pictures


def draw(
    folder: Path,
    stem: str,
    photo: Photo,
    answers: Sequence[Answer],
    style: render.Style,
    lines: Sequence[tuple[str, object]] = (),
    warnings: Sequence[str] = (),
) -> list[dict[str, str]]:
    """The overlay (and panel) of every answer; returns their paths relative to the folder."""
    pixels = full_pixels(photo)
    size = drawn_size(photo.size, style.longest)
    if size != photo.size:
        pixels = render.resize(pixels, size)
    drawn, names = [], set[str]()
    for answer in answers:
        values = answer.map(size)
        name = unique(f"{stem}.{slug(answer.label)}", names)
        paths = {"overlay": f"overlays/{name}.{style.format}"}
        mark = answer.mark if style.marks else None
        save(folder / paths["overlay"], render.overlay(pixels, values, style, mark, photo.size), style.quality)
        if style.panel:
            paths["panel"] = f"panels/{name}.{style.format}"
            said = [("query", answer.query), *lines, *numbers_of(answer), *(("warning", text) for text in warnings)]
            picture = render.panel(pixels, values, style, f"{photo.name}: {answer.label}", said, mark, photo.size)
            save(folder / paths["panel"], picture, style.quality)
        drawn.append(paths)
    return drawn


def numbers_of(answer: Answer) -> list[tuple[str, str]]:
    """What a panel says of an attention."""
    found = answer.diagnostics
    return [
        ("spread over", f"{found['perplexity']:.1f} of {answer.patches} patches (perplexity)"),
        ("hottest patch", f"{found['max_times_uniform']:.1f} x uniform"),
        ("sigma_eff", f"{found['sigma_eff']:.2f}"),
    ]


def redraw(source: Path, target: Path, style: render.Style) -> Iterator[tuple[Path, str]]:
    """Every photo of a finished run drawn again from its maps, without the network; yields the photo and what went wrong, if anything."""
    told = json.loads((source / "run.json").read_text(encoding="utf-8"))
    config, warnings = told["config"], told["warnings"]
    facts = {key: value for key, value in told.items() if isinstance(value, str)}
    lines = [("scaling", short(config.get("scaling", {}))), ("backbone", f"{facts['backbone']}, layer {facts['layer']}")]
    with (source / "records.csv").open(newline="", encoding="utf-8") as file:
        rows = [row for row in csv.DictReader(file) if row["map"]]
    (target / "records.csv").parent.mkdir(parents=True, exist_ok=True)
    with (target / "records.csv").open("w", newline="", encoding="utf-8") as file:
        table = csv.DictWriter(file, COLUMNS, restval="")
        table.writeheader()
        for name in dict.fromkeys(row["map"] for row in rows):
            answers = read_maps(source / name)
            mine = [row for row in rows if row["map"] == name]
            path = Path(mine[0]["path"])
            try:
                photo = load(path, name=mine[0]["photo"])
                if photo.digest != mine[0]["digest"]:
                    raise ValueError(f"{path} is not the photo that the maps were made from; its bytes have changed")
                pictures = draw(target, Path(name).stem, photo, answers, style, lines, warnings)
            except ValueError as error:
                table.writerow(mine[0] | {"status": "failed", "reason": str(error), "map": "", "overlay": "", "panel": ""})
                yield path, str(error)
                continue
            for row, drawn in zip(mine, pictures, strict=True):
                table.writerow(row | {"map": "", "panel": ""} | drawn)
            yield path, ""
    page(target, style, facts, warnings)


def page(folder: Path, style: render.Style, facts: Mapping[str, str], warnings: Sequence[str]) -> Path:
    bar = render.encode(render.colour_bar(style), "png")
    with (folder / "records.csv").open(newline="", encoding="utf-8") as file:
        ordered = sorted(csv.DictReader(file), key=lambda row: int(row["index"]))
    return report.write_page(folder, f"attnvis {folder.parent.parent.name}", ordered, facts, warnings, bar, style.scale)


def drawn_size(size: tuple[int, int], longest: int | None) -> tuple[int, int]:
    factor = min(1.0, (longest or max(size)) / max(size))
    return max(1, round(size[0] * factor)), max(1, round(size[1] * factor))


def save(path: Path, pixels: np.ndarray, quality: int) -> None:
    path.parent.mkdir(exist_ok=True)
    render.write(path, pixels, quality)


# --------------------------------------------------------------------------------------------------------------------- W&B


class Tracker:
    """One W&B run.  Whatever goes wrong with W&B is said in one line and costs no result."""

    EDGES = np.linspace(-10, 10, 65)  # of the histogram: log2 of N a

    def __init__(self, folder: Path, logger: Mapping[str, Any], config: Mapping[str, Any]) -> None:
        for name in (
            "WANDB_DATA_DIR",
            "WANDB_CACHE_DIR",
        ):  # or tables and artifacts are staged in the home folder, and lost when outputs/ moves
            os.environ[name] = str(folder.absolute() / "wandb")
        os.environ.setdefault("WANDB_SILENT", "true")
        (folder / "wandb").mkdir(exist_ok=True)
        import wandb

        self.wandb, self.pictures = wandb, int(logger.get("pictures", 64))
        self.counts: dict[str, np.ndarray] = {}
        self.rows: list[list[Any]] = []
        settings = wandb.Settings(
            silent=True, x_disable_stats=True, init_timeout=30, login_timeout=30, finish_timeout=60, finish_timeout_raises=True,
            x_transaction_log_flush_interval=1,
        )  # fmt: skip
        chosen = {key: logger[key] for key in ("project", "group", "tags") if key in logger}
        begin = {"dir": folder, "config": dict(config), "job_type": "run", "reinit": "finish_previous", "settings": settings, **chosen}
        try:
            self.run = wandb.init(mode=logger.get("mode", "offline"), **begin)
        except (wandb.errors.Error, TimeoutError) as error:
            print(
                f"attnvis: W&B is out of reach ({first_line(error)}); logging offline, send it later with: wandb sync {folder / 'wandb'}/offline-run-*",
                file=sys.stderr,
            )
            self.run = wandb.init(mode="offline", **begin)

    def log(self, row: Mapping[str, Any], answer: Answer, folder: Path) -> None:
        numbers = {f"{slug(answer.query)}/{name}": row[name] for name in DESCRIPTIONS}
        if len(self.rows) < self.pictures:
            caption = f"{row['photo']}: {answer.label}, perplexity {row['perplexity']:.1f} of {row['patches']}"
            numbers[f"{slug(answer.query)}/overlay"] = self.wandb.Image(str(folder / row["overlay"]), caption=caption)
        self.run.log(numbers)
        if len(self.rows) < 10_000:
            self.rows.append([row.get(name, "") for name in ("photo", "query", "label", "scaling", *DESCRIPTIONS)])
        logs = np.log2(np.maximum(answer.cells, 2.0**-10)).clip(-10, 10)
        self.counts[answer.query] = self.counts.get(answer.query, 0) + np.histogram(logs, self.EDGES)[0]

    def finish(self, folder: Path, crashed: bool) -> None:
        for query, counts in self.counts.items():
            self.run.log({f"{slug(query)}/log2_times_uniform": self.wandb.Histogram(np_histogram=(counts, self.EDGES))})
        if self.rows:
            self.run.log({"photos": self.wandb.Table(["photo", "query", "label", "scaling", *DESCRIPTIONS], self.rows)})
            self.run.summary.update({f"{slug(query)}/mean_perplexity": mean_of(self.rows, query) for query in self.counts})
        if (folder / "maps").is_dir():
            artifact = self.wandb.Artifact(f"maps-{self.run.id or 'run'}", type="attention-maps")
            artifact.add_dir(str(folder / "maps"))
            artifact.add_file(str(folder / "records.csv"))
            self.run.log_artifact(artifact)
        try:
            self.run.finish(exit_code=int(crashed))
        except (self.wandb.errors.Error, TimeoutError) as error:
            print(
                f"attnvis: W&B stopped answering ({first_line(error)}); every result is in {folder}, send it later with: wandb sync",
                file=sys.stderr,
            )


def mean_of(rows: list[list[Any]], query: str) -> float:
    column = 4 + list(DESCRIPTIONS).index("perplexity")
    return float(np.mean([row[column] for row in rows if row[1] == query]))


# ------------------------------------------------------------------------------------------------------------------- names


def short(config: Mapping[str, Any]) -> str:
    """{_target_: attnvis.scaling.temperature, tau: 2} -> temperature(tau=2)"""
    settings = ", ".join(f"{key}={value}" for key, value in config.items() if not key.startswith("_"))
    name = str(config.get("_target_", "")).rsplit(".", 1)[-1]
    return f"{name}({settings})" if settings else name


def slug(text: str) -> str:
    """A name that is safe in every file system; what it stands for is in the records."""
    return re.sub(r"[^A-Za-z0-9._-]+", "-", text).strip("-.")[:80] or "photo"


def unique(name: str, taken: set[str]) -> str:
    """`name`, or name-2, name-3, ...; on file systems that ignore case too."""
    number, candidate = 1, name
    while candidate.lower() in taken:
        number += 1
        candidate = f"{name}-{number}"
    taken.add(candidate.lower())
    return candidate


def write_bytes(path: Path, content: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f".{path.name}.part")
    try:
        part.write_bytes(content)
        part.replace(path)  # a run that dies here leaves nothing that only looks whole
    finally:
        part.unlink(missing_ok=True)


def first_line(error: BaseException) -> str:
    return str(error).splitlines()[0] if str(error) else type(error).__name__

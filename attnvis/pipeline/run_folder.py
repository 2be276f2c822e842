"""Outcomes in, a run's folder out - records, maps, pictures, page - then the same to W&B.  Files come first: a dead network costs nothing.

<folder>/run.json       resolved config, versions, digest, seed    maps/      scores, logits, weights, placement: enough to draw again
         records.csv    a row per photo and query                  overlays/  the bare pictures     panels/  the pictures for people
         .hydra/        what was typed                             index.html all of it
"""

import contextlib
import csv
import json
import sys
from collections.abc import Iterator, Mapping, Sequence, Set
from importlib.metadata import version
from pathlib import Path
from types import TracebackType
from typing import Any, TextIO

from attnvis.files import locked, save, slug, unique
from attnvis.methods.answer import Answer
from attnvis.metrics.diagnostics import DESCRIPTIONS
from attnvis.pipeline import run_page
from attnvis.pipeline.drawing import about, draw, network, short, taken_for
from attnvis.pipeline.maps import write_maps
from attnvis.pipeline.streaming import Outcome
from attnvis.pipeline.tracking import PhotoTracker
from attnvis.render import overlays, panels
from attnvis.types import ClassScore

__all__ = ["RunWriter"]

PACKAGES = ("attnvis", "torch", "torchvision", "hydra-core", "opencv-python", "wandb", "numpy")
CLASS = ("class_index", "class_probability", "class_logit", "class_rank")  # of the class that was asked for
NUMBERS = (
    "index",
    "height",
    "width",
    "patches",
    "rows",
    "columns",
    "probability",
    *CLASS,
    "sign_margin",
    *DESCRIPTIONS,
)
COLUMNS = (
    "index", "photo", "path", "digest", "height", "width", "status", "reason", "query", "label", "layer", "weights", "scaling", "normalise",
    "patches", "rows", "columns", "placement", "predicted", "probability", *CLASS, "sign_margin", *DESCRIPTIONS, "map", "overlay", "panel",
)  # fmt: skip


class RunWriter:
    """A run's folder, open for outcomes; leave the `with` block to have the page written and W&B told.

    `render` draws and writes what one outcome is to leave behind; several threads may do so at once.  `record` notes it.
    `paths` are the photos of the run: their files are named after them, in this order.  A run that goes on (`resume`) gives the same
    ones; `left` are the indices of those that are still to be done, and outcomes count in these.
    """

    def __init__(
        self,
        path: Path,
        paths: Sequence[Path],
        style: overlays.Style,
        facts: Mapping[str, str],
        config: Mapping[str, Any],
        warnings: Sequence[str] = (),
        logger: Mapping[str, Any] | None = None,
        keep_maps: bool = True,
        resume: bool = False,
    ) -> None:
        self.path, self.style, self.keep_maps, self.warnings = path, style, keep_maps, tuple(warnings)
        self.facts, self.name = dict(facts), str(config.get("name", "run"))
        self.scaling, self.normalise = (short(config.get(group, {})) for group in ("scaling", "normalise"))
        self.failed = 0
        self.reasons: dict[str, int] = {}
        taken: dict[str, int] = {}
        self.stems = [unique(slug(path.stem), taken) for path in paths]
        self.lock = locked(path)
        done = finished(path, self.facts) if resume else {}
        self.left = [index for index, one in enumerate(paths) if done.get(index) != str(one)]
        self.done = len(paths) - len(self.left)
        versions = {package: version(package) for package in PACKAGES} | {"python": sys.version.split()[0]}
        self.write(
            "run.json",
            json.dumps(
                {**self.facts, "versions": versions, "warnings": self.warnings, "config": config}, indent=1
            ).encode(),
        )
        self.rows, self.table = open_records(
            path / "records.csv", after=set(range(len(paths))) - set(self.left)
        )
        self.tracker = PhotoTracker(
            path, logger or {"mode": "disabled"}, {**self.facts, "versions": versions, **config}
        )

    def __enter__(self) -> "RunWriter":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            with (
                contextlib.suppress(OSError) if kind else contextlib.nullcontext()
            ):  # a full disk has been reported already
                self.rows.close()
                if (
                    not kind or self.done or self.failed
                ):  # a run that ended before its first photo has nothing to show
                    page(self.path, self.name, self.style, self.facts, self.warnings)
        finally:
            (self.path / ".lock").unlink(missing_ok=True)
            self.lock.close()
            self.tracker.__exit__(kind, error, trace)

    def record(self, outcome: Outcome[Answer]) -> None:
        """Everything about one photo: to files, then to W&B."""
        if outcome.error:
            self.failed += 1
            self.reasons[outcome.error] = self.reasons.get(outcome.error, 0) + 1
            self.write_rows([self.about(outcome) | {"status": "failed", "reason": outcome.error}])
            return
        self.write_rows(outcome.made)
        for numbers, answer in zip(outcome.made, outcome.answers, strict=True):
            self.tracker.log(numbers, answer)
        self.done += 1

    def about(self, outcome: Outcome[Answer]) -> dict[str, Any]:
        return {"index": self.left[outcome.index], "photo": outcome.path.name, "path": str(outcome.path)}

    def render(self, outcome: Outcome[Answer]) -> list[dict[str, Any]]:
        """The pictures and maps of one photo; returns its records.  Raises PhotoError for a photo that changed or vanished meanwhile."""
        photo = outcome.photo
        assert photo is not None
        row, stem = self.about(outcome), self.stems[self.left[outcome.index]]
        height, width = photo.size
        row |= {
            "photo": photo.name,
            "digest": photo.digest,
            "height": height,
            "width": width,
            "status": "done",
        }
        row |= {"weights": self.facts["weights"], "scaling": self.scaling, "normalise": self.normalise}
        predicted = outcome.answers[0].predicted if outcome.answers else ()
        if predicted:
            row["predicted"], row["probability"] = predicted[0]
        lines = [
            *taken_for(predicted, self.facts),
            ("scaling", about(self.scaling)),
            *network(self.facts),
        ]
        pictures = draw(self.path, stem, photo, outcome.answers, self.style, lines, self.warnings)
        if self.keep_maps:
            row["map"] = f"maps/{stem}.safetensors"
            self.write(row["map"], write_maps(photo, outcome.answers, self.facts["weights"]))
        rows = []
        for answer, drawn in zip(outcome.answers, pictures, strict=True):
            found = {
                "query": answer.query,
                "label": answer.label,
                "layer": answer.layer,
                "patches": answer.patches,
            }
            found["rows"], found["columns"] = answer.placement.grid
            found |= {"placement": answer.placement.source, **class_columns(answer.class_score)}
            if answer.sign_margin is not None:
                found["sign_margin"] = answer.sign_margin
            rows.append(row | drawn | answer.diagnostics | found)
        return rows

    def write_rows(self, rows: Sequence[Mapping[str, Any]]) -> None:
        """A photo's rows go into the file in one piece: a run that is killed leaves whole photos."""
        self.table.writerows(rows)
        self.rows.flush()

    def write(self, name: str, content: bytes) -> None:
        save(self.path / name, content)


# ---------------------------------------------------------------------------------------------------------------- pictures


def class_columns(score: ClassScore | None) -> dict[str, int | float]:
    """How likely the class is that was asked for."""
    return (
        dict(zip(CLASS, (score.index, score.probability, score.logit, score.rank), strict=True))
        if score
        else {}
    )


def page(
    folder: Path, name: str, style: overlays.Style, facts: Mapping[str, str], warnings: Sequence[str]
) -> Path:
    bar = overlays.encode(panels.colour_bar(style), "png")
    with (folder / "records.csv").open(newline="", encoding="utf-8") as file:
        rows = (
            row | {name: float(row[name]) for name in NUMBERS if row[name]} for row in csv.DictReader(file)
        )
        return run_page.write_page(folder, f"attnvis {name}", rows, facts, warnings, bar, style.scale)


def open_records(path: Path, after: Set[int] = frozenset()) -> tuple[TextIO, csv.DictWriter]:
    """The table for new rows, behind the old ones of the photos `after`.

    A file name that is no Unicode is written with backslashes: one odd photo must not make the table unreadable.
    """
    kept = [row for row in recorded(path) if int(row["index"]) in after] if after else []
    part = path.with_suffix(".part")
    file = part.open("w", newline="", encoding="utf-8", errors="backslashreplace", buffering=1 << 20)
    table = csv.DictWriter(file, COLUMNS, restval="")
    table.writeheader()
    table.writerows(kept)
    file.flush()
    part.replace(path)  # a run that is killed right here has not lost what it had
    return file, table


def recorded(path: Path) -> Iterator[dict[str, str]]:
    """The rows of a table, but for a last line that a full disk cut off."""
    with path.open(newline="", encoding="utf-8") as file:
        for row in csv.DictReader(file):
            if all(value is not None for value in row.values()) and row["index"].isdigit():
                yield row


def finished(folder: Path, facts: Mapping[str, str]) -> dict[int, str]:
    """Index -> path of the photos that a run has done, with all of their files."""
    if not (folder / "records.csv").is_file():
        return {}
    told = json.loads((folder / "run.json").read_text(encoding="utf-8"))
    for name in ("weights digest", "layer", "precision", "placement", "size", "fit"):
        if told.get(name) != facts.get(name):
            raise ValueError(
                f"{folder} was begun with {name} {told.get(name)}, and this is {facts.get(name)}; run again in another folder"
            )
    found: dict[int, tuple[str, bool, int]] = {}
    for row in recorded(folder / "records.csv"):
        whole = row["status"] == "done" and all(
            (folder / row[name]).is_file() for name in ("map", "overlay", "panel") if row[name]
        )
        path, before, count = found.get(int(row["index"]), (row["path"], True, 0))
        found[int(row["index"])] = (path, whole and before, count + 1)
    most = max((count for _, _, count in found.values()), default=0)  # rows of a photo; fewer were cut off
    return {index: path for index, (path, whole, count) in found.items() if whole and count == most}

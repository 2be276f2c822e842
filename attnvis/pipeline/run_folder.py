"""Outcomes in, a run's folder out - records, maps, pictures, page - then the same to W&B.

Files come first: a dead network costs nothing.

<folder>/run.json       resolved config, versions, digest, seed    maps/      scores, logits, weights, placement
         records.csv    a row per photo and query                  overlays/  the bare pictures
         .hydra/        what was typed                             panels/    the pictures for people
         index.html     all of it
"""

import contextlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

from attnvis.files import locked, save, slug, unique
from attnvis.methods.answer import Answer
from attnvis.pipeline import run_page
from attnvis.pipeline.drawing import PhotoDrawer
from attnvis.pipeline.maps import write_maps
from attnvis.pipeline.plan import RunPlan
from attnvis.pipeline.records import answer_columns, open_records, read_numbers, read_records
from attnvis.pipeline.streaming import Outcome
from attnvis.pipeline.tracking import PhotoTracker
from attnvis.render import overlays, panels
from attnvis.types import Provenance

__all__ = ["RunWriter", "write_page"]


class RunWriter:
    """A run's folder, open for outcomes; leave the `with` block to have the page written and W&B told.

    `render` draws and writes what one outcome is to leave behind; several threads may do so at once.  `record` notes it.
    A run that goes on (`resume`) has the same plan; `left` are the indices of the photos that are still to be done, and
    outcomes count in these.
    """

    def __init__(self, folder: Path, plan: RunPlan, resume: bool = False) -> None:
        self.folder, self.plan = folder, plan
        self.failed = 0
        self.reasons: dict[str, int] = {}
        names = dict[str, int]()
        self.stems = [unique(slug(path.stem), names) for path in plan.paths]
        self.drawer = PhotoDrawer(folder, plan.style, plan.provenance, plan.scaling, plan.warnings)
        self.lock = locked(folder)
        finished = finished_photos(folder, plan.provenance) if resume else {}
        self.left = [index for index, path in enumerate(plan.paths) if finished.get(index) != str(path)]
        self.done = len(plan.paths) - len(self.left)
        record = plan.record()
        self.write("run.json", json.dumps(record, indent=1).encode())
        self.rows, self.table = open_records(
            folder / "records.csv", after=set(range(len(plan.paths))) - set(self.left)
        )
        settings = plan.provenance.entries() | {"versions": record["versions"]} | dict(plan.config)
        self.tracker = PhotoTracker(folder, plan.logger, settings)

    def __enter__(self) -> "RunWriter":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        begun = not kind or self.done or self.failed  # else there is nothing to show
        try:
            # a full disk has been reported already
            with contextlib.suppress(OSError) if kind else contextlib.nullcontext():
                self.rows.close()
                if begun:
                    plan = self.plan
                    write_page(self.folder, plan.name, plan.style, plan.provenance, plan.warnings)
        finally:
            (self.folder / ".lock").unlink(missing_ok=True)
            self.lock.close()
            self.tracker.__exit__(kind, error, trace)

    def record(self, outcome: Outcome[Answer]) -> None:
        """Everything about one photo: to files, then to W&B."""
        if outcome.error:
            self.failed += 1
            self.reasons[outcome.error] = self.reasons.get(outcome.error, 0) + 1
            self.write_rows([self.photo_columns(outcome) | {"status": "failed", "reason": outcome.error}])
            return
        self.write_rows(outcome.made)
        for row, answer in zip(outcome.made, outcome.answers, strict=True):
            self.tracker.log(row, answer)
        self.done += 1

    def photo_columns(self, outcome: Outcome[Answer]) -> dict[str, Any]:
        """What a row says of a photo that may not even be one."""
        return {"index": self.left[outcome.index], "photo": outcome.path.name, "path": str(outcome.path)}

    def render(self, outcome: Outcome[Answer]) -> list[dict[str, Any]]:
        """The pictures and maps of one photo; returns its records.

        Raises PhotoError for a photo that changed or vanished meanwhile.
        """
        photo = outcome.photo
        assert photo is not None
        stem = self.stems[self.left[outcome.index]]
        height, width = photo.size
        weights = self.plan.provenance.weights
        row = self.photo_columns(outcome) | {
            "photo": photo.name,
            "digest": photo.digest,
            "height": height,
            "width": width,
            "status": "done",
            "weights": weights,
            "scaling": self.plan.scaling,
            "normalise": self.plan.normalise,
        }
        pictures = self.drawer.draw(stem, photo, outcome.answers)
        if self.plan.keep_maps:
            row["map"] = f"maps/{stem}.safetensors"
            self.write(row["map"], write_maps(photo, outcome.answers, weights))
        answers = zip(outcome.answers, pictures, strict=True)
        return [row | paths | answer_columns(answer) for answer, paths in answers]

    def write_rows(self, rows: Sequence[Mapping[str, Any]]) -> None:
        """A photo's rows go into the file in one piece: a run that is killed leaves whole photos."""
        self.table.writerows(rows)
        self.rows.flush()

    def write(self, name: str, content: bytes) -> None:
        save(self.folder / name, content)


def write_page(
    folder: Path, name: str, style: overlays.Style, provenance: Provenance, warnings: Sequence[str]
) -> Path:
    """The page of a run's folder, from its records."""
    bar = overlays.encode(panels.colour_bar(style), "png")
    rows = read_numbers(folder / "records.csv")
    title = f"attnvis {name}"
    return run_page.write_page(folder, title, rows, provenance.entries(), warnings, bar, style.scale)


def finished_photos(folder: Path, provenance: Provenance) -> dict[int, str]:
    """Index -> path of the photos that a run has done, with all of their files.

    Raises ValueError where the folder was begun with another network or input.
    """
    if not (folder / "records.csv").is_file():
        return {}
    begun = Provenance.from_entries(json.loads((folder / "run.json").read_text(encoding="utf-8")))
    for name in ("weights_digest", "layer", "precision", "placement", "size", "fit"):
        before, now = getattr(begun, name), getattr(provenance, name)
        if before != now:
            what = name.replace("_", " ")
            raise ValueError(
                f"{folder} was begun with {what} {before}, and this is {now}; run again in another folder"
            )
    paths, complete, counts = dict[int, str](), dict[int, bool](), dict[int, int]()
    for row in read_records(folder / "records.csv"):
        index = int(row["index"])
        files = [folder / row[name] for name in ("map", "overlay", "panel") if row[name]]
        there = row["status"] == "done" and all(file.is_file() for file in files)
        paths.setdefault(index, row["path"])
        complete[index] = complete.get(index, True) and there
        counts[index] = counts.get(index, 0) + 1
    most = max(counts.values(), default=0)  # rows of a photo; fewer were cut off
    return {index: path for index, path in paths.items() if complete[index] and counts[index] == most}

"""What a sweep's job measured -> its folder.

<job>/job.json             what was asked, of which network; status done or failed, photos that failed and why
      rows.parquet         a row per photo, query and setting: the diagnostics
      curves.safetensors   per query: gradient and perplexity against temperature, ranked weights, gaps
      sheets/              a contact sheet per photo: queries down, settings across, one colour scale
      tiles/               the same pictures of the first photo, one by one, for the report
"""

import contextlib
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
import safetensors.numpy

from attnvis.errors import in_one_line
from attnvis.experiments.sweep.curves import PhotoCurves, QueryCurves, curves_of, kept_curves
from attnvis.experiments.sweep.record import Failure, JobRecord
from attnvis.experiments.sweep.rows import RowTable, columns_of
from attnvis.experiments.sweep.sheets import Sheet, SheetWriter
from attnvis.files import file_digest, is_full, naming, no_room, open_new, save, unique
from attnvis.methods.settings import PhotoResult
from attnvis.pipeline.resume import remove_file, require_own_files
from attnvis.pipeline.streaming import Outcome
from attnvis.render import overlays
from attnvis.types import PhotoError, UnavailableError

__all__ = ["JOB_FILES", "JOB_FOLDERS", "LAB", "GridWriter", "JobWriter", "is_mistake"]

FILES = ("rows.parquet", "curves.safetensors")  # with tiles/ and sheets/ what a job of scalings leaves
LAB = "lab.json"  # of the study `note`: features of the first photo, for its page
JOB_FILES = (
    ".rows.part",
    "job.json",
    *FILES,
    LAB,
    "index.html",
    "recognition.parquet",
)  # that any job writes
JOB_FOLDERS = ("sheets", "tiles", "wandb")


class JobWriter:
    """That a job began and how it ended: leave the `with` block, and its job.json says so.

    A job that is killed leaves `.rows.part` and no job.json, not even that of an earlier one.
    """

    def __init__(self, folder: Path, asked: Mapping[str, Any]) -> None:
        self.folder, self.started = folder, time.time()
        self.record = JobRecord("failed", asked=dict(asked))
        self.failures: list[Failure] = []
        self.part = folder / ".rows.part"
        folder.mkdir(parents=True, exist_ok=True)
        require_own_job(folder)
        if self.part.exists() or (folder / "job.json").exists():
            remove_pictures(folder)  # of an earlier try: its photos may be others
        open_new(self.part).close()
        (folder / "job.json").unlink(missing_ok=True)

    def update(self, **changes: Any) -> None:
        """Fields of the record that are known by now: axes and provenance, then what was counted."""
        self.record = replace(self.record, **changes)

    def fail(self, path: str, reason: str) -> None:
        """Of one photo: the job goes on."""
        self.failures.append(Failure(path, reason))

    @property
    def reasons(self) -> dict[str, int]:
        """Why photos failed, and how many for that reason."""
        return dict(Counter(failure.reason for failure in self.failures))

    def end(self, status: str, reason: str = "", mistake: bool = False) -> None:
        seconds = round(time.time() - self.started, 3)
        failures = tuple(self.failures)
        self.update(status=status, reason=reason, mistake=mistake, failures=failures, seconds=seconds)
        save(self.folder, "job.json", self.record.to_json().encode())
        self.part.unlink(missing_ok=True)

    def __enter__(self) -> "JobWriter":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if error is None:
            self.end("done")
            return
        reason = in_one_line(error)
        if isinstance(error, KeyboardInterrupt):
            reason = "it was stopped"
        elif isinstance(error, OSError) and is_full(error):
            reason = f"{no_room(str(error.filename or ''), str(error.strerror))}; make room"
            self.part.unlink(missing_ok=True)  # this is some, and of no use
        with contextlib.suppress(OSError):  # the first trouble is the one to tell
            self.end("failed", reason, mistake=is_mistake(error))


def is_mistake(error: BaseException) -> bool:
    """Whether the settings themselves are wrong, and not what they meet: a photo, a file, a download."""
    return isinstance(error, ValueError) and not isinstance(error, PhotoError | UnavailableError)


@dataclass(frozen=True, eq=False)
class PhotoSummary:
    """All that is kept of one photo."""

    results: dict[str, PhotoResult]  # by the query's name
    columns: dict[str, list[Any]]  # of rows.parquet
    curves: dict[str, PhotoCurves]  # by the query's name
    sheet: Sheet | None


class GridWriter:
    """Rows, curves and sheets of a grid of settings; leave the `with` block to have the files whole.

    `summarise` computes and draws what is kept of one photo; several threads may do so at once.  `add` writes
    it, photo by photo in their order.
    """

    def __init__(
        self,
        job: JobWriter,
        settings: Sequence[tuple[str, str]],
        sharpness: Sequence[float] = (),
        sheets: int | None = None,
        style: overlays.Style | None = None,
    ) -> None:
        self.job = job
        self.sharpness = tuple(sharpness)
        self.settings = tuple(settings)
        self.rows = RowTable(job.part)
        self.curves: dict[str, QueryCurves] = {}
        self.sheets = SheetWriter(job.folder, settings, sheets, style)
        job.update(settings=self.settings, sharpness=self.sharpness)

    def summarise(self, outcome: Outcome[PhotoResult]) -> PhotoSummary:
        """Of a photo that was measured; it depends on no other photo."""
        assert outcome.photo is not None
        names: dict[str, int] = {}
        results = {unique(result.query, names): result for result in outcome.answers}
        curves = {
            query: curves_of(result, self.sharpness, outcome.index) for query, result in results.items()
        }
        return PhotoSummary(
            results,
            columns=columns_of(outcome, results, axes=self.job.record.axes, settings=self.settings),
            curves=curves,
            sheet=self.sheets.draw_ahead(outcome.index, outcome.photo, outcome.answers),
        )

    def add(self, outcome: Outcome[PhotoResult]) -> None:
        """The next photo, with its summary or without; one that failed is told to the job."""
        if outcome.photo is None or outcome.error:
            self.job.fail(str(outcome.path), outcome.error)
            return
        summary: PhotoSummary = outcome.made or self.summarise(outcome)
        self.rows.add(summary.columns)
        for query, curves in summary.curves.items():
            of_query = self.curves.setdefault(query, QueryCurves())
            if curves.kept is None and of_query.keeps_more:
                curves = replace(curves, kept=kept_curves(summary.results[query], self.sharpness))
            of_query.add(curves)
        self.sheets.add(outcome.photo, outcome.answers, summary.sheet)
        self.job.update(
            done=self.job.record.done + 1, queries=tuple(self.curves), tiles=tuple(self.sheets.tiles)
        )

    def arrays(self) -> dict[str, np.ndarray]:
        """The curves of all queries, under the numbers of the queries."""
        return {
            f"{number}/{name}": values
            for number, curves in enumerate(self.curves.values())
            for name, values in curves.arrays().items()
        }

    def __enter__(self) -> "GridWriter":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is not None:
            with contextlib.suppress(OSError):  # the first trouble is the one to tell
                self.rows.close()  # what waits may hold half a row, and the file goes anyway
            return
        self.rows.flush()
        self.rows.close()
        with naming(self.job.folder / "rows.parquet"):
            self.job.part.replace(self.job.folder / "rows.parquet")
        folder = self.job.folder
        save(folder, "curves.safetensors", safetensors.numpy.save(self.arrays()))
        names = (*FILES, *(tile.file for tile in self.sheets.tiles), *self.sheets.files)
        self.job.update(files={name: file_digest(folder / name) for name in names})


def remove_pictures(folder: Path) -> None:
    """The sheets and tiles of a job's folder.  Raises ValueError where a folder has the name of one."""
    for kind in ("sheets", "tiles"):
        for path in (folder / kind).glob("*.jpg"):
            remove_file(folder / kind, path.name)


def require_own_job(folder: Path) -> None:
    """That nothing in a job's folder leads elsewhere.

    Raises ValueError for a link or a folder in the place of a file; a pipe is replaced.
    """
    for name in JOB_FILES:
        if (folder / name).is_symlink() or (folder / name).is_dir():
            require_own_files(folder, files=[name])
    require_own_files(folder, folders=JOB_FOLDERS)

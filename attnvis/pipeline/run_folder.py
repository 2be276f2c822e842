"""Outcomes in, a run's folder out - records, maps, pictures, page - then the same to W&B.

Files come first: a dead network costs nothing.

<folder>/run.json       resolved config, versions, digest, seed    maps/      scores, logits, weights,
                        placement
         plan.json      every photo, what each is to leave         overlays/  the bare pictures
         records.csv    a row per photo and query                  panels/    the pictures for people
         .hydra/        what was typed                             index.html all of it
         thumbnails/    small pictures that the page shows         explorers/ of the first photos
"""

import contextlib
import hashlib
import json
from calendar import month_name
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import datetime
from pathlib import Path
from types import TracebackType
from typing import Any

from attnvis.files import file_digest, is_whole, locked, naming, own_path, save, slug, unique
from attnvis.json_files import read_json, write_json
from attnvis.methods.answer import Answer
from attnvis.pipeline.drawing import PhotoDrawer, Pictures
from attnvis.pipeline.logger import LoggerSettings, new_id, read_logger
from attnvis.pipeline.maps import map_photo, read_maps, write_maps
from attnvis.pipeline.photo_tracking import PhotoTracker
from attnvis.pipeline.plan import RunPlan
from attnvis.pipeline.position_prior import FILE, LEAST, PICTURE, PositionPrior
from attnvis.pipeline.question_files import require_same_inputs
from attnvis.pipeline.records import (
    HEATMAPS,
    OVERLAYS,
    PHOTOS,
    answer_columns,
    as_read,
    as_written,
    open_records,
    read_numbers,
    row_seal,
    rows_by_photo,
    sort_records,
)
from attnvis.pipeline.resume import FolderPlan, differing, remove_file, require_own_files
from attnvis.pipeline.run_page import CARDS, EXPLORERS, RunPage, is_own_file
from attnvis.pipeline.streaming import Outcome
from attnvis.render import overlays, panels
from attnvis.render.thumbnail import Thumbnail
from attnvis.types import Photo, PhotoError, Provenance

__all__ = ["RunWriter"]

FILES = ("run.json", "plan.json", "records.csv", "index.html", FILE, PICTURE)  # of a folder
PICTURES = ("overlays", "panels", HEATMAPS, OVERLAYS)  # one a row
FOLDERS = ("maps", "thumbnails", PHOTOS, *PICTURES, "explorers", "wandb")


class RunWriter:
    """A run's folder, open for outcomes; leave the `with` block to have the page made whole and W&B told.

    `render` draws and writes what one outcome is to leave behind; several threads may do so at once.
    `record` notes it. A run that goes on (`resume`) has the same plan;
    `left` are the indices of the photos that are still to be done, and outcomes count in these.
    """

    def __init__(self, folder: Path, plan: RunPlan, resume: bool = False) -> None:
        self.folder, self.plan = folder, plan
        self.failed = 0
        self.reasons: dict[str, int] = {}
        self.photo_notes: Counter[str] = Counter()  # what was done to photos -> how many
        self.remarks: Counter[str] = Counter()  # of questions and their keys -> on how many photos
        self.thumbnails: dict[str, Thumbnail] = {}  # of overlays, until they are on the page
        names = dict[str, int]()
        self.stems = [unique(slug(path.stem), names) for path in plan.paths]
        self.drawer = PhotoDrawer(
            folder, plan.style, plan.provenance, plan.scaling, plan.warnings, keys=plan.keys, heads=plan.heads
        )
        self.promise = plan.for_folder()
        self.resumed = resume
        self.prior = PositionPrior() if plan.config.get("position_prior") else None
        self.without_p = dict[str, None]()  # questions that were to have a p value, and have none
        logger = read_logger(plan.logger, group=plan.name)
        self.lock = locked(folder)
        try:
            require_own_files(folder, files=FILES, folders=FOLDERS)
            earlier = logged_before(folder) if resume else {}
            finished = self.finished() if resume else set()
            self.left: Sequence[int] = range(len(plan.paths))
            if finished:
                self.left = [index for index in self.left if index not in finished]
            self.done = len(finished)
            record = plan.record() | {"date": begun_at(folder if resume else None)}
            self.date = record["date"]
            log = logged_as(logger, earlier)
            if log:
                record["wandb"] = log
            if resume:
                self.remove_files(finished)
            for name in (FILE, PICTURE):  # of an earlier run: this one's are written at its end
                remove_file(folder, name)
            # What is no longer true goes first: the plan may name what it is to be made from anew.
            self.rows, self.table = open_records(folder / "records.csv", after=finished)
            self.page = RunPage(folder, self.thumbnails, self.stems)
            self.promise.write(folder)
            write_json(folder, "run.json", record)
            settings = plan.provenance.entries() | {"versions": record["versions"]} | dict(plan.config)
            self.tracker = PhotoTracker(
                folder,
                plan.logger,
                settings,
                group=plan.name,
                id=log.get("id"),
                continues=bool(logger.id or earlier),
            )
            if log and self.tracker.id != log["id"]:  # W&B would not have it
                record["wandb"] = log | {"id": self.tracker.id}
                write_json(folder, "run.json", record)
        except BaseException:
            self.lock.close()
            raise

    def finished(self) -> set[int]:
        """The photos of which all is there that was planned; what the earlier plan knew is taken over.

        Raises ValueError where the folder was begun otherwise.
        """
        if not (self.folder / "records.csv").is_file():
            return set()
        require_same_network(self.folder, self.plan.provenance)
        begun = FolderPlan.read(self.folder, self.plan.verb)
        if begun is not None:
            require_same_settings(self.folder, begun.settings, self.promise.settings)
        require_same_inputs(self.folder, self.plan.inputs)
        if begun is None:
            rows = rows_by_photo(self.folder / "records.csv", len(self.promise.photos))
            # before there were plans: as many as any photo has
            most = max(map(len, rows.values()), default=0)
            self.promise = replace(self.promise, rows=most or None)
            return finished_photos(self.folder, self.promise)
        if not self.plan.rows:
            self.promise = replace(self.promise, rows=begun.rows, other_rows=begun.other_rows)
        return finished_photos(self.folder, self.promise)

    def remove_files(self, finished: set[int]) -> None:
        """Those of photos that are done again, and their maps: another photo may have other labels, and they
        are in the names, or fail.

        Raises ValueError where a folder has the name of one.
        """
        require_own_files(self.folder, folders=["maps", PHOTOS, *PICTURES, "explorers"])
        for index in self.left:
            remove_file(self.folder, f"maps/{self.stems[index]}.safetensors")
            remove_file(self.folder, f"{PHOTOS}/{self.stems[index]}.jpg")
            remove_file(self.folder, f"explorers/{self.stems[index]}.html")
        stems = tuple(f"{self.stems[index]}." for index in self.left)
        rows = rows_by_photo(self.folder / "records.csv", len(self.stems)) if finished else {}
        kept = {row[kind] for index in finished for row in rows[index] for kind in ("overlay", "panel")}
        kept |= {f"{kind}/{Path(name).stem}.jpg" for name in kept for kind in (HEATMAPS, OVERLAYS)}
        for kind in PICTURES:
            for path in (self.folder / kind).glob("*"):
                name = f"{kind}/{path.name}"
                if path.name.startswith(stems) and name not in kept:
                    remove_file(self.folder, name)

    def __enter__(self) -> "RunWriter":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        begun = not kind or self.done or self.failed  # else there is nothing to show
        cut_short = kind is not None and not issubclass(kind, Exception)
        try:
            # a full disk has been reported already
            with contextlib.suppress(OSError) if kind else contextlib.nullcontext():
                self.rows.close()
                if self.resumed and begun:
                    sort_records(self.folder / "records.csv")
                if begun:
                    self.write_page(anew=self.resumed or cut_short)
        finally:
            self.page.close()
            self.lock.close()
            self.tracker.explorers = self.explorers()
            self.tracker.__exit__(kind, error, trace)

    def record(self, outcome: Outcome[Answer]) -> None:
        """Everything about one photo: to files, then to W&B."""
        if outcome.error:
            self.failed += 1
            self.reasons[outcome.error] = self.reasons.get(outcome.error, 0) + 1
            self.write_rows([self.photo_columns(outcome) | {"status": "failed", "reason": outcome.error}])
            return
        self.expect(self.left[outcome.index], len(outcome.made))
        self.write_rows(outcome.made)
        self.remarks.update({remark for answer in outcome.answers for remark in answer.remarks})
        if self.plan.config.get("random_classes"):
            self.without_p |= {answer.query: None for answer in outcome.answers if answer.p_value is None}
        if self.prior is not None and not self.resumed:
            self.prior.add(outcome.answers)
        self.tracker.log(outcome.made, outcome.answers)
        if outcome.photo is not None:
            self.photo_notes.update(outcome.photo.notes)
        self.done += 1

    def silences(self) -> list[str]:
        """What was asked for and could not be given, a line each; known when the run has ended."""
        lines = []
        if self.without_p:
            names = shortened_list(list(self.without_p))
            lines.append(
                f"random_classes: no p value for {names}: only classes, sums of classes and classes against "
                "rivals have one, where the layer's classifier tells what each of three classes or more asks "
                "for"
            )
        if self.prior is not None and (grids := self.prior.lonely_grids()):
            names = shortened_list([f"{rows} x {columns}" for rows, columns in grids])
            lines.append(f"position_prior: none on {names} cells: too few photos, it takes {LEAST} of a grid")
        return lines

    def place(self, outcome: Outcome[Answer]) -> int:
        """Which photo of the run it is about, from 0 on."""
        return self.left[outcome.index]

    def explorer_path(self, outcome: Outcome[Answer]) -> Path:
        """Where an explorer of its photo goes; one that lies there is on the page.

        Raises ValueError and OSError as `own_path` does.
        """
        return own_path(self.folder, f"{EXPLORERS}/{self.stems[self.place(outcome)]}.html")

    def explorers(self) -> dict[int, Path]:
        """Those that lie in the folder, by the places of their photos."""
        paths = {index: self.folder / f"{EXPLORERS}/{stem}.html" for index, stem in enumerate(self.stems)}
        return {index: path for index, path in paths.items() if is_own_file(path)}

    def expect(self, index: int, rows: int) -> None:
        """The plan says how many rows a photo has before the first of them is written."""
        promise = self.promise.expecting(index, rows)
        if promise is not self.promise:
            promise.write(self.folder)
            self.promise = promise

    def photo_columns(self, outcome: Outcome[Answer]) -> dict[str, Any]:
        """What a row says of a photo that may not even be one."""
        return {"index": self.left[outcome.index], "photo": outcome.path.name, "path": str(outcome.path)}

    def render(self, outcome: Outcome[Answer]) -> list[dict[str, Any]]:
        """The pictures and maps of one photo; returns its records.

        Raises PhotoError for a photo that changed or vanished meanwhile.
        """
        photo = outcome.photo
        assert photo is not None
        index = self.left[outcome.index]
        if self.promise.photos[index].digest not in ("", photo.digest):
            raise PhotoError(f"{outcome.path} changed since the run began; --resume does it again")
        height, width = photo.size
        weights = self.plan.provenance.weights
        row = self.photo_columns(outcome) | {
            "photo": photo.name,
            "digest": photo.digest,
            "height": height,
            "width": width,
            "status": "done",
            "photo_note": "; ".join(photo.notes),
            "weights": weights,
            "scaling": self.plan.scaling,
            "normalise": self.plan.normalise,
            "keys": self.plan.keys,
            "heads": self.plan.heads,
        }
        pictures = self.draw(outcome.index, photo, outcome.answers)
        digests: dict[str, str] = {}
        if self.plan.keep_maps:
            row["map"] = f"maps/{self.stems[index]}.safetensors"
            content = write_maps(photo, outcome.answers, weights)
            self.write(row["map"], content)
            digests[row["map"]] = hashlib.sha256(content).hexdigest()
        rows = []
        for answer, of_answer in zip(outcome.answers, pictures, strict=True):
            columns = row | dict(of_answer.paths) | answer_columns(answer)
            seal = row_seal(self.folder, columns, digests | dict(of_answer.digests))
            rows.append(columns | {"seal": seal})
        return rows

    def draw(self, number: int, photo: Photo, answers: Sequence[Answer]) -> list[Pictures]:
        """The pictures of the outcome with this number; what may become a card of the page also small."""
        index = self.left[number]
        pictures = self.drawer.draw(
            self.stems[index],
            photo,
            answers,
            views=index * len(answers) < CARDS,
        )
        for picture in pictures:
            if picture.thumbnail is not None:
                self.thumbnails[picture.paths["overlay"]] = picture.thumbnail
        return pictures

    def write_page(self, anew: bool) -> Path:
        """index.html, of the rows that came one by one; `anew`: of those that are in the records.

        So it is for a run that goes on, and for one that a signal ended, perhaps between a record and its
        card.
        """
        plan = self.plan
        (
            self.folder / "records.csv"
        ).stat()  # raises FileNotFoundError: somebody deleted the folder meanwhile
        if anew:
            self.page.close()
            self.page = RunPage(self.folder, self.thumbnails, self.stems)
            for row in read_numbers(self.folder / "records.csv"):
                self.page.add(row)
        return self.page.write(
            f"attnvis {plan.name}" + ", drawn again" * (plan.verb == "redraw"),
            facts=plan.provenance.entries(),
            warnings=plan.warnings,
            colour_bar=overlays.encode(panels.colour_bar(plan.style, noun=self.drawer.noun), "png"),
            scale=plan.style.scale,
            date=in_words(self.date),
            prior=None if self.prior is None else self.write_prior(self.prior),
            beyond=self.drawer.beyond,
        )

    def write_prior(self, prior: PositionPrior) -> bytes | None:
        """The files of the position prior, and its picture; of a run that goes on from the maps of all."""
        if self.resumed:
            for row in rows_by_photo(self.folder / "records.csv").values():
                if row[0].get("map"):
                    prior.add(read_maps(self.folder / row[0]["map"]))
        return prior.write(self.folder, self.plan.style)

    def write_rows(self, rows: Sequence[Mapping[str, Any]]) -> None:
        """A photo's rows go into the file in one piece: a run that is killed leaves whole photos."""
        with naming(self.folder / "records.csv"):
            self.table.writerows(rows)
            self.rows.flush()
        for row in () if self.resumed else rows:
            self.page.add(as_read(row))
            self.thumbnails.pop(row.get("overlay", ""), None)

    def write(self, name: str, content: bytes) -> None:
        save(self.folder, name, content)


def shortened_list(names: Sequence[str], most: int = 3) -> str:
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(names[:most]) + more


def require_same_settings(folder: Path, before: Mapping[str, Any], now: Mapping[str, Any]) -> None:
    """Raises ValueError where the folder was begun with others."""
    others = differing(before, json.loads(json.dumps(now)))
    if others:
        raise ValueError(
            f"{folder} was begun with other settings ({', '.join(others[:3])}); run again in another folder"
        )


def require_same_network(folder: Path, provenance: Provenance) -> None:
    """Raises ValueError where the folder was begun with another network or input, or has no run.json."""
    try:
        begun = Provenance.from_entries(read_json(folder / "run.json"))
    except (OSError, ValueError):
        raise ValueError(f"{folder / 'run.json'} is damaged or gone; run again in another folder") from None
    for name in ("weights_digest", "layer", "precision", "placement", "size", "fit"):
        before, now = getattr(begun, name), getattr(provenance, name)
        if before != now:
            what = name.replace("_", " ")
            raise ValueError(
                f"{folder} was begun with {what} {before}, and this is {now}; run again in another folder"
            )


def begun_at(folder: Path | None) -> str:
    """When the run of a folder that is gone on with began, to the minute, or that it begins now."""
    if folder is not None:
        with contextlib.suppress(OSError, ValueError, KeyError, TypeError):
            return datetime.fromisoformat(str(read_json(folder / "run.json")["date"])).isoformat()
    return datetime.now().astimezone().replace(second=0, microsecond=0).isoformat()


def in_words(date: str) -> str:
    """26 November 2026, 15:40."""
    moment = datetime.fromisoformat(date)
    return f"{moment.day} {month_name[moment.month]} {moment.year}, {moment:%H:%M}"


def logged_before(folder: Path) -> dict[str, Any]:
    """Which run of W&B's the folder was begun as, says its run.json; {}: none."""
    try:
        log = read_json(folder / "run.json").get("wandb")
    except (OSError, ValueError):
        return {}
    return log if isinstance(log, dict) and isinstance(log.get("id"), str) else {}


def logged_as(logger: LoggerSettings, earlier: Mapping[str, Any]) -> dict[str, Any]:
    """What run.json says of the run at W&B; what it said `earlier`, where nothing is logged now."""
    if logger.mode == "disabled":
        return dict(earlier)
    return {
        "id": logger.id or earlier.get("id") or new_id(),
        "project": logger.project,
        "entity": logger.entity,
        "group": logger.group,
    }


def finished_photos(folder: Path, promise: FolderPlan) -> set[int]:
    """The indices of the photos of which every row and every file is there, and is that photo's."""
    return {
        index
        for index, rows in rows_by_photo(folder / "records.csv", len(promise.photos)).items()
        if len(rows) == promise.rows_of(index) and is_finished(folder, promise, index, rows)
    }


def is_finished(folder: Path, promise: FolderPlan, index: int, rows: Sequence[Mapping[str, str]]) -> bool:
    """Whether rows and files are those of one photo, as it is now."""
    photo = promise.photos[index]
    for row in rows:
        same = row["path"] == as_written(photo.path) and row.get("digest") == photo.digest
        files = [row.get(column, "") for column in promise.files]
        if row["status"] != "done" or not same or not all(is_whole(folder, name) for name in files):
            return False
        if row["seal"] not in ("", row_seal(folder, row)):  # rows of earlier versions have none
            return False
    maps = {row.get("map", "") for row in rows} - {""}
    if promise.sources and promise.sources[index].digest:
        return all(file_digest(folder / name) == promise.sources[index].digest for name in maps)
    return all(map_photo(folder / name) == (photo.digest, len(rows)) for name in maps)

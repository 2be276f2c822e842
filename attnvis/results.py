"""Outcomes in, a run's folder out - records, maps, pictures, page - then the same to W&B.  Files come first: a dead network costs nothing.

<folder>/run.json       resolved config, versions, digest, seed    maps/      scores, logits, weights, placement: enough to draw again
         records.csv    a row per photo and query                  overlays/  the bare pictures     panels/  the pictures for people
         .hydra/        what was typed                             index.html all of it
"""

import contextlib
import csv
import json
import re
import sys
from array import array
from collections.abc import Iterator, Mapping, Sequence, Set
from dataclasses import asdict
from importlib.metadata import version
from pathlib import Path
from types import MappingProxyType, TracebackType
from typing import Any, TextIO

import numpy as np

from attnvis import render, report
from attnvis.diagnostics import DESCRIPTIONS
from attnvis.maps import read_maps, write_maps
from attnvis.method import Answer
from attnvis.photo import full_pixels, load
from attnvis.stream import Outcome
from attnvis.tracker import Tracker, printable
from attnvis.values import Box, ClassScore, Photo, percent

try:
    import fcntl
except ImportError:  # Windows: two runs in one folder are not told from one another
    fcntl = None  # type: ignore[assignment]

__all__ = ["Folder", "draw", "redraw"]

PACKAGES = ("attnvis", "torch", "torchvision", "hydra-core", "opencv-python", "wandb", "numpy")
CLASS = ("class_index", "class_probability", "class_logit", "class_rank")  # of the class that was asked for
NUMBERS = ("index", "height", "width", "patches", "rows", "columns", "probability", *CLASS, "sign_margin", *DESCRIPTIONS)
COLUMNS = (
    "index", "photo", "path", "digest", "height", "width", "status", "reason", "query", "label", "layer", "weights", "scaling", "normalise",
    "patches", "rows", "columns", "placement", "predicted", "probability", *CLASS, "sign_margin", *DESCRIPTIONS, "map", "overlay", "panel",
)  # fmt: skip


class Folder:
    """A run's folder, open for outcomes; leave the `with` block to have the page written and W&B told.

    `make` draws and writes what one outcome is to leave behind; several threads may do so at once.  `add` records it.
    `paths` are the photos of the run: their files are named after them, in this order.  A run that goes on (`resume`) gives the same
    ones; `left` are the indices of those that are still to be done, and outcomes count in these.
    """

    def __init__(
        self,
        path: Path,
        paths: Sequence[Path],
        style: render.Style,
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
            "run.json", json.dumps({**self.facts, "versions": versions, "warnings": self.warnings, "config": config}, indent=1).encode()
        )
        self.rows, self.table = open_records(path / "records.csv", after=set(range(len(paths))) - set(self.left))
        self.tracker = PhotoTracker(path, logger or {"mode": "disabled"}, {**self.facts, "versions": versions, **config})

    def __enter__(self) -> "Folder":
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        try:
            with contextlib.suppress(OSError) if kind else contextlib.nullcontext():  # a full disk has been reported already
                self.rows.close()
                if not kind or self.done or self.failed:  # a run that ended before its first photo has nothing to show
                    page(self.path, self.name, self.style, self.facts, self.warnings)
        finally:
            (self.path / ".lock").unlink(missing_ok=True)
            self.lock.close()
            self.tracker.finish(crashed=kind is not None)

    def add(self, outcome: Outcome[Answer]) -> None:
        """Everything about one photo: to files, then to W&B."""
        if outcome.error:
            self.failed += 1
            self.reasons[outcome.error] = self.reasons.get(outcome.error, 0) + 1
            self.record([self.about(outcome) | {"status": "failed", "reason": outcome.error}])
            return
        self.record(outcome.made)
        for numbers, answer in zip(outcome.made, outcome.answers, strict=True):
            self.tracker.log(numbers, answer)
        self.done += 1

    def about(self, outcome: Outcome[Answer]) -> dict[str, Any]:
        return {"index": self.left[outcome.index], "photo": outcome.path.name, "path": str(outcome.path)}

    def make(self, outcome: Outcome[Answer]) -> list[dict[str, Any]]:
        """The pictures and maps of one photo; returns its records.  Raises PhotoError for a photo that changed or vanished meanwhile."""
        photo = outcome.photo
        assert photo is not None
        row, stem = self.about(outcome), self.stems[self.left[outcome.index]]
        height, width = photo.size
        row |= {"photo": photo.name, "digest": photo.digest, "height": height, "width": width, "status": "done"}
        row |= {"weights": self.facts["weights"], "scaling": self.scaling, "normalise": self.normalise}
        if outcome.predicted:
            row |= {"predicted": outcome.predicted[0][0], "probability": outcome.predicted[0][1]}
        lines = [*taken_for(outcome.predicted, self.facts), ("scaling", about(self.scaling)), *network(self.facts)]
        pictures = draw(self.path, stem, photo, outcome.answers, self.style, lines, self.warnings)
        if self.keep_maps:
            row["map"] = f"maps/{stem}.safetensors"
            self.write(row["map"], write_maps(photo, outcome.answers, self.facts["weights"]))
        rows = []
        for answer, drawn in zip(outcome.answers, pictures, strict=True):
            found = {"query": answer.query, "label": answer.label, "layer": answer.layer, "patches": answer.patches}
            found["rows"], found["columns"] = answer.placement.grid
            found |= {"placement": answer.placement.source, **class_columns(answer.class_score)}
            if answer.sign_margin is not None:
                found["sign_margin"] = answer.sign_margin
            rows.append(row | drawn | answer.diagnostics | found)
        return rows

    def record(self, rows: Sequence[Mapping[str, Any]]) -> None:
        """A photo's rows go into the file in one piece: a run that is killed leaves whole photos."""
        self.table.writerows(rows)
        self.rows.flush()

    def write(self, name: str, content: bytes) -> None:
        save(self.path / name, content)


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
    drawn, names = [], dict[str, int]()
    for answer in answers:
        name = unique(f"{stem}.{slug(answer.label)}", names)
        paths = {"overlay": f"overlays/{name}.{style.format}"}
        cells, mark, field, placement = answer.cells, answer.mark, answer.field, answer.placement
        picture = render.overlay(pixels, cells, style, mark, field=field, placement=placement)
        save(folder / paths["overlay"], render.encode(picture, style.format, style.quality))
        if style.panel:
            paths["panel"] = f"panels/{name}.{style.format}"
            told = [line for line in lines if line[0] not in ABOUT_CLASSES or answer.class_score]
            outline = [("outline", seen_by(field, placement.seen))] if style.field and field else []
            said = [
                ("query", answer.query),
                *([("this class", answer.class_score)] if answer.class_score else []),
                *told,
                *numbers_of(answer),
                *outline,
                *(("warning", text) for text in (*warnings, *answer.warnings)),
            ]
            title = f"{photo.name}: {answer.label}"
            picture = render.panel(pixels, cells, style, title, said, mark, field=field, placement=placement)
            save(folder / paths["panel"], render.encode(picture, style.format, style.quality))
        drawn.append(paths)
    return drawn


def seen_by(field: Box, seen: Box) -> str:
    if render.covers(field, seen):
        return "none: one cell can see all that the network saw (its receptive field)"
    return f"the {field.width:.0f} x {field.height:.0f} px that one cell can see (its receptive field)"


def about(scaling: str) -> str:
    return f"{scaling}: this sharpness was asked for" if scaling.startswith("perplexity") else scaling


ABOUT_CLASSES = ("class scores", "warning")  # lines for class queries alone


def network(facts: Mapping[str, str]) -> list[tuple[str, str]]:
    """What a panel says of the network: its layer, where there are not several (then labels name them), and what class scores lack."""
    layer = "" if "+" in facts["layer"] else f", layer {facts['layer']}"
    lines = [("backbone", facts["backbone"] + layer)]
    certificate, off_size = facts.get("class scores", ""), facts.get("class size", "")
    if "approximate" in certificate:
        lines.append(("class scores", certificate))
    if off_size:
        lines.append(("warning", off_size))
    return lines


def taken_for(predicted: Sequence[tuple[str, float]], facts: Mapping[str, str] = MappingProxyType({})) -> list[tuple[str, str]]:
    """What the network takes the photo for."""
    if not predicted:
        return []
    classes = ", ".join(f"{name} {percent(probability)}" for name, probability in predicted[:3])
    return [("predicted", classes + (" (off its size)" if facts.get("class size") else ""))]


def class_columns(score: ClassScore | None) -> dict[str, int | float]:
    """How likely the class is that was asked for."""
    return dict(zip(CLASS, (score.index, score.probability, score.logit, score.rank), strict=True)) if score else {}


def numbers_of(answer: Answer) -> list[tuple[str, str]]:
    """What a panel says of an attention."""
    found = answer.diagnostics
    return [
        ("spread over", f"{found['perplexity']:.1f} of {answer.patches} patches (perplexity)"),
        ("hottest patch", f"{found['max_times_uniform']:.1f} x uniform"),
        ("sigma_eff", f"{found['sigma_eff']:.2f}"),
    ]


def redraw(source: Path, target: Path, style: render.Style, command: str) -> Iterator[tuple[Path, str]]:
    """Every photo of a finished run drawn again from its maps, without the network; yields the photo and what went wrong, if anything."""
    told = json.loads((source / "run.json").read_text(encoding="utf-8"))
    config, warnings = told["config"], told["warnings"]
    facts = {key: value for key, value in told.items() if isinstance(value, str)}
    lines = [("scaling", about(short(config.get("scaling", {})))), *network(facts)]
    with (source / "records.csv").open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    if not any(row["map"] for row in rows):
        raise ValueError(f"{source} kept no maps to draw from; run again with maps=true")
    if target.resolve() == source.resolve():
        raise ValueError(f"{target} is the run itself; redraw into another folder, its own pictures stay as they are")
    together: dict[str, list[dict[str, str]]] = {}
    for row in rows:
        if row["map"]:
            together.setdefault(row["map"], []).append(row)
    facts |= {"command": command, "redrawn from": str(source)}
    save(target / "run.json", json.dumps({**told, **facts, "style": asdict(style)}, indent=1).encode())
    records, table = open_records(target / "records.csv")
    with records:
        table.writerows(row for row in rows if not row["map"])  # what failed then is not forgotten
        for name, mine in together.items():
            path = Path(mine[0]["path"])
            try:
                answers = read_maps(source / name)
                photo = load(path, name=mine[0]["photo"])
                if photo.digest != mine[0]["digest"]:
                    raise ValueError(f"{path} is not the photo that the maps were made from; its bytes have changed")
                pictures = draw(target, Path(name).stem, photo, answers, style, lines, warnings)
            except (ValueError, FileNotFoundError) as error:
                table.writerows(row | {"status": "failed", "reason": str(error), "map": "", "overlay": "", "panel": ""} for row in mine)
                yield path, str(error)
                continue
            for row, drawn in zip(mine, pictures, strict=True):
                table.writerow(row | {"map": "", "panel": ""} | drawn)
            yield path, ""
    page(target, config["name"], style, facts, warnings)


def page(folder: Path, name: str, style: render.Style, facts: Mapping[str, str], warnings: Sequence[str]) -> Path:
    bar = render.encode(render.colour_bar(style), "png")
    with (folder / "records.csv").open(newline="", encoding="utf-8") as file:
        rows = (row | {name: float(row[name]) for name in NUMBERS if row[name]} for row in csv.DictReader(file))
        return report.write_page(folder, f"attnvis {name}", rows, facts, warnings, bar, style.scale)


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
            raise ValueError(f"{folder} was begun with {name} {told.get(name)}, and this is {facts.get(name)}; run again in another folder")
    found: dict[int, tuple[str, bool, int]] = {}
    for row in recorded(folder / "records.csv"):
        whole = row["status"] == "done" and all((folder / row[name]).is_file() for name in ("map", "overlay", "panel") if row[name])
        path, before, count = found.get(int(row["index"]), (row["path"], True, 0))
        found[int(row["index"])] = (path, whole and before, count + 1)
    most = max((count for _, _, count in found.values()), default=0)  # rows of a photo; fewer were cut off
    return {index: path for index, (path, whole, count) in found.items() if whole and count == most}


def locked(folder: Path) -> TextIO:
    """Holds a folder until it is closed, or its process ends: two runs in one folder would write over each other's files."""
    folder.mkdir(parents=True, exist_ok=True)
    file = (folder / ".lock").open("w")
    if fcntl is not None:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            file.close()
            raise ValueError(f"another run is writing into {folder}; wait for it, or choose another with hydra.run.dir=FOLDER") from None
    return file


def save(path: Path, content: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    render.write_bytes(path, content)


# --------------------------------------------------------------------------------------------------------------------- W&B


class PhotoTracker(Tracker):
    """What W&B is told of photos: diagnostics and pictures as they come; distributions, a table and the maps at the end."""

    EDGES = np.linspace(-10, 10, 65)  # of the histogram: log2 of N a
    TABLE = ("photo", "query", "label", "scaling", *DESCRIPTIONS)

    def __init__(self, folder: Path, logger: Mapping[str, Any], config: Mapping[str, Any]) -> None:
        self.pictures = logger.get("pictures", 64)
        self.counts: dict[str, np.ndarray] = {}
        self.spreads: dict[str, array[float]] = {}  # the perplexities of each query
        self.rows: list[list[Any]] = []  # of the table: the first 10,000
        super().__init__(folder, logger, config)

    def log(self, row: Mapping[str, Any], answer: Answer) -> None:
        if self.silent:
            return
        with self.harmless():
            from wandb import Image

            about = slug(answer.query)
            numbers = {f"{about}/{name}": row[name] for name in DESCRIPTIONS}
            if len(self.rows) < self.pictures:
                caption = f"{printable(row['photo'])}: {answer.label}, perplexity {row['perplexity']:.1f} of {row['patches']}"
                numbers[f"{about}/overlay"] = Image(str(self.folder / row["overlay"]), caption=caption)
            self.run.log(numbers)
            if len(self.rows) < 10_000:
                self.rows.append([printable(row.get(name, "")) for name in self.TABLE])
            self.spreads.setdefault(answer.query, array("d")).append(row["perplexity"])
            logs = np.log2(np.maximum(answer.cells, 2.0**-10)).clip(-10, 10)
            self.counts[answer.query] = self.counts.get(answer.query, 0) + np.histogram(logs, self.EDGES)[0]

    def conclude(self) -> None:
        """What is known only at the end: distributions, the table, the means, and the maps as an artifact."""
        import wandb

        for query, counts in self.counts.items():
            self.run.log({f"{slug(query)}/log2_times_uniform": wandb.Histogram(np_histogram=(counts, self.EDGES))})
        if self.rows:
            self.run.log({"photos": wandb.Table(list(self.TABLE), self.rows)})
            self.run.summary.update({f"{slug(query)}/mean_perplexity": float(np.mean(seen)) for query, seen in self.spreads.items()})
        if (self.folder / "maps").is_dir():
            artifact = wandb.Artifact(f"maps-{self.run.id}", type="attention-maps")
            artifact.add_dir(str(self.folder / "maps"), skip_cache=True, policy="immutable")  # sent from where they lie, not copied
            artifact.add_file(str(self.folder / "records.csv"))
            self.run.log_artifact(artifact)


# ------------------------------------------------------------------------------------------------------------------- names


def short(config: Mapping[str, Any]) -> str:
    """{_target_: attnvis.scaling.temperature, tau: 2} -> temperature(tau=2)"""
    settings = ", ".join(f"{key}={value}" for key, value in config.items() if not key.startswith("_"))
    name = str(config.get("_target_", "")).rsplit(".", 1)[-1]
    return f"{name}({settings})" if settings else name


def slug(text: str) -> str:
    """A name that is safe in every file system; what it stands for is in the records."""
    return re.sub(r"[^A-Za-z0-9._-]+", "-", text).strip("-.")[:80] or "photo"


def unique(name: str, taken: dict[str, int]) -> str:
    """`name`, or name-2, name-3, ...; on file systems that ignore case too.  `taken` remembers how far each name has counted."""
    key, candidate = name.lower(), name
    while candidate.lower() in taken:
        taken[key] += 1
        candidate = f"{name}-{taken[key]}"
    taken[candidate.lower()] = 1
    return candidate

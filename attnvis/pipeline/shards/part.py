"""One shard in, its part out: records and maps in parquet, pictures, and a receipt that is written last.

A part is done where its receipt is there, is of this plan, and every file has the digest that it says.

<folder>/records/000/00000012.parquet   a row per photo and answer
         maps/000/00000012.parquet      float16 scores, logits, weights
         overlays/, panels/             of the sample, or of all
         parts/000/00000012.json        the receipt; .running: how far it is; .failed: why there is none
"""

import contextlib
import io
import json
import os
import re
import shutil
import socket
import tarfile
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from attnvis.files import file_digest, naming, own_path, save, slug
from attnvis.json_files import read_json, sealed, write_json
from attnvis.methods.answer import Answer, Method
from attnvis.pipeline.drawing import PhotoDrawer
from attnvis.pipeline.photo_tracking import Means
from attnvis.pipeline.records import answer_columns
from attnvis.pipeline.shards.columns import MAPS, RECORDS, map_rows, record_row
from attnvis.pipeline.shards.durable import durable
from attnvis.pipeline.shards.plan import Shard, places_of
from attnvis.pipeline.streaming import Outcome, stream
from attnvis.render import overlays
from attnvis.types import Preprocessing, Provenance, Source

__all__ = [
    "OVERLAYS",
    "Receipt",
    "ShardTask",
    "forget_failure",
    "is_done",
    "note_failure",
    "outcome_of",
    "receipt_of",
    "run_shard",
    "write_receipt",
]

OVERLAYS = ("sample", "tar", "files")  # what may be kept of the pictures
TOGETHER = 1000  # rows of a row group
BEAT = 5.0  # seconds between two notes of how far a shard is
NO_NAME = "PHOTO"  # in a kind of failure, where its photos' names were
MOST_KINDS = 50  # of failures that a receipt names
FORMAT = 1


@dataclass(frozen=True)
class ShardTask:
    """What is done with every shard of a run.

    span       of the plan: the sample is spread over so many photos
    shards     how many there are
    overlays   one of OVERLAYS: pictures of the sample alone, of all in one tar a shard, or of all as files
    """

    folder: Path
    span: int
    shards: int
    style: overlays.Style
    provenance: Provenance
    scaling: str = ""  # as records name it
    normalise: str = ""
    warnings: tuple[str, ...] = ()
    keep_maps: bool = True
    overlays: str = "sample"
    keys: str = ""
    heads: str = ""


@dataclass(frozen=True)
class Receipt:
    """What a part is and holds; `sums`: of numbers over its photos, name -> (sum, how many)."""

    digest: str  # of the shard, as the plan has it
    shard: int
    photos: int
    done: int = 0
    failed: int = 0
    rows: int = 0
    failures: Mapping[str, int] = field(default_factory=dict)  # kind -> photos
    notes: Mapping[str, int] = field(default_factory=dict)  # what was done to photos -> photos
    sums: Mapping[str, Sequence[int | float]] = field(default_factory=dict)
    files: Mapping[str, str] = field(default_factory=dict)  # below the folder -> sha256
    seconds: float = 0.0
    cpu_seconds: float = 0.0  # of the process, while it did this
    host: str = ""
    format: int = FORMAT


def run_shard(
    task: ShardTask,
    shard: Shard,
    method: Method,
    preprocessing: Preprocessing,
    batch_size: int = 8,
    workers: int = 1,
    say: Callable[[str], None] = lambda text: None,
) -> Receipt:
    """Writes the part of a shard, over one that is not whole; batch_size, workers: as `stream` takes them.

    Raises OSError where there is no room, and what the method raises beside PhotoError.
    """
    part = PartWriter(task, shard)
    with part:
        assert shard.range is not None
        outcomes = stream(
            shard.range.photos(),
            method,
            preprocessing,
            batch_size=batch_size,
            workers=workers,
            after=part.render,
            say=say,
        )
        for outcome in outcomes:
            part.record(outcome)
        return part.finish()


@dataclass(frozen=True)
class Rendered:
    """What is to be kept of one photo."""

    rows: list[dict[str, Any]]
    maps: list[dict[str, Any]]
    pictures: list[str]  # files below the scratch folder that go into the tar


class PartWriter:
    """A part, open for outcomes; leave the `with` block to have what is not finished removed."""

    def __init__(self, task: ShardTask, shard: Shard) -> None:
        self.task, self.shard = task, shard
        self.sampled = set(places_of(shard, task.span, task.shards))
        self.done = self.failed = self.rows = 0
        self.failures, self.notes = Counter[str](), Counter[str]()
        self.means = Means()
        self.begun, self.begun_cpu, self.beat = time.time(), time.process_time(), 0.0
        self.stack = ExitStack()
        self.files: dict[str, Path] = {}  # below the folder -> where it is being written

    def __enter__(self) -> "PartWriter":
        task, stem = self.task, self.shard.stem
        with ExitStack() as stack:
            running = own_path(task.folder, f"parts/{stem}.running")
            stack.callback(running.unlink, missing_ok=True)
            self.note_progress()
            # the last one that is opened is the first that has its name: records come after what they name
            self.records = self.table(stack, f"records/{stem}.parquet", RECORDS)
            self.maps = None
            if task.keep_maps:
                self.maps = self.table(stack, f"maps/{stem}.parquet", MAPS)
            self.tar, self.scratch = None, task.folder
            if task.overlays == "tar":
                self.scratch = Path(tempfile.mkdtemp(prefix="attnvis-"))
                stack.callback(shutil.rmtree, self.scratch, ignore_errors=True)
                file = self.open(stack, f"overlays/{stem}.tar")
                self.tar = stack.enter_context(tarfile.open(file, "w", format=tarfile.PAX_FORMAT))
            self.drawer = PhotoDrawer(
                self.scratch,
                task.style,
                task.provenance,
                task.scaling,
                warnings=task.warnings,
                keys=task.keys,
                heads=task.heads,
            )
            self.stack = stack.pop_all()
        return self

    def __exit__(self, *error: Any) -> None:
        self.stack.__exit__(*error)  # raises on

    def open(self, stack: ExitStack, name: str) -> Path:
        self.files[name] = stack.enter_context(durable(own_path(self.task.folder, name)))
        return self.files[name]

    def table(self, stack: ExitStack, name: str, schema: pa.Schema) -> "Table":
        table = Table(self.open(stack, name), schema, name=self.task.folder / name)
        stack.callback(table.abandon)
        return table

    def render(self, outcome: Outcome[Answer]) -> Rendered:
        """The rows of one photo, and its pictures where they are kept; several threads may do so at once."""
        task, photo = self.task, outcome.photo
        assert photo is not None
        index = self.shard.first + outcome.index
        row = self.photo_columns(outcome) | {
            "photo": photo.name,
            "digest": photo.digest,
            "height": photo.size[0],
            "width": photo.size[1],
            "status": "done",
            "photo_note": "; ".join(photo.notes),
            "weights": task.provenance.weights,
            "scaling": task.scaling,
            "normalise": task.normalise,
            "keys": task.keys,
            "heads": task.heads,
        }
        if task.keep_maps:
            row["map"] = f"maps/{self.shard.stem}.parquet"
        pictures, in_tar = self.draw(index, outcome)
        rows = [
            row | of_answer | answer_columns(answer)
            for answer, of_answer in zip(outcome.answers, pictures, strict=True)
        ]
        return Rendered(rows, map_rows(index, photo, outcome.answers) if task.keep_maps else [], in_tar)

    def draw(self, index: int, outcome: Outcome[Answer]) -> tuple[list[dict[str, str]], list[str]]:
        """The columns that name each answer's pictures, and those of them that go into the tar."""
        sampled = index in self.sampled
        if not sampled and self.task.overlays == "sample":
            return [{} for _ in outcome.answers], []
        stem = f"{self.shard.stem}/{index:010d}-{slug(outcome.path.stem)}"
        assert outcome.photo is not None
        drawn = self.drawer.draw(stem, outcome.photo, outcome.answers)
        pictures = [dict(of_answer.paths) for of_answer in drawn]
        if self.tar is None:
            return pictures, []
        names = [name for of_answer in pictures for name in of_answer.values()]
        if sampled:  # the page shows files
            for name in names:
                save(self.task.folder, name, (self.scratch / name).read_bytes())
            return pictures, names
        tar = f"overlays/{self.shard.stem}.tar"
        return [{kind: f"{tar}/{name}" for kind, name in paths.items()} for paths in pictures], names

    def photo_columns(self, outcome: Outcome[Answer]) -> dict[str, Any]:
        """What a row says of a photo that may not even be one."""
        index = self.shard.first + outcome.index
        return {"index": index, "photo": outcome.path.name, "path": str(outcome.path)}

    def record(self, outcome: Outcome[Answer]) -> None:
        """One photo, in the order of the photos."""
        if outcome.error:
            self.failed += 1
            self.failures[kind_of_failure(outcome.error, outcome.path)] += 1
            self.write([self.photo_columns(outcome) | {"status": "failed", "reason": outcome.error}], [])
        else:
            self.done += 1
            self.means.add([with_floats(row) for row in outcome.made.rows])
            if outcome.photo is not None:
                self.notes.update(note.partition(":")[0] for note in outcome.photo.notes)
            self.write(outcome.made.rows, outcome.made.maps)
            for name in outcome.made.pictures:
                self.add_to_tar(name)
        if time.time() - self.beat > BEAT:
            self.note_progress()

    def write(self, rows: Sequence[Mapping[str, Any]], maps: Sequence[dict[str, Any]]) -> None:
        self.rows += len(rows)
        self.records.add([record_row(row) for row in rows])
        if self.maps is not None:
            self.maps.add(maps)

    def add_to_tar(self, name: str) -> None:
        """A picture, with nothing in it that another machine or hour would write otherwise."""
        assert self.tar is not None
        content = (self.scratch / name).read_bytes()
        (self.scratch / name).unlink()
        entry = tarfile.TarInfo(name)
        entry.size = len(content)
        self.tar.addfile(entry, io.BytesIO(content))

    def note_progress(self) -> None:
        """How far it is, for whoever looks; a note that cannot be written costs nothing."""
        self.beat = time.time()
        about = {"shard": self.shard.number, "photos": self.shard.photos or 0, "host": socket.gethostname()}
        about |= {"process": os.getpid(), "done": self.done, "failed": self.failed, "begun": self.begun}
        with contextlib.suppress(OSError):
            write_json(self.task.folder, f"parts/{self.shard.stem}.running", about)

    def finish(self) -> Receipt:
        """All photos are recorded: files get their names, and the receipt says so."""
        self.records.close()
        if self.maps is not None:
            self.maps.close()
        if self.tar is not None:
            self.tar.close()
        digests = {name: file_digest(path) for name, path in self.files.items()}
        self.stack.close()
        receipt = Receipt(
            self.shard.digest,
            self.shard.number,
            self.done + self.failed,
            done=self.done,
            failed=self.failed,
            rows=self.rows,
            failures=dict(self.failures.most_common(MOST_KINDS)),
            notes=dict(self.notes),
            sums={name: list(numbers) for name, numbers in self.means.sums.items()},
            files=digests,
            seconds=time.time() - self.begun,
            cpu_seconds=time.process_time() - self.begun_cpu,
            host=socket.gethostname(),
        )
        write_receipt(self.task.folder, self.shard, receipt)
        failed_path(self.task.folder, self.shard).unlink(missing_ok=True)
        return receipt


class Table:
    """Rows in, parquet out, a row group at a time; `name`: what the file will be called.  Raises OSError."""

    def __init__(self, path: Path, schema: pa.Schema, name: Path) -> None:
        self.schema, self.name, self.waiting = schema, name, list[dict[str, Any]]()
        with naming(name):
            self.writer = pq.ParquetWriter(path, schema, compression="zstd", write_page_checksum=True)

    def add(self, rows: Sequence[dict[str, Any]]) -> None:
        self.waiting += rows
        if len(self.waiting) >= TOGETHER:
            self.flush()

    def flush(self) -> None:
        if self.waiting:
            with naming(self.name):
                self.writer.write_table(pa.Table.from_pylist(self.waiting, self.schema))
            self.waiting = []

    def close(self) -> None:
        self.flush()
        with naming(self.name):
            self.writer.close()

    def abandon(self) -> None:
        """Closes what has not been closed; the file is not kept."""
        with contextlib.suppress(OSError):
            self.writer.close()


def with_floats(row: Mapping[str, Any]) -> dict[str, Any]:
    """A row whose whole numbers are floats, as a table gives them back."""
    return {name: float(value) if isinstance(value, int) else value for name, value in row.items()}


def kind_of_failure(reason: str, path: Source) -> str:
    """What a reason is without the photo's name: `without_name`."""
    return without_name(reason, str(path), path.name)


def without_name(reason: str, path: str, photo: str) -> str:
    """A reason without what is this photo's own: x.jpg is no photo: it begins ... -> PHOTO is no photo.

    A photo whose name is a number, as a table's row, is meant by it at the beginning alone: the other
    numbers are counts.
    """
    text = reason
    for name in filter(None, (path, photo)):
        before = r"\A" if name.isdecimal() else r"(?<!\w)"
        text = re.sub(rf"{before}{re.escape(name)}(?!\w)", NO_NAME, text)
    return re.split(r"[:;(]", text, maxsplit=1)[0].strip()[:120] or "no reason"


# ------------------------------------------------------------------------------------------- what is there


def is_done(folder: Path, shard: Shard) -> bool:
    """Whether a shard's part is there, of this plan, and whole to the last bit."""
    receipt = receipt_of(folder, shard)
    if receipt is None or receipt.digest != shard.digest:
        return False
    return all(digest and file_digest(folder / name) == digest for name, digest in receipt.files.items())


def receipt_of(folder: Path, shard: Shard) -> Receipt | None:
    """What a part says of itself; None where there is none, or a damaged one."""
    try:
        receipt = Receipt(**read_json(receipt_path(folder, shard)))
    except (OSError, ValueError, TypeError):
        return None
    return receipt if receipt.format == FORMAT else None


def write_receipt(folder: Path, shard: Shard, receipt: Receipt) -> None:
    """Says that a part is whole: after all of its files.  Raises OSError, ValueError as `own_path` does."""
    with durable(own_path(folder, f"parts/{shard.stem}.json")) as part:
        part.write_text(json.dumps(sealed(asdict(receipt)), indent=1))


def note_failure(folder: Path, shard: Shard, reason: str) -> None:
    """Why a shard has no part, for whoever looks; where it cannot be written, nothing."""
    with contextlib.suppress(OSError, ValueError):  # no room, or a link in its place
        write_json(folder, f"parts/{shard.stem}.failed", {"shard": shard.number, "reason": reason})


def outcome_of(folder: Path, shard: Shard) -> str | None:
    """Why a shard has no part; "" where it has one, None where nobody has said."""
    if is_done(folder, shard):
        return ""
    try:
        return str(read_json(failed_path(folder, shard))["reason"])
    except (OSError, ValueError, KeyError):
        return None


def forget_failure(folder: Path, shard: Shard) -> None:
    """Before a shard is tried again.  Raises OSError."""
    failed_path(folder, shard).unlink(missing_ok=True)


def receipt_path(folder: Path, shard: Shard) -> Path:
    return folder / f"parts/{shard.stem}.json"


def failed_path(folder: Path, shard: Shard) -> Path:
    return folder / f"parts/{shard.stem}.failed"

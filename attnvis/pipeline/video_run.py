"""Attended frames in, a run's folder with the drawn video out.

<folder>/overlay.mp4    the video
         numbers.csv    a row per frame: of its own attention, and of the drawn one
         legend.png     its colour scale
         run.json       resolved config, versions, digests, and what the video is
         plan.json      the video by its digest, the settings, and the files above

A video is written in one piece: what was stopped begins anew.
"""

import contextlib
import math
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
from jaxtyping import Float, UInt8

from attnvis.data.video import Clip
from attnvis.files import file_digest, locked, naming, open_new, save
from attnvis.json_files import read_json, write_json
from attnvis.methods.answer import Answer
from attnvis.pipeline.plan import RunPlan
from attnvis.pipeline.records import SafeWriter
from attnvis.pipeline.resume import FolderPlan, differing, require_own_files
from attnvis.pipeline.video import DrawnFrame
from attnvis.pipeline.video_file import CODECS, VideoWriter
from attnvis.render import overlays, panels
from attnvis.types import Provenance

__all__ = ["VideoRun", "is_drawn"]

DRAWN = ("overlay.mp4", "numbers.csv", "legend.png")

MEANS = ("perplexity", "max_times_uniform")  # whose means over the frames are recorded
COLUMNS = (
    *("frame", "time", "attended", "query", "label", "predicted", "probability", "patches"),
    *(*MEANS, "x", "y"),
    *("drawn_perplexity", "drawn_max_times_uniform", "drawn_x", "drawn_y"),
)


class VideoRun:
    """A run's folder, open for frames; leave the `with` block to have the video closed.

    It is closed after an error or Ctrl-C too, and plays as far as it goes.
    Raises ValueError for a colour scale that each frame would have for itself, and where the video would be
    written over.
    """

    def __init__(self, folder: Path, clip: Clip, plan: RunPlan, codec: str = "auto") -> None:
        self.folder, self.clip, self.style = folder, clip, plan.style
        if self.style.scale != "times_uniform":
            raise ValueError(
                f"scale={self.style.scale} colours each frame by itself, and a video would flicker; "
                "use times_uniform, with its low and high"
            )
        self.writer = VideoWriter(folder / "overlay.mp4", clip.turns, codec)
        if self.writer.path.resolve() == clip.path.resolve():
            raise ValueError(
                f"{clip.path} would be written over; draw it into another folder with hydra.run.dir=FOLDER"
            )
        self.drawn = 0  # frames; where they come at varying times, the file holds some of them repeatedly
        self.times: list[float] = []  # of the first and the last frame
        self.last = -1  # the index of the last frame
        self.sums = dict.fromkeys(MEANS, 0.0)
        self.attended = 0
        self.lock = locked(folder)
        try:
            self.begin(plan)
        except BaseException:
            self.lock.close()
            raise

    def begin(self, plan: RunPlan) -> None:
        """The files of a video of which no frame is drawn yet.

        Raises ValueError where a link, a pipe or a folder stands in the place of one.
        """
        folder = self.folder
        require_own_files(folder, files=[*DRAWN, "run.json", "plan.json"], folders=["wandb"])
        self.writer.path.unlink(missing_ok=True)  # of an earlier run in this folder, as the numbers are
        self.settings = plan.record()
        promised(plan).write(folder)
        self.write_record()
        save(folder, "legend.png", overlays.encode(panels.colour_bar(self.style, margin=16), "png"))
        self.rows = open_new(folder / "numbers.csv", "w", newline="", encoding="utf-8")
        self.table = SafeWriter(self.rows, COLUMNS, restval="")
        self.table.writeheader()

    def __enter__(self) -> "VideoRun":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            for close in (self.writer.close, self.close_rows, partial(self.write_record, ended=kind is None)):
                # what went wrong first is the one to tell
                with contextlib.suppress(OSError) if kind else contextlib.nullcontext():
                    close()
        finally:
            self.lock.close()

    def close_rows(self) -> None:
        with naming(self.folder / "numbers.csv"):
            self.rows.close()

    def add(self, frames: Sequence[DrawnFrame]) -> None:
        """Draws and writes frames; their rows follow in one piece.

        Raises OSError where a frame has no room; those before it are in the video, with their rows.
        """
        before = self.drawn
        try:
            for drawn in frames:
                self.add_frame(drawn)
        finally:
            with naming(self.folder / "numbers.csv"):
                self.table.writerows(numbers(drawn) for drawn in frames[: self.drawn - before])
                self.rows.flush()

    def add_frame(self, drawn: DrawnFrame) -> None:
        time = drawn.frame.time
        start = self.times[0] if self.times else time
        self.writer.add(self.overlay(drawn), turn=round((time - start) * self.writer.rate))
        self.drawn += 1
        self.times, self.last = [start, time], drawn.frame.index
        if drawn.attended:
            self.attended += 1
            diagnostics = drawn.attention.answer.diagnostics
            self.sums = {name: total + diagnostics[name] for name, total in self.sums.items()}

    def overlay(self, drawn: DrawnFrame) -> UInt8[np.ndarray, "H W 3"]:
        answer, weights = drawn.attention.answer, drawn.attention.weights
        cells = (weights.size * weights).reshape(answer.placement.grid)
        pixels, style = drawn.frame.pixels, self.style
        return overlays.overlay(
            pixels, cells, style, answer.mark, field=answer.field, placement=answer.placement
        )

    @property
    def means(self) -> dict[str, float]:
        """Over the frames that were attended."""
        if not self.attended:
            return {}
        return {f"mean_{name}": total / self.attended for name, total in self.sums.items()}

    @property
    def reached(self) -> float:
        """When the last frame ends, in seconds of the clip."""
        return self.times[-1] + 1 / self.clip.turns if self.times else 0.0

    @property
    def uneven(self) -> str:
        """What is to be said of frames that did not come at one rate; "" of those that did."""
        pictures = self.writer.count
        if pictures == self.drawn:
            return ""
        return (
            f"the frames of {self.clip.path} come at varying times: the drawn video has "
            f"{self.writer.rate:g} pictures a second and shows each frame until the next one's time "
            f"({pictures} pictures of {self.drawn} frames)"
        )

    def write_record(self, ended: bool = False) -> None:
        """run.json, when the run begins and once more when it ends: then with the digests of its files."""
        digests = {name: file_digest(self.folder / name) for name in DRAWN if ended}
        write_json(self.folder, "run.json", {**self.settings, "video": self.about(), "files": digests})

    def about(self) -> dict[str, Any]:
        """What the video is."""
        writer, clip, style = self.writer, self.clip, self.style
        high, wide = writer.padded
        padding = f"{high} row below and {wide} column on the right repeated: the codec wants even sides"
        return {
            "file": str(clip.path),
            "digest": clip.digest,
            "frames_promised": clip.promised,
            "frames_drawn": self.drawn,
            "frames_attended": self.attended,
            "pictures_written": writer.count,
            **self.means,
            "rate": clip.rate,
            "rate_written": writer.rate,
            "size": list(clip.size),
            "first_and_last": self.times,
            "turned_by": clip.turned,
            "padding": padding if high or wide else "none",
            "codec": f"{writer.codec}: {CODECS[writer.codec]}" if writer.codec else "",
            "colours": f"{style.low:g} to {style.high:g} times uniform, log scale, fixed in advance: "
            "the same in every frame",
            "sound": "not carried over",
            "uneven": self.uneven,
        }


def promised(plan: RunPlan) -> FolderPlan:
    """What the folder of a video is to hold."""
    return replace(plan.for_folder(), files=DRAWN)


def is_drawn(folder: Path, plan: RunPlan) -> bool:
    """Whether this very video was drawn here to its end, with this network, and its files are whole."""
    try:
        begun, record = FolderPlan.read(folder, "video"), read_json(folder / "run.json")
        digests = dict(record["files"])
    except (OSError, ValueError, KeyError, TypeError):
        return False
    same_network = Provenance.from_entries(record).weights_digest == plan.provenance.weights_digest
    if begun is None or not same_network or digests.keys() != set(DRAWN):
        return False
    same_clip = begun.photos == plan.photos
    same_settings = not differing(begun.settings, plan.for_folder().settings)
    same_files = record.get("inputs", plan.inputs) == plan.inputs
    return (
        same_clip
        and same_settings
        and same_files
        and all(file_digest(folder / name) == digests[name] != "" for name in DRAWN)
    )


def numbers(drawn: DrawnFrame) -> dict[str, Any]:
    """A row of numbers.csv: the frame's own attention, and what is drawn; x and y in pixels of the frame."""
    answer, weights = drawn.attention.answer, drawn.attention.weights
    row = {
        "frame": drawn.frame.index,
        "time": f"{drawn.frame.time:.6f}",
        "attended": int(drawn.attended),
        "query": answer.query,
        "label": answer.label,
        "patches": answer.patches,
    }
    positive = weights[weights > 0]
    x, y = hottest_place(weights, answer)
    row |= {
        "drawn_perplexity": math.exp(-float(np.sum(positive * np.log(positive)))),
        "drawn_max_times_uniform": weights.size * float(weights.max()),
        "drawn_x": x,
        "drawn_y": y,
    }
    if not drawn.attended:
        return row
    if answer.predicted:
        row["predicted"], row["probability"] = answer.predicted[0]
    row["x"], row["y"] = hottest_place(answer.weights.cpu().numpy(), answer)
    return row | {name: answer.diagnostics[name] for name in MEANS}


def hottest_place(weights: Float[np.ndarray, " N"], answer: Answer) -> tuple[float, float]:
    """Where the cell of the largest weight is centred: x, y in pixels of the frame."""
    row, column = answer.placement.centre(*divmod(int(weights.argmax()), answer.placement.grid[1]))
    return column, row

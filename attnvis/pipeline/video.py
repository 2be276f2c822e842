"""A video's frames in, the same frames with the attention drawn over them out: every frame in its place, in bounded memory.

Three chunks of frames are under way at a time: one is decoded while the one before it is attended and the one before that drawn.
"""

import contextlib
import csv
import json
import math
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import asdict, dataclass, replace
from itertools import islice
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
from jaxtyping import Float

from attnvis.data.preprocessing import collate
from attnvis.data.video import Clip, Frame
from attnvis.files import locked, save
from attnvis.methods.answer import Answer, Method
from attnvis.pipeline.plan import RunPlan
from attnvis.pipeline.streaming import is_out_of_memory
from attnvis.pipeline.video_file import CODECS, VideoWriter
from attnvis.render import overlays, panels
from attnvis.types import Batch, Photo, Preprocessing

__all__ = ["DrawnFrame", "FrameAttention", "VideoRun", "as_batch", "attend_frames", "smoothed"]

COLUMNS = (
    "frame", "time", "attended", "query", "label", "predicted", "probability", "patches", "perplexity", "max_times_uniform", "x", "y",
    "drawn_perplexity", "drawn_max_times_uniform", "drawn_x", "drawn_y",
)  # fmt: skip


@dataclass(frozen=True, eq=False)
class FrameAttention:
    """What is drawn on a frame: the attention found on one frame, averaged with those before it if that was asked for."""

    answer: Answer  # of the frame that was attended last
    weights: Float[np.ndarray, " N"]


@dataclass(frozen=True, eq=False)
class DrawnFrame:
    frame: Frame
    look: FrameAttention
    attended: bool  # False: the look of the frame before is held


# ------------------------------------------------------------------------------------------------ attending


def smoothed(
    weights: Float[np.ndarray, " N"], before: Float[np.ndarray, " N"] | None, elapsed: float, seconds: float
) -> Float[np.ndarray, " N"]:
    """Exponential average over time: before + (1 - exp(-elapsed / seconds)) (weights - before); the first weights as they are.

    After n frames of rate r the first one counts exp(-n / (r seconds)), whatever r is; the average looks back only, and lags behind.
    """
    if before is None or seconds <= 0:
        return weights
    return before - math.expm1(-elapsed / seconds) * (weights - before)


def attend_frames(
    reel: Iterable[Frame],
    method: Method,
    preprocessing: Preprocessing,
    batch_size: int = 8,
    every: int = 1,
    smooth: float = 0.0,
    after: Callable[[list[DrawnFrame]], None] = lambda shots: None,
    name: str = "",
) -> Generator[list[DrawnFrame], None, None]:
    """The frames of a video with what is to be drawn on them, in chunks of `batch_size`, in order; each after `after` is done with it.

    every     attention of every so many frames; those between hold the last one
    smooth    seconds over which the weights are averaged, see `smoothed`
    name      of the video, for messages

    No more than three chunks are alive at a time.  Raises ValueError for settings that mean nothing, for a method with more than one
    answer a frame, and where memory does not hold a chunk.
    """
    if batch_size < 1 or every < 1:
        raise ValueError(f"batch_size {batch_size} and every {every}; give 1 or more")
    if not 0 <= smooth < math.inf:  # NaN fails too
        raise ValueError(f"smooth={smooth} is no time; give seconds, as in smooth=0.2, or 0 for none")
    supply = iter(reel)
    look: FrameAttention | None = None
    passed, attended_at = 0, 0.0

    def attend(chunk: list[Frame]) -> list[DrawnFrame]:
        nonlocal look, passed, attended_at
        due = [(passed + number) % every == 0 for number in range(len(chunk))]
        passed += len(chunk)
        found = iter(
            looks(
                [frame for frame, now in zip(chunk, due, strict=True) if now],
                method,
                preprocessing,
                name,
            )
        )
        shots = []
        for frame, now in zip(chunk, due, strict=True):
            if now:
                fresh = next(found)
                before = None if look is None or look.weights.shape != fresh.weights.shape else look.weights
                look = replace(
                    fresh, weights=smoothed(fresh.weights, before, frame.time - attended_at, smooth)
                )
                attended_at = frame.time
            assert look is not None  # the first frame is due
            shots.append(DrawnFrame(frame, look, now))
        return shots

    def draw(shots: list[DrawnFrame]) -> list[DrawnFrame]:
        after(shots)
        return shots

    with ThreadPoolExecutor(2, "attnvis") as pool:
        decoded: Future[list[Frame]] = pool.submit(take, supply, batch_size)
        drawn: Future[list[DrawnFrame]] | None = None
        while chunk := decoded.result():
            decoded = pool.submit(take, supply, batch_size)
            shots = attend(chunk)
            if drawn is not None:
                yield drawn.result()
            drawn = pool.submit(draw, shots)
        if drawn is not None:
            yield drawn.result()


def take(supply: Iterator[Frame], count: int) -> list[Frame]:
    return list(islice(supply, count))


def as_batch(frames: Iterable[Frame], preprocessing: Preprocessing, name: str) -> Batch:
    """Frames of one video, ready for a network."""
    return collate([Photo(name, frame.pixels, frame.pixels.shape[:2], "") for frame in frames], preprocessing)


def looks(
    frames: Sequence[Frame],
    method: Method,
    preprocessing: Preprocessing,
    name: str,
) -> list[FrameAttention]:
    """What the method finds on each of these frames."""
    if not frames:
        return []
    try:
        answers = method(as_batch(frames, preprocessing, name))
    except (MemoryError, RuntimeError) as error:
        if not is_out_of_memory(error):
            raise
        raise ValueError(
            f"memory does not hold {len(frames)} frames of {name}; give a smaller batch_size or preprocess.size"
        ) from None
    if any(len(mine) != 1 for mine in answers):
        raise ValueError(
            f"a video shows one attention, and this makes {len(answers[0])} a frame; give one query and one layer"
        )
    return [
        FrameAttention(answer, weights=answer.weights.flatten().double().cpu().numpy())
        for (answer,) in answers
    ]


# ------------------------------------------------------------------------------------------------ writing


class VideoRun:
    """A run's folder, open for shots; leave the `with` block to have the video closed, also after an error or Ctrl-C.

    overlay.mp4    the video                      numbers.csv    a row per frame: of its own attention, and of the drawn one
    legend.png     its colour scale               run.json       resolved config, versions, digests, and what the video is
    """

    def __init__(
        self,
        folder: Path,
        clip: Clip,
        plan: RunPlan,
        codec: str = "auto",
    ) -> None:
        style = plan.style
        if style.scale != "times_uniform":
            raise ValueError(
                f"scale={style.scale} colours each frame by itself, and a video would flicker; use times_uniform, with its low and high"
            )
        self.movie = VideoWriter(folder / "overlay.mp4", clip.rate, codec)
        if self.movie.path.resolve() == clip.path.resolve():
            raise ValueError(
                f"{clip.path} would be written over; draw it into another folder with hydra.run.dir=FOLDER"
            )
        self.folder, self.clip, self.style = folder, clip, style
        self.times: list[float] = []  # of the first and the last frame
        self.last = -1  # the index of the last frame
        self.sums = dict.fromkeys(("perplexity", "max_times_uniform"), 0.0)
        self.attended = 0
        self.lock = locked(folder)
        self.movie.path.unlink(missing_ok=True)  # of an earlier run in this folder, as the numbers are
        self.told = plan.record()
        self.record()
        save(folder / "legend.png", overlays.encode(panels.colour_bar(style, margin=16), "png"))
        self.rows = (folder / "numbers.csv").open("w", newline="", encoding="utf-8")
        self.table = csv.DictWriter(self.rows, COLUMNS, restval="")
        self.table.writeheader()

    def __enter__(self) -> "VideoRun":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            with (
                contextlib.suppress(OSError) if kind else contextlib.nullcontext()
            ):  # a full disk has been reported already
                self.rows.close()
                self.movie.close()
                self.record()
        finally:
            (self.folder / ".lock").unlink(missing_ok=True)
            self.lock.close()

    def add(self, shots: Sequence[DrawnFrame]) -> None:
        """Draws and writes frames; their rows follow in one piece."""
        for shot in shots:
            answer, weights = shot.look.answer, shot.look.weights
            cells = (weights.size * weights).reshape(answer.placement.grid)
            pixels, field, placement = shot.frame.pixels, answer.field, answer.placement
            self.movie.add(
                overlays.overlay(pixels, cells, self.style, answer.mark, field=field, placement=placement)
            )
            self.times, self.last = [*self.times[:1], shot.frame.time], shot.frame.index
            if shot.attended:
                self.attended += 1
                self.sums = {name: total + answer.diagnostics[name] for name, total in self.sums.items()}
        self.table.writerows(numbers(shot) for shot in shots)
        self.rows.flush()

    @property
    def means(self) -> dict[str, float]:
        """Over the frames that were attended."""
        return (
            {f"mean_{name}": total / self.attended for name, total in self.sums.items()}
            if self.attended
            else {}
        )

    @property
    def uneven(self) -> str:
        """What is to be said of frames that did not come at the rate of the file; nothing of those that did."""
        if len(self.times) < 2:
            return ""
        lasted, lasts = self.times[1] - self.times[0], (self.movie.count - 1) / self.clip.rate
        if abs(lasted - lasts) <= max(1.5 / self.clip.rate, 0.01 * lasted):
            return ""
        return (
            f"the frames of {self.clip.path} come at varying times; the drawn video plays them at {self.clip.rate:g} a second "
            f"and lasts {lasts:.1f} s instead of {lasted:.1f} s (their own times are in numbers.csv)"
        )

    def record(self) -> None:
        """run.json, when the run begins and once more when it ends."""
        movie, (height, width) = self.movie, self.clip.size
        high, wide = movie.padded
        told = {
            "file": str(self.clip.path),
            "digest": self.clip.digest,
            "frames_promised": self.clip.promised,
            "frames_drawn": movie.count,
            "frames_attended": self.attended,
            **self.means,
            "rate": self.clip.rate,
            "size": [height, width],
            "first_and_last": self.times,
            "turned_by": self.clip.turned,
            "padding": f"{high} row below and {wide} column on the right repeated: the codec wants even sides"
            if high or wide
            else "none",
            "codec": f"{movie.codec}: {CODECS[movie.codec]}" if movie.codec else "",
            "colours": f"{self.style.low:g} to {self.style.high:g} times uniform, log scale, fixed in advance: the same in every frame",
            "sound": "not carried over",
            "uneven": self.uneven,
        }
        save(
            self.folder / "run.json",
            json.dumps({**self.told, "video": told, "style": asdict(self.style)}, indent=1).encode(),
        )


def numbers(shot: DrawnFrame) -> dict[str, Any]:
    """A row of numbers.csv: what this frame's own attention is, and what is drawn; x and y in pixels of the frame."""
    answer, weights = shot.look.answer, shot.look.weights
    drawn = {
        "perplexity": math.exp(-float(np.sum(weights[weights > 0] * np.log(weights[weights > 0])))),
        "max_times_uniform": weights.size * float(weights.max()),
    } | hottest(weights, answer)
    row = {
        "frame": shot.frame.index,
        "time": f"{shot.frame.time:.6f}",
        "attended": int(shot.attended),
        "query": answer.query,
    }
    row |= {"label": answer.label, "patches": answer.patches} | {
        f"drawn_{name}": value for name, value in drawn.items()
    }
    if not shot.attended:
        return row
    if answer.predicted:
        row["predicted"], row["probability"] = answer.predicted[0]
    own = {name: answer.diagnostics[name] for name in ("perplexity", "max_times_uniform")}
    return row | own | hottest(answer.weights.cpu().numpy(), answer)


def hottest(weights: Float[np.ndarray, " N"], answer: Answer) -> dict[str, float]:
    """Where the cell of the largest weight is centred."""
    row, column = answer.placement.centre(*divmod(int(weights.argmax()), answer.placement.grid[1]))
    return {"x": column, "y": row}

"""A video in, the same video with the attention drawn over it out: every frame in its place, in bounded memory.

Three chunks of frames are under way at a time: one is decoded while the one before it is attended and the one before that drawn.
"""

import contextlib
import csv
import hashlib
import json
import math
import os
import sys
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import asdict, dataclass, replace
from functools import partial
from importlib.metadata import version
from itertools import islice
from pathlib import Path
from types import TracebackType
from typing import Any

import cv2
import numpy as np
import torch
from jaxtyping import Float, UInt8
from torch import Tensor

from attnvis import query as queries
from attnvis import render
from attnvis.method import Answer, Method
from attnvis.photo import SUFFIXES, collate
from attnvis.query import QueryFunction
from attnvis.results import PACKAGES, locked, save
from attnvis.stream import exhausted, predictions
from attnvis.values import Batch, Features, Photo, Preprocessing, Query

__all__ = [
    "CODECS",
    "Clip",
    "Film",
    "Frame",
    "Look",
    "Movie",
    "Shot",
    "Steady",
    "as_batch",
    "examine",
    "frames",
    "shoot",
    "smoothed",
    "steady",
]

CODECS = {"avc1": "H.264", "mp4v": "MPEG-4 part 2", "vp09": "VP9"}
USUAL = 25.0  # frames a second of a file that does not say how many it has
SAME = 0.5  # cosine; two principal directions that are less alike than this are not one that moved: the scene was cut
COLUMNS = (
    "frame", "time", "attended", "query", "label", "predicted", "probability", "patches", "perplexity", "max_times_uniform", "x", "y",
    "drawn_perplexity", "drawn_max_times_uniform", "drawn_x", "drawn_y",
)  # fmt: skip

os.environ.setdefault("OPENCV_FFMPEG_LOGLEVEL", "-8")  # quiet: what goes wrong is said here, once


@dataclass(frozen=True)
class Clip:
    """A video file, as its header and its first frame tell of it."""

    path: Path
    size: tuple[int, int]  # (height, width) of an upright frame
    rate: float  # frames a second
    promised: int  # frames, as the header has it; some containers only estimate it, 0: it says nothing
    digest: str  # SHA-256 of the file
    turned: int = 0  # degrees by which the file asks to be turned, which has been done


@dataclass(frozen=True, eq=False)
class Frame:
    index: int  # from the first of the file
    time: float  # in seconds
    pixels: UInt8[np.ndarray, "H W 3"]  # upright, RGB


@dataclass(frozen=True, eq=False)
class Look:
    """What is drawn on a frame: the attention found on one frame, averaged with those before it if that was asked for."""

    answer: Answer  # of the frame that was attended last
    weights: Float[np.ndarray, " N"]
    predicted: tuple[tuple[str, float], ...] = ()


@dataclass(frozen=True, eq=False)
class Shot:
    frame: Frame
    look: Look
    attended: bool  # False: the look of the frame before is held


# ------------------------------------------------------------------------------------------------ reading


def examine(path: Path) -> Clip:
    """What there is to read.  Raises ValueError where there is no file, no video, or no frame."""
    if not path.exists():
        raise ValueError(f"no such video: {path}; see what lies in {path.parent.absolute()}")
    if not path.is_file():
        raise ValueError(f"{path} is no video file; give one file, such as clip.mp4")
    if path.suffix.lower() in set(SUFFIXES) - {".gif"}:
        raise ValueError(f"{path} is a photo, not a video; draw it with attnvis run {path}")
    with opened(path) as capture:
        rate, promised = capture.get(cv2.CAP_PROP_FPS), capture.get(cv2.CAP_PROP_FRAME_COUNT)
        turned = round(capture.get(cv2.CAP_PROP_ORIENTATION_META))
        there, first = capture.read()
    if not there:
        raise ValueError(f"{path} holds no frame that can be read; it is cut off or damaged: copy or download it again")
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    return Clip(path, first.shape[:2], rate if 0 < rate <= 1000 else USUAL, max(0, int(promised)), digest, turned)


@contextlib.contextmanager
def opened(path: Path) -> Iterator[cv2.VideoCapture]:
    capture = cv2.VideoCapture(str(path.absolute()), cv2.CAP_FFMPEG)  # absolute: `a:b.mp4` is a file, no protocol
    try:
        if not capture.isOpened():
            raise ValueError(f"{path} cannot be read as a video; it is none, or was cut off and lost its index: copy or download it again")
        capture.set(cv2.CAP_PROP_ORIENTATION_AUTO, 1)
        yield capture
    finally:
        capture.release()


def frames(clip: Clip, start: float = 0.0, stop: float = math.inf) -> Iterator[Frame]:
    """The frames whose time, in seconds, lies in [start, stop), in order, as long as they can be read."""
    with opened(clip.path) as capture:
        index, before = 0, -1 / clip.rate
        while capture.grab():
            time = capture.get(cv2.CAP_PROP_POS_MSEC) / 1000
            time = time if time > before else before + 1 / clip.rate  # some files have no times
            before, index = time, index + 1
            if time >= stop:
                return
            if time < start:
                continue
            there, pixels = capture.retrieve()
            if not there:
                return
            pixels = cv2.cvtColor(pixels, cv2.COLOR_BGR2RGB, dst=pixels)
            yield Frame(index - 1, time, render.resize(pixels, clip.size))


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


class Steady:
    """A query with a free sign, such as pca: each frame's vector gets the sign that makes it more like the frame before's.

    The first frame keeps its own sign, and so does one whose vector is unlike the last one (|cosine| < SAME): there the scene was cut.
    """

    def __init__(self, query: QueryFunction) -> None:
        self.query = query
        self.last: dict[str, Tensor] = {}  # layer -> vector

    def __call__(self, features: Features) -> Query:
        (asked,) = queries.ask(self.query, features)
        vectors = asked.vectors.clone()
        for vector in vectors[:, 0]:
            if features.layer in self.last and torch.cosine_similarity(vector, self.last[features.layer], dim=0) < -SAME:
                vector.neg_()
            self.last[features.layer] = vector
        return replace(asked, vectors=vectors)


def steady(method: Method) -> Method:
    """The method, a pca query of it with a steady sign."""
    inner = method.query.func if isinstance(method.query, partial) else method.query
    return replace(method, query=Steady(method.query)) if inner is queries.pca else method


def shoot(
    reel: Iterable[Frame],
    backbone: Callable[[Batch], Features],
    method: Callable[[Features], list[list[Answer]]],
    preprocessing: Preprocessing,
    batch_size: int = 8,
    every: int = 1,
    smooth: float = 0.0,
    after: Callable[[list[Shot]], None] = lambda shots: None,
    name: str = "",
) -> Generator[list[Shot], None, None]:
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
    look: Look | None = None
    passed, attended_at = 0, 0.0

    def attend(chunk: list[Frame]) -> list[Shot]:
        nonlocal look, passed, attended_at
        due = [(passed + number) % every == 0 for number in range(len(chunk))]
        passed += len(chunk)
        found = iter(looks([frame for frame, now in zip(chunk, due, strict=True) if now], backbone, method, preprocessing, name))
        shots = []
        for frame, now in zip(chunk, due, strict=True):
            if now:
                fresh = next(found)
                before = None if look is None or look.weights.shape != fresh.weights.shape else look.weights
                look = replace(fresh, weights=smoothed(fresh.weights, before, frame.time - attended_at, smooth))
                attended_at = frame.time
            assert look is not None  # the first frame is due
            shots.append(Shot(frame, look, now))
        return shots

    def draw(shots: list[Shot]) -> list[Shot]:
        after(shots)
        return shots

    with ThreadPoolExecutor(2, "attnvis") as pool:
        decoded: Future[list[Frame]] = pool.submit(take, supply, batch_size)
        drawn: Future[list[Shot]] | None = None
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
    backbone: Callable[[Batch], Features],
    method: Callable[[Features], list[list[Answer]]],
    preprocessing: Preprocessing,
    name: str,
) -> list[Look]:
    """What the method finds on each of these frames."""
    if not frames:
        return []
    try:
        features = backbone(as_batch(frames, preprocessing, name))
        answers = method(features)
    except (MemoryError, RuntimeError) as error:
        if not exhausted(error):
            raise
        raise ValueError(f"memory does not hold {len(frames)} frames of {name}; give a smaller batch_size or preprocess.size") from None
    if any(len(mine) != 1 for mine in answers):
        raise ValueError(f"a video shows one attention, and this makes {len(answers[0])} a frame; give one query and one layer")
    return [
        Look(answer, answer.attention.weights.flatten().double().cpu().numpy(), predictions(features, number, 1))
        for number, (answer,) in enumerate(answers)
    ]


# ------------------------------------------------------------------------------------------------ writing


class Movie:
    """A video file that grows under another name; `close` gives it its own, or leaves none where no frame was added."""

    def __init__(self, path: Path, rate: float, codec: str = "auto") -> None:
        if codec != "auto" and codec not in CODECS:
            raise ValueError(f"codec {codec!r} is not known; choose auto, {', '.join(CODECS)}")
        self.path, self.rate, self.wanted = path, rate, codec
        self.part = path.with_name(f".{path.stem}.part{path.suffix}")
        self.codec, self.count, self.padded = "", 0, (0, 0)
        self.writer: cv2.VideoWriter | None = None

    def add(self, picture: UInt8[np.ndarray, "H W 3"]) -> None:
        """One more frame, RGB, as large as the first."""
        height, width = picture.shape[:2]
        if self.writer is None:
            self.padded = (height % 2, width % 2)
            self.writer = self.begin((width + self.padded[1], height + self.padded[0]))
        bgr = cv2.cvtColor(picture, cv2.COLOR_RGB2BGR)
        if any(self.padded):
            bgr = cv2.copyMakeBorder(bgr, 0, self.padded[0], 0, self.padded[1], cv2.BORDER_REPLICATE)
        self.writer.write(bgr)
        self.count += 1

    def begin(self, size: tuple[int, int]) -> cv2.VideoWriter:
        """Codecs of mp4 want even sides; OpenCV would cut a row off."""
        self.part.parent.mkdir(parents=True, exist_ok=True)
        for codec in ("avc1", "mp4v") if self.wanted == "auto" else (self.wanted,):
            writer = cv2.VideoWriter(str(self.part.absolute()), cv2.CAP_FFMPEG, cv2.VideoWriter.fourcc(*codec), self.rate, size)
            if writer.isOpened():
                self.codec = codec
                return writer
            self.part.unlink(missing_ok=True)
        offered = "mp4v, which every OpenCV has" if self.wanted != "auto" else "another place with hydra.run.dir=FOLDER"
        raise ValueError(f"OpenCV cannot write {size[0]}x{size[1]} frames as {self.wanted} into {self.path}; choose {offered}")

    def close(self) -> None:
        """Raises OSError where fewer frames arrived in the file than were added: OpenCV does not say when a disk is full."""
        if self.writer is None:
            return
        self.writer.release()
        self.writer = None
        with contextlib.suppress(ValueError), opened(self.part) as capture:
            if round(capture.get(cv2.CAP_PROP_FRAME_COUNT)) == self.count:
                self.part.replace(self.path)
                return
        self.part.unlink(missing_ok=True)
        raise OSError(None, "the video could not be written whole; is the disk full?", str(self.path))


class Film:
    """A run's folder, open for shots; leave the `with` block to have the video closed, also after an error or Ctrl-C.

    overlay.mp4    the video                      numbers.csv    a row per frame: of its own attention, and of the drawn one
    legend.png     its colour scale               run.json       resolved config, versions, digests, and what the video is
    """

    def __init__(
        self,
        folder: Path,
        clip: Clip,
        style: render.Style,
        facts: Mapping[str, str],
        config: Mapping[str, Any],
        warnings: Sequence[str] = (),
        codec: str = "auto",
    ) -> None:
        if style.scale != "times_uniform":
            raise ValueError(
                f"scale={style.scale} colours each frame by itself, and a video would flicker; use times_uniform, with its low and high"
            )
        self.movie = Movie(folder / "overlay.mp4", clip.rate, codec)
        if self.movie.path.resolve() == clip.path.resolve():
            raise ValueError(f"{clip.path} would be written over; draw it into another folder with hydra.run.dir=FOLDER")
        self.folder, self.clip, self.style = folder, clip, style
        self.times: list[float] = []  # of the first and the last frame
        self.last = -1  # the index of the last frame
        self.sums = dict.fromkeys(("perplexity", "max_times_uniform"), 0.0)
        self.attended = 0
        self.lock = locked(folder)
        self.movie.path.unlink(missing_ok=True)  # of an earlier run in this folder, as the numbers are
        versions = {package: version(package) for package in PACKAGES} | {"python": sys.version.split()[0]}
        self.told = {**facts, "versions": versions, "warnings": list(warnings), "config": config}
        self.record()
        save(folder / "legend.png", render.encode(render.colour_bar(style, margin=16), "png"))
        self.rows = (folder / "numbers.csv").open("w", newline="", encoding="utf-8")
        self.table = csv.DictWriter(self.rows, COLUMNS, restval="")
        self.table.writeheader()

    def __enter__(self) -> "Film":
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        try:
            with contextlib.suppress(OSError) if kind else contextlib.nullcontext():  # a full disk has been reported already
                self.rows.close()
                self.movie.close()
                self.record()
        finally:
            (self.folder / ".lock").unlink(missing_ok=True)
            self.lock.close()

    def add(self, shots: Sequence[Shot]) -> None:
        """Draws and writes frames; their rows follow in one piece."""
        for shot in shots:
            answer, weights = shot.look.answer, shot.look.weights
            cells = (weights.size * weights).reshape(answer.placement.grid)
            pixels, field, placement = shot.frame.pixels, answer.field, answer.placement
            self.movie.add(render.overlay(pixels, cells, self.style, answer.mark, field=field, placement=placement))
            self.times, self.last = [*self.times[:1], shot.frame.time], shot.frame.index
            if shot.attended:
                self.attended += 1
                self.sums = {name: total + answer.diagnostics[name] for name, total in self.sums.items()}
        self.table.writerows(numbers(shot) for shot in shots)
        self.rows.flush()

    @property
    def means(self) -> dict[str, float]:
        """Over the frames that were attended."""
        return {f"mean_{name}": total / self.attended for name, total in self.sums.items()} if self.attended else {}

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
            "padding": f"{high} row below and {wide} column on the right repeated: the codec wants even sides" if high or wide else "none",
            "codec": f"{movie.codec}: {CODECS[movie.codec]}" if movie.codec else "",
            "colours": f"{self.style.low:g} to {self.style.high:g} times uniform, log scale, fixed in advance: the same in every frame",
            "sound": "not carried over",
            "uneven": self.uneven,
        }
        save(self.folder / "run.json", json.dumps({**self.told, "video": told, "style": asdict(self.style)}, indent=1).encode())


def numbers(shot: Shot) -> dict[str, Any]:
    """A row of numbers.csv: what this frame's own attention is, and what is drawn; x and y in pixels of the frame."""
    answer, weights = shot.look.answer, shot.look.weights
    drawn = {
        "perplexity": math.exp(-float(np.sum(weights[weights > 0] * np.log(weights[weights > 0])))),
        "max_times_uniform": weights.size * float(weights.max()),
    } | hottest(weights, answer)
    row = {"frame": shot.frame.index, "time": f"{shot.frame.time:.6f}", "attended": int(shot.attended), "query": answer.query}
    row |= {"label": answer.label, "patches": answer.patches} | {f"drawn_{name}": value for name, value in drawn.items()}
    if not shot.attended:
        return row
    if shot.look.predicted:
        row["predicted"], row["probability"] = shot.look.predicted[0]
    own = {name: answer.diagnostics[name] for name in ("perplexity", "max_times_uniform")}
    return row | own | hottest(answer.attention.weights.flatten().cpu().numpy(), answer)


def hottest(weights: Float[np.ndarray, " N"], answer: Answer) -> dict[str, float]:
    """Where the cell of the largest weight is centred."""
    row, column = answer.placement.centre(*divmod(int(weights.argmax()), answer.placement.grid[1]))
    return {"x": column, "y": row}

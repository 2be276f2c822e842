"""A video's frames in, what is to be drawn on each of them out: every frame in its place, in bounded memory.

Three chunks of frames are under way at a time: one is decoded while the one before it is attended
and the one before that drawn.
"""

import math
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from itertools import islice

import numpy as np
from jaxtyping import Float

from attnvis.data.preprocessing import collate
from attnvis.data.video import Frame
from attnvis.methods.answer import Answer, Method
from attnvis.pipeline.streaming import is_out_of_memory
from attnvis.types import Batch, Photo, Preprocessing

__all__ = ["DrawnFrame", "FrameAttention", "as_batch", "attend_frames", "smoothed"]


@dataclass(frozen=True, eq=False)
class FrameAttention:
    """What is drawn on a frame: the attention of one frame, averaged with those before it where asked for."""

    answer: Answer  # of the frame that was attended last
    weights: Float[np.ndarray, " N"]


@dataclass(frozen=True, eq=False)
class DrawnFrame:
    """A frame and what is drawn on it."""

    frame: Frame
    attention: FrameAttention
    attended: bool  # False: the attention of the frame before is held


def smoothed(
    weights: Float[np.ndarray, " N"], before: Float[np.ndarray, " N"] | None, elapsed: float, seconds: float
) -> Float[np.ndarray, " N"]:
    """Exponential average over time: before + (1 - exp(-elapsed / seconds)) (weights - before).

    After n frames of rate r the first one counts exp(-n / (r seconds)), whatever r is;
    the average looks back only, and lags behind.
    """
    if before is None or seconds <= 0:
        return weights
    return before - math.expm1(-elapsed / seconds) * (weights - before)


def attend_frames(
    frames: Iterable[Frame],
    method: Method,
    preprocessing: Preprocessing,
    batch_size: int = 8,
    every: int = 1,
    smooth: float = 0.0,
    after: Callable[[list[DrawnFrame]], None] = lambda drawn: None,
    name: str = "",
) -> Generator[list[DrawnFrame], None, None]:
    """The frames of a video with what is to be drawn on them, in chunks of `batch_size`, in order.

    every     attention of every so many frames; those between hold the last one
    smooth    seconds over which the weights are averaged, see `smoothed`
    after     called with each chunk, on a thread of its own, before it is given out
    name      of the video, for messages

    No more than three chunks are alive at a time.  Raises ValueError for settings that mean nothing,
    for a method with more than one answer a frame, and where memory does not hold a chunk.
    """
    if batch_size < 1 or every < 1:
        raise ValueError(f"batch_size {batch_size} and every {every}; give 1 or more")
    if not 0 <= smooth < math.inf:  # NaN fails too
        raise ValueError(f"smooth={smooth} is no time; give seconds, as in smooth=0.2, or 0 for none")
    supply = iter(frames)
    follower = Follower(method, preprocessing, every=every, smooth=smooth, name=name)

    def draw(chunk: list[DrawnFrame]) -> list[DrawnFrame]:
        after(chunk)
        return chunk

    with ThreadPoolExecutor(2, "attnvis") as pool:
        decoding: Future[list[Frame]] = pool.submit(take, supply, batch_size)
        drawing: Future[list[DrawnFrame]] | None = None
        while chunk := decoding.result():
            decoding = pool.submit(take, supply, batch_size)
            attended = follower.attend(chunk)
            if drawing is not None:
                yield drawing.result()
            drawing = pool.submit(draw, attended)
        if drawing is not None:
            yield drawing.result()


def take(supply: Iterator[Frame], count: int) -> list[Frame]:
    return list(islice(supply, count))


@dataclass
class Follower:
    """Attends chunk after chunk of one video; it remembers what was drawn last."""

    method: Method
    preprocessing: Preprocessing
    every: int
    smooth: float
    name: str
    passed: int = 0  # frames so far
    attended_at: float = 0.0  # seconds
    last: FrameAttention | None = field(default=None, repr=False)

    def attend(self, chunk: Sequence[Frame]) -> list[DrawnFrame]:
        """Every frame of a chunk with what is drawn on it."""
        due = [(self.passed + number) % self.every == 0 for number in range(len(chunk))]
        self.passed += len(chunk)
        answers = iter(self.answers([frame for frame, now in zip(chunk, due, strict=True) if now]))
        drawn = []
        for frame, now in zip(chunk, due, strict=True):
            if now:
                self.last = self.follow(next(answers), frame.time)
            assert self.last is not None  # the first frame is due
            drawn.append(DrawnFrame(frame, self.last, attended=now))
        return drawn

    def follow(self, answer: Answer, time: float) -> FrameAttention:
        """A new frame's weights, averaged with what was drawn before where that has the same grid."""
        weights = answer.weights.double().cpu().numpy()
        before = self.last.weights if self.last is not None else None
        if before is not None and before.shape != weights.shape:
            before = None
        elapsed, self.attended_at = time - self.attended_at, time
        return FrameAttention(answer, smoothed(weights, before, elapsed=elapsed, seconds=self.smooth))

    def answers(self, frames: Sequence[Frame]) -> list[Answer]:
        """One answer a frame.  Raises ValueError for more, and where memory does not hold them."""
        if not frames:
            return []
        try:
            answers = self.method(as_batch(frames, self.preprocessing, self.name))
        except (MemoryError, RuntimeError) as error:
            if not is_out_of_memory(error):
                raise
            raise ValueError(
                f"memory does not hold {len(frames)} frames of {self.name}; "
                "give a smaller batch_size or preprocess.size"
            ) from None
        if any(len(of_frame) != 1 for of_frame in answers):
            raise ValueError(
                f"a video shows one attention, and this makes {len(answers[0])} a frame; "
                "give one query and one layer"
            )
        return [answer for (answer,) in answers]


def as_batch(frames: Iterable[Frame], preprocessing: Preprocessing, name: str) -> Batch:
    """Frames of one video, ready for a network."""
    return collate([Photo(name, frame.pixels, frame.pixels.shape[:2], "") for frame in frames], preprocessing)

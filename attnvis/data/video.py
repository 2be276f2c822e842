"""A video file in, its frames out, upright and in order, with the time of each."""

import contextlib
import hashlib
import itertools
import math
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
from jaxtyping import UInt8

from attnvis.data.paths import SUFFIXES
from attnvis.data.preprocessing import resample

__all__ = ["Clip", "Frame", "examine", "frames"]

USUAL_RATE = 25.0  # frames a second of a file that does not say how many it has

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
    """One picture of a video."""

    index: int  # from the first of the file
    time: float  # in seconds
    pixels: UInt8[np.ndarray, "H W 3"]  # upright, RGB


def examine(path: Path) -> Clip:
    """What there is to read.

    Raises ValueError where there is no file, it is a photo, no video, or has no frame that can be read.
    """
    if not path.exists():
        raise ValueError(f"no such video: {path}; see what lies in {path.parent.absolute()}")
    if not path.is_file():
        raise ValueError(f"{path} is no video file; give one file, such as clip.mp4")
    if path.suffix.lower() in set(SUFFIXES) - {".gif", ".apng"}:
        raise ValueError(f"{path} is a photo, not a video; draw it with attnvis run {path}")
    with opened(path) as capture:
        rate = capture.get(cv2.CAP_PROP_FPS)
        promised = capture.get(cv2.CAP_PROP_FRAME_COUNT)
        turned = round(capture.get(cv2.CAP_PROP_ORIENTATION_META))
        has_frame, first = capture.read()
    if not has_frame:
        raise ValueError(
            f"{path} holds no frame that can be read; it is cut off or damaged: copy or download it again"
        )
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    return Clip(
        path,
        size=first.shape[:2],
        rate=rate if 0 < rate <= 1000 else USUAL_RATE,
        promised=max(0, int(promised)),
        digest=digest,
        turned=turned,
    )


@contextlib.contextmanager
def opened(path: Path) -> Iterator[cv2.VideoCapture]:
    """A video to read from until the block ends, its frames upright.  Raises ValueError where it is none."""
    name = str(path.absolute())  # absolute: `a:b.mp4` is a file, no protocol
    capture = cv2.VideoCapture(name, cv2.CAP_FFMPEG)
    try:
        if not capture.isOpened():
            raise ValueError(
                f"{path} cannot be read as a video; it is none, or was cut off and lost its index: "
                "copy or download it again"
            )
        capture.set(cv2.CAP_PROP_ORIENTATION_AUTO, 1)
        yield capture
    finally:
        capture.release()


def frames(clip: Clip, start: float = 0.0, stop: float = math.inf) -> Iterator[Frame]:
    """The frames whose time, in seconds, lies in [start, stop), in order, as long as they can be read.

    All are of the clip's size.  Raises ValueError where the file cannot be read as a video any more.
    """
    with opened(clip.path) as capture:
        previous = -1 / clip.rate
        for index in itertools.count():
            if not capture.grab():
                return
            time = capture.get(cv2.CAP_PROP_POS_MSEC) / 1000
            if not time > previous:  # some files have no times
                time = previous + 1 / clip.rate
            previous = time
            if time >= stop:
                return
            if time < start:
                continue
            has_pixels, pixels = capture.retrieve()
            if not has_pixels:
                return
            pixels = cv2.cvtColor(pixels, cv2.COLOR_BGR2RGB, dst=pixels)
            yield Frame(index, time, pixels=resample(pixels, clip.size))

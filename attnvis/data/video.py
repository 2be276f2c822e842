"""A video file in, its frames out, upright and in order, with the time of each."""

import contextlib
import hashlib
import itertools
import math
import os
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
from jaxtyping import UInt8

from attnvis.data.containers import is_intact, shown_seconds
from attnvis.data.preprocessing import resample
from attnvis.data.reading import SUFFIXES

__all__ = ["Clip", "Frame", "examine", "frames", "missing_part", "pace_of", "unicode_name"]

USUAL_RATE = 25.0  # frames a second of a file that does not say how many it has
PACES = (24.0, 25.0, 30.0, 50.0, 60.0, 100.0, 120.0)  # frames a second that players show well
CROWDED = 0.01  # the share of frames that may come sooner than their turn

os.environ.setdefault("OPENCV_FFMPEG_LOGLEVEL", "-8")  # quiet: what goes wrong is said here, once


@dataclass(frozen=True)
class Clip:
    """A video file, as its header and its first frame tell of it."""

    path: Path
    size: tuple[int, int]  # (height, width) of an upright frame
    rate: float  # frames a second, as the header has it: of frames that come at varying times the average
    promised: int  # frames, as the header has it; some containers only estimate it, 0: it says nothing
    digest: str  # SHA-256 of the file
    turned: int = 0  # degrees by which the file asks to be turned, which has been done
    pace: float = 0.0  # frames a second at which each has a turn of its own; 0: `rate`
    stored: int = 0  # frames that the file holds, decoded or not
    lasts: float = 0.0  # seconds, by the times of these

    @property
    def turns(self) -> float:
        """Frames a second of a video that shows each of these at its time."""
        return self.pace or self.rate


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
    rate = rate if 0 < rate <= 1000 else USUAL_RATE
    times = stored_times(path)
    pace = pace_of(times, rate)
    return Clip(
        path,
        size=first.shape[:2],
        rate=rate,
        promised=max(0, int(promised)),
        digest=digest,
        turned=turned,
        pace=pace,
        stored=len(times),
        lasts=times[-1] - times[0] + 1 / pace if times else 0.0,
    )


def stored_times(path: Path) -> list[float]:
    """When each frame is to be shown, in seconds from the first, as the container has it; decodes none."""
    times = []
    with opened(path, [cv2.CAP_PROP_FORMAT, -1]) as capture:
        while capture.grab():
            times.append(capture.get(cv2.CAP_PROP_POS_MSEC) / 1000)
    return sorted(times)


def pace_of(times: Sequence[float], rate: float) -> float:
    """The fewest frames a second at which frames with these times have a turn each.

    That is `rate` of frames that come evenly; else the usual ones above it are tried, and what the commonest
    step between two frames asks for.  Where the best is not enough, some frames come later than their turn.
    """
    times = sorted(set(times))  # of those without a time, as MPEG has them, one is left
    steps = np.diff(times)
    commonest = 1 / float(np.median(steps)) if len(steps) else rate
    paces = sorted(pace for pace in (*PACES, rate, commonest) if rate <= pace <= max(rate, PACES[-1]))
    return next((pace for pace in paces if crowded(times, pace) <= CROWDED), paces[-1])


def crowded(times: Sequence[float], pace: float) -> float:
    """The share of frames whose turn, at so many a second, is another's already."""
    turns = np.round((np.asarray(times) - min(times, default=0.0)) * pace)  # the first one's is 0
    return float(np.mean(np.diff(turns) < 1)) if len(turns) > 1 else 0.0


@contextlib.contextmanager
def opened(path: Path, settings: Sequence[int] = ()) -> Iterator[cv2.VideoCapture]:
    """A video to read from until the block ends, its frames upright.  Raises ValueError where it is none."""
    with unicode_name(path) as name:
        capture = cv2.VideoCapture(name, cv2.CAP_FFMPEG, settings)
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


@contextlib.contextmanager
def unicode_name(path: Path) -> Iterator[str]:
    """A name by which OpenCV can open a file or a folder; one that is no Unicode would end the process.

    It is absolute: `a:b.mp4` is a file, no protocol.
    """
    name = os.fsencode(path.absolute())
    try:
        text = name.decode()
    except UnicodeDecodeError:
        text = ""
    if text:
        yield text
        return
    with tempfile.TemporaryDirectory() as folder:
        link = os.path.join(folder, "video")
        os.symlink(name, link)
        yield link


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


def missing_part(clip: Clip, read: int, reached: float) -> str:
    """What is to be said of a video of which so many frames, up to so many seconds, could be read.

    "" of a whole one: what a header promises is often an estimate, so a file is called damaged only where
    its container says so itself.  Raises OSError where the file cannot be read any more.
    """
    fewer, earlier = clip.promised - read, clip.promised / clip.rate - reached
    if fewer == -1 and cv2.__version__.startswith("4.10."):
        return (
            f"{clip.path} promises {clip.promised} frames, and OpenCV 4.10 reads one more and no further, "
            "even where there are others; install OpenCV 4.11 or later"
        )
    if fewer <= 0 and earlier <= 1.5 / clip.rate:
        return ""
    intact = is_intact(clip.path)
    some = f"{read} of the {clip.promised} frames that {clip.path} promises could be read"
    if intact is False:
        return f"{some}; it is cut off or damaged"
    tolerated = max(2, clip.promised // 100)  # what some containers promise is an estimate
    if fewer <= tolerated or earlier * clip.rate <= tolerated:
        return ""
    shown = shown_seconds(clip.path)
    if shown is not None and (shown - reached) * clip.rate > tolerated:
        return f"{some}; it is damaged"
    return f"{some}; it may be cut off, or promise too many" if intact is None else ""

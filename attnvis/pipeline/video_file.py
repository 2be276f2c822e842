"""Drawn frames in, a video file out: whole, or as much of it as plays."""

import contextlib
import errno
from pathlib import Path

import cv2
import numpy as np
from jaxtyping import UInt8

from attnvis.data.video import opened, unicode_name
from attnvis.files import check_room, naming, part_name

__all__ = ["CODECS", "VideoWriter"]

CODECS = {"avc1": "H.264", "mp4v": "MPEG-4 part 2", "vp09": "VP9"}
HELD_BACK = {"avc1": 64, "vp09": 32, "mp4v": 2}  # frames that an encoder may keep until the end
BUFFER = 1 << 18  # bytes that FFmpeg gathers before it writes
INDEX, INDEX_OF_FRAME = 1 << 13, 64  # bytes that an mp4 gets at its end: at least, and for each frame
QUALITY = 75  # of the JPEG by which the size of a frame is estimated; the codecs stay below, as a rule


class VideoWriter:
    """A video file that grows under another name; `close` gives it its own,
    or leaves none where no frame was added.
    """

    def __init__(self, path: Path, rate: float, codec: str = "auto") -> None:
        if codec != "auto" and codec not in CODECS:
            raise ValueError(f"codec {codec!r} is not known; choose auto, {', '.join(CODECS)}")
        self.path, self.rate, self.setting = path, rate, codec
        self.part = part_name(path, suffix=path.suffix)  # which nobody can have put a link in the place of
        self.codec, self.count, self.padded = "", 0, (0, 0)
        self.writer: cv2.VideoWriter | None = None
        self.last: UInt8[np.ndarray, "H W 3"] | None = None  # as it was written, BGR
        self.size = self.pending = 0  # bytes: of the file, and estimated of what was added since it grew

    def add(self, picture: UInt8[np.ndarray, "H W 3"], turn: int | None = None) -> None:
        """One more frame, RGB, as large as the first; the one before it is shown until its turn comes.

        turn      the number of its place in the file; one that is past, or None: the next

        Raises OSError where there is no room for it and for the end of the file.
        """
        height, width = picture.shape[:2]
        self.padded = (height % 2, width % 2)
        bgr = cv2.cvtColor(picture, cv2.COLOR_RGB2BGR)
        if any(self.padded):
            bgr = cv2.copyMakeBorder(bgr, 0, self.padded[0], 0, self.padded[1], cv2.BORDER_REPLICATE)
        estimate = len(cv2.imencode(".jpg", bgr, [cv2.IMWRITE_JPEG_QUALITY, QUALITY])[1])
        if self.writer is None:
            self.writer = self.begin((width + self.padded[1], height + self.padded[0]))
        while self.last is not None and turn is not None and self.count < turn:
            self.write(self.last, estimate)
        self.write(bgr, estimate)
        self.last = bgr

    def write(self, bgr: UInt8[np.ndarray, "H W 3"], estimate: int) -> None:
        """One picture into the file, where there is room for it; `estimate`: of its size in bytes.

        OpenCV does not say when a disk is full, and a file without its end does not play.  So room is asked
        for while there is some: for this picture, what FFmpeg and the encoder hold back, and the index.
        """
        assert self.writer is not None
        size = self.part.stat().st_size
        if size != self.size:
            self.size, self.pending = size, 0
        held_back = min(self.count, HELD_BACK[self.codec]) + 1
        index = INDEX + INDEX_OF_FRAME * self.count
        check_room(self.path, size, min(BUFFER, self.pending) + held_back * estimate + index)
        self.writer.write(bgr)
        self.pending += estimate
        self.count += 1

    def begin(self, size: tuple[int, int]) -> cv2.VideoWriter:
        """Codecs of mp4 want even sides; OpenCV would cut a row off."""
        self.part.parent.mkdir(parents=True, exist_ok=True)
        for codec in ("avc1", "mp4v") if self.setting == "auto" else (self.setting,):
            with unicode_name(self.part.parent) as folder:
                name = f"{folder}/{self.part.name}"
                code = cv2.VideoWriter.fourcc(*codec)
                writer = cv2.VideoWriter(name, cv2.CAP_FFMPEG, code, self.rate, size)
            if writer.isOpened():
                self.codec = codec
                return writer
            self.part.unlink(missing_ok=True)
        offered = (
            "mp4v, which every OpenCV has"
            if self.setting != "auto"
            else "another place with hydra.run.dir=FOLDER"
        )
        raise ValueError(
            f"OpenCV cannot write {size[0]}x{size[1]} frames as {self.setting} into {self.path}; "
            f"choose {offered}"
        )

    def close(self) -> None:
        """Keeps what plays, and nothing else.

        Raises OSError where fewer frames arrived in the file than were added.
        """
        if self.writer is None:
            return
        self.writer.release()
        self.writer = self.last = None
        arrived = playable_frames(self.part)
        if arrived:
            with naming(self.path):
                self.part.replace(self.path)
        self.part.unlink(missing_ok=True)
        if arrived < self.count:
            lacking = f"{self.count - arrived} of {self.count} frames did not arrive in the file"
            raise OSError(errno.ENOSPC, lacking, str(self.path))


def playable_frames(path: Path) -> int:
    """How many frames a player finds; 0 where the file does not open, or its first frame is none."""
    with contextlib.suppress(ValueError), opened(path) as capture:
        if capture.read()[0]:
            return max(0, round(capture.get(cv2.CAP_PROP_FRAME_COUNT)))
    return 0

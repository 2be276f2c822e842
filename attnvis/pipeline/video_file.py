"""Drawn frames in, a video file out: whole, or none."""

import contextlib
from pathlib import Path

import cv2
import numpy as np
from jaxtyping import UInt8

from attnvis.data.video import opened
from attnvis.files import part_name

__all__ = ["CODECS", "VideoWriter"]

CODECS = {"avc1": "H.264", "mp4v": "MPEG-4 part 2", "vp09": "VP9"}


class VideoWriter:
    """A video file that grows under another name; `close` gives it its own,
    or leaves none where no frame was added.
    """

    def __init__(self, path: Path, rate: float, codec: str = "auto") -> None:
        if codec != "auto" and codec not in CODECS:
            raise ValueError(f"codec {codec!r} is not known; choose auto, {', '.join(CODECS)}")
        self.path, self.rate, self.wanted = path, rate, codec
        self.part = part_name(path, suffix=path.suffix)  # which nobody can have put a link in the place of
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
            writer = cv2.VideoWriter(
                str(self.part.absolute()), cv2.CAP_FFMPEG, cv2.VideoWriter.fourcc(*codec), self.rate, size
            )
            if writer.isOpened():
                self.codec = codec
                return writer
            self.part.unlink(missing_ok=True)
        offered = (
            "mp4v, which every OpenCV has"
            if self.wanted != "auto"
            else "another place with hydra.run.dir=FOLDER"
        )
        raise ValueError(
            f"OpenCV cannot write {size[0]}x{size[1]} frames as {self.wanted} into {self.path}; "
            f"choose {offered}"
        )

    def close(self) -> None:
        """Raises OSError where fewer frames arrived in the file than were added:
        OpenCV does not say when a disk is full.
        """
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

"""A picture in, a small JPEG of it out."""

import io
from dataclasses import dataclass

import cv2
import numpy as np
from jaxtyping import UInt8
from PIL import Image

__all__ = ["LONGEST_SIDE", "Thumbnail", "read_thumbnail", "thumbnail", "thumbnail_of_file"]

LONGEST_SIDE = 320  # pixels: half of the usual 640, to which a JPEG is decoded in half the time


@dataclass(frozen=True)
class Thumbnail:
    """A JPEG and its size in pixels."""

    jpeg: bytes
    width: int
    height: int


def thumbnail(picture: UInt8[np.ndarray, "h w 3"], side: int = LONGEST_SIDE) -> Thumbnail:
    """The picture shrunk until it fits a square of `side` pixels."""
    height, width = picture.shape[:2]
    size = thumbnail_size(height, width, side=side)
    small = cv2.cvtColor(shrunk(picture, size), cv2.COLOR_RGB2BGR)
    _, jpeg = cv2.imencode(".jpg", small, [cv2.IMWRITE_JPEG_QUALITY, 80])
    return Thumbnail(jpeg.tobytes(), width=size[1], height=size[0])


def thumbnail_size(height: int, width: int, side: int = LONGEST_SIDE) -> tuple[int, int]:
    """(height, width) of the thumbnail of a picture."""
    scale = min(1.0, side / max(height, width))
    return max(1, round(height * scale)), max(1, round(width * scale))


def thumbnail_of_file(encoded: bytes, side: int = LONGEST_SIDE) -> Thumbnail | None:
    """The same of an encoded picture; None for what is no whole picture."""
    try:
        with Image.open(io.BytesIO(encoded)) as whole:
            # a jpg is decoded reduced: to what still holds the thumbnail
            height, width = thumbnail_size(whole.height, whole.width, side=side)
            whole.draft("RGB", (width, height))
            picture = np.asarray(whole.convert("RGB"))
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError):
        return None
    return thumbnail(picture, side)


def read_thumbnail(jpeg: bytes) -> Thumbnail | None:
    """A thumbnail whose JPEG was kept; None for what is no JPEG."""
    try:
        with Image.open(io.BytesIO(jpeg), formats=["JPEG"]) as header:
            return Thumbnail(jpeg, width=header.width, height=header.height)
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError):
        return None


def shrunk(picture: UInt8[np.ndarray, "h w 3"], size: tuple[int, int]) -> UInt8[np.ndarray, "H W 3"]:
    """The picture at a smaller size (height, width): whole blocks of pixels averaged, then linear.

    Linear sees every pixel of what shrinks to no less than half, and both are eight times as fast as averages
    over parts of pixels.
    """
    height, width = picture.shape[:2]
    block = max(1, min(height // size[0], width // size[1]))
    if (height, width) == size:
        return picture
    if block > 1:
        rows, columns = height // block, width // block
        blocks = picture[: rows * block, : columns * block]
        picture = cv2.resize(blocks, (columns, rows), interpolation=cv2.INTER_AREA)
    return cv2.resize(picture, size[::-1], interpolation=cv2.INTER_LINEAR)

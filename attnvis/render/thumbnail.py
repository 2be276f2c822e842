"""An encoded picture in, a small JPEG of it out."""

import io
from dataclasses import dataclass

import cv2
import numpy as np
from PIL import Image

__all__ = ["LONGEST_SIDE", "Thumbnail", "thumbnail"]

LONGEST_SIDE = 360  # pixels


@dataclass(frozen=True)
class Thumbnail:
    """A JPEG and its size in pixels."""

    jpeg: bytes
    width: int
    height: int


def thumbnail(encoded: bytes) -> Thumbnail | None:
    """The picture shrunk until it fits a square of LONGEST_SIDE; None for what is no whole picture."""
    try:
        with Image.open(io.BytesIO(encoded)) as whole:
            # a jpg is decoded reduced: to what still holds the thumbnail
            whole.draft("RGB", (LONGEST_SIDE, LONGEST_SIDE))
            pixels = np.asarray(whole.convert("RGB"))
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError):
        return None
    height, width = pixels.shape[:2]
    scale = min(1.0, LONGEST_SIDE / max(height, width))
    size = (max(1, round(width * scale)), max(1, round(height * scale)))
    if scale < 1:
        pixels = cv2.resize(pixels, size, interpolation=cv2.INTER_AREA)
    _, jpeg = cv2.imencode(".jpg", pixels[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, 80])
    return Thumbnail(jpeg.tobytes(), width=size[0], height=size[1])

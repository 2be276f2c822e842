"""Pictures whose pixels are known, and what several tests of reading photos ask of them."""

import io
from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image, features

from attnvis.data.decoding import load
from attnvis.types import Photo, PhotoError

NEEDS_AVIF = pytest.mark.skipif(not features.check("avif"), reason="Pillow has AVIF from 11.3 on")
BLACK = (0.0, 0.0, 0.0)
FITS = ["resize", "crop", "letterbox", "stretch"]


def scene(height: int = 40, width: int = 64) -> np.ndarray:
    """Smooth, without any symmetry: red grows to the right, green downwards, blue is a corner."""
    row, column = np.mgrid[:height, :width]
    corner = 200 * (row < height / 3) * (column < width / 4)
    return np.stack([220 * column / width, 220 * row / height, corner], -1).round().astype(np.uint8)


def encode(picture: np.ndarray | Image.Image, kind: str, **options) -> bytes:
    file = io.BytesIO()
    (picture if isinstance(picture, Image.Image) else Image.fromarray(picture)).save(file, kind, **options)
    return file.getvalue()


def noise(height: int, width: int) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (height, width, 3), np.uint8)


def sized(height: int, width: int) -> Photo:
    """A photo of which only the size matters."""
    return Photo("sized", np.zeros((1, 1, 3), np.uint8), (height, width), "")


def items(mask: np.ndarray) -> list[np.ndarray]:
    """One mask per connected part."""
    count, numbers = cv2.connectedComponents(mask.astype(np.uint8))
    return [numbers == number for number in range(1, count)]


def largest_difference(picture: np.ndarray, expected: np.ndarray) -> float:
    """The largest difference between two pictures of one shape."""
    assert picture.shape == expected.shape
    return float(np.abs(picture.astype(float) - expected).max())


def load_error(*arguments, **keywords) -> str:
    """The one line that says why `load` refuses."""
    with pytest.raises(PhotoError) as caught:
        load(*arguments, **keywords)
    message = str(caught.value)
    assert "\n" not in message and "object at 0x" not in message
    return message


# What a viewer must do to show the stored pixels upright (EXIF 2.3, tag 274), and its inverse: what a camera
# stores.
STORED = {
    1: lambda p: p,
    2: np.fliplr,
    3: lambda p: np.rot90(p, 2),
    4: np.flipud,
    5: lambda p: p.swapaxes(0, 1),
    6: lambda p: np.rot90(p, 1),  # shown after a quarter turn clockwise
    7: lambda p: np.rot90(p, 2).swapaxes(0, 1),
    8: lambda p: np.rot90(p, -1),
}


def huge_jpeg(folder: Path) -> Path:
    """1201 x 1603, stored on its side, so that no reduction divides it."""
    path = folder / "huge.jpg"
    exif = Image.Exif()
    exif[0x0112] = 6
    stored = np.ascontiguousarray(STORED[6](scene(1201, 1603)))
    path.write_bytes(encode(stored, "JPEG", quality=95, exif=exif))
    return path

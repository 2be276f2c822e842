"""Stored pixels in, pixels as a viewer shows them out: upright, on white, with notes of what was done."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace

import cv2
import numpy as np
from jaxtyping import UInt8

__all__ = [
    "GREY",
    "TRANSPOSED",
    "Colours",
    "Decoded",
    "Pixels",
    "aspect_note",
    "key_alpha",
    "missing_part",
    "on_white",
    "strips",
    "upright",
]

Pixels = UInt8[np.ndarray, "h w 3"]
Colours = Callable[[Pixels], tuple[Pixels, str]]  # to sRGB, and what is to be said of it

GREY = 128  # of pixels that a file lacks
TRANSPOSED = (5, 6, 7, 8)  # EXIF orientations whose rows are the columns of the upright photo
FLIP = {2: 1, 3: -1, 4: 0, 6: 1, 7: -1, 8: 0}  # EXIF orientation -> cv2.flip, after the transposition
STRIP = 1 << 22  # pixels that are converted at a time: what lies between is several times the photo


@dataclass(frozen=True, eq=False)
class Decoded:
    """The upright pixels of a file, its upright size (height, width), and what was done to it.

    The pixels are fewer than the size says where a JPEG was reduced: see `load`.
    """

    pixels: Pixels
    size: tuple[int, int]
    notes: tuple[str, ...] = ()

    @classmethod
    def from_stored(cls, pixels: Pixels, orientation: int, notes: Iterable[str]) -> "Decoded":
        """All of a file's pixels, as they are stored."""
        turned = upright(pixels, orientation)
        return cls(turned, turned.shape[:2]).with_notes(*notes)

    def with_notes(self, *notes: str) -> "Decoded":
        """And what else is to be said of it, each once; "" is nothing."""
        return replace(self, notes=tuple(dict.fromkeys((*self.notes, *filter(None, notes)))))


def upright(pixels: UInt8[np.ndarray, "h w 3"], orientation: int) -> UInt8[np.ndarray, "H W 3"]:
    """Stored pixels as a viewer shows them; an orientation that is none leaves them as they are."""
    if orientation in TRANSPOSED:
        pixels = cv2.transpose(pixels)
    return cv2.flip(pixels, FLIP[orientation]) if orientation in FLIP else pixels


def missing_part(rows: int, orientation: int) -> tuple[slice, ...]:
    """Where the last stored rows lie on the upright photo."""
    at_start = orientation in (3, 4, 6, 7)
    part = slice(0, rows) if at_start else slice(-rows, None)
    return (slice(None), part) if orientation in TRANSPOSED else (part,)


def aspect_note(across: float, down: float) -> str:
    """That so many pixels a length across and down are not square, which viewers do not mind either."""
    if not (across > 0 and down > 0) or 0.99 < across / down < 1.01:
        return ""
    return f"pixels not square: taken as square, though the file says {down / across:.3g} : 1"


def strips(size: tuple[int, int], most: int = STRIP) -> list[slice]:
    """The rows of a picture, at most so many pixels at a time, so that what lies between stays small."""
    step = max(1, most // size[1])
    return [slice(top, min(top + step, size[0])) for top in range(0, size[0], step)]


def on_white(rgb: Pixels, opacity: np.ndarray | None, colours: Colours | None) -> tuple[Pixels, list[str]]:
    """Colours in sRGB, on white where they are transparent; and what is to be said of both."""
    notes = []
    if colours is not None:
        rgb, note = colours(np.ascontiguousarray(rgb))
        notes.append(note)
    if opacity is not None and (opacity < 1).any():
        share = opacity[..., None]
        rgb = np.rint(rgb * share + 255 * (1 - share)).astype(np.uint8)
        notes.append("transparency on white")
    return rgb, notes


def key_alpha(samples: np.ndarray, key: object) -> np.ndarray | None:
    """Alpha where one colour is transparent: PIL's `transparency`, a level of grey or (red, green, blue)."""
    if isinstance(key, int):
        return np.where(samples[..., 0] == key, 0, 65535)
    if isinstance(key, tuple):
        return np.where((samples[..., 2::-1] == key).all(-1), 0, 65535)
    return None

"""Words on pictures: text in, drawn lines, labels and paper out."""

from fractions import Fraction

import cv2
import numpy as np
from jaxtyping import UInt8

from attnvis.types import Box

__all__ = [
    "ALARM",
    "ALARM_PAPER",
    "INK",
    "PAPER",
    "QUIET",
    "clean",
    "measure",
    "say",
    "sheet",
    "tag",
    "times",
]

PAPER, INK, QUIET, ALARM, ALARM_PAPER = (
    (252, 252, 250),
    (24, 27, 33),
    (108, 113, 122),
    (138, 44, 8),
    (255, 233, 214),
)


def sheet(height: int, width: int, paper: tuple[int, int, int] = PAPER) -> UInt8[np.ndarray, "h w 3"]:
    return np.repeat(
        np.full((1, width, 3), paper, np.uint8), height, axis=0
    )  # ten times as fast as to fill the whole


def clean(text: str) -> str:
    """One line that cv2 can write: a file name that is no Unicode comes as lone surrogates, and those crash it."""
    return " ".join(text.encode("utf-8", "replace").decode().split())


def measure(text: str, size: int = 15, weight: int = 400) -> int:
    return cv2.getTextSize((0, 0), clean(text), (0, 0), cv2.FontFace("sans"), size, weight)[2]


def say(
    canvas: UInt8[np.ndarray, "h w 3"],
    text: str,
    x: int,
    baseline: int,
    size: int = 15,
    weight: int = 400,
    ink: tuple[int, int, int] = INK,
    room: int = 2**20,
    align: float = 0.0,
) -> None:
    """Writes one line at x (align 0: from x, .5: around x, 1: up to x); what does not fit `room` loses its middle, as in cat…01.jpg."""
    text = whole = clean(text)
    kept = len(whole)
    while measure(text, size, weight) > room and kept > 1:
        kept = min(kept - 1, int(kept * room / measure(text, size, weight)))
        text = f"{whole[: (kept + 1) // 2]}…{whole[len(whole) - kept // 2 :]}"
    left = round(x - align * measure(text, size, weight))
    cv2.putText(canvas, text, (left, baseline), ink, cv2.FontFace("sans"), size, weight, wrap=(left, 2**20))


def tag(picture: UInt8[np.ndarray, "h w 3"], text: str, taken: Box | None = None) -> None:
    """A small label in the first corner, from the lower left on, that does not touch what is `taken` (pixels of the picture)."""
    high, wide = picture.shape[:2]
    size = max(11, min(high, wide) // 36)
    width, height = min(wide, measure(text, size, 500) + size), min(high, round(1.7 * size))
    corners = [(top, left) for top in (high - height, 0) for left in (0, wide - width)]
    plates = [Box(float(top), float(left), float(height), float(width)) for top, left in corners]
    free = [
        corner
        for corner, plate in zip(corners, plates, strict=True)
        if taken is None or not touch(plate, taken)
    ]
    top, left = free[0] if free else corners[0]
    plate = picture[top : top + height, left : left + width]
    plate[:] = sheet(height, width, INK)
    say(plate, text, size // 2, round(1.2 * size), size, 500, (255, 255, 255), width - size)


def touch(one: Box, other: Box) -> bool:
    """Whether two boxes share any of their area."""
    down = one.top < other.top + other.height and other.top < one.top + one.height
    return down and one.left < other.left + other.width and other.left < one.left + one.width


def times(value: float) -> str:
    """0.125 -> 1/8×"""
    share = Fraction(value).limit_denominator(1024)
    return f"{share}×" if share.numerator == 1 and share == value else f"{value:.3g}×"

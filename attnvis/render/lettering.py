"""Words on pictures: text in, drawn lines, labels and paper out."""

from dataclasses import dataclass
from fractions import Fraction
from functools import cache, lru_cache
from importlib.util import find_spec
from math import ceil
from pathlib import Path

import cv2
import numpy as np
from jaxtyping import UInt8
from PIL import Image, ImageDraw, ImageFont

from attnvis.types import Box

__all__ = [
    "ALARM",
    "ALARM_PAPER",
    "INK",
    "PAPER",
    "QUIET",
    "Font",
    "blank",
    "draw_label",
    "draw_text",
    "format_times",
    "one_line",
    "text_width",
]

Colour = tuple[int, int, int]  # RGB, 0 ... 255

PAPER: Colour = (252, 252, 250)
INK: Colour = (24, 27, 33)
QUIET: Colour = (108, 113, 122)
ALARM: Colour = (138, 44, 8)
ALARM_PAPER: Colour = (255, 233, 214)
WHITE: Colour = (255, 255, 255)
OPENCV_WRITES = hasattr(cv2, "FontFace")  # in any script, since OpenCV 5; before, Pillow does
UNBOUNDED = 2**20  # pixels: more than any picture has


@dataclass(frozen=True)
class Font:
    """How a line of words is drawn."""

    size: int = 15  # pixels
    weight: int = 400  # 100 ... 900; 400 is regular
    ink: Colour = INK


def blank(height: int, width: int, paper: Colour = PAPER) -> UInt8[np.ndarray, "height width 3"]:
    """Paper of one colour."""
    row = np.full((1, width, 3), paper, np.uint8)
    return np.repeat(row, height, axis=0)  # ten times as fast as to fill the whole


def one_line(text: str) -> str:
    """One line that cv2 can write.

    A file name that is no Unicode comes as lone surrogates, and those crash it.
    """
    return " ".join(text.encode("utf-8", "replace").decode().split())


def text_width(text: str, font: Font) -> int:
    """How wide the text will be as one line, in pixels."""
    return line_width(one_line(text), font.size, font.weight, by_opencv=OPENCV_WRITES)


@lru_cache(maxsize=1 << 12)  # most words of a panel are those of the panel before
def line_width(line: str, size: int, weight: int, by_opencv: bool) -> int:
    if not by_opencv:
        return ceil(typeface(size, weight).getlength(line))
    return cv2.getTextSize((0, 0), line, (0, 0), cv2.FontFace("sans"), size, weight)[2]


def draw_text(
    canvas: UInt8[np.ndarray, "h w 3"],
    text: str,
    x: int,
    baseline: int,
    font: Font,
    room: int = UNBOUNDED,
    align: float = 0.0,
) -> None:
    """One line of words at x, its letters standing on the row `baseline`.

    align 0: from x, .5: around x, 1: up to x.  What does not fit `room` pixels loses its middle, as in
    cat…01.jpg.
    """
    text = shortened(one_line(text), font, room=room)
    left = round(x - align * text_width(text, font))
    if not OPENCV_WRITES:
        draw_with_pillow(canvas, text, left=left, baseline=baseline, font=font)
        return
    cv2.putText(
        canvas,
        text,
        (left, baseline),
        font.ink,
        cv2.FontFace("sans"),
        font.size,
        font.weight,
        wrap=(left, UNBOUNDED),
    )


def draw_with_pillow(
    canvas: UInt8[np.ndarray, "h w 3"], text: str, left: int, baseline: int, font: Font
) -> None:
    """The same line where OpenCV writes none; what lies beyond the canvas is cut off."""
    top, bottom = max(0, baseline - 2 * font.size), max(0, baseline + font.size)
    rows = canvas[top:bottom]
    picture = Image.fromarray(rows)
    face = typeface(font.size, font.weight)
    ImageDraw.Draw(picture).text((left, baseline - top), text, fill=font.ink, font=face, anchor="ls")
    rows[:] = np.asarray(picture)


@cache
def typeface(size: int, weight: int) -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    """DejaVu Sans as matplotlib brings it along, or the system's, or Pillow's own letters.

    Signs that it lacks, such as Chinese, are drawn as boxes.
    """
    package = find_spec("matplotlib")  # its folder only: to import it takes half a second
    folder = Path(package.origin).parent if package and package.origin else Path()
    name = "DejaVuSans-Bold.ttf" if weight >= 600 else "DejaVuSans.ttf"
    path = folder / "mpl-data" / "fonts" / "ttf" / name
    try:
        # It runs wider than OpenCV's letters: seven eighths of the size take no more room.
        return ImageFont.truetype(str(path), size * 7 / 8)
    except OSError:
        return ImageFont.load_default(size)


def shortened(text: str, font: Font, room: int) -> str:
    """The text, with … for as much of its middle as does not fit `room` pixels."""
    shown = text
    letters = len(text)  # of the text that are shown
    while text_width(shown, font) > room and letters > 1:
        letters = min(letters - 1, int(letters * room / text_width(shown, font)))
        shown = f"{text[: (letters + 1) // 2]}…{text[len(text) - letters // 2 :]}"
    return shown


def draw_label(picture: UInt8[np.ndarray, "h w 3"], text: str, taken: Box | None = None) -> None:
    """A small label in the first corner, from the lower left on, that does not touch what is `taken`.

    `taken` is in pixels of the picture; where no corner is free the label stands in the lower left.
    """
    picture_height, picture_width = picture.shape[:2]
    font = Font(size=max(11, min(picture_height, picture_width) // 36), weight=500, ink=WHITE)
    width = min(picture_width, text_width(text, font) + font.size)
    height = min(picture_height, round(1.7 * font.size))
    corners = [(top, left) for top in (picture_height - height, 0) for left in (0, picture_width - width)]
    top, left = corners[0]
    for corner in corners:
        plate = Box(float(corner[0]), float(corner[1]), height=float(height), width=float(width))
        if taken is None or not overlap(plate, taken):
            top, left = corner
            break
    label = picture[top : top + height, left : left + width]
    label[:] = blank(height, width, paper=INK)
    draw_text(
        label, text, x=font.size // 2, baseline=round(1.2 * font.size), font=font, room=width - font.size
    )


def overlap(first: Box, second: Box) -> bool:
    """Whether two boxes share any of their area."""
    share_rows = first.top < second.top + second.height and second.top < first.top + first.height
    share_columns = first.left < second.left + second.width and second.left < first.left + first.width
    return share_rows and share_columns


def format_times(value: float) -> str:
    """A value in times uniform: 0.125 -> 1/8×, 43.21 -> 43.2×."""
    share = Fraction(value).limit_denominator(1024)
    return f"{share}×" if share.numerator == 1 and share == value else f"{value:.3g}×"

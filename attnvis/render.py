"""A raw map and its photo in, pictures out: RGB, uint8.  The only file that rescales values for the eye.

A map holds N*a_i, "times uniform": 1 = no preference; NaN where the network never looked.  Maps, photos and pictures are rows x columns.
"""

import os
import threading
from collections.abc import Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from fractions import Fraction
from functools import lru_cache
from pathlib import Path

import cv2
import numpy as np
from jaxtyping import Float, UInt8

from attnvis.values import Box

__all__ = ["Style", "colour_bar", "contact_sheet", "encode", "heatmap", "level", "limits", "overlay", "panel", "write", "write_bytes"]

COLOURS = ("turbo", "viridis", "magma", "inferno", "plasma", "cividis", "jet")
FORMATS = ("jpg", "png", "webp")
PAPER, INK, QUIET, ALARM, ALARM_PAPER = (252, 252, 250), (24, 27, 33), (108, 113, 122), (138, 44, 8), (255, 233, 214)
HATCH = (np.uint8(222), np.uint8(240))  # two light greys: far from every colour of every colour map
MARGIN, GAP, SIDE, NARROW = 32, 20, 480, 240  # of a panel, in pixels; SIDE bounds each picture, NARROW its column

Mark = Box | tuple[float, float] | None


@dataclass(frozen=True)
class Style:
    """How maps look.  `times_uniform` compares between photos and runs; `min_max` stretches each photo by itself, and says so."""

    colours: str = "turbo"
    scale: str = "times_uniform"  # log2 of the map between low and high | min_max
    low: float = 1 / 8  # times uniform; what lies beyond low or high gets the end's colour
    high: float = 16.0
    opacity: float = 0.8  # of the hottest colour over the photo
    follow: bool = True  # opacity follows the weight: none at uniform and below, full at the top; False: the same everywhere
    marks: bool = True  # draw what was asked: the point or the box
    field: bool = False  # outline what the cell that was asked about can see, or the hottest one: its receptive field
    format: str = "jpg"
    quality: int = 92  # of jpg and webp
    longest: int | None = None  # of the overlay's sides, in pixels; None: as large as the photo
    panel: bool = True  # photo | heatmap | overlay with its colour bar, beside the plain overlay

    def __post_init__(self) -> None:
        choices = {"colours": COLOURS, "scale": ("times_uniform", "min_max"), "format": FORMATS}
        for name, allowed in choices.items():
            if getattr(self, name) not in allowed:
                raise ValueError(f"{name} {getattr(self, name)!r} is not known; choose one of {', '.join(allowed)}")
        if not 0 < self.low <= 1 < self.high < float("inf"):
            raise ValueError(f"low {self.low} and high {self.high} do not enclose uniform; choose 0 < low <= 1 < high")
        if not 0 <= self.opacity <= 1:
            raise ValueError(f"opacity {self.opacity} lies outside 0 (the photo alone) ... 1 (the colours alone)")
        if not 1 <= self.quality <= 100:
            raise ValueError(f"quality {self.quality} lies outside 1 ... 100")
        if self.longest is not None and self.longest < 1:
            raise ValueError(f"longest {self.longest} leaves no pixel; give the longest side in pixels, or null for the photo's own")


# ------------------------------------------------------------------------------------------------ values -> 0 ... 1


def limits(values: Float[np.ndarray, "h w"], style: Style) -> tuple[float, float]:
    """The values that get the coldest and the hottest colour; a constant map under min_max gets the middle one."""
    if style.scale == "times_uniform":
        return style.low, style.high
    low, high = float(np.fmin.reduce(values, None)), float(np.fmax.reduce(values, None))
    if high - low <= 1e-6 * abs(high):  # constant but for rounding: noise is not stretched into a picture
        return low - abs(low) - 1, high + abs(high) + 1
    return low, high


def level(values: Float[np.ndarray, "h w"], style: Style) -> Float[np.ndarray, "h w"]:
    """Where each value lies between the limits, 0 ... 1; NaN stays NaN."""
    return place(np.asarray(values, np.float32), *limits(values, style), style.scale)


def place(values: Float[np.ndarray, "h w"], low: float, high: float, scale: str) -> Float[np.ndarray, "h w"]:
    clipped = np.clip(values, low, high)
    if scale == "times_uniform":
        return np.log2(clipped / np.float32(low)) * np.float32(1 / np.log2(high / low))
    return (clipped - np.float32(low)) / np.float32(high - low)


# ------------------------------------------------------------------------------------------------ 0 ... 1 -> colours


@lru_cache
def table(colours: str) -> UInt8[np.ndarray, "256 1 3"]:
    """Level 0 ... 255 -> RGB; applyColorMap answers in BGR, hence the turn."""
    bgr = cv2.applyColorMap(np.arange(256, dtype=np.uint8)[:, None], getattr(cv2, f"COLORMAP_{colours.upper()}"))
    return np.ascontiguousarray(bgr[..., ::-1])


@lru_cache
def blend(style: Style) -> tuple[UInt8[np.ndarray, "256 1 3"], UInt8[np.ndarray, "256 1 3"]]:
    """(paint, keep) per level: picture = paint + photo * keep / 255."""
    levels = np.linspace(0, 1, 256)
    start = np.log2(1 / style.low) / np.log2(style.high / style.low) if style.scale == "times_uniform" else 0.0
    weight = np.sin(np.pi / 2 * np.clip((levels - start) / (1 - start), 0, 1)) if style.follow else np.ones(256)
    alpha = (style.opacity * weight)[:, None, None]
    paint, keep = table(style.colours) * alpha, np.broadcast_to(255 * (1 - alpha), (256, 1, 3))
    return np.rint(paint).astype(np.uint8), np.rint(keep).astype(np.uint8)


def heatmap(values: Float[np.ndarray, "h w"], style: Style) -> UInt8[np.ndarray, "h w 3"]:
    """The map in colours; never seen is hatched in light grey."""
    picture = cv2.applyColorMap(cv2.convertScaleAbs(level(values, style), alpha=255), table(style.colours))
    unseen = np.isnan(values)
    if unseen.any():
        rows, columns = np.ogrid[: values.shape[0], : values.shape[1]]
        stripe = (rows + columns) // max(3, min(values.shape) // 60) % 2 == 0
        picture[unseen] = np.where(stripe, *HATCH)[unseen][:, None]
    return picture


def overlay(
    photo: UInt8[np.ndarray, "H W 3"],
    values: Float[np.ndarray, "h w"],
    style: Style,
    mark: Mark = None,
    size: tuple[int, int] | None = None,
    field: Box | None = None,
) -> UInt8[np.ndarray, "_ _ 3"]:
    """The photo, coloured where the attention is; greyed and dimmed where the network never looked.

    `mark` and `field`, a receptive field to be outlined, are in photo coordinates; `size` is the original's (height, width) where `photo`
    was decoded reduced.  Photo and map each cover the whole photo; a map of another size is stretched to it.
    """
    size = size or photo.shape[:2]
    photo = fit(photo, style.longest) if style.longest and style.longest < max(photo.shape[:2]) else np.ascontiguousarray(photo)
    values = resize(np.asarray(values, np.float32), photo.shape[:2])
    (low, high), (paint, keep) = limits(values, style), blend(style)
    picture = np.empty_like(photo)
    step = max(1, 2**17 // photo.shape[1])  # rows at a time: what fits the processor's cache is three times as fast
    for top in range(0, len(photo), step):
        part, below = values[top : top + step], photo[top : top + step]
        index = cv2.convertScaleAbs(place(part, low, high, style.scale), alpha=255)
        drawn = cv2.multiply(below, cv2.applyColorMap(index, keep), scale=1 / 255)
        drawn = cv2.add(drawn, cv2.applyColorMap(index, paint), dst=drawn)
        if np.isnan(part.min()):
            grey = cv2.cvtColor(cv2.cvtColor(below, cv2.COLOR_RGB2GRAY), cv2.COLOR_GRAY2RGB)
            unseen = np.isnan(part).astype(np.uint8)
            drawn = cv2.copyTo(cv2.addWeighted(below, 0.15, grey, 0.35, 0), unseen, drawn)  # mixing with grey keeps the hue
        picture[top : top + step] = drawn
    scale = (picture.shape[0] / size[0], picture.shape[1] / size[1])
    if style.field and field is not None:
        draw_mark(picture, field, scale)
    if style.marks and mark is not None:
        draw_mark(picture, mark, scale)
    if style.scale == "min_max" and picture.shape[1] >= 80:
        tag(picture, "min–max")
    return picture


def draw_mark(picture: UInt8[np.ndarray, "h w 3"], mark: Box | tuple[float, float], scale: tuple[float, float]) -> None:
    """A box, or a ring with four ticks around a point: dark under light, seen on any background."""

    def spot(row: float, column: float) -> tuple[int, int]:
        # photo coordinates put a pixel's centre at .5, cv2 at 0; cv2 takes sixteenths of a pixel and (x, y)
        return round((column * scale[1] - 0.5) * 16), round((row * scale[0] - 0.5) * 16)

    short = min(picture.shape[:2])
    width, radius = max(1, round(short / 280)), max(6.0, short / 40)
    for colour, thick in (((20, 20, 20), width + max(2, width)), ((255, 255, 255), width)):
        brush = {"color": colour, "thickness": thick, "lineType": cv2.LINE_AA, "shift": 4}
        if isinstance(mark, Box):
            (left, top), (right, bottom) = spot(mark.top, mark.left), spot(mark.top + mark.height, mark.left + mark.width)
            cv2.rectangle(picture, (left + 8, top + 8), (right - 8, bottom - 8), **brush)  # along the outermost pixels that it holds
            continue
        x, y = spot(*mark)
        cv2.circle(picture, (x, y), round(16 * radius), **brush)
        for across, down in ((1, 0), (-1, 0), (0, 1), (0, -1)):
            start, end = ((x + round(16 * reach * across), y + round(16 * reach * down)) for reach in (0.55 * radius, 1.7 * radius))
            cv2.line(picture, start, end, **brush)


def fit(pixels: np.ndarray, side: int) -> np.ndarray:
    """The same picture or map with `side` as its longest side."""
    scale = side / max(pixels.shape[:2])
    return resize(pixels, (max(1, round(pixels.shape[0] * scale)), max(1, round(pixels.shape[1] * scale))))


def resize(pixels: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    if pixels.shape[:2] == size:
        return pixels
    shrinks = pixels.shape[0] > size[0] or pixels.shape[1] > size[1]
    return cv2.resize(pixels, size[::-1], interpolation=cv2.INTER_AREA if shrinks else cv2.INTER_LINEAR)


# ------------------------------------------------------------------------------------------------ pictures with words


def sheet(height: int, width: int, paper: tuple[int, int, int] = PAPER) -> UInt8[np.ndarray, "h w 3"]:
    return np.repeat(np.full((1, width, 3), paper, np.uint8), height, axis=0)  # ten times as fast as to fill the whole


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


def tag(picture: UInt8[np.ndarray, "h w 3"], text: str) -> None:
    """A small label in the lower left corner."""
    size = max(11, min(picture.shape[:2]) // 36)
    width, height = measure(text, size, 500) + size, round(1.7 * size)
    plate = picture[-height:, :width]
    plate[:] = sheet(plate.shape[0], plate.shape[1], INK)
    say(plate, text, size // 2, round(1.2 * size), size, 500, (255, 255, 255))


def times(value: float) -> str:
    """0.125 -> 1/8×"""
    share = Fraction(value).limit_denominator(1024)
    return f"{share}×" if share.numerator == 1 and share == value else f"{value:.3g}×"


def colour_bar(style: Style, width: int = 440, seen: tuple[float, float] | None = None) -> UInt8[np.ndarray, "_ w 3"]:
    """The scale with its limits.  `seen`: the (lowest, highest) value of the one map it stands beside, named under min_max."""
    canvas = sheet(68, width)
    ramp = np.linspace(0, 255, width, dtype=np.float32).round().astype(np.uint8)[None].repeat(14, 0)
    canvas[24:38] = cv2.applyColorMap(ramp, table(style.colours))
    if style.scale == "min_max":
        say(canvas, "min to max of this photo: not comparable between photos", 0, 14, 14, 500, ALARM, width)
        ends = ("min", "max") if seen is None else (f"min {seen[0]:.3g}×", f"max {seen[1]:.3g}×")
        say(canvas, ends[0], 0, 57, 14)
        say(canvas, ends[1], width, 57, 14, align=1.0)
        return canvas
    say(canvas, "attention in times uniform, log scale; 1× is no preference", 0, 14, 14, ink=QUIET, room=width)
    octaves = np.log2([style.low, style.high])
    every = max(1, int(np.ceil(48 * (octaves[1] - octaves[0]) / width)))  # a label needs 48 pixels
    powers = [2.0**power for power in range(int(np.ceil(octaves[0])), int(np.floor(octaves[1])) + 1) if power % every == 0]
    for value in sorted({style.low, style.high, *powers}):
        at = (np.log2(value) - octaves[0]) / (octaves[1] - octaves[0])
        x = round(at * (width - 1))
        canvas[38 : 46 if value == 1 else 42, max(0, x - (value == 1)) : x + 1] = INK if value == 1 else QUIET
        if value not in (style.low, style.high) and not 72 <= x <= width - 60:
            continue  # the tick alone: words would touch those of the end
        label = ("≤ " if value == style.low else "≥ " if value == style.high else "") + times(value)
        say(canvas, label, x, 60, 14, 600 if value == 1 else 400, align=0.0 if at == 0 else 1.0 if at == 1 else 0.5)
    return canvas


def panel(
    photo: UInt8[np.ndarray, "H W 3"],
    values: Float[np.ndarray, "h w"],
    style: Style,
    title: str = "",
    lines: Iterable[tuple[str, object]] = (),
    mark: Mark = None,
    size: tuple[int, int] | None = None,
    field: Box | None = None,
) -> UInt8[np.ndarray, "_ _ 3"]:
    """Photo | heatmap | overlay with the colour bar and what is known about them; a line named "warning" becomes a banner."""
    size, side, style = size or photo.shape[:2], min(SIDE, 2 * max(photo.shape[:2])), replace(style, longest=None)
    small = fit(photo, side)
    chart = resize(np.asarray(values, np.float32), small.shape[:2])
    extremes = float(np.fmin.reduce(values, None)), float(np.fmax.reduce(values, None))
    said = [(name, str(value)) for name, value in lines]
    alarms, facts = ([line for line in said if (line[0].lower() == "warning") == loud] for loud in (True, False))

    headings = ("photo", "attention, min to max of this photo" if style.scale == "min_max" else "attention", "overlay")
    pictures = (small, heatmap(chart, style), overlay(small, chart, style, mark, size, field))
    column = max(small.shape[1], NARROW)
    lefts = [MARGIN + i * (column + GAP) for i in range(3)]
    width = lefts[-1] + column + MARGIN

    head = sheet(MARGIN + 34, width)
    say(head, title, MARGIN, MARGIN + 18, 24, 600, room=width - 2 * MARGIN)
    strips = [head]
    for _, alarm in alarms:
        banner = sheet(36, width, ALARM_PAPER)
        say(banner, alarm, MARGIN, 24, 16, 600, ALARM, width - 2 * MARGIN)
        strips += [banner, sheet(10, width)]
    middle = sheet(small.shape[0] + 28, width)
    for left, heading, picture in zip(lefts, headings, pictures, strict=True):
        say(middle, heading, left, 18, 14, 500, QUIET, column)
        middle[28:, left : left + picture.shape[1]] = picture
    foot = sheet(68 + GAP, width)
    foot[GAP:, MARGIN : width - MARGIN] = colour_bar(style, width - 2 * MARGIN, extremes)
    return np.vstack([*strips, middle, foot, fact_sheet(facts, lefts, column, width), sheet(MARGIN // 2, width)])


def fact_sheet(facts: Sequence[tuple[str, str]], lefts: Sequence[int], column: int, width: int) -> UInt8[np.ndarray, "_ w 3"]:
    """Name and value, aligned under the pictures; what is too long for its column gets a row of its own."""
    indent = max([measure(name) for name, _ in facts], default=0) + 14
    rows: list[list[tuple[str, str]]] = []
    for fact in facts:
        long = indent + measure(fact[1]) > column
        if not rows or long or len(rows[-1]) == len(lefts):
            rows.append([])
        rows[-1].append(fact)
        if long:
            rows.append([])
    rows = [row for row in rows if row]
    canvas = sheet(26 * len(rows) + 14, width)
    for i, row in enumerate(rows):
        for left, (name, value) in zip(lefts, row, strict=False):
            room = width - MARGIN - left if len(row) == 1 else column
            say(canvas, name, left, 26 * i + 26, ink=QUIET)
            say(canvas, value, left + indent, 26 * i + 26, weight=500, room=room - indent)
    return canvas


def contact_sheet(
    tiles: Iterable[tuple[UInt8[np.ndarray, "_ _ 3"], str]], columns: int = 4, side: int = 320, title: str = "", style: Style | None = None
) -> UInt8[np.ndarray, "_ _ 3"]:
    """Pictures in a grid, each at most `side` high and wide with its caption below; with a style, its colour bar ends the sheet."""
    fitted = [(fit(pixels, side), caption) for pixels, caption in tiles]
    columns = max(1, min(columns, len(fitted)))
    wide = max([pixels.shape[1] for pixels, _ in fitted], default=side)
    width = 2 * MARGIN + columns * wide + (columns - 1) * GAP
    head = sheet(MARGIN + 34 if title else MARGIN, width)
    say(head, title, MARGIN, MARGIN + 14, 22, 600, room=width - 2 * MARGIN)
    rows = [fitted[start : start + columns] for start in range(0, len(fitted), columns)]
    strips = [sheet(max(pixels.shape[0] for pixels, _ in row) + 40, width) for row in rows]
    for row, strip in zip(rows, strips, strict=True):
        for column, (pixels, caption) in enumerate(row):
            left = MARGIN + column * (wide + GAP)
            strip[: pixels.shape[0], left : left + pixels.shape[1]] = pixels
            say(strip, caption, left, pixels.shape[0] + 20, 14, room=wide)
    foot = sheet(MARGIN // 2 + (68 if style else 0), width)
    if style:
        foot[:68, MARGIN : width - MARGIN] = colour_bar(style, width - 2 * MARGIN)
    return np.vstack([head, *strips, foot])


# ------------------------------------------------------------------------------------------------ files


def encode(pixels: UInt8[np.ndarray, "h w 3"], format: str = "jpg", quality: int = 92) -> bytes:
    """The bytes of a jpg, png or webp file.  The one place where RGB becomes the BGR that cv2 writes."""
    if format not in FORMATS:
        raise ValueError(f"format {format!r} is not known; choose one of {', '.join(FORMATS)}")
    settings = {"jpg": [cv2.IMWRITE_JPEG_QUALITY, quality], "png": [], "webp": [cv2.IMWRITE_WEBP_QUALITY, quality]}[format]
    bgr, data = cv2.cvtColor(pixels, cv2.COLOR_RGB2BGR), None
    with suppress(cv2.error):  # versions differ in how they say no
        data = cv2.imencode(f".{format}", bgr, settings)[1]
    if data is None or not len(data):
        raise ValueError(f"a picture of {pixels.shape[1]}x{pixels.shape[0]} does not fit a {format} file; set longest, or use png")
    return data.tobytes()


def write(path: Path, pixels: UInt8[np.ndarray, "h w 3"], quality: int = 92) -> None:
    """The suffix picks the format.  Raises OSError (disk full, no folder, no permission) and leaves nothing half-written."""
    write_bytes(path, encode(pixels, path.suffix.lower().lstrip(".").replace("jpeg", "jpg"), quality))


def write_bytes(path: Path, content: bytes) -> None:
    """The whole file or none: a run that dies here leaves nothing that only looks whole."""
    part = path.parent / f".{os.getpid()}-{threading.get_ident()}.part"  # short: path.name may use up what a file system allows
    try:
        part.write_bytes(content)
        part.replace(path)
    except OSError as error:
        raise OSError(error.errno, error.strerror, str(path)) from None  # a full disk names no file by itself
    finally:
        part.unlink(missing_ok=True)

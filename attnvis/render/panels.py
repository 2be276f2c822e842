"""Pictures with words: the colour bar, the panel of photo, heatmap and overlay, the contact sheet."""

from collections.abc import Iterable, Sequence
from dataclasses import replace
from itertools import zip_longest
from math import ceil

import cv2
import numpy as np
from jaxtyping import Float, UInt8

from attnvis.render.lettering import ALARM, ALARM_PAPER, INK, PAPER, QUIET, clean, measure, say, sheet, times
from attnvis.render.overlays import (
    LINES,
    Mark,
    Style,
    colour_table,
    contours,
    heatmap,
    overlay,
    resize_longest_side,
)
from attnvis.types import Box, Placement

__all__ = ["colour_bar", "contact_sheet", "panel"]

MARGIN, GAP, SIDE, NARROW = (
    32,
    20,
    480,
    240,
)  # of a panel, in pixels; SIDE bounds each picture, NARROW its column
TILE = 150  # pixels: a contact sheet's pictures are not made smaller than that


def colour_bar(
    style: Style, width: int = 440, seen: tuple[float, float] | None = None, margin: int = 0
) -> UInt8[np.ndarray, "_ _ 3"]:
    """The scale with its limits, what it measures, and the overlay's lines; `margin` of paper around its `width` x 68 pixels.

    `seen`: the (lowest, highest) value of the one map it stands beside, named under min_max.
    """
    canvas = sheet(68, width)
    ramp = np.linspace(0, 255, width, dtype=np.float32).round().astype(np.uint8)[None].repeat(14, 0)
    canvas[24:38] = cv2.applyColorMap(ramp, colour_table(style.colours))
    for level in contours(style):
        canvas[24:38, round(level * (width - 1))] = 255
    if style.scale == "min_max":
        say(canvas, longest(MIN_MAX, width, 500), 0, 14, 14, 500, ALARM, width)
        label_min_max(canvas, seen)
    else:
        say(canvas, longest(wordings(style), width), 0, 14, 14, ink=QUIET, room=width)
        label_octaves(canvas, style)
    return cv2.copyMakeBorder(canvas, margin, margin, margin, margin, cv2.BORDER_CONSTANT, value=PAPER)


MIN_MAX = ("min to max of this photo: not comparable between photos", "min to max of this photo", "min–max")


def wordings(style: Style) -> tuple[str, ...]:
    """What a times-uniform scale measures, in ever fewer words."""
    whole = "attention in times uniform, log scale; 1× is no preference"
    values = " and ".join(times(value) for value in LINES if value < style.high)
    lines = (f"{whole}; lines at {values}",) if contours(style) else ()
    return (*lines, whole, "attention, × uniform (log)", "× uniform (log)", "× uniform")


def longest(texts: Sequence[str], room: int, weight: int = 400) -> str:
    """The first text that fits, else the last."""
    return next((text for text in texts if measure(text, 14, weight) <= room), texts[-1])


def label_min_max(canvas: UInt8[np.ndarray, "68 w 3"], seen: tuple[float, float] | None) -> None:
    """Both ends with their values, or without where there is no room."""
    width = canvas.shape[1]
    low, high = ("min", "max") if seen is None else (f"min {seen[0]:.3g}×", f"max {seen[1]:.3g}×")
    if measure(low, 14) + measure(high, 14) + 8 > width:
        low, high = "min", "max"
    say(canvas, high, width, 57, 14, align=1.0, room=width)
    if measure(low, 14) + measure(high, 14) + 8 <= width:
        say(canvas, low, 0, 57, 14)


def label_octaves(canvas: UInt8[np.ndarray, "68 w 3"], style: Style) -> None:
    """Ticks at powers of two, and as many words as have room: the hot end first, then 1x, the cold end, and the others."""
    width = canvas.shape[1]
    first, last = np.log2([style.low, style.high])
    every = max(1, int(np.ceil(24 * (last - first) / width)))
    powers = [
        2.0**power for power in range(int(np.ceil(first)), int(np.floor(last)) + 1) if power % every == 0
    ]
    labelled: list[tuple[float, float]] = []
    needed = (style.high, 1.0, style.low)
    signs = {style.low: ("≤ ", ""), style.high: ("≥ ",)}
    for value in dict.fromkeys((*needed, *powers)):
        x = round((np.log2(value) - first) / (last - first) * (width - 1))
        canvas[38 : 46 if value == 1 else 42, max(0, x - (value == 1)) : x + 1] = INK if value == 1 else QUIET
        weight, apart = 600 if value == 1 else 400, 5 if value in needed else 14
        for sign in signs.get(value, ("",)):
            room = measure(sign + times(value), 14, weight)
            left = min(max(0.0, x - room / 2), max(0, width - room))
            if all(left > end + apart or left + room < start - apart for start, end in labelled):
                say(canvas, sign + times(value), round(left), 60, 14, weight, room=width)
                labelled.append((left, left + room))
                break


def panel(
    photo: UInt8[np.ndarray, "H W 3"],
    values: Float[np.ndarray, "h w"],
    style: Style,
    title: str = "",
    lines: Iterable[tuple[str, object]] = (),
    mark: Mark = None,
    size: tuple[int, int] | None = None,
    field: Box | None = None,
    placement: Placement | None = None,
) -> UInt8[np.ndarray, "_ _ 3"]:
    """Photo | heatmap | overlay with the colour bar and what is known about them; a line named "warning" becomes a banner.

    Arguments as of `overlay`.
    """
    size, side, style = (
        size or photo.shape[:2],
        min(SIDE, 2 * max(photo.shape[:2])),
        replace(style, longest=None),
    )
    small = resize_longest_side(photo, side)
    extremes = float(np.fmin.reduce(values, None)), float(np.fmax.reduce(values, None))
    said = [(name, str(value)) for name, value in lines]
    alarms, facts = (
        [line for line in said if (line[0].lower() == "warning") == loud] for loud in (True, False)
    )

    headings = (
        "photo",
        "attention, min to max of this photo" if style.scale == "min_max" else "attention",
        "overlay",
    )
    pictures = (
        small,
        heatmap(values, style, placement, small.shape[:2]),
        overlay(small, values, style, mark, size, field, placement),
    )
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
    return np.vstack(
        [*strips, middle, foot, fact_sheet(facts, lefts, column, width), sheet(MARGIN // 2, width)]
    )


def fact_sheet(
    facts: Sequence[tuple[str, str]], lefts: Sequence[int], column: int, width: int
) -> UInt8[np.ndarray, "_ w 3"]:
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
    tiles: Iterable[tuple[UInt8[np.ndarray, "_ _ 3"], str]],
    columns: int = 4,
    side: int = 320,
    title: str = "",
    style: Style | None = None,
    widest: int = 1280,
    headings: Sequence[str] = (),
) -> UInt8[np.ndarray, "_ _ 3"]:
    """Pictures in rows of `columns`, each at most `side` high and wide with its caption below; a style's colour bar ends the sheet.

    The sheet is at most `widest` pixels wide: tiles shrink, down to TILE pixels, and a row that is too long even then becomes
    several.  `headings`: a line of words above each row of `columns`.
    """
    captioned = list(tiles)
    columns = max(1, min(columns, len(captioned)))
    room = widest - 2 * MARGIN + GAP
    fit_across = max(1, min(columns, room // (min(side, TILE) + GAP)))
    across = ceil(columns / ceil(columns / fit_across))  # 8 in rows of 4 and 4, not of 7 and 1
    fitted = [
        (resize_longest_side(pixels, min(side, room // across - GAP)), caption)
        for pixels, caption in captioned
    ]
    wide = max([pixels.shape[1] for pixels, _ in fitted], default=side)
    width = 2 * MARGIN + across * wide + (across - 1) * GAP
    head = sheet(MARGIN + 34 if title else MARGIN, width)
    say(head, title, MARGIN, MARGIN + 14, 22, 600, room=width - 2 * MARGIN)
    groups = [fitted[start : start + columns] for start in range(0, len(fitted), columns)]
    strips = []
    for heading, group in zip_longest(headings, groups):
        if heading:
            strips.append(sheet(30, width))
            say(strips[-1], heading, MARGIN, 18, 16, 600, room=width - 2 * MARGIN)
        rows = [group[start : start + across] for start in range(0, len(group or ()), across)]
        strips += [sheet_row(row, wide, width) for row in rows]
    foot = sheet(MARGIN // 2 + (68 if style else 0), width)
    if style:
        foot[:68, MARGIN : width - MARGIN] = colour_bar(style, width - 2 * MARGIN)
    return np.vstack([head, *strips, foot])


def sheet_row(
    row: Sequence[tuple[UInt8[np.ndarray, "_ _ 3"], str]], wide: int, width: int
) -> UInt8[np.ndarray, "_ width 3"]:
    """One row of a contact sheet: pictures at most `wide`, captions below, on paper of `width` pixels."""
    captions = [wrapped(caption, wide) for _, caption in row]
    high = max(pixels.shape[0] for pixels, _ in row)
    strip = sheet(high + 22 + 18 * max(len(lines) for lines in captions), width)
    for column, ((pixels, _), lines) in enumerate(zip(row, captions, strict=True)):
        left = MARGIN + column * (wide + GAP)
        strip[: pixels.shape[0], left : left + pixels.shape[1]] = pixels
        for number, line in enumerate(lines):
            say(strip, line, left, pixels.shape[0] + 20 + 18 * number, 14, room=wide)
    return strip


def wrapped(text: str, room: int, most: int = 3) -> list[str]:
    """Words on lines that fit `room`; what takes more than `most` lines loses its middle, never its end: there the number stands."""
    lines: list[str] = []
    for word in clean(text).split():
        if lines and measure(f"{lines[-1]} {word}", 14) <= room:
            lines[-1] += f" {word}"
        else:
            lines.append(word)
    return lines if len(lines) <= most else [*lines[: most - 2], f"{lines[most - 2]} …", lines[-1]]

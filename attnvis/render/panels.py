"""Pictures with words: the colour bar, the panel of photo, heatmap and overlay, the contact sheet."""

from collections.abc import Iterable, Sequence
from dataclasses import replace
from functools import lru_cache
from itertools import zip_longest
from math import ceil

import cv2
import numpy as np
from jaxtyping import Float, UInt8

from attnvis.render.curves import Plot, draw_plots
from attnvis.render.lettering import (
    ALARM,
    ALARM_PAPER,
    INK,
    PAPER,
    QUIET,
    Font,
    blank,
    draw_text,
    format_times,
    one_line,
    text_width,
)
from attnvis.render.overlays import (
    LINES,
    Mark,
    Style,
    colour_table,
    contour_levels,
    heatmap,
    overlay,
    pixel_levels,
    resize_longest_side,
)
from attnvis.types import Box, Placement

__all__ = ["Part", "colour_bar", "contact_sheet", "panel"]

MARGIN = 32  # of a panel and a contact sheet, in pixels
GAP = 20  # between pictures
SIDE = 480  # bounds each picture of a panel
PARTS = 6  # small pictures in a row of a panel
NARROW = 240  # bounds a panel's column from below
TILE = 150  # pixels: a contact sheet's pictures are not made smaller than that

# The colour bar from top to bottom, in rows of pixels: words, colours, ticks, numbers.
BAR_HEIGHT = 68
TITLE_BASELINE = 14
RAMP = slice(24, 38)
TICKS = slice(RAMP.stop, RAMP.stop + 4)
UNIFORM_TICK = slice(RAMP.stop, RAMP.stop + 8)
OCTAVES_BASELINE = 60
ENDS_BASELINE = 57

SMALL = Font(14)
TITLE = Font(24, 600)
SHEET_TITLE = Font(22, 600)
GROUP_HEADING = Font(16, 600)
BANNER = Font(16, 600, ink=ALARM)
BAR_TITLE = Font(14, ink=QUIET)
BAR_ALARM = Font(14, 500, ink=ALARM)
BAR_UNIFORM = Font(14, 600)
HEADING = Font(14, 500, ink=QUIET)
FACT_NAME = Font(15, ink=QUIET)
FACT_VALUE = Font(15, 500)

MIN_MAX = ("min to max of this photo: not comparable between photos", "min to max of this photo", "min–max")

Picture = UInt8[np.ndarray, "_ _ 3"]
Part = tuple[str, Float[np.ndarray, "_ _"], Placement]  # a heading, a map, and where its cells lie


# --------------------------------------------------------------------------------------------- the colour bar


def colour_bar(
    style: Style,
    width: int = 440,
    seen: tuple[float, float] | None = None,
    margin: int = 0,
    noun: str = "attention",
) -> Picture:
    """The scale with its limits, what it measures, and the overlay's lines.

    [BAR_HEIGHT, width, RGB] and a margin of paper around it.  `seen`: the (lowest, highest) value of the one
    map it stands beside, in times uniform, named under min_max.  `noun`: what a map is one of.
    """
    bar = drawn_bar(style, width, seen if style.scale == "min_max" else None, noun)
    return cv2.copyMakeBorder(bar, margin, margin, margin, margin, cv2.BORDER_CONSTANT, value=PAPER)


@lru_cache(maxsize=32)  # under times_uniform it is the same beside every map
def drawn_bar(style: Style, width: int, seen: tuple[float, float] | None, noun: str) -> Picture:
    """The bar without a margin; nobody draws on it."""
    bar = blank(BAR_HEIGHT, width)
    levels = np.linspace(0, 255, width, dtype=np.float32).round().astype(np.uint8)
    height = RAMP.stop - RAMP.start
    bar[RAMP] = cv2.applyColorMap(levels[None].repeat(height, 0), colour_table(style.colours))
    for level in contour_levels(style):
        bar[RAMP, round(level * (width - 1))] = 255
    if style.scale == "min_max":
        title = longest_that_fits(MIN_MAX, width, font=BAR_ALARM)
        draw_text(bar, title, x=0, baseline=TITLE_BASELINE, font=BAR_ALARM, room=width)
        label_min_max(bar, seen)
    else:
        title = longest_that_fits(wordings(style, noun), width, font=BAR_TITLE)
        draw_text(bar, title, x=0, baseline=TITLE_BASELINE, font=BAR_TITLE, room=width)
        label_octaves(bar, style)
    bar.flags.writeable = False
    return bar


def wordings(style: Style, noun: str) -> tuple[str, ...]:
    """What a times-uniform scale measures, in ever fewer words."""
    whole = f"{noun} in times uniform, log scale; 1× is no preference"
    shorter = (whole, f"{noun}, × uniform (log)", "× uniform (log)", "× uniform")
    if not contour_levels(style):
        return shorter
    lines = " and ".join(format_times(value) for value in LINES if value < style.high)
    return (f"{whole}; lines at {lines}", *shorter)


def longest_that_fits(texts: Sequence[str], room: int, font: Font) -> str:
    """The first of ever shorter texts that fits `room` pixels, else the last."""
    fitting = [text for text in texts if text_width(text, font) <= room]
    return fitting[0] if fitting else texts[-1]


def label_min_max(bar: UInt8[np.ndarray, "h w 3"], seen: tuple[float, float] | None) -> None:
    """Both ends with their values, or without where there is no room."""
    width = bar.shape[1]
    low, high = "min", "max"
    if seen is not None:
        low, high = f"min {seen[0]:.3g}×", f"max {seen[1]:.3g}×"
    if not fit_side_by_side(low, high, width=width):
        low, high = "min", "max"
    draw_text(bar, high, x=width, baseline=ENDS_BASELINE, font=SMALL, align=1.0, room=width)
    if fit_side_by_side(low, high, width=width):
        draw_text(bar, low, x=0, baseline=ENDS_BASELINE, font=SMALL)


def fit_side_by_side(left: str, right: str, width: int) -> bool:
    """Whether two small texts fit `width` pixels with a space between them."""
    return text_width(left, SMALL) + text_width(right, SMALL) + 8 <= width


def label_octaves(bar: UInt8[np.ndarray, "h w 3"], style: Style) -> None:
    """Ticks at powers of two, and as many words as have room.

    The hot end has the first choice, then 1x, the cold end, and the others.
    """
    width = bar.shape[1]
    first, last = np.log2([style.low, style.high])
    every = max(1, int(np.ceil(24 * (last - first) / width)))  # octaves from tick to tick
    exponents = range(int(np.ceil(first)), int(np.floor(last)) + 1)
    powers = [2.0**exponent for exponent in exponents if exponent % every == 0]
    important = (style.high, 1.0, style.low)
    # With a sign, or without where only that fits.
    signs = {style.low: ("≤ ", ""), style.high: ("≥ ",)}
    taken: list[tuple[float, float]] = []  # (left, right) of what is written
    for value in dict.fromkeys((*important, *powers)):
        is_uniform = value == 1
        x = round((np.log2(value) - first) / (last - first) * (width - 1))
        if is_uniform:
            bar[UNIFORM_TICK, max(0, x - 1) : x + 1] = INK
        else:
            bar[TICKS, x : x + 1] = QUIET
        font = BAR_UNIFORM if is_uniform else SMALL
        apart = 5 if value in important else 14
        for sign in signs.get(value, ("",)):
            text = sign + format_times(value)
            needed = text_width(text, font)
            left = min(max(0.0, x - needed / 2), max(0, width - needed))
            right = left + needed
            if all(left > end + apart or right < start - apart for start, end in taken):
                draw_text(bar, text, x=round(left), baseline=OCTAVES_BASELINE, font=font, room=width)
                taken.append((left, right))
                break


# -------------------------------------------------------------------------------------------------- the panel


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
    noun: str = "attention",
    plots: Sequence[Plot] = (),
    parts: Sequence[Part] = (),
    excess: Float[np.ndarray, "r c"] | None = None,
) -> Picture:
    """Photo | heatmap | overlay with the colour bar and what is known about them.

    `lines` are (name, value); one that is named "warning" becomes a banner.  `noun`: what the map is one
    of; `plots`: at most three, at the end; `parts`: maps of which this one was made, each with its heading,
    drawn small in the same colours.  The other arguments are those of `overlay`.
    """
    size = size or photo.shape[:2]
    style = replace(style, longest=None)
    small = resize_longest_side(photo, min(SIDE, 2 * max(photo.shape[:2])))
    height, picture_width = small.shape[:2]
    column = max(picture_width, NARROW)
    lefts = [MARGIN + number * (column + GAP) for number in range(3)]
    width = lefts[-1] + column + MARGIN
    room = width - 2 * MARGIN

    head = blank(MARGIN + 34, width)
    draw_text(head, title, x=MARGIN, baseline=MARGIN + 18, font=TITLE, room=room)
    texts = [(name, str(value)) for name, value in lines]
    banners = [banner(text, width) for name, text in texts if name.lower() == "warning"]
    facts = [(name, text) for name, text in texts if name.lower() != "warning"]

    levels = pixel_levels(values, style, size=small.shape[:2], placement=placement)
    headed = {
        "photo": small,
        heatmap_heading(style, noun): heatmap(values, style, size=small.shape[:2], levels=levels),
        "overlay": overlay(
            small,
            values,
            style=style,
            mark=mark,
            size=size,
            field=field,
            placement=placement,
            excess=excess,
            levels=levels,
        ),
    }
    pictures = blank(height + 28, width)
    for left, (heading, picture) in zip(lefts, headed.items(), strict=True):
        draw_text(pictures, heading, x=left, baseline=18, font=HEADING, room=column)
        pictures[28:, left : left + picture_width] = picture

    extremes = float(np.fmin.reduce(values, None)), float(np.fmax.reduce(values, None))
    bar = colour_bar(style, room, seen=extremes, noun=noun)
    return np.vstack(
        [
            head,
            *banners,
            pictures,
            *part_rows(parts, small, style=style, width=width),
            blank(GAP, width),
            indented(bar, width),
            fact_sheet(facts, lefts, column=column, width=width),
            *([blank(10, width), draw_plots(plots, lefts, column=column, width=width)] if plots else []),
            blank(MARGIN // 2, width),
        ]
    )


def part_rows(
    parts: Sequence[Part],
    photo: Picture,
    style: Style,
    width: int,
) -> list[Picture]:
    """The parts' overlays in rows as wide as the panel, at most PARTS in one."""
    if not parts:
        return []
    room = width - 2 * MARGIN
    across = ceil(len(parts) / ceil(len(parts) / PARTS))
    side = min(photo.shape[1], (room - (across - 1) * GAP) // across)
    small = resize_longest_side(photo, round(side * max(photo.shape[:2]) / photo.shape[1]))
    height, picture_width = small.shape[:2]
    rows = []
    for start in range(0, len(parts), across):
        row = blank(GAP + 28 + height, width)
        for column, (heading, values, placement) in enumerate(parts[start : start + across]):
            left = MARGIN + column * (picture_width + GAP)
            draw_text(row, heading, x=left, baseline=GAP + 18, font=HEADING, room=picture_width)
            picture = overlay(small, values, style=style, size=photo.shape[:2], placement=placement)
            row[GAP + 28 :, left : left + picture_width] = picture
        rows.append(row)
    return rows


def banner(text: str, width: int) -> Picture:
    """A line of alarm over the whole width, and a little paper below."""
    strip = blank(36, width, paper=ALARM_PAPER)
    draw_text(strip, text, x=MARGIN, baseline=24, font=BANNER, room=width - 2 * MARGIN)
    return np.vstack([strip, blank(10, width)])


def heatmap_heading(style: Style, noun: str) -> str:
    """What stands above a panel's heatmap: a scale that fits one photo alone says so."""
    return f"{noun}, min to max of this photo" if style.scale == "min_max" else noun


def indented(picture: Picture, width: int) -> Picture:
    """The picture on paper of `width` pixels, behind a margin."""
    strip = blank(picture.shape[0], width)
    strip[:, MARGIN : MARGIN + picture.shape[1]] = picture
    return strip


def fact_sheet(facts: Sequence[tuple[str, str]], lefts: Sequence[int], column: int, width: int) -> Picture:
    """Name and value, aligned under the pictures; what is too long for its column gets a row of its own.

    `lefts`: where the columns begin, in pixels of a sheet of `width`; `column`: how wide one is.
    """
    names_width = max([text_width(name, FACT_NAME) for name, _ in facts], default=0)
    indent = names_width + 14
    rows: list[list[tuple[str, str]]] = []
    for fact in facts:
        is_long = indent + text_width(fact[1], FACT_VALUE) > column
        if not rows or is_long or len(rows[-1]) == len(lefts):
            rows.append([])
        rows[-1].append(fact)
        if is_long:
            rows.append([])
    rows = [row for row in rows if row]
    sheet = blank(26 * len(rows) + 14, width)
    for number, row in enumerate(rows):
        baseline = 26 * number + 26
        for left, (name, value) in zip(lefts, row, strict=False):
            room = width - MARGIN - left if len(row) == 1 else column
            draw_text(sheet, name, x=left, baseline=baseline, font=FACT_NAME)
            draw_text(sheet, value, x=left + indent, baseline=baseline, font=FACT_VALUE, room=room - indent)
    return sheet


# ------------------------------------------------------------------------------------------ the contact sheet


def contact_sheet(
    tiles: Iterable[tuple[UInt8[np.ndarray, "_ _ 3"], str]],
    columns: int = 4,
    side: int = 320,
    title: str = "",
    style: Style | None = None,
    widest: int = 1280,
    headings: Sequence[str] = (),
) -> Picture:
    """Pictures in rows of `columns`, each at most `side` high and wide with its caption below.

    `tiles` are (picture, caption).  The sheet is at most `widest` pixels wide: tiles shrink, down to TILE
    pixels, and a row that is too long even then becomes several.  `headings`: a line of words above each row
    of `columns`.  A style's colour bar ends the sheet.
    """
    captioned = list(tiles)
    columns = max(1, min(columns, len(captioned)))
    room = widest - 2 * MARGIN + GAP
    most_across = max(1, min(columns, room // (min(side, TILE) + GAP)))
    across = ceil(columns / ceil(columns / most_across))  # 8 in rows of 4 and 4, not of 7 and 1
    tile_side = min(side, room // across - GAP)
    small = [(resize_longest_side(picture, tile_side), caption) for picture, caption in captioned]
    tile_width = max([picture.shape[1] for picture, _ in small], default=side)
    width = 2 * MARGIN + across * tile_width + (across - 1) * GAP

    head = blank(MARGIN + 34 if title else MARGIN, width)
    draw_text(head, title, x=MARGIN, baseline=MARGIN + 14, font=SHEET_TITLE, room=width - 2 * MARGIN)
    strips = [head]
    groups = [small[start : start + columns] for start in range(0, len(small), columns)]
    for heading, group in zip_longest(headings, groups):
        if heading:
            strip = blank(30, width)
            draw_text(strip, heading, x=MARGIN, baseline=18, font=GROUP_HEADING, room=width - 2 * MARGIN)
            strips.append(strip)
        for start in range(0, len(group or ()), across):
            strips.append(sheet_row(group[start : start + across], tile_width, width=width))
    if style:
        strips.append(indented(colour_bar(style, width - 2 * MARGIN), width))
    strips.append(blank(MARGIN // 2, width))
    return np.vstack(strips)


def sheet_row(row: Sequence[tuple[UInt8[np.ndarray, "_ _ 3"], str]], tile_width: int, width: int) -> Picture:
    """One row of a contact sheet: pictures at most `tile_width` wide, captions below.

    On paper of `width` pixels.
    """
    captions = [wrapped(caption, tile_width) for _, caption in row]
    tallest = max(picture.shape[0] for picture, _ in row)
    most_lines = max(len(lines) for lines in captions)
    strip = blank(tallest + 22 + 18 * most_lines, width)
    for column, ((picture, _), lines) in enumerate(zip(row, captions, strict=True)):
        height, picture_width = picture.shape[:2]
        left = MARGIN + column * (tile_width + GAP)
        strip[:height, left : left + picture_width] = picture
        for number, line in enumerate(lines):
            baseline = height + 20 + 18 * number
            draw_text(strip, line, x=left, baseline=baseline, font=SMALL, room=tile_width)
    return strip


def wrapped(text: str, room: int, most: int = 3) -> list[str]:
    """Words on lines of small letters that fit `room` pixels.

    What takes more than `most` lines loses its middle, never its end: there the number stands.
    """
    lines: list[str] = []
    for word in one_line(text).split():
        if lines and text_width(f"{lines[-1]} {word}", SMALL) <= room:
            lines[-1] += f" {word}"
        else:
            lines.append(word)
    if len(lines) <= most:
        return lines
    return [*lines[: most - 2], f"{lines[most - 2]} …", lines[-1]]

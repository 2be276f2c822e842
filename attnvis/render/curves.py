"""Small plots of a few curves, drawn as the panels' words are: one strip of them, side by side."""

from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np
from jaxtyping import Float, UInt8

from attnvis.render.lettering import INK, QUIET, Font, blank, draw_text, text_width

__all__ = ["COLOURS", "HEIGHT", "Curve", "Plot", "draw_plots"]

HEIGHT = 190  # pixels of a strip
TOP, BOTTOM = 50, 34  # pixels above and below the axes: title and legend, numbers
LEFT = 34  # pixels for the numbers of the upright axis
COLOURS = ((196, 70, 20), (40, 95, 170), (96, 100, 108))  # RGB: vermilion, blue, grey
TITLE = Font(14, 500, ink=QUIET)
SMALL = Font(13)
GRID = (226, 226, 222)
SHARP = 4  # bits of a pixel's fraction that OpenCV takes


@dataclass(frozen=True, eq=False)
class Curve:
    """One line; a single y is a level, drawn from end to end."""

    name: str
    y: Float[np.ndarray, " P"]
    colour: tuple[int, int, int]


@dataclass(frozen=True, eq=False)
class Plot:
    """Curves on one pair of axes; the x of a curve's points are evenly spread from 0 to 1.

    ends      what stands at the left and the right end below
    limits    of y
    place     x of an upright line, 0 ... 1: where the map itself stands
    """

    title: str
    curves: tuple[Curve, ...]
    ends: tuple[str, str]
    limits: tuple[float, float] = (0.0, 1.0)
    place: float | None = None


def draw_plots(
    plots: Sequence[Plot], lefts: Sequence[int], column: int, width: int
) -> UInt8[np.ndarray, "h w 3"]:
    """A strip of paper HEIGHT high, a plot at each of `lefts`, `column` pixels wide."""
    strip = blank(HEIGHT, width)
    for plot, left in zip(plots, lefts, strict=False):
        draw_plot(strip[:, left : left + column], plot)
    return strip


def draw_plot(canvas: UInt8[np.ndarray, "h w 3"], plot: Plot) -> None:
    width = canvas.shape[1]
    top, bottom, left, right = TOP, HEIGHT - BOTTOM, LEFT, width - 6
    draw_text(canvas, plot.title, x=0, baseline=16, font=TITLE, room=width)
    low, high = plot.limits
    for value in nice_values(low, high):
        y = round(bottom - (value - low) / (high - low) * (bottom - top))
        canvas[y, left:right] = QUIET if value == 0 and low < 0 else GRID
        draw_text(canvas, f"{value:g}", x=left - 6, baseline=y + 5, font=Font(12, ink=QUIET), align=1.0)
    canvas[bottom, left:right] = QUIET
    if plot.place is not None and 0 <= plot.place <= 1:
        x = round(left + plot.place * (right - 1 - left))
        canvas[top:bottom:3, x] = INK
    x_legend = left
    for curve in plot.curves:
        font = Font(13, 500, ink=curve.colour)
        draw_text(canvas, curve.name, x=x_legend, baseline=36, font=font, room=width - x_legend)
        x_legend += text_width(curve.name, font) + 14
        draw_curve(canvas, curve, plot, box=(top, bottom, left, right))
    draw_text(canvas, plot.ends[0], x=left, baseline=bottom + 18, font=SMALL, room=(right - left) // 2)
    draw_text(
        canvas, plot.ends[1], x=right, baseline=bottom + 18, font=SMALL, room=(right - left) // 2, align=1.0
    )


def draw_curve(
    canvas: UInt8[np.ndarray, "h w 3"], curve: Curve, plot: Plot, box: tuple[int, int, int, int]
) -> None:
    """One line within (top, bottom, left, right); NaN is left out, what lies beyond ends at the edge."""
    top, bottom, left, right = box
    low, high = plot.limits
    values = np.asarray(curve.y, np.float64)
    if len(values) == 1:
        values = np.repeat(values, 2)
    known = np.isfinite(values)
    if known.sum() < 2:
        return
    shares = np.linspace(0, 1, len(values))[known]
    heights = ((values[known] - low) / (high - low)).clip(0, 1)
    x = left + shares * (right - 1 - left)
    y = bottom - heights * (bottom - top)
    points = (np.stack([x, y], 1) * 2**SHARP).round().astype(np.int32).reshape(-1, 1, 2)
    cv2.polylines(canvas, [points], False, curve.colour, 2, cv2.LINE_AA, SHARP)


def nice_values(low: float, high: float) -> list[float]:
    """Three to six round numbers from low to high."""
    span = high - low
    steps = [factor * 10.0**power for power in range(-6, 7) for factor in (1, 2, 5)]
    step = next(step for step in steps if span / step <= 5)
    first = int(np.ceil(low / step - 1e-9))
    last = int(np.floor(high / step + 1e-9))
    return [round(number * step, 9) for number in range(first, last + 1)]

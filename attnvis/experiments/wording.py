"""Numbers in, the words and signs by which a page tells them, out."""

import math
from collections.abc import Callable, Sequence

from attnvis.metrics.intervals import FEWEST, Interval
from attnvis.render.html import format_number

__all__ = [
    "between",
    "chance",
    "every",
    "few",
    "listed",
    "listed_names",
    "many",
    "part_of",
    "percent",
    "points",
    "superscript",
]

COUNTED = 20  # below so many photos a share of them is told as a count
SUPERSCRIPT = str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹")


def percent(share: float) -> str:
    """0.0312 -> 3.1 %; what is not all is never called 100 %, what is not nothing never 0 %."""
    if math.isnan(share):
        return "–"
    text = f"{100 * share:.2g}" if share < 0.0995 else f"{100 * share:.0f}"
    if 0 < share < 5e-5:
        text = "< 0.01"
    elif text == "100" and share < 1:
        text = f"{100 * share:.1f}" if share < 0.9995 else "> 99.9"
    return f"{text}\u00a0%"


def points(share: float) -> str:
    """A difference of shares in percentage points: −3.1."""
    return f"{100 * share:+.1f}".replace("-", "−")


def between(interval: Interval, as_text: Callable[[float], str] = format_number) -> str:
    """`[3.1, 4.2]`; nothing where there are too few photos for an interval."""
    if interval.count < 2 or math.isnan(interval.low):
        return ""
    return f"[{as_text(interval.low)}, {as_text(interval.high)}]".replace("\u00a0%,", ",")


def listed(items: Sequence[str]) -> str:
    """a, b and c."""
    return items[0] if len(items) == 1 else f"{', '.join(items[:-1])} and {items[-1]}"


def listed_names(names: Sequence[str]) -> str:
    """The same of names, in quotes where a name holds a comma itself."""
    return listed([f"“{name}”" if "," in name else name for name in names])


def many(count: int, what: str) -> str:
    """1 map, 2 000 maps."""
    return f"{count:,} {what}{'' if count == 1 else 's'}".replace(",", " ")


def every(count: int, what: str) -> str:
    """The one setting, both settings, all 3 settings."""
    if count == 1:
        return f"the one {what}"
    return f"both {what}s" if count == 2 else f"all {count:,} {what}s".replace(",", " ")


def part_of(share: float, count: int) -> str:
    """88 % of the photos; of fewer than COUNTED: 7 of 8 photos."""
    if count >= COUNTED:
        return f"{percent(share)} of the photos"
    return f"{round(share * count)} of {many(count, 'photo')}"


def few(photos: int) -> str:
    """Why there is no interval; nothing where there is one."""
    return "" if photos >= FEWEST else f"fewer than {FEWEST} photos: no interval"


def chance(probability: float) -> str:
    """p = 0.031, p < 0.001."""
    return f"p = {probability:.2g}" if probability >= 0.001 else "p < 0.001"


def superscript(number: int) -> str:
    """⁻⁷."""
    return str(number).translate(SUPERSCRIPT)

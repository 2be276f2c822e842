"""Numbers in, the words and signs by which a page tells them, out."""

import math
from collections.abc import Callable, Sequence

from attnvis.metrics.intervals import Interval
from attnvis.render.html import format_number

__all__ = ["between", "listed", "many", "percent", "points", "superscript"]

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
    """`[3.1, 4.2]`; nothing where one photo leaves nothing to resample."""
    if interval.count < 2 or math.isnan(interval.low):
        return ""
    return f"[{as_text(interval.low)}, {as_text(interval.high)}]".replace("\u00a0%,", ",")


def listed(items: Sequence[str]) -> str:
    """a, b and c."""
    return items[0] if len(items) == 1 else f"{', '.join(items[:-1])} and {items[-1]}"


def many(count: int, what: str) -> str:
    """1 map, 2 000 maps."""
    return f"{count:,} {what}{'' if count == 1 else 's'}".replace(",", " ")


def superscript(number: int) -> str:
    """⁻⁷."""
    return str(number).translate(SUPERSCRIPT)

"""Curves and points -> a figure for a narrow column, as bytes.

By matplotlib, its object interface only.
"""

import io
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

__all__ = ["Figure", "draw"]

INK, QUIET, RULE, PAPER = "#181b21", "#5f656f", "#d9dbd6", "#fcfcfa"
WIDE = 5.4  # inches: 518 pixels of a page, and still readable on a phone

SETTINGS: Any = {
    "font.size": 9.5, "text.color": INK, "text.parse_math": False,  # a query may hold a dollar
    "axes.titlesize": 10.5, "axes.titleweight": "bold", "axes.titlelocation": "left",
    "axes.labelcolor": INK, "axes.edgecolor": QUIET, "axes.spines.top": False, "axes.spines.right": False,
    "axes.grid": True, "axes.axisbelow": True, "grid.color": RULE, "grid.linewidth": 0.6,
    "xtick.color": QUIET, "ytick.color": QUIET, "lines.linewidth": 1.8,
    "legend.frameon": False, "legend.fontsize": 8.5,
    "figure.facecolor": PAPER, "axes.facecolor": PAPER, "savefig.facecolor": PAPER,
    "svg.hashsalt": "attnvis", "figure.dpi": 100,
}  # fmt: skip


@dataclass(frozen=True)
class Figure:
    name: str  # of its files
    title: str
    png: bytes
    svg: bytes


def draw(
    name: str, title: str, height: float, paint: Callable[[Any], None], left: float = 0.8, foot: float = 0.55
) -> Figure:
    """`paint` gets the axes; height, left and foot (what is below the axes) in inches."""
    import matplotlib
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure as Canvas

    with matplotlib.rc_context(SETTINGS), warnings.catch_warnings():
        # a query in a script that the font has not
        warnings.filterwarnings("ignore", message="Glyph .* missing")
        canvas = Canvas((WIDE, height))
        FigureCanvasAgg(canvas)
        canvas.subplots_adjust(left / WIDE, foot / height, 1 - 0.27 / WIDE, 1 - 0.36 / height)
        paint(canvas.subplots())
        png, svg = io.BytesIO(), io.StringIO()
        canvas.savefig(png, format="png", dpi=200)
        canvas.savefig(svg, format="svg", dpi=200, metadata={"Date": None})
    return Figure(name, title, png.getvalue(), svg.getvalue().encode())


def short(text: str, room: int = 26) -> str:
    """What is too long loses its middle; matplotlib hides a label that begins with _ from a legend."""
    text = text.lstrip("_") or text.replace("_", "-")
    return text if len(text) <= room else f"{text[: room // 2]}…{text[-(room - room // 2 - 1) :]}"


def legend(axes: Any, foot: float, height: float, columns: int, **more: Any) -> None:
    """Below the axes, over the whole width."""
    handles, labels = axes.get_legend_handles_labels()
    unique = dict(zip(labels, handles, strict=True))
    axes.figure.legend(
        unique.values(),
        unique.keys(),
        loc="upper center",
        bbox_to_anchor=(0.5, (foot - 0.5) / height),
        ncols=columns,
        columnspacing=1.2,
        handlelength=1.4,
        **more,
    )


def octaves(axes: Any, low: float, high: float) -> None:
    """A log axis labelled as people write numbers."""
    from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

    axes.set_xscale("log")
    axes.set_xlim(low, high)
    axes.xaxis.set_major_locator(LogLocator(10, (1, 2, 5) if high / low < 200 else (1,)))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axes.xaxis.set_minor_formatter(NullFormatter())


def plain_numbers(axis: Any) -> None:
    """0.001, not a power of ten."""
    from matplotlib.ticker import FuncFormatter

    axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))


def shades(count: int) -> Any:
    """Colours from red to blue, [count, 4]: a line each, where lines have an order."""
    import matplotlib

    return matplotlib.colormaps["turbo"](np.linspace(0.95, 0.05, count))


def percents(axis: Any) -> None:
    from matplotlib.ticker import FuncFormatter

    axis.set_major_formatter(FuncFormatter(lambda value, _: f"{100 * value:g} %"))

"""Pictures for paper, whose words and colour bar are vectors; and pictures on matplotlib axes of others."""

import io
import textwrap
import warnings
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from jaxtyping import UInt8

from attnvis.render.lettering import format_times
from attnvis.render.overlays import Style, colour_table

__all__ = ["Sheet", "draw_sheet", "plot"]

Picture = UInt8[np.ndarray, "_ _ 3"]

MARGIN, GAP, LINE = 0.2, 0.12, 0.16  # inches: around, between pictures, of a line of small words
SMALL, PLAIN, TITLE = 7.0, 8.0, 10.0  # points
BAR = 0.12  # inches: the height of the colours; its numbers stand below, its title above
BAR_ROOM = 0.62
LETTER = 0.5  # of a letter's size is its width, on average

# Words stay words, to be searched and edited; the same sheet gives the same bytes.
SETTINGS: Any = {
    "svg.fonttype": "none", "pdf.fonttype": 42, "svg.hashsalt": "attnvis", "text.parse_math": False,
    "font.size": PLAIN, "axes.linewidth": 0.5,
}  # fmt: skip
UNDATED = {"pdf": {"CreationDate": None}, "svg": {"Date": None}}


@dataclass(frozen=True, eq=False)
class Sheet:
    """Pictures with captions in rows of `columns`, words above and below, and one colour bar for all."""

    tiles: Sequence[tuple[Picture, str]]
    columns: int
    title: str
    lines: Sequence[str]
    style: Style
    headings: Sequence[str] = field(default_factory=tuple)  # one a row, or none
    seen: tuple[float, float] | None = None  # the ends of the scale min_max
    width: float = 6.5  # inches of the sheet

    @property
    def tile_width(self) -> float:
        room = self.width - 2 * MARGIN - (self.columns - 1) * GAP
        return room / self.columns

    def rows(self) -> list[Sequence[tuple[Picture, str]]]:
        return [self.tiles[start : start + self.columns] for start in range(0, len(self.tiles), self.columns)]

    def wrapped(self, text: str, width: float, points: float) -> list[str]:
        """Lines of words that fit so many inches."""
        return textwrap.wrap(text, max(8, int(width * 72 / (points * LETTER))))


def draw_sheet(sheet: Sheet, kind: str) -> bytes:
    """A pdf or svg of the sheet."""
    import matplotlib
    from matplotlib.figure import Figure

    inside = sheet.width - 2 * MARGIN
    title = sheet.wrapped(sheet.title, inside, TITLE)
    lines = [line for text in sheet.lines for line in sheet.wrapped(text, inside, PLAIN)]
    heights = [row_height(sheet, row) for row in sheet.rows()]
    height = 2 * MARGIN + 1.4 * LINE * len(title) + sum(heights) + BAR_ROOM + LINE * len(lines)
    height += 1.4 * LINE * len(sheet.headings)
    with matplotlib.rc_context(SETTINGS), warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Glyph .* missing")  # a name in a script the font has not
        figure = Figure((sheet.width, height))
        pen = Pen(figure, sheet.width, height)
        for line in title:
            pen.write(line, MARGIN, size=TITLE, weight="bold")
            pen.down += 1.4 * LINE
        for number, row in enumerate(sheet.rows()):
            if number < len(sheet.headings):
                pen.write(sheet.headings[number], MARGIN, size=PLAIN, weight="bold")
                pen.down += 1.4 * LINE
            draw_row(pen, sheet, row)
            pen.down += heights[number]
        axes = pen.axes(MARGIN, pen.down + LINE + 0.04, inside, BAR)
        add_bar(figure, sheet.style, sheet.seen, cax=axes, orientation="horizontal")
        pen.write(bar_title(sheet.style), MARGIN, size=SMALL)
        pen.down += BAR_ROOM
        for line in lines:
            pen.write(line, MARGIN, size=PLAIN)
            pen.down += LINE
        file = io.BytesIO()
        figure.savefig(file, format=kind, metadata=UNDATED[kind])
    return file.getvalue()


class Pen:
    """Places on a figure, in inches from its upper left corner; `down` is how far it is written."""

    def __init__(self, figure: Any, width: float, height: float) -> None:
        self.figure, self.width, self.height = figure, width, height
        self.down = MARGIN

    def write(self, text: str, left: float, size: float, weight: str = "normal", below: float = 0.0) -> None:
        top = 1 - (self.down + below) / self.height
        self.figure.text(left / self.width, top, text, size=size, weight=weight, va="top")

    def axes(self, left: float, top: float, width: float, height: float) -> Any:
        bottom = self.height - top - height
        return self.figure.add_axes(
            (left / self.width, bottom / self.height, width / self.width, height / self.height)
        )


def row_height(sheet: Sheet, row: Sequence[tuple[Picture, str]]) -> float:
    """Of the tallest picture and the longest caption, and the gap below, in inches."""
    pictures = max(sheet.tile_width * pixels.shape[0] / pixels.shape[1] for pixels, _ in row)
    captions = max(len(sheet.wrapped(caption, sheet.tile_width, SMALL)) for _, caption in row)
    return pictures + 0.05 + LINE * captions + GAP


def draw_row(pen: Pen, sheet: Sheet, row: Sequence[tuple[Picture, str]]) -> None:
    """Pictures beside one another, each with its caption below."""
    width = sheet.tile_width
    for number, (pixels, caption) in enumerate(row):
        left = MARGIN + number * (width + GAP)
        height = width * pixels.shape[0] / pixels.shape[1]
        axes = pen.axes(left, pen.down, width, height)
        axes.imshow(pixels, interpolation="none", aspect="auto")  # none: its own pixels, as they are
        axes.axis("off")
        for index, line in enumerate(sheet.wrapped(caption, width, SMALL)):
            pen.write(line, left, size=SMALL, below=height + 0.05 + LINE * index)


def plot(
    picture: Picture, style: Style, title: str, seen: tuple[float, float] | None = None, axes: Any = None
) -> Any:
    """A picture on matplotlib axes with its colour bar beside it; without axes on a figure of its own.

    Gives the axes.
    """
    if axes is None:
        from matplotlib import pyplot

        _, axes = pyplot.subplots()
    axes.imshow(picture)
    axes.axis("off")
    axes.set_title(title, parse_math=False)
    bar = add_bar(axes.figure, style, seen, ax=axes)
    bar.set_label(bar_title(style))
    return axes


def add_bar(figure: Any, style: Style, seen: tuple[float, float] | None, **place: Any) -> Any:
    """The scale in its own units: times uniform in octaves, or the map's own range."""
    from matplotlib.cm import ScalarMappable
    from matplotlib.colors import ListedColormap, LogNorm, Normalize

    colours = ListedColormap(colour_table(style.colours)[:, 0] / 255.0)
    is_octaves = style.scale == "times_uniform"
    norm = LogNorm(style.low, style.high) if is_octaves else Normalize(*(seen or (0, 1)))
    bar = figure.colorbar(ScalarMappable(norm, colours), **place)
    bar.solids.set(rasterized=False, edgecolor="face")  # vectors, without hairlines between them
    bar.ax.tick_params(labelsize=SMALL)
    if not is_octaves:
        return bar
    first, last = np.log2([style.low, style.high])
    ticks = 2.0 ** np.arange(np.ceil(first), np.floor(last) + 1)
    if len(ticks) > 9:
        ticks = ticks[(np.log2(ticks) % 2) == 0]
    signs = {style.low: "≤ ", style.high: "≥ "}
    bar.set_ticks(ticks, labels=[signs.get(tick, "") + format_times(tick) for tick in ticks])
    bar.minorticks_off()
    return bar


def bar_title(style: Style) -> str:
    if style.scale == "min_max":
        return "attention in times uniform, from this map's smallest to its largest"
    return "attention in times uniform, log scale; 1× is no preference"

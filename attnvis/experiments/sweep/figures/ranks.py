"""The weights from the hottest patch to the coldest, mean over photos, a line for each of a few settings."""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from jaxtyping import Float

from attnvis.experiments.sweep.figures.common import PANELS, Section, file_names, first_of
from attnvis.experiments.sweep.statistics import SQRT_D, Series
from attnvis.methods.settings import RANKS
from attnvis.render.plots import INK, Figure, draw, percents, shades, short

__all__ = ["apart", "few_of", "section"]

LINES = 6  # of a figure
HEIGHT = 3.6  # inches
ROOM = 0.46  # right of the lines, for their names, in lengths of the axis
FLOOR = -12.0  # log2 of the lowest weight that is shown


def section(all_series: Sequence[Series]) -> Section:
    """A figure for each query."""
    drawn = all_series[:PANELS]
    names = file_names("ranks", [series.name for series in drawn])
    figures = tuple(lines(series, name) for series, name in zip(drawn, names, strict=True))
    caption = (
        "Each map's weights in falling order, as N·a on a log scale, averaged over the photos (the mean of "
        f"log₂ N·a) at {RANKS} equal steps from the hottest patch to the coldest. 1× is what a patch gets "
        "when there is no preference." + left_out(drawn) + first_of(len(all_series))
    )
    return Section("How the weight is shared out", figures, (caption,))


def left_out(drawn: Sequence[Series]) -> str:
    """The end of a caption where a figure has fewer lines than there are settings."""
    most = max(len(series.names) for series in drawn)
    if most <= LINES:
        return ""
    return (
        f" Drawn are {LINES} of {most} settings: the sharpest and the flattest, 1/√d_k, and evenly between "
        "them; the table below has all."
    )


def few_of(hottest: Float[np.ndarray, " S"], usual: int | None = None) -> list[int]:
    """The settings that are drawn, from the sharpest to the flattest by the weight of their hottest patch.

    The first, the last and the `usual` one are among them.
    """
    order = np.argsort(-hottest, kind="stable").tolist()
    if len(order) <= LINES:
        return order
    places = np.linspace(0, len(order) - 1, LINES).round().astype(int).tolist()
    if usual is not None and order.index(usual) not in places:
        wanted = order.index(usual)
        nearest = min(places[1:-1], key=lambda place: abs(place - wanted))
        places[places.index(nearest)] = wanted
    return [order[place] for place in places]


def apart(heights: Sequence[float], gap: float) -> list[float]:
    """Heights in their order, moved as little as keeps each `gap` from the next."""
    order = sorted(range(len(heights)), key=lambda index: heights[index])
    groups: list[list[int]] = []  # of labels that touch: each stands centred on its own mean
    for index in order:
        groups.append([index])
        while len(groups) > 1 and top(groups[-2], heights, gap) + gap > bottom(groups[-1], heights, gap):
            groups[-2:] = [groups[-2] + groups[-1]]
    moved = list(heights)
    for group in groups:
        for place, index in enumerate(group):
            moved[index] = bottom(group, heights, gap) + place * gap
    return moved


def bottom(group: Sequence[int], heights: Sequence[float], gap: float) -> float:
    """Where the lowest of a group of labels stands."""
    return sum(heights[index] for index in group) / len(group) - gap * (len(group) - 1) / 2


def top(group: Sequence[int], heights: Sequence[float], gap: float) -> float:
    return bottom(group, heights, gap) + gap * (len(group) - 1)


def lines(series: Series, name: str) -> Figure:
    """A line for each of a few settings, with its name at its cold end."""
    curves = series.curves["ranks"]
    usual = series.settings.index(SQRT_D) if SQRT_D in series.settings else None
    few = few_of(curves[:, 0], usual)
    top_power = max(2.0, float(curves[few].max()))
    floor = max(FLOOR, min(-2.0, float(curves[few].min()) - 0.3))

    def paint(axes: Any) -> None:
        share = np.linspace(0, 1, curves.shape[1])
        ends = [max(float(curves[row, -1]), floor) for row in few]
        labels = apart(ends, gap=(top_power + 0.4 - floor) / 17)
        lift = max(0.0, floor - min(labels))  # of labels, where several lines end below the axis
        for shade, row, end, height in zip(shades(len(few)), few, ends, labels, strict=True):
            axes.plot(share, curves[row], color=shade, linewidth=1.7)
            axes.plot([1, 1.035], [end, height + lift], color=shade, linewidth=0.8, clip_on=False)
            axes.text(
                1.045, height + lift, short(series.names[row], 22), color=INK, fontsize=8.5, va="center"
            )
            axes.plot([1.035], [height + lift], marker="o", markersize=3.5, color=shade, clip_on=False)
        axes.plot([0, 1], [0, 0], color=INK, linewidth=0.9, linestyle=(0, (4, 3)))
        step = 2 if top_power - floor < 14 else 4
        ticks = [power for power in range(-12, math.ceil(top_power) + 1) if power % step == 0]
        axes.set_yticks(ticks, [f"{2**power}×" if power >= 0 else f"1/{2**-power}×" for power in ticks])
        axes.set_ylim(floor, top_power + 0.4)
        axes.set_xlim(0, 1 + ROOM)
        axes.set_xticks([0, 0.2, 0.4, 0.6, 0.8, 1])
        axes.spines["bottom"].set_bounds(0, 1)
        percents(axes.xaxis)
        axes.set_xlabel("patches, from the hottest to the coldest", x=0.5 / (1 + ROOM))
        axes.set_ylabel("weight, times uniform (log scale)")
        axes.set_title(short(series.name, 50))

    return draw(name, f"Ranked weights, {series.name}", HEIGHT, paint, left=0.95)

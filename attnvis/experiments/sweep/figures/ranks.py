"""The weights from the hottest patch to the coldest, mean over photos, a line per setting."""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from attnvis.experiments.sweep.figures.common import PANELS, Section, file_names, first_of
from attnvis.experiments.sweep.statistics import Series
from attnvis.methods.settings import RANKS
from attnvis.render.plots import INK, Figure, draw, legend, percents, shades, short

__all__ = ["section"]


def section(all_series: Sequence[Series]) -> Section:
    drawn = all_series[:PANELS]
    names = file_names("ranks", [series.name for series in drawn])
    figures = tuple(lines(series, name) for series, name in zip(drawn, names, strict=True))
    caption = (
        "Each map's weights in falling order, as N·a on a log scale, averaged over the photos (the mean of "
        f"log₂ N·a) at {RANKS} equal steps from the hottest patch to the coldest. 1× is what a patch gets "
        "when there is no preference." + first_of(len(all_series))
    )
    return Section("How the weight is shared out", figures, (caption,))


def lines(series: Series, name: str) -> Figure:
    curves = series.curves["ranks"]
    order = np.argsort(-curves[:, 0], kind="stable")
    rows = math.ceil(len(order) / 3)
    foot, height = 0.66 + 0.185 * rows, 3.5 + 0.185 * rows

    def paint(axes: Any) -> None:
        share = np.linspace(0, 1, curves.shape[1])
        for shade, row in zip(shades(len(order)), order, strict=True):
            axes.plot(share, curves[row], color=shade, linewidth=1.5, label=short(series.names[row], 22))
        axes.axhline(0, color=INK, linewidth=0.9, linestyle=(0, (4, 3)))
        top = max(2.0, float(curves.max()))
        bottom = max(-12.0, min(-2.0, float(curves.min()) - 0.3))
        step = 2 if top - bottom < 14 else 4
        ticks = [power for power in range(-12, math.ceil(top) + 1) if power % step == 0]
        axes.set_yticks(ticks, [f"{2**power}×" if power >= 0 else f"1/{2**-power}×" for power in ticks])
        axes.set_ylim(bottom, top + 0.4)
        axes.set_xlim(0, 1)
        percents(axes.xaxis)
        axes.set_xlabel("patches, from the hottest to the coldest")
        axes.set_ylabel("weight, times uniform (log scale)")
        axes.set_title(short(series.name, 50))
        legend(axes, foot, height, 3)

    return draw(name, f"Ranked weights, {series.name}", height, paint, left=0.95, foot=foot)

"""Setting by setting: how sharp the maps are (it moves), and their order as the scores' (it must not)."""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from attnvis.experiments.sweep.figures.common import QUERY_COLOURS, Section
from attnvis.experiments.sweep.orderings import EXACT, Order, badness, orders
from attnvis.experiments.sweep.statistics import Series, band, band_words
from attnvis.experiments.wording import listed, many, superscript
from attnvis.render.plots import INK, Figure, draw, legend, short

__all__ = ["section"]

FREE, BROKEN = "#009e73", "#c40000"


def section(all_series: Sequence[Series]) -> Section | None:
    """One figure of all queries; None where no order was to be kept."""
    checked = orders(all_series)
    if not checked:
        return None
    return Section("Self-check: order", (figure(all_series, checked),), caption(checked))


def caption(checked: Sequence[Order]) -> tuple[str, ...]:
    fewest = min(order.count for order in checked)
    paragraphs = [
        f"Blue: the median share of the patches, with a bar {band_words(fewest)} the maps. "
        "Diamonds: the lowest Spearman correlation of logits with raw scores over all photos. A scaling that "
        "multiplies the scores of a photo by one positive factor cannot change the order; with softmax, "
        "whoever measures only AUC, pointing game or hit rate sees this flat line and nothing else. A "
        "normaliser that sets weights to 0 makes ties of them, and those metrics see that."
    ]
    factors = [order for order in checked if order.factor]
    if factors:
        paragraphs.append(sentence_on_factors(factors))
    free = [order for order in checked if not order.factor]
    moving = [f"{order.worst:.3g} under {order.setting}" for order in free if not order.worst >= 1 - EXACT]
    if moving:
        paragraphs.append(f"Free to reorder, and so they do; lowest over the photos: {listed(moving)}.")
    still = [order.setting for order in free if order.worst >= 1 - EXACT]
    if still:
        paragraphs.append(f"Free to reorder, and did not here: {listed(still)}.")
    return tuple(paragraphs)


def sentence_on_factors(factors: Sequence[Order]) -> str:
    """How many of the maps that must keep their order have kept it."""
    count, exact = sum(order.count for order in factors), sum(order.exact for order in factors)
    lowest = min(factors, key=lambda order: badness(order.worst))
    rounding = f"10{superscript(round(math.log10(EXACT)))}"
    at_worst = ""
    if exact < count:
        at_worst = f"; the lowest is {lowest.worst:.6g} ({lowest.setting}, {lowest.photo})"
    have = "has" if exact == 1 else "have"
    return (
        f"Of such settings {exact} of {many(count, 'map')} {have} correlation 1 to "
        f"{rounding}{at_worst}. Scores that rounding makes equal may lower it: each such pair costs "
        "3/(N(N²−1)), and as many as a quarter of the patches are let pass."
    )


def figure(all_series: Sequence[Series], checked: Sequence[Order]) -> Figure:
    by_name = {order.setting: order for order in checked}
    shares: dict[str, list[np.ndarray]] = {}
    for series in all_series:
        for column, name in enumerate(series.names):
            shares.setdefault(name, []).append(series.share[:, column])
    medians = {
        name: float(np.nanmedian(np.concatenate(values)))
        for name, values in shares.items()
        if name in by_name
    }
    names = sorted(medians, key=lambda name: medians[name])
    foot = 0.95
    height = foot + 0.36 + 0.22 * max(len(names), 3)
    worst = min([order.worst for order in checked if not math.isnan(order.worst)], default=1.0)

    def paint(axes: Any) -> None:
        blue = QUERY_COLOURS[0]
        for row, name in enumerate(names):
            of_maps = np.concatenate(shares[name])
            low, high = np.nanpercentile(of_maps, band(len(of_maps)))
            axes.plot([low, high], [row, row], color=blue, linewidth=3.5, alpha=0.3, solid_capstyle="butt")
            axes.plot(
                medians[name],
                row,
                "o",
                color=blue,
                markersize=5.5,
                label="perplexity / patches",
            )
            order = by_name[name]
            colour, label = look_of(order)
            axes.plot(order.worst, row, "D", color=colour, markersize=5, label=label, clip_on=False, zorder=5)
        axes.set_yticks(range(len(names)), [short(name, 22) for name in names], fontsize=8.5, color=INK)
        axes.set_ylim(-0.7, len(names) - 0.3)
        axes.set_xlim(min(0.0, worst - 0.03), 1.02)
        axes.set_xlabel("share of the patches; rank correlation")
        axes.set_title("sharpness and order")
        legend(axes, foot, height, 2, fontsize=8)

    title = "Rank correlation and sharpness, setting by setting"
    return draw("self_check", title, height, paint, left=1.55, foot=foot)


def look_of(order: Order) -> tuple[str, str]:
    """The colour and the label of its diamond."""
    if order.broken:
        return BROKEN, "broken"
    if order.factor:
        return INK, "worst rank correlation (of a factor: must be 1)"
    return FREE, "of what may reorder"

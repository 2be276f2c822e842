"""Perplexity share against sigma_eff, one curve whichever scaling set it; how far from theory maps lie."""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from jaxtyping import Float

from attnvis.experiments.sweep.figures.common import (
    SCALING_COLOURS,
    Section,
    Table,
    kind_of_scaling,
    query_colours,
)
from attnvis.experiments.sweep.laws import LAW_FROM, Deviation, simple_law, theory_deviation
from attnvis.experiments.sweep.statistics import BAND, Series
from attnvis.experiments.wording import COUNTED, many
from attnvis.metrics.diagnostics import freezing_point
from attnvis.render.html import format_number
from attnvis.render.plots import INK, Figure, draw, legend, octaves, percents, short

__all__ = ["section"]

POINTS = 4_000  # of a scatter; more are thinned


def section(all_series: Sequence[Series]) -> Section:
    """By kind of scaling, and where there are several queries once more by query."""
    several = len({series.query for series in all_series}) > 1
    figures = tuple(scatter(all_series, by_query) for by_query in ((False, True) if several else (False,)))
    return Section(
        "The spread of the logits decides how sharp a map is",
        figures,
        caption(all_series),
        deviations(all_series),
    )


def caption(all_series: Sequence[Series]) -> tuple[str, ...]:
    patches = np.concatenate([series.patches for series in all_series])
    middle, low, high = float(np.median(patches)), int(patches.min()), int(patches.max())
    shapes = (
        "as all photos have" if low == high else f"the median; photos of other shapes have {low} … {high}"
    )
    other = "" if all(series.softmax.all() for series in all_series) else "; or maps that are not softmax's"
    total = sum(series.share.size for series in all_series)
    thinned = f" About {POINTS} of {total} are drawn, chosen at random." if total > POINTS else ""
    return (
        "Each point is one photo, query and setting. Were a scaling nothing but the spread σ_eff that it "
        "gives the logits, all points would fall on one curve: exp(−σ²/2) for independent normal scores, "
        "until at √(2 ln N) the attention sits on single patches (Derrida 1981). What lies off the curve are "
        f"photos whose scores are not normal: skewed, or with a few patches far above all{other}. Up to "
        "about σ = 1 two more numbers of the logits bring them back, skewness g and excess kurtosis k: "
        "exp(−σ²/2 − gσ³/3 − kσ⁴/8).",
        f"The dashed line is for N = {middle:g} patches ({shapes}). Points beyond the ends of the axis are "
        f"drawn at the ends.{thinned}",
    )


# -------------------------------------------------------------------------------- points


def points_of(
    all_series: Sequence[Series], by_query: bool
) -> list[tuple[str, str, Float[np.ndarray, "points 2"]]]:
    """(label, colour, (sigma_eff, share) of photos) by series and setting; by query of softmax alone."""
    colours = query_colours(all_series)
    clouds = []
    for series in all_series:
        for column, setting in enumerate(series.settings):
            if by_query and not series.softmax[column]:
                continue
            label = series.query if by_query else kind_of_scaling(setting)
            colour = colours[label] if by_query else SCALING_COLOURS[label]
            points = np.stack([series.numbers["sigma_eff"][:, column], series.share[:, column]], 1)
            drawable = np.isfinite(points).all(1) & (points > 0).all(1)  # both axes are logarithmic
            clouds.append((label, colour, points[drawable]))
    return clouds


def scatter(all_series: Sequence[Series], by_query: bool) -> Figure:
    """Every photo, query and setting a point."""
    clouds = points_of(all_series, by_query)
    total = sum(len(points) for _, _, points in clouds)
    random = np.random.default_rng(0)
    shown = [
        (label, colour, points[random.random(len(points)) < POINTS / max(total, 1)])
        for label, colour, points in clouds
    ]
    labels = {label: colour for label, colour, _ in clouds}
    patches = np.concatenate([series.patches for series in all_series])
    middle = float(np.median(patches))
    freezing = freezing_point(max(2, round(middle)))
    low, high = 0.05, 6 * freezing
    rows = math.ceil((len(labels) + 1) / 2)
    height, foot = 3.55 + 0.2 * rows, 0.62 + 0.2 * rows

    def paint(axes: Any) -> None:
        octaves(axes, low, high)
        points = np.concatenate([points for _, _, points in shown]) if shown else np.empty((0, 2))
        colours = np.repeat(
            [colour for _, colour, _ in shown],
            [len(points) for _, _, points in shown],
        )
        order = random.permutation(len(points))  # no colour lies on top of another
        axes.scatter(
            np.clip(points[order, 0], low * 1.03, high * 0.97),
            points[order, 1],
            s=9 if total > 400 else 16,
            c=colours[order],
            alpha=0.5,
            linewidths=0,
            rasterized=True,
        )
        for label, colour in labels.items():
            axes.scatter([], [], s=22, color=colour, label=short(label, 36), linewidths=0)
        sigma = np.geomspace(low, freezing, 200)
        axes.plot(sigma, simple_law(sigma), color=INK, linewidth=1.6, label="theory: exp(−σ²/2)")
        axes.axvline(freezing, color=INK, linewidth=1, linestyle=(0, (4, 3)))
        axes.text(
            freezing * 1.06,
            0.985,
            f"frozen beyond\n√(2 ln {middle:g}) = {freezing:.3g}",
            va="top",
            fontsize=8.5,
        )
        axes.set_ylim(0, 1.03)
        percents(axes.yaxis)
        axes.set_xlabel("σ_eff: standard deviation of the logits over the patches")
        axes.set_ylabel("perplexity / patches")
        axes.set_title(heading(all_series, by_query))
        legend(axes, foot, height, 2)

    name = "collapse_by_query" if by_query else "collapse_by_scaling"
    title = f"Perplexity share against sigma_eff, {'by query' if by_query else 'by kind of scaling'}"
    return draw(name, title, height, paint, foot=foot)


def heading(all_series: Sequence[Series], by_query: bool) -> str:
    if not by_query:
        return "coloured by kind of scaling"
    if all(series.softmax.all() for series in all_series):
        return "coloured by query"
    return "coloured by query (softmax only)"


# -------------------------------------------------------------------------------- theory


def deviations(all_series: Sequence[Series]) -> Table | None:
    """Of all series, then of each: how far from theory for sigma_eff <= 1, and below freezing."""
    softmax = [series for series in all_series if series.softmax.any()]
    if not softmax:
        return None
    rows = [("all", theory_deviation(softmax))]
    if len(softmax) > 1:
        rows += [(series.name, theory_deviation([series])) for series in softmax]
    cells = [
        (name, tuple(as_cell(law) for law in (theory.simple, theory.cumulants, theory.unfrozen)))
        for name, theory in rows
    ]
    return Table(
        f"How far perplexity/N lies from theory, median and {BAND[1]}th percentile over maps, of fewer than "
        f"{COUNTED} the highest (softmax only; maps "
        f"with σ_eff below {LAW_FROM:g} are left out: nearly uniform ones fit any law)",
        (
            "query",
            f"exp(−σ²/2), {LAW_FROM:g} ≤ σ ≤ 1",
            "with skewness and kurtosis",
            "exp(−σ²/2), below freezing",
        ),
        tuple(cells),
    )


def as_cell(deviation: Deviation) -> tuple[str, str]:
    if not deviation.count:
        return "–", ""
    numbers = f"{format_number(deviation.median, 2)}, {format_number(deviation.high, 2)}"
    return numbers, many(deviation.count, "map")

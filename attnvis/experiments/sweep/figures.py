"""A sweep's series -> its figures."""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from jaxtyping import Float

from attnvis.attention.scaling import positive_factor
from attnvis.experiments.sweep.statistics import Order, Series
from attnvis.methods.settings import GAPS, TEMPERATURES
from attnvis.metrics.diagnostics import freezing_point
from attnvis.render.plots import (
    INK,
    PAPER,
    QUIET,
    Figure,
    draw,
    legend,
    octaves,
    percents,
    plain_numbers,
    shades,
    short,
)

__all__ = [
    "FAMILIES",
    "collapse",
    "ecdf",
    "family",
    "gap_factors",
    "gaps",
    "gradient",
    "peak",
    "ranks",
    "self_check",
]

QUERIES = (
    "#0072b2",
    "#d55e00",
    "#009e73",
    "#cc79a7",
    "#56b4e9",
    "#a07000",
    "#444444",
    "#8c2d8c",
)  # Okabe and Ito, readable on white
FAMILIES = {
    "one factor for every photo": "#0072b2",
    "a factor of each photo's own": "#d55e00",
    "cosine: a factor of each patch's own": "#009e73",
    "not softmax": "#8c2d8c",
    "yours": "#444444",
}
OWN = ("zscore", "robust_z", "minmax", "perplexity")  # take their factor from the photo's scores

POINTS = 4_000  # of a scatter; more are thinned


def family(setting: tuple[str, str]) -> str:
    scaling, normalise = setting
    name = scaling.partition(":")[0]
    kinds = list(FAMILIES)
    if normalise != "softmax":
        return kinds[3]
    if name in OWN:
        return kinds[1]
    return kinds[2] if name == "cosine" else kinds[0] if positive_factor(scaling) else kinds[4]


def colours_of(series: Sequence[Series]) -> dict[str, str]:
    """Every query has its colour, in all jobs the same."""
    return {
        query: QUERIES[i % len(QUERIES)] for i, query in enumerate(dict.fromkeys(one.query for one in series))
    }


# ------------------------------------------------------------------------------------------------ the collapse


def collapse(series: Sequence[Series], by_query: bool) -> Figure:
    """Perplexity / N against sigma_eff, every photo, query and setting a point; by query of softmax alone."""
    colours = colours_of(series)
    parts = []
    for one in series:
        for column, setting in enumerate(one.settings):
            if by_query and not one.softmax[column]:
                continue
            colour = colours[one.query] if by_query else FAMILIES[family(setting)]
            label = one.query if by_query else family(setting)
            values = np.stack([one.numbers["sigma_eff"][:, column], one.share[:, column]], 1)
            parts.append((label, colour, values[np.isfinite(values).all(1) & (values > 0).all(1)]))
    total = sum(len(values) for _, _, values in parts)
    random = np.random.default_rng(0)
    shown = [
        (label, colour, values[random.random(len(values)) < POINTS / max(total, 1)])
        for label, colour, values in parts
    ]
    labels = {label: colour for label, colour, _ in parts}
    patches = np.concatenate([one.patches for one in series])
    middle = float(np.median(patches))
    freezing = freezing_point(max(2, round(middle)))
    low, high = 0.05, 6 * freezing
    rows = math.ceil((len(labels) + 1) / 2)
    height, foot = 3.55 + 0.2 * rows, 0.62 + 0.2 * rows

    def paint(axes: Any) -> None:
        octaves(axes, low, high)
        places = np.concatenate([values for _, _, values in shown]) if shown else np.empty((0, 2))
        shades = np.repeat([colour for _, colour, _ in shown], [len(values) for _, _, values in shown])
        order = random.permutation(len(places))  # no colour lies on top of another
        x = np.clip(places[order, 0], low * 1.03, high * 0.97)
        axes.scatter(
            x,
            places[order, 1],
            s=9 if total > 400 else 16,
            c=shades[order],
            alpha=0.5,
            linewidths=0,
            rasterized=True,
        )
        for label, colour in labels.items():
            axes.scatter([], [], s=22, color=colour, label=short(label, 36), linewidths=0)
        sigma = np.geomspace(low, freezing, 200)
        axes.plot(sigma, np.exp(-(sigma**2) / 2), color=INK, linewidth=1.6, label="theory: exp(−σ²/2)")
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
        axes.set_title(
            "coloured by query (softmax only)"
            if by_query and not all(one.softmax.all() for one in series)
            else "coloured by query"
            if by_query
            else "coloured by kind of scaling"
        )
        legend(axes, foot, height, 2)

    name = "collapse_by_query" if by_query else "collapse_by_scaling"
    title = f"Perplexity share against sigma_eff, {'by query' if by_query else 'by kind of scaling'}"
    return draw(name, title, height, paint, foot=foot)


# ------------------------------------------------------------------------------------------------ gaps


def gap_factors(one: Series) -> list[tuple[int, str, float, bool]]:
    """(setting, scaling, by what it multiplies a gap, whether the same on every photo), one for each scaling."""
    found: dict[str, tuple[int, str, float, bool]] = {}
    for column, (scaling, _) in enumerate(one.settings):
        with np.errstate(divide="ignore", invalid="ignore"):
            factors = one.numbers["sigma_eff"][:, column] / one.score_std
        factors = factors[np.isfinite(factors) & (factors > 0)]
        middle = float(np.median(factors)) if len(factors) else math.nan
        same = positive_factor(scaling) and bool(len(factors)) and float(np.ptp(factors)) <= 1e-4 * middle
        found.setdefault(scaling, (column, scaling, middle, same))
    return list(found.values())


def middle_gap(counts: Float[np.ndarray, " bins"]) -> float:
    """The median of a histogram over GAPS: log10, linear inside its bin."""
    low, high, bins = GAPS
    total = counts.sum()
    if not total:
        return math.nan
    reached = np.cumsum(counts)
    at = int(np.searchsorted(reached, total / 2))
    inside = (total / 2 - (reached[at] - counts[at])) / counts[at]
    return low + (at + inside) * (high - low) / bins


def gaps(one: Series, name: str) -> Figure:
    """How far two patches of a photo are apart: the raw scores, and the logits of every scaling, from the widest to the narrowest."""
    low, high, bins = GAPS
    histograms = one.curves["gaps"]
    edges = np.linspace(low, high, bins + 1)
    centres = (edges[:-1] + edges[1:]) / 2
    rows = [("raw scores", QUIET, histograms[0], "")]
    for column, scaling, factor, same in sorted(gap_factors(one), key=lambda row: -np.nan_to_num(row[2])):
        said = "" if math.isnan(factor) else f"÷ {1 / factor:.3g}" if factor < 1 else f"× {factor:.3g}"
        words = said if same else f"≈ {said}" if positive_factor(scaling) else ""
        rows.append((scaling, FAMILIES[family((scaling, "softmax"))], histograms[column + 1], words))
    seen = np.sum([histogram / max(histogram.sum(), 1) for _, _, histogram, _ in rows], 0)
    used = centres[seen > 0.01]
    left, right = (max(low, used.min() - 0.3), min(high, used.max() + 0.95)) if len(used) else (low, high)
    foot = 0.55
    height = foot + 0.36 + 0.29 * (len(rows) + 1)

    def paint(axes: Any) -> None:
        axes.grid(visible=False, axis="y")
        for row, (_, colour, histogram, words) in enumerate(rows):
            base = -float(row)
            tall = base + 1.35 * histogram / max(histogram.max(), 1)
            axes.fill_between(
                centres, base, tall, step="mid", color=colour, alpha=0.55, linewidth=0, zorder=row + 2
            )
            axes.step(centres, tall, where="mid", color=PAPER, linewidth=0.6, zorder=row + 2)
            middle = middle_gap(histogram)
            axes.plot([middle, middle], [base, base + 0.55], color=INK, linewidth=1.3, zorder=row + 3)
            axes.text(right, base + 0.12, words, ha="right", fontsize=8, color=QUIET, zorder=99)
        best = math.log10(1.543405)
        axes.axvline(best, color=INK, linewidth=0.9, linestyle=(0, (2, 2)), zorder=1)
        axes.set_yticks(
            [-float(row) + 0.1 for row in range(len(rows))],
            [short(label, 16) for label, *_ in rows],
            fontsize=8.5,
            color=INK,
        )
        axes.tick_params(axis="y", length=0)
        axes.spines["left"].set_visible(False)
        axes.set_ylim(-len(rows) + 0.95, 1.55)
        axes.set_xlim(left, right)
        ticks = range(math.ceil(left), math.floor(right) + 1)
        axes.set_xticks(list(ticks), [f"{10.0**power:g}" for power in ticks])
        axes.set_xlabel("difference between two patches of a photo (log scale)")
        axes.set_title(short(one.name, 50))

    return draw(name, f"Gaps between patches, {one.name}", height, paint, left=1.25, foot=foot)


# ------------------------------------------------------------------------------------------------ gradient


def peak(one: Series) -> tuple[float, float, bool]:
    """(tau / std of the scores, median gradient, whether inside the range) where the median over photos is largest."""
    middle = np.median(one.curves["gradient"], 0)
    at = int(middle.argmax())
    return TEMPERATURES[at], float(middle[at]), 0 < at < len(middle) - 1


def gradient(series: Sequence[Series], name: str, colours: dict[str, str]) -> Figure:
    """What of a gradient reaches a raw score, against temperature; all queries of one job."""
    foot, height = 0.62 + 0.2 * math.ceil((len(series) + 3) / 3), 3.5 + 0.2 * math.ceil((len(series) + 3) / 3)
    tau = np.array(TEMPERATURES)

    ends = np.concatenate([np.median(one.curves["gradient"], 0) for one in series])
    highest = max(float(np.percentile(one.curves["gradient"], 95, 0).max()) for one in series)

    def paint(axes: Any) -> None:
        octaves(axes, TEMPERATURES[0], TEMPERATURES[-1])
        axes.set_yscale("log")
        plain_numbers(axes.yaxis)
        axes.set_ylim(max(1e-5, min(float(ends[ends > 0].min(initial=1.0)), 1e-3)), max(2.0 * highest, 1e-2))
        for one in series:
            colour = colours[one.query]
            low, middle, high = np.percentile(one.curves["gradient"], (5, 50, 95), 0)
            axes.fill_between(tau, np.maximum(low, 1e-12), high, color=colour, alpha=0.14, linewidth=0)
            axes.plot(tau, middle, color=colour, label=short(one.query, 22))
            place, value, _ = peak(one)
            axes.plot(place, value, marker="*", markersize=11, color=colour, markeredgecolor=PAPER, zorder=5)
            for sigma, sign in ((one.sigma_sqrt_d, "o"), (one.score_std, "s")):
                known = sigma[sigma > 0]
                if len(known):
                    x = float(np.clip(1 / np.median(known), tau[0], tau[-1]))
                    y = float(np.interp(math.log(x), np.log(tau), middle))
                    axes.plot(
                        x,
                        y,
                        marker=sign,
                        markersize=6.5,
                        color=colour,
                        markeredgecolor=INK,
                        zorder=6,
                        clip_on=False,
                    )
        for sign, words in (("*", "peak"), ("o", "1/√d_k"), ("s", "no scaling")):
            axes.plot([], [], sign, color=QUIET, markersize=7, label=words)
        axes.set_xlabel("temperature, in standard deviations of the scores")
        axes.set_ylabel("gradient at a raw score × std")
        axes.set_title(short(series[0].job, 50) if series[0].job else "gradient against temperature")
        legend(axes, foot, height, 3)

    return draw(name, f"Gradient against temperature {series[0].job}".strip(), height, paint, foot=foot)


# ------------------------------------------------------------------------------------------------ ranked weights


def ranks(one: Series, name: str) -> Figure:
    """The weights from the hottest patch to the coldest, mean over photos, a line per setting."""
    curves = one.curves["ranks"]
    order = np.argsort(-curves[:, 0], kind="stable")
    rows = math.ceil(len(order) / 3)
    foot, height = 0.66 + 0.185 * rows, 3.5 + 0.185 * rows

    def paint(axes: Any) -> None:
        share = np.linspace(0, 1, curves.shape[1])
        for shade, row in zip(shades(len(order)), order, strict=True):
            axes.plot(share, curves[row], color=shade, linewidth=1.5, label=short(one.names[row], 22))
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
        axes.set_title(short(one.name, 50))
        legend(axes, foot, height, 3)

    return draw(name, f"Ranked weights, {one.name}", height, paint, left=0.95, foot=foot)


# ------------------------------------------------------------------------------------------------ sigma_eff over photos


def ecdf(series: Sequence[Series], name: str, colours: dict[str, str]) -> Figure:
    """Share of the photos whose sigma_eff under 1/sqrt(d_k) is at most x; all queries of one job."""
    rows = math.ceil(len(series) / 3)
    foot, height = 0.62 + 0.2 * rows, 3.3 + 0.2 * rows
    patches = float(np.median(np.concatenate([one.patches for one in series])))
    freezing = freezing_point(max(2, round(patches)))
    every = np.concatenate([one.sigma_sqrt_d for one in series])
    every = every[np.isfinite(every) & (every > 0)]
    ends = (float(every.min()), float(every.max())) if len(every) else (1.0, 1.0)

    def paint(axes: Any) -> None:
        octaves(axes, min(0.07, ends[0] / 1.4), max(2.6 * freezing, ends[1] * 1.4))
        low, high = axes.get_xlim()
        axes.axvspan(low, SIGMA_DEAD, color=QUIET, alpha=0.12, linewidth=0)
        axes.axvspan(freezing, high, color=QUIET, alpha=0.12, linewidth=0)
        axes.axvline(freezing, color=INK, linewidth=1, linestyle=(0, (4, 3)))
        axes.text(low * 1.06, 1.015, "uniform", fontsize=8.5, color=QUIET, va="bottom")
        axes.text(freezing * 1.05, 1.015, "frozen", fontsize=8.5, color=QUIET, va="bottom")
        for one in series:
            values = np.sort(one.sigma_sqrt_d[np.isfinite(one.sigma_sqrt_d)])
            if len(values):
                x = np.concatenate([[low], np.maximum(values, low), [high]])
                y = np.concatenate([[0], np.arange(1, len(values) + 1) / len(values), [1]])
                axes.step(x, y, where="post", color=colours[one.query], label=short(one.query, 22))
        axes.set_ylim(0, 1.09)
        axes.set_yticks([0, 0.25, 0.5, 0.75, 1])
        percents(axes.yaxis)
        axes.set_xlabel("σ_eff under 1/√d_k")
        axes.set_ylabel("photos")
        axes.set_title(short(series[0].job, 50) if series[0].job else "σ_eff over photos")
        legend(axes, foot, height, 3)

    return draw(
        name, f"sigma_eff over photos under 1/sqrt(d_k) {series[0].job}".strip(), height, paint, foot=foot
    )


SIGMA_DEAD = math.sqrt(-2 * math.log(0.99))  # where theory has perplexity = .99 N


# ------------------------------------------------------------------------------------------------ the self-check


def self_check(series: Sequence[Series], found: Sequence[Order]) -> Figure:
    """Setting by setting: how sharp the maps are (it moves), and their rank correlation with the raw scores (it must not)."""
    shares: dict[str, list[np.ndarray]] = {}
    for one in series:
        for column, name in enumerate(one.names):
            shares.setdefault(name, []).append(one.share[:, column])
    by_name = {order.setting: order for order in found}
    middles = {
        name: float(np.nanmedian(np.concatenate(values)))
        for name, values in shares.items()
        if name in by_name
    }
    names = sorted(middles, key=lambda name: middles[name])
    foot = 0.95
    height = foot + 0.36 + 0.22 * max(len(names), 3)
    worst = min([order.worst for order in found if not math.isnan(order.worst)], default=1.0)

    def paint(axes: Any) -> None:
        for row, name in enumerate(names):
            low, high = np.nanpercentile(np.concatenate(shares[name]), (5, 95))
            axes.plot(
                [low, high], [row, row], color=QUERIES[0], linewidth=3.5, alpha=0.3, solid_capstyle="butt"
            )
            axes.plot(
                middles[name],
                row,
                "o",
                color=QUERIES[0],
                markersize=5.5,
                label="perplexity / patches (it moves)",
            )
            order = by_name[name]
            colour, label = (
                (INK, "worst rank correlation (of a factor: must be 1)")
                if order.factor
                else ("#009e73", "of what may reorder")
            )
            if order.broken:
                colour, label = "#c40000", "broken"
            axes.plot(order.worst, row, "D", color=colour, markersize=5, label=label, clip_on=False, zorder=5)
        axes.set_yticks(range(len(names)), [short(name, 22) for name in names], fontsize=8.5, color=INK)
        axes.set_ylim(-0.7, len(names) - 0.3)
        axes.set_xlim(min(0.0, worst - 0.03), 1.02)
        axes.set_xlabel("share of the patches; rank correlation")
        axes.set_title("sharpness moves, order stays")
        legend(axes, foot, height, 2, fontsize=8)

    return draw(
        "self_check",
        "Rank correlation and sharpness, setting by setting",
        height,
        paint,
        left=1.55,
        foot=foot,
    )

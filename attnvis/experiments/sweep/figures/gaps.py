"""How far two patches of a photo are apart: what dividing does to the differences of scores."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Float

from attnvis.attention.scaling import positive_factor
from attnvis.experiments.sweep.figures.common import (
    PANELS,
    SCALING_COLOURS,
    Section,
    file_names,
    first_of,
    kind_of_scaling,
)
from attnvis.experiments.sweep.statistics import SQRT_D, Series
from attnvis.methods.settings import GAPS, PAIRS
from attnvis.render.plots import INK, PAPER, QUIET, Figure, draw, short

__all__ = ["middle_gap", "section"]

BEST_GAP = 1.543405  # x tanh(x / 2) = 1: where two patches receive the most gradient


def section(all_series: Sequence[Series]) -> Section:
    """A figure for each query."""
    drawn = all_series[:PANELS]
    names = file_names("gaps", [series.name for series in drawn])
    figures = tuple(hills(series, name) for series, name in zip(drawn, names, strict=True))
    return Section("Dividing narrows the gaps", figures, caption(all_series))


def caption(all_series: Sequence[Series]) -> tuple[str, ...]:
    text = (
        f"Of {PAIRS} pairs of patches a photo, how far the two scores are apart, on a log scale; the tick in "
        "each hill is the median gap, the number at the right the factor (≈: its median, since it differs "
        "from photo to photo; cosine has one for every patch). Dividing by a constant shifts the hill by the "
        f"logarithm of that constant and leaves its shape alone. At a gap of {BEST_GAP:.3g} (dotted) two "
        "patches receive the most gradient: far to the right of it one patch takes all, far to the left "
        "nothing is preferred." + first_of(len(all_series))
    )
    shifts = [shift for series in all_series[:PANELS] for shift in shifts_of(series)]
    if not shifts:
        return (text,)
    return text, f"Under 1/√d_k the median gap moved by: {', '.join(shifts)}."


def shifts_of(series: Series) -> list[str]:
    """By how much 1/sqrt(d_k) moved the median gap, where it is the same factor on every photo."""
    raw = middle_gap(series.curves["gaps"][0])
    texts = []
    for factor in gap_factors(series):
        if factor.same and factor.scaling == SQRT_D[0]:
            shift = middle_gap(series.curves["gaps"][factor.column + 1]) - raw
            expected = f"log₁₀ of {factor.median:.4f} is {math.log10(factor.median):+.3f}"
            texts.append(f"{series.name} {shift:+.3f} ({expected})".replace("-", "−"))
    return texts


# -------------------------------------------------------------------------------- factors


@dataclass(frozen=True)
class Factor:
    """By what a scaling multiplies the gap between two patches."""

    column: int  # of the setting
    scaling: str
    median: float  # over photos; NaN where no photo has one
    same: bool  # on every photo

    @property
    def as_text(self) -> str:
        """÷ 45.3, ≈ × 2, or nothing where it is no factor."""
        if math.isnan(self.median):
            text = ""
        elif self.median < 1:
            text = f"÷ {1 / self.median:.3g}"
        else:
            text = f"× {self.median:.3g}"
        if self.same:
            return text
        return f"≈ {text}" if positive_factor(self.scaling) else ""


def gap_factors(series: Series) -> list[Factor]:
    """One for each scaling, of the first setting that has it."""
    factors: dict[str, Factor] = {}
    for column, (scaling, _) in enumerate(series.settings):
        if scaling in factors:
            continue
        with np.errstate(divide="ignore", invalid="ignore"):
            ratios = series.numbers["sigma_eff"][:, column] / series.score_std
        ratios = ratios[np.isfinite(ratios) & (ratios > 0)]
        median = float(np.median(ratios)) if len(ratios) else math.nan
        alike = bool(len(ratios)) and float(np.ptp(ratios)) <= 1e-4 * median
        factors[scaling] = Factor(column, scaling, median, same=positive_factor(scaling) and alike)
    return list(factors.values())


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


# -------------------------------------------------------------------------------- hills


def hills(series: Series, name: str) -> Figure:
    """The raw scores, and the logits of every scaling, from the widest to the narrowest."""
    low, high, bins = GAPS
    histograms = series.curves["gaps"]
    edges = np.linspace(low, high, bins + 1)
    centres = (edges[:-1] + edges[1:]) / 2
    rows = [("raw scores", QUIET, histograms[0], "")]
    for factor in sorted(gap_factors(series), key=lambda factor: -np.nan_to_num(factor.median)):
        colour = SCALING_COLOURS[kind_of_scaling((factor.scaling, "softmax"))]
        rows.append((factor.scaling, colour, histograms[factor.column + 1], factor.as_text))
    shares = np.sum([histogram / max(histogram.sum(), 1) for _, _, histogram, _ in rows], 0)
    used = centres[shares > 0.01]
    left = max(low, used.min() - 0.3) if len(used) else low
    right = min(high, used.max() + 0.95) if len(used) else high
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
        axes.axvline(math.log10(BEST_GAP), color=INK, linewidth=0.9, linestyle=(0, (2, 2)), zorder=1)
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
        axes.set_title(short(series.name, 50))

    return draw(name, f"Gaps between patches, {series.name}", height, paint, left=1.25, foot=foot)

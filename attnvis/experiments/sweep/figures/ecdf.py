"""On how many photos sigma_eff under 1/sqrt(d_k) is at most x, query by query."""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from attnvis.experiments.sweep.figures.common import PANELS, Section, by_job, file_names, query_colours
from attnvis.experiments.sweep.statistics import Series, band, band_words
from attnvis.experiments.wording import listed
from attnvis.metrics.diagnostics import freezing_point
from attnvis.render.plots import INK, QUIET, Figure, draw, legend, octaves, percents, short

__all__ = ["section"]

ALIKE = 1.05  # numbers that differ by a smaller factor are not said to differ
UNIFORM = 0.99  # of the patches: a map spread over more is called uniform
SIGMA_UNIFORM = math.sqrt(-2 * math.log(UNIFORM))  # where theory has that share


def section(all_series: Sequence[Series]) -> Section:
    """A figure for each job, with all its queries."""
    jobs, colours = by_job(all_series), query_colours(all_series)
    names = file_names("ecdf", list(jobs)[:PANELS])
    figures = tuple(
        steps(job, name, colours) for job, name in zip(list(jobs.values())[:PANELS], names, strict=True)
    )
    return Section("One divisor for all photos and queries", figures, caption(all_series))


def caption(all_series: Sequence[Series]) -> tuple[str, ...]:
    paragraphs = [
        "How many photos have at most this σ_eff = std(s)/√d_k, query by query. Left, in grey, theory calls "
        f"a map more than {100 * UNIFORM:g} % uniform; right of the dashed line it is frozen to single "
        "patches."
    ]
    medians = {
        series.name: float(np.nanmedian(series.sigma_sqrt_d))
        for series in all_series
        if not np.isnan(series.sigma_sqrt_d).all()
    }
    if (
        len(medians) > 1
        and min(medians.values()) > 0
        and max(medians.values()) >= ALIKE * min(medians.values())
    ):
        low = min(medians, key=lambda name: medians[name])
        high = max(medians, key=lambda name: medians[name])
        paragraphs.append(
            "Another divisor moves all curves by the same step, and cannot bring them onto one another: "
            f"the medians differ by a factor of {medians[high] / medians[low]:.2g}: "
            f"{medians[low]:.2g} ({low}) to {medians[high]:.2g} ({high})."
        )
    widths: dict[str, list[str]] = {}
    for series in all_series[:PANELS]:
        known = series.sigma_sqrt_d[np.isfinite(series.sigma_sqrt_d) & (series.sigma_sqrt_d > 0)]
        if len(known) > 1:
            low_end, high_end = np.percentile(known, band(len(known)))
            if high_end >= ALIKE * low_end:
                factor = f"{high_end / low_end:.2g} ({series.name})"
                widths.setdefault(band_words(len(known)), []).append(factor)
    for which, factors in widths.items():
        paragraphs.append(f"Within one query, {which} the photos, σ_eff spans a factor of {listed(factors)}.")
    return tuple(paragraphs)


def steps(job: Sequence[Series], name: str, colours: dict[str, str]) -> Figure:
    """All queries of one job."""
    rows = math.ceil(len(job) / 3)
    foot, height = 0.62 + 0.2 * rows, 3.3 + 0.2 * rows
    patches = float(np.median(np.concatenate([series.patches for series in job])))
    freezing = freezing_point(max(2, round(patches)))
    sigmas = np.concatenate([series.sigma_sqrt_d for series in job])
    sigmas = sigmas[np.isfinite(sigmas) & (sigmas > 0)]
    lowest, highest = (float(sigmas.min()), float(sigmas.max())) if len(sigmas) else (1.0, 1.0)

    def paint(axes: Any) -> None:
        octaves(axes, min(0.07, lowest / 1.4), max(2.6 * freezing, highest * 1.4))
        low, high = axes.get_xlim()
        axes.axvspan(low, SIGMA_UNIFORM, color=QUIET, alpha=0.12, linewidth=0)
        axes.axvspan(freezing, high, color=QUIET, alpha=0.12, linewidth=0)
        axes.axvline(freezing, color=INK, linewidth=1, linestyle=(0, (4, 3)))
        axes.text(low * 1.06, 1.015, "uniform", fontsize=8.5, color=QUIET, va="bottom")
        axes.text(freezing * 1.05, 1.015, "frozen", fontsize=8.5, color=QUIET, va="bottom")
        for series in job:
            values = np.sort(series.sigma_sqrt_d[np.isfinite(series.sigma_sqrt_d)])
            if len(values):
                x = np.concatenate([[low], np.maximum(values, low), [high]])
                y = np.concatenate([[0], np.arange(1, len(values) + 1) / len(values), [1]])
                axes.step(x, y, where="post", color=colours[series.query], label=short(series.query, 22))
        axes.set_ylim(0, 1.09)
        axes.set_yticks([0, 0.25, 0.5, 0.75, 1])
        percents(axes.yaxis)
        axes.set_xlabel("σ_eff under 1/√d_k")
        axes.set_ylabel("photos")
        axes.set_title(short(job[0].job, 50) if job[0].job else "σ_eff over photos")
        legend(axes, foot, height, 3)

    title = f"sigma_eff over photos under 1/sqrt(d_k) {job[0].job}".strip()
    return draw(name, title, height, paint, foot=foot)

"""What of a gradient reaches a raw score, against temperature."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from attnvis.experiments.sweep.figures.common import PANELS, Section, by_job, file_names, query_colours
from attnvis.experiments.sweep.statistics import Series, band, band_words
from attnvis.experiments.wording import many, percent, superscript
from attnvis.methods.settings import TEMPERATURES
from attnvis.render.plots import INK, PAPER, QUIET, Figure, draw, legend, octaves, plain_numbers, short

__all__ = ["section"]


def section(all_series: Sequence[Series]) -> Section:
    """A figure for each job, with all its queries."""
    jobs, colours = by_job(all_series), query_colours(all_series)
    names = file_names("gradient", list(jobs)[:PANELS])
    figures = tuple(
        curves(job, name, colours) for job, name in zip(list(jobs.values())[:PANELS], names, strict=True)
    )
    return Section("Too hot and too cold both starve the gradient", figures, caption(all_series))


def caption(all_series: Sequence[Series]) -> tuple[str, ...]:
    fewest = min(series.photos_with_curves for series in all_series)
    photo_count = max(len(series.photos) for series in all_series)
    photos = f"the first {many(fewest, 'photo')}" if fewest < photo_count else "the photos"
    shown = "Of the one photo"
    if photo_count > 1:
        shown = f"The median over {photos}, and a band {band_words(fewest)} them"
    coldest, hottest = (
        f"2{superscript(round(math.log2(tau)))}" for tau in (TEMPERATURES[0], TEMPERATURES[-1])
    )
    paragraphs = [
        "‖∂a/∂s‖ = ‖diag(a) − aaᵀ‖ / τ of softmax(s/τ), times std(s): how much of a gradient reaches the raw "
        f"scores. {shown}, at {len(TEMPERATURES)} temperatures "
        f"of {coldest} … {hottest} standard deviations. Too cold, one patch holds everything and nothing it "
        "is told changes that; too hot, every gradient is divided away.",
        "Stars: the peak. It belongs to the few hottest patches of a photo, which lie close together, and so "
        "stands left of where the map as a whole is still spread. Circles: 1/√d_k in the median of the "
        "photos; squares: no scaling; at the edge where they lie beyond.",
    ]
    places = [place for series in all_series[:PANELS] if (place := place_of_peak(series))]
    if places:
        paragraphs.append(f"The peak lies inside the range: {'; '.join(places)}.")
    return tuple(paragraphs)


def place_of_peak(series: Series) -> str:
    """Where the peak is, and what of it 1/sqrt(d_k) keeps; nothing where it lies at the edge."""
    peak = peak_of(series)
    if not peak.inside:
        return ""
    place = f"{series.name} at {peak.temperature:.2g} std"
    sigmas = series.sigma_sqrt_d[np.isfinite(series.sigma_sqrt_d) & (series.sigma_sqrt_d > 0)]
    if not len(sigmas):
        return place
    reached = float(
        np.nanmedian(series.read_off("gradient", series.sqrt_d[: series.photos_with_curves, None]))
    )
    share = percent(min(1.0, reached / peak.gradient))
    return f"{place}, while 1/√d_k stands at {1 / float(np.median(sigmas)):.2g} with {share} of the peak"


@dataclass(frozen=True)
class Peak:
    """Where the median over photos of the gradient is largest."""

    temperature: float  # in standard deviations of the scores
    gradient: float
    inside: bool  # of the range of temperatures


def peak_of(series: Series) -> Peak:
    median = np.median(series.curves["gradient"], 0)
    at = int(median.argmax())
    return Peak(TEMPERATURES[at], float(median[at]), inside=0 < at < len(median) - 1)


def curves(job: Sequence[Series], name: str, colours: dict[str, str]) -> Figure:
    """All queries of one job."""
    rows = math.ceil((len(job) + 3) / 3)
    foot, height = 0.62 + 0.2 * rows, 3.5 + 0.2 * rows
    tau = np.array(TEMPERATURES)
    medians = np.concatenate([np.median(series.curves["gradient"], 0) for series in job])
    highest = max(
        float(np.percentile(series.curves["gradient"], band(series.photos_with_curves)[1], 0).max())
        for series in job
    )

    def paint(axes: Any) -> None:
        octaves(axes, TEMPERATURES[0], TEMPERATURES[-1])
        axes.set_yscale("log")
        plain_numbers(axes.yaxis)
        lowest = float(medians[medians > 0].min(initial=1.0))
        axes.set_ylim(max(1e-5, min(lowest, 1e-3)), max(2.0 * highest, 1e-2))
        for series in job:
            colour = colours[series.query]
            bottom, top = band(series.photos_with_curves)
            low, middle, high = np.percentile(series.curves["gradient"], (bottom, 50, top), 0)
            axes.fill_between(tau, np.maximum(low, 1e-12), high, color=colour, alpha=0.14, linewidth=0)
            axes.plot(tau, middle, color=colour, label=short(series.query, 22))
            peak = peak_of(series)
            axes.plot(
                peak.temperature,
                peak.gradient,
                marker="*",
                markersize=11,
                color=colour,
                markeredgecolor=PAPER,
                zorder=5,
            )
            for sigma, sign in ((series.sigma_sqrt_d, "o"), (series.score_std, "s")):
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
        axes.set_title(short(job[0].job, 50) if job[0].job else "gradient against temperature")
        legend(axes, foot, height, 3)

    return draw(name, f"Gradient against temperature {job[0].job}".strip(), height, paint, foot=foot)

"""What a sweep found, in sentences: series of numbers in, the page's paragraph out."""

import math
from collections.abc import Sequence

import numpy as np

from attnvis.experiments.sweep.statistics import (
    SQRT_D,
    Order,
    Series,
    best_common_temperature,
    theory_deviation,
)
from attnvis.experiments.wording import between, listed, many, percent, points
from attnvis.metrics.diagnostics import NEARLY_UNIFORM
from attnvis.metrics.intervals import median_interval

__all__ = ["paragraph"]

WORDS = 4  # series that a sentence names one by one
ONE_HOT = 0.5  # of the photos with more than .99 on one patch


def paragraph(all_series: Sequence[Series], checked: Sequence[Order], shares: Sequence[float]) -> list[str]:
    """What was found, for somebody who reads nothing else."""
    if not all_series:
        return ["No photo was measured: there is nothing to compare."]
    sentences = [
        sentence_on_sqrt_d(all_series),
        sentence_on_temperature(all_series, shares[0] if shares else 0.1),
        sentence_on_change(all_series),
        sentence_on_theory(all_series),
        sentence_on_order(checked),
    ]
    return [sentence for sentence in sentences if sentence]


# -------------------------------------------------------------------------------- 1/sqrt(d_k)


def sentence_on_sqrt_d(all_series: Sequence[Series]) -> str:
    """One-hot, nearly uniform or between, for each query; the two ends where there are many."""
    measured = [series for series in all_series if not np.isnan(series.share_sqrt_d).all()]
    if not measured:
        return ""
    swept = all(SQRT_D in series.settings for series in measured)
    ordered = sorted(measured, key=lambda series: float(np.nanmedian(series.share_sqrt_d)))
    named = ordered if len(ordered) <= WORDS else [ordered[0], ordered[-1]]
    start = "1/√d_k leaves" if swept else "1/√d_k, which was not part of this sweep, would leave"
    among = "" if named is ordered else f", the sharpest and the most even of {len(ordered)} combinations"
    verdicts = listed([f"{series.quoted} {verdict_on_sqrt_d(series)}" for series in named])
    photos = "this one photo" if max(len(series.photos) for series in all_series) == 1 else "these photos"
    return f"On {photos}, {start} the query {verdicts}{among}."


def verdict_on_sqrt_d(series: Series) -> str:
    share = series.share_sqrt_d
    middle = float(np.nanmedian(share))
    alone = len(series.photos) == 1
    if SQRT_D in series.settings:
        column = series.settings.index(SQRT_D)
        hot = float(np.nanmean(series.numbers["saturated"][:, column]))
        if hot >= ONE_HOT:
            return "one-hot" if alone else f"one-hot on {percent(hot)} of them"
    elif middle * float(np.median(series.patches)) < 1.06:  # perplexity of .99 on one patch
        return "one-hot"
    if middle > NEARLY_UNIFORM:
        return f"nearly uniform ({'' if alone else 'median '}{percent(middle)} of the patches)"
    return f"spread over {'' if alone else 'a median of '}{percent(middle)} of the patches"


# -------------------------------------------------------------------------------- one temperature


def sentence_on_temperature(all_series: Sequence[Series], wanted: float) -> str:
    """Whether one temperature can serve all photos and queries."""
    best = best_common_temperature(all_series, wanted)
    photos = max(len(series.photos) for series in all_series)
    if best is None or (photos == 1 and len(all_series) == 1):
        return ""
    about = f"about {percent(wanted)} of the patches (within a factor of two)"
    if len(all_series) == 1:
        query = all_series[0].quoted
        return (
            f"The best single temperature, {best.tau:.3g}, brings the query {query} to {about} on "
            f"{percent(best.worst)} of the photos."
        )
    one_job = len({series.job for series in all_series}) == 1
    things = "queries" if one_job else "combinations of network and query"
    what = f"both {things}" if len(all_series) == 2 else f"all {len(all_series)} {things}"
    if best.worst >= 0.9:
        return (
            f"One temperature, {best.tau:.3g}, brings {what} to {about} on at least {percent(best.worst)} "
            "of the photos."
        )
    least = all_series[int(np.argmin(best.served))]
    reached = f"only {percent(best.worst)} of the photos" if best.worst else "no photo"
    return (
        f"No single temperature brings {what} to {about} on nine photos out of ten: "
        f"the best common one, {best.tau:.3g}, does so on {reached} for {least.quoted}."
    )


# -------------------------------------------------------------------------------- change


def sentence_on_change(all_series: Sequence[Series]) -> str:
    """The largest difference to 1/sqrt(d_k), photo by photo; where that was not swept, the range."""
    changes = []
    for series in all_series:
        if SQRT_D in series.settings:
            base = series.share[:, [series.settings.index(SQRT_D)]]
            for name, differences in zip(series.names, (series.share - base).T, strict=True):
                interval = median_interval(differences)
                if not math.isnan(interval.value):
                    changes.append((interval, series, name))
    if not changes:
        return sentence_on_range(all_series)
    interval, series, name = max(changes, key=lambda change: abs(change[0].value))
    if not interval.value:
        return ""
    more = "more" if interval.value > 0 else "fewer"
    limits = between(interval, points)
    by = f"{points(abs(interval.value)).lstrip('+')} percentage points of the patches {more}"
    paired = f" (median of the paired differences {points(interval.value)} {limits})" if limits else ""
    return (
        f"The largest change against 1/√d_k is that of “{name}” on the query {series.quoted}: {by}{paired}."
    )


def sentence_on_range(all_series: Sequence[Series]) -> str:
    """The two settings furthest apart on one query."""
    ranges = []
    for series in all_series:
        medians = np.nanmedian(series.share, 0)
        if len(series.settings) > 1 and not np.isnan(medians).all():
            ranges.append((float(np.nanmax(medians) - np.nanmin(medians)), series, medians))
    if not ranges:
        return ""
    _, series, medians = max(ranges, key=lambda entry: entry[0])
    low, high = int(np.nanargmin(medians)), int(np.nanargmax(medians))
    few, many_patches = percent(float(medians[low])), percent(float(medians[high]))
    return (
        f"The settings differ most on the query {series.quoted}: from {few} of the patches under "
        f"“{series.names[low]}” to {many_patches} under “{series.names[high]}”."
    )


# -------------------------------------------------------------------------------- theory, order


def sentence_on_theory(all_series: Sequence[Series]) -> str:
    gentle, _ = theory_deviation(all_series)
    if not gentle.count:
        return ""
    return (
        "What a scaling sets is σ_eff, the spread of the logits: up to σ_eff = 1 the share of the patches is "
        f"exp(−σ_eff²/2) to within {gentle.median:.2g} in the median of {many(gentle.count, 'map')} "
        f"({gentle.high:.2g} in 95 % of them), whichever scaling set it."
    )


def sentence_on_order(checked: Sequence[Order]) -> str:
    """That no factor changed the order; nothing where one did, for that is an alarm and no finding."""
    factors = [order for order in checked if order.factor]
    if not factors or any(order.broken for order in factors):
        return ""
    if len(factors) == 1:
        every, leave = "The one setting that multiplies", "leaves"
    else:
        every, leave = f"All {len(factors)} settings that multiply", "leave"
    return f"{every} the scores of a photo by one positive factor {leave} the order of the patches as it was."

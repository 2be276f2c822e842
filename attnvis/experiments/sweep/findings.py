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


def paragraph(series: Sequence[Series], checked: Sequence[Order], shares: Sequence[float]) -> list[str]:
    """What was found, for somebody who reads nothing else."""
    if not series:
        return ["No photo was measured: there is nothing to compare."]
    said = [
        sentence_on_sqrt_d(series),
        sentence_on_temperature(series, shares[0] if shares else 0.1),
        sentence_on_change(series),
    ]
    said.append(sentence_on_theory(series))
    factors = [order for order in checked if order.factor]
    if factors and not any(order.broken for order in factors):
        every = (
            "The one setting that multiplies"
            if len(factors) == 1
            else f"All {len(factors)} settings that multiply"
        )
        leaves = "leaves" if len(factors) == 1 else "leave"
        said.append(
            f"{every} the scores of a photo by one positive factor {leaves} the order of the patches as it was."
        )
    return [sentence for sentence in said if sentence]


def sentence_on_sqrt_d(series: Sequence[Series]) -> str:
    """One-hot, nearly uniform or between, for each query; the two ends where there are many."""
    measured = [one for one in series if not np.isnan(one.share_sqrt_d).all()]
    if not measured:
        return ""
    swept = all(SQRT_D in one.settings for one in measured)
    ordered = sorted(measured, key=lambda one: float(np.nanmedian(one.share_sqrt_d)))
    named = ordered if len(ordered) <= WORDS else [ordered[0], ordered[-1]]
    start = "1/√d_k leaves" if swept else "1/√d_k, which was not part of this sweep, would leave"
    among = "" if named is ordered else f", the sharpest and the most even of {len(ordered)} combinations"
    text = listed(
        [
            f"{'the query ' if not number else ''}{one.quoted} {verdict_on_sqrt_d(one)}"
            for number, one in enumerate(named)
        ]
    )
    on = "this one photo" if max(len(one.photos) for one in series) == 1 else "these photos"
    return f"On {on}, {start} {text}{among}."


def verdict_on_sqrt_d(one: Series) -> str:
    share = one.share_sqrt_d
    middle = float(np.nanmedian(share))
    alone = len(one.photos) == 1
    if SQRT_D in one.settings:
        column = one.settings.index(SQRT_D)
        hot = float(np.nanmean(one.numbers["saturated"][:, column]))
        if hot >= ONE_HOT:
            return "one-hot" if alone else f"one-hot on {percent(hot)} of them"
    elif middle * float(np.median(one.patches)) < 1.06:  # perplexity of .99 on one patch
        return "one-hot"
    median = "" if alone else "median "
    if middle > NEARLY_UNIFORM:
        return f"nearly uniform ({median}{percent(middle)} of the patches)"
    return f"spread over {'' if alone else 'a median of '}{percent(middle)} of the patches"


def sentence_on_temperature(series: Sequence[Series], wanted: float) -> str:
    """Whether one temperature can serve all photos and queries."""
    found = best_common_temperature(series, wanted)
    photos = max(len(one.photos) for one in series)
    if found is None or (photos == 1 and len(series) == 1):
        return ""
    about = f"about {percent(wanted)} of the patches (within a factor of two)"
    if len(series) == 1:
        served = f"{about} on {percent(found.worst)} of the photos"
        return (
            f"The best single temperature, {found.tau:.3g}, brings the query {series[0].quoted} to {served}."
        )
    things = "queries" if len({one.job for one in series}) == 1 else "combinations of network and query"
    what = f"both {things}" if len(series) == 2 else f"all {len(series)} {things}"
    if found.worst >= 0.9:
        return f"One temperature, {found.tau:.3g}, brings {what} to {about} on at least {percent(found.worst)} of the photos."
    least = series[int(np.argmin(found.served))]
    reached = f"only {percent(found.worst)} of the photos" if found.worst else "no photo"
    return (
        f"No single temperature brings {what} to {about} on nine photos out of ten: "
        f"the best common one, {found.tau:.3g}, does so on {reached} for {least.quoted}."
    )


def sentence_on_change(series: Sequence[Series]) -> str:
    """The largest difference to 1/sqrt(d_k), photo by photo; without it, the two settings furthest apart."""
    changes = []
    for one in series:
        if SQRT_D in one.settings:
            base = one.share[:, [one.settings.index(SQRT_D)]]
            for name, difference in zip(one.names, (one.share - base).T, strict=True):
                changes.append((median_interval(difference), one, name))
    changes = [change for change in changes if not math.isnan(change[0].value)]
    if changes:
        interval, one, name = max(changes, key=lambda change: abs(change[0].value))
        if not interval.value:
            return ""
        more = "more" if interval.value > 0 else "fewer"
        limits = between(interval, points)
        by = f"{points(abs(interval.value)).lstrip('+')} percentage points of the patches {more}"
        paired = f" (median of the paired differences {points(interval.value)} {limits})" if limits else ""
        return (
            f"The largest change against 1/√d_k is that of “{name}” on the query {one.quoted}: {by}{paired}."
        )
    ends = []
    for one in series:
        middles = np.nanmedian(one.share, 0)
        if len(one.settings) > 1 and not np.isnan(middles).all():
            ends.append(
                (
                    float(np.nanmax(middles) - np.nanmin(middles)),
                    one,
                    int(np.nanargmin(middles)),
                    int(np.nanargmax(middles)),
                )
            )
    if not ends:
        return ""
    _, one, low, high = max(ends, key=lambda end: end[0])
    middles = np.nanmedian(one.share, 0)
    return (
        f"The settings differ most on the query {one.quoted}: from {percent(float(middles[low]))} of the patches under “{one.names[low]}” "
        f"to {percent(float(middles[high]))} under “{one.names[high]}”."
    )


def sentence_on_theory(series: Sequence[Series]) -> str:
    gentle, _ = theory_deviation(series)
    if not gentle.count:
        return ""
    return (
        f"What a scaling sets is σ_eff, the spread of the logits: up to σ_eff = 1 the share of the patches is exp(−σ_eff²/2) to within "
        f"{gentle.median:.2g} in the median of {many(gentle.count, 'map')} ({gentle.high:.2g} in 95 % of them), whichever scaling set it."
    )

"""What a sweep's page says in words: series of numbers in, sentences and captions out."""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from attnvis import figures
from attnvis.method import NEARLY_UNIFORM
from attnvis.report import figure
from attnvis.statistics import (
    SQRT_D,
    Interval,
    Order,
    Series,
    badness,
    best_common_temperature,
    median_interval,
    theory_deviation,
)

__all__ = ["PANELS", "between", "captions", "listed", "many", "paragraph", "percent", "points", "quoted"]

PANELS = 8  # of one kind of figure
WORDS = 4  # series that a sentence names one by one
ONE_HOT = 0.5  # of the photos with more than .99 on one patch


def percent(share: float) -> str:
    """0.0312 -> 3.1 %; what is not all is never called 100 %, what is not nothing never 0 %."""
    if math.isnan(share):
        return "–"
    said = f"{100 * share:.2g}" if share < 0.0995 else f"{100 * share:.0f}"
    if 0 < share < 5e-5:
        said = "< 0.01"
    elif said == "100" and share < 1:
        said = f"{100 * share:.1f}" if share < 0.9995 else "> 99.9"
    return f"{said}\u00a0%"


def points(share: float) -> str:
    return f"{100 * share:+.1f}".replace("-", "−")


def between(interval: Interval, words: Any = figure) -> str:
    """`[3.1, 4.2]`; nothing where one photo leaves nothing to resample."""
    if interval.count < 2 or math.isnan(interval.low):
        return ""
    return f"[{words(interval.low)}, {words(interval.high)}]".replace("\u00a0%,", ",")


def listed(items: Sequence[str]) -> str:
    return items[0] if len(items) == 1 else f"{', '.join(items[:-1])} and {items[-1]}"


def many(count: int, what: str) -> str:
    return f"{count:,} {what}{'' if count == 1 else 's'}".replace(",", " ")


def quoted(one: Series) -> str:
    """A query in a sentence."""
    return f"“{one.query}”" + (f" ({one.job})" if one.job else "")


def paragraph(series: Sequence[Series], checked: Sequence[Order], shares: Sequence[float]) -> list[str]:
    """What was found, for somebody who reads nothing else."""
    if not series:
        return ["No photo was measured: there is nothing to compare."]
    said = [sentence_on_sqrt_d(series), sentence_on_temperature(series, shares[0] if shares else 0.1), sentence_on_change(series)]
    said.append(sentence_on_theory(series))
    factors = [order for order in checked if order.factor]
    if factors and not any(order.broken for order in factors):
        every = "The one setting that multiplies" if len(factors) == 1 else f"All {len(factors)} settings that multiply"
        leaves = "leaves" if len(factors) == 1 else "leave"
        said.append(f"{every} the scores of a photo by one positive factor {leaves} the order of the patches as it was.")
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
    text = listed([f"{'the query ' if not number else ''}{quoted(one)} {verdict_on_sqrt_d(one)}" for number, one in enumerate(named)])
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
        return f"The best single temperature, {found.tau:.3g}, brings the query {quoted(series[0])} to {served}."
    things = "queries" if len({one.job for one in series}) == 1 else "combinations of network and query"
    what = f"both {things}" if len(series) == 2 else f"all {len(series)} {things}"
    if found.worst >= 0.9:
        return f"One temperature, {found.tau:.3g}, brings {what} to {about} on at least {percent(found.worst)} of the photos."
    least = series[int(np.argmin(found.served))]
    reached = f"only {percent(found.worst)} of the photos" if found.worst else "no photo"
    return (
        f"No single temperature brings {what} to {about} on nine photos out of ten: "
        f"the best common one, {found.tau:.3g}, does so on {reached} for {quoted(least)}."
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
        return f"The largest change against 1/√d_k is that of “{name}” on the query {quoted(one)}: {by}{paired}."
    ends = []
    for one in series:
        middles = np.nanmedian(one.share, 0)
        if len(one.settings) > 1 and not np.isnan(middles).all():
            ends.append((float(np.nanmax(middles) - np.nanmin(middles)), one, int(np.nanargmin(middles)), int(np.nanargmax(middles))))
    if not ends:
        return ""
    _, one, low, high = max(ends, key=lambda end: end[0])
    middles = np.nanmedian(one.share, 0)
    return (
        f"The settings differ most on the query {quoted(one)}: from {percent(float(middles[low]))} of the patches under “{one.names[low]}” "
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


def captions(series: Sequence[Series], checked: Sequence[Order]) -> dict[str, list[str]]:
    """Of every figure what it shows and how it was computed, as paragraphs."""
    if not series:
        return {}
    return {
        "collapse": about_collapse(series),
        "gaps": about_gaps(series),
        "gradient": about_gradient(series),
        "ranks": about_ranks(series),
        "ecdf": about_ecdf(series),
        "check": about_check(checked),
    }


def cut(count: int) -> str:
    return f" Drawn are the first {PANELS} of {count}; all are in the table below." if count > PANELS else ""


def about_collapse(series: Sequence[Series]) -> list[str]:
    patches = np.concatenate([one.patches for one in series])
    middle, low, high = float(np.median(patches)), int(patches.min()), int(patches.max())
    vary = "as all photos have" if low == high else f"the median; photos of other shapes have {low} … {high}"
    total = sum(one.share.size for one in series)
    said = [
        "Each point is one photo, query and setting. Were a scaling nothing but the spread σ_eff that it gives the logits, all points "
        "would fall on one curve: exp(−σ²/2) for independent normal scores, until at √(2 ln N) the attention sits on single patches "
        "(Derrida 1981). What lies off the curve are photos whose scores are not normal: skewed, or with a few patches far above all.",
        f"The dashed line is for N = {middle:g} patches ({vary}). Points beyond the ends of the axis are drawn at the ends."
        + (f" About {figures.POINTS} of {total} are drawn, chosen at random." if total > figures.POINTS else ""),
    ]
    return said


def about_gaps(series: Sequence[Series]) -> list[str]:
    said = [
        "Of 512 pairs of patches a photo, how far the two scores are apart, on a log scale; the tick in each hill is the median gap, the "
        "number at the right the factor (≈: its median, since it differs from photo to photo; cosine has one for every patch). Dividing "
        "by a constant shifts the hill by the logarithm of that constant and leaves its shape alone. At a gap of 1.54 (dotted) two patches "
        "receive the most gradient: far to the right of it one patch takes all, far to the left nothing is preferred." + cut(len(series))
    ]
    shifts = []
    for one in series[:PANELS]:
        raw = figures.middle_gap(one.curves["gaps"][0])
        for column, scaling, factor, same in figures.gap_factors(one):
            if same and scaling == SQRT_D[0]:
                shift = figures.middle_gap(one.curves["gaps"][column + 1]) - raw
                shifts.append(f"{one.name} {shift:+.3f} (log₁₀ of {factor:.4f} is {math.log10(factor):+.3f})".replace("-", "−"))
    if shifts:
        said.append(f"Under 1/√d_k the median gap moved by: {', '.join(shifts)}.")
    return said


def about_gradient(series: Sequence[Series]) -> list[str]:
    places = []
    for one in series[:PANELS]:
        place, value, inside = figures.peak(one)
        at = one.sigma_sqrt_d[np.isfinite(one.sigma_sqrt_d) & (one.sigma_sqrt_d > 0)]
        if inside and len(at):
            reached = float(np.nanmedian(one.read_off("gradient", one.sqrt_d[: one.kept, None])))
            kept = percent(min(1.0, reached / value))
            places.append(f"{one.name} at {place:.2g} std, while 1/√d_k stands at {1 / float(np.median(at)):.2g} with {kept} of the peak")
        elif inside:
            places.append(f"{one.name} at {place:.2g} std")
    fewest = min(one.kept for one in series)
    photos = f"the first {many(fewest, 'photo')}" if fewest < max(len(one.photos) for one in series) else "the photos"
    said = [
        "‖∂a/∂s‖ = ‖diag(a) − aaᵀ‖ / τ of softmax(s/τ), times std(s): how much of a gradient reaches the raw scores. "
        f"Median and 5–95 % band over {photos}, at 57 temperatures of 2⁻⁷ … 2⁷ standard deviations. Too cold, one patch holds everything "
        "and nothing it is told changes that; too hot, every gradient is divided away.",
        "Stars: the peak. It belongs to the few hottest patches of a photo, which lie close together, and so stands left of where the map "
        "as a whole is still spread. Circles: 1/√d_k in the median of the photos; squares: no scaling; at the edge where they lie beyond.",
    ]
    if places:
        said.append(f"The peak lies inside the range: {'; '.join(places)}.")
    return said


def about_ranks(series: Sequence[Series]) -> list[str]:
    return [
        "Each map's weights in falling order, as N·a on a log scale, averaged over the photos (the mean of log₂ N·a) at 48 equal steps "
        "from the hottest patch to the coldest. 1× is what a patch gets when there is no preference." + cut(len(series))
    ]


def about_ecdf(series: Sequence[Series]) -> list[str]:
    said = [
        "How many photos have at most this σ_eff = std(s)/√d_k, query by query. Left, in grey, theory calls a map more than 99 % uniform; "
        "right of the dashed line it is frozen to single patches. Another divisor moves all curves by the same step, and cannot bring them "
        "onto one another."
    ]
    middles = {one.name: float(np.nanmedian(one.sigma_sqrt_d)) for one in series if not np.isnan(one.sigma_sqrt_d).all()}
    if len(middles) > 1 and min(middles.values()) > 0:
        low, high = min(middles, key=lambda name: middles[name]), max(middles, key=lambda name: middles[name])
        ratio = middles[high] / middles[low]
        said.append(f"The medians differ by a factor of {ratio:.2g}: {middles[low]:.2g} ({low}) to {middles[high]:.2g} ({high}).")
    widths = []
    for one in series[:PANELS]:
        known = one.sigma_sqrt_d[np.isfinite(one.sigma_sqrt_d) & (one.sigma_sqrt_d > 0)]
        if len(known) > 1:
            few, most = np.percentile(known, (5, 95))
            widths.append(f"{most / few:.2g} ({one.name})")
    if widths:
        said.append(f"Within one query the photos from the 5th to the 95th of a hundred span a factor of {listed(widths)}.")
    return said


def about_check(checked: Sequence[Order]) -> list[str]:
    said = [
        "Blue: the median share of the patches, with 5–95 % over photos and queries. Diamonds: the lowest Spearman correlation of logits "
        "with raw scores over all photos. A scaling that multiplies the scores of a photo by one positive factor cannot change the order; "
        "whoever measures only AUC, pointing game or hit rate sees this flat line and nothing else."
    ]
    factors, free = ([order for order in checked if order.factor is kind] for kind in (True, False))
    if factors:
        count, exact = sum(order.count for order in factors), sum(order.exact for order in factors)
        lowest = min(factors, key=lambda order: badness(order.worst))
        how_low = "never below" if exact == count else f"at worst {lowest.worst:.6g} ({lowest.setting}, {lowest.photo}), else not below"
        good, all_of_them = many(exact, "map"), many(count, "map")
        said.append(
            f"Of these settings {good} of {all_of_them} have correlation 1 to 10⁻⁶ ({how_low} 1 − 10⁻⁶). Scores that rounding makes "
            "equal may lower it: each such pair costs 3/(N(N²−1)), and as many as a quarter of the patches are let pass."
        )
    if free:
        lows = listed([f"{order.worst:.3g} under {order.setting}" for order in free])
        said.append(f"Free to reorder, and so they do; lowest over the photos: {lows}.")
    return said

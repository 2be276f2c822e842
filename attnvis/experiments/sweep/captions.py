"""What stands below a sweep's figures: series of numbers in, captions out."""

import math
from collections.abc import Sequence

import numpy as np

from attnvis.experiments.sweep import figures
from attnvis.experiments.sweep.statistics import SQRT_D, Order, Series, badness
from attnvis.experiments.wording import listed, many, percent

__all__ = ["PANELS", "captions", "quoted"]

PANELS = 8  # of one kind of figure


def quoted(one: Series) -> str:
    """A query in a sentence."""
    return f"“{one.query}”" + (f" ({one.job})" if one.job else "")


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
        + (
            f" About {figures.POINTS} of {total} are drawn, chosen at random."
            if total > figures.POINTS
            else ""
        ),
    ]
    return said


def about_gaps(series: Sequence[Series]) -> list[str]:
    said = [
        "Of 512 pairs of patches a photo, how far the two scores are apart, on a log scale; the tick in each hill is the median gap, the "
        "number at the right the factor (≈: its median, since it differs from photo to photo; cosine has one for every patch). Dividing "
        "by a constant shifts the hill by the logarithm of that constant and leaves its shape alone. At a gap of 1.54 (dotted) two patches "
        "receive the most gradient: far to the right of it one patch takes all, far to the left nothing is preferred."
        + cut(len(series))
    ]
    shifts = []
    for one in series[:PANELS]:
        raw = figures.middle_gap(one.curves["gaps"][0])
        for column, scaling, factor, same in figures.gap_factors(one):
            if same and scaling == SQRT_D[0]:
                shift = figures.middle_gap(one.curves["gaps"][column + 1]) - raw
                shifts.append(
                    f"{one.name} {shift:+.3f} (log₁₀ of {factor:.4f} is {math.log10(factor):+.3f})".replace(
                        "-", "−"
                    )
                )
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
            places.append(
                f"{one.name} at {place:.2g} std, while 1/√d_k stands at {1 / float(np.median(at)):.2g} with {kept} of the peak"
            )
        elif inside:
            places.append(f"{one.name} at {place:.2g} std")
    fewest = min(one.kept for one in series)
    photos = (
        f"the first {many(fewest, 'photo')}"
        if fewest < max(len(one.photos) for one in series)
        else "the photos"
    )
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
        "from the hottest patch to the coldest. 1× is what a patch gets when there is no preference."
        + cut(len(series))
    ]


def about_ecdf(series: Sequence[Series]) -> list[str]:
    said = [
        "How many photos have at most this σ_eff = std(s)/√d_k, query by query. Left, in grey, theory calls a map more than 99 % uniform; "
        "right of the dashed line it is frozen to single patches. Another divisor moves all curves by the same step, and cannot bring them "
        "onto one another."
    ]
    middles = {
        one.name: float(np.nanmedian(one.sigma_sqrt_d))
        for one in series
        if not np.isnan(one.sigma_sqrt_d).all()
    }
    if len(middles) > 1 and min(middles.values()) > 0:
        low, high = min(middles, key=lambda name: middles[name]), max(middles, key=lambda name: middles[name])
        ratio = middles[high] / middles[low]
        said.append(
            f"The medians differ by a factor of {ratio:.2g}: {middles[low]:.2g} ({low}) to {middles[high]:.2g} ({high})."
        )
    widths = []
    for one in series[:PANELS]:
        known = one.sigma_sqrt_d[np.isfinite(one.sigma_sqrt_d) & (one.sigma_sqrt_d > 0)]
        if len(known) > 1:
            few, most = np.percentile(known, (5, 95))
            widths.append(f"{most / few:.2g} ({one.name})")
    if widths:
        said.append(
            f"Within one query the photos from the 5th to the 95th of a hundred span a factor of {listed(widths)}."
        )
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
        how_low = (
            "never below"
            if exact == count
            else f"at worst {lowest.worst:.6g} ({lowest.setting}, {lowest.photo}), else not below"
        )
        good, all_of_them = many(exact, "map"), many(count, "map")
        said.append(
            f"Of these settings {good} of {all_of_them} have correlation 1 to 10⁻⁶ ({how_low} 1 − 10⁻⁶). Scores that rounding makes "
            "equal may lower it: each such pair costs 3/(N(N²−1)), and as many as a quarter of the patches are let pass."
        )
    if free:
        lows = listed([f"{order.worst:.3g} under {order.setting}" for order in free])
        said.append(f"Free to reorder, and so they do; lowest over the photos: {lows}.")
    return said

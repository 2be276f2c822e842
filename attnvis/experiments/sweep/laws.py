"""Series in, how far their maps lie from what theory says of the spread of softmax out."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float

from attnvis.experiments.sweep.statistics import Series, band
from attnvis.metrics.diagnostics import freezing_point

__all__ = ["LAW_FROM", "Deviation", "Theory", "cumulant_law", "simple_law", "theory_deviation"]

LAW_FROM = 0.5  # sigma_eff from which the theory says something: below, it gives over 88 % of the patches


@dataclass(frozen=True)
class Deviation:
    """|perplexity / N - law| over maps: what logits that follow the law would not show."""

    count: int
    median: float
    high: float  # 95th percentile, of few the highest


@dataclass(frozen=True)
class Theory:
    """How far maps lie from each law, of those with sigma_eff >= LAW_FROM: flatter ones fit any law."""

    simple: Deviation  # exp(-sigma_eff^2 / 2), where sigma_eff <= 1
    cumulants: Deviation  # of the same maps, the law that knows skewness and kurtosis
    unfrozen: Deviation  # the simple law, below the freezing line of each photo's N


def simple_law(sigma: Float[np.ndarray, "*any"]) -> Float[np.ndarray, "*any"]:
    """perplexity / N of softmax, where the logits are many, independent and normal."""
    return np.exp(-(sigma**2) / 2)


def cumulant_law(
    sigma: Float[np.ndarray, "*any"], skewness: Float[np.ndarray, "*any"], kurtosis: Float[np.ndarray, "*any"]
) -> Float[np.ndarray, "*any"]:
    """The same of logits whose cumulants vanish from the fifth on; `kurtosis` is the excess.

    With K the generating function of the cumulants, ln(perplexity / N) = K(1) - K'(1).
    """
    return np.exp(-(sigma**2) / 2 - skewness * sigma**3 / 3 - kurtosis * sigma**4 / 8)


def theory_deviation(all_series: Sequence[Series]) -> Theory:
    """Of softmax, as the theory is."""

    def over_maps(numbers: Callable[[Series], Float[np.ndarray, "P S"]]) -> Float[np.ndarray, " maps"]:
        parts = [numbers(series)[:, series.softmax].ravel() for series in all_series]
        return np.concatenate([np.empty(0), *parts])

    sigma = over_maps(lambda series: series.numbers["sigma_eff"])
    share = over_maps(lambda series: series.share)
    freezing = over_maps(freezing_points)
    skewness = over_maps(lambda series: series.shape("logit_skewness"))
    kurtosis = over_maps(lambda series: series.shape("logit_kurtosis"))
    from_simple = np.abs(share - simple_law(sigma))
    telling = sigma >= LAW_FROM - 1e-6  # zscore gives its number but for rounding
    gentle = telling & (sigma <= 1 + 1e-6)
    from_cumulants = np.abs(share - cumulant_law(np.minimum(sigma, 1.0), skewness, kurtosis))
    return Theory(
        simple=deviation_of(from_simple[gentle]),
        cumulants=deviation_of(from_cumulants[gentle]),
        unfrozen=deviation_of(from_simple[telling & (sigma < freezing)]),
    )


def freezing_points(series: Series) -> Float[np.ndarray, "P S"]:
    points = np.array([freezing_point(int(count)) for count in series.patches])
    return np.broadcast_to(points[:, None], series.share.shape)


def deviation_of(differences: Float[np.ndarray, " maps"]) -> Deviation:
    known = differences[~np.isnan(differences)]
    median, high = np.percentile(known, (50, band(len(known))[1])) if len(known) else (math.nan, math.nan)
    return Deviation(len(known), float(median), float(high))

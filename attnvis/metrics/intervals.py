"""Numbers over photos in, 95 % bootstrap intervals out.

Of a median, of a share, and of means that are compared in pairs.
"""

import math
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from jaxtyping import Float

__all__ = ["NOTHING", "Estimate", "Interval", "bootstrap", "mean_interval", "median_interval"]

RESAMPLES = 2_000  # of the intervals of one number
PAIRED_RESAMPLES = 10_000  # of means that are compared in pairs


@dataclass(frozen=True)
class Interval:
    """A number over photos with its 95 % bootstrap interval; NaN where no photo has one."""

    value: float
    low: float
    high: float
    count: int  # photos


NOTHING = Interval(math.nan, math.nan, math.nan, 0)


def median_interval(values: Float[np.ndarray, " P"]) -> Interval:
    """The median over photos, percentile bootstrap with RESAMPLES resamples; NaNs are left out.

    NOTHING where no photo is left.
    """
    ordered = np.sort(values[~np.isnan(values)])
    if not len(ordered):
        return NOTHING
    lower, upper = middle_ranks(len(ordered))
    with np.errstate(invalid="ignore"):  # inf - inf
        medians = (ordered[lower] + ordered[upper]) / 2
    low, high = np.percentile(medians, (2.5, 97.5))
    return Interval(float(np.median(ordered)), float(low), high=float(high), count=len(ordered))


@lru_cache(maxsize=64)
def middle_ranks(count: int) -> tuple[np.ndarray, np.ndarray]:
    """Which of `count` sorted values are in the middle of each resample: (lower, upper), from 0.

    A resample is floor(count * u) for `count` uniform u, and the k-th smallest of those is
    Beta(k, count + 1 - k): one draw a resample instead of `count`, and exactly the bootstrap.
    """
    rng = np.random.default_rng(0)
    middle = (count + 1) // 2
    lower = rng.beta(middle, count + 1 - middle, size=RESAMPLES)
    upper = lower
    if count % 2 == 0:
        upper = lower + (1 - lower) * rng.beta(1, count - middle, size=RESAMPLES)
    lower_rank, upper_rank = (np.minimum((count * u).astype(int), count - 1) for u in (lower, upper))
    return lower_rank, upper_rank


def mean_interval(flags: Float[np.ndarray, " P"]) -> Interval:
    """The share of photos with a flag (0 or 1; NaNs are left out), 0 ... 1; its resamples are binomial.

    NOTHING where no photo is left.
    """
    flags = flags[~np.isnan(flags)]
    if not len(flags):
        return NOTHING
    share = float(flags.mean())
    counts = np.random.default_rng(0).binomial(len(flags), share, size=RESAMPLES)
    low, high = np.percentile(counts / len(flags), (2.5, 97.5))
    return Interval(share, float(low), high=float(high), count=len(flags))


@dataclass(frozen=True)
class Estimate:
    """A mean over photos and its 95 % bootstrap interval."""

    value: float
    low: float
    high: float

    @property
    def certain(self) -> bool:
        """Of a difference: that it is not zero."""
        return self.low > 0 or self.high < 0


def bootstrap(
    values: Float[np.ndarray, "P K"], resamples: int = PAIRED_RESAMPLES, seed: int = 0
) -> Float[np.ndarray, "R K"]:
    """Means of K columns over photos drawn with replacement, one row a resample.

    A draw is the same for all columns, so that differences are paired.
    """
    rng = np.random.default_rng(seed)
    photos = len(values)
    sums = []
    for _ in range(resamples):
        drawn = rng.integers(photos, size=photos)
        counts = np.bincount(drawn, minlength=photos)  # how often each photo was drawn
        sums.append(counts @ values)
    return np.stack(sums) / photos


def estimate(value: float, means: Float[np.ndarray, " R"]) -> Estimate:
    """A mean with the percentile interval of its resampled means."""
    low, high = np.quantile(means, [0.025, 0.975])
    return Estimate(float(value), float(low), high=float(high))

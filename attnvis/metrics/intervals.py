"""Numbers over photos in, 95 % intervals out: of a median, a share, a difference of shares, a mean.

Every interval of attnvis is one of these.  Those of medians and shares are exact: they cover at least what
they promise whatever the numbers are; `scripts/measure_coverage.py` shows what all of them cover
(docs/intervals.md).  Below FEWEST photos, of means below FEWEST_OF_MEANS, there is no interval at all.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from jaxtyping import Float

__all__ = [
    "FEWEST",
    "FEWEST_OF_MEANS",
    "NOTHING",
    "Interval",
    "Z",
    "change_interval",
    "holm",
    "mean_interval",
    "median_interval",
    "share_interval",
    "sign_test",
]

LEVEL = 0.95
Z = 1.959964  # standard deviations: 95 % of normal numbers lie nearer to their mean
FEWEST = 6  # photos: of five the smallest and the largest enclose the median only 94 times in a hundred
FEWEST_OF_MEANS = 30  # photos: of ten, an interval of the mean of log-normal numbers holds it 91 times in 100


@dataclass(frozen=True)
class Interval:
    """A number over photos with its interval; NaN where no photo has one, and low and high where few have."""

    value: float
    low: float
    high: float
    count: int  # photos

    @property
    def certain(self) -> bool:
        """Of a difference: that it is not zero."""
        return self.low > 0 or self.high < 0


NOTHING = Interval(math.nan, math.nan, math.nan, 0)


# -------------------------------------------------------------------------------- medians


def median_interval(values: Float[np.ndarray, " P"], level: float = LEVEL) -> Interval:
    """The median over photos between two of their values, as the sign test has it; NaNs are left out.

    Exact: of n values the k-th from either end, for the largest k with 2 P(Binomial(n, 1/2) < k) <= 1 -
    level; ties make it cover more.  Low and high are NaN where no k does, as below FEWEST photos; NOTHING
    where no photo is left.
    """
    ordered = np.sort(values[~np.isnan(values)])
    count = len(ordered)
    if not count:
        return NOTHING
    with np.errstate(invalid="ignore"):  # inf - inf
        middle = float(np.median(ordered))
    rank = median_rank(count, level)
    if not rank:
        return Interval(middle, math.nan, high=math.nan, count=count)
    return Interval(middle, float(ordered[rank - 1]), high=float(ordered[-rank]), count=count)


@lru_cache(maxsize=256)
def median_rank(count: int, level: float = LEVEL) -> int:
    """Which of `count` sorted values, from either end, enclose the median; 0 where not even the ends do."""
    below = np.cumsum(np.exp(log_choices(count) - count * math.log(2)))  # P(Binomial <= 0, 1, ...)
    return int((2 * below[: (count + 1) // 2] <= 1 - level + 1e-12).sum())


def sign_test(differences: Float[np.ndarray, " P"]) -> float:
    """How often chance alone gives signs as uneven as these, if above 0 were as likely as below: 0 ... 1.

    Two-sided and exact; zeros and NaNs are left out, and of nothing it is 1.
    """
    above, below = int((differences > 0).sum()), int((differences < 0).sum())
    count = above + below
    chances = np.exp(log_choices(count) - count * math.log(2))
    return min(1.0, 2 * float(chances[: min(above, below) + 1].sum()))


def holm(chances: Sequence[float]) -> list[float]:
    """The same chances, raised for there being so many of them.

    Holm 1979: where those below .05 are called real, one time in twenty at most one of them is not.
    """
    order = np.argsort(chances, kind="stable")
    raised = [0.0] * len(chances)
    highest = 0.0
    for place, index in enumerate(order):
        highest = max(highest, min(1.0, (len(chances) - place) * chances[index]))
        raised[index] = highest
    return raised


# -------------------------------------------------------------------------------- shares


def share_interval(flags: Float[np.ndarray, " P"], level: float = LEVEL) -> Interval:
    """The share of photos with a flag (0 or 1; NaNs are left out), 0 ... 1, after Clopper and Pearson 1934.

    Exact, and so wider than the formulas that hold on average: those cover as little as 83 % where nearly
    all or hardly any photos have the flag.  Low and high are NaN below FEWEST photos; NOTHING where no photo
    is left.
    """
    flags = flags[~np.isnan(flags)]
    count = len(flags)
    if not count:
        return NOTHING
    flagged = int(flags.sum())
    low, high = exact_limits(flagged, count, level) if count >= FEWEST else (math.nan, math.nan)
    return Interval(flagged / count, low, high=high, count=count)


@lru_cache(maxsize=4096)
def exact_limits(flagged: int, count: int, level: float = LEVEL) -> tuple[float, float]:
    """The shares under which `flagged` or more, and `flagged` or fewer, of `count` are just likely enough."""
    return lower_limit(flagged, count, level), 1 - lower_limit(count - flagged, count, level)


def lower_limit(flagged: int, count: int, level: float) -> float:
    """p such that P(Binomial(count, p) >= flagged) = (1 - level) / 2; 0 of none."""
    if not flagged:
        return 0.0
    logs = log_choices(count)[flagged:]
    successes = np.arange(flagged, count + 1)
    low, high = 0.0, flagged / count
    for _ in range(60):
        p = (low + high) / 2
        chances = logs + successes * math.log(p) + (count - successes) * math.log1p(-p)
        if float(np.exp(chances).sum()) < (1 - level) / 2:
            low = p
        else:
            high = p
    return (low + high) / 2


@lru_cache(maxsize=64)
def log_choices(count: int) -> Float[np.ndarray, " K"]:
    """ln (count over k) for k = 0 ... count."""
    factorials = np.concatenate([[0.0], np.cumsum(np.log(np.arange(1, count + 1)))])
    return factorials[-1] - factorials - factorials[::-1]


# -------------------------------------------------------------------------------- means


def mean_interval(values: Float[np.ndarray, " P"]) -> Interval:
    """The mean over photos, or of paired differences; NaNs are left out.

    From Student's t interval to the one that Hall 1992 bends by the skewness of the numbers, whichever end
    lies further out: the one alone misses means of skewed numbers, the other those of heavy tails.  Low and
    high are NaN below FEWEST_OF_MEANS photos, of which no formula covers the mean of skewed numbers, and
    where a value is infinite; NOTHING where no photo is left.
    """
    values = values[~np.isnan(values)]
    count = len(values)
    if not count:
        return NOTHING
    mean = float(values.mean())
    if count < FEWEST_OF_MEANS or not math.isfinite(mean):
        return Interval(mean, math.nan, high=math.nan, count=count)
    deviations = values - mean
    spread = math.sqrt(float((deviations**2).mean()))
    if spread <= abs(mean) * 1e-12:  # all alike but for rounding
        return Interval(mean, mean, high=mean, count=count)
    error = spread / math.sqrt(count - 1)
    skewness = float(((deviations / spread) ** 3).mean())
    t = student(count - 1)
    low = mean - error * max(t, unbent(t, skewness, count))
    high = mean - error * min(-t, unbent(-t, skewness, count))
    return Interval(mean, low, high=high, count=count)


def unbent(t: float, skewness: float, count: int) -> float:
    """Hall's transformation inverted: x + g x^2 / (3 sqrt n) + g^2 x^3 / (27 n) + g / (6 sqrt n) = t."""
    root = math.sqrt(count)
    if abs(skewness) < 1e-6:
        return t
    return 3 * root / skewness * (math.cbrt(1 + skewness / root * (t - skewness / (6 * root))) - 1)


def student(freedom: int) -> float:
    """97.5 % of Student's t lie below it, by Fisher and Cornish's expansion: right to 1e-5 from 29 on."""
    z = Z
    return (
        z
        + (z**3 + z) / (4 * freedom)
        + (5 * z**5 + 16 * z**3 + 3 * z) / (96 * freedom**2)
        + (3 * z**7 + 19 * z**5 + 17 * z**3 - 15 * z) / (384 * freedom**3)
        + (79 * z**9 + 776 * z**7 + 1482 * z**5 - 1920 * z**3 - 945 * z) / (92160 * freedom**4)
    )


# -------------------------------------------------------------------------------- differences of shares


def change_interval(changes: Float[np.ndarray, " P"]) -> Interval:
    """The difference of two shares of the same photos: each is 1 where it was gained, -1 where lost, else 0.

    Agresti and Min 2005: half a photo is added to each of the four kinds, so that few changes, or none, leave
    the doubt they should.  Low and high are NaN below FEWEST photos.
    """
    photos, gained, lost = len(changes), int((changes > 0).sum()), int((changes < 0).sum())
    value = (gained - lost) / photos
    if photos < FEWEST:
        return Interval(value, math.nan, high=math.nan, count=photos)
    more = photos + 2
    middle = (gained - lost) / more
    half = Z * math.sqrt((gained + lost + 1) / more - middle**2) / math.sqrt(more)
    return Interval(value, middle - half, high=middle + half, count=photos)

"""How often do the intervals of attnvis hold the truth?  Markdown tables on stdout, by simulated photos.

    python scripts/measure_coverage.py              # 20,000 draws a cell: half a minute
    python scripts/measure_coverage.py 2000

Medians are those of normal, skewed (log-normal) and tied (Poisson) numbers; shares go from .01 to 1.  A cell
that is above 97 % is one where numbers that come in steps leave an exact method no interval that covers less
and still 95 %.  Wilson's formula stands beside it: it is narrower, and covers as little as 89 % here.
"""

import math
import sys
from collections.abc import Callable, Sequence

import numpy as np

from attnvis.metrics.intervals import bootstrap, estimate, estimate_change, exact_limits, median_interval

COUNTS = (6, 10, 30, 100)
SHARES = (0.01, 0.02, 0.05, 0.1, 0.2, 0.3, 0.5, 0.7, 0.8, 0.9, 0.95, 0.98, 0.99, 1.0)
KINDS = ("normal", "skewed", "tied")
CHANGES = ((0.02, 0.01), (0.1, 0.05), (0.3, 0.2), (0.4, 0.1))  # shares of the photos gained and lost
RESAMPLES = 1_000


def main(arguments: Sequence[str]) -> None:
    draws = int(arguments[0]) if arguments else 20_000
    print(f"Coverage in %, {draws} draws a cell, seed 0.\n")
    print(
        table(
            "median of", KINDS, [[median_coverage(kind, count, draws) for count in COUNTS] for kind in KINDS]
        )
    )
    for title, limits in (("share (Clopper-Pearson)", exact_limits), ("share (Wilson)", wilson)):
        rows = [[share_coverage(limits, share, count, draws) for count in COUNTS] for share in SHARES]
        print(table(title, [f"{share:g}" for share in SHARES], rows))
    rows = [[change_coverage(*change, count, draws) for count in COUNTS] for change in CHANGES]
    print(table("difference of accuracy", [f"+{gained:g} −{lost:g}" for gained, lost in CHANGES], rows))
    rows = [[mean_coverage(kind, count, draws) for count in COUNTS] for kind in KINDS[:2]]
    print(table("mean of", KINDS[:2], rows))


def median_coverage(kind: str, count: int, draws: int) -> float:
    random = np.random.default_rng(0)
    if kind == "tied":
        values, truth = random.poisson(2.5, size=(draws, count)).astype(float), 2.0
    else:
        values, truth = random.normal(size=(draws, count)), 0.0
    if kind == "skewed":
        values, truth = np.exp(values), 1.0
    intervals = [median_interval(row) for row in values]
    return float(np.mean([interval.low <= truth <= interval.high for interval in intervals]))


def share_coverage(
    limits: Callable[[int, int], tuple[float, float]], share: float, count: int, draws: int
) -> float:
    flagged = np.random.default_rng(0).binomial(count, share, size=draws)
    ends = np.array([limits(of, count) for of in range(count + 1)])
    return float(((ends[flagged, 0] <= share) & (share <= ends[flagged, 1])).mean())


def change_coverage(gained: float, lost: float, count: int, draws: int) -> float:
    random = np.random.default_rng(0)
    drawn = random.choice([1.0, -1.0, 0.0], p=[gained, lost, 1 - gained - lost], size=(draws, count))
    intervals = [estimate_change(changes) for changes in drawn]
    return float(np.mean([interval.low <= gained - lost <= interval.high for interval in intervals]))


def mean_coverage(kind: str, count: int, draws: int) -> float:
    """Of the bootstrap; at most 4,000 draws, which share their resamples.  Skewed: exponential."""
    random, columns = np.random.default_rng(0), min(draws, 4_000)
    values, truth = random.normal(size=(count, columns)), 0.0
    if kind == "skewed":
        values, truth = random.exponential(size=(count, columns)), 1.0
    resampled = bootstrap(values, RESAMPLES)
    intervals = [
        estimate(own.mean(), means, photos=count) for own, means in zip(values.T, resampled.T, strict=True)
    ]
    return float(np.mean([interval.low <= truth <= interval.high for interval in intervals]))


def wilson(flagged: int, count: int) -> tuple[float, float]:
    z, p = 1.959964, flagged / count
    middle = p + z**2 / (2 * count)
    half = z * math.sqrt(p * (1 - p) / count + z**2 / (4 * count**2))
    low, high = ((middle + side * half) / (1 + z**2 / count) for side in (-1, 1))
    return max(0.0, low), 1.0 if flagged == count else high


def table(title: str, names: Sequence[str], rows: Sequence[Sequence[float]]) -> str:
    lines = [
        f"| {title} | {' | '.join(f'n = {count}' for count in COUNTS)} |",
        "|---" * (len(COUNTS) + 1) + "|",
    ]
    for name, row in zip(names, rows, strict=True):
        lines.append(f"| {name} | {' | '.join(f'{100 * covered:.1f}' for covered in row)} |")
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    main(sys.argv[1:])

"""How often do the intervals of attnvis hold the truth?  Markdown tables on stdout, by simulated photos.

    python scripts/measure_coverage.py                    # 20,000 draws a cell: some minutes
    python scripts/measure_coverage.py --draws 2000
    python scripts/measure_coverage.py --material DIR     # the shifts of attnvis calibrate, of real photos

Without DIR: medians, shares, differences of accuracy, means, and what is picked from many.  A cell above 97 %
is one where numbers that come in steps leave an exact method no interval that covers less and still 95 %.  A
dash: so few photos get no interval.  Wilson's formula stands beside that of Clopper and Pearson, Student's t
and the percentile bootstrap beside what means get.

With DIR: photos of DIR/imagenet_like/train go through EfficientNet-Lite0 and, by
DIR/weights/mobilenet_v2.safetensors, MobileNetV2; the truth is the shift of them all, and n of them are drawn
anew again and again.
"""

import argparse
import math
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np

from attnvis.backbone.calibration import SHIFTS, places_of
from attnvis.metrics.intervals import (
    Interval,
    change_interval,
    exact_limits,
    holm,
    mean_interval,
    median_interval,
    sign_test,
    student,
)

COUNTS = (6, 10, 30, 100)
SHARES = (0.01, 0.02, 0.05, 0.1, 0.2, 0.3, 0.5, 0.7, 0.8, 0.9, 0.95, 0.98, 0.99, 1.0)
CHANGES = ((0.02, 0.01), (0.1, 0.05), (0.3, 0.2), (0.4, 0.1))  # shares of the photos gained and lost
FAMILIES = (1, 5, 20, 60)  # how many comparisons are picked from
RESAMPLES = 1_000

Draw = Callable[[np.random.Generator, tuple[int, int]], np.ndarray]


def paired_difference(random: np.random.Generator, size: tuple[int, int]) -> np.ndarray:
    """A skewed number, lowered by a fifth and raised by another, minus itself: of mean .1."""
    base = random.exponential(size=size)
    return 0.8 * base + 0.3 * random.exponential(size=size) - base


NUMBERS: dict[str, tuple[Draw, float, float]] = {  # a draw, its mean, its median
    "normal": (lambda random, size: random.normal(size=size), 0.0, 0.0),
    "uniform": (lambda random, size: random.uniform(-1, 1, size=size), 0.0, 0.0),
    "heavy tails (t, 3)": (lambda random, size: random.standard_t(3, size=size), 0.0, 0.0),
    "tied (Poisson, 2.5)": (lambda random, size: random.poisson(2.5, size=size).astype(float), 2.5, 2.0),
    "exponential": (lambda random, size: random.exponential(size=size), 1.0, math.log(2)),
    "mostly small (gamma, .5)": (lambda random, size: random.gamma(0.5, size=size), 0.5, 0.227468),
    "log-normal": (lambda random, size: random.lognormal(size=size), math.exp(0.5), 1.0),
    "paired difference": (paired_difference, 0.1, math.nan),
}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--draws", type=int, default=20_000)
    parser.add_argument("--material", type=Path, help="measure the shifts of real photos instead")
    args = parser.parse_args()
    print(f"Coverage in %, {args.draws} draws a cell, seed 0.\n")
    for lines in of_shifts(args.material, args.draws) if args.material else of_numbers(args.draws):
        print(lines, flush=True)


def of_numbers(draws: int) -> Iterator[str]:
    """A table for each kind of interval."""
    known = [name for name, (_, _, median) in NUMBERS.items() if not math.isnan(median)]
    yield table("median of", known, [[median_coverage(name, n, draws) for n in COUNTS] for name in known])
    for title, limits in (("share (Clopper-Pearson)", exact_limits), ("share (Wilson)", wilson)):
        rows = [[share_coverage(limits, share, n, draws) for n in COUNTS] for share in SHARES]
        yield table(title, [f"{share:g}" for share in SHARES], rows)
    rows = [[change_coverage(*change, n, draws) for n in COUNTS] for change in CHANGES]
    yield table("difference of accuracy", [f"+{gained:g} −{lost:g}" for gained, lost in CHANGES], rows)
    for title, method in (
        ("mean of", mean_interval),
        ("mean (Student's t alone)", t_interval),
        ("mean (percentile bootstrap)", percentile_bootstrap),
    ):
        few = draws if method is not percentile_bootstrap else min(draws, 2_000)
        rows = [[mean_coverage(method, name, n, few) for n in COUNTS] for name in NUMBERS]
        yield table(title, list(NUMBERS), rows)
    names = [f"{family}" for family in FAMILIES]
    some = min(draws, 4_000)
    rows = [[largest_coverage(family, n, some) for n in COUNTS] for family in FAMILIES]
    yield table("the largest of so many medians", names, rows)
    rows = [[1 - holm_errors(family, n, some) for n in COUNTS] for family in FAMILIES]
    yield table("nothing called real of so many (Holm)", names, rows)


# -------------------------------------------------------------------------------- simulated photos


def holds(intervals: Sequence[Interval], truth: float) -> float:
    """How many hold the truth, but for rounding; NaN where there are none."""
    if math.isnan(intervals[0].low):
        return math.nan
    near = 1e-9 * (1 + abs(truth))
    return float(np.mean([entry.low - near <= truth <= entry.high + near for entry in intervals]))


def median_coverage(name: str, count: int, draws: int) -> float:
    draw, _, truth = NUMBERS[name]
    values = draw(np.random.default_rng(0), (draws, count))
    return holds([median_interval(row) for row in values], truth)


def share_coverage(
    limits: Callable[[int, int], tuple[float, float]], share: float, count: int, draws: int
) -> float:
    flagged = np.random.default_rng(0).binomial(count, share, size=draws)
    ends = np.array([limits(of, count) for of in range(count + 1)])
    return float(((ends[flagged, 0] <= share) & (share <= ends[flagged, 1])).mean())


def change_coverage(gained: float, lost: float, count: int, draws: int) -> float:
    random = np.random.default_rng(0)
    drawn = random.choice([1.0, -1.0, 0.0], p=[gained, lost, 1 - gained - lost], size=(draws, count))
    return holds([change_interval(changes) for changes in drawn], gained - lost)


def mean_coverage(method: Callable[[np.ndarray], Interval], name: str, count: int, draws: int) -> float:
    draw, truth, _ = NUMBERS[name]
    values = draw(np.random.default_rng(0), (draws, count))
    return holds([method(row) for row in values], truth)


def largest_coverage(family: int, count: int, draws: int) -> float:
    """Of the interval that a sentence gives the largest median of a family, none of which is real."""
    random = np.random.default_rng(0)
    intervals = []
    for _ in range(draws):
        rows = random.normal(size=(family, count)) + random.normal(size=count)
        chosen = rows[np.abs(np.median(rows, 1)).argmax()]
        intervals.append(median_interval(chosen, level=1 - 0.05 / family))
    return holds(intervals, 0.0)


def holm_errors(family: int, count: int, draws: int) -> float:
    """How many families of differences that are chance have one that is called real."""
    random = np.random.default_rng(0)
    wrong = 0
    for _ in range(draws):
        rows = random.normal(size=(family, count)) + random.normal(size=count)
        wrong += min(holm([sign_test(row) for row in rows])) < 0.05
    return wrong / draws


# -------------------------------------------------------------------------------- other formulas


def wilson(flagged: int, count: int) -> tuple[float, float]:
    z, p = 1.959964, flagged / count
    middle = p + z**2 / (2 * count)
    half = z * math.sqrt(p * (1 - p) / count + z**2 / (4 * count**2))
    low, high = ((middle + side * half) / (1 + z**2 / count) for side in (-1, 1))
    return max(0.0, low), 1.0 if flagged == count else high


def t_interval(values: np.ndarray) -> Interval:
    half = student(len(values) - 1) * float(values.std(ddof=1)) / math.sqrt(len(values))
    mean = float(values.mean())
    return Interval(mean, mean - half, high=mean + half, count=len(values))


def percentile_bootstrap(values: np.ndarray) -> Interval:
    draws = np.random.default_rng(0).integers(len(values), size=(RESAMPLES, len(values)))
    low, high = np.quantile(values[draws].mean(1), [0.025, 0.975])
    return Interval(float(values.mean()), float(low), high=float(high), count=len(values))


# -------------------------------------------------------------------------------- shifts of real photos

SHIFT_COUNTS = (30, 50, 100, 200)
NETWORKS = {
    "efficientnet_lite0": ("", 224, ("stage2", "stage3", "last")),
    "mobilenet_v2": ("mobilenet_v2.safetensors", 225, ("last",)),
}


def of_shifts(material: Path, draws: int) -> Iterator[str]:
    """What attnvis calibrate gives, and beside it the bootstrap of the best of SHIFTS."""
    populations: dict[str, np.ndarray] = {}
    for name, (file, size, layers) in NETWORKS.items():
        tables = real_tables(name, material / "weights" / file if file else None, size, layers, material)
        populations |= {f"{name}, {layer}": table for layer, table in zip(layers, tables, strict=True)}
    draws = min(draws, 2_000)
    for title, method in (("shift of", shift_interval), ("shift (percentile bootstrap)", bootstrapped)):
        rows = [[shift_coverage(method, of, n, draws) for n in SHIFT_COUNTS] for of in populations.values()]
        yield table(title, list(populations), rows, SHIFT_COUNTS)


def real_tables(
    name: str, weights: Path | None, size: int, layers: Sequence[str], material: Path
) -> list[np.ndarray]:
    from attnvis.backbone.sources import load_backbone
    from attnvis.data.paths import find
    from attnvis.pipeline.calibrating import agreement_tables

    more = {"weights": str(weights)} if weights else {}
    backbone = load_backbone(name, layer=list(layers), placement="rf", device="cpu", precision="fp32", **more)
    how = backbone.preprocessing.changed("resize", size)
    tables, _ = agreement_tables(backbone, find(material / "imagenet_like" / "train"), how, batch_size=8)
    return tables


def shift_interval(table: np.ndarray, random: np.random.Generator) -> Interval:
    return mean_interval(places_of(table))


def bootstrapped(table: np.ndarray, random: np.random.Generator) -> Interval:
    count = len(table)
    draws = random.multinomial(count, np.full(count, 1 / count), RESAMPLES)
    low, high = np.quantile(SHIFTS[(draws @ table).argmax(1)], [0.025, 0.975])
    return Interval(float(SHIFTS[table.mean(0).argmax()]), float(low), high=float(high), count=count)


def shift_coverage(
    method: Callable[[np.ndarray, np.random.Generator], Interval], table: np.ndarray, count: int, draws: int
) -> float:
    random = np.random.default_rng(0)
    truth = float(places_of(table).mean())
    samples = (table[random.integers(len(table), size=count)] for _ in range(draws))
    return holds([method(sample, random) for sample in samples], truth)


def table(
    title: str, names: Sequence[str], rows: Sequence[Sequence[float]], counts: Sequence[int] = COUNTS
) -> str:
    lines = [
        f"| {title} | {' | '.join(f'n = {count}' for count in counts)} |",
        "|---" * (len(counts) + 1) + "|",
    ]
    for name, row in zip(names, rows, strict=True):
        cells = ["–" if math.isnan(covered) else f"{100 * covered:.1f}" for covered in row]
        lines.append(f"| {name} | {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    main()

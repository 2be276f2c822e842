"""An evaluation on a ladder of pop-out arrays in, thresholds and shares found with their intervals out."""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from jaxtyping import Float

from attnvis.data.generated import step_of
from attnvis.data.stimuli import GRID, KINDS
from attnvis.experiments.evaluate.measure import Evaluation
from attnvis.metrics.intervals import LEVEL, Interval, change_interval, holm, mean_interval, share_interval
from attnvis.metrics.metric import Facts
from attnvis.metrics.psychometric import Psychometric, fit_psychometric

__all__ = ["Asymmetry", "Curve", "PopOut", "measure_pop_out", "require_levels"]

FEWEST_LEVELS = 3
CHANCE_ROW = "uniform"  # the row that shows what a map without any preference finds
REAL = 1 - LEVEL
PAIRS = (("tilted", "upright"), ("feature", "conjunction"))  # of which people find the first more easily


@dataclass(frozen=True, eq=False)
class Curve:
    """One row's finds in arrays of one kind, by one metric, level by level.

    levels   ascending: how far the odd item is from the others, or of searches how many items there are
    shares   of arrays in which it was found, with exact intervals; of a metric that is no share the mean
    guesses  what a map that knows nothing has at each level
    fit      None: there is no threshold to look for (a search, or a metric that is no share)
    chance   of the fit's rise, after Holm over the rows of this kind and metric
    """

    kind: str
    row: str
    metric: str
    levels: tuple[float, ...]
    shares: tuple[Interval, ...]
    guesses: tuple[float, ...]
    fit: Psychometric | None = None
    chance: float = math.nan

    @property
    def rises(self) -> bool:
        """Whether the target is shown to be found more often where it differs more."""
        return self.fit is not None and self.chance < REAL

    @property
    def has_threshold(self) -> bool:
        return self.fit is not None and self.rises and math.isfinite(self.fit.threshold)


@dataclass(frozen=True)
class Asymmetry:
    """On the same places, how much more often a row finds the one kind than the other."""

    row: str
    metric: str
    easy: str
    hard: str
    difference: Interval


@dataclass(frozen=True, eq=False)
class PopOut:
    """All curves, and what pairs of searches show."""

    curves: tuple[Curve, ...]
    asymmetries: tuple[Asymmetry, ...]
    rows: tuple[str, ...]
    repeats: int  # arrays at a level, at most
    failures: tuple[tuple[str, str], ...] = ()

    def of(self, kind: str, metric: str) -> list[Curve]:
        return [curve for curve in self.curves if (curve.kind, curve.metric) == (kind, metric)]

    @property
    def kinds(self) -> tuple[str, ...]:
        return tuple(dict.fromkeys(curve.kind for curve in self.curves))

    @property
    def thresholds(self) -> list[Curve]:
        return [curve for curve in self.curves if curve.fit is not None]

    @property
    def numbers(self) -> dict[str, float]:
        """For W&B: the thresholds that there are."""
        return {
            f"threshold/{curve.metric}/{curve.kind}/{curve.row}": curve.fit.threshold
            for curve in self.thresholds
            if curve.fit is not None and curve.has_threshold
        }


def require_levels(levels: Mapping[str, Any]) -> None:
    """Raises ValueError where there are none, and where those of a threshold are too few or do not rise."""
    if not levels:
        raise ValueError(
            "study=pop_out has no levels; attnvis evaluate experiment=popout has those of docs/studies.md"
        )
    for kind, of_kind in levels.items():
        fewest = FEWEST_LEVELS if kind in KINDS else 1
        if not isinstance(of_kind, list) or not all(isinstance(each, int | float) for each in of_kind):
            raise ValueError(f"levels.{kind}={of_kind}: give numbers, as in levels.{kind}=[5,10,20]")
        if len(of_kind) < fewest or sorted(set(of_kind)) != of_kind or of_kind[0] <= lowest(kind):
            raise ValueError(
                f"levels.{kind}={of_kind}: give at least {fewest}, each larger than the one before, "
                f"from above {lowest(kind)} on"
            )


def lowest(kind: str) -> int:
    """The level at which nothing differs."""
    return 1 if kind == "size" else 0


def measure_pop_out(evaluation: Evaluation, metrics: Sequence[Facts], seed: int = 0) -> PopOut:
    """Fits every row's finds of every kind.

    Raises ValueError where a metric's chance is not known: see `guesses_of`.
    """
    steps = [step_of(name) for name in evaluation.photos]
    places: dict[str, dict[float, list[int]]] = {}  # kind -> level -> the arrays
    for number, (kind, level, _) in enumerate(steps):
        places.setdefault(kind, {}).setdefault(level, []).append(number)
    curves = [
        curve
        for kind, of_kind in places.items()
        for metric in metrics
        for curve in curves_of(evaluation, kind, metric, of_kind, seed)
    ]
    repeats = max(len(arrays) for of_kind in places.values() for arrays in of_kind.values())
    rows = tuple(row.name for row in evaluation.rows if row.name != CHANCE_ROW)
    pairs = tuple(asymmetries(evaluation, metrics, steps))
    return PopOut(tuple(curves), pairs, rows, repeats, evaluation.failures)


def is_share(metric: Facts) -> bool:
    """Whether its mean is how often something was found: what a threshold is of."""
    return metric.name.partition(":")[0] in ("found_first", "pointing_game")


def curves_of(
    evaluation: Evaluation, kind: str, metric: Facts, places: Mapping[float, Sequence[int]], seed: int
) -> Iterator[Curve]:
    levels = tuple(sorted(places))
    values = evaluation.values[metric.name]
    guesses = guesses_of(evaluation, kind, metric, {level: places[level] for level in levels})
    curves = []
    for number, row in enumerate(evaluation.rows):
        if row.name == CHANCE_ROW:
            continue
        columns = [values[places[level], number] for level in levels]
        shares = tuple(
            share_of(column) if is_share(metric) else mean_within(column, metric) for column in columns
        )
        fit = None
        if kind in KINDS and is_share(metric) and len(levels) >= FEWEST_LEVELS:
            fit = fit_finds(kind, levels, columns, guess=float(np.mean(guesses)), seed=seed)
        curves.append(Curve(kind, row.name, metric.name, levels, shares, guesses, fit))
    chances = holm([curve.fit.chance for curve in curves if curve.fit is not None])
    for curve in curves:
        yield curve if curve.fit is None else replace(curve, chance=chances.pop(0))


def fit_finds(
    kind: str, levels: Sequence[float], columns: Sequence[Float[np.ndarray, " P"]], guess: float, seed: int
) -> Psychometric | None:
    """None where a level has no array on which the metric is defined."""
    trials = np.array([int((~np.isnan(column)).sum()) for column in columns])
    if not trials.all():
        return None
    found = np.array([np.nansum(column) for column in columns])
    return fit_psychometric(differences(kind, levels), found, trials, guess=guess, seed=seed)


def differences(kind: str, levels: Sequence[float]) -> list[float]:
    """The levels as amounts that are 0 where nothing differs: of sizes, by how much more than 1."""
    return [level - lowest(kind) for level in levels]


def share_of(flags: Float[np.ndarray, " P"]) -> Interval:
    """Of flags; hottest pixels that tie give a part of one, and the limits are those of the nearest count."""
    known = flags[~np.isnan(flags)]
    whole = np.zeros(len(known))
    whole[: round(float(known.sum()))] = 1
    limits = share_interval(whole)
    value = float(known.mean()) if len(known) else math.nan
    return Interval(value, min(limits.low, value), high=max(limits.high, value), count=len(known))


def mean_within(values: Float[np.ndarray, " P"], metric: Facts) -> Interval:
    """The mean, with limits that the metric can reach."""
    mean = mean_interval(values)
    low, high = np.clip([mean.low, mean.high], metric.low, metric.high).tolist()
    return replace(mean, low=low, high=high)


def guesses_of(
    evaluation: Evaluation, kind: str, metric: Facts, places: Mapping[float, Sequence[int]]
) -> tuple[float, ...]:
    """What a map that knows nothing has at each level.

    Of found_first one item of all of them; of the pointing game what the row `uniform` has, which is the
    target's share of the picture.  Raises ValueError where that row is not among the methods.
    """
    name = metric.name.partition(":")[0]
    if name == "found_first":
        return tuple(1 / (GRID**2 if kind in KINDS else level) for level in places)
    if not is_share(metric):
        return tuple(math.nan for _ in places)
    rows = [row.name for row in evaluation.rows]
    if CHANCE_ROW not in rows:
        raise ValueError(f"{metric.name} needs to know what chance finds; add {CHANCE_ROW} to method=")
    column = evaluation.values[metric.name][:, rows.index(CHANCE_ROW)]
    return tuple(float(np.nanmean(column[list(arrays)])) for arrays in places.values())


def asymmetries(
    evaluation: Evaluation, metrics: Sequence[Facts], steps: Sequence[tuple[str, float, int]]
) -> Iterator[Asymmetry]:
    """Of pairs of searches whose targets lie at the same places: one seed has the target at one place."""
    index = {step: number for number, step in enumerate(steps)}
    for easy, hard in PAIRS:
        shared = [
            (number, index[hard, level, seed])
            for (kind, level, seed), number in index.items()
            if kind == easy and (hard, level, seed) in index
        ]
        if not shared:
            continue
        first, second = np.array(shared).T
        for metric in filter(is_share, metrics):
            values = np.round(evaluation.values[metric.name])
            for number, row in enumerate(evaluation.rows):
                changes = values[first, number] - values[second, number]
                changes = changes[~np.isnan(changes)]
                if row.name != CHANCE_ROW and len(changes):
                    yield Asymmetry(row.name, metric.name, easy, hard, change_interval(changes))

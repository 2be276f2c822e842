"""An evaluation of attention's settings in; ranks of layers, queries, scalings and whole settings out.

A layer competes with its best query and scaling, chosen on one half of the photos and measured on the other;
so do queries and scalings.  Which of them can be told apart is decided for all pairs at once, by the largest
of all studentised differences over the draws of a paired bootstrap.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from jaxtyping import Bool, Float

from attnvis.experiments.evaluate.maps import Row
from attnvis.experiments.evaluate.measure import Evaluation
from attnvis.experiments.evaluate.statistics import (
    FEWER,
    chosen_on_halves,
    estimates,
    percentiles,
    resampled,
    value_of,
)
from attnvis.metrics.intervals import FEWEST_OF_MEANS, LEVEL, Interval
from attnvis.metrics.metric import Facts

__all__ = ["AXES", "Advice", "Candidate", "Ranking", "Setting", "advise", "rank", "setting_of"]

AXES = ("layer", "query", "scaling")
ALL = "chosen"  # the candidate that is best of all settings, chosen on halves


@dataclass(frozen=True)
class Setting:
    """What a row of attention is made of; a scaling has its normaliser behind it where there are several."""

    layer: str
    query: str
    scaling: str


@dataclass(frozen=True)
class Candidate:
    """One of those that are ranked.

    worse_than   those that are shown to be better; none: it is not told from the best
    chosen       the settings under which it was measured, one for each half of the photos
    """

    name: str
    value: Interval
    worse_than: tuple[str, ...] = ()
    chosen: tuple[str, ...] = ()


@dataclass(frozen=True)
class Ranking:
    """The candidates of one axis under one metric, the best first.

    photos   those on which all candidates are defined; below FEWEST_OF_MEANS nothing is told apart
    """

    axis: str
    metric: str
    better: str  # higher | lower
    candidates: tuple[Candidate, ...]
    photos: int

    @property
    def told(self) -> bool:
        return self.photos >= FEWEST_OF_MEANS

    @property
    def leaders(self) -> tuple[Candidate, ...]:
        """Those that are not told from the best."""
        return tuple(each for each in self.candidates if not each.worse_than)


@dataclass(frozen=True, eq=False)
class Advice:
    """All rankings, and of every metric the settings that both halves chose with what they reach."""

    photos: int
    rankings: tuple[Ranking, ...]

    def of(self, axis: str, metric: str) -> Ranking:
        return next(each for each in self.rankings if (each.axis, each.metric) == (axis, metric))

    @property
    def metrics(self) -> tuple[str, ...]:
        return tuple(dict.fromkeys(each.metric for each in self.rankings))


def setting_of(row: Row, layers: Sequence[str]) -> Setting | None:
    """What a row's name says, where it is one of attention: "mean zscore, last"; None of another method."""
    name, layer = row.name, layers[-1]
    for each in layers:
        if len(layers) > 1 and name.endswith(f", {each}"):
            name, layer = name.removesuffix(f", {each}"), each
    scaling = name.removeprefix(f"{row.family} ")
    return None if scaling == name else Setting(layer, row.family, scaling)


def advise(evaluation: Evaluation, metrics: Sequence[Facts], layers: Sequence[str], seed: int = 0) -> Advice:
    """Every axis under every metric, beside the methods that are no attention.

    Raises ValueError where there are fewer than two settings to choose from.
    """
    settings = {row: setting_of(row, layers) for row in evaluation.rows if row.temperature is None}
    attention = {row: setting for row, setting in settings.items() if setting is not None}
    if len(attention) < 2:
        raise ValueError(
            "advice chooses among settings of attention, and there is one at most; "
            "give several of query=, scaling= or backbone.layer=[stage3,last]"
        )
    rankings = []
    for metric in metrics:
        values = evaluation.values[metric.name]
        columns = {row.name: values[:, number] for number, row in enumerate(evaluation.rows)}
        controls = {row.name: columns[row.name] for row, setting in settings.items() if setting is None}
        for axis in AXES:
            families = {row: getattr(setting, axis) for row, setting in attention.items()}
            if len(set(families.values())) > 1:
                rankings.append(ranked(axis, evaluation.rows, values, metric, families, seed=seed))
        overall = dict.fromkeys(attention, ALL)
        best, choices = composed(evaluation.rows, values, metric, overall, seed)
        together = rank(best | controls, metric, seed=seed)
        rankings.append(Ranking("setting", metric.name, metric.better, *with_choices(together, choices)))
    return Advice(len(evaluation.photos), tuple(rankings))


def ranked(
    axis: str,
    rows: Sequence[Row],
    values: Float[np.ndarray, "P M *curve"],
    metric: Facts,
    families: Mapping[Row, str],
    seed: int,
) -> Ranking:
    """What an axis' candidates reach, each with the rest of its setting chosen on halves."""
    columns, choices = composed(rows, values, metric, families, seed)
    return Ranking(axis, metric.name, metric.better, *with_choices(rank(columns, metric, seed), choices))


def composed(
    rows: Sequence[Row],
    values: Float[np.ndarray, "P M *curve"],
    metric: Facts,
    families: Mapping[Row, str],
    seed: int,
) -> tuple[dict[str, Float[np.ndarray, "P *curve"]], dict[str, tuple[str, ...]]]:
    """Of every family each half of the photos under the row that is best on the other half; those rows."""
    numbers = [number for number, row in enumerate(rows) if row in families]
    members = [replace(rows[number], family=families[rows[number]]) for number in numbers]
    derived = chosen_on_halves(members, values[:, numbers], metric, seed)
    columns = {row.family: of_row for row, (_, of_row) in derived.items()}
    choices = {row.family: tuple(dict.fromkeys(names)) for row, (names, _) in derived.items()}
    for number, member in zip(numbers, members, strict=True):
        if member.family not in columns:  # the only one of its family
            columns[member.family] = values[:, number]
            choices[member.family] = (member.name,)
    return columns, choices


def with_choices(
    result: tuple[list[Candidate], int], choices: Mapping[str, tuple[str, ...]]
) -> tuple[tuple[Candidate, ...], int]:
    candidates, photos = result
    return tuple(replace(each, chosen=choices.get(each.name, ())) for each in candidates), photos


def rank(
    columns: Mapping[str, Float[np.ndarray, "P *curve"]], metric: Facts, seed: int = 0
) -> tuple[list[Candidate], int]:
    """The candidates, the best first, and the photos that they share; those defined nowhere come last."""
    defined = {name: ~np.isnan(values).reshape(len(values), -1).any(1) for name, values in columns.items()}
    known = {name: columns[name] for name, where in defined.items() if where.any()}
    shared = np.logical_and.reduce([defined[name] for name in known]) if known else np.zeros(0, bool)
    photos = int(shared.sum())
    nowhere = [Candidate(name, Interval(math.nan, math.nan, math.nan, 0)) for name in columns.keys() - known]
    if not photos:
        return nowhere, 0
    draws = resampled(photos, FEWER, seed)
    names = list(known)
    own = np.stack([estimates(known[name][shared], draws, metric) for name in names], 1)  # [R, M]
    values = np.array([value_of(known[name][shared], metric)[0] for name in names])
    better = (
        shown_better(own, values, metric) if photos >= FEWEST_OF_MEANS else np.zeros((len(names),) * 2, bool)
    )
    sign = -1 if metric.better == "higher" else 1
    candidates = [
        Candidate(
            names[number],
            percentiles(float(values[number]), photos, own[:, number]),
            worse_than=tuple(names[other] for other in np.flatnonzero(better[:, number])),
        )
        for number in np.argsort(sign * values, kind="stable")
    ]
    return candidates + nowhere, photos


def shown_better(
    draws: Float[np.ndarray, "R M"], values: Float[np.ndarray, " M"], metric: Facts
) -> Bool[np.ndarray, "M M"]:
    """[i, j]: whether i is shown to be better than j, with all pairs considered.

    The bound is the LEVEL quantile, over the draws, of the largest |D* - D| / SD(D*) of any pair.
    """
    sign = 1 if metric.better == "higher" else -1
    apart = sign * (values[:, None] - values[None])  # [i, j]: by how much i is better
    drawn = sign * (draws[:, :, None] - draws[:, None])  # [R, M, M]
    spread = drawn.std(0)
    certain = spread > 1e-12
    distances = np.where(certain, np.abs(drawn - apart) / np.where(certain, spread, 1), 0)
    bound = np.quantile(distances.reshape(len(draws), -1).max(1), LEVEL)
    return np.where(certain, apart > bound * spread, apart > 1e-9)

"""Numbers of photos and rows in; means, 95 % paired bootstrap intervals, and who differs from whom, out."""

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache

import numpy as np
import torch
from jaxtyping import Float

from attnvis.experiments.evaluate.maps import Row, require_row
from attnvis.experiments.evaluate.measure import Evaluation
from attnvis.metrics.intervals import FEWEST_OF_MEANS, LEVEL, NOTHING, Interval, holm
from attnvis.metrics.metric import Facts

__all__ = ["Cell", "Leader", "Table", "chosen_on_halves", "leaders", "per_photo", "summarise"]

RESAMPLES = 10_000
BLOCK = 2_000  # resamples of curves at once
FEWER = 2_000  # resamples of metrics that give curves, which are long


@dataclass(frozen=True)
class Cell:
    """One row's number under one metric."""

    interval: Interval
    undefined: int  # photos on which it is not defined
    difference: Interval = NOTHING  # to the row `against`, on the same photos
    chance: float = math.nan  # that it is none, after Holm over the rows of this metric

    @property
    def differs(self) -> bool:
        return self.chance < 1 - LEVEL


@dataclass(frozen=True, eq=False)
class Table:
    """rows x metrics; those of a curve along the temperature are rows too."""

    rows: tuple[Row, ...]
    metrics: tuple[Facts, ...]
    cells: dict[tuple[str, str], Cell]  # (row, metric) by their names
    against: str
    photos: int
    chosen: dict[tuple[str, str], tuple[str, str]]  # (row, metric) -> what each half chose for the other

    def ranked(self, metric: Facts) -> list[Row]:
        """The rows of the table, the best first; what is defined nowhere last."""
        sign = -1 if metric.better == "higher" else 1

        def place(row: Row) -> float:
            value = sign * self.cells[row.name, metric.name].interval.value
            return math.inf if math.isnan(value) else value

        return sorted((row for row in self.rows if row.temperature is None), key=place)


@lru_cache(maxsize=4)  # every metric of a table has the same draws
def resampled(photos: int, count: int, seed: int = 0) -> Float[np.ndarray, "R P"]:
    """How often each photo is drawn, in each of `count` draws of as many photos as there are."""
    drawn = np.random.default_rng(seed).integers(photos, size=(count, photos))
    counts = np.zeros((count, photos))
    np.add.at(counts, (np.arange(count)[:, None], drawn), 1)
    return counts


def weighted_means(
    values: Float[np.ndarray, "P M"], draws: Float[np.ndarray, "R P"]
) -> Float[np.ndarray, "R M"]:
    """The mean of every row in each draw; photos on which it is not defined are out of it."""
    defined = ~np.isnan(values)
    with np.errstate(invalid="ignore", divide="ignore"):
        return (draws @ np.where(defined, values, 0)) / (draws @ defined.astype(float))


def finisher(metric: Facts) -> Callable[[np.ndarray], np.ndarray]:
    """Mean curves [..., T] -> numbers; of a metric of numbers itself."""
    finish = metric.finish
    if finish is None:
        return lambda means: means
    return lambda means: finish(torch.from_numpy(np.ascontiguousarray(means))).numpy()


def estimates(
    values: Float[np.ndarray, "P *curve"], draws: Float[np.ndarray, "R P"], metric: Facts
) -> Float[np.ndarray, " R"]:
    """The data set's number in each draw; photos on which it is not defined are out of it."""
    finish = finisher(metric)
    defined = ~np.isnan(values).reshape(len(values), -1).any(1)
    weights = draws if defined.all() else draws[:, defined]
    total = weights.sum(1)
    flat = values[defined].reshape(int(defined.sum()), -1)
    if not flat.size:
        return np.full(len(draws), np.nan)
    parts = []
    for start in range(0, len(weights), BLOCK):
        part = slice(start, start + BLOCK)
        with np.errstate(invalid="ignore", divide="ignore"):
            means = weights[part] @ flat / total[part, None]
        parts.append(finish(means.reshape(len(means), *values.shape[1:])))
    return np.concatenate(parts)


def value_of(values: Float[np.ndarray, "P *curve"], metric: Facts) -> tuple[float, int]:
    """The data set's number, and the photos that it is of; NaN of none."""
    defined = ~np.isnan(values).reshape(len(values), -1).any(1)
    if not defined.any() or not values[defined].size:
        return math.nan, 0
    return float(finisher(metric)(values[defined].mean(0))), int(defined.sum())


def percentiles(value: float, count: int, draws: Float[np.ndarray, " R"]) -> Interval:
    if count < FEWEST_OF_MEANS or math.isnan(value):
        return Interval(value, math.nan, high=math.nan, count=count)
    low, high = np.nanquantile(draws, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return Interval(value, float(low), high=float(high), count=count)


def summarise(evaluation: Evaluation, metrics: Sequence[Facts], against: str, seed: int = 0) -> Table:
    """Means, intervals, and differences to the row `against` with their chances.

    Photos are drawn, and all rows on them together.  Raises ValueError where there is no row `against`.
    """
    require_row(against, evaluation.rows)
    cells: dict[tuple[str, str], Cell] = {}
    rows, chosen = evaluation.rows, dict[tuple[str, str], tuple[str, str]]()
    for metric in metrics:
        values = evaluation.values[metric.name]
        derived = chosen_on_halves(evaluation.rows, values, metric, seed)
        columns = {row.name: values[:, number] for number, row in enumerate(evaluation.rows)}
        for row, (choices, of_row) in derived.items():
            columns[row.name] = of_row
            chosen[row.name, metric.name] = choices
        rows = tuple(dict.fromkeys([*rows, *derived]))
        cells |= {(row, metric.name): cell for row, cell in compared(columns, metric, against, rows)}
    return Table(rows, tuple(metrics), cells, against, len(evaluation.photos), chosen)


def compared(
    columns: Mapping[str, Float[np.ndarray, "P *curve"]], metric: Facts, against: str, rows: Sequence[Row]
) -> Iterator[tuple[str, Cell]]:
    """Each row's cell under one metric."""
    photos = len(columns[against])
    draws = resampled(photos, FEWER if metric.finish else RESAMPLES)
    own, differences = (drawn_curves if metric.finish else drawn_numbers)(columns, metric, against, draws)
    is_point = {row.name: row.temperature is not None for row in rows}
    cells, chances = dict[str, Cell](), dict[str, float]()
    for name, values in columns.items():
        value, count = value_of(values, metric)
        cells[name] = Cell(percentiles(value, count, own[name]), photos - count)
        if name == against or is_point[name]:
            continue
        pair = shared_photos(values, columns[against])
        (of_row, shared), (of_base, _) = (value_of(each, metric) for each in pair)
        if not shared:
            continue
        difference = percentiles(of_row - of_base, shared, differences[name])
        cells[name] = replace(cells[name], difference=difference)
        if shared >= FEWEST_OF_MEANS:
            chances[name] = bootstrap_chance(differences[name])
    for name, chance in zip(chances, holm(list(chances.values())), strict=True):
        cells[name] = replace(cells[name], chance=chance)
    yield from cells.items()


Drawn = dict[str, Float[np.ndarray, " R"]]  # row -> its number in each draw


def drawn_numbers(
    columns: Mapping[str, Float[np.ndarray, " P"]],
    metric: Facts,
    against: str,
    draws: Float[np.ndarray, "R P"],
) -> tuple[Drawn, Drawn]:
    """Of all rows at once: their means in each draw, and those of the differences to the row `against`."""
    values = np.stack(list(columns.values()), 1)
    own = weighted_means(values, draws)
    differences = weighted_means(values - columns[against][:, None], draws)
    return dict(zip(columns, own.T, strict=True)), dict(zip(columns, differences.T, strict=True))


def drawn_curves(
    columns: Mapping[str, Float[np.ndarray, "P T"]],
    metric: Facts,
    against: str,
    draws: Float[np.ndarray, "R P"],
) -> tuple[Drawn, Drawn]:
    """The same of a metric that belongs to the whole set, row by row: of two means the difference."""
    own, differences = dict[str, np.ndarray](), dict[str, np.ndarray]()
    for name, values in columns.items():
        own[name] = estimates(values, draws, metric)
        mine, base = (estimates(each, draws, metric) for each in shared_photos(values, columns[against]))
        differences[name] = mine - base
    return own, differences


def shared_photos(
    values: Float[np.ndarray, "P *curve"], base: Float[np.ndarray, "P *curve"]
) -> tuple[Float[np.ndarray, "P *curve"], Float[np.ndarray, "P *curve"]]:
    """Both, NaN on photos on which either is not defined."""
    both = ~np.isnan(values - base).reshape(len(values), -1).any(1)
    mask = both.reshape(-1, *[1] * (values.ndim - 1))
    return np.where(mask, values, np.nan), np.where(mask, base, np.nan)


def bootstrap_chance(differences: Float[np.ndarray, " R"]) -> float:
    """Two-sided: twice the share of draws on the other side of 0, with the data themselves as one draw."""
    known = differences[~np.isnan(differences)]
    beyond = min(int((known <= 0).sum()), int((known >= 0).sum()))
    return min(1.0, 2 * (beyond + 1) / (len(known) + 1))


# -------------------------------------------------------------------------------- chosen settings


def chosen_on_halves(
    rows: Sequence[Row], values: Float[np.ndarray, "P M *curve"], metric: Facts, seed: int = 0
) -> dict[Row, tuple[tuple[str, str], Float[np.ndarray, "P *curve"]]]:
    """Of each family of several settings a row more: each half of the photos under the setting that is best
    on the other half.

    Gives the two settings chosen, and the values photo by photo.
    """
    families: dict[str, list[int]] = {}
    for number, row in enumerate(rows):
        if row.temperature is None:
            families.setdefault(row.family, []).append(number)
    half = np.random.default_rng(seed).permutation(len(values)) % 2 == 0
    derived = {}
    for family, numbers in families.items():
        if len(numbers) < 2:
            continue
        composed, choices = np.full_like(values[:, 0], np.nan), []
        for judged, choosing in ((half, ~half), (~half, half)):
            best = best_of(values[choosing][:, numbers], metric)
            choices.append(rows[numbers[best]].name)
            composed[judged] = values[judged, numbers[best]]
        derived[Row(f"{family} (chosen)", family)] = ((choices[0], choices[1]), composed)
    return derived


@dataclass(frozen=True)
class Leader:
    """Of the settings of one question the best under one metric, and those not shown to be worse."""

    metric: str
    family: str
    best: str  # the row
    alike: tuple[str, ...]
    settings: int  # that compete


def leaders(evaluation: Evaluation, metrics: Sequence[Facts]) -> Iterator[Leader]:
    """Each metric and question of several settings; paired differences to the best, Holm over its rivals.

    Photos fewer than FEWEST_OF_MEANS tell nothing apart.
    """
    families: dict[str, list[int]] = {}
    for number, row in enumerate(evaluation.rows):
        if row.temperature is None:
            families.setdefault(row.family, []).append(number)
    for metric in metrics:
        values = evaluation.values[metric.name]
        for family, numbers in families.items():
            if len(numbers) < 2:
                continue
            best = evaluation.rows[numbers[best_of(values[:, numbers], metric)]].name
            rows = [evaluation.rows[number] for number in numbers]
            columns = {row.name: values[:, number] for row, number in zip(rows, numbers, strict=True)}
            cells = dict(compared(columns, metric, best, rows))
            alike = tuple(name for name, cell in cells.items() if name != best and not cell.differs)
            yield Leader(metric.name, family, best, alike, settings=len(numbers))


def best_of(values: Float[np.ndarray, "P M *curve"], metric: Facts) -> int:
    """The row that is best on these photos; the first of equals, and where none is defined."""
    numbers = np.array([value_of(values[:, row], metric)[0] for row in range(values.shape[1])])
    worst = -math.inf if metric.better == "higher" else math.inf
    numbers = np.where(np.isnan(numbers), worst, numbers)
    return int(numbers.argmax() if metric.better == "higher" else numbers.argmin())


def per_photo(values: Float[np.ndarray, "P M *curve"], metric: Facts) -> Float[np.ndarray, "P M"]:
    """One photo's number each: of a curve what it would be of a data set of this photo alone."""
    if metric.finish is None:
        return values
    if not values.shape[-1]:
        return np.full(values.shape[:2], np.nan)
    defined = ~np.isnan(values).any(-1)
    numbers = finisher(metric)(np.nan_to_num(values).reshape(-1, values.shape[-1])).reshape(values.shape[:2])
    return np.where(defined, numbers, np.nan)

"""What an evaluation found, in sentences; and the photos that show it."""

import math
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from attnvis.experiments.evaluate.measure import Evaluation
from attnvis.experiments.evaluate.statistics import Cell, Table, per_photo
from attnvis.experiments.evaluate.tables import mark_of, number_text
from attnvis.experiments.wording import listed, many
from attnvis.metrics.intervals import FEWEST_OF_MEANS
from attnvis.metrics.metric import Facts

__all__ = ["Example", "examples", "flat_lines", "sentences"]

CONTROLS = ("centre", "uniform", "random_query", "random_weights")


def sentences(table: Table) -> Iterator[str]:
    """Of every metric what leads, and who is better than the row that all are held against."""
    if table.photos < FEWEST_OF_MEANS:
        yield (
            f"These are {many(table.photos, 'photo')}: intervals and comparisons need {FEWEST_OF_MEANS}, and "
            "what leads here need not lead elsewhere."
        )
    for metric in table.metrics:
        rows = [row for row in table.ranked(metric) if row.name not in CONTROLS]
        cells = {row.name: table.cells[row.name, metric.name] for row in rows}
        known = [name for name, cell in cells.items() if not math.isnan(cell.interval.value)]
        if not rows:
            yield f"{metric.name}: the controls alone were measured; add a method to compare with them."
            continue
        if not known:
            yield f"{metric.name}: not defined on any of these photos."
            continue
        base = table.cells[table.against, metric.name]
        better = [name for name in known if mark_of(cells[name], metric) == "▲"]
        worse = [name for name in known if mark_of(cells[name], metric) == "▼"]
        text = f"{metric.name}: {leading(cells, known, base, metric, table.against)}"
        if table.photos >= FEWEST_OF_MEANS:
            others = len(known) - (table.against in known)
            text += f". Shown to be better than {table.against}: {counted(better, others)}; worse: "
            text += counted(worse, others)
        yield f"{text}."


def leading(cells: dict[str, Cell], known: list[str], base: Cell, metric: Facts, against: str) -> str:
    """What leads; that nothing does, where the control that all are held against has as good a number.

    known: the methods whose number is defined, the best first.
    """
    best, control = cells[known[0]].interval.value, base.interval.value
    number = told(cells[known[0]])
    tied = [name for name in known if math.isclose(cells[name].interval.value, best, abs_tol=1e-12)]
    # the choice among settings is no rival of the setting that it chose
    tied = [name for name in tied if not name.endswith(" (chosen)")] or tied
    if len(tied) > 1:
        lead = f"{listed(tied) if len(tied) <= 3 else many(len(tied), 'row')} are tied with {number}"
    else:
        lead = f"the best method is {tied[0]} with {number}"
    if against in known:
        return lead if against in tied else f"{lead}, and {against} has {told(base)}"
    is_better = control > best if metric.better == "higher" else control < best
    if is_better or math.isclose(control, best, abs_tol=1e-12):
        return f"no method has a better number than {against} with {told(base)}; {lead}"
    return f"{lead}, and {against} has {told(base)}"


def counted(names: list[str], others: int) -> str:
    if not names:
        return "none"
    return listed(names) if len(names) <= 3 else f"{len(names)} of {others}"


def told(cell: Cell) -> str:
    interval = cell.interval
    limits = (
        "" if math.isnan(interval.low) else f" [{number_text(interval.low)}, {number_text(interval.high)}]"
    )
    return number_text(interval.value) + limits


def flat_lines(table: Table) -> Iterator[str]:
    """How far each query's curve along the temperature moves a metric: of those of ranks hardly at all."""
    families = list(dict.fromkeys(row.family for row in table.rows if row.temperature is not None))
    for metric in table.metrics:
        spreads, best = {}, {}
        for family in families:
            points = {
                row.temperature: table.cells[row.name, metric.name].interval.value
                for row in table.rows
                if row.family == family and row.temperature is not None
            }
            points = {tau: value for tau, value in points.items() if not math.isnan(value)}
            if points:
                spreads[family] = max(points.values()) - min(points.values())
                pick = max if metric.better == "higher" else min
                best[family] = pick(points, key=points.__getitem__)
        if not spreads:
            continue
        kind = "ranks alone" if metric.ranks else "values"
        texts = [f"{family} {number_text(spreads[family])} (best at {best[family]:g})" for family in spreads]
        yield f"{metric.name} ({kind}): from one end to the other {', '.join(texts)}."


@dataclass(frozen=True)
class Example:
    """A photo that shows something of a metric, and the rows whose maps show it."""

    metric: str
    what: str  # best | worst | disagreeing
    photo: str
    rows: tuple[tuple[str, float], ...]  # with the photo's own number


def examples(evaluation: Evaluation, table: Table) -> list[Example]:
    """Of every metric the leading row's best and worst photo, and the one on which rows differ most."""
    shown = []
    names = [row.name for row in evaluation.rows]
    for metric in table.metrics:
        numbers = per_photo(evaluation.values[metric.name], metric)
        leaders = [row.name for row in table.ranked(metric) if row.name in names and row.name not in CONTROLS]
        own = [number for number, row in enumerate(evaluation.rows) if row.temperature is None]
        if not leaders or np.isnan(numbers[:, names.index(leaders[0])]).all():
            continue
        leader = leaders[0]
        column = numbers[:, names.index(leader)]
        ordered = [index for index in np.argsort(column, kind="stable") if not math.isnan(column[index])]
        if metric.better == "lower":
            ordered.reverse()
        for what, index in (("worst", ordered[0]), ("best", ordered[-1])):
            shown.append(example(evaluation, metric, what, int(index), [(leader, float(column[index]))]))
        chosen = numbers[:, own]
        spread = np.full(len(chosen), -1.0)
        known = ~np.isnan(chosen).all(1)
        spread[known] = np.nanmax(chosen[known], 1) - np.nanmin(chosen[known], 1)
        index = int(spread.argmax())
        high, low = (own[int(pick(chosen[index]))] for pick in (np.nanargmax, np.nanargmin))
        pair = [(names[row], float(numbers[index, row])) for row in (high, low)]
        shown.append(example(evaluation, metric, "most disagreeing", index, pair))
    return shown


def example(
    evaluation: Evaluation, metric: Facts, what: str, index: int, rows: list[tuple[str, float]]
) -> Example:
    return Example(metric.name, what, evaluation.photos[index], tuple(rows))

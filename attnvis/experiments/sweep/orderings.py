"""Series in, whether weights keep the order of the scores out."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from attnvis.attention.scaling import positive_factor
from attnvis.experiments.sweep.statistics import Series

__all__ = ["EXACT", "Order", "WeightOrder", "badness", "orders"]

EXACT = 1e-6  # a rank correlation this near to 1 is 1
KEPT_ORDER = 0.99  # a rank correlation of weights with scores below this one is an order lost


@dataclass(frozen=True)
class WeightOrder:
    """Whether the order is left in the weights too, where a normaliser may cut patches off."""

    lost: int  # maps whose Spearman of weights with scores is below KEPT_ORDER
    worst: float  # the lowest; NaN where it was not measured
    alive: int  # patches above 0 on that map
    patches: int  # of how many


@dataclass(frozen=True)
class Order:
    """Whether a setting left the order of the patches alone, over all jobs, queries and photos."""

    setting: str
    factor: bool  # the scaling multiplies by one positive factor, so that it must
    count: int  # maps
    exact: int  # of them with Spearman 1 to EXACT
    worst: float
    photo: str  # where that was
    broken: int  # of a factor: maps below what ties from rounding can explain
    weights: "WeightOrder"


def orders(all_series: Sequence[Series]) -> list[Order]:
    """Setting by setting, in order of appearance.

    Rounding can make two scores equal, and that costs 3 / (N (N^2 - 1)) of Spearman's correlation; as many
    such pairs as a quarter of the patches are let pass.
    """
    by_name: dict[str, Order] = {}
    for series in all_series:
        allowed = np.maximum(EXACT, 0.75 / np.maximum(series.patches**2 - 1, 1e-9))
        for column, (setting, name) in enumerate(zip(series.settings, series.names, strict=True)):
            correlations = series.numbers["rank_correlation"][:, column]
            if not len(correlations):
                continue
            factor = positive_factor(setting[0])
            lowest = int(np.argmin(np.where(np.isnan(correlations), -2, correlations)))  # NaN is the worst
            order = Order(
                name,
                factor,
                count=len(correlations),
                exact=int((correlations >= 1 - EXACT).sum()),
                worst=float(correlations[lowest]),
                photo=series.photos[lowest],
                broken=len(correlations) - int((correlations >= 1 - allowed).sum()) if factor else 0,
                weights=weight_order(series, column),
            )
            by_name[name] = both(by_name[name], order) if name in by_name else order
    return list(by_name.values())


def weight_order(series: Series, column: int) -> WeightOrder:
    """Of one setting in one series."""
    correlations = series.shape("weight_rank_correlation")[:, column]
    if np.isnan(correlations).all():
        return WeightOrder(0, math.nan, alive=0, patches=0)
    lowest = int(np.nanargmin(correlations))
    return WeightOrder(
        lost=int((correlations < KEPT_ORDER).sum()),
        worst=float(correlations[lowest]),
        alive=int(series.shape("alive")[lowest, column]),
        patches=int(series.patches[lowest]),
    )


def both_weights(before: WeightOrder, after: WeightOrder) -> WeightOrder:
    known = [order for order in (after, before) if not math.isnan(order.worst)]
    worse = min(known, key=lambda order: order.worst) if known else before
    return replace(worse, lost=before.lost + after.lost)


def both(before: Order, order: Order) -> Order:
    """Of one setting in two series; between equals the later photo is named."""
    worse = min((order, before), key=lambda candidate: badness(candidate.worst))
    return replace(
        worse,
        count=before.count + order.count,
        exact=before.exact + order.exact,
        broken=before.broken + order.broken,
        weights=both_weights(before.weights, order.weights),
    )


def badness(correlation: float) -> float:
    """Lowest first, and no number at all before the lowest."""
    return -2.0 if math.isnan(correlation) else correlation

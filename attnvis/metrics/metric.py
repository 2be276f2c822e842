"""What travels with a metric: what it needs of the truth, its range, which way is better.

A metric is a function: (maps [M, H, W], truth) -> one number a map, or one curve a map, NaN where it is not
defined.  The maps are a method's raw numbers placed on the grid of the truth - densities, evidence - and
never what a picture shows of them; all are finite, but for NaN where the network never looked.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial, wraps
from typing import Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from attnvis.types import Truth

__all__ = ["Facts", "Metric", "best_of_thresholds", "facts", "filled", "is_level", "metric"]

Metric = Callable[..., Float[Tensor, "M *curve"]]  # (maps, truth) with its settings filled in
Finish = Callable[[Float[Tensor, "*any curve"]], Float[Tensor, "*any"]]


@dataclass(frozen=True)
class Facts:
    """What a table, a page and --help say of one metric."""

    name: str
    needs: tuple[
        str, ...
    ]  # all of these of the truth; "mask|boxes": one of the two; network, evidence: see `faithfulness`
    better: str  # higher | lower
    low: float  # of its range
    high: float
    uniform: float  # what a map that is the same everywhere scores; NaN: it depends on the photo
    ranks: bool  # the order of the values alone counts: no scaling that keeps it changes the number
    # of a metric that gives curves: mean curve over photos -> number.  The number of a data set is
    # finish(nanmean over its photos), that of one photo finish(its curve); numbers are their own mean.
    finish: Finish | None = None

    def missing(self, truth: Truth) -> list[str]:
        """What the metric needs and this truth lacks; of the network nothing is asked here."""
        known = truth.known | {"network", "evidence"}
        return [need for need in self.needs if not known & set(need.split("|"))]


def metric(
    needs: str,
    *,
    better: str = "higher",
    low: float = 0.0,
    high: float = 1.0,
    uniform: float = math.nan,
    ranks: bool = False,
    finish: Finish | None = None,
) -> Callable[[Metric], Metric]:
    """Says of a function what `facts` shall tell.  `needs`: names of the truth, blank between them."""

    def described(function: Metric) -> Metric:
        described_as = Facts(
            name=function.__name__,
            needs=tuple(needs.split()),
            better=better,
            low=low,
            high=high,
            uniform=uniform,
            ranks=ranks,
            finish=finish,
        )

        @wraps(function)
        def checked(maps: Float[Tensor, "M H W"], beside: Any, *args: Any, **settings: Any) -> Tensor:
            check_size(maps, beside, function.__name__)
            return function(maps, beside, *args, **settings)

        checked.facts = described_as  # type: ignore[attr-defined]
        return checked

    return described


def check_size(maps: Float[Tensor, "M H W"], beside: Any, name: str) -> None:
    """Raises ValueError where the maps lie on another grid than what they are measured against.

    beside   a Truth; or what a network saw (`faithfulness`): its image, or its cells' scores
    """
    if isinstance(beside, Truth):
        size = beside.size
    else:
        size = tuple((beside.image if hasattr(beside, "image") else beside.scores).shape[-2:])
    if tuple(maps.shape[-2:]) != size:
        raise ValueError(
            f"{name}: maps of {maps.shape[-2]} x {maps.shape[-1]} against truth of {size[0]} x {size[1]} "
            "(height x width); draw the maps at that size, or bring the truth to theirs with resize_truth"
        )


def facts(function: Metric) -> Facts:
    """What is known of a metric, with settings filled in or without.  Raises TypeError for anything else."""
    while isinstance(function, partial):
        function = function.func
    if not isinstance(getattr(function, "facts", None), Facts):
        name = getattr(function, "__name__", repr(function))
        raise TypeError(f"{name} is no metric: it does not say what it needs; decorate it with @metric(...)")
    return function.facts  # type: ignore[attr-defined]


def best_of_thresholds(curve: Float[Tensor, "*any T"]) -> Float[Tensor, "*any"]:
    """A `finish`: what the curve has at the threshold that is best."""
    return curve.amax(-1)


def is_level(maps: Float[Tensor, "M *any"]) -> Bool[Tensor, " M"]:
    """Whether a map is the same everywhere, to the last bit; one of NaN is not."""
    values = maps.flatten(1)
    return (values == values[:, :1]).all(1)


def filled(maps: Float[Tensor, "M H W"]) -> Float[Tensor, "M H W"]:
    """In float64, and where the network never looked the least that a map can say: 0, or below 0 its minimum.

    A density has no mass there; a signed map nothing that is above any pixel that was seen.  A map that has
    an infinity, or was seen nowhere, becomes NaN as a whole: no metric is defined on it.
    """
    maps = maps.double()
    if maps.sum((-2, -1)).isfinite().all():  # one NaN or infinity makes its sum one
        return maps
    seen = ~maps.isnan()
    least = maps.nan_to_num(nan=math.inf, posinf=math.inf, neginf=-math.inf).amin((-2, -1)).clamp_max(0)
    values = torch.where(seen, maps, least[:, None, None])
    is_broken = maps.isinf().flatten(1).any(1) | ~seen.flatten(1).any(1)
    return values.masked_fill(is_broken[:, None, None], math.nan)

"""Maps of an array of items of which one differs -> whether that one stands out (Kotseruba et al. 2019).

The truth has the odd item as its mask and the others as its distractors; without either a photo has NaN.
"""

import math

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from attnvis.metrics.fixations import undefined, unit_range
from attnvis.metrics.metric import filled, metric
from attnvis.types import Truth

__all__ = ["found_first", "gsi"]


@metric("mask distractors", low=-1.0, uniform=-1.0)
def gsi(maps: Float[Tensor, "M H W"], truth: Truth) -> Float[Tensor, " M"]:
    """Global saliency index (Soltani and Koch 2010): (T - D) / (T + D) of the means on target and others.

    Of the map stretched to 0 ... 1; -1 where both are 0.
    """
    parts = target_and_distractors(truth)
    if parts is None:
        return undefined(maps)
    values = unit_range(filled(maps)).flatten(1)
    target, others = (values[:, part].mean(1) for part in parts)
    return torch.where(target + others == 0, -1.0, (target - others) / (target + others))


@metric("mask distractors", ranks=True, uniform=0.0)
def found_first(maps: Float[Tensor, "M H W"], truth: Truth) -> Float[Tensor, " M"]:
    """1 where the target's hottest pixel has more than every distractor's, else 0: MSR of P3 above 1."""
    parts = target_and_distractors(truth)
    if parts is None:
        return undefined(maps)
    values = filled(maps).flatten(1)
    target, others = (values[:, part].amax(1) for part in parts)
    return (target > others).double().where(~values.isnan().any(1), math.nan)


def target_and_distractors(truth: Truth) -> tuple[Bool[Tensor, " P"], Bool[Tensor, " P"]] | None:
    """Their pixels; None where either is unknown or empty."""
    if truth.mask is None or truth.distractors is None:
        return None
    if not truth.mask.any() or not truth.distractors.any():
        return None
    return torch.from_numpy(truth.mask).flatten(), torch.from_numpy(truth.distractors).flatten()

"""Query, keys and values -> attention.  The whole of the seed note in one function."""

import math
from collections.abc import Callable

import torch
from jaxtyping import Float
from torch import Tensor

from attnvis.attention import normalise as normalisers
from attnvis.attention import scaling as scalings
from attnvis.types import Attention, Scores

__all__ = ["Normalise", "Scaling", "attend", "gamma_pooled", "weigh"]

SIMPOOL_EPSILON = 1e-6

Scaling = Callable[[Scores], Tensor]
Normalise = Callable[[Tensor], Tensor]


def attend(
    query: Float[Tensor, "B Q K"],
    keys: Float[Tensor, "B N K"],
    values: Float[Tensor, "B N E"] | None = None,
    scaling: Scaling = scalings.inv_sqrt_d,
    normalise: Normalise = normalisers.softmax,
) -> Attention:
    """Dot products of each query with each key, scaled, normalised over the patches.

    `values` None means K = V, the same storage.  Computed in float32 or better, under autocast too: half
    precision is off by about 1e-2 on logits of 50.  Raises what `scaling` and `normalise` raise: ValueError
    for a setting out of range.
    """
    scores = Scores(at_least_float32(query), at_least_float32(keys))
    return weigh(scores, keys if values is None else values, scaling=scaling, normalise=normalise)


def weigh(
    scores: Scores, values: Float[Tensor, "B N E"], scaling: Scaling, normalise: Normalise
) -> Attention:
    """The part of `attend` after the scores: several scalings of one `Scores` share one product.

    Raises what `scaling` and `normalise` raise.
    """
    with torch.autocast(scores.keys.device.type, enabled=False):
        logits = scaling(scores)
        weights = normalise(logits)
        return Attention(
            scores.products, logits, weights=weights, values=at_least_float32(values), dim=scores.dim
        )


def gamma_pooled(
    weights: Float[Tensor, "B Q N"], values: Float[Tensor, "B N E"], gamma: float
) -> Float[Tensor, "B Q E"]:
    """u = (sum_i a_i (v_i - min v + eps)^gamma)^(1/gamma), channel by channel (SimPool, Psomas et al. 2023).

    min v is over a photo's patches and channels, and over no other photo: batches change nothing.  gamma 1 is
    the context less min v; large gamma goes to each channel's largest value.  Raises ValueError unless gamma
    is above 0.
    """
    if not 0 < gamma < math.inf:  # NaN fails too
        raise ValueError(f"gamma must be above 0, not {gamma:g}")
    shifted = values.double() - values.double().amin((1, 2), keepdim=True) + SIMPOOL_EPSILON
    largest = shifted.amax(1, keepdim=True)  # or a high power would overflow
    means = weights.double() @ (shifted / largest).pow(gamma)
    return (largest * means.pow(1 / gamma)).to(weights)


def at_least_float32(tensor: Tensor) -> Tensor:
    """The tensor itself in single or double precision, else a copy of any shape in single precision."""
    return tensor if tensor.dtype in (torch.float32, torch.float64) else tensor.float()

"""One score -> what each channel adds to it: q . k_i = sum_c q_c k_ic = |q| |k_i| cos."""

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

__all__ = ["Parts", "favourites", "parts"]


@dataclass(frozen=True, eq=False)
class Parts:
    """Of one query and one patch, in float64."""

    score: float  # q . k_i
    query_norm: float
    key_norm: float
    cosine: float  # 0 where either has no length
    query: Float[Tensor, " K"]
    key: Float[Tensor, " K"]
    products: Float[Tensor, " K"]  # q_c k_ic: their sum is the score
    # q_c (k_ic - mean_j k_jc): their sum is the score less the mean score, all that softmax sees of it
    above_mean: Float[Tensor, " K"]


def parts(query: Float[Tensor, " K"], keys: Float[Tensor, "N K"], patch: int) -> Parts:
    """One query's score of one patch, channel by channel."""
    query, keys = query.double(), keys.double()
    key = keys[patch]
    score, lengths = float(query @ key), (float(query.norm()), float(key.norm()))
    size = lengths[0] * lengths[1]
    return Parts(
        score,
        query_norm=lengths[0],
        key_norm=lengths[1],
        cosine=score / size if size else 0.0,
        query=query,
        key=key,
        products=query * key,
        above_mean=query * (key - keys.mean(0)),
    )


def favourites(
    products: Float[Tensor, " N"], sign: float, count: int, without: int | None = None
) -> list[tuple[int, float]]:
    """The patches to which a channel adds most - or, for a negative sign, from which it takes most.

    products: q_c k_ic over the patches.  Gives (patch, q_c k_ic), at most `count`, none of the other sign;
    where they tie, the first comes first.
    """
    signed = products * (1 if sign >= 0 else -1)
    order = torch.sort(signed, descending=True, stable=True).indices.tolist()
    patches = [(patch, float(products[patch])) for patch in order if patch != without and signed[patch] > 0]
    return patches[:count]

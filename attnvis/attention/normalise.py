"""How attention logits become weights.

Every function: logits [B, Q, N] -> weights [B, Q, N], in 0 ... 1, summing to 1 over the patches N; settings
are arguments.
"""

import math
from collections.abc import Callable

import torch
from jaxtyping import Float
from torch import Tensor

from attnvis.attention.jacobian import NormaliserJacobian

__all__ = ["entmax15", "power", "relu", "sigmoid", "softmax", "sparsemax", "top_k"]

Weights = Float[Tensor, "B Q N"]


def softmax(logits: Weights) -> Weights:
    """a_i = exp(z_i) / sum_j exp(z_j)."""
    return logits.softmax(-1)


def sparsemax(logits: Weights) -> Weights:
    """The point of the simplex nearest to z: many weights are exactly 0 (Martins & Astudillo 2016)."""
    # The shift changes nothing but the rounding: sums of large logits would lose the differences.
    logits = logits - logits.amax(-1, keepdim=True)
    ordered = logits.sort(-1, descending=True).values
    ranks = torch.arange(1, logits.shape[-1] + 1, device=logits.device, dtype=logits.dtype)
    sums = ordered.cumsum(-1)
    support = (1 + ranks * ordered > sums).sum(-1, keepdim=True).clamp_min(1)  # NaN is above nothing
    threshold = (sums.gather(-1, support - 1) - 1) / support
    return (logits - threshold).relu()


def entmax15(logits: Weights) -> Weights:
    """a_i = max(z_i / 2 - theta, 0)^2: between softmax and sparsemax (Peters et al. 2019)."""
    halves = (logits - logits.amax(-1, keepdim=True)) / 2
    ordered = halves.sort(-1, descending=True).values
    ranks = torch.arange(1, logits.shape[-1] + 1, device=logits.device, dtype=logits.dtype)
    means = ordered.cumsum(-1) / ranks  # of the largest k
    squares = (ordered**2).cumsum(-1) - ranks * means**2  # of the largest k, about their mean
    thresholds = means - ((1 - squares) / ranks).clamp_min(0).sqrt()
    support = (thresholds <= ordered).sum(-1, keepdim=True).clamp_min(1)  # NaN is below nothing
    return (halves - thresholds.gather(-1, support - 1)).relu() ** 2


def sigmoid(logits: Weights, bias: float | None = None) -> Weights:
    """a_i = g_i / sum g with the gate g_i = sigmoid(z_i + bias) (Ramapuram et al. 2024).

    `bias` None is -ln N, which makes the gates sum to about 1 at z = 0.  Not invariant to a shift of the
    logits.
    """
    if bias is None:
        bias = -math.log(logits.shape[-1])
    log_gates = torch.nn.functional.logsigmoid(logits + bias)
    return log_gates.softmax(-1)  # g / sum g, and no underflow where every gate is nearly shut


def top_k(logits: Weights, k: int = 10) -> Weights:
    """Softmax over the k largest logits, 0 elsewhere; of equal logits the first patches are kept.

    Raises ValueError for k below 1.
    """
    if k < 1:
        raise ValueError(f"normalise top_k needs k of at least 1, not {k}")
    largest = logits.argsort(dim=-1, descending=True, stable=True)[..., :k]
    is_smaller = torch.ones_like(logits, dtype=torch.bool).scatter(-1, largest, False)
    return logits.masked_fill(is_smaller, -math.inf).softmax(-1)


def relu(logits: Weights) -> Weights:
    """a_i = max(z_i, 0) / sum: what Grad-CAM pictures show.  Where no logit is positive: uniform."""
    return divide_by_sum(relative_to_peak(logits))


def power(logits: Weights, p: float = 2.0) -> Weights:
    """a_i = max(z_i, 0)^p / sum.  Where no logit is positive: uniform.

    Raises ValueError unless p is above 0.
    """
    if not p > 0:
        raise ValueError(f"normalise power needs p above 0, not {p}")
    return divide_by_sum(relative_to_peak(logits) ** p)


def relative_to_peak(logits: Weights) -> Weights:
    """max(z_i, 0) / max_j z_j, 0 ... 1: no power and no sum of it overflows; 0 where no logit is positive."""
    positive = logits.relu()
    peak = positive.amax(-1, keepdim=True)
    return positive / torch.where(peak == 0, 1.0, peak)


def divide_by_sum(amounts: Weights) -> Weights:
    """Amounts >= 0 as shares of their sum over the patches; uniform where the sum is 0, and NaN stays."""
    total = amounts.sum(-1, keepdim=True)
    is_nothing = total == 0
    return torch.where(is_nothing, 1.0 / amounts.shape[-1], amounts / torch.where(is_nothing, 1.0, total))


def entmax_jacobian(weights: Weights, alpha: float) -> NormaliserJacobian:
    """Of the alpha-entmax family: diag(u) - u u^T / sum(u), u = a^(2 - alpha) where a > 0.

    alpha: 1 softmax, 1.5 entmax15, 2 sparsemax (Peters et al. 2019).
    """
    gains = weights if alpha == 1 else weights ** (2 - alpha) * (weights > 0)
    return NormaliserJacobian(gains, shares=gains / gains.sum(-1, keepdim=True))


def sigmoid_jacobian(logits: Weights, weights: Weights, bias: float | None = None) -> NormaliserJacobian:
    """Softmax of ln g, and d ln g / d z = 1 - g."""
    if bias is None:
        bias = -math.log(logits.shape[-1])
    return NormaliserJacobian(weights * torch.sigmoid(-(logits + bias)), shares=weights)


def power_jacobian(logits: Weights, weights: Weights, p: float = 2.0) -> NormaliserJacobian:
    """d ln a_i = p dz_i / z_i, less the same for the sum; uniform weights where no logit is positive stay."""
    is_positive = logits > 0
    gains = torch.where(is_positive, p * weights / torch.where(is_positive, logits, 1.0), 0.0)
    return NormaliserJacobian(gains, shares=weights)


# How the weights of each follow its logits: (logits, weights, settings) in double precision -> its Jacobian.
# A normaliser that is not here is differentiated by autograd.
DERIVATIVES: dict[Callable, Callable[..., NormaliserJacobian]] = {
    softmax: lambda logits, weights: entmax_jacobian(weights, alpha=1.0),
    top_k: lambda logits, weights, k=10: entmax_jacobian(weights, alpha=1.0),
    entmax15: lambda logits, weights: entmax_jacobian(weights, alpha=1.5),
    sparsemax: lambda logits, weights: entmax_jacobian(weights, alpha=2.0),
    sigmoid: sigmoid_jacobian,
    relu: lambda logits, weights: power_jacobian(logits, weights, p=1.0),
    power: power_jacobian,
}

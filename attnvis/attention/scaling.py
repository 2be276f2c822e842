"""How scores become attention logits.  Every function: Scores -> logits [B, Q, N]; settings are arguments.

A dot product grows with d_k, with the norms and with the correlation of the channels; softmax sees only differences.  So what a scaling
does is set the spread of the logits over the patches of one photo (`diagnostics.sigma_eff`).
All but `cosine` multiply the scores of one photo and query by a positive factor (and may shift them): they cannot change the ranks.
"""

import math

import torch
from jaxtyping import Float
from torch import Tensor

from attnvis.types import Scores

__all__ = [
    "cosine",
    "inv_d",
    "inv_sqrt_d",
    "log_n",
    "minmax",
    "none",
    "perplexity",
    "robust_z",
    "ssmax",
    "temperature",
    "zscore",
]

Logits = Float[Tensor, "B Q N"]


def none(scores: Scores) -> Logits:
    """z = s."""
    return scores.products


def inv_sqrt_d(scores: Scores) -> Logits:
    """z = s / sqrt(d_k): unit variance for iid standard normal query and keys (Vaswani et al. 2017)."""
    return scores.products / math.sqrt(scores.dim)


def inv_d(scores: Scores) -> Logits:
    """z = s / d_k: the mean product per channel; right where query and keys are correlated (Yang et al. 2022, muP)."""
    return scores.products / scores.dim


def temperature(scores: Scores, tau: float = 1.0) -> Logits:
    """z = s / tau."""
    return scores.products / positive("tau", tau)


def cosine(scores: Scores, tau: float = 0.07) -> Logits:
    """z = cos(q, k_i) / tau; a zero vector has cosine 0.  At tau = 1 no weight exceeds another by more than e^2.  CLIP starts at .07."""
    norms = scores.query.norm(dim=-1, keepdim=True) * scores.keys.norm(dim=-1).unsqueeze(-2)  # [B, Q, N]
    return divide(scores.products, norms) / positive("tau", tau)


def zscore(scores: Scores, tau: float = 1.0) -> Logits:
    """z = (s - mean s) / (population std of s * tau); a photo without contrast gives uniform weights."""
    centred = centre(scores.products)
    spread = scores.products.std(-1, correction=0, keepdim=True)
    return divide(centred, spread, negligible=noise(scores.products)) / positive("tau", tau)


def robust_z(scores: Scores, tau: float = 1.0) -> Logits:
    """z = (s - median s) / (1.4826 MAD tau): one hot patch cannot set the scale."""
    deviation = scores.products - middle(scores.products)
    return divide(deviation, 1.4826 * middle(deviation.abs()), negligible=noise(scores.products)) / positive(
        "tau", tau
    )


def minmax(scores: Scores, tau: float = 0.25) -> Logits:
    """z = (s - min s) / ((max s - min s) tau): the largest weight is exactly e^(1/tau) times the smallest."""
    low, high = scores.products.aminmax(dim=-1, keepdim=True)
    return divide(scores.products - low, high - low, negligible=noise(scores.products)) / positive("tau", tau)


def log_n(scores: Scores, base: float = 512.0) -> Logits:
    """z = s log_base(N) / sqrt(d_k): keeps the entropy's share when the grid grows (Su 2021)."""
    if base <= 1:
        raise ValueError(f"scaling log_n needs base > 1, not {base}; 512 is usual")
    return scores.products * math.log(scores.patches, base) / math.sqrt(scores.dim)


def ssmax(scores: Scores, s: float = 0.43) -> Logits:
    """z = s ln(N) * score, so that a_i is N^(s score_i) / sum (Nakanishi 2025).  It multiplies: adding s ln N would do nothing."""
    return scores.products * (positive("s", s) * math.log(scores.patches))


def perplexity(scores: Scores, target: float = 0.1) -> Logits:
    """z = (s - max s) / tau, tau found per photo and query so that softmax(z) looks at `target` patches (below 1: at that share of them).

    Unique, because the entropy falls strictly as 1/tau grows.  A target of N or more gives uniform weights; one below the number of
    patches that share the maximum gives the uniform distribution over those.  A target share keeps its meaning at any resolution.
    """
    patches = positive("target", target) * (scores.patches if target < 1 else 1)
    if patches >= scores.patches:
        return torch.zeros_like(scores.products)
    above = (scores.products - scores.products.amax(-1, keepdim=True)).double()  # <= 0; the largest is 0
    spread = -above.amin(-1, keepdim=True)
    wanted = math.log(max(1.0, patches))
    low, high = (
        spread.clamp_min(1e-300).log() - 25.0,
        spread.clamp_min(1e-300).log() + 25.0,
    )  # ln tau: one-hot ... uniform
    for _ in range(60):
        between = (low + high) / 2
        sharp = entropy(above / between.exp()) < wanted
        low, high = torch.where(sharp, between, low), torch.where(sharp, high, between)
    return torch.where(spread > noise(scores.products), above / high.exp(), 0.0).to(scores.products.dtype)


def entropy(logits: Float[Tensor, "B Q N"]) -> Float[Tensor, "B Q 1"]:
    """Of softmax(logits), in nats."""
    log_weights = logits.log_softmax(-1)
    return -(log_weights.exp() * log_weights).nan_to_num(0.0).sum(-1, keepdim=True)


def positive(name: str, number: float) -> float:
    if not number > 0:
        raise ValueError(f"scaling: {name} must be above 0, not {number}")
    return number


def centre(values: Logits) -> Logits:
    return values - values.mean(-1, keepdim=True)


def middle(values: Logits) -> Float[Tensor, "B Q 1"]:
    """The median, an even count taking the mean of the two in the middle (torch.median takes the lower)."""
    return values.quantile(0.5, dim=-1, keepdim=True)


def noise(values: Logits) -> Float[Tensor, "B Q 1"]:
    """The spread that rounding alone can give equal scores."""
    return values.abs().amax(-1, keepdim=True) * (8 * torch.finfo(values.dtype).eps)


def divide(values: Tensor, by: Tensor, negligible: Tensor | float = 0.0) -> Tensor:
    """values / by, and 0 where `by` is no more than `negligible`."""
    usable = by > negligible
    return torch.where(usable, values / torch.where(usable, by, 1.0), 0.0)


def positive_factor(name: str) -> bool:
    """Whether a scaling of attnvis multiplies all scores of a photo by one positive factor: then it cannot change their order."""
    return name.partition(":")[0] in set(__all__) - {"cosine"}

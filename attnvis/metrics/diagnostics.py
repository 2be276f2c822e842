"""Weights -> how sharp they are, per photo and query: {name: [B, Q]}, in float64.

All are cheap, all are logged.
"""

import math
from collections.abc import Mapping

import torch
from jaxtyping import Bool, Float
from torch import Tensor

__all__ = ["DESCRIPTIONS", "NEARLY_UNIFORM", "diagnose", "freezing_point"]

NEARLY_UNIFORM = 0.95  # of the patches: an attention spread over more than this share prefers almost nothing

DESCRIPTIONS = {
    "entropy": "H = -sum a ln a, in nats",
    "perplexity": "e^H: how many patches the attention is spread over, 1 ... N",
    "entropy_share": "H / ln N: 0 one-hot, 1 uniform",
    "effective_patches": "1 / sum a^2",
    "max": "the largest weight",
    "max_times_uniform": "N max a: how often uniform the hottest patch is",
    "gini": "Gini coefficient of the weights: 0 uniform, towards 1 one-hot",
    "top_1_percent": "weight on the top 1 % of the patches (at least one)",
    "top_5_percent": "weight on the top 5 % of the patches (at least one)",
    "top_10_percent": "weight on the top 10 % of the patches (at least one)",
    "above_uniform": "how many patches weigh more than 1 / N",
    "score_std": "population standard deviation of the raw scores over the patches",
    "score_range": "max - min of the raw scores",
    "sigma_eff": "population standard deviation of the logits: what any scaling sets",
    "margin": "best logit minus second best",
    "jacobian_norm": "Frobenius norm of d a / d logits: how much gradient the normaliser lets through; "
    "NaN for one of your own that autograd cannot differentiate, or beyond 1,024 patches",
    "jacobian_spectral": "largest eigenvalue of d a / d logits; NaN for a normaliser of your own",
    "gradient_norm": "Frobenius norm of d a / d scores: what reaches a raw score, what a scaling measures of "
    "the scores included (cosine's lengths stand still); NaN for a scaling or normaliser as above",
    "kl_uniform": "KL(a || uniform) = ln N - H, in nats",
    "js_inv_sqrt_d": "Jensen-Shannon divergence to softmax(s / sqrt(d_k)) of the same scores, in nats; "
    "0 ... ln 2",
    "rank_correlation": "Spearman of logits with raw scores: 1 unless a scaling changes ranks",
    "saturated": "1 where the largest weight exceeds .99",
    "dead": "1 where the perplexity exceeds .99 N",
}


def diagnose(
    weights: Float[Tensor, "*any N"],
    logits: Float[Tensor, "*any N"] | None = None,
    scores: Float[Tensor, "*any N"] | None = None,
    dim: int | None = None,
    gradient: Mapping[str, Float[Tensor, "*any"]] | None = None,
) -> dict[str, Float[Tensor, "*any"]]:
    """Everything in DESCRIPTIONS, in that order; of weights alone, such as another method's map,
    what needs no more.

    `dim` is d_k; js_inv_sqrt_d is NaN where it is not known.  `gradient` are jacobian_norm, jacobian_spectral
    and gradient_norm (`attention.sensitivity`): they depend on the functions, which no weights tell, and are
    left out where it is not given.
    """
    numbers = concentration(weights)
    if logits is not None and scores is not None:
        numbers |= spread(weights.double(), logits.double(), scores.double(), dim=dim)
    if gradient is not None:
        numbers |= gradient
    return {name: numbers[name] for name in DESCRIPTIONS if name in numbers}


def concentration(weights: Float[Tensor, "*any N"]) -> dict[str, Float[Tensor, "*any"]]:
    """How few patches hold how much of the weight."""
    one_ulp = torch.finfo(weights.dtype).eps
    weights = weights.double()
    patches = weights.shape[-1]
    ordered = weights.sort(-1, descending=True).values
    largest = ordered[..., 0]
    sums = ordered.cumsum(-1)  # of the largest 1 ... N
    entropy = torch.xlogy(weights, weights).sum(-1).clamp_max(0).abs()  # abs: one-hot is 0, not -0
    perplexity = entropy.exp()
    uniform = (1 + 8 * one_ulp) / patches  # rounding alone lifts no patch above it
    ranks = torch.arange(patches - 1, -patches, -2, device=weights.device)  # N - 1, N - 3 ... 1 - N

    def top(share: float) -> Tensor:
        return sums[..., max(1, round(share * patches)) - 1]

    return {
        "entropy": entropy,
        "perplexity": perplexity,
        "entropy_share": entropy / math.log(patches) if patches > 1 else torch.ones_like(entropy),
        "effective_patches": (weights**2).sum(-1).reciprocal(),
        "max": largest,
        "max_times_uniform": patches * largest,
        "gini": (ranks * ordered).sum(-1) / (patches * sums[..., -1]),
        "top_1_percent": top(0.01),
        "top_5_percent": top(0.05),
        "top_10_percent": top(0.10),
        "above_uniform": (weights > uniform).sum(-1).double(),
        "kl_uniform": math.log(patches) - entropy,
        "saturated": (largest > 0.99).double(),
        "dead": (perplexity > 0.99 * patches).double(),
    }


def spread(
    weights: Float[Tensor, "*any N"],
    logits: Float[Tensor, "*any N"],
    scores: Float[Tensor, "*any N"],
    dim: int | None = None,
) -> dict[str, Float[Tensor, "*any"]]:
    """What a scaling made of the scores."""
    patches = weights.shape[-1]
    reference = (scores / math.sqrt(dim or math.nan)).softmax(-1)
    low, high = scores.aminmax(dim=-1)
    best = logits.topk(min(2, patches), -1).values
    score_std, sigma_eff = torch.stack([scores, logits]).std(-1, correction=0)
    return {
        "score_std": score_std,
        "score_range": high - low,
        "sigma_eff": sigma_eff,
        "margin": best[..., 0] - best[..., -1],
        "js_inv_sqrt_d": jensen_shannon(weights, reference),
        "rank_correlation": spearman(scores, logits),
    }


def jensen_shannon(first: Float[Tensor, "*any N"], second: Float[Tensor, "*any N"]) -> Float[Tensor, "*any"]:
    """The mean of the divergences of two distributions from their average, in nats."""
    both = torch.stack([first, second])
    ratios = both / both.mean(0).clamp_min(1e-300)
    return torch.xlogy(both, ratios).sum(-1).mean(0)


def freezing_point(patches: int) -> float:
    """sqrt(2 ln N): the sigma_eff beyond which softmax of normal scores sits on single patches.

    Derrida 1981, the random energy model.
    """
    return math.sqrt(2 * math.log(patches))


def spearman(first: Float[Tensor, "*any N"], second: Float[Tensor, "*any N"]) -> Float[Tensor, "*any"]:
    """Rank correlation, ties at mid-rank; 1 where either is constant, since no order is lost.

    Where both have one order, ties included, it is 1 without the ranks: so it is for most scalings.
    """
    correlation = torch.ones(first.shape[:-1], dtype=torch.float64, device=first.device)
    differs = ~has_same_order(first, second)
    if differs.any():
        ranks = [mid_ranks(values[differs]) for values in (first, second)]
        a, b = (values - values.mean(-1, keepdim=True) for values in ranks)
        norms = a.norm(dim=-1) * b.norm(dim=-1)
        cosines = (a * b).sum(-1) / torch.where(norms > 0, norms, 1.0)
        correlation[differs] = torch.where(norms > 0, cosines, 1.0)
    return correlation


def has_same_order(first: Float[Tensor, "*any N"], second: Float[Tensor, "*any N"]) -> Bool[Tensor, "*any"]:
    """Whether second rises and stands still exactly where first does."""
    ordered, order = first.sort(-1)
    steps = torch.stack([ordered, second.gather(-1, order)]).diff().sign()
    return (steps[0] == steps[1]).all(-1)


def mid_ranks(values: Float[Tensor, "*any N"]) -> Float[Tensor, "*any N"]:
    ordered = values.sort(-1).values.contiguous()
    below = torch.searchsorted(ordered, values.contiguous(), right=False)
    upto = torch.searchsorted(ordered, values.contiguous(), right=True)
    return (below + upto + 1).to(values.dtype) / 2

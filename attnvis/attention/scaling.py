"""How scores become attention logits.  Every function: Scores -> logits [B, Q, N]; settings are arguments.

A dot product grows with d_k, with the norms and with the correlation of the channels; softmax sees only
differences.  So what a scaling does is set the spread of the logits over the patches of one photo
(`diagnostics.sigma_eff`).  All but `cosine` multiply the scores of one photo and query by a positive factor
(and may shift them): they cannot change the ranks.  Logits are unbounded unless a docstring gives a range.
"""

import math
from collections.abc import Callable

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from attnvis.attention.jacobian import ScalingJacobian, diagonal
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

# tau / std of the scores, from nearly one-hot to nearly flat: 2^-7 ... 2^7
TEMPERATURES = tuple(2.0 ** (power / 4) for power in range(-28, 29))


def none(scores: Scores) -> Logits:
    """z = s."""
    return scores.products


def inv_sqrt_d(scores: Scores) -> Logits:
    """z = s / sqrt(d_k): unit variance for iid standard normal query and keys (Vaswani et al. 2017)."""
    return scores.products / math.sqrt(scores.dim)


def inv_d(scores: Scores) -> Logits:
    """z = s / d_k: the mean product per channel.

    Right where query and keys are correlated (Yang et al. 2022, muP).
    """
    return scores.products / scores.dim


def temperature(scores: Scores, tau: float = 1.0) -> Logits:
    """z = s / tau.  Raises ValueError unless tau is above 0."""
    return scores.products / positive("tau", tau)


def cosine(scores: Scores, tau: float = 0.07) -> Logits:
    """z = cos(q, k_i) / tau, in -1/tau ... 1/tau; a zero vector has cosine 0.

    At tau = 1 no weight exceeds another by more than e^2.  CLIP starts at .07.  Raises ValueError unless
    tau is above 0.
    """
    query_norms = scores.query.double().norm(dim=-1, keepdim=True)  # [B, Q, 1]
    key_norms = scores.keys.double().norm(dim=-1).unsqueeze(-2)  # [B, 1, N]
    cosines = divide(scores.products.double(), query_norms * key_norms)
    return (cosines / positive("tau", tau)).to(scores.products.dtype)


def zscore(scores: Scores, tau: float = 1.0) -> Logits:
    """z = (s - mean s) / (population std of s * tau); a photo without contrast gives uniform weights.

    Raises ValueError unless tau is above 0.
    """
    products = scores.products.double()
    deviations = products - products.mean(-1, keepdim=True)
    spread = products.std(-1, correction=0, keepdim=True)
    standardised = divide(deviations, spread, negligible=rounding_noise(scores.products))
    return (standardised / positive("tau", tau)).to(scores.products.dtype)


def robust_z(scores: Scores, tau: float = 1.0) -> Logits:
    """z = (s - median s) / (1.4826 MAD tau): one hot patch cannot set the scale.

    1.4826 MAD estimates the standard deviation of a normal law.  Raises ValueError unless tau is above 0.
    """
    products = scores.products.double()
    deviations = products - median(products)
    spread = 1.4826 * median(deviations.abs())
    standardised = divide(deviations, spread, negligible=rounding_noise(scores.products))
    return (standardised / positive("tau", tau)).to(scores.products.dtype)


def minmax(scores: Scores, tau: float = 0.25) -> Logits:
    """z = (s - min s) / ((max s - min s) tau), in 0 ... 1/tau.

    The largest weight is exactly e^(1/tau) times the smallest.  Raises ValueError unless tau is above 0.
    """
    products = scores.products.double()
    low = products.amin(-1, keepdim=True)
    high = products.amax(-1, keepdim=True)  # not aminmax: in PyTorch 2.6 it has no derivative
    levels = divide(products - low, high - low, negligible=rounding_noise(scores.products))
    return (levels / positive("tau", tau)).to(scores.products.dtype)


def log_n(scores: Scores, base: float = 512.0) -> Logits:
    """z = s log_base(N) / sqrt(d_k): keeps the entropy's share when the grid grows (Su 2021).

    Raises ValueError unless base is above 1.
    """
    if base <= 1:
        raise ValueError(f"scaling log_n needs base > 1, not {base}; 512 is usual")
    return scores.products * math.log(scores.patches, base) / math.sqrt(scores.dim)


def ssmax(scores: Scores, s: float = 0.43) -> Logits:
    """z = s ln(N) * score, so that a_i is N^(s score_i) / sum (Nakanishi 2025).

    It multiplies: adding s ln N would do nothing.  Raises ValueError unless s is above 0.
    """
    return scores.products * (positive("s", s) * math.log(scores.patches))


def perplexity(scores: Scores, target: float = 0.1) -> Logits:
    """z = (s - max s) / tau <= 0, tau found per photo and query so that softmax(z) looks at `target` patches.

    A target below 1 is a share of the patches, and keeps its meaning at any resolution.  The tau is unique,
    because the entropy falls strictly as 1/tau grows.  A target of N or more gives uniform weights; one below
    the number of patches that share the maximum gives the uniform distribution over those.  Raises ValueError
    unless the target is above 0.
    """
    patches = positive("target", target) * (scores.patches if target < 1 else 1)
    if patches >= scores.patches:
        return torch.zeros_like(scores.products)
    target_entropy = math.log(max(1.0, patches))
    products = scores.products.double()
    gaps = products - products.amax(-1, keepdim=True)  # <= 0; the largest is 0
    spread = -gaps.amin(-1, keepdim=True)
    unit_gaps = divide(gaps, spread)  # -1 ... 0
    is_flat = spread <= rounding_noise(scores.products)
    sharpness = sharpness_of(unit_gaps, target_entropy)
    return torch.where(is_flat, 0.0, unit_gaps * sharpness).to(scores.products.dtype)


def sharpness_of(gaps: Float[Tensor, "B Q N"], target_entropy: float) -> Float[Tensor, "B Q 1"]:
    """The b at which softmax(b * gaps) has this entropy, in nats; gaps are in -1 ... 0, both ends included.

    b is within e^-25 ... e^25, an end where no b has the entropy.  Autograd sees the root's own gradient.
    """
    deviation = gaps.std(-1, correction=0, keepdim=True).clamp_min(1e-9)
    missing = max(math.log(gaps.shape[-1]) - target_entropy, 1e-9)
    start = (math.sqrt(2 * missing) / deviation).log().clamp(-24.0, 24.0)  # where normal gaps would have it
    log_sharpness = root_of_entropy(gaps.detach(), target_entropy, start.detach())
    if gaps.requires_grad:
        excess, slope = excess_entropy(gaps * log_sharpness.exp(), target_entropy)
        log_sharpness = log_sharpness - torch.where(slope < 0, excess / slope.detach(), 0.0)
    return log_sharpness.exp()


def root_of_entropy(gaps: Logits, target: float, start: Float[Tensor, "B Q 1"]) -> Float[Tensor, "B Q 1"]:
    """ln b by Newton's steps; a step that leaves what is known to hold the root is a bisection.

    What is one number a question is numpy's: it takes a fifth of PyTorch's time for so few.
    """
    log_sharpness = start.cpu().numpy()
    low, high = np.full_like(log_sharpness, -25.0), np.full_like(log_sharpness, 25.0)
    is_found = np.zeros_like(log_sharpness, dtype=bool)
    with np.errstate(all="ignore"):
        for _ in range(80):
            sharpness = torch.from_numpy(log_sharpness).exp().to(gaps.device)
            excess, slope = (numbers.cpu().numpy() for numbers in excess_entropy(gaps * sharpness, target))
            low = np.where(excess > 0, log_sharpness, low)
            high = np.where(excess > 0, high, log_sharpness)
            newton = log_sharpness - excess / slope  # infinite or NaN where the entropy is flat
            is_inside = (newton >= low) & (newton <= high)
            following = np.where(is_inside, newton, (low + high) / 2)
            step = np.abs(following - log_sharpness)
            log_sharpness = np.where(is_found, log_sharpness, following)  # whatever its neighbours need
            is_found |= (step <= 1e-8) | (np.abs(excess) <= 1e-15)  # Newton's last step squares its error
            if is_found.all():
                break
    return torch.from_numpy(log_sharpness).to(gaps.device)


def excess_entropy(
    logits: Float[Tensor, "B Q N"], target: float
) -> tuple[Float[Tensor, "B Q 1"], Float[Tensor, "B Q 1"]]:
    """Entropy of softmax(logits) less the target, in nats, and how it grows with ln(sharpness): minus the
    variance of the logits under these weights.
    """
    log_weights = logits.log_softmax(-1)
    weights = log_weights.exp()
    mean = (weights * log_weights).sum(-1, keepdim=True)  # minus the entropy
    variance = (weights * (log_weights - mean) ** 2).sum(-1, keepdim=True)
    return -mean - target, -variance


def positive(name: str, number: float) -> float:
    """The number itself; ValueError, which names the setting, unless it is above 0 and finite."""
    if not number > 0:
        raise ValueError(f"scaling: {name} must be above 0, not {number}")
    if number == math.inf:
        raise ValueError(f"scaling: {name} must be a number, not {number}, under which nothing differs")
    return number


def median(values: Logits) -> Float[Tensor, "B Q 1"]:
    """An even count takes the mean of the two in the middle (torch.median takes the lower)."""
    return values.quantile(0.5, dim=-1, keepdim=True)


def heated(products: Logits) -> Float[Tensor, "B Q T N"]:
    """softmax(s / (tau std s)) for every tau of TEMPERATURES, in float64; uniform for flat scores."""
    centred = products.double() - products.double().mean(-1, keepdim=True)
    spread = centred.std(-1, correction=0, keepdim=True)
    standard = torch.where(
        spread > rounding_noise(products), centred / spread.clamp_min(1e-300), 0.0
    ).unsqueeze(-2)
    tau = torch.tensor(TEMPERATURES, dtype=torch.float64, device=products.device)
    return (standard / tau.unsqueeze(-1)).softmax(-1)


def rounding_noise(values: Logits) -> Float[Tensor, "B Q 1"]:
    """The spread that rounding alone can give equal scores, in double precision; NaN beside infinity."""
    largest = values.double().abs().amax(-1, keepdim=True)
    return torch.where(largest.isfinite(), largest * (8 * torch.finfo(values.dtype).eps), torch.nan)


def divide(values: Tensor, divisors: Tensor, negligible: Tensor | float = 0.0) -> Tensor:
    """values / divisors, and 0 where a divisor is no more than `negligible`; NaN stays; shapes broadcast."""
    is_negligible = divisors <= negligible
    return torch.where(is_negligible, 0.0, values / torch.where(is_negligible, 1.0, divisors))


def positive_factor(name: str) -> bool:
    """Whether a scaling, given as text, multiplies all scores of a photo by one positive factor.

    Such a scaling cannot change their order.  False for a scaling that is not attnvis' own.
    """
    return name.partition(":")[0] in set(__all__) - {"cosine"}


def with_products(scores: Scores, products: Float[Tensor, "B Q N"]) -> Scores:
    """The same query and keys with other dot products, as if the angles between them had changed."""
    changed = Scores(scores.query, scores.keys)
    changed.__dict__["products"] = products  # where kept_property keeps it
    return changed


def linear_jacobian(scaling: Callable[[Scores], Logits], scores: Scores, logits: Logits) -> ScalingJacobian:
    """z_i = f_i s_i, the factor not a function of the scores: it is the scaling of ones."""
    ones = torch.ones_like(scores.products, dtype=torch.float64)
    return diagonal(scaling(with_products(scores, ones)))


def affine_jacobian(products: Logits, logits: Logits, offset: Logits, growth: Logits) -> ScalingJacobian:
    """Of z = f (s - o), one factor for all patches of a photo.

    d z_i / d s_j = f (delta_ij - offset_j) + z_i growth_j with offset = d o / d s, growth = d ln f / d s.
    No contrast: f = 0, and the Jacobian is 0.
    """
    factor = divide(logits.std(-1, correction=0, keepdim=True), products.std(-1, correction=0, keepdim=True))
    return ScalingJacobian(
        factor.expand_as(logits),
        columns=torch.stack([torch.ones_like(logits), logits], -2),
        rows=torch.stack([-factor * offset, growth], -2),
    )


def zscore_jacobian(scaling: Callable, scores: Scores, logits: Logits) -> ScalingJacobian:
    """o is the mean, 1 / f the standard deviation (and tau)."""
    products = scores.products.double()
    deviations = products - products.mean(-1, keepdim=True)
    growth = -divide(deviations, (deviations**2).sum(-1, keepdim=True))
    offset = torch.full_like(products, 1 / scores.patches)
    return affine_jacobian(products, logits, offset=offset, growth=growth)


def robust_z_jacobian(scaling: Callable, scores: Scores, logits: Logits) -> ScalingJacobian:
    """o is the median, 1 / f the median distance from it (and constants)."""
    products = scores.products.double()
    offset = in_the_middle(products)
    deviations = products - (offset * products).sum(-1, keepdim=True)
    middle = in_the_middle(deviations.abs())
    spread = (middle * deviations.abs()).sum(-1, keepdim=True)
    signs = middle * deviations.sign()
    growth = divide(signs.sum(-1, keepdim=True) * offset - signs, spread)
    return affine_jacobian(products, logits, offset=offset, growth=growth)


def in_the_middle(values: Logits) -> Logits:
    """d median / d values: 1 at the value in the middle, 1/2 at each of two."""
    patches = values.shape[-1]
    middle = values.argsort(dim=-1, stable=True)[..., (patches - 1) // 2 : patches // 2 + 1]
    return torch.zeros_like(values).scatter(-1, middle, 1 / middle.shape[-1])


def minmax_jacobian(scaling: Callable, scores: Scores, logits: Logits) -> ScalingJacobian:
    """o is the minimum, 1 / f the range (and tau); of several extremes each has its share."""
    products = scores.products.double()
    low, high = products.aminmax(dim=-1, keepdim=True)
    is_low, is_high = (products == low).double(), (products == high).double()
    offset = is_low / is_low.sum(-1, keepdim=True)
    growth = divide(offset - is_high / is_high.sum(-1, keepdim=True), high - low)
    return affine_jacobian(products, logits, offset=offset, growth=growth)


def perplexity_jacobian(scaling: Callable, scores: Scores, logits: Logits) -> ScalingJacobian:
    """o is the maximum; f keeps the entropy of a = softmax(z): d ln f / d s_j = -f a_j (z_j - m) / var,
    mean m and variance of z under a.
    """
    products = scores.products.double()
    is_high = (products == products.amax(-1, keepdim=True)).double()
    offset = is_high / is_high.sum(-1, keepdim=True)
    weights = logits.softmax(-1)
    deviations = logits - (weights * logits).sum(-1, keepdim=True)
    variance = (weights * deviations**2).sum(-1, keepdim=True)
    factor = divide(logits.std(-1, correction=0, keepdim=True), products.std(-1, correction=0, keepdim=True))
    growth = divide(-factor * weights * deviations, variance)
    return affine_jacobian(products, logits, offset=offset, growth=growth)


# How the logits of each follow the raw scores: (scaling, scores, logits in double precision) -> its Jacobian.
# A scaling that is not here is differentiated by autograd.
DERIVATIVES: dict[Callable, Callable[..., ScalingJacobian]] = {
    **dict.fromkeys((none, inv_sqrt_d, inv_d, temperature, cosine, log_n, ssmax), linear_jacobian),
    zscore: zscore_jacobian,
    robust_z: robust_z_jacobian,
    minmax: minmax_jacobian,
    perplexity: perplexity_jacobian,
}

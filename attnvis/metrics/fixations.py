"""Maps and where people looked -> how well the one tells the other.

Conventions are those of pysaliency and of the MIT/Tuebingen benchmark (Kuemmerer et al. 2018) unless a metric
says otherwise: every fixation counts, also one that came twice; ties count half; no jitter; the population's
standard deviation.  A photo without a fixation has NaN.
"""

import math
from functools import lru_cache

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from attnvis.metrics.metric import filled, is_level, metric
from attnvis.types import Truth

__all__ = ["auc", "auc_borji", "auc_judd", "cc", "ig", "kl", "nss", "sauc", "sauc_borji", "sim"]

USUAL_DEGREE = 35.0  # pixels to a degree of sight where a data set does not say: MIT1003's
EPSILON = 2.2204e-16  # MATLAB's eps
CONVENTIONS = ("pysaliency", "matlab")


# ------------------------------------------------------------------------------------- of the values' order


@metric("fixations", uniform=0.5, ranks=True)
def auc(
    maps: Float[Tensor, "M H W"], truth: Truth, negatives: str = "all", repeats: bool = True
) -> Float[Tensor, " M"]:
    """How often a fixated pixel has more than another one; ties count half (Mann and Whitney 1947).

    negatives   all: the photo's pixels, the fixated ones too; unfixated: the others alone
    repeats     whether a pixel that was fixated twice counts twice

    Where all was fixated there is no unfixated pixel: NaN.  Raises ValueError for other negatives.
    """
    if negatives not in ("all", "unfixated"):
        raise ValueError(f"auc: negatives {negatives!r}; give all or unfixated")
    values = filled(maps).flatten(1)
    positions = fixated(truth) if repeats else fixated(truth).unique()
    others = values[:, unfixated(truth)] if negatives == "unfixated" else values
    return chance_of_more(values[:, positions], others)


@metric("fixations others", uniform=0.5, ranks=True)
def sauc(maps: Float[Tensor, "M H W"], truth: Truth) -> Float[Tensor, " M"]:
    """Shuffled AUC: the negatives are all fixations of all other photos, so that the centre alone gives .5.

    Their places are brought to this photo's size (Tatler et al. 2005; Zhang et al. 2008).
    """
    values = filled(maps).flatten(1)
    return chance_of_more(values[:, fixated(truth)], values[:, fixated_elsewhere(truth)])


@metric("fixations", ranks=True)
def auc_judd(
    maps: Float[Tensor, "M H W"], truth: Truth, jitter: float = 0.0, seed: int = 0
) -> Float[Tensor, " M"]:
    """AUC as the MIT benchmark's MATLAB had it (Judd et al. 2009): wrong where values tie, as in patches.

    Thresholds at the fixated values alone, repeats merged, negatives unfixated: half a fixation's share too
    much.  The original adds jitter up to 1e-7 to the map, scaled to 0 ... 1, so that ties fall by chance;
    without it (0) tied fixations count as false alarms of one another.
    """
    values = unit_range(filled(maps)).flatten(1)
    if jitter:
        chance = torch.Generator().manual_seed(seed)
        noise = torch.rand(values.shape, generator=chance, dtype=torch.float64).to(values.device)
        values = unit_range((values + jitter * noise).unsqueeze(1)).flatten(1)
    positions = fixated(truth).unique()
    count, pixels = len(positions), values.shape[1]
    if not 0 < count < pixels:
        return undefined(maps)
    thresholds = values[:, positions].sort(1, descending=True).values
    ordered = ascending(values)
    above = pixels - torch.searchsorted(ordered, thresholds)  # at least as much as the threshold
    ranks = torch.arange(1, count + 1, device=values.device, dtype=torch.float64)
    hits = (ranks / count).expand_as(thresholds)
    return area(hits, (above - ranks) / (pixels - count)).where(~values.isnan().any(1), math.nan)


@metric("fixations", uniform=0.5)
def auc_borji(
    maps: Float[Tensor, "M H W"], truth: Truth, splits: int = 100, step: float = 0.1, seed: int = 0
) -> Float[Tensor, " M"]:
    """AUC against as many pixels drawn by chance as there are fixations (Borji et al. 2013).

    The mean of `splits` draws.  Thresholds every `step` of the map's range, repeats merged: coarse, hence no
    metric of ranks alone.
    """
    positions = fixated(truth).unique()
    chance = np.random.default_rng(seed)
    draws = chance.integers(math.prod(truth.size), size=(splits, len(positions)))
    return split_auc(maps, positions, torch.from_numpy(draws), step)


@metric("fixations others", uniform=0.5)
def sauc_borji(
    maps: Float[Tensor, "M H W"], truth: Truth, splits: int = 100, step: float = 0.1, seed: int = 0
) -> Float[Tensor, " M"]:
    """Shuffled AUC as the MIT benchmark's MATLAB had it: chance draws of the others' fixations, mean of
    `splits`, thresholds every `step` of the map's range, repeats merged.
    """
    positions = fixated(truth).unique()
    others = fixated_elsewhere(truth).unique()
    chance = np.random.default_rng(seed)
    count = min(len(positions), len(others))
    draws = [chance.permutation(len(others))[:count] for _ in range(splits)]
    return split_auc(maps, positions, others.cpu()[torch.from_numpy(np.array(draws, int))], step)


# -------------------------------------------------------------------------------------------- of the values


@metric("fixations", low=-math.inf, high=math.inf, uniform=0.0)
def nss(maps: Float[Tensor, "M H W"], truth: Truth, convention: str = "pysaliency") -> Float[Tensor, " M"]:
    """Normalised scanpath saliency (Peters et al. 2005): the mean z-score at the fixations.

    A map that is the same everywhere has 0.  matlab: repeats are merged, the standard deviation is the
    sample's.
    """
    is_matlab = check_convention(convention) == "matlab"
    values = filled(maps).flatten(1)
    positions = fixated(truth).unique() if is_matlab else fixated(truth)
    means = values.mean(1, keepdim=True)
    pixels = values.shape[1] - 1 if is_matlab else values.shape[1]
    spread = (values - means).norm(dim=1) / math.sqrt(pixels)
    scores = (values[:, positions].mean(1) - means[:, 0]) / spread.where(spread != 0, 1)
    return torch.where(is_level(values) & (len(positions) > 0), 0.0, scores)


@metric("fixations|looks", low=-1.0, uniform=0.0)
def cc(maps: Float[Tensor, "M H W"], truth: Truth, sigma: float | None = None) -> Float[Tensor, " M"]:
    """Pearson's correlation with where people looked.

    sigma   of the Gaussian that blurs the fixations, in pixels of the photo; None: one degree of sight

    A map that is the same everywhere has 0; where nobody looked, or all places were looked at alike, it
    is NaN.
    """
    values = filled(maps).flatten(1)
    target = looked_at(truth, sigma).to(values.device).flatten()
    if bool(target.isnan().any() or (target == target[0]).all()):
        return undefined(maps)
    first = values - values.mean(1, keepdim=True)
    second = target - target.mean()
    lengths = first.norm(dim=1)
    correlation = first @ second / lengths.where(lengths != 0, 1) / second.norm()
    return torch.where(is_level(values), 0.0, correlation)


@metric("fixations|looks")
def sim(
    maps: Float[Tensor, "M H W"], truth: Truth, sigma: float | None = None, convention: str = "pysaliency"
) -> Float[Tensor, " M"]:
    """Histogram intersection with where people looked: the mass that both have in common.

    sigma   of the Gaussian that blurs the fixations, in pixels of the photo; None: one degree of sight

    matlab: both maps are first stretched to 0 ... 1.
    """
    values = filled(maps)
    target = looked_at(truth, sigma).to(values.device)[None]
    if check_convention(convention) == "matlab":
        values, target = unit_range(values), unit_range(target)
    return torch.minimum(as_density(values), as_density(target)).sum((1, 2))


@metric("fixations|looks", better="lower", high=math.inf)
def kl(
    maps: Float[Tensor, "M H W"], truth: Truth, sigma: float | None = None, convention: str = "mit"
) -> Float[Tensor, " M"]:
    """Kullback-Leibler divergence of the map from where people looked, in nats.

    sigma   of the Gaussian that blurs the fixations, in pixels of the photo; None: one degree of sight

    convention   mit: sum E ln(eps + E / (S + eps)), eps = 2.2204e-16; pysaliency: sum E ln(E / S) after 1e-20
                 was added to both
    """
    if convention not in ("mit", "pysaliency"):
        raise ValueError(f"kl: convention {convention!r}; give mit or pysaliency")
    values = filled(maps)
    target = looked_at(truth, sigma).to(values.device)[None]
    if convention == "mit":
        density, target = as_density(values), as_density(target)
        return (target * (EPSILON + target / (density + EPSILON)).log()).sum((1, 2))
    density, target = as_density(values, least=1e-20), as_density(target, least=1e-20)
    return (target * (target.log() - density.log())).sum((1, 2))


@metric("fixations", low=-math.inf, high=math.inf)
def ig(
    maps: Float[Tensor, "M H W"], truth: Truth, baseline: str = "centre", floor: float = 0.01
) -> Float[Tensor, " M"]:
    """Information gain over a baseline (Kuemmerer et al. 2015), in bits a fixation.

    baseline   centre: a Gaussian fitted to the other photos' fixations; others: those, blurred by a twentieth
               of the photo's diagonal; uniform
    floor      the share of a uniform density in the map's and in the baseline's, so that one fixation where a
               map has nothing does not cost all; it costs a good map at most -log2(1 - floor)

    NaN where a baseline needs the other photos' fixations and they are not known.  Raises ValueError for
    another baseline.
    """
    if baseline not in ("centre", "others", "uniform"):
        raise ValueError(f"ig: baseline {baseline!r}; give centre, others or uniform")
    values = filled(maps)
    base = baseline_density(truth, baseline, floor=floor)
    if base is None:
        return undefined(maps)
    density = with_floor(as_density(values), floor).flatten(1)
    positions = fixated(truth)
    ours = density[:, positions].log2()
    theirs = base.to(values.device).flatten()[positions].log2()
    return (ours - theirs).mean(1)


# ------------------------------------------------------------------------------------------------ the truth


def pixel_indices(places: Float[np.ndarray, "F 2"], size: tuple[int, int]) -> Int[Tensor, " G"]:
    """The pixels row * W + column that hold these places; those beyond the photo are left out."""
    pixels = np.floor(places).astype(np.int64)
    inside = ((pixels >= 0) & (pixels < size)).all(1)
    return torch.from_numpy(pixels[inside, 0] * size[1] + pixels[inside, 1])


def fixated(truth: Truth) -> Int[Tensor, " F"]:
    """The pixel of every fixation; none where none are known."""
    places = np.empty((0, 2)) if truth.fixations is None else truth.fixations
    return pixel_indices(places, truth.size)


def fixated_elsewhere(truth: Truth) -> Int[Tensor, " K"]:
    """The pixel of every fixation of the other photos."""
    places = np.empty((0, 2)) if truth.others is None else truth.others
    return pixel_indices(places, truth.size)


def unfixated(truth: Truth) -> Bool[Tensor, " P"]:
    pixels = torch.ones(math.prod(truth.size), dtype=torch.bool)
    pixels[fixated(truth)] = False
    return pixels


@lru_cache(maxsize=4)  # three metrics ask for the same; a truth is told from another by what it is
def looked_at(truth: Truth, sigma: float | None = None) -> Float[Tensor, "H W"]:
    """The data set's own map of where people looked, or the fixations, repeats and all, blurred.

    sigma   in pixels of the photo; None: one degree of sight.  The kernel ends at 4 sigma, and beyond the
            edge lies what is at the edge, as scipy.ndimage's `nearest` has it.

    NaN where neither is known, or nobody looked.
    """
    if truth.looks is not None and sigma is None:
        return torch.from_numpy(np.ascontiguousarray(truth.looks)).double()
    positions = fixated(truth)
    if not len(positions):
        return torch.full(truth.size, math.nan, dtype=torch.float64)
    width = (sigma or truth.degree or USUAL_DEGREE) * (truth.zoom if sigma or truth.degree is None else 1)
    return blurred(positions, truth.size, (width, width))


def blurred(
    positions: Int[Tensor, " F"], size: tuple[int, int], sigma: tuple[float, float]
) -> Float[Tensor, "H W"]:
    """How often each pixel was fixated, blurred by a Gaussian."""
    counts = torch.bincount(positions, minlength=math.prod(size)).double().view(size)
    return blur_matrix(size[0], sigma[0]) @ counts @ blur_matrix(size[1], sigma[1]).T


@lru_cache(maxsize=8)
def blur_matrix(length: int, sigma: float) -> Float[Tensor, "length length"]:
    """A Gaussian blur along one axis as a matrix: what falls beyond the edge counts at the edge."""
    radius = int(4 * sigma + 0.5)
    offsets = torch.arange(-radius, radius + 1)
    kernel = torch.exp(-0.5 * (offsets.double() / sigma) ** 2)
    kernel = kernel / kernel.sum()
    rows = torch.arange(length)[:, None].expand(length, len(offsets))
    columns = (rows + offsets).clamp(0, length - 1)
    matrix = torch.zeros(length, length, dtype=torch.float64)
    return matrix.index_put_((rows, columns), kernel.expand(length, -1), accumulate=True)


@lru_cache(maxsize=4)
def baseline_density(truth: Truth, baseline: str, floor: float) -> Float[Tensor, "H W"] | None:
    """Where people look whatever the photo shows; None where that is not known."""
    height, width = truth.size
    if baseline == "uniform":
        return torch.full(truth.size, 1 / (height * width), dtype=torch.float64)
    positions = fixated_elsewhere(truth)
    if not len(positions):
        return None
    if baseline == "others":
        sigma = math.hypot(height, width) / 20
        density = blurred(positions, truth.size, (sigma, sigma))[None]
    else:
        places = torch.stack([positions // width, positions % width]).double()
        means, spreads = places.mean(1), places.std(1, correction=0).clamp_min(0.5)
        rows = torch.exp(-0.5 * ((torch.arange(height) - means[0]) / spreads[0]) ** 2)
        columns = torch.exp(-0.5 * ((torch.arange(width) - means[1]) / spreads[1]) ** 2)
        density = torch.outer(rows, columns)[None]
    return with_floor(as_density(density), floor)[0]


# ------------------------------------------------------------------------------------------------- the maps


def chance_of_more(positives: Float[Tensor, "M F"], negatives: Float[Tensor, "M K"]) -> Float[Tensor, " M"]:
    """P(a positive > a negative) + P(=) / 2; NaN where there is none of either."""
    count, others = positives.shape[1], negatives.shape[1]
    if not count or not others:
        return torch.full((len(positives),), math.nan, dtype=torch.float64, device=positives.device)
    ordered, positives = ascending(negatives), positives.contiguous()
    below = torch.searchsorted(ordered, positives).sum(1, dtype=torch.float64)
    upto = torch.searchsorted(ordered, positives, right=True).sum(1, dtype=torch.float64)
    return ((below + upto) / (2 * count * others)).where(~positives.isnan().any(1), math.nan)


def ascending(values: Float[Tensor, "M K"]) -> Float[Tensor, "M K"]:
    """Sorted along the rows; numpy's sort takes a fifth of torch's time."""
    return values.sort(1).values if values.is_cuda else torch.from_numpy(np.sort(values.numpy(), axis=1))


def split_auc(
    maps: Float[Tensor, "M H W"], positions: Int[Tensor, " F"], draws: Int[Tensor, "S G"], step: float
) -> Float[Tensor, " M"]:
    """The mean over splits of AUCs with thresholds every `step` of the map's range."""
    if not len(positions) or not draws.numel():
        return undefined(maps)
    values = unit_range(filled(maps)).flatten(1)
    thresholds = step * torch.arange(math.floor(1 / step + 1e-9), -1, -1, device=values.device).double()
    hits = (values[:, positions, None] >= thresholds).double().mean(1)  # [M, T]
    drawn = values[:, draws]  # [M, S, G]
    alarms = torch.stack([(drawn >= threshold).double().mean(-1) for threshold in thresholds], -1)
    scores = area(hits[:, None].expand_as(alarms), alarms).mean(1)
    return scores.where(~values.isnan().any(1), math.nan)


def area(hits: Float[Tensor, "*any T"], alarms: Float[Tensor, "*any T"]) -> Float[Tensor, "*any"]:
    """Under the curve of hits over false alarms, from (0, 0) to (1, 1), by trapezia."""
    hits = torch.nn.functional.pad(torch.nn.functional.pad(hits, (1, 0)), (0, 1), value=1.0)
    alarms = torch.nn.functional.pad(torch.nn.functional.pad(alarms, (1, 0)), (0, 1), value=1.0)
    return torch.trapezoid(hits, alarms)


def as_density(maps: Float[Tensor, "M H W"], least: float = 0.0) -> Float[Tensor, "M H W"]:
    """Each map divided by its sum; where it goes below 0 it is raised first; `least` is added to each pixel.

    A map of zeros becomes uniform.
    """
    raised = maps - maps.amin((1, 2), keepdim=True).clamp_max(0) + least
    sums = raised.sum((1, 2), keepdim=True)
    pixels = maps.shape[1] * maps.shape[2]
    return torch.where(sums == 0, 1 / pixels, raised / sums.where(sums != 0, 1))


def with_floor(density: Float[Tensor, "M H W"], floor: float) -> Float[Tensor, "M H W"]:
    return (1 - floor) * density + floor / (density.shape[1] * density.shape[2])


def unit_range(maps: Float[Tensor, "M *any"]) -> Float[Tensor, "M *any"]:
    """Each map stretched to 0 ... 1; one that is the same everywhere becomes 0."""
    shape = (-1,) + (1,) * (maps.ndim - 1)
    low = maps.flatten(1).amin(1).view(shape)
    extent = maps.flatten(1).amax(1).view(shape) - low
    return (maps - low) / extent.where(extent != 0, 1)


def undefined(maps: Float[Tensor, "M H W"]) -> Float[Tensor, " M"]:
    return torch.full((len(maps),), math.nan, dtype=torch.float64, device=maps.device)


def check_convention(convention: str) -> str:
    """Raises ValueError for a convention that is none."""
    if convention not in CONVENTIONS:
        raise ValueError(f"convention {convention!r}; give {' or '.join(CONVENTIONS)}")
    return convention

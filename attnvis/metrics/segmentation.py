"""Maps and the mask of a salient object -> the measures that benchmarks of segmentation print.

Conventions are those of PySODMetrics: each map is stretched to 0 ... 1 unless it is the same everywhere;
curves run over 256 thresholds.  Maximum and mean over thresholds are of the curve averaged over photos.  A
photo whose mask is empty has NaN.
"""

import math
from functools import lru_cache

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.nn.functional import conv2d

from attnvis.metrics.fixations import undefined, unit_range
from attnvis.metrics.metric import best_of_thresholds, filled, is_level, metric
from attnvis.metrics.regions import region_of
from attnvis.types import Truth

__all__ = [
    "e_adaptive",
    "e_max",
    "e_mean",
    "f_adaptive",
    "f_max",
    "f_mean",
    "mae",
    "s_measure",
    "weighted_f",
]

TINY = 2.220446049250313e-16  # what keeps the published code from dividing by 0
BETA = 0.3  # of the F-measure: how much recall weighs, squared (Achanta et al. 2009)
THRESHOLDS = 256


def mean_of_thresholds(curve: Float[Tensor, "*any T"]) -> Float[Tensor, "*any"]:
    return curve.mean(-1)


@metric("mask|boxes", better="lower")
def mae(maps: Float[Tensor, "M H W"], truth: Truth) -> Float[Tensor, " M"]:
    """Mean absolute difference of the stretched map and the mask (Perazzi et al. 2012)."""
    region = region_of(truth)
    return undefined(maps) if region is None else (stretched(maps) - region.double()).abs().mean(1)


# ------------------------------------------------------------------------------------------------ F-measure


@metric("mask|boxes")
def f_adaptive(maps: Float[Tensor, "M H W"], truth: Truth) -> Float[Tensor, " M"]:
    """F-measure, beta^2 = .3, at twice the map's mean, at most 1 (Achanta et al. 2009)."""
    region = region_of(truth)
    if region is None:
        return undefined(maps)
    values = stretched(maps)
    taken = above_twice_the_mean(values)
    scores = f_of_counts(taken[:, region].sum(1), taken.sum(1), int(region.sum()))
    return scores.where(~values.isnan().any(1), math.nan)


@metric("mask|boxes", finish=best_of_thresholds)
def f_max(maps: Float[Tensor, "M H W"], truth: Truth) -> Float[Tensor, "M T"]:
    """F-measure, beta^2 = .3, at that of 256 thresholds which is best on the data set."""
    return f_curve(maps, truth)


@metric("mask|boxes", finish=mean_of_thresholds)
def f_mean(maps: Float[Tensor, "M H W"], truth: Truth) -> Float[Tensor, "M T"]:
    """F-measure, beta^2 = .3, mean over 256 thresholds."""
    return f_curve(maps, truth)


def f_curve(maps: Float[Tensor, "M H W"], truth: Truth) -> Float[Tensor, "M T"]:
    region = region_of(truth)
    if region is None:
        return undefined(maps)[:, None].expand(-1, THRESHOLDS)
    values = stretched(maps)
    inside, outside = counts_above(values, region)
    scores = f_of_counts(inside, inside + outside, int(region.sum()))
    return scores.where(~values.isnan().any(1, keepdim=True), math.nan)


def f_of_counts(both: Tensor, taken: Tensor, count: int) -> Tensor:
    """(1 + b) P R / (b P + R) of pixels in both, taken and in the region; 0 where nothing is in both."""
    return (1 + BETA) * both.double() / (BETA * count + taken.double())


# ------------------------------------------------------------------------------------------------ E-measure


@metric("mask|boxes")
def e_adaptive(maps: Float[Tensor, "M H W"], truth: Truth) -> Float[Tensor, " M"]:
    """Enhanced alignment (Fan et al. 2018) at twice the map's mean, at most 1."""
    region = region_of(truth)
    if region is None:
        return undefined(maps)
    values = stretched(maps)
    taken = above_twice_the_mean(values)
    scores = alignment(taken[:, region].sum(1), taken[:, ~region].sum(1), region)
    return scores.where(~values.isnan().any(1), math.nan)


@metric("mask|boxes", finish=best_of_thresholds)
def e_max(maps: Float[Tensor, "M H W"], truth: Truth) -> Float[Tensor, "M T"]:
    """Enhanced alignment (Fan et al. 2018) at that of 256 thresholds which is best on the data set."""
    return e_curve(maps, truth)


@metric("mask|boxes", finish=mean_of_thresholds)
def e_mean(maps: Float[Tensor, "M H W"], truth: Truth) -> Float[Tensor, "M T"]:
    """Enhanced alignment (Fan et al. 2018), mean over 256 thresholds."""
    return e_curve(maps, truth)


def e_curve(maps: Float[Tensor, "M H W"], truth: Truth) -> Float[Tensor, "M T"]:
    region = region_of(truth)
    if region is None:
        return undefined(maps)[:, None].expand(-1, THRESHOLDS)
    values = stretched(maps)
    inside, outside = counts_above(values, region)
    return alignment(inside, outside, region).where(~values.isnan().any(1, keepdim=True), math.nan)


def alignment(inside: Tensor, outside: Tensor, region: Bool[Tensor, " P"]) -> Tensor:
    """Sum over the pixels of (1 + phi)^2 / 4 over (pixels - 1), phi = 2 a b / (a^2 + b^2).

    a, b   what the taken pixels, and the region, have here less their means over the photo
    inside, outside   how many pixels are taken in the region and out of it
    """
    pixels, count = len(region), int(region.sum())
    taken = (inside + outside).double()
    if count == pixels:
        return taken / (pixels - 1 + TINY)
    mean_taken, mean_region = taken / pixels, count / pixels
    groups = (  # pixels, a, b
        (inside, 1 - mean_taken, 1 - mean_region),
        (outside, 1 - mean_taken, -mean_region),
        (count - inside, -mean_taken, 1 - mean_region),
        (pixels - count - outside, -mean_taken, -mean_region),
    )
    total = torch.zeros_like(taken)
    for size, a, b in groups:
        phi = 2 * a * b / (a**2 + b**2 + TINY)
        total = total + size * (1 + phi) ** 2 / 4
    return total / (pixels - 1 + TINY)


# ------------------------------------------------------------------------------------------------ S-measure


@metric("mask|boxes")
def s_measure(maps: Float[Tensor, "M H W"], truth: Truth, alpha: float = 0.5) -> Float[Tensor, " M"]:
    """Structure measure (Fan et al. 2017): alpha of the object's part, the rest of the four regions'."""
    region = region_of(truth)
    if region is None:
        return undefined(maps)
    values = stretched(maps)
    if region.all():
        return values.mean(1)
    share = region.double().mean()
    objects = share * object_score(values[:, region])
    objects = objects + (1 - share) * object_score(1 - values[:, ~region])
    regions = quadrants_score(values.view(len(maps), *truth.size), region.view(truth.size))
    return (alpha * objects + (1 - alpha) * regions).clamp_min(0)


def object_score(values: Float[Tensor, "M P"]) -> Float[Tensor, " M"]:
    """2 mean / (mean^2 + 1 + std): how near to 1 and how even the map is on its part."""
    means = values.mean(1)
    spread = values.std(1) if values.shape[1] > 1 else torch.zeros_like(means)
    return 2 * means / (means**2 + 1 + spread + TINY)


def quadrants_score(values: Float[Tensor, "M H W"], region: Bool[Tensor, "H W"]) -> Float[Tensor, " M"]:
    """Similarity in the four rectangles that meet at the region's centroid, weighted by their areas."""
    height, width = region.shape
    row, column = (int(middle) + 1 for middle in region.nonzero().double().mean(0).round())
    total = torch.zeros(len(values), dtype=torch.float64, device=values.device)
    for rows in (slice(0, row), slice(row, height)):
        for columns in (slice(0, column), slice(column, width)):
            target = region[rows, columns].double().flatten()
            if len(target):
                part = values[:, rows, columns].flatten(1)
                total = total + similarity(part, target) * len(target) / (height * width)
    return total


def similarity(values: Float[Tensor, "M P"], target: Float[Tensor, " P"]) -> Float[Tensor, " M"]:
    """Structural similarity of a whole part (Wang et al. 2004) without constants; 1 where both are 0."""
    more = len(target) - 1 + TINY
    first, second = values.mean(1), target.mean()
    from_first, from_second = values - first[:, None], target - second
    variances = (from_first.square().sum(1) + from_second.square().sum()) / more
    together = 4 * first * second * (from_first @ from_second) / more
    apart = (first**2 + second**2) * variances
    return torch.where((together == 0) & (apart == 0), 1.0, together / (apart + TINY))


# ---------------------------------------------------------------------------------------- weighted F-measure


@metric("mask|boxes")
def weighted_f(maps: Float[Tensor, "M H W"], truth: Truth, beta: float = 1.0) -> Float[Tensor, " M"]:
    """Weighted F-measure (Margolin et al. 2014): errors near the mask cost less, and errors inside are seen
    together with their neighbours'.
    """
    region = region_of(truth)
    if region is None:
        return undefined(maps)
    values = stretched(maps)
    distances, nearest = nearest_of_region(truth)
    errors = (values - region.double()).abs()
    carried = errors[:, nearest].view(len(maps), 1, *truth.size)  # inside, a pixel is its own nearest
    smoothed = conv2d(carried, gaussian_window()[None, None].to(values), padding=3).flatten(1)
    errors = torch.where(region, torch.minimum(errors, smoothed), errors)
    inside = errors[:, region]
    outside = (errors * (2 - (math.log(0.5) / 5 * distances).exp()))[:, ~region]
    hits = inside.shape[1] - inside.sum(1)
    recall = 1 - inside.mean(1)
    precision = hits / (hits + outside.sum(1) + TINY)
    return (1 + beta) * recall * precision / (recall + beta * precision + TINY)


def gaussian_window() -> Float[Tensor, "7 7"]:
    """sigma = 5, sums to 1."""
    offsets = torch.arange(-3, 4).double()
    window = torch.exp(-(offsets[:, None] ** 2 + offsets**2) / 50)
    return window / window.sum()


@lru_cache(maxsize=4)
def nearest_of_region(truth: Truth) -> tuple[Float[Tensor, " P"], Int[Tensor, " P"]]:
    """Of every pixel the distance to the region and which pixel of it is nearest.

    First the nearest along each column, then along each row the nearest of those: exact.
    """
    region = region_of(truth)
    assert region is not None
    height, width = truth.size
    mask = region.view(truth.size)
    rows = torch.arange(height)[:, None].expand(truth.size)
    far = 4 * (height + width)
    above = torch.where(mask, rows, -far).cummax(0).values
    below = torch.where(mask, rows, far).flip(0).cummin(0).values.flip(0)
    best_rows = torch.where(rows - above <= below - rows, above, below)
    down = (rows - best_rows).float().square()
    columns = torch.arange(width)
    across = (columns[:, None] - columns).float().square()  # exact: below 2^24
    squares, best_columns = zip(*((across + line).min(1) for line in down), strict=True)
    chosen = torch.stack(best_columns)
    pixels = best_rows.gather(1, chosen) * width + chosen
    return torch.stack(squares).double().sqrt().flatten(), pixels.flatten()


# ------------------------------------------------------------------------------------------------- the maps


def stretched(maps: Float[Tensor, "M H W"]) -> Float[Tensor, "M P"]:
    """To 0 ... 1 each; one that is the same everywhere stays, within 0 ... 1."""
    values = filled(maps)
    level = is_level(values)[:, None, None]
    return torch.where(level, values.clamp(0, 1), unit_range(values)).flatten(1)


def above_twice_the_mean(values: Float[Tensor, "M P"]) -> Bool[Tensor, "M P"]:
    return values >= (2 * values.mean(1, keepdim=True)).clamp_max(1)


def counts_above(
    values: Float[Tensor, "M P"], region: Bool[Tensor, " P"]
) -> tuple[Float[Tensor, "M T"], Float[Tensor, "M T"]]:
    """How many pixels of the region, and out of it, have at least 255, 254 ... 0 in eight bits."""
    levels = (255 * values.nan_to_num()).long()
    counts = torch.zeros(len(values), 2, THRESHOLDS, dtype=torch.float64, device=values.device)
    for part, pixels in enumerate((levels[:, region], levels[:, ~region])):
        counts[:, part].scatter_add_(1, pixels, torch.ones_like(pixels, dtype=torch.float64))
    inside, outside = counts.flip(-1).cumsum(-1).unbind(1)
    return inside, outside

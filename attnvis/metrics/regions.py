"""Maps and the place of a thing -> whether the map finds it: by a mask, or by boxes.

Where the truth has a mask that is the region, else its boxes are.  A photo whose region is empty has NaN:
there is nothing to find.  Segmentation measures of salient objects are in `segmentation`.
"""

import math
from functools import lru_cache

import torch
from jaxtyping import Bool, Float
from torch import Tensor
from torch.nn.functional import interpolate, pad

from attnvis.metrics.fixations import ascending, chance_of_more, undefined, unit_range
from attnvis.metrics.metric import best_of_thresholds, filled, is_level, metric
from attnvis.types import Truth

__all__ = [
    "average_precision",
    "energy",
    "iou",
    "lift",
    "mask_auc",
    "pointing_game",
    "pxap",
    "relevance_rank",
]

BINS = 1000  # of a map's range, for curves over a whole data set


@metric("mask|boxes", ranks=True)
def pointing_game(maps: Float[Tensor, "M H W"], truth: Truth, tolerance: float = 15.0) -> Float[Tensor, " M"]:
    """Whether the hottest pixel lies in the region or nearer to it than `tolerance` pixels of the photo.

    Zhang et al. 2016, as TorchRay has it.  Of several hottest pixels, the share that does.
    """
    values = filled(maps).flatten(1)
    near = region_and_margin(truth, tolerance)
    if near is None:
        return undefined(maps)
    hottest = (values == values.amax(1, keepdim=True)).double()
    return hottest @ near.to(values.device).flatten().double() / hottest.sum(1)


@metric("mask|boxes")
def energy(maps: Float[Tensor, "M H W"], truth: Truth) -> Float[Tensor, " M"]:
    """How much of the map's mass lies in the region (Wang et al. 2020); what is below 0 has no mass.

    Quantus calls it relevance mass accuracy.  Chance is the region's share of the photo.
    """
    values = filled(maps).flatten(1).clamp_min(0)
    region = region_of(truth)
    if region is None:
        return undefined(maps)
    return values[:, region].sum(1) / values.sum(1)  # 0 / 0: a map without mass has NaN


@metric("mask|boxes", high=math.inf, uniform=1.0)
def lift(maps: Float[Tensor, "M H W"], truth: Truth) -> Float[Tensor, " M"]:
    """The energy in the region over what a uniform map has there: 1 is chance, whatever the region's size."""
    region = region_of(truth)
    return undefined(maps) if region is None else energy(maps, truth) / region.double().mean()


@metric("mask|boxes", ranks=True)
def relevance_rank(maps: Float[Tensor, "M H W"], truth: Truth) -> Float[Tensor, " M"]:
    """Of the hottest K pixels, as many as the region has, the share that lies in it (Arras et al. 2022).

    Of tied pixels at the edge each counts by the chance to be among the K.  A uniform map has the region's
    share of the photo.
    """
    values = filled(maps).flatten(1)
    region = region_of(truth)
    if region is None:
        return undefined(maps)
    count = int(region.sum())
    last = values.kthvalue(values.shape[1] - count + 1, dim=1, keepdim=True).values
    above, tied = values > last, values == last
    room = (count - above.sum(1)).double() / tied.sum(1)
    shares = (above[:, region].sum(1) + tied[:, region].sum(1) * room) / count
    return shares.where(~values.isnan().any(1), math.nan)


@metric("mask|boxes", uniform=0.5, ranks=True)
def mask_auc(maps: Float[Tensor, "M H W"], truth: Truth) -> Float[Tensor, " M"]:
    """How often a pixel of the region has more than one outside; ties count half.

    NaN where the region is the whole photo.
    """
    values = filled(maps).flatten(1)
    region = region_of(truth)
    return undefined(maps) if region is None else chance_of_more(values[:, region], values[:, ~region])


@metric("mask|boxes", ranks=True)
def average_precision(maps: Float[Tensor, "M H W"], truth: Truth) -> Float[Tensor, " M"]:
    """The mean precision at the recall of every pixel of the region, tied pixels together.

    As scikit-learn has it.  A uniform map has the region's share of the photo.
    """
    values = filled(maps).flatten(1)
    region = region_of(truth)
    if region is None:
        return undefined(maps)
    ordered, order = values.sort(1, descending=True)
    hits = region.double()[order].cumsum(1)
    ranks = torch.arange(1, values.shape[1] + 1, device=values.device, dtype=torch.float64)
    is_last = pad(ordered[:, 1:] != ordered[:, :-1], (0, 1), value=True)  # of its ties
    recall = torch.where(is_last, hits / hits[:, -1:], 0.0).cummax(1).values
    steps = recall - pad(recall[:, :-1], (1, 0))
    return (steps * hits / ranks).sum(1).where(~values.isnan().any(1), math.nan)


@metric("mask|boxes", finish=best_of_thresholds)
def iou(maps: Float[Tensor, "M H W"], truth: Truth, threshold: float | None = None) -> Float[Tensor, "M T"]:
    """Intersection over union of the region and the pixels above a share of the map's range.

    threshold   from 0 to 1; None: of all hundredths the best on the data set, which favours every map alike

    A map that is the same everywhere counts as all of the photo.
    """
    values = filled(maps)
    region = region_of(truth)
    thresholds = torch.arange(101) / 100 if threshold is None else torch.tensor([threshold])
    if region is None:
        return undefined(maps)[:, None].expand(-1, len(thresholds))
    shares = torch.where(is_level(values)[:, None, None], 1.0, unit_range(values)).flatten(1)
    ordered_inside = ascending(shares[:, region])
    ordered = ascending(shares)
    cuts = thresholds.to(shares).expand(len(shares), -1).contiguous()
    both = ordered_inside.shape[1] - torch.searchsorted(ordered_inside, cuts)
    taken = ordered.shape[1] - torch.searchsorted(ordered, cuts)
    scores = both.double() / (taken + ordered_inside.shape[1] - both)
    return scores.where(~shares.isnan().any(1, keepdim=True), math.nan)


def precision_recall_area(counts: Float[Tensor, "*any twice"]) -> Float[Tensor, "*any"]:
    """Under precision over recall, from histograms of the pixels inside and outside, low values first."""
    inside, outside = counts.unflatten(-1, (2, -1)).flip(-1).cumsum(-1).unbind(-2)
    recall = inside / inside[..., -1:]
    precision = inside / (inside + outside).clamp_min(1e-300)
    return (precision[..., 1:] * recall.diff(dim=-1)).sum(-1)


@metric("mask", finish=precision_recall_area)
def pxap(maps: Float[Tensor, "M H W"], truth: Truth, side: int = 224) -> Float[Tensor, "M twice"]:
    """Pixel average precision over all photos at once (Choe et al. 2020): maps stretched to 0 ... 1 each.

    side   of the square to which map and mask are brought; 0: they stay as they are

    Of each map the histograms of its values inside and outside of the mask, at 1,000 thresholds.
    """
    values = filled(maps)
    region = region_of(truth)
    if region is None:
        return undefined(maps)[:, None].expand(-1, 2 * (BINS + 2))
    region = region.view(truth.size)
    if side:
        values = resized(values, (side, side))
        region = interpolate(region[None, None].double(), (side, side), mode="nearest")[0, 0] > 0.5
    shares = unit_range(values).flatten(1)
    edges = torch.arange(BINS + 1, device=shares.device, dtype=torch.float64) / BINS
    bins = torch.searchsorted(edges, shares.contiguous(), right=True) - 1
    inside = region.flatten().to(shares.device)
    counts = torch.zeros(len(shares), 2, BINS + 2, dtype=torch.float64, device=shares.device)
    counts[:, 0].scatter_add_(1, bins[:, inside], torch.ones_like(shares[:, inside]))
    counts[:, 1].scatter_add_(1, bins[:, ~inside], torch.ones_like(shares[:, ~inside]))
    counts[shares.isnan().any(1)] = math.nan
    return counts.flatten(1)


# ------------------------------------------------------------------------------------------------ the truth


def region_of(truth: Truth) -> Bool[Tensor, " P"] | None:
    """The region's pixels; None where there is no region, or it holds no pixel."""
    region = truth.region
    if region is None or not region.any():
        return None
    return torch.from_numpy(region).flatten()


@lru_cache(maxsize=4)
def region_and_margin(truth: Truth, tolerance: float) -> Bool[Tensor, "H W"] | None:
    """The pixels in the region, or nearer to it than `tolerance` pixels of the photo, centre to centre."""
    region = region_of(truth)
    if region is None:
        return None
    reach = tolerance * truth.zoom
    near = region.view(truth.size)
    height = truth.size[0]
    rows = math.ceil(reach) - 1 if reach > 0 else 0
    grown = near.clone()
    for down in range(-min(rows, height - 1), min(rows, height - 1) + 1):
        across = math.ceil(math.sqrt(reach**2 - down**2)) - 1 if reach else 0
        wide = spread_along_rows(near, across)
        source = wide[max(0, -down) : height - max(0, down)]
        grown[max(0, down) : height - max(0, -down)] |= source
    return grown


def spread_along_rows(mask: Bool[Tensor, "H W"], reach: int) -> Bool[Tensor, "H W"]:
    """Every pixel that has a true one at most `reach` columns away."""
    sums = pad(mask.cumsum(1), (reach + 1, reach))  # 0 to the left of all
    sums[:, reach + 1 + mask.shape[1] :] = sums[:, reach + mask.shape[1], None]
    width = mask.shape[1]
    return sums[:, 2 * reach + 1 : 2 * reach + 1 + width] > sums[:, :width]


# ------------------------------------------------------------------------------------------------- the maps


def resized(maps: Float[Tensor, "M H W"], size: tuple[int, int]) -> Float[Tensor, "M h w"]:
    """Bilinear, averaging where it shrinks; as they are where they have that size."""
    if tuple(maps.shape[1:]) == size:
        return maps
    return interpolate(maps[:, None], size, mode="bilinear", antialias=True)[:, 0]

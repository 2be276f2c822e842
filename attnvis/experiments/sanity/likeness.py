"""How alike two maps over the same photo are.  Every function: two maps [H, W] -> a number.

NaN in a map: the network never looked there; that is left out where either map has it.
"""

import numpy as np
import torch
from jaxtyping import Float
from torch.nn import functional

__all__ = ["MARGIN_OF_STEP", "largest_change", "moved", "pearson", "spearman", "ssim"]

WINDOW = 7  # pixels of a side of the window in which structure is compared
MARGIN_OF_STEP = 1 / 510  # half of one of the 255 steps of a picture
STABLE = (0.01**2, 0.03**2)  # Wang et al. 2004, of maps between 0 and 1

Map = Float[np.ndarray, "H W"]


def pearson(one: Map, other: Map) -> float:
    """Of the values; NaN where either is the same everywhere."""
    seen = ~(np.isnan(one) | np.isnan(other))
    first, second = (values[seen] - values[seen].mean() for values in (one, other))
    lengths = float(np.linalg.norm(first) * np.linalg.norm(second))
    flat = min(np.ptp(one[seen]) / np.abs(one[seen]).max(), np.ptp(other[seen]) / np.abs(other[seen]).max())
    return float(first @ second) / lengths if flat > 1e-6 else float("nan")


def spearman(one: Map, other: Map) -> float:
    """Of the ranks, of equals their mean; NaN where either map is the same everywhere."""
    seen = ~(np.isnan(one) | np.isnan(other))
    if (
        min(np.ptp(one[seen]) / np.abs(one[seen]).max(), np.ptp(other[seen]) / np.abs(other[seen]).max())
        < 1e-6
    ):
        return float("nan")
    return pearson(1 + ranks(one[seen])[None], 1 + ranks(other[seen])[None])


def ranks(values: Float[np.ndarray, " N"]) -> Float[np.ndarray, " N"]:
    """0 of the smallest; equals share the mean of theirs."""
    _, places, counts = np.unique(values, return_inverse=True, return_counts=True)
    ends = np.cumsum(counts)
    return (ends - (counts + 1) / 2)[places]


def ssim(one: Map, other: Map) -> float:
    """Structural similarity (Wang et al. 2004), both divided by their largest value; unseen is 0.

    The mean over all windows of 7 x 7 that fit, with sample covariances: as skimage has it.
    """
    first, second = (
        torch.from_numpy(np.nan_to_num(values / np.nanmax(values))).double()[None, None]
        for values in (one, other)
    )
    together = torch.cat([first, second, first * first, second * second, first * second])
    means = functional.avg_pool2d(together, WINDOW, stride=1)
    a, b, aa, bb, ab = means[:, 0]
    unbiased = WINDOW**2 / (WINDOW**2 - 1)
    variances, covariance = unbiased * (aa - a * a + bb - b * b), unbiased * (ab - a * b)
    of_light, of_contrast = STABLE
    likeness = (2 * a * b + of_light) * (2 * covariance + of_contrast)
    return float((likeness / ((a * a + b * b + of_light) * (variances + of_contrast))).mean())


def moved(one: Map, other: Map) -> float:
    """Total variation of two densities: the share of the weight that lies elsewhere, 0 ... 1."""
    seen = ~(np.isnan(one) | np.isnan(other))
    first, second = (values[seen] / values[seen].sum() for values in (one, other))
    return float(np.abs(first - second).sum() / 2)


def largest_change(one: Map, other: Map) -> float:
    """The largest difference of two maps as a share of the first one's largest value."""
    return float(np.nanmax(np.abs(one - other)) / np.nanmax(one))

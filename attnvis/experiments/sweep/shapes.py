"""What a row of a sweep says beside the diagnostics: the form of the logits, and the order in the weights."""

import math

import cv2
import numpy as np
import torch
from jaxtyping import Float, UInt8
from torch import Tensor

from attnvis.methods.settings import PhotoResult
from attnvis.metrics.diagnostics import spearman

__all__ = ["SHAPES", "colour_spread", "shapes_of"]

SHAPES = {
    "logit_skewness": "third cumulant of the logits over sigma_eff^3: 0 of normal ones",
    "logit_kurtosis": "fourth cumulant of the logits over sigma_eff^4 (excess kurtosis): 0 of normal ones",
    "weight_rank_correlation": "Spearman of weights with raw scores; weights of 0 are ties",
    "alive": "how many patches have a weight above 0",
    "pixel_std": "the largest standard deviation of red, green or blue over the photo's pixels, of 255",
}


def shapes_of(result: PhotoResult) -> dict[str, list[float]]:
    """Of one photo and query, setting by setting: SHAPES but for what is the photo's own."""
    scores, weights = result.scores.double(), result.weights.double()
    skewness, kurtosis = standard_cumulants(result.batch.logits[:, *result.at].double())
    correlations = spearman(scores.expand_as(weights).contiguous(), weights)
    return {
        "logit_skewness": skewness.tolist(),
        "logit_kurtosis": kurtosis.tolist(),
        "weight_rank_correlation": correlations.masked_fill(scores.isnan().any(), math.nan).tolist(),
        "alive": (weights > 0).sum(-1).double().tolist(),
    }


def standard_cumulants(logits: Float[Tensor, "S N"]) -> tuple[Float[Tensor, " S"], Float[Tensor, " S"]]:
    """(skewness, excess kurtosis) over the patches; 0 of equal logits, NaN where there are none."""
    centred = logits - logits.mean(-1, keepdim=True)
    spread = centred.square().mean(-1, keepdim=True).sqrt()
    is_flat = spread == 0
    standard = torch.where(is_flat, 0.0, centred / torch.where(is_flat, 1.0, spread))
    kurtosis = (standard**4).mean(-1) - 3
    return (standard**3).mean(-1), torch.where(is_flat[..., 0], 0.0, kurtosis)


def colour_spread(pixels: UInt8[np.ndarray, "H W 3"]) -> float:
    """0 of a card of one colour: the pixels of a photo -> the largest standard deviation of a colour.

    From sums of whole numbers, which are exact; only the root is rounded.
    """
    count = pixels.shape[0] * pixels.shape[1]
    variances = []  # times count^2
    for channel in cv2.split(pixels):
        total = int(cv2.sumElems(channel)[0])
        squares = round(cv2.norm(channel, cv2.NORM_L2SQR))  # the square of a root: 734.9999 for 735
        variances.append(count * squares - total**2)
    return math.sqrt(max(variances)) / count

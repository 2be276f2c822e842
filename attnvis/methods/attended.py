"""What the classifier says where it reads what the attention holds: the context in place of the mean patch.

V' in place of V: the map of N a_i v_i, whose mean is the context c = sum_i a_i v_i, goes on through the head.
Beside it the complement, the mean by the weights (1 - a_i) / (N - 1): the mean patch is 1/N of the context
and (N - 1)/N of the complement, exactly.  It is the soft form of what is left where the attended part is
erased (Wei et al. 2017).  What is written here holds for heads that average patches (`Head.before_mean`).
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from attnvis.attention.dot_product import at_least_float32
from attnvis.attention.scaling import TEMPERATURES, heated
from attnvis.methods.answer import AlongCells, Attended, Pooled
from attnvis.metrics.faithfulness import area_over_cells
from attnvis.types import Attention, Features, Head

__all__ = ["NO_MEAN", "Classifier", "attended_by", "complement"]

NO_MEAN = "the classifier takes no mean of this layer's patches: V' has no exact place in it"


def complement(weights: Float[Tensor, "*any N"]) -> Float[Tensor, "*any N"]:
    """(1 - a_i) / (N - 1): they sum to 1; NaN for a single patch."""
    return (1 - weights) / ((weights.shape[-1] - 1) or math.nan)


@dataclass(frozen=True, eq=False)
class Classifier:
    """One photo's patches as its classifier averages them."""

    head: Head
    patches: Float[Tensor, "N P"]  # float64

    @classmethod
    def of(cls, features: Features, photo: int) -> "Classifier | None":
        """None where there is no classifier, or one that takes no mean."""
        if features.head is None or features.logits is None:
            return None
        patches = features.head.before_mean(at_least_float32(features.tokens[photo]))
        return None if patches is None else cls(features.head, patches.double())

    def pooled(self, weights: Float[Tensor, "K N"]) -> Float[Tensor, "K C"]:
        """The logits where these weights, K times, stand in place of 1/N."""
        return self.head.after_mean(weights.to(self.patches) @ self.patches)

    def of_the_first(self, order: Sequence[int] | Tensor) -> Float[Tensor, "N C"]:
        """The logits of the first 1 ... N patches in this order, which alone are averaged."""
        counts = torch.arange(1, len(self.patches) + 1, device=self.patches.device)
        return self.head.after_mean(self.patches[order].cumsum(0) / counts.unsqueeze(1))


def attended_by(classifier: Classifier | None, attention: Attention, watched: int | None) -> Attended:
    """What the classifier says of one attention (B = Q = 1), its complement, and along the temperature.

    watched: the class that was asked for; None: the likeliest of the photo.
    """
    if classifier is None:
        return Attended(reason=NO_MEAN)
    weights = attention.weights[0].to(classifier.patches)  # [1, N]
    patches = weights.shape[1]
    uniform = torch.full_like(weights, 1 / patches)
    hot = heated(attention.scores)[0, 0].to(weights)  # [T, N]
    logits = classifier.pooled(torch.cat([uniform, weights, complement(weights), hot]))
    if watched is None:
        watched = int(logits[0].argmax())
    margins = logits[:, watched] - best_other(logits, watched)
    probabilities = logits.softmax(-1)[:, watched]
    whole, inside, outside = (
        pooled_of(classifier.head, row, watched, float(margin))
        for row, margin in zip(logits[:3], margins, strict=False)
    )
    order = weights[0].sort(descending=True, stable=True).indices
    coming = classifier.of_the_first(order).softmax(-1)[:, watched]
    staying = classifier.of_the_first(order.flip(0)).softmax(-1)[:, watched].flip(0)
    return Attended(
        name=classifier.head.category(watched),
        whole=whole,
        inside=inside,
        outside=outside,
        insertion=along_cells(coming),
        deletion=along_cells(staying),
        temperatures=TEMPERATURES,
        probabilities=probabilities[3:].float().cpu().numpy(),
        logits=logits[3:, watched].float().cpu().numpy(),
        margins=margins[3:].float().cpu().numpy(),
    )


def best_other(logits: Float[Tensor, "K C"], watched: int) -> Float[Tensor, " K"]:
    """The largest logit of another class; NaN where there is none."""
    others = torch.cat([logits[:, :watched], logits[:, watched + 1 :]], 1)
    return others.amax(1) if others.shape[1] else torch.full_like(logits[:, 0], math.nan)


def pooled_of(head: Head, logits: Float[Tensor, " C"], watched: int, margin: float) -> Pooled:
    if logits.isnan().any():
        return Pooled()
    likeliest = int(logits.argmax())
    return Pooled(
        head.category(likeliest),
        probability=float(logits.softmax(0)[likeliest]),
        logit=float(logits[watched]),
        margin=margin,
    )


def along_cells(likely: Float[Tensor, " N"]) -> AlongCells:
    return AlongCells(float(area_over_cells(likely)), likely.float().cpu().numpy())

"""Two ways to run one trunk in, how far their attention agrees out, photo by photo."""

import math
import statistics
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import torch
from jaxtyping import Float
from torch import Tensor, nn

from attnvis.types import Head

__all__ = ["CLOSE", "FEWEST", "Agreement", "Run", "compare_with_float32"]

Run = Callable[[Tensor], tuple[Tensor, ...]]  # images [B, 3, H, W] -> maps [B, D, h, w], layer by layer
# Precision auto takes bf16 where at least FEWEST of a run's first photos agree with float32 by CLOSE
# (docs/performance.md, "Engines agree"): a median would hide the few maps that move.
FEWEST = 4  # photos of one shape among the first
CLOSE = 0.99  # correlation of attention at the 10th percentile of these photos


@dataclass(frozen=True)
class Agreement:
    """How an engine's attention, under z-scores, stands to that of eager float32, photo by photo.

    Of each photo the worse of its questions: mean, and the predicted class where there is a classifier.
    """

    correlations: tuple[float, ...]  # of the weights
    same_hottest: tuple[bool, ...]  # whether the hottest patch is the same under every question
    perplexity_error: float  # the largest, relative

    @property
    def tail(self) -> float:
        """The correlation's 10th percentile over photos; NaN without any."""
        ordered = torch.tensor(self.correlations, dtype=torch.float64)
        return float(ordered.quantile(0.1)) if self.correlations else math.nan

    @property
    def agrees(self) -> bool:
        """Whether no photo speaks against the engine: a correlation of CLOSE at the 10th percentile, the
        hottest patch the same on all.
        """
        return not self.correlations or (self.tail >= CLOSE and all(self.same_hottest))

    @property
    def is_close(self) -> bool:
        """Whether the photos allow another precision: they are enough to say so, and all agree."""
        return len(self.correlations) >= FEWEST and self.agrees

    def __str__(self) -> str:
        if not self.correlations:
            return "attention is uniform: nothing to compare with eager float32"
        count = len(self.correlations)
        return (
            f"attention correlates with that of eager float32 by {min(self.correlations):.5f} at least, "
            f"{self.tail:.5f} at the 10th percentile, "
            f"{statistics.median(self.correlations):.5f} in the median; "
            f"the hottest patch is the same on {sum(self.same_hottest)} of {count} photos; "
            f"perplexity is off by up to {self.perplexity_error:.1e}"
        )


@torch.inference_mode()
def compare_with_float32(
    run: Run,
    exact: nn.Module,
    images: Float[Tensor, "B 3 H W"],
    dtype: torch.dtype,
    head: Head | None = None,
) -> Agreement:
    """How the attention of the last layer differs from that of eager float32.

    Under z-scores: a softmax that all but takes the largest would show the tie of the two best patches, not
    the engine.  `head` is the last layer's; each side is asked for the class that it predicts itself.
    """
    maps = run(images.to(dtype, memory_format=torch.channels_last))[-1].float()
    exact_maps = exact(images)[-1].float()
    questions: list[Callable[[Tensor], Tensor]] = [mean_query_scores]
    if head is not None:
        questions.append(partial(class_scores, head))
    pairs = [(ask(maps), ask(exact_maps)) for ask in questions]
    correlations, same_hottest, errors = [], [], [0.0]
    for photo in range(len(images)):
        comparisons = [
            compare_weights(zscore_weights(scores[photo]), zscore_weights(exact_scores[photo]))
            for scores, exact_scores in pairs
            if has_contrast(exact_scores[photo])
        ]
        if comparisons:
            correlations.append(min(correlation for correlation, _, _ in comparisons))
            same_hottest.append(all(same for _, same, _ in comparisons))
            errors.append(max(error for _, _, error in comparisons))
    return Agreement(tuple(correlations), tuple(same_hottest), perplexity_error=max(errors))


def compare_weights(weights: Float[Tensor, " N"], exact: Float[Tensor, " N"]) -> tuple[float, bool, float]:
    """Correlation, whether the hottest patch is the same, relative error of the perplexity."""
    correlation = float(torch.corrcoef(torch.stack([weights, exact]))[0, 1])
    error = abs(float(perplexity(weights) / perplexity(exact)) - 1)
    return correlation, bool(weights.argmax() == exact.argmax()), error


def has_contrast(scores: Float[Tensor, " N"]) -> bool:
    return float(scores.std(correction=0)) >= 1e-6 * float(scores.abs().amax().clamp_min(1e-30))


def mean_query_scores(maps: Float[Tensor, "B D h w"]) -> Float[Tensor, "B N"]:
    """Dot products of every patch with the mean patch, in float64."""
    tokens = maps.float().flatten(2).mT  # [B, D, h, w] -> [B, N, D]
    return (tokens @ tokens.mean(1, keepdim=True).mT).squeeze(-1).double()


def class_scores(head: Head, maps: Float[Tensor, "B D h w"]) -> Float[Tensor, "B N"]:
    """Dot products of every patch with the query of the class that the maps predict, in float64."""
    vectors, _ = head.ask(maps, head.logits(maps).argmax(-1))
    return (maps.flatten(2).mT @ vectors.unsqueeze(-1)).squeeze(-1).double()


def zscore_weights(scores: Float[Tensor, "*any N"]) -> Float[Tensor, "*any N"]:
    """Softmax of z-scores."""
    centred = scores - scores.mean(-1, keepdim=True)
    return (centred / scores.std(-1, correction=0, keepdim=True)).softmax(-1)


def perplexity(weights: Float[Tensor, "*any N"]) -> Float[Tensor, "*any"]:
    return torch.special.entr(weights).sum(-1).exp()

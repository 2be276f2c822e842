"""Is a class's map about the class?  Its hottest patch beside those of random classes.

A random class asks q ~ N(mean, covariance) of what the classifier asks for its own.  A class that was chosen
because it is the likeliest is compared with the likeliest of as many random ones: else any is far out.
With few classes (40) the p value of a chosen one is somewhat too large: it is among those that the covariance
is taken of.
"""

import functools

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from attnvis.attention.dot_product import at_least_float32
from attnvis.types import Features, Query

__all__ = ["p_values"]


def p_values(query: Query, features: Features, draws: int = 1000, seed: int = 0) -> Float[Tensor, "B Q"]:
    """p = (1 + #{T_r >= T}) / (draws + 1), T = max_i s_i - mean s, over `draws` random classes r.

    The maximum is over all patches: p is of the photo, not of a patch.  NaN for a query that asks no class
    (`Query.ranks` says which do), and where the classifier has no rows to draw from: it is known by its
    gradient alone, or has fewer than three classes.
    """
    photos, count, _ = query.vectors.shape
    undefined = torch.full((photos, count), torch.nan, dtype=torch.float64)
    logits = features.logits
    if not query.ranks or features.head is None or logits is None or logits.shape[1] < 3:
        return undefined
    tokens = at_least_float32(features.tokens)
    observed = at_least_float32(query.vectors) @ tokens.mT  # [B, Q, N]
    peaks = observed.amax(-1) - observed.mean(-1)
    with torch.inference_mode():
        for photo in range(photos):
            scores = class_scores(features, photo)
            if scores is None:
                return undefined
            null = NullMaps(scores, logits[photo], draws=draws, seed=seed)
            for rank in set(query.ranks):
                columns = [column for column in range(count) if query.ranks[column] == rank]
                random_peaks = null.peaks(rank).sort().values  # [R]
                below = torch.searchsorted(random_peaks, peaks[photo, columns].contiguous())
                undefined[photo, columns] = ((1 + draws - below) / (draws + 1)).double().cpu()
    return undefined


def class_scores(features: Features, photo: int) -> Float[Tensor, "N C"] | None:
    """What every class asks of one photo's patches, less each class's mean over them; None where no head
    tells all of them.
    """
    assert features.head is not None
    tokens = at_least_float32(features.tokens[photo])
    rows = features.head.rows(features.maps[photo : photo + 1])
    return None if rows is None else (tokens - tokens.mean(0)) @ at_least_float32(rows).mT


class NullMaps:
    """The scores of random classes on one photo: m + A z, z ~ N(0, I), A A' their covariance over patches.

    scores: of the classifier's own classes, centred over the patches; logits: of these.
    """

    def __init__(
        self, scores: Float[Tensor, "N C"], logits: Float[Tensor, " C"], draws: int, seed: int
    ) -> None:
        self.classes = scores.shape[1]
        self.noise = normal_noise(self.classes, draws, seed).to(scores)  # [C, R]
        self.seed = seed
        centre = scores.mean(1, keepdim=True)
        self.spread = (scores - centre) / (self.classes - 1) ** 0.5  # A, [N, C]
        self.maps = centre + self.spread @ self.noise  # [N, R]
        deviations = logits.to(scores) - logits.to(scores).mean()
        self.direction = deviations / deviations.norm().clamp_min(1e-30)  # of z, along which the logit grows

    def peaks(self, rank: int) -> Float[Tensor, " R"]:
        """The hottest patch of every random class; for a rank k, of the k-th likeliest of C random classes.

        A map and its logit are normal together: only the part of z along the logit is another, the k-th
        largest of C normal numbers.
        """
        if rank == 0:
            return self.maps.amax(0)
        chosen = ordered_noise(self.classes, rank, self.noise.shape[1], self.seed).to(self.noise)
        change = chosen - self.direction @ self.noise  # [R]
        return (self.maps + torch.outer(self.spread @ self.direction, change)).amax(0)


@functools.lru_cache(maxsize=4)
def normal_noise(classes: int, draws: int, seed: int) -> Float[Tensor, "C R"]:
    return torch.randn(classes, draws, generator=torch.Generator().manual_seed(seed))


@functools.lru_cache(maxsize=8)
def ordered_noise(classes: int, rank: int, draws: int, seed: int) -> Float[Tensor, " R"]:
    """The `rank`-th largest of C normal numbers, `draws` times: its quantile is Beta(C + 1 - k, k)."""
    quantiles = np.random.default_rng(seed).beta(classes + 1 - rank, rank, size=draws)
    return torch.special.ndtri(torch.from_numpy(quantiles))

"""Is a class's map about the class?  Its hottest patch beside those of random classes.

A random class asks q ~ N(mean, covariance) of what the classifier asks for its own.  A class that was chosen
because it is the likeliest is compared with the likeliest of as many random ones: else any is far out.
A sum of classes, such as class:tabby - class:lynx, is compared with the same sum of random ones.  But the
classes of a group are alike, and a mean of unlike ones is flat: the mean of several is compared with random
vectors that lie as far from the mean of all classes as it does itself.
A class against its rivals (contrast, rest, log_odds, finer) is compared with random classes against theirs,
whose logits are drawn too, each query divided by the root of the sum of its squared shares: where a class is
nearly certain contrast is short, and its map no other.
With few classes (40) the p value of a chosen one is somewhat too large: it is among those that the covariance
is taken of.
"""

import functools
import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from attnvis.attention.dot_product import at_least_float32
from attnvis.types import AgainstRivals, Features, Query

__all__ = ["LEVEL", "Chances", "Mixture", "chances", "has_null", "mixtures", "p_values"]

LEVEL = 0.05  # of a photo, over all of its patches: beyond `critical` lie those of so small a p value

Mixture = tuple[tuple[float, int], ...]  # (factor, class): its index; -k for the k-th likeliest of the photo


@dataclass(frozen=True, eq=False)
class Chances:
    """NaN where there is none."""

    p: Float[Tensor, "B Q"]
    # of s_i - mean s: a patch above it is hotter than the hottest of all but LEVEL of the random classes
    critical: Float[Tensor, "B Q"]


def p_values(query: Query, features: Features, draws: int = 1000, seed: int = 0) -> Float[Tensor, "B Q"]:
    """`chances`, the p values alone."""
    return chances(query, features, draws, seed).p


def chances(query: Query, features: Features, draws: int = 1000, seed: int = 0) -> Chances:
    """p = (1 + #{T_r >= T}) / (draws + 1), T = max_i s_i - mean s, over `draws` random classes r.

    The maximum is over all patches: p is of the photo, and so is the critical value (the family-wise error
    rate over the patches is LEVEL).  NaN for a query that asks no class (`has_null`), and where the
    classifier has no rows to draw from: it is known by its gradient alone, or has fewer than three classes.
    """
    photos, count, _ = query.vectors.shape
    p, critical = torch.full((2, photos, count), torch.nan, dtype=torch.float64)
    undefined = Chances(p, critical)
    logits, asked = features.logits, mixtures(query)
    if not has_null(query) or features.head is None or logits is None or logits.shape[1] < 3:
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
            if query.rivals is not None:
                length = length_of_shares(query.rivals, logits[photo], query.classes[photo][0].index)
                random_peaks = length * null.peaks_against_rivals(query.rivals).sort().values
                p[photo], critical[photo] = chance_of(peaks[photo], random_peaks)
            for mixture, columns in alike(asked):
                own = 0.0
                if is_group(mixture):
                    own = distance_from_mean(query.vectors[photo, columns[0]], features, photo)
                random_peaks = null.peaks_of_sum(mixture, at_least=own).sort().values  # [R]
                p[photo, columns], critical[photo, columns] = chance_of(peaks[photo, columns], random_peaks)
    return undefined


def has_null(query: Query) -> bool:
    """Whether it asks a class, a sum of classes, or one against its rivals."""
    return bool(mixtures(query)) or query.rivals is not None


def chance_of(
    peaks: Float[Tensor, " Q"], random_peaks: Float[Tensor, " R"]
) -> tuple[Float[Tensor, " Q"], float]:
    """The p value of each peak, and the critical one; the random ones are sorted."""
    draws = len(random_peaks)
    below = torch.searchsorted(random_peaks, peaks.contiguous())
    return ((1 + draws - below) / (draws + 1)).double().cpu(), critical_value(random_peaks)


def length_of_shares(rivals: AgainstRivals, logits: Float[Tensor, " C"], index: int) -> float:
    """The root of the sum of the squared shares that the classes have in a photo's query."""
    chosen = torch.zeros_like(logits).index_fill(0, torch.tensor([index], device=logits.device), 1.0)
    shares = rivals.shares(chosen.unsqueeze(0), logits.softmax(0).unsqueeze(0))
    return float(at_least_float32(shares).norm())


def alike(asked: tuple[Mixture, ...]) -> list[tuple[Mixture, list[int]]]:
    """Columns that the same random sums are for; a group alone."""
    columns: dict[tuple[Mixture, int], list[int]] = {}
    for column, mixture in enumerate(asked):
        columns.setdefault((mixture, column if is_group(mixture) else -1), []).append(column)
    return [(mixture, members) for (mixture, _), members in columns.items()]


def is_group(mixture: Mixture) -> bool:
    """Whether it is a mean of several named classes."""
    return len(mixture) > 1 and all(factor > 0 and place == 0 for factor, place in mixture)


def distance_from_mean(vector: Float[Tensor, " D"], features: Features, photo: int) -> float:
    """Of a group's vector from the mean of what all classes ask, in root mean squares of theirs."""
    rows = class_rows(features, photo)
    assert rows is not None
    centre = rows.mean(0)
    own = float((at_least_float32(vector) - centre).norm())
    return own / max(float((rows - centre).norm()) / (len(rows) - 1) ** 0.5, 1e-30)


def critical_value(random_peaks: Float[Tensor, " R"]) -> float:
    """Of sorted peaks: what is above it has a p value of at most LEVEL; infinite for too few."""
    above = math.floor(LEVEL * (len(random_peaks) + 1) + 1e-9) - 1  # as many may be as hot
    return float(random_peaks[-1 - above]) if above >= 0 else math.inf


def mixtures(query: Query) -> tuple[Mixture, ...]:
    """Of each column the classes that it adds up; () where it asks no classes.

    A class that was named is like any other: its index, which plays no part, is 0.
    """
    sums = query.mixtures or tuple(((1.0, -rank),) for rank in query.ranks)
    return tuple(tuple(sorted((factor, min(place, 0)) for factor, place in of_column)) for of_column in sums)


def class_scores(features: Features, photo: int) -> Float[Tensor, "N C"] | None:
    """What every class asks of one photo's patches, less each class's mean over them; None where no head
    tells all of them.
    """
    tokens = at_least_float32(features.tokens[photo])
    rows = class_rows(features, photo)
    return None if rows is None else (tokens - tokens.mean(0)) @ rows.mT


def class_rows(features: Features, photo: int) -> Float[Tensor, "C D"] | None:
    assert features.head is not None
    rows = features.head.rows(features.maps[photo : photo + 1])
    return None if rows is None else at_least_float32(rows)


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
        self.centre = scores.mean(1, keepdim=True)
        self.spread = (scores - self.centre) / (self.classes - 1) ** 0.5  # A, [N, C]
        self.deviations = self.spread @ self.noise  # [N, R]
        deviations = logits.to(scores) - logits.to(scores).mean()
        length = deviations.norm().clamp_min(1e-30)
        self.direction = deviations / length  # of z, along which the logit grows
        # the standard deviation of a random class's logit
        self.logit_spread = length / (self.classes - 1) ** 0.5

    def peaks(self, rank: int) -> Float[Tensor, " R"]:
        """The hottest patch of every random class; for a rank k, of the k-th likeliest of C of them."""
        return self.peaks_of_sum(((1.0, -rank),))

    def peaks_of_sum(self, mixture: Mixture, at_least: float = 0.0) -> Float[Tensor, " R"]:
        """The hottest patch of sums of random classes by the factors of `mixture`; where it has a likeliest
        class, that of C random ones.

        Random classes are independent: a sum of them is one, with the factors' sum times the mean and the
        root of their squares' sum times the deviation.  A map and its logit are normal together: of a
        likeliest one only the part of z along the logit is another, the k-th largest of C normal numbers.
        at_least: times the deviation of one class, that of the sum.
        """
        ranks = {-place: factor for factor, place in mixture if place < 0}
        total = sum(factor for factor, _ in mixture)
        deviation = max(at_least, math.sqrt(sum(factor**2 for factor, _ in mixture)))
        maps = total * self.centre + deviation * self.deviations
        if not ranks:
            return maps.amax(0)
        named = math.sqrt(sum(factor**2 for factor, place in mixture if place >= 0))
        along = self.direction @ self.noise  # [R]
        change = named * along - deviation * along + self.chosen(ranks)
        return (maps + torch.outer(self.spread @ self.direction, change)).amax(0)

    def peaks_against_rivals(self, rivals: AgainstRivals) -> Float[Tensor, " R"]:
        """The hottest patch of random classes against theirs, of queries whose squared shares sum to 1.

        Of C random classes the logits are drawn, with them the probabilities, and so the shares a_k.  A map
        and its logit are normal together: given the logits, sum a_k s_k has a part along them, known, and for
        the rest it is as one random class's times the root of sum a_k^2.
        """
        numbers = class_noise(self.classes, self.noise.shape[1], self.seed).to(self.noise)  # [R, C]
        first = numbers.new_zeros((len(numbers), 1), dtype=torch.long)  # a class like any other
        place = numbers.topk(rivals.rank, 1).indices[:, -1:] if rivals.rank else first
        chosen = torch.zeros_like(numbers).scatter(1, place, 1.0)
        shares = rivals.shares(chosen, (self.logit_spread * numbers).softmax(1))
        length = shares.norm(dim=1).clamp_min(1e-30)
        change = (shares * numbers).sum(1) / length - self.direction @ self.noise
        maps = torch.outer(self.centre[:, 0], shares.sum(1) / length) + self.deviations
        return (maps + torch.outer(self.spread @ self.direction, change)).amax(0)

    def chosen(self, ranks: Mapping[int, float]) -> Float[Tensor, " R"]:
        """sum over the ranks k of factor * the k-th largest of C normal numbers, drawn together."""
        draws = self.noise.shape[1]
        if len(ranks) == 1:
            ((rank, factor),) = ranks.items()
            return factor * ordered_noise(self.classes, rank, draws, self.seed).to(self.noise)
        numbers = ordered_together(self.classes, tuple(sorted(ranks)), draws, self.seed).to(self.noise)
        factors = torch.tensor([ranks[rank] for rank in sorted(ranks)]).to(self.noise)
        return factors @ numbers


@functools.lru_cache(maxsize=4)
def normal_noise(classes: int, draws: int, seed: int) -> Float[Tensor, "C R"]:
    return torch.randn(classes, draws, generator=torch.Generator().manual_seed(seed))


@functools.lru_cache(maxsize=2)
def class_noise(classes: int, draws: int, seed: int) -> Float[Tensor, "R C"]:
    """The logits of C random classes, `draws` times, in standard deviations; apart from `normal_noise`."""
    generator = torch.Generator().manual_seed(seed + 1)
    return torch.randn(draws, classes, generator=generator)


@functools.lru_cache(maxsize=8)
def ordered_noise(classes: int, rank: int, draws: int, seed: int) -> Float[Tensor, " R"]:
    """The `rank`-th largest of C normal numbers, `draws` times: its quantile is Beta(C + 1 - k, k)."""
    quantiles = np.random.default_rng(seed).beta(classes + 1 - rank, rank, size=draws)
    return torch.special.ndtri(torch.from_numpy(quantiles))


@functools.lru_cache(maxsize=8)
def ordered_together(classes: int, ranks: tuple[int, ...], draws: int, seed: int) -> Float[Tensor, "K R"]:
    """The k-th largest of the same C normal numbers for every k of `ranks`, which ascend.

    Below the j-th largest u of C uniform numbers lie C - j uniform ones on 0 ... u.
    """
    random, quantiles, before = np.random.default_rng(seed), np.ones(draws), 0
    rows = []
    for rank in ranks:
        left, steps = classes - before, rank - before
        quantiles = quantiles * random.beta(left + 1 - steps, steps, size=draws)
        rows.append(torch.special.ndtri(torch.from_numpy(quantiles)))
        before = rank
    return torch.stack(rows)

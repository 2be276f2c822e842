"""A batch in; every query under every setting out, from one score tensor per query: what a sweep measures.

A *setting* is a scaling and a normaliser, written as they are typed: `temperature:2`,
`cosine:0.07 sparsemax`.  Of several heads a setting's map is the mean of theirs, of several layers joined it
is one map on the finest of their grids: neither is a function of one score, and what a score alone has - its
curves, with layers all but the weights - is NaN there.
"""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from itertools import product

import torch
from jaxtyping import Float
from torch import Tensor

from attnvis.attention import heads as head_functions
from attnvis.attention import keys as key_functions
from attnvis.attention import scaling as scalings
from attnvis.attention.dot_product import Normalise, Scaling
from attnvis.attention.heads import HeadFunction
from attnvis.attention.jacobian import NormaliserJacobian, frobenius_norm
from attnvis.attention.key_space import AskedLayer, asked_layers, unwrapped
from attnvis.attention.keys import KeyFunction
from attnvis.attention.null import p_values
from attnvis.attention.query.kinds import QueryFunction
from attnvis.attention.query.language import build_queries
from attnvis.attention.scaling import TEMPERATURES
from attnvis.attention.sensitivity import sensitivity_of_settings
from attnvis.lazy import kept_property
from attnvis.methods.answer import require_finite, require_finite_classes
from attnvis.methods.attention import GRADIENT, Encoder, require_comparable
from attnvis.methods.fusing import finest_of, joined, require_fusion
from attnvis.metrics.diagnostics import DESCRIPTIONS, diagnose
from attnvis.types import Batch, Box, Features, PhotoError, Placement, Query, Scores

__all__ = ["GAPS", "RANKS", "TEMPERATURES", "BatchResult", "PhotoResult", "SettingGrid"]

RANKS = 48  # points of a rank-weight curve, from the hottest patch to the coldest
GAPS = (-6.0, 6.0, 72)  # log10 of the difference of two logits: from, to, bins
PAIRS = 512  # pairs of patches per photo and query, drawn once


@dataclass(frozen=True)
class SettingGrid:
    """Every query under every setting: Batch -> for each photo, one `PhotoResult` per query."""

    backbone: Encoder
    queries: Mapping[str, QueryFunction]
    scalings: Mapping[str, Scaling]
    normalisers: Mapping[str, Normalise]
    keys: KeyFunction = key_functions.same
    random_classes: int = 0  # that the map of a class is compared with: no setting changes the p value
    heads: HeadFunction = head_functions.one
    fuse: str = ""  # mixture, product or max of several layers' maps; "": of one layer

    def __post_init__(self) -> None:
        """Raises ValueError for keys of a second layer, for a fusion that is none, and as
        `require_comparable` does.
        """
        if unwrapped(self.keys) is key_functions.layer:
            raise ValueError(
                "a sweep measures one layer at a time, and keys=layer takes two; attnvis run can"
            )
        if self.fuse:
            require_fusion(self.fuse)
        require_comparable(self.random_classes, self.keys, heads=self.heads, fuse=self.fuse)

    @property
    def has_one_score(self) -> bool:
        """Whether a setting's map is a function of one score."""
        return unwrapped(self.heads) is head_functions.one and not self.fuse

    @cached_property
    def settings(self) -> tuple[tuple[str, str], ...]:
        """(scaling, normaliser), as they are typed."""
        return tuple(product(self.scalings, self.normalisers))

    def __call__(self, batch: Batch) -> list[list["PhotoResult"]]:
        return self.answer(self.backbone(batch))

    def answer(self, layers: Sequence[Features]) -> list[list["PhotoResult"]]:
        """Of features that are there already.

        Raises ValueError for several layers that nothing joins, as a row of a sweep has one map, and for one
        layer where there is a fusion.
        """
        if len(layers) != 1 and not self.fuse:
            raise ValueError(f"a sweep measures one layer at a time, not {len(layers)}")
        if len(layers) == 1 and self.fuse:
            raise ValueError(
                f"fuse={self.fuse} joins several layers of one pass, and {layers[0].layer} is one; "
                "give two layers or more"
            )
        for features in layers:
            require_finite(features.tokens, features, "features")
            require_finite_classes(features)
        results: list[list[PhotoResult]] = [[] for _ in layers[0].tokens]
        all_asked = list(asked_layers(self.keys, layers))
        for text, function in self.queries.items():
            for query, batch in self.measured(text, function, all_asked):
                p = p_values(query, layers[0], self.random_classes) if self.random_classes else None
                for photo, column in product(range(len(results)), range(query.vectors.shape[1])):
                    same = {} if p is None else {"p_value": [float(p[photo, column])] * len(self.settings)}
                    results[photo].append(PhotoResult(batch, photo, column, same))
        return results

    def measured(
        self, text: str, function: QueryFunction, layers: Sequence[AskedLayer]
    ) -> Iterator[tuple[Query, "BatchResult"]]:
        """What a text asks of the batch, query by query; of several layers the last one's query names it."""
        asked = [layer.meet(build_queries(function, layer.features)) for layer in layers]
        for of_layers in zip(*asked, strict=True):
            named = [replace(query, text=query.text or text) for query in of_layers]
            if self.fuse:
                yield of_layers[-1], self.join(named, [layer.values for layer in layers])
            else:
                yield of_layers[0], self.measure(named[0], layers[0].values)

    def join(self, queries: Sequence[Query], layers: Sequence[Features]) -> "BatchResult":
        """One question's maps of several layers as one, on every photo under all settings.

        Raises PhotoError where under one of them the layers' maps share no cell, by its name.
        """
        of_layers = []
        for query, features in zip(queries, layers, strict=True):
            _, weights = self.attend(scores_of(query, features), features)
            of_layers.append(weights.unflatten(0, (len(self.settings), -1)))  # [S, B, Q, n]
        photos, placements = [], []
        for photo, name in enumerate(named_photos(layers[-1])):
            of_settings, cells = [], [layer.placements[photo] for layer in layers]
            for number, setting in enumerate(self.settings):
                base = f"{name}: {queries[-1].text} under {' '.join(setting)}"
                maps = [weights[number, photo] for weights in of_layers]
                try:
                    of_settings.append(joined(maps, cells, self.fuse, base)[0])
                except PhotoError as error:
                    raise PhotoError(
                        f"{error}, or leave the setting out: a photo is in all rows of a job or in none"
                    ) from None
            photos.append(torch.stack(of_settings))
            placements.append(finest_of(cells))
        weights = torch.stack(photos, 1).cpu()  # [S, B, Q, N]
        unknown = torch.full_like(weights, torch.nan)
        no_number = torch.full(weights.shape[:-1], torch.nan, dtype=torch.float64)
        known = diagnose(weights)
        return BatchResult(
            query=queries[-1],
            scores=unknown[0],
            dim=0,
            logits=unknown,
            weights=weights,
            numbers={name: known.get(name, no_number) for name in DESCRIPTIONS},
            placements=tuple(placements),
            has_one_score=False,
        )

    def measure(self, query: Query, features: Features) -> "BatchResult":
        """One query on every photo under all settings."""
        scores = scores_of(query, features)
        logits, weights = self.attend(scores, features)
        # [S * B, Q, N], as logits and weights are
        repeated = scores.products.repeat(len(self.settings), 1, 1)
        functions = list(product(self.scalings.values(), self.normalisers.values()))
        if self.has_one_score:
            gradient = sensitivity_of_settings(scores, logits, weights, settings=functions)
        else:
            unknown = torch.full(weights.shape[:-1], torch.nan, dtype=torch.float64)
            gradient = dict.fromkeys(GRADIENT, unknown.to(weights.device))
        diagnostics = diagnose(weights, logits, repeated, dim=scores.dim, gradient=gradient)
        shape = (len(self.settings), *scores.products.shape)
        return BatchResult(
            query=query,
            scores=scores.products.cpu(),
            dim=scores.dim,
            logits=logits.view(shape).cpu(),
            weights=weights.view(shape).cpu(),
            numbers={name: values.view(shape[:-1]) for name, values in diagnostics.items()},
            placements=features.placements,
            has_one_score=self.has_one_score,
        )

    def require_finite_settings(
        self, weights: Float[Tensor, "SB Q N"], logits: Float[Tensor, "SB Q N"], features: Features
    ) -> None:
        """Raises PhotoError where a setting overflows, by its name."""
        largest = logits.amax(-1)
        parts = zip(*(of.chunk(len(self.settings)) for of in (weights, largest)), strict=True)
        for setting, (of_weights, of_largest) in zip(self.settings, parts, strict=True):
            require_finite(of_weights, features, f"weights under {' '.join(setting)}")
            require_finite(of_largest, features, f"largest logits under {' '.join(setting)}")

    def attend(
        self, scores: Scores, features: Features
    ) -> tuple[Float[Tensor, "SB Q N"], Float[Tensor, "SB Q N"]]:
        """Logits and weights of all settings in one tensor each, setting by setting; means of the heads.

        Raises PhotoError where a setting overflows, by its name.
        """
        heads = head_functions.split(self.heads, scores, features)
        logits, weights = [], []
        with torch.autocast(scores.keys.device.type, enabled=False):
            for scaling in self.scalings.values():
                scaled = [scaling(head) for head in heads]
                mean_logits = mean_of_heads(scaled)
                for normalise in self.normalisers.values():
                    logits.append(mean_logits)
                    weights.append(mean_of_heads([normalise(of_head) for of_head in scaled]))
        all_logits, all_weights = torch.cat(logits), torch.cat(weights)
        self.require_finite_settings(all_weights, all_logits, features)
        return all_logits, all_weights


def scores_of(query: Query, features: Features) -> Scores:
    """Raises PhotoError where they are not finite."""
    keys = features.tokens if query.keys is None else query.keys
    scores = Scores(query.vectors.float(), keys.float())
    require_finite(scores.products, features, "scores")
    return scores


def mean_of_heads(heads: Sequence[Float[Tensor, "B Q N"]]) -> Float[Tensor, "B Q N"]:
    """Of one head its own, to the last bit."""
    return heads[0] if len(heads) == 1 else torch.stack(list(heads)).mean(0)


def named_photos(features: Features) -> tuple[str, ...]:
    """What an error calls the photos: those from memory have no names, and are numbered."""
    return features.names or tuple(f"photo {number}" for number in range(len(features.placements)))


@dataclass(frozen=True, eq=False)
class BatchResult:
    """One query on a batch of photos under S settings; curves are computed for all of it at once,
    when somebody asks.
    """

    query: Query
    scores: Float[Tensor, "B Q N"]
    dim: int  # d_k
    logits: Float[Tensor, "S B Q N"]
    weights: Float[Tensor, "S B Q N"]
    numbers: dict[str, Float[Tensor, "S B Q"]]  # the diagnostics
    placements: tuple[Placement, ...]
    has_one_score: bool = True  # False of several heads, and of layers joined, whose scores are NaN

    @kept_property
    def ranked(self) -> Float[Tensor, "S B Q R"]:
        """log2(N a) from the hottest patch to the coldest, at RANKS equal steps; no less than 2^-30."""
        ordered = (
            (self.weights.shape[-1] * self.weights.double())
            .sort(-1, descending=True)
            .values.clamp_min(2.0**-30)
            .log2()
        )
        return torch.nn.functional.interpolate(
            ordered.flatten(0, 1), RANKS, mode="linear", align_corners=True
        ).unflatten(0, ordered.shape[:2])

    @kept_property
    def gaps(self) -> Float[Tensor, "rows B Q bins"]:
        """Of PAIRS pairs of patches: how many differ by how much.

        The raw scores first, then the logits of every setting; what is NaN differs from nothing.
        """
        patches = self.scores.shape[-1]
        first, second = torch.randint(patches, (2, PAIRS), generator=torch.Generator().manual_seed(patches))
        rows = torch.cat([self.scores.unsqueeze(0), self.logits]).double()
        logs = (rows[..., first] - rows[..., second]).abs().clamp_min(1e-300).log10()
        low, high, bins = GAPS
        index = ((logs - low) / (high - low) * bins).floor().clamp(0, bins - 1).nan_to_num().long()
        counts = torch.zeros(*rows.shape[:-1], bins, dtype=torch.float64)
        differ = (first != second) & ~logs.isnan()
        return counts.scatter_add_(-1, index, differ.double())

    @kept_property
    def heated(self) -> tuple[Float[Tensor, "B Q T"], Float[Tensor, "B Q T"]]:
        """(perplexity / N, gradient) of softmax(s / tau) for tau = TEMPERATURES * std(s).

        The gradient is that of the weights with respect to the scores, in units of 1 / std(s): ||diag(a)
        - a a^T|| * std(s) / tau.  NaN where no one score has them.
        """
        if not self.has_one_score:
            unknown = torch.full((*self.scores.shape[:2], len(TEMPERATURES)), torch.nan, dtype=torch.float64)
            return unknown, unknown
        weights = scalings.heated(self.scores)  # [B, Q, T, N]
        tau = torch.tensor(TEMPERATURES, dtype=torch.float64)
        perplexity = torch.special.entr(weights).sum(-1).exp()
        jacobian = NormaliserJacobian(weights, shares=weights)
        return perplexity / self.scores.shape[-1], frobenius_norm(jacobian) / tau


@dataclass(frozen=True, eq=False)
class PhotoResult:
    """One photo's and one query's part of a `BatchResult`."""

    batch: BatchResult
    photo: int
    column: int
    # of every setting, [S], where it was asked for: p_value, worst_correlation, spread; NaN where undefined
    checks: Mapping[str, list[float]] = field(default_factory=dict)

    @property
    def at(self) -> tuple[int, int]:
        return self.photo, self.column

    @property
    def query(self) -> str:
        return self.batch.query.text

    @property
    def label(self) -> str:
        return self.batch.query.labels[self.photo][self.column]

    @property
    def mark(self) -> Box | tuple[float, float] | None:
        return self.batch.query.marks[self.column] if self.batch.query.marks else None

    @property
    def placement(self) -> Placement:
        return self.batch.placements[self.photo]

    @property
    def scores(self) -> Float[Tensor, " N"]:
        return self.batch.scores[self.at]

    @property
    def weights(self) -> Float[Tensor, "S N"]:
        return self.batch.weights[:, *self.at]

    @property
    def numbers(self) -> dict[str, list[float]]:
        return {name: values[:, *self.at].tolist() for name, values in self.batch.numbers.items()}

    def temperature_for(self, share: float) -> float:
        """tau such that softmax(s / tau) is spread over that share of the patches;
        0 where the scores have no contrast, NaN where there is no one score.
        """
        if not 0 < share < 1:
            raise ValueError(
                f"a share of the patches lies above 0 and below 1, not at {share}; "
                "sharpness=[0.1] asks for a tenth"
            )
        if not self.batch.has_one_score:
            return math.nan
        scores = self.scores.double()
        spread = float(scores.amax() - scores.amin())
        # what rounding alone can give is no contrast
        if spread <= float(scalings.rounding_noise(self.scores.view(1, 1, -1))):
            return 0.0
        logits = scalings.perplexity(
            Scores(torch.ones(1, 1, 1, dtype=torch.float64), scores.view(1, -1, 1)), share
        )
        return spread / float(logits.amax() - logits.amin())

"""A batch in; every query under every setting out, from one score tensor per query: what a sweep measures.

A *setting* is a scaling and a normaliser, written as they are typed: `temperature:2`,
`cosine:0.07 sparsemax`.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from itertools import product

import torch
from jaxtyping import Float
from torch import Tensor

from attnvis.attention import keys as key_functions
from attnvis.attention import scaling as scalings
from attnvis.attention.dot_product import Normalise, Scaling
from attnvis.attention.jacobian import NormaliserJacobian, frobenius_norm
from attnvis.attention.key_space import asked_layers, unwrapped
from attnvis.attention.keys import KeyFunction
from attnvis.attention.null import p_values
from attnvis.attention.query.kinds import QueryFunction
from attnvis.attention.query.language import build_queries
from attnvis.attention.scaling import TEMPERATURES
from attnvis.attention.sensitivity import sensitivity_of_settings
from attnvis.lazy import kept_property
from attnvis.methods.answer import require_finite, require_finite_classes
from attnvis.methods.attention import Encoder, require_comparable
from attnvis.metrics.diagnostics import diagnose
from attnvis.types import Batch, Box, Features, Placement, Query, Scores

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

    def __post_init__(self) -> None:
        """Raises ValueError for keys of a second layer, and as `require_comparable` does."""
        if unwrapped(self.keys) is key_functions.layer:
            raise ValueError(
                "a sweep measures one layer at a time, and keys=layer takes two; attnvis run can"
            )
        require_comparable(self.random_classes, self.keys)

    @cached_property
    def settings(self) -> tuple[tuple[str, str], ...]:
        """(scaling, normaliser), as they are typed."""
        return tuple(product(self.scalings, self.normalisers))

    def __call__(self, batch: Batch) -> list[list["PhotoResult"]]:
        return self.answer(self.backbone(batch))

    def answer(self, layers: Sequence[Features]) -> list[list["PhotoResult"]]:
        """Of features that are there already.

        Raises ValueError for several layers: a row of a sweep names one.
        """
        if len(layers) != 1:
            raise ValueError(f"a sweep measures one layer at a time, not {len(layers)}")
        (features,) = layers
        require_finite(features.tokens, features, "features")
        require_finite_classes(features)
        results: list[list[PhotoResult]] = [[] for _ in features.tokens]
        (asked,) = asked_layers(self.keys, layers)
        for text, function in self.queries.items():
            for query in asked.meet(build_queries(function, features)):
                batch = self.measure(replace(query, text=query.text or text), features)
                p = p_values(query, features, self.random_classes) if self.random_classes else None
                for photo, column in product(range(len(results)), range(query.vectors.shape[1])):
                    same = {} if p is None else {"p_value": [float(p[photo, column])] * len(self.settings)}
                    results[photo].append(PhotoResult(batch, photo, column, same))
        return results

    def measure(self, query: Query, features: Features) -> "BatchResult":
        """One query on every photo under all settings."""
        keys = features.tokens if query.keys is None else query.keys
        scores = Scores(query.vectors.float(), keys.float())
        require_finite(scores.products, features, "scores")
        logits, weights = self.attend(scores)
        self.require_finite_settings(weights, logits, features)
        # [S * B, Q, N], as logits and weights are
        repeated = scores.products.repeat(len(self.settings), 1, 1)
        functions = list(product(self.scalings.values(), self.normalisers.values()))
        gradient = sensitivity_of_settings(scores, logits, weights, settings=functions)
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

    def attend(self, scores: Scores) -> tuple[Float[Tensor, "SB Q N"], Float[Tensor, "SB Q N"]]:
        """Logits and weights of all settings in one tensor each, setting by setting."""
        logits, weights = [], []
        with torch.autocast(scores.keys.device.type, enabled=False):
            for scaling in self.scalings.values():
                scaled = scaling(scores)
                for normalise in self.normalisers.values():
                    logits.append(scaled)
                    weights.append(normalise(scaled))
        return torch.cat(logits), torch.cat(weights)


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

        The raw scores first, then the logits of every setting.
        """
        patches = self.scores.shape[-1]
        first, second = torch.randint(patches, (2, PAIRS), generator=torch.Generator().manual_seed(patches))
        rows = torch.cat([self.scores.unsqueeze(0), self.logits]).double()
        logs = (rows[..., first] - rows[..., second]).abs().clamp_min(1e-300).log10()
        low, high, bins = GAPS
        index = ((logs - low) / (high - low) * bins).floor().clamp(0, bins - 1).long()
        counts = torch.zeros(*rows.shape[:-1], bins, dtype=torch.float64)
        return counts.scatter_add_(-1, index, (first != second).double().expand_as(logs))

    @kept_property
    def heated(self) -> tuple[Float[Tensor, "B Q T"], Float[Tensor, "B Q T"]]:
        """(perplexity / N, gradient) of softmax(s / tau) for tau = TEMPERATURES * std(s).

        The gradient is that of the weights with respect to the scores, in units of 1 / std(s): ||diag(a)
        - a a^T|| * std(s) / tau.
        """
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
        0 where the scores have no contrast.
        """
        if not 0 < share < 1:
            raise ValueError(
                f"a share of the patches lies above 0 and below 1, not at {share}; "
                "sharpness=[0.1] asks for a tenth"
            )
        scores = self.scores.double()
        spread = float(scores.amax() - scores.amin())
        # what rounding alone can give is no contrast
        if spread <= float(scalings.rounding_noise(self.scores.view(1, 1, -1))):
            return 0.0
        logits = scalings.perplexity(
            Scores(torch.ones(1, 1, 1, dtype=torch.float64), scores.view(1, -1, 1)), share
        )
        return spread / float(logits.amax() - logits.amin())

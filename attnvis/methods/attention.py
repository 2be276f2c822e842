"""Attention as a saliency method: a batch of photos in, one answer per layer and query out."""

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import groupby

import torch
from torch import Tensor

from attnvis.attention import normalise as normalisers
from attnvis.attention import scaling as scalings
from attnvis.attention.dot_product import Normalise, Scaling, at_least_float32, weigh
from attnvis.attention.null import chances, mixtures
from attnvis.attention.query import kinds
from attnvis.attention.query.kinds import QueryFunction
from attnvis.attention.query.language import build_queries
from attnvis.attention.sensitivity import sensitivity
from attnvis.methods.answer import Answer, predictions, require_finite, require_finite_classes
from attnvis.methods.attended import Classifier, attended_by
from attnvis.metrics.diagnostics import diagnose
from attnvis.types import Attention, Batch, Features, Query, Scores

__all__ = ["AttentionMethod", "Encoder", "Steady", "steady"]

Encoder = Callable[[Batch], tuple[Features, ...]]  # a backbone, or whatever gives the features of its layers


@dataclass(frozen=True)
class AttentionMethod:
    """A backbone's features as keys and values, asked by a query, scaled and normalised:
    Batch -> for each photo its answers.

    `answer` does the same from features: encode photos once, then ask many methods.
    """

    backbone: Encoder
    query: QueryFunction = kinds.mean
    scaling: Scaling = scalings.inv_sqrt_d
    normalise: Normalise = normalisers.softmax
    random_classes: int = 0  # random classes that the map of a class is compared with; 0: it is not
    attended: bool = False  # whether the classifier is asked about the context and its complement

    def __call__(self, batch: Batch) -> list[list[Answer]]:
        return self.answer(self.backbone(batch))

    def answer(self, layers: Sequence[Features]) -> list[list[Answer]]:
        """For each photo one Answer per layer and query; where there are several layers, labels name them.

        Raises PhotoError for features and scores that are not finite, with the layer's name.
        """
        predicted = predictions(layers)
        answers: list[list[Answer]] = [[] for _ in predicted]
        for layer in layers:
            require_finite(layer.tokens, layer, "features")
            require_finite_classes(layer)
            ending = f", {layer.layer}" if len(layers) > 1 else ""
            for queries in runs_of_same_keys(build_queries(self.query, layer), layer):
                of_photos = self.answers(layer, queries, predicted=predicted, ending=ending)
                for photo_answers, more in zip(answers, of_photos, strict=True):
                    photo_answers += more
        return answers

    def answers(
        self,
        features: Features,
        queries: Sequence[Query],
        predicted: Sequence[tuple[tuple[str, float], ...]],
        ending: str = "",
    ) -> Iterator[list[Answer]]:
        """Photo by photo, one layer's answers to queries of the same keys: they share all but the product.

        predicted: of each photo, for its answers; ending: of their labels.
        """
        scores = joined_scores(queries, features)
        attention, numbers = self.attend(scores, features)
        asked = [(query, column) for query in queries for column in range(query.vectors.shape[1])]
        attentions, query_vectors = alone(attention), scores.query.cpu()
        null = self.chances(queries, features)
        for photo, placement in enumerate(features.placements):
            answers = []
            classifier = Classifier.of(features, photo) if self.attended else None
            weights, vectors = attention.weights[photo].unbind(), query_vectors[photo].unbind()
            for number, (query, column) in enumerate(asked):
                margin = None if query.sign_margin is None else float(query.sign_margin[photo, column])
                class_score = query.classes[photo][column] if query.classes else None
                of_photo = attentions[photo][number]
                pooled = None
                if self.attended:
                    watched = None if class_score is None else class_score.index
                    pooled = attended_by(classifier, of_photo, watched)
                answer = Answer(
                    query=query.text,
                    label=query.labels[photo][column] + ending,
                    weights=weights[number],
                    placement=placement,
                    diagnostics=numbers[photo][number],
                    attention=of_photo,
                    vector=vectors[number],
                    mark=query.marks[column] if query.marks else None,
                    layer=features.layer,
                    class_score=class_score,
                    sign_margin=margin,
                    p_value=null[photo][number][0] if null else None,
                    critical=null[photo][number][1] if null else None,
                    predicted=predicted[photo],
                    attended=pooled,
                )
                answers.append(answer)
            yield answers

    def chances(
        self, queries: Sequence[Query], features: Features
    ) -> list[list[tuple[float | None, float | None]]]:
        """For each photo and query its p value and critical score, None where there is none; [] where nobody
        asks.
        """
        if not self.random_classes or not any(map(mixtures, queries)):
            return []
        found = [chances(query, features, draws=self.random_classes) for query in queries]
        rows = torch.stack(
            [torch.cat([each.p for each in found], 1), torch.cat([each.critical for each in found], 1)], -1
        )
        return [
            [(None, None) if math.isnan(p) else (p, critical) for p, critical in of_photo]
            for of_photo in rows.tolist()
        ]

    def attend(self, scores: Scores, features: Features) -> tuple[Attention, list[list[dict[str, float]]]]:
        """The attention, and for each photo and query its diagnostics."""
        require_finite(scores.products, features, "scores")
        attention = weigh(scores, features.tokens, scaling=self.scaling, normalise=self.normalise)
        require_finite(attention.weights, features, "weights after scaling")
        require_finite(attention.logits.amax(-1), features, "largest logits")
        with torch.inference_mode():
            gradient = sensitivity(
                scores, attention.logits, attention.weights, scaling=self.scaling, normalise=self.normalise
            )
            diagnostics = diagnose(
                attention.weights, attention.logits, attention.scores, dim=attention.dim, gradient=gradient
            )
            rows = torch.stack(list(diagnostics.values()), -1).tolist()  # [B][Q][diagnostics]
        numbers = [[dict(zip(diagnostics, row, strict=True)) for row in photo] for photo in rows]
        return on_cpu(attention), numbers


SCORES = 2**18  # at once: more gain nothing by sharing operations, and take memory


def runs_of_same_keys(queries: Sequence[Query], features: Features) -> Iterator[list[Query]]:
    """Queries in their order, those of the same keys together as far as SCORES allow."""
    photos, patches, _ = features.tokens.shape
    most = max(1, SCORES // (photos * patches))
    for _, run in groupby(queries, key=lambda query: id(query.keys)):
        alike = list(run)
        for first in range(0, len(alike), most):
            yield alike[first : first + most]


def joined_scores(queries: Sequence[Query], features: Features) -> Scores:
    """Of all vectors of queries of the same keys.  Each query's own product: among others it is rounded as
    it is alone.
    """
    keys = at_least_float32(features.tokens if queries[0].keys is None else queries[0].keys)
    scores = [Scores(at_least_float32(query.vectors), keys) for query in queries]
    if len(scores) == 1:
        return scores[0]
    vectors = torch.cat([of_query.query for of_query in scores], 1)
    products = torch.cat([of_query.products for of_query in scores], 1)
    return scalings.with_products(Scores(vectors, keys), products)


def on_cpu(attention: Attention) -> Attention:
    """Its stages, of all photos at once: one by one each would wait for a GPU.  The values stay there."""
    return replace(
        attention,
        scores=attention.scores.cpu(),
        logits=attention.logits.cpu(),
        weights=attention.weights.cpu(),
    )


def alone(attention: Attention) -> list[list[Attention]]:
    """Of each photo and query: B = Q = 1, the same storage."""
    stages = (attention.scores, attention.logits, attention.weights)
    photos = zip(*(stage.split(1) for stage in stages), attention.known_values.split(1), strict=True)
    return [
        [
            Attention(scores, logits, weights=weights, values=values, dim=attention.dim)
            for scores, logits, weights in zip(*(stage.split(1, 1) for stage in of_photo), strict=True)
        ]
        for *of_photo, values in photos
    ]


SAME = 0.5  # cosine; two principal directions less alike than this are not one that moved: the scene was cut


class Steady:
    """A query with a free sign, such as pca: each frame's vector gets the sign that makes it more like the
    frame before's.

    The first frame keeps its own sign, and so does one whose vector is unlike the last one (|cosine| < SAME):
    there the scene was cut.
    """

    def __init__(self, query: QueryFunction) -> None:
        self.query = query
        self.last: dict[str, Tensor] = {}  # layer -> vector

    def __call__(self, features: Features) -> Query:
        (query,) = build_queries(self.query, features)
        vectors = query.vectors.clone()
        for vector in vectors[:, 0]:
            before = self.last.get(features.layer)
            if before is not None and torch.cosine_similarity(vector, before, dim=0) < -SAME:
                vector.neg_()
            self.last[features.layer] = vector
        return replace(query, vectors=vectors)


def steady(method: AttentionMethod) -> AttentionMethod:
    """The method, a pca query of it with a steady sign."""
    inner = method.query.func if isinstance(method.query, partial) else method.query
    return replace(method, query=Steady(method.query)) if inner is kinds.pca else method

"""Attention as a saliency method: a batch of photos in, one answer per layer and query out."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import product

import torch
from torch import Tensor

from attnvis.attention import normalise as normalisers
from attnvis.attention import scaling as scalings
from attnvis.attention.dot_product import Normalise, Scaling, at_least_float32, weigh
from attnvis.attention.query import kinds
from attnvis.attention.query.kinds import QueryFunction
from attnvis.attention.query.language import build_queries
from attnvis.attention.sensitivity import sensitivity
from attnvis.methods.answer import Answer, predictions, require_finite, require_finite_classes
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

    def __call__(self, batch: Batch) -> list[list[Answer]]:
        return self.answer(self.backbone(batch))

    def answer(self, layers: Sequence[Features]) -> list[list[Answer]]:
        """For each photo one Answer per layer and query; where there are several layers, labels name them.

        Raises PhotoError for features and scores that are not finite, with the layer's name.
        """
        named = len(layers) > 1
        photos = range(len(layers[0].tokens))
        predicted = [predictions(layers, photo) for photo in photos]
        answers: list[list[Answer]] = [[] for _ in photos]
        for layer in layers:
            require_finite(layer.tokens, layer, "features")
            require_finite_classes(layer)
            for query in build_queries(self.query, layer):
                for photo, answer in self.answers(layer, query):
                    label = f"{answer.label}, {layer.layer}" if named else answer.label
                    answers[photo].append(replace(answer, label=label, predicted=predicted[photo]))
        return answers

    def answers(self, features: Features, query: Query) -> Iterator[tuple[int, Answer]]:
        """Of one layer, query and batch: (photo, answer), photo by photo and vector by vector."""
        keys = features.tokens if query.keys is None else query.keys
        scores = Scores(at_least_float32(query.vectors), at_least_float32(keys))
        require_finite(scores.products, features, "scores")
        attention = weigh(scores, features.tokens, scaling=self.scaling, normalise=self.normalise)
        require_finite(attention.weights, features, "weights after scaling")
        require_finite(attention.logits.amax(-1), features, "largest logits")
        gradient = sensitivity(
            scores, attention.logits, attention.weights, scaling=self.scaling, normalise=self.normalise
        )
        diagnostics = diagnose(
            attention.weights, attention.logits, attention.scores, dim=attention.dim, gradient=gradient
        )
        numbers = {name: values.tolist() for name, values in diagnostics.items()}
        photos, queries = query.vectors.shape[:2]
        for photo, column in product(range(photos), range(queries)):
            yield (
                photo,
                Answer(
                    query=query.text,
                    label=query.labels[photo][column],
                    weights=attention.weights[photo, column],
                    placement=features.placements[photo],
                    diagnostics={name: values[photo][column] for name, values in numbers.items()},
                    attention=one_attention(attention, photo, column),
                    vector=query.vectors[photo, column],
                    mark=query.marks[column] if query.marks else None,
                    layer=features.layer,
                    class_score=query.classes[photo][column] if query.classes else None,
                    sign_margin=None
                    if query.sign_margin is None
                    else float(query.sign_margin[photo, column]),
                ),
            )


def one_attention(attention: Attention, photo: int, column: int) -> Attention:
    """Of one photo and query: B = Q = 1, the same storage."""
    photos, columns = slice(photo, photo + 1), slice(column, column + 1)
    return Attention(
        scores=attention.scores[photos, columns],
        logits=attention.logits[photos, columns],
        weights=attention.weights[photos, columns],
        values=attention.known_values[photos],
        dim=attention.dim,
    )


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

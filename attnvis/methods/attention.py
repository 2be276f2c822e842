"""A query, a scaling and a normaliser composed: features in, one attention per layer and query out."""

from dataclasses import dataclass, replace
from functools import partial

import torch
from torch import Tensor

from attnvis.attention import normalise as normalisers
from attnvis.attention import scaling as scalings
from attnvis.attention.dot_product import Normalise, Scaling, attend
from attnvis.attention.query import kinds
from attnvis.attention.query.kinds import QueryFunction
from attnvis.attention.query.language import build_queries
from attnvis.methods.answer import Answer
from attnvis.metrics.diagnostics import diagnose
from attnvis.types import Attention, Features, Query

__all__ = ["AttentionMethod", "Steady", "steady"]


@dataclass(frozen=True)
class AttentionMethod:
    """A query, a scaling and a normaliser.  Call it with Features: for each photo, one Answer per layer and query."""

    query: QueryFunction = kinds.mean
    scaling: Scaling = scalings.inv_sqrt_d
    normalise: Normalise = normalisers.softmax

    def __call__(self, features: Features) -> list[list[Answer]]:
        layers = (features, *features.also)
        found = [self.answers(layer, named=len(layers) > 1) for layer in layers]
        return [[answer for answers in photo for answer in answers] for photo in zip(*found, strict=True)]

    def answers(self, features: Features, named: bool) -> list[list[Answer]]:
        """Of one layer; `named`: the labels say which, because there are others."""
        answers: list[list[Answer]] = [[] for _ in features.tokens]
        for query in build_queries(self.query, features):
            keys = features.tokens if query.keys is None else query.keys
            attention = attend(query.vectors, keys, features.tokens, self.scaling, self.normalise)
            numbers = {name: values.tolist() for name, values in diagnose(attention).items()}
            for photo, column in ((p, q) for p in range(len(answers)) for q in range(query.vectors.shape[1])):
                one = (slice(photo, photo + 1), slice(column, column + 1))
                label = query.labels[photo][column]
                answers[photo].append(
                    Answer(
                        query=query.text,
                        label=f"{label}, {features.layer}" if named else label,
                        attention=Attention(
                            attention.scores[one],
                            attention.logits[one],
                            attention.weights[one],
                            attention.values[one[0]],
                            attention.dim,
                        ),
                        placement=features.placements[photo],
                        diagnostics={name: values[photo][column] for name, values in numbers.items()},
                        vector=query.vectors[photo, column],
                        mark=query.marks[column] if query.marks else None,
                        layer=features.layer,
                        class_score=query.classes[photo][column] if query.classes else None,
                        sign_margin=None
                        if query.sign_margin is None
                        else float(query.sign_margin[photo, column]),
                    )
                )
        return answers


SAME = 0.5  # cosine; two principal directions that are less alike than this are not one that moved: the scene was cut


class Steady:
    """A query with a free sign, such as pca: each frame's vector gets the sign that makes it more like the frame before's.

    The first frame keeps its own sign, and so does one whose vector is unlike the last one (|cosine| < SAME): there the scene was cut.
    """

    def __init__(self, query: QueryFunction) -> None:
        self.query = query
        self.last: dict[str, Tensor] = {}  # layer -> vector

    def __call__(self, features: Features) -> Query:
        (asked,) = build_queries(self.query, features)
        vectors = asked.vectors.clone()
        for vector in vectors[:, 0]:
            if (
                features.layer in self.last
                and torch.cosine_similarity(vector, self.last[features.layer], dim=0) < -SAME
            ):
                vector.neg_()
            self.last[features.layer] = vector
        return replace(asked, vectors=vectors)


def steady(method: AttentionMethod) -> AttentionMethod:
    """The method, a pca query of it with a steady sign."""
    inner = method.query.func if isinstance(method.query, partial) else method.query
    return replace(method, query=Steady(method.query)) if inner is kinds.pca else method

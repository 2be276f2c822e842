"""Attention as a saliency method: a batch of photos in, one answer per layer and query out."""

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import groupby
from numbers import Integral
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from attnvis.attention import heads as head_functions
from attnvis.attention import keys as key_functions
from attnvis.attention import normalise as normalisers
from attnvis.attention import scaling as scalings
from attnvis.attention.dot_product import Normalise, Scaling, at_least_float32, weigh
from attnvis.attention.heads import HeadFunction
from attnvis.attention.key_space import AskedLayer, asked_layers, is_same, unwrapped
from attnvis.attention.keys import KeyFunction
from attnvis.attention.null import chances, has_null
from attnvis.attention.query import kinds
from attnvis.attention.query.kinds import QueryFunction
from attnvis.attention.query.language import build_queries
from attnvis.attention.sensitivity import sensitivity
from attnvis.attention.spec import format_function
from attnvis.methods.answer import Answer, predictions, require_finite, require_finite_classes
from attnvis.methods.attended import Classifier, attended_by
from attnvis.methods.fusing import fused, require_fusion
from attnvis.metrics.diagnostics import diagnose
from attnvis.types import Attention, Batch, Features, Query, Scores

__all__ = [
    "AttentionMethod",
    "Encoder",
    "Steady",
    "checked_count",
    "require_comparable",
    "require_null",
    "steady",
]

FEWEST = 19  # random classes: of fewer no p value, the least of which is 1 / (count + 1), can be .05

Encoder = Callable[[Batch], tuple[Features, ...]]  # a backbone, or whatever gives the features of its layers


def checked_count(random_classes: Any) -> int:
    """How many random classes.  Raises ValueError for what is no number, and for too few to say anything."""
    is_count = isinstance(random_classes, Integral) and not isinstance(random_classes, bool)
    if not is_count or random_classes < 0:
        raise ValueError(f"random_classes={random_classes}: give 0 for no p value, or 1000 for one")
    if 0 < random_classes < FEWEST:
        raise ValueError(
            f"random_classes={random_classes}: the smallest p value of so few is "
            f"{1 / (random_classes + 1):.2g}, and never .05; give {FEWEST} or more, as 1000, or 0 for none"
        )
    return int(random_classes)


def require_comparable(random_classes: int, keys: KeyFunction, heads: HeadFunction, fuse: str = "") -> None:
    """Raises ValueError for p values of other keys than the patches, of several heads, of layers joined."""
    require_null(
        random_classes, own_keys=is_same(keys), one_head=unwrapped(heads) is head_functions.one, fuse=fuse
    )


def require_null(random_classes: int, *, own_keys: bool, one_head: bool, fuse: str) -> None:
    """`require_comparable` of what is known of the functions; own_keys: they are the patches themselves."""
    if random_classes and not own_keys:
        raise ValueError(
            "random_classes compares maps whose keys are the patches themselves; "
            "leave it out, or take keys=same"
        )
    if random_classes and not one_head:
        raise ValueError("random_classes compares maps of one head; leave it out, or take heads=1")
    if random_classes and fuse:
        raise ValueError("random_classes compares maps of one layer; leave it out, or take no fuse")


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
    keys: KeyFunction = key_functions.same
    attended: bool = False  # whether the classifier is asked about the context and its complement
    heads: HeadFunction = head_functions.one
    fuse: str = ""  # mixture, product or max of several layers' maps, behind these; "": none

    def __post_init__(self) -> None:
        """Raises ValueError for a fusion that is none, and as `require_comparable` does."""
        if self.fuse:
            require_fusion(self.fuse)
        require_comparable(self.random_classes, self.keys, heads=self.heads)

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
        all_asked = list(asked_layers(self.keys, layers))
        for asked in all_asked:
            ending = f", {asked.values.layer}" if len(all_asked) > 1 else ""
            queries = asked.meet(build_queries(self.query, asked.features))
            for run in runs_of_same_keys(queries, asked.values):
                of_photos = self.answers(asked, run, predicted=predicted, ending=ending)
                for photo_answers, more in zip(answers, of_photos, strict=True):
                    photo_answers += more
        if self.fuse:
            names = [asked.values.layer for asked in all_asked]
            for photo_answers in answers:
                photo_answers += self.fused(photo_answers, layers=names)
        return answers

    def fused(self, answers: Sequence[Answer], layers: Sequence[str]) -> list[Answer]:
        """Of each question the layers' answers as one.  Raises ValueError for a single layer's."""
        if len(layers) < 2:
            if unwrapped(self.keys) is key_functions.layer:
                raise ValueError(
                    f"fuse={self.fuse} joins several layers' maps, and keys={format_function(self.keys)} "
                    f"leaves one, {layers[0]}: the keys' layer has no map of its own; "
                    "give a third layer, or leave fuse or keys out"
                )
            raise ValueError(
                f"fuse={self.fuse} joins several layers of one pass, and {layers[0]} is one; "
                "give two layers or more, as in backbone.layer=[stage3,last]"
            )
        count = len(answers) // len(layers)
        questions = [answers[number::count] for number in range(count)]
        return [
            fused(question, self.fuse, base=question[0].label.removesuffix(f", {layers[0]}"))
            for question in questions
        ]

    def answers(
        self,
        layer: AskedLayer,
        queries: Sequence[Query],
        predicted: Sequence[tuple[tuple[str, float], ...]],
        ending: str = "",
    ) -> Iterator[list[Answer]]:
        """Photo by photo, one layer's answers to queries of the same keys: they share all but the product.

        predicted: of each photo, for its answers; ending: of their labels.
        """
        features = layer.values
        scores = joined_scores(queries, features)
        attention, numbers, head_weights = self.attend(scores, features)
        asked = [(query, column) for query in queries for column in range(query.vectors.shape[1])]
        attentions, query_vectors = alone(attention), scores.query.cpu()
        null = self.chances(queries, features)
        remarks = self.remarks(layer, scores)
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
                    remarks=remarks[photo][number],
                    heads=None if head_weights is None else head_weights[photo, number],
                    predicted=predicted[photo],
                    attended=pooled,
                )
                answers.append(answer)
            yield answers

    def remarks(self, layer: AskedLayer, scores: Scores) -> list[list[tuple[str, ...]]]:
        """For each photo and query what is to be known of the vector and its keys."""
        is_zero = (scores.query == 0).all(-1).tolist()
        by_angle = unwrapped(self.scaling) is scalings.cosine and scores.dim == 1
        notes = layer.space.notes if layer.space is not None else ()
        return [
            [
                (
                    *(notes[photo] if notes else ()),
                    *([NO_QUESTION] if zero else []),
                    *([NO_ANGLE] if by_angle and not zero else []),
                )
                for zero in of_photo
            ]
            for photo, of_photo in enumerate(is_zero)
        ]

    def chances(
        self, queries: Sequence[Query], features: Features
    ) -> list[list[tuple[float | None, float | None]]]:
        """For each photo and query its p value and critical score, None where there is none; [] where nobody
        asks.
        """
        if not self.random_classes or not any(map(has_null, queries)):
            return []
        of_queries = [chances(query, features, draws=self.random_classes) for query in queries]
        p_values = torch.cat([each.p for each in of_queries], 1)
        critical_scores = torch.cat([each.critical for each in of_queries], 1)
        rows = torch.stack([p_values, critical_scores], -1)  # [B, Q, 2]
        return [
            [(None, None) if math.isnan(p) else (p, critical) for p, critical in of_photo]
            for of_photo in rows.tolist()
        ]

    def attend(
        self, scores: Scores, features: Features
    ) -> tuple[Attention, list[list[dict[str, float]]], Float[Tensor, "B Q H N"] | None]:
        """The attention, for each photo and query its diagnostics, and where there are several heads the
        weights of each.

        Of several heads the weights and the logits are the means; no derivative of theirs is known.
        """
        require_finite(scores.products, features, "scores")
        parts = [
            weigh(part, features.tokens, scaling=self.scaling, normalise=self.normalise)
            for part in head_functions.split(self.heads, scores, features)
        ]
        attention, head_weights = parts[0], None
        if len(parts) > 1:
            head_weights = torch.stack([part.weights for part in parts], 2)
            attention = Attention(
                scores=scores.products,
                logits=torch.stack([part.logits for part in parts]).mean(0),
                weights=head_weights.mean(2),
                values=parts[0].values,
                dim=scores.dim,
            )
        require_finite(attention.weights, features, "weights after scaling")
        require_finite(attention.logits.amax(-1), features, "largest logits")
        with torch.inference_mode():
            if head_weights is None:
                gradient = sensitivity(
                    scores,
                    attention.logits,
                    attention.weights,
                    scaling=self.scaling,
                    normalise=self.normalise,
                )
            else:
                unknown = torch.full(attention.weights.shape[:2], torch.nan, dtype=torch.float64)
                gradient = dict.fromkeys(GRADIENT, unknown.to(attention.weights.device))
            diagnostics = diagnose(
                attention.weights, attention.logits, attention.scores, dim=attention.dim, gradient=gradient
            )
            rows = torch.stack(list(diagnostics.values()), -1).tolist()  # [B][Q][diagnostics]
        numbers = [[dict(zip(diagnostics, row, strict=True)) for row in photo] for photo in rows]
        return on_cpu(attention), numbers, None if head_weights is None else head_weights.cpu()


NO_QUESTION = "no question: the query is 0 in every channel, and so are all scores"
NO_ANGLE = (
    "no angle: these keys are one number a patch, whose cosine is 1 or -1 however large it is; "
    "another scaling shows them"
)
GRADIENT = ("jacobian_norm", "jacobian_spectral", "gradient_norm")  # of several heads not known
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

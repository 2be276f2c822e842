"""A formula's tree and some features in, its queries out: vectors added up, averaged, made orthogonal."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from attnvis.attention.dot_product import at_least_float32
from attnvis.attention.query.tree import Node, Sum, Term, join, write
from attnvis.types import Query, Scores

__all__ = ["combine"]

ROUNDING = 1e-5  # of a vector's length, in float32

Answer = Callable[[str], list[Query]]  # a term -> its queries on some photos


def combine(node: Node, answer: Answer, tokens: Float[Tensor, "B N D"]) -> list[Query]:
    """The queries of a tree, one vector each.

    A term of several queries, such as class:predicted:3, makes as many; mean(...) makes one of all.  Terms
    whose keys differ (rarity has its own) are added as scores, which is the same.  Raises ValueError for
    terms of different numbers, and for a length or a direction of what is no vector of features.
    """
    if isinstance(node, Term):
        return [column for query in answer(node.text) for column in columns(query)]
    if isinstance(node, Sum):
        operands = [combine(part, answer, tokens) for _, part in node.parts]
        factors = [factor for factor, _ in node.parts]
        sums = [isinstance(part, Sum) for _, part in node.parts]

        def label(texts: list[str]) -> str:
            return join(list(zip(factors, texts, sums, strict=True)))

        return [added(factors, row, label, tokens) for row in abreast(operands, node)]
    operands = [combine(argument, answer, tokens) for argument in node.arguments]
    if node.name == "mean":
        flat = [query for operand in operands for query in operand]
        return [added([1 / len(flat)] * len(flat), flat, lambda texts: f"mean({', '.join(texts)})", tokens)]
    for argument, queries in zip(node.arguments, operands, strict=True):
        if any(query.keys is not None for query in queries):
            raise ValueError(
                f"query {write(node)!r}: {write(argument)} has keys of its own and is no vector of features: "
                f"it can be added and scaled, and {node.name} of it means nothing"
            )
    rows = abreast(operands, node)
    if node.name == "context":
        return [changed(row, attended(row[0].vectors, tokens), node.name) for row in rows]
    function: Callable[..., Tensor] = unit if node.name == "normalise" else rejected
    return [changed(row, function(*(query.vectors for query in row)), node.name) for row in rows]


def columns(query: Query) -> list[Query]:
    """A query of Q vectors as Q of one."""
    count = query.vectors.shape[1]
    if count == 1:
        return [query]
    return [
        replace(
            query,
            vectors=query.vectors[:, [number]],
            labels=tuple((of_photo[number],) for of_photo in query.labels),
            marks=query.marks[number : number + 1],
            classes=tuple((of_photo[number],) for of_photo in query.classes),
            ranks=query.ranks[number : number + 1],
            mixtures=query.mixtures[number : number + 1],
            sign_margin=None if query.sign_margin is None else query.sign_margin[:, [number]],
        )
        for number in range(count)
    ]


def abreast(operands: list[list[Query]], node: Node) -> list[list[Query]]:
    """Operands side by side; one query goes with each of several.  Raises ValueError for 2 beside 3."""
    counts = {len(operand) for operand in operands} - {1}
    if len(counts) > 1:
        numbers = " and ".join(map(str, sorted(counts)))
        raise ValueError(
            f"query {write(node)!r}: {numbers} queries do not go together; mean(...) makes one of several"
        )
    count = max(counts, default=1)
    return [[operand[number % len(operand)] for operand in operands] for number in range(count)]


def added(
    factors: Sequence[float],
    queries: Sequence[Query],
    label: Callable[[list[str]], str],
    tokens: Float[Tensor, "B N D"],
) -> Query:
    """factor * query, added up: vectors where the keys are the same, else scores."""
    keys = queries[0].keys
    if all(query.keys is keys for query in queries):
        vectors = total_of(factors, [query.vectors for query in queries])
    else:
        scores = total_of(factors, [scores_of(query, tokens) for query in queries])
        keys = scores.mT  # [B, N, 1]: d_k = 1, as of distance
        vectors = torch.ones_like(keys[:, :1])
    return Query(
        vectors,
        labels=labelled(queries, label),
        keys=keys,
        marks=(only_mark(queries),),
        sign_margin=smallest_margin(queries),
        mixtures=mixed(factors, queries),
    )


def mixed(factors: Sequence[float], queries: Sequence[Query]) -> tuple[tuple[tuple[float, int], ...], ...]:
    """The classes of a sum with their factors; () where something else is added."""
    if not all(query.mixtures for query in queries):
        return ()
    total: dict[int, float] = {}
    for factor, query in zip(factors, queries, strict=True):
        for share, index in query.mixtures[0]:
            total[index] = total.get(index, 0.0) + factor * share
    mixture = tuple((share, index) for index, share in total.items() if share)
    return (mixture,) if mixture else ()


def only_mark(queries: Sequence[Query]) -> Any:
    """The mark of the one query that has one: a cross at one of two points would mislead."""
    marks = list(dict.fromkeys(mark for query in queries for mark in query.marks if mark is not None))
    return marks[0] if len(marks) == 1 else None


def scores_of(query: Query, tokens: Float[Tensor, "B N D"]) -> Float[Tensor, "B 1 N"]:
    """q . k of one query with its own keys, else with the tokens."""
    keys = tokens if query.keys is None else query.keys
    return Scores(at_least_float32(query.vectors), at_least_float32(keys)).products


def total_of(factors: Sequence[float], tensors: Sequence[Tensor]) -> Tensor:
    """factor * tensor, added up from the first to the last."""
    result = factors[0] * tensors[0]
    for factor, tensor in zip(factors[1:], tensors[1:], strict=True):
        result = result + factor * tensor
    return result


def changed(queries: Sequence[Query], vectors: Tensor, name: str) -> Query:
    """What a function of that name makes of queries: its vectors [B, 1, D], and no class any more."""
    return replace(
        queries[0],
        vectors=vectors,
        marks=(only_mark(queries),),
        labels=labelled(queries, lambda texts: f"{name}({', '.join(texts)})"),
        classes=(),
        ranks=(),
        mixtures=(),
        rivals=None,
        sign_margin=smallest_margin(queries),
        text="",
    )


def labelled(queries: Sequence[Query], label: Callable[[list[str]], str]) -> tuple[tuple[str, ...], ...]:
    """For each photo one label, made of those of the queries."""
    photos = range(len(queries[0].labels))
    return tuple((label([query.labels[photo][0] for query in queries]),) for photo in photos)


def smallest_margin(queries: Sequence[Query]) -> Tensor | None:
    """Of the queries whose sign is free; None where none is."""
    margins = [query.sign_margin for query in queries if query.sign_margin is not None]
    return torch.stack(margins).amin(0) if margins else None


def unit(vectors: Tensor) -> Tensor:
    """Of length 1; a vector of 0 stays."""
    return torch.nn.functional.normalize(vectors, dim=-1)


def attended(vectors: Float[Tensor, "B 1 D"], tokens: Float[Tensor, "B N D"]) -> Float[Tensor, "B 1 D"]:
    """The context of their attention under 1/sqrt(d): one step of `iterated`."""
    scores = scores_of(Query(vectors, ()), tokens)
    return (scores * tokens.shape[-1] ** -0.5).softmax(-1).to(tokens) @ tokens


def rejected(vectors: Tensor, against: Tensor) -> Tensor:
    """q - (q.u) u, u the direction of `against`; nothing is taken away where that is 0.

    What is left of a q along `against` is rounding: it is 0.
    """
    direction = unit(against)
    rest = vectors - (vectors * direction).sum(-1, keepdim=True) * direction
    is_rounding = rest.norm(dim=-1, keepdim=True) <= ROUNDING * vectors.norm(dim=-1, keepdim=True)
    return rest.masked_fill(is_rounding, 0.0)

"""A question as text or as a function in, queries of features out: `class:tabby`, `point:120,80`, or several at once."""

from collections.abc import Callable, Sequence
from dataclasses import replace

from torch import Tensor

from attnvis.attention.query import kinds
from attnvis.attention.query.kinds import QueryFunction
from attnvis.attention.spec import UnknownName, parse_function, spell
from attnvis.types import Features, Query

__all__ = ["as_query", "build_queries", "parse", "several"]


def several(features: Features, of: Sequence[str | QueryFunction]) -> list[Query]:
    """Many queries over one pass of the network: `of` lists texts such as mean, class:tabby, point:120,80 - or query functions."""
    of = [of] if isinstance(of, str) else of
    if not of:
        raise ValueError(
            'query several needs a list, for example query.of=[mean,"class:tabby","point:120,80"]'
        )
    return [
        query
        for entry in of
        for query in build_queries(parse(entry) if isinstance(entry, str) else entry, features)
    ]


def build_queries(function: QueryFunction, features: Features) -> list[Query]:
    """Call a query function and give what it returns the full form: users may return the bare vectors."""
    answer, text = function(features), spell(function)
    if isinstance(answer, Tensor):
        photos, _, channels = features.tokens.shape
        if answer.ndim != 3 or (len(answer), answer.shape[2]) != (photos, channels):
            raise ValueError(
                f"query {text} gave vectors {list(answer.shape)}; give [B, Q, D], here [{photos}, Q, {channels}]"
            )
        count = answer.shape[1]
        said = tuple(text + (f" #{number + 1}" if count > 1 else "") for number in range(count))
        answer = Query(answer, (said,) * len(answer))
    return [
        replace(query, text=query.text or text)
        for query in ([answer] if isinstance(answer, Query) else answer)
    ]


def parse(text: str) -> QueryFunction:
    """A function's name, then its settings in order: mean, class:tabby, point:120,80, box:10,20,100,50, pca:2."""
    return parse_function(text, {name.rstrip("_"): getattr(kinds, name) for name in kinds.__all__}, "query")


def as_query(text: str | Callable) -> Callable:
    if callable(text):
        return text
    try:
        return parse(text)
    except UnknownName:
        return parse(f"class:{text}")

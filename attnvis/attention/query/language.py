"""A question as text or as a function in, queries of features out.

Texts are `class:tabby`, `point:120,80` and the like; `several` asks many at once.
"""

from collections.abc import Callable, Sequence
from dataclasses import replace

from torch import Tensor

from attnvis.attention.query.kinds import KINDS, QueryFunction, numbered
from attnvis.attention.spec import UnknownName, format_function, parse_function
from attnvis.types import Features, Query

__all__ = ["as_query", "build_queries", "parse", "several"]


def several(features: Features, of: Sequence[str | QueryFunction]) -> list[Query]:
    """Many queries over one pass of the network, in the order of `of`.

    `of` lists texts such as mean, class:tabby, point:120,80 - or query functions.  Raises ValueError where it
    is empty, and what `parse` and `build_queries` raise for its entries.
    """
    entries = [of] if isinstance(of, str) else of
    if not entries:
        raise ValueError(
            'query several needs a list, for example query.of=[mean,"class:tabby","point:120,80"]'
        )
    queries: list[Query] = []
    for entry in entries:
        function = parse(entry) if isinstance(entry, str) else entry
        queries += build_queries(function, features)
    return queries


def build_queries(function: QueryFunction, features: Features) -> list[Query]:
    """Call a query function and give what it returns the full form.

    Users may return a Query, a list of them, or the bare vectors [B, Q, D].  Raises ValueError where bare
    vectors have another shape, and what the function raises: PhotoError where one photo cannot be asked, any
    other ValueError where the settings fit no photo.
    """
    answer = function(features)
    text = format_function(function)
    if isinstance(answer, Query):
        answer = [answer]
    elif isinstance(answer, Tensor):
        photos, _, channels = features.tokens.shape
        if answer.ndim != 3 or (len(answer), answer.shape[2]) != (photos, channels):
            raise ValueError(
                f"query {text} gave vectors {list(answer.shape)}; "
                f"give [B, Q, D], here [{photos}, Q, {channels}]"
            )
        labels = numbered(text, count=answer.shape[1])
        answer = [Query(answer, (labels,) * photos)]
    return [replace(query, text=query.text or text) for query in answer]


def parse(text: str) -> QueryFunction:
    """A query's kind, then its settings in order: mean, class:tabby, point:120,80, box:10,20,100,50, pca:2.

    Raises UnknownName where the text begins with no kind, ValueError where its settings do not fit.
    """
    return parse_function(text, KINDS, group="query")


def as_query(question: str | Callable) -> Callable:
    """The query function that a text means; a text that names no kind is a class.  A function is itself.

    Raises ValueError where a kind's settings do not fit.
    """
    if callable(question):
        return question
    try:
        return parse(question)
    except UnknownName:
        return parse(f"class:{question}")

"""A choice of keys and the layers of a batch in; queries that meet these keys out.

Scores stay linear in the query: what is done to keys by a matrix is done to queries by the same matrix, and
what is only subtracted from keys is not subtracted from queries.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

from torch import Tensor

from attnvis.attention import keys as kinds
from attnvis.attention.dot_product import at_least_float32
from attnvis.attention.keys import KeyFunction, KeySpace
from attnvis.attention.spec import format_function
from attnvis.types import Features, Query

__all__ = ["AskedLayer", "asked_layers", "is_same", "unwrapped"]


@dataclass(frozen=True, eq=False)
class AskedLayer:
    """A layer whose patches are the values, and what its questions meet."""

    values: Features
    features: Features  # of which the questions are made
    space: KeySpace | None  # None: K = V
    text: str = ""  # of the keys, for messages

    def meet(self, queries: Sequence[Query]) -> list[Query]:
        """The queries with these keys.

        Raises ValueError for a query that has keys of its own, where these are not theirs in another order.
        """
        if self.space is None:
            return list(queries)
        own: dict[int, Tensor] = {}  # queries of the same keys keep the same
        return [self.met(query, self.space, own) for query in queries]

    def met(self, query: Query, space: KeySpace, own: dict[int, Tensor]) -> Query:
        if query.keys is None:
            vectors = at_least_float32(query.vectors)
            return replace(query, vectors=space.project(vectors), keys=space.keys)
        if space.order is None:
            raise ValueError(
                f"query {query.text or query.labels[0][0]} has keys of its own, and keys={self.text} would "
                "change nothing of it; leave one of the two out (keys=shuffled goes with any query)"
            )
        keys = own.setdefault(id(query.keys), query.keys[:, space.order])
        return replace(query, keys=keys)


def is_same(function: KeyFunction) -> bool:
    """Whether keys are the values themselves."""
    return unwrapped(function) is kinds.same


def unwrapped(function: Callable) -> Callable:
    """A function without the settings that are filled in."""
    return function.func if isinstance(function, partial) else function


def asked_layers(function: KeyFunction, layers: Sequence[Features]) -> Iterator[AskedLayer]:
    """Each layer that is to be answered.  With keys of another layer, the questions are made where the keys
    are; that layer is not answered itself.

    Raises ValueError for a layer that is not there, and for keys that are not one a patch.
    """
    if is_same(function):
        for features in layers:
            yield AskedLayer(features, features, None)
        return
    text = format_function(function)
    if unwrapped(function) is kinds.layer:
        name = function.keywords["name"] if isinstance(function, partial) else ""
        source = named_layer(name, layers)
        for values in layers:
            if values is not source:
                keys = KeySpace(kinds.on_grid_of(values, source))
                yield AskedLayer(values, source, keys, text)
        return
    for features in layers:
        yield AskedLayer(features, features, as_space(function(features), features, text), text)


def named_layer(name: str, layers: Sequence[Features]) -> Features:
    names = [features.layer for features in layers]
    others = [each for each in names if each != name]
    if name in names and others:
        return layers[names.index(name)]
    wanted = ",".join([name, *(others or ["last"])])
    raise ValueError(
        f"keys=layer:{name} takes the keys of one layer and the values of another, and the network is cut at "
        f"{' and '.join(names)}; give backbone.layer=[{wanted}]"
    )


def as_space(answer: Any, features: Features, text: str) -> KeySpace:
    """What a function of keys gave; of one's own it may be the keys alone, as long as the patches are.

    Raises ValueError for keys of another shape.
    """
    if isinstance(answer, KeySpace):
        return answer
    shape = list(features.tokens.shape)
    if not isinstance(answer, Tensor) or list(answer.shape) != shape:
        given = list(answer.shape) if isinstance(answer, Tensor) else answer
        raise ValueError(f"keys {text} gave {given}; give [B, N, D], here {shape}")
    return KeySpace(answer)

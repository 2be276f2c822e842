"""A question as text or as a function in, queries of features out.

Texts are `class:tabby`, `point:120,80` and the like; `several` asks many at once.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache, partial
from itertools import groupby
from numbers import Real
from typing import Any

import numpy as np
import torch
from torch import Tensor

from attnvis.attention.grammar import divide
from attnvis.attention.query import algebra, tree
from attnvis.attention.query.classes import classes_at_once
from attnvis.attention.query.given import Mask, Outside, Vectors, as_corners, look_at
from attnvis.attention.query.kinds import (
    KINDS,
    QueryFunction,
    box,
    class_,
    contrast,
    exemplar,
    finer,
    log_odds,
    mask,
    point,
    random_class,
    rest,
    vector,
)
from attnvis.attention.query.patches import numbered
from attnvis.attention.spec import NUMBERS, format_function, parse_function
from attnvis.types import Features, Query

__all__ = [
    "Question",
    "as_query",
    "asks_a_class",
    "build_queries",
    "formula",
    "is_vector",
    "leaves",
    "parse",
    "prepare",
    "several",
]

OF_CLASSES = (class_, contrast, finer, log_odds, random_class, rest)  # what they ask hangs on the certificate

# What a person may mean a query by: a text, a class's index, (x, y), (x, y, width, height), a vector
# [D] (or a list of floats) or several [Q, D], a function of Features.
Question = Any


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
    functions = [parse(entry) if isinstance(entry, str) else entry for entry in entries]
    queries: list[Query] = []
    for is_class, run in groupby(functions, key=is_class_alone):
        alike = list(run)
        if is_class:
            queries += named_classes(alike, features)
            continue
        for function in alike:
            queries += build_queries(function, features)
    return queries


def is_class_alone(function: QueryFunction) -> bool:
    return isinstance(function, partial) and function.func is class_ and function.keywords.keys() == {"name"}


def named_classes(functions: Sequence[QueryFunction], features: Features) -> list[Query]:
    """What `build_queries` gives of each of some class queries, with one reading of the network."""
    names = [function.keywords["name"] for function in functions]  # type: ignore[attr-defined]
    queries = classes_at_once(features, names)
    return [
        replace(query, text=format_function(function))
        for query, function in zip(queries, functions, strict=True)
    ]


def formula(features: Features, text: str) -> list[Query]:
    """Queries added, subtracted and scaled, as in class:tabby - 0.5*point:120,80: `algebra` has the language.

    Raises ValueError where the text means nothing, and what its terms raise.
    """
    return Formula(tree.read(text), parse_term)(features)


@dataclass(frozen=True, eq=False)
class Formula:
    """A formula's tree as a query function; `function` gives that of a term."""

    node: tree.Node
    function: Callable[[str], QueryFunction]

    def __call__(self, features: Features) -> list[Query]:
        queries = algebra.combine(
            self.node, lambda term: build_queries(self.function(term), features), tokens=features.tokens
        )
        text = tree.write(self.node)
        return [replace(query, text=text) for query in queries]


def prepare(function: QueryFunction, outside: Outside) -> QueryFunction:
    """The query, once what it sees beside the photo that is asked has been looked at: exemplars, masks and
    vectors from files, wherever they stand.

    Raises what `outside` raises, and what `parse` does.
    """
    if not isinstance(function, partial):
        return function
    settings = function.keywords
    if function.func is exemplar:
        return look_at(settings["photo"], outside)
    if function.func is mask and not as_corners(settings["shape"]):
        return Mask(settings["shape"], outside.read_mask(settings["shape"]))
    if function.func is vector:
        return Vectors(settings["file"], outside.read_vectors(settings["file"]))
    if function.func is several:
        entries = [settings["of"]] if isinstance(settings["of"], str) else settings["of"]
        functions = [parse(entry) if isinstance(entry, str) else entry for entry in entries]
        return partial(several, of=[prepare(entry, outside) for entry in functions])
    if function.func is formula:
        node = tree.read(settings["text"])
        functions_of = {term.text: prepare(parse_term(term.text), outside) for term in tree.terms(node)}
        return Formula(node, functions_of.__getitem__)
    return function


def leaves(function: QueryFunction) -> list[QueryFunction]:
    """The queries that a query is made of: those of a list, the terms of a formula; else itself.

    Raises what `parse` does.
    """
    if not isinstance(function, partial):
        return [function]
    settings = function.keywords
    if function.func is several:
        entries = [settings["of"]] if isinstance(settings["of"], str) else settings["of"]
        functions = [parse(entry) if isinstance(entry, str) else entry for entry in entries]
    elif function.func is formula:
        functions = [parse_term(term.text) for term in tree.terms(tree.read(settings["text"]))]
    else:
        return [function]
    return [leaf for inner in functions for leaf in leaves(inner)]


def build_queries(function: QueryFunction, features: Features) -> list[Query]:
    """Call a query function and give what it returns the full form.

    Users may return a Query, a list of them, or the bare vectors [B, Q, D].  Raises ValueError where bare
    vectors have another shape, and what the function raises: PhotoError where one photo cannot be asked, any
    other ValueError where the settings fit no photo.
    """
    answer = function(features)
    if isinstance(answer, Query):
        answer = [answer]
    if isinstance(answer, list) and all(query.text for query in answer):
        return answer  # of several
    text = format_function(function)
    if isinstance(answer, Tensor):
        photos, _, channels = features.tokens.shape
        if answer.ndim != 3 or (len(answer), answer.shape[2]) != (photos, channels):
            raise ValueError(
                f"query {text} gave vectors {list(answer.shape)}; "
                f"give [B, Q, D], here [{photos}, Q, {channels}]"
            )
        labels = numbered(text, count=answer.shape[1])
        answer = [Query(answer, (labels,) * photos)]
    return [replace(query, text=query.text or text) for query in answer]


@lru_cache(maxsize=1024)  # every batch of photos asks the same
def parse(text: str) -> QueryFunction:
    """A query's kind, then its settings in order: mean, class:tabby, point:120,80, box:10,20,100,50, pca:2;
    or several of them added up, class:tabby - 0.5*mean.

    A name or a number alone that is no kind is a class: tabby, 281.  Raises UnknownName where the text is
    neither, ValueError where its settings do not fit, and for a formula with its column.
    """
    return parse_formula(text) if tree.is_formula(text) else parse_term(text)


def asks_a_class(text: str) -> bool:
    """Whether a query's text asks the classifier, alone or somewhere in a formula."""
    try:
        terms = [term.text for term in tree.terms(tree.read(text))] if tree.is_formula(text) else [text]
        functions = [parse_term(term) for term in terms]
    except ValueError:  # of one's own function
        return False
    return any(isinstance(each, partial) and each.func in OF_CLASSES for each in functions)


def parse_formula(text: str) -> QueryFunction:
    """Each term as it is spelled in full: tabby - lynx is class:tabby - class:lynx."""
    terms = {}
    for term in tree.terms(tree.read(text)):
        try:
            terms[term.text] = parse_term(tree.without_quotes(term.text))
        except ValueError as error:
            raise ValueError(f"query {text!r}, column {term.column}: {error}") from None
    node = tree.renamed(tree.read(text), lambda term: format_function(terms[term]))
    if isinstance(node, tree.Term):
        return parse_term(node.text)
    return partial(formula, text=tree.write(node))


@lru_cache(maxsize=1024)
def parse_term(text: str) -> QueryFunction:
    """Raises as `parse` does."""
    text = tree.without_quotes(text)
    name, settings = divide(text)
    if name not in KINDS and settings is None and name not in ("", "several") and not NUMBERS.fullmatch(name):
        return partial(class_, name=name)
    return parse_function(text, KINDS, group="query")


def as_query(question: Question) -> QueryFunction:
    """The query function that is meant: by a text, as `parse` reads it; by a number, a class's index;
    by (x, y) a point, by (x, y, width, height) a box; by a vector [D] or several [Q, D], themselves; a
    vector may be a list of floats.

    A function is itself.  Raises ValueError for anything else, and as `parse` does.
    """
    if isinstance(question, str):
        return parse(question)
    if isinstance(question, int | np.integer) and not isinstance(question, bool):
        return partial(class_, name=int(question))
    if is_vector(question):
        return own_vectors(torch.tensor(question, dtype=torch.float64))
    if isinstance(question, Tensor | np.ndarray):
        return own_vectors(torch.as_tensor(question))
    if isinstance(question, tuple) and all(isinstance(number, Real) for number in question):
        numbers = list(map(float, question))
        if len(numbers) == 2:
            return partial(point, x=numbers[0], y=numbers[1])
        if len(numbers) == 4:
            return partial(box, x=numbers[0], y=numbers[1], width=numbers[2], height=numbers[3])
    if callable(question):
        return question
    raise ValueError(
        f"a query is a text such as class:tabby, a class's index, (x, y), (x, y, width, height), a vector, "
        f"or a function of features, not {question!r}"
    )


def is_vector(question: Question) -> bool:
    """Whether a list is a vector: numbers, not all of them whole, which may be several classes."""
    return (
        isinstance(question, list)
        and all(isinstance(number, Real) for number in question)
        and any(isinstance(number, float) for number in question)
    )


def own_vectors(given: Tensor) -> QueryFunction:
    """The query whose vectors are given, [D] or [Q, D]: the same for every photo.

    Raises ValueError for another shape; the query, for vectors that are not as long as a layer's patches.
    """
    if given.ndim not in (1, 2) or not given.numel():
        raise ValueError(f"a query's vectors are [D] or [Q, D], not {list(given.shape)}")
    rows = given.detach().reshape(-1, given.shape[-1])
    if count := int((~rows.isfinite()).sum()):
        raise ValueError(
            f"{count} of a query vector's {rows.numel()} numbers are NaN or infinite; replace them"
        )

    def vector(features: Features) -> Tensor:
        photos, _, channels = features.tokens.shape
        if rows.shape[1] != channels:
            raise ValueError(
                f"a query vector of {rows.shape[1]} numbers does not fit layer {features.layer}, "
                f"whose patches have {channels}"
            )
        return rows.to(features.tokens).expand(photos, -1, -1)

    return vector

"""Queries added, subtracted and scaled: `class:tabby - 0.5*point:120,80` <-> a tree; a tree -> queries.

The language, of which a term is what `language.parse` reads (point:120,80) or a class's name:

    sum      product { (+ | -) product }
    product  factor { * factor }           all but one of them numbers
    factor   - factor | number | term | ( sum ) | mean(sum, ...) | orthogonal(sum, sum) | normalise(sum)
             | context(sum)

A minus between names has blanks round it: tabby - lynx; wire-haired is one word.  A name with + * ( ) or a
comma in it is in quotes: class:"crane, bird".
"""

import functools
import math
import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import torch
from jaxtyping import Float
from torch import Tensor

from attnvis.attention.dot_product import at_least_float32
from attnvis.attention.grammar import QUOTED, unquoted
from attnvis.attention.query.kinds import KINDS
from attnvis.types import Query, Scores

if TYPE_CHECKING:
    from lark import Lark, Token
    from lark.exceptions import UnexpectedInput

__all__ = [
    "Call",
    "Node",
    "Sum",
    "Term",
    "combine",
    "is_formula",
    "read",
    "renamed",
    "terms",
    "without_quotes",
    "write",
]


@dataclass(frozen=True)
class Term:
    """A query of its own, as `language.parse` reads it."""

    text: str
    column: int = 0  # where it begins, from 1; 0: it was not typed

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Term) and self.text == other.text

    def __hash__(self) -> int:
        return hash(self.text)


@dataclass(frozen=True)
class Sum:
    """factor * node, added up."""

    parts: tuple[tuple[float, "Node"], ...]


@dataclass(frozen=True)
class Call:
    """mean, orthogonal, normalise or context of nodes."""

    name: str
    arguments: tuple["Node", ...]


Node = Term | Sum | Call
Answer = Callable[[str], list[Query]]  # a term -> its queries on some photos

# ---------------------------------------------------------------------------------------------------- reading

FUNCTIONS = {
    "mean": (1, None),
    "orthogonal": (2, 2),
    "normalise": (1, 1),
    "context": (1, 1),
}  # the fewest, the most arguments
CALLED = r"(?:mean|orthogonal|normali[sz]e|context)"
BEGINS = rf"(?:(?:{'|'.join(KINDS)})\s*[:(]|{CALLED}\s*\(|\d[\d.]*\s*\*)"  # what no name goes on with
NUMBER = r"(?:\d+\.?\d*|\.\d+)(?:[eE][-+]?\d+)?"

# what a term goes on with: letters; a hyphen in a word, a blank between words; what is no second argument
WITHIN = "|".join(
    [
        r"[^\s+*(),\[\]-]",
        rf"-(?=[^\s+*(),-])(?!{BEGINS})",
        r"(?<=\d[eE])\+(?=\d)",
        r"[ \t]+(?=[^\s+*(),\[\]-])",
        rf",(?=\s*[-+]?{NUMBER}\s*(?:[,)+]|-|\Z))\s*",
        r",(?=\s*(?i:true|false|yes|no)\b|\s*\w+\s*=)\s*",
        r"\[[^\[\]]*\]",
    ]
)
TERM = "|".join(
    [
        rf"(?:{'|'.join(KINDS)})\s*\((?:{QUOTED}|[^()\"'])*\)",  # pca(centred=false)
        rf"(?:{QUOTED})",
        rf"[^\W\d][\w.]*\s*:\s*(?:{QUOTED})(?:{WITHIN})*",
        rf"[^\W\d](?:{WITHIN})*",
    ]
)
GRAMMAR = r"""
    ?start: sum
    ?sum: product
        | sum "+" product  -> add
        | sum MINUS product  -> subtract
    ?product: factor
        | product "*" factor  -> multiply
    ?factor: MINUS factor  -> negate
        | NUMBER  -> number
        | TERM  -> term
        | "(" sum ")"
        | CALL sum ("," sum)* ")"  -> call
    MINUS: "-"
    %ignore /\s+/
"""
WORDS = {  # what could stand there
    "NUMBER": "a number",
    "TERM": "a query such as class:tabby",
    "CALL": "mean( orthogonal( normalise( context(",
    "LPAR": "(",
    "RPAR": ")",
    "MINUS": "-",
    "PLUS": "+",
    "STAR": "*",
    "COMMA": ",",
    "$END": "the end",
}
DEEPEST = 40  # parentheses in parentheses
ROUNDING = 1e-5  # of a vector's length, in float32

OPERATORS = re.compile(
    rf"(?<!\d[eE])\+|\*|[^\s,:]\s+-|-\s|\A\s*-(?!\d+\s*\Z)|-(?={BEGINS})|\A\s*\(|\b{CALLED}\s*\((?!\s*\))"
)


def is_formula(text: str) -> bool:
    """Whether operators stand in a text, outside of quotes: else it is a term, whatever is in its name."""
    bare = re.sub(QUOTED, "''", text)
    return bool(OPERATORS.search(bare)) or bare.count("(") != bare.count(")")


@functools.lru_cache(maxsize=256)
def read(text: str) -> Node:
    """The tree of a text.  Raises ValueError with the column, and what could stand there."""
    from lark.exceptions import UnexpectedInput, VisitError

    try:
        require_shallow(text)
        tree = parser().parse(text)
        node = as_node(tree)
    except UnexpectedInput as error:
        raise ValueError(f"query {text!r}: {explain(error, text)}") from None
    except VisitError as error:
        raise ValueError(f"query {text!r}: {error.orig_exc}") from None
    except Misread as error:
        raise ValueError(f"query {text!r}: {error}") from None
    return node


class Constant(float):
    """A number and where it stands."""

    column = 1


class Misread(ValueError):
    """What a formula cannot mean, with its column."""


def require_shallow(text: str) -> None:
    depth = 0
    for column, letter in enumerate(text, start=1):
        depth += (letter == "(") - (letter == ")")
        if depth > DEEPEST:
            raise Misread(f"column {column}: more than {DEEPEST} parentheses stand in one another")


@functools.cache
def parser() -> "Lark":
    """Made when the first formula is read."""
    from lark import Lark

    terminals = {"CALL.3": rf"{CALLED}\s*\((?!\s*\))", "NUMBER.2": NUMBER, "TERM.1": TERM}
    lines = [f"{name}: /{pattern}/" for name, pattern in terminals.items()]
    return Lark("\n".join([GRAMMAR, *lines, ""]), parser="lalr", transformer=reader())


def reader() -> Any:
    """Trees bottom up: what each rule of the grammar makes of its parts."""
    from lark import Transformer, v_args

    @v_args(inline=True)
    class Reader(Transformer):
        def number(self, token: "Token") -> float:
            value = Constant(token)
            if not math.isfinite(value):
                raise Misread(f"column {token.column}: {token} is too large a number")
            value.column = token.column or 0
            return value

        def term(self, token: "Token") -> Term:
            return Term(str(token).strip(), token.column or 0)

        def negate(self, minus: "Token", value: Any) -> Any:
            return -value if isinstance(value, float) else scaled(-1.0, value)

        def multiply(self, first: Any, second: Any) -> Any:
            if isinstance(first, float) and isinstance(second, float):
                return first * second
            if isinstance(first, float):
                return scaled(first, second)
            if isinstance(second, float):
                return scaled(second, first)
            raise Misread(
                f"column {column_of(second)}: two queries are not multiplied; one side of a * is a number"
            )

        def add(self, first: Any, second: Any) -> Any:
            return total(parts_of(first), parts_of(second))

        def subtract(self, first: Any, minus: "Token", second: Any) -> Any:
            return total(parts_of(first), parts_of(scaled(-1.0, second)))

        def call(self, name: "Token", *arguments: Any) -> Call:
            function = re.sub(r"\W", "", str(name)).replace("normalize", "normalise")
            fewest, most = FUNCTIONS[function]
            if not fewest <= len(arguments) <= (most or len(arguments)):
                form = "(a, b) takes two" if fewest == 2 else "(a) takes one"
                raise Misread(f"column {name.column}: {function}{form}, not {len(arguments)}")
            return Call(function, tuple(as_node(argument) for argument in arguments))

    return Reader()


def as_node(value: Any) -> Node:
    """Raises Misread for a number that scales nothing."""
    if isinstance(value, float):
        raise Misread(
            f"column {column_of(value)}: a number stands before a * and a query, as in {value:g}*mean; "
            f"a class by its index is class:{value:g}"
        )
    return value


def scaled(factor: float, value: Any) -> Node:
    node = as_node(value)
    if isinstance(node, Sum) and len(node.parts) == 1:
        (inner, node) = node.parts[0]
        factor *= inner
    return node if factor == 1 else Sum(((factor, node),))


def parts_of(value: Any) -> tuple[tuple[float, Node], ...]:
    node = as_node(value)
    return node.parts if isinstance(node, Sum) else ((1.0, node),)


def total(*parts: tuple[tuple[float, Node], ...]) -> Sum:
    return Sum(tuple(part for of in parts for part in of))


def column_of(value: Any) -> int:
    """Where a number, or the first term of a tree, stands."""
    if isinstance(value, float):
        return value.column if isinstance(value, Constant) else 1
    return next((term.column for term in terms(value)), 1)


def terms(node: Node) -> list[Term]:
    """All terms of a tree, in their order."""
    if isinstance(node, Term):
        return [node]
    inner = node.arguments if isinstance(node, Call) else [part for _, part in node.parts]
    return [term for part in inner for term in terms(part)]


def renamed(node: Node, name: Callable[[str], str]) -> Node:
    """The tree with other texts of its terms."""
    if isinstance(node, Term):
        return Term(name(node.text), node.column)
    if isinstance(node, Call):
        return Call(node.name, tuple(renamed(argument, name) for argument in node.arguments))
    return Sum(tuple((factor, renamed(part, name)) for factor, part in node.parts))


def explain(error: "UnexpectedInput", text: str) -> str:
    """Where the text went wrong, what stands there, what could."""
    position = getattr(error, "pos_in_stream", None)
    sources = (getattr(error, name, None) for name in ("accepts", "expected", "allowed"))
    expected: Iterable[str] = next(filter(None, sources), ())
    could = [words for name, words in WORDS.items() if name in expected]
    choices = f"; there could stand {', '.join(could)}" if could else ""
    if position is None or position < 0 or position >= len(text) or is_at_end(error):
        return f"column {len(text) + 1}: it ends too early{choices}"
    hint = ""
    if text[position] == ",":
        hint = '; a name with a comma goes in quotes, class:"crane, bird"'
    return f"column {position + 1}: {text[position]!r} cannot stand here{choices}{hint}"


def is_at_end(error: "UnexpectedInput") -> bool:
    return getattr(getattr(error, "token", None), "type", "") == "$END"


def without_quotes(term: str) -> str:
    """class:"crane, bird" -> class:crane, bird; a name in quotes alone is a class."""
    if re.fullmatch(QUOTED, term, re.DOTALL):
        return f"class:{unquoted(term)}"
    match = re.fullmatch(rf"([^\W\d][\w.]*\s*:\s*)({QUOTED})(.*)", term, re.DOTALL)
    return f"{match[1]}{unquoted(match[2])}{match[3]}" if match else term


# ---------------------------------------------------------------------------------------------------- writing


def write(node: Node) -> str:
    """The text that `read` reads as this tree."""
    if isinstance(node, Term):
        return as_term(node.text)
    if isinstance(node, Call):
        return f"{node.name}({', '.join(map(write, node.arguments))})"
    return join([(factor, write(part), isinstance(part, Sum)) for factor, part in node.parts])


@functools.lru_cache(maxsize=1024)
def as_term(text: str) -> str:
    """class:crane, bird -> class:"crane, bird": in quotes what would be read otherwise."""
    if is_whole_term(text):
        return text
    name, _, settings = text.partition(":")
    settings = re.sub(r"(\\+)\Z", r"\1\1", settings)  # backslashes before the closing quote
    settings = re.sub(r'(\\*)"', r'\1\1\\"', settings)
    return f'{name}:"{settings}"'


def is_whole_term(text: str) -> bool:
    """Whether the text alone, and as an argument, is read as this term."""
    match = re.match(TERM, f"{text})", re.DOTALL)
    return match is not None and match[0] == text and not is_formula(text) and without_quotes(text) == text


def join(parts: Sequence[tuple[float, str, bool]]) -> str:
    """(factor, text, whether it is a sum) -> a - 0.5*b."""
    joined = ""
    for factor, text, is_sum in parts:
        inner = f"({text})" if is_sum else text
        size = "" if abs(factor) == 1 else f"{repr(abs(factor)).removesuffix('.0')}*"
        if joined:
            joined += " - " if factor < 0 else " + "
        else:
            joined += "-" if factor < 0 else ""
        joined += size + inner
    return joined


# -------------------------------------------------------------------------------------------------- combining


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
    keys = tokens if query.keys is None else query.keys
    return Scores(at_least_float32(query.vectors), at_least_float32(keys)).products


def total_of(factors: Sequence[float], tensors: Sequence[Tensor]) -> Tensor:
    result = factors[0] * tensors[0]
    for factor, tensor in zip(factors[1:], tensors[1:], strict=True):
        result = result + factor * tensor
    return result


def changed(queries: Sequence[Query], vectors: Tensor, name: str) -> Query:
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
    photos = range(len(queries[0].labels))
    return tuple((label([query.labels[photo][0] for query in queries]),) for photo in photos)


def smallest_margin(queries: Sequence[Query]) -> Tensor | None:
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

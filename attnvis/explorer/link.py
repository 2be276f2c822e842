"""A query as it is typed in, the same question as an explorer's link has it out."""

import re

from attnvis.attention.query import tree
from attnvis.class_names import find_class
from attnvis.types import Features

__all__ = ["as_terms"]

ADDED = {"class": 1, "mean": 0, "point": 2, "box": 4, "pca": 1, "random": 1}  # with so many numbers
ALONE = ("distance", "norm", "rarity")  # keys of their own
USUAL = {"pca": "pca:1", "random": "random:0"}
QUOTES = "'\""


def as_terms(query: str, features: Features | None) -> str:
    """class:tabby - class:lynx -> class:281;-class:287.  Raises ValueError for what no explorer asks."""
    node = tree.read(query)
    parts = node.parts if isinstance(node, tree.Sum) else ((1.0, node),)
    terms = []
    for factor, part in parts:
        term = as_term(part.text, features) if isinstance(part, tree.Term) else ""
        if not term or abs(factor) != 1 or (len(parts) > 1 and term in ALONE):
            raise ValueError(
                "an explorer asks classes, places, the mean and the like, added and subtracted; "
                f"{query!r} is none of these: explore another question of this photo, and ask on from there"
            )
        terms.append("-" * (factor < 0) + term)
    return ";".join(terms)


def as_term(text: str, features: Features | None) -> str:
    """One term in numbers; "" for a kind that the page does not have."""
    text = USUAL.get(text, text)
    kind, _, rest = text.partition(":")
    if text in ALONE:
        return text
    numbers = rest.split(",") if rest else []
    if all(re.fullmatch(r"-?[\d.]+(e-?\d+)?", number) for number in numbers):
        return text if ADDED.get(kind) == len(numbers) else ""
    if kind != "class" or features is None or features.head is None or features.logits is None:
        return ""
    return f"class:{find_class(rest.strip(QUOTES), features.head.categories, features.logits.shape[1])}"

"""What a classifier asks of the patches: for a class, for several, for one against its rivals."""

import difflib
import functools
import re
from collections.abc import Callable, Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor

from attnvis.attention.grammar import split_pieces, unquoted
from attnvis.class_names import find_class
from attnvis.types import AgainstRivals, Ask, ClassScore, Features, Head, Query

__all__ = [
    "class_",
    "class_scores",
    "classes_at_once",
    "contrast",
    "finer",
    "group_members",
    "log_odds",
    "rest",
]

AT_ONCE = 64  # classes that are compared with all others together: memory
PREDICTED = re.compile(r"predicted(?:\s*([:#])\s*(\d+))?")


def class_(features: Features, name: str | int = "predicted") -> Query:
    """q = what the classifier asks of the patches for this class.

    Its certificate says whether mean s_i + constant is the class's logit; if so the scores are a class
    activation map (Zhou et al. 2016), else the query is Grad-CAM's and the map an approximation.

    `name` is a category or its index; "predicted", the network's own answer, photo by photo; predicted:3, its
    three likeliest, predicted#2 the second of them; [tabby,lynx], the mean of these, as of a group of
    ImageNet's classes, such as cat.  Raises ValueError where there is no classifier, or no such class.
    """
    (query,) = classes_at_once(features, [name])
    return query


def classes_at_once(features: Features, names: Sequence[str | int]) -> list[Query]:
    """`class_` of every name, to the last bit: the network is read once for all, and so are its logits."""
    reading = read_classes(features, names[0])
    asked = [ranks_and_columns(name, reading) for name in names]
    of_one_class = [columns for _, columns in asked if columns.shape[1]]
    scores: Iterator[tuple[ClassScore, ...]] = iter(())  # [columns of all][B]
    if of_one_class:
        scores = zip(*class_scores(reading.head, reading.logits, torch.cat(of_one_class, 1)), strict=True)
    queries: list[Query] = []
    for name, (ranks, columns) in zip(names, asked, strict=True):
        count = columns.shape[1]
        if not count:
            queries.append(mean_of_classes(name, class_indices(name, reading), reading))
            continue
        of_photos = tuple(zip(*islice(scores, count), strict=True))
        query = Query(
            torch.stack([reading.ask(classes) for classes in columns.unbind(1)], 1),
            labels=tuple(tuple(score.name for score in of_photo) for of_photo in of_photos),
            classes=of_photos,
            ranks=ranks,
            mixtures=tuple(((1.0, -rank if rank else int(columns[0, 0])),) for rank in ranks),
            marks=(None,) * count,
        )
        queries.append(query)
    return queries


def ranks_and_columns(name: str | int, reading: "Reading") -> tuple[tuple[int, ...], Int[Tensor, "B Q"]]:
    """The ranks that a name means, 0 for a class of its own, and of each photo which classes these are; Q = 0
    for the mean of several.  Raises ValueError for a name that is none.
    """
    photos, classes = reading.logits.shape
    ranks = predicted_ranks(name, classes)
    if ranks:
        return tuple(ranks), reading.logits.topk(ranks[-1], 1).indices[:, ranks[0] - 1 :]
    members = class_indices(name, reading)
    is_one = len(members) == 1
    columns = torch.full((photos, int(is_one)), members[0], device=reading.logits.device)
    return (0,) * is_one, columns


def contrast(features: Features, name: str | int = "predicted") -> Query:
    """q = w_c - sum_k p_k w_k: what raises the class's probability, the gradient of log p_c.

    Names and errors as `class_`.
    """
    return against_rivals(features, name, "contrast", lambda chosen, shares: chosen - shares)


def rest(features: Features, name: str | int = "predicted") -> Query:
    """q = 2 w_c - sum_k p_k w_k: the gradient of logit_c + log p_c (ReST-CAM, arXiv 2501.06261).

    Names and errors as `class_`.
    """
    return against_rivals(features, name, "rest", lambda chosen, shares: 2 * chosen - shares)


def log_odds(features: Features, name: str | int = "predicted") -> Query:
    """q = w_c - sum over the others of p_k w_k / (1 - p_c): the gradient of log p_c / (1 - p_c).

    Names and errors as `class_`.
    """
    return against_rivals(
        features, name, "log_odds", lambda chosen, shares: chosen - of_rivals(shares, chosen, 0)
    )


def finer(features: Features, name: str | int = "predicted", alpha: float = 1.0, rivals: int = 3) -> Query:
    """q = w_c - alpha sum_j p_j w_j over the likeliest rivals, p renormalised over them (Finer-CAM, arXiv
    2501.11309).

    With all rivals and alpha 1 it is `log_odds`.  Names and errors as `class_`, and for fewer than 1 rival.
    """
    if rivals < 1:
        raise ValueError(f"finer needs at least 1 rival, not {rivals}")
    return against_rivals(
        features, name, "finer", lambda chosen, shares: chosen - alpha * of_rivals(shares, chosen, rivals)
    )


Shares = Float[Tensor, "B C"]  # of the classes' vectors in a query


def against_rivals(
    features: Features, name: str | int, kind: str, mix: Callable[[Shares, Shares], Shares]
) -> Query:
    """One class and the others: mix(one-hot, probabilities) are the classes' shares in the query."""
    reading = read_classes(features, name)
    ranks = predicted_ranks(name, reading.logits.shape[1])
    if ranks and len(ranks) > 1:
        raise ValueError(f"query {kind} takes one class, not {name}; predicted#2 is the second likeliest")
    members = [] if ranks else class_indices(name, reading)
    if len(members) > 1:
        raise ValueError(
            f"query {kind} takes one class and {name} is {len(members)}; class:{name} is their mean"
        )
    if ranks:
        classes = reading.logits.topk(ranks[0], 1).indices[:, -1]
    else:
        classes = torch.full((len(reading.logits),), members[0], device=reading.logits.device)
    chosen = torch.zeros_like(reading.logits).scatter(1, classes.unsqueeze(1), 1.0)
    vectors = reading.ask(mix(chosen, reading.logits.softmax(1)))
    scores = class_scores(reading.head, reading.logits, classes.unsqueeze(1))
    return Query(
        vectors.unsqueeze(1),
        labels=tuple((f"{score.name} ({kind})",) for (score,) in scores),
        classes=tuple(scores),
        rivals=AgainstRivals(ranks[0] if ranks else 0, mix),
    )


def of_rivals(shares: Shares, chosen: Shares, count: int) -> Shares:
    """The probabilities of the others, of the `count` likeliest of them (0: all), made to sum to 1."""
    others = shares * (1 - chosen)
    if 0 < count < others.shape[1] - 1:
        least = others.topk(count, 1).values[:, -1:]
        others = others * (others >= least)
    return others / others.sum(1, keepdim=True).clamp_min(torch.finfo(others.dtype).tiny)


# ------------------------------------------------------------------------------------- classes by their names


class Reading(NamedTuple):
    """What a classifier says of some photos, and how it is asked: of one class per photo, or of shares of
    all.
    """

    head: Head
    logits: Float[Tensor, "B C"]
    ask: Ask


def read_classes(features: Features, name: str | int = "") -> Reading:
    """Raises ValueError where there is no classifier."""
    head, logits, ask = features.head, features.logits, features.ask
    if head is None:
        raise ValueError(
            "a class query needs a classifier, and this backbone has none: "
            f"give it a head, or ask another query{or_a_kind(name)}"
        )
    if logits is None:  # of an earlier layer: what follows in the network is run only now
        logits, ask = head.read(features.maps)
        logits = logits.float()
    return Reading(head, logits, ask or (lambda classes: head.ask(features.maps, classes)[0]))


def predicted_ranks(name: str | int, count: int) -> range | None:
    """predicted -> 1; predicted:3 -> 1, 2, 3; predicted#2 -> 2; None for another name.

    Raises ValueError for more than there are classes.
    """
    match = PREDICTED.fullmatch(str(name).strip())
    if match is None:
        return None
    number = int(match[2] or 1)
    if not 1 <= number <= count:
        raise ValueError(f"class {name}: this backbone has the classes 1 ... {count}, by their rank")
    return range(number, number + 1) if match[1] == "#" else range(1, number + 1)


def class_indices(name: str | int, reading: Reading) -> list[int]:
    """The classes that are meant: one, those of a list, [tabby,lynx], or of a group, cat.

    Raises ValueError for a name that is none.
    """
    text = str(name).strip()
    if text.startswith("[") and text.endswith("]"):
        pieces = [unquoted(piece.strip()) for piece in split_pieces(text[1:-1])]
        if not all(pieces):
            raise ValueError(f"class {text}: a list of classes is written class:[tabby,lynx]")
        return list(dict.fromkeys(index for piece in pieces for index in class_indices(piece, reading)))
    categories = reading.head.categories
    try:
        return [find_class(name, categories, count=reading.logits.shape[1])]
    except ValueError as error:
        members = group_members(text, categories)
        if members:
            return members
        raise ValueError(f"{error}{or_a_kind(name)}{or_a_minus(text)}") from None


def mean_of_classes(name: str | int, members: list[int], reading: Reading) -> Query:
    shares = torch.zeros_like(reading.logits)
    shares[:, members] = 1 / len(members)
    text = str(name).strip()
    label = f"mean of {text[1:-1]}" if text.startswith("[") else f"{text} ({len(members)} classes)"
    mixture = tuple((1 / len(members), index) for index in members)
    return Query(reading.ask(shares).unsqueeze(1), ((label,),) * len(shares), mixtures=(mixture,))


def or_a_kind(name: str | int) -> str:
    """The kind of query, or the group, that may have been meant by what was taken for a class; "" if none."""
    from attnvis.attention.query.kinds import KINDS

    near = difflib.get_close_matches(str(name).lower(), KINDS, n=1, cutoff=0.7)
    if near:
        return f" Or the query {near[0]}?"
    groups = difflib.get_close_matches(str(name).lower(), class_groups(), n=1, cutoff=0.7)
    return f" Or the group {groups[0]}?" if groups else ""


def or_a_minus(text: str) -> str:
    return " (a minus has a blank on each side: a - b)" if "-" in text else ""


@functools.cache
def class_groups() -> dict[str, tuple[int, ...]]:
    """Groups of ImageNet's 1000 classes by name: indices."""
    groups: dict[str, tuple[int, ...]] = {}
    for line in (Path(__file__).parent / "class_groups.txt").read_text("utf-8").splitlines():
        name, colon, ranges = line.partition(":")
        if not colon or line.startswith("#"):
            continue
        bounds = [tuple(map(int, part.split("-"))) for part in ranges.split()]
        groups[name] = tuple(
            index for first, *last in bounds for index in range(first, (last or [first])[0] + 1)
        )
    return groups


def group_members(text: str, categories: tuple[str, ...]) -> list[int]:
    """The classes of a group; none where there is no such group, or these are not ImageNet's 1000."""
    is_imagenet = len(categories) == 1000 and categories[0].startswith("tench")
    is_imagenet = is_imagenet and categories[999].startswith("toilet t")
    plain = re.sub(r"[-_\s]+", " ", text.casefold())
    return list(class_groups().get(plain, ())) if is_imagenet else []


def class_scores(
    head: Head, logits: Float[Tensor, "B C"], classes: Int[Tensor, "B Q"]
) -> list[tuple[ClassScore, ...]]:
    """What the network says of some classes of every photo: [B][Q]."""
    logits = logits.double()
    chosen = logits.gather(1, classes)
    probabilities = (chosen - logits.logsumexp(1, keepdim=True)).exp()
    parts = chosen.unsqueeze(2).split(AT_ONCE, 1)  # [B, Q, 1]
    ranks = 1 + torch.cat([(logits.unsqueeze(1) > part).sum(2) for part in parts], 1)
    columns = (classes, probabilities, chosen, ranks)
    rows = zip(*(column.tolist() for column in columns), strict=True)
    return [
        tuple(
            ClassScore(index, head.category(index), probability=probability, logit=logit, rank=rank)
            for index, probability, logit, rank in zip(*row, strict=True)
        )
        for row in rows
    ]

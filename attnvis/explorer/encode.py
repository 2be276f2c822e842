"""Features of one photo -> numbers small enough to be mailed, and how far these are off.

Patch features keep all of their channels, in whole steps: after a ReLU most are 0, and the rest packs well.
Scores that no patch asks (classes, random vectors) and those with keys of their own (distance, norm, rarity)
are kept as they are, one row of N for each.
"""

import gzip
import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float, UInt16
from torch import Tensor

from attnvis.attention.query import kinds
from attnvis.methods.answer import require_finite
from attnvis.types import Features, Head, Query, Scores

__all__ = [
    "ClassRows",
    "EncodedLayer",
    "QuestionRow",
    "class_rows",
    "encode_layer",
    "pack_rows",
    "pack_tokens",
]

# A step adds noise of step / sqrt(12) to each number: to a dot product, this times the other vector's length.
NOISE = 0.0005
FINEST_CLASS = (
    0.001  # step of the scores of classes, of which there are many: half of it is the most they are off
)
ROUNDING = 1e-6  # of single precision in Python's own sums, relative to the largest score
CLASS_SCORES = 60_000  # of all classes together, where the number of classes is left open
SLOW_CLASSES = 10  # where each class takes a pass back through the network
GRAM = 64  # classes whose dot products with one another are kept: the lengths of their differences
COMPONENTS, SEEDS = 4, 3


@dataclass(frozen=True)
class QuestionRow:
    """Scores of one question that no weighted sum of patches is.

    name       as it is typed: class:504, pca:1, rarity
    dim        d_k of its keys
    length     of the query vector
    key_norms  of keys of its own; None: those of the patches
    caution    what to know of it
    """

    name: str
    scores: Float[np.ndarray, " N"]
    dim: int
    length: float
    key_norms: Float[np.ndarray, " N"] | None = None
    caution: str = ""


@dataclass(frozen=True)
class ClassRows:
    """The classes that a file knows, likeliest first, the scores of each and their vectors' dot products."""

    indices: tuple[int, ...]
    scores: Float[np.ndarray, "C N"]
    lengths: Float[np.ndarray, " C"]
    gram: Float[np.ndarray, "G G"]


@dataclass(frozen=True)
class EncodedLayer:
    """A layer as it goes into the file: what is read before anything is unpacked, and the packed numbers.

    facts      as JSON takes them
    packed     name -> gzip: tokens, rows, and scales: lows, steps, errors, class lengths, Gram matrix
    """

    facts: dict[str, object]
    packed: dict[str, bytes]


def encode_layer(features: Features, classes: int | str | Sequence[int | str] = "auto") -> EncodedLayer:
    """One photo's features of one layer.  `classes` as in `class_rows`.

    Raises PhotoError where they are not finite.
    """
    require_finite(features.tokens, features, "features")
    tokens = features.tokens[0].detach().float().cpu().numpy()  # [N, D]
    packed_tokens, step, error = pack_tokens(tokens)
    rows = question_rows(features)
    of_classes = class_rows(features, classes)
    of_questions = rows_matrix(rows, len(tokens))
    every_row = np.concatenate([of_questions, of_classes.scores])
    finest = np.where(np.arange(len(every_row)) < len(of_questions), 0.0, FINEST_CLASS)
    packed_rows, lows, steps = pack_rows(every_row, finest)
    placement = features.placements[0]
    facts: dict[str, object] = {
        "name": features.layer,
        "grid": features.grid,
        "dim": tokens.shape[1],
        "first": placement.first,
        "step": placement.step,
        "seen": [placement.seen.top, placement.seen.left, placement.seen.height, placement.seen.width],
        "field": placement.field,
        "source": placement.source,
        "quantum": step,
        "error": significant(error),
        "rows": [
            {
                "name": row.name,
                "dim": row.dim,
                "length": significant(row.length, 9),
                "ownKeys": row.key_norms is not None,
                "caution": row.caution,
            }
            for row in rows
        ],
        "classes": list(of_classes.indices),
        "gram": len(of_classes.gram),
    }
    errors = steps / 2 + ROUNDING * np.abs(every_row).max(axis=1, initial=0)
    scales = np.concatenate([lows, steps, errors, of_classes.lengths, of_classes.gram.ravel()])
    return EncodedLayer(facts, {"tokens": packed_tokens, "rows": packed_rows, "scales": packed(scales)})


def packed(numbers: Float[np.ndarray, " n"]) -> bytes:
    """In single precision."""
    return gzip.compress(numbers.astype("<f4").tobytes(), 9, mtime=0)


def significant(number: float, digits: int = 4) -> float:
    return float(f"{number:.{digits}g}")


# ----------------------------------------------------------------------------------------------------- tokens


def pack_tokens(tokens: Float[np.ndarray, "N D"]) -> tuple[bytes, float, float]:
    """(gzip, step, error): whole multiples of a step, and how far that can move a dot product of two patches.

    The largest of all N x N; so it holds too for whatever lies between patches, and for their mean.
    """
    lengths = np.linalg.norm(tokens.astype(np.float64), axis=1)
    typical = float(np.median(lengths[lengths > 0])) if lengths.any() else 1.0
    largest = float(np.abs(tokens).max(initial=0))
    step = significant(max(NOISE * math.sqrt(12) / typical, 1.001 * largest / 32767), 6)
    levels = np.rint(tokens / step).astype("<i2")
    rounded = torch.from_numpy(levels.astype(np.float64) * step)
    exact = torch.from_numpy(tokens.astype(np.float64))
    error = scale = 0.0
    for some, of_them in zip(exact.split(256), rounded.split(256), strict=True):
        products = some @ exact.T
        error = max(error, float((of_them @ rounded.T - products).abs().max()))
        scale = max(scale, float(products.abs().max()))
    return planes(levels.T.view("<u2")), step, error + ROUNDING * scale


def planes(levels: UInt16[np.ndarray, "R N"]) -> bytes:
    """Row by row all low bytes, then all high bytes, in gzip: the high ones are nearly all alike."""
    pairs = np.ascontiguousarray(levels).view(np.uint8).reshape(-1, 2)
    return gzip.compress(pairs[:, 0].tobytes() + pairs[:, 1].tobytes(), 9, mtime=0)


def pack_rows(
    rows: Float[np.ndarray, "R N"], finest: Float[np.ndarray, " R"]
) -> tuple[bytes, Float[np.ndarray, " R"], Float[np.ndarray, " R"]]:
    """(gzip, lows, steps) with value = low + step * level; no level is beyond 65,535.

    finest: the steps that are small enough; 0: as small as there are levels.
    """
    lows = rows.min(axis=1, initial=np.inf)
    spans = rows.max(axis=1, initial=-np.inf) - lows
    steps = np.maximum(spans / 65535, np.minimum(finest, spans / 1024))
    steps, lows = single(steps * 1.0001), single(lows)
    levels = np.rint((rows - lows[:, None]) / np.where(steps > 0, steps, 1)[:, None])
    return planes(levels.clip(0, 65535).astype("<u2")), lows, steps


def single(numbers: Float[np.ndarray, " n"]) -> Float[np.ndarray, " n"]:
    """As single precision keeps them."""
    return numbers.astype(np.float32).astype(np.float64)


# ------------------------------------------------------------------------------------------------------- rows


def question_rows(features: Features) -> list[QuestionRow]:
    """Whatever is asked of the photo without a class or a place on it."""
    patches, channels = features.tokens.shape[1:]
    rows = [row_of(features, kinds.distance(features)), row_of(features, kinds.norm(features))]
    rows.append(row_of(features, kinds.rarity(features), name="rarity"))
    for component in range(1, min(COMPONENTS, patches - 1, channels) + 1):
        query = kinds.pca(features, component)
        assert query.sign_margin is not None
        margin = float(query.sign_margin)
        caution = f"its sign is free (margin {margin:.2f})" if margin < 0.75 else ""
        rows.append(row_of(features, query, name=f"pca:{component}", caution=caution))
    for seed in range(SEEDS):
        rows.append(row_of(features, kinds.random(features, seed), name=f"random:{seed}"))
    return rows


def row_of(features: Features, query: Query, name: str = "", caution: str = "") -> QuestionRow:
    """A query of one vector as a row; named as it is labelled, where no name is given."""
    keys = features.tokens if query.keys is None else query.keys
    scores = Scores(query.vectors.float(), keys.float())
    return QuestionRow(
        name or query.labels[0][0],
        scores.products[0, 0].double().cpu().numpy(),
        dim=scores.dim,
        length=float(query.vectors[0, 0].double().norm()),
        key_norms=None if query.keys is None else keys[0].double().norm(dim=-1).cpu().numpy(),
        caution=caution,
    )


def rows_matrix(rows: Sequence[QuestionRow], patches: int) -> Float[np.ndarray, "R N"]:
    """The scores of all rows, then the key norms of those that have keys of their own."""
    norms = [row.key_norms for row in rows if row.key_norms is not None]
    return np.stack([row.scores for row in rows] + norms) if rows else np.zeros((0, patches))


# ---------------------------------------------------------------------------------------------------- classes


def class_rows(features: Features, classes: int | str | Sequence[int | str] = "auto") -> ClassRows:
    """Scores of the likeliest classes.

    classes   auto: as many as stay small; all; or how many; or which
    """
    head, patches = features.head, features.tokens.shape[1]
    if head is None:
        return ClassRows((), np.zeros((0, patches)), np.zeros(0), np.zeros((0, 0)))
    logits = features.logits if features.logits is not None else head.logits(features.maps).float()
    require_finite(logits, features, "class logits")
    likeliest = logits[0].argsort(descending=True).tolist()
    chosen = chosen_classes(likeliest, classes, count=class_count(head, patches, len(likeliest)))
    vectors = torch.cat([ask(features, head, some) for some in split(chosen, 16)])  # [C, D]
    scores = torch.cat([part @ features.tokens[0].float().T for part in vectors.split(64)])
    wide = vectors.double()
    first = wide[:GRAM]
    return ClassRows(
        tuple(chosen),
        scores.double().cpu().numpy(),
        wide.norm(dim=1).cpu().numpy(),
        (first @ first.T).cpu().numpy(),
    )


def class_count(head: Head, patches: int, known: int) -> int:
    """How many classes a file holds where nobody said."""
    return min(known, SLOW_CLASSES if head.kind == "gradient" else max(50, CLASS_SCORES // patches))


def chosen_classes(likeliest: list[int], classes: int | str | Sequence[int | str], count: int) -> list[int]:
    """Indices, likeliest first; those that were named come with those that are usual.

    Raises ValueError for what is neither auto, all, a number from 1 on, nor indices of classes.
    """
    if classes == "auto":
        return likeliest[:count]
    if classes == "all":
        return likeliest
    if isinstance(classes, int) and classes > 0:
        return likeliest[:classes]
    if isinstance(classes, Sequence) and not isinstance(classes, str):
        unknown = [index for index in classes if index not in likeliest]
        if unknown:
            raise ValueError(
                f"classes={list(classes)}: {unknown[0]!r} is no index of the {len(likeliest)} classes"
            )
        wanted = set(likeliest[:count]) | set(classes)
        return [index for index in likeliest if index in wanted]
    raise ValueError(f"classes={classes}: give auto, all, or how many of the likeliest, from 1 on")


def split(indices: list[int], size: int) -> list[list[int]]:
    return [indices[first : first + size] for first in range(0, len(indices), size)]


def ask(features: Features, head: Head, indices: list[int]) -> Float[Tensor, "C D"]:
    """The query vectors of some classes on the one photo."""
    classes = torch.tensor(indices, device=features.tokens.device)
    if features.ask is not None and head.kind == "gradient":
        return torch.cat([features.ask(each.unsqueeze(0)) for each in classes]).float()
    maps = features.maps.expand(len(indices), -1, -1, -1)
    if head.kind == "gradient":
        return torch.cat([head.ask(maps[:1], each.unsqueeze(0))[0] for each in classes]).float()
    return head.ask(maps, classes)[0].float()

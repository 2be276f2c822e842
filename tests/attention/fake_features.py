"""Features of two photos of different shapes, and what several tests of queries ask of them."""

import math
from functools import partial

import pytest
import torch
from conftest import normal
from hypothesis import settings
from hypothesis import strategies as st
from torch import Tensor

from attnvis.attention import query
from attnvis.attention.query.language import build_queries
from attnvis.backbone.heads import Linear
from attnvis.types import Box, Features, Placement

B, Q, D = 2, 3, 7  # different primes: a transposed axis cannot pass unnoticed
GRID = (5, 11)
N = GRID[0] * GRID[1]
CATEGORIES = (
    "tabby",
    "tiger cat",
    "crane",
    "Egyptian cat",
    "coffee mug",
    "crane",
    "St. Bernard",
    "goldfish",
    "teddy, teddy_bear",
    "bee",
    "ant",
)
quick = settings(deadline=None, derandomize=True, max_examples=30)
few = settings(quick, max_examples=8)
close = partial(torch.testing.assert_close, rtol=1e-9, atol=1e-9)

TEXTS = [
    "mean",
    "class",
    "class:tiger cat",
    "class:3",
    "point:40,31.5",
    "box:12,3,50.5,20",
    "random:3",
    "rarity:4",
    "pca:2",
    "pca:2,false",
]
TEXTS += ["distance", "norm", "contrast:tabby", "rest", "log_odds:3", "finer:ant,0.6,2", "gem", "iterated:2"]
TEXTS += ["simpool:1.25", "random_class:3", "random_patch:3", "class:[tabby,bee]", "class:predicted#2"]
TEXTS += ["mask:12,3,70,5,40,40", "class:tabby - 0.5*point:40,31.5", "mean(class:bee, 2*mean)"]
TEXTS += ["orthogonal(class:bee, mean)", "normalise(context(mean))"]


def rectangle(*numbers: float) -> Box:
    return Box(*map(float, numbers))


def placed(first, step, grid: tuple[int, int], size: tuple[int, int], *seen: float) -> Placement:
    """Seen: top, left, height, width; without, the whole photo."""
    return Placement(
        tuple(map(float, first)), tuple(map(float, step)), grid, size, rectangle(*(seen or (0, 0, *size)))
    )


def tiled(size: tuple[int, int], grid: tuple[int, int] = GRID) -> Placement:
    """Tiles of equal size that cover the photo."""
    step = (size[0] / grid[0], size[1] / grid[1])
    return placed((step[0] / 2, step[1] / 2), step, grid, size)


def two_photos(tokens: Tensor | None = None, *placements: Placement) -> Features:
    """Two photos of different shapes, with a classifier on the mean patch."""
    tokens = normal(B, N, D) if tokens is None else tokens
    placements = placements or (tiled((60, 90)), tiled((100, 77)))
    head = Linear(normal(len(CATEGORIES), D, seed=1), normal(len(CATEGORIES), seed=2), CATEGORIES)
    names = ("one.jpg", "two.jpg")[: len(tokens)]
    return Features(tokens, placements[0].grid, placements, head, head(tokens.mean(1)), names)


def one_photo(placement: Placement) -> Features:
    return two_photos(normal(1, math.prod(placement.grid), D), placement)


def point_at(x: float, y: float) -> partial:
    return partial(query.point, x=float(x), y=float(y))


def box_at(x: float, y: float, width: float, height: float) -> partial:
    return partial(query.box, x=float(x), y=float(y), width=float(width), height=float(height))


def query_vector(function, features: Features) -> Tensor:
    """The one query on the one photo."""
    (result,) = build_queries(function, features)
    assert result.vectors.shape[:2] == (1, 1)
    return result.vectors[0, 0]


def complaint(kind: type[ValueError], function, *arguments) -> str:
    with pytest.raises(kind) as caught:
        function(*arguments)
    assert type(caught.value) is kind
    message = str(caught.value)
    assert "\n" not in message and "object at 0x" not in message
    return message


def eighths(low: float, high: float) -> st.SearchStrategy[float]:
    """Multiples of 1/8: ties are common, and sums and differences exact."""
    return st.integers(int(low * 8), int(high * 8)).map(lambda n: n / 8)

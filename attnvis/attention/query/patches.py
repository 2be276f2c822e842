"""What several queries are made of: labels, and the shares of a photo's patches in a part of it."""

from collections.abc import Sequence
from itertools import pairwise

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from attnvis.geometry import extent_along
from attnvis.types import Features, Placement

__all__ = [
    "cell_edges",
    "interpolation_weights",
    "labels",
    "named_placements",
    "numbered",
    "outer_product",
    "overlap_lengths",
    "shares_along",
    "weighted_mean",
]


def labels(features: Features, text: str) -> tuple[tuple[str, ...], ...]:
    """One query with the same label on every photo: [B][1]."""
    return ((text,),) * len(features.tokens)


def numbered(text: str, count: int) -> tuple[str, ...]:
    """One label per query of a photo: the text, and where there are several their numbers from 1."""
    if count == 1:
        return (text,)
    return tuple(f"{text} #{number}" for number in range(1, count + 1))


def named_placements(features: Features) -> list[tuple[str, Placement]]:
    """Each photo's name and placement; features that were not made of files have no names."""
    names = features.names or ("",) * len(features.placements)
    return list(zip(names, features.placements, strict=True))


def weighted_mean(features: Features, shares: list[Float[Tensor, " N"]]) -> Float[Tensor, "B 1 D"]:
    """The mean patch of each photo, its patches weighted by the photo's shares (>= 0, of any sum)."""
    weights = torch.stack(shares).to(features.tokens)
    return (weights / weights.sum(-1, keepdim=True)).unsqueeze(1) @ features.tokens


def outer_product(rows: Sequence[float], columns: Sequence[float]) -> Float[Tensor, " N"]:
    """Weights of rows and columns -> weights of patches, i = row * w + column."""
    down, across = (torch.tensor(weights, dtype=torch.float64) for weights in (rows, columns))
    return torch.outer(down, across).flatten()


def cell_centres(placement: Placement, axis: int) -> list[float]:
    """Along the rows (axis 0) or columns (1) of the photo, in its pixels."""
    return [placement.first[axis] + placement.step[axis] * cell for cell in range(placement.grid[axis])]


def interpolation_weights(placement: Placement, axis: int, position: float) -> list[float]:
    """Of the cells along an axis: linear interpolation between their centres at a position of the photo,
    summing to 1.

    Beyond the outer centres the outer cell has all the weight.
    """
    centres = cell_centres(placement, axis)
    inside = min(max(position, centres[0]), centres[-1])
    return [max(0.0, 1 - abs(centre - inside) / placement.step[axis]) for centre in centres]


def overlap_lengths(placement: Placement, axis: int, low: float, high: float) -> list[float]:
    """The length that each cell along an axis shares with [low, high), in pixels of the photo."""
    edges = cell_edges(placement, axis)
    # NaN stands first, and stays: min and max give the first of two that do not compare
    return [max(min(high, end) - max(low, begin), 0.0) for begin, end in pairwise(edges)]


def cell_edges(placement: Placement, axis: int) -> list[float]:
    """Along an axis: cells reach half-way to their neighbours, the outer ones to the edge of what was
    seen.
    """
    between = [(before + after) / 2 for before, after in pairwise(cell_centres(placement, axis))]
    start, length = extent_along(placement.seen, axis)
    return [float(start), *between, float(start + length)]


def shares_along(to: Placement, of: Placement, axis: int) -> Float[Tensor, "n m"]:
    """What each of n cells takes of each of m cells of another grid, along rows (0) or columns (1)."""
    if of.step[axis] < to.step[axis]:
        edges = cell_edges(to, axis)
        shares = [overlap_lengths(of, axis, low=low, high=high) for low, high in pairwise(edges)]
    else:
        centres = [to.first[axis] + to.step[axis] * cell for cell in range(to.grid[axis])]
        shares = [interpolation_weights(of, axis, position=centre) for centre in centres]
    matrix = torch.tensor(shares, dtype=torch.float64)
    return matrix / matrix.sum(1, keepdim=True)


def mask_shares(placement: Placement, mask: np.ndarray) -> Float[Tensor, " N"]:
    """The area that each cell shares with a mask [height, width] of the photo, in pixels."""
    sides = []
    for axis in (0, 1):
        edges = np.array(cell_edges(placement, axis))
        pixels = np.arange(mask.shape[axis])
        low = np.maximum(edges[:-1, None], pixels)  # [cells, pixels]
        sides.append(np.clip(np.minimum(edges[1:, None], pixels + 1) - low, 0, None))
    return torch.from_numpy(sides[0] @ mask.astype(np.float64) @ sides[1].T).flatten()


def polygon_shares(placement: Placement, corners: Sequence[tuple[float, float]]) -> Float[Tensor, " N"]:
    """The area that each cell shares with a polygon of (x, y), in pixels of the photo."""
    rows, columns = cell_edges(placement, 0), cell_edges(placement, 1)
    areas = [
        abs(area(clipped(corners, left=left, top=top, right=right, bottom=bottom)))
        for top, bottom in pairwise(rows)
        for left, right in pairwise(columns)
    ]
    return torch.tensor(areas, dtype=torch.float64)


Corners = Sequence[tuple[float, float]]


def clipped(corners: Corners, left: float, top: float, right: float, bottom: float) -> Corners:
    """The part of a polygon inside a rectangle (Sutherland & Hodgman 1974)."""
    for axis, edge, sign in ((0, left, 1), (0, right, -1), (1, top, 1), (1, bottom, -1)):
        kept: list[tuple[float, float]] = []
        for before, here in zip([*corners[-1:], *corners[:-1]], corners, strict=True):
            inside, was_inside = ((spot[axis] - edge) * sign >= 0 for spot in (here, before))
            if inside != was_inside:
                share = (edge - before[axis]) / (here[axis] - before[axis])
                x, y = (start + share * (end - start) for start, end in zip(before, here, strict=True))
                kept.append((x, y))
            if inside:
                kept.append(here)
        corners = kept
    return corners


def area(corners: Corners) -> float:
    """Of a polygon, signed (the shoelace formula)."""
    pairs = zip(corners, [*corners[1:], *corners[:1]], strict=True)
    return sum(x * below - right * y for (x, y), (right, below) in pairs) / 2

"""Where a cell of the grid lies on the original photo, and how cell values spread over its pixels.  Geometry lives only here.

A network's `ReceptiveField` says where its cells are centred on the input.  `receptive_field.probe` measures it on the network; `stretch` is the
field's habit: the grid is pulled over the whole input, which draws most nets half a stride to the lower right of where they looked.
"""

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Float

from attnvis.types import Box, Placement, View

__all__ = [
    "ReceptiveField",
    "Shift",
    "as_placement",
    "crop_grid",
    "place_grid",
    "shifted",
    "stretch",
    "to_pixels",
    "visible_cells",
]


@dataclass(frozen=True)
class ReceptiveField:
    """Cell i is centred at offset + stride * i, per axis (rows, columns), in pixels of the input from the first pixel's centre."""

    offset: tuple[float, float]
    stride: tuple[float, float]
    field: tuple[float, float] | None = dataclasses.field(
        default=None, compare=False
    )  # what one cell can see: height, width


@dataclass(frozen=True)
class Shift:
    """How far the cells of one layer, with one set of weights, look from where geometry centres them; in pixels of the input.

    Negative: up and to the left.  The same on both axes: nothing that was measured on photos tells them apart (docs/placement.md).
    """

    pixels: float
    interval: tuple[float, float]  # 95 %
    source: str  # how it was found

    def __str__(self) -> str:
        low, high = self.interval
        return f"shifted by {self.pixels:.4g} [{low:.4g}, {high:.4g}] px ({self.source})"


def shifted(reach: ReceptiveField, shift: Shift) -> ReceptiveField:
    """Where the cells look."""
    rows, columns = reach.offset
    return replace(reach, offset=(rows + shift.pixels, columns + shift.pixels))


def stretch(view: View, grid: tuple[int, int]) -> ReceptiveField:
    """What upsampling the map to the input's size assumes (interpolate, align_corners=False)."""
    strides = (view.size[0] / grid[0], view.size[1] / grid[1])
    return ReceptiveField(((strides[0] - 1) / 2, (strides[1] - 1) / 2), strides)


def place_grid(
    view: View, reach: ReceptiveField, grid: tuple[int, int], size: tuple[int, int], source: str = ""
) -> Placement:
    """A grid on the input -> the same grid on the photo of `size` (height, width); `source` says how its cells' place is known."""
    first = view.to_photo(reach.offset[0] + 0.5, reach.offset[1] + 0.5)  # pixel k is centred at k + .5
    step = (reach.stride[0] / view.scale[0], reach.stride[1] / view.scale[1])
    field = reach.field and (reach.field[0] / view.scale[0], reach.field[1] / view.scale[1])
    return Placement(first, step, grid, size, view.seen, field, source)


def visible_cells(placement: Placement) -> tuple[slice, slice]:
    """The rows and columns of cells that touch the photo: a letterbox has cells that see nothing but its bars."""
    return (
        touching(placement, 0, placement.seen.top, placement.seen.height),
        touching(placement, 1, placement.seen.left, placement.seen.width),
    )


def touching(placement: Placement, axis: int, start: float, length: float) -> slice:
    where = placement.first[axis] + placement.step[axis] * np.arange(placement.grid[axis])
    reach = (
        placement.step[axis] / 2 * (1 - 1e-6)
    )  # a tile that ends where the bars end touches nothing, however that was rounded
    inside = np.flatnonzero((where > start - reach) & (where < start + length + reach))
    return slice(int(inside[0]), int(inside[-1]) + 1)


def crop_grid(placement: Placement, rows: slice, columns: slice) -> Placement:
    """The placement of a part of the grid."""
    return replace(
        placement,
        first=placement.centre(rows.start, columns.start),
        grid=(rows.stop - rows.start, columns.stop - columns.start),
    )


def to_pixels(
    cells: Float[np.ndarray, "h w"],
    placement: Placement,
    size: tuple[int, int] | None = None,
    density: bool = False,
    smooth: bool = False,
) -> Float[np.ndarray, "H W"]:
    """Cell values -> a map over the photo: bilinear between the cells' centres, level beyond the outer ones, NaN where nothing was seen.

    `density`: every cell's value is spread over its pixels so that the map sums to what the cells summed to.
    `smooth`: bicubic, for the eye: it passes through the cells' values too, and may swing beyond them in between.
    `size` draws on a grid of (height, width) other than the photo's own.
    """
    height, width = size or placement.size
    zoom = (height / placement.size[0], width / placement.size[1])
    between = cubic_weights if smooth else linear_weights
    rows = between(placement.first[0] * zoom[0], placement.step[0] * zoom[0], placement.grid[0], height)
    columns = between(placement.first[1] * zoom[1], placement.step[1] * zoom[1], placement.grid[1], width)
    outside = [
        unseen(placement.seen, axis, zoom[axis], length) for axis, length in enumerate((height, width))
    ]
    if density:
        rows, columns = as_density(rows, outside[0]), as_density(columns, outside[1])
    grid = np.ascontiguousarray(cells, np.float32)
    drawn = (
        torch.from_numpy(rows) @ torch.from_numpy(grid) @ torch.from_numpy(columns).T
    ).numpy()  # numpy's own threads would spin
    drawn[outside[0]] = np.nan
    drawn[:, outside[1]] = np.nan
    return drawn


def linear_weights(first: float, step: float, cells: int, pixels: int) -> Float[np.ndarray, "pixels cells"]:
    """Linear interpolation as a matrix: row p holds the shares of the cells at the centre of pixel p."""
    position = np.clip((np.arange(pixels) + 0.5 - first) / step, 0, cells - 1)
    return np.maximum(0, 1 - np.abs(position[:, None] - np.arange(cells))).astype(np.float32)


def cubic_weights(first: float, step: float, cells: int, pixels: int) -> Float[np.ndarray, "pixels cells"]:
    """Cubic interpolation as a matrix (Catmull and Rom 1974): each centre's slope is that between its neighbours, the outer ones' is 0."""
    position = np.clip((np.arange(pixels) + 0.5 - first) / step, 0, cells - 1)
    away = (position[:, None] - np.arange(cells)).astype(np.float32)
    near = np.maximum(0, 1 - np.abs(away))
    square = near * near
    values, slopes = (
        square * (3 - 2 * near),
        square * away / 2,
    )  # what a centre's value adds to a pixel, and half its slope
    values[:, 2:] += slopes[:, 1:-1]
    values[:, :-2] -= slopes[:, 1:-1]
    return values


def as_density(
    weights: Float[np.ndarray, "pixels cells"], hidden: Bool[np.ndarray, " pixels"]
) -> Float[np.ndarray, "pixels cells"]:
    """Each cell dealt out to the pixels that were seen, its shares summing to 1; a cell between pixel centres goes to the nearest."""
    cells = np.arange(weights.shape[1])
    position = np.where(hidden, np.inf, weights @ cells)
    shares = weights * ~hidden[:, None]
    missed = np.flatnonzero(shares.sum(0) == 0)
    shares[np.abs(position[:, None] - missed).argmin(0), missed] = 1
    return shares / shares.sum(0)


def unseen(seen: Box, axis: int, zoom: float, pixels: int) -> np.ndarray:
    start, length = (seen.top, seen.height) if axis == 0 else (seen.left, seen.width)
    centre = (np.arange(pixels) + 0.5) / zoom
    return (centre < start) | (centre >= start + length)


def as_placement(entry: Mapping[str, Any]) -> Placement:
    """What `dataclasses.asdict` made of it, and JSON of that."""
    fields: dict[str, Any] = {
        name: tuple(value) if isinstance(value, list) else value for name, value in entry.items()
    }
    return Placement(**fields | {"seen": Box(**entry["seen"])})

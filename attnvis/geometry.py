"""Where a cell of the grid lies on the original photo, and how cell values spread over its pixels.

Geometry lives only here.  Axis 0 is rows, axis 1 columns.  A network's `ReceptiveField` says where its cells
are centred on the input.  `receptive_field.probe` measures it on the network; `stretch` is the field's habit:
the grid is pulled over the whole input, which draws most nets half a stride to the lower right of where they
looked.
"""

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import lru_cache
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
    "extent_along",
    "place_grid",
    "shifted",
    "stretch",
    "to_pixels",
    "visible_cells",
]


@dataclass(frozen=True)
class ReceptiveField:
    """Where the cells of a network's grid are centred on its input, and how much of it one cell can see.

    Cell i is centred at offset + stride * i, per axis (rows, columns), in pixels of the input from the first
    pixel's centre.
    """

    offset: tuple[float, float]
    stride: tuple[float, float]
    # height, width; None: not known
    field: tuple[float, float] | None = dataclasses.field(default=None, compare=False)


@dataclass(frozen=True)
class Shift:
    """How far the cells of one layer, with one set of weights, look from where geometry centres them.

    In pixels of the input; negative: up and to the left.  The same on both axes: nothing that was measured on
    photos tells them apart (docs/placement.md).
    """

    pixels: float
    interval: tuple[float, float]  # 95 %
    source: str  # how it was found

    def __str__(self) -> str:
        low, high = self.interval
        return f"shifted by {self.pixels:.4g} [{low:.4g}, {high:.4g}] px ({self.source})"


def shifted(receptive_field: ReceptiveField, shift: Shift) -> ReceptiveField:
    """Where the cells look, in pixels of the input."""
    row, column = receptive_field.offset
    return replace(receptive_field, offset=(row + shift.pixels, column + shift.pixels))


def stretch(view: View, grid: tuple[int, int]) -> ReceptiveField:
    """What upsampling a map of `grid` (rows, columns) to the input's size assumes.

    That is interpolate with align_corners=False.
    """
    stride = (view.size[0] / grid[0], view.size[1] / grid[1])
    offset = ((stride[0] - 1) / 2, (stride[1] - 1) / 2)
    return ReceptiveField(offset, stride)


def place_grid(
    view: View,
    receptive_field: ReceptiveField,
    grid: tuple[int, int],
    size: tuple[int, int],
    source: str = "",
) -> Placement:
    """A grid (rows, columns) on the input -> the same grid on the photo of `size` (height, width).

    `source` says how its cells' place is known.
    """
    row, column = receptive_field.offset
    first = view.to_photo(row + 0.5, column + 0.5)  # pixel k is centred at k + .5
    step = (receptive_field.stride[0] / view.scale[0], receptive_field.stride[1] / view.scale[1])
    field = None
    if receptive_field.field is not None:
        height, width = receptive_field.field
        field = (height / view.scale[0], width / view.scale[1])
    return Placement(first, step, grid=grid, size=size, seen=view.seen, field=field, source=source)


def visible_cells(placement: Placement) -> tuple[slice, slice]:
    """The rows and columns of cells that touch the photo.

    A letterbox has cells that see nothing but its bars.
    """
    return touching(placement, axis=0), touching(placement, axis=1)


def touching(placement: Placement, axis: int) -> slice:
    """The cells whose tiles share some of what was seen, along one axis."""
    start, length = extent_along(placement.seen, axis)
    centres = placement.first[axis] + placement.step[axis] * np.arange(placement.grid[axis])
    # A tile that ends where the bars end touches nothing, however that was rounded.
    half_tile = placement.step[axis] / 2 * (1 - 1e-6)
    inside = np.flatnonzero((centres > start - half_tile) & (centres < start + length + half_tile))
    return slice(int(inside[0]), int(inside[-1]) + 1)


def crop_grid(placement: Placement, rows: slice, columns: slice) -> Placement:
    """The placement of the part of the grid that has these rows and columns of cells."""
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
    """Cell values -> a map over the photo, float32, NaN where nothing was seen.

    Bilinear between the cells' centres, level beyond the outer ones.

    `size`: draw on a grid of (height, width) other than the photo's own.
    `density`: every cell's value is spread over its pixels so that the map sums to what the cells summed to.
    `smooth`: bicubic, for the eye: it passes through the cells' values too, and may swing beyond them.
    """
    height, width = size or placement.size
    zoom = (height / placement.size[0], width / placement.size[1])
    weights_between = cubic_weights if smooth else linear_weights
    rows = weights_between(
        placement.first[0] * zoom[0], placement.step[0] * zoom[0], cells=placement.grid[0], pixels=height
    )
    columns = weights_between(
        placement.first[1] * zoom[1], placement.step[1] * zoom[1], cells=placement.grid[1], pixels=width
    )
    unseen_rows = unseen(placement.seen, axis=0, zoom=zoom[0], pixels=height)
    unseen_columns = unseen(placement.seen, axis=1, zoom=zoom[1], pixels=width)
    if density:
        rows = as_density(rows, unseen_rows)
        columns = as_density(columns, unseen_columns)
    values = torch.from_numpy(np.ascontiguousarray(cells, np.float32))
    # Multiplied by torch: numpy's own threads would spin.
    pixels = (torch.from_numpy(rows) @ values @ torch.from_numpy(columns).T).numpy()
    pixels[unseen_rows] = np.nan
    pixels[:, unseen_columns] = np.nan
    return pixels


def cell_positions(first: float, step: float, cells: int, pixels: int) -> Float[np.ndarray, " pixels"]:
    """Where the pixels' centres lie among the cells, 0 ... cells - 1: beyond the outer cells at those."""
    return np.clip((np.arange(pixels) + 0.5 - first) / step, 0, cells - 1)


@lru_cache(maxsize=8)  # photos of one shape have the same: rows and columns, of the photo and of its panel
def linear_weights(first: float, step: float, cells: int, pixels: int) -> Float[np.ndarray, "pixels cells"]:
    """Linear interpolation as a matrix: row p holds the shares of the cells at the centre of pixel p.

    Cell i is centred at first + step * i, in pixels.
    """
    positions = cell_positions(first, step, cells=cells, pixels=pixels)
    distances = np.abs(positions[:, None] - np.arange(cells))
    return np.maximum(0, 1 - distances).astype(np.float32)


@lru_cache(maxsize=8)
def cubic_weights(first: float, step: float, cells: int, pixels: int) -> Float[np.ndarray, "pixels cells"]:
    """Cubic interpolation as a matrix (Catmull and Rom 1974), as `linear_weights` has it.

    Each centre's slope is that between its neighbours; the outer ones' is 0.
    """
    positions = cell_positions(first, step, cells=cells, pixels=pixels)
    offsets = (positions[:, None] - np.arange(cells)).astype(np.float32)
    nearness = np.maximum(0, 1 - np.abs(offsets))
    squares = nearness * nearness
    weights = squares * (3 - 2 * nearness)  # what a centre's value adds to a pixel
    half_slopes = squares * offsets / 2  # what half its slope adds
    weights[:, 2:] += half_slopes[:, 1:-1]
    weights[:, :-2] -= half_slopes[:, 1:-1]
    return weights


def as_density(
    weights: Float[np.ndarray, "pixels cells"], hidden: Bool[np.ndarray, " pixels"]
) -> Float[np.ndarray, "pixels cells"]:
    """The weights of each cell over the pixels that are not hidden, summing to 1.

    A cell between pixel centres goes to the nearest pixel that is not hidden.
    """
    cells = np.arange(weights.shape[1])
    positions = np.where(hidden, np.inf, weights @ cells)
    shares = weights * ~hidden[:, None]
    missed = np.flatnonzero(shares.sum(0) == 0)
    nearest = np.abs(positions[:, None] - missed).argmin(0)
    shares[nearest, missed] = 1
    return shares / shares.sum(0)


def unseen(seen: Box, axis: int, zoom: float, pixels: int) -> Bool[np.ndarray, " pixels"]:
    """Which pixels along an axis, `zoom` times as many as the photo's, are centred outside of `seen`."""
    start, length = extent_along(seen, axis)
    centres = (np.arange(pixels) + 0.5) / zoom
    return (centres < start) | (centres >= start + length)


def extent_along(box: Box, axis: int) -> tuple[float, float]:
    """(start, length) of a box along the rows (axis 0) or the columns (1)."""
    return (box.top, box.height) if axis == 0 else (box.left, box.width)


def as_placement(record: Mapping[str, Any]) -> Placement:
    """A placement from what `dataclasses.asdict` made of it, or JSON of that.

    Raises KeyError and TypeError where the record is that of something else.
    """
    fields: dict[str, Any] = {
        name: tuple(value) if isinstance(value, list) else value for name, value in record.items()
    }
    fields["seen"] = Box(**record["seen"])
    return Placement(**fields)

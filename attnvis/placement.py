"""Where a cell of the grid lies on the original photo, and how cell values spread over its pixels.  Geometry lives only here.

A network's `Reach` says where its cells are centred on the input.  `rf` measures it on the network itself (`probe`); `stretch` is the
field's habit: the grid is pulled over the whole input, which draws most nets half a stride to the lower right of where they looked.
"""

import copy
from dataclasses import dataclass, replace

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import nn

from attnvis.values import Box, Placement, View

__all__ = ["Reach", "place", "probe", "spread", "stretch", "visible"]


@dataclass(frozen=True)
class Reach:
    """Cell i is centred at offset + stride * i, per axis (rows, columns), in pixels of the input from the first pixel's centre."""

    offset: tuple[float, float]
    stride: tuple[float, float]


def stretch(view: View, grid: tuple[int, int]) -> Reach:
    """What upsampling the map to the input's size assumes (interpolate, align_corners=False)."""
    strides = (view.size[0] / grid[0], view.size[1] / grid[1])
    return Reach(((strides[0] - 1) / 2, (strides[1] - 1) / 2), strides)


def place(view: View, reach: Reach, grid: tuple[int, int], size: tuple[int, int]) -> Placement:
    """A grid on the input -> the same grid on the photo of `size` (height, width)."""
    first = view.to_photo(reach.offset[0] + 0.5, reach.offset[1] + 0.5)  # pixel k is centred at k + .5
    step = (reach.stride[0] / view.scale[0], reach.stride[1] / view.scale[1])
    return Placement(first, step, grid, size, view.seen)


def visible(placement: Placement) -> tuple[slice, slice]:
    """The rows and columns of cells that touch the photo: a letterbox has cells that see nothing but its bars."""
    return (
        touching(placement, 0, placement.seen.top, placement.seen.height),
        touching(placement, 1, placement.seen.left, placement.seen.width),
    )


def touching(placement: Placement, axis: int, start: float, length: float) -> slice:
    where = placement.first[axis] + placement.step[axis] * np.arange(placement.grid[axis])
    reach = placement.step[axis] / 2 * (1 - 1e-6)  # a tile that ends where the bars end touches nothing, however that was rounded
    inside = np.flatnonzero((where > start - reach) & (where < start + length + reach))
    return slice(int(inside[0]), int(inside[-1]) + 1)


def cut(placement: Placement, rows: slice, columns: slice) -> Placement:
    """The placement of a part of the grid."""
    return replace(
        placement,
        first=placement.centre(rows.start, columns.start),
        grid=(rows.stop - rows.start, columns.stop - columns.start),
    )


def spread(
    cells: Float[np.ndarray, "h w"], placement: Placement, size: tuple[int, int] | None = None, density: bool = False
) -> Float[np.ndarray, "H W"]:
    """Cell values -> a map over the photo: bilinear between the cells' centres, level beyond the outer ones, NaN where nothing was seen.

    `density`: every cell's value is spread over its pixels so that the map sums to what the cells summed to.
    `size` draws on a grid of (height, width) other than the photo's own.
    """
    height, width = size or placement.size
    zoom = (height / placement.size[0], width / placement.size[1])
    rows = tent(placement.first[0] * zoom[0], placement.step[0] * zoom[0], placement.grid[0], height)
    columns = tent(placement.first[1] * zoom[1], placement.step[1] * zoom[1], placement.grid[1], width)
    outside = [unseen(placement.seen, axis, zoom[axis], length) for axis, length in enumerate((height, width))]
    if density:
        rows, columns = dealt(rows, outside[0]), dealt(columns, outside[1])
    drawn = (rows @ np.asarray(cells, np.float32)) @ columns.T
    drawn[outside[0]] = np.nan
    drawn[:, outside[1]] = np.nan
    return drawn


def tent(first: float, step: float, cells: int, pixels: int) -> Float[np.ndarray, "pixels cells"]:
    """Linear interpolation as a matrix: row p holds the shares of the cells at the centre of pixel p."""
    position = np.clip((np.arange(pixels) + 0.5 - first) / step, 0, cells - 1)
    return np.maximum(0, 1 - np.abs(position[:, None] - np.arange(cells))).astype(np.float32)


def dealt(weights: Float[np.ndarray, "pixels cells"], hidden: Bool[np.ndarray, " pixels"]) -> Float[np.ndarray, "pixels cells"]:
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


def probe(net: nn.Module, length: int = 1024, breadth: int = 32) -> Reach:
    """Measure a network's reach: `net` maps images [B, 3, H, W] to maps [B, D, h, w].

    A copy of the network is made to do nothing but average.  What a cell then adds for a picture whose pixels hold their own position,
    over what it adds for a picture of ones, is the centre of mass of its receptive field; two cells in the middle of a long strip give
    stride and offset, to .02 px where the field is longer than the strip (the deepest EfficientNet).  Padding counts from the top left
    corner, so one probe holds for every size.
    """
    averager = linearised(net)
    (top, left), (down, across) = zip(*(middle_cells(averager, length, breadth, axis) for axis in (2, 3)), strict=True)
    return Reach((top, left), (down, across))


@torch.inference_mode()
def middle_cells(net: nn.Module, length: int, breadth: int, axis: int) -> tuple[float, float]:
    """(offset, stride) along one axis of the input, to a thousandth of a pixel."""
    position = torch.arange(length, dtype=torch.float64)
    ramp = position.view((-1, 1) if axis == 2 else (1, -1)).expand((length, breadth) if axis == 2 else (breadth, length))
    one = torch.ones_like(ramp)
    pictures = torch.stack([one, 2 * one, one + ramp])  # all positive: relu called as a function cannot be taken out of a copy
    maps = net(pictures.unsqueeze(1).expand(-1, 3, -1, -1))
    base, ones, moments = maps.mean(tuple({1, 2, 3} - {axis}))  # each [cells]
    where = (moments - base) / (ones - base)
    cell = len(where) // 2
    stride = round(float(where[cell] - where[cell - 1]), 3)
    return round(float(where[cell]) - stride * cell, 3) + 0.0, stride


def linearised(net: nn.Module) -> nn.Module:
    """A copy that only averages: convolutions with equal positive weights, pooling by mean, no normalisation, no activation, no gates."""
    copied = nn.Sequential(copy.deepcopy(net)).double().cpu().eval().requires_grad_(False)
    for parent in list(copied.modules()):
        for name, child in list(parent._modules.items()):  # named_children would tell a layer that serves twice only once
            substitute = None if child is None else averaging(child)
            if substitute is not None:
                setattr(parent, name, substitute)
    return copied


def averaging(module: nn.Module) -> nn.Module | None:
    """The linear stand-in of one layer; None: leave it.  Known by name where the class lives in torchvision."""
    if isinstance(module, nn.Conv2d):
        nn.init.constant_(module.weight, 1 / module.weight[0].numel())
        if module.bias is not None:
            nn.init.zeros_(module.bias)
        return None
    if isinstance(module, nn.MaxPool2d):
        return nn.AvgPool2d(module.kernel_size, module.stride, module.padding, module.ceil_mode)
    activation = type(module).__module__ == "torch.nn.modules.activation"
    named = type(module).__name__ in ("SqueezeExcitation", "Dropout", "StochasticDepth", "FrozenBatchNorm2d")
    return nn.Identity() if activation or named or isinstance(module, nn.BatchNorm2d) else None

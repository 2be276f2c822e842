"""Where a cell of the grid lies on the original photo, and how cell values spread over its pixels.  Geometry lives only here.

A network's `Reach` says where its cells are centred on the input.  `rf` measures it on the network itself (`probe`); `stretch` is the
field's habit: the grid is pulled over the whole input, which draws most nets half a stride to the lower right of where they looked.
"""

import copy
import dataclasses
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import fx, nn

from attnvis.values import Box, Placement, View

__all__ = ["Reach", "Shift", "place", "probe", "shifted", "spread", "stretch", "visible"]


@dataclass(frozen=True)
class Reach:
    """Cell i is centred at offset + stride * i, per axis (rows, columns), in pixels of the input from the first pixel's centre."""

    offset: tuple[float, float]
    stride: tuple[float, float]
    field: tuple[float, float] | None = dataclasses.field(default=None, compare=False)  # what one cell can see: height, width


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


def shifted(reach: Reach, shift: Shift) -> Reach:
    """Where the cells look."""
    rows, columns = reach.offset
    return replace(reach, offset=(rows + shift.pixels, columns + shift.pixels))


def stretch(view: View, grid: tuple[int, int]) -> Reach:
    """What upsampling the map to the input's size assumes (interpolate, align_corners=False)."""
    strides = (view.size[0] / grid[0], view.size[1] / grid[1])
    return Reach(((strides[0] - 1) / 2, (strides[1] - 1) / 2), strides)


def place(view: View, reach: Reach, grid: tuple[int, int], size: tuple[int, int], source: str = "") -> Placement:
    """A grid on the input -> the same grid on the photo of `size` (height, width); `source` says how its cells' place is known."""
    first = view.to_photo(reach.offset[0] + 0.5, reach.offset[1] + 0.5)  # pixel k is centred at k + .5
    step = (reach.stride[0] / view.scale[0], reach.stride[1] / view.scale[1])
    field = reach.field and (reach.field[0] / view.scale[0], reach.field[1] / view.scale[1])
    return Placement(first, step, grid, size, view.seen, field, source)


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
    between = cubic if smooth else tent
    rows = between(placement.first[0] * zoom[0], placement.step[0] * zoom[0], placement.grid[0], height)
    columns = between(placement.first[1] * zoom[1], placement.step[1] * zoom[1], placement.grid[1], width)
    outside = [unseen(placement.seen, axis, zoom[axis], length) for axis, length in enumerate((height, width))]
    if density:
        rows, columns = dealt(rows, outside[0]), dealt(columns, outside[1])
    grid = np.ascontiguousarray(cells, np.float32)
    drawn = (torch.from_numpy(rows) @ torch.from_numpy(grid) @ torch.from_numpy(columns).T).numpy()  # numpy's own threads would spin
    drawn[outside[0]] = np.nan
    drawn[:, outside[1]] = np.nan
    return drawn


def tent(first: float, step: float, cells: int, pixels: int) -> Float[np.ndarray, "pixels cells"]:
    """Linear interpolation as a matrix: row p holds the shares of the cells at the centre of pixel p."""
    position = np.clip((np.arange(pixels) + 0.5 - first) / step, 0, cells - 1)
    return np.maximum(0, 1 - np.abs(position[:, None] - np.arange(cells))).astype(np.float32)


def cubic(first: float, step: float, cells: int, pixels: int) -> Float[np.ndarray, "pixels cells"]:
    """Cubic interpolation as a matrix (Catmull and Rom 1974): each centre's slope is that between its neighbours, the outer ones' is 0."""
    position = np.clip((np.arange(pixels) + 0.5 - first) / step, 0, cells - 1)
    away = (position[:, None] - np.arange(cells)).astype(np.float32)
    near = np.maximum(0, 1 - np.abs(away))
    square = near * near
    values, slopes = square * (3 - 2 * near), square * away / 2  # what a centre's value adds to a pixel, and half its slope
    values[:, 2:] += slopes[:, 1:-1]
    values[:, :-2] -= slopes[:, 1:-1]
    return values


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


@torch.inference_mode(False)  # what is made in inference mode has no gradients
def probe(net: nn.Module, size: tuple[int, int] = (0, 0), length: int = 1024, breadth: int = 32) -> Reach:
    """Measure a network's reach: `net` maps images [B, 3, H, W] to maps [B, D, h, w].

    A copy of the network is made to do nothing but average.  The gradient of one of its cells with respect to a long strip is then the
    cell's receptive field: its centre of mass is where the cell lies (to .02 px where the field is longer than the strip, as in the
    deepest EfficientNet), its extent what the cell can see.  Two cells in the middle give stride and offset.  Padding counts from the top
    left corner, so one probe holds for every size - but for nets that pad by their input's size, as TensorFlow does: `size` is the input's
    (height, width), and the strip leaves the same remainder.  Raises ValueError where the cells do not lie on a line at equal distances.
    """
    averager, attends = linearised(net)
    rows, columns = (along(averager, axis, length + size[axis - 2] % 64, breadth) for axis in (2, 3))
    (top, down, high), (left, across, wide) = rows, columns
    return Reach((top, left), (down, across), None if attends else (high, wide))


def along(net: nn.Module, axis: int, length: int, breadth: int) -> tuple[float, float, float]:
    """(offset, stride, extent of the field) along one axis of the input, offset and stride to a thousandth of a pixel."""
    strip = torch.ones(1, 1, *((length, breadth) if axis == 2 else (breadth, length)), dtype=torch.float64, requires_grad=True)
    try:
        with torch.enable_grad():
            cells = net(strip.expand(-1, 3, -1, -1)).mean(tuple({0, 1, 2, 3} - {axis}))
    except (RuntimeError, AssertionError):
        if breadth >= 256:
            raise
        return along(net, axis, length, 2 * breadth)  # AlexNet and Inception shrink a narrow strip to nothing
    position = torch.arange(length, dtype=torch.float64)

    def field(cell: int) -> torch.Tensor:
        return torch.autograd.grad(cells[cell], strip, retain_graph=True)[0].sum(tuple({0, 1, 2, 3} - {axis}))

    middle = len(cells) // 2
    fields = {cell: field(cell) for cell in (middle, middle - 1, middle - len(cells) // 8)}
    where = {cell: float(position @ seen / seen.sum()) for cell, seen in fields.items()}
    stride = round(where[middle] - where[middle - 1], 3)
    offset = round(where[middle] - stride * middle, 3) + 0.0
    missed = max(abs(offset + stride * cell - centre) for cell, centre in where.items())
    if not (stride > 0 and missed < 0.02 * stride):  # NaN fails too
        raise ValueError(f"the cells do not lie at equal distances: {', '.join(f'cell {cell} at {at:.1f}' for cell, at in where.items())}")
    return offset, stride, float(torch.count_nonzero(fields[middle]))


def linearised(net: nn.Module) -> tuple[nn.Module, bool]:
    """A copy that only averages: convolutions with equal positive weights, pooling by mean, no normalisation, no activation, no gates.

    And whether attention was left out, which sees farther than what stays.  No trained value is left in the copy, wherever it is used: a
    convolution may be called as a function of a bare parameter.
    """
    attends = False
    copied = nn.Sequential(copy.deepcopy(net)).double().cpu().eval().requires_grad_(False)
    for parent in list(copied.modules()):
        for name, child in list(parent._modules.items()):  # named_children would tell a layer that serves twice only once
            substitute = None if child is None else averaging(child)
            if substitute is not None:
                setattr(parent, name, substitute)
        if isinstance(parent, fx.GraphModule):
            attends |= average_functions(parent)
    for name, parameter in copied.named_parameters():
        level(name, parameter)
    return copied, attends


def level(name: str, parameter: torch.Tensor) -> None:
    """Nothing trained is left: a kernel or matrix takes the mean of its inputs, a bias adds nothing, a scale changes nothing."""
    if parameter.ndim > 1:
        nn.init.constant_(parameter, 1 / parameter[0].numel())
    else:
        nn.init.constant_(parameter, 0.0 if "bias" in name.rpartition(".")[2] else 1.0)


def averaging(module: nn.Module) -> nn.Module | None:
    """The linear stand-in of one layer; None: leave it.  Gates are known by name: their classes live in torchvision and elsewhere."""
    if isinstance(module, nn.MaxPool2d):
        return MeanPool(module.kernel_size, module.stride, module.padding, module.dilation, module.ceil_mode)
    home = type(module).__module__ in ("torch.nn.modules.activation", "torch.nn.modules.dropout")
    named = any(word in type(module).__name__ for word in GATES)
    norm = isinstance(module, nn.BatchNorm2d | nn.LayerNorm | nn.GroupNorm | nn.InstanceNorm2d | nn.LocalResponseNorm)
    return nn.Identity() if home or named or norm else None


GATES = ("SqueezeExc", "SEModule", "Dropout", "DropPath", "StochasticDepth", "FrozenBatchNorm")


class MeanPool(nn.Module):
    """The mean where max pooling takes the maximum; of a dilated window, the mean of all that it spans, which has the same middle."""

    def __init__(self, kernel_size: Any, stride: Any = None, padding: Any = 0, dilation: Any = 1, ceil_mode: bool = False, *_: Any) -> None:
        super().__init__()
        kernel, gaps = ((value, value) if isinstance(value, int) else value for value in (kernel_size, dilation))
        spanned = tuple((length - 1) * gap + 1 for length, gap in zip(kernel, gaps, strict=True))
        self.settings = (spanned, kernel_size if stride is None else stride, padding, ceil_mode)

    def forward(self, maps: torch.Tensor) -> torch.Tensor:
        return nn.functional.avg_pool2d(maps, *self.settings)


def average_functions(traced: fx.GraphModule) -> bool:
    """What a traced network calls as functions: max pooling becomes the mean, normalisation nothing; whether there was attention."""
    attends = False
    for node in list(traced.graph.nodes):
        called = getattr(node.target, "__name__", "") if node.op == "call_function" else ""
        if called == "max_pool2d":
            settings = {key: value for key, value in node.kwargs.items() if key not in ("input", "return_indices")}
            traced.add_module(f"mean_of_{node.name}", MeanPool(*node.args[1:], **settings))
            node.op, node.target = "call_module", f"mean_of_{node.name}"
            node.args, node.kwargs = (node.args[0] if node.args else node.kwargs["input"],), {}
        elif (
            called in ("layer_norm", "batch_norm", "group_norm") or "window_attention" in called
        ):  # Swin's windows have no middle of their own
            node.replace_all_uses_with(node.args[0] if node.args else node.kwargs["input"])
            traced.graph.erase_node(node)
            attends |= "attention" in called
    traced.recompile()
    return attends

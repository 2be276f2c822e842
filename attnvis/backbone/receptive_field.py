"""A network in, where its cells are centred on the input out: the receptive field of a copy that averages."""

import copy
from typing import Any

import torch
from torch import fx, nn

from attnvis.geometry import ReceptiveField

__all__ = ["probe"]


@torch.inference_mode(False)  # what is made in inference mode has no gradients
def probe(
    net: nn.Module, size: tuple[int, int] = (0, 0), length: int = 1024, breadth: int = 32
) -> ReceptiveField:
    """Measure where a network's cells are centred: `net` maps images [B, 3, H, W] to maps [B, D, h, w].

    A copy of the network is made to do nothing but average.  The gradient of one of its cells with respect to
    a long strip is then the cell's receptive field: its centre of mass is where the cell lies (to .02 px
    where the field is longer than the strip, as in the deepest EfficientNet), its extent what the cell can
    see.  Two cells in the middle give stride and offset.  Padding counts from the top left corner, so one
    probe holds for every size - but for nets that pad by their input's size, as TensorFlow does: `size` is
    the input's (height, width), and the strip leaves the same remainder.  Raises ValueError where the cells
    do not lie on a line at equal distances.
    """
    averager, attends = linearised(net)
    top, down, height = along(averager, 2, length + size[0] % 64, breadth)
    left, across, width = along(averager, 3, length + size[1] % 64, breadth)
    return ReceptiveField(
        offset=(top, left), stride=(down, across), field=None if attends else (height, width)
    )


def along(net: nn.Module, axis: int, length: int, breadth: int) -> tuple[float, float, float]:
    """(offset, stride, extent of the field) along one axis of the input, in pixels, to a thousandth.

    Raises ValueError where the cells do not lie at equal distances.
    """
    sides = (length, breadth) if axis == 2 else (breadth, length)
    strip = torch.ones(1, 1, *sides, dtype=torch.float64, requires_grad=True)
    others = tuple({0, 1, 2, 3} - {axis})
    try:
        with torch.enable_grad():
            cells = net(strip.expand(-1, 3, -1, -1)).mean(others)
    except (RuntimeError, AssertionError):
        if breadth >= 256:
            raise
        return along(net, axis, length, 2 * breadth)  # AlexNet and Inception shrink a narrow strip to nothing
    position = torch.arange(length, dtype=torch.float64)

    def field(cell: int) -> torch.Tensor:
        return torch.autograd.grad(cells[cell], strip, retain_graph=True)[0].sum(others)

    middle = len(cells) // 2
    fields = {cell: field(cell) for cell in (middle, middle - 1, middle - len(cells) // 8)}
    centres = {cell: float(position @ weights / weights.sum()) for cell, weights in fields.items()}
    stride = round(centres[middle] - centres[middle - 1], 3)
    offset = round(centres[middle] - stride * middle, 3) + 0.0
    error = max(abs(offset + stride * cell - centre) for cell, centre in centres.items())
    if not (stride > 0 and error < 0.02 * stride):  # NaN fails too
        places = [f"cell {cell} at {centre:.1f}" for cell, centre in centres.items()]
        raise ValueError(f"the cells do not lie at equal distances: {', '.join(places)}")
    return offset, stride, float(torch.count_nonzero(fields[middle]))


def linearised(net: nn.Module) -> tuple[nn.Module, bool]:
    """A copy that only averages, and whether attention was left out, which sees farther than what stays.

    Convolutions with equal positive weights, pooling by mean, no normalisation, activation or gates.  No
    trained value is left in the copy, wherever it is used: a convolution may be called as a function of a
    bare parameter.
    """
    attends = False
    averager = nn.Sequential(copy.deepcopy(net)).double().cpu().eval().requires_grad_(False)
    for parent in list(averager.modules()):
        # Not named_children, which gives a layer that serves twice only once.
        for name, child in list(parent._modules.items()):
            substitute = None if child is None else averaging(child)
            if substitute is not None:
                setattr(parent, name, substitute)
        if isinstance(parent, fx.GraphModule):
            attends |= average_functions(parent)
    for name, parameter in averager.named_parameters():
        level(name, parameter)
    return averager, attends


def level(name: str, parameter: torch.Tensor) -> None:
    """Nothing trained is left: a kernel takes the mean of its inputs, biases and scales change nothing."""
    if parameter.ndim > 1:
        nn.init.constant_(parameter, 1 / parameter[0].numel())
    else:
        nn.init.constant_(parameter, 0.0 if "bias" in name.rpartition(".")[2] else 1.0)


def averaging(module: nn.Module) -> nn.Module | None:
    """The linear stand-in of one layer; None: leave it.

    Gates are known by name: their classes live in torchvision and elsewhere.
    """
    if isinstance(module, nn.MaxPool2d):
        return MeanPool(module.kernel_size, module.stride, module.padding, module.dilation, module.ceil_mode)
    if has_plain_weight(module, nn.Linear):
        return with_class(module, MeanLinear)
    if has_plain_weight(module, nn.Conv2d) and is_padded_by_numbers(module):
        return with_class(module, MeanConvolution)
    kind = type(module)
    is_activation = kind.__module__ in ("torch.nn.modules.activation", "torch.nn.modules.dropout")
    is_gate = any(word in kind.__name__ for word in GATES)
    return nn.Identity() if is_activation or is_gate or isinstance(module, NORMS) else None


NORMS = (nn.BatchNorm2d, nn.LayerNorm, nn.GroupNorm, nn.InstanceNorm2d, nn.LocalResponseNorm)
GATES = ("SqueezeExc", "SEModule", "Dropout", "DropPath", "StochasticDepth", "FrozenBatchNorm")


def has_plain_weight(module: nn.Module, kind: type[nn.Module]) -> bool:
    """Whether a layer is of this very class, and its weight a parameter of its own."""
    return type(module) is kind and "weight" in module._parameters


def is_padded_by_numbers(convolution: Any) -> bool:
    """Whether zeros are added at either end, so many as two numbers say."""
    return convolution.padding_mode == "zeros" and isinstance(convolution.padding, tuple)


def with_class(module: nn.Module, kind: type[nn.Module]) -> nn.Module:
    """The same layer, with the same parameters and settings, that runs another class's `forward`."""
    twin = copy.copy(module)
    twin.__class__ = kind
    return twin


class MeanConvolution(nn.Conv2d):
    """A convolution whose weights are all equal: the outputs of a group are the same, and computed once.

    Its kernel is a mean over columns of means over rows: two short kernels do what a long one does.
    """

    def forward(self, maps: torch.Tensor) -> torch.Tensor:
        groups = maps.unflatten(1, (self.groups, -1)).mean(2)  # [B, G, H, W]
        means = groups.flatten(0, 1).unsqueeze(1)  # [B * G, 1, H, W]
        for axis in (0, 1):
            means = self.mean_along(means, axis)
        outputs = means.repeat(1, self.out_channels // self.groups, 1, 1)
        return outputs.unflatten(0, (len(maps), self.groups)).flatten(1, 2)

    def mean_along(self, maps: torch.Tensor, axis: int) -> torch.Tensor:
        def alone(setting: Any, neutral: int) -> tuple[int, int]:
            return (setting[0], neutral) if axis == 0 else (neutral, setting[1])

        length = self.kernel_size[axis]
        kernel = maps.new_full((1, 1, *alone(self.kernel_size, 1)), 1 / length)
        stride, padding = alone(self.stride, 1), alone(self.padding, 0)
        return nn.functional.conv2d(maps, kernel, None, stride, padding, alone(self.dilation, 1))


class MeanLinear(nn.Linear):
    """A linear layer whose weights are all equal: every output is the mean of the inputs."""

    def forward(self, maps: torch.Tensor) -> torch.Tensor:
        return maps.mean(-1, keepdim=True).repeat_interleave(self.out_features, -1)


class MeanPool(nn.Module):
    """The mean where max pooling takes the maximum.

    Of a dilated window, the mean of all that it spans, which has the same middle.
    """

    def __init__(
        self,
        kernel_size: Any,
        stride: Any = None,
        padding: Any = 0,
        dilation: Any = 1,
        ceil_mode: bool = False,
        *_: Any,
    ) -> None:
        super().__init__()
        kernel, gaps = (
            (value, value) if isinstance(value, int) else value for value in (kernel_size, dilation)
        )
        spanned = tuple((length - 1) * gap + 1 for length, gap in zip(kernel, gaps, strict=True))
        self.settings = (spanned, kernel_size if stride is None else stride, padding, ceil_mode)

    def forward(self, maps: torch.Tensor) -> torch.Tensor:
        return nn.functional.avg_pool2d(maps, *self.settings)


def average_functions(traced: fx.GraphModule) -> bool:
    """In a graph's calls of functions, max pooling becomes the mean, normalisation nothing.

    Whether there was attention, which was left out.
    """
    attends = False
    for node in list(traced.graph.nodes):
        function = getattr(node.target, "__name__", "") if node.op == "call_function" else ""
        if function == "max_pool2d":
            left_out = ("input", "return_indices")
            settings = {key: value for key, value in node.kwargs.items() if key not in left_out}
            traced.add_module(f"mean_of_{node.name}", MeanPool(*node.args[1:], **settings))
            node.op, node.target = "call_module", f"mean_of_{node.name}"
            node.args, node.kwargs = (node.args[0] if node.args else node.kwargs["input"],), {}
        elif function in ("layer_norm", "batch_norm", "group_norm") or "window_attention" in function:
            # Swin's windows have no middle of their own
            node.replace_all_uses_with(node.args[0] if node.args else node.kwargs["input"])
            traced.graph.erase_node(node)
            attends |= "attention" in function
    traced.recompile()
    return attends

"""A network and names of layers in; `encode` (images -> maps) and a `rest` per layer (maps -> logits) out.

By the traced graph where there is one, else by hooks; a network of `features`, mean and `classifier` by slicing.
"""

import contextlib
import difflib
import io
import math
import threading
import warnings
from collections.abc import Callable, Mapping, Sequence
from typing import Any, no_type_check

import torch
from torch import Tensor, fx, nn

__all__ = [
    "STRIDES",
    "TRACING",
    "Cut",
    "Rest",
    "SelectLayer",
    "by_stride",
    "channels_first",
    "channels_last_memory",
    "cut_nodes",
    "depth",
    "divide",
    "first_line",
    "nodes_of",
    "pick",
    "quietly",
    "slices",
]

Rest = Callable[[Tensor], Tensor]  # maps [B, D, h, w] -> logits [B, C]: the layers after the cut

STRIDES = {"stage1": 4, "stage2": 8, "stage3": 16}

TRACING = threading.Lock()  # torch.fx patches nn.Module while it traces

Cut = Callable[[nn.Module, Sequence[str]], tuple[nn.Module, list[Rest]]]


def first_line(error: Exception) -> str:
    return str(error).partition("\n")[0]


class SelectLayer(nn.Module):
    """One of several layers, as `probe` wants it."""

    def __init__(self, encode: nn.Module, number: int) -> None:
        super().__init__()
        self.encode, self.number = encode, number

    def forward(self, images: Tensor) -> Tensor:
        return self.encode(images)[self.number]


class ChannelsFirst(nn.Module):
    """Maps [B, h, w, D] turned into [B, D, h, w]."""

    def __init__(self, encode: nn.Module, which: Sequence[bool]) -> None:
        super().__init__()
        self.encode, self.which = encode, tuple(which)

    @no_type_check
    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        found = zip(self.encode(images), self.which, strict=True)
        return tuple(maps.permute(0, 3, 1, 2) if last else maps for maps, last in found)


def channels_last_memory(net: nn.Module) -> nn.Module:
    with contextlib.suppress(
        RuntimeError
    ):  # a parameter of five axes belongs to no convolution in two dimensions
        net.to(memory_format=torch.channels_last)
    return net


def channels_last(rest: Rest) -> Rest:
    return lambda maps: rest(maps.permute(0, 2, 3, 1))


class Slices(nn.Module):
    """`features` up to its deepest layer; depths are counted in entries of `features`, the images being depth 0."""

    def __init__(self, features: nn.Sequential, depths: Sequence[int]) -> None:
        super().__init__()
        self.features, self.depths = features[: max(depths)], tuple(depths)

    @no_type_check  # folding traces it, with what is no Tensor
    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        maps = {0: images}
        for depth, block in enumerate(self.features):
            maps[depth + 1] = block(maps[depth])
        return tuple(maps[depth] for depth in self.depths)


def slices(net: Any, nodes: Sequence[str]) -> tuple[nn.Module, list[Rest]]:
    """A network of `features` (a Sequential), their mean and `classifier`, cut without torchvision, whose import takes seconds."""

    def after_depth(depth: int) -> Rest:
        return lambda maps: net.classifier(net.features[depth:](maps).mean((2, 3)))

    depths = [int(node.removeprefix("features.")) + 1 for node in nodes]
    return Slices(net.features, depths), [after_depth(depth) for depth in depths]


def cut_nodes(net: Any) -> list[str]:
    """The nodes that `slices` can cut at."""
    return [f"features.{number}" for number in range(len(net.features))]


def nodes_of(net: nn.Module) -> list[str]:
    """The nodes of the traced graph; of a network that cannot be traced, its submodules."""
    from torchvision.models.feature_extraction import get_graph_node_names

    try:
        with TRACING, warnings.catch_warnings():
            warnings.simplefilter(
                "ignore", UserWarning
            )  # that training would have other nodes: nothing is trained here
            return get_graph_node_names(net)[1]
    except Exception:  # a network's own code raises what it likes at a tracer
        return [name for name, _ in net.named_modules() if name]


def divide(net: nn.Module, nodes: Sequence[str]) -> tuple[nn.Module, list[Rest]]:
    """By the traced graph, truncated at the last node that is needed; where it cannot be traced, by hooks."""
    from torchvision.models.feature_extraction import create_feature_extractor

    names = nodes_of(net)
    try:
        with TRACING, warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)
            encode = create_feature_extractor(net, {node: str(number) for number, node in enumerate(nodes)})
            rests: list[Rest] = [
                after(create_feature_extractor(net, {node: "maps", names[-1]: "logits"})) for node in nodes
            ]
        result = next(node for node in encode.graph.nodes if node.op == "output")
        result.args = (
            tuple(result.args[0][str(number)] for number in range(len(nodes))),
        )  # in the order that was asked for
        return fx.GraphModule(encode, encode.graph), rests
    except Exception:
        hooked = Hooked(net, nodes)
        return hooked, [hooked.after(node) for node in nodes]


def after(whole: fx.GraphModule) -> fx.GraphModule:
    """{maps, logits} extractor -> the part of the network that turns maps into logits."""
    graph = whole.graph
    result = next(node for node in graph.nodes if node.op == "output")
    outputs = result.args[0]
    with graph.inserting_before(next(iter(graph.nodes))):
        maps = graph.placeholder("maps")
    result.args = (outputs["logits"],)
    outputs["maps"].replace_all_uses_with(maps)
    for node in list(graph.nodes):
        if node.target is torch._assert:  # about the images, which are no longer there
            graph.erase_node(node)
    graph.eliminate_dead_code()
    for node in list(graph.nodes):
        if node.op == "placeholder" and node is not maps and not node.users:
            graph.erase_node(node)
    return fx.GraphModule(whole, graph)


class Hooked(nn.Module):
    """For a network whose Python cannot be traced: run until the last of the layers has spoken."""

    class Enough(Exception):
        pass

    def __init__(self, net: nn.Module, layers: Sequence[str]) -> None:
        super().__init__()
        self.net, self.names, self.side = net, tuple(layers), (97, 97)

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        found: dict[str, Tensor] = {}
        self.side = (images.shape[2], images.shape[3])

        def keep(name: str) -> Callable:
            def hook(module: nn.Module, inputs: object, output: Tensor) -> None:
                found[name] = output
                if len(found) == len(self.names):
                    raise Hooked.Enough

            return hook

        handles = [self.net.get_submodule(name).register_forward_hook(keep(name)) for name in self.names]
        try:
            self.net(images)
        except Hooked.Enough:
            pass
        finally:
            for handle in handles:
                handle.remove()
        if len(found) < len(self.names):
            raise ValueError(
                f"layer {next(name for name in self.names if name not in found)} took no part in the forward pass"
            )
        return tuple(found[name] for name in self.names)

    def after(self, name: str) -> Rest:
        """Maps -> logits: the whole network on an empty image, with the layer's answer put in its place."""

        def rest(maps: Tensor) -> Tensor:
            handle = self.net.get_submodule(name).register_forward_hook(lambda *_: maps)
            try:
                return self.net(maps.new_zeros(len(maps), 3, *self.side))
            finally:
                handle.remove()

        return rest


def channels_first(
    encode: nn.Module, rests: list[Rest], layers: Sequence[str], name: str
) -> tuple[nn.Module, list[Rest]]:
    """Maps [B, D, h, w], whatever order the network has: the axis that another size of the input leaves as it was is D."""
    try:
        with torch.inference_mode(), quietly():
            shapes = [
                [maps.shape for maps in encode(torch.zeros(1, 3, *size))] for size in ((97, 161), (161, 97))
            ]
    except (
        RuntimeError,
        AssertionError,
        ValueError,
    ):  # a network of one size only; torchvision's have [B, D, h, w]
        return encode, rests
    orders = []
    for node, one, other in zip(layers, *shapes, strict=True):
        if len(one) != 4:
            raise ValueError(
                f"layer {node} of {name} gives {tuple(one)}, not maps [B, D, h, w]: choose a convolutional layer"
            )
        orders.append(one[1] != other[1] and one[3] == other[3])
    if not any(orders):
        return encode, rests
    return ChannelsFirst(encode, orders), [
        channels_last(rest) if last else rest for rest, last in zip(rests, orders, strict=True)
    ]


def quietly() -> contextlib.AbstractContextManager:
    """torch.fx prints a traceback of its own for what a traced network raises."""
    return contextlib.redirect_stderr(io.StringIO())


@torch.inference_mode()
def by_stride(net: nn.Module, last: str = "") -> dict[str, str]:
    """Stages of a network that names none: of its parts and theirs before `last`, the last that has a cell every 4, 8 and 16 pixels."""
    spoken: list[tuple[str, Tensor]] = []
    parts = [(name, module) for name, module in net.named_modules() if name and name.count(".") < 2]
    handles = [
        module.register_forward_hook(lambda _, __, output, name=name: spoken.append((name, output)))
        for name, module in parts
    ]
    try:
        net(torch.zeros(1, 3, 224, 224))
    finally:
        for handle in handles:
            handle.remove()
    rows = {
        name: maps.shape[2] for name, maps in spoken if getattr(maps, "ndim", 0) == 4 and maps.shape[2] > 1
    }
    if last in rows:
        earlier = list(rows)[: list(rows).index(last)]
        rows = {name: rows[name] for name in earlier if rows[name] != rows[last]}
    found = {
        stage: [name for name, count in rows.items() if 2 ** round(math.log2(224 / count)) == stride]
        for stage, stride in STRIDES.items()
    }
    return {stage: names[-1] for stage, names in found.items() if names}


def depth(stage: str) -> tuple[bool, str]:
    """Stages in order: stage1, stage2, ..., last."""
    return stage == "last", stage


def pick(layer: str, stages: Mapping[str, str], name: str, nodes: Sequence[str] | None = None) -> str:
    """The node that a stage's name stands for; any node's own name will do too."""
    if layer in stages:
        return stages[layer]
    if nodes and (layer in nodes or any(node.startswith(f"{layer}.") for node in nodes)):
        return layer
    near = difflib.get_close_matches(layer, nodes or [], n=3, cutoff=0.4)
    more = f"; or a node such as {', '.join(near or nodes[-4:])}" if nodes else ""
    raise ValueError(
        f"{name} has no layer {layer!r}; {'stages are ' + ', '.join(stages) if stages else 'give layer='}{more}"
    )

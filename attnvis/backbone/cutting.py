"""A network and names of layers in; a `trunk` (images -> maps) and a `rest` per layer (maps -> logits) out.

By the traced graph where there is one, else by hooks; a network of `features` and `classifier` by slicing.
"""

import contextlib
import difflib
import io
import math
import threading
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, no_type_check

import torch
from torch import Tensor, fx, nn

from attnvis.backbone.torchvision_import import import_torchvision

__all__ = [
    "STRIDES",
    "TRACING",
    "Cut",
    "CutNetwork",
    "Hooked",
    "Rest",
    "SelectLayer",
    "SequentialTrunk",
    "channels_first",
    "channels_last_memory",
    "divide",
    "divide_sequential",
    "nodes_of",
    "resolve_layer",
    "sequential_nodes",
    "stage_order",
    "stages_by_stride",
    "without_stderr",
]

Rest = Callable[[Tensor], Tensor]  # maps [B, D, h, w] -> logits [B, C]: the layers after the cut

STRIDES = {"stage1": 4, "stage2": 8, "stage3": 16}

TRACING = threading.Lock()  # torch.fx patches nn.Module while it traces

Cut = Callable[[nn.Module, Sequence[str]], tuple[nn.Module, list[Rest]]]  # net, nodes -> trunk, rests


@dataclass(frozen=True)
class CutNetwork:
    """A network cut in two at layers; all parts share their modules, which are frozen and in float32.

    name    what the network is called in the records
    net     the whole: images [B, 3, H, W] -> logits [B, C]
    trunk   images [B, 3, H, W] -> maps [B, D, h, w] of every layer, from one pass; of a network of tokens,
            before these, each layer's class and register tokens [B, P, D], if there are any
    rests   maps [B, D, h, w] -> logits [B, C], layer by layer
    layers  what the layers are called there: stages, or nodes
    nodes   where the network was cut, layer by layer
    ends    whether the classifier reads this layer; the others it reads through further layers
    divide  how it was cut
    """

    name: str
    net: nn.Module
    trunk: nn.Module
    rests: tuple[Rest, ...]
    layers: tuple[str, ...]
    nodes: tuple[str, ...]
    ends: tuple[bool, ...]
    divide: Cut

    @property
    def has_tokens(self) -> bool:
        """Whether its layers give tokens, of which some may be no patches."""
        return getattr(self.trunk, "gives_maps", False)

    def split(self, outputs: Sequence[Tensor]) -> tuple[list[Tensor], list[Tensor | None]]:
        """What the trunk gives: maps [B, D, h, w], and the tokens that are no patches, layer by layer."""
        count = len(self.layers)
        prefixes: list[Tensor | None] = list(outputs[:-count])
        return list(outputs[-count:]), prefixes or [None] * count

    def rest_beside(self, number: int, prefix: Tensor | None) -> Rest:
        """The rest after a layer, which reads such tokens beside the maps."""
        rest: Any = self.rests[number]
        return rest if prefix is None else rest.beside(prefix)

    def applied_to(self, net: nn.Module) -> "CutNetwork":
        """Another network of the same architecture, cut at the same places."""
        trunk, rests = self.divide(net, self.nodes)
        trunk, rests = channels_first(trunk, rests, layers=self.layers, name=self.name)
        return replace(self, net=net, trunk=trunk.eval(), rests=tuple(rests))


class SelectLayer(nn.Module):
    """The maps [B, D, h, w] of one of a trunk's layers, as `probe` wants them."""

    def __init__(self, trunk: nn.Module, number: int) -> None:
        super().__init__()
        self.trunk, self.number = trunk, number

    def forward(self, images: Tensor) -> Tensor:
        return self.trunk(images)[self.number]


class ChannelsFirst(nn.Module):
    """Maps [B, h, w, D] turned into [B, D, h, w], of the layers that have them so."""

    def __init__(self, encode: nn.Module, turned: Sequence[bool]) -> None:
        super().__init__()
        self.encode, self.turned = encode, tuple(turned)

    @no_type_check
    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        layers = zip(self.encode(images), self.turned, strict=True)
        return tuple(maps.permute(0, 3, 1, 2) if turned else maps for maps, turned in layers)


def channels_last_memory(net: nn.Module) -> nn.Module:
    """The same network, the weights of its convolutions laid out so that they run faster."""
    with contextlib.suppress(RuntimeError):  # a parameter of five axes belongs to no 2d convolution
        net.to(memory_format=torch.channels_last)
    return net


def channels_last(rest: Rest) -> Rest:
    """For a network of maps [B, h, w, D]: its rest, of maps [B, D, h, w]."""
    return lambda maps: rest(maps.permute(0, 2, 3, 1))


class SequentialTrunk(nn.Module):
    """`features` up to its deepest layer.  A depth counts entries of `features`; images are at depth 0."""

    def __init__(self, features: nn.Sequential, depths: Sequence[int]) -> None:
        super().__init__()
        self.features, self.depths = features[: max(depths)], tuple(depths)

    @no_type_check  # folding traces it, with what is no Tensor
    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        maps = {0: images}
        for depth, block in enumerate(self.features):
            maps[depth + 1] = block(maps[depth])
        return tuple(maps[depth] for depth in self.depths)


def divide_sequential(net: Any, nodes: Sequence[str]) -> tuple[nn.Module, list[Rest]]:
    """Cuts a network of `features` (a Sequential), mean, `classifier` without torchvision's slow import."""

    def after_depth(depth: int) -> Rest:
        return lambda maps: net.classifier(net.features[depth:](maps).mean((2, 3)))

    depths = [int(node.removeprefix("features.")) + 1 for node in nodes]
    return SequentialTrunk(net.features, depths), [after_depth(depth) for depth in depths]


def sequential_nodes(net: Any) -> list[str]:
    """The nodes that `divide_sequential` can cut at."""
    return [f"features.{number}" for number in range(len(net.features))]


def nodes_of(net: nn.Module) -> list[str]:
    """The nodes of the traced graph; of a network that cannot be traced, its submodules."""
    extraction = import_torchvision("torchvision.models.feature_extraction")
    try:
        with TRACING, warnings.catch_warnings():
            # of other nodes in training: nothing is trained here
            warnings.simplefilter("ignore", UserWarning)
            return extraction.get_graph_node_names(net)[1]
    except Exception:  # a network's own code raises what it likes at a tracer
        net.eval()  # torchvision leaves it in training, where batch norm would learn from what follows
        return [name for name, _ in net.named_modules() if name]


def divide(net: nn.Module, nodes: Sequence[str]) -> tuple[nn.Module, list[Rest]]:
    """Cuts by the traced graph, truncated at the last node needed; where it cannot be traced, by hooks."""
    extraction = import_torchvision("torchvision.models.feature_extraction")
    names = nodes_of(net)
    try:
        with TRACING, warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)
            trunk = extraction.create_feature_extractor(
                net, {node: str(number) for number, node in enumerate(nodes)}
            )
            rests: list[Rest] = []
            for node in nodes:
                extractor = extraction.create_feature_extractor(net, {node: "maps", names[-1]: "logits"})
                rests.append(rest_of_graph(extractor))
        result = next(node for node in trunk.graph.nodes if node.op == "output")
        layers = tuple(result.args[0][str(number)] for number in range(len(nodes)))
        result.args = (layers,)  # in the order that was asked for
        return fx.GraphModule(trunk, trunk.graph), rests
    except Exception:  # a network's own code raises what it likes at a tracer
        net.eval()  # as in `nodes_of`
        hooked = Hooked(net, nodes)
        return hooked, [hooked.rest_after(node) for node in nodes]


def rest_of_graph(extractor: fx.GraphModule) -> fx.GraphModule:
    """Images -> {maps, logits}, as traced, in; maps -> logits out."""
    graph = extractor.graph
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
    return fx.GraphModule(extractor, graph)


class Hooked(nn.Module):
    """For a network whose Python cannot be traced: it is run until every layer has given its maps."""

    class Enough(Exception):
        pass

    def __init__(self, net: nn.Module, layers: Sequence[str]) -> None:
        super().__init__()
        self.net, self.names, self.side = net, tuple(layers), (97, 97)

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        maps: dict[str, Tensor] = {}  # by layer
        own_thread = threading.get_ident()  # others run the same modules at the same time
        self.side = (images.shape[2], images.shape[3])

        def keep(name: str) -> Callable:
            def hook(module: nn.Module, inputs: object, output: Tensor) -> None:
                if threading.get_ident() != own_thread:
                    return
                maps[name] = output
                if len(maps) == len(self.names):
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
        missing = [name for name in self.names if name not in maps]
        if missing:
            raise ValueError(f"layer {missing[0]} took no part in the forward pass")
        return tuple(maps[name] for name in self.names)

    def rest_after(self, name: str) -> Rest:
        """Maps -> logits: the whole network on an empty image, with the layer's answer put in its place."""

        def rest(maps: Tensor) -> Tensor:
            handle = self.net.get_submodule(name).register_forward_hook(lambda *_: maps)
            try:
                return self.net(maps.new_zeros(len(maps), 3, *self.side))
            finally:
                handle.remove()

        return rest


def channels_first(
    trunk: nn.Module, rests: list[Rest], layers: Sequence[str], name: str
) -> tuple[nn.Module, list[Rest]]:
    """Maps [B, D, h, w], whatever order a network has: D is the axis that does not change with the size.

    Raises ValueError for a layer that gives no maps.
    """
    if getattr(trunk, "gives_maps", False) or isinstance(trunk, SequentialTrunk):
        return trunk, rests  # theirs are [B, D, h, w]
    device = next((parameter.device for parameter in trunk.parameters()), None)
    inputs = [torch.zeros(1, 3, *size, device=device) for size in ((97, 161), (161, 97))]
    try:
        with torch.inference_mode(), without_stderr():
            shapes = [[maps.shape for maps in trunk(images)] for images in inputs]
    except (RuntimeError, AssertionError, ValueError):
        return trunk, rests  # a network of one size only; torchvision's have [B, D, h, w]
    turned = []
    for layer, wide, tall in zip(layers, *shapes, strict=True):
        if len(wide) != 4:
            raise ValueError(
                f"layer {layer} of {name} gives {tuple(wide)}, not maps [B, D, h, w]: "
                "choose a convolutional layer"
            )
        turned.append(wide[1] != tall[1] and wide[3] == tall[3])
    if not any(turned):
        return trunk, rests
    pairs = zip(rests, turned, strict=True)
    return ChannelsFirst(trunk, turned), [channels_last(rest) if turn else rest for rest, turn in pairs]


def without_stderr() -> contextlib.AbstractContextManager:
    """torch.fx prints a traceback of its own for what a traced network raises."""
    return contextlib.redirect_stderr(io.StringIO())


@torch.inference_mode()
def stages_by_stride(net: nn.Module, last: str = "") -> dict[str, str]:
    """Stages of a network that names none: stage1, stage2 and stage3 -> node, as far as there are any.

    Of its parts and theirs before `last`, the last that has a cell every 4, 8 or 16 pixels.
    """
    outputs: list[tuple[str, Tensor]] = []
    parts = [(name, module) for name, module in net.named_modules() if name and name.count(".") < 2]
    handles = [
        module.register_forward_hook(lambda _, __, output, name=name: outputs.append((name, output)))
        for name, module in parts
    ]
    try:
        net(torch.zeros(1, 3, 224, 224))
    finally:
        for handle in handles:
            handle.remove()
    rows = {
        name: maps.shape[2] for name, maps in outputs if getattr(maps, "ndim", 0) == 4 and maps.shape[2] > 1
    }
    if last in rows:
        earlier = list(rows)[: list(rows).index(last)]
        rows = {name: rows[name] for name in earlier if rows[name] != rows[last]}
    strides = {name: 2 ** round(math.log2(224 / count)) for name, count in rows.items()}
    stages = {}
    for stage, stride in STRIDES.items():
        names = [name for name in strides if strides[name] == stride]
        if names:
            stages[stage] = names[-1]
    return stages


def stage_order(stage: str) -> tuple[bool, str]:
    """A key to sort by: stage1, stage2, ..., last."""
    return stage == "last", stage


def resolve_layer(
    layer: str, stages: Mapping[str, str], name: str, nodes: Sequence[str] | None = None
) -> str:
    """The node that a stage's name stands for; any node's own name will do too.

    name, nodes: of the network; None: any node is refused.  Raises ValueError for a layer that is neither.
    """
    if layer in stages:
        return stages[layer]
    if nodes and (layer in nodes or any(node.startswith(f"{layer}.") for node in nodes)):
        return layer
    offer = f"stages are {', '.join(stages)}" if stages else "give layer="
    near = difflib.get_close_matches(layer, nodes or [], n=3, cutoff=0.4)
    more = f"; or a node such as {', '.join(near or nodes[-4:])}" if nodes else ""
    raise ValueError(f"{name} has no layer {layer!r}; {offer}{more}")

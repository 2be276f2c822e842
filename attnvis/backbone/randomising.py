"""A network in, the same network with its layers drawn anew from the classifier down out: the cascade of
Adebayo et al. 2018.
"""

import copy
import math
from collections.abc import Iterable
from dataclasses import dataclass, fields, replace
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from attnvis.backbone.backbone import Backbone
from attnvis.backbone.engines import Engine
from attnvis.backbone.heads import Gradient
from attnvis.backbone.weights import relearn_statistics
from attnvis.types import Head

__all__ = ["Stage", "cascade", "in_precision", "layers_in_order"]


@dataclass(frozen=True, eq=False)
class Stage:
    """The network after some of its layers, counted from the classifier, were drawn anew.

    drawn   how many of all layers that have weights
    first   the name of the earliest of them
    """

    name: str
    backbone: Backbone
    drawn: int
    first: str


def in_precision(backbone: Backbone, dtype: torch.dtype) -> Backbone:
    """The same network, run by PyTorch as it is, in one precision whatever the photos."""
    return replace(backbone, engine=Engine(backbone.network.trunk, backbone.device, dtype, "eager"))


def cascade(backbone: Backbone, seed: int, images: Float[Tensor, "B 3 H W"], parts: int = 3) -> list[Stage]:
    """The classifier drawn anew; then also the last 1/parts of the other layers, 2/parts, ... all of them.

    Layers are counted in the order in which a photo passes them, and drawn by their own `reset_parameters`;
    what is drawn at one stage is the same at the next.  Batch norms among them take their statistics from
    `images`, without which maps die out with depth; those above keep what they have learned.  Cells stay
    where they were.

    Raises ValueError for a network none of whose layers can be drawn anew, and for a classifier whose rows
    are none of the network's own weights.
    """
    names = layers_in_order(backbone.network.net, images.to(backbone.device))
    if not names:
        raise ValueError(f"no layer of {backbone.name} can be drawn anew: none has reset_parameters")
    others = len(names) - 1
    counts = [1, *(1 + math.ceil(others * part / parts) for part in range(1, parts + 1))]
    texts = ["the classifier", *(f"and the last {part}/{parts}" for part in range(1, parts)), "all layers"]
    stages: list[Stage] = []
    for text, count in zip(texts, counts, strict=True):
        if not stages or count > stages[-1].drawn:
            drawn = names[-count:]
            stages.append(Stage(text, with_layers_drawn(backbone, drawn, seed, images), count, drawn[0]))
    return stages


def layers_in_order(net: nn.Module, images: Float[Tensor, "B 3 H W"]) -> list[str]:
    """The layers that can be drawn anew, in the order in which a photo passes them; each once."""
    order: dict[str, None] = {}
    handles = [
        module.register_forward_hook(lambda *_, name=name: order.setdefault(name))
        for name, module in net.named_modules()
        if hasattr(module, "reset_parameters") and any(True for _ in module.parameters(recurse=False))
    ]
    try:
        with torch.inference_mode():
            net(images[:1])
    finally:
        for handle in handles:
            handle.remove()
    return list(order)


def with_layers_drawn(
    backbone: Backbone, names: Iterable[str], seed: int, images: Float[Tensor, "B 3 H W"]
) -> Backbone:
    """These layers drawn anew, the last of them first; the network that is given stays as it is."""
    net = copy.deepcopy(backbone.network.net)
    modules: list[Any] = [net.get_submodule(name) for name in names]
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        for module in reversed(modules):
            module.reset_parameters()
    relearn_statistics(net, images.to(backbone.device), modules)
    network = backbone.network.applied_to(net)
    heads = tuple(
        None if head is None else with_weights_of(head, backbone.network.net, net, network.rests[number])
        for number, head in enumerate(backbone.heads)
    )
    return replace(
        backbone,
        network=network,
        weights="random",
        digest="random",
        notes=(),
        heads=heads,
        engine=Engine(network.trunk, backbone.device, torch.float32, "eager"),
        renew=None,
    )


def with_weights_of(head: Head, before: nn.Module, net: nn.Module, rest: Any) -> Head:
    """A head with the weights that `net` has where `before` has this head's.

    Raises ValueError where none of the weights of `before` is the head's.
    """
    if isinstance(head, Gradient):
        return replace(head, rest=rest, constants={})
    changed: dict[str, Tensor] = {}
    for entry in fields(head):  # type: ignore[arg-type]
        values = getattr(head, entry.name)
        if not isinstance(values, Tensor):
            continue
        owners = [
            name
            for name, parameter in before.named_parameters()
            if parameter.numel() == values.numel() and torch.equal(parameter.flatten(), values.flatten())
        ]
        if not owners:
            raise ValueError(
                f"the {head.kind} classifier's {entry.name} is none of the network's weights, and cannot be "
                "drawn anew with them; use backbone.head=gradient"
            )
        changed[entry.name] = net.get_parameter(owners[0]).detach().reshape(values.shape)
    return replace(head, **changed)  # type: ignore[type-var]

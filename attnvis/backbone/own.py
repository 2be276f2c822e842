"""A network of one's own in; a copy of it that takes RGB photos and gives logits, out.

The user's module stays as it is: parameters, gradients, mode, hooks, device.
"""

from collections import OrderedDict
from collections.abc import Mapping
from copy import deepcopy
from dataclasses import fields, is_dataclass
from typing import Any, no_type_check

import torch
from torch import Tensor, nn

__all__ = ["copy_of", "last_maps", "photos_to_logits"]

LUMA = (0.299, 0.587, 0.114)  # ITU-R BT.601, as PIL makes grey
NAMES = ("logits", "out", "output", "prediction", "predictions")  # of what a classifier says, among others
HOOKS = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")
POOLS = (nn.AdaptiveAvgPool2d, nn.AdaptiveMaxPool2d)  # whose cells are no cells of the photo's


def copy_of(net: nn.Module) -> nn.Module:
    """A copy on the CPU, in float32, without gradients and without hooks but those of torch's own layers.

    Of a compiled or a data-parallel network its inside.  Hooks of others look on, or keep what passes.
    """
    net = getattr(net, "_orig_mod", net)  # torch.compile
    if isinstance(net, nn.DataParallel | nn.parallel.DistributedDataParallel):
        net = net.module
    instead: dict[int, Any] = {}  # what the copy gets in the place of an object, by its id
    for module in net.modules():
        for name in HOOKS:
            hooks = getattr(module, name, None)
            if hooks:
                kept = {key: deepcopy(hook) for key, hook in hooks.items() if is_torchs(hook)}
                instead[id(hooks)] = OrderedDict(kept)
        for value in vars(module).values():
            if isinstance(value, Tensor) and not value.is_leaf:  # weight norm's, which is part of a graph
                instead[id(value)] = value.detach().clone()
    return deepcopy(net, instead).cpu().float()


def is_torchs(hook: Any) -> bool:
    """Whether a hook belongs to a layer, as weight norm's and spectral norm's."""
    home = getattr(hook, "__module__", None) or type(hook).__module__
    return str(home).startswith("torch.nn.utils")


@torch.no_grad()
def photos_to_logits(net: nn.Module, size: int) -> nn.Module:
    """The network itself where it takes [B, 3, H, W] and gives [B, C]; else it is changed so that it does.

    Of several outputs the logits are taken.  One channel of input is the photo's grey.  One logit y becomes
    two classes, -y/2 and y/2, whose softmax is the sigmoid of y.  Raises ValueError for outputs among which
    no logits are found.
    """
    net.eval()
    outputs, channels = outputs_of(net, size)
    if outputs is None:
        return net  # what it does not like is told where it is cut
    name = name_of_logits(outputs)
    if name is None and isinstance(outputs, Tensor):
        return net  # maps, for who asks without a head
    if name is None:
        raise ValueError(
            f"{type(net).__name__} gives {describe(outputs)}, none of which is called logits "
            "or has two axes; wrap it in a module that returns logits [B, C]"
        )
    logits = as_mapping(outputs)[name]
    is_single = logits.ndim == 1 or logits.shape[1] == 1
    is_plain = isinstance(outputs, Tensor)
    if is_plain and channels == 3 and not is_single:
        return net
    kind: Any = type(net)

    class Adapted(kind):
        @no_type_check
        def forward(self, images):
            if channels == 1:
                images = sum(share * images[:, number : number + 1] for number, share in enumerate(LUMA))
            output = kind.forward(self, images)
            output = output if is_plain else as_mapping(output)[name]
            # The last step of the traced graph is the logits', whatever else the network computes.
            return halves(output) if is_single else torch.flatten(output, 1)

    Adapted.__name__, Adapted.__qualname__ = kind.__name__, kind.__qualname__
    net.__class__ = Adapted
    net.has_one_logit = is_single  # which heads read
    return net


@no_type_check  # tracing calls it with what is no Tensor
def halves(logit: Tensor) -> Tensor:
    """[B] or [B, 1] -> [B, 2]."""
    half = torch.reshape(logit, (-1, 1)) / 2
    return torch.cat([-half, half], 1)


def outputs_of(net: nn.Module, size: int) -> tuple[Any, int]:
    """What the network gives for two photos of three channels, else of one; None where it takes neither."""
    for channels in (3, 1):
        try:
            return net(torch.zeros(2, channels, size, size)), channels
        except Exception:  # a network's own code raises what it likes
            continue
    return None, 3


def name_of_logits(outputs: Any) -> str | None:
    """What the logits are called among a network's outputs; None where nothing looks like them.

    By their name, else the first with two axes, or one.
    """
    tensors = {name: output for name, output in as_mapping(outputs).items() if isinstance(output, Tensor)}
    shaped = [name for name, output in tensors.items() if output.ndim in (1, 2)]
    return next((name for name in (*NAMES, *shaped) if name in shaped), None)


def as_mapping(outputs: Any) -> dict[str, Any]:
    """Outputs by name, in their order: of a dict, a dataclass, a named or a plain tuple, an object."""
    if isinstance(outputs, Mapping):
        return dict(outputs)
    if isinstance(outputs, tuple) and hasattr(outputs, "_asdict"):
        return outputs._asdict()
    if is_dataclass(outputs):
        return {field.name: getattr(outputs, field.name) for field in fields(outputs)}
    if isinstance(outputs, list | tuple):
        return {f"output {number}": output for number, output in enumerate(outputs)}
    return {"the output": outputs}


def describe(outputs: Any) -> str:
    """logits [2, 10], features [2, 512, 7, 7]."""
    shapes = {
        name: list(output.shape) if isinstance(output, Tensor) else type(output).__name__
        for name, output in as_mapping(outputs).items()
    }
    return ", ".join(f"{name} {shape}" for name, shape in shapes.items()) or "nothing"


@torch.no_grad()
def last_maps(net: nn.Module, size: int) -> str:
    """The last submodule that gives maps [B, D, h, w] or [B, h, w, D]: of one that holds others, it.

    Pooling to a fixed grid is passed over.  Raises ValueError where none gives maps.
    """
    names: list[str] = []

    def note(name: str, module: nn.Module, output: Any) -> None:
        is_map = isinstance(output, Tensor) and output.ndim == 4
        if is_map and not isinstance(module, POOLS) and sum(side > 1 for side in output.shape[1:]) == 3:
            names.append(name)

    handles = [
        module.register_forward_hook(lambda module, _, output, name=name: note(name, module, output))
        for name, module in net.named_modules()
        if name
    ]
    try:
        net.eval()(torch.zeros(1, 3, size, size))
    finally:
        for handle in handles:
            handle.remove()
    if not names:
        raise ValueError(
            f"no part of {type(net).__name__} gives maps [B, D, h, w]; name a layer that does with layer="
        )
    return names[-1]

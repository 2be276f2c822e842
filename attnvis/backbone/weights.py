"""A file of weights in, a state dict out, and from there into a network; no code in a file is ever run."""

import hashlib
from collections import OrderedDict
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from attnvis.backbone.matching import Checkpoint, old_names, state_dict

__all__ = ["digest", "draw_anew", "load_file", "load_state", "relearn_statistics"]


def draw_anew(net: nn.Module) -> list[str]:
    """Draws the weights of every layer anew, in place, by its own `reset_parameters`.

    Gives the names of the parameters that belong to no layer that could: they stay as they were learned.
    """
    unchanged = []
    for name, module in net.named_modules():
        reset = getattr(module, "reset_parameters", None) or getattr(module, "_reset_parameters", None)
        if reset is not None:
            reset()
            continue
        parameters = [parameter for parameter, _ in module.named_parameters(recurse=False)]
        unchanged += [f"{name}.{parameter}".lstrip(".") for parameter in parameters]
    return unchanged


@torch.no_grad()
def relearn_statistics(
    net: nn.Module, images: Float[Tensor, "B 3 H W"], modules: Iterable[nn.Module] | None = None
) -> None:
    """Means and variances of batch norm, in place: those of a batch.

    modules: of the network, those that learn; None: all.
    """
    learning = net.modules() if modules is None else modules
    norms = [
        module for module in learning if isinstance(module, nn.BatchNorm2d) and module.track_running_stats
    ]
    for norm in norms:
        norm.reset_running_stats()
        norm.momentum = None  # the plain average over batches
        norm.train()
    if norms:
        net(images)
    for norm in norms:
        norm.eval()


def digest(net: nn.Module, weights: str) -> str:
    """sha256 of the names and values of all weights, in hex; "random": nothing says which they are."""
    if weights == "random":
        return "random"
    hasher = hashlib.sha256()
    for name, tensor in sorted(net.state_dict().items()):
        hasher.update(name.encode())
        hasher.update(tensor.contiguous().numpy())
    return hasher.hexdigest()


def load_file(
    net: nn.Module, weights: str, name: str, key: str = "", aliases: Mapping[str, str] | None = None
) -> Checkpoint:
    """Weights from a file into the network that is called `name`, whose classifier and stem become as theirs.

    key, aliases: as in `state_dict`.  Gives what was taken, left over and missing.  Raises ValueError for a
    file that is missing, unreadable, could run code, or holds the weights of another network.
    """
    checkpoint = state_dict(Path(weights), net, name=name, key=key, aliases=aliases)
    for own, parameter in list(net.named_parameters()):
        if parameter.shape != checkpoint.tensors[own].shape:
            resize(net, own, checkpoint.tensors[own])
    load_state(net, checkpoint.tensors)
    return checkpoint


def resize(net: Any, own: str, tensor: Tensor) -> None:
    """A parameter of a classifier, or of the first convolution, made of a tensor's shape, in place."""
    layer, _, leaf = own.rpartition(".")
    classifier: Any = net.get_submodule(layer)
    setattr(classifier, leaf, nn.Parameter(torch.empty(tensor.shape)))
    if leaf == "weight" and isinstance(classifier, nn.Conv2d):
        square = (tensor.shape[2], tensor.shape[3])
        if classifier.kernel_size != square:  # a first convolution
            classifier.kernel_size, classifier.padding = square, (square[0] // 2, square[1] // 2)
            return
    width = "out_features" if isinstance(classifier, nn.Linear) else "out_channels"
    setattr(classifier, width, len(tensor))
    if hasattr(net, "num_classes"):  # timm's and some of torchvision's say it
        net.num_classes = len(tensor)


def load_state(net: nn.Module, state: Mapping[str, Tensor]) -> None:
    """A state dict into its network.

    Old DenseNets by their names of today, MNASNet with the version that it asks for.  Raises RuntimeError
    where names or shapes do not fit.
    """
    own = net.state_dict()
    names = old_names(own)
    renamed: Any = OrderedDict((names.get(name, name), tensor) for name, tensor in state.items())
    metadata = own._metadata  # type: ignore[attr-defined]
    renamed._metadata = {
        key: value
        for key, value in metadata.items()
        if not isinstance(net.get_submodule(key), nn.BatchNorm2d)
    }
    net.load_state_dict(renamed)

"""A file of weights in, a state dict out, and from there into a network; no code in a file is ever run."""

import hashlib
import pickle
import re
from collections import OrderedDict
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

__all__ = ["digest", "fill", "pour", "redrawn", "relearn_statistics"]

OLD_NAMES = re.compile(r"(denselayer\d+\.(?:norm|conv))\.([12]\.)")


def redrawn(net: nn.Module) -> list[str]:
    """Draws the weights of every layer anew, in place; the names of the parameters that belong to no layer that could."""
    kept = []
    for name, module in net.named_modules():
        reset = getattr(module, "reset_parameters", None) or getattr(module, "_reset_parameters", None)
        if reset is not None:
            reset()
        else:
            kept += [
                f"{name}.{parameter}".lstrip(".") for parameter, _ in module.named_parameters(recurse=False)
            ]
    return kept


@torch.no_grad()
def relearn_statistics(net: nn.Module, images: Float[Tensor, "B 3 H W"]) -> None:
    """Means and variances of batch norm, in place: those of a batch."""
    norms = [
        module
        for module in net.modules()
        if isinstance(module, nn.BatchNorm2d) and module.track_running_stats
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
    if weights == "random":
        return "random"
    hasher = hashlib.sha256()
    for name, tensor in sorted(net.state_dict().items()):
        hasher.update(name.encode())
        hasher.update(tensor.contiguous().numpy())
    return hasher.hexdigest()


def fill(
    net: nn.Module,
    weights: str,
    name: str,
    rename: Callable[[Mapping[str, Tensor]], Mapping[str, Tensor]] = dict,
) -> None:
    """Weights from a file into a network; `rename` turns the names of another implementation into ours."""
    state = rename(read_weights(Path(weights)))
    try:
        pour(state, net)
    except RuntimeError as error:
        complaints = "; ".join(line.strip() for line in str(error).splitlines()[1:])
        shown = complaints if len(complaints) <= 200 else f"{complaints[:200]} ..."
        raise ValueError(
            f"the weights {weights} do not fit {name}: {shown}; give a file saved from this architecture"
        ) from None


def pour(state: Mapping[str, Tensor], net: nn.Module) -> None:
    """A state dict into its network: DenseNets of before 2017 by their names of today, MNASNet with the version that it asks for."""
    held: Any = OrderedDict((OLD_NAMES.sub(r"\1\2", name), tensor) for name, tensor in state.items())
    metadata = net.state_dict()._metadata  # type: ignore[attr-defined]
    held._metadata = {
        key: value
        for key, value in metadata.items()
        if not isinstance(net.get_submodule(key), nn.BatchNorm2d)
    }
    net.load_state_dict(held)


def read_weights(path: Path) -> dict[str, Tensor]:
    """A state dict from .safetensors, .pth or .pt; never runs code from the file."""
    if not path.is_file():
        raise ValueError(
            f"no weights file {path}; give an existing .safetensors or .pth file, an enum name, or random"
        )
    if path.suffix == ".safetensors":
        from safetensors import SafetensorError
        from safetensors.torch import load_file

        try:
            return load_file(path)
        except SafetensorError as error:
            raise ValueError(f"{path} is not a readable safetensors file: {error}") from None
    try:
        loaded = torch.load(path, map_location="cpu", weights_only=True)
    except (pickle.UnpicklingError, RuntimeError, EOFError, KeyError) as error:
        blame = (
            "holds pickled objects beside tensors, which could run code"
            if isinstance(error, pickle.UnpicklingError)
            else "is damaged or cut short"
        )
        raise ValueError(
            f"{path} {blame}, and was not loaded; save a plain state_dict, best as .safetensors"
        ) from None
    for key in ("state_dict", "model"):
        loaded = loaded.get(key, loaded) if isinstance(loaded, dict) else loaded
    if (
        not isinstance(loaded, dict)
        or not loaded
        or not all(isinstance(value, Tensor) for value in loaded.values())
    ):
        raise ValueError(
            f"{path} does not hold a state dict (names -> tensors) but {type(loaded).__name__}; save model.state_dict()"
        )
    return {name.removeprefix("module."): tensor for name, tensor in loaded.items()}

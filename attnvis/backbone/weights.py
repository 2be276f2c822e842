"""A file of weights in, a state dict out, and from there into a network; no code in a file is ever run."""

import hashlib
import pickle
import re
import warnings
import zipfile
from collections import OrderedDict
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from attnvis.types import UnavailableError

__all__ = ["digest", "draw_anew", "load_file", "load_state", "relearn_statistics"]

OLD_NAMES = re.compile(r"(denselayer\d+\.(?:norm|conv))\.([12]\.)")


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
    """sha256 of the names and values of all weights, in hex; "random": nothing says which they are."""
    if weights == "random":
        return "random"
    hasher = hashlib.sha256()
    for name, tensor in sorted(net.state_dict().items()):
        hasher.update(name.encode())
        hasher.update(tensor.contiguous().numpy())
    return hasher.hexdigest()


def load_file(
    net: nn.Module,
    weights: str,
    name: str,
    rename: Callable[[Mapping[str, Tensor]], Mapping[str, Tensor]] = dict,
) -> None:
    """Weights from a file into the network that is called `name`.

    `rename` turns the names of another implementation into ours.  Raises ValueError for a file that is
    missing, unreadable, could run code, or holds the weights of another network.
    """
    state = rename(read_weights(Path(weights)))
    try:
        load_state(net, state)
    except RuntimeError as error:
        complaints = "; ".join(line.strip() for line in str(error).splitlines()[1:])
        text = complaints if len(complaints) <= 200 else f"{complaints[:200]} ..."
        raise ValueError(
            f"the weights {weights} do not fit {name}: {text}; give a file saved from this architecture"
        ) from None


def load_state(net: nn.Module, state: Mapping[str, Tensor]) -> None:
    """A state dict into its network.

    Old DenseNets by their names of today, MNASNet with the version that it asks for.  Raises RuntimeError
    where names or shapes do not fit.
    """
    renamed: Any = OrderedDict((OLD_NAMES.sub(r"\1\2", name), tensor) for name, tensor in state.items())
    metadata = net.state_dict()._metadata  # type: ignore[attr-defined]
    renamed._metadata = {
        key: value
        for key, value in metadata.items()
        if not isinstance(net.get_submodule(key), nn.BatchNorm2d)
    }
    net.load_state_dict(renamed)


def read_weights(path: Path) -> dict[str, Tensor]:
    """A state dict from .safetensors, .pth or .pt; never runs code from the file.

    Raises ValueError for a file that is missing, damaged, holds more than tensors, or holds no state dict.
    """
    if not path.is_file():
        raise UnavailableError(
            f"no weights file {path}; give an existing .safetensors or .pth file, an enum name, or random"
        )
    if path.suffix == ".safetensors":
        from safetensors import torch as safetensors

        try:
            return safetensors.load_file(path)
        except Exception as error:
            raise ValueError(f"{path} is not a readable safetensors file: {in_one_line(error)}") from None
    require_uncompressed(path)
    try:
        with warnings.catch_warnings(action="ignore"):  # of odd pickles, which are refused below
            loaded = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # a damaged file raises whatever its reader stumbles over
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
            f"{path} does not hold a state dict (names -> tensors) but {type(loaded).__name__}; "
            "save model.state_dict()"
        )
    return {name.removeprefix("module."): tensor for name, tensor in loaded.items()}


def require_uncompressed(path: Path) -> None:
    """Raises ValueError for an archive that unfolds to more than it is: PyTorch packs no tensor."""
    try:
        with zipfile.ZipFile(path) as archive:
            unfolded = sum(entry.file_size for entry in archive.infolist())
    except Exception:  # of an old file, which is no archive, or a damaged one `torch.load` has its say
        return
    if unfolded > path.stat().st_size:
        raise ValueError(
            f"{path} is an archive of {unfolded:,} bytes in {path.stat().st_size:,}, and was not loaded; "
            "save a plain state_dict, best as .safetensors"
        )


def in_one_line(error: Exception) -> str:
    """What an error says; its name where it says nothing."""
    return " ".join(str(error).split())[:200] or type(error).__name__

"""The network that ships with attnvis: its architecture, its weights and the names of its classes."""

import hashlib
from pathlib import Path

from torch import Tensor

from attnvis.embedded.network import EmbeddedNet

__all__ = ["SIZE", "EmbeddedNet", "categories", "load_weights"]

SIZE = 225  # short side in pixels: 32 k + 1 puts the first and the last cell on the photo's edges
FILE = Path(__file__).with_name("weights.safetensors")
SHA256 = "60495b67aa875bf447c94a4fa584693619821bbfd8cc89583c2927ecc7e94f4d"


def load_weights() -> dict[str, Tensor]:
    """The shipped float16 weights as float32; a file that is not the one this version was made with is refused."""
    from safetensors.torch import load

    content = FILE.read_bytes()
    if hashlib.sha256(content).hexdigest() != SHA256:
        raise ValueError(f"{FILE} is not the file that attnvis was released with (sha256 differs); reinstall attnvis")
    return {name: tensor.float() if tensor.is_floating_point() else tensor for name, tensor in load(content).items()}


def categories() -> tuple[str, ...]:
    """ImageNet's 1,000 class names, in order."""
    return tuple(Path(__file__).with_name("categories.txt").read_text(encoding="utf-8").splitlines())

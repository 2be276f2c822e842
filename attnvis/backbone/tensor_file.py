"""A safetensors file in, its tensors and what it says of them out; nothing of it is trusted."""

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load
from torch import Tensor

from attnvis.files import read_bytes

__all__ = ["UNREADABLE", "read_tensors", "tensors_digest"]

MOST = 1 << 31  # bytes of one photo's features or maps
UNREADABLE = (  # what a file raises that is damaged, or another's
    *(SafetensorError, OSError, ArithmeticError, LookupError, MemoryError),
    *(AttributeError, TypeError, ValueError, RuntimeError),  # RecursionError is a RuntimeError
)


def read_tensors(path: Path) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """The JSON under `attnvis` in the file's metadata, and the tensors by their names.

    Raises FileNotFoundError, and one of UNREADABLE for what is no such file.  It is read in one piece: a file
    that is cut short while it is mapped into memory would end the process.
    """
    content = read_bytes(path, most=MOST)
    length = int.from_bytes(content[:8], "little")
    header = json.loads(content[8 : 8 + length])
    metadata = json.loads(header["__metadata__"]["attnvis"])
    if not isinstance(metadata, dict):
        raise ValueError("its metadata are not attnvis'")
    return metadata, load(content)


def tensors_digest(text: str, tensors: Mapping[str, Tensor]) -> str:
    """sha256, in hex, of what a file says of its tensors, of their names and of every bit of them."""
    hasher = hashlib.sha256(text.encode())
    for name in sorted(tensors):
        tensor = tensors[name].clone(memory_format=torch.contiguous_format)  # of one number too
        kind = str(tensor.dtype).removeprefix("torch.")
        hasher.update(f"\n{name} {kind} {list(tensor.shape)}\n".encode())
        hasher.update(tensor.flatten().view(torch.uint8).numpy().data)
    return hasher.hexdigest()

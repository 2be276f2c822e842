"""Where a network runs and in which precision, and how images get there."""

import threading

import torch
from jaxtyping import Float
from torch import Tensor

__all__ = ["has_fast_bf16", "resolve_device", "take_own_stream", "to_device"]

OWN = threading.local()  # the stream of a thread, once it has one


def resolve_device(device: str, precision: str) -> tuple[torch.device, torch.dtype]:
    """What a device and a precision stand for on this machine; precision auto begins as float32.

    Raises ValueError for what is unknown, or not there.
    """
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        resolved = torch.device(device)
    except RuntimeError:
        raise ValueError(f"unknown device {device!r}: auto, cpu or cuda") from None
    if resolved.type == "cuda" and not torch.cuda.is_available():
        raise ValueError(f"device {device}: this machine has no usable GPU; use device=auto or cpu")
    dtypes = {"auto": torch.float32, "fp32": torch.float32, "bf16": torch.bfloat16}
    if precision not in dtypes:
        raise ValueError(f"unknown precision {precision!r}: auto, fp32 or bf16")
    return resolved, dtypes[precision]


def has_fast_bf16(device: torch.device) -> bool:
    """Whether bfloat16 has instructions of its own here; emulated, it is slower than float32."""
    if device.type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    names = ("_is_amx_tile_supported", "_is_avx512_bf16_supported")  # missing from some builds of PyTorch
    checks = [getattr(torch.cpu, name, bool) for name in names]
    return device.type == "cpu" and any(check() for check in checks)


def to_device(
    images: Float[Tensor, "B 3 H W"], device: torch.device, dtype: torch.dtype
) -> Float[Tensor, "B 3 H W"]:
    """Images in this precision, channels last in memory.

    A GPU gets them from pinned memory: this thread does not wait for the copy.
    """
    if device.type != "cpu":
        images = images.pin_memory().to(device, non_blocking=True)
    return images.to(device, dtype, memory_format=torch.channels_last)


def take_own_stream(device: torch.device) -> None:
    """What this thread gives a GPU waits for nothing that other threads gave it; the main thread's does."""
    if device.type == "cpu" or threading.current_thread() is threading.main_thread():
        return
    if not hasattr(OWN, "stream"):
        OWN.stream = torch.Stream(device)
        # the weights were moved on the main thread's
        OWN.stream.wait_stream(torch.accelerator.current_stream(device))
        torch.accelerator.set_stream(OWN.stream)

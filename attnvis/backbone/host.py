"""The caller's process is left as it was: random numbers, default dtype and device, autocast, warnings,
variables.
"""

import os
import threading
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext

import torch

__all__ = ["float32_on_cpu", "undisturbed"]

DEFAULTS = threading.RLock()  # torch's default dtype belongs to the whole process


@contextmanager
def float32_on_cpu() -> Iterator[None]:
    """What the caller set for tensors without a dtype or a device does not hold inside, autocast neither."""
    foreign = torch.get_default_dtype() != torch.float32
    with DEFAULTS if foreign else nullcontext():
        dtype = torch.get_default_dtype()
        if foreign:
            torch.set_default_dtype(torch.float32)
        try:
            # A device context looks at every call of torch's: for a small network half its time again.
            is_cpu = torch.empty(0).device.type == "cpu"
            with nullcontext() if is_cpu else torch.device("cpu"), torch.autocast("cpu", enabled=False):
                yield
        finally:
            if foreign:
                torch.set_default_dtype(dtype)


@contextmanager
def undisturbed() -> Iterator[None]:
    """As `float32_on_cpu`; and random numbers, warning filters and environment are as before."""
    environment = dict(os.environ)
    with float32_on_cpu(), torch.random.fork_rng(devices=[]), warnings.catch_warnings():
        try:
            yield
        finally:
            for name in os.environ.keys() - environment.keys():
                del os.environ[name]
            os.environ.update(environment)

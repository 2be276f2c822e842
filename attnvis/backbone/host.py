"""The caller's process is left as it was: random numbers, default dtype and device, autocast, warnings,
variables; and libraries are not asked for more than is needed of them.
"""

import os
import sys
import threading
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from importlib import import_module
from types import ModuleType
from typing import Any

import torch

__all__ = ["float32_on_cpu", "import_torchvision", "undisturbed"]

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
            with torch.device("cpu"), torch.autocast("cpu", enabled=False):
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


DYNAMO = ("torch._dynamo", "torch._dynamo.utils")


def import_torchvision(name: str = "torchvision.models") -> Any:
    """A module of torchvision, imported without torch._dynamo where that is not there yet.

    Raises ImportError where torchvision is not installed.
    """
    try:
        with dynamo_on_demand():
            return import_module(name)
    except (ImportError, AttributeError):  # a torchvision that needs more of it
        return import_module(name)


@contextmanager
def dynamo_on_demand() -> Iterator[None]:
    """Inside the block an import of torch._dynamo, longer than all else of a start, is put off.

    torchvision 0.29 takes one function from it, for detectors, which here looks the real one up when it is
    called.
    """
    if any(name in sys.modules for name in DYNAMO):
        yield
        return

    def is_compile_supported(*arguments: Any) -> bool:
        return import_module("torch._dynamo.utils").is_compile_supported(*arguments)

    package, utils = (ModuleType(name) for name in DYNAMO)
    vars(utils)["is_compile_supported"] = is_compile_supported
    sys.modules.update(zip(DYNAMO, (package, utils), strict=True))
    try:
        yield
    finally:
        for name in DYNAMO:
            del sys.modules[name]

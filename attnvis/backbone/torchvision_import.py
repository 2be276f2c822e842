"""The name of a module of torchvision's in, the module out, without the libraries that only others need."""

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import import_module
from types import ModuleType
from typing import Any

__all__ = ["import_torchvision"]

DYNAMO = ("torch._dynamo", "torch._dynamo.utils")


def import_torchvision(name: str = "torchvision.models") -> Any:
    """A module of torchvision, imported without torch._dynamo where that is not there yet.

    Raises ImportError where torchvision is not installed.
    """
    if name in sys.modules:
        return sys.modules[name]
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

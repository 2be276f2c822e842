"""What is made when it is asked for: a package's names (for `--help` no torch is imported), a property."""

from collections.abc import Callable, Mapping
from importlib import import_module
from typing import Any, Generic, TypeVar, overload

__all__ = ["kept_property", "lazily"]

T = TypeVar("T")


class kept_property(Generic[T]):
    """`functools.cached_property` without a lock, for objects that belong to one thread.

    Before Python 3.12 that lock is one for all objects of a class, and threads wait for each other.
    """

    def __init__(self, function: Callable[[Any], T]) -> None:
        self.function, self.name = function, function.__name__
        self.__doc__ = function.__doc__

    @overload
    def __get__(self, instance: None, owner: Any = None) -> "kept_property[T]": ...

    @overload
    def __get__(self, instance: object, owner: Any = None) -> T: ...

    def __get__(self, instance: object | None, owner: Any = None) -> "T | kept_property[T]":
        if instance is None:
            return self
        value = vars(instance)[self.name] = self.function(instance)
        return value


def lazily(package: str, homes: Mapping[str, str]) -> tuple[Callable[[str], Any], Callable[[], list[str]]]:
    """A package's `__getattr__` and `__dir__` (PEP 562); homes: name -> the module that defines it.

    The `__getattr__` raises AttributeError for any other name.
    """

    def get(name: str) -> Any:
        if name not in homes:
            raise AttributeError(f"module {package!r} has no attribute {name!r}")
        return getattr(import_module(homes[name]), name)

    def names() -> list[str]:
        return sorted([*vars(import_module(package)), *homes])

    return get, names

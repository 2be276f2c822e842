"""What is typed -> Hydra -> one command.  Hydra lives here and nowhere else."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from attnvis.cli.entry import main

__all__ = ["main"]

HOMES = {
    "main": "attnvis.cli.entry",
}

if not TYPE_CHECKING:

    def __getattr__(name: str) -> Any:
        """Imported when it is asked for, so that --help and configs need no torch."""
        if name in HOMES:
            return getattr(import_module(HOMES[name]), name)
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])

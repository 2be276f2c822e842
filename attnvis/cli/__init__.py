"""What is typed -> Hydra -> one command.  Hydra lives here and nowhere else."""

from typing import TYPE_CHECKING

from attnvis.lazy import lazily

if TYPE_CHECKING:
    from attnvis.cli.entry import console, main

__all__ = ["console", "main"]

HOMES = {
    "console": "attnvis.cli.entry",
    "main": "attnvis.cli.entry",
}

if not TYPE_CHECKING:
    __getattr__, __dir__ = lazily(__name__, HOMES)

"""What is typed -> Hydra -> one command.  Hydra lives here and nowhere else."""

from typing import TYPE_CHECKING

from attnvis.lazy import lazily

if TYPE_CHECKING:
    from attnvis.cli.entry import main

__all__ = ["main"]

HOMES = {
    "main": "attnvis.cli.entry",
}

if not TYPE_CHECKING:
    __getattr__, __dir__ = lazily(__name__, HOMES)

"""The ES modules of js/ as the one script of an explorer."""

from functools import lru_cache
from importlib.resources import files

from attnvis.render.modules import join_modules

__all__ = ["ENTRY", "join_modules", "read_module", "script"]

ENTRY = "main.js"


@lru_cache
def script(entry: str = ENTRY) -> str:
    """The explorer's own script, whole."""
    return join_modules(entry, read_module)


def read_module(name: str) -> str:
    """The text of a module of the explorer's own.  Raises FileNotFoundError."""
    return files("attnvis.explorer").joinpath("js", name).read_text("utf-8")

"""Several texts of a stage in, as sweep and evaluate take them; the functions that they name out."""

from collections.abc import Mapping
from typing import Any

from attnvis.cli.common import listed
from attnvis.cli.config import vet

__all__ = ["AXES", "function_named", "functions_of"]

AXES = {"query": "queries", "scaling": "scalings", "normalise": "normalisers"}  # a stage -> its setting


def functions_of(settings: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """Of every setting in AXES its texts, and what each names.  Raises as `function_named` does."""
    trusted = listed(settings["trust"])
    return {
        axis: {text: function_named(kind, text, trusted) for text in listed(settings[axis])}
        for kind, axis in AXES.items()
    }


def function_named(kind: str, text: str, trusted: list[str]) -> Any:
    """temperature:2 -> the function it names; my_module.mine:3 -> the user's own, where my_module is trusted.

    Raises ValueError for others.
    """
    from pkgutil import resolve_name

    from attnvis.attention.grammar import divide, is_own_function
    from attnvis.attention.query.language import parse
    from attnvis.attention.spec import functions, parse_function

    if is_own_function(text):
        name, _ = divide(text)
        vet(name, kind, trusted)
        return parse_function(text, {name: resolve_name(name)}, kind)
    return parse(text) if kind == "query" else functions(kind, [text])[text]

"""A function with its settings as one text, and back: `temperature:2` <-> partial(temperature, tau=2.0)."""

import difflib
import inspect
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import get_args

from attnvis.attention import normalise as normalisers
from attnvis.attention import scaling as scalings

__all__ = ["UnknownName", "as_function", "functions", "parse_function", "spell"]

YES, NO = ("true", "yes", "1"), ("false", "no", "0")


def spell(function: Callable) -> str:
    """The text that `parse` would read as this function."""
    inner, given = (function.func, function.keywords) if isinstance(function, partial) else (function, {})
    name = getattr(inner, "__name__", type(inner).__name__).rstrip("_")
    parameters = list(inspect.signature(inner).parameters.values())[1:] if given else []
    while parameters and given.get(parameters[-1].name, parameters[-1].default) == parameters[-1].default:
        parameters.pop()  # what goes without saying
    settings = [
        given.get(parameter.name, parameter.default) for parameter in parameters
    ]  # in order, whatever order they were given in
    said = ",".join(f"{value:.12g}" if isinstance(value, float) else str(value) for value in settings)
    return f"{name}:{said}" if settings else name


class UnknownName(ValueError):
    """A text that names no function."""


def parse_function(text: str, functions: Mapping[str, Callable], kind: str) -> Callable:
    """The text name:setting,setting -> that function of `functions` with its settings filled in, typed as in its signature."""
    name, _, rest = text.strip().partition(":")
    if name not in functions:
        near = difflib.get_close_matches(name, functions, n=1)
        hint = (
            f"did you mean {near[0]}?"
            if near
            else "a class is written class:NAME"
            if kind == "query"
            else "settings follow a colon"
        )
        raise UnknownName(f"unknown {kind} {text!r}; there are {', '.join(functions)}; {hint}")
    function = functions[name]
    parameters = list(inspect.signature(function).parameters.values())[1:]
    given = [part.strip() for part in rest.split(",", max(0, len(parameters) - 1))] if rest else []
    needed = [parameter.name for parameter in parameters if parameter.default is parameter.empty]
    if len(given) < len(needed) or (given and not parameters):
        wanted = ",".join(parameter.name for parameter in parameters)
        raise ValueError(f"{kind} {text!r}: {name} takes {f'{name}:{wanted}' if wanted else 'no settings'}")
    try:
        return partial(
            function,
            **{
                parameter.name: convert(part, parameter.annotation)
                for parameter, part in zip(parameters, given, strict=False)
            },
        )
    except ValueError as error:
        raise ValueError(f"{kind} {text!r}: {error}") from None


def convert(text: str, kind: object) -> object:
    kinds = get_args(kind) or (kind,)  # float | None is a float
    if bool in kinds:
        if text.lower() not in YES + NO:
            raise ValueError(f"{text!r} is neither true nor false")
        return text.lower() in YES
    number = next((number for number in (int, float) if number in kinds and str not in kinds), None)
    return text if number is None else number(text)


def functions(kind: str, texts: Sequence[str]) -> dict[str, Callable]:
    """`temperature:2` and the like -> functions, by name."""
    module = {"scaling": scalings, "normalise": normalisers}[kind]
    return {
        text: parse_function(text, {name: getattr(module, name) for name in module.__all__}, kind)
        for text in texts
    }


def as_function(kind: str, text: str | Callable) -> Callable:
    """The function that a text such as temperature:2 names, its first settings filled in."""
    return text if callable(text) else functions(kind, [text])[text]

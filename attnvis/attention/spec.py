"""A function with its settings as one text, and back: `temperature:2` <-> partial(temperature, tau=2.0)."""

import difflib
import inspect
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from types import ModuleType
from typing import get_args

from attnvis.attention import normalise as normalisers
from attnvis.attention import scaling as scalings

__all__ = ["UnknownName", "as_function", "format_function", "functions", "parse_function"]

MODULES: dict[str, ModuleType] = {"scaling": scalings, "normalise": normalisers}
YES, NO = ("true", "yes", "1"), ("false", "no", "0")


class UnknownName(ValueError):
    """A text that names no function."""


def format_function(function: Callable) -> str:
    """The text that `parse_function` would read as this function: its settings in the order of its signature.

    Settings at the end that have their default value go without saying.
    """
    settings: Mapping[str, object] = {}
    if isinstance(function, partial):
        settings = function.keywords
        function = function.func
    name = getattr(function, "__name__", type(function).__name__).rstrip("_")
    parameters = setting_parameters(function) if settings else []
    while parameters and settings.get(parameters[-1].name, parameters[-1].default) == parameters[-1].default:
        parameters.pop()
    values = [settings.get(parameter.name, parameter.default) for parameter in parameters]
    texts = [f"{value:.12g}" if isinstance(value, float) else str(value) for value in values]
    return f"{name}:{','.join(texts)}" if texts else name


def parse_function(text: str, functions: Mapping[str, Callable], group: str) -> Callable:
    """The text name:setting,setting -> that function of `functions` with its settings filled in.

    Settings are typed as in the function's signature; the last one takes all that is left, commas too.
    `group` (query, scaling, normalise) is for the messages.  Raises UnknownName where the text names no
    function, ValueError where its settings do not fit.
    """
    name, _, settings_text = text.strip().partition(":")
    if name not in functions:
        hint = hint_for(name, functions, group)
        raise UnknownName(f"unknown {group} {text!r}; there are {', '.join(functions)}; {hint}")
    function = functions[name]
    parameters = setting_parameters(function)
    most_commas = max(0, len(parameters) - 1)
    values = [value.strip() for value in settings_text.split(",", most_commas)] if settings_text else []
    required = [parameter for parameter in parameters if parameter.default is parameter.empty]
    if len(values) < len(required) or (values and not parameters):
        names = ",".join(parameter.name for parameter in parameters)
        usage = f"{name}:{names}" if names else "no settings"
        raise ValueError(f"{group} {text!r}: {name} takes {usage}")
    settings = {}
    try:
        for parameter, value in zip(parameters, values, strict=False):  # what is left out keeps its default
            settings[parameter.name] = convert(value, parameter.annotation)
    except ValueError as error:
        raise ValueError(f"{group} {text!r}: {error}") from None
    return partial(function, **settings)


def setting_parameters(function: Callable) -> list[inspect.Parameter]:
    """What a function takes besides its first argument, the features, scores or logits."""
    return list(inspect.signature(function).parameters.values())[1:]


def hint_for(name: str, functions: Iterable[str], group: str) -> str:
    """What may have been meant by a name that is none of the functions'."""
    near = difflib.get_close_matches(name, functions, n=1)
    if near:
        return f"did you mean {near[0]}?"
    if group == "query":
        return "a class is written class:NAME"
    return "settings follow a colon"


def convert(text: str, annotation: object) -> object:
    """A setting's text as its parameter is annotated: bool, int, float or else text.  Raises ValueError."""
    types = get_args(annotation) or (annotation,)  # float | None is a float
    if bool in types:
        if text.lower() not in YES + NO:
            raise ValueError(f"{text!r} is neither true nor false")
        return text.lower() in YES
    if str in types:
        return text
    if int in types:
        return int(text)
    return float(text) if float in types else text


def functions(group: str, texts: Sequence[str]) -> dict[str, Callable]:
    """Texts such as `temperature:2` -> functions, by text; `group` is scaling or normalise.

    Raises UnknownName where a text names no function, ValueError where its settings do not fit.
    """
    module = MODULES[group]
    by_name = {name: getattr(module, name) for name in module.__all__}
    return {text: parse_function(text, by_name, group) for text in texts}


def as_function(group: str, function: str | Callable) -> Callable:
    """The function that a text such as temperature:2 names, its settings filled in; a function is itself.

    Raises as `functions` does.
    """
    return function if callable(function) else functions(group, [function])[function]

"""A function with its settings as one text, and back: `temperature:2` <-> partial(temperature, tau=2.0)."""

import difflib
import inspect
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from functools import lru_cache, partial
from importlib import import_module
from types import FunctionType, NoneType
from typing import Any, get_args

import torch

from attnvis.attention.grammar import NO, YES, assign, divide
from attnvis.types import Scores

__all__ = ["UnknownName", "as_function", "format_function", "functions", "parse_function"]

NUMBERS = re.compile(r"-?[\d.]+(\s*,\s*-?[\d.]+)+")  # 120,80
EXAMPLES = {"scaling": "temperature:2", "normalise": "top_k:5", "keys": "pca:8", "heads": "random:4"}
PROBES = {  # what every scaling and normaliser takes: one that refuses these refuses every photo
    "scaling": Scores(torch.ones(1, 1, 2), torch.tensor([[[0.0, 1.0], [1.0, 2.0], [3.0, 1.0]]])),
    "normalise": torch.tensor([[[0.0, 1.0, 3.0]]]),
}


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
    if name == "formula" and "text" in settings:
        return str(settings["text"])  # a query that is typed as it stands
    parameters = [
        parameter
        for parameter in (setting_parameters(function) if settings else [])
        if parameter.name in settings or parameter.default is not parameter.empty  # no metric's truth
    ]
    while parameters and settings.get(parameters[-1].name, parameters[-1].default) == parameters[-1].default:
        parameters.pop()
    values = [settings.get(parameter.name, parameter.default) for parameter in parameters]
    texts = [f"{value:.12g}" if isinstance(value, float) else str(value) for value in values]
    return f"{name}:{','.join(texts)}" if texts else name


def parse_function(text: str, functions: Mapping[str, Callable], group: str) -> Callable:
    """The text name:setting,setting -> that function of `functions` with its settings filled in.

    Settings are typed as in the function's signature; the last one takes all that is left, commas too.  They
    may be given by name: pca:centred=false, and as records write them, temperature(tau=2).
    `group` (query, scaling, normalise) is for the messages.  Raises UnknownName where the text names no
    function, ValueError where its settings do not fit.
    """
    name, settings = divide(text)
    if name not in functions:
        hint = hint_for(text.strip(), functions, group)
        raise UnknownName(f"unknown {group} {text!r}; there are {', '.join(functions)}; {hint}")
    function = functions[name]
    parameters = {parameter.name: parameter for parameter in setting_parameters(function)}
    required = [key for key, parameter in parameters.items() if parameter.default is parameter.empty]
    try:
        if settings and settings.strip() and not parameters:
            raise ValueError(f"{name} takes no settings")
        texts = assign(settings or "", list(parameters))
        if not texts.keys() >= set(required):
            raise ValueError(f"it is written {name}:{','.join(parameters)}")
        values = {key: convert(key, value, parameters[key].annotation) for key, value in texts.items()}
    except ValueError as error:
        raise ValueError(f"{group} {text!r}: {error}") from None
    ordered = {key: values[key] for key in parameters if key in values}
    return partial(function, **ordered)


def setting_parameters(function: Callable) -> list[inspect.Parameter]:
    """What a function takes besides its first argument, the features, scores or logits."""
    read = signature if isinstance(function, FunctionType) else inspect.signature  # others may have no hash
    return list(read(function).parameters.values())[1:]


@lru_cache(maxsize=256)
def signature(function: FunctionType) -> inspect.Signature:
    """Every batch of photos writes its queries as text."""
    return inspect.signature(function)


def hint_for(text: str, functions: Iterable[str], group: str) -> str:
    """What may have been meant by a text that begins with none of the functions' names."""
    name, _ = divide(text)
    if (group, name) == ("query", "several"):
        return "several are written with commas: query=class,mean"
    near = difflib.get_close_matches(name.lower().replace("-", "_"), functions, n=1)
    if near:
        return f"did you mean {near[0]}?"
    if group != "query":
        return "settings follow a colon"
    if NUMBERS.fullmatch(text):
        kind = "box" if text.count(",") == 3 else "point"
        return f"a {kind} is written {kind}:{text}"
    return "a class is written class:NAME"


def convert(name: str, text: str, annotation: object) -> object:
    """A setting's text as its parameter is annotated: bool, int, float or else text.

    Raises ValueError that names the setting.
    """
    types = get_args(annotation) or (annotation,)  # float | None is a float
    if NoneType in types and text.lower() in ("none", "null"):
        return None
    if bool in types:
        if text.lower() not in YES + NO:
            raise ValueError(f"{name} must be true or false, not {text!r}")
        return text.lower() in YES
    if str in types:
        return text
    if int not in types and float not in types:
        return text
    if text.isascii() and "_" not in text:  # Python reads 1_0 too, and the digits of every script
        with suppress(ValueError):
            return int(text) if int in types else float(text)
    kind = "a whole number" if int in types else "a number"
    raise ValueError(f"{name} must be {kind}, not {text!r}")


def functions(group: str, texts: Sequence[str]) -> dict[str, Callable]:
    """Texts such as `temperature:2` -> functions, by text; `group` is scaling, normalise, keys or heads.

    Raises UnknownName where a text names no function, ValueError where its settings do not fit, or are such
    as no photo can take: a temperature below 0.
    """
    module = import_module(f"attnvis.attention.{group}")  # now: keys are made of what reads texts
    by_name = {name: getattr(module, name) for name in module.__all__}
    by_text = {text: parse_function(with_a_name(text, group), by_name, group) for text in texts}
    for function in by_text.values() if group in PROBES else ():
        function(PROBES[group])
    return by_text


def with_a_name(text: str, group: str) -> str:
    """heads=4 -> contiguous:4; any other text is itself."""
    if group != "heads" or not text.strip().isdecimal():
        return text
    return "one" if int(text) == 1 else f"contiguous:{text.strip()}"


def as_function(group: str, function: Any) -> Callable:
    """The function that a text such as temperature:2 names, its settings filled in; a function is itself.

    Raises as `functions` does, and ValueError for what is neither.
    """
    if callable(function):
        return function
    if not isinstance(function, str):
        raise ValueError(f"{group} must be a text such as {EXAMPLES[group]}, or a function, not {function!r}")
    return functions(group, [function])[function]

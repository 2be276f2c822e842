"""A composed config -> checked settings, and the functions and networks that it names.

Hydra's `instantiate` is called here only.
"""

import difflib
import inspect
import re
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from pkgutil import resolve_name
from types import NoneType, UnionType
from typing import TYPE_CHECKING, Any

from attnvis import catalogue

if TYPE_CHECKING:
    from omegaconf import DictConfig

__all__ = ["build", "hint", "leaves", "plain", "require", "settings_of", "vet"]

ADDRESSES = {  # group of configs -> the module whose public functions they may call
    "backbone": "attnvis.backbone",
    "query": "attnvis.attention.query",
    "scaling": "attnvis.attention.scaling",
    "normalise": "attnvis.attention.normalise",
    "keys": "attnvis.attention.keys",
    "heads": "attnvis.attention.heads",
    "method": "attnvis.methods",
    "render": "attnvis.render",
}
KINDS = {
    bool: "true or false",
    int: "a whole number",
    float: "a number",
    str: "a word",
    dict: "left as settings of its own",
    list: "a list, as in [1,2]",
    NoneType: "null",
}
MAY_BE_NULL = ("longest",)  # whole numbers by default, which null takes away


def require(cfg: "DictConfig", verb: str, key: str = "", argument: str = "") -> None:
    """Settings that have no default must be given; the others be of their default's kind.

    key: the setting that bare words go to; argument: what they are.

    Raises ValueError that names the setting and what it must be.
    """
    from omegaconf import OmegaConf

    lacking = sorted(OmegaConf.missing_keys(cfg))
    if lacking == [key]:
        raise ValueError(
            f"attnvis {verb} was given no {argument.split(maxsplit=1)[0]}; type attnvis {verb} {argument}"
        )
    if lacking:
        need = "needs" if len(lacking) == 1 else "need"
        raise ValueError(f"{' and '.join(lacking)} {need} a value, as in {lacking[0]}=...")
    defaults = {
        key: value
        for key, value in catalogue.settings(verb).items()
        if not (isinstance(value, dict) and "_target_" in value)  # `fitted` asks the function itself
    }
    given = dict(leaves(plain(cfg)))
    if isinstance(given.get("seed"), int) and not -(2**63) <= given["seed"] < 2**64:
        raise ValueError(f"seed={given['seed']} has more than 64 bits; give one of -2^63 ... 2^64 - 1")
    for key, default in leaves(defaults):
        if key in given and type(default) in (bool, int, dict, NoneType):
            kinds = {int, NoneType} if default is None or key in MAY_BE_NULL else {type(default)}
            agree(key, given[key], kinds)
        elif key in given and isinstance(default, list) and {type(item) for item in default} & {int, float}:
            agree(key, given[key], {list})
            for value in given[key]:
                agree(f"each of {key}", value, {type(default[0])})


def agree(key: str, value: object, kinds: set[Any]) -> None:
    """Raises ValueError for a value that is of none of these kinds; a whole number is a number too."""
    if type(value) in kinds or (type(value) is int and float in kinds):
        return
    wanted = " or ".join(text for kind, text in KINDS.items() if kind in kinds)
    raise ValueError(f"{key} must be {wanted}, not {value!r}")


def build(cfg: "DictConfig", group: str) -> Any:
    """What a config names, made.

    A `_target_` is code: called are public functions of the group's own module, and those of trusted modules.
    Raises ValueError for others, and for what the function itself will not take.
    """
    from hydra.errors import HydraException
    from hydra.utils import instantiate

    settings, trusted = plain(cfg[group]), plain(cfg.trust) or []
    for target in targets(settings):
        vet(target, group, [trusted] if isinstance(trusted, str) else trusted)
    try:
        return instantiate(literal(literal(fitted(group, settings))), _convert_="all")  # it resolves twice
    except HydraException as error:  # wraps what the function raised
        cause = error.__cause__ or error
        if isinstance(cause, ValueError):
            raise cause from None
        raise ValueError(f"{group}: {cause}") from error


def vet(target: str, group: str, trusted: Iterable[str]) -> None:
    """Raises ValueError for a function that is neither a public one of the group's module nor trusted."""
    module, _, name = target.rpartition(".")
    if any(f"{module}.".startswith(f"{own}.") for own in trusted):
        if str(Path.cwd()) not in sys.path:
            sys.path.insert(0, str(Path.cwd()))  # a user's own file lies where the user is
    elif module != ADDRESSES.get(group) or name not in resolve_name(module).__all__:
        moved = module == f"attnvis.{group}" and group in ADDRESSES  # where it was before there were rooms
        if moved and name in resolve_name(ADDRESSES[group]).__all__:
            raise ValueError(f"{group}: {target} is now {ADDRESSES[group]}.{name}; write that as _target_")
        raise ValueError(
            f"{group}: {target} is not attnvis' own; "
            f"a config can run any code, so if you trust it add trust=[{module.split('.')[0]}]"
        )


def fitted(group: str, settings: Mapping[str, Any]) -> dict[str, Any]:
    """A config whose settings are those of its function, in name and kind: 2 becomes 2.0 for a float.

    Raises ValueError where they are not.
    """
    given = {key: value for key, value in settings.items() if not key.startswith("_")}
    try:
        signature = inspect.signature(resolve_name(str(settings.get("_target_"))))
        first = bool(settings.get("_partial_"))  # what the function is called with later
        require_parameters(group, given, list(signature.parameters.values())[first:])
        signature.bind(*[None] * first, **given)
    except (ImportError, AttributeError, TypeError) as error:
        raise ValueError(
            f"{group}: {settings.get('_target_')} cannot be called with {given}: {error}"
        ) from error
    for name, value in list(given.items()):
        kind = signature.parameters[name].annotation if name in signature.parameters else None
        kinds = set(kind.__args__) if isinstance(kind, UnionType) else {kind}
        if kinds <= KINDS.keys():
            agree(f"{group}.{name}", value, kinds)
            if type(value) is int and float in kinds and int not in kinds:
                given[name] = float(value)
    return {**settings, **given}


def require_parameters(group: str, given: Iterable[str], parameters: Sequence[inspect.Parameter]) -> None:
    """Raises ValueError for a setting that the function has no argument for."""
    if any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters):
        return
    known = [parameter.name for parameter in parameters]
    for name in given:
        if name not in known:
            key, settings = f"{group}.{name}", [f"{group}.{other}" for other in known]
            raise ValueError(f"there is no setting {key} here; {hint(key, settings)}".rstrip("; "))


def targets(tree: Any) -> Iterator[str]:
    """Every `_target_` of a config, however deep."""
    if isinstance(tree, dict):
        if "_target_" in tree:
            yield str(tree["_target_"])
        tree = list(tree.values())
    if isinstance(tree, list):
        for branch in tree:
            yield from targets(branch)


def plain(cfg: Any) -> Any:
    """A part of a config as dictionaries, lists and values; what is plain already, as it is."""
    from omegaconf import OmegaConf

    return OmegaConf.to_container(cfg, resolve=True) if OmegaConf.is_config(cfg) else cfg


def literal(tree: Any) -> Any:
    """Settings whose variables were filled in already: a ${...} that is left is part of a name."""
    if isinstance(tree, dict):
        return {key: literal(value) for key, value in tree.items()}
    if isinstance(tree, list):
        return [literal(value) for value in tree]
    return re.sub(r"(\\*)\$\{", r"\1\1\\${", tree) if isinstance(tree, str) else tree


def settings_of(group: str, option: str) -> dict[str, Any]:
    """What can be set of an option; an experiment sets what is others'."""
    if group == "experiment":
        return {}
    settings = catalogue.settings(f"{group}/{option}")
    return {key: value for key, value in settings.items() if not key.startswith("_")}


def leaves(tree: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Every setting with its dotted name, a dictionary before those below it."""
    for key, value in tree.items():
        yield f"{prefix}{key}", value
        if isinstance(value, dict):
            yield from leaves(value, f"{prefix}{key}.")


def hint(word: str, known: Iterable[str]) -> str:
    """The words nearest to one that nobody knows, as a question; nothing near: no text."""
    near = difflib.get_close_matches(word, list(known), n=3)
    return f"did you mean {', '.join(near)}? " if near else ""

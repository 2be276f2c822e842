"""A query, a scaling or a normaliser as it is typed in, Hydra's overrides out: class:tabby -> two of them."""

import functools
import os
import re
from collections.abc import Container, Iterable, Mapping, Sequence
from pathlib import Path

from attnvis import catalogue
from attnvis.attention.grammar import assign, divide, is_own_function, split_texts
from attnvis.cli.commands.command import Command
from attnvis.cli.messages import explain_unknown_setting, fail
from attnvis.cli.quoting import as_value, quoted
from attnvis.errors import in_one_line

__all__ = [
    "ATTENTION",
    "STAGES",
    "axis_override",
    "is_in_words",
    "jobs_override",
    "own_options",
    "require_settings",
    "stage_overrides",
    "usual_scaling",
]

ATTENTION = ("query", "scaling", "normalise", "keys", "heads")  # the stages of one method, attention
STAGES = (*ATTENTION, "method")  # one grammar: attention/grammar.py
NESTED = re.compile(r"_target_|\{")  # a config typed in place of its name


def is_in_words(group: str, value: str) -> bool:
    """Whether group=value is a stage as pages write it, and no config typed in place of its name."""
    return group in STAGES and not NESTED.search(value)


def axis_override(key: str, value: str, command: Command, folders: Sequence[Path]) -> str:
    """class,point:120,80 -> queries=['class','point:120,80']; ends the process for what means nothing."""
    setting = command.axes.get(key, key)
    (group,) = (group for group, axis in command.axes.items() if axis == setting)
    own = own_options(folders, group)
    texts = split_texts(value, {*catalogue.options(group), *own})
    for text in texts:
        name, _ = divide(text)
        if name in own and name not in catalogue.options(group):
            fail(
                f"{group} {name!r}: attnvis {command.name} names a function of yours by its module: "
                f"my_module.{name}",
                code=2,
            )
    return f"{setting}=[{','.join(quoted(stage_text(group, text)) for text in texts)}]"


def stage_overrides(
    group: str, value: str, command: Command, multirun: bool, folders: Sequence[Path]
) -> list[str]:
    """class:tabby -> query=class query.name='tabby'; class,mean -> query=several query.of=['class','mean'].

    Ends the process for a text that means nothing, and for several where one is wanted.
    """
    own = own_options(folders, group)
    options = {*catalogue.options(group), *own, "null"}
    if value in options:
        return [f"{group}={value}"]
    texts = choices_in(group, value, options)
    if multirun:
        return [f"{group}={','.join(registered(group, text, options) for text in texts)}"]
    if len(texts) == 1:
        return settings_overrides(group, texts[0], own)
    if group != "query" or command.single:
        compare = "attnvis evaluate DATA" if group == "method" else "attnvis sweep PHOTO ..."
        fail(
            f"{group}={value} names {len(texts)} and attnvis {command.name} takes one; give one, "
            f"or compare them: {compare} {group}={value}",
            code=2,
        )
    return ["query=several", f"query.of=[{','.join(quoted(stage_text(group, text)) for text in texts)}]"]


def jobs_override(group: str, value: str, command: Command, folders: Sequence[Path]) -> list[str]:
    """same,pca:8 -> one option a job, of a stage that a job has one of; ends the process as above."""
    if group not in catalogue.choices(command.name):
        fail(explain_unknown_setting(group, command.name), code=2)
    options = {*catalogue.options(group), *own_options(folders, group)}
    several = len(choices_in(group, value, options)) > 1
    return stage_overrides(group, value, command, several, folders)


def choices_in(group: str, value: str, options: Container[str]) -> list[str]:
    """same,pca:8 -> same and pca:8; a number of heads alone is a choice, 1,4,random:4,1 are three."""
    texts = split_texts(value, options)
    if group != "heads":
        return texts
    return [choice.strip() for text in texts for choice in counts_apart(text)]


def counts_apart(text: str) -> list[str]:
    """one,4,8 -> one, 4 and 8; what stands behind a colon, as in random:4,1, is a setting."""
    if ":" in text:
        return [text]
    name, bracket, rest = text.rpartition(")")
    first, *others = rest.split(",")
    return [name + bracket + first, *others]


def settings_overrides(group: str, text: str, own: Mapping[str, Path]) -> list[str]:
    """temperature:2 -> scaling=temperature scaling.tau=2.0; of a config of the user's own in its order."""
    name, settings = divide(text)
    if name in own:
        try:
            names = settings_in(own[name])
            values = assign(settings or "", names) if names else {}
        except ValueError as error:
            fail(f"{group} {text!r}: {error}", code=2)
        return [f"{group}={name}", *(f"{group}.{key}={value}" for key, value in values.items())]
    function = stage(group, text)
    option = function.func.__name__.rstrip("_")
    values = {key: as_value(value) for key, value in function.keywords.items()}
    return [f"{group}={option}", *(f"{group}.{key}={value}" for key, value in values.items())]


def registered(group: str, text: str, options: Container[str]) -> str:
    """The text as an option of its group, one of several behind -m."""
    if text in options:
        return text
    from hydra.core.config_store import ConfigStore

    function = stage(group, text)
    if "/" in text:
        fail(f"{group}={text}: behind -m a name has no slash; give one at a time", code=2)
    settings = catalogue.settings(f"{group}/{function.func.__name__.rstrip('_')}")
    ConfigStore.instance().store(group=group, name=text, node=settings | function.keywords)
    return quoted(text)


def stage(group: str, text: str) -> functools.partial:
    """The function that a text names, its settings filled in; ends the process where it means nothing."""
    from attnvis.attention.query.language import parse
    from attnvis.attention.spec import functions

    try:
        match group:
            case "query":
                function = parse(text)
            case "method":
                from attnvis.methods.baselines import parse_method

                function = parse_method(text)
            case "metric":
                from attnvis.experiments.evaluate.naming import parse_metric

                function = parse_metric(text)
            case _:
                function = functions(group, [text])[text]
    except ValueError as error:
        fail(str(error), code=2)
    assert isinstance(function, functools.partial)  # as they make every function of a text
    return function


def stage_text(group: str, text: str) -> str:
    """The text, with settings in their order: temperature(tau=2) -> temperature:2.

    A function of the user's own is left as it is.  Ends the process where it means nothing.
    """
    from attnvis.attention.spec import format_function

    name, settings = divide(text)
    if is_own_function(text) or (group, text) == ("method", "attention"):
        return text
    function = stage(group, text)
    is_class_alone = settings is None and name not in catalogue.options(group)
    is_by_name = settings is not None and re.match(r"\w+\s*=", settings.strip())
    return format_function(function) if is_class_alone or is_by_name else text


def require_settings(overrides: Sequence[str], command: Command) -> None:
    """query=point alone is not enough, and method=gradcam has no query; ends the process with how it is
    written.
    """
    if command.takes_query:
        require_attention(overrides)
    for override in overrides if command.takes_query else ():
        group, _, option = override.partition("=")
        if group not in STAGES or option not in catalogue.options(group):
            continue
        lacks = "???" in catalogue.settings(f"{group}/{option}").values()
        if lacks and not any(other.lstrip("+").startswith(f"{group}.") for other in overrides):
            stage(group, option)


def require_attention(overrides: Sequence[str]) -> None:
    """Ends the process where a stage of attention is given to another method, which would not hear of it."""
    given = dict(override.lstrip("+").partition("=")[::2] for override in overrides)
    method = given.get("method", "attention")
    unheard = [group for group in ATTENTION if any(key.partition(".")[0] == group for key in given)]
    if method != "attention" and unheard:
        settings = catalogue.settings(f"method/{method}") if method in catalogue.options("method") else {}
        advice = f"; its class is written method={method}:tabby" if "category" in settings else ""
        fail(f"method={method} has no {unheard[0]}: that is one of attention's{advice}", code=2)


def usual_scaling(overrides: Iterable[str], command: Command) -> list[str]:
    """A question without a scaling gets a tenth of the patches.

    1/sqrt(d) suits the mean patch, and leaves most other maps flat.
    """
    given = dict(override.partition("=")[::2] for override in overrides)
    if not command.takes_query or given.get("query", "mean") == "mean":
        return []
    return [] if "scaling" in given or "experiment" in given else ["scaling=perplexity"]


def own_options(folders: Iterable[Path], group: str) -> dict[str, Path]:
    """The options of a group that the user's own configs offer: name -> file."""
    files = [
        path for folder in folders if os.path.isdir(folder / group) for path in (folder / group).iterdir()
    ]
    return {path.stem: path for path in files if path.suffix == ".yaml"}


def settings_in(path: Path) -> list[str]:
    """The settings of a config of the user's own, in its order.

    Raises ValueError where it cannot be read.
    """
    import yaml

    try:
        settings = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, yaml.YAMLError, UnicodeDecodeError) as error:
        raise ValueError(f"{path} cannot be read ({in_one_line(error)})") from None
    names = settings if isinstance(settings, dict) else {}
    return [str(name) for name in names if not str(name).startswith("_") and name != "defaults"]

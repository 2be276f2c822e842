"""What a person types in, Hydra's grammar out."""

import functools
import os
import re
import shlex
from collections.abc import Container, Iterable
from pathlib import Path

from attnvis import catalogue
from attnvis.cli.commands.command import Command
from attnvis.cli.config import leaves, settings_of
from attnvis.cli.messages import fail

__all__ = ["divided", "quoted", "resumed", "to_overrides"]

FLAGS_WITH_A_WORD = {  # Hydra's
    *("-cd", "-cn", "-cp", "-c", "-p", "-i"),
    *("--config-dir", "--config-name", "--config-path", "--cfg", "--package", "--info"),
}

# Of these a folder may say only what matches: other values would send or fetch something, or read or write
# outside of it, and are typed again.
WITHIN = {
    "backbone.name": r"[\w.-]+",  # a name of torchvision or timm, not a place of a hub
    "backbone.weights": r"[A-Za-z]\w*",  # DEFAULT, random, an enum name: no file
    "cache.folder": "default",
    "cache.limit": "20.0",  # a smaller one would empty the user's own cache
    "logger.mode": "offline|disabled",
    "logger.project": r"[\w.-]+",
    "logger.group": r"[\w.-]+",
}
FOLDERS = ("hydra.sweep.dir=", "hydra.run.dir=", "resume=")  # that `--resume` gives itself


def resumed(words: list[str], command: Command) -> list[str]:
    """--resume FOLDER -> what was typed when that sweep or run was started, to go on in its folder.

    Of what the folder says only settings of attnvis' own are taken: what could run code, or reach outside of
    the folder, has to be typed again behind it.  Other words come back as they are.  Ends the process where
    the folder is none of this command's, or something has to be typed again.
    """
    from attnvis.pipeline.resume import read_json

    if words[:1] != ["--resume"] or not command.record:
        return words
    verb, example = command.name, f"outputs/{command.name}/<date>/<time>"
    usage = f"--resume takes the folder of a {verb} and nothing else: attnvis {verb} --resume {example}"
    if len(words) < 2:
        fail(usage, code=2)
    folder, typed_again = words[1], with_their_words(words[2:])
    try:
        record = read_json(Path(folder) / command.record)
        program, *typed = shlex.split(record["command"])
        if typed[:1] != [verb] or program != "attnvis":
            raise ValueError
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        if typed_again:
            fail(usage, code=2)
        is_there = os.path.lexists(Path(folder) / command.record)
        state = f"its {command.record} is damaged or another's" if is_there else f"it has no {command.record}"
        fail(f"{folder} is not the folder of a {verb}: {state}; give one such as {example}")
    many = record.get("many") is True
    typed, foreign = divided(typed[1:], command)
    if len(typed_again) != len(set(map(name_of, typed_again)) & set(map(name_of, foreign))):
        fail(usage, code=2)
    lacking = [word for word in foreign if name_of(word) not in map(name_of, typed_again)]
    if lacking:
        fail(
            f"{folder} was begun with {' '.join(lacking)}, which may run code or reach elsewhere; "
            f"if you trust it, type it again: attnvis {verb} --resume {shlex.join([folder, *foreign])}"
        )
    # it stays the command of this run
    os.environ["ATTNVIS_COMMAND"] = (
        shlex.join(["attnvis", verb, *typed, *typed_again]) if typed_again else record["command"]
    )
    typed = [word for word in typed if not word.startswith(FOLDERS)]
    kind = "sweep" if many else "run"  # what Hydra calls several jobs, and one
    return [*typed, *typed_again, f"hydra.{kind}.dir={quoted(folder)}", *command.resuming]


def divided(words: list[str], command: Command) -> tuple[list[str], list[str]]:
    """Words that a folder says were typed -> settings of attnvis' own, and what a person must type again."""
    own: list[str] = []
    foreign: list[str] = []
    for word in with_their_words(words):
        if word in ("-m", "--multirun") or word.startswith(FOLDERS):
            own.append(word)
        elif word.startswith("-"):
            foreign.append(word)
        elif "=" not in word or os.path.exists(word) or is_own_setting(word, command):
            own.append(word)
        else:
            foreign.append(word)
    return own, foreign


def with_their_words(words: list[str]) -> list[str]:
    """-cd FOLDER -> -cd=FOLDER"""
    joined: list[str] = []
    for previous, word in zip(["", *words], words, strict=False):
        if previous in FLAGS_WITH_A_WORD:
            joined[-1] = f"{previous}={word}"
        else:
            joined.append(word)
    return joined


def name_of(word: str) -> str:
    """The setting or flag that a word gives."""
    return word.partition("=")[0]


def is_own_setting(word: str, command: Command) -> bool:
    """Whether key=value gives values, and no code, to settings that attnvis' own configs have.

    What is not known to be harmless is not: no setting of Hydra's, but for numbers of a launcher; no config
    that is not ours; no `_target_`, no interpolation, nothing that is added or deleted; of files and servers
    only those of `WITHIN`.
    """
    from hydra.core.override_parser.overrides_parser import OverridesParser
    from hydra.core.override_parser.types import OverrideType
    from hydra.errors import HydraException

    text = to_override(word, command, multirun=True, offered=catalogue.options("backbone"))
    if "_target_" in text or "${" in text:
        return False
    try:
        override = OverridesParser.create().parse_override(text)
        several = override.is_sweep_override()
        values = list(override.sweep_string_iterator()) if several else [override.get_value_element_as_str()]
    except (HydraException, AssertionError):
        return False
    key = override.key_or_group
    if override.type != OverrideType.CHANGE or override.package is not None or key == "trust":
        return False
    options = [value.strip("'\"") for value in values]
    if key in catalogue.groups():
        known = {*catalogue.options(key), "null"}
        return all(option in known or is_network(key, option) for option in options)
    if key.startswith("hydra.launcher."):
        return all(re.fullmatch(r"-?\d+(\.\d+)?", option) for option in options)
    if key in WITHIN and not all(stays_within(key, option) for option in options):
        return False
    return key in own_settings(command.name)


def stays_within(key: str, value: str) -> bool:
    """Whether a setting reaches nothing outside of the folder."""
    return bool(re.fullmatch(WITHIN[key], value)) and not (
        key == "backbone.weights" and os.path.exists(value)
    )


def is_network(group: str, option: str) -> bool:
    return group == "backbone" and catalogue.family(option) is not None


@functools.cache
def own_settings(command_name: str) -> frozenset[str]:
    """The dotted names of all settings of a command and of the options of every group."""
    names = {name for name, _ in leaves(catalogue.settings(command_name))}
    for group in catalogue.groups():
        for option in catalogue.options(group):
            names |= {f"{group}.{name}" for name, _ in leaves(settings_of(group, option))}
    return frozenset(name for name in names if not name.startswith("hydra"))


def to_overrides(words: Iterable[str], command: Command) -> list[str]:
    """What a person types -> Hydra's grammar, flags first: Hydra wants them together.

    Bare words, and names in general, may hold spaces and brackets; a network's name will do for its family;
    where the command takes several options at once, they need no brackets.  Ends the process for words that
    contradict one another.
    """
    words = list(words)
    multirun = "-m" in words or "--multirun" in words
    offered = {*catalogue.options("backbone"), *own_backbones(words)}
    bare: list[str] = []
    flags: list[str] = []
    overrides: list[str] = []
    for previous, word in zip(["", *words], words, strict=False):
        if word.startswith("-") or previous in FLAGS_WITH_A_WORD:
            flags.append(word)
        elif "=" not in word or os.path.exists(word):
            bare.append(quoted(word))
        else:
            overrides.append(to_override(word, command, multirun, offered))
    if command.comparison and not multirun and any(map(has_choices, overrides)):
        flags.append("--multirun")
    return [
        *flags,
        *bare_override(bare, overrides, command),
        *overrides,
        *usual_scaling(overrides, command),
    ]


def to_override(word: str, command: Command, multirun: bool, offered: Container[str]) -> str:
    """One `key=value` as Hydra reads it; `offered` are the names of configs in the group `backbone`."""
    key, _, value = word.partition("=")
    if key in command.axes or key in command.axes.values():
        options = value if value.startswith("[") else axis(value)
        return f"{command.axes.get(key, key)}={options}"
    if key in ("images", "query.name") or (command.single and key == command.key):
        as_hydra_writes = value.startswith(("[", "'", '"')) or (multirun and "," in value)
        return word if as_hydra_writes else f"{key}={quoted(value)}"
    if key.lstrip("+") == "name" and ".." in re.split(r"[^\w.-]", value):
        fail(
            f"name={value} leads out of outputs/; "
            "give a name without .., or choose any folder with hydra.run.dir=FOLDER",
            code=2,
        )
    if key == "backbone":
        register_backbones(name for name in value.split(",") if name not in offered)
    return word


def bare_override(bare: list[str], overrides: list[str], command: Command) -> list[str]:
    """The bare words, each quoted, as one override of the setting that they stand for; none: no override."""
    if not bare:
        return []
    key = command.key
    if any(override.startswith(f"{key}=") for override in overrides):
        fail(f"{', '.join(bare)} and {key}=... were both given; give one of them", code=2)
    if command.single:
        if len(bare) > 1:
            fail(f"{command.name} takes {command.single}, not {len(bare)}: {', '.join(bare)}", code=2)
        return [f"{key}={bare[0]}"]
    return [f"{key}=[{','.join(bare)}]"]


def axis(value: str) -> str:
    """class,point:120,80 -> ['class','point:120,80']: commas separate before letters, not before numbers."""
    options = re.split(r",(?=[A-Za-z_])", value)
    return f"[{','.join(map(quoted, options))}]"


def has_choices(override: str) -> bool:
    """Whether a comma stands in it outside of brackets and quotes: several jobs."""
    return "," in re.sub(r"\[.*\]|\{.*\}|'.*'|\".*\"", "", override)


def usual_scaling(overrides: Iterable[str], command: Command) -> list[str]:
    """A question without a scaling gets a tenth of the patches.

    1/sqrt(d) suits the mean patch, and leaves most other maps flat.
    """
    given = dict(override.partition("=")[::2] for override in overrides)
    if not command.takes_query or given.get("query", "mean") == "mean":
        return []
    return [] if "scaling" in given or "experiment" in given else ["scaling=perplexity"]


def own_backbones(words: Iterable[str]) -> list[str]:
    """The networks that configs of the user's own offer, where they are named: -cd FOLDER."""
    folders = [Path(word.rpartition("=")[2], "backbone") for word in words]
    return [path.stem for folder in folders if os.path.isdir(folder) for path in folder.glob("*.yaml")]


def register_backbones(names: Iterable[str]) -> None:
    """resnet18 becomes an option of the group `backbone`: its family's config with that name."""
    from hydra.core.config_store import ConfigStore

    for name in names:
        if family := catalogue.family(name):
            settings = catalogue.settings(f"backbone/{family}") | {"name": name}
            ConfigStore.instance().store(group="backbone", name=name, node=settings)


def quoted(text: str) -> str:
    """As one string of Hydra's grammar, whatever it holds."""
    text = re.sub(r"(\\+)$", r"\1\1", text)  # backslashes before the closing quote
    return "'" + re.sub(r"(\\*)'", r"\1\1\\'", text) + "'"

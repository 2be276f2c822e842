"""What a person types in, Hydra's grammar out."""

import json
import os
import re
import shlex
from collections.abc import Container, Iterable
from pathlib import Path

from attnvis import catalogue
from attnvis.cli.commands.command import Command
from attnvis.cli.messages import fail

__all__ = ["quoted", "resumed", "to_overrides"]

FLAGS_WITH_A_WORD = {  # Hydra's
    *("-cd", "-cn", "-cp", "-c", "-p", "-i"),
    *("--config-dir", "--config-name", "--config-path", "--cfg", "--package", "--info"),
}


def resumed(words: list[str], command: Command) -> list[str]:
    """--resume FOLDER -> what was typed when that sweep or run was started, to go on in its folder.

    Other words come back as they are.  Ends the process where the folder is none of this command's.
    """
    if words[:1] != ["--resume"] or not command.record:
        return words
    verb, example = command.name, f"outputs/{command.name}/<date>/<time>"
    if len(words) != 2:
        fail(
            f"--resume takes the folder of a {verb} and nothing else: attnvis {verb} --resume {example}",
            code=2,
        )
    folder = words[1]
    try:
        record = json.loads((Path(folder) / command.record).read_text(encoding="utf-8"))
        typed = shlex.split(record["command"])[2:]
    except (OSError, ValueError, KeyError):
        fail(
            f"{folder} is not the folder of a {verb}: it has no {command.record}; give one such as {example}"
        )
    os.environ["ATTNVIS_COMMAND"] = record["command"]  # it stays the command of this run
    replaced = ("hydra.sweep.dir=", "hydra.run.dir=", "resume=")
    typed = [word for word in typed if not word.startswith(replaced)]
    kind = "sweep" if record.get("many") else "run"  # what Hydra calls several jobs, and one
    return [*typed, f"hydra.{kind}.dir={quoted(folder)}", *command.resuming]


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

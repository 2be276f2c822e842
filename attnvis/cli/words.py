"""What a person types in, Hydra's overrides out."""

import functools
import os
import re
from collections.abc import Iterable, Sequence
from pathlib import Path

from attnvis import catalogue
from attnvis.attention.grammar import QUOTED
from attnvis.cli.commands.command import IN_SHARDS, Command
from attnvis.cli.config import hint, leaves, settings_of
from attnvis.cli.messages import (
    SEVERAL,
    explain_unknown_setting,
    fail,
    groups_of,
    note,
    plain_settings,
)
from attnvis.cli.quoting import SEVERAL_TEXTS, TEXTS, as_texts, is_readable, quoted
from attnvis.cli.stages import (
    ATTENTION,
    axis_override,
    is_in_words,
    jobs_override,
    own_options,
    require_settings,
    stage_overrides,
    usual_scaling,
)

__all__ = [
    "all_settings",
    "last_ones",
    "name_of",
    "to_override",
    "to_overrides",
    "with_their_operands",
    "with_their_words",
]

FLAGS_WITH_A_WORD = {  # Hydra's
    *("-cd", "-cn", "-cp", "-c", "-p", "-i"),
    *("--config-dir", "--config-name", "--config-path", "--cfg", "--package", "--info"),
}
FLAGS = FLAGS_WITH_A_WORD | {
    *("-m", "-r", "-sc", "--multirun", "--run", "--resolve", "--shell-completion"),
    *("--hydra-help", "--experimental-rerun"),
}


def to_overrides(words: Iterable[str], command: Command, begun: bool = False) -> list[str]:
    """What a person types -> Hydra's grammar, flags first: Hydra wants them together.

    Bare words, and names in general, may hold anything; a network's name will do for its family; a query, a
    scaling or a normaliser is given as pages write it; where the command takes several options at once, they
    need no brackets.  Ends the process for flags that there are not, for stages that mean nothing, and for
    words that contradict one another.

    begun: these are a folder's words, which were taken when it was begun
    """
    words = last_ones(with_their_operands(with_their_words(list(words))), say=not begun)
    multirun = "-m" in words or "--multirun" in words
    folders = own_folders(words)
    bare: list[str] = []
    flags: list[str] = []
    overrides: list[str] = []
    for word, following in zip(words, [*words[1:], ""], strict=False):
        if word == "-" and command.argument:
            fail("- is no file: what is piped in is not read; save it to a file and name that", code=2)
        if word.startswith("-"):
            if name_of(word) in FLAGS:
                flags.append(with_its_word(word))
            elif command.argument and os.path.lexists(word):
                bare.append(quoted(word))
            else:
                fail(unknown_flag(word, following, command), code=2)
        elif word.startswith("=") and not os.path.lexists(word):
            fail(f"{word!r} names no setting; there are no blanks round a =, as in query=class", code=2)
        elif "=" not in word or os.path.exists(word) or re.match(r"\w[\w+.-]*://", word):
            bare.append(quoted(word))
        else:
            if not begun:
                check_added(word, words, command)
            overrides += to_override(word, command, multirun, folders)
    if command.comparison and not multirun and any(map(has_choices, overrides)):
        flags.append("--multirun")
    require_settings(overrides, command)
    overrides += one_folder(overrides, command)
    return [
        *flags,
        *bare_override(bare, overrides, command),
        *overrides,
        *usual_scaling(overrides, command),
        *without_a_copy(words),
    ]


def to_override(word: str, command: Command, multirun: bool, folders: Sequence[Path]) -> list[str]:
    """One `key=value` as Hydra reads it, a stage as several; `folders`: of the user's own configs."""
    if word.startswith("+logger."):
        word = word[1:]  # settings that had to be added before they were there
    key, _, value = word.partition("=")
    bare_key = key.lstrip("+")
    if key in command.axes or key in command.axes.values():
        return [axis_override(key, value, command, folders)]
    if command.takes_query and is_in_words(key, value):
        return stage_overrides(key, value, command, multirun, folders)
    if command.comparison and key in ATTENTION and is_in_words(key, value):
        return jobs_override(key, value, command, folders)
    if key == "launcher" and value in IN_SHARDS and not command.in_shards:
        fail(f"launcher={value} is for attnvis run; {command.name} takes joblib or slurm", code=2)
    if bare_key == "name" and ".." in re.split(r"[^\w.-]", value):
        fail(
            f"name={value} leads out of outputs/; "
            "give a name without .., or choose any folder with hydra.run.dir=FOLDER",
            code=2,
        )
    if bare_key in TEXTS:
        several = multirun or (command.comparison is not None and key in SEVERAL_TEXTS)
        return [f"{key}={as_texts(bare_key, value, several)}"]
    if key == "backbone":
        offered = {*catalogue.options("backbone"), *own_options(folders, "backbone")}
        register_backbones(name for name in value.split(",") if name not in offered)
    if os.path.exists(value) and not is_readable(word):
        return [f"{key}={quoted(value)}"]
    return [word]


def bare_override(bare: list[str], overrides: list[str], command: Command) -> list[str]:
    """The bare words, each quoted, as one override of the setting that they stand for; none: no override."""
    if not bare:
        return []
    key = command.key
    if not command.argument:
        fail(
            f"attnvis {command.name} takes settings, name=value, and no {', '.join(bare)}; "
            f"see attnvis {command.name} --help",
            code=2,
        )
    if any(override.startswith(f"{key}=") for override in overrides):
        fail(f"{', '.join(bare)} and {key}=... were both given; give one of them", code=2)
    if command.single:
        if len(bare) > 1:
            fail(f"{command.name} takes {command.single}, not {len(bare)}: {', '.join(bare)}", code=2)
        return [f"{key}={bare[0]}"]
    return [f"{key}=[{','.join(bare)}]"]


def last_ones(words: Sequence[str], say: bool = True) -> list[str]:
    """Of a setting that is typed twice the last, which is said; seed, +seed and ++seed are one."""
    last: dict[str, str] = {}
    for word in words:
        if is_setting(word):
            last[name_of(word).lstrip("+")] = word
    kept = []
    for word in words:
        name = name_of(word).lstrip("+")
        counts = last[name] if is_setting(word) else word
        if counts == word:
            kept.append(word)
            continue
        several = (
            "; several go in one, with commas" if name in (*SEVERAL, *SEVERAL.values(), "images") else ""
        )
        if say:
            note(f"{word} and {counts} were both given, and the last counts{several}")
    return kept


def is_setting(word: str) -> bool:
    """Whether a word gives a setting a value: it is no flag, no file, no address."""
    is_other = word.startswith(("-", "~", "=")) or os.path.exists(word) or "://" in name_of(word)
    return "=" in word and not is_other


def check_added(word: str, words: Sequence[str], command: Command) -> None:
    """Ends the process where +name=value adds what nothing would ever read.

    Own configs (-cd) may read what they like, and so may a ${name} in another word; a function's settings are
    held against the function later.
    """
    key = name_of(word).lstrip("+")
    if not word.startswith("+") or key.startswith("hydra") or re.search(r"[@/]", key) or own_folders(words):
        return
    group = key.partition(".")[0] if "." in key else ""
    known = plain_settings(command.name) | groups_of(command.name) | set(catalogue.groups())
    is_functions = "_target_" in (catalogue.settings(command.name).get(group) or {}) if group else False
    if key not in known and not is_functions and not any("${" + key in other for other in words):
        fail(explain_unknown_setting(key, command.name), code=2)


def one_folder(overrides: Sequence[str], command: Command) -> list[str]:
    """Where the results go: Hydra has one setting for a job and another for several, and either means both.

    Ends the process where it is empty, as a variable of the shell may be.
    """
    places = {
        name: override.partition("=")[2]
        for override in overrides
        if (name := name_of(override).lstrip("+")) in ("hydra.run.dir", "hydra.sweep.dir")
    }
    for name, place in places.items():
        if place in ("", "''"):
            fail(f"{name}= names no folder; give one, or . for the one you are in", code=2)
    single, several = places.get("hydra.run.dir"), places.get("hydra.sweep.dir")
    if single and not several:
        return [f"hydra.sweep.dir={single}"]
    if several and not single:
        return [f"hydra.run.dir={several}"]
    return []


def has_choices(override: str) -> bool:
    """Whether a comma stands in it outside of brackets and quotes: several jobs."""
    without_quotes = re.sub(QUOTED, "", override.replace("\n", " "))
    return "," in re.sub(r"\[.*\]|\{.*\}", "", without_quotes)


def without_a_copy(words: Iterable[str]) -> list[str]:
    """No .hydra/ where the folder's name looks like a variable of Hydra's: it would be read as one."""
    folders = [
        os.getcwd(),
        *(word for word in words if name_of(word) in ("name", "hydra.run.dir", "hydra.sweep.dir")),
    ]
    return ["hydra.output_subdir=null"] if any("${" in folder for folder in folders) else []


def register_backbones(names: Iterable[str]) -> None:
    """resnet18 becomes an option of the group `backbone`: its family's config with that name."""
    from hydra.core.config_store import ConfigStore

    for name in names:
        if family := catalogue.family(name):
            settings = catalogue.settings(f"backbone/{family}") | {"name": name}
            ConfigStore.instance().store(group="backbone", name=name, node=settings)


# ------------------------------------------------------------------------------------------------------ flags


def name_of(word: str) -> str:
    """The setting or flag that a word gives."""
    return word.partition("=")[0]


def with_their_words(words: list[str]) -> list[str]:
    """-cd FOLDER -> -cd=FOLDER"""
    joined: list[str] = []
    for previous, word in zip(["", *words], words, strict=False):
        if previous in FLAGS_WITH_A_WORD:
            joined[-1] = f"{previous}={word}"
        else:
            joined.append(word)
    return joined


def with_their_operands(words: list[str]) -> list[str]:
    """query=class:tabby - class:lynx in three words, without the quotes of a shell -> in one."""
    joined: list[str] = []
    for word in words:
        is_operand = (
            bool(joined) and joined[-1].startswith("query=") and joined[-1].endswith((" -", " +", " *"))
        )
        if (word in ("-", "+", "*") and joined and joined[-1].startswith("query=")) or is_operand:
            joined[-1] += f" {word}"
        else:
            joined.append(word)
    return joined


def with_its_word(flag: str) -> str:
    """The flag as it is; ends the process where its word is missing."""
    if flag in FLAGS_WITH_A_WORD - {"-i", "--info"}:
        fail(f"{flag} needs a word behind it, as in {flag} FOLDER", code=2)
    return flag


def own_folders(words: Iterable[str]) -> list[Path]:
    """The folders of the user's own configs: -cd FOLDER."""
    flags = ("-cd", "--config-dir", "-cp", "--config-path")
    return [Path(word.partition("=")[2]) for word in words if name_of(word) in flags]


def unknown_flag(word: str, following: str, command: Command) -> str:
    """What to write instead of a flag that there is not."""
    name, equals, value = word.lstrip("-").partition("=")
    name = name.replace("-", "_")
    verb = command.name
    settings = {*all_settings(verb), *catalogue.choices(verb), *command.axes}
    if name == "resume" and command.record:
        return f"--resume FOLDER comes first: attnvis {verb} --resume FOLDER"
    if name in settings:
        value = value if equals else following
        return f"settings have no dashes: {name}={value if value and not value.startswith('-') else '...'}"
    near = hint(name, settings) if len(name) > 1 else ""
    also = f"; a file of that name is written ./{word}" if command.argument else ""
    usage = f"settings have no dashes, as in seed=1{also}; see attnvis {verb} --help"
    return f"there is no flag {word}; {near}{usage}"


@functools.cache
def all_settings(command_name: str) -> frozenset[str]:
    """The dotted names of all settings of a command and of the options of every group."""
    names = {name for name, _ in leaves(catalogue.settings(command_name))}
    for group in catalogue.groups():
        for option in catalogue.options(group):
            names |= {f"{group}.{name}" for name, _ in leaves(settings_of(group, option))}
    return frozenset(name for name in names if not name.startswith("hydra"))

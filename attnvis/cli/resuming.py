"""A folder in which a command was begun in, the words that go on with it out."""

import os
import re
import shlex
from pathlib import Path
from typing import Any

from attnvis import catalogue
from attnvis.cli.commands.command import Command
from attnvis.cli.messages import fail, seen_from_here
from attnvis.cli.quoting import TEXTS
from attnvis.cli.stages import is_in_words
from attnvis.cli.words import (
    all_settings,
    last_ones,
    name_of,
    to_override,
    with_their_operands,
    with_their_words,
)

__all__ = ["divided", "resume_words", "resumed"]

# Of these a folder may say only what matches: other values would send or fetch something, or read or write
# outside of it, and are typed again.
WITHIN = {
    "backbone.name": r"[\w.-]+",  # a name of torchvision or timm, not a place of a hub
    "backbone.weights": r"[A-Za-z]\w*",  # DEFAULT, random, an enum name: no file
    "backbone.categories": r"imagenet|\[.*\]",  # names, or ours: no file
    "cache.folder": "default",
    "cache.limit": "20.0",  # a smaller one would empty the user's own cache
    "logger.mode": "offline|disabled",
    "logger.entity": "",  # whose account
    "logger.project": r"[\w.-]+",
    "logger.group": r"[\w.-]+",
    "shards.address": "auto",
}
CLUSTERS = ("slurm", "ray")  # whose launchers send work to other machines
QUERY_OF_FILE = re.compile(r"(exemplar|vector|mask)\s*[:(]", re.IGNORECASE)  # a file, or several
POLYGON = re.compile(r"[-\d\s.,]+")  # a mask's, which is no file
OF_THE_RUN = re.compile(rf"exemplar:run|mask:{POLYGON.pattern}")
LISTS = (".txt", ".csv", ".tsv", ".parquet")  # files that may name photos
FOLDERS = ("hydra.sweep.dir=", "hydra.run.dir=", "resume=")  # that `--resume` gives itself


def resumed(words: list[str], command: Command) -> list[str]:
    """--resume FOLDER -> what was typed when that sweep or run was started, to go on in its folder.

    Of what the folder says only settings of attnvis' own are taken: what could run code, or reach outside of
    the folder, has to be typed again behind it.  Other words come back as they are.  Ends the process where
    the folder is none of this command's, or something has to be typed again.
    """
    if words[:1] != ["--resume"] or not command.record:
        return words
    verb, example = command.name, f"outputs/{command.name}/<date>/<time>"
    besides = f"but {', '.join(f'{name}=' for name in command.changeable)}" if command.changeable else "else"
    usage = f"--resume takes the folder of a {verb} and nothing {besides}: attnvis {verb} --resume {example}"
    if len(words) < 2:
        fail(usage, code=2)
    folder, typed_again = words[1], with_their_operands(with_their_words(words[2:]))
    anew = [word for word in typed_again if name_of(word) in command.changeable]
    typed_again = [word for word in typed_again if word not in anew]
    anew = last_ones(anew)
    try:
        record = read_begun(Path(folder), command)
    except (OSError, ValueError):
        if typed_again:
            fail(usage, code=2)
        is_there = os.path.lexists(Path(folder) / command.record)
        state = f"its {command.record} is damaged or another's" if is_there else f"it has no {command.record}"
        fail(f"{folder} is not the folder of a {verb}: {state}; give one such as {example}")
    many = record.get("many") is True
    begun_with = [word for word in words_of(record) if name_of(word) not in map(name_of, anew)]
    _, foreign = divided(begun_with, command)
    if len(typed_again) != len(set(map(name_of, typed_again)) & set(map(name_of, foreign))):
        fail(usage, code=2)
    lacking = [word for word in foreign if name_of(word) not in map(name_of, typed_again)]
    if lacking:
        fail(
            f"{folder} was begun with {' '.join(lacking)}, which may run code or reach elsewhere; "
            f"if you trust it, type it again: attnvis {verb} --resume {shlex.join([folder, *foreign])}"
        )
    again = {name_of(word): word for word in typed_again}
    # in their places: photos keep their order
    typed = [again[name_of(word)] if word in foreign else word for word in begun_with] + anew
    # it stays the command of this run
    os.environ["ATTNVIS_COMMAND"] = (
        shlex.join(["attnvis", verb, *typed]) if typed_again or anew else record["command"]
    )
    typed = [word for word in typed if not word.startswith(FOLDERS)]
    kind = "sweep" if many else "run"  # what Hydra calls several jobs, and one
    return [*typed, f"hydra.{kind}.dir={folder}", *command.resuming]


def read_begun(folder: Path, command: Command) -> dict[str, Any]:
    """What a folder says of the command that began it.

    Raises OSError where it says nothing, ValueError where it is damaged or another command's.
    """
    from attnvis.json_files import read_json

    record = read_json(folder / command.record)
    if not isinstance(record.get("command"), str):
        raise ValueError(f"{folder / command.record} names no command")
    if shlex.split(record["command"])[:2] != ["attnvis", command.name]:
        raise ValueError(f"{folder / command.record} is another command's")
    return record


def words_of(record: dict[str, Any]) -> list[str]:
    """What was typed behind the verb, a setting a word."""
    return with_their_operands(with_their_words(shlex.split(record["command"])[2:]))


def divided(words: list[str], command: Command) -> tuple[list[str], list[str]]:
    """Words that a folder says were typed -> settings of attnvis' own, and what a person must type again."""
    own: list[str] = []
    foreign: list[str] = []
    for word in words:
        if word in ("-m", "--multirun") or word.startswith(FOLDERS):
            own.append(word)
        elif word.startswith("-") or reaches_out(word):
            foreign.append(word)
        elif "=" not in word or os.path.exists(word) or is_own_setting(word, command):
            own.append(word)
        else:
            foreign.append(word)
    return own, foreign


def reaches_out(word: str) -> bool:
    """Whether a word names a store or a server, a cluster, or a file that a query reads.

    {3..3} counts: s{3..3}://bucket is an address too.
    """
    name, value = name_of(word).strip(), word.partition("=")[2]
    if "://" in word or name == "query.file" or any(map(lists_addresses, files_in(word))):
        return True
    if name == "query.photo":
        return value != "run"  # the run's own
    if name == "launcher":
        return any(cluster in value for cluster in CLUSTERS)
    if name == "query.shape":
        return not POLYGON.fullmatch(value)
    is_question = name in ("query", "queries") or name.startswith("query.")
    return (
        is_question
        and bool(QUERY_OF_FILE.search(value.replace("\\", "")))
        and not OF_THE_RUN.fullmatch(value)
    )


def files_in(word: str) -> list[str]:
    """What a word names that may be a list of photos: itself, or the names in images=[a.csv,b.txt]."""
    return [word, *re.split(r"[][,'\"]", word.partition("=")[2])]


def lists_addresses(file: str) -> bool:
    """Whether a file is a list or a table that names photos by their addresses."""
    from attnvis.data.paths import survey
    from attnvis.types import PhotoError

    if not file.lower().endswith(LISTS) or not os.path.isfile(file):
        return False
    try:
        return any("://" in str(source) for source in survey(file).paths)
    except PhotoError:
        return False  # it names nothing


def is_own_setting(word: str, command: Command) -> bool:
    """Whether key=value gives values, and no code, to settings that attnvis' own configs have.

    What is not known to be harmless is not: no setting of Hydra's, but for numbers of a launcher; no config
    that is not ours; no `_target_`, no interpolation, nothing that is added or deleted; of files and servers
    only those of `WITHIN`.
    """
    from hydra.core.override_parser.overrides_parser import OverridesParser
    from hydra.core.override_parser.types import OverrideType
    from hydra.errors import HydraException

    name, _, value = word.partition("=")
    if is_in_words(name, value):
        return True
    (text,) = to_override(word, command, multirun=True, folders=())
    if name not in TEXTS and ("_target_" in text or "${" in text):
        return False
    try:
        override = OverridesParser.create().parse_override(text)
        several = override.is_sweep_override()
        values = list(override.sweep_string_iterator()) if several else [override.get_value_element_as_str()]
    except (HydraException, AssertionError):
        return False
    key = override.key_or_group
    if override.type != OverrideType.CHANGE or override.package is not None or key in ("trust", "logger.dir"):
        return False
    options = [value.strip("'\"") for value in values]
    if key in catalogue.groups():
        offered = {*catalogue.options(key), "null"}
        return all(option in offered or is_network(key, option) for option in options)
    if key.startswith("hydra.launcher."):
        return all(re.fullmatch(r"-?\d+(\.\d+)?", option) for option in options)
    if key in WITHIN and not all(stays_within(key, option) for option in options):
        return False
    return key in all_settings(command.name)


def stays_within(key: str, value: str) -> bool:
    """Whether a setting reaches nothing outside of the folder."""
    return bool(re.fullmatch(WITHIN[key], value)) and not (
        key == "backbone.weights" and os.path.exists(value)
    )


def is_network(group: str, option: str) -> bool:
    return group == "backbone" and catalogue.family(option) is not None


def resume_words(command: Command, folder: Path) -> str:
    """What to type to go on with what a folder holds, with what it may not say itself; "" where nothing can.

    The jobs of a sweep go on together.
    """
    if folder.name.isdigit() and (folder.parent / command.record).is_file() and command.comparison:
        folder = folder.parent
    if not command.record:
        return ""
    try:
        record = read_begun(folder, command)
    except (OSError, ValueError):
        return ""
    _, foreign = divided(words_of(record), command)
    return shlex.join(["attnvis", command.name, "--resume", str(seen_from_here(folder)), *foreign])

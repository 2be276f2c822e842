"""What a person types in, Hydra's grammar out."""

import functools
import os
import re
import shlex
from collections.abc import Container, Iterable, Mapping, Sequence
from pathlib import Path

from attnvis import catalogue
from attnvis.attention.grammar import (
    QUOTED,
    assign,
    divide,
    is_own_function,
    split_pieces,
    split_texts,
    unquoted,
)
from attnvis.cli.commands.command import Command
from attnvis.cli.config import hint, leaves, settings_of
from attnvis.cli.messages import fail

__all__ = ["divided", "quoted", "resumed", "to_overrides"]

FLAGS_WITH_A_WORD = {  # Hydra's
    *("-cd", "-cn", "-cp", "-c", "-p", "-i"),
    *("--config-dir", "--config-name", "--config-path", "--cfg", "--package", "--info"),
}
FLAGS = FLAGS_WITH_A_WORD | {
    *("-m", "-r", "-sc", "--multirun", "--run", "--resolve", "--shell-completion"),
    *("--hydra-help", "--version", "--experimental-rerun"),
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

# Settings that are texts: names of files and folders, of classes, of a run.  What they hold is taken as it
# stands, whatever it means to Hydra: =, brackets, quotes, blanks, ${...}.
ONE_TEXT = frozenset(
    {"run", "clip", "folder", "cache.folder", "hydra.run.dir", "hydra.sweep.dir", "name"}
    | {f"logger.{key}" for key in ("project", "entity", "group", "name", "job_type", "notes", "id", "dir")}
)
SEVERAL_TEXTS = frozenset({"backbone.weights", "query.name"})  # commas make several jobs, where there can be
LISTS_OF_TEXTS = frozenset({"images"})  # [one,two]; commas make several jobs behind -m
TEXTS = ONE_TEXT | SEVERAL_TEXTS | LISTS_OF_TEXTS
STAGES = ("query", "scaling", "normalise")  # one grammar: attention/grammar.py


def resumed(words: list[str], command: Command) -> list[str]:
    """--resume FOLDER -> what was typed when that sweep or run was started, to go on in its folder.

    Of what the folder says only settings of attnvis' own are taken: what could run code, or reach outside of
    the folder, has to be typed again behind it.  Other words come back as they are.  Ends the process where
    the folder is none of this command's, or something has to be typed again.
    """
    from attnvis.json_files import read_json

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
    return [*typed, *typed_again, f"hydra.{kind}.dir={folder}", *command.resuming]


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

    name = name_of(word)
    if name in STAGES and not NESTED.search(word):
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

    Bare words, and names in general, may hold anything; a network's name will do for its family; a query, a
    scaling or a normaliser is given as pages write it; where the command takes several options at once, they
    need no brackets.  Ends the process for flags that there are not, for stages that mean nothing, and for
    words that contradict one another.
    """
    words = with_their_words(list(words))
    multirun = "-m" in words or "--multirun" in words
    folders = own_folders(words)
    bare: list[str] = []
    flags: list[str] = []
    overrides: list[str] = []
    for word, following in zip(words, [*words[1:], ""], strict=False):
        if word.startswith("-"):
            if name_of(word) in FLAGS:
                flags.append(with_its_word(word))
            elif command.argument and os.path.lexists(word):
                bare.append(quoted(word))
            else:
                fail(unknown_flag(word, following, command), code=2)
        elif "=" not in word or os.path.exists(word):
            bare.append(quoted(word))
        else:
            overrides += to_override(word, command, multirun, folders)
    if command.comparison and not multirun and any(map(has_choices, overrides)):
        flags.append("--multirun")
    require_settings(overrides, command)
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
    if key in STAGES and command.takes_query and not NESTED.search(value):
        return stage_overrides(key, value, command, multirun, folders)
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


NESTED = re.compile(r"_target_|\{")  # a config typed in place of its name


def is_readable(word: str) -> bool:
    """Whether Hydra can read key=value, and finds no variable in it."""
    from hydra.core.override_parser.overrides_parser import OverridesParser
    from hydra.errors import HydraException

    try:
        OverridesParser.create().parse_override(word)
    except (HydraException, AssertionError):
        return False
    return "${" not in word


def as_texts(key: str, value: str, several: bool) -> str:
    """The value of a setting that takes texts, as Hydra reads them; `several`: commas make several jobs.

    A file that is there is itself, whatever it is called; else quotes from end to end are Hydra's, and taken
    off.
    """
    is_list = key in LISTS_OF_TEXTS and value.startswith("[") and value.endswith("]")
    if os.path.lexists(value):
        return quoted(value)
    if is_list:
        pieces = split_pieces(value[1:-1]) if value[1:-1].strip() else []
        return f"[{','.join(quoted(unquoted(piece.strip())) for piece in pieces)}]"
    if several and key not in ONE_TEXT:
        return ",".join(quoted(unquoted(piece)) for piece in split_pieces(value))
    return quoted(unquoted(value))


def without_a_copy(words: Iterable[str]) -> list[str]:
    """No .hydra/ where the folder's name looks like a variable of Hydra's: it would be read as one."""
    folders = [
        os.getcwd(),
        *(word for word in words if name_of(word) in ("name", "hydra.run.dir", "hydra.sweep.dir")),
    ]
    return ["hydra.output_subdir=null"] if any("${" in folder for folder in folders) else []


# ------------------------------------------------------------------------------------------------------ flags


def with_its_word(flag: str) -> str:
    """The flag as it is; ends the process where its word is missing."""
    if flag in FLAGS_WITH_A_WORD - {"-i", "--info"}:
        fail(f"{flag} needs a word behind it, as in {flag} FOLDER", code=2)
    return flag


def unknown_flag(word: str, following: str, command: Command) -> str:
    """What to write instead of a flag that there is not."""
    name, equals, value = word.lstrip("-").partition("=")
    name = name.replace("-", "_")
    verb, settings = (
        command.name,
        {*own_settings(command.name), *catalogue.choices(command.name), *command.axes},
    )
    if name == "resume" and command.record:
        return f"--resume FOLDER comes first: attnvis {verb} --resume FOLDER"
    if name in settings:
        given = value if equals else following
        return f"settings have no dashes: {name}={given if given and not given.startswith('-') else '...'}"
    near = hint(name, settings) if len(name) > 1 else ""
    also = f"; a file of that name is written ./{word}" if command.argument else ""
    usage = f"settings have no dashes, as in seed=1{also}; see attnvis {verb} --help"
    return f"there is no flag {word}; {near}{usage}"


# ----------------------------------------------------------------------------- queries, scalings, normalisers


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
                f"{group} {name!r}: a sweep names a function of yours by its module: my_module.{name}", code=2
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
    texts = split_texts(value, options)
    if multirun:
        return [f"{group}={','.join(registered(group, text, options) for text in texts)}"]
    if len(texts) == 1:
        return settings_overrides(group, texts[0], own)
    if group != "query" or command.single:
        fail(
            f"{group}={value} names {len(texts)} and attnvis {command.name} takes one; give one, "
            f"or compare them: attnvis sweep PHOTO ... {group}={value}",
            code=2,
        )
    return ["query=several", f"query.of=[{','.join(quoted(stage_text(group, text)) for text in texts)}]"]


def settings_overrides(group: str, text: str, own: Mapping[str, Path]) -> list[str]:
    """temperature:2 -> scaling=temperature scaling.tau=2.0; of a config of the user's own in its order."""
    name, settings = divide(text)
    if name in own:
        try:
            names = own_settings_of(own[name])
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
        function = parse(text) if group == "query" else functions(group, [text])[text]
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
    if is_own_function(text):
        return text
    function = stage(group, text)
    is_class_alone = settings is None and name not in catalogue.options(group)
    is_by_name = settings is not None and re.match(r"\w+\s*=", settings.strip())
    return format_function(function) if is_class_alone or is_by_name else text


def require_settings(overrides: Sequence[str], command: Command) -> None:
    """query=point alone is not enough; ends the process with how it is written."""
    for override in overrides if command.takes_query else ():
        group, _, option = override.partition("=")
        if group not in STAGES or option not in catalogue.options(group):
            continue
        lacks = "???" in catalogue.settings(f"{group}/{option}").values()
        if lacks and not any(name_of(other).lstrip("+").startswith(f"{group}.") for other in overrides):
            stage(group, option)


def as_value(value: object) -> str:
    """A setting as Hydra reads it."""
    if isinstance(value, str):
        return quoted(value)
    return (
        {None: "null", True: "true", False: "false"}[value]
        if value is None or isinstance(value, bool)
        else repr(value)
    )


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


def has_choices(override: str) -> bool:
    """Whether a comma stands in it outside of brackets and quotes: several jobs."""
    without_quotes = re.sub(QUOTED, "", override.replace("\n", " "))
    return "," in re.sub(r"\[.*\]|\{.*\}", "", without_quotes)


def usual_scaling(overrides: Iterable[str], command: Command) -> list[str]:
    """A question without a scaling gets a tenth of the patches.

    1/sqrt(d) suits the mean patch, and leaves most other maps flat.
    """
    given = dict(override.partition("=")[::2] for override in overrides)
    if not command.takes_query or given.get("query", "mean") == "mean":
        return []
    return [] if "scaling" in given or "experiment" in given else ["scaling=perplexity"]


def own_folders(words: Iterable[str]) -> list[Path]:
    """The folders of the user's own configs: -cd FOLDER."""
    flags = ("-cd", "--config-dir", "-cp", "--config-path")
    return [Path(word.partition("=")[2]) for word in words if name_of(word) in flags]


def own_options(folders: Iterable[Path], group: str) -> dict[str, Path]:
    """The options of a group that the user's own configs offer: name -> file."""
    files = [
        path for folder in folders if os.path.isdir(folder / group) for path in (folder / group).iterdir()
    ]
    return {path.stem: path for path in files if path.suffix == ".yaml"}


def own_settings_of(path: Path) -> list[str]:
    """The settings of a config of the user's own, in its order.

    Raises ValueError where it cannot be read.
    """
    import yaml

    try:
        settings = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, yaml.YAMLError, UnicodeDecodeError) as error:
        raise ValueError(f"{path} cannot be read ({' '.join(str(error).split())})") from None
    names = settings if isinstance(settings, dict) else {}
    return [str(name) for name in names if not str(name).startswith("_") and name != "defaults"]


def register_backbones(names: Iterable[str]) -> None:
    """resnet18 becomes an option of the group `backbone`: its family's config with that name."""
    from hydra.core.config_store import ConfigStore

    for name in names:
        if family := catalogue.family(name):
            settings = catalogue.settings(f"backbone/{family}") | {"name": name}
            ConfigStore.instance().store(group="backbone", name=name, node=settings)


def quoted(text: str) -> str:
    """As one string of Hydra's grammar, whatever it holds; ${...} in it is no variable."""
    text = re.sub(r"(\\*)\$\{", r"\1\1\\${", text)
    text = re.sub(r"(\\+)\Z", r"\1\1", text)  # backslashes before the closing quote
    return "'" + re.sub(r"(\\*)'", r"\1\1\\'", text) + "'"

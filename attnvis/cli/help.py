"""What --help shows: the configs' own sentences and comments."""

import json
import re
from collections.abc import Iterator, Sequence
from typing import Any

from attnvis import catalogue
from attnvis.cli.commands.command import IN_SHARDS, Command
from attnvis.cli.commands.registry import COMMANDS
from attnvis.cli.config import settings_of

__all__ = ["manual", "overview"]

STAGES = ("query", "scaling", "normalise", "keys", "heads", "method", "metric")
EXAMPLES = {  # as pages and panels print them
    "query": "query=class:tabby, query=point:120,80, query=tabby",
    "scaling": "scaling=temperature:2",
    "normalise": "normalise=top_k:5",
    "keys": "keys=whitened:16, keys=linear:FILE",
    "heads": "heads=4, heads=random:4,1",
    "method": "method=gradcam:tabby",
    "metric": "metric=pointing_game:15",
}


def overview() -> str:
    """Every command with its sentence."""
    lines = [f"  attnvis {verb:9} {catalogue.sentence(verb)}" for verb in COMMANDS]
    return "\n".join(
        [
            "attnvis: where a CNN looks, and why",
            "",
            *lines,
            "",
            "  attnvis VERB --help  lists what can be set; try: attnvis run images=samples/cat",
        ]
    )


def manual(command: Command) -> str:
    """Every group with its options, every setting with its meaning: the configs' own comments."""
    chosen = dict.fromkeys(command.axes) | catalogue.choices(command.name)
    lines = [
        catalogue.sentence(command.name),
        "",
        f"  attnvis {command.name} {command.argument} [group=option] [setting=value] [group.setting=value]",
        "",
    ]
    for group, default in chosen.items():
        if not catalogue.is_shared(group):  # else its settings stand among the command's own
            lines += group_lines(group, default or "", command)
    lines += ["settings:", *(f"  {line}" for line in setting_lines(command))]
    lines += [
        "",
        "your own configs: -cd FOLDER (query/mine.yaml there is query=mine); "
        "-m sweeps over a,b,c; --cfg job shows the result",
    ]
    return "\n".join(lines)


def group_lines(group: str, default: str, command: Command) -> list[str]:
    """A group's options, each with its sentence, and what can be set of them; default: "" for none."""
    options = options_for(group, command)
    if not options:
        return []
    lines = [f"{group}=..." + (f"  (default {default})" if default else "")]
    width = max(map(len, options)) + 2
    for option in options:
        needs = catalogue.needs(f"{group}/{option}")
        ending = f"; needs {needs}" if needs else ""
        lines.append(f"  {option:{width}}{catalogue.sentence(f'{group}/{option}')}{ending}")
        settings = settings_of(group, option)
        if group in STAGES and settings:
            values = ", ".join(f"{key}={show(value)}" for key, value in settings.items())
            lines.append(f"  {'':{width}}  {values}")
    if group in STAGES:
        several = ", several query=class,mean" if group == "query" and not command.single else ""
        lines.append(f"  in one word: {EXAMPLES[group]}{several}; see docs/queries.md")
    if group == "backbone":
        lines.append(
            "  a network's name will do: backbone=resnet18 is backbone=resnet backbone.name=resnet18"
        )
    common = {"backbone": ["_common"], "render": [default], "logger": [default]}.get(group, [])
    shared = [line for name in common for _, line in commented(f"{group}/{name}", f"{group}.")]
    if shared:
        lines += [f"  every {group} also takes:", *(f"    {line}" for line in shared)]
    if group == "backbone":
        lines += ["  some also take:", *(f"    {line}" for line in lines_of_some(group, options))]
    return [*lines, ""]


def lines_of_some(group: str, options: Sequence[str]) -> Iterator[str]:
    """Settings that not every option of a group has, each with whose it is."""
    owners: dict[str, list[str]] = {}
    for option in options:
        for _, line in commented(f"{group}/{option}", f"{group}."):
            owners.setdefault(line, []).append(option)
    for line, those in owners.items():
        others = [option for option in options if option not in those]
        few = len(those) <= len(others)
        yield f"{line}  ({', '.join(those) if few else 'all but ' + ', '.join(others)})"


def options_for(group: str, command: Command) -> list[str]:
    """The options of a group that mean something to this command."""
    options = catalogue.options(group)
    if group == "experiment":  # each says in its sentence which command it is for
        mention = f"attnvis {command.name} "
        options = [option for option in options if mention in catalogue.sentence(f"experiment/{option}")]
    if group == "launcher" and not command.in_shards:
        options = [option for option in options if option not in IN_SHARDS]
    if group in command.axes:  # there they are several anyway
        options = [option for option in options if option != "several"]
    return options


def setting_lines(command: Command) -> list[str]:
    """The command's own settings, then those that it shares with others, in its own words if it has any."""
    own = dict(commented(command.name))
    shared: dict[str, str] = {}
    for base, group in catalogue.bases(command.name):
        if catalogue.is_shared(group):
            for name in (base, *(name for name, _ in catalogue.bases(base))):
                shared |= commented(name, f"{group}.")
    shared = {setting: own.pop(setting, line) for setting, line in shared.items()}
    return [*own.values(), *shared.values()]


def commented(name: str, prefix: str = "") -> Iterator[tuple[str, str]]:
    """The plain settings of a config, each with its line: `key: value  # meaning`.

    Of a backbone only those with a meaning, not its anatomy.
    """
    section = ""
    text = (catalogue.config_folder() / f"{name}.yaml").read_text(encoding="utf-8")
    for line in text.splitlines():
        parts = re.match(r"^( *)(\w+): ?([^#]*?)\s*(?:# (.*))?$", line)
        if not parts:
            continue
        indent, key, value, meaning = parts.groups()
        if not indent:
            section = "" if value else f"{key}."
        if key == "hydra":
            section = "hydra."
        if key in ("defaults", "hydra") or section == "hydra." or key.startswith("_"):
            continue
        if value and value[0] != "{" and (meaning or not (indent or prefix == "backbone.")):
            setting = f"{prefix}{section if indent else ''}{key}"
            yield setting, f"{f'{setting}={value}':30}  {meaning or ''}".rstrip()


def show(value: Any) -> str:
    """As it is typed."""
    return value if isinstance(value, str) else json.dumps(value)

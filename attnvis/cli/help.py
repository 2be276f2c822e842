"""What --help shows: the configs' own sentences and comments."""

import json
import re
from collections.abc import Iterator
from typing import Any

from attnvis import catalogue
from attnvis.cli.commands.command import Command
from attnvis.cli.commands.registry import COMMANDS
from attnvis.cli.config import settings_of

__all__ = ["manual", "overview"]


def overview() -> str:
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
    verb = command.name
    text = (catalogue.config_folder() / f"{verb}.yaml").read_text(encoding="utf-8")
    chosen = dict(re.findall(r"^  - (\w+): (\w+)$", text, re.MULTILINE))
    chosen = dict.fromkeys(command.axes, "null") | chosen
    out = [
        catalogue.sentence(verb),
        "",
        f"  attnvis {verb} {command.argument} [group=option] [setting=value] [group.setting=value]",
        "",
    ]
    for group, default in chosen.items():
        options = catalogue.options(group)
        if group == "experiment":  # each says in its sentence which verb it is for
            options = [
                option
                for option in options
                if f"attnvis {verb} " in catalogue.sentence(f"experiment/{option}")
            ]
        if group in command.axes:
            options = [option for option in options if option != "several"]
        if not options:
            continue
        out.append(f"{group}=..." + ("" if default == "null" else f"  (default {default})"))
        width = max(map(len, options)) + 2
        for option in options:
            out.append(f"  {option:{width}}{catalogue.sentence(f'{group}/{option}')}")
            if group in ("query", "scaling", "normalise"):
                said = ", ".join(f"{key}={show(value)}" for key, value in settings_of(group, option).items())
                out += [f"  {'':{width}}  {said}"] if said else []
        if group == "backbone":
            out.append(
                "  a network's name will do: backbone=resnet18 is backbone=resnet backbone.name=resnet18"
            )
        shared = {"backbone": ["_common", *options], "render": [default], "logger": [default]}.get(group, [])
        lines = dict.fromkeys(line for name in shared for line in commented(f"{group}/{name}", f"{group}."))
        out += [f"  every {group} also takes:", *(f"    {line}" for line in lines)] if lines else []
        out.append("")
    out += ["settings:", *(f"  {line}" for line in commented(verb))]
    out += [
        "",
        "your own configs: -cd FOLDER (query/mine.yaml there is query=mine); -m sweeps over a,b,c; --cfg job shows the result",
    ]
    return "\n".join(out)


def commented(name: str, prefix: str = "") -> Iterator[str]:
    """The plain settings of a config: `key: value  # meaning`, but of a backbone only those with a meaning, not its anatomy."""
    section = ""
    for line in (catalogue.config_folder() / f"{name}.yaml").read_text(encoding="utf-8").splitlines():
        if found := re.match(r"^( *)(\w+): ?([^#]*?)\s*(?:# (.*))?$", line):
            indent, key, value, meaning = found.groups()
            section = section if indent else (f"{key}." if not value else "")
            if key in ("defaults", "hydra") or section == "hydra." or key.startswith("_"):
                section = "hydra." if key == "hydra" else section
            elif value and value[0] != "{" and (meaning or not (indent or prefix == "backbone.")):
                setting = f"{prefix}{section if indent else ''}{key}={value}"
                yield f"{setting:30}  {meaning or ''}".rstrip()


def show(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value)

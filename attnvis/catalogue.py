"""What the configs offer, read as plain yaml: for --help, for Python, to find a network's family.

Imports almost nothing.
"""

import difflib
import functools
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

__all__ = [
    "bases",
    "choices",
    "commands",
    "config_folder",
    "family",
    "groups",
    "is_shared",
    "needs",
    "options",
    "sentence",
    "settings",
    "unknown_backbone",
]


def config_folder() -> Path:
    """configs/ inside an installed attnvis, beside the package in a checkout."""
    package = Path(__file__).resolve().parent
    inside = package / "configs"
    return inside if inside.is_dir() else package.parent / "configs"


def groups() -> list[str]:
    """The folders of configs/, by name: backbone, query, scaling, ..."""
    return sorted(path.name for path in config_folder().iterdir() if path.is_dir())


def commands() -> list[str]:
    """The files of configs/ that a command composes, by name: calibrate, evaluate, explore, ..."""
    return sorted(path.stem for path in config_folder().glob("*.yaml") if not path.stem.startswith("_"))


def options(group: str) -> list[str]:
    """What may be chosen of a group, by name; none where there is no such group."""
    files = (config_folder() / group).glob("*.yaml")
    return sorted(file.stem for file in files if not file.name.startswith("_"))


def is_shared(group: str) -> bool:
    """Whether a group offers no choice: it holds settings that several commands share."""
    return options(group) == ["default"]


def sentence(name: str) -> str:
    """The first comment of a config, which says in words what it is for; "" where it has none.

    Raises FileNotFoundError where there is no such config.
    """
    lines = (config_folder() / f"{name}.yaml").read_text(encoding="utf-8").splitlines()
    comments = [line.lstrip("# ") for line in lines if line.startswith("#") and "@package" not in line]
    return comments[0] if comments else ""


def needs(name: str) -> str:
    """What a config's comment `# needs ...` says: of a metric, what has to be known; "" without."""
    lines = (config_folder() / f"{name}.yaml").read_text(encoding="utf-8").splitlines()
    return next((line.removeprefix("# needs ") for line in lines if line.startswith("# needs ")), "")


def family(backbone: str) -> str | None:
    """The backbone config that a network's name belongs to: resnet18 -> resnet; None where there is none.

    Of the configs that take a name, the longest with which the network's name begins.
    """
    beginnings = [option for option in options("backbone") if backbone.startswith(option)]
    families = [option for option in beginnings if "name" in settings(f"backbone/{option}")]
    return max(families, key=len, default=None)


def unknown_backbone(name: str) -> str:
    """What to say of a network's name that belongs to no config."""
    near = difflib.get_close_matches(name, options("backbone"), n=3)
    hint = f"did you mean {', '.join(near)}? " if near else ""
    families = ", ".join(options("backbone"))
    return f"unknown backbone {name!r}; {hint}there are {families} and their members, such as resnet18"


def choices(name: str) -> dict[str, str | None]:
    """The groups of which a config takes an option: group -> the option by default; None: none of them."""
    chosen: dict[str, str | None] = {}
    for default in read(name).get("defaults", []):
        if isinstance(default, dict):
            ((group, option),) = default.items()
            if not group.startswith("override "):
                chosen[group] = option
    return chosen


def bases(name: str) -> list[tuple[str, str]]:
    """The configs that one starts from, each with the key below which it goes; "": beside its own."""
    taken = [(f"{group}/{option}", group) for group, option in choices(name).items() if option]
    for default in read(name).get("defaults", []):
        if isinstance(default, str) and default != "_self_":  # _common, or /preprocess/_size@preprocess
            base, _, key = default.partition("@")
            taken.append((base[1:] if base.startswith("/") else f"{Path(name).parent}/{base}", key))
    return taken


def settings(name: str) -> dict[str, Any]:
    """One config with those that it starts from merged in: as Hydra composes it by default.

    Raises FileNotFoundError where there is no such config.
    """
    merged: dict[str, Any] = {}
    for base, key in bases(name):
        merged = merge(merged, {key: settings(base)} if key else settings(base))
    own = {key: value for key, value in read(name).items() if key != "defaults"}
    return merge(merged, own)


def merge(base: Mapping[str, Any], own: Mapping[str, Any]) -> dict[str, Any]:
    """Both, and on equal keys `own`; dictionaries key by key."""
    merged = dict(base)
    for key, value in own.items():
        if isinstance(value, dict):
            below = merged.get(key)
            value = merge(below if isinstance(below, dict) else {}, value)
        merged[key] = value
    return merged


@functools.cache
def read(name: str) -> Mapping[str, Any]:
    """One file of configs/, alone."""
    return yaml.safe_load((config_folder() / f"{name}.yaml").read_text(encoding="utf-8")) or {}

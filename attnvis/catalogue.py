"""What the configs offer, read as plain yaml: for --help, for Python, to find a network's family.

Imports almost nothing.
"""

from pathlib import Path
from typing import Any

import yaml

__all__ = ["config_folder", "family", "groups", "options", "sentence", "settings"]


def config_folder() -> Path:
    """configs/ inside an installed attnvis, beside the package in a checkout."""
    package = Path(__file__).resolve().parent
    inside = package / "configs"
    return inside if inside.is_dir() else package.parent / "configs"


def groups() -> list[str]:
    """The folders of configs/, by name: backbone, query, scaling, ..."""
    return sorted(path.name for path in config_folder().iterdir() if path.is_dir())


def options(group: str) -> list[str]:
    """What may be chosen of a group, by name; none where there is no such group."""
    files = (config_folder() / group).glob("*.yaml")
    return sorted(file.stem for file in files if not file.name.startswith("_"))


def sentence(name: str) -> str:
    """The first comment of a config, which says in words what it is for; "" where it has none.

    Raises FileNotFoundError where there is no such config.
    """
    lines = (config_folder() / f"{name}.yaml").read_text(encoding="utf-8").splitlines()
    comments = [line.lstrip("# ") for line in lines if line.startswith("#") and "@package" not in line]
    return comments[0] if comments else ""


def family(backbone: str) -> str | None:
    """The backbone config that a network's name belongs to: resnet18 -> resnet; None where there is none.

    Of the configs that take a name, the longest with which the network's name begins.
    """
    beginnings = [option for option in options("backbone") if backbone.startswith(option)]
    families = [option for option in beginnings if "name" in settings(f"backbone/{option}")]
    return max(families, key=len, default=None)


def settings(name: str) -> dict[str, Any]:
    """One config with its defaults merged in; for configs that extend only files of their own folder.

    Raises FileNotFoundError where there is no such config.
    """
    path = config_folder() / f"{name}.yaml"
    own = yaml.safe_load(path.read_text(encoding="utf-8")) or {}
    merged: dict[str, Any] = {}
    for base in own.pop("defaults", []):
        if isinstance(base, str) and base != "_self_":  # {group: option} chooses from another folder
            merged |= settings(f"{Path(name).parent}/{base}")
    return merged | own

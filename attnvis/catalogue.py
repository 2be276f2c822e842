"""What the configs offer, read as plain yaml: for --help, for Python, for the door to find a backbone's family.  Imports almost nothing."""

from pathlib import Path
from typing import Any

import yaml

__all__ = ["config_folder", "family", "groups", "options", "sentence", "settings"]


def config_folder() -> Path:
    """configs/ inside an installed attnvis, beside the package in a checkout."""
    here = Path(__file__).resolve().parent
    return here / "configs" if (here / "configs").is_dir() else here.parent / "configs"


def groups() -> list[str]:
    return sorted(path.name for path in config_folder().iterdir() if path.is_dir())


def options(group: str) -> list[str]:
    return sorted(
        path.stem for path in (config_folder() / group).glob("*.yaml") if not path.name.startswith("_")
    )


def sentence(name: str) -> str:
    """The first comment of a config, which says in words what it is for."""
    lines = (config_folder() / f"{name}.yaml").read_text(encoding="utf-8").splitlines()
    return next((line.lstrip("# ") for line in lines if line.startswith("#") and "@package" not in line), "")


def family(backbone: str) -> str | None:
    """The backbone config that a network's name belongs to: resnet18 -> resnet, the longest that fits among those that take a name."""
    fitting = (
        option
        for option in options("backbone")
        if backbone.startswith(option) and "name" in settings(f"backbone/{option}")
    )
    return max(fitting, key=len, default=None)


def settings(name: str) -> dict[str, Any]:
    """One config with its defaults merged in; for configs that extend only files of their own folder."""
    path = config_folder() / f"{name}.yaml"
    own = yaml.safe_load(path.read_text(encoding="utf-8")) or {}
    merged: dict[str, Any] = {}
    for base in own.pop("defaults", []):
        if isinstance(base, str) and base != "_self_":  # {group: option} chooses from another folder
            merged |= settings(f"{Path(name).parent}/{base}")
    return merged | own

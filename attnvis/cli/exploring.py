"""Photos that a command has at hand -> explorers, and the words by which to have the same again."""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Mapping

    from attnvis.backbone.backbone import Backbone
    from attnvis.explorer.page import Origin
    from attnvis.types import Photo, Preprocessing

__all__ = ["FIRST", "Exploring", "explored_count", "is_of_network", "python_words"]

FIRST = 16  # photos of a run that have an explorer where nobody said how many


@dataclass(frozen=True, eq=False)
class Exploring:
    """A network, and the settings that say which it is."""

    network: "Backbone"
    preprocessing: "Preprocessing"
    words: tuple[str, ...]  # of the command line
    warnings: tuple[str, ...] = ()

    def origin(self, photo: "Photo") -> "Origin":
        """What an explorer of the photo starts from: the photo goes through the network.

        Raises PhotoError.
        """
        from attnvis.data.preprocessing import collate
        from attnvis.explorer.page import Origin

        words = [word for word in self.words if is_of_network(word)]
        network = self.network
        return Origin(
            photo,
            network(collate([photo], self.preprocessing)),
            f"{network.name}, layer {network.layer}, weights {network.weights}",
            command=tuple(words),
            python=tuple(python_words(words)),
            warnings=tuple(self.warnings),
        )


def explored_count(settings: "Mapping[str, Any]") -> int:
    """Of how many photos a run is to make explorers.

    Raises ValueError for what is neither true, none, nor a number from 0 on, and for maps that an explorer
    would show otherwise.
    """
    explore = settings["explore"]
    if explore in (False, None, "none"):
        return 0
    if explore is True or (isinstance(explore, int) and explore >= 0):
        require_explorable(settings)
        return FIRST if explore is True else explore
    raise ValueError(f"explore={explore}: give true (of the first {FIRST} photos), none, or how many")


def require_explorable(settings: "Mapping[str, Any]") -> None:
    """Raises ValueError for a run whose maps are not those of its patches as they are, asked as a whole."""
    from attnvis.pipeline.plan import setting_text

    stages = {"method": "AttentionMethod", "keys": "same", "heads": "one"}
    for group, usual in stages.items():
        if (text := setting_text(settings[group])) != usual:
            raise ValueError(
                f"an explorer would show other maps than {group}={text}: it asks patches as they are; "
                f"leave explore or {group} out"
            )
    if fuse := settings["fuse"]:
        raise ValueError(
            f"an explorer would show other maps than fuse={fuse}: it shows one layer at a time; "
            "leave explore or fuse out"
        )


def is_of_network(word: str) -> bool:
    """Whether an override says which features there are."""
    key = word.partition("=")[0].lstrip("+")
    return key == "trust" or key.partition(".")[0] in ("backbone", "preprocess")


def python_words(words: list[str]) -> list[str]:
    """Overrides of the command line as arguments of `attnvis.explain`."""
    import yaml

    arguments: dict[str, Any] = {}
    for word in words:
        key, _, value = word.lstrip("+").partition("=")
        group, _, name = key.partition(".")
        if key == "backbone":
            arguments.setdefault("backbone", value)
        elif key == "backbone.name":  # of a family: the name alone says which network
            arguments["backbone"] = yaml.safe_load(value)
        elif name and group in ("backbone", "preprocess"):
            arguments[name] = yaml.safe_load(value)
    return [f"{name}={value!r}" for name, value in arguments.items()]

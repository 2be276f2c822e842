"""`attnvis cache`: what has been kept, and how to free it."""

from pathlib import Path
from typing import TYPE_CHECKING

from attnvis.cli.commands.command import Command
from attnvis.cli.config import plain

if TYPE_CHECKING:
    from omegaconf import DictConfig

__all__ = ["COMMAND", "cache"]


def cache(cfg: "DictConfig", folder: Path) -> int:
    """What sweeps have kept, network by network."""
    from attnvis.backbone.cache import SHOWN, cache_folder, clear, entries

    settings = plain(cfg)
    place, total = cache_folder(settings["folder"]), 0
    for entry in entries(place):
        network = ", ".join(entry.about[name] for name in SHOWN)
        print(f"{entry.size / 1e6:10.1f} MB  {entry.photos:7} photos  {network}")
        total += entry.size
    if settings["clear"]:
        print(f"{clear(place) / 1e6:.1f} MB freed in {place}")
    else:
        print(
            f"{total / 1e6:10.1f} MB in {place}" + ("; attnvis cache clear=true frees them" if total else "")
        )
    return 0


COMMAND = Command("cache", cache, stopped="what was not freed is still there")

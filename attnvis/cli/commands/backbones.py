"""`attnvis backbones`: what every network offers, as a table."""

from pathlib import Path
from typing import TYPE_CHECKING

from attnvis.cli.commands.command import Command
from attnvis.cli.common import listed
from attnvis.cli.config import plain
from attnvis.cli.streams import is_heard

if TYPE_CHECKING:
    from omegaconf import DictConfig

__all__ = ["COMMAND", "backbones"]


def backbones(cfg: "DictConfig", folder: Path) -> int:
    """What every network offers, as a table."""
    import torch

    from attnvis.backbone.overview import summarise, table

    torch.manual_seed(0)  # random weights give the same certificates every time
    for line in table(summarise(listed(plain(cfg.names)), int(cfg.size), str(cfg.weights))):
        print(line, flush=True)
        if not is_heard():
            break  # attnvis backbones | head -1
    return 0


COMMAND = Command(
    "backbones",
    backbones,
    argument="NETWORK ...",
    key="names",
    kept="its table is printed as it grows, and not kept",
)

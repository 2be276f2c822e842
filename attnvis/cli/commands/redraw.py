"""`attnvis redraw`: the pictures of a finished run in another style."""

from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING

from attnvis.cli.commands.command import Command
from attnvis.cli.commands.common import command_line
from attnvis.cli.config import build
from attnvis.cli.messages import print_summary, progress

if TYPE_CHECKING:
    from omegaconf import DictConfig

__all__ = ["COMMAND", "redraw"]


def redraw(cfg: "DictConfig", folder: Path) -> int:
    """The pictures of a finished run in another style, without the network."""
    from attnvis.pipeline.redrawing import redraw as again

    source = Path(cfg.run)
    if not (source / "records.csv").is_file():
        inner = sorted(source.glob("*/records.csv"))
        advice = (
            f"it is a sweep: give one of its runs, such as {inner[0].parent}"
            if inner
            else "give one such as outputs/run/<date>/<time>"
        )
        raise ValueError(f"{source} is not the folder of a run: it has no records.csv; {advice}")
    reasons = Counter(
        reason for _, reason in progress(again(source, folder, build(cfg, "render"), command_line()), None)
    )
    return print_summary(reasons.pop("", 0), reasons, folder)


COMMAND = Command(
    "redraw",
    redraw,
    argument="FOLDER",
    key="run",
    single="the folder of one run",
    kept="; what was drawn is kept in its folder",
)

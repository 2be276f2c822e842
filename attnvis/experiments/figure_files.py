"""Figures -> their files beside a page."""

from collections.abc import Iterable
from pathlib import Path

from attnvis.files import save
from attnvis.render.plots import Figure

__all__ = ["write_figures"]


def write_figures(folder: Path, figures: Iterable[Figure]) -> None:
    """figures/NAME.png and figures/NAME.svg of each, below a folder.  Raises OSError."""
    for figure in figures:
        save(folder, f"figures/{figure.name}.png", figure.png)
        save(folder, f"figures/{figure.name}.svg", figure.svg)

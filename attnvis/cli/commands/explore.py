"""`attnvis explore`: one page a photo, in which one asks what one likes."""

from pathlib import Path
from typing import TYPE_CHECKING

from attnvis.cli.commands.command import Command
from attnvis.cli.commands.common import build_network, shout, survey_photos
from attnvis.cli.config import build, plain
from attnvis.cli.exploring import Exploring, is_of_network, python_words
from attnvis.cli.messages import complain, note, print_photo_notes, progress, short_path, visible

if TYPE_CHECKING:
    from omegaconf import DictConfig

__all__ = ["COMMAND", "explore", "is_of_network", "python_words"]


def explore(cfg: "DictConfig", folder: Path) -> int:
    """A page of one file for every photo.  Gives 1 where a photo failed."""
    import torch
    from hydra.core.hydra_config import HydraConfig

    from attnvis.data.decoding import load
    from attnvis.explorer.page import explorer
    from attnvis.files import locked, save, slug, unique
    from attnvis.types import PhotoError

    listing = survey_photos(plain(cfg.images))
    if text := str(listing):
        note(visible(text))
    style = build(cfg, "render")
    torch.manual_seed(cfg.seed)
    backbone = build_network(cfg)
    preprocessing = backbone.preprocessing.changed(**plain(cfg.preprocess))
    warnings = backbone.warnings_at(preprocessing)
    shout(warnings)
    words = tuple(HydraConfig.get().overrides.task)
    exploring = Exploring(backbone, preprocessing, words, warnings=tuple(warnings))
    pages: list[Path] = []
    names: dict[str, int] = {}
    reasons: dict[str, int] = {}
    notes: dict[str, int] = {}
    with locked(folder):
        for path in progress(listing.paths, len(listing.paths)):
            name = f"{unique(slug(path.stem), names)}.html"
            try:
                photo = load(
                    path,
                    short=preprocessing.size,
                    depth=preprocessing.depth,
                    truncated=preprocessing.truncated,
                )
                page = explorer(exploring.origin(photo), classes=plain(cfg.classes), style=style)
            except PhotoError as error:
                reasons[str(error)] = reasons.get(str(error), 0) + 1
                continue
            for text in photo.notes:
                notes[text] = notes.get(text, 0) + 1
            save(folder, name, page.html.encode("utf-8", "replace"))
            pages.append(folder / name)
    print_photo_notes(notes)
    complain(reasons)
    for page_path in pages[:10]:
        print(short_path(page_path))
    if len(pages) > 10:
        print(f"and {len(pages) - 10} more in {short_path(folder)}")
    return 1 if reasons else 0


COMMAND = Command(
    "explore", explore, argument="PHOTO ...", kept="the pages that are there are whole, one a photo"
)

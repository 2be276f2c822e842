"""`attnvis explore`: one page a photo, in which one asks what one likes."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

from attnvis.cli.commands.command import Command
from attnvis.cli.commands.common import build_network, shout, survey_photos
from attnvis.cli.config import build, plain
from attnvis.cli.messages import complain, note, print_photo_notes, progress, short_path, visible

if TYPE_CHECKING:
    from omegaconf import DictConfig

__all__ = ["COMMAND", "explore", "python_words"]


def explore(cfg: "DictConfig", folder: Path) -> int:
    """A page of one file for every photo.  Gives 1 where a photo failed."""
    import torch
    from hydra.core.hydra_config import HydraConfig

    from attnvis.data.decoding import load
    from attnvis.data.preprocessing import collate
    from attnvis.explorer.page import Origin, explorer
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
    words = [word for word in HydraConfig.get().overrides.task if is_of_network(word)]
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
                origin = Origin(
                    photo,
                    backbone(collate([photo], preprocessing)),
                    f"{backbone.name}, layer {backbone.layer}, weights {backbone.weights}",
                    command=tuple(words),
                    python=tuple(python_words(words)),
                    warnings=warnings,
                )
                page = explorer(origin, classes=plain(cfg.classes), style=style)
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


COMMAND = Command(
    "explore", explore, argument="PHOTO ...", kept="the pages that are there are whole, one a photo"
)

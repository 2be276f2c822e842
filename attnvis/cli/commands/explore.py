"""`attnvis explore`: a page a photo, or one of a few photos, in which one asks what one likes."""

from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING

from attnvis.cli.commands.command import Command
from attnvis.cli.common import announced_photos, build_network, overrides, shout
from attnvis.cli.config import build, plain
from attnvis.cli.exploring import Exploring
from attnvis.cli.messages import complain, note, print_photo_notes, progress, short_path

if TYPE_CHECKING:
    from collections.abc import Sequence

    from omegaconf import DictConfig

    from attnvis.explorer.page import PhotoData

__all__ = ["COMMAND", "explore"]


def explore(cfg: "DictConfig", folder: Path) -> int:
    """A page of one file for every photo, or for a few of them together.  Gives 1 where a photo failed."""
    from attnvis.explorer.page import photo_data
    from attnvis.files import locked, slug, unique
    from attnvis.pipeline.streaming import read_photo
    from attnvis.types import PhotoError

    listing = announced_photos(plain(cfg.images))
    together = is_together(plain(cfg.together), count=len(listing.paths))
    style = build(cfg, "render")
    backbone = build_network(cfg)
    preprocessing = backbone.preprocessing.changed(**plain(cfg.preprocess))
    warnings = backbone.warnings_at(preprocessing)
    shout(warnings)
    exploring = Exploring(backbone, preprocessing, overrides(), warnings=tuple(warnings))
    pages: list[Path] = []
    photos: list[tuple[str, PhotoData]] = []  # that wait for the others: file, content
    names: dict[str, int] = {}
    reasons, notes = Counter[str](), Counter[str]()
    with locked(folder):
        for path in progress(listing.paths, len(listing.paths)):
            name = f"{unique(slug(path.stem), names)}.html"
            try:
                photo = read_photo(path, preprocessing)
                data = photo_data(exploring.origin(photo), classes=plain(cfg.classes), style=style)
            except PhotoError as error:
                reasons[str(error)] += 1
                continue
            notes.update(photo.notes)
            photos.append((name, data))
            if not together:
                pages += write_pages(folder, photos)
                photos.clear()
        if photos:
            pages += write_together(folder, photos, is_asked=cfg.together is True)
    print_photo_notes(notes)
    complain(reasons)
    print_pages(pages, folder)
    return 1 if reasons else 0


def print_pages(pages: "Sequence[Path]", folder: Path) -> None:
    """Where they are: ten of them, and how many more."""
    for page in pages[:10]:
        print(short_path(page))
    if len(pages) > 10:
        print(f"and {len(pages) - 10} more in {short_path(folder)}")


def is_together(together: object, count: int) -> bool:
    """Whether so many photos are to go into one page.

    Raises ValueError for a setting that is none, and for more photos than a page holds where one was asked
    for.
    """
    from attnvis.explorer.page import MOST_PHOTOS

    if together not in ("auto", True, False):
        raise ValueError(
            f"together={together}: give auto, true (one page of all photos) or false (a page each)"
        )
    if together is True and count > MOST_PHOTOS:
        raise ValueError(
            f"together=true: a page holds at most {MOST_PHOTOS} photos, not {count}; "
            "give fewer, or together=false"
        )
    return bool(together) and 1 < count <= MOST_PHOTOS


def write_pages(folder: Path, photos: "Sequence[tuple[str, PhotoData]]") -> list[Path]:
    """A page each."""
    from attnvis.explorer.page import page_of
    from attnvis.files import save

    for name, data in photos:
        save(folder, name, page_of([data]).html.encode("utf-8", "replace"))
    return [folder / name for name, _ in photos]


def write_together(folder: Path, photos: "Sequence[tuple[str, PhotoData]]", is_asked: bool) -> list[Path]:
    """One page of all; where it would be too large a page each, which is said.

    Raises ValueError where one was asked for.
    """
    from attnvis.explorer.page import page_of

    if len(photos) == 1:  # the others failed
        return write_pages(folder, photos)
    try:
        page = page_of([data for _, data in photos])
    except ValueError as error:
        if is_asked:
            raise ValueError(f"together=true: {error}; give fewer, or classes=10") from None
        note(f"a page each: {error}")
        return write_pages(folder, photos)
    return [page.save(folder / "explorer.html")]


COMMAND = Command("explore", explore, argument="PHOTO ...", kept="the pages that are there are whole")

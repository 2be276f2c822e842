"""`attnvis why`: one patch's weight as |q| |k| cos and as channels; where else those channels are large."""

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from attnvis.cli.commands.command import Command
from attnvis.cli.commands.common import announced_photos, build_network, listed, shout, survey_photos
from attnvis.cli.config import build, plain
from attnvis.cli.messages import complain, progress, short_path, visible
from attnvis.cli.stages import ATTENTION

if TYPE_CHECKING:
    from omegaconf import DictConfig

    from attnvis.pipeline.why import Why
    from attnvis.types import Features, Photo, Source

__all__ = ["COMMAND", "why"]


def why(cfg: "DictConfig", folder: Path) -> int:
    """A table on the terminal, why.json and a picture for every answer.  Gives 1 where a photo failed.

    Raises ValueError for half a cell.
    """
    from attnvis.data.preprocessing import collate
    from attnvis.methods.attention import AttentionMethod
    from attnvis.pipeline.preparing import prepared
    from attnvis.pipeline.streaming import read_photo
    from attnvis.pipeline.why import add_favourites, why
    from attnvis.types import PhotoError

    if (cfg.row is None) != (cfg.column is None):
        raise ValueError("a patch has a row and a column; give both, or none for the hottest patch")
    cell = None if cfg.row is None else (int(cfg.row), int(cfg.column))
    listing = announced_photos(plain(cfg.images))
    others = survey_photos(listed(plain(cfg.among))).paths if cfg.among else listing.paths
    stages = {group: build(cfg, group) for group in ATTENTION if group in cfg}  # keys are the patches
    network = build_network(cfg)
    how = network.preprocessing.changed(**plain(cfg.preprocess))
    shout(network.warnings_at(how))
    query = prepared(stages["query"], network, how, photos=listing.paths)
    method = AttentionMethod(network, **stages | {"query": query})
    reasons: dict[str, int] = {}

    def encoded(paths: "Sequence[Source]") -> "Iterator[tuple[Photo, Sequence[Features]]]":
        for path in progress(paths, len(paths)):
            try:
                photo = read_photo(path, how)
                yield photo, network(collate([photo], how))
            except PhotoError as error:
                reasons[str(error)] = 1

    answers: list[Why] = []
    for photo, layers in encoded(listing.paths):
        try:
            (of_photo,) = method.answer(layers)
            answers += [
                why(photo, answer, cell, channels=cfg.channels, favourites=cfg.favourites)
                for answer in of_photo
            ]
        except PhotoError as error:
            reasons[str(error)] = 1
    if len(others) > 1 or others != listing.paths:
        for other in encoded(others):  # once through the network, for all answers
            answers = [add_favourites(answer, [other], favourites=cfg.favourites) for answer in answers]
    tell(answers, folder)
    complain(reasons)
    return 1 if reasons else 0


def tell(answers: "Sequence[Why]", folder: Path) -> None:
    """Each in the terminal and as a picture, all in why.json.  Raises OSError."""
    from attnvis.files import locked, save, slug, unique
    from attnvis.pipeline.why import as_entry
    from attnvis.render.overlays import encode

    names: dict[str, int] = {}
    with locked(folder):
        for answer in answers:
            print(visible_lines(str(answer)), end="\n\n")
            stem = slug(f"{Path(answer.photo).stem}.{answer.label}.{answer.cell.row}-{answer.cell.column}")
            save(folder, f"{unique(stem, names)}.png", encode(answer.picture(), "png"))
        if answers:
            entries = json.dumps([as_entry(answer) for answer in answers], indent=1)
            save(folder, "why.json", entries.encode("utf-8", "replace"))
            print(f"pictures and why.json are in {short_path(folder)}")


def visible_lines(text: str) -> str:
    return "\n".join(visible(line) for line in text.splitlines())


COMMAND = Command(
    "why",
    why,
    argument="PHOTO ...",
    takes_query=True,
    kept="the pictures that are there are whole",
)

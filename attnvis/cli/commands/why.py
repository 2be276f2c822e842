"""`attnvis why`: one patch's weight as |q| |k| cos and as channels; where else those channels are large."""

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from attnvis.cli.commands.command import Command
from attnvis.cli.common import announced_photos, build_network, listed, shout, survey_photos
from attnvis.cli.config import build, plain
from attnvis.cli.messages import complain, print_above_bar, progress, short_path, visible
from attnvis.cli.stages import ATTENTION

if TYPE_CHECKING:
    from omegaconf import DictConfig

    from attnvis.pipeline.why import Why
    from attnvis.types import Features, Photo, Source

__all__ = ["COMMAND", "why"]


def why(cfg: "DictConfig", folder: Path) -> int:
    """A table on the terminal and a picture for every answer as soon as it is whole, then why.json.

    Gives 1 where a photo failed.
    Raises ValueError for half a cell.
    """
    from attnvis.data.preprocessing import collate
    from attnvis.files import locked, save, slug, unique
    from attnvis.methods.attention import AttentionMethod
    from attnvis.pipeline.preparing import prepared
    from attnvis.pipeline.streaming import read_photo
    from attnvis.pipeline.why import CropFile, add_favourites, as_entry, loaded, stored, why
    from attnvis.render.overlays import encode
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

    def answered() -> "Iterator[Why]":
        for photo, layers in encoded(listing.paths):
            try:
                (of_photo,) = method.answer(layers)
                for answer in of_photo:
                    yield why(photo, answer, cell, channels=cfg.channels, favourites=cfg.favourites)
            except PhotoError as error:
                reasons[str(error)] = 1

    def written(reason: "Why") -> "dict[str, Any]":
        print_above_bar(visible_lines(str(reason)) + "\n")
        stem = slug(f"{Path(reason.photo).stem}.{reason.label}.{reason.cell.row}-{reason.cell.column}")
        save(folder, f"{unique(stem, names)}.png", encode(reason.picture(), "png"))
        return as_entry(reason)

    names: dict[str, int] = {}
    with locked(folder), CropFile(folder) as crops:
        if len(others) > 1 or others != listing.paths:
            waiting = [stored(reason, crops) for reason in answered()]
            for other in encoded(others):  # once through the network, for all answers
                waiting = [
                    add_favourites(reason, [other], favourites=cfg.favourites, crops=crops)
                    for reason in waiting
                ]
            entries = [written(loaded(reason, crops)) for reason in waiting]
        else:
            entries = [written(reason) for reason in answered()]
        if entries:
            content = json.dumps(entries, indent=1)
            save(folder, "why.json", content.encode("utf-8", "replace"))
            print(f"pictures and why.json are in {short_path(folder)}")
    complain(reasons)
    return 1 if reasons else 0


def visible_lines(text: str) -> str:
    return "\n".join(visible(line) for line in text.splitlines())


COMMAND = Command(
    "why",
    why,
    argument="PHOTO ...",
    takes_query=True,
    kept="the pictures that are there are whole",
)

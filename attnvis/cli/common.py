"""What several commands need: the photos that were named, the number of threads, the command line."""

import os
from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from attnvis.cli.allocator import keep_freed_memory
from attnvis.cli.config import build, plain
from attnvis.cli.messages import note

if TYPE_CHECKING:
    from omegaconf import DictConfig

    from attnvis.backbone.backbone import Backbone
    from attnvis.backbone.cache import Cached
    from attnvis.data.paths import Listing
    from attnvis.pipeline.logger import LoggerSettings
    from attnvis.types import Photo, PhotoError, Preprocessing, Provenance, Source

__all__ = [
    "announced_photos",
    "build_encoder",
    "build_network",
    "check_logger",
    "command_line",
    "draw_numbers",
    "listed",
    "overrides",
    "photos",
    "prepare",
    "provenance",
    "shout",
    "survey_photos",
    "thread_count",
]


def thread_count(workers: int | str, photos: int) -> int:
    """How many threads `auto` stands for: one a core, none for one photo.

    Raises ValueError for what is neither `auto` nor a number from 1 on.
    """
    import torch

    if not (workers == "auto" or (isinstance(workers, int) and workers > 0)):
        raise ValueError(f"workers={workers}: give auto (one a core) or a number from 1 on")
    wanted = torch.get_num_threads() if workers == "auto" else int(workers)
    return max(1, min(wanted, photos))


def photos(images: Any) -> "list[Source]":
    """The photos that the setting `images` names.  Raises PhotoError where it names none."""
    return survey_photos(images).paths


def survey_photos(images: Any) -> "Listing":
    """The same, and what folders and archives among them hold beside photos."""
    from attnvis.data.paths import survey

    return survey(listed(images) if isinstance(images, list) else str(images))


def announced_photos(images: Any) -> "Listing":
    """`survey_photos`, and a line of what was passed over."""
    listing = survey_photos(images)
    if text := str(listing):
        note(text)
    return listing


def listed(value: Any) -> list[str]:
    """A setting that may be one word or a list of them, as a list."""
    return [str(item) for item in value] if isinstance(value, list) else [str(value)]


def draw_numbers(count: int, most: int | None, seed: int) -> list[int]:
    """Of 0 ... count - 1 at most so many, drawn by the seed, in order; None: all.

    Raises ValueError for fewer than 1.
    """
    import numpy as np

    if most is None or most >= count:
        return list(range(count))
    if most < 1:
        raise ValueError(f"most={most} leaves no photo; give 1 or more, or null for all")
    return sorted(np.random.default_rng(seed).permutation(count)[:most].tolist())


def prepare(
    backbone: "Backbone | Cached",
    paths: "Sequence[Source]",
    preprocessing: "Preprocessing",
    workers: int,
    settings: "DictConfig",
    count: int | None = None,
) -> "dict[Source, Photo | PhotoError]":
    """The engine that suits a command with these photos; gives the first of them, decoded for it.

    settings: of the command: batch_size, cache; count: of the photos, where `paths` are the first of more.
    Raises ValueError where the engine cannot run here.
    """
    from attnvis.backbone.cache import pace_book
    from attnvis.data.preprocessing import sample
    from attnvis.pipeline.streaming import first_photos

    decoded = first_photos(paths, preprocessing)
    images = sample(decoded.values(), preprocessing)
    book = pace_book(plain(settings.cache), say=note)
    total = len(paths) if count is None else count
    backbone.prepare(total, workers, images, batch_size=settings.batch_size, book=book)
    return decoded


def provenance(
    backbone: "Backbone | Cached", preprocessing: "Preprocessing", seed: int, keys: str = "same"
) -> "Provenance":
    """What every record of this command says of where its numbers come from.

    keys: as records name them; under others than the patches themselves no class score is certified.
    """
    described = replace(backbone.describe(preprocessing), seed=str(seed), command=command_line())
    if keys in ("", "same") or described.class_scores.startswith("none"):
        return described
    scores = f"with keys={keys} they add up to no logit: this is no class activation map"
    return replace(described, class_scores=scores)


def build_network(cfg: "DictConfig") -> "Backbone":
    """The network that the settings name; what was found in its file of weights is said, and what a cell is.

    Random weights come from the seed.  Raises ValueError as `build` does.
    """
    import torch

    keep_freed_memory()
    torch.manual_seed(cfg.seed)
    backbone: Backbone = build(cfg, "backbone")
    for text in backbone.notes:
        note(f"{backbone.weights}: {text}")
    for text in backbone.cell_notes:
        note(f"{backbone.name}: {text}")
    return backbone


def build_encoder(cfg: "DictConfig") -> "tuple[Backbone, Backbone | Cached, Preprocessing]":
    """The network, the same with its features remembered as `cache` says, and how photos are prepared for it.

    Raises ValueError as `build` does, and for a preprocessing that there is not.
    """
    from attnvis.backbone.cache import remembered

    network = build_network(cfg)
    backbone = remembered(network, plain(cfg.cache), say=note)
    return network, backbone, network.preprocessing.changed(**plain(cfg.preprocess))


def check_logger(logger: Any, name: Any) -> "LoggerSettings":
    """What W&B is to be told, checked before anything is computed; name: of the command's results.

    Raises ValueError for what W&B would refuse.
    """
    from attnvis.pipeline.logger import read_logger

    return read_logger(logger or {}, group=None if name is None else str(name))


def shout(warnings: Iterable[str]) -> None:
    """What must not be overlooked: that the weights are random, that the size does not suit the network."""
    for warning in warnings:
        note(warning.upper())


def overrides() -> tuple[str, ...]:
    """What was typed after the command, as Hydra takes it."""
    from hydra.core.hydra_config import HydraConfig

    return tuple(HydraConfig.get().overrides.task)


def command_line() -> str:
    """What was typed, to be typed again; processes that a launcher starts inherit it."""
    return os.environ.get("ATTNVIS_COMMAND", "")

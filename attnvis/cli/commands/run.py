"""`attnvis run`: photos in, heatmaps out."""

import contextlib
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from attnvis.cli.chosen_method import chosen_method, inputs_of
from attnvis.cli.commands.command import Command
from attnvis.cli.common import (
    announced_photos,
    build_encoder,
    check_logger,
    overrides,
    prepare,
    provenance,
    shout,
    survey_photos,
    thread_count,
)
from attnvis.cli.config import build, plain
from attnvis.cli.exploring import Exploring, explored_count
from attnvis.cli.messages import note, print_photo_notes, print_summary, progress, visible

if TYPE_CHECKING:
    from collections.abc import Sequence

    from omegaconf import DictConfig

    from attnvis.backbone.backbone import Backbone
    from attnvis.backbone.cache import Cached
    from attnvis.pipeline.resume import PlannedPhoto, PlannedSources
    from attnvis.pipeline.run_folder import RunWriter
    from attnvis.render import Style
    from attnvis.types import Photo, PhotoError, Preprocessing, Source

__all__ = ["COMMAND", "run"]


def run(cfg: "DictConfig", folder: Path) -> int:
    """Photos in, heatmaps out; in shards where a launcher does them.  Gives 1 where a photo failed."""
    from attnvis.cli.shards.command import run_in_shards
    from attnvis.cli.shards.launch import launcher_of

    if launcher := launcher_of():
        if explored_count(plain(cfg)):
            raise ValueError(
                "a run in shards makes no explorers: leave explore out, and ask for those of single photos "
                "with attnvis explore PHOTO"
            )
        return run_in_shards(cfg, folder, launcher, COMMAND)
    from attnvis.pipeline.plan import RunPlan, setting_text
    from attnvis.pipeline.run_folder import RunWriter
    from attnvis.pipeline.streaming import stream

    check_logger(plain(cfg.logger), cfg.name)
    explored = explored_count(plain(cfg))
    if cfg.position_prior and not cfg.maps:
        raise ValueError(
            "position_prior=true and maps=false: a run that goes on counts the prior from maps; leave one out"
        )
    planned, paths, passed_over = plan_photos(cfg, folder)
    style = build(cfg, "render")
    make_method, config = chosen_method(cfg)
    network, backbone, preprocessing = build_encoder(cfg)
    workers = thread_count(cfg.workers, len(paths))
    decoded = choose_engine(cfg, folder, backbone, paths, preprocessing, workers)
    method = make_method(backbone, network, preprocessing, paths)
    keys_text = setting_text(plain(cfg["keys"]))
    plan = RunPlan(
        paths=paths,
        style=style,
        provenance=replace(
            provenance(backbone, preprocessing, seed=cfg.seed, keys=keys_text),
            passed_over=visible(passed_over),
        ),
        config=config,
        warnings=backbone.warnings_at(preprocessing),
        logger=plain(cfg.logger),
        keep_maps=cfg.maps,
        photos=planned,
        inputs=inputs_of(cfg, paths),
    )
    shout(plan.warnings)
    exploring = Exploring(network, preprocessing, overrides(), warnings=tuple(plan.warnings))
    with RunWriter(folder, plan, resume=cfg.resume) as results:
        outcomes = stream(
            (paths[index] for index in results.left),
            method,
            preprocessing,
            batch_size=cfg.batch_size,
            workers=workers,
            after=results.render,
            say=note,
            decoded=decoded,
        )
        for outcome in progress(outcomes, len(results.left)):
            if outcome.photo is not None and not outcome.error and results.place(outcome) < explored:
                write_explorer(exploring, outcome.photo, style, results.explorer_path(outcome))
            results.record(outcome)
    print_photo_notes(results.photo_notes + results.remarks)
    for line in results.silences():
        note(line)
    note_lacking_explorers(results, explored)
    return print_summary(results.done, results.reasons, folder)


def choose_engine(
    cfg: "DictConfig",
    folder: Path,
    backbone: "Backbone | Cached",
    paths: "Sequence[Source]",
    preprocessing: "Preprocessing",
    workers: int,
) -> "dict[Source, Photo | PhotoError]":
    """One engine from a run's first photo to its last; gives the photos that were decoded to choose it."""
    from attnvis.pipeline.plan import begun_as

    begun = begun_as(folder) if cfg.resume else None
    if begun is None or not begun.engine:
        return prepare(backbone, paths, preprocessing, workers=workers, settings=cfg)
    if remark := backbone.go_on(begun, workers):
        note(remark)
    return {}


def write_explorer(exploring: Exploring, photo: "Photo", style: "Style", path: Path) -> None:
    """A page in which one asks on about a photo of a run; what has no features has none, which is said."""
    from attnvis.explorer.page import explorer
    from attnvis.types import PhotoError

    try:
        page = explorer(exploring.origin(photo), style=style)
    except PhotoError as error:
        note(f"no explorer of {photo.name}: {error}")
        return
    page.save(path)


def note_lacking_explorers(results: "RunWriter", explored: int) -> None:
    """Photos that were finished before explorers were asked for have none, which is said."""
    first = set(range(min(explored, len(results.plan.paths))))
    if lacking := len(first - set(results.left) - set(results.explorers())):
        noun = "photos were" if lacking > 1 else "photo was"
        note(f"explore: {lacking} {noun} finished without an explorer; attnvis explore PHOTO makes one")


def plan_photos(cfg: "DictConfig", folder: Path) -> "tuple[tuple[PlannedPhoto, ...], PlannedSources, str]":
    """The photos of a run by their content, where they come from, and what was passed over.

    A run that goes on has the photos with which it was begun.

    Raises PhotoError where none is meant, ValueError for a folder whose plan is damaged.
    """
    from attnvis.pipeline.plan import begun_as
    from attnvis.pipeline.resume import FolderPlan, PlannedSources, planned_photos, renewed
    from attnvis.types import PhotoError

    begun = FolderPlan.read(folder, "run") if cfg.resume else None
    if begun is None:
        if cfg.resume and (folder / "records.csv").is_file():
            note(
                f"{folder} has no plan.json, as folders of earlier versions: "
                "how many rows a photo has is guessed from the others"
            )
        listing = announced_photos(plain(cfg.images))
        planned = planned_photos(listing.paths)
        return planned, PlannedSources(planned, listing.paths), str(listing)
    named: list[Source] = []
    passed_over = ""
    with contextlib.suppress(PhotoError):  # all of them may be gone
        named = survey_photos(plain(cfg.images)).paths
    if former := begun_as(folder):  # as it was when the run began: now its own files lie there
        passed_over = former.passed_over
    drawn = folder.absolute()  # `attnvis run .` finds what it drew itself
    others = [
        path for path in named if not (isinstance(path, Path) and path.absolute().is_relative_to(drawn))
    ]
    planned, remarks = renewed(begun.photos, others)
    for remark in remarks:
        note(remark)
    return planned, PlannedSources(planned, others), passed_over


COMMAND = Command(
    "run",
    run,
    argument="PHOTO ...",
    record="run.json",
    resuming=("resume=true",),
    takes_query=True,
    in_shards=True,
)

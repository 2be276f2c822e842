"""`attnvis run`: photos in, heatmaps out."""

from pathlib import Path
from typing import TYPE_CHECKING

from attnvis.cli.commands.command import Command
from attnvis.cli.commands.common import photos, provenance, shout, thread_count
from attnvis.cli.config import build, plain
from attnvis.cli.messages import note, print_summary, progress

if TYPE_CHECKING:
    from omegaconf import DictConfig

__all__ = ["COMMAND", "run"]


def run(cfg: "DictConfig", folder: Path) -> int:
    """Photos in, heatmaps out."""
    import torch

    from attnvis.backbone.cache import remembered
    from attnvis.data.preprocessing import sample
    from attnvis.methods.attention import AttentionMethod
    from attnvis.pipeline.plan import RunPlan
    from attnvis.pipeline.run_folder import RunWriter
    from attnvis.pipeline.streaming import stream

    paths = photos(plain(cfg.images))
    style = build(cfg, "render")
    query, scaling, normalise = (build(cfg, group) for group in ("query", "scaling", "normalise"))
    torch.manual_seed(cfg.seed)
    backbone = remembered(build(cfg, "backbone"), plain(cfg.cache))
    method = AttentionMethod(backbone, query, scaling, normalise)
    preprocessing = backbone.preprocessing.changed(cfg.preprocess.fit, cfg.preprocess.size)
    workers = thread_count(cfg.workers, len(paths))
    backbone.prepare(len(paths), workers, sample(paths, preprocessing))
    plan = RunPlan(
        paths=tuple(paths),
        style=style,
        provenance=provenance(backbone, preprocessing, seed=cfg.seed),
        config=plain(cfg),
        warnings=backbone.warnings_at(preprocessing),
        logger=plain(cfg.logger),
        keep_maps=cfg.maps,
    )
    shout(plan.warnings)
    with RunWriter(folder, plan, resume=cfg.resume) as results:
        left = [paths[index] for index in results.left]
        outcomes = stream(
            left,
            method,
            preprocessing,
            batch_size=cfg.batch_size,
            workers=workers,
            after=results.render,
            say=note,
        )
        for outcome in progress(outcomes, len(left)):
            results.record(outcome)
    return print_summary(results.done, results.reasons, folder)


COMMAND = Command(
    "run",
    run,
    argument="PHOTO ...",
    record="run.json",
    resuming=("resume=true",),
    takes_query=True,
)

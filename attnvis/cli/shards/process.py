"""What every process of a run in shards does: a shard's number in, its part in the run's folder out."""

import contextlib
import functools
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from attnvis.cli.chosen_method import chosen_method, inputs_of
from attnvis.cli.common import build_encoder
from attnvis.cli.config import build, plain
from attnvis.cli.messages import format_error, note, visible

if TYPE_CHECKING:
    from omegaconf import DictConfig

    from attnvis.methods.answer import Method
    from attnvis.pipeline.plan import RunPlan
    from attnvis.pipeline.shards.part import ShardTask
    from attnvis.types import Preprocessing, Provenance

__all__ = ["ShardJob", "do_shard", "run_plan"]


@dataclass(frozen=True)
class ShardJob:
    """What a process must know, beside the number of a shard, to do it."""

    folder: Path
    cwd: Path  # where the command was typed: photos may be named from there
    config: Mapping[str, Any]
    provenance: "Provenance"  # of the network, as the command found it: every process runs as it says
    span: int  # of the plan
    shards: int
    cores: int  # of a process
    inputs: Mapping[str, str]  # the files that the question is read from, as the command found them
    resume: str = ""  # what to type to go on


@dataclass(frozen=True)
class Bench:
    """What a process keeps from shard to shard."""

    task: "ShardTask"
    method: "Method"
    preprocessing: "Preprocessing"


def do_shard(job: ShardJob, number: int) -> str:
    """Does a shard that has no part; gives why it has none after all, "" where it has.

    One shard's fault is not its neighbours': whatever is raised is written down beside the parts.
    """
    from attnvis.pipeline.shards.part import is_done, note_failure, run_shard
    from attnvis.pipeline.shards.plan import ShardPlan

    with contextlib.suppress(OSError):
        os.chdir(job.cwd)
    shard = ShardPlan(job.folder).shard(number)
    if is_done(job.folder, shard):
        return ""
    try:
        bench = bench_of(Same(job))
        run_shard(
            bench.task,
            shard,
            bench.method,
            bench.preprocessing,
            batch_size=job.config["batch_size"],
            workers=job.cores,
            say=note,
        )
    except Exception as error:
        if os.environ.get("ATTNVIS_DEBUG_SHARDS"):
            raise
        reason = visible(format_error(error, job.resume))
        note_failure(job.folder, shard, reason)
        return reason
    return ""


class Same:
    """A job that is told from others by its content: a process does the shards of one run after another."""

    def __init__(self, job: ShardJob) -> None:
        self.job, self.key = job, repr(job)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Same) and self.key == other.key

    def __hash__(self) -> int:
        return hash(self.key)


@functools.lru_cache(maxsize=1)
def bench_of(same: Same) -> Bench:
    """The network and the question, built once in a process.

    Raises ValueError where the network, or a file of the question, is another than the command's.
    """
    import cv2
    import torch
    from omegaconf import OmegaConf

    from attnvis.pipeline.question_files import require_same_files
    from attnvis.pipeline.shards.part import ShardTask

    job = same.job
    cfg = OmegaConf.create(dict(job.config))
    torch.set_num_threads(1)  # one thread an operation: every process computes the same digits
    cv2.setNumThreads(1)
    network, backbone, preprocessing = build_encoder(cfg)
    remark = backbone.go_on(job.provenance, job.cores)
    digest = backbone.describe(preprocessing).weights_digest
    if digest != job.provenance.weights_digest or remark:
        raise ValueError(remark or f"this machine has other weights for {cfg.backbone.name}: {digest}")
    make_method, _ = chosen_method(cfg)
    require_same_files(job.folder, job.inputs, inputs_of(cfg, None))
    run = run_plan(cfg, build(cfg, "render"), job.provenance, backbone.warnings_at(preprocessing))
    task = ShardTask(
        folder=job.folder,
        span=job.span,
        shards=job.shards,
        style=run.style,
        provenance=run.provenance,
        scaling=run.scaling,
        normalise=run.normalise,
        warnings=run.warnings,
        keep_maps=run.keep_maps,
        overlays=cfg.shards.overlays,
        keys=run.keys,
        heads=run.heads,
    )
    return Bench(task, make_method(backbone, network, preprocessing, None), preprocessing)


def run_plan(cfg: "DictConfig", style: Any, origin: "Provenance", warnings: tuple[str, ...]) -> "RunPlan":
    """Of a run whose photos stand in shards.parquet."""
    from attnvis.pipeline.plan import RunPlan

    _, config = chosen_method(cfg)
    return RunPlan(
        paths=(),
        style=style,
        provenance=origin,
        config=config,
        warnings=warnings,
        logger=plain(cfg.logger),
        keep_maps=cfg.maps,
    )

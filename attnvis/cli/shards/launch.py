"""A launcher's name and the numbers of shards in, the shards as they end out."""

import functools
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from attnvis.cli.common import thread_count
from attnvis.cli.orphans import end_with_parent
from attnvis.cli.shards.process import ShardJob, do_shard

if TYPE_CHECKING:
    from omegaconf import DictConfig

    from attnvis.pipeline.shards.launching import Ended
    from attnvis.pipeline.shards.plan import ShardPlan

__all__ = ["cores_of", "launched", "launcher_of"]

LAUNCHERS = ("local", "slurm", "ray")


def launcher_of() -> str:
    """The launcher that does this job in shards; "" where it is done as it is, in this process.

    Several jobs at once (-m) are Hydra's to launch: Slurm gets one each, not its shards.
    """
    from hydra.core.hydra_config import HydraConfig
    from hydra.types import RunMode

    settings = HydraConfig.get()
    name = str(settings.runtime.choices.get("launcher", ""))
    if name not in LAUNCHERS or (name == "slurm" and settings.mode == RunMode.MULTIRUN):
        return ""
    return name


def launched(
    launcher: str, job: ShardJob, numbers: list[int], cfg: "DictConfig", plan: "ShardPlan"
) -> "Iterator[Ended | None]":
    """The shards as they end, done by a launcher; None now and then, where none has ended.

    Raises ValueError or ConnectionError where it cannot be had.
    """
    from attnvis.pipeline.shards.launch_local import do_locally
    from attnvis.pipeline.shards.launch_ray import do_on_ray
    from attnvis.pipeline.shards.launch_slurm import do_on_slurm, remember_arrays
    from attnvis.pipeline.shards.part import outcome_of

    work = functools.partial(do_shard, job)
    shards = cfg.shards
    if not numbers:
        return iter(())
    if launcher == "ray":
        return do_on_ray(
            work,
            numbers,
            cores=job.cores,
            gpus=float(shards.gpus),
            tries=shards.tries,
            address=shards.address,
        )
    if launcher == "slurm":
        return do_on_slurm(
            work,
            numbers,
            folder=job.folder / ".submitit",
            settings=launcher_settings(),
            outcome=lambda number: outcome_of(job.folder, plan.shard(number)),
            tries=shards.tries,
            sent=functools.partial(remember_arrays, job.folder),
        )
    processes = max(1, thread_count(cfg.workers, job.span) // job.cores)
    return do_locally(
        work,
        numbers,
        processes=min(processes, len(numbers)),
        cores=job.cores,
        tries=shards.tries,
        begin=end_with_parent,
    )


def cores_of(cfg: "DictConfig", launcher: str) -> int:
    """Of a process: those of a Slurm job are its launcher's to say."""
    if launcher == "slurm":
        return int(launcher_settings().get("cpus_per_task") or 1)
    return int(cfg.shards.cores)


def launcher_settings() -> dict[str, Any]:
    """Those of configs/launcher/slurm.yaml, as Hydra has them."""
    from hydra.core.hydra_config import HydraConfig
    from omegaconf import OmegaConf

    settings = OmegaConf.to_container(HydraConfig.get().launcher, resolve=True)
    assert isinstance(settings, dict)
    return {str(name): value for name, value in settings.items()}

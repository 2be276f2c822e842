"""Settings and a folder in, the plan of a run in shards out: written, or held against what is there."""

import contextlib
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

from attnvis.cli.chosen_method import chosen_method, inputs_of
from attnvis.cli.common import build_encoder, listed, prepare, provenance, shout
from attnvis.cli.config import build, plain
from attnvis.cli.messages import note, visible
from attnvis.cli.shards.process import run_plan

if TYPE_CHECKING:
    from omegaconf import DictConfig

    from attnvis.backbone.backbone import Backbone
    from attnvis.backbone.cache import Cached
    from attnvis.pipeline.plan import RunPlan
    from attnvis.pipeline.shards.merge import ShardTracker
    from attnvis.types import Preprocessing, Provenance

__all__ = ["begin", "check_settings"]

FIRST = 8  # photos on which engines are timed
ABANDONED = 3600.0  # seconds after which nobody is taken to write to a part any more


def check_settings(cfg: "DictConfig") -> None:
    """Raises ValueError for settings of shards that mean nothing."""
    from attnvis.pipeline.shards.part import OVERLAYS

    if cfg.get("position_prior"):
        raise ValueError(
            "position_prior is a mean over all photos, and no shard sees them all; run without a launcher"
        )
    if cfg.shards.overlays not in OVERLAYS:
        raise ValueError(f"shards.overlays={cfg.shards.overlays}: give {', '.join(OVERLAYS)}")
    for name in ("size", "cores", "tries"):
        if cfg.shards[name] < 1:
            raise ValueError(f"shards.{name}={cfg.shards[name]}: give 1 or more")


def begin(cfg: "DictConfig", folder: Path) -> "tuple[RunPlan, ShardTracker]":
    """The plan and run.json of a folder, written or, where it goes on, held against what is asked now.

    Raises ValueError where the folder was begun otherwise.
    """
    from attnvis.pipeline.plan import begun_as, setting_text
    from attnvis.pipeline.question_files import require_same_inputs
    from attnvis.pipeline.shards.plan import NAME, ShardPlan, require_named_addresses

    if (folder / "records.csv").exists():
        raise ValueError(f"{folder} holds a run without shards; go on without launcher=, or choose another")
    begun = begun_as(folder) if (folder / NAME).exists() else None
    style = build(cfg, "render")
    network, backbone, preprocessing = build_encoder(cfg)
    make_method, _ = chosen_method(cfg)
    make_method(backbone, network, preprocessing, None)  # what no process could ask is told before the first
    settings = settings_digest(cfg, backbone.describe(preprocessing))
    inputs = inputs_of(cfg, None)
    if begun is not None:
        passed_over = begun.passed_over
        require_same(folder, settings, cfg)
        require_same_inputs(folder, inputs)
        require_named_addresses(ShardPlan(folder), listed(plain(cfg.images)))
        if remark := backbone.go_on(begun, cfg.shards.cores):
            note(remark)
    else:
        passed_over = plan_anew(cfg, folder, settings)
        choose_engine(cfg, folder, backbone, preprocessing)
    keys = setting_text(plain(cfg["keys"]))
    origin = provenance(backbone, preprocessing, seed=cfg.seed, keys=keys)
    origin = replace(origin, passed_over=passed_over)
    run = replace(run_plan(cfg, style, origin, backbone.warnings_at(preprocessing)), inputs=inputs)
    shout(run.warnings)
    return run, write_record(folder, run, goes_on=begun is not None)


def plan_anew(cfg: "DictConfig", folder: Path, settings: str) -> str:
    """Writes shards.parquet, of the photos that are named; gives what was passed over, "" where nothing was.

    settings: the digest of what is asked of all photos.  Raises PhotoError where none is meant.
    """
    from attnvis.data.paths import passed_over_text
    from attnvis.data.ranges import ranges
    from attnvis.pipeline.shards.folder import forget_parts
    from attnvis.pipeline.shards.plan import write_plan

    forget_parts(folder)
    kinds = Counter[str]()
    write_plan(folder, ranges(listed(plain(cfg.images)), cfg.shards.size, passed_over=kinds), settings)
    passed_over = visible(passed_over_text(kinds))
    if passed_over:
        note(passed_over)
    return passed_over


def write_record(folder: Path, run: "RunPlan", goes_on: bool) -> "ShardTracker":
    """Writes run.json; gives the run at W&B, the one that was begun where the folder goes on."""
    from attnvis.json_files import write_json
    from attnvis.pipeline.logger import read_logger
    from attnvis.pipeline.run_folder import logged_as, logged_before
    from attnvis.pipeline.shards.folder import remove_leftovers
    from attnvis.pipeline.shards.merge import ShardTracker

    earlier = logged_before(folder) if goes_on else {}
    record = run.record()
    log = logged_as(read_logger(run.logger, group=run.name), earlier)
    write_json(folder, "run.json", record | ({"wandb": log} if log else {}))
    remove_leftovers(folder, age=ABANDONED)  # others may still be at theirs
    return ShardTracker(
        folder,
        run.logger,
        run.provenance.entries() | {"versions": record["versions"]} | dict(run.config),
        group=run.name,
        id=log.get("id"),
        continues=bool(earlier),
    )


def choose_engine(
    cfg: "DictConfig", folder: Path, backbone: "Backbone | Cached", preprocessing: "Preprocessing"
) -> None:
    """Once for all processes, on the first photos, with as many threads as a process will have."""
    from attnvis.pipeline.shards.plan import ShardPlan

    plan = ShardPlan(folder)
    ranges = (plan.shard(shard.number).range for shard in plan)
    photos = (photo for some in ranges if some is not None for photo in some.photos())
    first = list(islice(photos, FIRST))
    with threads(1):
        prepare(backbone, first, preprocessing, workers=cfg.shards.cores, settings=cfg, count=plan.span)


@contextlib.contextmanager
def threads(count: int) -> Iterator[None]:
    """Inside the block PyTorch has so many, as the processes will."""
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def settings_digest(cfg: "DictConfig", network: "Provenance") -> str:
    """Of everything on which the rows of a shard depend beside its photos, and beside the engine and the
    precision that run.json keeps.
    """
    from attnvis.json_files import json_digest

    return json_digest([comparable(plain(cfg)), network.weights_digest, network.layer, network.placement])


def require_same(folder: Path, settings: str, cfg: "DictConfig") -> None:
    """Raises ValueError where a folder was begun with other settings."""
    import json

    from attnvis.json_files import read_json
    from attnvis.pipeline.resume import differing
    from attnvis.pipeline.shards.plan import ShardPlan

    if ShardPlan(folder).settings == settings:
        return
    before = comparable(read_json(folder / "run.json")["config"])
    names = differing(before, json.loads(json.dumps(comparable(plain(cfg)))))
    others = ", ".join(names[:3]) or "other weights"
    raise ValueError(f"{folder} was begun with other settings ({others}); choose another folder")


def comparable(config: Mapping[str, Any]) -> dict[str, Any]:
    """The settings that change what a shard leaves."""
    from attnvis.pipeline.plan import HARMLESS

    kept = {name: value for name, value in config.items() if name not in (*HARMLESS, "shards")}
    shards = {name: config["shards"][name] for name in ("size", "overlays")}
    return kept | {"batch_size": config["batch_size"], "shards": shards}

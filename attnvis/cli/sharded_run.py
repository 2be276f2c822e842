"""`attnvis run PHOTOS launcher=local|slurm|ray`: the same run in shards, by processes here or on a cluster.

What the command does is plan, launch, look on and merge; `do_shard` is what every process does.
"""

import contextlib
import functools
import os
import sys
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

from attnvis.cli.chosen_method import chosen_method, inputs_of
from attnvis.cli.commands.command import Command
from attnvis.cli.commands.common import (
    build_network,
    check_logger,
    listed,
    prepare,
    provenance,
    shout,
    thread_count,
)
from attnvis.cli.config import build, plain
from attnvis.cli.messages import complain, format_error, note, print_photo_notes, short_path, visible
from attnvis.cli.orphans import end_with_parent
from attnvis.cli.resuming import resume_words
from attnvis.cli.stopping import check_stop

if TYPE_CHECKING:
    from omegaconf import DictConfig

    from attnvis.backbone.backbone import Backbone
    from attnvis.backbone.cache import Cached
    from attnvis.methods.answer import Method
    from attnvis.pipeline.plan import RunPlan
    from attnvis.pipeline.shards.launching import Ended
    from attnvis.pipeline.shards.merge import ShardTracker, Totals
    from attnvis.pipeline.shards.part import ShardTask
    from attnvis.pipeline.shards.plan import ShardPlan
    from attnvis.pipeline.shards.progress import Board, Progress
    from attnvis.types import Preprocessing, Provenance

__all__ = ["do_shard", "launcher_of", "run_in_shards"]

LAUNCHERS = ("local", "slurm", "ray")
FILES = (
    "run.json",
    "shards.parquet",
    "session.json",
    "slurm.json",
    "totals.json",
    "index.html",
)  # of a folder
GROUPED = ("parts", "records", "maps", "overlays", "panels")  # whose folders are of a thousand shards each
FOLDERS = (*GROUPED, "wandb", ".submitit")
WITHOUT_A_TERMINAL = 60.0  # seconds between two lines that say how far it is
TO_WANDB = 30.0
FIRST = 8  # photos on which engines are timed


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


# --------------------------------------------------------------------------------------- what a process does


@dataclass(frozen=True)
class ShardJob:
    """What a process must know, beside the number of a shard, to do it."""

    folder: Path
    place: Path  # where the command was typed: photos may be named from there
    config: Mapping[str, Any]
    provenance: "Provenance"  # of the network, as the command found it: every process runs as it says
    span: int  # of the plan
    shards: int
    cores: int  # of a process
    inputs: Mapping[str, str]  # the files that the question is read from, as the command found them
    again: str = ""  # what to type to go on


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
        os.chdir(job.place)
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
        )
    except Exception as error:
        if os.environ.get("ATTNVIS_DEBUG_SHARDS"):
            raise
        reason = visible(format_error(error, job.again))
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

    from attnvis.backbone.cache import remembered
    from attnvis.pipeline.question_files import require_same_files
    from attnvis.pipeline.shards.part import ShardTask

    job = same.job
    cfg = OmegaConf.create(dict(job.config))
    torch.set_num_threads(1)  # one thread an operation: every process computes the same digits
    cv2.setNumThreads(1)
    torch.manual_seed(cfg.seed)
    network = build_network(cfg)
    backbone = remembered(network, plain(cfg.cache), say=note)
    remark = backbone.go_on(job.provenance, job.cores)
    preprocessing = backbone.preprocessing.changed(**plain(cfg.preprocess))
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


# ----------------------------------------------------------------------------------------------- the command


def run_in_shards(cfg: "DictConfig", folder: Path, launcher: str, command: Command) -> int:
    """Plans, has every shard done that has no part yet, merges.  Gives 1 where a photo or a shard failed."""
    from attnvis.files import locked
    from attnvis.pipeline.resume import require_own_files

    check_logger(plain(cfg.logger), cfg.name)
    check_settings(cfg)
    folder = folder.absolute()
    with locked(folder):
        require_own_files(folder, files=FILES, folders=FOLDERS)
        groups(folder)
        run, tracker = begin(cfg, folder)
        with tracker:
            return do_all(cfg, folder, run, launcher, tracker, again=resume_words(command, folder))


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
    import torch

    from attnvis.backbone.cache import remembered
    from attnvis.cli.commands.run import note_passed_over, provenance_of
    from attnvis.data.paths import passed_over_text
    from attnvis.data.ranges import ranges
    from attnvis.files import remove_parts
    from attnvis.json_files import write_json
    from attnvis.pipeline.logger import read_logger
    from attnvis.pipeline.plan import setting_text
    from attnvis.pipeline.question_files import require_same_inputs
    from attnvis.pipeline.run_folder import logged_as, logged_before
    from attnvis.pipeline.shards.merge import ShardTracker
    from attnvis.pipeline.shards.plan import NAME, ShardPlan, require_named_addresses, write_plan

    if (folder / "records.csv").exists():
        raise ValueError(f"{folder} holds a run without shards; go on without launcher=, or choose another")
    begun = provenance_of(folder) if (folder / NAME).exists() else None
    style = build(cfg, "render")
    torch.manual_seed(cfg.seed)
    network = build_network(cfg)
    backbone = remembered(network, plain(cfg.cache), say=note)
    preprocessing = backbone.preprocessing.changed(**plain(cfg.preprocess))
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
            note(visible(remark))
    else:
        forget_parts(folder)
        kinds = Counter[str]()
        write_plan(folder, ranges(listed(plain(cfg.images)), cfg.shards.size, passed_over=kinds), settings)
        passed_over = visible(passed_over_text(kinds))
        note_passed_over(passed_over)
        choose_engine(backbone, preprocessing, ShardPlan(folder), cfg)
    keys = setting_text(plain(cfg["keys"]))
    origin = provenance(backbone, preprocessing, seed=cfg.seed, keys=keys)
    origin = replace(origin, passed_over=passed_over)
    run = replace(run_plan(cfg, style, origin, backbone.warnings_at(preprocessing)), inputs=inputs)
    shout(run.warnings)
    earlier = logged_before(folder) if begun else {}
    record = run.record()
    log = logged_as(read_logger(run.logger, group=run.name), earlier)
    write_json(folder, "run.json", record | ({"wandb": log} if log else {}))
    for group in groups(folder):
        remove_parts(group, age=3600.0)  # of processes that were killed; others may still be at theirs
    tracker = ShardTracker(
        folder,
        run.logger,
        run.provenance.entries() | {"versions": record["versions"]} | dict(run.config),
        group=run.name,
        id=log.get("id"),
        continues=bool(earlier),
    )
    return run, tracker


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


def choose_engine(
    backbone: "Backbone | Cached", preprocessing: "Preprocessing", plan: "ShardPlan", cfg: "DictConfig"
) -> None:
    """Once for all processes, on the first photos, with as many threads as a process will have."""
    ranges = (plan.shard(shard.number).range for shard in plan)
    photos = (photo for some in ranges if some is not None for photo in some.photos())
    first = list(islice(photos, FIRST))
    with threads(1):
        prepare(backbone, first, preprocessing, workers=cfg.shards.cores, settings=cfg, count=plan.span)


def forget_parts(folder: Path) -> None:
    """What lies in a folder that has no plan of ours is nobody's: it is done again.

    Raises OSError, and ValueError as `groups` does.
    """
    for group in groups(folder):
        for receipt in group.glob("*") if group.parent.name == "parts" else ():
            receipt.unlink()


def groups(folder: Path) -> list[Path]:
    """What there is of parts/000, records/000 and the like.  Raises ValueError where one is a link."""
    from attnvis.files import refuse_link

    found = [group for name in GROUPED for group in (folder / name).glob("*")]
    for group in found:
        refuse_link(group)
    return found


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


def do_all(
    cfg: "DictConfig", folder: Path, run: "RunPlan", launcher: str, tracker: "ShardTracker", again: str
) -> int:
    """Every shard without a part, then the merge; where it is stopped, the merge of what there is."""
    from attnvis.pipeline.shards.part import forget_failure, is_done
    from attnvis.pipeline.shards.plan import ShardPlan
    from attnvis.pipeline.shards.progress import Board, begin_session

    plan = ShardPlan(folder)
    cancel_earlier(folder)
    missing = [shard for shard in plan if not is_done(folder, shard)]
    for shard in missing:
        forget_failure(folder, shard)
    job = ShardJob(
        folder=folder,
        place=Path.cwd(),
        config=plain(cfg),
        provenance=run.provenance,
        span=plan.span,
        shards=len(plan),
        cores=cores_of(cfg, launcher),
        inputs=run.inputs,
        again=again,
    )
    board = Board(folder)
    begin_session(folder, launcher, board.read().photos_seen)
    numbers = [shard.number for shard in missing]
    display = Display(board, tracker)
    try:
        for ended in launched(launcher, job, numbers, cfg, plan):
            check_stop()
            if ended is not None and ended.reason:
                display.say(visible(f"shard {ended.shard} failed: {ended.reason}"))
            display.show()
    except BaseException:
        with contextlib.suppress(OSError):  # a full disk has been reported already
            merge(folder, plan, run, tracker)
        raise
    (folder / "slurm.json").unlink(missing_ok=True)  # none of its jobs waits any more
    display.show(last=True)
    return conclude(folder, plan, run, tracker, again)


def launched(
    launcher: str, job: ShardJob, numbers: list[int], cfg: "DictConfig", plan: "ShardPlan"
) -> "Iterator[Ended | None]":
    """The shards as they end, done by a launcher; None now and then, where none has ended.

    Raises ValueError or ConnectionError where it cannot be had.
    """
    from attnvis.pipeline.shards.launch_local import do_locally
    from attnvis.pipeline.shards.launch_ray import do_on_ray
    from attnvis.pipeline.shards.launch_slurm import do_on_slurm
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
            sent=functools.partial(remember_jobs, job.folder),
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


def remember_jobs(folder: Path, arrays: Sequence[str]) -> None:
    """So that they can be cancelled by who goes on after this process was killed."""
    from attnvis.json_files import write_json

    write_json(folder, "slurm.json", {"arrays": list(arrays)})


def cancel_earlier(folder: Path) -> None:
    """The arrays that a killed command left in Slurm's queue: their shards are sent again."""
    from attnvis.json_files import read_json
    from attnvis.pipeline.shards.launch_slurm import cancel

    path = folder / "slurm.json"
    with contextlib.suppress(OSError, ValueError):
        arrays = [array for array in read_json(path)["arrays"] if str(array).isdecimal()]
        cancel(arrays)
        path.unlink()


# ------------------------------------------------------------------------------------------------ the merge


def named_failures(kinds: Mapping[str, int], sample: Sequence[Mapping[str, Any]]) -> dict[str, int]:
    """Why photos failed -> how many: each by its own reason, where the sample has all of them; else the first
    of every kind, and how many more are like it.
    """
    from attnvis.pipeline.shards.part import NO_NAME, without_name

    failed = [row for row in sample if row["status"] != "done"]
    if len(failed) == sum(kinds.values()):
        return dict(Counter(str(row["reason"]) for row in failed))
    first: dict[str, str] = {}
    for row in failed:
        first.setdefault(without_name(row["reason"], row["path"], row["photo"]), row["reason"])
    reasons: dict[str, int] = {}
    for kind, count in Counter(kinds).most_common():
        reason = first.get(kind, kind.replace(NO_NAME, "..."))
        reasons[f"{reason}; {count - 1:,} more like it" if count > 1 else reason] = 1
    return reasons


def merge(folder: Path, plan: "ShardPlan", run: "RunPlan", tracker: "ShardTracker") -> "Totals":
    """totals.json and index.html, of the parts that there are; W&B is told at the end.  Raises OSError."""
    from attnvis.pipeline.shards.merge import add_up, sample_rows, write_sample_page, write_totals

    totals = add_up(folder, plan)
    write_totals(folder, totals)
    tracker.totals_of, tracker.sample = totals, list(sample_rows(folder, plan))
    write_sample_page(folder, run, totals, tracker.sample)
    return totals


def conclude(
    folder: Path,
    plan: "ShardPlan",
    run: "RunPlan",
    tracker: "ShardTracker",
    again: str,
) -> int:
    """The merge, and the last words; gives the exit code."""
    from attnvis.files import remove_parts

    totals = merge(folder, plan, run, tracker)
    print_photo_notes(totals.notes)
    complain(named_failures(totals.failures, tracker.sample))
    if totals.failed:
        note(
            f"{totals.done:,} done, {totals.failed:,} failed; reasons are in {short_path(folder / 'records')}"
        )
    lacking = totals.shards - totals.parts
    if lacking:
        note(visible(f"{lacking:,} of {totals.shards:,} shards have no part; go on with {again}"))
    else:
        for group in groups(folder):
            remove_parts(group)
    print(f"{totals.done:,} photo{'s' * (totals.done != 1)} done: {short_path(folder / 'index.html')}")
    return 1 if totals.failed or lacking else 0


# --------------------------------------------------------------------------------------------- how far it is


class Display:
    """Says how far a run is: on one line of a terminal, as a line a minute elsewhere, and at W&B."""

    def __init__(self, board: "Board", tracker: "ShardTracker") -> None:
        self.board, self.tracker = board, tracker
        self.is_terminal = sys.stderr.isatty()
        self.shown = self.said = self.sent = time.monotonic()

    def show(self, last: bool = False) -> None:
        now = time.monotonic()
        if now - self.shown < 1 and not last:
            return
        self.shown = now
        progress = self.board.read()
        if self.is_terminal:
            print(f"\r\033[K{progress}", end="" if not last else "\r\033[K", file=sys.stderr, flush=True)
        elif now - self.said > WITHOUT_A_TERMINAL:
            self.said = now
            note(str(progress))
        if now - self.sent > TO_WANDB or last:
            self.sent = now
            self.tracker.log_numbers(numbers_of(progress))

    def say(self, text: str) -> None:
        """A line above the one that shows how far it is."""
        if self.is_terminal:
            print("\r\033[K", end="", file=sys.stderr)
        note(text)


def numbers_of(progress: "Progress") -> dict[str, int | float]:
    """What W&B is told of how far it is."""
    numbers: dict[str, int | float] = {
        "progress/shards": progress.shards_done,
        "progress/photos": progress.photos_seen,
        "progress/failed photos": progress.photos_failed,
        "progress/failed shards": len(progress.failed),
        "progress/photos a second": progress.rate,
    }
    return numbers | {f"failures/{kind}": count for kind, count in progress.failures.items()}

"""The command: plan, launch, look on, merge."""

import contextlib
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from attnvis.cli.commands.command import Command
from attnvis.cli.common import check_logger
from attnvis.cli.config import plain
from attnvis.cli.messages import complain, note, print_photo_notes, short_path
from attnvis.cli.resuming import resume_words
from attnvis.cli.shards.begin import begin, check_settings
from attnvis.cli.shards.display import Display
from attnvis.cli.shards.launch import cores_of, launched
from attnvis.cli.shards.process import ShardJob
from attnvis.cli.stopping import check_stop

if TYPE_CHECKING:
    from omegaconf import DictConfig

    from attnvis.pipeline.plan import RunPlan
    from attnvis.pipeline.shards.merge import ShardTracker, Totals
    from attnvis.pipeline.shards.plan import ShardPlan

__all__ = ["run_in_shards"]


@dataclass(frozen=True, eq=False)
class ShardedRun:
    """A run in shards whose folder has a plan."""

    folder: Path
    plan: "ShardPlan"
    run: "RunPlan"
    tracker: "ShardTracker"
    resume: str  # what to type to go on

    def merge(self) -> "Totals":
        """Of the parts that there are.  Raises OSError."""
        from attnvis.pipeline.shards.merge import merge_parts

        return merge_parts(self.folder, self.plan, self.run, self.tracker)


def run_in_shards(cfg: "DictConfig", folder: Path, launcher: str, command: Command) -> int:
    """Plans, has every shard done that has no part yet, merges.  Gives 1 where a photo or a shard failed."""
    from attnvis.files import locked
    from attnvis.pipeline.resume import require_own_files
    from attnvis.pipeline.shards.folder import FILES, FOLDERS, part_folders
    from attnvis.pipeline.shards.plan import ShardPlan

    check_logger(plain(cfg.logger), cfg.name)
    check_settings(cfg)
    folder = folder.absolute()
    with locked(folder):
        require_own_files(folder, files=FILES, folders=FOLDERS)
        part_folders(folder)  # none may be a link
        run, tracker = begin(cfg, folder)
        with tracker:
            sharded = ShardedRun(folder, ShardPlan(folder), run, tracker, resume_words(command, folder))
            do_missing(sharded, cfg, launcher)
            return conclude(sharded)


def do_missing(sharded: ShardedRun, cfg: "DictConfig", launcher: str) -> None:
    """Every shard without a part; where it is stopped, what there is is merged."""
    from attnvis.pipeline.shards.launch_slurm import cancel_earlier, forget_arrays
    from attnvis.pipeline.shards.part import forget_failure, is_done
    from attnvis.pipeline.shards.progress import Board, begin_session

    folder, plan = sharded.folder, sharded.plan
    cancel_earlier(folder)
    missing = [shard for shard in plan if not is_done(folder, shard)]
    for shard in missing:
        forget_failure(folder, shard)
    job = ShardJob(
        folder=folder,
        cwd=Path.cwd(),
        config=plain(cfg),
        provenance=sharded.run.provenance,
        span=plan.span,
        shards=len(plan),
        cores=cores_of(cfg, launcher),
        inputs=sharded.run.inputs,
        resume=sharded.resume,
    )
    board = Board(folder)
    begin_session(folder, launcher, board.read().photos_seen)
    display = Display(board, sharded.tracker)
    try:
        for ended in launched(launcher, job, [shard.number for shard in missing], cfg, plan):
            check_stop()
            if ended is not None and ended.reason:
                display.say(f"shard {ended.shard} failed: {ended.reason}")
            display.show()
    except BaseException:
        with contextlib.suppress(OSError):  # a full disk has been reported already
            sharded.merge()
        raise
    forget_arrays(folder)
    display.show(last=True)


def conclude(sharded: ShardedRun) -> int:
    """The merge, and the last words; gives the exit code."""
    from attnvis.pipeline.shards.folder import remove_leftovers
    from attnvis.pipeline.shards.merge import named_failures

    folder, totals = sharded.folder, sharded.merge()
    print_photo_notes(totals.notes)
    complain(named_failures(totals.failures, sharded.tracker.sample))
    if totals.failed:
        records = short_path(folder / "records")
        note(f"{totals.done:,} done, {totals.failed:,} failed; reasons are in {records}")
    lacking = totals.shards - totals.parts
    if lacking:
        note(f"{lacking:,} of {totals.shards:,} shards have no part; go on with {sharded.resume}")
    else:
        remove_leftovers(folder)
    print(f"{totals.done:,} photo{'s' * (totals.done != 1)} done: {short_path(folder / 'index.html')}")
    return 1 if totals.failed or lacking else 0

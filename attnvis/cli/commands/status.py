"""`attnvis status FOLDER`: how far a run in shards is, read from its files by any machine, at any time."""

from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING

from attnvis.cli.commands.command import Command
from attnvis.cli.messages import visible

if TYPE_CHECKING:
    from omegaconf import DictConfig

    from attnvis.pipeline.shards.progress import Progress, Session

__all__ = ["COMMAND", "status"]

MOST = 8  # lines of running shards, of failed shards, of kinds of failures
QUIET = 60.0  # seconds without a file that are worth a line


def status(cfg: "DictConfig", folder: Path) -> int:
    """Shards done, running, failed and left.  Gives 1 where one failed.

    Raises ValueError where the folder is none of a run in shards.
    """
    from attnvis.pipeline.shards.progress import Board, read_session

    place = Path(str(cfg.folder))
    try:
        progress = Board(place).read()
    except FileNotFoundError:
        raise ValueError(
            f"{place} is no folder of a run in shards: it has no shards.parquet; "
            "give one that attnvis run PHOTOS launcher=local, slurm or ray made"
        ) from None
    for line in lines(place, progress, read_session(place)):
        print(visible(line))
    return 1 if progress.failed else 0


def lines(place: Path, progress: "Progress", session: "Session") -> list[str]:
    """What is printed."""
    more = " and what is in archives that are not opened yet" if progress.uncounted else ""
    size = f"{progress.photos:,} photos{more} in {progress.shards:,} shards"
    by = f", launcher {session.launcher}, command on {session.host}" if session.launcher else ""
    photos = f"{progress.photos_done:,} photos done, {progress.photos_failed:,} failed"
    running = [
        f"    {shard.shard}: {shard.done:,} of {shard.photos:,} photos, {shard.host} process {shard.process}"
        for shard in progress.running
    ]
    failed = [f"    {number}: {reason}" for number, reason in progress.failed.items()]
    text = [
        f"{place}: {size}{by}",
        f"  done     {progress.shards_done:7,} shards   {photos}",
        f"  running  {len(progress.running):7,} shards",
        *shortened(running),
        f"  failed   {len(progress.failed):7,} shards",
        *shortened(failed),
        f"  left     {progress.shards_left:7,} shards",
    ]
    if progress.lost:
        since = "who did them has not been heard of for 2 minutes"
        text.append(f"  lost     {len(progress.lost):7,} shards   {since}")
    if progress.failures:
        text.append("  failures of photos, by kind")
        text += shortened([f"    {count:,} {kind}" for kind, count in progress.failures.items()])
    if progress.shards_done < progress.shards:
        text.append(pace(progress))
    return text


def pace(progress: "Progress") -> str:
    """Photos a second and the time left; or since when nothing has happened."""
    if progress.silent > QUIET:
        return f"  nothing has been written for {timedelta(seconds=round(progress.silent))}"
    if progress.rate > 0 and progress.uncounted:
        return f"  {progress.rate:,.3g} photos a second"
    if progress.seconds_left is None:
        return "  too early to say how fast it is"
    return f"  {progress.rate:,.3g} photos a second, {timedelta(seconds=round(progress.seconds_left))} left"


def shortened(text: list[str]) -> list[str]:
    rest = len(text) - MOST
    return [*text[:MOST], f"    and {rest:,} more"] if rest > 0 else text


COMMAND = Command(
    "status",
    status,
    argument="FOLDER",
    key="folder",
    single="one folder",
    kept="it changes nothing",
)

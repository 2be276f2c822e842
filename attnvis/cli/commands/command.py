"""What the door knows of a command: a value at the end of each command's file; registry.py lists them."""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

__all__ = ["IN_SHARDS", "Command", "Comparison"]

IN_SHARDS = ("local", "ray")  # launchers of shards alone; slurm does both


@dataclass(frozen=True)
class Comparison:
    """What a command makes of all of its jobs together, once they have ended."""

    compare: Callable[[Path], int]  # the folder of all jobs -> exit code
    # a job's folder, why it failed, and that in words, which `compare` says
    record_failure: Callable[[Path, Exception, str], None]
    lost_jobs: Callable[[Path], set[int]]  # the folder -> the numbers of the jobs of which nothing came back
    waiting_jobs: Callable[[Path], set[int]]  # those among them that were never started
    # the folder and the jobs' settings `images` -> what plan.json says of their photos
    photos: Callable[[Path, Iterable[Any]], Mapping[str, Any]]
    check: Callable[[Mapping[str, Any]], None]  # a job's settings; ValueError: they do not go together


@dataclass(frozen=True)
class Command:
    """One verb of the command line.

    name           as it is typed; its settings and its sentence are those of configs/<name>.yaml
    run            a composed config (DictConfig) and the folder of the job -> exit code
    argument       what bare words are, for the help line; empty: it has no use for them
    key            the setting that bare words go to
    single         what the bare word is where there may be only one; empty: a list of them
    record         the file by which `--resume FOLDER` knows a folder of this command; empty: it cannot go on
    resuming       what `--resume` adds to the words with which the command was started
    changeable     settings that may be typed anew behind `--resume FOLDER`: no measured number hangs on them
    takes_query    whether a question without a scaling gets one that suits it
    axes           group -> the setting that lists its options: all of them are measured in one job
    kept           of one without a record: what a stop leaves, as the end of the line that says so
    in_shards      whether launcher=local and launcher=ray mean something to it
    comparison     of a command whose jobs are one whole: a comma makes several, failures are told at the end
    """

    name: str
    run: Callable[[Any, Path], int]
    argument: str = ""
    key: str = "images"
    single: str = ""
    record: str = ""
    resuming: tuple[str, ...] = ()
    changeable: tuple[str, ...] = ()
    takes_query: bool = False
    axes: Mapping[str, str] = field(default_factory=dict)
    kept: str = ""
    in_shards: bool = False
    comparison: Comparison | None = None

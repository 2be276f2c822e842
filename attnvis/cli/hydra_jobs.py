"""A command and its overrides in, jobs under Hydra out.

Of a command that compares: all jobs, those that were lost a second time, then the comparison.
"""

import json
import os
import shlex
import sys
import threading
import time
from collections.abc import Callable, Container, Iterable, Mapping
from contextlib import nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from attnvis import catalogue
from attnvis.cli.commands.command import Command, Comparison
from attnvis.cli.commands.common import command_line
from attnvis.cli.config import plain, require
from attnvis.cli.messages import (
    explain_hydra_error,
    fail,
    format_error,
    note,
    seen_from_here,
    visible,
)
from attnvis.cli.stopping import check_stop
from attnvis.cli.words import quoted
from attnvis.files import Held, Lock, is_full, locked, save

if TYPE_CHECKING:
    from omegaconf import DictConfig

__all__ = ["Plan", "kept_words", "launch"]


def launch(command: Command, overrides: list[str]) -> int:
    """Runs the command under Hydra; gives the exit code.

    A mistake of the user's becomes one line (SystemExit) and does not end the other jobs; with
    HYDRA_FULL_ERROR set it is raised.
    """
    from hydra.errors import HydraException
    from omegaconf.errors import OmegaConfBaseException

    STARTED.clear()
    PLANNED.clear()
    debugging = bool(os.environ.get("HYDRA_FULL_ERROR"))
    os.environ["HYDRA_FULL_ERROR"] = "1"  # or Hydra prints every exception itself, with a traceback
    try:
        if command.comparison:
            return run_and_compare(command, command.comparison, overrides, debugging)
        return run_jobs(command, overrides, debugging)
    except RecursionError:
        if debugging:
            raise
        fail("the settings are nested deeper than can be read; give them flatter")
    except (HydraException, OmegaConfBaseException) as error:
        check_stop()
        if debugging:
            raise
        fail(explain_hydra_error(error, command.name))
    except (ValueError, OSError) as error:
        check_stop()
        if debugging or isinstance(error, BrokenPipeError):
            raise
        fail(format_error(error))
    finally:
        if not debugging:
            del os.environ["HYDRA_FULL_ERROR"]


def run_jobs(
    command: Command, overrides: list[str], debugging: bool, only: Container[int] | None = None
) -> int:
    """All jobs, or those with the numbers `only`; gives the worst exit code.

    Raises what Hydra or a launcher raises.
    """
    import hydra

    job = Task(command, debugging, only)
    sys.argv = [f"attnvis {command.name}", *overrides]
    hydra.main(version_base="1.3", config_path=str(catalogue.config_folder()), config_name=command.name)(
        job
    )()
    return max(job.statuses, default=0)


@dataclass
class Task:
    """One job, as Hydra calls it: here, or in a process that a launcher started."""

    command: Command
    debugging: bool
    only: Container[int] | None = None  # the numbers of the jobs to do; None: all
    statuses: list[int] = field(default_factory=list)

    def __call__(self, cfg: "DictConfig") -> int:
        """The job's exit code.  An error ends this job only, but for those that nobody foresaw."""
        from hydra.core.hydra_config import HydraConfig

        if self.only is not None and HydraConfig.get().job.num not in self.only:
            return 0
        folder = Path(HydraConfig.get().runtime.output_dir)
        STARTED[:] = [folder]
        comparison = self.command.comparison
        end_with_parent()
        try:
            with held(folder) if comparison else nullcontext():
                status = self.run(cfg, folder)
        except BrokenPipeError:
            raise
        except (Held, OSError) as error:  # somebody else's folder, in which nothing is touched, or none
            note(visible(format_error(error, resume_words(self.command, folder))))
            status = 1
        self.statuses.append(status)
        return status

    def run(self, cfg: "DictConfig", folder: Path) -> int:
        """The job in its folder, which it holds."""
        comparison = self.command.comparison
        try:
            require(cfg, self.command.name)
            return self.command.run(cfg, folder)
        except (BrokenPipeError, Held):
            raise
        except Exception as error:
            check_stop()
            foreseen = isinstance(error, ValueError | OSError)
            if self.debugging or not (comparison or foreseen):
                raise
            reason = format_error(error, resume_words(self.command, folder))
            if comparison:
                comparison.record_failure(folder, reason)
            else:
                note(visible(reason))
            return 1


def resume_words(command: Command, folder: Path) -> str:
    """What to type to go on with what a folder holds; "" where nothing can.

    The jobs of a sweep go on together.
    """
    if folder.name.isdigit() and (folder.parent / command.record).is_file() and command.comparison:
        folder = folder.parent
    if not command.record or not (folder / command.record).is_file():
        return ""
    return shlex.join(["attnvis", command.name, "--resume", str(seen_from_here(folder))])


def kept_words(command: Command) -> str:
    """What is true of a command's work after it was stopped, as the end of a line."""
    if not command.record:
        return command.kept
    for folder in [*STARTED, *PLANNED]:
        if again := resume_words(command, folder):
            return f"; what was done is kept, go on with {again}"
    return "; nothing was done yet"


def held(folder: Path) -> Lock | nullcontext:
    """A job's folder for this process alone; a single job's is held by its sweep already.

    Raises Held where another process writes into it.
    """
    return nullcontext() if folder.absolute() in HELD else locked(folder)


def end_with_parent() -> None:
    """A worker that the process of the command line started ends with it, even where that was killed.

    Else it would go on writing into a folder that somebody goes on with.  Slurm's jobs have other parents.
    """
    parent = os.getppid()
    if os.environ.get("ATTNVIS_PROCESS") != str(parent) or WATCHED:
        return
    WATCHED.append(parent)

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(0.5)
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


# ---------------------------------------------------------------------------------- jobs that are compared


def run_and_compare(command: Command, comparison: Comparison, overrides: list[str], debugging: bool) -> int:
    """All jobs, then what is made of them; gives the exit code.

    What a launcher loses with a killed process is tried a second time.
    """
    # joblib's helper mourns the semaphores of killed workers
    os.environ.setdefault("PYTHONWARNINGS", "ignore:resource_tracker")
    PHOTOS[:] = [comparison.photos]
    try:
        return compare_jobs(command, comparison, overrides, debugging)
    finally:
        while HELD:
            HELD.popitem()[1].close()


def compare_jobs(command: Command, comparison: Comparison, overrides: list[str], debugging: bool) -> int:
    """The same; the folders that it holds are let go by its caller."""
    error = attempt(command, overrides, debugging)
    if not PLANNED:
        return 1
    (folder,) = PLANNED
    if error and not is_full(error) and comparison.lost_jobs(folder):
        note("the jobs that were lost are tried once more")
        overrides = [word for word in overrides if not word.startswith("hydra.sweep.dir=")]
        overrides.append(f"hydra.sweep.dir={quoted(str(folder))}")
        retry(command, comparison, overrides, debugging, error)
    try:
        return comparison.compare(folder)
    except OSError as error:
        if debugging or isinstance(error, BrokenPipeError):
            raise
        fail(format_error(error, resume_words(command, folder)))


def retry(
    command: Command, comparison: Comparison, overrides: list[str], debugging: bool, error: Exception
) -> None:
    """The lost jobs once more, in the folder that `overrides` name; `error`: what ended the launcher."""
    from concurrent.futures import BrokenExecutor

    (folder,) = PLANNED
    if not isinstance(error, BrokenExecutor):
        attempt(command, overrides, debugging, only=comparison.lost_jobs(folder))
        return
    # A killed process took its neighbours along, and nobody knows which job it was: first those never begun.
    while waiting := comparison.waiting_jobs(folder):
        attempt(command, overrides, debugging, only=waiting)
        if comparison.waiting_jobs(folder) == waiting:
            break  # no process of this launcher lives long enough
    for number in sorted(comparison.lost_jobs(folder)):
        attempt(command, overrides, debugging, only={number})


def attempt(
    command: Command, overrides: list[str], debugging: bool, only: Container[int] | None = None
) -> Exception | None:
    """The jobs, or `only` some of them; gives what went wrong with the launcher rather than with a job.

    Raises HydraException or OmegaConfBaseException where no job could be made of the overrides.
    """
    from hydra.errors import HydraException
    from omegaconf.errors import OmegaConfBaseException

    try:
        run_jobs(command, overrides, debugging, only=only)
    except (HydraException, OmegaConfBaseException):
        raise  # nothing was started
    except Exception as error:
        check_stop()
        if debugging:
            raise
        if is_full(error):
            note(visible(format_error(error, *[resume_words(command, folder) for folder in PLANNED])))
        elif only is None:
            text, _, _ = str(error).partition("Error stream")  # what follows is submitit's copy of a log
            note(" ".join(text.split()) or type(error).__name__)
        return error
    return None


STARTED: list[Path] = []  # the folder of the job that began last in this process
PLANNED: list[Path] = []  # the folder of the sweep that this process started
PHOTOS: list[Callable[[Path, Iterable[Any]], Mapping[str, Any]]] = []  # of the command that runs
WATCHED: list[int] = []  # the parent with which this process ends
HELD: dict[Path, Lock] = {}  # the folders that this process holds, for all the jobs that it starts


class Plan:
    """A Hydra callback that writes plan.json before the first job: those that never end are known too."""

    def on_run_start(self, config: "DictConfig", **_: Any) -> None:
        """Before a single job."""
        self.write(config, Path(config.hydra.run.dir), jobs=[""], images=[plain(config.images)], many=False)

    def on_multirun_start(self, config: "DictConfig", **_: Any) -> None:
        """Before several: each is called by the overrides in which it differs from the others."""
        from hydra._internal.core_plugins.basic_sweeper import BasicSweeper
        from hydra.core.override_parser.overrides_parser import OverridesParser

        params = [f"{key}={value}" for key, value in (config.hydra.sweeper.params or {}).items()]
        parsed = OverridesParser.create().parse_overrides([*params, *config.hydra.overrides.task])
        jobs = BasicSweeper.split_arguments(parsed, None)[0]
        shared = set.intersection(*map(set, jobs)) if len(jobs) > 1 else set()
        names = [", ".join(word for word in job if word not in shared) for job in jobs]
        images = [images_of(job, plain(config.images)) for job in jobs]
        self.write(config, Path(config.hydra.sweep.dir), jobs=names, images=images, many=True)

    def write(
        self, config: "DictConfig", folder: Path, jobs: list[str], images: list[Any], many: bool
    ) -> None:
        """plan.json: the command, the jobs, whether each has its own folder, the logger's settings, photos.

        images: of every job.  The jobs of a second try are those of the first, on the same photos.
        """
        PLANNED[:] = [folder]
        try:
            if folder.absolute() in HELD:
                return
            HELD[folder.absolute()] = locked(folder)
            plan = {"command": command_line(), "jobs": jobs, "many": many, "logger": plain(config.logger)}
            plan["photos"] = PHOTOS[0](folder, images) if PHOTOS else {}
            save(folder, "plan.json", json.dumps(plan, indent=1).encode())
        except (OSError, ValueError) as error:
            place = "hydra.sweep.dir" if many else "hydra.run.dir"
            # of other errors in a callback Hydra only warns, and goes on
            fail(format_error(error, place=place))

    def __getattr__(self, name: str) -> Any:
        """Hydra calls every callback for every event.  Raises AttributeError for what is no event."""
        if name.startswith("on_"):
            return lambda *_, **__: None
        raise AttributeError(name)


def images_of(job: list[str], usual: Any) -> Any:
    """The photos that a job's overrides name; `usual` where they name none."""
    from hydra.core.override_parser.overrides_parser import OverridesParser

    for override in OverridesParser.create().parse_overrides(job):
        if override.key_or_group == "images":
            usual = override.value()
    return usual

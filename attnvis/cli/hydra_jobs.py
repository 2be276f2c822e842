"""A command and its overrides in, jobs under Hydra out.

Of a command that compares: all jobs, those that were lost a second time, then the comparison.
"""

import os
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
from attnvis.cli.messages import explain_hydra_error, fail, format_error, note, visible
from attnvis.cli.words import quoted
from attnvis.files import Held, Lock, locked

if TYPE_CHECKING:
    from omegaconf import DictConfig

__all__ = ["Hold", "Plan", "launch"]

HYDRAS = tuple(f".hydra/{name}.yaml" for name in ("config", "hydra", "overrides"))  # that Hydra writes


def launch(command: Command, overrides: list[str]) -> int:
    """Runs the command under Hydra; gives the exit code.

    A mistake of the user's becomes one line (SystemExit) and does not end the other jobs; with
    HYDRA_FULL_ERROR set it is raised.
    """
    from hydra.errors import HydraException
    from omegaconf.errors import OmegaConfBaseException

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
        if debugging:
            raise
        fail(explain_hydra_error(error, command.name))
    except (ValueError, OSError) as error:
        if debugging or isinstance(error, BrokenPipeError):
            raise
        fail(format_error(error))
    finally:
        while HELD:
            HELD.popitem()[1].close()
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
        comparison = self.command.comparison
        end_with_parent()
        if not comparison and (lock := HELD.pop(folder.absolute(), None)):
            lock.close()  # the command takes it itself, before its first file
        try:
            with held(folder) if comparison else nullcontext():
                status = self.run(cfg, folder)
        except Held as error:
            note(visible(format_error(error)))  # the folder is somebody else's: nothing in it is touched
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
            foreseen = isinstance(error, ValueError | OSError)
            if self.debugging or not (comparison or foreseen):
                raise
            if comparison:
                comparison.record_failure(folder, format_error(error))
            else:
                note(visible(format_error(error)))
            return 1


def held(folder: Path) -> Lock | nullcontext:
    """A job's folder for this process alone; a single job's is held by its sweep already.

    Raises Held where another process writes into it.
    """
    return nullcontext() if folder.absolute() in HELD else locked(folder)


def end_with_parent() -> None:
    """A worker that the process of the command line started ends with it, even where that was killed.

    Else it would go on writing into a folder that somebody goes on with.  Slurm's jobs have other parents.
    """
    parent, begun_by = os.getppid(), os.environ.get("ATTNVIS_PROCESS", "")
    if is_orphan(begun_by):
        os._exit(1)  # it was killed while this worker started
    if begun_by != str(parent) or WATCHED:
        return
    WATCHED.append(parent)

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(0.5)
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


def is_orphan(begun_by: str) -> bool:
    """Whether the process of the command line, which had this number, has ended.  Slurm's jobs outlive it."""
    if not begun_by or any(name.startswith(("SLURM_", "SUBMITIT_")) for name in os.environ):
        return False
    try:
        os.kill(int(begun_by), 0)
    except ProcessLookupError:
        return True
    except (ValueError, OSError):
        return False
    return False


# ---------------------------------------------------------------------------------- jobs that are compared


def run_and_compare(command: Command, comparison: Comparison, overrides: list[str], debugging: bool) -> int:
    """All jobs, then what is made of them; gives the exit code.

    What a launcher loses with a killed process is tried a second time.
    """
    # joblib's helper mourns the semaphores of killed workers
    os.environ.setdefault("PYTHONWARNINGS", "ignore:resource_tracker")
    PLANNED.clear()
    PHOTOS[:] = [comparison.photos]
    error = attempt(command, overrides, debugging)
    if not PLANNED:
        return 1
    (folder,) = PLANNED
    if error and comparison.lost_jobs(folder):
        note("the jobs that were lost are tried once more")
        overrides = [word for word in overrides if not word.startswith("hydra.sweep.dir=")]
        overrides.append(f"hydra.sweep.dir={quoted(str(folder))}")
        retry(command, comparison, overrides, debugging, error)
    return comparison.compare(folder)


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
        if debugging:
            raise
        if only is None:
            text, _, _ = str(error).partition("Error stream")  # what follows is submitit's copy of a log
            note(" ".join(text.split()) or type(error).__name__)
        return error
    return None


PLANNED: list[Path] = []  # the folder of the sweep that this process started
PHOTOS: list[Callable[[Path, Iterable[Any]], Mapping[str, Any]]] = []  # of the command that runs
WATCHED: list[int] = []  # the parent with which this process ends
HELD: dict[Path, Lock] = {}  # the folders that this process holds, for all the jobs that it starts


class Hold:
    """A Hydra callback that holds a command's folder before Hydra writes its own files into it."""

    def on_run_start(self, config: "DictConfig", **_: Any) -> None:
        """Before a single job, which takes the folder over."""
        hold(Path(config.hydra.run.dir))

    def on_multirun_start(self, config: "DictConfig", **_: Any) -> None:
        """Before several: each holds its own folder."""
        hold(Path(config.hydra.sweep.dir), jobs=len(jobs_of(config)))

    def __getattr__(self, name: str) -> Any:
        """Hydra calls every callback for every event.  Raises AttributeError for what is no event."""
        if name.startswith("on_"):
            return lambda *_, **__: None
        raise AttributeError(name)


def hold(folder: Path, jobs: int = 0) -> None:
    """Holds a folder, and has a look at what Hydra will write to, there and in the folders of its jobs.

    Ends the process where another one holds it, or something stands there that would lead elsewhere:
    of errors in a callback Hydra only warns, and goes on.
    """
    from attnvis.pipeline.resume import require_own_files

    try:
        HELD[folder.absolute()] = locked(folder)
        own_folders = [".hydra", ".submitit", *map(str, range(jobs))]
        require_own_files(folder, files=[*HYDRAS, "multirun.yaml"], folders=own_folders)
        for number in range(jobs):
            require_own_files(folder / str(number), files=HYDRAS, folders=[".hydra"])
    except (OSError, ValueError) as error:
        fail(format_error(error))


def jobs_of(config: "DictConfig") -> list[list[str]]:
    """The overrides of each job of several."""
    from hydra._internal.core_plugins.basic_sweeper import BasicSweeper
    from hydra.core.override_parser.overrides_parser import OverridesParser

    params = [f"{key}={value}" for key, value in (config.hydra.sweeper.params or {}).items()]
    parsed = OverridesParser.create().parse_overrides([*params, *config.hydra.overrides.task])
    return [list(job) for job in BasicSweeper.split_arguments(parsed, None)[0]]


class Plan(Hold):
    """A Hydra callback that writes plan.json before the first job: those that never end are known too."""

    def on_run_start(self, config: "DictConfig", **_: Any) -> None:
        """Before a single job."""
        self.write(config, Path(config.hydra.run.dir), jobs=[""], images=[plain(config.images)], many=False)

    def on_multirun_start(self, config: "DictConfig", **_: Any) -> None:
        """Before several: each is called by the overrides in which it differs from the others."""
        jobs = jobs_of(config)
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
        from attnvis.pipeline.resume import write_json

        PLANNED[:] = [folder]
        if folder.absolute() in HELD:
            return
        hold(folder, jobs=len(jobs) if many else 0)
        try:
            plan = {"command": command_line(), "jobs": jobs, "many": many, "logger": plain(config.logger)}
            plan["photos"] = PHOTOS[0](folder, images) if PHOTOS else {}
            write_json(folder, "plan.json", plan)
        except (OSError, ValueError) as error:
            fail(format_error(error))


def images_of(job: list[str], usual: Any) -> Any:
    """The photos that a job's overrides name; `usual` where they name none."""
    from hydra.core.override_parser.overrides_parser import OverridesParser

    for override in OverridesParser.create().parse_overrides(job):
        if override.key_or_group == "images":
            usual = override.value()
    return usual

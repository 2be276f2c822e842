"""A command and its overrides in, jobs under Hydra out.

Of a command that compares: all jobs, those that were lost a second time, then the comparison.
"""

import argparse
import os
import shlex
import sys
import threading
import time
from collections.abc import Callable, Container, Iterable, Iterator, Mapping
from contextlib import contextmanager, nullcontext, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from attnvis import catalogue
from attnvis.cli.commands.command import Command, Comparison
from attnvis.cli.commands.common import check_logger, command_line
from attnvis.cli.config import plain, require
from attnvis.cli.messages import (
    explain_hydra_error,
    fail,
    format_error,
    note,
    seen_from_here,
    visible,
)
from attnvis.cli.quoting import quoted
from attnvis.cli.stopping import check_stop
from attnvis.files import Held, Lock, is_full, locked

if TYPE_CHECKING:
    from omegaconf import DictConfig

__all__ = ["Hold", "Plan", "kept_words", "launch"]

HYDRAS = tuple(f".hydra/{name}.yaml" for name in ("config", "hydra", "overrides"))  # that Hydra writes


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
    run = hydra.main(version_base="1.3", config_path=str(catalogue.config_folder()), config_name=command.name)
    with help_made_when_shown():
        run(job)()
    return max(job.statuses, default=0)


@contextmanager
def help_made_when_shown() -> Iterator[None]:
    """Inside the block argparse takes Hydra 1.3's help, which becomes a text only when it is shown.

    From Python 3.14 on, argparse reads every help at once and calls that one a "badly formed help string".
    """
    check = getattr(argparse.ArgumentParser, "_check_help", None)
    if check is None:  # Python 3.13 and older
        yield
        return

    def check_texts(parser: argparse.ArgumentParser, action: argparse.Action) -> None:
        if isinstance(action.help, str):
            check(parser, action)

    setattr(argparse.ArgumentParser, "_check_help", check_texts)  # noqa: B010 - mypy knows no such method
    try:
        yield
    finally:
        setattr(argparse.ArgumentParser, "_check_help", check)  # noqa: B010


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
        folder = output_folder(HydraConfig.get())
        STARTED[:] = [folder]
        comparison = self.command.comparison
        end_with_parent()
        if not comparison and (lock := HELD.pop(folder.absolute(), None)):
            lock.close()  # the command takes it itself, before its first file
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
                comparison.record_failure(folder, error, reason)
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
        return f"; {command.kept}" if command.kept else ""
    for folder in [*STARTED, *PLANNED]:
        if again := resume_words(command, folder):
            return f"; what was done is kept, go on with {again}"
    return "; nothing was done yet"


def output_folder(settings: Any) -> Path:
    """Where a job's files go.  Hydra has filled in what varies: a ${...} that is left is part of a name."""
    from omegaconf import OmegaConf

    runtime = OmegaConf.to_container(settings.runtime, resolve=False)
    assert isinstance(runtime, dict)
    return Path(str(runtime["output_dir"]))


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
    PHOTOS[:] = [comparison.photos]
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
    from omegaconf import OmegaConf

    params = [f"{key}={value}" for key, value in (config.hydra.sweeper.params or {}).items()]
    typed = OmegaConf.to_container(config.hydra.overrides.task, resolve=False)  # a name may hold ${...}
    assert isinstance(typed, list)
    parsed = OverridesParser.create().parse_overrides([*params, *map(str, typed)])
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
        from attnvis.json_files import write_json

        PLANNED[:] = [folder]
        if folder.absolute() in HELD:
            return
        hold(folder, jobs=len(jobs) if many else 0)
        try:
            plan = {"command": command_line(), "jobs": jobs, "many": many}
            plan["logger"] = self.logger(config, folder)
            plan["photos"] = PHOTOS[0](folder, images) if PHOTOS else {}
            write_json(folder, "plan.json", plan)
        except (OSError, ValueError) as error:
            place = "hydra.sweep.dir" if many else "hydra.run.dir"
            # of other errors in a callback Hydra only warns, and goes on
            fail(format_error(error, place=place))

    def logger(self, config: "DictConfig", folder: Path) -> dict[str, Any]:
        """What plan.json says of W&B; what was made fit for it is said once, for all jobs.

        Raises ValueError for what W&B would refuse.
        """
        from attnvis.json_files import read_json
        from attnvis.pipeline.logger import logger_plan

        settings = check_logger(plain(config.logger), config.name)
        for remark in settings.remarks if settings.mode != "disabled" else ():
            note(visible(remark))
        begun: Any = {}
        with suppress(ValueError, OSError):
            begun = read_json(folder / "plan.json").get("logger")
        return logger_plan(settings, begun if isinstance(begun, dict) else {})

    def __getattr__(self, name: str) -> Any:
        """Hydra calls every callback for every event.  Raises AttributeError for what is no event."""
        if name.startswith("on_"):
            return lambda *_, **__: None
        raise AttributeError(name)


def images_of(job: list[str], usual: Any) -> Any:
    """The photos that a job's overrides name; `usual` where they name none."""
    from hydra.core.override_parser.overrides_parser import OverridesParser
    from omegaconf import OmegaConf

    for override in OverridesParser.create().parse_overrides(job):
        if override.key_or_group == "images":
            usual = plain(OmegaConf.create({"images": override.value()}))["images"]
    return usual

"""A command and its overrides in, jobs under Hydra out.

Of a command that compares: all jobs, those that were lost a second time, then the comparison.
"""

import argparse
import os
import re
import sys
from collections.abc import Container, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from attnvis import catalogue
from attnvis.cli.callbacks import CHECKS, HELD, MADE, PHOTOS, PLANNED, held, remove_unused
from attnvis.cli.commands.command import Command, Comparison
from attnvis.cli.config import require
from attnvis.cli.early_libraries import begin_opening
from attnvis.cli.messages import (
    explain_hydra_error,
    fail,
    format_error,
    note,
)
from attnvis.cli.orphans import end_with_parent
from attnvis.cli.quoting import quoted
from attnvis.cli.resuming import resume_words
from attnvis.cli.stopping import check_stop
from attnvis.cli.words import name_of
from attnvis.files import Held, is_full

if TYPE_CHECKING:
    from omegaconf import DictConfig

__all__ = ["kept_words", "launch"]

PRINTING = {  # flags of Hydra's with which no command runs
    *("--cfg", "-c", "--info", "-i", "--shell-completion", "-sc", "--hydra-help"),
}

STARTED: list[Path] = []  # the folder of the job that began last in this process


def launch(command: Command, overrides: list[str]) -> int:
    """Runs the command under Hydra; gives the exit code.

    A mistake of the user's becomes one line (SystemExit) and does not end the other jobs; with
    HYDRA_FULL_ERROR set it is raised.
    """
    if not any(name_of(word) in PRINTING for word in overrides):
        begin_opening()
    from hydra.errors import HydraException
    from omegaconf.errors import OmegaConfBaseException

    STARTED.clear()
    PLANNED.clear()
    MADE.clear()
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
        remove_unused()
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
    with help_made_when_shown(), composed_once(overrides):
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


@contextmanager
def composed_once(overrides: Sequence[str]) -> Iterator[None]:
    """Inside the block Hydra 1.3 composes a command's config once.

    It would compose it a first time to see whether the config itself asks for several jobs (hydra.mode).  Of
    ours only experiments do: it is let where the words name one, say so themselves, or name other configs.
    """
    from hydra._internal.hydra import Hydra

    if any(
        word.startswith("-") or re.match(r"\+*(experiment\b|hydra(=|\.mode\b))", word) for word in overrides
    ):
        yield
        return
    get_mode = Hydra.get_mode
    setattr(Hydra, "get_mode", lambda *_, **__: None)  # noqa: B010 - mypy would not have a method assigned
    try:
        yield
    finally:
        setattr(Hydra, "get_mode", get_mode)  # noqa: B010


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
            note(format_error(error, resume_words(self.command, folder)))
            status = 1
        self.statuses.append(status)
        return status

    def run(self, cfg: "DictConfig", folder: Path) -> int:
        """The job in its folder, which it holds."""
        comparison = self.command.comparison
        try:
            require(cfg, self.command.name, key=self.command.key, argument=self.command.argument)
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
                note(reason)
            return 1


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


# ---------------------------------------------------------------------------------- jobs that are compared


def run_and_compare(command: Command, comparison: Comparison, overrides: list[str], debugging: bool) -> int:
    """All jobs, then what is made of them; gives the exit code.

    What a launcher loses with a killed process is tried a second time.
    """
    # joblib's helper mourns the semaphores of killed workers
    os.environ.setdefault("PYTHONWARNINGS", "ignore:resource_tracker")
    PHOTOS[:] = [comparison.photos]
    CHECKS[:] = [comparison.check]
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
            note(format_error(error, *[resume_words(command, folder) for folder in PLANNED]))
        elif only is None:
            text, _, _ = str(error).partition("Error stream")  # what follows is submitit's copy of a log
            note(" ".join(text.split()) or type(error).__name__)
        return error
    return None

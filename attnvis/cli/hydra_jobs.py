"""A verb and overrides in, jobs under Hydra out; of a sweep all jobs, those that were lost a second time, then the comparison."""

import json
import os
import sys
from collections.abc import Container
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from attnvis import catalogue
from attnvis.cli.commands import sweep
from attnvis.cli.commands.common import command
from attnvis.cli.commands.registry import VERBS
from attnvis.cli.config import plain, require
from attnvis.cli.messages import explain_hydra_error, fail, format_error, visible
from attnvis.cli.words import quoted

if TYPE_CHECKING:
    from omegaconf import DictConfig

__all__ = ["launch"]


def launch(verb: str, overrides: list[str]) -> int:
    """Hand over to Hydra; a mistake of the user's becomes one line, and does not end the other jobs.  Gives the exit code."""
    from hydra.errors import HydraException
    from omegaconf.errors import OmegaConfBaseException

    debugging = os.environ.get("HYDRA_FULL_ERROR")
    os.environ["HYDRA_FULL_ERROR"] = "1"  # or Hydra prints every exception itself, with a traceback
    try:
        return (
            compared(overrides, bool(debugging))
            if verb == "sweep"
            else hand_over(verb, overrides, bool(debugging))
        )
    except RecursionError:
        if debugging:
            raise
        fail("the settings are nested deeper than can be read; give them flatter")
    except (HydraException, OmegaConfBaseException, ValueError, OSError) as error:
        if debugging or isinstance(error, BrokenPipeError):
            raise
        fail(
            explain_hydra_error(error, verb)
            if isinstance(error, HydraException | OmegaConfBaseException)
            else format_error(error)
        )
    finally:
        if not debugging:
            del os.environ["HYDRA_FULL_ERROR"]


def hand_over(verb: str, overrides: list[str], debugging: bool, only: Container[int] | None = None) -> int:
    import hydra

    job = Task(verb, debugging, only)
    sys.argv = [f"attnvis {verb}", *overrides]
    hydra.main(version_base="1.3", config_path=str(catalogue.config_folder()), config_name=verb)(job)()
    return max(job.statuses, default=0)


@dataclass
class Task:
    """One job, as Hydra calls it: here, or in a process that a launcher started."""

    verb: str
    debugging: bool
    only: Container[int] | None = None  # the numbers of the jobs to do; None: all
    statuses: list[int] = field(default_factory=list)

    def __call__(self, cfg: "DictConfig") -> int:
        from hydra.core.hydra_config import HydraConfig

        if self.only is not None and HydraConfig.get().job.num not in self.only:
            return 0
        folder = Path(HydraConfig.get().runtime.output_dir)
        try:
            require(cfg, self.verb)
            status = VERBS[self.verb](cfg, folder)
        except Exception as error:
            if (
                self.debugging
                or isinstance(error, BrokenPipeError)
                or not (self.verb == "sweep" or isinstance(error, ValueError | OSError))
            ):
                raise
            if self.verb == "sweep":
                sweep.unmeasured(
                    folder, format_error(error)
                )  # what is wrong is said at the end, for all jobs
            else:
                print(f"attnvis: {visible(format_error(error))}", file=sys.stderr)
            status = 1
        self.statuses.append(status)
        return status


def compared(overrides: list[str], debugging: bool) -> int:
    """All jobs of a sweep, then their comparison.  What a launcher loses with a killed process is tried a second time."""
    from concurrent.futures import BrokenExecutor

    os.environ.setdefault(
        "PYTHONWARNINGS", "ignore:resource_tracker"
    )  # joblib's helper mourns the semaphores of killed workers
    PLANNED.clear()
    error = attempt(overrides, debugging)
    if not PLANNED:
        return 1
    if error and lost():
        print("attnvis: the jobs that were lost are tried once more", file=sys.stderr)
        overrides = [word for word in overrides if not word.startswith("hydra.sweep.dir=")] + [
            f"hydra.sweep.dir={quoted(str(PLANNED[0]))}"
        ]
        if isinstance(error, BrokenExecutor):  # took its neighbours along: nobody knows which job it was
            while fresh := lost(begun=False):
                attempt(overrides, debugging, fresh)
                if lost(begun=False) == fresh:
                    break  # no process of this launcher lives long enough
            for number in sorted(lost()):
                attempt(overrides, debugging, {number})
        else:
            attempt(overrides, debugging, lost())
    return sweep.compare(PLANNED[0])


def attempt(overrides: list[str], debugging: bool, only: Container[int] | None = None) -> Exception | None:
    """The jobs, or `only` some of them; gives what went wrong with the launcher rather than with a job."""
    import hydra.errors
    from omegaconf.errors import OmegaConfBaseException

    try:
        hand_over("sweep", overrides, debugging, only)
    except (hydra.errors.HydraException, OmegaConfBaseException):
        raise  # nothing was started
    except Exception as error:
        if debugging:
            raise
        if only is None:
            said = " ".join(
                str(error).partition("Error stream")[0].split()
            )  # what follows is submitit's copy of a log
            print(f"attnvis: {said or type(error).__name__}", file=sys.stderr)
        return error
    return None


def lost(begun: bool = True) -> set[int]:
    """The jobs of which nothing came back; not `begun`: those among them that were never started."""
    from attnvis.experiments.sweep.folder import read_sweep

    parts = [part for part in read_sweep(PLANNED[0]).parts if part.status == "missing"]
    return {part.number for part in parts if begun or not (part.folder / ".rows.part").exists()}


PLANNED: list[Path] = []  # the folder of the sweep that this process started


class Plan:
    """A Hydra callback: before the first job it writes down which there will be, so that those that never end are known too."""

    def on_run_start(self, config: "DictConfig", **_: Any) -> None:
        self.write(config, Path(config.hydra.run.dir), [""], many=False)

    def on_multirun_start(self, config: "DictConfig", **_: Any) -> None:
        from hydra._internal.core_plugins.basic_sweeper import BasicSweeper
        from hydra.core.override_parser.overrides_parser import OverridesParser

        params = [f"{key}={value}" for key, value in (config.hydra.sweeper.params or {}).items()]
        parsed = OverridesParser.create().parse_overrides([*params, *config.hydra.overrides.task])
        jobs = BasicSweeper.split_arguments(parsed, None)[0]
        same = set.intersection(*map(set, jobs)) if len(jobs) > 1 else set()
        self.write(
            config,
            Path(config.hydra.sweep.dir),
            [", ".join(word for word in job if word not in same) for job in jobs],
            many=True,
        )

    def write(self, config: "DictConfig", folder: Path, jobs: list[str], many: bool) -> None:
        PLANNED[:] = [folder]
        folder.mkdir(parents=True, exist_ok=True)
        told = {"command": command(), "jobs": jobs, "many": many, "logger": plain(config.logger)}
        (folder / "plan.json").write_text(json.dumps(told, indent=1), encoding="utf-8")

    def __getattr__(self, name: str) -> Any:
        """Hydra calls every callback for every event."""
        if name.startswith("on_"):
            return lambda *_, **__: None
        raise AttributeError(name)

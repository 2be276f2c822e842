"""What Hydra is made to do before the first job: hold the command's folder, write its plan.json.

The configs name these classes as Hydra's callbacks.
"""

import os
from collections.abc import Callable, Iterable, Mapping
from contextlib import nullcontext, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from attnvis.cli.common import check_logger, command_line
from attnvis.cli.config import plain
from attnvis.cli.messages import fail, format_error, note
from attnvis.files import Lock, locked

if TYPE_CHECKING:
    from omegaconf import DictConfig

__all__ = ["CHECKS", "HELD", "MADE", "PHOTOS", "PLANNED", "Hold", "Plan", "held", "remove_unused"]

HYDRAS = tuple(f".hydra/{name}.yaml" for name in ("config", "hydra", "overrides"))  # that Hydra writes

PLANNED: list[Path] = []  # the folder of the sweep that this process started
PHOTOS: list[Callable[[Path, Iterable[Any]], Mapping[str, Any]]] = []  # of the command that runs
CHECKS: list[Callable[[Mapping[str, Any]], None]] = []  # of the command that runs: a job's settings
CHECKED = ("study", "keys", "heads", "fuse", "stability", "random_classes")  # that may not go together
HELD: dict[Path, Lock] = {}  # the folders that this process holds, for all the jobs that it starts
MADE: list[Path] = []  # the folders that this process made for its results, the inner ones first


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
        images = [value_in(job, "images", plain(config.images)) for job in jobs]
        check(config, jobs)
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
            note(remark)
        begun: Any = {}
        with suppress(ValueError, OSError):
            begun = read_json(folder / "plan.json").get("logger")
        return logger_plan(settings, begun if isinstance(begun, dict) else {})


def hold(folder: Path, jobs: int = 0) -> None:
    """Holds a folder, and has a look at what Hydra will write to, there and in the folders of its jobs.

    Ends the process where another one holds it, or something stands there that would lead elsewhere:
    of errors in a callback Hydra only warns, and goes on.
    """
    from attnvis.pipeline.resume import require_own_files

    place = folder.absolute()
    MADE.extend(each for each in (place, *place.parents) if not os.path.lexists(each))
    try:
        HELD[place] = locked(folder)
        own_folders = [".hydra", ".submitit", *map(str, range(jobs))]
        require_own_files(folder, files=[*HYDRAS, "multirun.yaml"], folders=own_folders)
        for number in range(jobs):
            require_own_files(folder / str(number), files=HYDRAS, folders=[".hydra"])
    except (OSError, ValueError) as error:
        fail(format_error(error))


def remove_unused() -> None:
    """Takes away the folders that were made for results and hold none: at most what Hydra says was typed."""
    for folder in MADE:
        with suppress(OSError):
            if folder == MADE[0] and os.listdir(folder) == [".hydra"]:
                for name in HYDRAS:
                    (folder / name).unlink(missing_ok=True)
                (folder / ".hydra").rmdir()
            folder.rmdir()  # fails where something is inside
    MADE.clear()


def held(folder: Path) -> Lock | nullcontext:
    """A job's folder for this process alone; a single job's is held by its sweep already.

    Raises Held where another process writes into it.
    """
    return nullcontext() if folder.absolute() in HELD else locked(folder)


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


def check(config: "DictConfig", jobs: list[list[str]]) -> None:
    """Ends the process where a job's settings do not go together: of errors in a callback Hydra only warns,
    and goes on.
    """
    usual = {name: plain(config[name]) for name in CHECKED if name in config}
    for name, value in usual.items():
        if isinstance(value, dict):
            usual[name] = value["_target_"]
    try:
        for job in jobs if CHECKS else ():
            CHECKS[0]({name: value_in(job, name, value) for name, value in usual.items()})
    except ValueError as error:
        fail(format_error(error))


def value_in(job: list[str], name: str, usual: Any) -> Any:
    """What a job's overrides give a setting; `usual` where they do not name it."""
    from hydra.core.override_parser.overrides_parser import OverridesParser
    from omegaconf import OmegaConf

    for override in OverridesParser.create().parse_overrides(job):
        if override.key_or_group == name:
            usual = plain(OmegaConf.create({name: override.value()}))[name]
    return usual

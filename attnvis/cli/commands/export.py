"""`attnvis export`: the maps of a finished run as benchmark sites and pysaliency take them."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

from attnvis.cli.commands.command import Command
from attnvis.cli.common import command_line
from attnvis.cli.config import plain
from attnvis.cli.messages import complain, note, progress, short_path

if TYPE_CHECKING:
    from omegaconf import DictConfig

__all__ = ["COMMAND", "export"]


def export(cfg: "DictConfig", folder: Path) -> int:
    """A run's maps as files of a format.  Gives 1 where a photo failed, or was never done."""
    from attnvis.experiments.export import Density, Exporter, export_run
    from attnvis.files import locked
    from attnvis.pipeline.kept_maps import KeptRun

    numbers = {name: number(name, cfg[name]) for name in ("blur", "centre", "floor")}
    density = Density(str(cfg.between), **numbers)
    exporter = Exporter(folder, str(cfg.format), kind=str(cfg.kind), density=density, wanted=str(cfg.map))
    run = KeptRun.read(Path(str(cfg.run)))
    lock = locked(folder)
    try:
        record = {"command": command_line(), "settings": plain(cfg)}
        files = export_run(run, exporter, record, watch=progress)
    finally:
        lock.close()
    complain(exporter.failures)
    for remark in [*exporter.remarks(), run.lacking]:
        if remark:
            note(remark)
    failed = sum(exporter.failures.values())
    left_out = f", {failed} left out" if failed else ""
    print(f"{exporter.done} map{'s' * (exporter.done != 1)}{left_out}: {', '.join(map(short_path, files))}")
    return 1 if failed or run.lacking else 0


def number(name: str, value: Any) -> float:
    """Raises ValueError for a setting that is none."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise ValueError(f"{name} must be a number, not {value!r}")
    return float(value)


COMMAND = Command(
    "export",
    export,
    argument="FOLDER",
    key="run",
    single="the folder of one run",
    kept="the run stays as it is; type the same again",
)

"""`attnvis redraw`: the pictures of a finished run in another style."""

from pathlib import Path
from typing import TYPE_CHECKING

from attnvis.cli.commands.command import Command
from attnvis.cli.common import command_line
from attnvis.cli.config import build, leaves, plain
from attnvis.cli.messages import note, print_summary, progress

if TYPE_CHECKING:
    from omegaconf import DictConfig

    from attnvis.render.overlays import Style

__all__ = ["COMMAND", "redraw"]


def redraw(cfg: "DictConfig", folder: Path) -> int:
    """The pictures of a finished run in another style, without the network.  Gives 1 where a photo failed."""
    from attnvis.pipeline.position_prior import read_priors
    from attnvis.pipeline.redrawing import SourceRun, redraw_plan, redraw_run
    from attnvis.pipeline.run_folder import RunWriter

    source = Path(cfg.run)
    require_run(source)
    style = style_of(cfg, source)
    run = SourceRun.read(source)
    priors = read_priors(source) if cfg.beyond_prior else []
    plan = redraw_plan(
        run,
        folder,
        style,
        command=command_line(),
        logger=plain(cfg.logger),
        resume=cfg.resume,
        beyond_prior=bool(cfg.beyond_prior),
        say=note,
    )
    with RunWriter(folder, plan, resume=cfg.resume) as results:
        for outcome in progress(redraw_run(run, results, priors), len(results.left)):
            results.record(outcome)
    return print_summary(results.done, results.reasons, folder)


def require_run(source: Path) -> None:
    """Raises ValueError for what is no run's folder."""
    if (source / "records.csv").is_file():
        return
    if (source / "shards.parquet").is_file():
        raise ValueError(
            f"{source} is a run in shards, which keeps its maps in tables; "
            "redraw draws what attnvis run leaves without launcher="
        )
    inner = sorted(source.glob("*/records.csv"))
    advice = (
        f"it is a sweep: give one of its runs, such as {inner[0].parent}"
        if inner
        else "give one such as outputs/run/<date>/<time>"
    )
    raise ValueError(f"{source} is not the folder of a run: it has no records.csv; {advice}")


def style_of(cfg: "DictConfig", source: Path) -> "Style":
    """The run's own style, but for what was typed: render=... is a whole style, render.high=... one setting.

    Raises ValueError for a setting that is none.
    """
    from hydra.core.hydra_config import HydraConfig

    from attnvis.pipeline.redrawing import style_settings

    hydra = HydraConfig.get()
    typed = {word.partition("=")[0].lstrip("+") for word in hydra.overrides.task}
    if "render" not in typed:
        known = {name for name, _ in leaves(plain(cfg.render))}
        for name, value in style_settings(source).items():
            if name in known and f"render.{name}" not in typed:
                cfg.render[name] = value
    return build(cfg, "render")


COMMAND = Command(
    "redraw",
    redraw,
    argument="FOLDER",
    key="run",
    single="the folder of one run",
    record="run.json",
    resuming=("resume=true",),
)

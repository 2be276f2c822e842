"""A sweep: what each of its jobs does, and what is made of all of them at the end.

A job is one network, layer and size; inside it every query meets every scaling and normaliser, from one score tensor per query.
"""

import json
import shlex
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from attnvis.cli.commands.command import Command, Comparison
from attnvis.cli.commands.common import command_line, listed, photos
from attnvis.cli.config import build, plain, vet
from attnvis.cli.messages import complain, progress

if TYPE_CHECKING:
    from omegaconf import DictConfig

    from attnvis.backbone.backbone import Backbone
    from attnvis.backbone.cache import Cached
    from attnvis.experiments.sweep.folder import Sweep
    from attnvis.experiments.sweep.job import Job
    from attnvis.types import Preprocessing

__all__ = ["COMMAND", "STUDIES", "compare", "sweep"]

STUDIES = ("scalings", "recognition", "note")
AXES = {"query": "queries", "scaling": "scalings", "normalise": "normalisers"}


def sweep(cfg: "DictConfig", folder: Path) -> int:
    """One job; one that was done here before is not done again."""
    from attnvis.experiments.sweep.folder import finished
    from attnvis.experiments.sweep.job import Job

    settings = plain(cfg)
    same = {
        key: value for key, value in settings.items() if key not in ("logger", "name", "cache", "batch_size")
    }
    same["storage"] = settings["cache"][
        "storage"
    ]  # of the cache's settings the only one that may change a number
    if settings["study"] not in STUDIES:
        raise ValueError(f"no study {settings['study']!r}; there are {', '.join(STUDIES)}")
    if finished(folder, same):
        return 0
    with Job(folder, same) as job:
        measure(cfg, settings, job)
    complain(job.reasons)
    return 1 if job.failures else 0


def record_failure(folder: Path, reason: str) -> None:
    """A job that could not even begin is told in its folder like any other."""
    from attnvis.experiments.sweep.job import Job

    try:
        failed = json.loads((folder / "job.json").read_text(encoding="utf-8"))["status"] == "failed"
    except (FileNotFoundError, ValueError):
        failed = False
    if not failed:  # else it began, and told itself; "done" is what was asked here before
        Job(folder, {}).conclude("failed", reason)


def measure(cfg: "DictConfig", settings: dict[str, Any], job: "Job") -> None:
    import torch

    from attnvis.backbone.cache import remembered
    from attnvis.data.preprocessing import sample
    from attnvis.pipeline.tracking import Tracker

    paths = photos(settings["images"])
    torch.manual_seed(cfg.seed)
    backbone = remembered(build(cfg, "backbone"), settings["cache"])
    how = backbone.preprocessing.changed(cfg.preprocess.fit, cfg.preprocess.size)
    warnings = backbone.warnings_at(how)
    for warning in warnings:
        print(f"attnvis: {warning.upper()}", file=sys.stderr)
    if len(backbone.layers) > 1:
        raise ValueError(
            f"a job of a sweep measures one layer, not {backbone.layer}; give backbone.layer={','.join(backbone.layers)} without brackets"
        )
    backbone.prepare(len(paths), 1, sample(paths, how))
    job.axes = {
        "backbone": backbone.name, "weights": backbone.weights, "layer": backbone.layer,
        "fit": how.fit, "size": str(how.size), "seed": str(cfg.seed),
    }  # fmt: skip
    job.facts = backbone.describe() | {"warnings": warnings}
    group = job.folder.parent.name if job.folder.name.isdigit() else job.folder.name
    study = recognise if settings["study"] == "recognition" else scale
    logger = settings["logger"] | {"group": group}
    with Tracker(job.folder, logger, config=job.axes | settings, job="sweep") as tracker:
        tracker.log_numbers(study(cfg, settings, job, paths, backbone, how))
        job.passes = getattr(backbone, "encoded", job.done)


def scale(
    cfg: "DictConfig",
    settings: dict[str, Any],
    job: "Job",
    paths: list[Path],
    backbone: "Backbone | Cached",
    how: "Preprocessing",
) -> dict[str, float]:
    """Every query under every scaling and normaliser; gives what W&B is told."""
    from attnvis.methods.settings import SettingGrid
    from attnvis.pipeline.streaming import stream

    trusted = listed(settings["trust"])
    asked = {axis: listed(settings[axis]) for axis in AXES.values()}
    asked["queries"] = [f"random:{cfg.seed}" if text == "random" else text for text in asked["queries"]]
    grid = SettingGrid(
        backbone, *({text: named(kind, text, trusted) for text in asked[axis]} for kind, axis in AXES.items())
    )
    job.open(grid.settings, settings["sheets"], build(cfg, "render"), settings["sharpness"])
    for outcome in progress(stream(paths, grid, how, cfg.batch_size), len(paths)):
        job.add(outcome)
    return job.medians()


def recognise(
    cfg: "DictConfig",
    settings: dict[str, Any],
    job: "Job",
    paths: list[Path],
    backbone: "Backbone | Cached",
    how: "Preprocessing",
) -> dict[str, float]:
    """The accuracy of the attended context; the table goes to the terminal, the page into the job's folder."""
    from attnvis.experiments.recognition.measure import measure_recognition
    from attnvis.experiments.recognition.page import as_text, write_recognition

    findings = measure_recognition(paths, backbone, how, cfg.batch_size, progress)
    for place, reason in findings.failures:
        job.fail(place, reason)
    job.done = findings.photos
    print(as_text(findings))
    facts = backbone.describe() | {"fit": how.fit, "size": str(how.size), "command": command_line()}
    write_recognition(findings, job.folder, facts, backbone.warnings_at(how))
    return {
        f"{row.name}/{name}": getattr(row, name).value
        for row in findings.rows
        for name in ("top1", "top5", "nll", "rescaled")
    }


def named(kind: str, text: str, trusted: list[str]) -> Any:
    """`temperature:2` -> the function it names; my_module.mine:3 -> the user's own, where my_module is trusted."""
    from pkgutil import resolve_name

    from attnvis.attention.query.language import parse
    from attnvis.attention.spec import functions, parse_function

    name = text.partition(":")[0]
    if "." in name:
        vet(name, kind, trusted)
        return parse_function(text, {name: resolve_name(name)}, kind)
    return parse(text) if kind == "query" else functions(kind, [text])[text]


def medians(found: "Sweep") -> dict[str, list[Any]]:
    """Over photos, of every job, query and setting: the columns of a table."""
    from attnvis.experiments.sweep.folder import AXES as OUTER

    numbers = ("perplexity", "patches", "sigma_eff", "max_times_uniform", "gradient_norm", "js_inv_sqrt_d")
    groups = found.table.group_by([*OUTER, "query", "scaling", "normalise"])
    return groups.aggregate(
        [(name, "approximate_median") for name in numbers] + [("saturated", "mean"), ("dead", "mean")]
    ).to_pydict()


def compare(folder: Path) -> int:
    """What all jobs of a sweep found, as one page; its exit code: 0 where nothing is missing."""
    from attnvis.experiments.sweep.folder import read_sweep
    from attnvis.pipeline.tracking import Tracker

    found = read_sweep(folder)
    pages = [
        part.folder / "index.html"
        for part in found.parts
        if part.study == "recognition" and part.status == "done"
    ]
    logger = json.loads((folder / "plan.json").read_text(encoding="utf-8")).get("logger") or {
        "mode": "disabled"
    }
    if found.table.num_rows:
        from attnvis.experiments.sweep.page import write_comparison

        logger |= {"group": folder.name}
        with Tracker(folder, logger, config={"command": found.command}, job="comparison") as tracker:
            pages.append(write_comparison(found))
            tracker.log_pictures(sorted((folder / "figures").glob("*.png")))
            tracker.log_table("medians", medians(found))
        if any(part.study == "note" for part in found.parts):
            from attnvis.experiments.seed_note import write_note

            pages.append(write_note(found, folder))
    alone = len(found.parts) == 1
    for part in found.missing:
        named = "" if alone else f"job {part.number} ({part.asked}) {part.status}: "
        print(f"attnvis: {named}{part.reason}", file=sys.stderr)
    if found.missing and not (
        alone and found.missing[0].status == "failed"
    ):  # there the command itself has to change
        print(
            f"attnvis: what is done stays done; for the rest: attnvis sweep --resume {shlex.quote(str(folder))}",
            file=sys.stderr,
        )
    done = [part.told for part in found.parts if part.status == "done"]
    if done:
        passes = sum(told["passes"] for told in done)
        jobs = f"{len(done)} jobs, " if len(done) > 1 else ""
        print(
            f"{jobs}{max(told['done'] for told in done)} photos, {passes} passes through the network: {', '.join(map(str, pages))}"
        )
    return 1 if found.missing or any(told["failures"] for told in done) else 0


def lost_jobs(folder: Path) -> set[int]:
    """The numbers of the jobs of which nothing came back."""
    from attnvis.experiments.sweep.folder import read_sweep

    return {part.number for part in read_sweep(folder).parts if part.status == "missing"}


def waiting_jobs(folder: Path) -> set[int]:
    """The numbers of the lost jobs that were never started."""
    from attnvis.experiments.sweep.folder import read_sweep

    lost = [part for part in read_sweep(folder).parts if part.status == "missing"]
    return {part.number for part in lost if not (part.folder / ".rows.part").exists()}


COMMAND = Command(
    "sweep",
    sweep,
    argument="PHOTO ...",
    record="plan.json",
    axes=AXES,
    comparison=Comparison(compare, record_failure, lost_jobs=lost_jobs, waiting_jobs=waiting_jobs),
)

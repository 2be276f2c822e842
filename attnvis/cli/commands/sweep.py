"""A sweep: what each of its jobs does, and what is made of all of them at the end.

A job is one network, layer and size; inside it every query meets every scaling and normaliser, from one score tensor per query.
"""

import json
import shlex
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from attnvis.cli.commands.common import command, listed, photos
from attnvis.cli.config import build, plain, vet
from attnvis.cli.messages import complain, progress

if TYPE_CHECKING:
    from omegaconf import DictConfig

    from attnvis.backbone.backbone import Backbone
    from attnvis.backbone.cache import Cached
    from attnvis.experiments.sweep.folder import Sweep
    from attnvis.experiments.sweep.job import JobWriter
    from attnvis.types import Preprocessing

__all__ = ["STUDIES", "compare", "sweep", "unmeasured"]

STUDIES = ("scalings", "recognition", "note")
AXES = {"query": "queries", "scaling": "scalings", "normalise": "normalisers"}


def sweep(cfg: "DictConfig", folder: Path) -> int:
    """One job; one that was done here before is not done again."""
    from attnvis.experiments.sweep.folder import finished
    from attnvis.experiments.sweep.job import JobWriter

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
    with JobWriter(folder, same) as job:
        measure(cfg, settings, job)
    complain(job.reasons)
    return 1 if job.failures else 0


def unmeasured(folder: Path, reason: str) -> None:
    """A job that could not even begin is told in its folder like any other."""
    from attnvis.experiments.sweep.folder import read_record
    from attnvis.experiments.sweep.job import JobWriter

    # a job that began told itself why it failed; "done" is what was asked here before
    if read_record(folder).status != "failed":
        JobWriter(folder, {}).end("failed", reason)


def measure(cfg: "DictConfig", settings: dict[str, Any], job: "JobWriter") -> None:
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
    axes = {
        "backbone": backbone.name, "weights": backbone.weights, "layer": backbone.layer,
        "fit": how.fit, "size": str(how.size), "seed": str(cfg.seed),
    }  # fmt: skip
    job.update(axes=axes, provenance=backbone.describe() | {"warnings": warnings})
    group = job.folder.parent.name if job.folder.name.isdigit() else job.folder.name
    tracker, crashed = (
        Tracker(job.folder, settings["logger"] | {"group": group}, axes | settings, "sweep"),
        True,
    )
    try:
        study = recognise if settings["study"] == "recognition" else scale
        tracker.note(study(cfg, settings, job, paths, backbone, how))
        job.update(passes=getattr(backbone, "encoded", job.record.done))
        crashed = False
    finally:
        tracker.finish(crashed)


def scale(
    cfg: "DictConfig",
    settings: dict[str, Any],
    job: "JobWriter",
    paths: list[Path],
    backbone: "Backbone | Cached",
    how: "Preprocessing",
) -> dict[str, float]:
    """Every query under every scaling and normaliser; gives what W&B is told."""
    from attnvis.experiments.sweep.job import GridWriter
    from attnvis.methods.settings import SettingGrid
    from attnvis.pipeline.streaming import stream

    trusted = listed(settings["trust"])
    asked = {axis: listed(settings[axis]) for axis in AXES.values()}
    asked["queries"] = [f"random:{cfg.seed}" if text == "random" else text for text in asked["queries"]]
    grid = SettingGrid(
        *({text: named(kind, text, trusted) for text in asked[axis]} for kind, axis in AXES.items())
    )
    style = build(cfg, "render")
    with GridWriter(
        job, grid.settings, settings["sharpness"], sheets=settings["sheets"], style=style
    ) as writer:
        for outcome in progress(stream(paths, backbone, grid, how, cfg.batch_size), len(paths)):
            writer.add(outcome)
    return writer.rows.medians()


def recognise(
    cfg: "DictConfig",
    settings: dict[str, Any],
    job: "JobWriter",
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
    job.update(done=findings.photos)
    print(as_text(findings))
    facts = backbone.describe() | {"fit": how.fit, "size": str(how.size), "command": command()}
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
    from attnvis.attention.spec import functions, read

    name = text.partition(":")[0]
    if "." in name:
        vet(name, kind, trusted)
        return read(text, {name: resolve_name(name)}, kind)
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

        tracker, crashed = (
            Tracker(folder, logger | {"group": folder.name}, {"command": found.command}, "comparison"),
            True,
        )
        try:
            pages.append(write_comparison(found))
            tracker.show(sorted((folder / "figures").glob("*.png")))
            tracker.tabulate("medians", medians(found))
            crashed = False
        finally:
            tracker.finish(crashed)
        if any(part.study == "note" for part in found.parts):
            from attnvis.experiments.seed_note import write_note

            pages.append(write_note(found, folder))
    alone = len(found.parts) == 1
    for part in found.missing:
        named = "" if alone else f"job {part.number} ({part.overrides}) {part.status}: "
        print(f"attnvis: {named}{part.reason}", file=sys.stderr)
    if found.missing and not (
        alone and found.missing[0].status == "failed"
    ):  # there the command itself has to change
        print(
            f"attnvis: what is done stays done; for the rest: attnvis sweep --resume {shlex.quote(str(folder))}",
            file=sys.stderr,
        )
    done = [part.record for part in found.done]
    if done:
        passes = sum(record.passes for record in done)
        jobs = f"{len(done)} jobs, " if len(done) > 1 else ""
        print(
            f"{jobs}{max(record.done for record in done)} photos, {passes} passes through the network: {', '.join(map(str, pages))}"
        )
    return 1 if found.missing or any(record.failures for record in done) else 0

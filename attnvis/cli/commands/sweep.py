"""A sweep: what each of its jobs does, and what is made of all of them at the end.

A job is one network, layer and size; inside it every query meets every scaling and normaliser, from one score
tensor per query.
"""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from attnvis.cli.axes import AXES, function_named
from attnvis.cli.chosen_method import class_name_files, random_classes
from attnvis.cli.commands.command import Command, Comparison
from attnvis.cli.common import (
    announced_photos,
    build_encoder,
    check_logger,
    command_line,
    listed,
    photos,
    prepare,
    shout,
    thread_count,
)
from attnvis.cli.config import build, plain
from attnvis.cli.messages import complain, note, print_photo_notes, progress
from attnvis.cli.resuming import resume_words
from attnvis.files import file_digest, save

if TYPE_CHECKING:
    from omegaconf import DictConfig

    from attnvis.backbone.backbone import Backbone
    from attnvis.backbone.cache import Cached
    from attnvis.experiments.sweep.folder import Part, Sweep
    from attnvis.experiments.sweep.job import JobWriter
    from attnvis.pipeline.resume import PlannedPhoto
    from attnvis.pipeline.tracking import Tracker
    from attnvis.types import Photo, PhotoError, Preprocessing, Source

__all__ = ["COMMAND", "STUDIES", "compare", "sweep"]

STUDIES = ("scalings", "recognition", "note")
OWN_FILES = ("plan.json", "index.html", "sweep.parquet", "note.html")  # of all jobs together
OWN_FOLDERS = ("figures", "wandb")
ONE_HEAD = "attnvis.attention.heads.one"


def sweep(cfg: "DictConfig", folder: Path) -> int:
    """One job; one that was done here before is not done again.  Gives 1 where a photo failed.

    Raises ValueError for an unknown study, and for what makes the job impossible.
    """
    from attnvis.experiments.sweep.folder import finished
    from attnvis.experiments.sweep.job import JobWriter
    from attnvis.pipeline.resume import album_digest, planned_photos

    settings = plain(cfg)
    check_logger(settings["logger"], settings["name"])
    harmless = ("logger", "name", "cache", "batch_size", "workers")  # they change no number
    same = {key: value for key, value in settings.items() if key not in harmless}
    checks = {key: same.pop(key) for key in ("stability", "random_classes", "heads", "fuse")}
    if checks["heads"]["_target_"] == ONE_HEAD:
        checks.pop("heads")
    same |= {key: value for key, value in checks.items() if value}  # off is as before there were any
    same["storage"] = settings["cache"]["storage"]  # of the cache's settings the only one that may
    require_possible(settings | {name: settings[name]["_target_"] for name in ("keys", "heads")})
    random_classes(cfg)
    planned = planned_photos(photos(settings["images"]))
    same["photos"] = album_digest(planned)
    if inputs := files_of_queries(settings):
        same["inputs"] = inputs
    if finished(folder, same, planned):
        return 0
    require_planned(folder, settings["images"], planned)
    with JobWriter(folder, same) as job:
        measure(cfg, settings, job)
    complain(job.reasons)
    return 1 if job.failures else 0


def require_possible(settings: Mapping[str, Any]) -> None:
    """Raises ValueError for settings of a job that do not go together, before there is a job.

    keys, heads: as they are typed (pca:8), or the name of their function.
    """
    study, fuse = settings["study"], str(settings["fuse"] or "")
    keys, heads = (
        str(settings[name]).partition(":")[0].removeprefix(f"attnvis.attention.{name}.")
        for name in ("keys", "heads")
    )
    others = [f"keys={keys}"] * (keys != "same")
    others += [f"heads={heads}"] * (heads not in ("one", "1"))
    others += [f"fuse={fuse}"] * bool(fuse)
    if study not in STUDIES:
        raise ValueError(f"no study {study!r}; there are {', '.join(STUDIES)}")
    if study != "scalings" and (settings["stability"] or settings["random_classes"]):
        raise ValueError("stability and random_classes are asked of study=scalings; leave one out")
    if study != "scalings" and others:
        raise ValueError(f"study={study} compares the patches themselves; leave {' and '.join(others)} out")
    if keys == "layer":
        raise ValueError("a sweep measures one layer at a time, and keys=layer takes two; attnvis run can")
    if settings["random_classes"] and others:
        from attnvis.methods.attention import require_null

        require_null(
            settings["random_classes"],
            own_keys=keys == "same",
            one_head=heads in ("one", "1"),
            fuse=fuse,
        )
    if fuse:
        from attnvis.methods.fusing import require_fusion

        require_fusion(fuse)


def files_of_queries(settings: dict[str, Any]) -> dict[str, str]:
    """What the files hold that a job's queries, its keys and the names of its classes are read from, by their
    digests; other files, another job.

    Raises ValueError for a query that is none.
    """
    from attnvis.pipeline.question_files import query_files, setting_files

    digests = class_name_files(settings)
    if settings["study"] == "recognition":
        return digests
    digests |= setting_files(settings["keys"])
    trusted = listed(settings["trust"])
    for text in listed(settings["queries"]):
        digests |= query_files(function_named("query", text, trusted))
    return digests


def require_planned(folder: Path, images: Any, photos: "Sequence[PlannedPhoto]") -> None:
    """Raises UnavailableError where the photos are not those with which the sweep began.

    Another job may have been measured on those, and the two would be compared.
    """
    from attnvis.experiments.sweep.folder import images_key, read_plan
    from attnvis.pipeline.resume import changes_in_words, differences
    from attnvis.types import UnavailableError

    of_many = folder.name.isdigit() and (folder.parent / "plan.json").exists()
    try:
        begun = read_plan(folder.parent if of_many else folder)["photos"].get(images_key(images))
    except ValueError:
        return  # a job that was started by itself
    if begun is not None and (changes := changes_in_words(differences(begun, photos))):
        raise UnavailableError(
            f"since the sweep began {changes}; --resume measures all jobs on the photos as they are"
        )


def planned_sweep(folder: Path, images: "Iterable[Any]") -> dict[str, list[dict[str, str]]]:
    """What plan.json is to hold of the photos of a sweep's jobs; those that changed since are named."""
    from dataclasses import asdict

    from attnvis.experiments.sweep.folder import images_key, read_plan
    from attnvis.experiments.sweep.job import JOB_FILES, JOB_FOLDERS
    from attnvis.pipeline.resume import (
        changes_in_words,
        differences,
        planned_photos,
        require_own_files,
    )
    from attnvis.types import PhotoError

    images = list(images)  # one a job
    require_own_files(folder, files=OWN_FILES, folders=OWN_FOLDERS)
    begun: dict[str, Any] | None = None
    if not (folder / "plan.json").exists():
        for job in (folder, *(folder / str(number) for number in range(len(images)))):
            require_own_files(job, files=JOB_FILES, folders=JOB_FOLDERS)
    else:
        begun = read_plan(folder)["photos"]
        if not begun:
            note(f"{folder} has no photos in its plan.json, as folders of earlier versions")
    planned: dict[str, list[dict[str, str]]] = {}
    for setting in images:
        key = images_key(setting)
        if key in planned:
            continue
        try:
            listing = announced_photos(setting)
        except PhotoError:
            continue  # the job says so itself
        now = planned_photos(listing.paths)
        planned[key] = [asdict(photo) for photo in now]
        if changes := changes_in_words(differences((begun or {}).get(key, now), now)):
            note(f"since the sweep began {changes}; what was measured otherwise is measured again")
    return planned


def record_failure(folder: Path, error: Exception, reason: str) -> None:
    """A job that could not even begin has a record in its folder like any other."""
    from attnvis.experiments.sweep.folder import read_record
    from attnvis.experiments.sweep.job import is_mistake
    from attnvis.experiments.sweep.record import JobRecord

    # a job that began told itself why it failed; "done" is what was asked here before
    if read_record(folder).status == "failed":
        return
    record = JobRecord("failed", reason=reason, mistake=is_mistake(error))
    try:
        folder.mkdir(parents=True, exist_ok=True)
        save(folder, "job.json", record.to_json().encode())
    except (OSError, ValueError):  # `compare` names what stands in the record's way
        note(reason)


@dataclass(frozen=True)
class Inputs:
    """What a study measures, and where its results go."""

    cfg: "DictConfig"
    settings: dict[str, Any]  # the same, as plain values
    job: "JobWriter"
    paths: "list[Source]"
    backbone: "Backbone | Cached"
    preprocessing: "Preprocessing"
    decoded: "dict[Source, Photo | PhotoError]"  # the first of them
    workers: int


def measure(cfg: "DictConfig", settings: dict[str, Any], job: "JobWriter") -> None:
    """What the job's study asks, into its folder.  Raises ValueError for several layers that nothing
    joins, and for one where there is a fusion.
    """
    from attnvis.experiments.sweep.sending import send_job, send_recognition
    from attnvis.pipeline.plan import setting_text
    from attnvis.pipeline.stability import allowed_changes

    paths = photos(settings["images"])
    _, backbone, preprocessing = build_encoder(cfg)
    warnings = backbone.warnings_at(preprocessing)
    shout(warnings)
    if len(backbone.layers) > 1 and not settings["fuse"]:
        layers = ",".join(backbone.layers)
        raise ValueError(
            f"a job of a sweep measures one layer, not {backbone.layer}; "
            f"give backbone.layer={layers} without brackets, or fuse=mixture,product,max to join them"
        )
    if len(backbone.layers) == 1 and settings["fuse"]:
        raise ValueError(
            f"fuse={settings['fuse']} joins several layers of one pass, and backbone.layer={backbone.layer} "
            "is one; give two layers or more, as in backbone.layer=[stage3,last]"
        )
    workers = thread_count(cfg.workers, len(paths))
    decoded = prepare(backbone, paths, preprocessing, workers=workers, settings=cfg)
    axes = {
        "backbone": backbone.name, "weights": backbone.weights, "layer": backbone.layer,
        "fit": preprocessing.fit, "size": str(preprocessing.size), "seed": str(cfg.seed),
        "keys": setting_text(settings["keys"]), "heads": setting_text(settings["heads"]),
        "fuse": settings["fuse"] or "",
    }  # fmt: skip
    job.update(axes=axes, provenance=backbone.describe().entries() | {"warnings": warnings})
    inputs = Inputs(
        cfg,
        settings,
        job=job,
        paths=paths,
        backbone=backbone,
        preprocessing=preprocessing,
        decoded=decoded,
        workers=workers,
    )
    with tracker_of(job.folder, settings, axes) as tracker:
        if settings["study"] == "recognition":
            tracker.log_numbers(recognise(inputs))
            tracker.at_end(partial(send_recognition, folder=job.folder))
        else:
            scale(inputs)
            if settings["study"] == "note":
                keep_lab(inputs)
            tracker.at_end(partial(send_job, folder=job.folder, record=job.record))
        looks = 1 + len(allowed_changes(preprocessing)) if cfg.stability else 1  # at each photo
        job.update(passes=getattr(backbone, "encoded", looks * job.record.done))


def tracker_of(folder: Path, settings: dict[str, Any], axes: dict[str, str]) -> "Tracker":
    """The run at W&B of a job; of a single one it is the comparison's, which has all of it."""
    from attnvis.experiments.sweep.folder import read_plan
    from attnvis.experiments.sweep.sending import of_a_job
    from attnvis.pipeline.tracking import Tracker

    logger, plan = settings["logger"], folder.parent / "plan.json"
    name = f"{folder.parent.name}/{folder.name}"
    if folder.name.isdigit() and plan.exists():
        logger = of_a_job(read_plan(folder.parent)["logger"], logger, int(folder.name))
    elif (folder / "plan.json").exists():
        logger = read_plan(folder)["logger"]
        if settings["study"] != "recognition":
            logger = {"mode": "disabled"}
        name = folder.name
    continues = None if logger is settings["logger"] else logger.pop("continues", False)
    group, config = str(settings["name"]), settings | axes
    return Tracker(folder, logger, config, job="sweep", group=group, name=name, continues=continues)


def scale(inputs: Inputs) -> None:
    """Every query under every scaling and normaliser."""
    from attnvis.experiments.sweep.job import GridWriter
    from attnvis.methods.settings import SettingGrid
    from attnvis.pipeline.preparing import prepared, prepared_keys
    from attnvis.pipeline.stability import StableGrid
    from attnvis.pipeline.streaming import stream

    settings = inputs.settings
    trusted = listed(settings["trust"])
    functions: dict[str, dict[str, Any]] = {}  # the setting -> its texts -> what they name
    for kind, axis in AXES.items():
        texts = listed(settings[axis])
        if kind == "query":
            texts = [f"random:{inputs.cfg.seed}" if text == "random" else text for text in texts]
        functions[axis] = {text: function_named(kind, text, trusted) for text in texts}
    functions["queries"] = {
        text: prepared(function, inputs.backbone, inputs.preprocessing, photos=inputs.paths)
        for text, function in functions["queries"].items()
    }
    keys = prepared_keys(build(inputs.cfg, "keys"))
    grid = SettingGrid(
        inputs.backbone,
        **functions,
        keys=keys,
        random_classes=random_classes(inputs.cfg),
        heads=build(inputs.cfg, "heads"),
        fuse=str(settings["fuse"] or ""),
    )
    method = StableGrid(grid, inputs.preprocessing) if inputs.cfg.stability else grid
    with GridWriter(
        inputs.job,
        grid.settings,
        sharpness=settings["sharpness"],
        sheets=settings["sheets"],
        style=build(inputs.cfg, "render"),
    ) as writer:
        outcomes = stream(
            inputs.paths,
            method,
            inputs.preprocessing,
            batch_size=inputs.cfg.batch_size,
            workers=inputs.workers,
            after=writer.summarise,
            say=note,
            decoded=inputs.decoded,
        )
        notes = Counter[str]()
        for outcome in progress(outcomes, len(inputs.paths)):
            if outcome.photo is not None:
                notes.update(outcome.photo.notes)
            writer.add(outcome)
    inputs.job.update(photo_notes=dict(notes))
    print_photo_notes(notes)


def keep_lab(inputs: Inputs) -> None:
    """The features of the first photo, which the note's page puts under its slider."""
    from attnvis.experiments.note_lab import lab_of
    from attnvis.experiments.sweep.job import LAB

    style = build(inputs.cfg, "render")
    lab = lab_of(inputs.paths, inputs.backbone, preprocessing=inputs.preprocessing, style=style)
    if lab is not None:
        save(inputs.job.folder, LAB, lab)
        digest = file_digest(inputs.job.folder / LAB)
        inputs.job.update(files={**inputs.job.record.files, LAB: digest})


def recognise(inputs: Inputs) -> dict[str, float]:
    """The accuracy of the attended context, as a table and a page; gives what W&B is told."""
    from attnvis.experiments.recognition.measure import measure_recognition
    from attnvis.experiments.recognition.page import as_text, write_recognition

    job, backbone, preprocessing = inputs.job, inputs.backbone, inputs.preprocessing
    findings = measure_recognition(
        inputs.paths,
        backbone,
        preprocessing,
        batch_size=inputs.cfg.batch_size,
        watch=progress,
        workers=inputs.workers,
        say=note,
        decoded=inputs.decoded,
    )
    for place, reason in findings.failures:
        job.fail(place, reason)
    job.update(done=findings.photos)
    print(as_text(findings))
    provenance = replace(backbone.describe(preprocessing), command=command_line())
    write_recognition(findings, job.folder, provenance.entries(), backbone.warnings_at(preprocessing))
    names = ("index.html", "recognition.parquet")
    job.update(files={name: file_digest(job.folder / name) for name in names})
    return {
        f"{row.name}/{name}": getattr(row, name).value
        for row in findings.rows
        for name in ("top1", "top5", "nll", "rescaled")
    }


def compare(folder: Path) -> int:
    """What all jobs of a sweep found, as one page; its exit code: 0 where nothing is missing."""
    from attnvis.experiments.sweep.folder import read_plan, read_sweep
    from attnvis.experiments.sweep.sending import send_sweep, shared_settings
    from attnvis.pipeline.tracking import Tracker

    results = read_sweep(folder)
    complain_of_missing(results)  # before pages that may have no room
    pages = [
        part.folder / "index.html"
        for part in results.parts
        if part.study == "recognition" and part.status == "done"
    ]
    if results.table.num_rows:
        from attnvis.experiments.sweep.page import write_comparison

        pages.append(write_comparison(results))
        if any(part.study == "note" for part in results.parts):
            from attnvis.experiments.seed_note import write_note

            pages.append(write_note(results, folder))
        logger, config = read_plan(folder)["logger"], shared_settings(results)
        job = "comparison" if len(results.parts) > 1 else "sweep"
        continues = logger.pop("continues", False)
        with Tracker(folder, logger, config, job, name=folder.name, continues=continues) as tracker:
            tracker.at_end(partial(send_sweep, results=results))
    done = [part.record for part in results.done]
    if done:
        jobs = f"{len(done)} jobs, " if len(done) > 1 else ""
        most = max(record.done for record in done)
        passes = sum(record.passes for record in done)
        files = ", ".join(map(str, pages))
        print(
            f"{jobs}{most} photo{'s' * (most != 1)}, {passes} pass{'es' * (passes != 1)} "
            f"through the network: {files}"
        )
    return 1 if results.missing or any(record.failures for record in done) else 0


def complain_of_missing(results: "Sweep") -> None:
    """Which jobs are missing and why, and how to go on.

    Of a single job that failed only why: there the command itself has to change.  What would fail again is
    not to be gone on with, but left out.
    """
    single = len(results.parts) == 1
    for part in results.missing:
        job = "" if single else f"job {part.number} ({part.overrides}) {part.status}: "
        note(f"{job}{part.reason}")
    failed = single and results.parts[0].status == "failed"
    failed = failed and not results.parts[0].reason.startswith("no room")
    mistakes = [part.overrides for part in results.missing if part.record.mistake and not trusted(part)]
    if mistakes and not single:
        note(f"that would fail again: leave {' and '.join(mistakes)} out; what is done stays done")
    if len(results.missing) > len(mistakes) and not failed:
        note(f"what is done stays done; for the rest: {resume_words(COMMAND, results.folder)}")


def trusted(part: "Part") -> bool:
    """Whether a job ran code of the user's own, which may be mended."""
    return bool(part.record.asked.get("trust"))


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
    comparison=Comparison(
        compare,
        record_failure,
        lost_jobs=lost_jobs,
        waiting_jobs=waiting_jobs,
        photos=planned_sweep,
        check=require_possible,
    ),
)

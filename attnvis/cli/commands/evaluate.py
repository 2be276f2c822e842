"""`attnvis evaluate`: a data set in, every method and setting in one table with intervals out."""

from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from attnvis.cli.axes import AXES, functions_of
from attnvis.cli.chosen_method import class_name_files
from attnvis.cli.commands.command import Command
from attnvis.cli.common import (
    build_encoder,
    check_logger,
    command_line,
    draw_numbers,
    listed,
    prepare,
    shout,
    thread_count,
)
from attnvis.cli.config import build, plain
from attnvis.cli.messages import complain, note, progress
from attnvis.cli.sanity import check_sanity
from attnvis.cli.studies import USUAL_ROW, Work, tell_advice, tell_pop_out, tell_table

if TYPE_CHECKING:
    from omegaconf import DictConfig

    from attnvis.data.samples import Dataset
    from attnvis.experiments.evaluate.measure import Measuring
    from attnvis.metrics.metric import Metric

__all__ = ["COMMAND", "evaluate"]

RECORD = "evaluate.json"
HARMLESS = (
    *("against", "batch_size", "cache", "examples", "logger", "name", "resume", "render", "trust"),
    "workers",
)
STUDIES = ("table", "sanity", "advice", "pop_out")
# settings that came later: at these values nothing is measured otherwise, and older folders go on
LATER: dict[str, Any] = {"study": "table", "repeats": 30, "placements": []}


def evaluate(cfg: "DictConfig", folder: Path) -> int:
    """The table of a data set.  Gives 1 where a photo failed."""
    from attnvis.files import locked

    settings = plain(cfg)
    check_logger(settings["logger"], cfg.name)
    if settings["study"] not in STUDIES:
        raise ValueError(f"no study {settings['study']!r}; there are {', '.join(STUDIES)}")
    if settings["study"] == "sanity":
        return check_sanity(cfg, settings, folder)
    work = set_up(cfg, settings)
    with locked(folder):
        return measure_and_tell(cfg, work, folder)


def set_up(cfg: "DictConfig", settings: dict[str, Any]) -> Work:
    """Raises ValueError for what is no data set, and for metrics and methods that there are not."""
    from attnvis.experiments.evaluate.maps import MapMaker, backbone_placements
    from attnvis.experiments.evaluate.measure import require_settings, usual_metrics
    from attnvis.experiments.evaluate.naming import ATTENTION, parse_methods, parse_metrics
    from attnvis.metrics.metric import facts

    if settings["between"] not in ("linear", "nearest"):
        raise ValueError(f"between={settings['between']}: give linear or nearest")
    dataset = photos_of(settings)
    metrics = parse_metrics(listed(settings["metrics"]) or usual_metrics(dataset.known))
    require_known(metrics, dataset)
    require_settings(metrics)
    texts = listed(settings["methods"])
    stages = functions_of(settings)
    if ATTENTION not in texts:
        stages["queries"] = {}
    network, encoder, preprocessing = build_encoder(cfg)
    if settings["placements"] and preprocessing.fit == "letterbox":
        raise ValueError(
            "placements= compares whole grids, and a letterbox's are cut; give preprocess.fit=resize"
        )
    shout(network.warnings_at(preprocessing))
    maker = MapMaker(
        encoder,
        network,
        **stages,
        methods=parse_methods(texts),
        temperatures=tuple(map(float, settings["temperatures"])),
        wants_cells=any("evidence" in facts(metric).needs for metric in metrics.values()),
        placements=backbone_placements(listed(settings["placements"]), network.cells),
    )
    workers = thread_count(cfg.workers, len(dataset))
    style = build(cfg, "render")
    return Work(dataset, metrics, encoder, maker, preprocessing, settings, style, workers)


def photos_of(settings: dict[str, Any]) -> "Dataset":
    """The data set that is asked for, or the arrays of a study.

    Raises ValueError for what is no data set, and for levels that do not fit.
    """
    from attnvis.data.datasets import open_dataset
    from attnvis.data.generated import ladder
    from attnvis.experiments.pop_out.measure import require_levels

    if settings["study"] != "pop_out":
        return open_dataset(settings["data"], settings["layout"])
    if settings["data"] != "generated":
        raise ValueError(
            f"study=pop_out draws its own arrays; leave {settings['data']} out, give levels.KIND=[...]"
        )
    levels = levels_of(settings)
    require_levels(levels)
    return ladder(levels, settings["repeats"])


def levels_of(settings: dict[str, Any]) -> dict[str, Any]:
    """Those of the kinds that are shown."""
    return {kind: levels for kind, levels in settings["levels"].items() if levels}


def require_known(metrics: "dict[str, Metric]", dataset: "Dataset") -> None:
    """Raises ValueError for a metric that this data set tells nothing for."""
    from attnvis.metrics.metric import facts

    known = dataset.known | {"network", "evidence"}
    for text, metric in metrics.items():
        lacking = [need for need in facts(metric).needs if not known & set(need.split("|"))]
        if lacking:
            has = ", ".join(sorted(dataset.known)) or "nothing"
            needs = " and ".join(need.replace("|", " or ") for need in lacking)
            raise ValueError(f"metric {text} needs {needs}; what is known of these photos is {has}")


def measure_and_tell(cfg: "DictConfig", work: Work, folder: Path) -> int:
    """What is not measured yet, then what the study says.  Gives 1 where a photo failed."""
    from attnvis.experiments.evaluate.measure import DataPhotos, Measuring, read_evaluation

    settings = work.settings
    numbers = draw_numbers(len(work.dataset), settings["most"], settings["seed"])
    dataset = work.dataset.chosen(numbers)
    left = begin(work, dataset, folder, resume=cfg.resume)
    measuring = Measuring(
        dataset,
        work.maker,
        work.metrics,
        work.preprocessing,
        folder,
        longest=settings["longest"],
        between=settings["between"],
        left=left,
        against=None if settings["against"] == USUAL_ROW else str(settings["against"]),
    )
    if left:
        start(cfg, work, measuring, folder)
    maker = work.maker.prepared(work.preprocessing, DataPhotos(dataset))
    work = replace(work, maker=maker)
    measuring.maker = maker
    measuring.run(cfg.batch_size, work.workers, say=note, watch=progress)
    if remark := dataset.remark():
        note(remark)
    evaluation = read_evaluation(folder, dataset.names, list(work.metrics), measuring.failures)
    for row, reason in work.maker.refused.items():
        note(f"{row} is left out: {reason}")
    if settings["study"] == "pop_out":
        tell_pop_out(work, evaluation, folder)
    elif settings["study"] == "advice":
        tell_advice(work, evaluation, folder)
    else:
        tell_table(work, dataset, evaluation, folder)
    complain(Counter(reason for _, reason in evaluation.failures))
    return 1 if evaluation.failures else 0


def begin(work: Work, dataset: "Dataset", folder: Path, resume: bool) -> list[int]:
    """Writes the record of the folder; gives the numbers of the photos that are still to be measured.

    Raises ValueError where the folder was begun with other settings, photos or files of a query.
    """
    from attnvis.experiments.evaluate.measure import photo_file, read_measured
    from attnvis.json_files import json_digest, read_json, write_json
    from attnvis.pipeline.question_files import query_files, require_same_files
    from attnvis.pipeline.resume import require_own_files

    require_own_files(
        folder, files=(RECORD, "index.html", "table.md"), folders=("photos", "figures", "wandb")
    )
    inputs = class_name_files(work.settings)
    for question in work.maker.queries.values():
        inputs |= query_files(question)
    usual = [key for key, value in LATER.items() if work.settings[key] == value]
    usual += [] if levels_of(work.settings) else ["levels"]
    kept = {key: value for key, value in work.settings.items() if key not in (*HARMLESS, *usual)}
    about = json_digest([kept, list(dataset.names), work.maker.backbone.digest])
    record: dict[str, Any] = {"command": command_line(), "digest": about, "inputs": inputs}
    if not resume:
        for path in (folder / "photos").glob("*.npz"):
            path.unlink()
        write_json(folder, RECORD, record)
        return list(range(len(dataset)))
    begun = read_json(folder / RECORD)
    require_same_files(folder, begun.get("inputs"), inputs)
    if begun.get("digest") != about:
        raise ValueError(
            f"{folder} was begun with other settings, weights or photos; evaluate again in another folder"
        )
    return [
        number
        for number in range(len(dataset))
        if not (folder / photo_file(number)).is_file() or read_measured(folder, number, work.metrics) is None
    ]


def start(cfg: "DictConfig", work: Work, measuring: "Measuring", folder: Path) -> None:
    """One engine from the folder's first photo to its last."""
    from attnvis.json_files import read_json, write_json
    from attnvis.types import Provenance

    record = read_json(folder / RECORD)
    if begun := record.get("provenance"):
        remark = work.encoder.go_on(Provenance.from_entries(begun), work.workers)
        if remark:
            note(remark)
    else:
        paths, _, pictures = measuring.places
        files = [path for path in paths if path not in pictures.numbers]
        if files:
            prepare(work.encoder, files, work.preprocessing, workers=work.workers, settings=cfg)
        about = work.encoder.describe(work.preprocessing).entries()
        write_json(folder, RECORD, record | {"provenance": about})


COMMAND = Command(
    "evaluate",
    evaluate,
    argument="DATA",
    key="data",
    single="one data set",
    record=RECORD,
    resuming=("resume=true",),
    changeable=("against",),
    axes=AXES | {"method": "methods", "metric": "metrics"},
)

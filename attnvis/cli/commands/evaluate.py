"""`attnvis evaluate`: a data set in, every method and setting in one table with intervals out."""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from attnvis.cli.chosen_method import class_name_files
from attnvis.cli.commands.command import Command
from attnvis.cli.commands.common import (
    build_network,
    check_logger,
    command_line,
    listed,
    prepare,
    shout,
    thread_count,
)
from attnvis.cli.commands.sanity import check_sanity
from attnvis.cli.commands.sweep import named
from attnvis.cli.config import build, plain
from attnvis.cli.messages import complain, note, progress, short_path

if TYPE_CHECKING:
    from omegaconf import DictConfig

    from attnvis.backbone.backbone import Backbone
    from attnvis.backbone.cache import Cached
    from attnvis.data.samples import Dataset
    from attnvis.experiments.evaluate.maps import MapMaker
    from attnvis.experiments.evaluate.measure import Evaluation, Measuring
    from attnvis.experiments.evaluate.page import Shown
    from attnvis.experiments.evaluate.statistics import Table
    from attnvis.metrics.metric import Facts, Metric
    from attnvis.render.overlays import Style
    from attnvis.types import Preprocessing

__all__ = ["COMMAND", "evaluate"]

RECORD = "evaluate.json"
HARMLESS = (
    *("against", "batch_size", "cache", "examples", "logger", "name", "resume", "render", "trust"),
    "workers",
)
STUDIES = ("table", "sanity", "advice", "pop_out")
# settings that came later: at these values nothing is measured otherwise, and older folders go on
LATER: dict[str, Any] = {"study": "table", "repeats": 30, "placements": []}
USUAL_ROW = "centre"  # that others are compared with
ATTENTION = {"query": "queries", "scaling": "scalings", "normalise": "normalisers"}


@dataclass(frozen=True, eq=False)
class Work:
    """What an evaluation is made of, all settings checked."""

    dataset: "Dataset"
    metrics: "dict[str, Metric]"
    encoder: "Backbone | Cached"
    maker: "MapMaker"
    preprocessing: "Preprocessing"
    settings: dict[str, Any]
    style: "Style"
    workers: int

    @property
    def facts(self) -> "list[Facts]":
        """Of the metrics, by the names under which they were asked for."""
        from attnvis.metrics.metric import facts

        return [replace(facts(metric), name=name) for name, metric in self.metrics.items()]


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
    lock = locked(folder)
    try:
        return measure_and_tell(cfg, work, folder)
    finally:
        lock.close()


def set_up(cfg: "DictConfig", settings: dict[str, Any]) -> Work:
    """Raises ValueError for what is no data set, and for metrics and methods that there are not."""
    import torch

    from attnvis.backbone.cache import remembered
    from attnvis.experiments.evaluate.maps import MapMaker, backbone_placements
    from attnvis.experiments.evaluate.measure import require_settings, usual_metrics
    from attnvis.experiments.evaluate.naming import ATTENTION as OF_ATTENTION
    from attnvis.experiments.evaluate.naming import parse_methods, parse_metrics
    from attnvis.metrics.metric import facts

    if settings["between"] not in ("linear", "nearest"):
        raise ValueError(f"between={settings['between']}: give linear or nearest")
    dataset = photos_of(settings)
    metrics = parse_metrics(listed(settings["metrics"]) or usual_metrics(dataset.known))
    require_known(metrics, dataset)
    require_settings(metrics)
    texts = listed(settings["methods"])
    trusted = listed(settings["trust"])
    stages: dict[str, dict[str, Any]] = {
        axis: {text: named(kind, text, trusted) for text in listed(settings[axis])}
        for kind, axis in ATTENTION.items()
    }
    if OF_ATTENTION not in texts:
        stages["queries"] = {}
    torch.manual_seed(cfg.seed)
    network = build_network(cfg)
    encoder = remembered(network, settings["cache"], say=note)
    preprocessing = network.preprocessing.changed(**settings["preprocess"])
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
    from attnvis.experiments.evaluate.measure import DataPhotos, Measuring, read_evaluation

    chosen = chosen_photos(work)
    dataset = work.dataset.chosen(chosen)
    left = begin(work, dataset, folder, resume=cfg.resume)
    measuring = Measuring(
        dataset,
        work.maker,
        work.metrics,
        work.preprocessing,
        folder,
        longest=work.settings["longest"],
        between=work.settings["between"],
        left=left,
        against=None if work.settings["against"] == USUAL_ROW else str(work.settings["against"]),
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
    if work.settings["study"] == "pop_out":
        tell_pop_out(work, evaluation, folder)
    elif work.settings["study"] == "advice":
        tell_advice(work, evaluation, folder)
    else:
        tell(work, dataset, evaluation, folder)
    reasons: dict[str, int] = {}
    for _, reason in evaluation.failures:
        reasons[reason] = reasons.get(reason, 0) + 1
    complain(reasons)
    return 1 if evaluation.failures else 0


def chosen_photos(work: Work) -> list[int]:
    """The numbers of the samples that are measured.  Raises ValueError for fewer than 1."""
    import numpy as np

    most, count = work.settings["most"], len(work.dataset)
    if most is None or most >= count:
        return list(range(count))
    if most < 1:
        raise ValueError(f"most={most} leaves no photo; give 1 or more, or null for all")
    drawn = np.random.default_rng(work.settings["seed"]).permutation(count)[:most]
    return sorted(drawn.tolist())


def begin(work: Work, dataset: "Dataset", folder: Path, resume: bool) -> list[int]:
    """Writes the record of the folder; gives the numbers of the photos that are still to be measured.

    Raises ValueError where the folder was begun with other settings, photos or files of a query.
    """
    from attnvis.experiments.evaluate.measure import photo_file, read_photo
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
        if not (folder / photo_file(number)).is_file() or read_photo(folder, number, work.metrics) is None
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


def tell(work: Work, dataset: "Dataset", evaluation: "Evaluation", folder: Path) -> None:
    """The table in the terminal, in files and at W&B; the page."""
    from attnvis.experiments.evaluate.findings import sentences
    from attnvis.experiments.evaluate.page import write_evaluation, write_tables
    from attnvis.experiments.evaluate.statistics import leaders, summarise
    from attnvis.experiments.evaluate.tables import as_terminal, leader_table, plain_table

    settings = work.settings
    table = summarise(evaluation, work.facts, against(work, evaluation), seed=settings["seed"])
    write_tables(evaluation, table, folder)
    print(as_terminal(table))
    print()
    if best := list(leaders(evaluation, work.facts)):
        print(plain_table(*leader_table(best)))
        print()
    for sentence in sentences(table):
        print(sentence)
    shown = list(draw(work, dataset, evaluation, table)) if settings["examples"] else []
    page = write_evaluation(
        evaluation,
        table,
        folder,
        facts=about(work),
        best=best,
        shown=shown,
        refused=work.maker.refused,
        warnings=work.encoder.warnings_at(work.preprocessing),
        style=work.style,
    )
    log(work, table, folder, page)
    print(f"{table.photos} photos measured: {short_path(page)}")


def tell_pop_out(work: Work, evaluation: "Evaluation", folder: Path) -> None:
    """The thresholds in the terminal, in files and at W&B; the page."""
    from attnvis.experiments.pop_out.measure import measure_pop_out
    from attnvis.experiments.pop_out.page import as_text, write_pop_out
    from attnvis.pipeline.tracking import Tracker

    settings = work.settings
    study = measure_pop_out(evaluation, work.facts, seed=settings["seed"])
    print(as_text(study))
    warnings = work.encoder.warnings_at(work.preprocessing)
    page = write_pop_out(study, evaluation, work.facts, folder, facts=about(work), warnings=warnings)
    group = str(settings["name"])
    with Tracker(
        folder, settings["logger"], settings, job="evaluate", group=group, name=folder.name
    ) as tracker:
        tracker.log_numbers(study.numbers)
        tracker.log_page("page", page)
        tracker.log_files("pop_out", [folder / name for name in ("thresholds.csv", "points.csv")])
    print(f"{len(evaluation.photos)} arrays measured: {short_path(page)}")


def tell_advice(work: Work, evaluation: "Evaluation", folder: Path) -> None:
    """Which layer, query and scaling to take: in the terminal, in files and at W&B; the page."""
    from attnvis.experiments.advice.page import as_text, sentences, write_advice
    from attnvis.experiments.advice.ranking import advise
    from attnvis.pipeline.tracking import Tracker

    settings = work.settings
    advice = advise(evaluation, work.facts, work.encoder.layers, seed=settings["seed"])
    print(as_text(advice))
    print()
    for sentence in sentences(advice):
        print(sentence)
    page = write_advice(
        advice,
        folder,
        facts=about(work) | {"files": "advice.csv, figures/"},
        warnings=work.encoder.warnings_at(work.preprocessing),
        failures=evaluation.failures,
        refused=work.maker.refused,
    )
    group = str(settings["name"])
    with Tracker(
        folder, settings["logger"], settings, job="advice", group=group, name=folder.name
    ) as tracker:
        tracker.log_numbers({
            f"{ranking.metric}/{ranking.axis}/{each.name}": each.value.value
            for ranking in advice.rankings
            for each in ranking.candidates
        })  # fmt: skip
        tracker.log_page("page", page)
        tracker.log_files("advice", [folder / "advice.csv"])
    print(f"{advice.photos} photos measured: {short_path(page)}")


def against(work: Work, evaluation: "Evaluation") -> str:
    """The row that all are held against; where it was not asked for, the first, which is said."""
    wanted = str(work.settings["against"])
    names = [row.name for row in evaluation.rows if row.temperature is None]
    if wanted in names or wanted != USUAL_ROW:
        return wanted
    note(f"there is no row {wanted}: all are compared with {names[0]}; method=...,centre adds it")
    return names[0]


def about(work: Work) -> dict[str, str]:
    """What somebody needs to make this again."""
    from attnvis.metrics.metric import facts

    settings = work.settings
    longest = settings["longest"]
    grid = "the photo's own pixels" if longest is None else f"a grid of at most {longest} px a side"
    needs = {text: " and ".join(facts(metric).needs) for text, metric in work.metrics.items()}
    entries = replace(work.encoder.describe(work.preprocessing), command=command_line()).entries()
    return {
        "data": f"{settings['data']}, layout {work.dataset.layout}",
        "maps": f"as densities of sum 1 on {grid}, {settings['between']} between the cells' centres; 0 where "
        "the network never looked",
        "metrics": "; ".join(f"{text} (needs {need})" for text, need in needs.items()),
        "normaliser": ", ".join(listed(settings["normalisers"])),
        "files": "table.md, table.csv, table.tex; photos.parquet: a line for every photo, row and metric; "
        "figures/",
        **entries,
    }


def draw(work: Work, dataset: "Dataset", evaluation: "Evaluation", table: "Table") -> "list[Shown]":
    """The examples with their pictures; each photo goes through the network once more."""
    from attnvis.data.decoding import load
    from attnvis.data.preprocessing import collate
    from attnvis.experiments.evaluate.findings import examples
    from attnvis.experiments.evaluate.page import draw_example
    from attnvis.pipeline.streaming import read_photo
    from attnvis.types import PhotoError

    shown, seen = [], dict[str, Any]()
    for example in examples(evaluation, table):
        try:
            if example.photo not in seen:
                sample = dataset[dataset.names.index(example.photo)]
                if sample.path is None:
                    photo = load(sample.picture, name=sample.name)
                else:
                    photo = read_photo(sample.path, work.preprocessing)
                (maps,) = work.maker(collate([photo], work.preprocessing))[0]
                by_row = {each.row.name: each for each in maps.maps}
                seen[example.photo] = (photo, sample.truth, by_row)
            photo, truth, by_row = seen[example.photo]
            shown.append(draw_example(photo, truth, by_row, example, work.style))
        except PhotoError as error:
            note(f"no picture of {example.photo}: {error}")
    return shown


def log(work: Work, table: "Table", folder: Path, page: Path) -> None:
    """At W&B every number under row and metric, the table, the page and the files."""
    from attnvis.pipeline.tracking import Tracker

    settings = work.settings
    rows = [row for row in table.rows if row.temperature is None]
    numbers, columns = dict[str, float](), dict[str, list[Any]]({"row": [row.name for row in rows]})
    for metric in table.metrics:
        values = [table.cells[row.name, metric.name].interval for row in rows]
        numbers |= {f"{metric.name}/{row.name}": each.value for row, each in zip(rows, values, strict=True)}
        for end in ("value", "low", "high"):
            name = metric.name if end == "value" else f"{metric.name} {end}"
            columns[name] = [getattr(each, end) for each in values]
    group = str(settings["name"])
    with Tracker(
        folder, settings["logger"], settings, job="evaluate", group=group, name=folder.name
    ) as tracker:
        tracker.log_numbers(numbers)
        tracker.log_table("table", columns)
        tracker.log_page("page", page)
        tracker.log_files("evaluation", [folder / name for name in ("table.csv", "photos.parquet")])


COMMAND = Command(
    "evaluate",
    evaluate,
    argument="DATA",
    key="data",
    single="one data set",
    record=RECORD,
    resuming=("resume=true",),
    changeable=("against",),
    axes=ATTENTION | {"method": "methods", "metric": "metrics"},
)

"""What was measured in, what its study says of it out: in the terminal, in files, on a page and at W&B."""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from attnvis.cli.common import command_line, listed
from attnvis.cli.messages import note, short_path

if TYPE_CHECKING:
    from collections.abc import Mapping

    from attnvis.backbone.backbone import Backbone
    from attnvis.backbone.cache import Cached
    from attnvis.data.samples import Dataset
    from attnvis.experiments.evaluate.maps import MapMaker
    from attnvis.experiments.evaluate.measure import Evaluation
    from attnvis.experiments.evaluate.page import Shown
    from attnvis.experiments.evaluate.statistics import Table
    from attnvis.metrics.metric import Facts, Metric
    from attnvis.pipeline.tracking import Tracker
    from attnvis.render.overlays import Style
    from attnvis.types import Preprocessing

__all__ = ["USUAL_ROW", "Work", "study_tracker", "tell_advice", "tell_pop_out", "tell_table"]

USUAL_ROW = "centre"  # that others are compared with


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


def tell_table(work: Work, dataset: "Dataset", evaluation: "Evaluation", folder: Path) -> None:
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
    send_table(work, table, folder, page)
    print(f"{table.photos} photos measured: {short_path(page)}")


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


def send_table(work: Work, table: "Table", folder: Path, page: Path) -> None:
    """At W&B every number under row and metric, the table, the page and the files."""
    rows = [row for row in table.rows if row.temperature is None]
    numbers, columns = dict[str, float](), dict[str, list[Any]]({"row": [row.name for row in rows]})
    for metric in table.metrics:
        values = [table.cells[row.name, metric.name].interval for row in rows]
        numbers |= {f"{metric.name}/{row.name}": each.value for row, each in zip(rows, values, strict=True)}
        for end in ("value", "low", "high"):
            name = metric.name if end == "value" else f"{metric.name} {end}"
            columns[name] = [getattr(each, end) for each in values]
    files = [folder / "table.csv", folder / "photos.parquet"]
    with study_tracker(work.settings, folder) as tracker:
        tracker.log_numbers(numbers)
        tracker.log_table("table", columns)
        tracker.log_page("page", page)
        tracker.log_files("evaluation", files)


def tell_pop_out(work: Work, evaluation: "Evaluation", folder: Path) -> None:
    """The thresholds in the terminal, in files and at W&B; the page."""
    from attnvis.experiments.pop_out.measure import measure_pop_out
    from attnvis.experiments.pop_out.page import as_text, write_pop_out

    settings = work.settings
    study = measure_pop_out(evaluation, work.facts, seed=settings["seed"])
    print(as_text(study))
    warnings = work.encoder.warnings_at(work.preprocessing)
    page = write_pop_out(study, evaluation, work.facts, folder, facts=about(work), warnings=warnings)
    with study_tracker(settings, folder) as tracker:
        tracker.log_numbers(study.numbers)
        tracker.log_page("page", page)
        tracker.log_files("pop_out", [folder / name for name in ("thresholds.csv", "points.csv")])
    print(f"{len(evaluation.photos)} arrays measured: {short_path(page)}")


def tell_advice(work: Work, evaluation: "Evaluation", folder: Path) -> None:
    """Which layer, query and scaling to take: in the terminal, in files and at W&B; the page."""
    from attnvis.experiments.advice.page import as_text, sentences, write_advice
    from attnvis.experiments.advice.ranking import advise

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
    with study_tracker(settings, folder, job="advice") as tracker:
        tracker.log_numbers({
            f"{ranking.metric}/{ranking.axis}/{each.name}": each.value.value
            for ranking in advice.rankings
            for each in ranking.candidates
        })  # fmt: skip
        tracker.log_page("page", page)
        tracker.log_files("advice", [folder / "advice.csv"])
    print(f"{advice.photos} photos measured: {short_path(page)}")


def study_tracker(settings: "Mapping[str, Any]", folder: Path, job: str = "evaluate") -> "Tracker":
    """The run at W&B of a study; job: what kind of run it is there."""
    from attnvis.pipeline.tracking import Tracker

    logger, group = settings["logger"], str(settings["name"])
    return Tracker(folder, logger, settings, job=job, group=group, name=folder.name)

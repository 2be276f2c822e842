"""Rankings as a terminal, a spreadsheet and a page take them."""

import csv
import io
import math
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from attnvis.experiments.advice.ranking import Advice, Candidate, Ranking
from attnvis.experiments.evaluate.tables import interval_text, number_text
from attnvis.experiments.figure_files import write_figures
from attnvis.experiments.wording import listed_names, many
from attnvis.files import save
from attnvis.metrics.intervals import FEWEST_OF_MEANS
from attnvis.pipeline.records import SafeWriter
from attnvis.render.html import environment, write_page
from attnvis.render.plots import Figure, draw, short

__all__ = ["as_text", "sentences", "write_advice"]

NOUNS = {
    "layer": "layers",
    "query": "queries",
    "scaling": "scalings",
    "setting": "the setting and the controls",
}
BEST, OTHER = "#0072b2", "#8a8f98"


def verdict(ranking: Ranking, candidate: Candidate) -> str:
    """best | not told from the best | worse."""
    if math.isnan(candidate.value.value):
        return "not defined"
    if not ranking.told:
        return "too few photos"
    if candidate.worse_than:
        return "worse"
    return "best" if len(ranking.leaders) == 1 else "not told from the best"


def as_text(advice: Advice) -> str:
    """A line for every metric and axis: those that are not told from the best, and those that are worse."""
    head = ("not told from the best", "worse") if advice.photos >= FEWEST_OF_MEANS else ("in order", "")
    lines = [("metric", "of", *head)]
    for ranking in advice.rankings:
        arrow = "↑" if ranking.better == "higher" else "↓"
        leading = [with_value(each) for each in ranking.leaders]
        others = [with_value(each) for each in ranking.candidates if each.worse_than]
        lines.append((f"{ranking.metric} {arrow}", ranking.axis, ", ".join(leading), ", ".join(others)))
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    return "\n".join(
        "  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip()
        for line in lines
    )


def with_value(candidate: Candidate) -> str:
    return f"{candidate.name} {number_text(candidate.value.value)}"


def sentences(advice: Advice) -> Iterator[str]:
    """Of every metric which to take, and what cannot be told apart."""
    if advice.photos < FEWEST_OF_MEANS:
        yield (
            f"These are {many(advice.photos, 'photo')}: from {FEWEST_OF_MEANS} on it can be said which "
            "settings differ; the order here may be chance."
        )
        return
    for metric in advice.metrics:
        parts = [
            part_of(ranking)
            for ranking in advice.rankings
            if ranking.metric == metric and ranking.axis != "setting"
        ]
        yield f"{metric}: {'; '.join([*parts, of_setting(advice.of('setting', metric))])}."


def part_of(ranking: Ranking) -> str:
    """the layer last; the queries mean and norm cannot be told apart."""
    leaders = [each.name for each in ranking.leaders]
    if len(leaders) == 1:
        return f"the best {ranking.axis} is {leaders[0]}"
    if len(leaders) == len(ranking.candidates):
        return f"the {NOUNS[ranking.axis]} cannot be told apart"
    return f"of the {NOUNS[ranking.axis]} {listed_names(leaders)} cannot be told apart"


def of_setting(ranking: Ranking) -> str:
    """What the best setting reaches on photos that did not choose it, beside the controls."""
    (best,) = (each for each in ranking.candidates if each.chosen)
    limits = interval_text(best.value)
    quoted = [listed_names([name]) for name in best.chosen]
    text = f"take {quoted[0]}"
    if len(best.chosen) > 1:
        text += f" or {quoted[1]}, as the halves chose"
    text += ", which reaches on the photos that did not choose it "
    text += f"{number_text(best.value.value)}{f' {limits}' if limits else ''}"
    controls = [each for each in ranking.candidates if not each.chosen]
    worse = [each.name for each in controls if best.name in each.worse_than]
    better = [each.name for each in controls if each.name in best.worse_than]
    untold = [each.name for each in controls if each.name not in worse + better]
    if worse:
        text += f", better than {listed_names(worse)}"
    if better:
        text += f", worse than {listed_names(better)}"
    if untold:
        text += f", not told from {listed_names(untold)}"
    return text


# ------------------------------------------------------------------------------------------------ the files


def write_advice(
    advice: Advice,
    folder: Path,
    facts: Mapping[str, str],
    warnings: Sequence[str] = (),
    failures: Sequence[tuple[str, str]] = (),
    refused: Mapping[str, str] | None = None,
) -> Path:
    """index.html, advice.csv and figures/; gives the page."""
    save(folder, "advice.csv", as_csv(advice).encode("utf-8", "backslashreplace"))
    sections = []
    for metric in advice.metrics:
        rankings = [ranking for ranking in advice.rankings if ranking.metric == metric]
        figures = [ranking_figure(ranking) for ranking in rankings]
        write_figures(folder, figures)
        sections.append((metric, list(zip(rankings, figures, strict=True))))
    pages = environment("attnvis.experiments.advice", "attnvis.experiments")
    return write_page(
        folder / "index.html",
        pages.get_template("advice.html"),
        title=f"Which layer, query and scaling: {many(advice.photos, 'photo')}",
        sentences=list(sentences(advice)),
        sections=sections,
        nouns=NOUNS,
        number=number_text,
        limits=interval_text,
        verdict=verdict,
        failures=failures,
        refused=refused or {},
        warnings=warnings,
        facts=facts,
    )


COLUMNS = (
    "metric",
    "better",
    "axis",
    "name",
    "value",
    "low",
    "high",
    "photos",
    "verdict",
    "worse_than",
    "chosen",
)


def as_csv(advice: Advice) -> str:
    text = io.StringIO(newline="")
    writer = SafeWriter(text, COLUMNS, restval="", quoting=csv.QUOTE_MINIMAL)
    writer.writeheader()
    for ranking in advice.rankings:
        for each in ranking.candidates:
            writer.writerow({
                "metric": ranking.metric,
                "better": ranking.better,
                "axis": ranking.axis,
                "name": each.name,
                "value": each.value.value,
                "low": each.value.low,
                "high": each.value.high,
                "photos": ranking.photos,
                "verdict": verdict(ranking, each),
                "worse_than": " / ".join(each.worse_than),
                "chosen": " / ".join(each.chosen),
            })  # fmt: skip
    return text.getvalue()


def ranking_figure(ranking: Ranking) -> Figure:
    """A point and its interval for each candidate, the best at the top; those not told from it in blue."""
    candidates = [each for each in ranking.candidates if not math.isnan(each.value.value)]

    def paint(axes: Any) -> None:
        for place, each in enumerate(candidates):
            colour = OTHER if each.worse_than or not ranking.told else BEST
            axes.plot([each.value.low, each.value.high], [place, place], color=colour, lw=2)
            axes.plot([each.value.value], [place], "o", color=colour, ms=5)
        axes.set_yticks(range(len(candidates)), [short(each.name) for each in candidates])
        axes.set_ylim(len(candidates) - 0.4, -0.6)
        axes.set_xlabel(f"{ranking.metric} {'↑' if ranking.better == 'higher' else '↓'}")
        axes.set_title(NOUNS[ranking.axis])

    name = f"{ranking.axis}_{ranking.metric.replace(':', '_')}"
    return draw(
        name, f"{NOUNS[ranking.axis]} by {ranking.metric}", 1.2 + 0.28 * len(candidates), paint, left=1.9
    )

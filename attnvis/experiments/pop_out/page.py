"""What a pop-out study found: tables for terminal and spreadsheet, sentences, one figure a metric, a page."""

import csv
import io
import math
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from attnvis.data.stimuli import KINDS
from attnvis.experiments.evaluate.measure import Evaluation
from attnvis.experiments.evaluate.tables import write_photo_rows
from attnvis.experiments.figure_files import write_figures
from attnvis.experiments.pop_out.measure import REAL, Curve, PopOut, lowest
from attnvis.experiments.wording import listed
from attnvis.files import save, slug
from attnvis.metrics.intervals import Interval
from attnvis.metrics.metric import Facts
from attnvis.metrics.psychometric import DRAWS
from attnvis.pipeline.records import SafeWriter
from attnvis.render.html import environment, write_page
from attnvis.render.plots import Figure, draw, percents, short

__all__ = ["as_text", "figures", "sentences", "threshold_text", "write_pop_out"]

UNITS = {"colour": "° of hue", "orientation": "°", "size": "× the others' diameter"}
FEWEST_OF_A_SEARCH = 2


def level_text(level: float) -> str:
    return f"{level:.3g}"


def level_of(curve: Curve, difference: float) -> str:
    """A threshold as a level that can be asked for; beyond the levels that were shown, that it is."""
    if difference == -math.inf:
        return f"below {level_text(curve.levels[0])}"
    if difference == math.inf:
        return f"above {level_text(curve.levels[-1])}"
    return level_text(difference + lowest(curve.kind))


def threshold_text(curve: Curve) -> str:
    """28.1 [24.0, 33.5]; in words where there is none."""
    if curve.fit is None:
        return "not measured at every level"
    if not curve.rises:
        found = sum(share.value * share.count for share in curve.shares)
        return f"no threshold, finds {found / sum(share.count for share in curve.shares):.2f} at all levels"
    if not curve.has_threshold:
        return level_of(curve, curve.fit.threshold)
    low, high = (level_of(curve, end) for end in (curve.fit.low, curve.fit.high))
    return f"{level_of(curve, curve.fit.threshold)} [{low}, {high}]"


def share_text(share: Interval) -> str:
    """0.25 [0.10, 0.44], with true minus signs."""
    text = f"{share.value:.2f}"
    if not math.isnan(share.low):
        text += f" [{share.low:.2f}, {share.high:.2f}]"
    return text.replace("-", "−")


# -------------------------------------------------------------------------------- tables


Lines = tuple[tuple[str, ...], list[tuple[str, ...]]]  # headings, rows


def tables(study: PopOut) -> Iterator[tuple[str, Lines]]:
    """(caption, headings and rows): thresholds of each metric, finds in searches, means of other metrics."""
    metrics = tuple(dict.fromkeys(curve.metric for curve in study.curves))
    for metric in metrics:
        fitted = [kind for kind in study.kinds if any(each.fit for each in study.of(kind, metric))]
        if fitted:
            headings = ("threshold", *(f"{kind}, {UNITS[kind]}" for kind in fitted))
            yield f"Thresholds of {metric}", (headings, rows_of(study, metric, fitted, threshold_text))
        others = [kind for kind in study.kinds if kind not in fitted and study.of(kind, metric)]
        if others:
            ends = [study.of(kind, metric)[0].levels for kind in others]
            headings = (
                "found" if is_name_of_share(metric) else "mean",
                *(span_heading(kind, levels) for kind, levels in zip(others, ends, strict=True)),
            )
            yield (
                f"{metric}, at the lowest and the highest level",
                (
                    headings,
                    rows_of(study, metric, others, ends_text),
                ),
            )


def is_name_of_share(metric: str) -> bool:
    return metric.partition(":")[0] in ("found_first", "pointing_game")


def span_heading(kind: str, levels: Sequence[float]) -> str:
    what = UNITS.get(kind, "items")
    ends = " → ".join(dict.fromkeys(level_text(level) for level in (levels[0], levels[-1])))
    return f"{kind}, {ends} {what}"


def ends_text(curve: Curve) -> str:
    texts = [share_text(curve.shares[0])]
    if len(curve.shares) >= FEWEST_OF_A_SEARCH:
        texts.append(share_text(curve.shares[-1]))
    return " → ".join(texts)


def rows_of(study: PopOut, metric: str, kinds: Sequence[str], text: Any) -> list[tuple[str, ...]]:
    by_place = {(curve.row, curve.kind): curve for curve in study.curves if curve.metric == metric}
    return [(row, *(text(by_place[row, kind]) for kind in kinds)) for row in study.rows]


def as_text(study: PopOut) -> str:
    """Markdown tables that a terminal shows in columns, then the finding."""
    lines: list[str] = []
    for caption, (headings, rows) in tables(study):
        widths = [max(map(len, column)) for column in zip(headings, *rows, strict=True)]
        aligned = [
            " | ".join(text.ljust(width) for text, width in zip(row, widths, strict=True))
            for row in (headings, *rows)
        ]
        rule = "|".join("-" * (width + 2) for width in widths)
        lines += [caption, "", f"| {aligned[0]} |", f"|{rule}|"]
        lines += [f"| {row} |" for row in aligned[1:]] + [""]
    return "\n".join([*lines, *sentences(study), *doubts(study)])


# -------------------------------------------------------------------------------- sentences


def sentences(study: PopOut) -> Iterator[str]:
    """Of every kind who finds the odd item at the smallest difference, and who shows no threshold."""
    for metric in dict.fromkeys(curve.metric for curve in study.thresholds):
        for kind in (kind for kind in study.kinds if kind in KINDS):
            curves = study.of(kind, metric)
            if curves and curves[0].fit is not None:
                yield f"{metric}, {kind}: {sentence_of_kind(curves)}"
    yield from asymmetry_sentences(study)


def asymmetry_sentences(study: PopOut) -> Iterator[str]:
    """Of every pair of searches who finds the one more often, and who the other."""
    groups: dict[tuple[str, str, str, bool], list[str]] = {}  # who, by how much
    for pair in study.asymmetries:
        if pair.difference.certain:
            is_expected = pair.difference.value > 0
            easy, hard = (pair.easy, pair.hard) if is_expected else (pair.hard, pair.easy)
            difference = pair.difference if is_expected else turned(pair.difference)
            text = f"{pair.row} by {share_text(difference)} of the arrays"
            groups.setdefault((pair.metric, easy, hard, is_expected), []).append(text)
    for (metric, easy, hard, is_expected), rows in groups.items():
        expected = "as people do" if is_expected else "the reverse of what people do"
        yield f"{metric}, {easy} found more often than {hard}, {expected}: {'; '.join(rows)}."


def turned(difference: Interval) -> Interval:
    """The same, seen from the other side."""
    return Interval(-difference.value, -difference.high, high=-difference.low, count=difference.count)


def sentence_of_kind(curves: Sequence[Curve]) -> str:
    known = [curve for curve in curves if curve.has_threshold]
    flat = [curve.row for curve in curves if not curve.rises]
    beyond = [curve.row for curve in curves if curve.rises and not curve.has_threshold]
    parts = []
    if known:
        best = min(known, key=lambda curve: curve.fit.threshold if curve.fit else math.inf)
        parts.append(f"the lowest threshold is {threshold_text(best)} ({best.row})")
        alike = [curve.row for curve in known if curve is not best and overlap(curve, best)]
        if alike:
            parts.append(f"not told apart from it by their intervals: {counted(alike)}")
    if beyond:
        parts.append(f"the threshold lies beyond the levels shown: {counted(beyond)}")
    if flat:
        parts.append(
            "no threshold, for finds are not shown to become more frequent with the difference: "
            f"{counted(flat)}"
        )
    return f"{'; '.join(parts)}."


def overlap(one: Curve, other: Curve) -> bool:
    assert one.fit is not None and other.fit is not None
    return one.fit.low <= other.fit.high and other.fit.low <= one.fit.high


def counted(names: Sequence[str]) -> str:
    return listed(list(names)) if len(names) <= 4 else f"{len(names)} rows"


def doubts(study: PopOut) -> Iterator[str]:
    """Of fits with a threshold: points that no such curve goes through, and draws that left the levels."""
    for curve in study.thresholds:
        fit = curve.fit
        if fit is None or not curve.has_threshold:
            continue
        name = f"{curve.metric}, {curve.kind}, {curve.row}"
        if fit.misfit < REAL:
            yield (
                f"{name}: the points do not follow such a curve (by chance they lie as far from one "
                f"{fit.misfit:.3f} of the times), and the threshold is that of the nearest one."
            )
        if fit.lost:
            yield (
                f"{name}: {fit.lost} of {DRAWS} bootstrap draws had their threshold beyond the levels that "
                "were shown; they count as below or above all."
            )


# -------------------------------------------------------------------------------- files


THRESHOLD_COLUMNS = (
    *("metric", "kind", "row", "threshold", "low", "high", "unit", "slope", "lapse", "guess", "chance"),
    *("misfit", "lost", "says"),
)
POINT_COLUMNS = ("metric", "kind", "row", "level", "value", "low", "high", "arrays", "guess", "fitted")


def as_csv(columns: Sequence[str], lines: Sequence[Mapping[str, object]]) -> bytes:
    text = io.StringIO(newline="")
    writer = SafeWriter(text, columns, restval="", quoting=csv.QUOTE_MINIMAL)
    writer.writeheader()
    for line in lines:
        writer.writerow(line)
    return text.getvalue().encode("utf-8", "backslashreplace")


def threshold_lines(study: PopOut) -> Iterator[dict[str, object]]:
    """A line a curve; -inf and inf: below and above all levels."""
    for curve in study.thresholds:
        fit = curve.fit
        assert fit is not None
        least = lowest(curve.kind)
        ends = (fit.threshold + least, fit.low + least, fit.high + least)
        threshold, low, high = ends if curve.rises else (math.nan, math.nan, math.nan)
        yield {
            "metric": curve.metric, "kind": curve.kind, "row": curve.row,
            "threshold": threshold, "low": low, "high": high, "unit": UNITS[curve.kind],
            "slope": fit.slope, "lapse": fit.lapse, "guess": fit.guess,
            "chance": curve.chance, "misfit": fit.misfit, "lost": fit.lost, "says": threshold_text(curve),
        }  # fmt: skip


def point_lines(study: PopOut) -> Iterator[dict[str, object]]:
    for curve in study.curves:
        fitted = fitted_at(curve, np.array(curve.levels))
        for level, share, guess, height in zip(
            curve.levels, curve.shares, curve.guesses, fitted, strict=True
        ):
            yield {
                "metric": curve.metric, "kind": curve.kind, "row": curve.row, "level": level,
                "value": share.value, "low": share.low, "high": share.high, "arrays": share.count,
                "guess": guess, "fitted": height,
            }  # fmt: skip


def fitted_at(curve: Curve, levels: np.ndarray) -> np.ndarray:
    """The fitted curve; NaN where there is no threshold."""
    if curve.fit is None or not curve.rises:
        return np.full(len(levels), np.nan)
    return curve.fit.at(levels - lowest(curve.kind))


def write_pop_out(
    study: PopOut,
    evaluation: Evaluation,
    metrics: Sequence[Facts],
    folder: Path,
    facts: Mapping[str, str],
    warnings: Sequence[str] = (),
) -> Path:
    """index.html, thresholds.csv, points.csv, photos.parquet and figures/; gives the page."""
    save(folder, "thresholds.csv", as_csv(THRESHOLD_COLUMNS, list(threshold_lines(study))))
    save(folder, "points.csv", as_csv(POINT_COLUMNS, list(point_lines(study))))
    write_photo_rows(folder, evaluation, metrics)
    drawn = figures(study)
    write_figures(folder, drawn)
    pages = environment("attnvis.experiments.pop_out", "attnvis.experiments")
    return write_page(
        folder / "index.html",
        pages.get_template("pop_out.html"),
        title="By how much an odd item must differ to be found",
        sentences=list(sentences(study)),
        doubts=list(doubts(study)),
        tables=list(tables(study)),
        figures=drawn,
        failures=study.failures,
        warnings=warnings,
        facts=dict(facts) | {"files": "thresholds.csv, points.csv, photos.parquet, figures/"},
    )


# -------------------------------------------------------------------------------- figures

COLOURS = (
    *("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#000000", "#7a4fa3"),
    *("#8a8f98", "#8c510a"),
)
MARKS = "osD^vP*Xdp"
PANEL = 2.15  # inches


def figures(study: PopOut) -> list[Figure]:
    """Of every metric one figure with a panel a kind: first those with thresholds, then the searches."""
    metrics = tuple(dict.fromkeys(curve.metric for curve in study.curves))
    return [
        figure
        for metric in metrics
        for name, kinds in (
            ("levels", [kind for kind in study.kinds if kind in KINDS]),
            ("items", [kind for kind in study.kinds if kind not in KINDS]),
        )
        if (figure := panels(study, metric, name, kinds)) is not None
    ]


def panels(study: PopOut, metric: str, name: str, kinds: Sequence[str]) -> Figure | None:
    """One below the other, every row in its colour; None where there is nothing to draw."""
    groups = [curves for kind in kinds if (curves := study.of(kind, metric))]
    if not groups:
        return None
    rows = math.ceil(len(study.rows) / 2)
    foot = 0.75 + 0.2 * rows
    height = 0.36 + PANEL * len(groups) + foot - 0.3

    def paint(axes: Any) -> None:
        figure, place = axes.figure, axes.get_position()
        axes.remove()
        gap = 0.62 / height
        tall = (place.height - gap * (len(groups) - 1)) / len(groups)
        for number, curves in enumerate(groups):
            bottom = place.y1 - tall * (number + 1) - gap * number
            panel = figure.add_axes((place.x0, bottom, place.width, tall))
            paint_kind(panel, curves, study.rows)
        handles, labels = figure.axes[0].get_legend_handles_labels()
        figure.legend(
            handles, labels, loc="upper center", bbox_to_anchor=(0.5, (foot - 0.5) / height), ncols=2,
            columnspacing=1.2, handlelength=1.6,
        )  # fmt: skip

    title = f"{metric} by {'the difference' if name == 'levels' else 'the number of items'}"
    return draw(slug(f"{name}_{metric}"), title, height, paint, foot=foot)


def paint_kind(axes: Any, curves: Sequence[Curve], rows: Sequence[str]) -> None:
    """Points with intervals, the fitted curves, dots at the thresholds, and what chance finds."""
    kind, share = curves[0].kind, is_name_of_share(curves[0].metric)
    least = lowest(kind)
    levels = np.array(curves[0].levels)
    axes.set_xscale("log")
    spread = np.linspace(-0.018, 0.018, len(rows))  # so that intervals stand side by side
    smooth = np.geomspace(levels[0] - least, levels[-1] - least, 200)
    for curve in curves:
        place = rows.index(curve.row)
        colour, mark = COLOURS[place % len(COLOURS)], MARKS[place % len(MARKS)]
        span = math.log((levels[-1] - least) / (levels[0] - least)) if len(levels) > 1 else 1.0
        x = (levels - least) * np.exp(spread[place] * span)
        values = np.array([each.value for each in curve.shares])
        lows = np.array([each.low for each in curve.shares])
        highs = np.array([each.high for each in curve.shares])
        axes.vlines(x, lows, highs, color=colour, lw=0.8, alpha=0.45)
        fitted = fitted_at(curve, smooth + least)
        line = "" if not np.isnan(fitted).all() else ":"
        axes.plot(x, values, mark + line, color=colour, ms=3.4, lw=0.7, label=short(curve.row, 30))
        if not np.isnan(fitted).all():
            axes.plot(smooth, fitted, color=colour, lw=1.6)
    if share:
        axes.plot(levels - least, curves[0].guesses, color="#5f656f", lw=1, ls=(0, (4, 3)), label="chance")
        axes.set_ylim(-0.03, 1.03)
        percents(axes.yaxis)
    axes.set_title(f"{kind}", fontsize=10)
    axes.set_xlabel(UNITS_OF_AXIS.get(kind, "items"), labelpad=1)
    axes.set_ylabel("found" if share else curves[0].metric)
    every = levels if len(levels) <= 6 else levels[::2]
    axes.set_xticks(every - least, [level_text(level) for level in every])
    axes.minorticks_off()


UNITS_OF_AXIS = {
    "colour": "degrees of hue between the odd item and the others",
    "orientation": "degrees between the odd item and the others",
    "size": "diameter of the odd item, times the others'",
}

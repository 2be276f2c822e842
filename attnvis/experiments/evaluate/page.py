"""An evaluation's folder: the page, the tables, the rows of all photos, the figures."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from jaxtyping import UInt8

from attnvis.data.decoding import full_pixels
from attnvis.experiments.evaluate.findings import Example, flat_lines, sentences
from attnvis.experiments.evaluate.maps import PlacedMap
from attnvis.experiments.evaluate.measure import Evaluation
from attnvis.experiments.evaluate.statistics import Leader, Table
from attnvis.experiments.evaluate.tables import (
    as_csv,
    as_latex,
    as_markdown,
    heading,
    interval_text,
    leader_table,
    mark_of,
    number_text,
    write_photo_rows,
)
from attnvis.experiments.figure_files import write_figures
from attnvis.files import save
from attnvis.metrics.intervals import FEWEST_OF_MEANS, Z
from attnvis.metrics.metric import Facts
from attnvis.render import overlays, panels
from attnvis.render.html import environment, write_page
from attnvis.render.plots import Figure, draw, legend, octaves, short
from attnvis.types import Photo, Truth

__all__ = ["Shown", "draw_example", "write_evaluation", "write_tables"]

SIDE = 360  # pixels of an example's long side
INK = (24, 27, 33)


@dataclass(frozen=True)
class Shown:
    """An example with its pictures: row, the photo's number, the picture as a file."""

    example: Example
    pictures: tuple[tuple[str, float, bytes], ...]


def write_tables(evaluation: Evaluation, table: Table, folder: Path) -> None:
    """table.md, table.csv, table.tex, and photos.parquet with a line for every photo, row and metric."""
    for name, text in (("md", as_markdown(table)), ("csv", as_csv(table)), ("tex", as_latex(table))):
        save(folder, f"table.{name}", text.encode("utf-8", "backslashreplace"))
    write_photo_rows(folder, evaluation, table.metrics)


def write_evaluation(
    evaluation: Evaluation,
    table: Table,
    folder: Path,
    facts: Mapping[str, str],
    best: Sequence[Leader] = (),
    shown: Sequence[Shown] = (),
    refused: Mapping[str, str] | None = None,
    warnings: Sequence[str] = (),
    style: overlays.Style | None = None,
) -> Path:
    """index.html and figures/, beside what `write_tables` writes; gives the page."""
    drawn = figures(table)
    write_figures(folder, drawn)
    pages = environment("attnvis.experiments.evaluate", "attnvis.experiments")
    return write_page(
        folder / "index.html",
        pages.get_template("evaluate.html"),
        title=f"{count_rows(table)} rows against {len(table.metrics)} metrics on {table.photos} photos",
        sentences=list(sentences(table)),
        flat=list(flat_lines(table)),
        against=table.against,
        headings=[heading(metric) for metric in table.metrics],
        lines=lines(table),
        best=leader_table(best),
        chosen=chosen_settings(table),
        figures=drawn,
        shown=shown,
        number=number_text,
        colour_bar=overlays.encode(panels.colour_bar(style or overlays.Style(), noun="saliency"), "png"),
        failures=evaluation.failures,
        refused=refused or {},
        warnings=warnings,
        photos=table.photos,
        fewest=FEWEST_OF_MEANS,
        facts=facts,
    )


def count_rows(table: Table) -> int:
    return sum(row.temperature is None for row in table.rows)


def lines(table: Table) -> list[tuple[str, bool, list[tuple[str, str, str, int]]]]:
    """(row, whether all are held against it, its cells as value, interval, mark and undefined photos)."""
    rows = []
    for row in table.ranked(table.metrics[0]):
        cells = []
        for metric in table.metrics:
            cell = table.cells[row.name, metric.name]
            value, limits = number_text(cell.interval.value), interval_text(cell.interval)
            cells.append((value, limits, mark_of(cell, metric), cell.undefined))
        rows.append((row.name, row.name == table.against, cells))
    return rows


def chosen_settings(table: Table) -> list[tuple[str, str, str]]:
    """(row, metric, what the halves chose) of rows that choose."""
    return [
        (row, metric, " / ".join(dict.fromkeys(choices))) for (row, metric), choices in table.chosen.items()
    ]


# -------------------------------------------------------------------------------- figures


def figures(table: Table) -> list[Figure]:
    """Each metric along the temperature, a line a query; the row that all are held against is dotted."""
    if not any(row.temperature is not None for row in table.rows):
        return []
    together = all_metrics_figure(table)
    return [*together, *(temperature_figure(table, metric) for metric in table.metrics)]


def all_metrics_figure(table: Table) -> list[Figure]:
    """All metrics of the first question's curve on one scale: how far below its best point each is.

    In standard deviations over photos of the best point's numbers, taken from its interval.  What counts
    ranks alone is a flat line at 0.  None where there are no intervals.
    """
    family = next(row.family for row in table.rows if row.temperature is not None)
    points = [row for row in table.rows if row.family == family and row.temperature is not None]
    temperatures = [row.temperature for row in points if row.temperature is not None]
    curves: list[tuple[Facts, np.ndarray]] = []
    for metric in table.metrics:
        intervals = [table.cells[row.name, metric.name].interval for row in points]
        sign = 1.0 if metric.better == "higher" else -1.0
        values = sign * np.array([each.value for each in intervals])
        if metric.finish is not None or np.isnan(values).any():
            continue
        best = intervals[int(values.argmax())]
        spread = (best.high - best.low) / 2 / Z * math.sqrt(best.count)
        if spread > 0:
            curves.append((metric, (values - values.max()) / spread))
    if not curves:
        return []
    columns = math.ceil(len(curves) / 3)
    height, foot = 3.6 + 0.2 * columns, 0.75 + 0.2 * columns

    def paint(axes: Any) -> None:
        for number, (metric, below) in enumerate(curves):
            colour = COLOURS[number % len(COLOURS)]
            style = "--" if metric.ranks else "-"
            axes.plot(temperatures, below, "o" + style, color=colour, ms=3.5, label=short(metric.name))
        octaves(axes, min(temperatures) / 1.2, max(temperatures) * 1.2)
        axes.set_ylim(max(-3.0, min(float(below.min()) for _, below in curves)) - 0.1, 0.1)
        axes.set_xlabel("temperature, in standard deviations of the scores")
        axes.set_ylabel("below its best, in SD over photos")
        axes.set_title(f"{short(family)}: dashed what counts ranks alone", fontsize=10)
        legend(axes, foot, height, columns=3)

    title = f"All metrics along the temperature, {family}"
    return [draw("temperature", title, height, paint, foot=foot)]


COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#000000", "#7a4fa3")


def temperature_figure(table: Table, metric: Facts) -> Figure:
    families = list(dict.fromkeys(row.family for row in table.rows if row.temperature is not None))
    height, foot = 3.6 + 0.2 * math.ceil(len(families) / 3), 0.75 + 0.2 * math.ceil(len(families) / 3)

    def paint(axes: Any) -> None:
        temperatures: list[float] = []
        for number, family in enumerate(families):
            points = [row for row in table.rows if row.family == family and row.temperature is not None]
            intervals = [table.cells[row.name, metric.name].interval for row in points]
            x = [row.temperature for row in points if row.temperature is not None]
            temperatures += x
            colour = COLOURS[number % len(COLOURS)]
            lows, highs = ([getattr(each, end) for each in intervals] for end in ("low", "high"))
            axes.fill_between(x, lows, highs, color=colour, alpha=0.12, lw=0)
            values = [each.value for each in intervals]
            axes.plot(x, values, "o-", color=colour, ms=3.5, label=short(family))
        base = table.cells[table.against, metric.name].interval.value
        if not math.isnan(base):
            axes.axhline(base, color="#5f656f", lw=1, ls=":", label=short(table.against))
        octaves(axes, min(temperatures) / 1.2, max(temperatures) * 1.2)
        axes.set_xlabel("temperature, in standard deviations of the scores")
        axes.set_ylabel(heading(metric))
        legend(axes, foot, height, columns=3)

    return draw(
        f"temperature_{metric.name}", f"{metric.name} along the temperature", height, paint, foot=foot
    )


# -------------------------------------------------------------------------------- examples


def draw_example(
    photo: Photo, truth: Truth, maps: Mapping[str, PlacedMap], example: Example, style: overlays.Style
) -> Shown:
    """The rows' maps over the photo, with what is known of it drawn on it."""
    pictures = []
    for row, value in example.rows:
        if row in maps:
            each = maps[row]
            picture = overlays.overlay(full_pixels(photo), each.cells, style, None, placement=each.placement)
            pictures.append((row, value, overlays.encode(with_truth(picture, truth), "jpg", 85)))
    return Shown(example, tuple(pictures))


def with_truth(picture: UInt8[np.ndarray, "H W 3"], truth: Truth) -> UInt8[np.ndarray, "h w 3"]:
    """A small copy with the fixations as dots, the boxes and the mask as outlines."""
    zoom = min(1.0, SIDE / max(picture.shape[:2]))
    size = (max(1, round(picture.shape[1] * zoom)), max(1, round(picture.shape[0] * zoom)))
    small = np.ascontiguousarray(cv2.resize(picture, size, interpolation=cv2.INTER_AREA))
    along, down = size[0] / truth.size[1], size[1] / truth.size[0]
    for box in truth.boxes or ():
        corner = (round(box.left * along), round(box.top * down))
        far = (round((box.left + box.width) * along), round((box.top + box.height) * down))
        cv2.rectangle(small, corner, far, (255, 255, 255), 3)
        cv2.rectangle(small, corner, far, INK, 1)
    if truth.mask is not None:
        mask = cv2.resize(truth.mask.astype(np.uint8), size, interpolation=cv2.INTER_NEAREST)
        outlines, _ = cv2.findContours(mask, cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE)
        cv2.drawContours(small, outlines, -1, (255, 255, 255), 3)
        cv2.drawContours(small, outlines, -1, INK, 1)
    for row, column in truth.fixations if truth.fixations is not None else ():
        place = (round(column * along), round(row * down))
        cv2.circle(small, place, 2, (255, 255, 255), -1, cv2.LINE_AA)
        cv2.circle(small, place, 1, INK, -1, cv2.LINE_AA)
    return small
